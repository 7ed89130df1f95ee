"""What handles of every kind of model can do."""

from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar, overload

import anyio

from lmstudio_async.arguments import check_text, check_texts
from lmstudio_async.errors import LMStudioModelNotFoundError, LMStudioModelUnloadedError
from lmstudio_async.models.kinds import Kind
from lmstudio_async.models.lifecycle import Lifecycle
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire.config_input import Config
from lmstudio_async.wire.kv_config import KvConfig
from lmstudio_async.wire.loading import (
    CountTokensResult,
    FindParameter,
    ProcessingState,
    SpecifierParameter,
    TextParameter,
    TokenizeResult,
)
from lmstudio_async.wire.model_info import (
    EmbeddingModelInstanceInfo,
    InstanceSpecifier,
    LlmInstanceInfo,
)

I = TypeVar("I", LlmInstanceInfo, EmbeddingModelInstanceInfo)  # noqa: E741
C = TypeVar("C", bound=Config)

# Requests in flight for one list of texts; enough to keep the server's engine busy, which may work
# on several at once while others are on their way.
_CONCURRENCY = 16


class ModelHandle(Generic[I, C]):
    """One loaded instance.

    The handle names exactly this load: when the instance is gone, methods raise
    LMStudioModelUnloadedError, even if the same model has been loaded again since. It survives a
    reconnection. `info` describes the instance as of when the handle was made.

    timeout: of every method that waits for the server: seconds in place of what the client's
        `Timeouts` say, for each text where there are several; math.inf for no bound, but not for
        `unload`. Beyond it, LMStudioTimeoutError is raised.
    """

    _kind: ClassVar[Kind]

    def __init__(self, lifecycle: Lifecycle, info: I) -> None:
        self._lifecycle = lifecycle
        self._pool = lifecycle.pool
        self._specifier = InstanceSpecifier(info.instance_reference)
        self.info: I = info

    @property
    def identifier(self) -> str:
        """The instance's identifier, unique among what is loaded on the server."""
        return self.info.identifier

    @property
    def instance_reference(self) -> str:
        """The server's opaque name for exactly this load."""
        return self.info.instance_reference

    async def unload(self, *, timeout: float | None = None) -> None:
        """Take the instance out of memory. Does nothing if it is gone already.

        A scope that holds the instance has nothing left to do on exit then.
        """
        bound = self._pool.timeouts.bound("unload", timeout)
        await self._lifecycle.unload_by_handle(self._kind, self.info, bound)

    async def get_info(self, *, timeout: float | None = None) -> I:
        """Ask the server for the instance's current description."""
        info: I = await self._call(
            "getModelInfo",
            FindParameter(self._specifier, throw_if_not_found=True),
            self._kind.instance_info,
            self._bound(timeout),
        )
        return info

    async def get_load_config(self, *, timeout: float | None = None) -> C:
        """The settings that the instance was loaded with."""
        kv: KvConfig = await self._call(
            "getLoadConfig", SpecifierParameter(self._specifier), KvConfig, self._bound(timeout)
        )
        config: C = self._kind.config_from_kv(kv, self.info.format)
        return config

    async def get_context_length(self, *, timeout: float | None = None) -> int:
        """The length of the instance's context, in tokens."""
        return (await self.get_info(timeout=timeout)).context_length

    async def get_processing_state(self, *, timeout: float | None = None) -> ProcessingState:
        """What the instance is doing, and how many requests wait for it."""
        state: ProcessingState = await self._call(
            "getInstanceProcessingState",
            FindParameter(self._specifier, throw_if_not_found=True),
            ProcessingState,
            self._bound(timeout),
        )
        return state

    @overload
    async def tokenize(self, input: str, *, timeout: float | None = None) -> list[int]: ...  # type: ignore[overload-overlap]
    @overload
    async def tokenize(
        self, input: Iterable[str], *, timeout: float | None = None
    ) -> list[list[int]]: ...
    async def tokenize(
        self, input: str | Iterable[str], *, timeout: float | None = None
    ) -> list[int] | list[list[int]]:
        """The tokens of a text, or of each of several, by the model's own vocabulary."""
        if isinstance(input, str):
            return await self._tokenize(check_text("input", input), self._bound(timeout))
        texts = check_texts("input", input)
        return await self._for_each(self._tokenize, texts, self._bound(timeout))

    async def count_tokens(self, input: str, *, timeout: float | None = None) -> int:
        """How many tokens a text has."""
        parameter = TextParameter(self._specifier, check_text("input", input))
        result: CountTokensResult = await self._call(
            "countTokens", parameter, CountTokensResult, self._bound(timeout)
        )
        return result.token_count

    async def _tokenize(self, text: str, bound: Bound) -> list[int]:
        result: TokenizeResult = await self._call(
            "tokenize", TextParameter(self._specifier, text), TokenizeResult, bound
        )
        return result.tokens

    async def _call(self, endpoint: str, parameter: object, result_type: Any, bound: Bound) -> Any:
        namespace = self._kind.namespace
        asked = f"{namespace}.{endpoint} on {self.identifier!r}"
        try:
            return await self._pool.call(
                namespace, endpoint, parameter, result_type, asked=asked, bound=bound
            )
        except LMStudioModelNotFoundError as error:
            raise LMStudioModelUnloadedError(
                f"{error}; the instance {self.identifier!r} of this handle is gone",
                error.server_error,
            ) from None

    def _bound(self, timeout: float | None) -> Bound:
        return self._pool.timeouts.bound("call", timeout)

    async def _for_each(self, call: Any, texts: list[str], bound: Bound) -> list[Any]:
        """Results in order; several requests in flight, the first failure cancels the others."""
        results: list[Any] = [None] * len(texts)
        todo = iter(enumerate(texts))
        failures: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def work() -> None:
                try:
                    for index, text in todo:
                        results[index] = await call(text, bound)
                except Exception as error:  # noqa: BLE001 - raised below, outside the group
                    failures.append(error)
                    group.cancel_scope.cancel()

            for _ in range(min(_CONCURRENCY, len(texts))):
                group.start_soon(work)
        if failures:
            raise failures[0]
        return results

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.identifier!r} on {self._pool.server}>"
