"""Predictions: chat history, what the model generates, and the packets that carry it.

Source: lmstudio-js, lms-shared-types: ChatHistoryData, LLMPredictionFragment, LLMPredictionStats;
lms-external-backend-interfaces: llmBackendInterface.
"""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

from lmstudio_async.wire.kv_config import KvConfig, KvConfigStack
from lmstudio_async.wire.model_info import LlmInstanceInfo, ModelSpecifier


class _Part(
    Struct, tag_field="type", rename="camel", omit_defaults=True, kw_only=True, frozen=True
):
    # Frozen, so that chats may share them.

    @property
    def type(self) -> str:
        """What the protocol calls this kind of part."""
        return str(self.__struct_config__.tag)


class TextPart(_Part, frozen=True, tag="text"):
    """Text in a message."""

    text: str


FileType: TypeAlias = Literal[
    "image", "text/plain", "application/pdf", "application/word", "text/other", "unknown"
]


class FilePart(_Part, frozen=True, tag="file"):
    """A file that was given to the server before; `identifier` is the server's name for it.

    `file_type` is what the server took it for. The server forgets the file when the client that
    gave it disconnects.
    """

    name: str
    identifier: str
    size_bytes: int
    file_type: FileType


class ToolCallRequest(_Part, frozen=True, tag="function"):
    """A tool call as the model asked for it."""

    name: str
    id: str | None = None
    arguments: dict[str, Any] | None = None


class ToolCallRequestPart(_Part, frozen=True, tag="toolCallRequest"):
    """A tool call in a message."""

    tool_call_request: ToolCallRequest


class ToolCallResultPart(_Part, frozen=True, tag="toolCallResult"):
    """What a tool call came to: `content` is JSON as a rule, `tool_call_id` the request's `id`."""

    content: str
    tool_call_id: str | None = None
    name: str | None = None


class _ChatMessage(Struct, tag_field="role"):
    content: list[Any]

    @property
    def role(self) -> str:
        """Who speaks: "system", "user", "assistant" or "tool"."""
        return str(self.__struct_config__.tag)

    @property
    def text(self) -> str:
        """The text of the message; several parts of text are joined by spaces."""
        return " ".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def files(self) -> list[FilePart]:
        """The files in the message."""
        return [part for part in self.content if isinstance(part, FilePart)]


class AssistantMessage(_ChatMessage, tag="assistant"):
    """What the model said, and the tool calls that it asked for."""

    content: list[TextPart | FilePart | ToolCallRequestPart]

    @property
    def tool_call_requests(self) -> list[ToolCallRequest]:
        """The tool calls that the model asked for."""
        return [
            part.tool_call_request for part in self.content if isinstance(part, ToolCallRequestPart)
        ]


class UserMessage(_ChatMessage, tag="user"):
    """What the user said, and the files that came with it."""

    content: list[TextPart | FilePart]


class SystemMessage(_ChatMessage, tag="system"):
    """What the model is told of its part in the chat."""

    content: list[TextPart | FilePart]


class ToolMessage(_ChatMessage, tag="tool"):
    """The results of the tool calls in the message before."""

    content: list[ToolCallResultPart]


ChatMessage: TypeAlias = AssistantMessage | UserMessage | SystemMessage | ToolMessage


class ChatHistory(Struct):
    """A chat in protocol form."""

    messages: list[ChatMessage]


class PredictParameter(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Creation parameter of the `predict` channel."""

    model_specifier: ModelSpecifier
    history: ChatHistory
    prediction_config_stack: KvConfigStack
    fuzzy_preset_identifier: str | None = None
    ignore_server_session_config: bool | None = None


class CompleteRawTextParameter(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Creation parameter of the `completeRawText` channel, which older servers lack."""

    model_specifier: ModelSpecifier
    raw_prompt: str
    prediction_config_stack: KvConfigStack
    fuzzy_preset_identifier: str | None = None
    ignore_server_session_config: bool | None = None


class BasePredictionConfigParameter(Struct, rename="camel"):
    """Parameter of `getBasePredictionConfig`."""

    specifier: ModelSpecifier


class PreloadDraftModelParameter(Struct, rename="camel"):
    """Parameter of `preloadDraftModel`."""

    specifier: ModelSpecifier
    draft_model_key: str


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


class LlmPredictionFragment(Struct, rename="camel", kw_only=True, frozen=True, gc=False):
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


class FragmentPacket(_Packet, tag="fragment", gc=False):
    fragment: LlmPredictionFragment


class PromptProcessingProgressPacket(_Packet, tag="promptProcessingProgress"):
    """`progress` runs from 0 to 1."""

    progress: float
    details: PromptProcessingDetails | UnsetType = UNSET


class PredictionSuccessPacket(_Packet, tag="success"):
    stats: LlmPredictionStats
    model_info: LlmInstanceInfo
    load_model_config: KvConfig
    prediction_config: KvConfig


PredictPacket: TypeAlias = FragmentPacket | PromptProcessingProgressPacket | PredictionSuccessPacket


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


class ToolCallGenerationStartPacket(_Packet, tag="toolCallGenerationStart"):
    """The model begins to write a tool call. `tool_call_id` is the model's own, if it has one."""

    tool_call_id: str | None = None


class ToolCallGenerationNamePacket(_Packet, tag="toolCallGenerationNameReceived"):
    name: str


class ToolCallGenerationArgumentPacket(_Packet, tag="toolCallGenerationArgumentFragmentGenerated"):
    content: str


class ToolCallGenerationEndPacket(_Packet, tag="toolCallGenerationEnd"):
    """`raw_content` is what the model wrote, in whatever notation it uses."""

    tool_call_request: ToolCallRequest
    raw_content: str | None = None


class ToolCallGenerationFailedPacket(_Packet, tag="toolCallGenerationFailed"):
    """What the model wrote is no tool call after all."""

    error: Raw
    raw_content: str | None = None


ToolCallPacket: TypeAlias = (
    ToolCallGenerationStartPacket
    | ToolCallGenerationNamePacket
    | ToolCallGenerationArgumentPacket
    | ToolCallGenerationEndPacket
    | ToolCallGenerationFailedPacket
)
