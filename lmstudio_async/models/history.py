"""What users write as a chat, as the protocol wants it."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from lmstudio_async.arguments import check_text
from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError
from lmstudio_async.wire.prediction import ChatHistory, TextPart, UserMessage

HistoryInput: TypeAlias = str | Mapping[str, Any] | Iterable[Mapping[str, Any]]

_ROLES = ("system", "user", "assistant")


def chat_history(history: HistoryInput) -> ChatHistory:
    """A chat from a prompt, from a list of messages, or from chat data.

    A message is a dict with a `role` ("system", "user" or "assistant") and a `content`, which is
    text or a list of parts in protocol form; chat data is {"messages": [...]}. Raises
    LMStudioTypeError or LMStudioValueError.
    """
    if isinstance(history, str):
        return ChatHistory([UserMessage([TextPart(text=check_text("history", history))])])
    if isinstance(history, Mapping):
        if "messages" not in history:
            raise LMStudioValueError("history has no 'messages'; pass {'messages': [...]}")
        history = history["messages"]
    if isinstance(history, bytes) or not isinstance(history, Iterable):
        raise LMStudioTypeError(
            f"history must be a string or a list of messages, not {type(history).__name__}"
        )
    messages = [_message(f"history[{index}]", entry) for index, entry in enumerate(history)]
    if not messages:
        raise LMStudioValueError("history is empty; it needs at least one message")
    try:
        return msgspec.convert({"messages": messages}, ChatHistory)
    except msgspec.ValidationError as error:
        raise LMStudioValueError(f"history: {error}") from None


def _message(path: str, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise LMStudioTypeError(f"{path} must be a dict, not {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if role not in (*_ROLES, "tool"):
        raise LMStudioValueError(f"{path} has the role {role!r}; roles are {', '.join(_ROLES)}")
    if isinstance(content, str):
        if role == "tool":
            raise LMStudioValueError(f"{path}: the content of a tool message is a list of results")
        content = [{"type": "text", "text": content}]
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping) and "text" in part:
            check_text(f"{path} content", part["text"])
    return {"role": role, "content": content}
