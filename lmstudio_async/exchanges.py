"""The two kinds of exchange on a WebSocket, as seen by who waits for them."""

import math
from collections import deque
from collections.abc import Awaitable
from typing import Any

from msgspec import UNSET, Raw

from lmstudio_async.errors import LMStudioError, LMStudioRuntimeError
from lmstudio_async.timeouts import Bound
from lmstudio_async.transport import Wakeup

# What a stream may hold unread, in bytes: some 40,000 fragments, each of which takes its JSON and
# what Python needs to keep it, its envelope included.
HIGH_WATER_MARK = 16 * 1024 * 1024
_PACKET_OVERHEAD = 300


class Call:
    """One remote call. Once `done`, either `error` is set or `result` is the answer."""

    __slots__ = ("_wakeup", "asked", "bound", "deadline", "done", "endpoint", "error", "result")

    def __init__(self, endpoint: str, asked: str, bound: Bound, now: float, wakeup: Wakeup) -> None:
        self.endpoint = endpoint
        self.asked = asked
        self.bound = bound
        self.deadline = now + bound.seconds
        self.done = False
        self.result: Any = UNSET
        self.error: LMStudioError | None = None
        self._wakeup = wakeup

    async def wait(self) -> Any:
        """The answer, in its type or undecoded. Raises the error that the call ended in."""
        while not self.done:
            await self._wakeup.wait()
        if self.error is not None:
            raise self.error
        return self.result

    def finish(self, result: Any, error: LMStudioError | None = None) -> None:
        self.done, self.result, self.error = True, result, error
        self._wakeup.set()


class Channel:
    """One stream of packets. It is over once `ended`, in `error` where that is set.

    `bound` limits the time between two packets; without one, who reads sees to it.
    `packets` are those that nobody has read yet, of the `received`.
    """

    __slots__ = (
        "_added",
        "_wakeup",
        "asked",
        "bound",
        "discarding",
        "ended",
        "endpoint",
        "error",
        "heard",
        "id",
        "last",
        "packets",
        "received",
    )

    def __init__(
        self,
        channel_id: int,
        endpoint: str,
        asked: str,
        bound: Bound | None,
        now: float,
        wakeup: Wakeup,
    ) -> None:
        self.id = channel_id
        self.endpoint = endpoint
        self.asked = asked
        self.bound = bound
        self.heard = now
        self.received = 0
        self.last: Raw | None = None
        self.packets: deque[Raw] = deque()
        self._added = 0
        self.ended = False
        self.error: LMStudioError | None = None
        self.discarding = False
        self._wakeup = wakeup

    @property
    def deadline(self) -> float:
        return math.inf if self.bound is None else self.heard + self.bound.seconds

    async def receive(self) -> Raw | None:
        """The next packet, None at the end. Raises the error that the channel ended in."""
        while not (self.packets or self.ended):
            await self.arrival()
        if self.packets:
            return self.packets.popleft()
        if self.error is not None:
            raise self.error
        return None

    def arrival(self) -> Awaitable[None]:
        """Wait for the next packet, or the end. For a channel that has neither."""
        if self._wakeup.waiting:
            raise LMStudioRuntimeError(f"{self.asked}: another task is reading this stream")
        return self._wakeup.wait()

    def add(self, packet: Raw, now: float) -> bool:
        """Take in a packet. False if it is one too many."""
        self.heard = now
        self.received += 1
        if self.discarding:
            return True
        self._added += len(packet) + _PACKET_OVERHEAD
        if self._added > HIGH_WATER_MARK and not self._has_room(packet):
            return False
        self.last = packet
        self.packets.append(packet)
        self._wakeup.set()
        return True

    def _has_room(self, packet: Raw) -> bool:
        # Only now and then is it worth while to count what was read: `packets` is read directly.
        waiting = [*self.packets, packet][1:]  # what is read next may be of any size
        self._added = sum(map(len, waiting)) + len(waiting) * _PACKET_OVERHEAD
        return self._added <= HIGH_WATER_MARK

    def finish(self, error: LMStudioError | None = None) -> None:
        self.ended, self.error = True, error
        self._wakeup.set()

    def discard(self) -> None:
        """Nobody reads any more."""
        self.discarding = True
        self.packets.clear()
