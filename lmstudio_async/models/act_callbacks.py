"""What users are told of an `act` while it runs, and what they decide in it."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from lmstudio_async.arguments import check_callback
from lmstudio_async.errors import LMStudioRuntimeError, LMStudioTypeError
from lmstudio_async.models.prediction import PredictionResult
from lmstudio_async.models.tool_requests import ToolCallRequestError, ToolCallRequestInfo
from lmstudio_async.models.tools import ToolFunctionDef
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    LlmPredictionFragment,
    ToolCallRequest,
    ToolCallResultPart,
    ToolMessage,
)

_logger = logging.getLogger("lmstudio_async")


@dataclass(frozen=True, kw_only=True)
class PredictionRoundResult(PredictionResult[str]):
    """The result of one round of an `act`."""

    round_index: int

    @classmethod
    def from_result(
        cls, result: PredictionResult[str], round_index: int
    ) -> "PredictionRoundResult":
        """The result of a prediction as that of a round."""
        known = {field.name: getattr(result, field.name) for field in fields(result) if field.init}
        return cls(**known, round_index=round_index)


class GuardToolCallController:
    """A tool call before it is made. `guard_tool_call` must call one of the methods, once."""

    def __init__(self, tool_call_request: ToolCallRequest, tool: ToolFunctionDef) -> None:
        self.tool_call_request = tool_call_request
        self.tool = tool
        self._decision: Decision | None = None

    def allow(self) -> None:
        """Make the call."""
        self._decide(Decision())

    def allow_and_override_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Make the call, with these arguments."""
        self._decide(Decision(parameters=parameters))

    def deny(self, reason: str | None = None) -> None:
        """Do not make the call; the model is told the reason."""
        self._decide(Decision(denied=reason or "The tool call was denied."))

    def _decide(self, decision: "Decision") -> None:
        if self._decision is not None:
            raise LMStudioRuntimeError(
                f"the call of tool {self.tool.name!r} has been decided already"
            )
        self._decision = decision

    def _decided(self) -> "Decision":
        if self._decision is None:
            raise LMStudioRuntimeError(
                "guard_tool_call must allow or deny the call by a method of its last argument"
            )
        return self._decision


@dataclass(frozen=True)
class Decision:
    """What a guard decided: arguments to use in place of the model's, or why not to call."""

    parameters: Mapping[str, Any] | None = None
    denied: str | None = None


class ActCallbacks(TypedDict, total=False):
    """The callbacks of `LLM.act`. Each may be a coroutine function.

    Rounds and calls are numbered from 0; a call keeps its number to the end. What the callbacks
    named `on_...` raise is logged, what the other two raise ends the act.

    on_message: called with each message when its round is complete.
    on_first_token, on_round_start, on_round_end: called with the round.
    on_prediction_fragment, on_prompt_processing_progress: called with the fragment, or the share
        of the prompt processed, and the round.
    on_prediction_completed: called with a round's prediction; its tools may still run.
    handle_invalid_tool_request: called with an error and the request where a tool does not exist,
        its arguments are wrong, or it raised. What it returns is told to the model, or the error's
        text for None. Without a request, because what the model wrote is none, the error is raised
        in any case.
    guard_tool_call: called with a round, a call and a controller, by which it must allow or deny
        the call.
    on_tool_call_request_start, ..._name_received, ..._argument_fragment_generated: called with a
        round, a call and what the model has just written of it: its own id for the call, or None;
        the tool's name; a piece of the arguments.
    on_tool_call_request_end: called with a round, a call and the whole request.
    on_tool_call_request_failure: called with a round, a call and what is wrong with it.
    on_tool_call_request_dequeued: called with a round and a call that no longer has to wait.
    on_tool_call_request_finalized: called with a round, a call and the request that will be met,
        with the arguments that the guard gave it.
    on_tool_call_success: called with a round, a call and what the tool returned.
    on_tool_call_result: the same, or what the model is told in its place.
    """

    on_message: Callable[[AssistantMessage | ToolMessage], object] | None
    on_first_token: Callable[[int], object] | None
    on_prediction_fragment: Callable[[LlmPredictionFragment, int], object] | None
    on_round_start: Callable[[int], object] | None
    on_round_end: Callable[[int], object] | None
    on_prediction_completed: Callable[[PredictionRoundResult], object] | None
    on_prompt_processing_progress: Callable[[float, int], object] | None
    handle_invalid_tool_request: (
        Callable[[ToolCallRequestError, ToolCallRequest | None], object] | None
    )
    guard_tool_call: Callable[[int, int, GuardToolCallController], object] | None
    on_tool_call_request_start: Callable[[int, int, str | None], object] | None
    on_tool_call_request_name_received: Callable[[int, int, str], object] | None
    on_tool_call_request_argument_fragment_generated: Callable[[int, int, str], object] | None
    on_tool_call_request_end: Callable[[int, int, ToolCallRequestInfo], object] | None
    on_tool_call_request_failure: Callable[[int, int, ToolCallRequestError], object] | None
    on_tool_call_request_dequeued: Callable[[int, int], object] | None
    on_tool_call_request_finalized: Callable[[int, int, ToolCallRequestInfo], object] | None
    on_tool_call_success: Callable[[int, int, ToolCallResultPart], object] | None
    on_tool_call_result: Callable[[int, int, ToolCallResultPart], object] | None


def check_callbacks(callbacks: ActCallbacks) -> None:
    """Refuse what is no callback of `act`, and what cannot be called."""
    for name, callback in callbacks.items():
        if name not in ActCallbacks.__annotations__:
            raise LMStudioTypeError(f"act has no option {name!r}")
        check_callback(name, callback)


async def replacement(
    callbacks: ActCallbacks, error: ToolCallRequestError, request: ToolCallRequest | None
) -> object:
    """What to tell the model in place of a result. The handler may raise instead."""
    handler = callbacks.get("handle_invalid_tool_request")
    told = None if handler is None else await ask(handler, error, request)
    return str(error) if told is None else told


async def guard(
    callbacks: ActCallbacks,
    round_index: int,
    call_id: int,
    request: ToolCallRequest,
    tool: ToolFunctionDef,
) -> "Decision":
    """Whether, and with which arguments, to make a call."""
    guard_tool_call = callbacks.get("guard_tool_call")
    if guard_tool_call is None:
        return Decision()
    controller = GuardToolCallController(request, tool)
    await ask(guard_tool_call, round_index, call_id, controller)
    return controller._decided()


async def ask(callback: Callable[..., object], *args: object) -> object:
    """What a callback returns, awaited if need be."""
    result = callback(*args)
    return await result if inspect.isawaitable(result) else result


async def notify(callback: Callable[..., object] | None, *args: object) -> None:
    """Tell a callback, if there is one. What it raises is logged."""
    if callback is not None:
        try:
            await ask(callback, *args)
        except Exception:
            _logger.exception("act: a callback raised")
