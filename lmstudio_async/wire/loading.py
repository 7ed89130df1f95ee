"""Managing models: packets of the load channels, parameters and results of the calls.

Source: lmstudio-js, lms-external-backend-interfaces: baseModelBackendInterface, llm- and
embeddingBackendInterface, systemBackendInterface.
"""

from typing import Generic, Literal, TypeAlias, TypeVar

from msgspec import UNSET, Struct, UnsetType

from lmstudio_async.wire.kv_config import KvConfigStack
from lmstudio_async.wire.model_info import (
    AnyInstanceInfo,
    ModelSpecifier,
)

Info = TypeVar("Info")
Instance = TypeVar("Instance")


class LoadModelParameter(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Creation parameter of the `loadModel` channel. `ttl_ms`: idle milliseconds before unload."""

    model_key: str
    identifier: str | None = None
    device_identifier: str | UnsetType | None = UNSET
    ttl_ms: int | None = None
    load_config_stack: KvConfigStack


class GetOrLoadParameter(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Creation parameter of the `getOrLoad` channel. `identifier` is an identifier or a key."""

    identifier: str
    device_identifier: str | UnsetType | None = UNSET
    load_ttl_ms: int | None = None
    load_config_stack: KvConfigStack


class _Packet(Struct, tag_field="type", rename="camel", omit_defaults=True, kw_only=True):
    pass


class CancelPacket(_Packet, tag="cancel"):
    """Client to server, on every cancellable channel."""


class ResolvedPacket(_Packet, Generic[Info], tag="resolved"):
    info: Info
    ambiguous: list[str] | None = None


class ProgressPacket(_Packet, tag="progress"):
    """`progress` runs from 0 to 1."""

    progress: float


class SuccessPacket(_Packet, Generic[Instance], tag="success"):
    info: Instance


class AlreadyLoadedPacket(_Packet, Generic[Instance], tag="alreadyLoaded"):
    info: Instance


class StartLoadingPacket(_Packet, Generic[Info], tag="startLoading"):
    identifier: str
    info: Info


class UnloadingOtherJitModelPacket(_Packet, tag="unloadingOtherJITModel"):
    info: AnyInstanceInfo


class LoadProgressPacket(_Packet, tag="loadProgress"):
    """`progress` runs from 0 to 1."""

    progress: float


class LoadSuccessPacket(_Packet, Generic[Instance], tag="loadSuccess"):
    info: Instance


class UnloadModelParameter(Struct, rename="camel"):
    identifier: str
    device_identifier: str | UnsetType | None = UNSET


class SpecifierParameter(Struct, rename="camel"):
    """Parameter of `getLoadConfig` and the like."""

    specifier: ModelSpecifier


class FindParameter(Struct, rename="camel"):
    """Parameter of `getModelInfo` and `getInstanceProcessingState`."""

    specifier: ModelSpecifier
    throw_if_not_found: bool


class TextParameter(Struct, rename="camel"):
    """Parameter of `tokenize` and `countTokens`."""

    specifier: ModelSpecifier
    input_string: str


class EmbedParameter(Struct, rename="camel"):
    """Parameter of `embedString`, which names the specifier otherwise."""

    model_specifier: ModelSpecifier
    input_string: str


class TokenizeResult(Struct):
    tokens: list[int]


class CountTokensResult(Struct, rename="camel"):
    token_count: int


class EmbeddingResult(Struct):
    embedding: list[float]


class EstimateUsageParameter(Struct, rename="camel"):
    model_key: str
    load_config_stack: KvConfigStack
    device_identifier: str | UnsetType | None = UNSET


class MemoryEstimate(Struct, rename="camel", frozen=True, kw_only=True):
    """Memory that loading would take, in bytes.

    The `..._vram_bytes` are the part that would lie on a GPU; totals are model and context
    together. `confidence` tells how good the estimate is.
    """

    confidence: Literal["high", "low"]
    model_vram_bytes: float
    context_vram_bytes: float
    total_vram_bytes: float
    model_bytes: float
    context_bytes: float
    total_bytes: float


class UsageEstimate(Struct, rename="camel", frozen=True):
    """What loading would cost. `passes_guardrails`: whether the server would allow it."""

    memory: MemoryEstimate
    passes_guardrails: bool


ProcessingStatus: TypeAlias = Literal[
    "idle", "processingPrompt", "generating", "computingEmbedding"
]


class ProcessingState(Struct, frozen=True):
    """What an instance is doing. `queued`: requests waiting for their turn."""

    status: ProcessingStatus
    queued: int


class ServerVersion(Struct, frozen=True):
    """The server's version and build number."""

    version: str
    build: float


class ServerInfo(Struct, rename="camel", frozen=True):
    """The server's process. `is_daemon`: runs without a window."""

    pid: int
    is_daemon: bool
    version: str
