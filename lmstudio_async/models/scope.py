"""What `.model()` and `.load_new_instance()` return."""

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from lmstudio_async.errors import LMStudioError, LMStudioRuntimeError
from lmstudio_async.models.lifecycle import Lease, raise_failures

H = TypeVar("H")


class ModelScope(Generic[H]):
    """A model to be had in one of two ways, once.

    `async with scope as model:` holds the model in memory for the block. On leaving it, also by an
    exception or a cancellation, the instance is unloaded if a scope of this client loaded it and
    no other scope of this client holds it. Leaving waits for that, shielded from cancellation, at
    most the client's `Timeouts.unload`; failures raise LMStudioUnloadError.

    `model = await scope` gives the handle and leaves the model in memory until `model.unload()`
    or its TTL.
    """

    def __init__(
        self,
        acquire: Callable[[], Awaitable[Lease]],
        make_handle: Callable[[Lease], H],
        asked: str,
    ) -> None:
        self._acquire = acquire
        self._make_handle = make_handle
        self._asked = asked
        self._used = False
        self._lease: Lease | None = None

    def __await__(self) -> Generator[Any, None, H]:
        return self._get().__await__()

    async def __aenter__(self) -> H:
        self._use()
        self._lease = await self._acquire()
        return self._make_handle(self._lease)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            await lease.release()
        except LMStudioError as error:
            raise_failures([error], exc)

    async def _get(self) -> H:
        self._use()
        lease = await self._acquire()
        lease.keep()
        return self._make_handle(lease)

    def _use(self) -> None:
        if self._used:
            raise LMStudioRuntimeError(
                f"{self._asked} was awaited or entered already; call it again for another scope"
            )
        self._used = True

    def __repr__(self) -> str:
        return f"<ModelScope {self._asked}>"
