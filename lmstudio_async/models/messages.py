"""From what users write in a message to the parts that the protocol knows.

Every function returns data of its own, sharing nothing that could change with what it was given,
and raises LMStudioValueError for what the protocol has no place for.
"""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from lmstudio_async.arguments import check_text
from lmstudio_async.errors import LMStudioValueError
from lmstudio_async.models.prediction import PredictionResult
from lmstudio_async.wire.prediction import (
    FilePart,
    TextPart,
    ToolCallRequest,
    ToolCallRequestPart,
    ToolCallResultPart,
)

T = TypeVar("T")
P = TypeVar("P", FilePart, ToolCallRequest, ToolCallResultPart)

TextInput: TypeAlias = str | TextPart | Mapping[str, Any]
FileInput: TypeAlias = FilePart | Mapping[str, Any]
PartInput: TypeAlias = TextInput | FileInput
ResponseInput: TypeAlias = PartInput | PredictionResult[Any]
ToolCallRequestInput: TypeAlias = ToolCallRequest | ToolCallRequestPart | Mapping[str, Any]
ToolCallResultInput: TypeAlias = ToolCallResultPart | Mapping[str, Any]


def to_wire(argument: str, data: object, kind: type[T]) -> T:
    """`data` as a wire type, or a copy if it is of that type already."""
    # By way of JSON: what has been through it can be sent, and shares nothing with its source.
    try:
        return msgspec.json.decode(msgspec.json.encode(data), type=kind)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LMStudioValueError(f"{argument}: {error}") from None


def text_part(argument: str, value: Any) -> TextPart:
    """Text, given as a string, a part or a dict with a "text"."""
    match value:
        case TextPart():
            return to_wire(argument, value, TextPart)
        case str():
            return TextPart(text=check_text(argument, value))
        case {"text": str() as text}:
            return TextPart(text=check_text(argument, text))
    raise _not_understood(argument, value, "text")


def file_part(argument: str, value: Any) -> FilePart:
    """A file, given as a handle or as its dict."""
    match value:
        case FilePart():
            return to_wire(argument, value, FilePart)
        case {"name": _, "identifier": _}:
            return _from_dict(argument, value, FilePart)
    raise _not_understood(argument, value, "a file handle, as prepare_image() returns")


def text_or_file(argument: str, value: Any) -> TextPart | FilePart:
    """Either of the two."""
    match value:
        case str() | TextPart() | {"text": str()}:
            return text_part(argument, value)
        case FilePart() | {"name": _, "identifier": _}:
            return file_part(argument, value)
    raise _not_understood(argument, value, "text or a file handle")


def response_part(argument: str, value: Any) -> TextPart | FilePart:
    """What the model said, also as the result of a prediction."""
    if isinstance(value, PredictionResult):
        value = value.content
    return text_or_file(argument, value)


def is_tool_call_request(value: Any) -> bool:
    """Whether `tool_call_request` is the one to ask."""
    match value:
        case ToolCallRequest() | ToolCallRequestPart() | {"type": "function" | "toolCallRequest"}:
            return True
    return False


def tool_call_request(argument: str, value: Any) -> ToolCallRequestPart:
    """A tool call that the model asked for, with or without the part around it."""
    match value:
        case ToolCallRequestPart(tool_call_request=request):
            return tool_call_request(argument, request)
        case {"toolCallRequest": request} | {"tool_call_request": request}:
            return tool_call_request(argument, request)
        case ToolCallRequest():
            return ToolCallRequestPart(tool_call_request=to_wire(argument, value, ToolCallRequest))
        case {"name": _}:
            return ToolCallRequestPart(
                tool_call_request=_from_dict(argument, value, ToolCallRequest)
            )
    raise _not_understood(argument, value, "a tool call request")


def tool_call_result(argument: str, value: Any) -> ToolCallResultPart:
    """What a tool call gave."""
    match value:
        case ToolCallResultPart():
            return to_wire(argument, value, ToolCallResultPart)
        case {"content": _}:
            return _from_dict(argument, value, ToolCallResultPart)
    raise _not_understood(argument, value, "a tool call result")


def several(value: object) -> list[Any] | None:
    """The items of a content that has several, None if it is a single one."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return None
    return list(value)


def _from_dict(argument: str, value: Mapping[str, Any], kind: type[P]) -> P:
    # Keys may be in snake_case, as they are in Python.
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    return to_wire(argument, {names.get(key, key): value[key] for key in value}, kind)


def _not_understood(argument: str, value: Any, wanted: str) -> LMStudioValueError:
    return LMStudioValueError(f"{argument} must be {wanted}, not {reprlib.repr(value)}")
