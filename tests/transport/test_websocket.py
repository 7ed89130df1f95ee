"""One WebSocket on each event loop, against servers that count every byte."""

import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from lmstudio_async.errors import LMStudioRuntimeError, LMStudioWebsocketError
from lmstudio_async.transport import WebSocket, _asyncio, _trio, current_backend
from lmstudio_async.transport.base import MAX_FRAME_BYTES
from tests.transport.raw_server import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    RawServer,
    frame_head,
    free_ports,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(serve: Callable[[Peer], None]) -> AsyncIterator[WebSocket]:
    """A socket to a server that upgrades and then does what `serve` says."""

    def upgrade_and_serve(peer: Peer) -> None:
        peer.upgrade()
        serve(peer)

    with RawServer(upgrade_and_serve) as server:
        socket = await current_backend().connect(server.url, "the server")
        try:
            yield socket
        finally:
            await socket.aclose()


def say_goodbye(peer: Peer) -> None:
    opcode, data = peer.read_frame()
    assert opcode == CLOSE
    peer.send_frame(CLOSE, data)


async def test_text_goes_both_ways() -> None:
    def echo(peer: Peer) -> None:
        for _ in range(3):
            opcode, data = peer.read_frame()
            assert opcode == TEXT
            peer.send_frame(TEXT, data)
        say_goodbye(peer)

    async with connected(echo) as socket:
        for frame in (b'{"a": 1}', "grüße".encode(), b"x" * 100_000):
            await socket.send(frame)
            assert await socket.receive() == frame


async def test_fragments_are_put_together() -> None:
    def fragment(peer: Peer) -> None:
        peer.send_frame(TEXT, b"one ", fin=False)
        peer.send_frame(PING, b"between")
        peer.send_frame(CONTINUATION, b"two ", fin=False)
        peer.send_frame(CONTINUATION, b"three")
        peer.send_frame(TEXT, b"four")
        assert peer.read_frame() == (PONG, b"between")
        say_goodbye(peer)

    async with connected(fragment) as socket:
        assert await socket.receive() == b"one two three"
        assert await socket.receive() == b"four"


async def test_several_frames_may_come_at_once_and_one_in_pieces() -> None:
    more = anyio.Event()
    token = anyio.lowlevel.current_token()

    def pieces(peer: Peer) -> None:
        whole = frame_head(TEXT, 3) + b"one" + frame_head(TEXT, 3) + b"two"
        last = frame_head(TEXT, 5) + b"three"
        peer.send(whole + last[:4])
        anyio.from_thread.run(more.wait, token=token)
        peer.send(last[4:])
        say_goodbye(peer)

    async with connected(pieces) as socket:
        assert await socket.receive() == b"one"
        assert await socket.receive() == b"two"
        more.set()
        assert await socket.receive() == b"three"


async def test_a_ping_is_answered() -> None:
    def ping(peer: Peer) -> None:
        peer.send_frame(PING, b"are you there")
        assert peer.read_frame() == (PONG, b"are you there")
        peer.send_frame(TEXT, b"good")
        say_goodbye(peer)

    async with connected(ping) as socket:
        assert await socket.receive() == b"good"


async def test_a_binary_frame_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    def binary(peer: Peer) -> None:
        peer.send_frame(BINARY, b"\x00\x01")
        peer.send_frame(BINARY, b"\x00", fin=False)
        peer.send_frame(CONTINUATION, b"\x01")
        peer.send_frame(TEXT, b"text")
        say_goodbye(peer)

    async with connected(binary) as socket:
        assert await socket.receive() == b"text"
    assert "skipped a binary frame from the server" in caplog.text


async def test_the_error_for_a_closed_connection_tells_the_close_code() -> None:
    def close(peer: Peer) -> None:
        peer.send_frame(TEXT, b"last words")
        peer.send_frame(CLOSE, (4321).to_bytes(2) + b"enough")
        assert peer.read_frame()[0] == CLOSE

    async with connected(close) as socket:
        assert await socket.receive() == b"last words"
        for _ in range(2):
            with pytest.raises(LMStudioWebsocketError, match=r"the server was lost.*4321"):
                await socket.receive()


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_connection_that_is_cut_is_lost(how: str) -> None:
    def cut(peer: Peer) -> None:
        peer.send_frame(TEXT, b"last words")
        peer.read_frame()
        if how == "reset":
            peer.cut()

    async with connected(cut) as socket:
        assert await socket.receive() == b"last words"
        await socket.send(b"anything")
        for _ in range(2):
            with pytest.raises(LMStudioWebsocketError, match="the server was lost"):
                await socket.receive()


async def test_sending_on_a_lost_connection_fails() -> None:
    def cut(peer: Peer) -> None:
        peer.cut()

    async with connected(cut) as socket:
        with pytest.raises(LMStudioWebsocketError):
            await socket.receive()
        with pytest.raises(LMStudioWebsocketError, match="the server was lost"):
            await socket.send(b"anything")


