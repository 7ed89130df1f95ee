"""Calls and channels over one WebSocket, without I/O.

    call()    ──rpcCall──────▶ waiting ──rpcResult──▶ done
                                  │ └────rpcError───▶ failed
                                  └─communicationWarning, time-out, connection lost──▶ failed

    channel() ──channelCreate─▶ open ──channelClose──▶ ended
                                 │ └───channelError──▶ failed
                                 └─communicationWarning, time-out, connection lost,
                                   more unread than it may hold──▶ failed

`Multiplexer` numbers the exchanges, encodes what is to be sent and takes in what was received. It
never waits: whoever owns the socket sends the frames that these methods return, and calls `expire`
when the `next_deadline` is over.
"""

import logging
import math
import re
from collections.abc import Callable
from copy import copy
from typing import Any

from msgspec import UNSET, Raw

from lmstudio_async.errors import (
    LMStudioError,
    LMStudioProtocolError,
    LMStudioSlowReaderError,
    LMStudioTimeoutError,
    LMStudioValueError,
)
from lmstudio_async.exchanges import HIGH_WATER_MARK, Call, Channel
from lmstudio_async.timeouts import Bound
from lmstudio_async.transport import Wakeup
from lmstudio_async.wire import messages
from lmstudio_async.wire.loading import CancelPacket
from lmstudio_async.wire.messages import ChannelSend
from lmstudio_async.wire.server_error import server_exception

_logger = logging.getLogger("lmstudio_async")

# After five warnings on one socket LM Studio sends no more, and a refusal would go unnoticed.
MAX_WARNINGS = 4

# The number of an exchange, in frames of which no more can be made out.
_ID = re.compile(rb'"(callId|channelId)" *: *(\d{1,15})\b')
_ANSWERS = {"rpcResult", "rpcError", "channelSend", "channelClose", "channelError"}

_UNTYPED = messages.server_message_decoder(Raw)

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


