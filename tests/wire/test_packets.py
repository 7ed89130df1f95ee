"""Parameters, results and packets against the schemas of their endpoints."""

from typing import Any

import pytest

from lmstudio_async.wire.kv_config import KvConfig, KvField, single_layer
from lmstudio_async.wire.loading import (
    AlreadyLoadedPacket,
    CancelPacket,
    CountTokensResult,
    EmbeddingResult,
    EmbedParameter,
    EstimateUsageParameter,
    FindParameter,
    GetOrLoadParameter,
    LoadModelParameter,
    LoadProgressPacket,
    LoadSuccessPacket,
    MemoryEstimate,
    ProcessingState,
    ProgressPacket,
    ResolvedPacket,
    ServerInfo,
    ServerVersion,
    SpecifierParameter,
    StartLoadingPacket,
    SuccessPacket,
    TextParameter,
    TokenizeResult,
    UnloadingOtherJitModelPacket,
    UnloadModelParameter,
    UsageEstimate,
)
from lmstudio_async.wire.model_info import (
    InstanceSpecifier,
    LlmInfo,
    LlmInstanceInfo,
)
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    ChatHistory,
    FilePart,
    FragmentPacket,
    LlmPredictionFragment,
    LlmPredictionStats,
    PredictionSuccessPacket,
    PredictParameter,
    PromptProcessingDetails,
    PromptProcessingProgressPacket,
    SystemMessage,
    TextPart,
    Token,
    TokenCandidate,
    ToolCallRequest,
    ToolCallRequestPart,
    ToolCallResultPart,
    ToolMessage,
    UserMessage,
)
from tests.contract import schema_errors
from tests.wire.strategies import through_json, to_json

MODEL = LlmInfo(
    model_key="key",
    format="gguf",
    display_name="Key",
    path="a/b/c.gguf",
    size_bytes=1,
    max_context_length=4096,
)
INSTANCE = LlmInstanceInfo(
    model_key="key",
    format="gguf",
    display_name="Key",
    path="a/b/c.gguf",
    size_bytes=1,
    max_context_length=4096,
    identifier="key",
    instance_reference="ref-1",
)
STACK = single_layer(KvConfig([KvField("llm.load.contextLength", 1)]))
THIS = InstanceSpecifier("ref-1")
HISTORY = ChatHistory(
    [
        SystemMessage([TextPart(text="Be brief.")]),
        UserMessage(
            [
                TextPart(text="What is this?"),
                FilePart(name="a.png", identifier="f", size_bytes=1, file_type="image"),
            ]
        ),
        AssistantMessage(
            [
                TextPart(text="Let me look."),
                ToolCallRequestPart(tool_call_request=ToolCallRequest(name="look", id="1")),
                ToolCallRequestPart(
                    tool_call_request=ToolCallRequest(name="look", arguments={"a": 1})
                ),
            ]
        ),
        ToolMessage(
            [
                ToolCallResultPart(content="a cat", tool_call_id="1"),
                ToolCallResultPart(content="a cat", name="look"),
            ]
        ),
    ]
)
MEMORY = MemoryEstimate(
    confidence="low",
    model_vram_bytes=0,
    context_vram_bytes=0,
    total_vram_bytes=0,
    model_bytes=1,
    context_bytes=1,
    total_bytes=2,
)
STATS = LlmPredictionStats(stop_reason="eosFound", tokens_per_second=1.5, predicted_tokens_count=3)
PROGRESS = PromptProcessingDetails(
    cached_token_count=0,
    total_prompt_token_count=2,
    processed_prompt_token_count=1,
    unprocessed_prompt_token_count=1,
)
# Of generic packets, the form that a client decodes.
TYPES: dict[Any, Any] = {
    ResolvedPacket: ResolvedPacket[LlmInfo],
    StartLoadingPacket: StartLoadingPacket[LlmInfo],
    SuccessPacket: SuccessPacket[LlmInstanceInfo],
    AlreadyLoadedPacket: AlreadyLoadedPacket[LlmInstanceInfo],
    LoadSuccessPacket: LoadSuccessPacket[LlmInstanceInfo],
}
FRAGMENT = LlmPredictionFragment(content="a")
TOKENS = LlmPredictionFragment(
    content="a",
    tokens=[Token("a", 1), Token("b", 2, -0.5, [TokenCandidate("b", 2, -0.5)])],
)


