"""WebSockets in memory: they replace the transport's sockets, and nothing else of the client."""

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel

from lmstudio_async.errors import LMStudioWebsocketError
from lmstudio_async.transport import Backend, BackgroundTasks, Wakeup, WebSocket
from tests.simulation.faults import Calm, Fate, Sender
from tests.simulation.log import Log

if TYPE_CHECKING:
    from tests.simulation.clock import Timeline
    from tests.simulation.server import Server, Session

T = TypeVar("T")


class MemoryBackend:
    """The event loop's own backend, but for the sockets."""

    def __init__(self, loop: Backend, network: "Network") -> None:
        self._network = network
        self.clock: Callable[[], float] = loop.clock
        self.wakeup: Callable[[], Wakeup] = loop.wakeup
        self.loop_token: Callable[[], Hashable] = loop.loop_token
        self.background_tasks: Callable[..., BackgroundTasks] = loop.background_tasks
        self.at_loop_end: Callable[[Callable[[], Awaitable[None]]], object] = loop.at_loop_end
        self._loop = loop

    async def connect(self, url: str, server: str) -> WebSocket:
        return await self._network.connect(urlsplit(url).path.removeprefix("/"))

    async def run_shielded(self, function: Callable[[], Awaitable[T]]) -> T:
        return await self._loop.run_shielded(function)


class Network:
    def __init__(self, server: "Server", timeline: "Timeline", faults: Calm, log: Log) -> None:
        self.faults = faults
        self.log = log
        self.timeline = timeline
        self._server = server
        self._connected = 0
        self.open: list[MemorySocket] = []

    async def connect(self, namespace: str) -> WebSocket:
        await anyio.sleep(self.faults.latency())
        answer = self.faults.connection()
        if answer == "refused":
            self.log(f"/{namespace} refused")
            raise LMStudioWebsocketError("no connection: refused")
        self._connected += 1
        socket = MemorySocket(self, f"{namespace}#{self._connected}")
        socket.session = self._server.accept(socket, namespace)
        socket.silent = answer == "unanswered"
        self.open.append(socket)
        self.log(f"{socket.name} {answer}")
        return socket


class MemorySocket:
    """One connection, both ends of it.

    What the client sends arrives in order. Of what the server sends, only frames of one call or
    channel do: the server answers others in any order.
    """

    session: "Session"

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.silent = False
        self.broken = False
        self._network = network
        self._closed = False
        self._inbox: deque[tuple[bytes, Callable[[], object] | None]] = deque()
        self._arrived = anyio.Event()
        self._next_arrival: dict[Hashable, float] = {}

    async def send(self, frame: bytes) -> None:
        if self.broken:
            raise LMStudioWebsocketError(f"{self.name}: the connection was lost")
        self._pass("client", frame, lambda: self.session.received(frame), "client")
        # Whoever is cancelled here has sent it all the same, as with the real sockets.
        await anyio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        while not self._inbox:
            if self.broken or self._closed:
                raise LMStudioWebsocketError(f"{self.name}: the connection was lost")
            self._arrived = anyio.Event()
            await self._arrived.wait()
        frame, on_read = self._inbox.popleft()
        if on_read is not None:
            on_read()
        return frame

    async def receive_all(self, take: Callable[[bytes], bytes | None]) -> None:
        while True:
            answer = take(await self.receive())
            if answer is not None:
                await self.send(answer)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._network.open.remove(self)
        self._network.log(f"{self.name} closed by the client")
        last = self._next_arrival.get("client", 0.0)
        self._network.timeline.at(max(last, anyio.current_time()), self.session.lost)
        await anyio.sleep(1.0 if self.silent else self._network.faults.latency())

    def deliver(
        self, frame: bytes, order: Hashable, on_read: Callable[[], object] | None = None
    ) -> None:
        """Send a frame from the server. `on_read` is called when the client takes it in."""

        def arrive() -> None:
            self._inbox.append((frame, on_read))
            self._arrived.set()

        self._pass("server", frame, arrive, order)

    def cut(self) -> None:
        """Both ends learn that the connection is lost."""
        if not self.broken and not self._closed:
            self._network.log(f"{self.name} cut")
            self.broken = True
            self._arrived.set()
            self.session.lost()

    def _pass(
        self, sender: Sender, frame: bytes, arrive: Callable[[], object], order: Hashable
    ) -> None:
        fate = self._network.faults.frame(sender)

        def arrival() -> None:
            if self.broken or self.silent or (self._closed and sender == "server"):
                return
            direction = "▶" if sender == "client" else "◀"
            omen = "" if fate is Fate.ARRIVES else f" {fate.name}"
            self._network.log(f"{self.name} {direction}{omen}", frame)
            if fate is Fate.SILENCE:
                self.silent = True
            elif fate is Fate.CUT_BEFORE:
                self.cut()
            else:
                arrive()
                if fate is Fate.ARRIVES_TWICE:
                    arrive()
                elif fate is Fate.CUT_AFTER:
                    self.cut()

        time = anyio.current_time() + self._network.faults.latency()
        time = max(time, self._next_arrival.get(order, 0.0))
        self._next_arrival[order] = time
        self._network.timeline.at(time, arrival)
