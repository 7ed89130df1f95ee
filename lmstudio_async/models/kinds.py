"""What differs between kinds of models, as far as loading goes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from lmstudio_async.wire.config_input import Config
from lmstudio_async.wire.kv_config import KvConfig
from lmstudio_async.wire.load_config import (
    EmbeddingLoadModelConfig,
    LlmLoadModelConfig,
    embedding_load_config_from_kv,
    embedding_load_config_to_kv,
    llm_load_config_from_kv,
    llm_load_config_to_kv,
)
from lmstudio_async.wire.loading import (
    AlreadyLoadedPacket,
    LoadProgressPacket,
    LoadSuccessPacket,
    ProgressPacket,
    ResolvedPacket,
    StartLoadingPacket,
    SuccessPacket,
    UnloadingOtherJitModelPacket,
)
from lmstudio_async.wire.model_info import (
    EmbeddingModelInfo,
    EmbeddingModelInstanceInfo,
    LlmInfo,
    LlmInstanceInfo,
)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of model. `packets` decodes what comes on its two load channels."""

    namespace: str
    noun: str
    instance_info: Any
    config: type[Config]
    config_to_kv: Callable[[Any], KvConfig]
    config_from_kv: Callable[[KvConfig, str], Any]
    packets: "msgspec.json.Decoder[Any]"


def _packets(info: Any, instance_info: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(
        ResolvedPacket[info]
        | ProgressPacket
        | SuccessPacket[instance_info]
        | AlreadyLoadedPacket[instance_info]
        | StartLoadingPacket[info]
        | UnloadingOtherJitModelPacket
        | LoadProgressPacket
        | LoadSuccessPacket[instance_info]
    )


LLM_KIND = Kind(
    namespace="llm",
    noun="LLM",
    instance_info=LlmInstanceInfo,
    config=LlmLoadModelConfig,
    config_to_kv=llm_load_config_to_kv,
    config_from_kv=llm_load_config_from_kv,
    packets=_packets(LlmInfo, LlmInstanceInfo),
)
EMBEDDING_KIND = Kind(
    namespace="embedding",
    noun="embedding model",
    instance_info=EmbeddingModelInstanceInfo,
    config=EmbeddingLoadModelConfig,
    config_to_kv=embedding_load_config_to_kv,
    config_from_kv=lambda config, _format: embedding_load_config_from_kv(config),
    packets=_packets(EmbeddingModelInfo, EmbeddingModelInstanceInfo),
)
