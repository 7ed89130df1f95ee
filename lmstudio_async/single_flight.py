"""What several tasks want done at the same time is done by one of them."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from copy import copy

from anyio import Event

from lmstudio_async.errors import LMStudioError


class SingleFlight:
    """Who works at what. Each work is named by a key.

    Whoever wants it done first calls `wait`, and if nobody is at it, does it in `lead`, without
    awaiting in between.
    """

    def __init__(self) -> None:
        self._attempts: dict[Hashable, _Attempt] = {}

    async def wait(self, key: Hashable) -> bool:
        """Wait for the task that is at it. False, at once, if none is. Raises what it failed in."""
        attempt = self._attempts.get(key)
        if attempt is None:
            return False
        await attempt.ended.wait()
        if attempt.error is not None:
            raise copy(attempt.error) from attempt.error.__cause__
        return True

    @contextmanager
    def lead(self, key: Hashable) -> Iterator[None]:
        """Do it on behalf of everybody who waits."""
        attempt = self._attempts[key] = _Attempt()
        try:
            yield
        except LMStudioError as error:
            attempt.error = error
            raise
        finally:
            # If this task was cancelled, there is no error: one of the others leads next.
            del self._attempts[key]
            attempt.ended.set()


class _Attempt:
    def __init__(self) -> None:
        self.ended = Event()
        self.error: LMStudioError | None = None
