from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from lmstudio_async.errors import LMStudioError, LMStudioTypeError, LMStudioValueError
from lmstudio_async.wire.config_input import Config, parse_config
from lmstudio_async.wire.kv_config import KvConfig, KvField
from lmstudio_async.wire.load_config import (
    EmbeddingLoadModelConfig,
    GpuSetting,
    LlmLoadModelConfig,
    MlxKvCacheQuantization,
    embedding_load_config_from_kv,
    embedding_load_config_to_kv,
    llm_load_config_from_kv,
    llm_load_config_to_kv,
)
from lmstudio_async.wire.prediction_config import (
    LlmPredictionConfig,
    LlmReasoningParsing,
    prediction_config_from_kv,
    prediction_config_to_kv,
)
from tests.wire.strategies import json_values, settings_of, through_json

ANY_CLASS: list[type[Config]] = [
    LlmLoadModelConfig,
    EmbeddingLoadModelConfig,
    LlmPredictionConfig,
]
LLM_CONFIG = LlmLoadModelConfig(context_length=4096, gpu=GpuSetting(ratio=0.5, main_gpu=1))


def parse_load(config: Any) -> LlmLoadModelConfig:
    parsed: LlmLoadModelConfig = parse_config(LlmLoadModelConfig, config, "config")
    return parsed


def parse_prediction(config: Any) -> LlmPredictionConfig:
    parsed: LlmPredictionConfig = parse_config(LlmPredictionConfig, config, "config")
    return parsed


@pytest.mark.parametrize(
    "config",
    [
        LLM_CONFIG,
        {"contextLength": 4096, "gpu": {"ratio": 0.5, "mainGpu": 1}},
        {"context_length": 4096, "gpu": {"ratio": 0.5, "main_gpu": 1}},
        {"context_length": 4096, "gpu": {"ratio": 0.5, "mainGpu": 1}, "seed": None},
        {"contextLength": 4096, "gpu": GpuSetting(ratio=0.5, main_gpu=1)},
        LlmLoadModelConfig(context_length=4096, gpu={"ratio": 0.5, "main_gpu": 1}),  # type: ignore[arg-type]
        MappingProxyType(
            {"context_length": 4096, "gpu": MappingProxyType({"ratio": 0.5, "main_gpu": 1})}
        ),
    ],
)
def test_every_way_to_write_the_same_settings(config: Any) -> None:
    assert parse_load(config) == LLM_CONFIG


@pytest.mark.parametrize("cls", ANY_CLASS)
def test_nothing_is_a_setting_too(cls: type[Config]) -> None:
    assert parse_config(cls, None, "config") == parse_config(cls, {}, "config") == cls()


@pytest.mark.parametrize("name", ["offload_kv_cache_to_gpu", "offloadKVCacheToGpu"])
def test_acronyms_in_names(name: str) -> None:
    assert parse_load({name: True}) == LlmLoadModelConfig(offload_kv_cache_to_gpu=True)


def test_what_is_given_is_left_alone() -> None:
    gpu = {"main_gpu": 1}
    parse_load({"gpu": gpu})
    assert gpu == {"main_gpu": 1}
    config = LlmPredictionConfig(stop_strings=["a"])
    parsed = parse_prediction(config)
    assert config.stop_strings is not None
    config.stop_strings.append("b")
    assert parsed.stop_strings == ["a"]


