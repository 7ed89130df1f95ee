"""The client against a server that answers nonsense: typed errors, and life goes on."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st

import lmstudio_async as lms
from lmstudio_async.errors import LMStudioWebsocketError
from tests.scripted_server import ScriptedServer
from tests.test_multiplexer import (
    REFUSED_CALLS,
    REFUSED_CHANNELS,
    new_multiplexer,
    open_channel,
    start_call,
)

from .hostile import JSON, NUMBERS, bent, spoiled

# An example takes some exchanges over a socket, on each event loop.
fewer_examples = settings(max_examples=settings().max_examples // 5)
TIMEOUT = 5.0  # seconds; bounds every wait for an answer

ERROR = {
    "title": "No",
    "rootTitle": "no",
    "cause": "because",
    "suggestion": "go",
    "displayData": {
        "code": "generic.pathNotFound",
        "availablePathsSample": ["a", {"identifier": "b"}],
        "totalModels": 7,
    },
}
IDS = st.integers(1, 3) | NUMBERS
FRAMES = st.one_of(
    st.fixed_dictionaries({"type": st.just("rpcResult"), "callId": IDS, "result": JSON}),
    st.fixed_dictionaries(
        {"type": st.just("rpcError"), "callId": IDS, "error": bent(st.just(ERROR))}
    ),
    st.fixed_dictionaries(
        {"type": st.just("channelSend"), "channelId": IDS, "message": JSON},
        optional={"ackId": NUMBERS},
    ),
    st.fixed_dictionaries(
        {"type": st.just("channelError"), "channelId": IDS, "error": bent(st.just(ERROR))}
    ),
    st.fixed_dictionaries({"type": st.just("channelClose"), "channelId": IDS}),
    st.fixed_dictionaries({"type": st.just("channelAck"), "channelId": IDS, "ackId": NUMBERS}),
    st.fixed_dictionaries({"type": st.just("keepAliveAck")}),
    st.builds(
        lambda warning: {"type": "communicationWarning", "warning": warning[0], "kind": warning[1]},
        st.sampled_from(REFUSED_CALLS + REFUSED_CHANNELS),
    ),
)


@given(st.lists(spoiled(bent(FRAMES)), max_size=20))
def test_frames_touch_only_the_exchanges_that_they_name(frames: list[bytes]) -> None:
    multiplexer = new_multiplexer()
    for _ in range(2):
        start_call(multiplexer)
        open_channel(multiplexer)
    for frame in frames:
        answer = multiplexer.receive(frame)
        assert answer is None or msgspec.json.decode(answer)["type"] in (
            "channelAck",
            "channelSend",
        )
    call_id, call = start_call(multiplexer, "later")
    multiplexer.receive(b'{"type":"rpcResult","callId":%d,"result":"here"}' % call_id)
    assert bytes(call.result if isinstance(call.result, msgspec.Raw) else b"") == b'"here"'
    multiplexer.fail_all(LMStudioWebsocketError("gone"))
    assert multiplexer.idle


Operation = Callable[[lms.Client, lms.LLM], Awaitable[object]]


async def _read_model(client: lms.Client, _: lms.LLM) -> None:
    model = await client.llm.model()
    repr((model, model.info))


async def _respond(_: lms.Client, model: lms.LLM) -> None:
    result = await model.respond("Hello")
    repr((result, result.stats, result.load_config, result.prediction_config))


async def _complete(_: lms.Client, model: lms.LLM) -> None:
    repr(await model.complete("Hello"))


CALLS: dict[str, Operation] = {
    "llm.listLoaded": lambda client, _: client.llm.list_loaded(),
    "embedding.listLoaded": lambda client, _: client.embedding.list_loaded(),
    "llm.getModelInfo": _read_model,
    "llm.getLoadConfig": lambda _, model: model.get_load_config(),
    "llm.getBasePredictionConfig": lambda _, model: model.get_base_prediction_config(),
    "llm.getInstanceProcessingState": lambda _, model: model.get_processing_state(),
    "llm.estimateModelUsage": lambda client, _: client.llm.estimate_usage("llm-a"),
    "llm.tokenize": lambda _, model: model.tokenize("Hello"),
    "llm.countTokens": lambda _, model: model.count_tokens("Hello"),
    "llm.applyPromptTemplate": lambda _, model: model.apply_prompt_template("Hello"),
    "system.listDownloadedModels": lambda client, _: client.system.list_downloaded_models(),
    "system.info": lambda client, _: client.system.info(),
}
CHANNELS: dict[str, Operation] = {
    "llm.getOrLoad": lambda client, _: client.llm.model("llm-b"),
    "llm.loadModel": lambda client, _: client.llm.load_new_instance("llm-b"),
    "llm.predict": _respond,
    "llm.completeRawText": _complete,
}


@contextmanager
def open_client(server: ScriptedServer, loop: Any) -> Iterator[Callable[[Operation], object]]:
    """Runs an operation on a client that lasts for all of them."""
    backend, options = loop
    with start_blocking_portal(backend, options) as portal:
        client = lms.Client(server.api_host)
        with portal.wrap_async_context_manager(client):

            async def get_model() -> lms.LLM:
                return await client.llm.model("llm-a")

            model = portal.call(get_model)

            async def run(operation: Operation) -> object:
                with anyio.fail_after(TIMEOUT):
                    try:
                        return await operation(client, model)
                    except lms.LMStudioError as error:
                        return error

            yield lambda operation: portal.call(run, operation)


def recorded(server: ScriptedServer, frame_type: str, content: str) -> dict[str, list[Any]]:
    """What the server sent, by endpoint: results of calls, or packets of channels."""
    names: dict[tuple[str, Any], str] = {}
    found: dict[str, list[Any]] = {}
    for namespace, sender, frame in server.frames:
        number = frame.get("callId", frame.get("channelId"))
        if sender == "client" and "endpoint" in frame:
            names[namespace, number] = f"{namespace}.{frame['endpoint']}"
        elif frame.get("type") == frame_type:
            found.setdefault(names[namespace, number], []).append(frame[content])
    return found


@pytest.fixture(scope="module")
def valid() -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Results and packets of a server that behaves."""
    with ScriptedServer() as server:
        with open_client(server, ("asyncio", {})) as run:
            for operation in (*CALLS.values(), *CHANNELS.values()):
                assert not isinstance(run(operation), lms.LMStudioError)
        return recorded(server, "rpcResult", "result"), recorded(server, "channelSend", "message")


