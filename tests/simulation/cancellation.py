"""Cancelling a piece of a program at a chosen await."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Literal

import anyio


@types.coroutine
def _counted(
    coroutine: Coroutine[Any, Any, None], on_suspension: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Run a coroutine, and have a function called before each suspension."""
    step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    while True:
        try:
            awaited = step()
        except StopIteration:
            return
        on_suspension()
        try:
            value = yield awaited
        except BaseException as error:  # noqa: BLE001 - thrown into the coroutine instead
            step = lambda error=error: coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            step = lambda value=value: coroutine.send(value)  # type: ignore[misc]  # noqa: E731


class CancelAt:
    """Cancels what it runs at the n-th await, counted from 1; never if it has fewer.

    "scope" is a cancel scope, as structured concurrency has them. "task" is asyncio's
    `task.cancel()`, as `asyncio.timeout` and web frameworks use it: it strikes but once.
    """

    def __init__(self, number: int, how: Literal["scope", "task"] = "scope") -> None:
        self.awaits = 0
        self.struck = False
        self._number = number
        self._how = how

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it. Returns when it has ended, cancelled or not."""
        if self._how == "scope":
            with anyio.CancelScope() as scope:
                await self._watch(function, scope.cancel)
            return
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._watch(function, task.cancel)
        except asyncio.CancelledError:
            if not self.struck:
                raise
        finally:
            if self.struck:
                task.uncancel()

    def _watch(
        self, function: Callable[[], Coroutine[Any, Any, None]], cancel: Callable[[], object]
    ) -> Awaitable[None]:
        def suspended() -> None:
            self.awaits += 1
            if self.awaits == self._number:
                self.struck = True
                cancel()

        return _counted(function(), suspended)


async def time_out(
    seconds: float, function: Callable[[], Coroutine[Any, Any, None]], *, native: bool
) -> bool:
    """Run it for so long at most. Whether it was cut short."""
    if not native:
        with anyio.move_on_after(seconds) as scope:
            await function()
        return scope.cancelled_caught
    try:
        async with asyncio.timeout(seconds):
            await function()
    except TimeoutError as error:
        # The SDK's own time-outs are handled inside.
        if type(error) is not TimeoutError:
            raise
        return True
    return False
