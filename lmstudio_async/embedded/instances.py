"""The loaded models: loading, finding, unloading, and unloading what nobody uses any more."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup

from lmstudio_async.embedded.engine import Engine, running_engine
from lmstudio_async.embedded.library import Domain, Library
from lmstudio_async.embedded.load_settings import LoadSettings
from lmstudio_async.embedded.refusal import (
    RequestError,
    identifier_not_found,
    no_model_matching_query,
    shown,
    specific_model_unloaded,
)
from lmstudio_async.embedded.workspace import private_folder
from lmstudio_async.wire.kv_config import KvConfigStack
from lmstudio_async.wire.loading import ProcessingState, ProcessingStatus
from lmstudio_async.wire.model_info import (
    AnyInstanceInfo,
    EmbeddingModelInstanceInfo,
    LlmInstanceInfo,
    ModelSpecifier,
    QuerySpecifier,
)

logger = logging.getLogger("lmstudio_async.embedded")

WorkStatus: TypeAlias = ProcessingStatus | Literal["queued"]
_MAX_TTL_MS = 2**53
# Of several things that an instance does at once, the first of these is what it tells.
_TOLD_FIRST: tuple[ProcessingStatus, ...] = ("generating", "processingPrompt", "computingEmbedding")


@dataclass(eq=False)  # of two alike, the one that ends is meant
class Work:
    """One request that an instance is busy with."""

    status: WorkStatus = "idle"


class Turns:
    """Slots, given in the order of asking.

    Who has one takes some of the context, which is shared: whoever takes more than is left waits,
    unless nobody else is there.
    """

    def __init__(self, slots: int, context_length: int) -> None:
        self._slots = slots
        self._context_length = context_length
        self._taken: list[int] = []
        self._first_in_line = anyio.Lock()
        self._freed = anyio.Event()

    @asynccontextmanager
    async def one(self, tokens: int) -> AsyncIterator[None]:
        async with self._first_in_line:
            while len(self._taken) == self._slots or (
                self._taken and sum(self._taken) + tokens > self._context_length
            ):
                await self._freed.wait()
            self._taken.append(tokens)
        try:
            yield
        finally:
            self._taken.remove(tokens)
            self._freed.set()
            self._freed = anyio.Event()


class Instance:
    """A loaded model. Counts as used from the beginning of a request to its end."""

    def __init__(
        self, identifier: str, settings: LoadSettings, engine: Engine, ttl_ms: float | None
    ) -> None:
        self.identifier = identifier
        self.reference = secrets.token_urlsafe(18)
        self.settings = settings
        self.model = settings.model
        self.engine = engine
        self._ttl_ms = ttl_ms
        self._turns = Turns(settings.parallel, settings.context_length)
        self._works: list[Work] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_used = time.time()
        self._idle_since = time.monotonic()
        self.stopping = anyio.Event()
        self.gone = anyio.Event()

    def stop(self) -> None:
        """Begin to unload."""
        self.engine.stopped = True
        self.stopping.set()

    def info(self) -> AnyInstanceInfo:
        kind = LlmInstanceInfo if self.model.domain == "llm" else EmbeddingModelInstanceInfo
        return kind(
            **self.model.about(),
            identifier=self.identifier,
            instance_reference=self.reference,
            ttl_ms=self._ttl_ms,
            last_used_time=int(self._last_used * 1000),
            context_length=self.settings.context_length,
        )

    def processing_state(self) -> ProcessingState:
        statuses = [work.status for work in self._works]
        told: ProcessingStatus = next((one for one in _TOLD_FIRST if one in statuses), "idle")
        return ProcessingState(told, statuses.count("queued"))

    @contextmanager
    def in_use(self, status: WorkStatus = "idle") -> Iterator[Work]:
        """The time of one request, during which the instance is not idle."""
        work = Work(status)
        self._works.append(work)
        self._idle.clear()
        try:
            yield work
        finally:
            self._works.remove(work)
            self._last_used = time.time()
            self._idle_since = time.monotonic()
            if not self._works:
                self._idle.set()

    @asynccontextmanager
    async def turn(self, status: ProcessingStatus, tokens: int = 0) -> AsyncIterator[Work]:
        """As `in_use`, for work that takes one of the model's slots: waits for a free one.

        `tokens`: how much of the context it must not find taken by others, at the most.
        """
        with self.in_use("queued") as work:
            async with self._turns.one(tokens):
                work.status = status
                yield work

    async def expiry(self) -> None:
        """Wait until the instance has been idle for as long as its TTL allows."""
        if self._ttl_ms is None:
            await anyio.sleep_forever()
        else:
            while True:
                await self._idle.wait()
                left = self._idle_since + self._ttl_ms / 1000 - time.monotonic()
                if left <= 0:
                    return
                await anyio.sleep(left)


class Load:
    """A load that is under way, and those who wait for it. It ends with the last of them."""

    def __init__(self, identifier: str, settings: LoadSettings, ttl_ms: float | None) -> None:
        self.identifier = identifier
        self.settings = settings
        self.ttl_ms = ttl_ms
        self.scope = anyio.CancelScope()
        self._progress = 0.0
        self._news = anyio.Event()
        self._finished = anyio.Event()
        self._outcome: Instance | RequestError | None = None
        self._joined = 0

    def report(self, progress: float) -> None:
        if progress > self._progress:
            self._progress = progress
            self._tell()

    def finish(self, outcome: Instance | RequestError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._finished.set()
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """The time for which someone wants this load; the last to leave unfinished cancels it."""
        self._joined += 1
        try:
            yield
        finally:
            self._joined -= 1
            if not self._joined and self._outcome is None:
                self.scope.cancel()
                with anyio.CancelScope(shield=True):  # killing takes a moment
                    await self._finished.wait()

    async def wait(self, report: Callable[[float], Awaitable[None]]) -> Instance:
        """Follow the load to its end, 1.0 included. Raises RequestError if it fails."""
        reported = -1.0
        while self._outcome is None:
            if self._progress > reported:
                reported = self._progress
                await report(reported)
            else:
                await self._news.wait()
        if isinstance(self._outcome, RequestError):
            raise self._outcome
        await report(1.0)
        return self._outcome


@asynccontextmanager
async def open_instances(library: Library) -> AsyncIterator["Instances"]:
    """The registry of loaded models; everything in it is unloaded at the end of the block."""
    with private_folder() as workspace:
        async with anyio.create_task_group() as tasks:
            yield Instances(library, workspace, tasks)
            tasks.cancel_scope.cancel()


class Instances:
    """What is loaded, over all namespaces."""

    def __init__(self, library: Library, workspace: Path, tasks: TaskGroup) -> None:
        self._library = library
        self._workspace = workspace
        self._tasks = tasks
        self._instances: dict[str, Instance] = {}
        self._loads: list[Load] = []

    def loaded(self, domain: Domain) -> list[Instance]:
        return [one for one in self._instances.values() if one.model.domain == domain]

    def resolve(self, domain: Domain, specifier: ModelSpecifier) -> Instance:
        """The instance that a request names. Raises RequestError."""
        loaded = self.loaded(domain)
        if not isinstance(specifier, QuerySpecifier):
            for instance in loaded:
                if instance.reference == specifier.instance_reference:
                    return instance
            raise specific_model_unloaded("This instance of the model is no longer loaded")
        query = specifier.query
        for instance in loaded:
            if (
                query.identifier in (None, instance.identifier)
                and query.path in (None, instance.model.relative_path, instance.model.key)
                and query.domain in (None, domain)
                and not isinstance(query.device_identifier, str)
                and not query.vision
            ):
                return instance
        identifiers = [instance.identifier for instance in loaded]
        if query.identifier is not None:
            raise identifier_not_found(query.identifier, identifiers)
        raise no_model_matching_query(query, identifiers)

    async def load(
        self,
        domain: Domain,
        model_key: str,
        identifier: str | None,
        stack: KvConfigStack,
        ttl_ms: float | None,
    ) -> Load:
        """Begin to load another instance of a model. Raises RequestError."""
        settings = LoadSettings(await self._library.find(model_key, domain), stack)
        return self._begin(settings, identifier, ttl_ms)

    async def get_or_load(
        self, domain: Domain, name: str, stack: KvConfigStack, ttl_ms: float | None
    ) -> Instance | Load:
        """The instance, or the load under way, of that name; else a new load."""
        if (instance := self._with_identifier(domain, name)) is not None:
            return instance
        model = await self._library.find(name, domain)
        # From here on nothing is awaited: of two who ask at once, the second finds the first's.
        for instance in self.loaded(domain):
            if instance.model.key == model.key:
                return instance
        for load in self._loads:
            if load.settings.model.key == model.key and not load.scope.cancel_called:
                return load
        return self._begin(LoadSettings(model, stack), None, ttl_ms)

    def _with_identifier(self, domain: Domain, identifier: str) -> Instance | None:
        return next((one for one in self.loaded(domain) if one.identifier == identifier), None)

    def _begin(self, settings: LoadSettings, identifier: str | None, ttl_ms: float | None) -> Load:
        if ttl_ms is not None and not 0 <= ttl_ms <= _MAX_TTL_MS:
            raise RequestError(f"A TTL of {shown(ttl_ms)} ms is out of range")
        taken = {one.identifier for one in self._instances.values()}
        taken |= {load.identifier for load in self._loads if not load.scope.cancel_called}
        if identifier is None:
            key, number = settings.model.key, 1
            identifier = key
            while identifier in taken:
                number += 1
                identifier = f"{key}:{number}"
        elif identifier in taken:
            raise RequestError(f"The identifier {shown(identifier)} is taken by another instance")
        load = Load(identifier, settings, ttl_ms)
        self._loads.append(load)
        self._tasks.start_soon(self._live, load)
        return load

    async def _live(self, load: Load) -> None:
        """Own one instance, from its load until its memory is free again."""
        instance: Instance | None = None
        try:
            async with AsyncExitStack() as stack:
                with load.scope:
                    model = load.settings.model
                    engine = await stack.enter_async_context(
                        running_engine(
                            model.path,
                            load.settings.engine_params(),
                            model.size_bytes,
                            self._workspace,
                            load.report,
                        )
                    )
                if not load.scope.cancel_called:
                    instance = Instance(load.identifier, load.settings, engine, load.ttl_ms)
                    self._instances[instance.reference] = instance
                    self._loads.remove(load)
                    load.finish(instance)
                    await self._look_after(instance)
        except RequestError as error:
            load.finish(error)
        except Exception:
            logger.exception("loading %r failed", load.settings.model.key)
            load.finish(RequestError("The model could not be loaded; the server's log says more"))
        finally:
            if instance is not None:
                self._forget(instance)
                instance.gone.set()
            else:
                self._loads.remove(load)
                load.finish(RequestError("The load was cancelled"))

    async def _look_after(self, instance: Instance) -> None:
        """Wait until an instance is unloaded, or idle for its TTL, or its engine dies."""

        async def unload_when_expired() -> None:
            await instance.expiry()
            instance.stop()
            self._forget(instance)
            tasks.cancel_scope.cancel()

        async def unload_when_told() -> None:
            await instance.stopping.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(unload_when_expired)
            tasks.start_soon(unload_when_told)
            await instance.engine.wait()
            tasks.cancel_scope.cancel()
            if not instance.stopping.is_set():
                logger.warning("the engine of %r died", instance.identifier)

    def _forget(self, instance: Instance) -> None:
        self._instances.pop(instance.reference, None)

    async def unload(self, domain: Domain, identifier: str) -> None:
        """Unload an instance and wait until its memory is free. Raises RequestError."""
        instance = self._with_identifier(domain, identifier)
        if instance is None:
            raise identifier_not_found(identifier, [one.identifier for one in self.loaded(domain)])
        instance.stop()
        self._forget(instance)
        await instance.gone.wait()
