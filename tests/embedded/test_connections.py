"""Connections of clients that are slow, silent, too many, or that take no data."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from lmstudio_async.embedded import connections, server, session
from lmstudio_async.embedded.management import ModelEndpoints
from lmstudio_async.embedded.server import ServerConfig, run_server
from lmstudio_async.wire.messages import CommunicationWarning

from .raw import GUEST, Refused, connected, stack
from .rude import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, TIMEOUT, RudeClient, rude_client

pytestmark = pytest.mark.anyio

MiB = 2**20
GREETING = b"GET /lmstudio-greeting HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"debug": True}


@pytest.fixture
async def address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[str]:
    """A server without models. Nothing that a client does is an error of its."""
    async with run_server(ServerConfig(models_dir=str(tmp_path))) as running:
        yield running.address
    assert [one.message for one in caplog.records if one.levelno >= logging.ERROR] == []


async def assert_serving(address: str) -> None:
    async with connected(address, "llm") as bystander:
        assert await bystander.loaded() == []


@pytest.mark.parametrize(
    "sent", [b"", b"GE", GREETING[:-2], b"GET /llm HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 99]
)
async def test_who_sends_half_a_request_is_cut(
    address: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)
    async with rude_client(address) as client:
        await client.send(sent)
        assert await client.read_to_end() == b""
    await assert_serving(address)


async def test_dripping_a_request_does_not_help(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)
    async with rude_client(address) as client:
        with pytest.raises(ConnectionError):
            while True:
                await client.send(b"G")
                await asyncio.sleep(0)


async def test_each_plain_connection_gets_one_answer(address: str) -> None:
    async with rude_client(address) as client:
        await client.send(GREETING + GREETING)
        answer = await client.read_to_end()
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /llm HTTP/1.1\r\nno header\r\n\r\n",
        b"GET /llm HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /llm HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 200 + b"\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET /llm HTTP/1.1\r\nHost: localhost\r\nUpgrade: \xff\r\n\r\n",
        b"GET /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /llm HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /llm HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 4\r\n\r\nbomb",
    ],
)
async def test_what_is_no_request_is_refused_without_noise(address: str, sent: bytes) -> None:
    async with rude_client(address) as client:
        await client.send(sent)
        assert (await client.read_to_end()).startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    await assert_serving(address)


async def test_a_body_is_not_waited_for(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)
    async with rude_client(address) as client:
        await client.send(b"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 405")


async def test_the_oldest_of_too_many_strangers_goes(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_STRANGERS", 3)
    async with connected(address, "llm") as friend, AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(rude_client(address)) for _ in range(5)]
        for stranger in strangers[:2]:
            assert await stranger.read_to_end() == b""
        assert await friend.loaded() == []
        await strangers[2].authenticate()  # the oldest one left
        await assert_serving(address)


async def test_hundreds_of_idle_connections_keep_nobody_out(address: str) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(400):
            await stack.enter_async_context(rude_client(address))
        await assert_serving(address)


async def test_there_are_only_so_many_clients(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CLIENTS", 2)
    async with connected(address, "llm") as first:
        async with connected(address, "llm"):
            async with connected(address, "llm", None) as third:
                answer = await third.authenticate(GUEST)
                assert "all the" in answer["error"]
                assert (await third.socket.receive()).data == 1000
            assert await first.loaded() == []
        # As soon as the server has noticed that there is room again, somebody else may come.
        with anyio.fail_after(5):
            while True:
                async with connected(address, "llm", None) as third:
                    if (await third.authenticate(GUEST))["success"]:
                        break


async def test_strangers_cannot_send_much(address: str) -> None:
    async with rude_client(address) as client:
        await client.upgrade()
        with pytest.raises(ConnectionError):
            while True:
                await client.send_frame(TEXT, b" " * 65536)
    await assert_serving(address)


async def test_what_strangers_send_is_noted_once(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(address, "llm", None) as socket:
        for frame in ["{", "[" * 5000, '"\\ud800"', "0", ""]:
            await socket.send_unchecked(frame)
        await socket.socket.send_bytes(b'{"clientIdentifier": "\xff"}')
        assert await socket.authenticate(GUEST) == {"success": True}
    assert caplog.text.count("before its authentication") == 1


async def test_an_authentication_is_for_once(address: str) -> None:
    async with connected(address, "llm") as socket:
        await socket.send_unchecked(json.dumps(GUEST))
        answer = await socket.receive()
        assert (answer["type"], answer["kind"]) == ("communicationWarning", "unknown")
        assert await socket.loaded() == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"opcode": TEXT, "data": b"", "length": 17 * MiB}, 1009),
        ({"opcode": TEXT, "data": b"", "length": 2**62}, 1009),
        ({"opcode": TEXT, "data": b"x", "reserved": 4}, 1002),  # compressed, which was not agreed
        ({"opcode": TEXT, "data": b"x", "reserved": 2}, 1002),
        ({"opcode": 0x3, "data": b""}, 1002),
        ({"opcode": CONTINUATION, "data": b"x"}, 1002),
        ({"opcode": PING, "data": b"x" * 126}, 1002),
        ({"opcode": PING, "data": b"x", "fin": False}, 1002),
        ({"opcode": CLOSE, "data": b"\x00"}, 1002),
        ({"opcode": CLOSE, "data": b"\x00\x07"}, 1002),
        ({"opcode": CLOSE, "data": b"\x03\xed"}, 1002),  # 1005 is for nobody to send
        ({"opcode": CLOSE, "data": b"\x03\xe8\xff"}, 1007),
    ],
)
async def test_bad_frames_end_only_their_own_socket(
    address: str, frame: dict[str, Any], code: int
) -> None:
    async with connected(address, "llm") as bystander, rude_client(address) as culprit:
        await culprit.authenticate()
        await culprit.send_frame(**frame)
        assert await culprit.close_code() == code
        assert await bystander.loaded() == []


async def test_endless_fragments_end_at_the_bound(address: str) -> None:
    async with connected(address, "llm") as bystander, rude_client(address) as culprit:
        await culprit.authenticate()
        with pytest.raises(ConnectionError):
            await culprit.send_frame(TEXT, b"x" * MiB, fin=False)
            while True:
                await culprit.send_frame(CONTINUATION, b"x" * MiB, fin=False)
        assert await bystander.loaded() == []


async def test_pings_are_answered_in_the_middle_of_fragments(address: str) -> None:
    async with rude_client(address) as client:
        await client.authenticate()
        await client.send_frame(TEXT, b'{"type": ', fin=False)
        await client.send_frame(PING, b"there?")
        assert await client.read_frame() == (PONG, b"there?")
        await client.send_frame(CONTINUATION, b'"keepAlive"}')
        assert json.loads((await client.read_frame())[1]) == {"type": "keepAliveAck"}


async def test_compression_is_not_agreed_to(address: str) -> None:
    async with rude_client(address) as client:
        head = await client.upgrade(
            "llm", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        )
    assert head.startswith("HTTP/1.1 101 ")
    assert "extensions" not in head.lower()


class Watched:
    """A call and a load that last until they are told to end, or are cancelled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.answer: list[Any] = []
        monkeypatch.setattr(ModelEndpoints, "list_loaded", self._wait)
        monkeypatch.setattr(ModelEndpoints, "load_model", self._wait)

    async def has_begun(self) -> None:
        with anyio.fail_after(TIMEOUT):
            await self.begun.acquire()

    async def _wait(self, *_: Any) -> Any:
        self.begun.release()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return self.answer


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


