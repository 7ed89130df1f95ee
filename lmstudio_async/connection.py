"""One authenticated WebSocket: sends and receives what the multiplexer says."""

import logging
import math
from collections import deque
from typing import Any

import anyio
import anyio.lowlevel
from anyio import Event

from lmstudio_async.errors import (
    LMStudioClientError,
    LMStudioTimeoutError,
    LMStudioWebsocketError,
)
from lmstudio_async.exchanges import Channel
from lmstudio_async.multiplexer import MAX_WARNINGS, Multiplexer
from lmstudio_async.timeouts import Bound, Timeouts
from lmstudio_async.transport import Backend, BackgroundTasks, WebSocket
from lmstudio_async.transport.address import Address
from lmstudio_async.wire import messages

_logger = logging.getLogger("lmstudio_async")

# LM Studio's own clients ask for a sign of life every 5 s, and give up after 15 s of silence.
KEEP_ALIVE_INTERVAL = 5.0
KEEP_ALIVE_LIMIT = 3


class Connection:
    """A connection to one namespace. Once `closed`, it stays so: the pool opens another."""

    def __init__(
        self, namespace: str, address: Address, socket: WebSocket, backend: Backend
    ) -> None:
        self.namespace = namespace
        self.address = address
        self.closed = False
        self._socket = socket
        self._clock = backend.clock
        self._multiplexer = Multiplexer(namespace, str(address), backend.clock, backend.wakeup)
        self._retired = False
        self._stopping = False
        self._reading = anyio.CancelScope()
        self._ended = Event()
        self._alarm = backend.wakeup()
        self._alarm_time = math.inf

    @classmethod
    async def open(
        cls,
        namespace: str,
        address: Address,
        authentication: messages.Authentication,
        backend: Backend,
        tasks: BackgroundTasks,
        timeouts: Timeouts,
    ) -> "Connection":
        """Connect and authenticate.

        Raises LMStudioWebsocketError if nobody answers, LMStudioTimeoutError if somebody takes
        too long, LMStudioClientError if the server does not let us in.
        """
        try:
            with anyio.fail_after(timeouts.connect):
                socket = await backend.connect(address.url(namespace), str(address))
        except TimeoutError as error:
            raise LMStudioTimeoutError(
                f"connecting to {address} took more than {timeouts.connect:g} s "
                "(Timeouts.connect); is it the right address?",
                "connect",
                timeouts.connect,
            ) from error
        try:
            with anyio.fail_after(timeouts.authenticate):
                await _authenticate(socket, authentication, address)
        except BaseException as error:
            await backend.run_shielded(socket.aclose)
            if isinstance(error, TimeoutError):
                raise LMStudioTimeoutError(
                    f"{address} took the connection, but did not answer the authentication for "
                    f"{timeouts.authenticate:g} s (Timeouts.authenticate); is LM Studio busy, or "
                    "is something else listening there?",
                    "authenticate",
                    timeouts.authenticate,
                ) from error
            raise
        connection = cls(namespace, address, socket, backend)
        tasks.spawn(connection._read)
        tasks.spawn(connection._watch)
        return connection

    @property
    def worn(self) -> bool:
        """Whether the server has warned so often that it will soon fall silent."""
        return self._multiplexer.warnings >= MAX_WARNINGS

    async def call(
        self, endpoint: str, parameter: object, asked: str, bound: Bound, result_type: Any
    ) -> Any:
        """Call an endpoint and wait for its result, of that type or undecoded."""
        call_id, call, frame = self._multiplexer.call(
            endpoint, parameter, asked, bound, result_type
        )
        self._set_alarm(call.deadline)
        try:
            await self._send(frame)
            return await call.wait()
        finally:
            self._multiplexer.forget_call(call_id)

    def channel(
        self, endpoint: str, parameter: object, asked: str, bound: Bound | None
    ) -> tuple[Channel, bytes]:
        """A new channel and the frame that opens it, which the caller passes to `send`."""
        channel, frame = self._multiplexer.channel(endpoint, parameter, asked, bound)
        self._set_alarm(channel.deadline)
        return channel, frame

    def forget_channel(self, channel: Channel) -> None:
        """The frame that opens this channel was not sent, and will not be."""
        self._multiplexer.forget_channel(channel)

    async def send(self, frame: bytes) -> None:
        """Send a frame of a channel."""
        await self._send(frame)

    async def send_packet(self, channel: Channel, packet: object) -> None:
        """Send a packet on a channel; nothing if the channel is over."""
        if not channel.ended:
            await self._send(messages.encode(messages.ChannelSend(channel.id, packet)))

    def retire(self) -> None:
        """Close as soon as nothing is waiting for an answer."""
        self._retired = True
        if self._multiplexer.idle:
            self._stop()

    async def aclose(self) -> None:
        """Close now. What is waiting for an answer fails."""
        self._stop()
        await self._ended.wait()

    async def _send(self, frame: bytes) -> None:
        if self.closed:
            raise self._lost()
        try:
            await self._socket.send(frame)
        except LMStudioWebsocketError:
            # The reader may take a moment to notice; whoever tries again must not meet this one.
            self.closed = True
            self._stop()
            raise

    def _stop(self) -> None:
        # On asyncio, anyio cancels a task only while it waits, and under a flood of frames there is
        # always one there already: hence the flag as well.
        self._stopping = self._retired = True
        self._reading.cancel()

    async def _read(self) -> None:
        error: LMStudioWebsocketError | None = None
        try:
            with self._reading:
                await self._socket.receive_all(self._take)
        except LMStudioWebsocketError as lost:
            error = lost
        except _Retired:
            pass
        finally:
            self.closed = True
            self._multiplexer.fail_all(error or self._lost())
            try:
                with anyio.CancelScope(shield=True):
                    await self._socket.aclose()
            finally:
                self._ended.set()
                self._alarm.set()

    def _take(self, frame: bytes) -> bytes | None:
        answer = self._multiplexer.receive(frame)
        if self._retired and (self._stopping or self._multiplexer.idle):
            raise _Retired
        return answer

    async def _watch(self) -> None:
        """Notice what does not come: answers, packets, any sign of life."""
        keep_alive = messages.encode(messages.KeepAlive())
        asked_at = self._clock()
        unanswered = 0
        frames: deque[bytes] = deque()
        while not self._ended.is_set():
            frames += self._multiplexer.expire()
            now = self._clock()
            if now >= asked_at + KEEP_ALIVE_INTERVAL:
                unanswered = unanswered + 1 if self._multiplexer.last_received < asked_at else 1
                # Counted rather than timed: if this process was held up, the server was not silent.
                if unanswered > KEEP_ALIVE_LIMIT:
                    _logger.warning("%s has given no sign of life", self.address)
                    self._stop()
                    return
                frames.append(keep_alive)
                asked_at = now
            with anyio.move_on_after(KEEP_ALIVE_INTERVAL):
                while frames:  # of which a full socket may leave some for later
                    try:
                        await self._send(frames.popleft())
                    except LMStudioWebsocketError:
                        return  # the reader has noticed, or will
            self._alarm_time = min(asked_at + KEEP_ALIVE_INTERVAL, self._multiplexer.next_deadline)
            with anyio.CancelScope(deadline=self._alarm_time):
                if not self._ended.is_set():
                    await self._alarm.wait()
            # What has arrived in the meantime comes first.
            await anyio.lowlevel.checkpoint()

    def _set_alarm(self, deadline: float) -> None:
        if deadline < self._alarm_time:
            self._alarm.set()

    def _lost(self) -> LMStudioWebsocketError:
        return LMStudioWebsocketError(
            f"the connection to LM Studio at {self.address} is closed; the next call reconnects"
        )


class _Retired(Exception):
    """The last answer that a retired connection waited for has come."""


async def _authenticate(
    socket: WebSocket, authentication: messages.Authentication, address: Address
) -> None:
    await socket.send(messages.encode(authentication))
    try:
        result = messages.authentication_result_decoder.decode(await socket.receive())
    except messages.DECODE_ERRORS as error:
        raise LMStudioWebsocketError(
            f"{address} does not speak LM Studio's protocol: {error}"
        ) from error
    if not result.success:
        raise LMStudioClientError(
            f"{address} refused this client: {result.error or 'no reason given'}; "
            "check api_token or LM_API_TOKEN"
        )
