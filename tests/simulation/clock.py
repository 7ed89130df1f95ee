"""Virtual time on either event loop: nothing ever waits, the clock jumps to the next timer."""

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, TypeVar
from unittest import mock

import anyio
import anyio._backends._asyncio as anyio_backend
import trio
import trio._core._run as trio_scheduler

T = TypeVar("T")
LoopName = Literal["asyncio", "trio"]

# Turns of the event loop without time passing, after which it is taken to run in circles.
_MOST_TURNS = 100_000


class HangError(Exception):
    """The program waits for something that cannot come, or runs in circles."""


class _Jumps:
    """The virtual time, and the guard against standing still."""

    def __init__(self) -> None:
        self.now = 0.0
        self._turns = 0
        self._most_turns: float = _MOST_TURNS

    def turn(self) -> None:
        self._turns += 1

    def check(self) -> None:
        if self._turns > self._most_turns:
            raise HangError(f"the event loop runs in circles at {self.now:.3f} s")

    def allow_clean_up(self) -> None:
        self._most_turns = math.inf

    def jump(self, time: float) -> None:
        if time == math.inf:
            raise HangError(f"at {self.now:.3f} s nothing is ready and no timer is left")
        self.now = max(self.now, time)
        self._turns = 0


class _NoWaiting(selectors.SelectSelector):
    """Where the event loop would wait for I/O or a timer, time passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = _Jumps()

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.clock.jump(math.inf if timeout is None else self.clock.now + timeout)
        else:
            self.clock.turn()
            self.clock.check()
        return []


class _Numbered:
    """Sets of these have the same order in each run; that of addresses in memory changes."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Task(_Numbered, asyncio.Task[Any]):
    pass


class _CancelScope(_Numbered, anyio_backend.CancelScope):
    def __new__(cls, **kwargs: Any) -> "_CancelScope":
        return object.__new__(cls)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop without I/O."""

    def __init__(self) -> None:
        self.waiting = _NoWaiting()
        super().__init__(self.waiting)
        self.set_task_factory(lambda loop, coroutine, **more: _Task(coroutine, loop=loop, **more))

    def time(self) -> float:
        return self.waiting.clock.now

    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that nobody has cancelled."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return [timer for timer in timers if not timer.cancelled()]


class VirtualTrioClock(trio.abc.Clock, trio.abc.Instrument):
    """trio's MockClock jumps as well, but with nothing to jump to it waits for ever."""

    def __init__(self) -> None:
        self._clock = _Jumps()
        self._idle = False

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self._clock.check()  # not below: trio would go on without the instrument
        return self._clock.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        # Asked when no task can run. What was scheduled from outside of tasks arrives as I/O, so
        # trio looks there first; if still no task can run, time passes.
        if self._idle:
            self._clock.jump(deadline)
        self._idle = not self._idle
        return 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._idle = False
        self._clock.turn()


# What an aborted run of trio leaves would complain if it were collected: coroutines that are in the
# middle of something.
_aborted: list[BaseException] = []


def run(loop: LoopName, function: Callable[[], Awaitable[T]], seed: int = 0) -> T:
    """Run a function to its end on a new event loop in virtual time.

    Raises HangError if it cannot come to its end.
    """
    if loop == "asyncio":

        async def main() -> T:
            return await function()

        _Numbered._numbers = itertools.count()
        virtual = VirtualTimeLoop()
        with (
            mock.patch.object(anyio_backend, "CancelScope", _CancelScope),
            asyncio.Runner(loop_factory=lambda: virtual) as runner,
        ):
            try:
                return runner.run(main())
            except HangError:
                virtual.waiting.clock.allow_clean_up()
                raise
    clock = VirtualTrioClock()
    trio_scheduler._r.seed(seed)
    try:
        with mock.patch.object(trio_scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
            return trio.run(function, clock=clock, instruments=[clock])
    except trio.TrioInternalError as error:
        if isinstance(error.__cause__, HangError):
            _aborted.append(error)
            raise error.__cause__ from None
        raise


class Timeline:
    """What the world outside of the client does, and when: the server and the network.

    A script is a generator of the seconds that pass between its steps.
    """

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._earlier = anyio.Event()

    def at(self, time: float, action: Callable[[], object]) -> None:
        event = (time, next(self._order), action)
        heapq.heappush(self._events, event)
        if self._events[0] is event:
            self._earlier.set()

    def after(self, delay: float, action: Callable[[], object]) -> None:
        self.at(anyio.current_time() + delay, action)

    def play(self, script: Iterator[float]) -> None:
        """Run a script up to its next pause, and so on after it."""
        delay = next(script, None)
        if delay is not None:
            self.after(delay, lambda: self.play(script))

    async def run(self) -> None:
        """Act it all out. Never ends."""
        while True:
            while self._events and self._events[0][0] <= anyio.current_time():
                heapq.heappop(self._events)[2]()
            self._earlier = anyio.Event()
            deadline = self._events[0][0] if self._events else math.inf
            with anyio.CancelScope(deadline=deadline):
                await self._earlier.wait()
