"""The server in this process, where its inside can be made to fail."""

import asyncio
import hmac
import logging
import socket
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from lmstudio_async.embedded import auth, server
from lmstudio_async.embedded.auth import is_trusted_request
from lmstudio_async.embedded.management import ModelEndpoints
from lmstudio_async.embedded.server import ServerConfig, run_server
from lmstudio_async.wire.messages import Authentication

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


LOCAL = "127.0.0.1"


@pytest.mark.parametrize(
    ("bound", "hosts", "origins", "trusted"),
    [
        ("0.0.0.0", ["my-server:1234"], [], True),
        ("0.0.0.0", ["my-server:8000"], ["http://my-server:8000"], True),
        ("0.0.0.0", ["my-server:1234"], ["http://other"], False),
        (LOCAL, [], [], False),
        (LOCAL, ["localhost", "localhost"], [], False),
        (LOCAL, ["localhost", "evil.example"], [], False),
        (LOCAL, [""], [], False),
        (LOCAL, ["["], [], False),
        (LOCAL, ["localhost"], [], True),
        (LOCAL, ["LOCALHOST:1234"], [], True),
        (LOCAL, ["app.localhost"], [], True),
        (LOCAL, ["127.8.8.8:1"], [], True),
        (LOCAL, ["[::1]:1234"], [], True),
        (LOCAL, ["[::1]:8080"], ["http://[::1]:8080"], True),
        (LOCAL, ["[::1]"], ["http://[::1]:8080"], False),
        (LOCAL, ["0.0.0.0:1234"], [], False),
        (LOCAL, ["localhost."], [], False),
        (LOCAL, ["127.0.0.1."], [], False),
        (LOCAL, ["2130706433"], [], False),
        (LOCAL, ["0x7f000001"], [], False),
        (LOCAL, ["0177.0.0.1"], [], False),
        (LOCAL, ["127.1"], [], False),
        (LOCAL, ["evil@localhost"], [], False),
        (LOCAL, ["localhost@evil.example"], [], False),
        (LOCAL, ["localhost/evil.example"], [], False),
        (LOCAL, ["localhost:1234:evil"], [], False),
        (LOCAL, ["localhost.evil.example"], [], False),
        (LOCAL, ["evil.example#localhost"], [], False),
        (LOCAL, ["localhost\tevil"], [], False),
        (LOCAL, ["localhost"], ["null"], False),
        (LOCAL, ["localhost"], [""], False),
        (LOCAL, ["localhost"], ["http://localhost:3000", "https://evil.example"], False),
        (LOCAL, ["localhost:1234"], ["http://LocalHost:1234"], True),
        (LOCAL, ["localhost:1234"], ["http://localhost:3000"], False),
        (LOCAL, ["localhost:1234"], ["http://127.0.0.1:1234"], False),
        (LOCAL, ["localhost:1234"], ["http://localhost"], False),
        (LOCAL, ["localhost"], ["file://localhost"], False),
        (LOCAL, ["localhost"], ["chrome-extension://localhost"], False),
        (LOCAL, ["localhost"], ["http://evil.example@localhost"], False),
        (LOCAL, ["localhost"], ["http://localhost@evil.example"], False),
        (LOCAL, ["localhost"], ["http://localhost.evil.example"], False),
        (LOCAL, ["localhost"], ["http://evil.example/http://localhost"], False),
        ("localhost", ["localhost:1"], ["https://localhost.evil.example"], False),
    ],
)
async def test_trusted_requests(
    bound: str, hosts: list[str], origins: list[str], trusted: bool
) -> None:
    assert is_trusted_request(bound, hosts, origins) is trusted


async def test_a_name_that_only_looks_like_loopback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A resolver may take any name to any address."""
    elsewhere = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: elsewhere)
    with pytest.raises(ValueError, match="no loopback address"):
        async with run_server(ServerConfig(models_dir=str(tmp_path), host="app.localhost")):
            pass


async def test_both_halves_of_a_token_are_always_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, ...]] = []

    def compare(*pair: bytes) -> bool:
        compared.append(pair)
        return hmac.compare_digest(*pair)

    monkeypatch.setattr(auth, "hmac", SimpleNamespace(compare_digest=compare))
    authenticator = auth.Authenticator("sk-lm-12345678:12345678901234567890")
    for name, passkey in (("x", "y"), ("12345678", "y"), ("x", "12345678901234567890")):
        compared.clear()
        with (
            pytest.raises(auth.AuthenticationError),
            authenticator.admit(Authentication(name, passkey)),
        ):
            pass
        assert compared == [
            (name.encode(), b"12345678"),
            (passkey.encode(), b"12345678901234567890"),
        ]
