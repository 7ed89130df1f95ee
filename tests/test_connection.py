"""Connections: authentication, keep-alive, loss and reconnection, requests that are refused."""

import logging
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import anyio
import pytest
from msgspec import UNSET, Raw

import lmstudio_async as lms
from lmstudio_async import pool
from lmstudio_async.connection import Connection
from lmstudio_async.multiplexer import MAX_WARNINGS
from lmstudio_async.timeouts import Bound
from tests.scripted_models import failure
from tests.scripted_server import ScriptedServer
from tests.transport.raw_server import TEXT, Peer, RawServer, free_ports

pytestmark = pytest.mark.anyio

TOKEN = "sk-lm-abcDEF12:s3cretS3CRETs3cret00"
IDENTIFIER, PASSKEY = "abcDEF12", "s3cretS3CRETs3cret00"


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pool, "_RECONNECT_DELAY", 0.0)


@pytest.fixture
async def model(client: lms.Client) -> AsyncIterator[lms.LLM]:
    async with client.llm.load_new_instance("llm-a") as model:
        yield model


async def concurrently(*functions: Callable[[], Any]) -> list[Any]:
    """What the functions return or raise, all called at once."""
    outcomes: list[Any] = [None] * len(functions)

    async def run(index: int) -> None:
        try:
            outcomes[index] = await functions[index]()
        except lms.LMStudioError as error:
            outcomes[index] = error

    async with anyio.create_task_group() as group:
        for index in range(len(functions)):
            group.start_soon(run, index)
    return outcomes


def answer_authentication(answer: bytes) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        peer.upgrade()
        peer.read_frame()
        peer.send_frame(TEXT, answer)
        peer.read_frame()

    return serve


# Authentication


async def test_nothing_is_connected_before_the_first_use(server: ScriptedServer) -> None:
    async with lms.Client(server.api_host) as client:
        _ = client.llm, client.embedding, client.system
        client.llm.model("llm-a")
    assert server.upgrades == []


async def test_each_namespace_has_one_connection(
    server: ScriptedServer, client: lms.Client
) -> None:
    for _ in range(2):
        await client.list_loaded_models()
        await client.list_downloaded_models()
    assert sorted(server.upgrades) == ["/embedding", "/llm", "/system"]


async def test_a_prefix_comes_before_the_namespaces(server: ScriptedServer) -> None:
    async with lms.Client(f"http://{server.api_host}/behind/a/proxy/") as client:
        await client.system.version()
        assert client.api_host == f"ws://{server.api_host}/behind/a/proxy"
    assert server.upgrades == ["/behind/a/proxy/system"]


async def test_a_token_is_sent_on_every_connection(server: ScriptedServer) -> None:
    server.token = TOKEN
    async with lms.Client(server.api_host, api_token=TOKEN) as client:
        await client.list_loaded_models()
        await client.system.version()
        server.drop_connections()
        await client.system.version()
    credentials = {(identifier, passkey) for _, identifier, passkey in server.credentials}
    assert credentials == {(IDENTIFIER, PASSKEY)}
    assert len(server.credentials) == 4


async def test_a_guest_is_the_same_on_every_connection_and_another_each_time(
    server: ScriptedServer,
) -> None:
    seen = []
    for _ in range(2):
        async with lms.Client(server.api_host) as client:
            await client.list_loaded_models()
            await client.system.version()
        seen.append({(name, passkey) for _, name, passkey in server.credentials[-3:]})
    assert [len(each) for each in seen] == [1, 1]
    ((first, first_passkey),), ((second, second_passkey),) = seen
    assert first.startswith("guest:")
    assert len(first) > len("guest:") + 8
    assert first != second
    assert first_passkey != second_passkey


