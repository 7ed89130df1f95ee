"""The client's connections: one for each namespace, opened on first use, reopened when lost."""

import logging
import random
from collections import deque
from collections.abc import Awaitable
from functools import cache
from typing import Any, TypeVar, cast

import anyio
import msgspec
from msgspec import UNSET, Raw

from lmstudio_async.connection import Connection
from lmstudio_async.errors import (
    LMStudioError,
    LMStudioProtocolError,
    LMStudioRuntimeError,
    LMStudioTimeoutError,
    LMStudioWebsocketError,
)
from lmstudio_async.exchanges import Channel
from lmstudio_async.multiplexer import RefusedError
from lmstudio_async.single_flight import SingleFlight
from lmstudio_async.timeouts import Bound, Timeouts
from lmstudio_async.transport import Backend, BackgroundTasks
from lmstudio_async.transport.address import Address
from lmstudio_async.transport.discovery import discover
from lmstudio_async.version import __version__
from lmstudio_async.wire import messages
from lmstudio_async.wire.loading import ServerVersion

T = TypeVar("T")

_logger = logging.getLogger("lmstudio_async")

# A lost connection is tried again after 0.1 s, 0.2 s, 0.4 s, … each times a random 0.5 to 1.
_RECONNECT_TRIES = 6
_RECONNECT_DELAY = 0.1
_RECONNECT_DELAY_LIMIT = 2.0

# Seconds to ask the server for its version, when an error is about to name it.
_VERSION_BOUND = Bound("call", 2.0)


class OpenChannel:
    """A channel together with the connection that carries it."""

    __slots__ = ("_channel", "_connection", "_opening", "_pool")

    def __init__(self, pool: "Pool", connection: Connection, channel: Channel, opening: bytes):
        self._pool = pool
        self._connection = connection
        self._channel = channel
        self._opening = opening

    @property
    def unread(self) -> "deque[Raw]":
        """The packets that have come and were not received yet. Taking one receives it."""
        return self._channel.packets

    @property
    def ended(self) -> bool:
        """Whether no more packets will come."""
        return self._channel.ended

    def arrival(self) -> Awaitable[None]:
        """Wait for the next packet, or the end. For a channel that has neither."""
        return self._channel.arrival()

    async def open(self) -> None:
        """Send the request that opens the channel. If cancelled, it may have been sent."""
        opening, self._opening = self._opening, b""  # long, if the chat is
        await self._connection.send(opening)

    def forget(self) -> None:
        """Give up a channel that was not opened."""
        self._connection.forget_channel(self._channel)

    async def receive(self, packets: "msgspec.json.Decoder[T]") -> T | None:
        """The next packet, None at the end of the channel; unknown packets are skipped."""
        while True:
            try:
                raw = await self._channel.receive()
            except RefusedError as error:
                raise await self._pool.explain(error) from None
            if raw is None:
                return None
            try:
                return packets.decode(raw)
            except messages.DECODE_ERRORS as error:
                if not str(error).endswith("at `$.type`"):
                    raise LMStudioProtocolError(
                        f"{self._channel.asked}: could not understand a packet from "
                        f"{self._connection.address}: {error}"
                    ) from error
                _logger.debug("skipped a packet of %s: %s", self._channel.endpoint, error)

    async def send(self, packet: object) -> None:
        """Send a packet; nothing if the channel is over."""
        await self._connection.send_packet(self._channel, packet)

    def abandon(self, packet: object) -> None:
        """Send a last packet in the background and read no more. Can be called from anywhere."""
        channel = self._channel
        channel.discard()
        if not channel.ended:
            self._pool.tasks.spawn_soon(self._send_last, packet)

    async def _send_last(self, packet: object) -> None:
        try:
            await self.send(packet)
        except LMStudioWebsocketError:
            _logger.debug("%s ended with its connection", self._channel.asked)