@pytest.mark.parametrize(
    ("kind", "endpoint", "part", "value"),
    [
        ("rpc", "unloadModel", "parameter", UnloadModelParameter("key")),
        ("rpc", "unloadModel", "parameter", UnloadModelParameter("key", None)),
        ("rpc", "getModelInfo", "parameter", FindParameter(THIS, True)),
        ("rpc", "getModelInfo", "returns", INSTANCE),
        ("rpc", "getLoadConfig", "parameter", SpecifierParameter(THIS)),
        ("rpc", "getLoadConfig", "returns", KvConfig([KvField("a"), KvField("b", None)])),
        ("rpc", "getInstanceProcessingState", "parameter", FindParameter(THIS, False)),
        ("rpc", "getInstanceProcessingState", "returns", ProcessingState("idle", 0)),
        ("rpc", "estimateModelUsage", "parameter", EstimateUsageParameter("key", STACK)),
        ("rpc", "estimateModelUsage", "returns", UsageEstimate(MEMORY, True)),
        ("rpc", "tokenize", "parameter", TextParameter(THIS, "a")),
        ("rpc", "tokenize", "returns", TokenizeResult([1])),
        ("rpc", "countTokens", "parameter", TextParameter(THIS, "a")),
        ("rpc", "countTokens", "returns", CountTokensResult(1)),
        (
            "channel",
            "loadModel",
            "creationParameter",
            LoadModelParameter(model_key="key", load_config_stack=STACK),
        ),
        (
            "channel",
            "loadModel",
            "creationParameter",
            LoadModelParameter(
                model_key="key",
                identifier="mine",
                device_identifier=None,
                ttl_ms=1000,
                load_config_stack=STACK,
            ),
        ),
        (
            "channel",
            "getOrLoad",
            "creationParameter",
            GetOrLoadParameter(identifier="key", load_ttl_ms=1000, load_config_stack=STACK),
        ),
        ("channel", "loadModel", "toServerPacket", CancelPacket()),
        ("channel", "loadModel", "toClientPacket", ResolvedPacket(info=MODEL)),
        ("channel", "loadModel", "toClientPacket", ResolvedPacket(info=MODEL, ambiguous=["a"])),
        ("channel", "loadModel", "toClientPacket", ProgressPacket(progress=0.5)),
        ("channel", "loadModel", "toClientPacket", SuccessPacket(info=INSTANCE)),
        ("channel", "getOrLoad", "toClientPacket", AlreadyLoadedPacket(info=INSTANCE)),
        ("channel", "getOrLoad", "toClientPacket", StartLoadingPacket(identifier="k", info=MODEL)),
        ("channel", "getOrLoad", "toClientPacket", UnloadingOtherJitModelPacket(info=INSTANCE)),
        ("channel", "getOrLoad", "toClientPacket", LoadProgressPacket(progress=1)),
        ("channel", "getOrLoad", "toClientPacket", LoadSuccessPacket(info=INSTANCE)),
        (
            "channel",
            "predict",
            "creationParameter",
            PredictParameter(model_specifier=THIS, history=HISTORY, prediction_config_stack=STACK),
        ),
        ("channel", "predict", "toServerPacket", CancelPacket()),
        ("channel", "predict", "toClientPacket", FragmentPacket(FRAGMENT)),
        ("channel", "predict", "toClientPacket", FragmentPacket(TOKENS)),
        ("channel", "predict", "toClientPacket", PromptProcessingProgressPacket(0.5, PROGRESS)),
        (
            "channel",
            "predict",
            "toClientPacket",
            PredictionSuccessPacket(STATS, INSTANCE, KvConfig([]), KvConfig([])),
        ),
    ],
)
def test_of_llms(kind: str, endpoint: str, part: str, value: Any) -> None:
    encoded = to_json(value)
    assert schema_errors("llm", kind, endpoint, part, encoded) == []
    assert through_json(value, TYPES.get(type(value), type(value))) == value


@pytest.mark.parametrize(
    ("namespace", "endpoint", "part", "value"),
    [
        ("embedding", "embedString", "parameter", EmbedParameter(THIS, "a")),
        ("embedding", "embedString", "returns", EmbeddingResult([0.5, 1])),
        ("embedding", "tokenize", "parameter", TextParameter(THIS, "a")),
        ("system", "version", "returns", ServerVersion("0.3.99", 1)),
        ("system", "info", "returns", ServerInfo(1, True, "0.3.99")),
    ],
)
def test_of_other_namespaces(namespace: str, endpoint: str, part: str, value: Any) -> None:
    assert schema_errors(namespace, "rpc", endpoint, part, to_json(value)) == []
    assert through_json(value, type(value)) == value


def test_older_servers_tell_less_of_a_fragment() -> None:
    fragment = through_json({"content": "a"}, LlmPredictionFragment)
    assert fragment == FRAGMENT
