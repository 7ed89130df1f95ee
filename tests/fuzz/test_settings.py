"""Settings of any kind are taken or refused by the embedded server; nothing else happens."""

from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_async.embedded.engine import Engine
from lmstudio_async.embedded.generation import Piece
from lmstudio_async.embedded.library import Model
from lmstudio_async.embedded.load_settings import _TRANSLATIONS, LoadSettings
from lmstudio_async.embedded.metadata import GgufMetadata
from lmstudio_async.embedded.output import Output
from lmstudio_async.embedded.prediction_settings import (
    _SAMPLING,
    DEFAULTS,
    PredictionSettings,
)
from lmstudio_async.embedded.prompt import render_prompt, with_system_prompt
from lmstudio_async.embedded.ranges import INT32_MAX
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.embedded.tools import offered_tools
from lmstudio_async.wire.kv_config import KvConfig, KvConfigStack, KvField, single_layer
from lmstudio_async.wire.load_config import (
    embedding_load_config_from_kv,
    llm_load_config_from_kv,
)
from lmstudio_async.wire.prediction import ChatHistory, TextPart, UserMessage
from lmstudio_async.wire.prediction_config import prediction_config_from_kv

from .hostile import JSON, NUMBERS, TEXTS, bent, setting_keys

MODEL = Model(
    "key",
    "llm",
    Path("/model.gguf"),
    "model.gguf",
    10**9,
    GgufMetadata(
        architecture="llama",
        params_string="1B",
        quantization="Q4_0",
        context_length=8192,
        layers=30,
        context_bytes_per_token=23_000,
        pooling=None,
        knows_tools=True,
    ),
)
LOAD = "llm.load."
PREDICTION = "llm.prediction."
LOAD_KEYS = sorted(
    {
        *setting_keys(LOAD),
        *(LOAD + name for name in _TRANSLATIONS),
        *(LOAD + name for name in ("contextLength", "numParallelSessions", "useUnifiedKvCache")),
        LOAD + "llama.acceleration.offloadRatio",
    }
)
NAMES = (
    "tools",
    "toolChoice",
    "toolNaming",
    "structured",
    "promptTemplate",
    "logProbs",
    "systemPrompt",
    "reasoning.enableThinking",
    "speculativeDecoding.draftModel",
)
PREDICTION_KEYS = sorted(
    {
        *setting_keys(PREDICTION),
        *DEFAULTS,
        *(PREDICTION + name for name in _SAMPLING),
        *(PREDICTION + name for name in NAMES),
    }
)
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    },
}
VALUES = (
    JSON
    | bent(st.fixed_dictionaries({"checked": st.just(True), "value": NUMBERS | TEXTS}))
    | bent(st.just({"type": "toolArray", "tools": [TOOL]}))
    | bent(st.just({"type": "generic", "mode": "required"}))
    | bent(st.just({"type": "json", "jsonSchema": {"type": "object"}}))
    | bent(st.just({"type": "gbnf", "gbnfGrammar": "root ::= [a-z]"}))
    | bent(
        st.just(
            {
                "type": "manual",
                "manualPromptTemplate": {"beforeUser": "U", "afterUser": "!"},
                "stopStrings": ["x"],
            }
        )
    )
    | bent(st.just({"type": "jinja", "jinjaPromptTemplate": {"template": "{{ messages }}"}}))
    | bent(st.just({"version": 1, "learningRate": 0.1, "targetEntropy": 5}))
    | bent(st.just([[1, 2.5], [3, "-inf"]]))
    | bent(st.just({"enabled": True, "startString": "<a>", "endString": "</a>"}))
)


def stack_of(values: dict[str, Any]) -> KvConfigStack:
    return single_layer(KvConfig([KvField(key, value) for key, value in values.items()]))


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [number for one in inner for number in numbers_in(one)]
    return [value] if isinstance(value, int | float) else []


@given(st.dictionaries(st.sampled_from(LOAD_KEYS), VALUES, min_size=1, max_size=3))
def test_load_settings_are_taken_or_refused(values: dict[str, Any]) -> None:
    try:
        params = LoadSettings(MODEL, stack_of(values)).engine_params()
    except RequestError as error:
        msgspec.json.encode(error.error)
    else:
        msgspec.json.encode(params)
        assert all(abs(number) <= 1e12 for number in numbers_in(params))
        assert 1 <= params["n_ctx"] <= INT32_MAX


@pytest.mark.parametrize("value", [10**12, 2**31, 10**400, 0, -1, 1.5, True, "4096", None, [], {}])
def test_context_lengths_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(RequestError, match=r"contextLength|does not fit"):
        LoadSettings(MODEL, stack_of({LOAD + "contextLength": value}))


def test_a_context_beyond_the_memory_of_the_machine_is_refused() -> None:
    for values in (
        {LOAD + "contextLength": 2_000_000_000},
        {LOAD + "contextLength": 2**27, LOAD + "numParallelSessions": 16},
        {
            LOAD + "contextLength": 2**28,
            LOAD + "numParallelSessions": 16,
            LOAD + "useUnifiedKvCache": False,
        },
    ):
        with pytest.raises(RequestError, match="does not fit into this machine"):
            LoadSettings(MODEL, stack_of(values))


@given(st.dictionaries(st.sampled_from(PREDICTION_KEYS), VALUES, min_size=1, max_size=3))
def test_prediction_settings_are_taken_or_refused(values: dict[str, Any]) -> None:
    try:
        settings = PredictionSettings(stack_of(values))
        offer = offered_tools(settings)
        _ = settings.overflow_policy
        history = with_system_prompt(ChatHistory([UserMessage([TextPart(text="Hello")])]), settings)
        msgspec.json.encode(history)
        if (settings.get("promptTemplate") or {}).get("type") == "manual":
            no_engine = cast(Engine, None)  # which such a template does not ask
            anyio.run(render_prompt, no_engine, history, settings, offer)
        output = Output("prompt", settings, offer)
        for packet in (*output.feed(Piece("text", 1)), *output.finish()):
            msgspec.json.encode(packet)
    except RequestError as error:
        msgspec.json.encode(error.error)
    else:
        msgspec.json.encode([settings.sampling, settings.stop_strings, settings.config])
        assert all(abs(number) <= 3e38 for number in numbers_in(settings.sampling))


CLIENT_KEYS = [*LOAD_KEYS, *PREDICTION_KEYS, "load.gpuSplitConfig"]
CLIENT_VALUES = VALUES | bent(
    st.just({"strategy": "evenly", "disabledGpus": [1], "priority": [0], "customRatio": []})
)


@given(st.dictionaries(st.sampled_from(CLIENT_KEYS), CLIENT_VALUES, min_size=1, max_size=4))
def test_clients_read_settings_of_any_form(values: dict[str, Any]) -> None:
    config = KvConfig([KvField(key, value) for key, value in values.items()])
    repr(llm_load_config_from_kv(config))
    repr(llm_load_config_from_kv(config, "mlx"))
    repr(embedding_load_config_from_kv(config))
    repr(prediction_config_from_kv(config))


def test_an_unreadable_setting_does_not_cost_the_others() -> None:
    fields = [
        KvField("load.gpuSplitConfig", {"strategy": "new"}),
        KvField(LOAD + "llama.ropeFrequencyBase", "new"),
        KvField(LOAD + "contextLength", 7),
    ]
    config = llm_load_config_from_kv(KvConfig(fields))
    assert (config.context_length, config.rope_frequency_base, config.gpu) == (7, None, None)
