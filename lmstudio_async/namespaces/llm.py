"""`client.llm`."""

from lmstudio_async.models.kinds import LLM_KIND
from lmstudio_async.models.llm import LLM
from lmstudio_async.namespaces.downloaded import DownloadedLlm, list_model_infos
from lmstudio_async.namespaces.model_namespace import ModelNamespace
from lmstudio_async.wire.load_config import LlmLoadModelConfig
from lmstudio_async.wire.model_info import LlmInfo, LlmInstanceInfo


class LlmNamespace(ModelNamespace[LlmInstanceInfo, LLM, LlmLoadModelConfig]):
    """LLMs: load, find, list and unload them."""

    _kind = LLM_KIND
    _handle = LLM

    async def list_downloaded(self, *, timeout: float | None = None) -> list[DownloadedLlm]:
        """The LLMs on the server's disk."""
        infos = await list_model_infos(self._pool, timeout)
        return [DownloadedLlm(info, self) for info in infos if isinstance(info, LlmInfo)]
