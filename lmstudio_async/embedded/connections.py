"""The TCP connections of the server: how many there are, and how long each may be idle and unknown.

aiohttp bounds neither the number of connections nor what one may send before anybody knows whose it
is. So each starts as a stranger, with little time and few bytes; it is admitted when its client has
authenticated. Of too many strangers the oldest goes, so that they cannot keep clients out.
"""

import asyncio
import logging

from aiohttp import web

logger = logging.getLogger("lmstudio_async.embedded")

MAX_STRANGERS = 64
MAX_CLIENTS = 256
HEAD_TIMEOUT = 10.0  # seconds from connecting to the end of the request's head
MAX_BYTES_OF_STRANGERS = 2**20
MAX_HEADERS = 64
SERVER = "lmstudio_async"  # for the header, rather than the versions of what it runs on


class Connections:
    """The connections of a server. Called for each new one, as asyncio's protocol factory."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self.strangers: dict[Connection, None] = {}  # the oldest first
        self.clients: set[Connection] = set()

    def __call__(self) -> "Connection":
        return Connection(self, self._server)

    def opened(self, connection: "Connection") -> None:
        self.strangers[connection] = None
        if len(self.strangers) > MAX_STRANGERS:
            next(iter(self.strangers)).cut()

    def cut(self) -> None:
        """End all that are left."""
        for connection in (*self.strangers, *self.clients):
            connection.cut()

    def closed(self, connection: "Connection") -> None:
        self.strangers.pop(connection, None)
        self.clients.discard(connection)


class Connection(web.RequestHandler):
    """One connection; the `protocol` of the requests that come over it."""

    __slots__ = ("_connections", "_cutting", "_received", "_tcp")

    def __init__(self, connections: Connections, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            max_headers=MAX_HEADERS,
        )
        self._connections = connections
        self._received = 0
        self._tcp: asyncio.Transport | None = None
        self._cutting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._tcp = transport
        super().connection_made(transport)
        self._connections.opened(self)
        self.cut_after(HEAD_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        if self in self._connections.strangers:
            self._received += len(data)
            if self._received > MAX_BYTES_OF_STRANGERS:
                self.cut()
                return
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.cut_after(None)
        self._tcp = None
        self._connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 400:
            return super().handle_error(request, status, exc, message)
        # aiohttp would log a traceback for what is no more than the other side's mistake.
        logger.debug("refused what is no HTTP request: %.500r", exc)
        response = web.Response(
            status=400, text="This is no HTTP request", headers={"Server": SERVER}
        )
        response.force_close()
        return response

    def admit(self) -> bool:
        """Its client has authenticated; False if there are as many as can be served."""
        connections = self._connections
        if self in connections.strangers and len(connections.clients) < MAX_CLIENTS:
            del connections.strangers[self]
            connections.clients.add(self)
            return True
        return False

    def cut_after(self, seconds: float | None) -> None:
        """Cut it when that time has passed; None for never. The last word counts."""
        if self._cutting is not None:
            self._cutting.cancel()
        self._cutting = None if seconds is None else self._loop.call_later(seconds, self.cut)

    def cut(self) -> None:
        """End the connection without waiting for the other side to take what is left to send."""
        if self._tcp is not None:
            self._connections.closed(self)
            self._tcp.abort()
