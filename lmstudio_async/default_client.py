"""A client that is simply there: one for each running event loop, closed when the loop ends."""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from lmstudio_async.client import Client
from lmstudio_async.errors import LMStudioClientError, LMStudioError, LMStudioRuntimeError
from lmstudio_async.models.embedding import EmbeddingModel
from lmstudio_async.models.llm import LLM
from lmstudio_async.models.scope import ModelScope
from lmstudio_async.namespaces.downloaded import DownloadedEmbeddingModel, DownloadedLlm
from lmstudio_async.namespaces.local_file import LocalFileInput
from lmstudio_async.namespaces.model_namespace import DEFAULT_TTL
from lmstudio_async.transport import current_backend
from lmstudio_async.transport.address import parse_address
from lmstudio_async.wire.load_config import EmbeddingLoadModelConfig, LlmLoadModelConfig
from lmstudio_async.wire.prediction import FilePart

_logger = logging.getLogger("lmstudio_async")

_api_host: str | None = None
# Each with what makes the event loop close it at its end.
_clients: "WeakKeyDictionary[Hashable, tuple[Client, object]]" = WeakKeyDictionary()


def configure_default_client(api_host: str) -> None:
    """Set the server of default clients that are opened from now on.

    Raises LMStudioClientError if the running event loop has a default client already.
    """
    global _api_host
    parse_address(api_host)
    if _clients and _running_token() in _clients:
        raise LMStudioClientError(
            "the default client is in use already; configure it before the first use"
        )
    _api_host = api_host


def get_default_client(api_host: str | None = None) -> Client:
    """The default client of the running event loop, open; it is closed when the loop ends.

    api_host: as in `configure_default_client`.

    Raises LMStudioRuntimeError if no event loop is running.
    """
    if api_host is not None:
        configure_default_client(api_host)
    backend = current_backend()
    token = backend.loop_token()
    entry = _clients.get(token)
    if entry is not None:
        return entry[0]
    client = Client(_api_host)
    client._start(outlive_main=True)

    async def close() -> None:
        _clients.pop(token, None)
        try:
            await client.aclose()
        except LMStudioError as error:
            # Nobody is left to catch it, and trio would crash.
            _logger.error("closing the default client: %s", error, exc_info=error)

    _clients[token] = client, backend.at_loop_end(close)
    return client


def llm(
    model_key: str | None = None,
    /,
    *,
    ttl: float | None = DEFAULT_TTL,
    config: LlmLoadModelConfig | Mapping[str, Any] | None = None,
    on_load_progress: Callable[[float], object] | None = None,
    timeout: float | None = None,
) -> ModelScope[LLM]:
    """An LLM of the default client; await it or enter it. As `client.llm.model`."""
    return get_default_client().llm.model(
        model_key, ttl=ttl, config=config, on_load_progress=on_load_progress, timeout=timeout
    )


def embedding_model(
    model_key: str | None = None,
    /,
    *,
    ttl: float | None = DEFAULT_TTL,
    config: EmbeddingLoadModelConfig | Mapping[str, Any] | None = None,
    on_load_progress: Callable[[float], object] | None = None,
    timeout: float | None = None,
) -> ModelScope[EmbeddingModel]:
    """An embedding model of the default client. As `client.embedding.model`."""
    return get_default_client().embedding.model(
        model_key, ttl=ttl, config=config, on_load_progress=on_load_progress, timeout=timeout
    )


async def prepare_image(
    src: LocalFileInput, name: str | None = None, *, timeout: float | None = None
) -> FilePart:
    """Give an image to the default client's server. As `client.files.prepare_image`."""
    return await get_default_client().prepare_image(src, name, timeout=timeout)


async def list_loaded_models(
    namespace: str | None = None, *, timeout: float | None = None
) -> Sequence[LLM | EmbeddingModel]:
    """Loaded models of the default client's server. As `client.list_loaded_models`."""
    return await get_default_client().list_loaded_models(namespace, timeout=timeout)


async def list_downloaded_models(
    namespace: str | None = None, *, timeout: float | None = None
) -> Sequence[DownloadedLlm | DownloadedEmbeddingModel]:
    """Models on that server's disk. As `client.list_downloaded_models`."""
    return await get_default_client().list_downloaded_models(namespace, timeout=timeout)


def _running_token() -> Hashable:
    try:
        return current_backend().loop_token()
    except LMStudioRuntimeError:
        return None
