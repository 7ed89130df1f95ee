"""Load settings, from KV config to the parameters of llama.cpp."""

from collections.abc import Callable
from typing import Any

import psutil

from lmstudio_async.embedded.library import Model
from lmstudio_async.embedded.ranges import (
    BAD_VALUE,
    INT32_MAX,
    flag,
    if_checked,
    number,
    text,
    whole,
)
from lmstudio_async.embedded.refusal import RequestError, bad_value, shown
from lmstudio_async.wire.kv_config import KvConfig, KvConfigStack, KvField

DEFAULT_CONTEXT_LENGTH = {"llm": 4096, "embedding": 2048}
_DEFAULT_PARALLEL = 4
_EMBEDDING_PARALLEL = 8  # short texts take less time together than one after another
_MAX_PARALLEL = 256  # llama.cpp's own bound
_MAX_THREADS = 512  # and of this one


def merge_layers(stack: KvConfigStack) -> dict[str, Any]:
    """The values by key that a stack amounts to; its later layers win."""
    values: dict[str, Any] = {}
    for layer in stack.layers:
        values.update(layer.config.to_dict())
    return values


def to_kv_config(values: dict[str, Any]) -> KvConfig:
    return KvConfig([KvField(key, value) for key, value in values.items()])


class LoadSettings:
    """How a model is to be loaded. `config` is as given, with what the server has chosen itself."""

    def __init__(self, model: Model, stack: KvConfigStack) -> None:
        given = {
            key: value
            for key, value in merge_layers(stack).items()
            if key.startswith((f"{model.domain}.load.", "load."))
        }
        prefix = f"{model.domain}.load."
        default = DEFAULT_CONTEXT_LENGTH[model.domain]
        most = model.metadata.context_length or default
        self.model = model
        self.context_length = _count(given, prefix + "contextLength", min(most, default), INT32_MAX)
        self.parallel = _EMBEDDING_PARALLEL
        if model.domain == "llm":
            key = prefix + "numParallelSessions"
            self.parallel = _count(given, key, _DEFAULT_PARALLEL, _MAX_PARALLEL)
            given[key] = self.parallel
        given[prefix + "contextLength"] = self.context_length
        self.values = given
        self.config = to_kv_config(given)
        if self._total_context > INT32_MAX or self.context_bytes > _memory_bytes():
            raise RequestError(
                f"A context of {self.context_length} tokens does not fit into this machine",
                cause=f"all in all {self._total_context} tokens, of "
                f"{model.metadata.context_bytes_per_token} bytes each",
            )

    @property
    def _total_context(self) -> int:
        # Every prediction may use the whole context length, be the memory shared or not.
        return self.context_length * (1 if self._shared else self.parallel)

    @property
    def _shared(self) -> bool:
        return self.values.get("llm.load.useUnifiedKvCache", True) is not False

    @property
    def context_bytes(self) -> int:
        """Memory for the context, about, in bytes."""
        return self._total_context * self.model.metadata.context_bytes_per_token

    def engine_params(self) -> dict[str, Any]:
        """Attributes of xllamacpp.CommonParams; enumerations by the end of their member's name."""
        params: dict[str, Any] = {
            "n_parallel": self.parallel,
            "kv_unified": self._shared,
            "n_ctx": self._total_context,
        }
        for key, value in self.values.items():
            translate = _TRANSLATIONS.get(key.removeprefix(f"{self.model.domain}.load."))
            if translate is not None:
                try:
                    params |= translate(value)
                except BAD_VALUE:
                    raise bad_value(key, value) from None
        key = f"{self.model.domain}.load.llama.acceleration.offloadRatio"
        ratio = self.values.get(key, "max")
        if ratio != "max":
            try:
                share = 0 if ratio == "off" else number(0, 1)(ratio)
            except BAD_VALUE:
                raise bad_value(key, ratio) from None
            params["n_gpu_layers"] = round(share * (self.model.metadata.layers + 1))
        if self.model.domain == "embedding":
            # An input is embedded in one batch, and may fill the context.
            params |= {"embedding": True, "n_ubatch": self.context_length}
            params["n_batch"] = self.context_length
            if self.model.pooling is not None:
                params["pooling_type"] = self.model.pooling
        return params


def _count(values: dict[str, Any], key: str, default: int, most: int) -> int:
    value = values.get(key, default)
    try:
        return whole(1, most)(value)
    except BAD_VALUE:
        raise RequestError(
            f"{key} must be a positive whole number, at most {most}, not {shown(value)}"
        ) from None


def _memory_bytes() -> int:
    return int(psutil.virtual_memory().total)


def _plain(name: str, check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: check(value)}


def _if_checked(name: str, check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def translate(value: Any) -> dict[str, Any]:
        checked = if_checked(check)(value)
        return {} if checked is None else {name: checked}

    return translate


def _cache_type(value: Any) -> str:
    if value not in _CACHE_TYPES:
        raise ValueError
    return str(value).upper()


_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_TRANSLATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "llama.evalBatchSize": _plain("n_batch", whole(1, INT32_MAX)),
    "llama.physicalBatchSize": _plain("n_ubatch", whole(1, INT32_MAX)),
    "llama.flashAttention": lambda value: {
        "flash_attn_type": "ENABLED" if flag(value) else "DISABLED",
    },
    "llama.ropeFrequencyBase": _if_checked("rope_freq_base", number(0, 1e12)),
    "llama.ropeFrequencyScale": _if_checked("rope_freq_scale", number(0, 1e12)),
    "llama.kCacheQuantizationType": _if_checked("cache_type_k", _cache_type),
    "llama.vCacheQuantizationType": _if_checked("cache_type_v", _cache_type),
    "llama.tryMmap": lambda value: {} if flag(value) else {"load_mode": "NONE"},
    "llama.contextCheckpoints": _plain("n_ctx_checkpoints", whole(0, 1024)),
    "llama.cpuThreadPoolSize": _plain("cpuparams.n_threads", whole(1, _MAX_THREADS)),
    "offloadKVCacheToGpu": lambda value: {"no_kv_offload": not flag(value)},
    "promptTemplate": lambda value: {
        "chat_template": text(value["jinjaPromptTemplate"]["template"])
    },
}
