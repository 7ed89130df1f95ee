"""Settings for a prediction, and their translation to and from KV config.

Source: lmstudio-js, lms-shared-types: LLMPredictionConfig.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, field

from lmstudio_async.wire.config_input import Config
from lmstudio_async.wire.kv_config import (
    KvConfig,
    Setting,
    checkbox,
    decode_settings,
    encode_settings,
)
from lmstudio_async.wire.load_config import NotNegative, Positive, Ratio, Scale, refuse_true

Number: TypeAlias = int | float


class LlmReasoningParsing(Config, forbid_unknown_fields=True):
    """The marks between which a model puts its reasoning."""

    enabled: bool
    start_string: str
    end_string: str


class LlmPredictionConfig(Config, forbid_unknown_fields=True):
    """Settings for one prediction. What is None is left to the server.

    temperature: randomness, 0 for none.
    max_tokens: most tokens to generate, False for no limit.
    reasoning_budget: most tokens to spend on reasoning, False for no limit.
    stop_strings: texts at which generation stops.
    tool_call_stop_strings: texts at which generation stops with the reason "toolCalls".
    context_overflow_policy: what happens when the context is full.
    structured: {"type": "json", "jsonSchema": ...} or {"type": "gbnf", "gbnfGrammar": ...}.
    raw_tools, tool_choice, tool_naming: tools offered to the model, in protocol form.
    top_k_sampling, top_p_sampling, min_p_sampling: sampling limits; the last two False for off.
    repeat_penalty, presence_penalty: penalties on repetition, False for off.
    xtc_probability, xtc_threshold: XTC sampling, False for off.
    log_probs: candidates per token to report with log-probabilities, False for none.
    cpu_threads: threads for generation.
    enable_thinking: for chat templates that can switch reasoning on and off.
    prompt_template: a template, {"type": "jinja" | "manual", ...}, in protocol form.
    draft_model: key of a model for speculative decoding.
    speculative_decoding_...: tuning of speculative decoding, in tokens and probabilities.
    reasoning_parsing: the marks around reasoning.
    user_max_image_dimension_pixels: images are scaled down to this size, False for never.
    ignore_model_preferred_max_image_dimension: whether to ignore the model's own limit.
    raw: further settings as KV config, {"fields": [{"key": ..., "value": ...}]}; the fields
        above win over these.
    """

    temperature: Scale | None = None
    context_overflow_policy: Literal["stopAtLimit", "truncateMiddle", "rollingWindow"] | None = None
    max_tokens: Annotated[int, Meta(ge=-1)] | bool | None = None
    reasoning_budget: NotNegative | bool | None = None
    stop_strings: list[str] | None = None
    tool_call_stop_strings: list[str] | None = None
    structured: dict[str, Any] | None = None
    raw_tools: dict[str, Any] | None = None
    tool_choice: dict[str, Any] | None = None
    tool_naming: Literal["passThrough", "removeSpecial", "snakeCase", "camelCase"] | None = None
    top_k_sampling: Annotated[int, Meta(ge=-1, le=500)] | None = None
    repeat_penalty: Number | bool | None = None
    presence_penalty: Number | bool | None = None
    min_p_sampling: Ratio | bool | None = None
    top_p_sampling: Ratio | bool | None = None
    xtc_probability: Ratio | bool | None = None
    xtc_threshold: Ratio | bool | None = None
    log_probs: Annotated[int, Meta(ge=0, le=100)] | bool | None = None
    cpu_threads: Positive | None = None
    enable_thinking: bool | None = None
    prompt_template: dict[str, Any] | None = None
    draft_model: str | None = None
    speculative_decoding_num_draft_tokens_exact: Positive | None = None
    speculative_decoding_min_draft_length_to_consider: NotNegative | None = None
    speculative_decoding_min_continue_drafting_probability: Ratio | None = None
    reasoning_parsing: LlmReasoningParsing | None = None
    user_max_image_dimension_pixels: Positive | bool | None = None
    ignore_model_preferred_max_image_dimension: bool | None = None
    raw: KvConfig | None = field(default=None)

    def __post_init__(self) -> None:
        refuse_true(self, *(setting.name for setting in _SETTINGS if setting.name in _SWITCHES))


_PREDICTION = "llm.prediction."
_DRAFT = _PREDICTION + "speculativeDecoding."
_SETTINGS = (
    Setting("temperature", _PREDICTION + "temperature"),
    Setting("context_overflow_policy", _PREDICTION + "contextOverflowPolicy"),
    checkbox("max_tokens", _PREDICTION + "maxPredictedTokens", 1),
    checkbox("reasoning_budget", _PREDICTION + "reasoning.budgetTokens", 1024),
    Setting("stop_strings", _PREDICTION + "stopStrings"),
    Setting("tool_call_stop_strings", _PREDICTION + "toolCallStopStrings"),
    Setting("structured", _PREDICTION + "structured"),
    Setting("raw_tools", _PREDICTION + "tools"),
    Setting("tool_choice", _PREDICTION + "toolChoice"),
    Setting("tool_naming", _PREDICTION + "toolNaming"),
    Setting("top_k_sampling", _PREDICTION + "topKSampling"),
    checkbox("repeat_penalty", _PREDICTION + "repeatPenalty", 1.1),
    checkbox("presence_penalty", _PREDICTION + "llama.presencePenalty", 0),
    checkbox("min_p_sampling", _PREDICTION + "minPSampling", 0.05),
    checkbox("top_p_sampling", _PREDICTION + "topPSampling", 0.95),
    checkbox("xtc_probability", _PREDICTION + "llama.xtcProbability", 0),
    checkbox("xtc_threshold", _PREDICTION + "llama.xtcThreshold", 0),
    checkbox("log_probs", _PREDICTION + "logProbs", 0),
    Setting("cpu_threads", _PREDICTION + "llama.cpuThreads"),
    Setting("enable_thinking", _PREDICTION + "reasoning.enableThinking"),
    Setting("prompt_template", _PREDICTION + "promptTemplate"),
    Setting("draft_model", _DRAFT + "draftModel"),
    Setting("speculative_decoding_num_draft_tokens_exact", _DRAFT + "numDraftTokensExact"),
    Setting(
        "speculative_decoding_min_draft_length_to_consider", _DRAFT + "minDraftLengthToConsider"
    ),
    Setting(
        "speculative_decoding_min_continue_drafting_probability",
        _DRAFT + "minContinueDraftingProbability",
    ),
    Setting(
        "reasoning_parsing",
        _PREDICTION + "reasoning.parsing",
        decode=lambda value: LlmReasoningParsing(
            enabled=value["enabled"],
            start_string=value["startString"],
            end_string=value["endString"],
        ),
    ),
    checkbox(
        "user_max_image_dimension_pixels", _PREDICTION + "vision.userMaxImageDimensionPixels", 1024
    ),
    Setting(
        "ignore_model_preferred_max_image_dimension",
        _PREDICTION + "vision.ignoreModelPreferredMaxImageDimension",
    ),
)
_SWITCHES = {
    "max_tokens",
    "reasoning_budget",
    "repeat_penalty",
    "presence_penalty",
    "min_p_sampling",
    "top_p_sampling",
    "xtc_probability",
    "xtc_threshold",
    "log_probs",
    "user_max_image_dimension_pixels",
}


def prediction_config_to_kv(config: LlmPredictionConfig) -> KvConfig:
    """Prediction settings as KV config."""
    fields = {field.key: field for field in (config.raw.fields if config.raw else [])}
    fields.update({field.key: field for field in encode_settings(config, _SETTINGS)})
    return KvConfig(list(fields.values()))


def prediction_config_from_kv(config: KvConfig) -> LlmPredictionConfig:
    """Prediction settings from KV config; keys without a field of their own are skipped."""
    return decode_settings(LlmPredictionConfig, config.to_dict(), _SETTINGS)
