"""One authenticated WebSocket: its calls and channels, run by the handlers of its namespace."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
from aiohttp import WSMsgType
from aiohttp.web import WebSocketResponse
from anyio.abc import TaskGroup
from msgspec import UNSET, Raw, Struct, UnsetType

from lmstudio_async.embedded.connections import Connection
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.wire.loading import CancelPacket
from lmstudio_async.wire.messages import (
    DECODE_ERRORS,
    ChannelAck,
    ChannelClose,
    ChannelCreate,
    ChannelError,
    ChannelSend,
    CommunicationWarning,
    KeepAlive,
    KeepAliveAck,
    RpcCall,
    RpcError,
    RpcResult,
    decode_client_message,
    encode,
)
from lmstudio_async.wire.server_error import ServerError

logger = logging.getLogger("lmstudio_async.embedded")

_MAX_WARNINGS = 5
_MAX_TEXT = 500  # characters of a client's that are repeated to it
MAX_IN_FLIGHT = 1000  # calls and channels of one socket
MAX_IN_FLIGHT_BYTES = 32 * 2**20  # of their requests
SEND_TIMEOUT = 30.0  # seconds in which a client must take a frame


class Channel:
    """The server's end of an open channel."""

    def __init__(self, send: Callable[[Struct], Awaitable[None]]) -> None:
        self.send = send
        self._cancel_requested = False
        self._scope: anyio.CancelScope | None = None

    def cancel(self) -> None:
        """Note that the client wants no more."""
        self._cancel_requested = True
        if self._scope is not None:
            self._scope.cancel()

    @contextmanager
    def cancellable(self) -> Iterator[None]:
        """A block that the client's `cancel` ends."""
        with anyio.CancelScope() as self._scope:
            if self._cancel_requested:
                self._scope.cancel()
            yield
        self._scope = None


@dataclass(frozen=True)
class Rpc:
    """A call: the type of its parameter (None: it has none), and what answers it."""

    parameter: Any
    handler: Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Stream:
    """A channel endpoint: the type of its creation parameter, and what serves it."""

    parameter: Any
    handler: Callable[[Any, Channel], Awaitable[None]]


@dataclass(frozen=True)
class Namespace:
    rpcs: Mapping[str, Rpc] = field(default_factory=dict)
    streams: Mapping[str, Stream] = field(default_factory=dict)


async def serve_session(
    socket: WebSocketResponse, connection: Connection, namespace: Namespace
) -> None:
    """Answer what comes over the socket until it closes; what still runs then is cancelled."""
    async with anyio.create_task_group() as tasks:
        session = _Session(socket, connection, namespace, tasks)
        async for frame in socket:
            if frame.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await session.receive(frame.data)
        tasks.cancel_scope.cancel()


