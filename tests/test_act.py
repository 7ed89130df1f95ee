"""`act`: rounds of predictions, and the tool calls between them."""

import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

import lmstudio_async as lms
from tests.scripted_models import Json, failure, kv_value
from tests.scripted_server import ScriptedServer, fragment_packet

pytestmark = pytest.mark.anyio


@pytest.fixture
async def model(client: lms.Client) -> AsyncIterator[lms.LLM]:
    async with client.llm.load_new_instance("llm-a") as model:
        yield model


def tool_call(name: str, arguments: Json, id: str = "c1") -> list[Json]:
    """The packets of one call, from an engine that reports all it can."""
    request = {"type": "function", "id": id, "name": name, "arguments": arguments}
    return [
        {"type": "toolCallGenerationStart", "toolCallId": id},
        {"type": "toolCallGenerationNameReceived", "name": name},
        {"type": "toolCallGenerationArgumentFragmentGenerated", "content": json.dumps(arguments)},
        {"type": "toolCallGenerationEnd", "toolCallRequest": request, "rawContent": f"<{name}>"},
    ]


def script(server: ScriptedServer, packets: list[Json]) -> None:
    """The next round sends these packets; the one after it says the server's reply."""
    server.script_prediction(*packets, stop_reason="toolCalls")


def history(server: ScriptedServer, index: int = -1) -> list[Json]:
    messages: list[Json] = server.requests("predict")[index]["history"]["messages"]
    return messages


def offered(server: ScriptedServer, index: int) -> Any:
    """The tools that a round offers."""
    (layer,) = server.requests("predict")[index]["predictionConfigStack"]["layers"]
    return kv_value(layer["config"], "llm.prediction.tools")


def results(server: ScriptedServer, index: int = -1) -> list[Any]:
    """What the model was told of its calls."""
    return [json.loads(part["content"]) for part in history(server, index)[-1]["content"]]


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def boom() -> None:
    """Raise."""
    raise ZeroDivisionError("my bug")


