"""Instances that the server may have gone on to load after the connection was lost."""

import logging
from typing import TYPE_CHECKING, Any

import anyio
from anyio import Event

from lmstudio_async.errors import LMStudioError
from lmstudio_async.wire.loading import FindParameter
from lmstudio_async.wire.model_info import ModelQuery, QuerySpecifier

if TYPE_CHECKING:
    from lmstudio_async.models.lifecycle import Lifecycle
    from lmstudio_async.models.load import LoadRequest

_logger = logging.getLogger("lmstudio_async")

# How often, and how many times, to look for the instance: the server may finish it after we are
# back.
_INTERVAL = 1.0
_LOOKS = 30


class Recovery:
    """Unloads what has come of a load that was cut off, known by its identifier only.

    It is over when the instance was unloaded, when a later load of this client has come by the
    same identifier and answers for it, or when it has looked often enough.
    """

    def __init__(self, lifecycle: "Lifecycle", request: "LoadRequest", identifier: str) -> None:
        self.kind = request.kind
        self.identifier = identifier
        self.ended = Event()
        self._lifecycle = lifecycle
        self._request = request
        self._looks = _LOOKS
        self._hurry = Event()

    def again(self) -> None:
        """Another load was cut off under the same identifier."""
        self._looks = _LOOKS

    def hurry(self) -> None:
        """The client closes: look once more, now."""
        self._hurry.set()

    async def run(self) -> None:
        try:
            while self._goes_on():
                # Who asks for the model again shall have the one that is there.
                if self._hurry.is_set() or not self._lifecycle.is_loading(self._request):
                    self._looks = 0 if self._hurry.is_set() else self._looks - 1
                    if await self._unload_if_there():
                        return
                with anyio.move_on_after(_INTERVAL):
                    await self._hurry.wait()
        finally:
            self._lifecycle.recovered(self)
            self.ended.set()

    def _goes_on(self) -> bool:
        return self._looks > 0 and self._lifecycle.is_recovering(self)

    async def _unload_if_there(self) -> bool:
        kind, lifecycle = self.kind, self._lifecycle
        query = QuerySpecifier(ModelQuery(identifier=self.identifier))
        try:
            found: Any = await lifecycle.pool.call(
                kind.namespace,
                "getModelInfo",
                FindParameter(query, throw_if_not_found=False),
                kind.instance_info | None,
                bound=lifecycle.pool.timeouts.bound("unload"),
            )
            if found is None or not lifecycle.is_recovering(self):
                return False
            # A load that meets the instance from now on sees that it goes, and waits.
            await lifecycle.unload(lifecycle.adopt(self._request, found))
        except LMStudioError as error:
            level = logging.WARNING if self._looks else logging.ERROR
            _logger.log(level, "%r may be left loaded: %s", self.identifier, error)
            return False
        return True
