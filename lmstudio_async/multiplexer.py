"""Calls and channels over one WebSocket, without I/O.

    call()    ──rpcCall──────▶ waiting ──rpcResult──▶ done
                                  │ └────rpcError───▶ failed
                                  └─communicationWarning, connection lost──▶ failed

    channel() ──channelCreate─▶ open ──channelClose──▶ ended
                                 │ └───channelError──▶ failed
                                 └─communicationWarning, connection lost──▶ failed

`Multiplexer` numbers the exchanges, encodes what is to be sent and takes in what was received. It
never waits: whoever owns the socket sends the frames that these methods return.
"""

import logging
import re
from collections import deque
from copy import copy
from typing import Any

from anyio import Event
from msgspec import UNSET, Raw, UnsetType

from lmstudio_async.errors import LMStudioError, LMStudioProtocolError, LMStudioValueError
from lmstudio_async.wire import messages
from lmstudio_async.wire.loading import CancelPacket
from lmstudio_async.wire.server_error import server_exception

_logger = logging.getLogger("lmstudio_async")

# After five warnings on one socket LM Studio sends no more, and a refusal would go unnoticed.
MAX_WARNINGS = 4

# The number of an exchange, in frames of which no more can be made out.
_ID = re.compile(rb'"(callId|channelId)" *: *(\d{1,15})\b')
_ANSWERS = {"rpcResult", "rpcError", "channelSend", "channelClose", "channelError"}

_ENDPOINT = re.compile(r"\bendpoint(?:Name)? = (\w+)")
_REFUSALS = {
    "rpcEndpointUnknown",
    "rpcEndpointUnhandled",
    "rpcParameterTypeError",
    "channelEndpointUnknown",
    "channelEndpointUnhandled",
    "channelCreationParameterTypeError",
    "channelAlreadyOpen",
    "unknown",
}


class RefusedError(LMStudioProtocolError):
    """The server answered a request with no more than a warning. Explained by the pool."""


class Call:
    """One remote call. After `done`, either `error` is set or `result` is the answer."""

    __slots__ = ("asked", "done", "endpoint", "error", "result")

    def __init__(self, endpoint: str, asked: str) -> None:
        self.endpoint = endpoint
        self.asked = asked
        self.done = Event()
        self.result: Raw | UnsetType = UNSET
        self.error: LMStudioError | None = None

    def finish(self, result: Raw | UnsetType, error: LMStudioError | None = None) -> None:
        self.result, self.error = result, error
        self.done.set()


class Channel:
    """One stream of packets. It is over once `ended`, in `error` where that is set."""

    __slots__ = (
        "_wakeup",
        "answered",
        "asked",
        "discarding",
        "ended",
        "endpoint",
        "error",
        "id",
        "packets",
    )

    def __init__(self, channel_id: int, endpoint: str, asked: str) -> None:
        self.id = channel_id
        self.endpoint = endpoint
        self.asked = asked
        self.packets: deque[Raw] = deque()
        self.answered = False
        self.ended = False
        self.error: LMStudioError | None = None
        self.discarding = False
        self._wakeup: Event | None = None

    async def receive(self) -> Raw | None:
        """The next packet, None at the end. Raises the error that the channel ended in."""
        while not self.packets:
            if self.ended:
                if self.error is not None:
                    raise self.error
                return None
            self._wakeup = Event()
            await self._wakeup.wait()
        return self.packets.popleft()

    def add(self, packet: Raw) -> None:
        self.answered = True
        if not self.discarding:
            self.packets.append(packet)
            self._wake()

    def finish(self, error: LMStudioError | None = None) -> None:
        self.ended, self.error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()
            self._wakeup = None


