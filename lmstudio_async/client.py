"""The client: connections, namespaces, and the instances it answers for."""

import os
import secrets
from collections.abc import Sequence
from types import TracebackType

from lmstudio_async.arguments import check_namespace, parse_api_token
from lmstudio_async.errors import LMStudioError, LMStudioRuntimeError
from lmstudio_async.models.embedding import EmbeddingModel
from lmstudio_async.models.lifecycle import Lifecycle, raise_failures
from lmstudio_async.models.llm import LLM
from lmstudio_async.namespaces.downloaded import DownloadedEmbeddingModel, DownloadedLlm
from lmstudio_async.namespaces.embedding import EmbeddingNamespace
from lmstudio_async.namespaces.files import FilesNamespace
from lmstudio_async.namespaces.llm import LlmNamespace
from lmstudio_async.namespaces.local_file import LocalFileInput
from lmstudio_async.namespaces.system import SystemNamespace
from lmstudio_async.pool import Pool
from lmstudio_async.timeouts import Timeouts, check_timeouts
from lmstudio_async.transport import current_backend
from lmstudio_async.transport.address import parse_address
from lmstudio_async.wire.api_token import TOKEN_VARIABLES
from lmstudio_async.wire.messages import Authentication
from lmstudio_async.wire.prediction import FilePart


class Client:
    """A client of one LM Studio server. Use it as `async with Client() as client:`.

    Entering does no I/O: the server is looked for, and each namespace connected, on first use; a
    lost connection is reopened by the next use. Leaving unloads what scopes still hold, newest
    first, and closes every connection. Entering and leaving may happen in different tasks.

    api_host: `host`, `host:port`, or a ws, wss, http or https URL with an optional path prefix.
        None looks for a server on this machine.
    api_token: an API token as LM Studio shows it; None takes the environment variable
        LM_API_TOKEN or LMSTUDIO_API_TOKEN, or else connects as a guest.
    timeouts: how long to wait for what; None is `Timeouts()`.

    Raises LMStudioValueError or LMStudioTypeError for arguments that cannot be right.
    """

    def __init__(
        self,
        api_host: str | None = None,
        *,
        api_token: str | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._address = None if api_host is None else parse_address(api_host)
        self._authentication = _authentication(api_token)
        self._timeouts = check_timeouts(timeouts)
        self._session: _Session | None = None

    async def __aenter__(self) -> "Client":
        self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.aclose(exc)

    def open(self) -> None:
        """Open the client on the running event loop, as entering its block does.

        Whoever calls this must call `aclose`. Raises LMStudioRuntimeError if it is open already.
        """
        self._start(outlive_main=False)

    def _start(self, *, outlive_main: bool) -> None:
        if self._session is not None:
            raise LMStudioRuntimeError("this client is open already")
        backend = current_backend()
        tasks = backend.background_tasks(outlive_main=outlive_main)
        pool = Pool(self._address, self._authentication, backend, tasks, self._timeouts)
        self._session = _Session(pool)

    async def aclose(self) -> None:
        """Close the client, as leaving its block does. Does nothing if it is not open."""
        await self.__aexit__(None, None, None)

    @property
    def api_host(self) -> str:
        """The server in use. Raises LMStudioRuntimeError as long as it has not been found."""
        address = self._open.pool.address
        if address is None:
            raise LMStudioRuntimeError("no server has been looked for yet; make a call first")
        return str(address)

    @property
    def llm(self) -> LlmNamespace:
        """LLMs."""
        return self._open.llm

    @property
    def embedding(self) -> EmbeddingNamespace:
        """Embedding models."""
        return self._open.embedding

    @property
    def system(self) -> SystemNamespace:
        """The server itself."""
        return self._open.system

    @property
    def files(self) -> FilesNamespace:
        """Files for chats."""
        return self._open.files

    async def prepare_image(
        self, src: LocalFileInput, name: str | None = None, *, timeout: float | None = None
    ) -> FilePart:
        """Give an image to the server, for use in chats. As `files.prepare_image`."""
        return await self.files.prepare_image(src, name, timeout=timeout)

    async def list_loaded_models(
        self, namespace: str | None = None, *, timeout: float | None = None
    ) -> Sequence[LLM | EmbeddingModel]:
        """Handles of all loaded models; of one kind if `namespace` is "llm" or "embedding"."""
        check_namespace(namespace)
        models: list[LLM | EmbeddingModel] = []
        if namespace != "embedding":
            models += await self.llm.list_loaded(timeout=timeout)
        if namespace != "llm":
            models += await self.embedding.list_loaded(timeout=timeout)
        return models

    async def list_downloaded_models(
        self, namespace: str | None = None, *, timeout: float | None = None
    ) -> Sequence[DownloadedLlm | DownloadedEmbeddingModel]:
        """The models on the server's disk; of one kind, likewise."""
        check_namespace(namespace)
        models = await self.system.list_downloaded_models(timeout=timeout)
        return [model for model in models if namespace in (None, model.type)]

    @property
    def _open(self) -> "_Session":
        if self._session is None:
            raise LMStudioRuntimeError(
                "the client is not open; use it inside `async with lms.Client() as client:`"
            )
        return self._session

    def __repr__(self) -> str:
        where = "this machine" if self._address is None else str(self._address)
        return f"<Client of {where}, {'closed' if self._session is None else 'open'}>"


class _Session:
    """All that a client has between being entered and being left."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.lifecycle = Lifecycle(pool)
        self.llm = LlmNamespace(self.lifecycle)
        self.embedding = EmbeddingNamespace(self.lifecycle)
        self.system = SystemNamespace(pool, self.llm, self.embedding)
        self.files = FilesNamespace(pool)

    async def aclose(self, leaving: BaseException | None) -> None:
        failures = await self.pool.backend.run_shielded(self._close)
        raise_failures(failures, leaving)

    async def _close(self) -> list[LMStudioError]:
        try:
            return await self.lifecycle.aclose()
        finally:
            await self.pool.aclose()
            await self.pool.tasks.aclose()


def _authentication(api_token: str | None) -> Authentication:
    if api_token is not None:
        return Authentication(*parse_api_token("api_token", api_token))
    for variable in TOKEN_VARIABLES:
        if token := os.environ.get(variable):
            return Authentication(*parse_api_token(f"the environment variable {variable}", token))
    return Authentication(f"guest:{secrets.token_urlsafe(18)}", secrets.token_urlsafe(18))
