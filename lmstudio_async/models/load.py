"""One load in progress, shared by all who wait for it."""

import logging
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from anyio import Event

from lmstudio_async.errors import (
    LMStudioChannelClosedError,
    LMStudioClientError,
    LMStudioError,
    LMStudioTimeoutError,
    LMStudioWebsocketError,
)
from lmstudio_async.models.kinds import Kind
from lmstudio_async.pool import OpenChannel
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire.loading import (
    AlreadyLoadedPacket,
    CancelPacket,
    FindParameter,
    GetOrLoadParameter,
    LoadModelParameter,
    LoadProgressPacket,
    LoadSuccessPacket,
    ProgressPacket,
    ResolvedPacket,
    StartLoadingPacket,
    SuccessPacket,
    UnloadingOtherJitModelPacket,
)
from lmstudio_async.wire.model_info import AnyInstanceInfo, ModelQuery, QuerySpecifier

if TYPE_CHECKING:
    from lmstudio_async.models.lifecycle import Instance, Lease, Lifecycle

_logger = logging.getLogger("lmstudio_async")

# How often, and for how many seconds in all, to look for an instance whose load was under way when
# the connection was lost: the server may finish it after we are back.
_RECOVERY_INTERVAL = 1.0
_RECOVERY_TIMEOUT = 30.0


@dataclass(frozen=True)
class LoadRequest:
    """What to load. `shared_key` is what concurrent requests for the same have in common; a
    request without one is never shared. `bound` limits the server's silence."""

    kind: Kind
    key: str
    parameter: GetOrLoadParameter | LoadModelParameter
    shared_key: Hashable | None
    bound: Bound
    asked: str

    @property
    def endpoint(self) -> str:
        return "loadModel" if isinstance(self.parameter, LoadModelParameter) else "getOrLoad"