class Pool:
    """Connections by namespace.

    `address` is None to discover the server, anew whenever it cannot be reached any more.
    """

    def __init__(
        self,
        address: Address | None,
        authentication: messages.Authentication,
        backend: Backend,
        tasks: BackgroundTasks,
        timeouts: Timeouts,
    ) -> None:
        self.backend = backend
        self.tasks = tasks
        self.timeouts = timeouts
        self.address = address
        self._discovers = address is None
        self._authentication = authentication
        self._connections: dict[str, Connection] = {}
        self._connecting = SingleFlight()
        self._server_version: str | None = None
        # Endpoints that this server has refused and for which there is another way.
        self.unsupported: set[str] = set()
        self._closed = False

    @property
    def server(self) -> str:
        """The server, as error messages call it."""
        return str(self.address) if self.address is not None else "the server on this machine"

    async def call(
        self,
        namespace: str,
        endpoint: str,
        parameter: object,
        result_type: type[T] | Any,
        *,
        asked: str | None = None,
        bound: Bound | None = None,
        read_only: bool = True,
    ) -> T:
        """Call an endpoint. A call that only reads is tried again once if the connection is lost.

        `bound` is that for calls unless another is given. `result_type` is None for calls without
        a result; a type that allows None takes a missing result as None.
        """
        asked = asked or f"{namespace}.{endpoint}"
        bound = bound or self.timeouts.bound("call")
        expected = Raw if result_type is None else result_type
        try:
            connection = await self._connection(namespace)
            try:
                result = await connection.call(endpoint, parameter, asked, bound, expected)
            except LMStudioWebsocketError:
                if not read_only:
                    raise
                connection = await self._connection(namespace)
                result = await connection.call(endpoint, parameter, asked, bound, expected)
        except RefusedError as error:
            raise await self.explain(error) from None
        return cast(T, self._decode(result, result_type, asked))

    async def channel(
        self, namespace: str, endpoint: str, parameter: object, asked: str, bound: Bound | None
    ) -> OpenChannel:
        """A channel on a live connection; its `open` sends the request.

        `bound` limits the time between two packets; without one, who reads sees to it.
        """
        connection = await self._connection(namespace)
        return OpenChannel(self, connection, *connection.channel(endpoint, parameter, asked, bound))

    def live_connection(self, namespace: str) -> object | None:
        """What stands for the connection of a namespace, None if it has none at present."""
        connection = self._connections.get(namespace)
        return None if connection is None or connection.closed else connection

    async def explain(self, error: RefusedError) -> LMStudioProtocolError:
        """A refusal, with the versions of both sides, since one is too old for the other."""
        explained = LMStudioProtocolError(
            f"{error}\nThis is lmstudio_async {__version__}, and the server is "
            f"{await self._version()}; update the older one."
        )
        explained.refused = True
        return explained

    async def aclose(self) -> None:
        """Close every connection; further use raises LMStudioRuntimeError."""
        self._closed = True
        for connection in list(self._connections.values()):
            await connection.aclose()

    def _decode(self, result: Any, result_type: Any, asked: str) -> object:
        if result_type is None:
            return None
        if result is not UNSET and type(result) is not Raw:
            return result
        try:
            return _decoder(result_type).decode(b"null" if result is UNSET else result)
        except messages.DECODE_ERRORS as error:
            raise LMStudioProtocolError(
                f"{asked}: could not understand the answer of {self.server}: {error}"
            ) from error

    async def _connection(self, namespace: str) -> Connection:
        while True:
            if self._closed:
                raise LMStudioRuntimeError(
                    "this client is closed; use it inside its `async with` block"
                )
            connection = self._connections.get(namespace)
            if connection is not None and not connection.closed:
                if not connection.worn:
                    return connection
                del self._connections[namespace]
                connection.retire()
            if not await self._connecting.wait(namespace):
                with self._connecting.lead(namespace):
                    connection = await self._connect(namespace)
                    if self._closed:
                        await self.backend.run_shielded(connection.aclose)
                        raise LMStudioRuntimeError("the client was closed while connecting")
                    self._connections[namespace] = connection
                    return connection

    async def _connect(self, namespace: str) -> Connection:
        tries = _RECONNECT_TRIES if namespace in self._connections else 1
        delay = _RECONNECT_DELAY
        while True:
            tries -= 1
            try:
                if self.address is None:
                    self.address = await discover()
                return await Connection.open(
                    namespace,
                    self.address,
                    self._authentication,
                    self.backend,
                    self.tasks,
                    self.timeouts,
                )
            except (LMStudioWebsocketError, LMStudioTimeoutError) as error:
                if self._discovers:
                    self.address = None
                if tries <= 0:
                    raise
                _logger.info("trying again to reach %s: %s", self.server, error)
            await anyio.sleep(delay * random.uniform(0.5, 1))
            delay = min(2 * delay, _RECONNECT_DELAY_LIMIT)

    async def _version(self) -> str:
        if self._server_version is None:
            try:
                connection = await self._connection("system")
                answer = await connection.call(
                    "version", UNSET, "system.version", _VERSION_BOUND, ServerVersion
                )
                version = cast(ServerVersion, self._decode(answer, ServerVersion, "system.version"))
            except LMStudioError:
                return "of an unknown version"
            self._server_version = f"LM Studio {version.version}"
        return self._server_version


@cache
def _decoder(result_type: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(result_type)