class Multiplexer:
    """The exchanges of one WebSocket.

    clock: tells the time in seconds.
    new_wakeup: makes what an exchange waits with.
    """

    def __init__(
        self,
        namespace: str,
        server: str,
        clock: Callable[[], float],
        new_wakeup: Callable[[], Wakeup],
    ) -> None:
        self._namespace = namespace
        self._server = server
        self._clock = clock
        self._new_wakeup = new_wakeup
        self._last_id = 0
        self._calls: dict[int, Call] = {}
        self._channels: dict[int, Channel] = {}
        self._decoder = _UNTYPED
        self.warnings = 0
        self.last_received = clock()

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting for an answer."""
        return not self._calls and not self._channels

    @property
    def next_deadline(self) -> float:
        """When something will be over that should have happened by then."""
        calls = (call.deadline for call in self._calls.values())
        channels = (channel.deadline for channel in self._channels.values())
        return min(min(calls, default=math.inf), min(channels, default=math.inf))

    def call(
        self, endpoint: str, parameter: object, asked: str, bound: Bound, result_type: Any = Raw
    ) -> tuple[int, Call, bytes]:
        """Start a call: its number, the call, and the frame to send.

        Its result will be of the type, or undecoded.
        """
        self._last_id += 1
        frame = _encode(messages.RpcCall(endpoint, self._last_id, parameter), asked)
        decoder = messages.server_message_decoder(result_type)
        if decoder is not self._decoder:
            # A frame tells which call it answers only when it is decoded.
            self._decoder = _UNTYPED if self._calls else decoder
        call = Call(endpoint, asked, bound, self._clock(), self._new_wakeup())
        self._calls[self._last_id] = call
        return self._last_id, call, frame

    def forget_call(self, call_id: int) -> None:
        """Nobody waits for this call any more; its answer will be skipped."""
        self._calls.pop(call_id, None)

    def channel(
        self, endpoint: str, parameter: object, asked: str, bound: Bound | None
    ) -> tuple[Channel, bytes]:
        """Open a channel: the channel, and the frame to send."""
        self._last_id += 1
        frame = _encode(messages.ChannelCreate(endpoint, self._last_id, parameter), asked)
        channel = Channel(self._last_id, endpoint, asked, bound, self._clock(), self._new_wakeup())
        self._channels[self._last_id] = channel
        return channel, frame

    def forget_channel(self, channel: Channel) -> None:
        """This channel was never opened, so nothing will end it."""
        self._channels.pop(channel.id, None)

    def receive(self, frame: bytes) -> bytes | None:
        """Take in a frame. Returns the frame to send in answer, if there is one.

        What cannot be understood is logged and skipped.
        """
        now = self.last_received = self._clock()
        try:
            message = self._decoder.decode(frame)
        except messages.DECODE_ERRORS:
            try:
                message = _UNTYPED.decode(frame)
            except messages.DECODE_ERRORS as error:
                return self._skip(frame, error)
        if type(message) is ChannelSend:  # first, and without `match`: most frames are fragments
            channel = self._channels.get(message.channel_id)
            if channel is not None and not channel.add(message.message, now):
                return self._give_up(channel, _slow_reader(channel))
            if message.ack_id is not UNSET:
                return messages.encode(messages.ChannelAck(message.channel_id, message.ack_id))
            return None
        match message:
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

    def expire(self) -> list[bytes]:
        """Fail what has waited too long. Returns the frames that tell the server of it."""
        now = self._clock()
        for call_id, call in list(self._calls.items()):
            if call.deadline <= now:
                del self._calls[call_id]
                call.finish(UNSET, self._timeout(call, "did not answer", call.bound))
        cancels = []
        for channel in list(self._channels.values()):
            if channel.bound is not None and channel.deadline <= now:
                error = self._timeout(channel, f"sent nothing{_after(channel)}", channel.bound)
                cancels.append(self._give_up(channel, error))
        return cancels

    def fail_all(self, error: LMStudioError) -> None:
        """The connection is lost: end everything in `error`."""
        calls, channels = list(self._calls.values()), list(self._channels.values())
        self._calls.clear()
        self._channels.clear()
        for call in calls:
            call.finish(UNSET, copy(error))
        for channel in channels:
            channel.finish(copy(error))

    def _give_up(self, channel: Channel, error: LMStudioError) -> bytes:
        """End a channel on this side. Returns the frame that tells the other."""
        del self._channels[channel.id]
        channel.finish(error)
        return messages.encode(ChannelSend(channel.id, CancelPacket()))

    def _timeout(self, exchange: Call | Channel, what: str, bound: Bound) -> LMStudioTimeoutError:
        return LMStudioTimeoutError(
            f"{exchange.asked}: {self._server} {what} for {bound.seconds:g} s (Timeouts."
            f"{bound.name}). It was last heard from {self._clock() - self.last_received:.1f} s ago "
            f"and has {len(self._calls) + len(self._channels)} requests of this client to answer.",
            bound.name,
            bound.seconds,
        )

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
                if channel.endpoint == name and not channel.received:
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
        elif (channel := self._channels.get(number)) is not None:
            return self._give_up(channel, LMStudioProtocolError(f"{channel.asked}: {told}"))
        return None


def _after(channel: Channel) -> str:
    if channel.last is None:
        return ""
    try:
        last = messages.frame_decoder.decode(channel.last).type
    except messages.DECODE_ERRORS:
        last = "unreadable one"
    return f" after {channel.received} packets, the last one a {last!r},"


def _slow_reader(channel: Channel) -> LMStudioSlowReaderError:
    return LMStudioSlowReaderError(
        f"{channel.asked}: more than {HIGH_WATER_MARK // 2**20} MiB of this stream were waiting to "
        "be read, so it was stopped; read it as it comes, or leave it when it is not wanted"
    )


def _encode(message: object, asked: str) -> bytes:
    try:
        return messages.encode(message)
    except UnicodeEncodeError as error:
        raise LMStudioValueError(f"{asked}: text is not valid Unicode: {error.reason}") from None
