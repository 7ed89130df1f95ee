"""The client: opening and closing it, and what it refuses before anything is sent."""

import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import lmstudio_async as lms
from tests.scripted_server import ScriptedServer

pytestmark = pytest.mark.anyio

TOKEN = "sk-lm-abcDEF12:s3cretS3CRETs3cret00"
OTHER_TOKEN = "sk-lm-12FEDcba:00terc3sTERC3Sterc3s"


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)


# Open and closed


@pytest.mark.parametrize("name", ["llm", "embedding", "system", "api_host"])
def test_a_client_that_is_not_open_says_how_to_open_it(name: str) -> None:
    with pytest.raises(lms.LMStudioRuntimeError, match=r"async with lms\.Client"):
        getattr(lms.Client("localhost"), name)


async def test_a_closed_client_says_so(server: ScriptedServer) -> None:
    async with lms.Client(server.api_host) as client:
        await client.llm.list_loaded()
    with pytest.raises(lms.LMStudioRuntimeError, match="the client is not open"):
        _ = client.llm
    with pytest.raises(lms.LMStudioRuntimeError, match="the client is not open"):
        await client.list_loaded_models()


def test_opening_needs_an_event_loop() -> None:
    with pytest.raises(lms.LMStudioRuntimeError, match="needs a running event loop"):
        lms.Client("localhost").open()


async def test_a_client_cannot_be_entered_twice_at_once(client: lms.Client) -> None:
    with pytest.raises(lms.LMStudioRuntimeError, match="open already"):
        async with client:
            pass
    await client.system.version()


async def test_a_closed_client_may_be_opened_again(server: ScriptedServer) -> None:
    client = lms.Client(server.api_host)
    for _ in range(2):
        async with client as same:
            assert same is client
            await client.system.version()
    assert server.upgrades == ["/system"] * 2


async def test_closing_twice_is_closing_once(server: ScriptedServer) -> None:
    client = lms.Client(server.api_host)
    await client.aclose()
    client.open()
    await client.system.version()
    await client.aclose()
    await client.aclose()
    await server.until(lambda: not server.open_sockets)


async def test_an_exception_leaves_the_block_as_it_is(server: ScriptedServer) -> None:
    error = ZeroDivisionError("mine")

    async def use() -> None:
        async with lms.Client(server.api_host) as client:
            await client.system.version()
            raise error

    with pytest.raises(ZeroDivisionError) as caught:
        await use()
    assert caught.value is error


async def test_the_address_is_known_at_once_where_it_was_given(server: ScriptedServer) -> None:
    async with lms.Client(server.api_host) as client:
        assert client.api_host == server.api_host
    assert server.upgrades == []


async def test_its_repr_tells_where_it_is() -> None:
    assert repr(lms.Client()) == "<Client of this machine, closed>"
    async with lms.Client("box:99") as client:
        assert repr(client) == "<Client of box:99, open>"


# Tokens


async def connect(server: ScriptedServer, **arguments: Any) -> tuple[str, str]:
    async with lms.Client(server.api_host, **arguments) as client:
        await client.system.version()
    return server.credentials[-1][1:]


