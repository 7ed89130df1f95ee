"""Calls and channels without a socket: what is sent for them, and what each frame does."""

import json
import logging
import math
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from lmstudio_async.errors import (
    LMStudioModelNotFoundError,
    LMStudioProtocolError,
    LMStudioServerError,
    LMStudioSlowReaderError,
    LMStudioTimeoutError,
    LMStudioValueError,
    LMStudioWebsocketError,
)
from lmstudio_async.exchanges import Call, Channel
from lmstudio_async.multiplexer import MAX_WARNINGS, Multiplexer, RefusedError
from lmstudio_async.timeouts import Bound

CALL = Bound("call", 60.0)
PREDICTION = Bound("prediction", 600.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Wakeup:
    """Waits for an event rather than for a task of the loop, so that no loop has to run."""

    waiting = False
    _event: anyio.Event | None = None

    async def wait(self) -> None:
        self._event = anyio.Event()
        await self._event.wait()

    def set(self) -> None:
        if self._event is not None:
            self._event.set()


def new_multiplexer(clock: Clock | None = None) -> Multiplexer:
    return Multiplexer("llm", "somewhere:1234", clock or Clock(), Wakeup)


@pytest.fixture
def multiplexer() -> Multiplexer:
    return new_multiplexer()


def start_call(multiplexer: Multiplexer, endpoint: str = "tokenize") -> tuple[int, Call]:
    call_id, call, _ = multiplexer.call(endpoint, UNSET, f"calling {endpoint}", CALL)
    return call_id, call


def open_channel(multiplexer: Multiplexer, endpoint: str = "predict") -> Channel:
    return multiplexer.channel(endpoint, UNSET, f"opening {endpoint}", PREDICTION)[0]


def receive(multiplexer: Multiplexer, **frame: Any) -> Any:
    answer = multiplexer.receive(json.dumps(frame).encode())
    return None if answer is None else json.loads(answer)


def warn(multiplexer: Multiplexer, warning: str, kind: str | None) -> None:
    extra = {} if kind is None else {"kind": kind}
    receive(multiplexer, type="communicationWarning", warning=warning, **extra)


def packets(channel: Channel) -> list[Any]:
    return [json.loads(bytes(packet)) for packet in channel.packets]


def test_a_call_is_sent_with_its_parameter(multiplexer: Multiplexer) -> None:
    call_id, call, frame = multiplexer.call("tokenize", {"inputString": "a"}, "asked", CALL)
    assert json.loads(frame) == {
        "type": "rpcCall",
        "endpoint": "tokenize",
        "callId": call_id,
        "parameter": {"inputString": "a"},
    }
    assert not call.done


def test_a_channel_is_sent_with_its_parameter(multiplexer: Multiplexer) -> None:
    channel, frame = multiplexer.channel("predict", [1], "asked", PREDICTION)
    assert json.loads(frame) == {
        "type": "channelCreate",
        "endpoint": "predict",
        "channelId": channel.id,
        "creationParameter": [1],
    }


def test_no_parameter_is_left_out_of_the_frame(multiplexer: Multiplexer) -> None:
    _, _, frame = multiplexer.call("listLoaded", UNSET, "asked", CALL)
    assert "parameter" not in json.loads(frame)
    _, frame = multiplexer.channel("predict", UNSET, "asked", PREDICTION)
    assert "creationParameter" not in json.loads(frame)


@pytest.mark.parametrize("start", ["call", "channel"])
def test_what_cannot_be_encoded_is_refused_and_forgotten(
    multiplexer: Multiplexer, start: str
) -> None:
    with pytest.raises(LMStudioValueError, match="asking: text is not valid Unicode"):
        getattr(multiplexer, start)("tokenize", {"\ud800": 1}, "asking", CALL)
    assert multiplexer.idle


def test_calls_and_channels_never_share_a_number(multiplexer: Multiplexer) -> None:
    numbers = [start_call(multiplexer)[0] for _ in range(3)]
    numbers += [open_channel(multiplexer).id for _ in range(3)]
    numbers.append(start_call(multiplexer)[0])
    assert len(set(numbers)) == 7


def test_a_result_ends_its_own_call_only(multiplexer: Multiplexer) -> None:
    first_id, first = start_call(multiplexer)
    second_id, second = start_call(multiplexer)
    receive(multiplexer, type="rpcResult", callId=second_id, result=[1, 2])
    assert second.done
    assert isinstance(second.result, Raw)
    assert bytes(second.result) == b"[1, 2]"
    assert not first.done
    receive(multiplexer, type="rpcResult", callId=first_id)
    assert first.done
    assert first.result is UNSET
    assert first.error is None


def test_an_error_ends_a_call_in_the_exception_that_means_it(multiplexer: Multiplexer) -> None:
    call_id, call = start_call(multiplexer)
    error = {"title": "No such model", "displayData": {"code": "generic.pathNotFound"}}
    receive(multiplexer, type="rpcError", callId=call_id, error=error)
    assert call.done
    assert isinstance(call.error, LMStudioModelNotFoundError)
    assert "calling tokenize failed on somewhere:1234: No such model" in str(call.error)


def test_packets_wait_in_order_until_they_are_taken(multiplexer: Multiplexer) -> None:
    channel, other = open_channel(multiplexer), open_channel(multiplexer)
    for message in ("a", "b"):
        receive(multiplexer, type="channelSend", channelId=channel.id, message=message)
    assert packets(channel) == ["a", "b"]
    assert not other.packets
    assert not channel.ended


def test_what_asks_for_an_acknowledgement_gets_one(multiplexer: Multiplexer) -> None:
    channel = open_channel(multiplexer)
    answer = receive(multiplexer, type="channelSend", channelId=channel.id, message=1, ackId=7)
    assert answer == {"type": "channelAck", "channelId": channel.id, "ackId": 7}
    answer = receive(multiplexer, type="channelSend", channelId=channel.id, message=2)
    assert answer is None


def test_a_packet_for_a_channel_that_is_over_is_acknowledged_too(multiplexer: Multiplexer) -> None:
    answer = receive(multiplexer, type="channelSend", channelId=99, message=1, ackId=7)
    assert answer == {"type": "channelAck", "channelId": 99, "ackId": 7}


def test_a_channel_whose_packets_nobody_wants_keeps_none(multiplexer: Multiplexer) -> None:
    channel = open_channel(multiplexer)
    channel.discarding = True
    receive(multiplexer, type="channelSend", channelId=channel.id, message=1)
    assert not channel.packets
    assert channel.received


def test_close_ends_a_channel_after_its_packets(multiplexer: Multiplexer) -> None:
    channel = open_channel(multiplexer)
    receive(multiplexer, type="channelSend", channelId=channel.id, message=1)
    receive(multiplexer, type="channelClose", channelId=channel.id)
    assert channel.ended

    async def read() -> list[Any]:
        return [bytes(await channel.receive() or b"none") for _ in range(3)]

    assert anyio.run(read) == [b"1", b"none", b"none"]


def test_an_error_ends_a_channel_after_its_packets(multiplexer: Multiplexer) -> None:
    channel = open_channel(multiplexer)
    receive(multiplexer, type="channelSend", channelId=channel.id, message=1)
    receive(multiplexer, type="channelError", channelId=channel.id, error={"title": "Broken"})

    async def read() -> None:
        assert bytes(await channel.receive() or b"") == b"1"
        with pytest.raises(LMStudioServerError, match=r"opening predict failed on .* Broken"):
            await channel.receive()

    anyio.run(read)


def test_a_reader_waits_for_packets_and_for_the_end(multiplexer: Multiplexer) -> None:
    channel = open_channel(multiplexer)
    received: list[bytes] = []

    async def read() -> None:
        while (packet := await channel.receive()) is not None:
            received.append(bytes(packet))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for message in (1, 2):
                await anyio.wait_all_tasks_blocked()
                assert len(received) == message - 1
                receive(multiplexer, type="channelSend", channelId=channel.id, message=message)
            await anyio.wait_all_tasks_blocked()
            receive(multiplexer, type="channelClose", channelId=channel.id)

    anyio.run(main)
    assert received == [b"1", b"2"]


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "rpcResult", "callId": 1, "result": 2},
        {"type": "rpcError", "callId": 1, "error": {"title": "late"}},
    ],
)
@pytest.mark.parametrize("fate", ["answered", "forgotten", "never made"])
def test_an_answer_that_nobody_waits_for_is_skipped(
    multiplexer: Multiplexer, frame: dict[str, Any], fate: str
) -> None:
    if fate != "never made":
        call_id, call = start_call(multiplexer)
        assert call_id == 1
        if fate == "answered":
            receive(multiplexer, type="rpcResult", callId=1, result=1)
        else:
            multiplexer.forget_call(1)
    assert receive(multiplexer, **frame) is None
    assert multiplexer.idle
    if fate == "answered":
        assert isinstance(call.result, Raw)
        assert bytes(call.result) == b"1"
        assert call.error is None