def test_raw_settings() -> None:
    expected = LlmPredictionConfig(raw=KvConfig([KvField("a", {"some_key": 1})]))
    fields = [{"key": "a", "value": {"some_key": 1}}]
    for raw in ({"fields": fields}, KvConfig([KvField("a", {"some_key": 1})])):
        assert parse_prediction({"raw": raw}) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"context_lenght": 1},
            "config has no field 'context_lenght'; did you mean 'context_length'?",
        ),
        ({"contextLenght": 1}, "did you mean 'contextLength'"),
        ({"gpu": {"rato": 1}}, r"config\.gpu has no field 'rato'; did you mean 'ratio'"),
        ({"zzz": 1}, "it takes: .*context_length, "),
        ({1: 2}, "has no field 1"),
        ({"context_length": 1, "contextLength": 1}, "gives 'contextLength' twice"),
        ({"context_length": 0}, r">= 1.*config\.contextLength"),
        ({"context_length": 2**60}, r"config\.contextLength must lie between"),
        ({"gpu": {"ratio": 1.5}}, r"<= 1.*config\.gpu\.ratio"),
        ({"gpu": {"ratio": -1}}, ">= 0"),
        ({"gpu": {"ratio": "half"}}, "'half'"),
        ({"gpu": {"ratio": float("nan")}}, r"config\.gpu\.ratio must be a finite number, not nan"),
        ({"rope_frequency_base": float("inf")}, "finite number"),
        (LlmLoadModelConfig(rope_frequency_base=float("-inf")), "finite number"),
        (LlmLoadModelConfig(context_length=0), "contextLength"),
        ({"rope_frequency_base": True}, "rope_frequency_base .* not True"),
        ({"seed": True}, "False to switch it off"),
        ({"llama_k_cache_quantization_type": True}, "not True"),
        ({"mlx_kv_cache_quantization": True}, "not True"),
        ({"mlx_kv_cache_quantization": {"enabled": True}}, "missing required field `bits`"),
        ({"prompt_template": {"type": "manual"}}, "jinjaPromptTemplate"),
        ({"max_parallel_predictions": 1024}, "<= 1023"),
    ],
)
def test_load_settings_with_a_wrong_value(config: Any, message: str) -> None:
    with pytest.raises(LMStudioValueError, match=message) as caught:
        parse_load(config)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LMStudioError)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([("context_length", 1)], "config must be a LlmLoadModelConfig or a dict, not list"),
        (GpuSetting(), "not GpuSetting"),
        (3, "not int"),
        ({"context_length": "4096"}, r"got `str`.*config\.contextLength"),
        ({"context_length": 4096.0}, "got `float`"),
        ({"context_length": True}, "got `bool`"),
        ({"flash_attention": 1}, "got `int`"),
        ({"gpu": "max"}, r"got `str`.*config\.gpu"),
        ({"gpu": {"disabled_gpus": [1, "2"]}}, r"disabledGpus\[1\]"),
        ({"seed": object()}, "holds a value of type object"),
        (LlmLoadModelConfig(seed=object()), "holds a value of type object"),  # type: ignore[arg-type]
        (LlmLoadModelConfig(seed="1"), "got `str`"),  # type: ignore[arg-type]
        ({"speculative_draft_model": b"key"}, "got `bytes`"),
    ],
)
def test_load_settings_of_a_wrong_type(config: Any, message: str) -> None:
    with pytest.raises(LMStudioTypeError, match=message) as caught:
        parse_load(config)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, LMStudioError)


SWITCHES = [
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
]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_takes_a_value_or_false(name: str) -> None:
    assert getattr(parse_prediction({name: False}), name) is False
    assert getattr(parse_prediction({name: 1}), name) == 1
    with pytest.raises(LMStudioValueError, match=f"{name} .* not True"):
        parse_prediction({name: True})


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"temperature": -0.1}, LMStudioValueError),
        ({"temperature": True}, LMStudioTypeError),
        ({"top_p_sampling": 1.01}, LMStudioValueError),
        ({"context_overflow_policy": "explode"}, LMStudioValueError),
        ({"stop_strings": "abc"}, LMStudioTypeError),
        ({"structured": {"jsonSchema": {"maximum": float("nan")}}}, LMStudioValueError),
        ({"structured": {"jsonSchema": [float("nan")]}}, LMStudioValueError),
        ({"structured": MappingProxyType({"maximum": float("nan")})}, LMStudioValueError),
        ({"structured": {"jsonSchema": {"type": object()}}}, LMStudioTypeError),
        ({"structured": {1: 2}}, LMStudioTypeError),
        ({"reasoning_parsing": {"enabled": True}}, LMStudioValueError),
    ],
)
def test_prediction_settings_that_are_refused(config: Any, error: type[LMStudioError]) -> None:
    with pytest.raises(error, match="config"):
        parse_prediction(config)