async def test_a_tool_is_called_and_the_model_told(server: ScriptedServer, model: lms.LLM) -> None:
    server.script_prediction(
        fragment_packet("Let me see."), *tool_call("add", {"a": 2, "b": 3}), stop_reason="toolCalls"
    )
    result = await model.act("2 + 3?", [add], config={"temperature": 0})
    assert result.rounds == 2
    assert result.total_time_seconds > 0
    user, assistant, tool = history(server)
    assert user == {"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]}
    request = {"type": "function", "id": "c1", "name": "add", "arguments": {"a": 2, "b": 3}}
    assert assistant["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "toolCallRequest", "toolCallRequest": request},
    ]
    assert tool == {
        "role": "tool",
        "content": [{"type": "toolCallResult", "content": "5", "toolCallId": "c1", "name": "add"}],
    }
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 1}},
        "required": ["a"],
    }
    function = {"name": "add", "description": "Add two numbers.", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    assert offered(server, 0) == offered(server, 1) == {"type": "toolArray", "tools": tools}
    assert server.cancels == []


async def test_a_model_that_needs_no_tools_takes_one_round(
    server: ScriptedServer, model: lms.LLM
) -> None:
    messages: list[Any] = []
    result = await model.act("Hello!", [add], on_message=messages.append, preset="mine")
    assert result.rounds == 1
    assert [message.content[0].text for message in messages] == [server.reply]
    assert server.requests("predict")[0]["fuzzyPresetIdentifier"] == "mine"


async def test_messages_make_up_a_chat(server: ScriptedServer, model: lms.LLM) -> None:
    script(server, tool_call("add", {"a": 1}))
    chat: list[Json] = [{"role": "user", "content": "1 + 1?"}]
    messages: list[Any] = []
    await model.act(chat, [add], on_message=messages.append)
    assert len(chat) == 1
    assert [type(message) for message in messages] == [
        lms.AssistantResponse,
        lms.ToolResultMessage,
        lms.AssistantResponse,
    ]
    assert messages[1].content[0].content == "2"
    assert messages[2].content[0].text == server.reply


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_callbacks_follow_the_rounds(
    server: ScriptedServer, model: lms.LLM, kind: str
) -> None:
    server.script_prediction(
        fragment_packet("Well,"), *tool_call("add", {"a": 1}), stop_reason="toolCalls"
    )
    server.reply = "Two."
    calls: list[Any] = []

    def on(name: str, show: Callable[..., Any] = lambda *args: args) -> Callable[..., Any]:
        def sync(*args: Any) -> None:
            calls.append((name, *show(*args)))

        async def slow(*args: Any) -> None:
            await anyio.lowlevel.checkpoint()
            sync(*args)

        return sync if kind == "sync" else slow

    def info(round_index: int, call_id: int, info: lms.ToolCallRequestInfo) -> Any:
        request = info.tool_call_request
        return round_index, call_id, request.name, request.arguments, info.raw_content

    def content(round_index: int, call_id: int, result: lms.ToolCallResultData) -> Any:
        return round_index, call_id, result.content

    await model.act(
        "1 + 1?",
        [add],
        on_message=on("message", lambda message: (type(message).__name__,)),
        on_first_token=on("first"),
        on_prediction_fragment=on("fragment", lambda fragment, i: (fragment.content, i)),
        on_round_start=on("round"),
        on_round_end=on("round ends"),
        on_prediction_completed=on("predicted", lambda result: (str(result), result.round_index)),
        on_prompt_processing_progress=on("prompt"),
        on_tool_call_request_start=on("start"),
        on_tool_call_request_name_received=on("name"),
        on_tool_call_request_argument_fragment_generated=on("arguments"),
        on_tool_call_request_end=on("end", info),
        on_tool_call_request_failure=on("failure"),
        on_tool_call_request_dequeued=on("dequeued"),
        on_tool_call_request_finalized=on("finalized", info),
        on_tool_call_success=on("success", content),
        on_tool_call_result=on("result", content),
    )
    # A tool runs beside the prediction, so this may come in between.
    predicted = ("predicted", "Well,", 0)
    assert predicted in calls
    calls.remove(predicted)
    assert calls == [
        ("round", 0),
        ("prompt", 0.0, 0),
        ("prompt", 1.0, 0),
        ("first", 0),
        ("fragment", "Well,", 0),
        ("start", 0, 0, "c1"),
        ("name", 0, 0, "add"),
        ("arguments", 0, 0, '{"a": 1}'),
        ("end", 0, 0, "add", {"a": 1}, "<add>"),
        ("finalized", 0, 0, "add", {"a": 1}, "<add>"),
        ("success", 0, 0, "2"),
        ("result", 0, 0, "2"),
        ("message", "AssistantMessage"),
        ("message", "ToolMessage"),
        ("round ends", 0),
        ("round", 1),
        ("prompt", 0.0, 1),
        ("prompt", 1.0, 1),
        ("first", 1),
        ("fragment", "Two.", 1),
        ("predicted", "Two.", 1),
        ("message", "AssistantMessage"),
        ("round ends", 1),
    ]


async def test_engines_need_not_report_a_call_while_it_is_written(
    server: ScriptedServer, model: lms.LLM
) -> None:
    request = {"type": "function", "name": "add", "arguments": {"a": 1}}
    script(server, [{"type": "toolCallGenerationEnd", "toolCallRequest": request}])
    calls: list[Any] = []
    await model.act(
        "1 + 1?",
        [add],
        on_tool_call_request_start=lambda *args: calls.append(args),
        on_tool_call_request_name_received=lambda *args: calls.append(args),
        on_tool_call_request_argument_fragment_generated=lambda *args: calls.append(args),
    )
    assert calls == [(0, 0, None), (0, 0, "add"), (0, 0, '{"a":1}')]
    assert history(server)[-1]["content"] == [
        {"type": "toolCallResult", "content": "2", "name": "add"}
    ]


async def test_what_a_callback_raises_is_logged(
    server: ScriptedServer, model: lms.LLM, caplog: pytest.LogCaptureFixture
) -> None:
    script(server, tool_call("add", {"a": 1}))

    def fail(*_: object) -> None:
        raise ZeroDivisionError("my bug")

    result = await model.act("1?", [add], on_round_start=fail, on_tool_call_result=fail)
    assert result.rounds == 2
    assert caplog.text.count("ZeroDivisionError: my bug") == 3


async def test_functions_run_in_threads_and_coroutines_in_the_loop(
    server: ScriptedServer, model: lms.LLM
) -> None:
    script(server, [*tool_call("plain", {}), *tool_call("coroutine", {})])

    def plain() -> int:
        """Name the thread."""
        return threading.get_ident()

    async def coroutine() -> int:
        """Name the thread."""
        return threading.get_ident()

    await model.act("Where?", [plain, coroutine])
    one, other = results(server)
    assert one != threading.get_ident() == other


async def test_respond_takes_no_notice_of_tool_calls(
    server: ScriptedServer, model: lms.LLM
) -> None:
    script(server, [*tool_call("add", {"a": 1}), fragment_packet("Two.")])
    assert str(await model.respond("1 + 1?")) == "Two."


# Several calls in one round


class Gate:
    """A tool whose calls wait to be let through, by name."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.cancelled: list[str] = []
        self._doors: dict[str, anyio.Event] = {}
        self._changed = anyio.Event()

    async def visit(self, name: str) -> str:
        """Visit."""
        self.entered.append(name)
        self._changed.set()
        try:
            await self._door(name).wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(name)
            raise
        return name

    def open(self, name: str) -> None:
        self._door(name).set()

    async def until_entered(self, *names: str) -> None:
        with anyio.fail_after(10):
            while sorted(self.entered) != sorted(names):
                self._changed = anyio.Event()
                await self._changed.wait()

    def _door(self, name: str) -> anyio.Event:
        return self._doors.setdefault(name, anyio.Event())


def visits(*names: str) -> list[Json]:
    return [packet for name in names for packet in tool_call("visit", {"name": name}, name)]


async def test_calls_run_one_by_one(server: ScriptedServer, model: lms.LLM) -> None:
    script(server, visits("a", "b", "c"))
    gate = Gate()
    queued: list[bool] = []
    dequeued: list[int] = []
    predicted = anyio.Event()
    async with anyio.create_task_group() as group:

        async def act() -> None:
            await model.act(
                "Go!",
                [gate.visit],
                on_prediction_completed=lambda _: predicted.set(),
                on_tool_call_request_end=lambda *args: queued.append(args[2].is_queued),
                on_tool_call_request_dequeued=lambda *args: dequeued.append(args[1]),
            )

        group.start_soon(act)
        await gate.until_entered("a")
        await predicted.wait()
        assert queued == [False, True, True]
        assert gate.entered == ["a"]
        gate.open("b")
        gate.open("a")
        await gate.until_entered("a", "b", "c")
        gate.open("c")
    assert gate.entered == results(server) == ["a", "b", "c"]
    assert dequeued == [1, 2]


@pytest.mark.parametrize("limit", [3, None])
async def test_calls_run_at_once_and_results_keep_their_order(
    server: ScriptedServer, model: lms.LLM, limit: int | None
) -> None:
    script(server, visits("a", "b", "c"))
    gate = Gate()
    ended: list[str] = []
    turn = anyio.Event()

    def on_result(_: int, __: int, result: lms.ToolCallResultData) -> None:
        nonlocal turn
        ended.append(result.content)
        turn.set()
        turn = anyio.Event()

    async with anyio.create_task_group() as group:

        async def act() -> None:
            await model.act(
                "Go!", [gate.visit], max_parallel_tool_calls=limit, on_tool_call_result=on_result
            )

        group.start_soon(act)
        await gate.until_entered("a", "b", "c")
        for name in ("c", "a", "b"):
            waiting = turn
            gate.open(name)
            await waiting.wait()
    assert ended == ['"c"', '"a"', '"b"']
    assert results(server) == ["a", "b", "c"]


async def test_no_more_calls_than_allowed_run_at_once(
    server: ScriptedServer, model: lms.LLM
) -> None:
    script(server, visits("a", "b", "c"))
    gate = Gate()
    async with anyio.create_task_group() as group:

        async def act() -> None:
            await model.act("Go!", [gate.visit], max_parallel_tool_calls=2)

        group.start_soon(act)
        await gate.until_entered("a", "b")
        gate.open("b")
        await gate.until_entered("a", "b", "c")
        gate.open("a")
        gate.open("c")
    assert results(server) == ["a", "b", "c"]


async def test_calls_start_while_the_model_goes_on(server: ScriptedServer, model: lms.LLM) -> None:
    script(server, visits("a"))
    server.hold_predictions(after=4)
    gate = Gate()
    gate.open("a")

    async def on_result(*_: object) -> None:
        assert server.predictions_running == 1
        server.release_predictions()

    await model.act("Go!", [gate.visit], on_tool_call_result=on_result)
    assert results(server) == ["a"]


# Requests that cannot be met


WRONG = {
    "unknown": (tool_call("sub", {}), "Cannot find tool with name sub; there are add, boom."),
    "missing": (
        tool_call("add", {"c": 1}),
        "Failed to parse arguments for tool add: argument 'a' is missing; add takes a, b",
    ),
    "mistyped": (
        tool_call("add", {"a": "two"}),
        "Failed to parse arguments for tool add: argument 'a': Expected `int`, got `str`",
    ),
    "raises": (tool_call("boom", {}), "Unhandled Python exception: ZeroDivisionError('my bug')"),
    "not JSON": (
        tool_call("boom", {}),
        "Unhandled Python exception: TypeError('Encoding objects of type complex is unsupported')",
    ),
}


def wrong_tools(kind: str) -> list[Any]:
    async def not_json() -> complex:
        """Return what JSON lacks."""
        return 1j

    other = lms.ToolFunctionDef.from_callable(not_json, name="boom") if kind == "not JSON" else boom
    return [add, other]


@pytest.mark.parametrize("kind", WRONG)
async def test_the_model_is_told_what_was_wrong(
    server: ScriptedServer, model: lms.LLM, kind: str
) -> None:
    packets, text = WRONG[kind]
    script(server, packets)
    failures: list[Any] = []
    successes: list[Any] = []
    told: list[Any] = []
    result = await model.act(
        "Go!",
        wrong_tools(kind),
        on_tool_call_request_failure=lambda *args: failures.append(args),
        on_tool_call_success=lambda *args: successes.append(args),
        on_tool_call_result=lambda *args: told.append(args),
    )
    assert result.rounds == 2
    assert results(server) == [text]
    assert len(told) == 1
    assert successes == []
    if packets[-1]["toolCallRequest"]["name"] == "boom":
        assert failures == []
    else:
        ((round_index, call_id, error),) = failures
        assert (round_index, call_id, str(error)) == (0, 0, text)
        assert error.raw_content == packets[-1]["rawContent"]


@pytest.mark.parametrize("answer", ["Try again.", None, {"retry": True}])
async def test_a_handler_says_what_the_model_is_told(
    server: ScriptedServer, model: lms.LLM, answer: Any
) -> None:
    script(server, WRONG["raises"][0])
    asked: list[Any] = []

    async def handle(
        error: lms.LMStudioPredictionError, request: lms.ToolCallRequest | None
    ) -> Any:
        asked.append((error, request))
        return answer

    await model.act("Go!", [boom], handle_invalid_tool_request=handle)
    ((error, request),) = asked
    assert isinstance(error, lms.ToolCallRequestError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert request.name == "boom"
    assert results(server) == [answer or WRONG["raises"][1]]


@pytest.mark.parametrize("kind", WRONG)
async def test_a_handler_that_raises_ends_the_act(
    server: ScriptedServer, model: lms.LLM, kind: str
) -> None:
    packets, text = WRONG[kind]
    script(server, [*visits("a"), *packets])
    server.hold_predictions(after=8)
    gate = Gate()

    def handle(error: lms.ToolCallRequestError, _: object) -> None:
        raise error

    with pytest.raises(lms.ToolCallRequestError) as caught:
        await model.act(
            "Go!",
            [*wrong_tools(kind), gate.visit],
            max_parallel_tool_calls=None,
            handle_invalid_tool_request=handle,
        )
    assert str(caught.value).replace(", visit", "") == text
    assert gate.cancelled == gate.entered
    await server.until(lambda: server.cancels == ["predict"] and not server.predictions_running)


@pytest.mark.parametrize("handled", [False, True])
async def test_a_request_that_makes_no_sense_ends_the_act(
    server: ScriptedServer, model: lms.LLM, handled: bool
) -> None:
    packets: list[Json] = [
        {"type": "toolCallGenerationStart"},
        {
            "type": "toolCallGenerationFailed",
            "error": {"title": "No JSON."},
            "rawContent": "<tool>{",
        },
    ]
    script(server, packets)
    server.endless_predictions = True
    seen: list[Any] = []
    failures: list[Any] = []
    with pytest.raises(lms.ToolCallRequestError, match="No JSON") as caught:
        await model.act(
            "Go!",
            [add],
            handle_invalid_tool_request=(lambda *args: seen.append(args)) if handled else None,
            on_tool_call_request_failure=lambda *args: failures.append(args),
        )
    assert caught.value.raw_content == "<tool>{"
    assert caught.value.server_error is not None
    assert seen == ([(caught.value, None)] if handled else [])
    assert failures == [(0, 0, caught.value)]
    await server.until(lambda: server.cancels == ["predict"] and not server.predictions_running)


async def test_a_call_cut_short_is_reported(server: ScriptedServer, model: lms.LLM) -> None:
    script(server, tool_call("add", {"a": 1}))
    server.hold_predictions(after=2)
    failures: list[str] = []
    with pytest.raises(lms.LMStudioModelUnloadedError):
        await model.act(
            "Go!",
            [add],
            on_tool_call_request_name_received=lambda *_: server.evict("llm-a"),
            on_tool_call_request_failure=lambda *args: failures.append(str(args[2])),
        )
    assert len(failures) == 1
    assert failures[0].startswith("Generation failed: a response of 'llm-a' failed on")


async def test_a_call_left_unfinished_is_reported(server: ScriptedServer, model: lms.LLM) -> None:
    server.script_prediction(
        fragment_packet("Well,"),
        {"type": "toolCallGenerationStart"},
        stop_reason="maxPredictedTokensReached",
    )
    failures: list[str] = []
    result = await model.act(
        "Go!", [add], on_tool_call_request_failure=lambda *args: failures.append(str(args[2]))
    )
    assert result.rounds == 1
    assert failures == ["Generation failed: maxPredictedTokensReached"]


# Guarding


Guard = Callable[[lms.GuardToolCallController], None]


async def guarded(server: ScriptedServer, model: lms.LLM, guard: Guard) -> None:
    script(server, tool_call("add", {"a": 1, "b": 1}))
    seen: list[Any] = []

    async def guard_tool_call(
        round_index: int, call_id: int, controller: lms.GuardToolCallController
    ) -> None:
        seen.append((round_index, call_id, controller.tool_call_request.name, controller.tool.name))
        guard(controller)

    await model.act("1 + 1?", [add], guard_tool_call=guard_tool_call)
    assert seen == [(0, 0, "add", "add")]


async def test_a_guard_allows_a_call(server: ScriptedServer, model: lms.LLM) -> None:
    await guarded(server, model, lambda call: call.allow())
    assert results(server) == [2]


async def test_a_guard_gives_other_arguments(server: ScriptedServer, model: lms.LLM) -> None:
    await guarded(server, model, lambda call: call.allow_and_override_parameters({"a": 5}))
    assert results(server) == [6]
    request = history(server)[1]["content"][0]["toolCallRequest"]
    assert request["arguments"] == {"a": 5}


@pytest.mark.parametrize("reason", ["Not today.", None])
async def test_a_guard_denies_a_call(
    server: ScriptedServer, model: lms.LLM, reason: str | None
) -> None:
    await guarded(server, model, lambda call: call.deny(reason))
    assert results(server) == [{"error": reason or "The tool call was denied."}]


async def test_a_guard_must_decide(server: ScriptedServer, model: lms.LLM) -> None:
    with pytest.raises(lms.LMStudioRuntimeError, match="must allow or deny"):
        await guarded(server, model, lambda _: None)


async def test_a_guard_decides_once(server: ScriptedServer, model: lms.LLM) -> None:
    def guard(call: lms.GuardToolCallController) -> None:
        call.deny()
        with pytest.raises(lms.LMStudioRuntimeError, match="'add' has been decided already"):
            call.allow()

    await guarded(server, model, guard)


async def test_what_a_guard_raises_ends_the_act(server: ScriptedServer, model: lms.LLM) -> None:
    def guard(_: object) -> None:
        raise ZeroDivisionError("stop")

    with pytest.raises(ZeroDivisionError, match="stop"):
        await guarded(server, model, guard)


async def test_a_guard_cannot_give_wrong_arguments(server: ScriptedServer, model: lms.LLM) -> None:
    with pytest.raises(lms.LMStudioValueError, match="argument 'a'"):
        await guarded(server, model, lambda call: call.allow_and_override_parameters({"a": []}))


# The last round


async def test_the_last_round_has_no_tools(server: ScriptedServer, model: lms.LLM) -> None:
    script(server, tool_call("add", {"a": 1}))
    result = await model.act("1 + 1?", [add], max_prediction_rounds=2)
    assert result.rounds == 2
    assert offered(server, 0)["type"] == "toolArray"
    assert offered(server, 1) == {"type": "none"}


async def test_a_call_in_the_last_round_is_an_error(server: ScriptedServer, model: lms.LLM) -> None:
    script(server, tool_call("boom", {}))
    seen: list[Any] = []
    with pytest.raises(lms.LMStudioPredictionError, match="final prediction round") as caught:
        await model.act(
            "Go!",
            [boom],
            max_prediction_rounds=1,
            handle_invalid_tool_request=lambda *args: seen.append(args),
        )
    assert seen == [(caught.value, None)]


# Cancelled, and failing


async def test_cancelling_stops_the_generation(server: ScriptedServer, model: lms.LLM) -> None:
    server.hold_predictions(after=2)
    async with anyio.create_task_group() as group:
        group.start_soon(model.act, "Hello!", [add])
        await server.until(lambda: server.fragments_sent == 2)
        group.cancel_scope.cancel()
    await server.until(lambda: server.cancels == ["predict"] and not server.predictions_running)


async def test_cancelling_stops_tools_and_generation(
    server: ScriptedServer, model: lms.LLM
) -> None:
    script(server, [*visits("a", "b", "c"), fragment_packet("more")])
    server.hold_predictions(after=12)
    gate = Gate()
    messages: list[Any] = []
    async with anyio.create_task_group() as group:

        async def act() -> None:
            await model.act(
                "Go!", [gate.visit], max_parallel_tool_calls=2, on_message=messages.append
            )

        group.start_soon(act)
        await gate.until_entered("a", "b")
        group.cancel_scope.cancel()
    assert sorted(gate.cancelled) == ["a", "b"] == sorted(gate.entered)
    assert messages == []
    await server.until(lambda: server.cancels == ["predict"] and not server.predictions_running)


async def test_cancelling_does_not_wait_for_a_thread(
    server: ScriptedServer, model: lms.LLM
) -> None:
    script(server, tool_call("block", {}))
    entered, leave, left = (threading.Event() for _ in range(3))

    def block() -> None:
        """Block."""
        entered.set()
        leave.wait(10)
        left.set()

    async with anyio.create_task_group() as group:
        group.start_soon(model.act, "Go!", [block])
        assert await anyio.to_thread.run_sync(entered.wait, 10)
        group.cancel_scope.cancel()
    assert not left.is_set()
    leave.set()
    assert await anyio.to_thread.run_sync(left.wait, 10)


async def test_a_failing_prediction_cancels_the_tools(
    server: ScriptedServer, model: lms.LLM
) -> None:
    script(server, visits("a"))
    server.hold_predictions(after=4)
    gate = Gate()
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def act() -> None:
            try:
                await model.act("Go!", [gate.visit])
            except lms.LMStudioModelUnloadedError as error:
                errors.append(error)

        group.start_soon(act)
        await gate.until_entered("a")
        server.evict("llm-a")
    assert len(errors) == 1
    assert gate.cancelled == ["a"]


async def test_a_server_that_refuses_fails_the_act(server: ScriptedServer, model: lms.LLM) -> None:
    server.fail_next("predict", failure("The engine is on fire."))
    with pytest.raises(lms.LMStudioServerError, match="on fire"):
        await model.act("Go!", [add])


async def test_a_prediction_without_a_result_fails_the_act(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.stream("predict", fragment_packet("Hello"))
    with pytest.raises(lms.LMStudioChannelClosedError, match="without a result"):
        await model.act("Go!", [add])


async def test_a_tool_that_cancels_itself_fails_the_act(
    server: ScriptedServer, model: lms.LLM, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio lets nobody raise its cancellation")
    script(server, tool_call("give_up", {}))

    async def give_up() -> None:
        """Give up."""
        raise anyio.get_cancelled_exc_class()()

    with pytest.raises(lms.LMStudioRuntimeError, match="'give_up' was cancelled, but not by act"):
        await model.act("Go!", [give_up])


# Arguments


@pytest.mark.parametrize(
    ("tools", "options", "error", "message"),
    [
        ([], {}, ValueError, "tools is empty"),
        ([add, add], {}, ValueError, "two tools named 'add'"),
        ("add", {}, TypeError, "tools must be a list of tools, not str"),
        (5, {}, TypeError, "tools must be a list of tools, not int"),
        ([5], {}, TypeError, "must be a function, a ToolFunctionDef or a dict, not int"),
        ([{"name": "a"}], {}, TypeError, "missing 3 required"),
        ([add], {"max_prediction_rounds": 0}, ValueError, "must be at least 1, not 0"),
        ([add], {"max_parallel_tool_calls": True}, TypeError, "whole number, not bool"),
        ([add], {"on_mesage": print}, TypeError, "act has no option 'on_mesage'"),
        ([add], {"preset": 5}, TypeError, "preset must be a string"),
        ([add], {"on_message": 5}, TypeError, "on_message must be callable"),
        ([add], {"config": {"rawTools": {"type": "none"}}}, ValueError, "raw_tools is made of"),
        ([add], {"config": {"heat": 1}}, ValueError, "config has no field 'heat'"),
    ],
)
async def test_wrong_arguments_are_refused(
    server: ScriptedServer,
    model: lms.LLM,
    tools: Any,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        await model.act("Go!", tools, **options)
    assert isinstance(caught.value, lms.LMStudioError)
    assert server.count("predict") == 0
