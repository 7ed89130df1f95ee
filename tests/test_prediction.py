"""Predictions: read to the end, left early, cancelled, failing."""

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

import lmstudio_async as lms
from lmstudio_async.connection import Connection
from tests.scripted_models import failure
from tests.scripted_server import ScriptedServer, fragment_packet

pytestmark = pytest.mark.anyio


@pytest.fixture
async def model(client: lms.Client) -> AsyncIterator[lms.LLM]:
    async with client.llm.load_new_instance("llm-a") as model:
        yield model


async def read(stream: lms.PredictionStream[Any]) -> list[str]:
    return [fragment.content async for fragment in stream]


WORDS = ["Hello", " there,", " how", " are", " you?"]


async def test_respond_gives_the_whole_answer(server: ScriptedServer, model: lms.LLM) -> None:
    result = await model.respond("Hello!")
    assert str(result) == result.content == server.reply
    assert result.stats.stop_reason == "eosFound"
    assert result.stats.predicted_tokens_count == 5
    assert result.model_info.identifier == "llm-a"
    assert isinstance(result.load_config, lms.LlmLoadModelConfig)
    assert server.predictions_running == 0
    assert server.cancels == []


async def test_the_result_tells_the_settings_that_were_in_force(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.load_new_instance("llm-a", config={"contextLength": 99}) as model:
        result = await model.respond("Hello!", config={"temperature": 0.5, "maxTokens": 2})
    assert result.content == "Hello there,"
    assert result.stats.stop_reason == "maxPredictedTokensReached"
    assert result.prediction_config == lms.LlmPredictionConfig(temperature=0.5, max_tokens=2)
    assert result.load_config == lms.LlmLoadModelConfig(context_length=99)


@pytest.mark.parametrize("how", ["bare", "awaited", "entered", "awaited and entered"])
async def test_a_stream_may_be_read_in_several_ways(
    server: ScriptedServer, model: lms.LLM, how: str
) -> None:
    stream = model.respond_stream("Hello!")
    match how:
        case "bare":
            words = await read(stream)
        case "awaited":
            words = await read(await stream)
        case "entered":
            async with stream as entered:
                assert entered is stream
                words = await read(entered)
        case _:
            async with await stream:
                words = await read(stream)
    assert words == WORDS
    assert str(stream.result()) == server.reply
    assert server.count("predict") == 1
    assert server.cancels == []


async def test_a_stream_that_has_ended_has_no_more(server: ScriptedServer, model: lms.LLM) -> None:
    stream = model.respond_stream("Hello!")
    await read(stream)
    assert await read(stream) == []
    assert await read(await stream) == []
    assert await stream.wait_for_result() is stream.result()
    await stream.cancel()
    assert server.count("predict") == 1
    assert server.cancels == []


async def test_a_stream_that_nobody_starts_sends_nothing(
    server: ScriptedServer, model: lms.LLM
) -> None:
    sent = len(server.frames)
    model.respond_stream("Hello!")
    assert len(server.frames) == sent


async def test_there_is_no_result_before_the_end(server: ScriptedServer, model: lms.LLM) -> None:
    stream = model.respond_stream("Hello!")
    with pytest.raises(lms.LMStudioRuntimeError, match=r"no result yet.*wait_for_result"):
        stream.result()
    await anext(stream)
    with pytest.raises(lms.LMStudioRuntimeError, match="a response of 'llm-a' has no result yet"):
        stream.result()
    result = await stream.wait_for_result()
    assert str(result) == server.reply
    assert stream.result() is result


async def test_several_predictions_run_at_once(server: ScriptedServer, model: lms.LLM) -> None:
    server.hold_predictions(after=1)
    async with (
        await model.respond_stream("One") as one,
        await model.respond_stream("Two") as two,
    ):
        assert [(await anext(stream)).content for stream in (one, two)] == ["Hello", "Hello"]
        assert server.predictions_running == 2
        server.release_predictions()
        assert await read(two) == await read(one) == WORDS[1:]


# Left early


async def stopped(server: ScriptedServer) -> None:
    """The server was told to stop, and has stopped."""
    await server.until(lambda: server.cancels == ["predict"] and not server.predictions_running)


async def test_break_stops_the_generation(server: ScriptedServer, model: lms.LLM) -> None:
    server.endless_predictions = True
    async for _ in model.respond_stream("Hello!"):
        break
    await stopped(server)


async def test_an_exception_in_the_loop_stops_the_generation(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.endless_predictions = True

    async def use() -> None:
        async for _ in model.respond_stream("Hello!"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    await stopped(server)


@pytest.mark.parametrize("way", ["break", "exception", "nothing read"])
async def test_leaving_the_block_stops_the_generation(
    server: ScriptedServer, model: lms.LLM, way: str
) -> None:
    server.endless_predictions = True
    try:
        async with model.respond_stream("Hello!") as stream:
            if way != "nothing read":
                await anext(stream)
            if way == "exception":
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    await stopped(server)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    with pytest.raises(lms.LMStudioRuntimeError):
        await stream.wait_for_result()


@pytest.mark.parametrize("use", ["respond", "iterate", "wait_for_result"])
async def test_cancelling_the_reader_stops_the_generation(
    server: ScriptedServer, model: lms.LLM, use: str
) -> None:
    server.hold_predictions(after=2)
    stream = model.respond_stream("Hello!")

    async def run() -> None:
        match use:
            case "respond":
                await model.respond("Hello!")
            case "iterate":
                await read(stream)
            case _:
                await stream.wait_for_result()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await server.until(lambda: server.fragments_sent == 2)
        group.cancel_scope.cancel()
    await stopped(server)


async def test_a_time_out_stops_the_generation(server: ScriptedServer, model: lms.LLM) -> None:
    server.endless_predictions = True
    with anyio.move_on_after(0.05) as scope:
        await model.respond("Hello!")
    assert scope.cancelled_caught
    await stopped(server)


async def test_an_asyncio_time_out_stops_the_generation(
    server: ScriptedServer, model: lms.LLM, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own time-out")
    server.endless_predictions = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await model.respond("Hello!")
    await stopped(server)


async def test_a_reader_cancelled_before_it_starts_leaves_nothing_running(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.endless_predictions = True
    with anyio.CancelScope() as scope:
        scope.cancel()
        await model.respond("Hello!")
    assert scope.cancelled_caught
    await model.count_tokens("a")  # goes the same way, behind the prediction if there is one
    await server.until(lambda: len(server.cancels) == server.count("predict"))
    await server.until(lambda: not server.predictions_running)


@pytest.mark.parametrize("where", ["here", "another thread", "a reference cycle"])
async def test_a_stream_that_is_dropped_stops_the_generation(
    server: ScriptedServer, model: lms.LLM, where: str
) -> None:
    server.endless_predictions = True
    held: list[Any] = [await model.respond_stream("Hello!")]
    await anext(held[0])
    match where:
        case "here":
            held.clear()
        case "another thread":
            thread = threading.Thread(target=held.clear)
            thread.start()
            thread.join()
        case _:
            held.append(held)
            del held
            gc.collect()
    await stopped(server)


async def test_a_stream_that_is_dropped_late_is_no_trouble(server: ScriptedServer) -> None:
    server.endless_predictions = True
    async with lms.Client(server.api_host) as client:
        stream = await (await client.llm.model("llm-a")).respond_stream("Hello!")
        await anext(stream)
    del stream
    await server.until(lambda: not server.predictions_running)


@pytest.mark.parametrize("how", ["cancel", "abandon"])
async def test_a_prediction_that_is_given_up_while_it_connects_never_begins(
    server: ScriptedServer, model: lms.LLM, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    connected, given_up = anyio.Event(), anyio.Event()
    open_connection = Connection.open

    async def open_slowly(*args: Any) -> Any:
        connection = await open_connection(*args)
        connected.set()
        await given_up.wait()
        return connection

    monkeypatch.setattr(Connection, "open", open_slowly)
    server.drop_connections("llm")
    await server.until(lambda: not server.open_sockets)
    stream = model.respond_stream("Hello!")

    async def give_up() -> None:
        await connected.wait()
        if how == "cancel":
            await stream.cancel()
        else:
            stream.abandon()
        given_up.set()

    async with anyio.create_task_group() as group:
        group.start_soon(give_up)
        assert await read(stream) == []
    with pytest.raises(lms.LMStudioRuntimeError, match="broke off"):
        stream.result()
    assert await model.tokenize("a later request")
    assert server.count("predict") == 0


async def test_cancel_ends_a_prediction_with_what_there_is(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.hold_predictions(after=2)
    async with model.respond_stream("Hello!") as stream:
        await anext(stream)
        await stream.cancel()
        assert await read(stream) == [" there,"]
        assert stream.result().content == "Hello there,"
        assert stream.result().stats.stop_reason == "userStopped"
    assert server.cancels == ["predict"]


async def test_a_lost_connection_while_a_stream_is_left_is_no_trouble(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.hold_predictions(after=1)
    stream = await model.respond_stream("Hello!")
    await anext(stream)
    server.drop_connections("llm")
    del stream
    assert await model.count_tokens("a b") == 2


# Callbacks


async def test_callbacks_follow_the_prediction(server: ScriptedServer, model: lms.LLM) -> None:
    calls: list[tuple[str, object]] = []
    await model.respond(
        "Hello!",
        on_first_token=lambda: calls.append(("first", None)),
        on_prediction_fragment=lambda fragment: calls.append(("fragment", fragment.content)),
        on_prompt_processing_progress=lambda share: calls.append(("prompt", share)),
    )
    assert calls == [
        ("prompt", 0.0),
        ("prompt", 1.0),
        ("first", None),
        *(("fragment", word) for word in WORDS),
    ]


async def test_what_a_callback_raises_is_logged(
    server: ScriptedServer, model: lms.LLM, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("my bug")

    result = await model.respond(
        "Hello!",
        on_first_token=fail,
        on_prediction_fragment=fail,
        on_prompt_processing_progress=fail,
    )
    assert str(result) == server.reply
    assert caplog.text.count("ZeroDivisionError: my bug") == 1 + 5 + 2
    assert "a response of 'llm-a': a callback raised" in caplog.text


# Failures


async def test_an_error_in_the_middle_reaches_the_reader(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.hold_predictions(after=1)
    stream = model.respond_stream("Hello!")
    await anext(stream)
    server.evict("llm-a")
    with pytest.raises(lms.LMStudioModelUnloadedError, match="a response of 'llm-a' failed on"):
        await anext(stream)
    assert await read(stream) == []
    with pytest.raises(lms.LMStudioRuntimeError):
        stream.result()
    assert server.cancels == []


async def test_an_error_at_the_start_reaches_the_reader(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.fail_next("predict", failure("The engine is on fire."))
    with pytest.raises(lms.LMStudioServerError, match="The engine is on fire") as caught:
        await model.respond("Hello!")
    assert caught.value.server_error is not None
    assert caught.value.server_error.title == "The engine is on fire."
    assert str(await model.respond("Hello!")) == server.reply


@pytest.mark.parametrize(
    "code",
    ["specificModelUnloaded", "noModelMatchingQuery", "identifierNotFound", "pathNotFound"],
)
async def test_an_evicted_model_is_unloaded_however_the_server_says_it(
    server: ScriptedServer, model: lms.LLM, code: str
) -> None:
    server.fail_next("predict", failure("Gone.", {"code": f"generic.{code}"}))
    with pytest.raises(lms.LMStudioModelUnloadedError, match="Gone") as caught:
        await model.respond("Hello!")
    assert caught.value.server_error is not None


async def test_a_stream_that_the_server_just_closes_is_an_error(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.stream("predict", fragment_packet("Hello"))
    stream = model.respond_stream("Hello!")
    await anext(stream)
    with pytest.raises(lms.LMStudioChannelClosedError, match="without a result"):
        await anext(stream)
    assert await read(stream) == []
    assert server.cancels == []


async def test_a_lost_connection_fails_the_prediction_and_the_next_one_works(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.drop_on("predict")
    with pytest.raises(lms.LMStudioWebsocketError):
        await model.respond("Hello!")
    assert server.count("predict") == 1
    assert str(await model.respond("Hello!")) == server.reply


async def test_a_connection_found_dead_fails_the_prediction(
    model: lms.LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise lms.LMStudioWebsocketError("dead")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("lmstudio_async.connection.Connection._send", fail)
    with pytest.raises(lms.LMStudioWebsocketError, match="dead"):
        await model.respond("Hello!")
    with pytest.raises(lms.LMStudioWebsocketError, match="dead"):
        async with model.respond_stream("Hello!"):
            pass
    while caplog.text.count("a response of 'llm-a' ended with its connection") < 2:
        await anyio.lowlevel.checkpoint()
    monkeypatch.undo()


async def test_packets_of_unknown_types_are_skipped(server: ScriptedServer, model: lms.LLM) -> None:
    server._check_frames = False
    server.script_prediction(
        {"type": "toolCallGenerationStart", "toolCallId": "1"},
        fragment_packet("Hello"),
        {"type": "aPacketOfTheFuture", "fragment": {"content": "no"}},
    )
    assert str(await model.respond("Hello!")) == "Hello"


@pytest.mark.parametrize(
    "packet",
    [
        {"type": "fragment"},
        {"type": "fragment", "fragment": {"content": 5}},
        {"type": "promptProcessingProgress", "progress": "all"},
        {"type": "success"},
        "a string",
    ],
)
async def test_a_packet_that_makes_no_sense_is_an_error(
    server: ScriptedServer, model: lms.LLM, packet: Any
) -> None:
    server._check_frames = False
    server.endless_predictions = True
    server.script_prediction(packet)
    with pytest.raises(lms.LMStudioProtocolError, match="could not understand a packet from"):
        await model.respond("Hello!")
    await stopped(server)


async def test_fields_of_the_future_are_ignored(server: ScriptedServer, model: lms.LLM) -> None:
    server._check_frames = False
    packet = fragment_packet("Hello")
    packet["fragment"]["mood"] = "good"
    server.script_prediction(packet | {"weather": "fine"}, stop_reason="eosFound")
    assert str(await model.respond("Hello!")) == "Hello"


# Histories and settings


def text(role: str, words: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": words}]}


@pytest.mark.parametrize(
    ("history", "sent"),
    [
        ("Hello!", [text("user", "Hello!")]),
        ([{"role": "user", "content": "Hello!"}], [text("user", "Hello!")]),
        ({"messages": [{"role": "user", "content": "Hello!"}]}, [text("user", "Hello!")]),
        (
            (
                {"role": role, "content": role.upper()}
                for role in ("system", "user", "assistant", "user")
            ),
            [text(role, role.upper()) for role in ("system", "user", "assistant", "user")],
        ),
        ([text("user", "Grüße"), text("assistant", "")], None),
        (
            [
                {
                    "role": "tool",
                    "content": [{"type": "toolCallResult", "content": "42", "toolCallId": "1"}],
                }
            ],
            None,
        ),
    ],
    ids=["prompt", "list", "chat data", "generator", "parts", "tool"],
)
async def test_a_history_is_sent_as_the_protocol_wants_it(
    server: ScriptedServer, model: lms.LLM, history: Any, sent: Any
) -> None:
    # A generator can be read once; the test runs on several loops.
    if not isinstance(history, str | list | dict):
        history = (
            {"role": role, "content": role.upper()}
            for role in ("system", "user", "assistant", "user")
        )
    await model.respond(history)
    (parameter,) = server.requests("predict")
    assert parameter["history"] == {"messages": sent or history}
    assert parameter["modelSpecifier"] == {
        "type": "instanceReference",
        "instanceReference": model.instance_reference,
    }


@pytest.mark.parametrize(
    "config",
    [{"maxTokens": 3}, {"max_tokens": 3}, lms.LlmPredictionConfig(max_tokens=3)],
)
async def test_settings_may_be_a_dict_or_an_object(
    server: ScriptedServer, model: lms.LLM, config: Any
) -> None:
    assert str(await model.respond("Hello!", config=config)) == "Hello there, how"
    (layer,) = server.requests("predict")[0]["predictionConfigStack"]["layers"]
    (field,) = layer["config"]["fields"]
    assert field["key"] == "llm.prediction.maxPredictedTokens"
