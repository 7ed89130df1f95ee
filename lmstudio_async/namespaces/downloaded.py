"""Models on disk, as `list_downloaded` returns them."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw

from lmstudio_async.models.embedding import EmbeddingModel
from lmstudio_async.models.handle import ModelHandle
from lmstudio_async.models.llm import LLM
from lmstudio_async.models.scope import ModelScope
from lmstudio_async.namespaces.model_namespace import DEFAULT_TTL, ModelNamespace
from lmstudio_async.pool import Pool
from lmstudio_async.wire.config_input import Config
from lmstudio_async.wire.load_config import EmbeddingLoadModelConfig, LlmLoadModelConfig
from lmstudio_async.wire.model_info import AnyModelInfo, EmbeddingModelInfo, LlmInfo

_logger = logging.getLogger("lmstudio_async")

I = TypeVar("I", LlmInfo, EmbeddingModelInfo)  # noqa: E741
H = TypeVar("H", bound=ModelHandle[Any, Any])
C = TypeVar("C", bound=Config)


class DownloadedModel(Generic[I, H, C]):
    """A model on disk. `info` describes it."""

    def __init__(self, info: I, namespace: ModelNamespace[Any, H, C]) -> None:
        self.info: I = info
        self._namespace = namespace

    @property
    def type(self) -> str:
        """The kind of model: "llm" or "embedding"."""
        return self.info.type

    @property
    def path(self) -> str:
        """The model's file, below the server's models folder."""
        return self.info.path

    @property
    def model_key(self) -> str:
        """What `.model()` takes for this model."""
        return self.info.model_key

    def model(
        self,
        *,
        ttl: float | None = DEFAULT_TTL,
        config: C | Mapping[str, Any] | None = None,
        on_load_progress: Callable[[float], object] | None = None,
        timeout: float | None = None,
    ) -> ModelScope[H]:
        """Get this model, loading it if it is not loaded. As the namespace's `model`."""
        return self._namespace.model(
            self.model_key,
            ttl=ttl,
            config=config,
            on_load_progress=on_load_progress,
            timeout=timeout,
        )

    def load_new_instance(
        self,
        instance_identifier: str | None = None,
        *,
        ttl: float | None = DEFAULT_TTL,
        config: C | Mapping[str, Any] | None = None,
        on_load_progress: Callable[[float], object] | None = None,
        timeout: float | None = None,
    ) -> ModelScope[H]:
        """Load another instance of this model. As the namespace's `load_new_instance`."""
        return self._namespace.load_new_instance(
            self.model_key,
            instance_identifier,
            ttl=ttl,
            config=config,
            on_load_progress=on_load_progress,
            timeout=timeout,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_key!r}>"


class DownloadedLlm(DownloadedModel[LlmInfo, LLM, LlmLoadModelConfig]):
    """An LLM on disk."""


class DownloadedEmbeddingModel(
    DownloadedModel[EmbeddingModelInfo, EmbeddingModel, EmbeddingLoadModelConfig]
):
    """An embedding model on disk."""


_ENTRY: "msgspec.json.Decoder[AnyModelInfo]" = msgspec.json.Decoder(LlmInfo | EmbeddingModelInfo)


async def list_model_infos(pool: Pool, timeout: float | None) -> list[AnyModelInfo]:
    """What the server has on disk, without the kinds of models that this SDK does not know."""
    bound = pool.timeouts.bound("call", timeout)
    entries: list[Raw] = await pool.call(
        "system", "listDownloadedModels", UNSET, list[Raw], bound=bound
    )
    infos = []
    for entry in entries:
        try:
            infos.append(_ENTRY.decode(entry))
        except msgspec.ValidationError as error:
            _logger.debug("skipped a downloaded model: %s", error)
    return infos
