"""A prediction while it runs, and its result."""

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from lmstudio_async.errors import (
    LMStudioChannelClosedError,
    LMStudioModelNotFoundError,
    LMStudioModelUnloadedError,
    LMStudioProtocolError,
    LMStudioRuntimeError,
)
from lmstudio_async.models.response_format import ResponseFormat
from lmstudio_async.models.tool_requests import (
    ToolCallCallbacks,
    ToolCallRequests,
    assistant_message,
)
from lmstudio_async.pool import OpenChannel, Pool
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire import messages
from lmstudio_async.wire.load_config import LlmLoadModelConfig, llm_load_config_from_kv
from lmstudio_async.wire.loading import CancelPacket
from lmstudio_async.wire.model_info import LlmInstanceInfo
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    CompleteRawTextParameter,
    FragmentPacket,
    LlmPredictionFragment,
    LlmPredictionStats,
    PredictionSuccessPacket,
    PredictPacket,
    PredictParameter,
    PromptProcessingProgressPacket,
    ToolCallPacket,
)
from lmstudio_async.wire.prediction_config import LlmPredictionConfig, prediction_config_from_kv

T = TypeVar("T")

_logger = logging.getLogger("lmstudio_async")

_PACKETS: "msgspec.json.Decoder[PredictPacket | ToolCallPacket]" = msgspec.json.Decoder(
    PredictPacket | ToolCallPacket
)


# What a stream that has not begun holds of its channel.
_NOTHING: deque[Raw] = deque(maxlen=0)


@dataclass(frozen=True, kw_only=True)
class PredictionResult(Generic[T]):
    """A finished prediction. `str()` gives its text.

    content: all that was generated, reasoning too.
    parsed: the answer as an instance of the response format; the text where none was asked for.
    structured: whether a response format was asked for.
    stats: figures; `stats.stop_reason` tells why the prediction ended.
    model_info: the instance that made it.
    load_config, prediction_config: the settings that were in force.
    reasoning_content, non_reasoning_content: `content`, told apart.
    """

    content: str
    parsed: T
    structured: bool
    stats: LlmPredictionStats
    model_info: LlmInstanceInfo
    load_config: LlmLoadModelConfig
    prediction_config: LlmPredictionConfig
    reasoning_content: str
    non_reasoning_content: str

    def __str__(self) -> str:
        return self.content


@dataclass(frozen=True)
class PredictionCallbacks(ToolCallCallbacks):
    """What to call while a prediction runs. An exception raised by a callback is logged."""

    on_message: Callable[[AssistantMessage], object] | None = None
    on_first_token: Callable[[], object] | None = None
    on_prediction_fragment: Callable[[LlmPredictionFragment], object] | None = None
    on_prompt_processing_progress: Callable[[float], object] | None = None


@dataclass(frozen=True, slots=True)
class PredictionRequest(Generic[T]):
    """What to predict. `fallback` is asked for where the server does not know `parameter`.
    `bound` limits the time between two packets."""

    parameter: PredictParameter | CompleteRawTextParameter
    fallback: PredictParameter | None
    format: ResponseFormat[T]
    bound: Bound
    asked: str