@pytest.mark.parametrize("kind", ["channelClose", "channelError", "channelSend"])
def test_what_comes_for_a_channel_after_its_end_is_skipped(
    multiplexer: Multiplexer, kind: str
) -> None:
    channel = open_channel(multiplexer)
    receive(multiplexer, type="channelClose", channelId=channel.id)
    receive(multiplexer, type=kind, channelId=channel.id, error={"title": "late"}, message=1)
    assert channel.error is None
    assert not channel.packets


def test_it_is_idle_when_nothing_waits_for_an_answer(multiplexer: Multiplexer) -> None:
    assert multiplexer.idle
    call_id, _ = start_call(multiplexer)
    assert not multiplexer.idle
    channel = open_channel(multiplexer)
    receive(multiplexer, type="rpcResult", callId=call_id)
    assert not multiplexer.idle
    receive(multiplexer, type="channelClose", channelId=channel.id)
    assert multiplexer.idle


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff",
        b'{"type": 1}',
        b'{"type": "rpcResult"}',
        b'{"type": "rpcResult", "callId": "1"}',
        b'{"type": "channelClose", "channelId": null}',
        b'{"type": "communicationWarning", "warning": "\xff"}',
        b'{"type": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_understood_is_skipped(
    multiplexer: Multiplexer, frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, call = start_call(multiplexer)
    assert multiplexer.receive(frame) is None
    assert "skipped a" in caplog.text
    assert len(caplog.text) < 2_000
    assert not call.done


