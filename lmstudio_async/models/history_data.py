"""From chat data, as users write it or as it was stored, to the protocol's chat history."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from lmstudio_async.arguments import check_text
from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError
from lmstudio_async.models.messages import file_part, several, to_wire
from lmstudio_async.wire.prediction import ChatHistory, ChatMessage, TextPart, UserMessage

MessageInput: TypeAlias = Mapping[str, Any] | ChatMessage
HistoryData: TypeAlias = str | ChatHistory | Mapping[str, Any] | Iterable[MessageInput]

_ROLES = ("system", "user", "assistant")


def history_data(history: HistoryData) -> ChatHistory:
    """Chat data taken as it is: no message is merged with another, none is refused for its place.

    Raises LMStudioTypeError or LMStudioValueError.
    """
    if isinstance(history, str):
        return ChatHistory([UserMessage([TextPart(text=check_text("history", history))])])
    if isinstance(history, ChatHistory):
        return to_wire("history", history, ChatHistory)
    if isinstance(history, Mapping):
        if "messages" not in history:
            raise LMStudioValueError("history has no 'messages'; pass {'messages': [...]}")
        history = history["messages"]
    if isinstance(history, bytes) or not isinstance(history, Iterable):
        raise LMStudioTypeError(
            f"history must be a string or a list of messages, not {type(history).__name__}"
        )
    messages = [_message(f"history[{index}]", entry) for index, entry in enumerate(history)]
    return to_wire("history", {"messages": messages}, ChatHistory)


def _message(path: str, message: object) -> object:
    if isinstance(message, ChatMessage):
        return message
    if not isinstance(message, Mapping):
        raise LMStudioTypeError(f"{path} must be a dict, not {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if role not in (*_ROLES, "tool"):
        raise LMStudioValueError(f"{path} has the role {role!r}; roles are {', '.join(_ROLES)}")
    if isinstance(content, str):
        if role == "tool":
            raise LMStudioValueError(f"{path}: the content of a tool message is a list of results")
        content = [content]
    parts = several(content)
    if parts is not None:
        content = [_part(f"{path} content", part) for part in parts]
    return {"role": role, "content": content}


def _part(path: str, part: Any) -> object:
    match part:
        case str():
            return TextPart(text=check_text(path, part))
        case {"text": text}:
            return {"type": "text", **part, "text": check_text(path, text)}
        case {"identifier": _, "name": _}:
            return file_part(path, part)
    return part