async def test_the_token_may_be_in_the_environment(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMSTUDIO_API_TOKEN", TOKEN)
    assert await connect(server) == ("abcDEF12", "s3cretS3CRETs3cret00")
    monkeypatch.setenv("LM_API_TOKEN", OTHER_TOKEN)
    assert await connect(server) == ("12FEDcba", "00terc3sTERC3Sterc3s")
    assert await connect(server, api_token=TOKEN) == ("abcDEF12", "s3cretS3CRETs3cret00")


async def test_an_empty_variable_holds_no_token(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LM_API_TOKEN", "")
    identifier, _ = await connect(server)
    assert identifier.startswith("guest:")


MALFORMED = ["", "hunter2", TOKEN + "\n", TOKEN + "0", TOKEN.replace(":", ";"), f" {TOKEN}"]


@pytest.mark.parametrize("token", MALFORMED)
def test_a_malformed_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(lms.LMStudioValueError, match="api_token is not an LM Studio") as caught:
        lms.Client(api_token=token)
    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("variable", ["LM_API_TOKEN", "LMSTUDIO_API_TOKEN"])
def test_a_malformed_token_in_the_environment_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "hunter2")
    with pytest.raises(lms.LMStudioValueError, match=f"environment variable {variable} is not"):
        lms.Client()


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"api_token": 5}, lms.LMStudioTypeError, "api_token"),
        ({"api_host": 1234}, lms.LMStudioTypeError, "api_host"),
        ({"api_host": "a b"}, lms.LMStudioValueError, "api_host"),
        ({"timeouts": 30}, lms.LMStudioTypeError, "timeouts must be a Timeouts, not int"),
    ],
)
def test_a_client_refuses_what_cannot_be_right(
    arguments: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        lms.Client(**arguments)


# Arguments


@dataclass
class Api:
    """One of everything that has public methods."""

    client: lms.Client
    chat: lms.LLM
    embedder: lms.EmbeddingModel
    on_disk: lms.DownloadedLlm | lms.DownloadedEmbeddingModel
    server: ScriptedServer

    async def refuses(self, use: Callable[[Any], Any], bad: "Bad", argument: str) -> None:
        """Assert that `use` refuses each bad value, naming the argument, and nothing is sent."""
        for value, error in bad:
            sent = len(self.server.frames)
            with pytest.raises(lms.LMStudioError) as caught:
                await call(use, value)
            assert isinstance(caught.value, error), (argument, value)
            assert argument in str(caught.value), value
            assert len(self.server.frames) == sent, (argument, value)


def with_keyword(method: Callable[..., Any], name: str, *arguments: Any) -> Callable[[Any], Any]:
    """The method as a function of one keyword argument."""
    return lambda value: method(*arguments, **{name: value})


def second_of(method: Callable[..., Any]) -> Callable[[Any], Any]:
    """The method as a function of the second of two texts."""
    return lambda value: method(["good", value])


async def call(use: Callable[[Any], Any], value: Any) -> None:
    result = use(value)
    if inspect.isawaitable(result):
        await result


@pytest.fixture
async def api(server: ScriptedServer, client: lms.Client) -> AsyncIterator[Api]:
    async with (
        client.llm.load_new_instance("llm-a") as chat,
        client.embedding.load_new_instance("embed-a") as embedder,
    ):
        on_disk = (await client.system.list_downloaded_models())[0]
        yield Api(client, chat, embedder, on_disk, server)


Bad = list[tuple[Any, type[Exception]]]

BAD_KEYS: Bad = [
    *(("", ValueError), ("  \n", ValueError), ("x" * 1025, ValueError), ("\ud800", ValueError)),
    *((5, TypeError), (b"llm-a", TypeError), (["llm-a"], TypeError)),
]
BAD_TTLS: Bad = [
    *((0, ValueError), (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError)),
    *((10**400, ValueError), (1e300, ValueError)),
    *((True, TypeError), ("60", TypeError), ([], TypeError)),
]
BAD_CALLBACKS: Bad = [(5, TypeError), ("print", TypeError)]
BAD_LOAD_CONFIGS: Bad = [
    ({"contextLenght": 5}, ValueError),
    ({"contextLength": 0}, ValueError),
    ({"contextLength": 2**60}, ValueError),
    ({"contextLength": "5"}, TypeError),
    ({"contextLength": 5, "context_length": 6}, ValueError),
    ({5: 5}, ValueError),
    ("contextLength", TypeError),
    ([("contextLength", 5)], TypeError),
    (lms.LlmPredictionConfig(), TypeError),
]
BAD_PREDICTION_CONFIGS: Bad = [
    ({"temp": 1}, ValueError),
    ({"temperature": -1}, ValueError),
    ({"temperature": float("nan")}, ValueError),
    ({"topPSampling": 2}, ValueError),
    ({"maxTokens": "many"}, TypeError),
    (lms.LlmPredictionConfig(temperature=-1), ValueError),
    ({"stopStrings": ["good", "\ud800"]}, ValueError),
    (5, TypeError),
    (lms.LlmLoadModelConfig(), TypeError),
]
BAD_TEXTS: Bad = [(5, TypeError), (None, TypeError), (b"text", TypeError), ("\ud800", ValueError)]
BAD_HISTORIES: Bad = [
    *((5, TypeError), (None, TypeError), (b"Hello", TypeError), ("\ud800", ValueError)),
    *(([], ValueError), ({}, ValueError), ({"messages": []}, ValueError)),
    *(({"messages": 5}, TypeError), (["Hello"], TypeError), ([{}], ValueError)),
    ([{"role": "user"}], ValueError),
    ([{"role": "robot", "content": "a"}], ValueError),
    ([{"role": ["user"], "content": "a"}], ValueError),
    ([{"role": "user", "content": 5}], ValueError),
    ([{"role": "user", "content": [{"type": "smell"}]}], ValueError),
    ([{"role": "user", "content": "\ud800"}], ValueError),
    ([{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}], ValueError),
    ([{"role": "tool", "content": "42"}], ValueError),
]


@pytest.mark.parametrize("kind", ["llm", "embedding"])
async def test_a_namespace_refuses_what_cannot_be_right(api: Api, kind: str) -> None:
    namespace: Any = getattr(api.client, kind)
    none: Bad = [(None, TypeError)]

    await api.refuses(namespace.model, BAD_KEYS, "model_key")
    await api.refuses(namespace.load_new_instance, BAD_KEYS + none, "model_key")
    await api.refuses(
        lambda key: namespace.load_new_instance("llm-a", key), BAD_KEYS, "instance_identifier"
    )
    await api.refuses(namespace.unload, BAD_KEYS + none, "model_identifier")
    await api.refuses(namespace.get_model_info, BAD_KEYS + none, "model_specifier")
    await api.refuses(namespace.estimate_usage, BAD_KEYS + none, "model_key")
    for load in (namespace.model, namespace.load_new_instance):
        await api.refuses(with_keyword(load, "ttl", "llm-a"), BAD_TTLS, "ttl")
        await api.refuses(
            with_keyword(load, "on_load_progress", "llm-a"),
            BAD_CALLBACKS,
            "on_load_progress",
        )
    for takes_config in (namespace.model, namespace.load_new_instance, namespace.estimate_usage):
        await api.refuses(
            with_keyword(takes_config, "config", "llm-a"),
            BAD_LOAD_CONFIGS,
            "config",
        )
        await api.refuses(
            with_keyword(takes_config, "device_identifier", "llm-a"),
            BAD_KEYS,
            "device_identifier",
        )


@pytest.mark.parametrize(
    "arguments", [{"config": {}}, {"on_load_progress": print}, {"device_identifier": "a"}]
)
async def test_settings_for_a_load_that_never_happens_are_refused(
    api: Api, arguments: dict[str, Any]
) -> None:
    for namespace in (api.client.llm, api.client.embedding):
        await api.refuses(
            with_keyword(partial(namespace.model, **arguments), "ttl"),
            [(None, ValueError)],
            "model key",
        )


async def test_a_handle_refuses_what_cannot_be_right(api: Api) -> None:
    for method in (api.chat.tokenize, api.embedder.tokenize, api.embedder.embed):
        await api.refuses(method, BAD_TEXTS, "input")
        await api.refuses(second_of(method), BAD_TEXTS, "input[1]")
    await api.refuses(api.chat.count_tokens, BAD_TEXTS, "input")
    await api.refuses(api.chat.count_tokens, [(["a"], TypeError)], "input")
    responses: list[Callable[..., Any]] = [api.chat.respond, api.chat.respond_stream]
    for respond in responses:
        await api.refuses(respond, BAD_HISTORIES, "history")
        await api.refuses(
            with_keyword(respond, "config", "Hello"),
            BAD_PREDICTION_CONFIGS,
            "config",
        )
        for name in ("on_first_token", "on_prediction_fragment", "on_prompt_processing_progress"):
            await api.refuses(
                with_keyword(respond, name, "Hello"),
                BAD_CALLBACKS,
                name,
            )


async def test_a_model_on_disk_refuses_what_cannot_be_right(api: Api) -> None:
    await api.refuses(api.on_disk.load_new_instance, BAD_KEYS, "instance_identifier")
    methods: list[Callable[..., Any]] = [api.on_disk.model, api.on_disk.load_new_instance]
    for method in methods:
        await api.refuses(with_keyword(method, "ttl"), BAD_TTLS, "ttl")
        await api.refuses(with_keyword(method, "config"), BAD_LOAD_CONFIGS, "config")


async def test_listing_refuses_kinds_that_do_not_exist(api: Api) -> None:
    kinds: Bad = [("vision", ValueError), ("", ValueError), (5, ValueError), ([], ValueError)]
    await api.refuses(api.client.list_loaded_models, kinds, "namespace")
    await api.refuses(api.client.list_downloaded_models, kinds, "namespace")


async def test_errors_for_arguments_are_what_python_programs_expect(api: Api) -> None:
    with pytest.raises(ValueError, match="list_downloaded_models"):
        api.client.llm.model("")
    with pytest.raises(TypeError, match="model_key must be a string, not int"):
        api.client.llm.model(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ttl", "milliseconds"),
    [(3600, 3_600_000), (0.5, 500), (0.0001, 1), (1.0004, 1000), (None, None)],
)
async def test_a_ttl_is_sent_in_whole_milliseconds(
    server: ScriptedServer, client: lms.Client, ttl: float | None, milliseconds: int | None
) -> None:
    await client.llm.model("llm-a", ttl=ttl)
    await client.llm.load_new_instance("llm-a", ttl=ttl)
    assert server.requests("getOrLoad")[0].get("loadTtlMs") == milliseconds
    assert server.requests("loadModel")[0].get("ttlMs") == milliseconds
