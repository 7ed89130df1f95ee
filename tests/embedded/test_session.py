"""The server in this process, where its inside can be made to fail."""

import asyncio
import logging
from typing import Any

import aiohttp
import pytest

from lmstudio_async.embedded import server
from lmstudio_async.embedded.auth import is_trusted_request
from lmstudio_async.embedded.management import ModelEndpoints
from lmstudio_async.embedded.server import ServerConfig, run_server

from .raw import GUEST, RawSocket, Refused, connected, stack

pytestmark = pytest.mark.asyncio


async def fail(*_: Any) -> None:
    raise ZeroDivisionError("a bug")


async def test_a_bug_is_logged_and_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    monkeypatch.setattr(ModelEndpoints, "get_load_config", fail)
    monkeypatch.setattr(ModelEndpoints, "load_model", fail)
    async with (
        run_server(ServerConfig(models_dir=str(tmp_path))) as running,
        connected(running.address, "llm") as socket,
    ):
        with pytest.raises(Refused, match="Internal error"):
            await socket.call("getLoadConfig", {"specifier": {"type": "query", "query": {}}})
        with pytest.raises(Refused, match="Internal error"):
            await socket.channel("loadModel", {"modelKey": "x", "loadConfigStack": stack()})
        assert await socket.loaded() == []
    assert caplog.text.count("ZeroDivisionError: a bug") == 2


async def test_shutdown_hangs_up(tmp_path: Any) -> None:
    async with aiohttp.ClientSession() as session:
        async with run_server(ServerConfig(models_dir=str(tmp_path))) as running:
            socket = await session.ws_connect(f"http://{running.address}/llm")
            await RawSocket(socket, "llm").authenticate(GUEST)
            closing = asyncio.create_task(socket.receive())
        message = await closing
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert message.data == aiohttp.WSCloseCode.GOING_AWAY


async def test_authentication_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(server, "_AUTHENTICATION_TIMEOUT", 0.05)
    async with (
        run_server(ServerConfig(models_dir=str(tmp_path))) as running,
        connected(running.address, "llm", None) as socket,
    ):
        answer = await socket.receive()
        assert answer["success"] is False
        assert "too long" in answer["error"]


async def test_a_client_that_leaves_before_its_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    left = asyncio.Event()

    async def answer_late(*_: Any) -> list[Any]:
        await left.wait()
        return []

    monkeypatch.setattr(ModelEndpoints, "list_loaded", answer_late)
    async with run_server(ServerConfig(models_dir=str(tmp_path))) as running:
        with caplog.at_level(logging.DEBUG, "lmstudio_async.embedded"):
            async with connected(running.address, "llm") as socket:
                await socket.send(type="rpcCall", endpoint="listLoaded", callId=1)
                await socket.socket.close()
            left.set()
    assert "Traceback" not in caplog.text


async def test_the_configuration_does_not_show_its_token() -> None:
    config = ServerConfig(api_token="sk-lm-12345678:12345678901234567890")
    assert "sk-lm" not in repr(config)


@pytest.mark.parametrize(
    ("bound", "host", "origin", "trusted"),
    [
        ("0.0.0.0", "my-server:1234", None, True),
        ("0.0.0.0", "my-server:1234", "http://my-server:8000", True),
        ("0.0.0.0", "my-server:1234", "http://other", False),
        ("127.0.0.1", None, None, False),
        ("127.0.0.1", "[", None, False),
        ("127.0.0.1", "app.localhost", None, True),
        ("127.0.0.1", "127.8.8.8:1", None, True),
        ("localhost", "localhost:1", "https://localhost.evil.example", False),
    ],
)
async def test_trusted_requests(
    bound: str, host: str | None, origin: str | None, trusted: bool
) -> None:
    assert is_trusted_request(bound, host, origin) is trusted
