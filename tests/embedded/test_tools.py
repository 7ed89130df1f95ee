"""Tools: what the model is told, what it can generate, and what the client gets to see of it."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_async.embedded.prediction_settings import PredictionSettings
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.embedded.tools import (
    AnswerText,
    ArgumentText,
    CallBegun,
    CallDone,
    CallFailed,
    CallNamed,
    Tool,
    ToolCallParser,
    ToolEvent,
    ToolOffer,
    offered_tools,
)
from lmstudio_async.wire.kv_config import KvConfig, KvConfigLayer, KvConfigStack, KvField

from .raw import ANY_LOADED, RawSocket, Refused, at_most, chat, prediction, stack

ADD = {
    "type": "function",
    "function": {
        "name": "add numbers",
        "description": "Add two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
OFFER = ToolOffer([Tool("add numbers", "add_numbers", "", {})], required=True)


def settings(**values: Any) -> PredictionSettings:
    fields = [KvField(f"llm.prediction.{name}", value) for name, value in values.items()]
    return PredictionSettings(KvConfigStack([KvConfigLayer("apiOverride", KvConfig(fields))]))


def tool_array(*tools: Any) -> dict[str, Any]:
    return {"type": "toolArray", "tools": list(tools)}


def choice(mode: str) -> dict[str, Any]:
    return {"type": "generic", "mode": mode}


@pytest.mark.parametrize(
    ("naming", "name", "shown"),
    [
        ("passThrough", "get the Weather!", "get the Weather!"),
        ("removeSpecial", "get the Weather!", "get_the_Weather_"),
        ("snakeCase", "getHTTPStatus now", "get_http_status_now"),
        ("camelCase", "get_http-status", "getHttpStatus"),
        ("camelCase", "!", "_"),
    ],
)
def test_names(naming: str, name: str, shown: str) -> None:
    tool = {"type": "function", "function": {"name": name}}
    offer = offered_tools(settings(tools=tool_array(tool), toolNaming=naming))
    assert offer is not None
    assert offer.tools[0].shown == shown
    assert offer.original_name(shown) == name


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"tools": {"type": "none"}},
        {"tools": tool_array()},
        {"tools": tool_array(ADD), "toolChoice": choice("none")},
    ],
)
def test_no_tools(values: dict[str, Any]) -> None:
    assert offered_tools(settings(**values)) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tools": tool_array("add")}, "no tool"),
        ({"tools": tool_array(NOW, NOW)}, "same name"),
        ({"tools": "all of them"}, "prediction.tools"),
        ({"tools": tool_array(NOW), "toolChoice": choice("maybe")}, "toolChoice"),
        ({"tools": tool_array(), "toolChoice": choice("required")}, "no tools"),
        ({"tools": tool_array(NOW), "structured": {"type": "json"}}, "together"),
    ],
)
def test_bad_offers(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        offered_tools(settings(**values))


def parse(pieces: list[str]) -> list[ToolEvent]:
    parser = ToolCallParser(OFFER)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.finish()]


def joined(events: list[ToolEvent]) -> list[ToolEvent]:
    """Events with the pieces of texts put together."""
    result: list[ToolEvent] = []
    for event in events:
        match result, event:
            case [*_, ArgumentText(before)], ArgumentText(text):
                result[-1] = ArgumentText(before + text)
            case [*_, AnswerText(before)], AnswerText(text):
                result[-1] = AnswerText(before + text)
            case _:
                result.append(event)
    return result


ARGUMENTS = '{"a":"}\\"]{","b":[{"c":1}]}'
CALL = '{"name": "add_numbers", "arguments": ' + ARGUMENTS + "}"


def test_a_call_is_followed() -> None:
    assert joined(parse([*CALL])) == [
        CallBegun(),
        CallNamed("add numbers"),
        ArgumentText(ARGUMENTS),
        CallDone("add numbers", json.loads(ARGUMENTS), CALL),
    ]


def test_an_answer_is_no_call() -> None:
    assert joined(parse(["", "Well", " {", CALL])) == [AnswerText("Well {" + CALL)]


@pytest.mark.parametrize("length", [1, 12, 40, len(CALL) - 2])
def test_an_unfinished_call_has_failed(length: int) -> None:
    assert isinstance(parse([CALL[:length]])[-1], CallFailed)


def test_unreadable_arguments() -> None:
    events = parse([CALL.replace("}\\", "\\ud800")])
    assert isinstance(events[-1], CallFailed)
    assert "cannot be read" in events[-1].reason


@given(cuts=st.lists(st.integers(0, len(CALL)), max_size=10), end=st.integers(0, len(CALL)))
def test_how_a_call_is_cut_does_not_matter(cuts: list[int], end: int) -> None:
    text = CALL[:end]
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert joined(parse(pieces)) == joined(parse([text]))


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_required_call(llm: RawSocket) -> None:
    config = {"tools": tool_array(ADD, NOW), "toolChoice": choice("required"), **at_most(60)}
    async with llm.loading():
        packets = await llm.channel("predict", prediction("Use a tool to add 17 and 25.", config))
        kinds = [p["type"].removeprefix("toolCallGeneration") for p in packets]
        start = kinds.index("Start")
        arguments = kinds.count("ArgumentFragmentGenerated")
        assert kinds[start:] == [
            "Start",
            "NameReceived",
            *["ArgumentFragmentGenerated"] * arguments,
            "End",
            "success",
        ]
        assert "fragment" not in kinds
        end = packets[-2]
        request = end["toolCallRequest"]
        assert request["name"] == packets[start + 1]["name"] == "add numbers"
        assert {name: type(value) for name, value in request["arguments"].items()} == {
            "a": int,
            "b": int,
        }
        assert request["id"] == packets[start]["toolCallId"]
        told = "".join(packet["content"] for packet in packets[start + 2 : -2])
        assert json.loads(told) == request["arguments"]
        assert json.loads(end["rawContent"])["name"] == "add_numbers"
        assert packets[-1]["stats"]["stopReason"] == "toolCalls"

        packets = await llm.channel("predict", prediction("Add 1 and 2.", config | at_most(7)))
        assert packets[-2]["type"] == "toolCallGenerationFailed"
        assert packets[-1]["stats"]["stopReason"] == "maxPredictedTokensReached"


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_model_may_answer_instead(llm: RawSocket) -> None:
    config = {"tools": tool_array(ADD), **at_most(8)}
    async with llm.loading():
        text, success = await llm.predict("Hello!", config)
        assert text
        assert not text.startswith("{")
        assert success["stats"]["stopReason"] == "maxPredictedTokensReached"
        # The token of "{" alone is made likely: an answer cannot begin so, hence it is a call.
        begin = {"llama.logitBias": [[await only_token(llm, "{"), 100]]}
        packets = await llm.channel("predict", prediction("1+2?", config | begin))
        assert "toolCallGenerationStart" in [packet["type"] for packet in packets]


async def only_token(llm: RawSocket, text: str) -> int:
    answer = await llm.call("tokenize", {"specifier": ANY_LOADED, "inputString": text})
    (token,) = answer["tokens"]
    return int(token)


@pytest.mark.engine
@pytest.mark.asyncio
async def test_calls_and_results_are_put_into_words(llm: RawSocket) -> None:
    call = {"type": "function", "id": "1", "name": "add numbers", "arguments": {"a": 1}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        *chat("1+1?")["messages"],
        {"role": "assistant", "content": [{"type": "toolCallRequest", "toolCallRequest": call}]},
        {
            "role": "tool",
            "content": [{"type": "toolCallResult", "content": "two", "toolCallId": "1"}],
        },
    ]
    async with llm.loading():
        answer = await llm.call(
            "applyPromptTemplate",
            {
                "specifier": ANY_LOADED,
                "history": {"messages": messages},
                "predictionConfigStack": stack(),
                "opts": {"toolDefinitions": [ADD]},
            },
        )
    system, _, assistant, result, _ = answer["formatted"].split("<|im_end|>\n")
    assert "Be brief.\n\nYou can call these tools:" in system
    assert '"name":"add_numbers","description":"Add two numbers"' in system
    assert assistant.endswith('{"name": "add_numbers", "arguments": {"a":1}}')
    assert result.endswith("Result of add_numbers: two")


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_tool_with_a_bad_schema(llm: RawSocket) -> None:
    tool = {"type": "function", "function": {"name": "x", "parameters": {"type": "nonsense"}}}
    async with llm.loading():
        with pytest.raises(Refused, match="refused the grammar"):
            await llm.predict("?", {"tools": tool_array(tool)})
