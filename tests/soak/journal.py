"""What happened in a soak: calls by outcome, faults by kind, and what must not have happened."""

import asyncio
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lmstudio_async as lms

# Arguments are right here, and calls in order: errors that say otherwise are bugs.
_NEVER = (lms.LMStudioValueError, lms.LMStudioTypeError, lms.LMStudioRuntimeError)


@dataclass
class Journal:
    """`calls` counts by name and outcome. `hangs` holds what took longer than anything can take."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    _started: dict[asyncio.Task[Any], float] = field(default_factory=dict)

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """One call: it ends in a result, a typed error, or a cancellation that was injected."""
        outcome = "result"
        try:
            yield
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            outcome = type(error).__name__
            if isinstance(error, lms.LMStudioTimeoutError):  # the client has noticed it itself
                self.hangs.append("".join(traceback.format_exception(error)))
            elif isinstance(error, _NEVER) or not isinstance(error, lms.LMStudioError):
                self.bugs.append("".join(traceback.format_exception(error)))
            raise
        finally:
            self.calls[name, outcome] += 1

    @contextmanager
    def program(self) -> Iterator[None]:
        """Some calls in a row by one task."""
        task = asyncio.current_task()
        assert task is not None
        self._started[task] = time.monotonic()
        try:
            yield
        finally:
            del self._started[task]

    def look_for_hangs(self, bound: float) -> None:
        """Note the tasks whose program has taken longer than `bound` seconds."""
        now = time.monotonic()
        self.hangs += [where(task) for task, began in self._started.items() if now - began > bound]

    @contextmanager
    def taking_logged_errors(self) -> Iterator[None]:
        """What the client and the event loop log as errors is a bug, too."""
        handler = _ErrorHandler(self.bugs)
        loggers = [logging.getLogger(name) for name in ("lmstudio_async", "asyncio")]
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)


class _ErrorHandler(logging.Handler):
    def __init__(self, bugs: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._bugs = bugs

    def emit(self, record: logging.LogRecord) -> None:
        self._bugs.append(self.format(record))


def where(task: asyncio.Task[Any]) -> str:
    """Where a task waits, from its outermost coroutine to the innermost."""
    lines = [task.get_name()]
    waiting: Any = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        waiting = waiting.cr_await
    return "\n".join(lines)
