"""Descriptions of models on disk and of loaded instances, and how a request names one.

Source: lmstudio-js, lms-shared-types: ModelInfo, LLMInfo, EmbeddingModelInfo and their instance
forms, ModelSpecifier.
"""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType, field


def _null() -> Any:
    # As a default factory rather than a default: the protocol wants these sent as null, and
    # `omit_defaults` would leave them out.
    return None


class Quantization(Struct, frozen=True):
    """How a model's weights are compressed, such as name "Q4_K_M" with 4 bits a weight."""

    name: str
    bits: int


class ModelInfo(
    Struct,
    rename="camel",
    omit_defaults=True,
    repr_omit_defaults=True,
    kw_only=True,
    frozen=True,
    tag_field="type",
):
    """A model on disk, of any kind.

    `model_key` is what `.model()` takes, `path` the file below the server's models folder,
    `size_bytes` the size of the weights in bytes, `max_context_length` in tokens.
    `device_identifier` names the machine that holds the model, None for the server's own.
    """

    model_key: str
    format: str
    display_name: str
    publisher: str = field(default_factory=str)
    path: str
    size_bytes: int
    indexed_model_identifier: str = field(default_factory=str)
    device_identifier: str | None = field(default_factory=_null)
    params_string: str | None = None
    architecture: str | None = None
    quantization: Quantization | None = None
    variants: list[str] | None = None
    selected_variant: str | None = None
    max_context_length: int

    @property
    def type(self) -> str:
        """The kind of model: "llm" or "embedding"."""
        return str(self.__struct_config__.tag)


class LlmInfo(ModelInfo, kw_only=True, frozen=True, tag="llm"):
    """An LLM on disk. `vision`: takes images; `trained_for_tool_use`: knows tool calls."""

    vision: bool = field(default_factory=bool)
    trained_for_tool_use: bool = field(default_factory=bool)


class EmbeddingModelInfo(ModelInfo, frozen=True, tag="embedding"):
    """An embedding model on disk."""


class LlmInstanceInfo(LlmInfo, kw_only=True, frozen=True, tag="llm"):
    """A loaded LLM.

    `identifier` is unique among what is loaded, `instance_reference` names exactly this load.
    `ttl_ms` is the idle time in milliseconds after which the server unloads it, None for never;
    `last_used_time` is in milliseconds since the epoch; `context_length` in tokens.
    """

    identifier: str
    instance_reference: str
    ttl_ms: float | None = field(default_factory=_null)
    last_used_time: float | None = field(default_factory=_null)
    context_length: int = field(default_factory=int)


class EmbeddingModelInstanceInfo(EmbeddingModelInfo, kw_only=True, frozen=True, tag="embedding"):
    """A loaded embedding model. Fields as in `LlmInstanceInfo`."""

    identifier: str
    instance_reference: str
    ttl_ms: float | None = field(default_factory=_null)
    last_used_time: float | None = field(default_factory=_null)
    context_length: int = field(default_factory=int)


AnyModelInfo: TypeAlias = LlmInfo | EmbeddingModelInfo
AnyInstanceInfo: TypeAlias = LlmInstanceInfo | EmbeddingModelInstanceInfo


class ModelQuery(Struct, rename="camel", omit_defaults=True, repr_omit_defaults=True, kw_only=True):
    """Conditions on a loaded model; an empty query matches any of the namespace."""

    domain: Literal["llm", "embedding", "drafter", "imageGen", "transcription", "tts"] | None = None
    device_identifier: str | UnsetType | None = UNSET
    identifier: str | None = None
    path: str | None = None
    vision: bool | None = None


class QuerySpecifier(Struct, tag_field="type", tag="query"):
    query: ModelQuery


class InstanceSpecifier(
    Struct, tag_field="type", tag="instanceReference", rename="camel", frozen=True
):
    instance_reference: str


ModelSpecifier: TypeAlias = QuerySpecifier | InstanceSpecifier