class Multiplexer:
    def __init__(self, namespace: str, server: str) -> None:
        self._namespace = namespace
        self._server = server
        self._last_id = 0
        self._calls: dict[int, Call] = {}
        self._channels: dict[int, Channel] = {}
        self.warnings = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting for an answer."""
        return not self._calls and not self._channels

    def call(self, endpoint: str, parameter: object, asked: str) -> tuple[int, Call, bytes]:
        """Start a call: its number, the call, and the frame to send."""
        self._last_id += 1
        frame = _encode(messages.RpcCall(endpoint, self._last_id, parameter), asked)
        call = self._calls[self._last_id] = Call(endpoint, asked)
        return self._last_id, call, frame

    def forget_call(self, call_id: int) -> None:
        """Nobody waits for this call any more; its answer will be skipped."""
        self._calls.pop(call_id, None)

    def channel(self, endpoint: str, parameter: object, asked: str) -> tuple[Channel, bytes]:
        """Open a channel: the channel, and the frame to send."""
        self._last_id += 1
        frame = _encode(messages.ChannelCreate(endpoint, self._last_id, parameter), asked)
        channel = self._channels[self._last_id] = Channel(self._last_id, endpoint, asked)
        return channel, frame

    def receive(self, frame: bytes) -> bytes | None:
        """Take in a frame. Returns the frame to send in answer, if there is one.

        What cannot be understood is logged and skipped.
        """
        try:
            message = messages.decode_server_message.decode(frame)
        except messages.DECODE_ERRORS as error:
            return self._skip(frame, error)
        match message:
            case messages.ChannelSend():
                if (channel := self._channels.get(message.channel_id)) is not None:
                    channel.add(message.message)
                if message.ack_id is not UNSET:
                    return messages.encode(messages.ChannelAck(message.channel_id, message.ack_id))
            case messages.RpcResult():
                if (call := self._calls.pop(message.call_id, None)) is not None:
                    call.finish(message.result)
            case messages.RpcError():
                if (call := self._calls.pop(message.call_id, None)) is not None:
                    call.finish(UNSET, server_exception(message.error, call.asked, self._server))
            case messages.ChannelClose():
                if (channel := self._channels.pop(message.channel_id, None)) is not None:
                    channel.finish()
            case messages.ChannelError():
                if (channel := self._channels.pop(message.channel_id, None)) is not None:
                    channel.finish(server_exception(message.error, channel.asked, self._server))
            case messages.CommunicationWarning():
                self._warned(message)
        return None

    def fail_all(self, error: LMStudioError) -> None:
        """The connection is lost: end everything in `error`."""
        calls, channels = list(self._calls.values()), list(self._channels.values())
        self._calls.clear()
        self._channels.clear()
        for call in calls:
            call.finish(UNSET, copy(error))
        for channel in channels:
            channel.finish(copy(error))

    def _warned(self, message: messages.CommunicationWarning) -> None:
        self.warnings += 1
        kind = message.kind if message.kind is not UNSET else "unknown"
        # A cancel that crosses the end of its channel is nothing to worry about.
        level = logging.DEBUG if "unknown channel," in message.warning else logging.WARNING
        _logger.log(level, "%s warns on %s: %s", self._server, self._namespace, message.warning)
        endpoint = _ENDPOINT.search(message.warning)
        if kind not in _REFUSALS or endpoint is None:
            return
        # What follows the endpoint may quote the request, and that may say anything.
        reason = message.warning[: endpoint.start()]
        if "invalid message" in reason:
            return
        # A warning carries no id. It follows the request at once, so it speaks of a request that
        # was not answered yet; of several alike, the server refuses each for the same reason.
        name = endpoint[1]
        error = f"{self._server} does not understand {self._namespace}.{name}: {message.warning}"
        if "channel" in kind or "channelCreate" in reason or "creationParameter" in reason:
            for channel in list(self._channels.values()):
                if channel.endpoint == name and not channel.answered:
                    del self._channels[channel.id]
                    channel.finish(RefusedError(error))
        else:
            for call_id, call in list(self._calls.items()):
                if call.endpoint == name:
                    del self._calls[call_id]
                    call.finish(UNSET, RefusedError(error))

    def _skip(self, frame: bytes, error: Exception) -> bytes | None:
        shown: Any = frame[:200]
        try:
            shown = messages.frame_decoder.decode(frame).type
        except messages.DECODE_ERRORS:
            _logger.warning("skipped a garbled frame from %s: %r", self._server, shown)
        else:
            _logger.debug("skipped a message of type %.100r from %s", shown, self._server)
            if shown not in _ANSWERS:
                return None
        return self._fail_unreadable(frame, error)

    def _fail_unreadable(self, frame: bytes, error: Exception) -> bytes | None:
        """End the exchange that an unreadable frame is for: its answer would never come."""
        if (found := _ID.search(frame[:200])) is None:
            return None
        number = int(found[2])
        told = f"could not understand a frame from {self._server}: {error}"
        if found[1] == b"callId":
            if (call := self._calls.pop(number, None)) is not None:
                call.finish(UNSET, LMStudioProtocolError(f"{call.asked}: {told}"))
        elif (channel := self._channels.pop(number, None)) is not None:
            channel.finish(LMStudioProtocolError(f"{channel.asked}: {told}"))
            return messages.encode(messages.ChannelSend(number, CancelPacket()))
        return None


def _encode(message: object, asked: str) -> bytes:
    try:
        return messages.encode(message)
    except UnicodeEncodeError as error:
        raise LMStudioValueError(f"{asked}: text is not valid Unicode: {error.reason}") from None
