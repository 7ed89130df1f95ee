"""Tools for models, whether they were trained to use them or not.

The tools are described in the system prompt. A grammar sees to it that what begins as a call
becomes one: `{"name": ..., "arguments": {...}}` with the name of a tool, and arguments by its
schema. Calls and results in a chat become plain messages of the same form.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lmstudio_async.embedded.prediction_settings import LLGUIDANCE, PredictionSettings, no_value
from lmstudio_async.embedded.ranges import BAD_VALUE, text
from lmstudio_async.embedded.refusal import RequestError, shown
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    ChatHistory,
    ChatMessage,
    FilePart,
    SystemMessage,
    TextPart,
    ToolCallRequestPart,
    ToolMessage,
    UserMessage,
)

_BEGIN = '{"name": '
_MIDDLE = ', "arguments": '
_INSTRUCTION = (
    "You can call these tools:\n{tools}\n"
    'To call one, reply with {{"name": "<its name>", "arguments": {{...}}}} and nothing else.'
)
_OPTIONAL = " Reply in plain words when no tool is needed, and once you have the results."
_REQUIRED = " Reply with a call of a tool."


@dataclass(frozen=True)
class Tool:
    """`name` is the client's, `shown` the one the model gets to see."""

    name: str
    shown: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class ToolOffer:
    """The tools of one prediction; `required` if the model must call one."""

    tools: Sequence[Tool]
    required: bool

    def original_name(self, shown: str) -> str:
        return {tool.shown: tool.name for tool in self.tools}.get(shown, shown)

    def instruction(self) -> str:
        described = (
            {"name": tool.shown, "description": tool.description, "parameters": tool.parameters}
            for tool in self.tools
        )
        listed = "\n".join(_json(one) for one in described)
        return _INSTRUCTION.format(tools=listed) + (_REQUIRED if self.required else _OPTIONAL)

    def grammar(self, reasoning: tuple[str, str] | None, inside_reasoning: bool) -> str:
        """A grammar in llguidance's dialect of Lark: a call or, unless one is required, any text
        that does not begin as one.

        Reasoning between the given marks may come before, but not before a required call, which
        small models would never come to. If the prompt has begun the reasoning, it must come.
        """
        calls = [f"call_{number}" for number in range(len(self.tools))]
        lines = [LLGUIDANCE, f"answer: {' | '.join(calls)}"]
        if not self.required:
            lines[-1] += " | TEXT"
            lines.append(r"TEXT: /[^{](.|\n)*/")
        if reasoning is None or (self.required and not inside_reasoning):
            lines.append("start: answer")
        else:
            start, end = reasoning
            lines.append(f"thoughts[suffix={_json(end)}]: /(.|\\n)*/")
            lines.append(
                "start: thoughts answer"
                if inside_reasoning
                else f"start: ({_json(start)} thoughts)? answer"
            )
        for number, tool in enumerate(self.tools):
            begin = _json(_BEGIN + _json(tool.shown) + _MIDDLE)
            # Small models would fill lines with blanks, and invent arguments if they may.
            schema = {"additionalProperties": False, **tool.parameters}
            schema["x-guidance"] = {"whitespace_flexible": False}
            lines.append(f'call_{number}: {begin} arguments_{number} "}}"')
            lines.append(f"arguments_{number}: %json {_json(schema)}")
        return "\n".join(lines)


def offered_tools(settings: PredictionSettings) -> ToolOffer | None:
    """The tools that the settings offer to the model. Raises RequestError."""
    definitions: list[Any] = []
    match settings.get("tools"):
        case {"type": "toolArray", "tools": list(definitions)}:
            pass
        case None | {"type": "none"} | {"type": "toolArray", "tools": None}:
            pass
        case {"type": "toolArray"} as setting if "tools" not in setting:
            pass
        case other:
            raise no_value("tools", other)
    match settings.get("toolChoice"):
        case None:
            mode = "auto"
        case {"type": "generic", "mode": "none" | "auto" | "required" as mode}:
            pass
        case other:
            raise no_value("toolChoice", other)
    if mode == "required" and not definitions:
        raise RequestError("A tool call is required, but there are no tools")
    if mode == "none" or not definitions:
        return None
    naming = settings.get("toolNaming")
    tools = [_tool(one, naming) for one in definitions]
    if len({tool.shown for tool in tools}) < len(tools):
        raise RequestError(f"Two tools have the same name once {shown(naming)} is applied to it")
    if settings.grammar is not None:
        raise RequestError("Structured output and tools cannot be asked for together")
    return ToolOffer(tools, required=mode == "required")


