"""From a chat to the prompt that the model is given."""

from typing import Any

import msgspec

from lmstudio_async.embedded.engine import Engine
from lmstudio_async.embedded.refusal import RequestError, feature_not_supported
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    ChatHistory,
    ChatMessage,
    FilePart,
    TextPart,
    ToolCallRequestPart,
    ToolMessage,
)

_TEMPLATE = "llm.prediction.promptTemplate"


async def render_prompt(engine: Engine, history: ChatHistory, config: dict[str, Any]) -> str:
    """The prompt for a chat, by the template in the settings or else by the model's own."""
    for message in history.messages:
        if any(isinstance(part, FilePart) for part in message.content):
            raise feature_not_supported(
                "vision", "This server takes no files or images: its models have no vision"
            )
    template = config.get(_TEMPLATE)
    if template is None:
        return await _render_with_model(engine, history, config)
    if template.get("type") == "manual" and "manualPromptTemplate" in template:
        return _render_manually(history, template["manualPromptTemplate"])
    raise feature_not_supported(
        "promptTemplate", "This server takes a Jinja template when a model is loaded, not later"
    )


def template_stop_strings(config: dict[str, Any]) -> list[str]:
    return list((config.get(_TEMPLATE) or {}).get("stopStrings", []))


async def _render_with_model(engine: Engine, history: ChatHistory, config: dict[str, Any]) -> str:
    body: dict[str, Any] = {
        "messages": [message for one in history.messages for message in _openai_messages(one)]
    }
    tools = config.get("llm.prediction.tools")
    if tools is not None and tools.get("type") == "toolArray":
        body["tools"] = tools.get("tools", [])
    thinking = config.get("llm.prediction.reasoning.enableThinking")
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    answer = await engine.post("/apply-template", body)
    return str(answer["prompt"])


def _openai_messages(message: ChatMessage) -> list[dict[str, Any]]:
    if isinstance(message, ToolMessage):
        return [
            {"role": "tool", "content": part.content, "tool_call_id": part.tool_call_id or ""}
            for part in message.content
        ]
    rendered: dict[str, Any] = {"role": _role(message), "content": _text(message)}
    calls = [
        {
            "type": "function",
            "id": part.tool_call_request.id or "",
            "function": {
                "name": part.tool_call_request.name,
                "arguments": msgspec.json.encode(part.tool_call_request.arguments or {}).decode(),
            },
        }
        for part in message.content
        if isinstance(part, ToolCallRequestPart)
    ]
    if calls:
        rendered["tool_calls"] = calls
    return [rendered]


def _render_manually(history: ChatHistory, template: dict[str, str]) -> str:
    prompt = ""
    for message in history.messages:
        if isinstance(message, ToolMessage):
            raise RequestError("A manual prompt template has no place for tool results")
        role = _role(message).capitalize()
        prompt += template[f"before{role}"] + _text(message) + template[f"after{role}"]
    # A chat that ends with the model's own words asks for nothing more than an answer to them.
    return prompt + template["beforeAssistant"]


def _role(message: ChatMessage) -> str:
    return str(message.__struct_config__.tag)


def _text(message: ChatMessage) -> str:
    assert not isinstance(message, ToolMessage)
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


__all__ = ["AssistantMessage", "render_prompt", "template_stop_strings"]
