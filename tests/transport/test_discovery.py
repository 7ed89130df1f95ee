"""Finding a server on this machine; the well-known ports are replaced by ports of the test."""

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import lmstudio_async as lms
from lmstudio_async.errors import LMStudioWebsocketError
from lmstudio_async.transport import discovery
from lmstudio_async.transport.address import Address
from lmstudio_async.transport.discovery import discover, first_that_greets, greets, published_port
from tests.scripted_server import ScriptedServer
from tests.transport.raw_server import Peer, RawServer, free_ports

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and nothing behind the well-known ports."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("LMS_API_SERVER_INFO_PATH", raising=False)
    monkeypatch.setattr(discovery, "WELL_KNOWN_PORTS", tuple(free_ports(2)))
    return tmp_path


def publish(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def at(port: int) -> Address:
    return Address("127.0.0.1", port)


def http(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", body])


def answering(answer: bytes) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        head = peer.request()
        assert head.startswith(b"GET /lmstudio-greeting HTTP/1.1\r\n")
        peer.send(answer)

    return serve


GREETING = http(b'{"lmstudio": true}', b"Content-Length: 18")


def test_the_published_port_is_in_the_home_folder(home: Path) -> None:
    assert published_port({}) is None
    publish(home / ".lmstudio" / ".internal" / "http-server.json", {"port": 4567})
    assert published_port({}) == 4567


def test_a_pointer_moves_the_home_folder(home: Path, tmp_path: Path) -> None:
    publish(home / ".lmstudio" / ".internal" / "http-server.json", {"port": 1})
    elsewhere = tmp_path / "else where"
    publish(elsewhere / ".internal" / "http-server.json", {"port": 4567})
    publish(home / ".lmstudio-home-pointer", f"{elsewhere}\n")
    assert published_port({}) == 4567


def test_an_empty_pointer_moves_nothing(home: Path) -> None:
    publish(home / ".lmstudio" / ".internal" / "http-server.json", {"port": 4567})
    publish(home / ".lmstudio-home-pointer", "\n")
    assert published_port({}) == 4567


def test_the_environment_names_the_file_exactly(home: Path) -> None:
    publish(home / ".lmstudio" / ".internal" / "http-server.json", {"port": 1})
    exact = publish(home / "info.json", {"port": 4567})
    assert published_port({"LMS_API_SERVER_INFO_PATH": str(exact)}) == 4567
    assert published_port({"LMS_API_SERVER_INFO_PATH": str(home / "nothing")}) is None
    assert published_port({"LMS_API_SERVER_INFO_PATH": ""}) == 1


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "4567", "[" * 100_000),
        *({}, {"port": "4567"}, {"port": None}, {"port": 1.5}, {"port": True}),
        *({"port": 0}, {"port": -1}, {"port": 65536}),
    ],
)
def test_a_file_that_makes_no_sense_publishes_nothing(home: Path, content: Any) -> None:
    publish(home / ".lmstudio" / ".internal" / "http-server.json", content)
    assert published_port({}) is None


def test_files_that_are_not_text_publish_nothing(home: Path) -> None:
    path = publish(home / ".lmstudio" / ".internal" / "http-server.json", "")
    path.write_bytes(b"\xff\xfe")
    (home / ".lmstudio-home-pointer").write_bytes(b"\xff\xfe")
    assert published_port({}) is None


def test_a_user_without_a_home_has_published_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert published_port({}) is None


@pytest.mark.parametrize(
    "answer",
    [
        GREETING,
        http(b'{"lmstudio": true}'),  # up to the end of the connection
        http(
            b'9\r\n{"lmstudi\r\n9\r\no": true}\r\n0\r\n\r\n',
            b"Transfer-Encoding: chunked",
        ),
        http(b'{"lmstudio": true, "version": "9"}', b"content-type: application/json"),
    ],
)
async def test_lm_studio_greets(answer: bytes) -> None:
    with RawServer(answering(answer)) as server:
        assert await greets(at(server.port))


