"""Rounds of predictions and tool calls, until the model calls no more tools."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
import msgspec

from lmstudio_async.errors import LMStudioServerError
from lmstudio_async.models.act_callbacks import ActCallbacks, PredictionRoundResult, notify
from lmstudio_async.models.prediction import (
    PredictionCallbacks,
    PredictionRequest,
    PredictionStream,
)
from lmstudio_async.models.response_format import response_format
from lmstudio_async.models.tool_calls import ToolCalls
from lmstudio_async.models.tool_requests import assistant_message
from lmstudio_async.models.tools import ToolFunctionDef
from lmstudio_async.pool import Pool
from lmstudio_async.timeouts import Bound
from lmstudio_async.wire.kv_config import single_layer
from lmstudio_async.wire.model_info import ModelSpecifier
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    ChatHistory,
    PredictParameter,
    PromptProcessingProgressPacket,
    ToolCallPacket,
    ToolMessage,
)
from lmstudio_async.wire.prediction_config import LlmPredictionConfig, prediction_config_to_kv


@dataclass(frozen=True)
class ActResult:
    """A finished `act`: how many rounds it took, and how long. Its callbacks tell the rest."""

    rounds: int
    total_time_seconds: float


@dataclass(frozen=True, kw_only=True)
class Act:
    """One `act`, checked and ready to run."""

    pool: Pool
    specifier: ModelSpecifier
    tools: Mapping[str, ToolFunctionDef]
    config: LlmPredictionConfig
    preset: str | None
    max_rounds: int | None
    max_parallel_calls: int | None
    bound: Bound
    callbacks: ActCallbacks
    asked: str

    async def run(self, history: ChatHistory) -> ActResult:
        """Predict and call tools in turn. The given history stays as it is."""
        started = time.perf_counter()
        messages = list(history.messages)
        call_ids = itertools.count()
        callbacks = self.callbacks
        index = 0
        while True:
            await notify(callbacks.get("on_round_start"), index)
            said, results = await self._round(index, ChatHistory(messages), call_ids)
            # Told only now that the round is complete, so that a chat made of these messages never
            # holds a request without its result.
            for message in (said, results) if results is not None else (said,):
                messages.append(message)
                await notify(callbacks.get("on_message"), message)
            await notify(callbacks.get("on_round_end"), index)
            index += 1
            if results is None:
                return ActResult(index, time.perf_counter() - started)

    async def _round(
        self, index: int, history: ChatHistory, call_ids: "itertools.count[int]"
    ) -> tuple[AssistantMessage, ToolMessage | None]:
        may_call = self.max_rounds is None or index + 1 < self.max_rounds
        tools = self.tools if may_call else {}
        content = ""
        async with anyio.create_task_group() as group:
            calls = ToolCalls(
                group,
                tools,
                self.callbacks,
                round_index=index,
                limit=self.max_parallel_calls,
                call_ids=call_ids,
                server=self.pool.server,
            )
            try:
                content = await self._predict(index, self._parameter(history, tools), calls)
            except Exception as error:  # noqa: BLE001 - raised below, outside the group
                calls.fail(error)
        if calls.failure is not None:
            raise calls.failure
        requests = calls.requests
        said = assistant_message(content, requests)
        return said, ToolMessage(calls.results) if requests else None

    async def _predict(self, index: int, parameter: PredictParameter, calls: ToolCalls) -> str:
        """What the model says in this round. Its tool calls run in the meantime."""
        callbacks = self.callbacks
        first = True
        async with _RoundStream(self, index, parameter, calls) as stream:
            try:
                async for fragment in stream:
                    if first:
                        first = False
                        await notify(callbacks.get("on_first_token"), index)
                    await notify(callbacks.get("on_prediction_fragment"), fragment, index)
            except LMStudioServerError as error:
                await calls.over(error)
                raise
            result = stream.result()
        await calls.over(result.stats.stop_reason)
        await notify(
            callbacks.get("on_prediction_completed"),
            PredictionRoundResult.from_result(result, index),
        )
        return result.non_reasoning_content

    def _parameter(
        self, history: ChatHistory, tools: Mapping[str, ToolFunctionDef]
    ) -> PredictParameter:
        offered = (
            {"type": "toolArray", "tools": [tool.to_protocol() for tool in tools.values()]}
            if tools
            else {"type": "none"}
        )
        # Without tools, in the last round, none can be required.
        choice = self.config.tool_choice if tools else None
        config = msgspec.structs.replace(self.config, raw_tools=offered, tool_choice=choice)
        return PredictParameter(
            model_specifier=self.specifier,
            history=history,
            prediction_config_stack=single_layer(prediction_config_to_kv(config)),
            fuzzy_preset_identifier=self.preset,
        )


class _RoundStream(PredictionStream[str]):
    """A prediction that hands over what the model writes of tool calls."""

    def __init__(
        self, act: Act, round_index: int, parameter: PredictParameter, calls: ToolCalls
    ) -> None:
        request = PredictionRequest(parameter, None, response_format(None), act.bound, act.asked)
        super().__init__(act.pool, request, PredictionCallbacks())
        self._on_progress = act.callbacks.get("on_prompt_processing_progress")
        self._round = round_index
        self._calls = calls

    async def _take_other(self, packet: PromptProcessingProgressPacket | ToolCallPacket) -> None:
        if isinstance(packet, PromptProcessingProgressPacket):
            await notify(self._on_progress, packet.progress, self._round)
        else:
            await self._calls.take(packet)