async def test_sending_on_a_closed_connection_fails() -> None:
    async with connected(say_goodbye) as socket:
        await socket.aclose()
        with pytest.raises(LMStudioWebsocketError, match="the server was lost"):
            await socket.send(b"anything")


async def test_a_frame_that_is_too_large_ends_the_connection() -> None:
    def boast(peer: Peer) -> None:
        peer.send(frame_head(TEXT, MAX_FRAME_BYTES + 1))
        peer.send(b"the first of many")
        opcode, data = peer.read_frame()
        assert opcode == CLOSE
        assert int.from_bytes(data[:2]) == 1009
        peer.send_frame(CLOSE, data[:2])

    async with connected(boast) as socket:
        with pytest.raises(LMStudioWebsocketError, match="1009"):
            await socket.receive()


async def test_what_is_no_websocket_frame_ends_the_connection() -> None:
    def garble(peer: Peer) -> None:
        peer.send(b"\xff" * 100)
        assert peer.read_frame()[0] == CLOSE

    async with connected(garble) as socket:
        with pytest.raises(LMStudioWebsocketError, match="the server was lost"):
            await socket.receive()


async def test_closing_does_not_wait_for_ever_for_the_goodbye(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_asyncio, "CLOSE_TIMEOUT", 0.01)
    monkeypatch.setattr(_trio, "CLOSE_TIMEOUT", 0.01)

    async with connected(Peer.wait_for_end) as socket:
        with anyio.fail_after(5):
            await socket.aclose()


async def test_closing_twice_is_closing_once() -> None:
    async with connected(say_goodbye) as socket:
        await socket.aclose()


async def test_cancelling_a_receive_loses_nothing() -> None:
    more = anyio.Event()
    token = anyio.lowlevel.current_token()

    def wait(peer: Peer) -> None:
        anyio.from_thread.run(more.wait, token=token)
        peer.send_frame(TEXT, b"late")
        say_goodbye(peer)

    async with connected(wait) as socket:
        async with anyio.create_task_group() as group:
            group.start_soon(socket.receive)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        more.set()
        assert await socket.receive() == b"late"


async def connect_to(serve: Callable[[Peer], None]) -> None:
    with RawServer(serve) as server:
        await current_backend().connect(server.url, "the server")


async def test_a_refused_connection_names_the_server() -> None:
    (port,) = free_ports(1)
    with pytest.raises(LMStudioWebsocketError, match="no connection to LM Studio at the server"):
        await current_backend().connect(f"ws://127.0.0.1:{port}/llm", "the server")


async def test_an_http_error_in_place_of_an_upgrade_is_told() -> None:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        peer.wait_for_end()

    with pytest.raises(LMStudioWebsocketError, match=r"no connection to .* the server: .*503"):
        await connect_to(refuse)


async def test_a_wrong_upgrade_is_no_connection() -> None:
    def pretend(peer: Peer) -> None:
        peer.request()
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: bm90aGluZw==\r\n\r\n"
        )
        peer.wait_for_end()

    with pytest.raises(LMStudioWebsocketError, match="no connection to LM Studio at the server"):
        await connect_to(pretend)


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_peer_that_cuts_during_the_handshake_is_no_connection(how: str) -> None:
    def cut(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 101 Swit")
        if how == "reset":
            peer.cut()

    with pytest.raises(LMStudioWebsocketError, match="the server"):
        await connect_to(cut)


async def test_something_else_than_http_is_no_connection() -> None:
    def speak_ssh(peer: Peer) -> None:
        peer.send(b"SSH-2.0-OpenSSH_9.9\r\n")
        peer.wait_for_end()

    with pytest.raises(LMStudioWebsocketError, match="no connection to LM Studio at the server"):
        await connect_to(speak_ssh)


async def test_a_secure_address_is_spoken_to_in_tls() -> None:
    first = bytearray()

    def take_hello(peer: Peer) -> None:
        first.extend(peer.connection.recv(1))
        peer.send(b"no TLS here, sorry\r\n")
        peer.wait_for_end()

    with RawServer(take_hello) as server:
        url = server.url.replace("ws://", "wss://")
        with pytest.raises(LMStudioWebsocketError, match="the server"):
            await current_backend().connect(url, "the server")
    assert first == b"\x16"  # a TLS handshake record


async def test_cancelling_a_connect_closes_what_was_opened() -> None:
    reached, ended = anyio.Event(), anyio.Event()
    token = anyio.lowlevel.current_token()

    def stall(peer: Peer) -> None:
        peer.request()
        anyio.from_thread.run_sync(reached.set, token=token)
        peer.wait_for_end()
        anyio.from_thread.run_sync(ended.set, token=token)

    with RawServer(stall) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(current_backend().connect, server.url, "the server")
            await reached.wait()
            group.cancel_scope.cancel()
        await ended.wait()


async def test_frames_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def echo(peer: Peer) -> None:
        peer.send_frame(TEXT, peer.read_frame()[1])
        say_goodbye(peer)

    async with connected(echo) as socket:
        await socket.send(b"a secret")
        await socket.receive()
    assert "a secret" not in caplog.text


async def test_a_peer_that_takes_no_data_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asyncio, "SEND_TIMEOUT", 0.01)
    monkeypatch.setattr(_trio, "SEND_TIMEOUT", 0.01)
    closing = anyio.Event()
    token = anyio.lowlevel.current_token()

    def take_nothing(peer: Peer) -> None:
        anyio.from_thread.run(closing.wait, token=token)

    async with connected(take_nothing) as socket:
        with pytest.raises(LMStudioWebsocketError, match=r"took no data for 0\.01 s"):
            await socket.send(b"x" * MAX_FRAME_BYTES)
        closing.set()
        with pytest.raises(LMStudioWebsocketError):
            await socket.receive()


