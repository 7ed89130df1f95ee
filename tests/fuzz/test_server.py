"""The embedded server against clients that send nonsense: it answers by the protocol, and lives."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import assume, given
from hypothesis import strategies as st

from lmstudio_async.embedded.connections import MAX_BYTES_OF_STRANGERS
from lmstudio_async.embedded.server import ServerConfig, run_server
from tests.embedded.raw import GUEST, chat, connected, stack
from tests.embedded.rude import TEXT, rude_client

from .hostile import JSON, NUMBERS, TEXTS, bent, spoiled

SPECIFIERS = st.sampled_from(
    [
        {"type": "query", "query": {"identifier": "../../etc/passwd"}},
        {"type": "instanceReference", "instanceReference": "x"},
    ]
)
SETTINGS = st.dictionaries(st.sampled_from(["llm.load.contextLength", "load.x"]), JSON).map(stack)
PARAMETERS = st.one_of(
    st.fixed_dictionaries({"specifier": SPECIFIERS, "throwIfNotFound": st.booleans()}),
    st.fixed_dictionaries({"specifier": SPECIFIERS, "inputString": TEXTS}),
    st.fixed_dictionaries({"modelSpecifier": SPECIFIERS, "inputString": TEXTS}),
    st.fixed_dictionaries({"identifier": TEXTS, "loadConfigStack": SETTINGS, "loadTtlMs": NUMBERS}),
    st.fixed_dictionaries({"modelKey": TEXTS, "loadConfigStack": SETTINGS, "ttlMs": NUMBERS}),
    st.fixed_dictionaries(
        {
            "modelSpecifier": SPECIFIERS,
            "history": st.just(chat("Hello")),
            "predictionConfigStack": SETTINGS,
        }
    ),
    JSON,
)
ENDPOINTS = st.sampled_from(
    [
        *("loadModel", "getOrLoad", "predict", "completeRawText", "embedString", "nonsense"),
        *("unloadModel", "listLoaded", "getModelInfo", "getLoadConfig", "tokenize", "countTokens"),
        *("getBasePredictionConfig", "getInstanceProcessingState", "estimateModelUsage"),
        *("applyPromptTemplate", "preloadDraftModel", "listDownloadedModels", "version", "info"),
        "uploadFileBase64",
    ]
)
IDS = st.integers(1, 3) | NUMBERS
FRAMES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("rpcCall"), "endpoint": ENDPOINTS, "callId": IDS},
        optional={"parameter": bent(PARAMETERS)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("channelCreate"), "endpoint": ENDPOINTS, "channelId": IDS},
        optional={"creationParameter": bent(PARAMETERS)},
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("channelSend"),
            "channelId": IDS,
            "message": bent(st.just({"type": "cancel"})),
        },
        optional={"ackId": NUMBERS},
    ),
    st.fixed_dictionaries({"type": st.just("channelAck"), "channelId": IDS, "ackId": NUMBERS}),
    st.fixed_dictionaries({"type": st.just("communicationWarning"), "warning": TEXTS}),
    st.just(GUEST),
)
ANSWERS = {
    *("rpcResult", "rpcError", "channelSend", "channelClose", "channelError", "channelAck"),
    *("communicationWarning", "keepAliveAck"),
}


@contextmanager
def running_server(models_dir: Path) -> Iterator[Callable[..., Any]]:
    """A server, as a function that runs another one, with its address, beside it."""
    with start_blocking_portal("asyncio") as portal:
        server = run_server(ServerConfig(models_dir=str(models_dir)))
        with portal.wrap_async_context_manager(server) as running:
            yield lambda function, *args: portal.call(function, running.address, *args)


async def send_and_listen(address: str, namespace: str, frames: list[bytes]) -> None:
    """Every frame is answered by the protocol or not at all, and the session goes on."""
    async with rude_client(address) as client:
        await client.authenticate(GUEST, namespace)
        for frame in frames:
            await client.send_frame(TEXT, frame)
        await client.send_json({"type": "keepAlive"})
        kind = None
        while kind != "keepAliveAck":
            kind = json.loads((await client.read_frame())[1])["type"]
            assert kind in ANSWERS


async def list_loaded(address: str) -> list[str]:
    async with connected(address, "llm") as socket:
        return await socket.loaded()


def test_every_frame_is_answered_by_the_protocol(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_server(tmp_path) as run:

        @given(
            st.sampled_from(["llm", "embedding", "system", "files"]),
            st.lists(spoiled(bent(FRAMES) | FRAMES), max_size=10),
        )
        def send(namespace: str, frames: list[bytes]) -> None:
            run(send_and_listen, namespace, frames)

        send()
        assert run(list_loaded) == []
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


def test_whatever_comes_before_the_authentication(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def send_first(address: str, frames: list[bytes]) -> None:
        async with rude_client(address) as client:
            await client.upgrade()
            for frame in frames:
                await client.send_frame(TEXT, frame)
            await client.send_json(GUEST)
            assert json.loads((await client.read_frame())[1]) == {"success": True}

    strangers = st.lists(spoiled(FRAMES.filter(lambda frame: frame is not GUEST)), max_size=3)
    with running_server(tmp_path) as run:

        @given(strangers)
        def send(frames: list[bytes]) -> None:
            assume(sum(map(len, frames)) < MAX_BYTES_OF_STRANGERS // 2)  # beyond that it hangs up
            run(send_first, frames)

        send()
        assert run(list_loaded) == []
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


def test_whatever_comes_before_http(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    request = b"GET /llm HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n"

    async def send_noise(address: str, noise: bytes) -> None:
        async with rude_client(address) as client:
            await client.send(noise + b"\r\n\r\n")
            assert (await client.read_head()).startswith("HTTP/1.")

    noise = st.binary(min_size=1, max_size=50) | st.builds(
        lambda at, bytes_: request[: at % 60] + bytes_ + request[at % 60 :],
        st.integers(0, 99),
        st.binary(max_size=8),
    )
    with running_server(tmp_path) as run:

        @given(noise)
        def send(noise: bytes) -> None:
            assume(noise.strip(b"\r\n"))  # empty lines before a request are allowed
            run(send_noise, noise)

        send()
        assert run(list_loaded) == []
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []
