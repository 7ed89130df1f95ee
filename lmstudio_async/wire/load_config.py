"""Settings for loading a model, and their translation to and from KV config.

Source: lmstudio-js, lms-shared-types: LLMLoadModelConfig and EmbeddingLoadModelConfig.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

from lmstudio_async.wire.config_input import Config
from lmstudio_async.wire.kv_config import (
    UNREADABLE,
    KvConfig,
    KvField,
    Setting,
    checkbox,
    decode_settings,
    encode_settings,
)

# int and float apart: msgspec allows bounds on neither union nor alias, and 10000 must stay 10000.
Ratio: TypeAlias = Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0, le=1)]
Scale: TypeAlias = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
OffloadRatio: TypeAlias = Ratio | Literal["max", "off"]
CacheType: TypeAlias = Literal["f32", "f16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
Positive: TypeAlias = Annotated[int, Meta(ge=1)]
NotNegative: TypeAlias = Annotated[int, Meta(ge=0)]


def refuse_true(config: Struct, *names: str) -> None:
    """Raise ValueError if one of these fields, which take False for "off", is True."""
    # msgspec's Literal takes no booleans, so "a value, or False for off" is typed with bool.
    for name in names:
        if getattr(config, name) is True:
            raise ValueError(f"{name} takes a value, or False to switch it off, not True")


class GpuSetting(Config, forbid_unknown_fields=True):
    """How a model is spread over GPUs.

    ratio: share of the layers to put on GPUs, 0 to 1, "max" or "off".
    num_cpu_expert_layers_ratio: share of the expert layers of a mixture of experts to keep on
        the CPU, likewise.
    main_gpu: index of the GPU to prefer.
    split_strategy: "evenly", or "favorMainGpu" to fill the main GPU first.
    disabled_gpus: indices of GPUs not to use.
    """

    ratio: OffloadRatio | None = None
    num_cpu_expert_layers_ratio: OffloadRatio | None = None
    main_gpu: NotNegative | None = None
    split_strategy: Literal["evenly", "favorMainGpu"] | None = None
    disabled_gpus: list[NotNegative] | None = None


class MlxKvCacheQuantization(Config, forbid_unknown_fields=True):
    """Compression of the KV cache by the MLX engine; `quantized_start` is in tokens."""

    enabled: bool
    bits: Literal[8, 6, 4, 3, 2]
    group_size: Literal[32, 64, 128]
    quantized_start: NotNegative


class LlmLoadModelConfig(Config, forbid_unknown_fields=True):
    """Settings for loading an LLM. What is None is left to the server.

    gpu: how the model is spread over GPUs.
    gpu_strict_vram_cap: never spill from video memory into main memory.
    max_parallel_predictions: predictions that may run at once; more wait their turn.
    use_unified_kv_cache: let parallel predictions share one context memory.
    offload_kv_cache_to_gpu: keep the context in video memory.
    context_length: length of the context, in tokens.
    prompt_template: a Jinja template, {"type": "jinja", "jinjaPromptTemplate": {"template": ...}}.
    rope_frequency_base, rope_frequency_scale: RoPE scaling, False for the model's own.
    eval_batch_size, physical_batch_size: tokens processed at once, logical and physical.
    flash_attention: use flash attention.
    context_checkpoints: context checkpoints kept per slot, 0 for none.
    reasoning_budget_message: text shown to the model when its reasoning budget runs out.
    speculative_draft_mtp: draft with the model's own multi-token prediction heads.
    speculative_draft_simple, speculative_draft_model: draft with a second model, given by key.
    speculative_draft_max_tokens, speculative_draft_min_tokens: length of a draft, in tokens.
    speculative_draft_min_continue_probability: stop drafting below this probability, 0 to 1.
    keep_model_in_memory: forbid the system to swap the model out.
    seed: of the random number generator, False for a random one.
    use_fp16_for_kv_cache: keep the context in 16-bit numbers.
    try_mmap: map the file into memory rather than reading it.
    try_direct_io: read the file past the system's cache.
    num_experts: experts used per token in a mixture of experts.
    llama_k_cache_quantization_type, llama_v_cache_quantization_type: number format of the
        context's keys and values, False for the default.
    mlx_disk_cache: let the MLX engine cache prompts on disk.
    mlx_kv_cache_quantization: compression of the context by the MLX engine, False for none.
    """

    gpu: GpuSetting | None = None
    gpu_strict_vram_cap: bool | None = None
    max_parallel_predictions: Annotated[int, Meta(ge=1, le=1023)] | None = None
    use_unified_kv_cache: bool | None = None
    offload_kv_cache_to_gpu: bool | None = field(name="offloadKVCacheToGpu", default=None)
    context_length: Positive | None = None
    prompt_template: dict[str, Any] | None = None
    rope_frequency_base: Scale | bool | None = None
    rope_frequency_scale: Scale | bool | None = None
    eval_batch_size: Positive | None = None
    physical_batch_size: Positive | None = None
    flash_attention: bool | None = None
    context_checkpoints: NotNegative | None = None
    reasoning_budget_message: str | None = None
    speculative_draft_mtp: bool | None = None
    speculative_draft_simple: bool | None = None
    speculative_draft_model: str | None = None
    speculative_draft_max_tokens: NotNegative | None = None
    speculative_draft_min_tokens: NotNegative | None = None
    speculative_draft_min_continue_probability: Ratio | None = None
    keep_model_in_memory: bool | None = None
    seed: Annotated[int, Meta(ge=-1)] | bool | None = None
    use_fp16_for_kv_cache: bool | None = field(name="useFp16ForKVCache", default=None)
    try_mmap: bool | None = None
    try_direct_io: bool | None = field(name="tryDirectIO", default=None)
    num_experts: NotNegative | None = None
    llama_k_cache_quantization_type: CacheType | bool | None = None
    llama_v_cache_quantization_type: CacheType | bool | None = None
    mlx_disk_cache: bool | None = None
    mlx_kv_cache_quantization: MlxKvCacheQuantization | bool | None = None

    def __post_init__(self) -> None:
        refuse_true(
            self,
            "rope_frequency_base",
            "rope_frequency_scale",
            "seed",
            "llama_k_cache_quantization_type",
            "llama_v_cache_quantization_type",
            "mlx_kv_cache_quantization",
        )
        if self.prompt_template is not None and (
            self.prompt_template.get("type") != "jinja"
            or not isinstance(self.prompt_template.get("jinjaPromptTemplate"), dict)
        ):
            raise ValueError(
                'prompt_template must be {"type": "jinja", '
                '"jinjaPromptTemplate": {"template": ...}}'
            )


class EmbeddingLoadModelConfig(Config, forbid_unknown_fields=True):
    """Settings for loading an embedding model. Fields as in `LlmLoadModelConfig`.

    Of `gpu`, the server takes no ratios for embedding models.
    """

    gpu: GpuSetting | None = None
    context_length: Positive | None = None
    rope_frequency_base: Scale | bool | None = None
    rope_frequency_scale: Scale | bool | None = None
    keep_model_in_memory: bool | None = None
    try_mmap: bool | None = None

    def __post_init__(self) -> None:
        refuse_true(self, "rope_frequency_base", "rope_frequency_scale")


def _encode_mlx_cache(value: MlxKvCacheQuantization | bool) -> MlxKvCacheQuantization:
    if isinstance(value, MlxKvCacheQuantization):
        return value
    return MlxKvCacheQuantization(enabled=False, bits=8, group_size=64, quantized_start=5000)


def _decode_mlx_cache(value: dict[str, Any]) -> MlxKvCacheQuantization | bool:
    if not value["enabled"]:
        return False
    return MlxKvCacheQuantization(
        enabled=True,
        bits=value["bits"],
        group_size=value["groupSize"],
        quantized_start=value["quantizedStart"],
    )


_LLAMA = "llm.load.llama."
_DRAFT = "llm.load.llama.speculativeDecoding."

_COMMON_SETTINGS = (
    Setting("max_parallel_predictions", "llm.load.numParallelSessions"),
    Setting("context_length", "llm.load.contextLength"),
    checkbox("seed", "llm.load.seed", 0),
)
_LLAMA_SETTINGS_TO_DRAFTER = (
    Setting("gpu_strict_vram_cap", "load.gpuStrictVramCap"),
    Setting("max_parallel_predictions", "llm.load.numParallelSessions"),
    Setting("use_unified_kv_cache", "llm.load.useUnifiedKvCache"),
    Setting("offload_kv_cache_to_gpu", "llm.load.offloadKVCacheToGpu"),
    Setting("context_length", "llm.load.contextLength"),
    Setting("prompt_template", "llm.load.promptTemplate"),
    checkbox("rope_frequency_base", _LLAMA + "ropeFrequencyBase", 0),
    checkbox("rope_frequency_scale", _LLAMA + "ropeFrequencyScale", 0),
    Setting("eval_batch_size", _LLAMA + "evalBatchSize"),
    Setting("physical_batch_size", _LLAMA + "physicalBatchSize"),
    Setting("flash_attention", _LLAMA + "flashAttention"),
    Setting("context_checkpoints", _LLAMA + "contextCheckpoints"),
    Setting("reasoning_budget_message", _LLAMA + "reasoningBudgetMessage"),
    Setting("speculative_draft_mtp", _DRAFT + "draftMtp"),
    Setting("speculative_draft_simple", _DRAFT + "draftSimple"),
)
_LLAMA_SETTINGS_FROM_DRAFT_MODEL = (
    Setting("speculative_draft_model", _DRAFT + "draftModel"),
    Setting("speculative_draft_max_tokens", _DRAFT + "draftMaxTokens"),
    Setting("speculative_draft_min_tokens", _DRAFT + "draftMinTokens"),
    Setting("speculative_draft_min_continue_probability", _DRAFT + "draftMinContinueProbability"),
    Setting("keep_model_in_memory", _LLAMA + "keepModelInMemory"),
    checkbox("seed", "llm.load.seed", 0),
    Setting("use_fp16_for_kv_cache", _LLAMA + "useFp16ForKVCache"),
    Setting("try_mmap", _LLAMA + "tryMmap"),
    Setting("try_direct_io", _LLAMA + "tryDirectIO"),
    Setting("num_experts", "llm.load.numExperts"),
    checkbox("llama_k_cache_quantization_type", _LLAMA + "kCacheQuantizationType", "f16"),
    checkbox("llama_v_cache_quantization_type", _LLAMA + "vCacheQuantizationType", "f16"),
)
_LLAMA_SETTINGS = _LLAMA_SETTINGS_TO_DRAFTER + _LLAMA_SETTINGS_FROM_DRAFT_MODEL
_MLX_SETTINGS = (
    Setting("mlx_disk_cache", "llm.load.mlx.diskCache"),
    Setting(
        "mlx_kv_cache_quantization",
        "llm.load.mlx.kvCacheQuantization",
        _encode_mlx_cache,
        _decode_mlx_cache,
    ),
)
_EMBEDDING_SETTINGS = (
    Setting("context_length", "embedding.load.contextLength"),
    checkbox("rope_frequency_base", "embedding.load.llama.ropeFrequencyBase", 0),
    checkbox("rope_frequency_scale", "embedding.load.llama.ropeFrequencyScale", 0),
    Setting("keep_model_in_memory", "embedding.load.llama.keepModelInMemory"),
    Setting("try_mmap", "embedding.load.llama.tryMmap"),
)

_GPU_SPLIT = "load.gpuSplitConfig"
_OFFLOAD_RATIO = _LLAMA + "acceleration.offloadRatio"
_CPU_EXPERT_RATIO = "llm.load.numCpuExpertLayersRatio"
_SIDECARS = ("draftDflashSidecar", "draftDsparkSidecar", "draftMtpSidecar")


def llm_load_config_to_kv(config: LlmLoadModelConfig) -> KvConfig:
    """Load settings of an LLM as KV config."""
    fields = _encode_gpu_split(config.gpu)
    if config.gpu is not None:
        if config.gpu.ratio is not None:
            fields.append(KvField(_OFFLOAD_RATIO, config.gpu.ratio))
        if config.gpu.num_cpu_expert_layers_ratio is not None:
            fields.append(KvField(_CPU_EXPERT_RATIO, config.gpu.num_cpu_expert_layers_ratio))
    fields += encode_settings(config, _LLAMA_SETTINGS_TO_DRAFTER)
    if not (
        config.speculative_draft_mtp is None
        and config.speculative_draft_simple is None
        and config.speculative_draft_model is None
    ):
        # Who chooses a drafter by these fields must not inherit one of the other kinds from a
        # lower layer.
        fields += [KvField(_DRAFT + sidecar, False) for sidecar in _SIDECARS]
    fields += encode_settings(config, _LLAMA_SETTINGS_FROM_DRAFT_MODEL)
    return KvConfig(fields + encode_settings(config, _MLX_SETTINGS))


def llm_load_config_from_kv(config: KvConfig, model_format: str = "gguf") -> LlmLoadModelConfig:
    """Load settings of an LLM from KV config. GGUF and MLX models have different ones."""
    values = config.to_dict()
    if model_format != "gguf":
        return decode_settings(LlmLoadModelConfig, values, _COMMON_SETTINGS + _MLX_SETTINGS)
    gpu = _decode_gpu_split(values.get(_GPU_SPLIT))
    ratio, cpu_ratio = values.get(_OFFLOAD_RATIO), values.get(_CPU_EXPERT_RATIO)
    if ratio is not None or cpu_ratio is not None:
        gpu = gpu or GpuSetting()
        gpu.ratio, gpu.num_cpu_expert_layers_ratio = ratio, cpu_ratio
    return decode_settings(LlmLoadModelConfig, values, _LLAMA_SETTINGS, gpu=gpu)


def embedding_load_config_to_kv(config: EmbeddingLoadModelConfig) -> KvConfig:
    """Load settings of an embedding model as KV config."""
    return KvConfig(_encode_gpu_split(config.gpu) + encode_settings(config, _EMBEDDING_SETTINGS))


def embedding_load_config_from_kv(config: KvConfig) -> EmbeddingLoadModelConfig:
    """Load settings of an embedding model from KV config."""
    values = config.to_dict()
    gpu = _decode_gpu_split(values.get(_GPU_SPLIT))
    return decode_settings(EmbeddingLoadModelConfig, values, _EMBEDDING_SETTINGS, gpu=gpu)


def _encode_gpu_split(gpu: GpuSetting | None) -> list[KvField]:
    if gpu is None:
        return []
    return [
        KvField(
            _GPU_SPLIT,
            {
                "strategy": "priorityOrder" if gpu.split_strategy == "favorMainGpu" else "evenly",
                "disabledGpus": gpu.disabled_gpus or [],
                "priority": [] if gpu.main_gpu is None else [gpu.main_gpu],
                "customRatio": [],
            },
        )
    ]


def _decode_gpu_split(split: dict[str, Any] | None) -> GpuSetting | None:
    if split is None:
        return None
    strategies: dict[str, Literal["evenly", "favorMainGpu"]] = {
        "evenly": "evenly",
        "priorityOrder": "favorMainGpu",
    }
    try:
        return GpuSetting(
            split_strategy=strategies.get(split["strategy"]),
            disabled_gpus=split["disabledGpus"],
            main_gpu=split["priority"][0] if split["priority"] else None,
        )
    except UNREADABLE:
        return None
