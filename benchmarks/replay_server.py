"""An LM Studio that knows its answers by heart, fast enough never to be what is measured.

Frames are encoded ahead of time and many go into one write. A prediction says with its prompt, a
JSON object, how many `fragments` it wants. It begins, together with all others that wait on its
socket, when that socket asks to tokenize "go"; their fragments take turns. They come as fast as
they are taken in; with `batch`, so many in one write, and then a pause of `interval_us`
microseconds.

`python -m benchmarks.replay_server` prints the port that it listens on, and ends with its stdin.
"""

import argparse
import asyncio
import base64
import hashlib
import itertools
import json
import sys
import time
from typing import Any

from benchmarks import replay_frames as frames

# Frames in one write, where the client takes them as fast as it can.
_BLOCK = 400
_WRITE_BUFFER = 1024 * 1024
_GREETING = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
    b'{"lmstudio":true}'
)
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING = 1, 8, 9


class Session(asyncio.Protocol):
    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = bytearray()
        self._namespace = ""
        self._authenticated = False
        self._waiting: dict[int, dict[str, Any]] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._streaming: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self._streaming:
            task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._namespace:
            self._take_request()
        while self._namespace and (taken := _unframe(self._received)) is not None:
            self._take_frame(*taken)

    def _take_request(self) -> None:
        head, end, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not end:
            return
        self._received[:] = rest
        request, *lines = head.split(b"\r\n")
        path = request.split(b" ")[1].decode()
        headers = {name.lower(): value.strip() for name, _, value in _split(lines)}
        if path == "/lmstudio-greeting":
            self._transport.write(_GREETING)
            if headers.get(b"connection") == b"close":
                self._transport.close()
            return
        accept = hashlib.sha1(headers[b"sec-websocket-key"] + _WEBSOCKET_GUID).digest()
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(accept)
        )
        self._namespace = path.rpartition("/")[2]

    def _take_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _CLOSE:
            self._transport.write(bytes((0x80 | _CLOSE, len(payload))) + payload)
            self._transport.close()
        elif opcode == _PING:
            self._transport.write(bytes((0x8A, len(payload))) + payload)
        elif opcode == _TEXT:
            message = json.loads(payload)
            if not self._authenticated:
                self._authenticated = True
                self._transport.write(frames.encode({"success": True}))
            elif message["type"] == "rpcCall":
                self._call(message["callId"], message["endpoint"], message.get("parameter"))
            elif message["type"] == "channelCreate":
                parameter = message["creationParameter"]
                self._open(message["channelId"], message["endpoint"], parameter)
            elif message["type"] == "keepAlive":
                self._transport.write(frames.encode({"type": "keepAliveAck"}))

    def _call(self, call_id: int, endpoint: str, parameter: Any) -> None:
        match endpoint:
            case "tokenize":
                result = frames.TOKENS
            case "embedString":
                result = frames.EMBEDDING
            case "listLoaded":
                result = frames.LOADED[self._namespace]
            case "getModelInfo":
                result = frames.INFO[self._namespace]
            case "version":
                result = frames.VERSION
            case _:
                self._refuse("rpc", "rpcCall", endpoint)
                return
        self._transport.write(frames.rpc_result(call_id, result))
        if endpoint == "tokenize" and parameter["inputString"] == "go":
            self._stream()

    def _open(self, channel_id: int, endpoint: str, parameter: Any) -> None:
        match endpoint:
            case "getOrLoad":
                packet = {"type": "alreadyLoaded", "info": frames.INSTANCES[self._namespace]}
                self._transport.write(
                    frames.channel_send(channel_id, packet) + frames.channel_close(channel_id)
                )
            case "predict":
                prompt = parameter["history"]["messages"][-1]["content"][0]["text"]
                self._waiting[channel_id] = json.loads(prompt)
                self._transport.write(frames.prompt_processed(channel_id))
            case _:
                self._refuse("channel", "channelCreate", endpoint)

    def _refuse(self, kind: str, frame: str, endpoint: str) -> None:
        warning = f"Received {frame} for unknown endpoint, endpoint = {endpoint}"
        self._transport.write(
            frames.encode(
                {
                    "type": "communicationWarning",
                    "warning": warning,
                    "kind": f"{kind}EndpointUnknown",
                }
            )
        )

    def _stream(self) -> None:
        streams, self._waiting = self._waiting, {}
        if not streams:
            return
        plan = next(iter(streams.values()))
        task = asyncio.get_running_loop().create_task(
            self._send_fragments(
                list(streams), plan["fragments"], plan["batch"], plan["interval_us"]
            )
        )
        self._streaming.add(task)
        task.add_done_callback(self._streaming.discard)

    async def _send_fragments(
        self, channels: list[int], count: int, batch: int, interval_us: int
    ) -> None:
        ends = b"".join(frames.success(one, count) + frames.channel_close(one) for one in channels)
        # More rounds than words would only repeat the words.
        rounds = [
            [frames.fragment(channel, number) for channel in channels]
            for number in range(min(count, len(frames.WORDS)))
        ]
        fragments = itertools.islice(
            itertools.cycle(itertools.chain.from_iterable(rounds)), count * len(channels)
        )
        while block := b"".join(itertools.islice(fragments, batch or _BLOCK)):
            await self._write(block)
            if batch:
                # An event loop's own timers count in milliseconds. Nobody else is served here.
                time.sleep(interval_us / 1e6)  # noqa: ASYNC251
        await self._write(ends)

    async def _write(self, data: bytes) -> None:
        self._transport.write(data)
        await asyncio.sleep(0)
        await self._writable.wait()


def _split(lines: list[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    return [line.partition(b":") for line in lines]


def _unframe(received: bytearray) -> tuple[int, bytes] | None:
    """Take the first of a client's frames, which are masked and, of these clients, never split."""
    if len(received) < 6:
        return None
    length, start = received[1] & 0x7F, 2
    if length == 126:
        length, start = int.from_bytes(received[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(received[2:10], "big"), 10
    end = start + 4 + length
    if len(received) < end:
        return None
    mask = bytes(received[start : start + 4]) * (length // 4 + 1)
    masked = int.from_bytes(received[start + 4 : end], "big")
    payload = (masked ^ int.from_bytes(mask[:length], "big")).to_bytes(length, "big")
    opcode = received[0] & 0x0F
    del received[:end]
    return opcode, payload


async def main(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        try:
            server = await loop.create_server(Session, "127.0.0.1", port)
            break
        except OSError:
            continue
    else:
        sys.exit(f"every one of the ports {ports} is taken")
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, action="append", help="the first free one of several")
    asyncio.run(main(parser.parse_args().port or [0]))
