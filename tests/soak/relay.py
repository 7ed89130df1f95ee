"""A relay between clients and the server whose connections can be cut."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK = 2**16


class Relay:
    def __init__(self, server: str) -> None:
        self._host, _, self._port = server.rpartition(":")
        self._connections: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self.address = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Relay"]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with listener:
            host, port = listener.sockets[0].getsockname()
            self.address = f"{host}:{port}"
            yield self

    def cut(self, rng: random.Random) -> bool:
        """Break one connection without a word to either end. False if there is none."""
        if not self._connections:
            return False
        for end in rng.choice(self._connections):
            end.transport.abort()
        return True

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(self._host, self._port)
        connection = (client, server)
        self._connections.append(connection)
        try:
            await asyncio.gather(_pump(reader, server), _pump(answers, client))
        finally:
            self._connections.remove(connection)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    except ConnectionError:
        pass  # as good as its end
    finally:
        target.close()
