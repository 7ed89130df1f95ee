"""The client against a peer that breaks WebSocket and HTTP themselves, on each event loop."""

import json
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest

import lmstudio_async as lms
from tests.transport.raw_server import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Peer,
    RawServer,
    frame_head,
)

pytestmark = pytest.mark.anyio

MiB = 2**20
VERSION = b'{"type":"rpcResult","callId":1,"result":{"version":"1","build":2}}'


def hostile(*actions: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """A peer that lets the client in and then does all this; it stays until the client leaves."""

    def serve(peer: Peer) -> None:
        with suppress(ConnectionError):
            peer.upgrade()
            peer.read_frame()
            peer.send_frame(TEXT, b'{"success": true}')
            peer.read_frame()
            for act in actions:
                act(peer)
            while peer.read_frame()[0] != CLOSE:
                pass

    return serve


def frame(opcode: int, data: bytes, *, fin: bool = True) -> Callable[[Peer], None]:
    return lambda peer: peer.send_frame(opcode, data, fin=fin)


def raw(data: bytes) -> Callable[[Peer], None]:
    return lambda peer: peer.send(data)


FATAL = {
    "a frame larger than any": raw(frame_head(TEXT, 2**62)),
    "a frame over the bound": raw(frame_head(TEXT, 65 * MiB)),
    "a compressed frame": raw(b"\xc1\x05" + b"\x00" * 5),
    "a reserved bit": raw(b"\xa1\x01x"),
    "an unknown opcode": raw(b"\x83\x00"),
    "a masked frame that is a bad close": raw(b"\x88\x81\x00\x00\x00\x00x"),
    "a continuation of nothing, then an end": raw(b"\x80\x01x\x88\x00"),
    "a long ping": raw(b"\x89\x7e\x00\x7e" + b"x" * 126),
    "a ping in fragments": raw(b"\x09\x01x"),
    "half a close code": frame(CLOSE, b"\x03"),
    "a bad close code": frame(CLOSE, b"\x00\x07"),
    "a close code for nobody": frame(CLOSE, b"\x03\xed"),
    "a close reason that is no text": frame(CLOSE, b"\x03\xe8\xff"),
    "a close": frame(CLOSE, b"\x03\xe8bye"),
    "noise": raw(bytes(range(128, 256)) * 8),
}


@pytest.mark.parametrize("name", FATAL)
async def test_who_breaks_websocket_is_a_lost_connection(name: str) -> None:
    with RawServer(hostile(FATAL[name])) as server:
        async with lms.Client(f"127.0.0.1:{server.port}") as client:
            with anyio.fail_after(10):
                with pytest.raises(lms.LMStudioWebsocketError):
                    await client.system.version()


HARMLESS = {
    "binary frames": [frame(BINARY, b"x" * 1000)] * 50,
    "empty frames": [frame(TEXT, b"")] * 50,
    "pings": [frame(PING, b"x" * 125)] * 200,
    "invalid UTF-8": [frame(TEXT, b'{"type": "\xff"}'), frame(TEXT, b"\xff")],
    "lone surrogates": [frame(TEXT, b'{"type": "\\ud800"}')],
    "deep nesting": [frame(TEXT, b"[" * 100_000), frame(TEXT, b'{"a":' * 100_000)],
    "unknown types": [frame(TEXT, b'{"type": "%d"}' % n) for n in range(50)],
    "answers to nobody": [
        frame(TEXT, json.dumps({"type": "rpcResult", "callId": n}).encode())
        for n in (0, -1, 2, 2**64, 2**70)
    ],
    "warnings": [
        frame(TEXT, b'{"type":"communicationWarning","warning":"%d"}' % n) for n in range(99)
    ],
    "acknowledgements": [
        frame(TEXT, b'{"type":"channelSend","channelId":9,"message":1,"ackId":%d}' % (2**70))
        for _ in range(9)
    ],
    "a large frame": [frame(TEXT, b'{"type":"x","x":"' + b"x" * 8 * MiB + b'"}')],
    "many fragments": [
        frame(TEXT, b" ", fin=False),
        *[frame(CONTINUATION, b" " * 100, fin=False)] * 200,
        frame(CONTINUATION, b" "),
    ],
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_nonsense_before_an_answer_is_skipped(name: str) -> None:
    with RawServer(hostile(*HARMLESS[name], frame(TEXT, VERSION))) as server:
        async with lms.Client(f"127.0.0.1:{server.port}") as client:
            with anyio.fail_after(10):
                assert (await client.system.version()).build == 2


async def test_a_fragment_that_never_ends_fails_at_the_keep_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lmstudio_async.connection.KEEP_ALIVE_INTERVAL", 0.05)
    with RawServer(hostile(frame(TEXT, b'{"type":', fin=False))) as server:
        async with lms.Client(f"127.0.0.1:{server.port}") as client:
            with anyio.fail_after(10):
                with pytest.raises(lms.LMStudioWebsocketError):
                    await client.system.version()


def first_words(answer: bytes) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        with suppress(OSError):
            peer.request()
            peer.send(answer)
            peer.connection.shutdown(1)
            peer.wait_for_end()

    return serve


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff" * 50,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 99999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 \xff\r\nX: \xff\r\n\r\n",
    ],
)
async def test_who_does_not_speak_websocket_is_no_server(answer: bytes) -> None:
    with RawServer(first_words(answer)) as server:
        async with lms.Client(f"127.0.0.1:{server.port}") as client:
            with anyio.fail_after(10):
                with pytest.raises(lms.LMStudioWebsocketError):
                    await client.system.version()


async def test_compression_is_not_offered() -> None:
    heads: list[bytes] = []

    def note(peer: Peer) -> None:
        heads.append(peer.request())

    with RawServer(note) as server:
        async with lms.Client(f"127.0.0.1:{server.port}") as client:
            with pytest.raises(lms.LMStudioWebsocketError):
                await client.system.version()
    assert b"upgrade: websocket" in heads[0].lower()
    assert b"permessage-deflate" not in heads[0].lower()
