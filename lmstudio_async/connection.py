"""One authenticated WebSocket: sends and receives what the multiplexer says."""

import logging

import anyio
from anyio import Event
from msgspec import Raw, UnsetType

from lmstudio_async.errors import (
    LMStudioClientError,
    LMStudioTimeoutError,
    LMStudioWebsocketError,
)
from lmstudio_async.multiplexer import MAX_WARNINGS, Channel, Multiplexer
from lmstudio_async.transport import Backend, BackgroundTasks, WebSocket
from lmstudio_async.transport.address import Address
from lmstudio_async.wire import messages

_logger = logging.getLogger("lmstudio_async")

# Seconds for connecting and authenticating together.
CONNECT_TIMEOUT = 10.0

# LM Studio's own clients ask every 5 s and give up after 15 s of silence.
KEEP_ALIVE_INTERVAL = 5.0
KEEP_ALIVE_TIMEOUT = 15.0


class Connection:
    """A connection to one namespace. Once `closed`, it stays so: the pool opens another."""

    def __init__(self, namespace: str, address: Address, socket: WebSocket) -> None:
        self.namespace = namespace
        self.address = address
        self.closed = False
        self._socket = socket
        self._multiplexer = Multiplexer(namespace, str(address))
        self._retired = False
        self._ended = Event()
        self._last_received = anyio.current_time()
        self._reading = anyio.CancelScope()
        self._stopping = False

    @classmethod
    async def open(
        cls,
        namespace: str,
        address: Address,
        authentication: messages.Authentication,
        backend: Backend,
        tasks: BackgroundTasks,
    ) -> "Connection":
        """Connect and authenticate.

        Raises LMStudioWebsocketError if nobody answers, LMStudioTimeoutError if somebody takes
        too long, LMStudioClientError if the server does not let us in.
        """
        socket = None
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                socket = await backend.connect(address.url(namespace), str(address))
                await socket.send(messages.encode(authentication))
                answer = await socket.receive()
            result = messages.authentication_result_decoder.decode(answer)
            if not result.success:
                raise LMStudioClientError(
                    f"{address} refused this client: {result.error or 'no reason given'}; "
                    "check api_token or LM_API_TOKEN"
                )
        except BaseException as error:
            if socket is not None:
                await backend.run_shielded(socket.aclose)
            if isinstance(error, TimeoutError):
                raise LMStudioTimeoutError(
                    f"connecting to {address} took more than {CONNECT_TIMEOUT:g} s; "
                    "is LM Studio busy, or is something else listening there?"
                ) from error
            if isinstance(error, messages.DECODE_ERRORS):
                raise LMStudioWebsocketError(
                    f"{address} does not speak LM Studio's protocol: {error}"
                ) from error
            raise
        connection = cls(namespace, address, socket)
        tasks.spawn(connection._read)
        tasks.spawn(connection._keep_alive)
        return connection

    @property
    def worn(self) -> bool:
        """Whether the server has warned so often that it will soon fall silent."""
        return self._multiplexer.warnings >= MAX_WARNINGS

    async def call(self, endpoint: str, parameter: object, asked: str) -> Raw | UnsetType:
        """Call an endpoint and wait for its undecoded result."""
        call_id, call, frame = self._multiplexer.call(endpoint, parameter, asked)
        try:
            await self._send(frame)
            await call.done.wait()
        except BaseException:
            self._multiplexer.forget_call(call_id)
            raise
        if call.error is not None:
            raise call.error
        return call.result

    def channel(self, endpoint: str, parameter: object, asked: str) -> tuple[Channel, bytes]:
        """A new channel and the frame that opens it, which the caller passes to `send`."""
        return self._multiplexer.channel(endpoint, parameter, asked)

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
        self._stopping = True
        self._reading.cancel()

    async def _read(self) -> None:
        error: LMStudioWebsocketError | None = None
        try:
            with self._reading:
                while not (self._stopping or (self._retired and self._multiplexer.idle)):
                    frame = await self._socket.receive()
                    self._last_received = anyio.current_time()
                    if (answer := self._multiplexer.receive(frame)) is not None:
                        await self._socket.send(answer)
        except LMStudioWebsocketError as lost:
            error = lost
        finally:
            self.closed = True
            self._multiplexer.fail_all(error or self._lost())
            try:
                with anyio.CancelScope(shield=True):
                    await self._socket.aclose()
            finally:
                self._ended.set()

    async def _keep_alive(self) -> None:
        frame = messages.encode(messages.KeepAlive())
        while True:
            with anyio.move_on_after(KEEP_ALIVE_INTERVAL):
                await self._ended.wait()
                return
            silence = anyio.current_time() - self._last_received
            if silence > KEEP_ALIVE_TIMEOUT:
                _logger.warning("%s has been silent for %.0f s", self.address, silence)
                self._stop()
                return
            try:
                await self._send(frame)
            except LMStudioWebsocketError:
                return  # the reader has noticed, or will

    def _lost(self) -> LMStudioWebsocketError:
        return LMStudioWebsocketError(
            f"the connection to LM Studio at {self.address} is closed; the next call reconnects"
        )