def test_refusals_name_the_argument() -> None:
    with pytest.raises(LMStudioValueError, match=r"load_config\.contextLength"):
        parse_config(LlmLoadModelConfig, {"context_length": 0}, "load_config")


@given(st.data(), st.sampled_from(ANY_CLASS))
def test_both_spellings_mean_the_same(data: st.DataObject, cls: type[Config]) -> None:
    config = data.draw(settings_of(cls))
    camel = msgspec.to_builtins(config)
    assert parse_config(cls, _snake(config), "config") == config
    assert parse_config(cls, camel, "config") == config
    assert parse_config(cls, config, "config") == config


def _snake(value: Any) -> Any:
    if not isinstance(value, Struct):
        return value
    return {name: _snake(getattr(value, name)) for name in value.__struct_fields__}


names = st.sampled_from(sorted({name for cls in ANY_CLASS for name in cls.__struct_fields__}))


@given(
    st.dictionaries(names, json_values, max_size=2) | st.dictionaries(st.text(), json_values),
    st.sampled_from(ANY_CLASS),
)
def test_any_json_is_taken_or_refused(config: dict[str, Any], cls: type[Config]) -> None:
    try:
        parsed = parse_config(cls, config, "config")
    except (LMStudioValueError, LMStudioTypeError):
        return
    assert msgspec.json.decode(msgspec.json.encode(parsed), type=cls) == parsed


@given(settings_of(LlmLoadModelConfig))
def test_load_settings_survive_kv_config(config: LlmLoadModelConfig) -> None:
    kv_config = through_json(llm_load_config_to_kv(config), KvConfig)
    expected = msgspec.structs.replace(config, mlx_disk_cache=None, mlx_kv_cache_quantization=None)
    if config.gpu is not None:
        expected.gpu = msgspec.structs.replace(
            config.gpu,
            split_strategy=config.gpu.split_strategy or "evenly",
            disabled_gpus=config.gpu.disabled_gpus or [],
        )
    assert llm_load_config_from_kv(kv_config) == expected
    quantization = config.mlx_kv_cache_quantization
    if isinstance(quantization, MlxKvCacheQuantization) and not quantization.enabled:
        quantization = False
    assert llm_load_config_from_kv(kv_config, "safetensors") == LlmLoadModelConfig(
        max_parallel_predictions=config.max_parallel_predictions,
        context_length=config.context_length,
        seed=config.seed,
        mlx_disk_cache=config.mlx_disk_cache,
        mlx_kv_cache_quantization=quantization,
    )


@given(settings_of(EmbeddingLoadModelConfig))
def test_embedding_settings_survive_kv_config(config: EmbeddingLoadModelConfig) -> None:
    kv_config = through_json(embedding_load_config_to_kv(config), KvConfig)
    expected = msgspec.structs.replace(config)
    if config.gpu is not None:
        expected.gpu = GpuSetting(
            main_gpu=config.gpu.main_gpu,
            split_strategy=config.gpu.split_strategy or "evenly",
            disabled_gpus=config.gpu.disabled_gpus or [],
        )
    assert embedding_load_config_from_kv(kv_config) == expected


@given(settings_of(LlmPredictionConfig))
def test_prediction_settings_survive_kv_config(config: LlmPredictionConfig) -> None:
    kv_config = through_json(prediction_config_to_kv(config), KvConfig)
    assert prediction_config_from_kv(kv_config) == config


def test_reasoning_marks_survive_kv_config() -> None:
    config = LlmPredictionConfig(
        reasoning_parsing=LlmReasoningParsing(enabled=True, start_string="<", end_string=">")
    )
    kv_config = through_json(prediction_config_to_kv(config), KvConfig)
    assert prediction_config_from_kv(kv_config) == config
