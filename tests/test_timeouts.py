"""Every wait has a bound: which one fired, and that nothing is left behind."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import anyio
import pytest

import lmstudio_async as lms
from tests.scripted_server import ScriptedServer
from tests.transport.raw_server import Peer, RawServer

SHORT = 0.1


def timed_out(caught: pytest.ExceptionInfo[lms.LMStudioTimeoutError], bound: str) -> str:
    """The text of a time-out, which was due to this bound."""
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.bound, error.seconds) == (bound, SHORT)
    assert f"{SHORT:g} s (Timeouts.{bound})" in str(error)
    return str(error)


def print_nothing() -> None:
    """A tool."""


# What can be set


@pytest.mark.parametrize("name", ["connect", "authenticate", "call", "load", "unload", "close"])
@pytest.mark.parametrize("seconds", [0, -1, math.nan, pytest.param(10**400, id="huge")])
def test_a_bound_is_a_positive_number(name: str, seconds: float) -> None:
    with pytest.raises(lms.LMStudioValueError, match=rf"Timeouts\.{name} must be a positive"):
        lms.Timeouts(**{name: seconds})
    with pytest.raises(lms.LMStudioTypeError, match=rf"Timeouts\.{name} must be a number"):
        lms.Timeouts(**{name: "10"})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["connect", "authenticate", "unload", "close"])
def test_what_must_come_to_an_end_cannot_be_left_open(name: str) -> None:
    with pytest.raises(lms.LMStudioValueError, match=name):
        lms.Timeouts(**{name: math.inf})


def test_what_the_server_works_on_may_take_any_time() -> None:
    open_end = lms.Timeouts(call=math.inf, load=math.inf, prediction=math.inf)
    assert open_end.call == open_end.load == open_end.prediction == math.inf


@pytest.mark.anyio
async def test_nothing_is_sent_with_a_timeout_that_cannot_be_right(
    server: ScriptedServer, client: lms.Client
) -> None:
    for timeout in (0, -1, math.nan):
        with pytest.raises(lms.LMStudioValueError, match="timeout must be a positive number"):
            await client.llm.list_loaded(timeout=timeout)
        with pytest.raises(lms.LMStudioValueError, match="timeout must be a positive number"):
            client.llm.model("llm-a", timeout=timeout)
    assert server.upgrades == []


@pytest.mark.anyio
async def test_a_list_without_texts_has_its_timeout_checked_too(client: lms.Client) -> None:
    embedder = await client.embedding.model("embed-a")
    for method in (embedder.embed, embedder.tokenize):
        assert await method([], timeout=1) == []
        with pytest.raises(lms.LMStudioValueError, match="timeout must be a positive number"):
            await method([], timeout=0)


@pytest.mark.anyio
async def test_an_unload_which_is_shielded_must_come_to_an_end(
    server: ScriptedServer, client: lms.Client
) -> None:
    model = await client.llm.model("llm-a")
    with pytest.raises(lms.LMStudioValueError, match="timeout must be a positive number"):
        await model.unload(timeout=math.inf)
    with pytest.raises(lms.LMStudioValueError, match="timeout must be a positive number"):
        await client.llm.unload("llm-a", timeout=math.inf)
    assert list(server.loaded) == ["llm-a"]


# Connecting


@pytest.mark.anyio
async def test_connecting_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # Which is the only one.
    monkeypatch.setattr("aiohttp.client.DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=SHORT / 10))

    def never_upgrade(peer: Peer) -> None:
        peer.wait_for_end()

    with RawServer(never_upgrade) as server:
        timeouts = lms.Timeouts(connect=SHORT)
        async with lms.Client(f"127.0.0.1:{server.port}", timeouts=timeouts) as client:
            with pytest.raises(lms.LMStudioTimeoutError) as caught:
                await client.system.version()
            assert f"127.0.0.1:{server.port}" in timed_out(caught, "connect")


# Calls


@pytest.mark.anyio
async def test_a_call_has_a_bound_and_says_what_the_server_was_doing(
    server: ScriptedServer,
) -> None:
    async with lms.Client(server.api_host, timeouts=lms.Timeouts(call=SHORT)) as client:
        async with client.llm.model("llm-a") as model:
            server.silence("tokenize")
            with pytest.raises(lms.LMStudioTimeoutError) as caught:
                await model.tokenize("Hello")
            text = timed_out(caught, "call")
            assert text.startswith("llm.tokenize on 'llm-a': ")
            assert "last heard from" in text
            assert "has 0 requests of this client to answer" in text
            # The connection lives on.
            assert await model.count_tokens("Hello") > 0
    assert server.upgrades == ["/llm"]


Method = Callable[[lms.Client, lms.LLM, lms.EmbeddingModel], Awaitable[object]]


CALLS: dict[str, tuple[str, Method]] = {
    "llm.get_info": ("getModelInfo", lambda c, m, e: m.get_info(timeout=SHORT)),
    "get_context_length": ("getModelInfo", lambda c, m, e: m.get_context_length(timeout=SHORT)),
    "get_load_config": ("getLoadConfig", lambda c, m, e: m.get_load_config(timeout=SHORT)),
    "get_processing_state": (
        "getInstanceProcessingState",
        lambda c, m, e: m.get_processing_state(timeout=SHORT),
    ),
    "tokenize": ("tokenize", lambda c, m, e: m.tokenize("a", timeout=SHORT)),
    "tokenize several": ("tokenize", lambda c, m, e: m.tokenize(["a", "b"], timeout=SHORT)),
    "count_tokens": ("countTokens", lambda c, m, e: m.count_tokens("a", timeout=SHORT)),
    "apply_prompt_template": (
        "applyPromptTemplate",
        lambda c, m, e: m.apply_prompt_template("a", timeout=SHORT),
    ),
    "get_base_prediction_config": (
        "getBasePredictionConfig",
        lambda c, m, e: m.get_base_prediction_config(timeout=SHORT),
    ),
    "preload_draft_model": (
        "preloadDraftModel",
        lambda c, m, e: m.preload_draft_model("llm-b", timeout=SHORT),
    ),
    "embed": ("embedString", lambda c, m, e: e.embed("a", timeout=SHORT)),
    "embed several": ("embedString", lambda c, m, e: e.embed(["a", "b"], timeout=SHORT)),
    "llm.model": ("getModelInfo", lambda c, m, e: c.llm.model(timeout=SHORT)._get()),
    "list_loaded": ("listLoaded", lambda c, m, e: c.list_loaded_models(timeout=SHORT)),
    "get_model_info": (
        "getModelInfo",
        lambda c, m, e: c.llm.get_model_info("llm-a", timeout=SHORT),
    ),
    "estimate_usage": (
        "estimateModelUsage",
        lambda c, m, e: c.llm.estimate_usage("llm-a", timeout=SHORT),
    ),
    "list_downloaded_models": (
        "listDownloadedModels",
        lambda c, m, e: c.list_downloaded_models(timeout=SHORT),
    ),
    "llm.list_downloaded": (
        "listDownloadedModels",
        lambda c, m, e: c.llm.list_downloaded(timeout=SHORT),
    ),
    "embedding.list_downloaded": (
        "listDownloadedModels",
        lambda c, m, e: c.embedding.list_downloaded(timeout=SHORT),
    ),
    "version": ("version", lambda c, m, e: c.system.version(timeout=SHORT)),
    "info": ("info", lambda c, m, e: c.system.info(timeout=SHORT)),
    "prepare_image": (
        "uploadFileBase64",
        lambda c, m, e: c.prepare_image(b"\x89PNG", timeout=SHORT),
    ),
    "prepare_file": (
        "uploadFileBase64",
        lambda c, m, e: c.files.prepare_file(b"text", "a.txt", timeout=SHORT),
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", CALLS)
async def test_every_call_takes_a_timeout_of_its_own(
    server: ScriptedServer, client: lms.Client, name: str
) -> None:
    endpoint, method = CALLS[name]
    model = await client.llm.model("llm-a")
    embedder = await client.embedding.model("embed-a")
    server.silence(endpoint)
    with pytest.raises(lms.LMStudioTimeoutError) as caught:
        await method(client, model, embedder)
    timed_out(caught, "prediction" if name == "preload_draft_model" else "call")


# Loads


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["model", "load_new_instance", "downloaded"])
async def test_a_load_that_falls_silent_is_given_up_and_taken_back(
    server: ScriptedServer, client: lms.Client, how: str
) -> None:
    server.hold_loads()
    with pytest.raises(lms.LMStudioTimeoutError) as caught:
        match how:
            case "model":
                await client.llm.model("llm-a", timeout=SHORT)
            case "load_new_instance":
                await client.llm.load_new_instance("llm-a", timeout=SHORT)
            case "downloaded":
                [downloaded, *_] = await client.llm.list_downloaded()
                await downloaded.load_new_instance(timeout=SHORT)
    text = timed_out(caught, "load")
    assert "said nothing of the load" in text
    assert "%" in text
    await server.until(lambda: server.cancels)
    server.release_loads()
    await server.until(lambda: not server.running("loadModel") + server.running("getOrLoad"))
    assert server.loaded == {}


@pytest.mark.anyio
async def test_a_load_that_was_given_up_and_succeeds_all_the_same_is_unloaded(
    server: ScriptedServer,
) -> None:
    server.ignore_load_cancel = True
    server.hold_loads()
    async with lms.Client(server.api_host, timeouts=lms.Timeouts(load=SHORT)) as client:
        with pytest.raises(lms.LMStudioTimeoutError):
            await client.llm.model("llm-a")
        server.release_loads()
        await server.until("unloadModel")
    assert server.loaded == {}


# Predictions


@pytest.mark.anyio
async def test_a_prediction_that_falls_silent_is_stopped(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a") as model:
        server.hold_predictions(after=2)
        stream = model.respond_stream("Hello", timeout=SHORT)
        assert [(await anext(stream)).content for _ in range(2)] == ["Hello", " there,"]
        with pytest.raises(lms.LMStudioTimeoutError) as caught:
            await anext(stream)
        text = timed_out(caught, "prediction")
        assert text.startswith("a response of 'llm-a': ")
        assert "the last one a 'fragment'" in text
        await server.until(lambda: server.cancels == ["predict"])
        server.release_predictions()
        assert (await model.respond("Hello", timeout=60)).content == server.reply
    assert server.cancels == ["predict"]


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["respond", "complete", "act"])
async def test_a_prediction_that_does_not_begin_has_a_bound(
    server: ScriptedServer, client: lms.Client, how: str
) -> None:
    async with client.llm.model("llm-a") as model:
        server.hold_predictions(after=0)
        methods: dict[str, Callable[[], Awaitable[Any]]] = {
            "respond": lambda: model.respond("Hello", timeout=SHORT),
            "complete": lambda: model.complete("Hello", timeout=SHORT),
            "act": lambda: model.act("Hello", [print_nothing], timeout=SHORT),
        }
        with pytest.raises(lms.LMStudioTimeoutError) as caught:
            await methods[how]()
        timed_out(caught, "prediction")
        await server.until(lambda: server.cancels)
        server.release_predictions()


# Unloading and closing


@pytest.mark.anyio
async def test_unloading_by_hand_has_a_bound(server: ScriptedServer, client: lms.Client) -> None:
    model = await client.llm.model("llm-a")
    server.hold_unloads()
    with pytest.raises(lms.LMStudioTimeoutError) as caught:
        await model.unload(timeout=SHORT)
    assert "'llm-a'" in timed_out(caught, "unload")
    with pytest.raises(lms.LMStudioTimeoutError) as caught:
        await client.llm.unload("llm-a", timeout=SHORT)
    timed_out(caught, "unload")
    server.release_unloads()


@pytest.mark.anyio
async def test_closing_has_one_bound_for_all_that_is_left(server: ScriptedServer) -> None:
    server.hold_unloads()
    with pytest.raises(lms.LMStudioUnloadError) as caught:
        async with lms.Client(server.api_host, timeouts=lms.Timeouts(close=SHORT)) as client:
            for number in range(3):
                await client.llm.load_new_instance("llm-a", f"number {number}").__aenter__()
    assert len(caught.value.exceptions) == 3
    for error in caught.value.exceptions:
        assert isinstance(error, lms.LMStudioTimeoutError)
        assert error.bound == "close"
        assert 0 < error.seconds <= SHORT
    server.release_unloads()


@pytest.mark.anyio
async def test_closing_does_not_wait_longer_for_an_unload_by_hand(server: ScriptedServer) -> None:
    client = lms.Client(server.api_host, timeouts=lms.Timeouts(close=SHORT))
    client.open()
    model = await client.llm.load_new_instance("llm-a").__aenter__()
    server.hold_unloads()

    async def unload() -> None:
        with pytest.raises(lms.LMStudioError):
            await model.unload(timeout=3)

    async with anyio.create_task_group() as group:
        group.start_soon(unload)
        await server.until("unloadModel")
        with pytest.raises(lms.LMStudioUnloadError) as caught:
            await client.aclose()
    [error] = caught.value.exceptions
    assert isinstance(error, lms.LMStudioTimeoutError)
    assert error.bound == "close"
    server.release_unloads()