CALL = {"type": "rpcCall", "endpoint": "listLoaded"}
LOAD = {
    "type": "channelCreate",
    "endpoint": "loadModel",
    "creationParameter": {"modelKey": "x", "loadConfigStack": stack()},
}


async def test_what_a_dead_client_asked_for_is_stopped(
    watched: Watched, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers no ping, as if its machine were gone."""
    monkeypatch.setattr(server, "_HEARTBEAT", 0.1)
    async with rude_client(address) as client:
        await client.authenticate()
        await client.send_json(LOAD | {"channelId": 1})
        await watched.has_begun()
        with anyio.fail_after(10):
            await watched.cancelled.acquire()


async def test_a_silent_client_that_lives_is_kept(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HEARTBEAT", 0.2)
    async with rude_client(address) as client:
        await client.authenticate()
        for _ in range(3):
            assert (await client.read_frame())[0] == PING
            await client.send_frame(PONG, b"")
        await client.send_json({"type": "keepAlive"})
        assert json.loads((await client.read_frame())[1]) == {"type": "keepAliveAck"}


async def never_reads(client: RudeClient, watched: Watched, calls: int = 20) -> None:
    """Ask for more than any buffer between the two holds, and take nothing of it."""
    await client.authenticate()
    watched.answer = ["x" * MiB]
    for number in range(calls):
        await client.send_json(CALL | {"callId": number})
        await watched.has_begun()
    watched.release.set()


async def test_who_takes_no_data_is_cut_and_stalls_nobody(
    watched: Watched,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(session, "SEND_TIMEOUT", 0.3)
    gone = asyncio.Event()
    cut = connections.Connection.cut
    buffered: list[int] = []

    def note_and_cut(self: connections.Connection) -> None:
        if self._tcp is not None:
            buffered.append(self._tcp.get_write_buffer_size())
        cut(self)
        gone.set()

    monkeypatch.setattr(connections.Connection, "cut", note_and_cut)
    async with (
        connected(address, "system") as bystander,
        rude_client(address, receive_buffer=4096) as client,
    ):
        await never_reads(client, watched)
        assert (await bystander.call("info"))["version"]
        with anyio.fail_after(10):
            await gone.wait()
    assert max(buffered) < 3 * MiB  # of the 20 that it asked for
    assert "took no data" in caplog.text


async def test_the_server_ends_though_a_client_takes_no_data(
    tmp_path: Path, watched: Watched
) -> None:
    with anyio.fail_after(10):
        async with AsyncExitStack() as stack:
            async with run_server(ServerConfig(models_dir=str(tmp_path))) as running:
                client = await stack.enter_async_context(
                    rude_client(running.address, receive_buffer=4096)
                )
                await never_reads(client, watched)


async def test_only_so_many_requests_are_in_flight(
    watched: Watched, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_IN_FLIGHT", 2)
    async with connected(address, "llm") as socket:
        await socket.send(**CALL, callId=101)
        await socket.send(**LOAD, channelId=102)
        for _ in range(2):
            await watched.has_begun()
        with pytest.raises(Refused, match="too many requests in flight"):
            await socket.call("listLoaded")
        with pytest.raises(Refused, match="too many requests in flight"):
            await socket.channel("loadModel", LOAD["creationParameter"])
        async with connected(address, "system") as other:
            assert (await other.call("info"))["version"]
        watched.release.set()
        assert {(await socket.receive())["type"] for _ in range(2)} == {"rpcResult", "channelClose"}
        assert await socket.loaded() == []


async def test_only_so_many_bytes_are_in_flight(
    watched: Watched, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_IN_FLIGHT_BYTES", 100_000)
    parameter = {"modelKey": "x" * 60_000, "loadConfigStack": stack()}
    async with connected(address, "llm") as socket:
        await socket.send(**LOAD | {"channelId": 101, "creationParameter": parameter})
        await watched.has_begun()
        with pytest.raises(Refused, match="too many requests in flight"):
            await socket.channel("loadModel", parameter)


async def test_cancelling_one_stream_leaves_those_that_wait_for_the_same_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp has all that wait for a full socket wait for one future."""
    sent = asyncio.Semaphore(0)

    async def report_for_ever(_self: Any, _: Any, channel: session.Channel) -> None:
        with channel.cancellable():
            while True:
                sent.release()
                await channel.send(CommunicationWarning("x" * 16 * MiB))

    def cancel(channel_id: int) -> dict[str, Any]:
        return {"type": "channelSend", "channelId": channel_id, "message": {"type": "cancel"}}

    monkeypatch.setattr(ModelEndpoints, "load_model", report_for_ever)
    async with (
        run_server(ServerConfig(models_dir=str(tmp_path))) as running,
        rude_client(running.address) as client,
    ):
        await client.authenticate()
        for channel_id in (1, 2):
            await client.send_json(LOAD | {"channelId": channel_id})
            with anyio.fail_after(TIMEOUT):
                await sent.acquire()
        for channel_id in (1, 2):
            await client.send_json(cancel(channel_id))
            frame = None
            while frame != {"type": "channelClose", "channelId": channel_id}:
                frame = json.loads((await client.read_frame())[1])


async def test_floods_of_warnings_are_logged_a_few_times(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(address, "llm") as socket:
        for _ in range(100):
            await socket.send(type="communicationWarning", warning="what?\nERROR forged " * 1000)
        await socket.send_unchecked("{" * 1000)
        assert (await socket.receive())["type"] == "communicationWarning"
    assert caplog.text.count("did not understand") == 5
    assert len(caplog.text) < 10_000
    assert not [line for line in caplog.text.splitlines() if line.startswith("ERROR forged")]


@pytest.mark.parametrize(
    "frame",
    [
        b'{"type": "rpcCall", "endpoint": "listLoaded", "callId": 1, "parameter": "\xff"}',
        b'{"type": "rpcCall", "endpoint": "\xff", "callId": 1}',
        b'{"type": "rpcCall", "endpoint": "listLoaded", "callId": 1e400}',
        b'{"type": "rpcCall", "endpoint": "listLoaded", "callId": 1.5}',
        b'{"type": "rpcCall", "endpoint": "\\ud800", "callId": 1}',
        b'{"type": "rpcCall", "endpoint": "tokenize", "callId": 1, "parameter": '
        + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x00",
        b"",
        b"\xef\xbb\xbf{}",
        b'{"type": "keepAlive", "type": "rpcCall"}',
        b'{"type": "' + b"x" * MiB + b'"}',
        b'{"type": "rpcCall", "endpoint": "' + b"x" * MiB + b'", "callId": 1}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_garbled_frames_are_warned_of(address: str, frame: bytes, opcode: int) -> None:
    async with rude_client(address) as client:
        await client.authenticate()
        await client.send_frame(opcode, frame)
        warning = json.loads((await client.read_frame())[1])
        assert warning["type"] == "communicationWarning"
        assert len(warning["warning"]) <= 500
        await client.send_json({"type": "keepAlive"})
        assert json.loads((await client.read_frame())[1]) == {"type": "keepAliveAck"}


async def test_numbers_of_any_size_are_good_ids(address: str) -> None:
    async with connected(address, "llm") as socket:
        for number in (-1, 0, 2**64, 2**70):
            await socket.send_unchecked(json.dumps(CALL | {"callId": number}))
            answer = json.loads((await socket.socket.receive()).data)
            assert answer == {"type": "rpcResult", "callId": number, "result": []}


def test_the_end_of_the_server_closes_every_connection(tmp_path: Path) -> None:
    """No connection outlives its server, not even one that has sent nothing."""

    async def main() -> socket.socket:
        async with run_server(ServerConfig(models_dir=str(tmp_path))) as running:
            host, _, port = running.address.rpartition(":")
            stranger = socket.create_connection((host, int(port)))
            await assert_serving(running.address)
        return stranger

    with anyio.run(main) as stranger:
        stranger.settimeout(5)
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
