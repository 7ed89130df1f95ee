import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmstudio_async.errors import (
    LMStudioModelNotFoundError,
    LMStudioModelUnloadedError,
    LMStudioPresetNotFoundError,
    LMStudioServerError,
)
from lmstudio_async.wire.server_error import ServerError, server_exception
from tests import scripted_models
from tests.wire.strategies import json_values

ASKED, SERVER = "llm.loadModel 'qwen'", "127.0.0.1:1234"


def exception(error: Any) -> LMStudioServerError:
    return server_exception(json.dumps(error).encode(), ASKED, SERVER)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("generic.specificModelUnloaded", LMStudioModelUnloadedError),
        ("generic.noModelMatchingQuery", LMStudioModelNotFoundError),
        ("generic.pathNotFound", LMStudioModelNotFoundError),
        ("generic.identifierNotFound", LMStudioModelNotFoundError),
        ("generic.presetNotFound", LMStudioPresetNotFoundError),
        ("generic.domainMismatch", LMStudioServerError),
        ("generic.engineDoesNotSupportFeature", LMStudioServerError),
        ("generic.missingRuntimeExtension", LMStudioServerError),
        ("generic.fromTheFuture", LMStudioServerError),
    ],
)
def test_each_code_has_its_exception(code: str, kind: type[LMStudioServerError]) -> None:
    error = exception({"title": "It went wrong.", "displayData": {"code": code}})
    assert type(error) is kind
    assert str(error).startswith(f"{ASKED} failed on {SERVER}: It went wrong")
    assert error.server_error is not None
    assert error.server_error.code == code


@pytest.mark.parametrize("data", [None, "text", [], {}, {"code": None}, {"code": 7}])
def test_without_a_code_it_is_a_plain_server_error(data: Any) -> None:
    error = exception({"title": "It went wrong.", "displayData": data})
    assert type(error) is LMStudioServerError
    assert error.server_error is not None
    assert error.server_error.code is None


def test_a_missing_model_lists_those_on_disk() -> None:
    payload = scripted_models.path_not_found("qwen", [f"model-{n}" for n in range(7)])
    message = str(exception(payload))
    assert "Model not found: qwen" in message
    assert "models on disk: model-0, model-1, model-2, model-3, model-4 and 2 more" in message
    assert message.endswith("download the model in LM Studio first")


def test_an_empty_disk_is_said_to_be_empty() -> None:
    assert "there are no models on disk" in str(exception(scripted_models.path_not_found("x", [])))


@pytest.mark.parametrize(
    "payload",
    [
        scripted_models.no_model_matching({"identifier": "x"}, ["a", "b"]),
        scripted_models.identifier_not_found("x", ["a", "b"]),
    ],
)
def test_a_missing_instance_lists_what_is_loaded(payload: Any) -> None:
    message = str(exception(payload))
    assert "; loaded models: a, b; " in message
    assert message.endswith(".model(key)")


def test_an_unloaded_model_says_how_to_get_it_back() -> None:
    message = str(exception(scripted_models.specific_model_unloaded()))
    assert "get a new handle with .model(key)" in message


def test_a_missing_preset_lists_presets() -> None:
    sample = [{"identifier": "@me/one", "name": "One"}, {"name": "nameless"}]
    data = {
        "code": "generic.presetNotFound",
        "availablePresetsSample": sample,
        "totalAvailablePresets": 2,
    }
    message = str(exception({"title": "No preset.", "displayData": data}))
    assert "presets: @me/one, {'name': 'nameless'}" in message
    assert "more" not in message


def test_the_suggestion_of_the_server_takes_the_place_of_ours() -> None:
    payload = scripted_models.path_not_found("x", ["a"]) | {"suggestion": "Look again."}
    message = str(exception(payload))
    assert message.endswith("models on disk: a; Look again")


def test_title_root_title_and_cause() -> None:
    payload = {"title": "Inner.", "rootTitle": "Outer", "cause": "out of memory"}
    assert str(exception(payload)).endswith(": Outer: Inner. (out of memory)")
    assert str(exception({"title": "Same.", "rootTitle": "Same."})).endswith(": Same")
    assert str(exception({"rootTitle": "Only root"})).endswith(": Only root")


def test_the_stack_trace_is_not_kept() -> None:
    error = exception({"title": "x", "stack": "Error: at secret.js:1"})
    assert "secret" not in str(error)
    assert "secret" not in repr(error.server_error)


def test_an_undecoded_payload_will_do() -> None:
    assert "x" in str(server_exception(msgspec.Raw(b'{"title":"x"}'), ASKED, SERVER))


fields = st.sampled_from(["title", "cause", "suggestion", "errorData", "displayData", "rootTitle"])
display_data = st.fixed_dictionaries(
    {},
    optional={
        "code": st.sampled_from(["generic.pathNotFound", "generic.presetNotFound"]) | json_values,
        "availablePathsSample": json_values,
        "totalModels": json_values,
        "availablePresetsSample": st.lists(st.dictionaries(st.just("identifier"), json_values)),
        "totalAvailablePresets": json_values,
    },
)


@given(
    json_values
    | st.dictionaries(fields, json_values)
    | st.builds(
        lambda title, data: {"title": title, "displayData": data}, json_values, display_data
    )
)
@example({"displayData": {"availablePathsSample": [1, None], "totalModels": True}})
def test_any_json_makes_an_exception(payload: Any) -> None:
    error = exception(payload)
    assert isinstance(error, LMStudioServerError)
    assert str(error).startswith(f"{ASKED} failed on {SERVER}: ")
    assert isinstance(error.server_error, ServerError)


@given(st.binary())
@example(b"")
@example(b'{"title":"\xff"}')
@example(b'{"title":"\\ud800"}')
@example(b"[" * 100_000)
def test_any_bytes_make_an_exception(payload: bytes) -> None:
    assert isinstance(server_exception(payload, ASKED, SERVER), LMStudioServerError)
