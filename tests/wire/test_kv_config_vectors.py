"""Settings to and from KV config, against what the official SDK makes of the same settings."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from lmstudio_async.wire.config_input import Config, parse_config
from lmstudio_async.wire.kv_config import KvConfig, KvField, single_layer
from lmstudio_async.wire.load_config import (
    EmbeddingLoadModelConfig,
    LlmLoadModelConfig,
    embedding_load_config_from_kv,
    embedding_load_config_to_kv,
    llm_load_config_from_kv,
    llm_load_config_to_kv,
)
from lmstudio_async.wire.prediction_config import (
    LlmPredictionConfig,
    prediction_config_from_kv,
    prediction_config_to_kv,
)
from tests.contract import protocol
from tests.wire.strategies import through_json, to_json


class Translation(NamedTuple):
    cls: type[Config]
    to_kv: Callable[[Any], KvConfig]
    from_kv: Callable[[KvConfig], Config]


TRANSLATIONS = {
    "llmLoad": Translation(LlmLoadModelConfig, llm_load_config_to_kv, llm_load_config_from_kv),
    "embeddingLoad": Translation(
        EmbeddingLoadModelConfig, embedding_load_config_to_kv, embedding_load_config_from_kv
    ),
    "llmPrediction": Translation(
        LlmPredictionConfig, prediction_config_to_kv, prediction_config_from_kv
    ),
}

# Settings, KV config, and what is read back from it.
SAMPLES: list[tuple[str, dict[str, Any], list[tuple[str, Any]], dict[str, Any]]] = [
    ("llmLoad", {}, [], {}),
    (
        "llmLoad",
        {"contextLength": 4096, "seed": False, "ropeFrequencyBase": 10000},
        [
            ("llm.load.contextLength", 4096),
            ("llm.load.llama.ropeFrequencyBase", {"checked": True, "value": 10000}),
            ("llm.load.seed", {"checked": False, "value": 0}),
        ],
        {"contextLength": 4096, "seed": False, "ropeFrequencyBase": 10000},
    ),
    (
        "llmLoad",
        {"gpu": {"ratio": "off", "mainGpu": 0, "splitStrategy": "favorMainGpu"}},
        [
            (
                "load.gpuSplitConfig",
                {
                    "strategy": "priorityOrder",
                    "disabledGpus": [],
                    "priority": [0],
                    "customRatio": [],
                },
            ),
            ("llm.load.llama.acceleration.offloadRatio", "off"),
        ],
        {
            "gpu": {
                "ratio": "off",
                "mainGpu": 0,
                "splitStrategy": "favorMainGpu",
                "disabledGpus": [],
            }
        },
    ),
    (
        "embeddingLoad",
        {"contextLength": 512, "tryMmap": False},
        [("embedding.load.contextLength", 512), ("embedding.load.llama.tryMmap", False)],
        {"contextLength": 512, "tryMmap": False},
    ),
    (
        "llmPrediction",
        {"maxTokens": False, "temperature": 0, "topPSampling": 0.9},
        [
            ("llm.prediction.temperature", 0),
            ("llm.prediction.maxPredictedTokens", {"checked": False, "value": 1}),
            ("llm.prediction.topPSampling", {"checked": True, "value": 0.9}),
        ],
        {"maxTokens": False, "temperature": 0, "topPSampling": 0.9},
    ),
]


def exactly(value: Any) -> str:
    # 1, 1.0 and True are equal in Python, and different on the wire.
    return json.dumps(value, sort_keys=True)


def check(kind: str, config: Any, kv_config: Any, round_trip: Any) -> None:
    translation = TRANSLATIONS[kind]
    encoded = translation.to_kv(parse_config(translation.cls, config, "config"))
    assert exactly(to_json(encoded)) == exactly(kv_config)
    decoded = translation.from_kv(through_json(kv_config, KvConfig))
    assert exactly(to_json(decoded)) == exactly(round_trip)
    known = protocol("kv-config-keys")
    if known is not None:
        assert {field.key for field in encoded.fields} <= {entry["key"] for entry in known}


@pytest.mark.parametrize(("kind", "config", "fields", "round_trip"), SAMPLES)
def test_samples(kind: str, config: Any, fields: list[tuple[str, Any]], round_trip: Any) -> None:
    kv_config = {"fields": [{"key": key, "value": value} for key, value in fields]}
    check(kind, config, kv_config, round_trip)


@pytest.mark.parametrize(
    ("kind", "vector"),
    [
        pytest.param(kind, vector, id=f"{kind}-{number}")
        for kind, vectors in (protocol("kv-config-vectors") or {}).items()
        for number, vector in enumerate(vectors)
    ],
)
def test_vectors(kind: str, vector: Any) -> None:
    check(kind, vector["config"], vector["kvConfig"], vector["roundTrip"])


@pytest.mark.skipif(protocol("kv-config-keys") is None, reason="the keys are not here")
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            "llmLoad",
            {
                "mlx_disk_cache": True,
                "mlx_kv_cache_quantization": False,
                "speculative_draft_model": "d",
            },
        ),
        (
            "llmPrediction",
            {"reasoning_parsing": {"enabled": False, "startString": "", "endString": ""}},
        ),
    ],
)
def test_every_key_is_one_that_the_server_knows(kind: str, config: Any) -> None:
    translation = TRANSLATIONS[kind]
    encoded = translation.to_kv(parse_config(translation.cls, config, "config"))
    known = {entry["key"] for entry in protocol("kv-config-keys")}
    assert {field.key for field in encoded.fields} <= known


def test_mlx_models_have_settings_of_their_own() -> None:
    config = LlmLoadModelConfig(context_length=1, flash_attention=True, mlx_disk_cache=True)
    kv_config = through_json(llm_load_config_to_kv(config), KvConfig)
    assert llm_load_config_from_kv(kv_config, "safetensors") == LlmLoadModelConfig(
        context_length=1, mlx_disk_cache=True
    )
    assert llm_load_config_from_kv(kv_config) == LlmLoadModelConfig(
        context_length=1, flash_attention=True
    )


@pytest.mark.parametrize(
    "given", [False, {"enabled": True, "bits": 4, "groupSize": 32, "quantizedStart": 9}]
)
def test_mlx_cache_quantization(given: Any) -> None:
    config = parse_config(LlmLoadModelConfig, {"mlxKvCacheQuantization": given}, "config")
    kv_config = through_json(llm_load_config_to_kv(config), KvConfig)
    assert llm_load_config_from_kv(kv_config, "safetensors") == config


def test_named_settings_win_over_raw_ones() -> None:
    raw = KvConfig([KvField("llm.prediction.temperature", 1), KvField("x", None), KvField("y")])
    encoded = prediction_config_to_kv(LlmPredictionConfig(temperature=0.5, raw=raw))
    assert to_json(encoded) == {
        "fields": [
            {"key": "llm.prediction.temperature", "value": 0.5},
            {"key": "x", "value": None},
            {"key": "y"},
        ]
    }
    assert prediction_config_from_kv(encoded) == LlmPredictionConfig(temperature=0.5)


def test_the_later_of_two_fields_wins() -> None:
    assert KvConfig([KvField("a", 1), KvField("a", 2), KvField("b")]).to_dict() == {"a": 2}


def test_a_single_layer() -> None:
    assert to_json(single_layer(KvConfig([]))) == {
        "layers": [{"layerName": "apiOverride", "config": {"fields": []}}]
    }