async def test_a_client_that_is_not_let_in_is_told_why(server: ScriptedServer) -> None:
    server.token = TOKEN
    async with lms.Client(server.api_host) as client:
        with pytest.raises(lms.LMStudioClientError, match="Invalid passkey") as caught:
            await client.system.version()
    assert "check api_token or LM_API_TOKEN" in str(caught.value)
    assert server.api_host in str(caught.value)
    assert server.upgrades == ["/system"]


async def test_a_refusal_without_a_reason_is_a_refusal() -> None:
    with RawServer(answer_authentication(b'{"success": false}')) as server:
        async with lms.Client(f"127.0.0.1:{server.port}") as client:
            with pytest.raises(lms.LMStudioClientError, match="no reason given"):
                await client.system.version()


@pytest.mark.parametrize(
    "answer", [b"hello", b"[]", b'{"type": "hello"}', b'{"success": true, "error": "\xff"}']
)
async def test_another_protocol_is_recognized(answer: bytes) -> None:
    with RawServer(answer_authentication(answer)) as server:
        async with lms.Client(f"127.0.0.1:{server.port}") as client:
            with pytest.raises(lms.LMStudioWebsocketError, match="does not speak LM Studio's"):
                await client.system.version()


async def test_an_authentication_that_is_not_answered_times_out(
    server: ScriptedServer,
) -> None:
    server.silence("auth")
    async with lms.Client(server.api_host, timeouts=lms.Timeouts(authenticate=0.1)) as client:
        with pytest.raises(lms.LMStudioTimeoutError, match=r"for 0\.1 s") as caught:
            await client.system.version()
        assert (caught.value.bound, caught.value.seconds) == ("authenticate", 0.1)
        server.unsilence("auth")
        await client.system.version()


