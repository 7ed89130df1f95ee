from typing import Any

import msgspec
import pytest

from lmstudio_async.wire.model_info import (
    AnyInstanceInfo,
    AnyModelInfo,
    EmbeddingModelInfo,
    EmbeddingModelInstanceInfo,
    InstanceSpecifier,
    LlmInfo,
    LlmInstanceInfo,
    ModelQuery,
    ModelSpecifier,
    Quantization,
    QuerySpecifier,
)
from tests.contract import schema_errors
from tests.scripted_models import Json, Kind, model_on_disk
from tests.wire.strategies import through_json, to_json

KINDS: list[Kind] = ["llm", "embedding"]
FROM_OLDER_SERVERS = [
    "publisher",
    "indexedModelIdentifier",
    "deviceIdentifier",
    "paramsString",
    "architecture",
    "quantization",
    "vision",
    "trainedForToolUse",
    "ttlMs",
    "lastUsedTime",
    "contextLength",
]


def instance(kind: Kind) -> Json:
    return {
        **model_on_disk("key", kind),
        "variants": ["key@q4", "key@q8"],
        "selectedVariant": "key@q4",
        "identifier": "mine",
        "instanceReference": "ref-1",
        "ttlMs": 3_600_000,
        "lastUsedTime": 1_700_000_000_000,
        "contextLength": 4096,
    }


@pytest.mark.parametrize(("kind", "cls"), [("llm", LlmInfo), ("embedding", EmbeddingModelInfo)])
def test_a_model_on_disk(kind: Kind, cls: type[LlmInfo] | type[EmbeddingModelInfo]) -> None:
    info = through_json(model_on_disk("key", kind), AnyModelInfo)
    assert type(info) is cls
    assert info.type == kind
    assert info.quantization == Quantization("Q4_K_M", 4)
    assert info.device_identifier is None
    encoded = to_json(info)
    assert encoded == model_on_disk("key", kind)
    assert schema_errors("system", "rpc", "listDownloadedModels", "returns", [encoded]) == []


@pytest.mark.parametrize(
    ("kind", "cls"), [("llm", LlmInstanceInfo), ("embedding", EmbeddingModelInstanceInfo)]
)
def test_a_loaded_instance(
    kind: Kind, cls: type[LlmInstanceInfo] | type[EmbeddingModelInstanceInfo]
) -> None:
    info = through_json(instance(kind), AnyInstanceInfo)
    assert type(info) is cls
    assert (info.identifier, info.instance_reference) == ("mine", "ref-1")
    assert info.variants == ["key@q4", "key@q8"]
    encoded = to_json(info)
    assert encoded == instance(kind)
    assert schema_errors(kind, "rpc", "listLoaded", "returns", [encoded]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_that_an_info_may_hold_encodes_to_a_whole_one(kind: Kind) -> None:
    old = instance(kind)
    for name in [*FROM_OLDER_SERVERS, "variants", "selectedVariant"]:
        old.pop(name, None)
    info = through_json(old, AnyInstanceInfo)
    encoded = to_json(info)
    assert schema_errors(kind, "rpc", "listLoaded", "returns", [encoded]) == []
    # Null where the protocol wants null, absent where it wants nothing.
    assert encoded["ttlMs"] is encoded["lastUsedTime"] is encoded["deviceIdentifier"] is None
    assert "architecture" not in encoded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FROM_OLDER_SERVERS)
def test_older_servers_may_leave_fields_out(kind: Kind, name: str) -> None:
    old = instance(kind)
    old.pop(name, None)
    assert through_json(old, AnyInstanceInfo).identifier == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_newer_servers_may_add_fields_and_formats(kind: Kind) -> None:
    new = instance(kind) | {"fromTheFuture": {"a": 1}, "format": "future"}
    assert through_json(new, AnyInstanceInfo).format == "future"


@pytest.mark.parametrize("name", ["identifier", "instanceReference", "modelKey"])
def test_without_its_names_an_instance_is_none(name: str) -> None:
    broken = instance("llm")
    del broken[name]
    with pytest.raises(msgspec.ValidationError, match=name):
        through_json(broken, AnyInstanceInfo)


def test_infos_do_not_change() -> None:
    info = through_json(instance("llm"), LlmInstanceInfo)
    with pytest.raises(AttributeError):
        info.identifier = "other"
    assert hash(InstanceSpecifier("ref-1")) == hash(InstanceSpecifier("ref-1"))


@pytest.mark.parametrize(
    ("specifier", "encoded"),
    [
        (
            InstanceSpecifier("ref-1"),
            {"type": "instanceReference", "instanceReference": "ref-1"},
        ),
        (QuerySpecifier(ModelQuery()), {"type": "query", "query": {}}),
        (
            QuerySpecifier(ModelQuery(identifier="a", device_identifier=None, vision=False)),
            {
                "type": "query",
                "query": {"identifier": "a", "deviceIdentifier": None, "vision": False},
            },
        ),
        (
            QuerySpecifier(ModelQuery(domain="llm", path="a/b")),
            {"type": "query", "query": {"domain": "llm", "path": "a/b"}},
        ),
    ],
)
def test_specifiers(specifier: ModelSpecifier, encoded: Any) -> None:
    assert to_json(specifier) == encoded
    assert through_json(encoded, ModelSpecifier) == specifier
    parameter = {"specifier": encoded, "throwIfNotFound": True}
    assert schema_errors("llm", "rpc", "getModelInfo", "parameter", parameter) == []
