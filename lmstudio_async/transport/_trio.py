"""trio: `websockets`' Sans-I/O protocol over a trio stream."""

import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

import trio
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from lmstudio_async.errors import LMStudioWebsocketError
from lmstudio_async.transport.base import (
    CLOSE_TIMEOUT,
    MAX_FRAME_BYTES,
    SEND_TIMEOUT,
    BackgroundTasks,
    Wakeup,
    WebSocket,
)

T = TypeVar("T")

_logger = logging.getLogger("lmstudio_async")

# The protocol logs every frame at DEBUG, and the first one holds the API token.
_NO_FRAMES = logging.Logger("lmstudio_async.websockets", logging.WARNING)


class TrioBackend:
    clock = staticmethod(trio.current_time)

    def loop_token(self) -> Hashable:
        return trio.lowlevel.current_trio_token()

    def wakeup(self) -> Wakeup:
        return _Wakeup()

    def background_tasks(self, *, outlive_main: bool = False) -> BackgroundTasks:
        return _Tasks(trio.lowlevel.current_trio_token(), outlive_main)

    async def connect(self, url: str, server: str) -> WebSocket:
        uri = parse_uri(url)
        try:
            stream: trio.abc.Stream = await trio.open_tcp_stream(uri.host, uri.port)
        except OSError as error:
            raise LMStudioWebsocketError(
                f"no connection to LM Studio at {server}: {error}"
            ) from error
        if uri.secure:
            stream = trio.SSLStream(
                stream,
                ssl.create_default_context(),
                server_hostname=uri.host,
                https_compatible=True,
            )
        protocol = ClientProtocol(uri, max_size=MAX_FRAME_BYTES, logger=_NO_FRAMES)
        socket = _TrioWebSocket(stream, protocol, server)
        try:
            await socket.handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return socket

    async def run_shielded(self, function: Callable[[], Awaitable[T]]) -> T:
        with trio.CancelScope(shield=True):
            result = await function()
        return result

    def at_loop_end(self, function: Callable[[], Awaitable[None]]) -> object:
        async def wait_for_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                # System tasks are cancelled once the main task has ended.
                with trio.CancelScope(shield=True):
                    await function()

        return trio.lowlevel.spawn_system_task(wait_for_end)


class _Wakeup:
    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    @property
    def waiting(self) -> bool:
        return self._task is not None

    async def wait(self) -> None:
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def set(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class _Tasks:
    # System tasks rather than a nursery: a nursery's cancel scope would span the user's block,
    # wrap the user's exceptions in groups, and end these tasks before the clean-up that needs them.
    def __init__(self, token: trio.lowlevel.TrioToken, outlive_main: bool) -> None:
        self._token = token
        self._outlive_main = outlive_main
        self._tasks: dict[trio.CancelScope, trio.Event] = {}
        self._crashes: list[Exception] = []

    def spawn(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        scope, ended = trio.CancelScope(shield=self._outlive_main), trio.Event()

        async def run() -> None:
            try:
                with scope:
                    await function(*args)
            except Exception as error:
                _logger.error("background task %s crashed", function.__qualname__, exc_info=error)
                self._crashes.append(error)
            finally:
                del self._tasks[scope]
                ended.set()

        self._tasks[scope] = ended
        trio.lowlevel.spawn_system_task(run, name=function.__qualname__)

    def spawn_soon(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.spawn, function, *args)

    async def aclose(self) -> None:
        while self._tasks:
            for scope, ended in list(self._tasks.items()):
                scope.cancel()
                await ended.wait()
        if self._crashes:
            raise ExceptionGroup("background tasks crashed", self._crashes)


class _TrioWebSocket:
    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol, server: str) -> None:
        self._stream = stream
        self._protocol = protocol
        self._server = server
        self._sending = trio.Lock()
        self._frames: deque[bytes] = deque()
        self._fragments: list[bytes] = []

    async def handshake(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            await self._read_some()
        if self._protocol.handshake_exc is not None:
            raise LMStudioWebsocketError(
                f"no connection to LM Studio at {self._server}: {self._protocol.handshake_exc}"
            ) from self._protocol.handshake_exc

    async def send(self, frame: bytes) -> None:
        try:
            self._protocol.send_text(frame)
        except WebSocketException as error:
            raise self._lost(error) from error
        await self._flush()

    async def receive(self) -> bytes:
        while not self._frames:
            if self._protocol.state is not State.OPEN:
                # The protocol's own close_code waits for the end of the TCP connection.
                close = self._protocol.close_rcvd or self._protocol.close_sent
                raise self._lost(f"close code {close.code if close else None}")
            await self._read_some()
        return self._frames.popleft()

    async def receive_all(self, take: Callable[[bytes], bytes | None]) -> None:
        while True:
            frame = await self.receive()
            while True:
                if (answer := take(frame)) is not None:
                    await self.send(answer)
                if not self._frames:
                    break
                frame = self._frames.popleft()

    async def aclose(self) -> None:
        with (
            trio.move_on_after(CLOSE_TIMEOUT, shield=True),
            contextlib.suppress(LMStudioWebsocketError, WebSocketException),
        ):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                await self._flush()
            while self._protocol.state is not State.CLOSED:
                await self._read_some()
        await trio.aclose_forcefully(self._stream)

    async def _read_some(self) -> None:
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._protocol.receive_eof()
            raise self._lost(error) from error
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event)
        # Answers to pings and to the peer's close. Whoever is sending sends them, too: to wait for
        # that here would be to read nothing as long as the peer takes nothing.
        if not self._sending.locked():
            await self._flush()

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT and frame.fin:
            self._frames.append(bytes(frame.data))
        elif frame.opcode is Opcode.TEXT or (frame.opcode is Opcode.CONT and self._fragments):
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                self._frames.append(b"".join(self._fragments))
                self._fragments.clear()
        elif frame.opcode is Opcode.BINARY:
            _logger.warning("skipped a binary frame from %s", self._server)

    async def _flush(self) -> None:
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            while data := b"".join(self._protocol.data_to_send()):
                await self._send_all(data)
        finally:
            self._sending.release()

    async def _send_all(self, data: bytes) -> None:
        # A frame half sent would garble the stream.
        with trio.move_on_after(SEND_TIMEOUT, shield=True) as bound:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._lost(error) from error
        if bound.cancelled_caught:
            await trio.aclose_forcefully(self._stream)
            raise self._lost(f"it took no data for {SEND_TIMEOUT:g} s")

    def _lost(self, reason: object) -> LMStudioWebsocketError:
        return LMStudioWebsocketError(
            f"the connection to LM Studio at {self._server} was lost: {reason}"
        )
