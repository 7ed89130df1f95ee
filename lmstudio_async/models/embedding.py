"""Handles of embedding models."""

from collections.abc import Iterable
from typing import overload

from lmstudio_async.arguments import check_text, check_texts
from lmstudio_async.models.handle import ModelHandle
from lmstudio_async.models.kinds import EMBEDDING_KIND
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire.load_config import EmbeddingLoadModelConfig
from lmstudio_async.wire.loading import EmbeddingResult, EmbedParameter
from lmstudio_async.wire.model_info import EmbeddingModelInstanceInfo


class EmbeddingModel(ModelHandle[EmbeddingModelInstanceInfo, EmbeddingLoadModelConfig]):
    """A loaded embedding model."""

    _kind = EMBEDDING_KIND

    @overload
    async def embed(self, input: str, *, timeout: float | None = None) -> list[float]: ...  # type: ignore[overload-overlap]
    @overload
    async def embed(
        self, input: Iterable[str], *, timeout: float | None = None
    ) -> list[list[float]]: ...
    async def embed(
        self, input: str | Iterable[str], *, timeout: float | None = None
    ) -> list[float] | list[list[float]]:
        """The vector of a text, or those of several, in order."""
        if isinstance(input, str):
            return await self._embed(check_text("input", input), self._bound(timeout))
        texts = check_texts("input", input)
        return await self._for_each(self._embed, texts, self._bound(timeout))

    async def _embed(self, text: str, bound: Bound) -> list[float]:
        result: EmbeddingResult = await self._call(
            "embedString", EmbedParameter(self._specifier, text), EmbeddingResult, bound
        )
        return result.embedding
