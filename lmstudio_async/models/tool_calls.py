"""The tool calls of one round.

    start ─▶ name ─▶ arguments… ─▶ end ──▶ (queued ─▶ dequeued) ─▶ guarded ─▶ finalized ─▶ result
      └────────────────────────────┴─▶ failure ─▶ result in place of a call, or the act ends

What the model writes arrives packet by packet; a call is made as soon as it is complete, while the
model may be writing the next one. No more than so many run at once, the others queue.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from anyio.abc import TaskGroup

from lmstudio_async.errors import LMStudioRuntimeError, LMStudioValueError
from lmstudio_async.models.act_callbacks import ActCallbacks, guard, notify, replacement
from lmstudio_async.models.tool_requests import ToolCallRequestError, ToolCallRequestInfo
from lmstudio_async.models.tools import ToolFunctionDef
from lmstudio_async.wire.prediction import (
    ToolCallGenerationArgumentPacket,
    ToolCallGenerationEndPacket,
    ToolCallGenerationFailedPacket,
    ToolCallGenerationNamePacket,
    ToolCallGenerationStartPacket,
    ToolCallPacket,
    ToolCallRequest,
    ToolCallResultPart,
)


class ToolCalls:
    """Takes the packets of a prediction and makes the calls in a task group.

    tools: by name; none if the model must not call any in this round.
    limit: how many calls may run at once, None for any number.
    call_ids: gives each call its number.
    server: as error messages call it.

    The first exception that ends the act is in `failure`, and the task group is cancelled.
    """

    def __init__(
        self,
        group: TaskGroup,
        tools: Mapping[str, ToolFunctionDef],
        callbacks: ActCallbacks,
        *,
        round_index: int,
        limit: int | None,
        call_ids: Iterator[int],
        server: str,
    ) -> None:
        self.failure: Exception | None = None
        self._group = group
        self._tools = tools
        self._callbacks = callbacks
        self._round = round_index
        self._limit = limit
        self._call_ids = call_ids
        self._server = server
        self._writing: _Writing | None = None
        self._calls: list[_Call] = []
        self._queue: deque[tuple[_Call, ToolFunctionDef, dict[str, Any]]] = deque()
        self._running = 0

    async def take(self, packet: ToolCallPacket) -> None:
        """Take in a packet. Raises if the model's request ends the act."""
        match packet:
            case ToolCallGenerationStartPacket():
                await self._begin(packet.tool_call_id)
            case ToolCallGenerationNamePacket():
                await self._named(await self._written(), packet.name)
            case ToolCallGenerationArgumentPacket():
                await self._argued(await self._written(), packet.content)
            case ToolCallGenerationEndPacket():
                writing = await self._written()
                await self._end(writing, packet.tool_call_request, packet.raw_content)
            case ToolCallGenerationFailedPacket():
                writing = await self._written()
                error = ToolCallRequestError.from_packet(packet, self._server)
                raise await self._refused(writing, error)

    async def over(self, reason: object) -> None:
        """The prediction is over. Tells of a call that was still being written."""
        if self._writing is not None:
            await self._failed(self._writing, ToolCallRequestError(f"Generation failed: {reason}"))

    def fail(self, error: Exception) -> None:
        """End the act."""
        if self.failure is None:
            self.failure = error
        self._group.cancel_scope.cancel()

    @property
    def requests(self) -> list[ToolCallRequest]:
        """What was asked for, with the arguments that were used."""
        return [call.request for call in self._calls]

    @property
    def results(self) -> list[ToolCallResultPart]:
        """The results, in the order of the requests, once the task group has ended."""
        results = []
        for call in self._calls:
            if call.result is None:
                raise LMStudioRuntimeError(
                    f"a call of tool {call.request.name!r} was cancelled, but not by act"
                )
            results.append(call.result)
        return results

    # While the model writes

    async def _begin(self, tool_call_id: str | None) -> "_Writing":
        writing = self._writing = _Writing(next(self._call_ids))
        await self._tell(
            self._callbacks.get("on_tool_call_request_start"), writing.call_id, tool_call_id
        )
        return writing

    async def _written(self) -> "_Writing":
        return self._writing or await self._begin(None)

    async def _named(self, writing: "_Writing", name: str) -> None:
        writing.named = True
        await self._tell(
            self._callbacks.get("on_tool_call_request_name_received"), writing.call_id, name
        )

    async def _argued(self, writing: "_Writing", content: str) -> None:
        writing.argued = True
        await self._tell(
            self._callbacks.get("on_tool_call_request_argument_fragment_generated"),
            writing.call_id,
            content,
        )

    async def _end(
        self, writing: "_Writing", request: ToolCallRequest, raw_content: str | None
    ) -> None:
        # Not every engine reports the name and the arguments while they are written.
        if not writing.named:
            await self._named(writing, request.name)
        if not writing.argued:
            await self._argued(writing, _json(request.arguments or {}))
        if not self._tools:
            raise await self._refused(
                writing,
                ToolCallRequestError(
                    "Model requested tool use on final prediction round.", raw_content
                ),
            )
        call = _Call(writing.call_id, request, raw_content)
        self._calls.append(call)
        try:
            tool, arguments = self._match(request)
        except LMStudioValueError as reason:
            error = ToolCallRequestError(str(reason), raw_content)
            await self._failed(writing, error)
            self._group.start_soon(self._guarded, self._replace, call, error)
            return
        call.is_queued = self._limit is not None and self._running >= self._limit
        self._writing = None
        await self._tell(self._callbacks.get("on_tool_call_request_end"), call.id, call.info)
        self._queue.append((call, tool, arguments))
        self._start_queued()

    def _match(self, request: ToolCallRequest) -> tuple[ToolFunctionDef, dict[str, Any]]:
        tool = self._tools.get(request.name)
        if tool is None:
            raise LMStudioValueError(
                f"Cannot find tool with name {request.name}; there are {', '.join(self._tools)}."
            )
        try:
            return tool, tool.convert_arguments(request.arguments)
        except LMStudioValueError as error:
            raise LMStudioValueError(
                f"Failed to parse arguments for tool {request.name}: {error}"
            ) from None

    async def _failed(self, writing: "_Writing", error: ToolCallRequestError) -> None:
        self._writing = None
        await self._tell(
            self._callbacks.get("on_tool_call_request_failure"), writing.call_id, error
        )

    async def _refused(
        self, writing: "_Writing", error: ToolCallRequestError
    ) -> ToolCallRequestError:
        # Whatever the handler returns, there is no call that it could be the result of.
        await self._failed(writing, error)
        await replacement(self._callbacks, error, None)
        return error

    # Calling

    def _start_queued(self) -> None:
        while self._queue and (self._limit is None or self._running < self._limit):
            self._running += 1
            self._group.start_soon(self._guarded, self._work, *self._queue.popleft())

    async def _guarded(self, work: Callable[..., Any], *args: object) -> None:
        # What leaves a task of the group would come out of `act` wrapped in an exception group.
        try:
            await work(*args)
        except Exception as error:  # noqa: BLE001
            self.fail(error)

    async def _work(self, call: "_Call", tool: ToolFunctionDef, arguments: dict[str, Any]) -> None:
        if call.is_queued:
            await self._tell(self._callbacks.get("on_tool_call_request_dequeued"), call.id)
        await self._call(call, tool, arguments)
        self._running -= 1
        self._start_queued()

    async def _call(self, call: "_Call", tool: ToolFunctionDef, arguments: dict[str, Any]) -> None:
        decision = await guard(self._callbacks, self._round, call.id, call.request, tool)
        if decision.denied is not None:
            await self._result(call, {"error": decision.denied})
            return
        if decision.parameters is not None:
            arguments = tool.convert_arguments(decision.parameters)
            call.request = msgspec.structs.replace(
                call.request, arguments=msgspec.to_builtins(dict(decision.parameters))
            )
        await self._tell(self._callbacks.get("on_tool_call_request_finalized"), call.id, call.info)
        try:
            content = _json(await tool.run(arguments))
        except Exception as reason:  # noqa: BLE001 - the model is told, unless the handler raises
            error = ToolCallRequestError(
                f"Unhandled Python exception: {reason!r}", call.raw_content
            )
            error.__cause__ = reason
            await self._replace(call, error)
        else:
            result = call.given(content)
            await self._tell(self._callbacks.get("on_tool_call_success"), call.id, result)
            await self._tell(self._callbacks.get("on_tool_call_result"), call.id, result)

    async def _replace(self, call: "_Call", error: ToolCallRequestError) -> None:
        await self._result(call, await replacement(self._callbacks, error, call.request))

    async def _result(self, call: "_Call", content: object) -> None:
        result = call.given(_json(content))
        await self._tell(self._callbacks.get("on_tool_call_result"), call.id, result)

    async def _tell(self, callback: Callable[..., object] | None, *args: object) -> None:
        await notify(callback, self._round, *args)


@dataclass
class _Writing:
    """A call that the model is writing."""

    call_id: int
    named: bool = False
    argued: bool = False


@dataclass
class _Call:
    """A call that the model has asked for."""

    id: int
    request: ToolCallRequest
    raw_content: str | None
    is_queued: bool = False
    result: ToolCallResultPart | None = None

    @property
    def info(self) -> ToolCallRequestInfo:
        return ToolCallRequestInfo(self.request, self.raw_content, self.is_queued)

    def given(self, content: str) -> ToolCallResultPart:
        self.result = ToolCallResultPart(
            content=content, tool_call_id=self.request.id, name=self.request.name
        )
        return self.result


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
