"""A prediction while it runs, and its result."""

import logging
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec

from lmstudio_async.errors import (
    LMStudioChannelClosedError,
    LMStudioModelNotFoundError,
    LMStudioModelUnloadedError,
    LMStudioRuntimeError,
)
from lmstudio_async.pool import OpenChannel, Pool
from lmstudio_async.wire.load_config import LlmLoadModelConfig, llm_load_config_from_kv
from lmstudio_async.wire.loading import CancelPacket
from lmstudio_async.wire.model_info import LlmInstanceInfo
from lmstudio_async.wire.prediction import (
    FragmentPacket,
    LlmPredictionFragment,
    LlmPredictionStats,
    PredictionSuccessPacket,
    PredictPacket,
    PredictParameter,
    PromptProcessingProgressPacket,
)
from lmstudio_async.wire.prediction_config import LlmPredictionConfig, prediction_config_from_kv

_logger = logging.getLogger("lmstudio_async")

_PACKETS: "msgspec.json.Decoder[PredictPacket]" = msgspec.json.Decoder(PredictPacket)


@dataclass(frozen=True)
class PredictionResult:
    """A finished prediction. `str()` gives its text.

    `stats.stop_reason` tells why it ended. `load_config` and `prediction_config` are the settings
    that were in force.
    """

    content: str
    stats: LlmPredictionStats
    model_info: LlmInstanceInfo
    load_config: LlmLoadModelConfig
    prediction_config: LlmPredictionConfig

    def __str__(self) -> str:
        return self.content


@dataclass(frozen=True)
class PredictionCallbacks:
    """What to call while a prediction runs. An exception raised by a callback is logged."""

    on_first_token: Callable[[], object] | None = None
    on_prediction_fragment: Callable[[LlmPredictionFragment], object] | None = None
    on_prompt_processing_progress: Callable[[float], object] | None = None


class PredictionStream:
    """A prediction as it comes.

    Iterate over it with `async for`, with or without awaiting it first, inside `async with` or
    not. Whoever stops before the end, by `break`, an exception or a cancellation, stops the
    generation on the server. `async with` does so at the latest when the block is left.
    """

    def __init__(
        self, pool: Pool, parameter: PredictParameter, callbacks: PredictionCallbacks, asked: str
    ) -> None:
        self._pool = pool
        self._parameter = parameter
        self._callbacks = callbacks
        self._asked = asked
        self._channel: OpenChannel | None = None
        self._content: list[str] = []
        self._result: PredictionResult | None = None
        self._ended = False

    def __await__(self) -> Generator[Any, None, "PredictionStream"]:
        return self._start().__await__()

    async def __aenter__(self) -> "PredictionStream":
        return await self._start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandon()

    def __aiter__(self) -> AsyncIterator[LlmPredictionFragment]:
        return self

    async def __anext__(self) -> LlmPredictionFragment:
        """The next fragment. Raises LMStudioServerError if the prediction fails."""
        try:
            return await self._next()
        except StopAsyncIteration:
            raise
        except LMStudioModelNotFoundError as error:
            raise LMStudioModelUnloadedError(str(error), error.server_error) from None
        except BaseException:
            self._abandon()
            raise

    async def cancel(self) -> None:
        """Ask the server to stop. What was generated until then still comes, then the end."""
        await self._start()
        if self._channel is not None and not self._ended:
            await self._channel.send(CancelPacket())

    def result(self) -> PredictionResult:
        """The result. Raises LMStudioRuntimeError while the prediction has not ended."""
        if self._result is None:
            raise LMStudioRuntimeError(
                f"{self._asked} has no result yet; iterate to the end, or use wait_for_result()"
            )
        return self._result

    async def wait_for_result(self) -> PredictionResult:
        """Wait for the end and return the result."""
        async for _ in self:
            pass
        return self.result()

    def __del__(self) -> None:
        # `break` in an `async for` drops the stream without a word.
        self._abandon()

    async def _start(self) -> "PredictionStream":
        if self._channel is None and not self._ended:
            self._channel = await self._pool.channel("llm", "predict", self._parameter, self._asked)
            try:
                await self._channel.open()
            except BaseException:
                self._abandon()
                raise
        return self

    async def _next(self) -> LlmPredictionFragment:
        await self._start()
        channel = self._channel
        if self._ended or channel is None:
            raise StopAsyncIteration
        while (packet := await channel.receive(_PACKETS)) is not None:
            match packet:
                case FragmentPacket():
                    self._take(packet.fragment)
                    return packet.fragment
                case PromptProcessingProgressPacket():
                    self._notify(self._callbacks.on_prompt_processing_progress, packet.progress)
                case PredictionSuccessPacket():
                    self._finish(packet)
                    raise StopAsyncIteration
        self._ended = True
        raise LMStudioChannelClosedError(
            f"{self._asked}: {self._pool.server} ended the prediction without a result"
        )

    def _take(self, fragment: LlmPredictionFragment) -> None:
        if not self._content:
            self._notify(self._callbacks.on_first_token)
        self._content.append(fragment.content)
        self._notify(self._callbacks.on_prediction_fragment, fragment)

    def _finish(self, packet: PredictionSuccessPacket) -> None:
        self._ended = True
        self._result = PredictionResult(
            content="".join(self._content),
            stats=packet.stats,
            model_info=packet.model_info,
            load_config=llm_load_config_from_kv(packet.load_model_config, packet.model_info.format),
            prediction_config=prediction_config_from_kv(packet.prediction_config),
        )

    def _notify(self, callback: Callable[..., object] | None, *args: object) -> None:
        if callback is not None:
            try:
                callback(*args)
            except Exception:
                _logger.exception("%s: a callback raised", self._asked)

    def _abandon(self) -> None:
        if not self._ended:
            self._ended = True
            if self._channel is not None:
                self._channel.abandon(CancelPacket())
