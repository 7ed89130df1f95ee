"""Load settings, from KV config to the parameters of llama.cpp."""

from collections.abc import Callable
from typing import Any

from lmstudio_async.embedded.library import Model
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.wire.kv_config import KvConfig, KvConfigStack, KvField

DEFAULT_CONTEXT_LENGTH = {"llm": 4096, "embedding": 2048}
_DEFAULT_PARALLEL = 4
_EMBEDDING_PARALLEL = 8  # short texts take less time together than one after another


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
        self.context_length = _count(given, prefix + "contextLength", min(most, default))
        self.parallel = _EMBEDDING_PARALLEL
        if model.domain == "llm":
            self.parallel = _count(given, prefix + "numParallelSessions", _DEFAULT_PARALLEL)
            given[prefix + "numParallelSessions"] = self.parallel
        given[prefix + "contextLength"] = self.context_length
        self.values = given
        self.config = to_kv_config(given)

    @property
    def _total_context(self) -> int:
        # Every prediction may use the whole context length, be the memory shared or not.
        return self.context_length * (1 if self._shared else self.parallel)

    @property
    def _shared(self) -> bool:
        return bool(self.values.get("llm.load.useUnifiedKvCache", True))

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
                except (TypeError, KeyError, AttributeError):
                    raise RequestError(f"{value!r} is no value for {key}") from None
        ratio = self.values.get(f"{self.model.domain}.load.llama.acceleration.offloadRatio", "max")
        if ratio != "max":
            share = 0 if ratio == "off" else ratio
            params["n_gpu_layers"] = round(share * (self.model.metadata.layers + 1))
        if self.model.domain == "embedding":
            # An input is embedded in one batch, and may fill the context.
            params |= {"embedding": True, "n_ubatch": self.context_length}
            params["n_batch"] = self.context_length
            if self.model.pooling is not None:
                params["pooling_type"] = self.model.pooling
        return params


def _count(values: dict[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise RequestError(f"{key} must be a positive whole number, not {value!r}")
    return int(value)


def _if_checked(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: value["value"]} if value["checked"] else {}


def _cache_type(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: value["value"].upper()} if value["checked"] else {}


_TRANSLATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "llama.evalBatchSize": lambda value: {"n_batch": int(value)},
    "llama.physicalBatchSize": lambda value: {"n_ubatch": int(value)},
    "llama.flashAttention": lambda value: {
        "flash_attn_type": "ENABLED" if value else "DISABLED",
    },
    "llama.ropeFrequencyBase": _if_checked("rope_freq_base"),
    "llama.ropeFrequencyScale": _if_checked("rope_freq_scale"),
    "llama.kCacheQuantizationType": _cache_type("cache_type_k"),
    "llama.vCacheQuantizationType": _cache_type("cache_type_v"),
    "llama.tryMmap": lambda value: {} if value else {"load_mode": "NONE"},
    "llama.contextCheckpoints": lambda value: {"n_ctx_checkpoints": int(value)},
    "llama.cpuThreadPoolSize": lambda value: {"cpuparams.n_threads": int(value)},
    "offloadKVCacheToGpu": lambda value: {"no_kv_offload": not value},
    "promptTemplate": lambda value: {"chat_template": value["jinjaPromptTemplate"]["template"]},
}
