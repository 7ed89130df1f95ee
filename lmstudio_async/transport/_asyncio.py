"""asyncio and uvloop: aiohttp's WebSocket client."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from typing import TypeVar

import aiohttp
import anyio
from aiohttp import WSMsgType

from lmstudio_async.errors import LMStudioRuntimeError, LMStudioWebsocketError
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


class AsyncioBackend:
    def __init__(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise LMStudioRuntimeError(
                "lmstudio_async needs a running event loop: call it from async code on asyncio "
                "or trio"
            ) from None

        self.clock = self._loop.time

    def loop_token(self) -> Hashable:
        return self._loop

    def wakeup(self) -> Wakeup:
        return _Wakeup(self._loop)

    def background_tasks(self, *, outlive_main: bool = False) -> BackgroundTasks:
        return _Tasks(self._loop)

    async def connect(self, url: str, server: str) -> WebSocket:
        # Without aiohttp's own bounds: how long this may take is the caller's to say.
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout())
        try:
            socket = await session.ws_connect(
                url,
                max_msg_size=MAX_FRAME_BYTES,
                decode_text=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
            )
        except BaseException as error:
            # anyio cancels again at every await, this one too, and the socket would stay open.
            with anyio.CancelScope(shield=True):
                await session.close()
            if isinstance(error, aiohttp.ClientError | OSError):
                raise LMStudioWebsocketError(
                    f"no connection to LM Studio at {server}: {error}"
                ) from error
            raise
        return _AiohttpWebSocket(session, socket, server)

    async def run_shielded(self, function: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await function()

        task = self._loop.create_task(run())
        cancelled: asyncio.CancelledError | None = None
        # anyio's shield holds off its own cancel scopes, but not task.cancel(), which time-outs
        # and asyncio.run() use: that arrives here as an exception and is passed on later.
        with anyio.CancelScope(shield=True):
            while not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            if not task.cancelled() and (error_below := task.exception()) is not None:
                _logger.error("failed while being cancelled", exc_info=error_below)
            raise cancelled
        return task.result()

    def at_loop_end(self, function: Callable[[], Awaitable[None]]) -> object:
        # The loop finalizes async generators after it has cancelled all tasks, so the tasks can
        # still use what `function` will close. It learns of a generator at its first step, which
        # this one makes without suspending.
        generator = _until_finalized(function)
        with contextlib.suppress(StopIteration):
            anext(generator).__await__().__next__()
        return generator


class _Wakeup:
    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        return self._future is not None and not self._future.done()

    def wait(self) -> Awaitable[None]:
        self._future = self._loop.create_future()
        return self._future

    def set(self) -> None:
        future = self._future
        if future is not None:
            self._future = None
            if not future.done():
                future.set_result(None)


async def _until_finalized(function: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await function()


class _Tasks:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._crashes: list[BaseException] = []

    def spawn(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        started = False

        async def run() -> None:
            nonlocal started
            started = True
            await function(*args)

        def ended(task: asyncio.Task[None]) -> None:
            self._ended(task)
            if not started:
                # asyncio.run() cancelled it before its first step, and with it its clean-up.
                self.spawn(function, *args)

        task = self._loop.create_task(run(), name=function.__qualname__)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def spawn_soon(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.spawn, function, *args)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("background task %s crashed", task.get_name(), exc_info=error)
            self._crashes.append(error)

    async def aclose(self) -> None:
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self._crashes:
            raise BaseExceptionGroup("background tasks crashed", self._crashes)


class _AiohttpWebSocket:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        socket: "aiohttp.ClientWebSocketResponse[bool]",
        server: str,
    ) -> None:
        self._session = session
        self._socket = socket
        self._server = server
        self._transport_socket = socket.get_extra_info("socket")
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send(self, frame: bytes) -> None:
        # The frame is written before the first suspension, which waits for room in the socket.
        # There, aiohttp has all senders wait for one future: cancelling one of them would cancel
        # the others, and whoever comes next.
        sending = self._socket.send_frame(frame, WSMsgType.TEXT)
        try:
            room = sending.send(None)
        except StopIteration:
            return
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error) from error
        sending.close()
        room._asyncio_future_blocking = False  # taken note of, as a task does
        room.add_done_callback(lambda room: room.exception())
        await asyncio.wait(
            [room, self._closed], timeout=SEND_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if not room.done() and self._closed.done():
            raise self._lost("it was closed, with data that the peer had not taken")
        if not room.done():
            raise self._lost(f"it took no data for {SEND_TIMEOUT:g} s")
        if (failure := room.exception()) is not None:
            raise self._lost(failure) from failure

    async def receive(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                data: bytes = message.data
                return data
            self._receive_other(message.type)

    async def receive_all(self, take: Callable[[bytes], bytes | None]) -> None:
        receive, text = self._socket.receive, WSMsgType.TEXT
        while True:
            message = await receive()
            if message.type is text:
                if (answer := take(message.data)) is not None:
                    await self.send(answer)
            else:
                self._receive_other(message.type)

    def _receive_other(self, message_type: WSMsgType) -> None:
        if message_type is not WSMsgType.BINARY:
            raise self._lost(f"close code {self._socket.close_code}")
        _logger.warning("skipped a binary frame from %s", self._server)

    async def aclose(self) -> None:
        try:
            # aiohttp bounds the wait for the peer's goodbye, but not that for room for ours.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * CLOSE_TIMEOUT):
                    await self._socket.close()
        finally:
            await self._session.close()
            self._drop_unsent()
            if not self._closed.done():
                self._closed.set_result(None)

    def _drop_unsent(self) -> None:
        # A transport with data that its peer does not take would stay open for many minutes.
        if (number := self._transport_socket.fileno()) != -1:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                connection.shutdown(socket.SHUT_RDWR)

    def _lost(self, reason: object) -> LMStudioWebsocketError:
        return LMStudioWebsocketError(
            f"the connection to LM Studio at {self._server} was lost: {reason}"
        )
