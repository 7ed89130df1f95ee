"""Which instances this client answers for, and when each is unloaded.

An instance that this client loaded passes through these states:

    loading ──success──▶ held ──last lease released──▶ unloading ──▶ gone
       │                  │
       │                  └──a plain await got it──▶ kept: no scope unloads it any more
       ├──nobody waits any more──▶ cancelled, or unloaded if the server finishes all the same
       └──connection lost──▶ recovering: unloaded if it turns up, or held by the next who asks

Everybody who waits for a load gets a `Lease` on the instance. A scope holds its lease until it
exits; a plain `await` turns it into `keep`. Instances loaded by others have no record here, and
leases on them do nothing. Decisions are made without awaiting; only unloading talks to the server.
"""

import logging
from collections.abc import Callable, Hashable
from typing import Any

import anyio
from anyio import Event

from lmstudio_async.errors import (
    LMStudioClientError,
    LMStudioError,
    LMStudioModelNotFoundError,
    LMStudioModelUnloadedError,
    LMStudioTimeoutError,
    LMStudioUnloadError,
    LMStudioWebsocketError,
)
from lmstudio_async.models.kinds import Kind
from lmstudio_async.models.load import Load, LoadRequest
from lmstudio_async.models.recovery import Recovery
from lmstudio_async.pool import Pool
from lmstudio_async.single_flight import SingleFlight
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire.loading import FindParameter, UnloadModelParameter
from lmstudio_async.wire.model_info import AnyInstanceInfo, InstanceSpecifier

_logger = logging.getLogger("lmstudio_async")


class Instance:
    """An instance that this client loaded and may have to unload.

    `number`: later ones have higher numbers.
    `exclusive`: loaded by `load_new_instance`, so that its own scope alone decides.
    `unloaded` is set once it is gone; before that, `unloading` tells that somebody is at it.
    """

    def __init__(
        self, number: int, kind: Kind, key: str, info: AnyInstanceInfo, *, exclusive: bool
    ) -> None:
        self.number = number
        self.kind = kind
        self.key = key
        self.info = info
        self.exclusive = exclusive
        self.leases = 0
        self.unloading = False
        self.unloaded = Event()


class Lease:
    """A claim on an instance: until it is released, no scope of this client unloads it."""

    def __init__(
        self, lifecycle: "Lifecycle", info: AnyInstanceInfo, instance: Instance | None, owner: bool
    ) -> None:
        self.info = info
        self._lifecycle = lifecycle
        self._instance = instance
        self._owner = owner

    async def release(self) -> None:
        """Leave the scope: unload if this was the last claim. Shielded, bounded, idempotent.

        Raises LMStudioError if unloading failed.
        """
        instance = self._give_up()
        if instance is not None:
            await self._lifecycle.unload(instance)

    def drop(self) -> None:
        """As `release`, in the background: whoever held it was cancelled and cannot wait."""
        instance = self._give_up()
        if instance is not None and not instance.unloading:
            self._lifecycle.unload_in_background(instance)

    def keep(self) -> None:
        """From now on no scope unloads the instance: its user does, or its TTL."""
        if self._instance is not None:
            self._lifecycle.forget(self._instance)
            self._instance = None

    def _give_up(self) -> Instance | None:
        """Count down. The instance, if it is this claim's to see it unloaded."""
        instance, self._instance = self._instance, None
        if instance is None:
            return None
        instance.leases -= 1
        decides = self._owner or (not instance.exclusive and not instance.leases)
        return instance if decides and self._lifecycle.answers_for(instance) else None


