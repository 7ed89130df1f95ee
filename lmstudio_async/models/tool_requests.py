"""Tool calls as a model asks for them: the request, whole or while it is being written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmstudio_async.errors import LMStudioPredictionError
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    TextPart,
    ToolCallGenerationArgumentPacket,
    ToolCallGenerationEndPacket,
    ToolCallGenerationFailedPacket,
    ToolCallGenerationNamePacket,
    ToolCallGenerationStartPacket,
    ToolCallPacket,
    ToolCallRequest,
    ToolCallRequestPart,
)
from lmstudio_async.wire.server_error import ServerError, server_exception


class ToolCallRequestError(LMStudioPredictionError):
    """A model's request for a tool call that cannot be met, or a tool that raised.

    `raw_content` is what the model wrote, where that is known. If the tool raised, `__cause__` is
    what it raised.
    """

    def __init__(
        self,
        message: str,
        raw_content: str | None = None,
        server_error: ServerError | None = None,
    ) -> None:
        super().__init__(message, server_error)
        self.raw_content = raw_content

    @classmethod
    def from_packet(
        cls, packet: ToolCallGenerationFailedPacket, server: str
    ) -> "ToolCallRequestError":
        """What the server reports of a call that the model failed to write."""
        cause = server_exception(packet.error, "a tool call", server)
        return cls(str(cause), packet.raw_content, cause.server_error)


def assistant_message(text: str, requests: Sequence[ToolCallRequest]) -> AssistantMessage:
    """What the model said and asked for, as a message. It is never empty, be it an empty text."""
    parts = [ToolCallRequestPart(tool_call_request=request) for request in requests]
    return AssistantMessage([*([TextPart(text=text)] if text or not parts else []), *parts])


@dataclass(frozen=True)
class ToolCallRequestInfo:
    """A tool call that the model asked for.

    tool_call_request: the tool's name, the arguments, and the model's own id for the call.
    raw_content: what the model wrote, in whatever notation it uses.
    is_queued: the call has to wait until others have ended. Always false outside `act`, where
        nobody makes the call.
    """

    tool_call_request: ToolCallRequest
    raw_content: str | None
    is_queued: bool


@dataclass(frozen=True)
class ToolCallCallbacks:
    """What to call while a model writes requests for tool calls, numbered from 0."""

    on_tool_call_request_start: Callable[[int, str | None], object] | None = None
    on_tool_call_request_name_received: Callable[[int, str], object] | None = None
    on_tool_call_request_argument_fragment_generated: Callable[[int, str], object] | None = None
    on_tool_call_request_end: Callable[[int, ToolCallRequestInfo], object] | None = None
    on_tool_call_request_failure: Callable[[int, ToolCallRequestError], object] | None = None


class ToolCallRequests:
    """The requests of one prediction. `finished` are those that are whole."""

    def __init__(
        self, callbacks: ToolCallCallbacks, notify: Callable[..., None], server: str
    ) -> None:
        self.finished: list[ToolCallRequest] = []
        self._callbacks = callbacks
        self._notify = notify
        self._server = server
        self._number = -1

    def take(self, packet: ToolCallPacket) -> None:
        """Tell of what the model has just written."""
        callbacks = self._callbacks
        match packet:
            case ToolCallGenerationStartPacket():
                self._number += 1
                started = callbacks.on_tool_call_request_start
                self._notify(started, self._number, packet.tool_call_id)
            case ToolCallGenerationNamePacket():
                named = callbacks.on_tool_call_request_name_received
                self._notify(named, self._number, packet.name)
            case ToolCallGenerationArgumentPacket():
                grown = callbacks.on_tool_call_request_argument_fragment_generated
                self._notify(grown, self._number, packet.content)
            case ToolCallGenerationEndPacket():
                self.finished.append(packet.tool_call_request)
                info = ToolCallRequestInfo(packet.tool_call_request, packet.raw_content, False)
                self._notify(callbacks.on_tool_call_request_end, self._number, info)
            case ToolCallGenerationFailedPacket():
                error = ToolCallRequestError.from_packet(packet, self._server)
                self._notify(callbacks.on_tool_call_request_failure, self._number, error)
