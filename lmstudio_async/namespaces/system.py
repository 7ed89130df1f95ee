"""`client.system`."""

from msgspec import UNSET

from lmstudio_async.namespaces.downloaded import (
    DownloadedEmbeddingModel,
    DownloadedLlm,
    list_model_infos,
)
from lmstudio_async.namespaces.embedding import EmbeddingNamespace
from lmstudio_async.namespaces.llm import LlmNamespace
from lmstudio_async.pool import Pool
from lmstudio_async.wire.loading import ServerInfo, ServerVersion
from lmstudio_async.wire.model_info import LlmInfo


class SystemNamespace:
    """The server itself: its version, and the models on its disk."""

    def __init__(self, pool: Pool, llm: LlmNamespace, embedding: EmbeddingNamespace) -> None:
        self._pool = pool
        self._llm = llm
        self._embedding = embedding

    async def list_downloaded_models(self) -> list[DownloadedLlm | DownloadedEmbeddingModel]:
        """The models on the server's disk, of every kind that this SDK knows."""
        return [
            DownloadedLlm(info, self._llm)
            if isinstance(info, LlmInfo)
            else DownloadedEmbeddingModel(info, self._embedding)
            for info in await list_model_infos(self._pool)
        ]

    async def version(self) -> ServerVersion:
        """The server's version."""
        version: ServerVersion = await self._pool.call("system", "version", UNSET, ServerVersion)
        return version

    async def info(self) -> ServerInfo:
        """The server's process."""
        info: ServerInfo = await self._pool.call("system", "info", UNSET, ServerInfo)
        return info
