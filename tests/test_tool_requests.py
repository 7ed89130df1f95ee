"""What `respond` tells of tool calls that the model asks for."""

from typing import Any

import pytest

import lmstudio_async as lms
from tests.scripted_server import ScriptedServer, fragment_packet

pytestmark = pytest.mark.anyio

REQUEST = {"type": "function", "id": "7", "name": "add", "arguments": {"a": 1}}


async def test_a_tool_call_is_told_of_as_it_is_written(
    server: ScriptedServer, client: lms.Client, caplog: pytest.LogCaptureFixture
) -> None:
    server.script_prediction(
        fragment_packet("Let me see."),
        {"type": "toolCallGenerationStart", "toolCallId": "7"},
        {"type": "toolCallGenerationNameReceived", "name": "add"},
        {"type": "toolCallGenerationArgumentFragmentGenerated", "content": '{"a": 1}'},
        {"type": "toolCallGenerationEnd", "toolCallRequest": REQUEST, "rawContent": "add(1)"},
        {"type": "toolCallGenerationStart"},
        {
            "type": "toolCallGenerationFailed",
            "error": {"title": "no such notation"},
            "rawContent": "ad(",
        },
        stop_reason="toolCalls",
    )
    heard: list[Any] = []
    messages: list[Any] = []
    model = await client.llm.model("llm-a")
    result = await model.respond(
        "What is 1?",
        on_message=messages.append,
        on_tool_call_request_start=lambda *told: heard.append(told),
        on_tool_call_request_name_received=lambda *told: heard.append(told),
        on_tool_call_request_argument_fragment_generated=lambda *told: heard.append(told),
        on_tool_call_request_end=lambda *told: heard.append(told),
        on_tool_call_request_failure=lambda *told: heard.append(told),
    )
    request = lms.ToolCallRequest(name="add", id="7", arguments={"a": 1})
    assert heard[:4] == [
        (0, "7"),
        (0, "add"),
        (0, '{"a": 1}'),
        (0, lms.ToolCallRequestInfo(request, "add(1)", is_queued=False)),
    ]
    assert heard[4] == (1, None)
    number, error = heard[5]
    assert number == 1
    assert isinstance(error, lms.ToolCallRequestError)
    assert "no such notation" in str(error)
    assert error.raw_content == "ad("
    assert result.stats.stop_reason == "toolCalls"
    [message] = messages
    assert message.text == "Let me see."
    assert message.tool_call_requests == [request]
    assert not caplog.records


async def test_a_connection_is_closed_in_the_middle_of_a_flood(server: ScriptedServer) -> None:
    server.endless_predictions = True
    async with lms.Client(server.api_host) as client:
        model = await client.llm.model("llm-a")
        stream = await model.respond_stream("Hello!")
        await anext(stream)
    await server.until(lambda: not server.predictions_running)