async def test_without_the_extra_trio_is_told_of_it(
    monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str
) -> None:
    monkeypatch.setitem(sys.modules, "lmstudio_async.transport._trio", None)
    if anyio_backend_name == "trio":
        with pytest.raises(LMStudioRuntimeError, match=r"lmstudio_async\[trio\]"):
            current_backend()
    else:
        current_backend()


async def test_cancelling_one_sender_leaves_the_others_that_wait() -> None:
    """aiohttp has all that wait for a full socket wait for one future."""
    read = threading.Event()
    frames: list[bytes] = []

    def read_late(peer: Peer) -> None:
        assert read.wait(10)
        with suppress(ConnectionError):
            while True:
                frames.append(peer.read_frame()[1])

    async with connected(read_late) as socket:
        sent: list[int] = []

        async def send(number: int) -> None:
            await socket.send(b"%d" % number + b"x" * 8_000_000)
            sent.append(number)

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(send, 1)
                    await anyio.wait_all_tasks_blocked()
                    group.start_soon(send, 2)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
                    read.set()
            group.start_soon(send, 3)
        assert sent[-2:] == [2, 3]
    assert [frame[:1] for frame in frames[:3]] == [b"1", b"2", b"3"]


async def test_closing_does_not_wait_for_a_peer_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On trio a frame that is half sent is waited for, that long.
    monkeypatch.setattr(_trio, "SEND_TIMEOUT", 0.2)
    closed = threading.Event()

    def read_nothing(_: Peer) -> None:
        assert closed.wait(20)

    with anyio.fail_after(10):
        async with connected(read_nothing) as socket:
            async with anyio.create_task_group() as group:
                group.start_soon(socket.send, b"x" * 16_000_000)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            await socket.aclose()
            closed.set()


async def test_closing_does_not_wait_for_room_for_its_goodbye(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_trio, "SEND_TIMEOUT", 0.2)
    monkeypatch.setattr(_asyncio, "CLOSE_TIMEOUT", 0.1)
    closed = threading.Event()

    def read_nothing(_: Peer) -> None:
        assert closed.wait(20)

    async with connected(read_nothing) as socket:
        async with anyio.create_task_group() as group:
            # With its head, the second is all that aiohttp sends before it waits for room again.
            for size in (16_000_000, 2**18 - 14):
                group.start_soon(socket.send, b"x" * size)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        try:
            with anyio.fail_after(5):
                await socket.aclose()
        finally:
            closed.set()


async def test_what_comes_is_read_while_the_peer_takes_nothing() -> None:
    """A peer may first say all that it has to say."""
    part = b"y" * 1_000_000

    def send_then_read(peer: Peer) -> None:
        for _ in range(16):
            peer.send_frame(TEXT, part)
        assert peer.read_frame() == (TEXT, b"x" * 16_000_000)
        say_goodbye(peer)

    async with connected(send_then_read) as socket, anyio.create_task_group() as group:
        group.start_soon(socket.send, b"x" * 16_000_000)
        await anyio.wait_all_tasks_blocked()
        for _ in range(16):
            assert await socket.receive() == part


async def test_closing_ends_what_waits_for_a_peer_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_trio, "SEND_TIMEOUT", 0.2)
    ended = threading.Event()

    def read_in_the_end(peer: Peer) -> None:
        assert ended.wait(20)
        peer.wait_for_end()

    async with connected(read_in_the_end) as socket:
        with anyio.fail_after(10):

            async def send() -> None:
                with pytest.raises(LMStudioWebsocketError, match="was lost"):
                    await socket.send(b"x" * 16_000_000)

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                await anyio.wait_all_tasks_blocked()
                await socket.aclose()
            ended.set()