def _tool(definition: Any, naming: str) -> Tool:
    try:
        function = dict(definition["function"])
        name = text(function["name"])
        return Tool(
            name=name,
            shown=_shown_name(name, naming),
            description=text(function.get("description") or ""),
            parameters=dict(function.get("parameters") or {"type": "object", "properties": {}}),
        )
    except BAD_VALUE:
        raise RequestError(f"{shown(definition)} describes no tool") from None


def _shown_name(name: str, naming: str) -> str:
    words: list[str] = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    match naming:
        case "passThrough":
            return name
        case "snakeCase":
            return "_".join(word.lower() for word in words) or "_"
        case "camelCase":
            first, *others = words or ["_"]
            return first.lower() + "".join(word.capitalize() for word in others)
        case _:
            return re.sub(r"\W", "_", name, flags=re.ASCII)


def plain_chat(history: ChatHistory, offer: ToolOffer | None) -> ChatHistory:
    """The chat in words that any model's template takes: system, user and assistant texts."""
    shown = {tool.name: tool.shown for tool in offer.tools} if offer else {}
    names: dict[str | None, str] = {}
    messages: list[ChatMessage] = []
    for message in history.messages:
        if isinstance(message, ToolMessage):
            results = "\n".join(
                f"Result of {part.name or names.get(part.tool_call_id, 'the tool')}: {part.content}"
                for part in message.content
            )
            messages.append(UserMessage([TextPart(text=results)]))
        elif isinstance(message, AssistantMessage):
            parts: list[TextPart | FilePart | ToolCallRequestPart] = []
            for part in message.content:
                if isinstance(part, ToolCallRequestPart):
                    call = part.tool_call_request
                    names[call.id] = name = shown.get(call.name, call.name)
                    text = _BEGIN + _json(name) + _MIDDLE + _json(call.arguments or {}) + "}"
                    parts.append(TextPart(text=text))
                else:
                    parts.append(part)
            messages.append(AssistantMessage(parts))
        else:
            messages.append(message)
    if offer is not None:
        instruction = TextPart(text=offer.instruction())
        match messages:
            case [SystemMessage(content), *others]:
                separator = TextPart(text="\n\n")
                messages = [SystemMessage([*content, separator, instruction]), *others]
            case _:
                messages = [SystemMessage([instruction]), *messages]
    return ChatHistory(messages)


@dataclass(frozen=True)
class CallBegun:
    pass


@dataclass(frozen=True)
class CallNamed:
    name: str


@dataclass(frozen=True)
class ArgumentText:
    text: str


@dataclass(frozen=True)
class CallDone:
    name: str
    arguments: dict[str, Any]
    raw: str


@dataclass(frozen=True)
class CallFailed:
    reason: str
    raw: str


@dataclass(frozen=True)
class AnswerText:
    text: str


ToolEvent = CallBegun | CallNamed | ArgumentText | CallDone | CallFailed | AnswerText


class ToolCallParser:
    """Follows a call, which may be all that a model generates, in pieces of any size."""

    def __init__(self, offer: ToolOffer) -> None:
        self._offer = offer
        self._is_call: bool | None = None
        self._raw = ""
        self._name: str | None = None
        self._arguments_at = 0
        self._told = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._complete = False

    def feed(self, text: str) -> Iterator[ToolEvent]:
        if not text:
            return
        if self._is_call is None:
            self._is_call = text.startswith("{")
            if self._is_call:
                yield CallBegun()
        if not self._is_call:
            yield AnswerText(text)
            return
        self._raw += text
        if self._name is None:
            end = self._raw.find(_MIDDLE, len(_BEGIN))
            if end < 0:
                return
            shown = msgspec.json.decode(self._raw[len(_BEGIN) : end], type=str)
            self._name = self._offer.original_name(shown)
            self._arguments_at = self._told = end + len(_MIDDLE)
            yield CallNamed(self._name)
        if new := self._new_arguments():
            yield ArgumentText(new)

    def finish(self) -> Iterator[ToolEvent]:
        """What the call amounts to when no more text will come."""
        if not self._is_call:
            return
        if self._name is None or not self._complete:
            yield CallFailed("The model was stopped in the middle of a tool call", self._raw)
            return
        try:
            arguments = msgspec.json.decode(
                self._raw[self._arguments_at : self._told], type=dict[str, Any]
            )
        except msgspec.DecodeError as error:  # half of a surrogate pair, say
            yield CallFailed(f"The arguments of the tool call cannot be read: {error}", self._raw)
        else:
            yield CallDone(self._name, arguments, self._raw)

    def _new_arguments(self) -> str:
        """The text since the last time, up to the brace that closes the arguments."""
        begin = at = self._told
        while at < len(self._raw) and not self._complete:
            self._scan(self._raw[at])
            at += 1
        self._told = at
        return self._raw[begin:at]

    def _scan(self, character: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self._complete = self._depth == 0


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
