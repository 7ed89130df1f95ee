"""`client.system`."""

from typing import Any

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
    """The server itself: its version, and the models on its disk.

    timeout: of every method: seconds in place of `Timeouts.call`, math.inf for no bound.
    """

    def __init__(self, pool: Pool, llm: LlmNamespace, embedding: EmbeddingNamespace) -> None:
        self._pool = pool
        self._llm = llm
        self._embedding = embedding

    async def list_downloaded_models(
        self, *, timeout: float | None = None
    ) -> list[DownloadedLlm | DownloadedEmbeddingModel]:
        """The models on the server's disk, of every kind that this SDK knows."""
        return [
            DownloadedLlm(info, self._llm)
            if isinstance(info, LlmInfo)
            else DownloadedEmbeddingModel(info, self._embedding)
            for info in await list_model_infos(self._pool, timeout)
        ]

    async def version(self, *, timeout: float | None = None) -> ServerVersion:
        """The server's version."""
        version: ServerVersion = await self._call("version", ServerVersion, timeout)
        return version

    async def info(self, *, timeout: float | None = None) -> ServerInfo:
        """The server's process."""
        info: ServerInfo = await self._call("info", ServerInfo, timeout)
        return info

    async def _call(self, endpoint: str, result_type: Any, timeout: float | None) -> Any:
        bound = self._pool.timeouts.bound("call", timeout)
        return await self._pool.call("system", endpoint, UNSET, result_type, bound=bound)