async def test_a_connection_lost_during_authentication_is_lost(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.drop_on("auth", times=2)
    with pytest.raises(lms.LMStudioWebsocketError):
        await client.llm.load_new_instance("llm-a")
    assert server.count("loadModel") == 0


@pytest.mark.parametrize("refused", ["by the server", "on the way", "time-out", "lost", "garbage"])
async def test_a_token_is_never_shown(
    server: ScriptedServer,
    refused: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    timeouts = lms.Timeouts(authenticate=0.1 if refused == "time-out" else 10)
    client = lms.Client(server.api_host, api_token=TOKEN, timeouts=timeouts)
    shown = [repr(client)]
    async with client:
        shown.append(repr(client))
        match refused:
            case "by the server":
                server.token = TOKEN[:-1] + "1"
            case "on the way":
                server.refuse_connections(1)
            case "time-out":
                server.silence("auth")
            case "lost":
                server.drop_on("auth")
            case "garbage":
                await client.system.version()
                server.send_garbage("system", "garbage")
                server.fail_next("version", failure("Out of order."))
        with pytest.raises(lms.LMStudioError) as caught:
            await client.system.version()
    shown += ["".join(traceback.format_exception(caught.value)), caplog.text]
    for text in shown:
        assert PASSKEY not in text
        assert IDENTIFIER not in text


# Loss


async def test_the_next_call_reconnects(server: ScriptedServer, model: lms.LLM) -> None:
    for _ in range(2):
        server.drop_connections()
        assert await model.count_tokens("a b") == 2
    assert server.upgrades.count("/llm") == 3


@pytest.mark.parametrize("how", ["503", "cut"])
async def test_reconnecting_is_tried_several_times(
    server: ScriptedServer, model: lms.LLM, how: Literal["503", "cut"]
) -> None:
    server.drop_connections()
    server.refuse_connections(3, how)
    assert await model.count_tokens("a b") == 2


async def test_reconnecting_gives_up_after_a_while(
    server: ScriptedServer, model: lms.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(pool, "_RECONNECT_DELAY", 0.1)
    monkeypatch.setattr("lmstudio_async.pool.anyio.sleep", sleep)
    await server.until(lambda: server.open_sockets == ["llm"])
    server.drop_connections()
    server.refuse_connections(6)
    with pytest.raises(lms.LMStudioWebsocketError, match="503"):
        await model.count_tokens("a b")
    assert server.upgrades.count("/llm") == 7
    # Each delay is up to half its length shorter, at random.
    assert len(slept) == 5
    for waited, limit in zip(slept, (0.1, 0.2, 0.4, 0.8, 1.6), strict=True):
        assert limit / 2 <= waited <= limit
    monkeypatch.undo()
    assert await model.count_tokens("a b") == 2


async def test_delays_do_not_grow_for_ever(
    server: ScriptedServer, client: lms.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(pool, "_RECONNECT_DELAY", 0.1)
    monkeypatch.setattr(pool, "_RECONNECT_DELAY_LIMIT", 0.15)
    monkeypatch.setattr("lmstudio_async.pool.random.uniform", lambda low, high: high)
    monkeypatch.setattr("lmstudio_async.pool.anyio.sleep", sleep)
    await client.system.version()
    server.drop_connections()
    server.refuse_connections(3)
    await client.system.version()
    assert slept == [0.1, 0.15, 0.15]


async def test_a_server_that_was_never_reached_is_tried_once(anyio_backend: Any) -> None:
    (port,) = free_ports(1)
    async with lms.Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(lms.LMStudioWebsocketError, match=f"127.0.0.1:{port}"):
            await client.system.version()


async def test_a_call_that_reads_is_tried_again_once(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.drop_on("version")
    assert (await client.system.version()).version == "0.3.99"
    assert server.count("version") == 2


async def test_a_call_that_reads_is_not_tried_a_third_time(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.drop_on("version", times=2)
    with pytest.raises(lms.LMStudioWebsocketError, match=r"lost|closed"):
        await client.system.version()
    assert server.count("version") == 2


async def test_a_call_that_changes_something_is_not_tried_again(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.load_behind_back("llm-a")
    server.drop_on("unloadModel")
    with pytest.raises(lms.LMStudioWebsocketError, match=r"(?s)LM Studio at .*lost"):
        await client.llm.unload("llm-a")
    assert server.count("unloadModel") == 1


async def test_a_lost_connection_fails_what_was_in_flight(
    server: ScriptedServer, client: lms.Client, model: lms.LLM
) -> None:
    server.hold_unloads()
    server.hold_predictions(after=1)
    stream = await model.respond_stream("Hello")
    await anext(stream)

    async def drop() -> None:
        await server.until("unloadModel")
        server.drop_connections("llm")

    async def unload() -> None:
        server.load_behind_back("llm-b")
        await client.llm.unload("llm-b")

    dropped, read, unloaded = await concurrently(drop, stream.wait_for_result, unload)
    assert dropped is None
    for error in (read, unloaded):
        assert isinstance(error, lms.LMStudioWebsocketError)
        assert server.api_host in str(error)
    assert read is not unloaded
    server.release_unloads()


async def test_losing_one_namespace_leaves_the_others_alone(
    server: ScriptedServer, client: lms.Client
) -> None:
    await client.list_loaded_models()
    server.drop_connections("llm")
    await client.list_loaded_models()
    assert sorted(server.upgrades) == ["/embedding", "/llm", "/llm"]


async def test_several_tasks_share_one_reconnection(
    server: ScriptedServer, client: lms.Client
) -> None:
    await client.system.version()
    server.drop_connections()
    await server.until(lambda: not server.open_sockets)
    await concurrently(*[client.system.version] * 5)
    assert server.upgrades == ["/system"] * 2


async def test_several_tasks_share_one_failure_in_errors_of_their_own(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.refuse_connections(1)
    errors = await concurrently(*[client.system.version] * 3)
    assert all(isinstance(error, lms.LMStudioWebsocketError) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert len(server.upgrades) == 1


async def test_if_the_task_that_connects_is_cancelled_another_connects(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.silence("auth")
    versions: list[lms.ServerVersion] = []

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            versions.append(await client.system.version())

    scopes = [anyio.CancelScope() for _ in range(3)]
    async with anyio.create_task_group() as group:
        group.start_soon(ask, scopes[0])
        await server.until(lambda: server.frames)
        for scope in scopes[1:]:
            group.start_soon(ask, scope)
        await anyio.wait_all_tasks_blocked()
        server.unsilence("auth")
        scopes[0].cancel()
    assert len(versions) == 2
    assert len(server.upgrades) == 2


async def test_closing_the_client_while_it_connects_leaves_no_connection(
    server: ScriptedServer,
) -> None:
    server.silence("auth")
    client = lms.Client(server.api_host)
    client.open()

    async def close() -> None:
        await server.until(lambda: server.frames)
        await client.aclose()
        server.unsilence("auth")
        server.drop_connections()

    system = client.system
    error, closed = await concurrently(system.version, close)
    assert closed is None
    assert isinstance(error, lms.LMStudioError)


async def test_a_connection_made_while_the_client_closes_is_closed(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = lms.Client(server.api_host)
    client.open()
    open_connection = Connection.open

    async def open_late(*args: Any) -> Any:
        connection = await open_connection(*args)
        await client.aclose()
        return connection

    monkeypatch.setattr(Connection, "open", open_late)
    with pytest.raises(lms.LMStudioRuntimeError, match="closed"):
        await client.system.version()


async def test_a_closed_client_does_not_connect_again(server: ScriptedServer) -> None:
    async with lms.Client(server.api_host) as client:
        system = client.system
        await system.version()
    with pytest.raises(lms.LMStudioRuntimeError, match="this client is closed"):
        await system.version()
    assert server.upgrades == ["/system"]


# Keep-alive


async def test_an_idle_connection_is_kept_alive(
    server: ScriptedServer, client: lms.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmstudio_async.connection.KEEP_ALIVE_INTERVAL", 0.01)
    await client.system.version()

    def acknowledgements() -> int:
        return sum(frame.get("type") == "keepAliveAck" for _, _, frame in server.frames)

    await server.until(lambda: acknowledgements() >= 3)
    assert server.upgrades == ["/system"]


async def test_a_peer_that_has_fallen_silent_is_lost(
    server: ScriptedServer,
    client: lms.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.load_behind_back("llm-a")
    server.hold_unloads()
    server.silence("keepAlive")
    monkeypatch.setattr("lmstudio_async.connection.KEEP_ALIVE_INTERVAL", 0.01)
    with pytest.raises(lms.LMStudioWebsocketError, match="the next call reconnects"):
        await client.llm.unload("llm-a")
    assert "has given no sign of life" in caplog.text
    server.release_unloads()
    server.unsilence("keepAlive")
    await client.llm.list_loaded()


async def test_a_connection_lost_to_the_keep_alive_is_lost_once(
    server: ScriptedServer, client: lms.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmstudio_async.connection.KEEP_ALIVE_INTERVAL", 0.01)
    server.drop_on("keepAlive")
    await client.system.version()
    await server.until(lambda: not server.open_sockets)
    await client.system.version()
    assert server.upgrades == ["/system"] * 2


async def test_a_full_socket_delays_what_ends_streams_but_loses_none_of_it(
    server: ScriptedServer, client: lms.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmstudio_async.connection.KEEP_ALIVE_INTERVAL", 0.1)
    full, room = anyio.Event(), anyio.Event()
    model = await client.llm.model("llm-a")
    connection = await client._open.pool._connection("llm")
    send = connection._socket.send

    async def send_and_wait_for_room(frame: bytes) -> None:
        await send(frame)
        if b'"keepAlive"' in frame or b'"cancel"' in frame:
            full.set()
            await room.wait()

    server.hold_predictions()
    monkeypatch.setattr(connection._socket, "send", send_and_wait_for_room)
    await full.wait()
    streams = [await model.respond_stream("Hello", timeout=0.01) for _ in range(2)]
    for stream in streams:
        with pytest.raises(lms.LMStudioTimeoutError):
            await anext(stream)
    await server.until(lambda: server.cancels == ["predict"] * 2)
    room.set()
    server.release_predictions()


@pytest.mark.parametrize("found_by", ["sending", "keep-alive"])
async def test_what_is_sent_on_a_connection_that_has_ended_fails(
    server: ScriptedServer, client: lms.Client, monkeypatch: pytest.MonkeyPatch, found_by: str
) -> None:
    if found_by == "keep-alive":
        monkeypatch.setattr("lmstudio_async.connection.KEEP_ALIVE_INTERVAL", 0.0)
        monkeypatch.setattr("lmstudio_async.connection.KEEP_ALIVE_LIMIT", 10**9)
    connection = await client._open.pool._connection("llm")
    connection.closed = True  # as its reader says before it has closed the socket
    with pytest.raises(lms.LMStudioWebsocketError, match="the next call reconnects"):
        await connection.call("listLoaded", UNSET, "asked", Bound("call", 60), Raw)
    assert await client.llm.list_loaded() == []
    await connection.aclose()


# Refusals


@pytest.mark.parametrize("kinds", [True, False], ids=["kind", "no kind"])
@pytest.mark.parametrize("list_name", ["unknown_endpoints", "unhandled_endpoints"])
async def test_a_call_that_the_server_does_not_know_fails_at_once(
    server: ScriptedServer, model: lms.LLM, list_name: str, kinds: bool
) -> None:
    server.warning_kinds = kinds
    getattr(server, list_name).add("tokenize")
    with pytest.raises(lms.LMStudioProtocolError, match=r"does not understand llm\.tokenize") as e:
        await model.tokenize("a")
    assert f"lmstudio_async {lms.__version__}" in str(e.value)
    assert "LM Studio 0.3.99" in str(e.value)
    assert await model.count_tokens("a") == 1


@pytest.mark.parametrize("kinds", [True, False], ids=["kind", "no kind"])
@pytest.mark.parametrize("list_name", ["unknown_endpoints", "reject_parameters"])
async def test_a_channel_that_the_server_refuses_fails_at_once(
    server: ScriptedServer, model: lms.LLM, list_name: str, kinds: bool
) -> None:
    server.warning_kinds = kinds
    getattr(server, list_name).add("predict")
    with pytest.raises(lms.LMStudioProtocolError, match=r"does not understand llm\.predict") as e:
        await model.respond("a")
    assert "LM Studio 0.3.99" in str(e.value)


@pytest.mark.parametrize("endpoint", ["loadModel", "getOrLoad"])
async def test_a_load_that_the_server_refuses_fails_at_once(
    server: ScriptedServer, client: lms.Client, endpoint: str
) -> None:
    server.reject_parameters.add(endpoint)
    scope = client.llm.load_new_instance if endpoint == "loadModel" else client.llm.model
    with pytest.raises(lms.LMStudioProtocolError, match=f"llm.{endpoint}"):
        await scope("llm-a")


async def test_a_parameter_that_the_server_rejects_fails_at_once(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.reject_parameters.add("countTokens")
    with pytest.raises(lms.LMStudioProtocolError, match="Invalid input"):
        await model.count_tokens("a")


@pytest.mark.parametrize("trouble", ["unknown", "error", "garbled", "silent"])
async def test_a_server_that_cannot_tell_its_version_is_of_an_unknown_one(
    server: ScriptedServer, client: lms.Client, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_VERSION_BOUND", Bound("call", 0.05))
    server.unknown_endpoints.add("listLoaded")
    match trouble:
        case "unknown":
            server.unknown_endpoints.add("version")
        case "error":
            server.fail_next("version", failure("Out of order."))
        case "silent":
            server.silence("version")
        case "garbled":
            await client.system.info()
            server._check_frames = False
            server.answer("version", {"version": 3})
    with pytest.raises(lms.LMStudioProtocolError, match="of an unknown version"):
        await client.llm.list_loaded()


async def test_the_version_is_asked_for_once(server: ScriptedServer, client: lms.Client) -> None:
    server.unknown_endpoints.add("listLoaded")
    for _ in range(3):
        with pytest.raises(lms.LMStudioProtocolError, match="LM Studio"):
            await client.llm.list_loaded()
    assert server.count("version") == 1


async def test_refusals_never_end(server: ScriptedServer, client: lms.Client) -> None:
    # The server falls silent after five warnings on one connection.
    server.unknown_endpoints.add("listLoaded")
    for _ in range(3 * MAX_WARNINGS):
        with pytest.raises(lms.LMStudioProtocolError):
            await client.llm.list_loaded()
    assert server.upgrades.count("/llm") == 3


async def test_a_connection_that_is_replaced_lives_as_long_as_it_is_needed(
    server: ScriptedServer, model: lms.LLM
) -> None:
    server.unknown_endpoints.add("tokenize")
    server.hold_predictions(after=1)
    stream = await model.respond_stream("Hello")
    await anext(stream)
    for _ in range(MAX_WARNINGS):
        with pytest.raises(lms.LMStudioProtocolError):
            await model.tokenize("a")
    await model.count_tokens("a")
    assert server.open_sockets.count("llm") == 2
    server.release_predictions()
    assert str(await stream.wait_for_result()) == server.reply
    await server.until(lambda: server.open_sockets.count("llm") == 1)


async def test_an_answer_that_cannot_be_understood_is_an_error(
    server: ScriptedServer, client: lms.Client
) -> None:
    server._check_frames = False
    answers: list[Any] = [{"version": 3}, [], None, "text"]
    for nonsense in answers:
        server.answer("version", nonsense)
        with pytest.raises(lms.LMStudioProtocolError, match=r"system\.version: could not underst"):
            await client.system.version()


async def test_an_answer_that_is_not_unicode_is_an_error(
    server: ScriptedServer, client: lms.Client
) -> None:
    await client.system.info()
    server.silence("version")

    async def garble() -> None:
        await server.until("version")
        call_id = server.frames[-1][2]["callId"]
        frame = b'{"type": "rpcResult", "callId": %d, "result": {"version": "\xff", "build": 1}}'
        server.send_garbage("system", frame % call_id, as_text=True)

    error, _ = await concurrently(client.system.version, garble)
    assert isinstance(error, lms.LMStudioProtocolError)


@pytest.mark.parametrize(
    "garbage", ["garbage", "[]", '{"type": "future"}', b"binary", {"type": "rpcResult"}]
)
async def test_garbage_is_skipped(
    server: ScriptedServer, client: lms.Client, garbage: str | bytes | dict[str, Any]
) -> None:
    await client.system.version()
    server.send_garbage("system", garbage)
    await client.system.version()
    assert server.upgrades == ["/system"]


async def test_answers_that_come_twice_are_taken_once(
    server: ScriptedServer, client: lms.Client
) -> None:
    for endpoint in ("version", "loadModel", "predict"):
        server.reply_twice(endpoint)
    await client.system.version()
    async with client.llm.load_new_instance("llm-a") as model:
        for _ in range(2):
            assert str(await model.respond("Hello")) == server.reply
    await client.system.version()


async def test_packets_are_acknowledged(server: ScriptedServer, client: lms.Client) -> None:
    server.ack_packets = True
    async with client.llm.load_new_instance("llm-a") as model:
        await model.respond("Hello")
    wanted, acknowledged = (
        sorted(
            frame["ackId"]
            for _, frame_sender, frame in server.frames
            if frame_sender == sender and "ackId" in frame
        )
        for sender in ("server", "client")
    )
    assert len(wanted) > 5
    assert acknowledged == wanted
