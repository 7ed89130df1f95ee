"""A client that sends what it likes, byte for byte."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from .raw import GUEST

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
TIMEOUT = 20.0  # seconds; bounds every wait for the server


class RudeClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read_head(self) -> str:
        """The head of an HTTP response."""
        with anyio.fail_after(TIMEOUT):
            return (await self._reader.readuntil(b"\r\n\r\n")).decode()

    async def read_to_end(self) -> bytes:
        """All that comes until the server ends the connection, gently or not."""
        with anyio.fail_after(TIMEOUT):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def upgrade(self, namespace: str = "llm", *more: str) -> str:
        """Begin to speak WebSocket; the head of the answer."""
        lines = (
            f"GET /{namespace} HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            *more,
        )
        await self.send("\r\n".join((*lines, "", "")).encode())
        return await self.read_head()

    async def authenticate(
        self, credentials: dict[str, Any] = GUEST, namespace: str = "llm"
    ) -> None:
        await self.upgrade(namespace)
        await self.send_json(credentials)
        assert json.loads((await self.read_frame())[1]) == {"success": True}

    async def send_json(self, message: Any) -> None:
        await self.send_frame(TEXT, json.dumps(message).encode())

    async def send_frame(
        self,
        opcode: int,
        data: bytes,
        *,
        fin: bool = True,
        reserved: int = 0,
        length: int | None = None,
        masked: bool = True,
    ) -> None:
        """Send a frame; `length` is what its head claims."""
        size = len(data) if length is None else length
        head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
        bit = 0x80 if masked else 0
        if size < 126:
            head += bytes([bit | size])
        elif size < 65536:
            head += bytes([bit | 126]) + size.to_bytes(2)
        else:
            head += bytes([bit | 127]) + size.to_bytes(8)
        # A mask of zeros changes nothing.
        await self.send(head + bytes(4 if masked else 0) + data)

    async def read_frame(self) -> tuple[int, bytes]:
        """Opcode and content of the next frame. Raises IncompleteReadError at the end."""
        with anyio.fail_after(TIMEOUT):
            first, length = await self._reader.readexactly(2)
            if length >= 126:
                length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8))
            return first & 0x0F, await self._reader.readexactly(length)

    async def close_code(self) -> int:
        """The code with which the server closes, whatever it says before."""
        while True:
            opcode, data = await self.read_frame()
            if opcode == CLOSE:
                return int.from_bytes(data[:2])


@asynccontextmanager
async def rude_client(
    address: str, *, receive_buffer: int | None = None
) -> AsyncIterator[RudeClient]:
    """A connection; it reads nothing of its own accord, with a small buffer not even unnoticed."""
    host, _, port = address.rpartition(":")
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=connection, limit=2**16)
    try:
        yield RudeClient(reader, writer)
    finally:
        writer.transport.abort()