@pytest.mark.parametrize(
    "rest",
    [
        b'"rpcResult", "callId": 1, "result": ' + b"[" * 100_000,
        b'"rpcResult", "callId": 1, "result": NaN}',
        b'"rpcResult","callId":1,"result":"cut o',
        b'"rpcError", "callId": 1}',
        b'"rpcResult", "callId": 1, "type": 3}',
    ],
)
def test_an_unreadable_answer_fails_the_call_that_it_names(
    multiplexer: Multiplexer, rest: bytes
) -> None:
    _, call = start_call(multiplexer)
    _, other = start_call(multiplexer)
    assert multiplexer.receive(b'{"type": ' + rest) is None
    assert isinstance(call.error, LMStudioProtocolError)
    assert "could not understand" in str(call.error)
    assert not other.done


@pytest.mark.parametrize(
    "rest", [b'"channelSend", "channelId": 1, "message": NaN}', b'"channelError","channelId":1}']
)
def test_an_unreadable_packet_fails_the_channel_that_it_names_and_cancels_it(
    multiplexer: Multiplexer, rest: bytes
) -> None:
    channel, other = open_channel(multiplexer), open_channel(multiplexer)
    answer = multiplexer.receive(b'{"type": ' + rest)
    assert answer == b'{"type":"channelSend","channelId":1,"message":{"type":"cancel"}}'
    assert isinstance(channel.error, LMStudioProtocolError)
    assert not other.ended


