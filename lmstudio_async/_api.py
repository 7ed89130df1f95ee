"""The public names, all of them. The package imports this module when it is first used."""

from lmstudio_async.client import Client
from lmstudio_async.client import Client as AsyncClient
from lmstudio_async.default_client import (
    configure_default_client,
    embedding_model,
    get_default_client,
    list_downloaded_models,
    list_loaded_models,
    llm,
    prepare_image,
)
from lmstudio_async.errors import (
    LMStudioCancelledError,
    LMStudioChannelClosedError,
    LMStudioClientError,
    LMStudioError,
    LMStudioFileNotFoundError,
    LMStudioModelNotFoundError,
    LMStudioModelUnloadedError,
    LMStudioOSError,
    LMStudioPredictionError,
    LMStudioPresetNotFoundError,
    LMStudioProtocolError,
    LMStudioRuntimeError,
    LMStudioServerError,
    LMStudioSlowReaderError,
    LMStudioTimeoutError,
    LMStudioTypeError,
    LMStudioUnloadError,
    LMStudioValueError,
    LMStudioWebsocketError,
)
from lmstudio_async.models.act import ActResult
from lmstudio_async.models.act_callbacks import (
    ActCallbacks,
    GuardToolCallController,
    PredictionRoundResult,
)
from lmstudio_async.models.chat import Chat
from lmstudio_async.models.embedding import EmbeddingModel
from lmstudio_async.models.embedding import EmbeddingModel as AsyncEmbeddingModel
from lmstudio_async.models.llm import LLM, PredictionOptions
from lmstudio_async.models.llm import LLM as AsyncLLM
from lmstudio_async.models.mcp_tools import McpToolError, mcp_tools
from lmstudio_async.models.prediction import PredictionResult, PredictionStream
from lmstudio_async.models.response_format import BaseModel
from lmstudio_async.models.scope import ModelScope
from lmstudio_async.models.tool_requests import ToolCallRequestError, ToolCallRequestInfo
from lmstudio_async.models.tools import ToolFunctionDef, ToolFunctionDefDict
from lmstudio_async.namespaces.downloaded import DownloadedEmbeddingModel, DownloadedLlm
from lmstudio_async.timeouts import Timeouts
from lmstudio_async.version import __version__
from lmstudio_async.wire.load_config import (
    EmbeddingLoadModelConfig,
    GpuSetting,
    LlmLoadModelConfig,
    MlxKvCacheQuantization,
)
from lmstudio_async.wire.loading import (
    MemoryEstimate,
    ProcessingState,
    ServerInfo,
    ServerVersion,
    UsageEstimate,
)
from lmstudio_async.wire.model_info import (
    EmbeddingModelInfo,
    EmbeddingModelInstanceInfo,
    LlmInfo,
    LlmInstanceInfo,
    ModelQuery,
    Quantization,
)
from lmstudio_async.wire.prediction import AssistantMessage as AssistantResponse
from lmstudio_async.wire.prediction import ChatHistory as ChatHistoryData
from lmstudio_async.wire.prediction import FilePart as FileHandle
from lmstudio_async.wire.prediction import (
    LlmPredictionFragment,
    LlmPredictionStats,
    ToolCallRequest,
    UserMessage,
)
from lmstudio_async.wire.prediction import SystemMessage as SystemPrompt
from lmstudio_async.wire.prediction import TextPart as TextData
from lmstudio_async.wire.prediction import ToolCallRequestPart as ToolCallRequestData
from lmstudio_async.wire.prediction import ToolCallResultPart as ToolCallResultData
from lmstudio_async.wire.prediction import ToolMessage as ToolResultMessage
from lmstudio_async.wire.prediction_config import LlmPredictionConfig, LlmReasoningParsing
from lmstudio_async.wire.server_error import ServerError

__all__ = [
    "__version__",
    "ActCallbacks",
    "ActResult",
    "AssistantResponse",
    "AsyncClient",
    "AsyncEmbeddingModel",
    "AsyncLLM",
    "BaseModel",
    "Chat",
    "ChatHistoryData",
    "Client",
    "DownloadedEmbeddingModel",
    "DownloadedLlm",
    "EmbeddingLoadModelConfig",
    "EmbeddingModel",
    "EmbeddingModelInfo",
    "EmbeddingModelInstanceInfo",
    "FileHandle",
    "GpuSetting",
    "GuardToolCallController",
    "LLM",
    "LMStudioCancelledError",
    "LMStudioChannelClosedError",
    "LMStudioClientError",
    "LMStudioError",
    "LMStudioFileNotFoundError",
    "LMStudioModelNotFoundError",
    "LMStudioModelUnloadedError",
    "LMStudioOSError",
    "LMStudioPredictionError",
    "LMStudioPresetNotFoundError",
    "LMStudioProtocolError",
    "LMStudioRuntimeError",
    "LMStudioServerError",
    "LMStudioSlowReaderError",
    "LMStudioTimeoutError",
    "LMStudioTypeError",
    "LMStudioUnloadError",
    "LMStudioValueError",
    "LMStudioWebsocketError",
    "LlmInfo",
    "LlmInstanceInfo",
    "LlmLoadModelConfig",
    "LlmPredictionConfig",
    "LlmPredictionFragment",
    "LlmPredictionStats",
    "LlmReasoningParsing",
    "McpToolError",
    "MemoryEstimate",
    "MlxKvCacheQuantization",
    "ModelQuery",
    "ModelScope",
    "PredictionOptions",
    "PredictionResult",
    "PredictionRoundResult",
    "PredictionStream",
    "ProcessingState",
    "Quantization",
    "ServerError",
    "ServerInfo",
    "ServerVersion",
    "SystemPrompt",
    "TextData",
    "Timeouts",
    "ToolCallRequest",
    "ToolCallRequestData",
    "ToolCallRequestError",
    "ToolCallRequestInfo",
    "ToolCallResultData",
    "ToolFunctionDef",
    "ToolFunctionDefDict",
    "ToolResultMessage",
    "UsageEstimate",
    "UserMessage",
    "configure_default_client",
    "embedding_model",
    "get_default_client",
    "list_downloaded_models",
    "list_loaded_models",
    "llm",
    "mcp_tools",
    "prepare_image",
]
