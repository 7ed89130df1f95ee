"""What `client.llm` and `client.embedding` have in common."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from msgspec import UNSET

from lmstudio_async.arguments import check_callback, check_key, check_ttl
from lmstudio_async.errors import LMStudioModelNotFoundError, LMStudioTypeError, LMStudioValueError
from lmstudio_async.models.handle import ModelHandle
from lmstudio_async.models.kinds import Kind
from lmstudio_async.models.lifecycle import Lease, Lifecycle
from lmstudio_async.models.load import LoadRequest
from lmstudio_async.models.scope import ModelScope
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire.config_input import Config, parse_config
from lmstudio_async.wire.kv_config import KvConfigStack, single_layer
from lmstudio_async.wire.loading import (
    EstimateUsageParameter,
    FindParameter,
    GetOrLoadParameter,
    LoadModelParameter,
    UsageEstimate,
)
from lmstudio_async.wire.model_info import (
    AnyInstanceInfo,
    EmbeddingModelInstanceInfo,
    InstanceSpecifier,
    LlmInstanceInfo,
    ModelQuery,
    ModelSpecifier,
    QuerySpecifier,
)

I = TypeVar("I", LlmInstanceInfo, EmbeddingModelInstanceInfo)  # noqa: E741
H = TypeVar("H", bound=ModelHandle[Any, Any])
C = TypeVar("C", bound=Config)

# Idle seconds after which the server unloads an instance, as in the official SDK.
DEFAULT_TTL = 3600


class ModelNamespace(Generic[I, H, C]):
    """Models of one kind: load, find, list and unload them.

    timeout: of every method that waits for the server: seconds in place of what the client's
        `Timeouts` say; math.inf for no bound, but not for `unload`. Beyond it,
        LMStudioTimeoutError is raised.
    """

    _kind: ClassVar[Kind]
    _handle: ClassVar[type[Any]]

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._pool = lifecycle.pool

    def model(
        self,
        model_key: str | None = None,
        /,
        *,
        ttl: float | None = DEFAULT_TTL,
        config: C | Mapping[str, Any] | None = None,
        on_load_progress: Callable[[float], object] | None = None,
        device_identifier: str | None = None,
        timeout: float | None = None,
    ) -> ModelScope[H]:
        """Get a model, loading it if it is not loaded. Await the result, or enter it as a scope.

        Without a key: any loaded model of this kind, never loading nor unloading one. Tasks that
        ask for one key at the same time share one load, with the settings and the time-out of the
        first.

        model_key: names a model on disk, or a loaded instance.
        ttl: idle seconds after which the server unloads the instance, None for never. Applies
            when this call loads the model, as does `config`.
        config: settings to load it with.
        on_load_progress: called with the share that is loaded, 0 to 1; an exception is logged.
        device_identifier: the machine to load it on, where LM Studio is linked to several.
        timeout: most seconds between two words of the server about the load, in place of
            `Timeouts.load`; without a key, for its answer, in place of `Timeouts.call`.

        Raises LMStudioModelNotFoundError if there is no such model.
        """
        if model_key is None:
            if config is not None or on_load_progress is not None or device_identifier is not None:
                raise LMStudioValueError(
                    "config, on_load_progress and device_identifier are for loading, which "
                    ".model() without a key never does; give it a model key"
                )
            bound = self._bound(timeout)
            return self._scope(lambda: self._any_loaded(bound), f"{self._kind.namespace}.model()")
        key = check_key("model_key", model_key)
        request = LoadRequest(
            kind=self._kind,
            key=key,
            parameter=GetOrLoadParameter(
                identifier=key,
                load_ttl_ms=check_ttl(ttl),
                load_config_stack=self._config_stack(config),
                device_identifier=_device(device_identifier),
            ),
            shared_key=(self._kind.namespace, key, device_identifier),
            bound=self._pool.timeouts.bound("load", timeout),
            asked=f"{self._kind.namespace}.model({key!r})",
        )
        return self._load_scope(request, on_load_progress)

    def load_new_instance(
        self,
        model_key: str,
        instance_identifier: str | None = None,
        *,
        ttl: float | None = DEFAULT_TTL,
        config: C | Mapping[str, Any] | None = None,
        on_load_progress: Callable[[float], object] | None = None,
        device_identifier: str | None = None,
        timeout: float | None = None,
    ) -> ModelScope[H]:
        """Load another instance of a model, loaded or not. Await the result, or enter it.

        A scope unloads exactly this instance when it exits, always.

        instance_identifier: the name the instance shall have; it must be free. The server
            chooses one if it is None. Other parameters as in `model`.
        """
        key = check_key("model_key", model_key)
        if instance_identifier is not None:
            check_key("instance_identifier", instance_identifier)
        request = LoadRequest(
            kind=self._kind,
            key=key,
            parameter=LoadModelParameter(
                model_key=key,
                identifier=instance_identifier,
                ttl_ms=check_ttl(ttl),
                load_config_stack=self._config_stack(config),
                device_identifier=_device(device_identifier),
            ),
            shared_key=None,
            bound=self._pool.timeouts.bound("load", timeout),
            asked=f"{self._kind.namespace}.load_new_instance({key!r})",
        )
        return self._load_scope(request, on_load_progress)

    async def unload(self, model_identifier: str, /, *, timeout: float | None = None) -> None:
        """Unload the instance that has this identifier, whoever loaded it.

        Raises LMStudioModelNotFoundError if there is none.
        """
        identifier = check_key("model_identifier", model_identifier)
        bound = self._pool.timeouts.bound("unload", timeout)
        await self._lifecycle.unload_identifier(self._kind, identifier, bound)

    async def list_loaded(self, *, timeout: float | None = None) -> list[H]:
        """Handles of all loaded models of this kind, whoever loaded them."""
        list_type = list[self._kind.instance_info]  # type: ignore[name-defined]
        infos: list[AnyInstanceInfo] = await self._pool.call(
            self._kind.namespace, "listLoaded", UNSET, list_type, bound=self._bound(timeout)
        )
        return [self._make_handle(info) for info in infos]

    async def get_model_info(
        self,
        model_specifier: str | ModelSpecifier | ModelQuery,
        /,
        *,
        timeout: float | None = None,
    ) -> I:
        """The description of a loaded model, given its identifier, a query, or a specifier.

        Raises LMStudioModelNotFoundError if none is loaded that matches.
        """
        info: I = await self._pool.call(
            self._kind.namespace,
            "getModelInfo",
            FindParameter(_specifier(model_specifier), throw_if_not_found=True),
            self._kind.instance_info,
            asked=f"looking up {model_specifier!r}",
            bound=self._bound(timeout),
        )
        return info

    async def estimate_usage(
        self,
        model_key: str,
        /,
        *,
        config: C | Mapping[str, Any] | None = None,
        device_identifier: str | None = None,
        timeout: float | None = None,
    ) -> UsageEstimate:
        """How much memory loading a model would take, without loading it."""
        key = check_key("model_key", model_key)
        parameter = EstimateUsageParameter(
            key, self._config_stack(config), _device(device_identifier)
        )
        return await self._pool.call(
            self._kind.namespace,
            "estimateModelUsage",
            parameter,
            UsageEstimate,
            asked=f"estimating {key!r}",
            bound=self._bound(timeout),
        )

    def _config_stack(self, config: C | Mapping[str, Any] | None) -> KvConfigStack:
        return single_layer(
            self._kind.config_to_kv(parse_config(self._kind.config, config, "config"))
        )

    def _load_scope(
        self, request: LoadRequest, on_progress: Callable[[float], object] | None
    ) -> ModelScope[H]:
        check_callback("on_load_progress", on_progress)
        return self._scope(lambda: self._lifecycle.acquire(request, on_progress), request.asked)

    def _scope(self, acquire: Any, asked: str) -> ModelScope[H]:
        return ModelScope(acquire, lambda lease: self._make_handle(lease.info), asked)

    def _make_handle(self, info: AnyInstanceInfo) -> H:
        handle: H = self._handle(self._lifecycle, info)
        return handle

    def _bound(self, timeout: float | None) -> Bound:
        return self._pool.timeouts.bound("call", timeout)

    async def _any_loaded(self, bound: Bound) -> Lease:
        info: AnyInstanceInfo | None = await self._pool.call(
            self._kind.namespace,
            "getModelInfo",
            FindParameter(QuerySpecifier(ModelQuery()), throw_if_not_found=False),
            self._kind.instance_info | None,
            bound=bound,
        )
        if info is None:
            raise LMStudioModelNotFoundError(
                f"no {self._kind.noun} is loaded on {self._pool.server}; name one to load it: "
                f".model('model-key')"
            )
        return self._lifecycle.lease(info, None, owner=False)


def _device(device_identifier: str | None) -> Any:
    if device_identifier is None:
        return UNSET
    return check_key("device_identifier", device_identifier)


def _specifier(given: object) -> ModelSpecifier:
    match given:
        case QuerySpecifier() | InstanceSpecifier():
            return given
        case ModelQuery():
            return QuerySpecifier(given)
        case str():
            return QuerySpecifier(ModelQuery(identifier=check_key("model_specifier", given)))
    raise LMStudioTypeError(
        f"model_specifier must be an identifier or a ModelQuery, not {type(given).__name__}"
    )