def test_a_message_of_an_unknown_type_is_skipped_without_alarm(
    multiplexer: Multiplexer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert receive(multiplexer, type="signalUpdate", subscribeId=1) is None
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "'signalUpdate'" in caplog.text


@pytest.mark.parametrize("kind", ["keepAliveAck", "channelAck"])
def test_what_needs_no_reaction_causes_none(
    multiplexer: Multiplexer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert receive(multiplexer, type=kind, channelId=1, ackId=1) is None
    assert not caplog.records


REFUSED_CALLS = [
    ("Received rpcCall for unknown endpoint, endpoint = tokenize", "rpcEndpointUnknown"),
    ("Received rpcCall for unhandled endpoint, endpoint = tokenize", "rpcEndpointUnhandled"),
    (
        "Received invalid parameter for rpcCall, endpointName = tokenize, "
        'parameter = {"inputString": "channelCreate endpoint = predict, invalid message, '
        'creationParameter"}. Zod error:\n\nparameter: Invalid input',
        "rpcParameterTypeError",
    ),
]
REFUSED_CHANNELS = [
    ("Received channelCreate for unknown endpoint, endpoint = predict", "channelEndpointUnknown"),
    (
        "Received channelCreate for unhandled endpoint, endpoint = predict",
        "channelEndpointUnhandled",
    ),
    (
        "Received invalid creationParameter for channel, endpointName = predict, "
        'creationParameter = {"rawPrompt": "rpcCall endpoint = tokenize, invalid message"}. '
        "Zod error:\n\ncreationParameter: Invalid input",
        "channelCreationParameterTypeError",
    ),
]


@pytest.mark.parametrize("with_kind", [True, False], ids=["kind", "no kind"])
@pytest.mark.parametrize(("warning", "kind"), REFUSED_CALLS)
def test_a_refused_call_fails_at_once(
    multiplexer: Multiplexer, warning: str, kind: str, with_kind: bool
) -> None:
    _, call = start_call(multiplexer, "tokenize")
    _, other = start_call(multiplexer, "countTokens")
    channel = open_channel(multiplexer, "predict")
    same_name = open_channel(multiplexer, "tokenize")
    warn(multiplexer, warning, kind if with_kind else None)
    assert call.done
    assert isinstance(call.error, RefusedError)
    assert "somewhere:1234 does not understand llm.tokenize" in str(call.error)
    assert not other.done
    assert not channel.ended
    assert not same_name.ended


@pytest.mark.parametrize("with_kind", [True, False], ids=["kind", "no kind"])
@pytest.mark.parametrize(("warning", "kind"), REFUSED_CHANNELS)
def test_a_refused_channel_fails_at_once(
    multiplexer: Multiplexer, warning: str, kind: str, with_kind: bool
) -> None:
    channel = open_channel(multiplexer, "predict")
    other = open_channel(multiplexer, "loadModel")
    _, call = start_call(multiplexer, "tokenize")
    _, same_name = start_call(multiplexer, "predict")
    warn(multiplexer, warning, kind if with_kind else None)
    assert channel.ended
    assert isinstance(channel.error, RefusedError)
    assert "somewhere:1234 does not understand llm.predict" in str(channel.error)
    assert not other.ended
    assert not call.done
    assert not same_name.done


def test_a_refusal_does_not_touch_what_was_answered(multiplexer: Multiplexer) -> None:
    running, refused = open_channel(multiplexer), open_channel(multiplexer)
    receive(multiplexer, type="channelSend", channelId=running.id, message=1)
    warning, kind = REFUSED_CHANNELS[0]
    warn(multiplexer, warning, kind)
    assert refused.ended
    assert not running.ended
    receive(multiplexer, type="channelClose", channelId=running.id)
    assert running.error is None


@pytest.mark.parametrize(
    ("warning", "kind"),
    [
        ("Received channelSend for unknown channel, channelId = 1", "channelUnknown"),
        ("Received channelSend for unknown channel, channelId = 1", None),
        (
            "Received invalid message for channel, endpointName = predict, message = 1",
            "channelMessageTypeError",
        ),
        ("Received invalid message for channel, endpointName = predict, message = 1", None),
        ("Something about endpoint = predict", "aKindOfTheFuture"),
        ("Your clock is slow", None),
    ],
)
def test_other_warnings_end_nothing(
    multiplexer: Multiplexer, warning: str, kind: str | None
) -> None:
    channel = open_channel(multiplexer)
    _, call = start_call(multiplexer, "predict")
    warn(multiplexer, warning, kind)
    assert not channel.ended
    assert not call.done
    assert multiplexer.warnings == 1


def test_warnings_are_logged(multiplexer: Multiplexer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    warn(multiplexer, "Your clock is slow", None)
    warn(multiplexer, "Received channelSend for unknown channel, channelId = 1", "channelUnknown")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "somewhere:1234 warns on llm: Your clock is slow"),
        (
            "DEBUG",
            "somewhere:1234 warns on llm: Received channelSend for unknown channel, channelId = 1",
        ),
    ]


def test_a_lost_connection_ends_everything_in_errors_of_their_own(multiplexer: Multiplexer) -> None:
    calls = [start_call(multiplexer)[1] for _ in range(2)]
    channels = [open_channel(multiplexer) for _ in range(2)]
    multiplexer.fail_all(LMStudioWebsocketError("gone"))
    errors = [call.error for call in calls] + [channel.error for channel in channels]
    assert all(isinstance(error, LMStudioWebsocketError) for error in errors)
    assert {str(error) for error in errors} == {"gone"}
    assert len({id(error) for error in errors}) == 4
    assert all(call.done for call in calls)
    assert all(channel.ended for channel in channels)
    assert multiplexer.idle


def test_warnings_are_counted_to_leave_in_time() -> None:
    multiplexer = new_multiplexer()
    for _ in range(MAX_WARNINGS):
        warn(multiplexer, "Your clock is slow", None)
    assert multiplexer.warnings == MAX_WARNINGS < 5


# Bounds


def test_a_call_that_is_not_answered_in_time_fails() -> None:
    clock = Clock()
    multiplexer = new_multiplexer(clock)
    _, first = start_call(multiplexer)
    clock.now = 30.0
    second_id, second = start_call(multiplexer)
    assert multiplexer.next_deadline == 60.0
    clock.now = 60.0
    assert multiplexer.expire() == []
    assert isinstance(first.error, LMStudioTimeoutError)
    assert "did not answer for 60 s (Timeouts.call)" in str(first.error)
    assert "last heard from 60.0 s ago and has 1 requests" in str(first.error)
    assert not second.done
    assert multiplexer.next_deadline == 90.0
    receive(multiplexer, type="rpcResult", callId=second_id, result=1)
    assert second.error is None
    assert multiplexer.next_deadline == math.inf


def test_a_stream_is_bounded_by_its_gaps_and_not_as_a_whole() -> None:
    clock = Clock()
    multiplexer = new_multiplexer(clock)
    channel = open_channel(multiplexer)
    for _ in range(10):
        clock.now += 599.0
        assert multiplexer.expire() == []
        receive(multiplexer, type="channelSend", channelId=channel.id, message={"type": "fragment"})
    assert not channel.ended
    assert multiplexer.next_deadline == clock.now + 600.0
    clock.now += 600.0
    [cancel] = multiplexer.expire()
    assert json.loads(cancel) == {
        "type": "channelSend",
        "channelId": channel.id,
        "message": {"type": "cancel"},
    }
    assert isinstance(channel.error, LMStudioTimeoutError)
    assert "sent nothing after 10 packets, the last one a 'fragment'," in str(channel.error)
    assert multiplexer.idle


def test_other_traffic_does_not_prolong_a_stream() -> None:
    clock = Clock()
    multiplexer = new_multiplexer(clock)
    silent, busy = open_channel(multiplexer), open_channel(multiplexer)
    clock.now = 599.0
    receive(multiplexer, type="channelSend", channelId=busy.id, message={})
    clock.now = 600.0
    multiplexer.expire()
    assert silent.error is not None
    assert busy.error is None


def test_what_comes_of_an_exchange_that_was_given_up_is_ignored() -> None:
    clock = Clock()
    multiplexer = new_multiplexer(clock)
    call_id, call = start_call(multiplexer)
    channel = open_channel(multiplexer)
    clock.now = 600.0
    multiplexer.expire()
    receive(multiplexer, type="rpcResult", callId=call_id, result=1)
    receive(multiplexer, type="channelSend", channelId=channel.id, message={})
    receive(multiplexer, type="channelClose", channelId=channel.id)
    assert isinstance(call.error, LMStudioTimeoutError)
    assert isinstance(channel.error, LMStudioTimeoutError)
    assert packets(channel) == []


def test_a_stream_that_is_not_read_is_stopped_at_the_high_water_mark(
    multiplexer: Multiplexer,
) -> None:
    slow, other = open_channel(multiplexer), open_channel(multiplexer)
    chunk = "x" * 2**20
    answers = [
        receive(multiplexer, type="channelSend", channelId=slow.id, message=chunk)
        for _ in range(20)
    ]
    cancel = {"type": "channelSend", "channelId": slow.id, "message": {"type": "cancel"}}
    assert answers == [None] * 16 + [cancel] + [None] * 3
    assert isinstance(slow.error, LMStudioSlowReaderError)
    assert len(slow.packets) == 16
    assert not other.ended


def test_what_is_read_makes_room(multiplexer: Multiplexer) -> None:
    channel = open_channel(multiplexer)

    async def read() -> None:
        for _ in range(100):
            answer = receive(
                multiplexer, type="channelSend", channelId=channel.id, message="x" * 2**20
            )
            assert answer is None
            assert await channel.receive() is not None

    anyio.run(read)


def test_what_nobody_wants_any_more_takes_no_room(multiplexer: Multiplexer) -> None:
    channel = open_channel(multiplexer)
    channel.discard()
    for _ in range(100):
        receive(multiplexer, type="channelSend", channelId=channel.id, message="x" * 2**20)
    assert not channel.ended
    assert packets(channel) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
TYPES = ["rpcResult", "rpcError", "channelSend", "channelAck", "channelClose", "channelError"]
WARNINGS = [warning for warning, _ in REFUSED_CALLS + REFUSED_CHANNELS]
FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([*TYPES, "keepAliveAck", "communicationWarning"]) | JSON,
        "callId": st.integers(0, 3) | JSON,
        "channelId": st.integers(0, 3) | JSON,
        "ackId": st.integers(0, 3) | JSON,
        "result": JSON,
        "error": JSON,
        "message": JSON,
        "warning": st.sampled_from(WARNINGS) | JSON,
        "kind": st.sampled_from([kind for _, kind in REFUSED_CALLS + REFUSED_CHANNELS]) | JSON,
    },
)


