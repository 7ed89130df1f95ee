"""The interface that each event loop fulfils."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Protocol, TypeVar

T = TypeVar("T")

# Larger frames are not taken. A million tokens are 8 MB of JSON.
MAX_FRAME_BYTES = 64 * 1024 * 1024

# How long to wait for the server's half of the closing handshake, in seconds.
CLOSE_TIMEOUT = 1.0

# A peer that makes no room for a frame for this many seconds is taken for dead.
SEND_TIMEOUT = 30.0


class WebSocket(Protocol):
    """One connected WebSocket that carries text frames."""

    async def send(self, frame: bytes) -> None:
        """Send a text frame, whole or not at all. Raises LMStudioWebsocketError."""

    async def receive(self) -> bytes:
        """The next text frame. Raises LMStudioWebsocketError when no more will come."""

    async def receive_all(self, take: Callable[[bytes], bytes | None]) -> None:
        """Hand each text frame to `take`, and send what it returns, if anything.

        Raises LMStudioWebsocketError when no more will come, and what `take` raises.
        """

    async def aclose(self) -> None:
        """Close the socket. Never raises for a connection that is broken already."""


class Wakeup(Protocol):
    """Wakes the one task that waits for it; nothing is remembered if none does.

    For a wait that happens once for each token of a stream: an event costs three times as much.
    """

    @property
    def waiting(self) -> bool:
        """Whether a task waits."""

    def wait(self) -> Awaitable[None]:
        """Wait for `set`. Awaited at once, or not at all."""

    def set(self) -> None:
        """Wake the task that waits."""


class BackgroundTasks(Protocol):
    """Tasks that belong to one client rather than to the task that started them.

    They are no children of the caller: no cancel scope spans the time between opening and closing
    a client, so on asyncio these may happen in different tasks. `aclose` awaits every one.
    """

    def spawn(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start a task now. After `aclose` has begun, still possible until it is done."""

    def spawn_soon(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start a task from anywhere: another thread, a finalizer. Nothing if the loop is over."""

    async def aclose(self) -> None:
        """Cancel the tasks and wait until they have ended. Raises what a task died of."""


class Backend(Protocol):
    """An event loop."""

    def loop_token(self) -> Hashable:
        """An object that stands for the running event loop, and can be weakly referenced."""

    def clock(self) -> float:
        """The event loop's time, in seconds."""

    def wakeup(self) -> Wakeup:
        """A new wake-up call."""

    def background_tasks(self, *, outlive_main: bool = False) -> BackgroundTasks:
        """An owner for tasks, empty as yet.

        outlive_main: trio must not cancel the tasks when its main task ends, since what was left to
            `at_loop_end` needs them, and will close them.
        """

    async def connect(self, url: str, server: str) -> WebSocket:
        """Open a WebSocket. Raises LMStudioWebsocketError, naming `server`."""

    async def run_shielded(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run to the end even if the calling task is cancelled; the cancellation comes after."""

    def at_loop_end(self, function: Callable[[], Awaitable[None]]) -> object:
        """Have `function` run when the event loop ends. Keep the returned object until then."""
