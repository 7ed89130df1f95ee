"""Predictions on a real model: shapes, probabilities, reasoning, tools."""

from typing import Any

import anyio
import pytest

import lmstudio_async as lms
from tests.conftest import STARTER

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

DETERMINISTIC = {"temperature": 0, "maxTokens": 80}


class Book(lms.BaseModel):
    title: str
    year: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def test_an_answer_is_an_instance_of_a_class(client: lms.Client) -> None:
    async with client.llm.model(STARTER) as model:
        result = await model.respond("Name a novel.", response_format=Book, config=DETERMINISTIC)
        assert isinstance(result.parsed, Book)
        assert result.structured


async def test_tokens_come_with_their_probabilities(client: lms.Client) -> None:
    async with client.llm.model(STARTER) as model:
        config = {"maxTokens": 3, "logProbs": 2}
        fragments = [f async for f in model.respond_stream("Hello!", config=config)]
        tokens = [token for f in fragments for token in f.tokens or ()]
        assert tokens
        for token in tokens:
            assert token.log_prob is not None
            assert token.log_prob <= 0
            assert token.candidates is not None
            assert len(token.candidates) == 2


async def test_reasoning_is_told_from_the_answer(client: lms.Client) -> None:
    shape = {"type": "gbnf", "gbnfGrammar": 'root ::= "<think>" [a-z]{3} "</think>" "yes"'}
    async with client.llm.model(STARTER) as model:
        result = await model.respond("Is it?", response_format=shape, config=DETERMINISTIC)
        assert result.parsed == result.non_reasoning_content == "yes"
        assert len(result.reasoning_content) == 3
        assert result.content == f"<think>{result.reasoning_content}</think>yes"


async def test_a_completion_stops_at_its_stop_string(client: lms.Client) -> None:
    shape = {"type": "gbnf", "gbnfGrammar": 'root ::= "one, two"'}
    async with client.llm.model(STARTER) as model:
        config = {"temperature": 0, "stopStrings": [","]}
        result = await model.complete("Count: ", response_format=shape, config=config)
        assert result.content == "one"
        assert result.stats.stop_reason == "stopStringFound"
        assert result.stats.stop_string == ","


async def test_a_chat_goes_on(client: lms.Client) -> None:
    chat = lms.Chat("You are terse.")
    async with client.llm.model(STARTER) as model:
        for text in ("Hello!", "And now?"):
            chat.add_user_message(text)
            await model.respond(chat, config=DETERMINISTIC, on_message=chat.append)
    assert [message.role for message in chat] == [
        *("system", "user", "assistant", "user", "assistant")
    ]


async def test_a_required_tool_call_is_well_formed(client: lms.Client) -> None:
    heard: list[Any] = []
    messages: list[Any] = []
    tool = lms.ToolFunctionDef.from_callable(add)
    config = {
        **DETERMINISTIC,
        "rawTools": {"type": "toolArray", "tools": [tool.to_protocol()]},
        "toolChoice": {"type": "generic", "mode": "required"},
    }
    async with client.llm.model(STARTER) as model:
        result = await model.respond(
            "What is 2 plus 3?",
            config=config,
            on_message=messages.append,
            on_tool_call_request_start=lambda number, _id: heard.append(number),
            on_tool_call_request_name_received=lambda number, name: heard.append(name),
            on_tool_call_request_end=lambda number, info: heard.append(info),
        )
    assert result.stats.stop_reason == "toolCalls"
    assert heard[:2] == [0, "add"]
    request = heard[2].tool_call_request
    assert isinstance(await tool.call(request.arguments), int)
    assert messages[0].tool_call_requests == [request]


async def test_an_agent_calls_its_tool(client: lms.Client) -> None:
    results: list[Any] = []
    config = {**DETERMINISTIC, "toolChoice": {"type": "generic", "mode": "required"}}
    async with client.llm.model(STARTER) as model:
        done = await model.act(
            "What is 2 plus 3?",
            [add],
            max_prediction_rounds=2,
            config=config,
            on_tool_call_result=lambda round_index, call, result: results.append(result),
        )
    assert done.rounds == 2
    assert len(results) == 1
    assert results[0].content.lstrip("-").isdigit()


async def test_images_are_refused_clearly(client: lms.Client) -> None:
    with pytest.raises(lms.LMStudioServerError, match="no vision"):
        await client.prepare_image(b"\x89PNG and so on")


async def test_giving_up_in_the_queue_takes_nobody_elses_place(client: lms.Client) -> None:
    config = {"maxParallelPredictions": 1}
    async with client.llm.load_new_instance(STARTER, config=config) as model:

        async def wait_for_queue(length: int) -> None:
            with anyio.fail_after(30):
                while (await model.get_processing_state()).queued != length:
                    pass  # the server has no event to wait for

        async with model.respond_stream("Write a very long story.") as first:
            await first.next_fragment()
            async with anyio.create_task_group() as group:

                async def respond() -> None:
                    assert (await model.respond("Hello", config={"maxTokens": 1})).content

                group.start_soon(respond)
                await wait_for_queue(1)
                third = await model.respond_stream("Hello")
                await wait_for_queue(2)
                await third.cancel()
                await third.wait_for_result()
                first.abandon()