@given(st.lists(st.binary() | (FRAMES | JSON).map(lambda frame: json.dumps(frame).encode())))
def test_no_frames_whatever_raise(frames: list[bytes]) -> None:
    multiplexer = new_multiplexer()
    calls = [start_call(multiplexer)[1]]
    channels = [open_channel(multiplexer)]
    for frame in frames:
        answer = multiplexer.receive(frame)
        assert answer is None or json.loads(answer)["type"] in ("channelAck", "channelSend")
    multiplexer.fail_all(LMStudioWebsocketError("gone"))
    assert calls[0].done
    assert channels[0].ended


def test_a_stream_that_times_out_after_an_unreadable_packet() -> None:
    """The error tells of the last packet, which may be anything."""
    clock = Clock()
    multiplexer = new_multiplexer(clock)
    channel = open_channel(multiplexer)
    receive(multiplexer, type="channelSend", channelId=channel.id, message=[1])
    clock.now += 10_000
    assert multiplexer.expire()
    assert isinstance(channel.error, LMStudioTimeoutError)
    assert "unreadable" in str(channel.error)


# Types of results


def result_of(multiplexer: Multiplexer, result: Any, **call: Any) -> Any:
    call_id, started, _ = multiplexer.call("tokenize", UNSET, "asked", CALL, **call)
    receive(multiplexer, type="rpcResult", callId=call_id, result=result)
    return started.result