class PredictionStream(Generic[T]):
    """A prediction as it comes.

    Iterate over it with `async for`, with or without awaiting it first, inside `async with` or
    not. Whoever stops before the end, by `break`, an exception or a cancellation, stops the
    generation on the server. `async with` does so at the latest when the block is left.
    """

    # Few and small: a server may have thousands of streams open.
    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_channel",
        "_ended",
        "_fragments",
        "_pool",
        "_request",
        "_result",
        "_starting",
        "_success",
        "_tool_calls",
        "_unread",
    )

    def __init__(
        self, pool: Pool, request: PredictionRequest[T], callbacks: PredictionCallbacks
    ) -> None:
        self._pool = pool
        self._request = request
        self._callbacks = callbacks
        self._channel: OpenChannel | None = None
        self._unread: deque[Raw] = _NOTHING
        self._fragments: list[LlmPredictionFragment] = []
        self._tool_calls: ToolCallRequests | None = None
        self._success: PredictionSuccessPacket | None = None
        self._result: PredictionResult[T] | None = None
        self._starting = False
        self._ended = False

    def __await__(self) -> Generator[Any, None, "PredictionStream[T]"]:
        return self._start().__await__()

    async def __aenter__(self) -> "PredictionStream[T]":
        return await self._start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()

    def __aiter__(self) -> AsyncIterator[LlmPredictionFragment]:
        return _Iterator(self)

    async def __anext__(self) -> LlmPredictionFragment:
        fragment = self._next_unread() or await self.next_fragment()
        if fragment is None:
            raise StopAsyncIteration
        return fragment

    async def cancel(self) -> None:
        """Ask the server to stop. What was generated until then still comes, then the end.

        A prediction that has not begun never will.
        """
        if self._channel is None:
            self._ended = True
        elif not self._ended:
            await self._channel.send(CancelPacket())

    def result(self) -> PredictionResult[T]:
        """The result.

        Raises LMStudioRuntimeError if the prediction has not come to its end, and
        LMStudioPredictionError if the answer is not what the response format asks for.
        """
        if self._result is None:
            if self._success is not None:
                self._result = self._build_result(self._success)
            elif self._ended:
                raise LMStudioRuntimeError(f"{self._request.asked} has no result: it broke off")
            else:
                raise LMStudioRuntimeError(
                    f"{self._request.asked} has no result yet; iterate to the end, or use "
                    "wait_for_result()"
                )
        return self._result

    async def wait_for_result(self) -> PredictionResult[T]:
        """Wait for the end and return the result. Raises what `result` does."""
        while self._next_unread() or await self.next_fragment():
            pass
        return self.result()

    async def next_fragment(self) -> LlmPredictionFragment | None:
        """The next fragment, None at the end. Raises LMStudioServerError if the server fails."""
        try:
            if self._channel is None:
                await self._start()
            while not self._ended and self._channel is not None:
                if not (self._unread or self._channel.ended):
                    await self._channel.arrival()
                fragment = self._next_unread()
                if fragment is None and (self._unread or self._channel.ended):
                    fragment = await self._receive(self._channel)
                if fragment is not None:
                    return fragment
            return None
        except LMStudioRuntimeError:
            raise  # another task is reading, and goes on doing so
        except LMStudioModelNotFoundError as error:
            self.abandon()
            raise LMStudioModelUnloadedError(str(error), error.server_error) from None
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Stop the generation and read no more. Can be called from anywhere, and again."""
        if not self._ended:
            self._ended = True
            if self._channel is not None:
                self._channel.abandon(CancelPacket())

    def __del__(self) -> None:
        self.abandon()

    async def _start(self) -> "PredictionStream[T]":
        if self._channel is None and not self._ended:
            if self._starting:
                raise LMStudioRuntimeError(
                    f"{self._request.asked}: another task is starting this stream"
                )
            self._starting = True
            try:
                await self._open()
            finally:
                self._starting = False
        return self

    async def _open(self) -> None:
        request = self._request
        parameter = request.parameter
        if request.fallback is not None and "completeRawText" in self._pool.unsupported:
            parameter = request.fallback
        endpoint = "predict" if isinstance(parameter, PredictParameter) else "completeRawText"
        channel = self._channel = await self._pool.channel(
            "llm", endpoint, parameter, request.asked, request.bound
        )
        self._unread = channel.unread
        if self._ended:  # cancelled, or left, in the meantime
            channel.forget()
            return
        try:
            await channel.open()
        except BaseException:
            self.abandon()
            raise

    def _next_unread(self) -> LlmPredictionFragment | None:
        """The next fragment if it is here already: that spares each of most two coroutines."""
        if not self._unread or self._ended:
            return None
        try:
            packet = _PACKETS.decode(self._unread[0])
        except messages.DECODE_ERRORS:
            return None
        if type(packet) is not FragmentPacket:
            return None
        self._unread.popleft()
        return self._take(packet.fragment)

    async def _receive(self, channel: OpenChannel) -> LlmPredictionFragment | None:
        """Take in what is more than a fragment that is here already."""
        try:
            packet = await channel.receive(_PACKETS)
        except LMStudioProtocolError as error:
            if not error.refused or self._request.fallback is None or self._fragments:
                raise
            # An older server. It is not asked again for what it does not know.
            self._pool.unsupported.add("completeRawText")
            await self._open()
            return None
        match packet:
            case FragmentPacket():
                return self._take(packet.fragment)
            case PredictionSuccessPacket():
                self._finish(packet)
            case None:
                self._ended = True
                raise LMStudioChannelClosedError(
                    f"{self._request.asked}: {self._pool.server} ended the prediction without a "
                    "result"
                )
            case _:
                await self._take_other(packet)
        return None

    async def _take_other(self, packet: PromptProcessingProgressPacket | ToolCallPacket) -> None:
        if isinstance(packet, PromptProcessingProgressPacket):
            self._notify(self._callbacks.on_prompt_processing_progress, packet.progress)
            return
        if self._tool_calls is None:
            # With no method of this object: it would hold itself, and dropping it would go
            # unnoticed.
            notify = partial(_notify, self._request.asked)
            self._tool_calls = ToolCallRequests(self._callbacks, notify, self._pool.server)
        self._tool_calls.take(packet)

    def _take(self, fragment: LlmPredictionFragment) -> LlmPredictionFragment:
        callbacks = self._callbacks
        if not self._fragments and callbacks.on_first_token is not None:
            self._notify(callbacks.on_first_token)
        self._fragments.append(fragment)
        if callbacks.on_prediction_fragment is not None:
            self._notify(callbacks.on_prediction_fragment, fragment)
        return fragment

    def _finish(self, packet: PredictionSuccessPacket) -> None:
        self._ended = True
        self._success = packet
        if self._callbacks.on_message is not None:
            requests = () if self._tool_calls is None else self._tool_calls.finished
            self._notify(self._callbacks.on_message, assistant_message(self._answer(), requests))

    def _build_result(self, success: PredictionSuccessPacket) -> PredictionResult[T]:
        answer = self._answer()
        load_config = llm_load_config_from_kv(success.load_model_config, success.model_info.format)
        return PredictionResult(
            content=self._text(lambda fragment: True),
            parsed=self._request.format.parse(answer),
            structured=self._request.format.structured is not None,
            stats=success.stats,
            model_info=success.model_info,
            load_config=load_config,
            prediction_config=prediction_config_from_kv(success.prediction_config),
            reasoning_content=self._text(lambda fragment: fragment.reasoning_type == "reasoning"),
            non_reasoning_content=answer,
        )

    def _notify(self, callback: Callable[..., object] | None, *args: object) -> None:
        _notify(self._request.asked, callback, *args)

    def _answer(self) -> str:
        return self._text(lambda fragment: fragment.reasoning_type == "none")

    def _text(self, wanted: Callable[[LlmPredictionFragment], bool]) -> str:
        return "".join(fragment.content for fragment in self._fragments if wanted(fragment))


class _Iterator:
    """`async for` drops its iterator when it is left by `break`: that ends the prediction."""

    __slots__ = ("_reads", "_stream")

    def __init__(self, stream: PredictionStream[Any]) -> None:
        self._stream = stream
        self._reads = True

    def __aiter__(self) -> "_Iterator":
        return self

    async def __anext__(self) -> LlmPredictionFragment:
        try:
            fragment = self._stream._next_unread() or await self._stream.next_fragment()
        except LMStudioRuntimeError:
            self._reads = False  # another task does, and goes on
            raise
        if fragment is None:
            raise StopAsyncIteration
        return fragment

    def __del__(self) -> None:
        if self._reads:
            self._stream.abandon()


def _notify(asked: str, callback: Callable[..., object] | None, *args: object) -> None:
    if callback is not None:
        try:
            callback(*args)
        except Exception:
            _logger.exception("%s: a callback raised", asked)
