"""A chat that grows."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias, TypeVar, overload

import msgspec

from lmstudio_async.errors import LMStudioRuntimeError, LMStudioValueError
from lmstudio_async.models.history_data import HistoryData, history_data
from lmstudio_async.models.messages import (
    FileInput,
    PartInput,
    ResponseInput,
    TextInput,
    ToolCallRequestInput,
    ToolCallResultInput,
    file_part,
    is_tool_call_request,
    response_part,
    several,
    text_or_file,
    text_part,
    to_wire,
    tool_call_request,
    tool_call_result,
)
from lmstudio_async.models.prediction import PredictionResult
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

Entry: TypeAlias = ChatMessage | PredictionResult[Any] | Mapping[str, Any]

_M = TypeVar("_M", SystemMessage, UserMessage, AssistantMessage, ToolMessage)


class Chat:
    """The messages of a chat, to be passed to a model and added to.

        chat = lms.Chat("You are terse.")
        chat.add_user_message("Who are you?")
        chat.add_assistant_response(await model.respond(chat))

    It is a sequence of messages, the oldest first; `chat[-1].text` is what was said last, and
    `chat[-10:]` a chat of the last ten. A request that was given a chat is not affected by what
    is added to it later, and neither is a copy.

    System prompts and assistant responses must not follow one of their own kind:
    LMStudioRuntimeError. Content that makes no sense raises LMStudioValueError. The chat is then
    as it was before.
    """

    def __init__(self, initial_prompt: TextInput | None = None) -> None:
        self._messages: list[ChatMessage] = []
        if initial_prompt is not None:
            self.add_system_prompt(initial_prompt)

    @classmethod
    def from_history(cls, history: "Chat | HistoryData") -> Self:
        """A chat from a user's prompt, another chat, or chat data: {"messages": [...]} or a list.

        Chat data is taken as it is, even where the methods that add messages would merge or refuse
        them, so that it survives the way through `to_history` and back. The content of a message
        may be plain text.
        """
        data = history._snapshot() if isinstance(history, Chat) else history_data(history)
        return cls._of(data.messages)

    def to_history(self) -> dict[str, Any]:
        """The chat as chat data, {"messages": [...]}, ready for `json.dumps`."""
        data: dict[str, Any] = msgspec.to_builtins(self._snapshot())
        return data

    def copy(self) -> Self:
        """A chat with the same messages. What changes in one does not change in the other."""
        return self._of(self._snapshot().messages)

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> Self:
        return self.copy()

    # Adding messages

    def add_system_prompt(self, prompt: TextInput) -> SystemMessage:
        """Add a system prompt. Returns its message."""
        self._refuse_consecutive(SystemMessage, "system prompts")
        return self._add(SystemMessage([text_part("prompt", prompt)]))

    def add_user_message(
        self,
        content: PartInput | Iterable[PartInput],
        *,
        images: Sequence[FileInput] = (),
        _files: Sequence[FileInput] = (),
    ) -> UserMessage:
        """Add what the user says, one or several of text and file handles, and images after it.

        It joins the last message if that is the user's too. Returns the message.
        """
        items = several(content)
        if items is None:
            items = [content]
        parts = [text_or_file("content", item) for item in items]
        parts += [file_part("_files", file) for file in _files]
        parts += [file_part("images", image) for image in images]
        if self._messages and isinstance(last := self._messages[-1], UserMessage):
            last.content += parts
            return last
        if not parts:
            raise LMStudioValueError("content is empty; a user message has text or files")
        return self._add(UserMessage(parts))

    def add_assistant_response(
        self,
        response: ResponseInput,
        tool_call_requests: Iterable[ToolCallRequestInput] = (),
    ) -> AssistantMessage:
        """Add what the model said, and the tool calls that it asked for. Returns the message.

        response: text, a file handle, or the result of a prediction.
        """
        self._refuse_consecutive(AssistantMessage, "assistant responses")
        parts = [
            response_part("response", response),
            *(tool_call_request("tool_call_requests", request) for request in tool_call_requests),
        ]
        return self._add(AssistantMessage(parts))

    def add_tool_result(self, result: ToolCallResultInput) -> ToolMessage:
        """Add what a tool call gave, as a message of its own, which is returned."""
        return self._add(ToolMessage([tool_call_result("result", result)]))

    def add_tool_results(self, results: Iterable[ToolCallResultInput]) -> ToolMessage:
        """Add what several tool calls gave, as one message, which is returned."""
        parts = [tool_call_result("results", result) for result in results]
        if not parts:
            raise LMStudioValueError("results is empty; a tool message has at least one")
        return self._add(ToolMessage(parts))

    def add_entry(self, role: str, content: Any) -> ChatMessage:
        """Add a message by its role, "system", "user", "assistant" or "tool". Returns it.

        content: one or several of what the method for that role takes; of the assistant, one
            response and then tool call requests. Only one text for a system prompt.
        """
        items = several(content)
        if items is None:
            items = [content]
        match role:
            case "user":
                return self.add_user_message(items)
            case "tool":
                return self.add_tool_results(items)
            case "assistant":
                self._refuse_consecutive(AssistantMessage, "assistant responses")
                return self._add(AssistantMessage(_response_parts(items)))
            case "system":
                if len(items) != 1:
                    raise LMStudioValueError("a system prompt has exactly one text as its content")
                return self.add_system_prompt(items[0])
        raise LMStudioValueError(
            f"the role is {role!r}; roles are 'system', 'user', 'assistant' and 'tool'"
        )

    def add_entries(self, entries: Iterable[Entry | tuple[str, Any]]) -> Sequence[ChatMessage]:
        """Add several messages, or none if one of them is refused. Returns them.

        Each is a message, a dict with `role` and `content`, or a tuple of the two.
        """
        before = self._snapshot().messages
        try:
            return [self.append(_entry(entry)) for entry in entries]
        except BaseException:
            self._messages = before
            raise

    def append(self, message: Entry) -> ChatMessage:
        """Add a copy of a message, or the result of a prediction. Returns what was added.

        Use it as `on_message=chat.append`, and the chat follows what the model does.
        """
        if isinstance(message, PredictionResult):
            return self.add_assistant_response(message)
        if isinstance(message, AssistantMessage):
            self._refuse_consecutive(AssistantMessage, "assistant responses")
            return self._add(to_wire("message", message, AssistantMessage))
        if isinstance(message, ChatMessage):
            return self.add_entry(message.role, message.content)
        if isinstance(message, Mapping) and {"role", "content"} <= message.keys():
            return self.add_entry(message["role"], message["content"])
        raise LMStudioValueError(
            "message must be a message, the result of a prediction, or a dict with role and "
            f"content, not {reprlib.repr(message)}"
        )

    # Looking at it

    def get_system_prompt(self) -> str:
        """The system prompt, "" if there is none; several are separated by an empty line."""
        return "\n\n".join(each.text for each in self if isinstance(each, SystemMessage))

    def replace_system_prompt(self, prompt: TextInput) -> SystemMessage:
        """Put a system prompt first, in place of all there were. Returns its message."""
        message = SystemMessage([text_part("prompt", prompt)])
        others = [each for each in self if not isinstance(each, SystemMessage)]
        self._messages = [message, *others]
        return message

    def get_files(self) -> list[FilePart]:
        """The files in all messages."""
        return [file for message in self for file in message.files]

    def pop(self) -> ChatMessage:
        """Take the last message away and return it. Raises IndexError if there is none."""
        return self._messages.pop()

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[ChatMessage]:
        return iter(self._messages)

    @overload
    def __getitem__(self, index: int) -> ChatMessage: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> ChatMessage | Self:
        if isinstance(index, slice):
            return self._of(self._snapshot().messages[index])
        return self._messages[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chat):
            return NotImplemented
        return self._messages == other._messages

    # It changes, so it has no hash.
    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        data = msgspec.json.format(msgspec.json.encode(self._snapshot()), indent=2).decode()
        return f"{type(self).__name__}.from_history({data})"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} messages>"

    # Inside

    # The official name of what is internal there.
    _get_history = to_history

    def _snapshot(self) -> ChatHistory:
        return to_wire("chat", ChatHistory(self._messages), ChatHistory)

    @classmethod
    def _of(cls, messages: list[ChatMessage]) -> Self:
        chat = cls()
        chat._messages = messages
        return chat

    def _refuse_consecutive(self, kind: type[ChatMessage], what: str) -> None:
        if self._messages and isinstance(self._messages[-1], kind):
            raise LMStudioRuntimeError(
                f"consecutive {what} are not supported: the chat's last message is one already"
            )

    def _add(self, message: _M) -> _M:
        self._messages.append(message)
        return message


def _response_parts(items: list[Any]) -> list[TextPart | FilePart | ToolCallRequestPart]:
    """One response and then tool call requests; or only these, as models send them too."""
    if not items:
        raise LMStudioValueError("content is empty; an assistant message has a response")
    first, *rest = items
    parse = tool_call_request if is_tool_call_request(first) else response_part
    return [parse("content", first), *(tool_call_request("content", item) for item in rest)]


def _entry(entry: Entry | tuple[str, Any]) -> Entry:
    match entry:
        case (role, content):
            return {"role": role, "content": content}
        case tuple():
            raise LMStudioValueError(f"an entry is a role and a content, not {len(entry)} things")
    return entry