def test_a_result_comes_in_its_type(multiplexer: Multiplexer) -> None:
    assert result_of(multiplexer, [1, 2], result_type=list[int]) == [1, 2]
    assert result_of(multiplexer, "a", result_type=str) == "a"
    assert result_of(multiplexer, None, result_type=str | None) is None


def test_results_of_several_types_at_once_come_undecoded(multiplexer: Multiplexer) -> None:
    numbers = {}
    calls = {}
    for name, result_type in [("first", list[int]), ("second", str), ("third", list[int])]:
        number, calls[name], _ = multiplexer.call(name, UNSET, "asked", CALL, result_type)
        numbers[name] = number
    for name, result in [("third", [3]), ("second", "two"), ("first", [1])]:
        receive(multiplexer, type="rpcResult", callId=numbers[name], result=result)
    assert {name: bytes(call.result) for name, call in calls.items()} == {
        "first": b"[1]",
        "second": b'"two"',
        "third": b"[3]",
    }
    assert result_of(multiplexer, [4], result_type=list[int]) == [4]


def test_a_result_of_another_type_comes_undecoded(multiplexer: Multiplexer) -> None:
    assert bytes(result_of(multiplexer, "words", result_type=list[int])) == b'"words"'


def test_a_late_result_of_another_type_is_ignored(multiplexer: Multiplexer) -> None:
    late, _, _ = multiplexer.call("late", UNSET, "asked", CALL, str)
    multiplexer.forget_call(late)
    number, call, _ = multiplexer.call("now", UNSET, "asked", CALL, list[int])
    receive(multiplexer, type="rpcResult", callId=late, result="late")
    assert not call.done
    receive(multiplexer, type="rpcResult", callId=number, result=[1])
    assert call.result == [1]