async def test_a_server_that_keeps_the_connection_open_has_greeted_all_the_same() -> None:
    def greet_and_stay(peer: Peer) -> None:
        peer.request()
        peer.send(GREETING)
        peer.wait_for_end()

    with RawServer(greet_and_stay) as server:
        assert await greets(at(server.port))


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"\n", b"SSH-2.0-OpenSSH_9.9\r\n", b"\x00\xff" * 5000, b"x" * 5000),
        http(b""),
        http(b"<html>"),
        http(b"{", b"Content-Length: 99"),
        http(b"zz\r\n", b"Transfer-Encoding: chunked"),
        http(b"{}", b"Content-Length: two"),
        http(b"[" * 3000),
        http(b"\xff"),
        *(http(body) for body in (b"[]", b"true", b"{}", b'{"lmstudio": 1}', b'{"lmstudio":"a"}')),
        http(b'{"lmstudio": true}', status=b"404 Not Found"),
        http(b'{"lmstudio": true}', status=b"OK"),
    ],
)
async def test_another_server_does_not(answer: bytes) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        with suppress(ConnectionError):  # it may have heard enough
            peer.send(answer)

    with RawServer(serve) as server:
        assert not await greets(at(server.port))


async def test_a_server_that_hangs_up_does_not() -> None:
    def hang_up(peer: Peer) -> None:
        peer.connection.recv(1)
        peer.cut()

    with RawServer(hang_up) as server:
        assert not await greets(at(server.port))


async def test_nobody_does_not() -> None:
    assert not await greets(at(free_ports(1)[0]))


async def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_GREETING_TIMEOUT", 0.05)
    with RawServer(Peer.wait_for_end) as server:
        assert not await greets(at(server.port))


async def test_the_published_port_comes_before_the_well_known_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        published, known = (
            stack.enter_context(RawServer(answering(GREETING))).port for _ in range(2)
        )
        monkeypatch.setattr(discovery, "WELL_KNOWN_PORTS", (known,))
        assert await discover({}) == at(known)
        publish(home / ".lmstudio" / ".internal" / "http-server.json", {"port": published})
        assert await discover({}) == at(published)
        publish(home / ".lmstudio" / ".internal" / "http-server.json", {"port": free_ports(1)[0]})
        assert await discover({}) == at(known)


async def test_a_late_answer_of_a_better_port_wins() -> None:
    others_answered = anyio.Event()
    token = anyio.lowlevel.current_token()

    def late(peer: Peer) -> None:
        peer.request()
        anyio.from_thread.run(others_answered.wait, token=token)
        peer.send(GREETING)

    def early(peer: Peer) -> None:
        answering(GREETING)(peer)
        peer.connection.shutdown(socket.SHUT_WR)
        peer.wait_for_end()
        anyio.from_thread.run_sync(others_answered.set, token=token)

    with RawServer(late) as preferred, RawServer(early) as other:
        nobody = at(free_ports(1)[0])
        found = await first_that_greets([nobody, at(preferred.port), at(other.port)])
    assert found == at(preferred.port)


async def test_nobody_waits_for_worse_ports_once_a_better_one_has_answered() -> None:
    with RawServer(Peer.wait_for_end) as silent, RawServer(answering(GREETING)) as good:
        with anyio.fail_after(discovery._GREETING_TIMEOUT / 2):
            assert await first_that_greets([at(good.port), at(silent.port)]) == at(good.port)


async def test_the_error_lists_where_it_was_looked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = free_ports(2)
    monkeypatch.setattr(discovery, "WELL_KNOWN_PORTS", (first, second))
    publish(home / ".lmstudio" / ".internal" / "http-server.json", {"port": second})
    with pytest.raises(LMStudioWebsocketError, match="no LM Studio server was found") as caught:
        await discover({})
    assert f"127.0.0.1 on ports {second}, {first})" in str(caught.value)
    assert "lms server start" in str(caught.value)


async def test_a_client_without_an_address_finds_the_server(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "WELL_KNOWN_PORTS", (*free_ports(1), server.port))
    async with lms.Client() as client:
        with pytest.raises(lms.LMStudioRuntimeError, match="no server has been looked for"):
            _ = client.api_host
        assert await client.llm.list_loaded() == []
        assert client.api_host == server.api_host
        await client.system.version()
    assert server.greetings == 1


async def test_a_client_finds_a_server_that_has_moved(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "WELL_KNOWN_PORTS", (server.port,))
    monkeypatch.setattr("lmstudio_async.pool._RECONNECT_DELAY", 0.0)
    async with lms.Client() as client:
        await client.system.version()
        server.stop_listening()
        server.drop_connections()
        with ScriptedServer() as moved:
            monkeypatch.setattr(discovery, "WELL_KNOWN_PORTS", (server.port, moved.port))
            await client.system.version()
            assert client.api_host == moved.api_host
            await client.aclose()


async def test_a_client_that_finds_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmstudio_async.pool._RECONNECT_DELAY", 0.0)
    async with lms.Client() as client:
        with pytest.raises(lms.LMStudioWebsocketError, match="no LM Studio server was found"):
            await client.llm.list_loaded()
