"""From a chat to the prompt that the model is given."""

from typing import Any

from lmstudio_async.embedded.engine import Engine
from lmstudio_async.embedded.prediction_settings import PredictionSettings, no_value
from lmstudio_async.embedded.refusal import feature_not_supported
from lmstudio_async.embedded.tools import ToolOffer, plain_chat
from lmstudio_async.wire.prediction import (
    ChatHistory,
    ChatMessage,
    FilePart,
    SystemMessage,
    TextPart,
    ToolMessage,
)

# With this one clients have `predict` complete a raw text.
_TEXTS_ALONE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


async def render_prompt(
    engine: Engine, history: ChatHistory, settings: PredictionSettings, offer: ToolOffer | None
) -> str:
    """The prompt for a chat, by the template in the settings or else by the model's own."""
    for message in history.messages:
        if any(isinstance(part, FilePart) for part in message.content):
            raise feature_not_supported(
                "vision", "This server takes no files or images: its models have no vision"
            )
    chat = plain_chat(history, offer)
    template = settings.get("promptTemplate")
    if template is None:
        return await _render_with_model(engine, chat, settings)
    match template:
        case {"type": "manual", "manualPromptTemplate": dict(manual)}:
            if not all(isinstance(one, str) for one in manual.values()):
                raise no_value("promptTemplate", template)
            return _render_manually(chat, manual)
        case {"type": "jinja", "jinjaPromptTemplate": {"template": str(jinja)}}:
            if jinja.strip() == _TEXTS_ALONE:
                return "".join(_text(message) for message in chat.messages)
    raise feature_not_supported(
        "promptTemplate", "This server takes a Jinja template when a model is loaded, not later"
    )


def with_system_prompt(history: ChatHistory, settings: PredictionSettings) -> ChatHistory:
    """The chat, begun by the system prompt of the settings unless it has its own."""
    prompt = settings.get("systemPrompt")
    if not prompt or (history.messages and isinstance(history.messages[0], SystemMessage)):
        return history
    return ChatHistory([SystemMessage([TextPart(text=prompt)]), *history.messages])


async def _render_with_model(
    engine: Engine, chat: ChatHistory, settings: PredictionSettings
) -> str:
    messages = [{"role": _role(one), "content": _text(one)} for one in chat.messages]
    body: dict[str, Any] = {"messages": messages}
    thinking = settings.get("reasoning.enableThinking")
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    answer = await engine.post("/apply-template", body)
    return str(answer["prompt"])


def _render_manually(chat: ChatHistory, template: dict[str, str]) -> str:
    prompt = ""
    for message in chat.messages:
        role = _role(message).capitalize()
        prompt += template.get(f"before{role}", "") + _text(message)
        prompt += template.get(f"after{role}", "")
    # A chat that ends with the model's own words asks for nothing more than an answer to them.
    return prompt + template.get("beforeAssistant", "")


def _role(message: ChatMessage) -> str:
    return str(message.__struct_config__.tag)


def _text(message: ChatMessage) -> str:
    assert not isinstance(message, ToolMessage)
    return "".join(part.text for part in message.content if isinstance(part, TextPart))