class Lifecycle:
    """All loads and all instances of one client."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._instances: dict[str, Instance] = {}
        self._loads: dict[Hashable, Load] = {}
        self._running: list[Load] = []
        self._recoveries: dict[tuple[Kind, str], Recovery] = {}
        self._unloads_by_hand = SingleFlight()
        self._adopted = 0
        self._closed = False

    async def acquire(
        self, request: LoadRequest, on_progress: Callable[[float], object] | None
    ) -> Lease:
        """Load, or join a load under way, and return a lease on the instance.

        Cancelling the last one who waits cancels the load.
        """
        if self._closed:
            raise LMStudioClientError("the client is closed")
        previous = self._loads.get(request.shared_key) if request.shared_key else None
        if previous is not None and not previous.over:
            load = previous
            if load.request.parameter != request.parameter:
                _logger.warning(
                    "%s joins a load under way with another ttl or config; those of the first "
                    "caller apply",
                    request.asked,
                )
        else:
            load = Load(self, request, previous)
            self._running.append(load)
            if request.shared_key:
                self._loads[request.shared_key] = load
            self.pool.tasks.spawn(load.run)
        return await load.join(on_progress)

    def finished(self, load: Load) -> None:
        """A load has ended, and all that was to be cleaned up after it."""
        self._running.remove(load)
        if self._loads.get(load.request.shared_key) is load:
            del self._loads[load.request.shared_key]

    def is_loading(self, request: LoadRequest) -> bool:
        """Whether somebody waits for a load of the same model."""
        load = self._loads.get(request.shared_key) if request.shared_key else None
        return load is not None and not load.over

    def recover(self, request: LoadRequest, identifier: str) -> None:
        """A load was cut off: unload what comes of it."""
        recovery = self._recoveries.get((request.kind, identifier))
        if recovery is None:
            recovery = Recovery(self, request, identifier)
            self._recoveries[request.kind, identifier] = recovery
            self.pool.tasks.spawn(recovery.run)
        recovery.again()

    def is_recovering(self, recovery: Recovery) -> bool:
        """Whether nobody has taken over what this looks for."""
        return self._recoveries.get((recovery.kind, recovery.identifier)) is recovery

    def recovered(self, recovery: Recovery) -> None:
        """A recovery has ended."""
        if self.is_recovering(recovery):
            del self._recoveries[recovery.kind, recovery.identifier]

    def take_over(self, kind: Kind, identifier: str) -> bool:
        """Somebody answers for what this identifier names. Whether a recovery did till now."""
        return self._recoveries.pop((kind, identifier), None) is not None

    def adopt(self, request: LoadRequest, info: AnyInstanceInfo) -> Instance:
        """Answer for an instance that a load has brought about."""
        self._adopted += 1
        exclusive = request.shared_key is None
        instance = Instance(self._adopted, request.kind, request.key, info, exclusive=exclusive)
        self._instances[info.instance_reference] = instance
        return instance

    def lease(self, info: AnyInstanceInfo, instance: Instance | None, *, owner: bool) -> Lease:
        """A lease that is counted already. `owner`: its release unloads, whoever else has one."""
        return Lease(self, info, instance, owner)

    def find(self, instance_reference: str) -> Instance | None:
        """The record of an instance, if this client answers for it."""
        return self._instances.get(instance_reference)

    def answers_for(self, instance: Instance) -> bool:
        """Whether a scope of this client is still to unload this instance."""
        return self._instances.get(instance.info.instance_reference) is instance

    def forget(self, instance: Instance) -> None:
        """No longer answer for an instance."""
        if self.answers_for(instance):
            del self._instances[instance.info.instance_reference]

    async def wait_for_unloads(self, kind: Kind, key: str) -> None:
        """Wait until no instance of this key is being unloaded."""
        for instance in list(self._instances.values()):
            if instance.unloading and instance.kind is kind and instance.key == key:
                await instance.unloaded.wait()

    async def unload(self, instance: Instance, bound: Bound | None = None) -> None:
        """Unload an instance if it is still there. Shielded from cancellation, and bounded."""
        if instance.unloading:
            await instance.unloaded.wait()
            return
        instance.unloading = True
        bound = bound or self.pool.timeouts.bound("unload")
        await self.pool.backend.run_shielded(lambda: self._unload_bounded(instance, bound))

    def unload_in_background(self, instance: Instance) -> None:
        instance.unloading = True
        self.pool.tasks.spawn(self._unload_and_log, instance)

    async def unload_by_handle(self, kind: Kind, info: AnyInstanceInfo, bound: Bound) -> None:
        """What `handle.unload()` does; scopes of that instance then have nothing left to do."""
        instance = self.find(info.instance_reference)
        if instance is not None:
            await self.unload(instance, bound)
            return
        reference = info.instance_reference
        while await self._unloads_by_hand.wait(reference):
            pass  # whoever did it may have been cancelled: look again
        with self._unloads_by_hand.lead(reference):
            await self._unload_within(kind, info, bound)

    async def aclose(self) -> list[LMStudioError]:
        """Cancel the loads under way, unload what is held, newest first, and report failures."""
        self._closed = True
        close = self.pool.timeouts.bound("close")
        deadline = anyio.current_time() + close.seconds
        failures: list[LMStudioError] = []
        for load in list(self._running):
            load.fail(LMStudioClientError(f"{load.request.asked}: the client was closed"))
        for instance in reversed(list(self._instances.values())):
            bound = self.pool.timeouts.bound("unload")
            left = deadline - anyio.current_time()
            if instance.unloading or left <= 0:
                continue  # waited for below, or reported
            try:
                await self.unload(instance, bound if left > bound.seconds else Bound("close", left))
            except LMStudioError as error:
                failures.append(error)
        with anyio.CancelScope(deadline=deadline):
            for load in list(self._running):
                await load.ended.wait()
            recoveries = list(self._recoveries.values())
            for recovery in recoveries:
                recovery.hurry()
            for recovery in recoveries:
                await recovery.ended.wait()
            for instance in list(self._instances.values()):
                await instance.unloaded.wait()  # what those loads brought about all the same
        for instance in list(self._instances.values()):
            failures.append(self._unload_timed_out(instance.info, close))
            self.forget(instance)
        return failures

    async def _unload_bounded(self, instance: Instance, bound: Bound) -> None:
        try:
            await self._unload_within(instance.kind, instance.info, bound)
            for load in self._running:
                load.gone.add(instance.info.instance_reference)
        except anyio.get_cancelled_exc_class():
            # Only asyncio.run() gets through the shield, at its end; the default client, which is
            # closed after that, tries again.
            instance.unloading = False
            raise
        finally:
            if instance.unloading:
                self.forget(instance)
                instance.unloaded.set()

    async def _unload_and_log(self, instance: Instance) -> None:
        try:
            await self._unload_bounded(instance, self.pool.timeouts.bound("unload"))
        except LMStudioError as error:
            _logger.error("%r was left loaded: %s", instance.info.identifier, error)

    async def _unload_within(self, kind: Kind, info: AnyInstanceInfo, bound: Bound) -> None:
        try:
            with anyio.fail_after(bound.seconds):
                try:
                    await self._find_and_unload(kind, info, bound)
                except LMStudioWebsocketError:
                    # Whether the server got it is unknown; looking again tells.
                    await self._find_and_unload(kind, info, bound)
        except LMStudioTimeoutError:
            raise
        except TimeoutError as error:
            raise self._unload_timed_out(info, bound) from error

    def _unload_timed_out(self, info: AnyInstanceInfo, bound: Bound) -> LMStudioTimeoutError:
        return LMStudioTimeoutError(
            f"unloading {info.identifier!r} on {self.pool.server} took more than "
            f"{bound.seconds:g} s (Timeouts.{bound.name}); if it stays, its TTL or "
            "`lms unload` frees it",
            bound.name,
            bound.seconds,
        )

    async def _find_and_unload(self, kind: Kind, info: AnyInstanceInfo, bound: Bound) -> None:
        # The server unloads by identifier, which may name another instance by now.
        specifier = InstanceSpecifier(info.instance_reference)
        adopted = self._adopted
        try:
            found: Any = await self.pool.call(
                kind.namespace,
                "getModelInfo",
                FindParameter(specifier, throw_if_not_found=False),
                kind.instance_info | None,
                asked=f"looking up {info.identifier!r}",
                bound=bound,
            )
            if found is None or self._is_another(kind, found, adopted):
                return
            await self.unload_identifier(kind, found.identifier, bound, found.device_identifier)
        except (LMStudioModelNotFoundError, LMStudioModelUnloadedError):
            return  # gone in the meantime, which is as good

    def _is_another(self, kind: Kind, found: AnyInstanceInfo, adopted: int) -> bool:
        """Whether we have loaded an instance of that name since we had adopted so many."""
        return any(
            instance.number > adopted
            and instance.kind is kind
            and instance.info.identifier == found.identifier
            and instance.info.instance_reference != found.instance_reference
            for instance in self._instances.values()
        )

    async def unload_identifier(
        self,
        kind: Kind,
        identifier: str,
        bound: Bound,
        device_identifier: str | None = None,
    ) -> None:
        """Unload whatever this identifier names."""
        parameter = UnloadModelParameter(identifier)
        if device_identifier is not None:
            parameter.device_identifier = device_identifier
        await self.pool.call(
            kind.namespace,
            "unloadModel",
            parameter,
            None,
            asked=f"unloading {identifier!r}",
            bound=bound,
            read_only=False,
        )


def raise_failures(failures: list[LMStudioError], leaving: BaseException | None) -> None:
    """Report failed unloads without hiding the exception that is leaving the block already."""
    if not failures:
        return
    if leaving is None:
        raise LMStudioUnloadError("instances were left loaded", failures)
    if isinstance(leaving, LMStudioUnloadError):
        raise leaving.derive([*leaving.exceptions, *failures]) from None  # type: ignore[list-item]
    for failure in failures:
        leaving.add_note(f"While this left a block, an instance stayed loaded: {failure}")
        _logger.error("an instance stayed loaded: %s", failure)