class Load:
    """A load runs in a task of its own, since it belongs to all who wait for it.

    `over`: too late to join. `ended`: the clean-up after it, if it was cancelled or cut off, is
    done too. `gone`: what scopes have unloaded meanwhile; the server may have named it before.
    """

    def __init__(
        self, lifecycle: "Lifecycle", request: LoadRequest, previous: "Load | None"
    ) -> None:
        self.request = request
        self.over = False
        self.ended = Event()
        self.gone: set[str] = set()
        self._lifecycle = lifecycle
        self._previous = previous
        self._waiting = 0
        self._progress: list[float] = []
        self._changed = Event()
        self._info: AnyInstanceInfo | None = None
        self._instance: Instance | None = None
        self._loaded_here = False
        self._error: LMStudioError | None = None
        self._scope = anyio.CancelScope()
        self._recovery = anyio.CancelScope()
        # Known once the server has begun to load under this identifier for us.
        self._identifier: str | None = None
        self._lost = False

    async def join(self, on_progress: Callable[[float], object] | None) -> "Lease":
        """Wait for the instance. The callback runs here, in the task of whoever gave it."""
        self._waiting += 1
        reported = 0
        try:
            while True:
                while on_progress is not None and reported < len(self._progress):
                    self._report(on_progress, self._progress[reported])
                    reported += 1
                if self.over:
                    break
                await self._changed.wait()
        except BaseException:
            self._leave()
            raise
        if self._error is not None:
            raise copy(self._error) from self._error.__cause__
        return self._lease()

    def fail(self, error: LMStudioError) -> None:
        """Give up the load: everybody who waits gets the error, and the server is told."""
        if not self.over:
            self._finish(error)
        self._scope.cancel()
        self._recovery.cancel()

    async def run(self) -> None:
        """The load itself, and what has to be put right after it."""
        channel = None
        try:
            try:
                with self._scope:
                    await self._wait_for_previous()
                    while True:
                        channel = await self._new_channel()
                        await channel.open()
                        info, loaded_here = await self._follow(channel)
                        instance = self._lifecycle.find(info.instance_reference)
                        if instance is not None and instance.unloading:
                            # A scope of ours was just unloading what the server called loaded.
                            await instance.unloaded.wait()
                        elif info.instance_reference not in self.gone:
                            break
                    self._succeed(info, loaded_here)
            except LMStudioTimeoutError as error:
                self._finish(error)
            if self._info is None and channel is not None:
                await self._retract(channel)
        except (LMStudioWebsocketError, LMStudioTimeoutError) as error:
            self._lost = True
            self._finish(error)
            await self._recover()
        except LMStudioError as error:
            self._finish(error)
        except BaseException as error:
            # Who still waits must not wait for ever.
            self._finish(LMStudioClientError(f"{self.request.asked} broke off: {error!r}"))
            raise
        finally:
            self._lifecycle.finished(self)
            self.ended.set()

    async def _wait_for_previous(self) -> None:
        if self._previous is not None:
            # Whatever the lost load left behind, somebody wants it again.
            self._previous._recovery.cancel()
            await self._previous.ended.wait()
        if self.request.shared_key is not None:
            await self._lifecycle.wait_for_unloads(self.request.kind, self.request.key)

    async def _new_channel(self) -> OpenChannel:
        request = self.request
        return await self._lifecycle.pool.channel(
            request.kind.namespace, request.endpoint, request.parameter, request.asked, None
        )

    async def _follow(self, channel: OpenChannel) -> tuple[AnyInstanceInfo, bool]:
        """Read the channel up to the instance, and whether this load brought it about."""
        while (packet := await self._receive(channel)) is not None:
            match packet:
                case SuccessPacket() | LoadSuccessPacket():
                    return packet.info, True
                case AlreadyLoadedPacket():
                    return packet.info, self._is_left_over(packet.info)
                case ProgressPacket() | LoadProgressPacket():
                    if isinstance(self.request.parameter, LoadModelParameter):
                        self._identifier = self.request.parameter.identifier
                    self._progress.append(packet.progress)
                    self._wake()
                case StartLoadingPacket():
                    self._identifier = packet.identifier
                case ResolvedPacket() if packet.ambiguous:
                    _logger.warning(
                        "%s: several models have this key, using the first: %s",
                        self.request.asked,
                        ", ".join(packet.ambiguous),
                    )
                case UnloadingOtherJitModelPacket():
                    _logger.info(
                        "%s: the server unloads %r first",
                        self.request.asked,
                        packet.info.identifier,
                    )
        raise LMStudioChannelClosedError(
            f"{self.request.asked}: {self._lifecycle.pool.server} ended the load without a result; "
            "somebody may have cancelled it there"
        )

    async def _receive(self, channel: OpenChannel) -> Any:
        bound = self.request.bound
        with anyio.move_on_after(bound.seconds):
            return await channel.receive(self.request.kind.packets)
        where = f"at {self._progress[-1]:.0%}" if self._progress else "before it began"
        raise LMStudioTimeoutError(
            f"{self.request.asked}: {self._lifecycle.pool.server} said nothing of the load for "
            f"{bound.seconds:g} s (Timeouts.load), {where}",
            bound.name,
            bound.seconds,
        )

    def _is_left_over(self, info: AnyInstanceInfo) -> bool:
        previous = self._previous
        return previous is not None and previous._lost and previous._identifier == info.identifier

    def _succeed(self, info: AnyInstanceInfo, loaded_here: bool) -> None:
        self._info = info
        self._loaded_here = loaded_here
        lifecycle = self._lifecycle
        instance = (
            lifecycle.adopt(self.request, info)
            if loaded_here
            else lifecycle.find(info.instance_reference)
        )
        if not self.over:
            if instance is not None:
                instance.leases += self._waiting
            self._instance = instance
            self._finish()
        elif instance is not None and loaded_here:
            lifecycle.unload_in_background(instance)  # given up a moment too late

    def _finish(self, error: LMStudioError | None = None) -> None:
        if not self.over:
            self.over = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = Event()

    def _report(self, on_progress: Callable[[float], object], progress: float) -> None:
        try:
            on_progress(progress)
        except Exception:
            _logger.exception("%s: on_load_progress raised", self.request.asked)

    def _lease(self) -> "Lease":
        assert self._info is not None
        owner = self._loaded_here and self.request.shared_key is None
        return self._lifecycle.lease(self._info, self._instance, owner=owner)

    def _leave(self) -> None:
        self._waiting -= 1
        if self._instance is not None:
            self._lease().drop()
        elif not self._waiting and not self.over:
            self.over = True
            self._scope.cancel()

    async def _retract(self, channel: OpenChannel) -> None:
        """Nobody waits any more: cancel the load, and unload what comes of it all the same."""
        await channel.send(CancelPacket())
        while (packet := await self._receive(channel)) is not None:
            if isinstance(packet, SuccessPacket | LoadSuccessPacket):
                instance = self._lifecycle.adopt(self.request, packet.info)
                self._lifecycle.unload_in_background(instance)
                await instance.unloaded.wait()

    async def _recover(self) -> None:
        """The connection was lost: unload what the server may have gone on to load for us."""
        if self._identifier is None:
            return
        kind = self.request.kind
        bound = self._lifecycle.pool.timeouts.bound("unload")
        query = QuerySpecifier(ModelQuery(identifier=self._identifier))
        with self._recovery, anyio.move_on_after(_RECOVERY_TIMEOUT):
            while True:
                try:
                    found: Any = await self._lifecycle.pool.call(
                        kind.namespace,
                        "getModelInfo",
                        FindParameter(query, throw_if_not_found=False),
                        kind.instance_info | None,
                        bound=bound,
                    )
                    if found is not None:
                        await self._lifecycle.unload_identifier(kind, self._identifier, bound)
                        return
                except LMStudioError as error:
                    _logger.warning("after a lost connection: %s", error)
                await anyio.sleep(_RECOVERY_INTERVAL)
