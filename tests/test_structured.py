"""Structured output: the shape that is asked for, and the instance that comes back."""

import dataclasses
import json
from typing import Any, TypedDict

import msgspec
import pytest

import lmstudio_async as lms
from tests.scripted_server import ScriptedServer

pytestmark = pytest.mark.anyio

STRUCTURED = "llm.prediction.structured"


class Author(msgspec.Struct):
    name: str


class Book(lms.BaseModel):
    title: str
    year: int
    author: Author | None = None


class PlainStruct(msgspec.Struct):
    title: str
    year: int


@dataclasses.dataclass
class Dataclass:
    title: str
    year: int


class Dict(TypedDict):
    title: str
    year: int


class LikePydantic:
    """What the SDK uses of a pydantic model."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object", "title": "from pydantic"}

    @classmethod
    def model_validate_json(cls, text: str) -> "LikePydantic":
        fields = json.loads(text)
        if "year" not in fields:
            raise ValueError("year is missing")
        return cls(**fields)


@pytest.fixture
async def model(client: lms.Client) -> lms.LLM:
    return await client.llm.model("llm-a")


def sent(server: ScriptedServer, endpoint: str = "predict") -> Any:
    [layer, *_] = server.requests(endpoint)[-1]["predictionConfigStack"]["layers"]
    return {field["key"]: field["value"] for field in layer["config"]["fields"]}


def answer(server: ScriptedServer, **fields: Any) -> None:
    server.reply = json.dumps(fields)


@pytest.mark.parametrize("shape", [PlainStruct, Dataclass])
async def test_the_answer_is_an_instance_of_the_class(
    server: ScriptedServer, model: lms.LLM, shape: type[PlainStruct]
) -> None:
    answer(server, title="Emma", year=1815)
    result = await model.respond("A book?", response_format=shape)
    assert result.parsed == shape(title="Emma", year=1815)
    assert result.structured
    schema = sent(server)[STRUCTURED]
    assert schema["type"] == "json"
    assert schema["jsonSchema"]["type"] == "object"
    assert schema["jsonSchema"]["required"] == ["title", "year"]


async def test_nested_classes_are_defined_in_the_schema(
    server: ScriptedServer, model: lms.LLM
) -> None:
    answer(server, title="Emma", year=1815, author={"name": "Austen"})
    result = await model.respond("A book?", response_format=Book)
    assert result.parsed.author == Author("Austen")
    schema = sent(server)[STRUCTURED]["jsonSchema"]
    assert schema == Book.model_json_schema()
    assert schema["$defs"]["Author"]["properties"] == {"name": {"type": "string"}}


async def test_a_typed_dict_stays_a_dict(server: ScriptedServer, model: lms.LLM) -> None:
    answer(server, title="Emma", year=1815)
    assert (await model.respond("A book?", response_format=Dict)).parsed == {
        "title": "Emma",
        "year": 1815,
    }


async def test_a_pydantic_model_validates_itself(server: ScriptedServer, model: lms.LLM) -> None:
    answer(server, title="Emma", year=1815)
    result = await model.respond("A book?", response_format=LikePydantic)
    assert result.parsed.fields == {"title": "Emma", "year": 1815}
    assert sent(server)[STRUCTURED]["jsonSchema"]["title"] == "from pydantic"
    answer(server, title="Emma")
    with pytest.raises(lms.LMStudioPredictionError, match="year is missing"):
        await model.respond("A book?", response_format=LikePydantic)


@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_json_schema_gives_plain_data(
    server: ScriptedServer, model: lms.LLM, wrapped: bool
) -> None:
    schema = {"type": "object", "properties": {"a_b": {"type": "string"}}}
    answer(server, a_b="x")
    shape = {"type": "json", "jsonSchema": schema} if wrapped else schema
    result = await model.respond("Hello", response_format=shape)
    assert result.parsed == {"a_b": "x"}
    assert sent(server)[STRUCTURED] == {"type": "json", "jsonSchema": schema}


async def test_a_grammar_gives_text(server: ScriptedServer, model: lms.LLM) -> None:
    server.reply = "yes"
    grammar = {"type": "gbnf", "gbnfGrammar": 'root ::= "yes" | "no"'}
    assert (await model.respond("Hello", response_format=grammar)).parsed == "yes"
    assert sent(server)[STRUCTURED] == grammar


async def test_without_a_format_the_answer_is_text(server: ScriptedServer, model: lms.LLM) -> None:
    result = await model.respond("Hello")
    assert result.parsed == result.content == server.reply
    assert not result.structured
    assert STRUCTURED not in sent(server)


@pytest.mark.parametrize("text", ['{"title": "Emma"}', '{"title": "Emma", "year": "old"}', '{"ti'])
async def test_an_answer_of_another_shape_is_an_error_that_shows_it(
    server: ScriptedServer, model: lms.LLM, text: str
) -> None:
    server.reply = text
    with pytest.raises(lms.LMStudioPredictionError) as caught:
        await model.respond("A book?", response_format=Book)
    assert "Book" in str(caught.value)
    assert repr(text) in str(caught.value)


async def test_a_stream_has_its_fragments_even_if_the_whole_is_wrong(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.reply = "no JSON at all"
    stream = model.respond_stream("A book?", response_format=Book)
    assert [fragment.content async for fragment in stream]
    with pytest.raises(lms.LMStudioPredictionError, match="no JSON at all"):
        stream.result()


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        (5, TypeError),
        (Book(title="Emma", year=1815), TypeError),
        (int, TypeError),
        ({"type": "gbnf"}, ValueError),
    ],
)
async def test_what_is_no_format_is_refused(
    server: ScriptedServer, model: lms.LLM, shape: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="response_format"):
        await model.respond("Hello", response_format=shape)
    with pytest.raises(ValueError, match="either response_format or"):
        await model.respond("Hello", response_format=Book, config={"structured": {"type": "none"}})
    assert server.count("predict") == 0


async def test_a_raw_completion_takes_the_same_options(
    server: ScriptedServer, model: lms.LLM
) -> None:
    answer(server, title="Emma", year=1815)
    result = await model.complete(
        "A book: ", response_format=PlainStruct, config={"temperature": 0.5}, preset="mine"
    )
    assert result.parsed == PlainStruct("Emma", 1815)
    [request] = server.requests("completeRawText")
    assert request["rawPrompt"] == "A book: "
    assert request["fuzzyPresetIdentifier"] == "mine"
    assert sent(server, "completeRawText")["llm.prediction.temperature"] == 0.5


async def test_an_older_server_completes_through_an_empty_template(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.unknown_endpoints.add("completeRawText")
    for _ in range(2):
        assert (await model.complete("Once upon")).content == server.reply
    # What it does not know it is not asked again.
    assert server.count("completeRawText") == 1
    assert server.count("predict") == 2
    request = server.requests("predict")[0]
    assert request["history"]["messages"][0]["content"] == [{"type": "text", "text": "Once upon"}]
    names = [layer["layerName"] for layer in request["predictionConfigStack"]["layers"]]
    assert names == ["apiOverride", "completeModeFormatting"]


async def test_a_refused_response_has_no_other_way(server: ScriptedServer, model: lms.LLM) -> None:
    server.unknown_endpoints.add("predict")
    with pytest.raises(lms.LMStudioProtocolError) as caught:
        await model.respond("Hello")
    assert caught.value.refused


async def test_an_unknown_option_is_refused(server: ScriptedServer, model: lms.LLM) -> None:
    with pytest.raises(TypeError, match="no option 'temperature'"):
        await model.respond("Hello", temperature=0.5)  # type: ignore[call-overload]
    assert server.count("predict") == 0


async def test_the_finished_answer_is_a_message(server: ScriptedServer, model: lms.LLM) -> None:
    messages: list[Any] = []
    await model.respond("Hello", on_message=messages.append)
    [message] = messages
    assert message.content[0].text == server.reply


async def test_base_settings_and_templates_come_from_the_server(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.answer(
        "getBasePredictionConfig",
        {"fields": [{"key": "llm.prediction.temperature", "value": 0.7}]},
    )
    assert (await model.get_base_prediction_config()).temperature == 0.7
    assert "Hello" in await model.apply_prompt_template("Hello", omit_bos_token=True)
    assert server.requests("applyPromptTemplate")[0]["opts"] == {"omitBosToken": True}
    server.answer("preloadDraftModel", None)
    await model.preload_draft_model("llm-b")
    assert server.requests("preloadDraftModel")[0]["draftModelKey"] == "llm-b"
