"""`client.embedding`."""

from lmstudio_async.models.embedding import EmbeddingModel
from lmstudio_async.models.kinds import EMBEDDING_KIND
from lmstudio_async.namespaces.downloaded import DownloadedEmbeddingModel, list_model_infos
from lmstudio_async.namespaces.model_namespace import ModelNamespace
from lmstudio_async.wire.load_config import EmbeddingLoadModelConfig
from lmstudio_async.wire.model_info import EmbeddingModelInfo, EmbeddingModelInstanceInfo


class EmbeddingNamespace(
    ModelNamespace[EmbeddingModelInstanceInfo, EmbeddingModel, EmbeddingLoadModelConfig]
):
    """Embedding models: load, find, list and unload them."""

    _kind = EMBEDDING_KIND
    _handle = EmbeddingModel

    async def list_downloaded(
        self, *, timeout: float | None = None
    ) -> list[DownloadedEmbeddingModel]:
        """The embedding models on the server's disk."""
        infos = await list_model_infos(self._pool, timeout)
        return [
            DownloadedEmbeddingModel(info, self)
            for info in infos
            if isinstance(info, EmbeddingModelInfo)
        ]