class _Session:
    def __init__(
        self,
        socket: WebSocketResponse,
        connection: Connection,
        namespace: Namespace,
        tasks: TaskGroup,
    ) -> None:
        self._socket = socket
        self._connection = connection
        self._namespace = namespace
        self._tasks = tasks
        self._channels: dict[int, Channel] = {}
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._warnings = 0
        self._complaints = 0
        self._room: asyncio.Future[None] | None = None  # what waits for a full socket

    async def receive(self, frame: bytes) -> None:
        try:
            message = decode_client_message.decode(frame)
        except DECODE_ERRORS as error:
            await self._warn(f"A frame could not be understood: {error}", "unknown")
            return
        match message:
            case RpcCall():
                await self._receive_call(message, len(frame))
            case ChannelCreate():
                await self._receive_create(message, len(frame))
            case ChannelSend():
                await self._receive_packet(message)
            case ChannelAck():
                pass  # nothing is sent with an ackId
            case KeepAlive():
                await self._send(KeepAliveAck())
            case CommunicationWarning():
                self._complaints += 1
                if self._complaints <= _MAX_WARNINGS:
                    logger.warning("a client did not understand a frame: %.500r", message.warning)

    async def _receive_call(self, message: RpcCall[Raw], size: int) -> None:
        name = message.endpoint
        rpc = self._namespace.rpcs.get(name)
        if rpc is None:
            await self._warn(
                f"rpcCall for an endpoint this server does not have, endpoint = {name}",
                "rpcEndpointUnknown",
            )
            return
        try:
            parameter = _decode(message.parameter, rpc.parameter)
        except DECODE_ERRORS as error:
            await self._warn(
                f"rpcCall with an invalid parameter, endpointName = {name}, {error}",
                "rpcParameterTypeError",
            )
            return
        if (refusal := self._begin(size)) is not None:
            await self._send(RpcError(message.call_id, refusal))
            return
        self._tasks.start_soon(self._run_call, message.call_id, name, rpc, parameter, size)

    async def _run_call(self, call_id: int, name: str, rpc: Rpc, parameter: Any, size: int) -> None:
        try:
            result = await rpc.handler(parameter)
            answer = encode(RpcResult(call_id, UNSET if result is None else result))
        except RequestError as error:
            answer = encode(RpcError(call_id, error.error))
        except RecursionError:
            answer = encode(RpcError(call_id, _nested_too_deeply().error))
        except Exception:
            logger.exception("the call %r failed", name)
            answer = encode(RpcError(call_id, _internal_error(name)))
        await self._send_bytes(answer)
        self._end(size)

    async def _receive_create(self, message: ChannelCreate[Raw], size: int) -> None:
        name, channel_id = message.endpoint, message.channel_id
        stream = self._namespace.streams.get(name)
        if stream is None:
            await self._warn(
                f"channelCreate for an endpoint this server does not have, endpoint = {name}",
                "channelEndpointUnknown",
            )
            return
        if channel_id in self._channels:
            await self._warn(
                f"channelCreate for a channel that is open already, channelId = {channel_id}",
                "channelAlreadyOpen",
            )
            return
        try:
            parameter = _decode(message.creation_parameter, stream.parameter)
        except DECODE_ERRORS as error:
            await self._warn(
                f"channelCreate with an invalid parameter, endpointName = {name}, {error}",
                "channelCreationParameterTypeError",
            )
            return

        if (refusal := self._begin(size)) is not None:
            await self._send(ChannelError(channel_id, refusal))
            return

        async def send(packet: Struct) -> None:
            await self._send(ChannelSend(channel_id, packet))

        channel = self._channels[channel_id] = Channel(send)
        self._tasks.start_soon(
            self._run_channel, channel_id, name, stream, parameter, channel, size
        )

    async def _run_channel(
        self,
        channel_id: int,
        name: str,
        stream: Stream,
        parameter: Any,
        channel: Channel,
        size: int,
    ) -> None:
        farewell: Struct = ChannelClose(channel_id)
        try:
            await stream.handler(parameter, channel)
        except RequestError as error:
            farewell = ChannelError(channel_id, error.error)
        except RecursionError:
            farewell = ChannelError(channel_id, _nested_too_deeply().error)
        except Exception:
            logger.exception("the channel %r failed", name)
            farewell = ChannelError(channel_id, _internal_error(name))
        finally:
            del self._channels[channel_id]
        await self._send(farewell)
        self._end(size)

    def _begin(self, size: int) -> ServerError | None:
        """Count a request whose frame has that size; the error if there are too many already."""
        if self._in_flight >= MAX_IN_FLIGHT or self._in_flight_bytes + size > MAX_IN_FLIGHT_BYTES:
            return RequestError(
                "There are too many requests in flight on this connection",
                cause=f"{self._in_flight} with {self._in_flight_bytes} bytes; the most are "
                f"{MAX_IN_FLIGHT} with {MAX_IN_FLIGHT_BYTES}",
                suggestion="Wait for the answers to some of them",
            ).error
        self._in_flight += 1
        self._in_flight_bytes += size
        return None

    def _end(self, size: int) -> None:
        self._in_flight -= 1
        self._in_flight_bytes -= size

    async def _receive_packet(self, message: ChannelSend[Raw]) -> None:
        channel = self._channels.get(message.channel_id)
        if message.ack_id is not UNSET:
            await self._send(ChannelAck(message.channel_id, message.ack_id))
        if channel is None:
            await self._warn(
                f"channelSend for a channel that is not open, channelId = {message.channel_id}",
                "channelUnknown",
            )
            return
        try:
            msgspec.json.decode(message.message, type=CancelPacket)
        except DECODE_ERRORS as error:
            await self._warn(
                f"channelSend with an invalid message, channelId = {message.channel_id}, {error}",
                "channelMessageTypeError",
            )
            return
        channel.cancel()

    async def _warn(self, text: str, kind: str) -> None:
        if self._warnings < _MAX_WARNINGS:
            self._warnings += 1
            text = text[:_MAX_TEXT]
            logger.warning("warned a client: %r", text)
            await self._send(CommunicationWarning(text, kind))

    async def _send(self, message: Struct) -> None:
        await self._send_bytes(encode(message))

    async def _send_bytes(self, frame: bytes) -> None:
        try:
            if self._room is not None:
                await self._wait_for(self._room)
            # The frame is written before the first suspension, which waits for room in the socket.
            # There, aiohttp has all senders wait for one future: cancelling one of them would
            # cancel the others, and whoever comes next.
            sending = self._socket.send_frame(frame, WSMsgType.TEXT)
            try:
                self._room = sending.send(None)
            except StopIteration:
                return
            sending.close()
            self._room._asyncio_future_blocking = False  # taken note of, as a task does
            self._room.add_done_callback(lambda room: room.exception())
            await self._wait_for(self._room)
        except ConnectionResetError:
            # The reader sees the same and ends the session.
            logger.debug("a client went away before its answer")

    async def _wait_for(self, room: "asyncio.Future[None]") -> None:
        done, _ = await asyncio.wait([room], timeout=SEND_TIMEOUT)
        if not done:
            logger.warning("hung up on a client that took no data for %g s", SEND_TIMEOUT)
            self._connection.cut()
            return
        if self._room is room:
            self._room = None
        room.result()


def _decode(raw: Raw | UnsetType, expected: Any) -> Any:
    return msgspec.json.decode(b"null" if raw is UNSET else raw, type=expected)


def _nested_too_deeply() -> RequestError:
    return RequestError("The request is nested too deeply to be answered")


def _internal_error(endpoint: str) -> ServerError:
    title = f"Internal error of the server in {endpoint!r}; its log says more"
    return ServerError(title=title, root_title=title)
