"""Predictions: chat history, what the model generates, and the packets that carry it.

Source: lmstudio-js, lms-shared-types: ChatHistoryData, LLMPredictionFragment, LLMPredictionStats;
lms-external-backend-interfaces: llmBackendInterface.
"""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from lmstudio_async.wire.kv_config import KvConfig, KvConfigStack
from lmstudio_async.wire.model_info import LlmInstanceInfo, ModelSpecifier
from lmstudio_async.wire.server_error import ServerError


class _Part(Struct, tag_field="type", rename="camel", omit_defaults=True, kw_only=True):
    pass


class TextPart(_Part, tag="text"):
    text: str


FileType: TypeAlias = Literal[
    "image", "text/plain", "application/pdf", "application/word", "text/other", "unknown"
]


class FilePart(_Part, tag="file"):
    """A file that was given to the server before; `identifier` is the server's name for it."""

    name: str
    identifier: str
    size_bytes: int
    file_type: FileType


class ToolCallRequest(_Part, tag="function"):
    """A tool call as the model asked for it."""

    name: str
    id: str | None = None
    arguments: dict[str, Any] | None = None


class ToolCallRequestPart(_Part, tag="toolCallRequest"):
    tool_call_request: ToolCallRequest


class ToolCallResultPart(_Part, tag="toolCallResult"):
    content: str
    tool_call_id: str | None = None
    name: str | None = None


class _ChatMessage(Struct, tag_field="role"):
    pass


class AssistantMessage(_ChatMessage, tag="assistant"):
    content: list[TextPart | FilePart | ToolCallRequestPart]


class UserMessage(_ChatMessage, tag="user"):
    content: list[TextPart | FilePart]


class SystemMessage(_ChatMessage, tag="system"):
    content: list[TextPart | FilePart]


class ToolMessage(_ChatMessage, tag="tool"):
    content: list[ToolCallResultPart]


ChatMessage: TypeAlias = AssistantMessage | UserMessage | SystemMessage | ToolMessage


class ChatHistory(Struct):
    messages: list[ChatMessage]


class PredictParameter(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Creation parameter of the `predict` channel."""

    model_specifier: ModelSpecifier
    history: ChatHistory
    prediction_config_stack: KvConfigStack
    fuzzy_preset_identifier: str | None = None
    ignore_server_session_config: bool | None = None


class CompleteRawTextParameter(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Creation parameter of the `completeRawText` channel."""

    model_specifier: ModelSpecifier
    raw_prompt: str
    prediction_config_stack: KvConfigStack
    fuzzy_preset_identifier: str | None = None
    ignore_server_session_config: bool | None = None


ReasoningType: TypeAlias = Literal["none", "reasoning", "reasoningStartTag", "reasoningEndTag"]


class TokenCandidate(Struct, rename="camel", frozen=True):
    """A token that might have come; `log_prob` is the natural logarithm of its probability."""

    text: str
    id: int
    log_prob: float


class Token(Struct, rename="camel", omit_defaults=True, frozen=True):
    """A generated token with, on request, its log-probability and the candidates beside it."""

    text: str
    id: int
    log_prob: float | None = None
    candidates: list[TokenCandidate] | None = None


class LlmPredictionFragment(Struct, rename="camel", kw_only=True, frozen=True):
    """A piece of a prediction, as it is generated.

    `content` is its text, `tokens_count` how many tokens it holds. `contains_drafted`: some came
    from speculative decoding. `reasoning_type` tells reasoning from the answer. `is_structural`:
    the text belongs to a format, not to the answer. `tokens` is there when log-probabilities were
    asked for.
    """

    content: str
    tokens_count: int = 1
    contains_drafted: bool = False
    reasoning_type: ReasoningType = "none"
    is_structural: bool = False
    tokens: list[Token] | UnsetType = UNSET


class PromptProcessingDetails(Struct, rename="camel", frozen=True, kw_only=True):
    """How far the prompt is processed, in tokens."""

    cached_token_count: int
    total_prompt_token_count: int
    processed_prompt_token_count: int
    unprocessed_prompt_token_count: int


StopReason: TypeAlias = Literal[
    "userStopped",
    "modelUnloaded",
    "failed",
    "eosFound",
    "stopStringFound",
    "toolCalls",
    "maxPredictedTokensReached",
    "contextLengthReached",
]


class LlmPredictionStats(
    Struct,
    rename="camel",
    omit_defaults=True,
    repr_omit_defaults=True,
    kw_only=True,
    frozen=True,
):
    """Figures of a finished prediction.

    `stop_reason` says why it ended, `stop_string` which one was found. Times are in seconds,
    counts in tokens, `num_gpu_layers` in layers. The draft counts are of speculative decoding.
    """

    stop_reason: StopReason
    stop_string: str | None = None
    tokens_per_second: float | None = None
    num_gpu_layers: float | None = None
    time_to_first_token_sec: float | None = None
    total_time_sec: float | None = None
    prompt_tokens_count: int | None = None
    predicted_tokens_count: int | None = None
    total_tokens_count: int | None = None
    used_draft_model_key: str | None = None
    total_draft_tokens_count: int | None = None
    accepted_draft_tokens_count: int | None = None
    rejected_draft_tokens_count: int | None = None
    ignored_draft_tokens_count: int | None = None


class _Packet(Struct, tag_field="type", rename="camel"):
    pass


class FragmentPacket(_Packet, tag="fragment"):
    fragment: LlmPredictionFragment


class PromptProcessingProgressPacket(_Packet, tag="promptProcessingProgress"):
    """`progress` runs from 0 to 1."""

    progress: float
    details: PromptProcessingDetails | UnsetType = UNSET


class ToolCallGenerationStartPacket(_Packet, tag="toolCallGenerationStart"):
    """The model begins to call a tool."""

    tool_call_id: str | UnsetType = UNSET


class ToolCallGenerationNamePacket(_Packet, tag="toolCallGenerationNameReceived"):
    name: str


class ToolCallGenerationArgumentsPacket(_Packet, tag="toolCallGenerationArgumentFragmentGenerated"):
    """More of the arguments' JSON."""

    content: str


class ToolCallGenerationEndPacket(_Packet, tag="toolCallGenerationEnd"):
    """The call is complete; `raw_content` is how the model put it."""

    tool_call_request: ToolCallRequest
    raw_content: str | UnsetType = UNSET


class ToolCallGenerationFailedPacket(_Packet, tag="toolCallGenerationFailed"):
    error: ServerError
    raw_content: str | UnsetType = UNSET


class PredictionSuccessPacket(_Packet, tag="success"):
    stats: LlmPredictionStats
    model_info: LlmInstanceInfo
    load_model_config: KvConfig
    prediction_config: KvConfig


PredictPacket: TypeAlias = FragmentPacket | PromptProcessingProgressPacket | PredictionSuccessPacket


class PreloadDraftModelParameter(Struct, rename="camel"):
    """Parameter of `preloadDraftModel`."""

    specifier: ModelSpecifier
    draft_model_key: str


class ApplyPromptTemplateOptions(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What to leave out of a formatted prompt, and the tools to offer in it, in protocol form."""

    omit_bos_token: bool | None = None
    omit_eos_token: bool | None = None
    tool_definitions: list[dict[str, Any]] | None = None


class ApplyPromptTemplateParameter(Struct, rename="camel", kw_only=True):
    """Parameter of `applyPromptTemplate`."""

    specifier: ModelSpecifier
    history: ChatHistory
    prediction_config_stack: KvConfigStack
    opts: ApplyPromptTemplateOptions


class ApplyPromptTemplateResult(Struct):
    formatted: str