@pytest.fixture(autouse=True)
def nothing_crashes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [one.message for one in caplog.records if one.levelno >= logging.ERROR] == []


Valid = tuple[dict[str, list[Any]], dict[str, list[Any]]]


@pytest.mark.parametrize("name", CALLS)
def test_results_of_any_kind_are_taken_or_typed_errors(
    name: str, valid: Valid, anyio_backend: Any
) -> None:
    with ScriptedServer(check_frames=False) as server:
        with open_client(server, anyio_backend) as run:

            @fewer_examples
            @given(bent(st.sampled_from(valid[0][name])))
            def answer(result: Any) -> None:
                server.answer(name, lambda _: result)
                run(CALLS[name])
                assert not isinstance(run(lambda client, _: client.system.version()), Exception)

            answer()


@pytest.mark.parametrize("name", CHANNELS)
def test_packets_of_any_kind_are_taken_or_typed_errors(
    name: str, valid: Valid, anyio_backend: Any
) -> None:
    packets = st.lists(
        bent(st.sampled_from(valid[1][name])) | st.sampled_from(valid[1][name]), max_size=4
    )
    with ScriptedServer(check_frames=False) as server:
        with open_client(server, anyio_backend) as run:

            @fewer_examples
            @given(packets)
            def stream(packets: list[Any]) -> None:
                server.stream(name, *packets)
                run(CHANNELS[name])
                assert not isinstance(run(lambda client, _: client.system.version()), Exception)

            stream()
