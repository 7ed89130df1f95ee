"""The scripted server itself, through a bare WebSocket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest

from tests.contract import ContractChecker
from tests.scripted_models import Json, failure
from tests.scripted_server import ScriptedServer

pytestmark = pytest.mark.asyncio

EMPTY_STACK: Json = {"layers": []}


class RawClient:
    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def send(self, **frame: Any) -> None:
        await self.ws.send_str(json.dumps(frame))

    async def receive(self) -> Json:
        frame: Json = json.loads(await self.ws.receive_str(timeout=5))
        return frame

    async def call(self, call_id: int, endpoint: str, **parameter: Any) -> Json:
        more = {"parameter": parameter} if parameter else {}
        await self.send(type="rpcCall", endpoint=endpoint, callId=call_id, **more)
        return await self.receive()

    async def create(self, channel_id: int, endpoint: str, **parameter: Any) -> None:
        await self.send(
            type="channelCreate",
            endpoint=endpoint,
            channelId=channel_id,
            creationParameter=parameter,
        )

    async def cancel(self, channel_id: int) -> None:
        await self.send(type="channelSend", channelId=channel_id, message={"type": "cancel"})

    async def packets(self) -> list[str]:
        """The types of the packets up to the close, and how the channel ended."""
        types = []
        while (frame := await self.receive())["type"] == "channelSend":
            types.append(frame["message"]["type"])
        return [*types, frame["type"]]

    async def load(self, channel_id: int, key: str) -> list[str]:
        await self.create(channel_id, "loadModel", modelKey=key, loadConfigStack=EMPTY_STACK)
        return await self.packets()


@asynccontextmanager
async def connected(
    server: ScriptedServer, namespace: str = "llm", passkey: str = "p"
) -> AsyncIterator[RawClient]:
    async with aiohttp.ClientSession() as session:
        url = f"ws://{server.api_host}/{namespace}"
        async with session.ws_connect(url) as ws:
            client = RawClient(ws)
            await client.send(authVersion=1, clientIdentifier="guest:x", clientPasskey=passkey)
            assert await client.receive() == {"success": True}
            yield client


def fragments_sent(server: ScriptedServer, count: int) -> bool:
    return server.fragments_sent == count


def by_reference(reference: str) -> Json:
    return {"type": "instanceReference", "instanceReference": reference}


async def test_it_greets() -> None:
    with ScriptedServer() as server:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{server.api_host}/lmstudio-greeting") as response,
        ):
            assert await response.json() == {"lmstudio": True}
        assert server.greetings == 1


async def test_it_loads_predicts_and_unloads_as_the_protocol_says() -> None:
    with ScriptedServer() as server:
        async with connected(server) as client:
            assert await client.load(0, "llm-a") == [
                *("resolved", "progress", "progress", "progress", "success"),
                "channelClose",
            ]
            assert server.loaded["llm-a"]["instanceReference"] == "ref-1"
            await client.create(
                1,
                "predict",
                modelSpecifier=by_reference("ref-1"),
                history={"messages": []},
                predictionConfigStack=EMPTY_STACK,
            )
            packets = await client.packets()
            assert packets.count("fragment") == 5
            assert packets[-2:] == ["success", "channelClose"]
            specifier = by_reference("ref-1")
            result = await client.call(0, "tokenize", specifier=specifier, inputString="a b a")
            assert len(set(result["result"]["tokens"])) == 2
            result = await client.call(
                1, "getModelInfo", specifier=by_reference("ref-0"), throwIfNotFound=False
            )
            assert result == {"type": "rpcResult", "callId": 1}
            result = await client.call(2, "unloadModel", identifier="llm-a")
            assert result == {"type": "rpcResult", "callId": 2}
            result = await client.call(3, "unloadModel", identifier="llm-a")
            assert result["error"]["displayData"]["code"] == "generic.identifierNotFound"
            assert (await client.call(4, "listLoaded"))["result"] == []
        assert server.loaded == {}
        assert server.count("llm.unloadModel") == 2
        assert server.count("embedding.unloadModel") == 0
        await server.until(lambda: server.open_sockets == [])
        assert server.contract_violations == []


async def test_it_answers_for_embeddings_and_the_system() -> None:
    with ScriptedServer() as server:
        reference = server.load_behind_back("embed-a")
        async with connected(server, "embedding") as client:
            await client.create(0, "getOrLoad", identifier="embed-a", loadConfigStack=EMPTY_STACK)
            assert await client.packets() == ["alreadyLoaded", "channelClose"]
            specifier = by_reference(reference)
            result = await client.call(0, "embedString", modelSpecifier=specifier, inputString="a")
            assert len(result["result"]["embedding"]) == 8
            await client.create(1, "getOrLoad", identifier="llm-a", loadConfigStack=EMPTY_STACK)
            assert await client.packets() == ["channelError"]
        async with connected(server, "system") as client:
            result = await client.call(0, "listDownloadedModels")
            assert len(result["result"]) == 3
            assert (await client.call(1, "version"))["result"]["version"] == "0.3.99"
        assert server.contract_violations == []


async def test_a_held_load_ends_with_its_cancel() -> None:
    with ScriptedServer() as server:
        server.hold_loads()
        async with connected(server) as client:
            load = asyncio.create_task(client.load(7, "llm-a"))
            await server.until("loadModel")
            assert server.running("loadModel") == 1
            await client.cancel(7)
            assert await load == ["resolved", "progress", "progress", "channelClose"]
            assert server.cancels == ["loadModel"]
            assert server.loaded == {}

            server.release_loads()
            assert "success" in await client.load(8, "llm-a")
        assert server.contract_violations == []


@pytest.mark.parametrize(("variant", "told"), [("success", True), (True, True), ("close", False)])
async def test_a_load_may_finish_despite_its_cancel(variant: Any, told: bool) -> None:
    with ScriptedServer() as server:
        server.hold_loads()
        server.finish_load_despite_cancel = variant
        async with connected(server) as client:
            load = asyncio.create_task(client.load(0, "llm-a"))
            await server.until("loadModel")
            await client.cancel(0)
            assert ("success" in await load) is told
            assert list(server.loaded) == ["llm-a"]


async def test_a_load_may_ignore_its_cancel_or_outlive_its_connection() -> None:
    with ScriptedServer() as server:
        server.hold_loads()
        server.ignore_load_cancel = True
        server.finish_load_despite_drop = True
        async with connected(server) as client:
            load = asyncio.create_task(client.load(0, "llm-a"))
            await server.until("loadModel")
            await client.cancel(0)
            await server.until(lambda: server.cancels)
            assert server.loaded == {}
            server.release_loads()
            assert (await load)[-2:] == ["success", "channelClose"]
            server.hold_loads()
            await client.create(1, "loadModel", modelKey="llm-a", loadConfigStack=EMPTY_STACK)
            await server.until(lambda: server.count("loadModel") == 2)
            assert server.drop_connections("embedding") == 0
            assert server.drop_connections() == 1
            await server.until(lambda: len(server.loaded) == 2)
            assert set(server.loaded) == {"llm-a", "llm-a:2"}


async def test_a_held_prediction_stops_when_cancelled_or_unloaded() -> None:
    with ScriptedServer() as server:
        reference = server.load_behind_back("llm-a")
        server.hold_predictions(after=2)
        async with connected(server) as client:
            for channel_id in (0, 1):
                await client.create(
                    channel_id,
                    "completeRawText",
                    modelSpecifier=by_reference(reference),
                    rawPrompt="Once",
                    predictionConfigStack=EMPTY_STACK,
                )
                stream = asyncio.create_task(client.packets())
                sent = 2 * (channel_id + 1)
                await server.until(partial(fragments_sent, server, sent))
                assert server.predictions_running == 1
                if channel_id == 0:
                    await client.cancel(0)
                    assert (await stream)[-2:] == ["success", "channelClose"]
                else:
                    server.evict("llm-a")
                    assert (await stream)[-1] == "channelError"
                assert server.predictions_running == 0


async def test_what_it_does_not_know_gets_five_warnings_at_most() -> None:
    with ScriptedServer() as server:
        server.unknown_endpoints.add("tokenize")
        server.reject_parameters.add("llm.countTokens")
        async with connected(server) as client:
            warning = await client.call(0, "tokenize")
            assert warning == {
                "type": "communicationWarning",
                "warning": "Received rpcCall for unknown endpoint, endpoint = tokenize",
                "kind": "rpcEndpointUnknown",
            }
            warning = await client.call(1, "countTokens")
            assert "endpointName = countTokens" in warning["warning"]
            assert warning["kind"] == "rpcParameterTypeError"
            server.warning_kinds = False
            server.unknown_endpoints.add("predict")
            await client.create(0, "predict")
            assert await client.receive() == {
                "type": "communicationWarning",
                "warning": "Received channelCreate for unknown endpoint, endpoint = predict",
            }
            for call_id in range(2, 6):
                await client.send(type="rpcCall", endpoint="tokenize", callId=call_id)
            await client.send(type="keepAlive")
            types = [(await client.receive())["type"] for _ in range(3)]
            assert types == ["communicationWarning", "communicationWarning", "keepAliveAck"]
        if ContractChecker.available:
            assert any("arameter: missing" in each for each in server.contract_violations)


async def test_failures_silence_doubles_and_drops() -> None:
    with ScriptedServer() as server:
        server.fail_next("version", failure("Out of order."))
        server.reply_twice("info")
        server.silence("getExperimentFlags")
        server.drop_on("listDownloadedModels")
        async with connected(server, "system") as client:
            assert (await client.call(0, "version"))["error"]["title"] == "Out of order."
            assert (await client.call(1, "version"))["type"] == "rpcResult"
            assert await client.call(2, "info") == await client.receive()
            await client.send(type="rpcCall", endpoint="getExperimentFlags", callId=3)
            await client.send(type="keepAlive")
            assert await client.receive() == {"type": "keepAliveAck"}
            server.send_garbage("system", "{")
            assert (await client.ws.receive(timeout=5)).data == "{"
            await client.send(type="rpcCall", endpoint="listDownloadedModels", callId=4)
            message = await client.ws.receive(timeout=5)
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert server.open_sockets == []
        assert server.contract_violations == []


async def test_connections_may_be_refused() -> None:
    with ScriptedServer(token="sk-lm-abcdefgh:12345678901234567890") as server:
        server.refuse_connections(1)
        # aiohttp tries a second time when the server hangs up without an answer.
        server.refuse_connections(2, "cut")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with connected(server):
                pass
        with pytest.raises(aiohttp.ClientConnectionError):
            async with connected(server):
                pass
        server.stop_listening()
        with pytest.raises(aiohttp.ClientConnectorError):
            async with connected(server):
                pass
        server.start_listening()
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"ws://{server.api_host}/llm") as ws:
                client = RawClient(ws)
                await client.send(
                    authVersion=1, clientIdentifier="guest:x", clientPasskey="12345678901234567890"
                )
                assert (await client.receive())["success"] is False
            async with session.ws_connect(f"ws://{server.api_host}/llm") as ws:
                client = RawClient(ws)
                await client.send(
                    authVersion=1, clientIdentifier="abcdefgh", clientPasskey="12345678901234567890"
                )
                assert await client.receive() == {"success": True}
        assert len(server.upgrades) == 5


async def test_packets_ask_for_acknowledgement() -> None:
    with ScriptedServer() as server:
        server.ack_packets = True
        async with connected(server, "llm") as client:
            await client.create(0, "loadModel", modelKey="nothing", loadConfigStack=EMPTY_STACK)
            error = (await client.receive())["error"]
            assert error["displayData"]["code"] == "generic.pathNotFound"
            server.hold_loads()
            await client.create(1, "loadModel", modelKey="llm-b", loadConfigStack=EMPTY_STACK)
            frame = await client.receive()
            await client.send(type="channelAck", channelId=1, ackId=frame["ackId"])
            await server.until(lambda: server.acks == [("llm", 1, frame["ackId"])])
        assert server.contract_violations == []


async def test_waiting_for_what_does_not_come_says_what_came() -> None:
    with ScriptedServer() as server:
        async with connected(server) as client:
            await client.call(0, "listLoaded")
        with pytest.raises(TimeoutError, match="listLoaded"):
            await server.until("predict", timeout=0.01)


async def test_a_mistake_in_the_server_fails_the_test() -> None:
    server = ScriptedServer().__enter__()
    server.answer("version", lambda parameter: parameter["nothing"])
    async with connected(server, "system") as client:
        await client.send(type="rpcCall", endpoint="version", callId=0)
        await client.ws.receive(timeout=5)
    with pytest.raises(AssertionError, match="handler"):
        server.__exit__(None, None, None)


@pytest.mark.skipif(not ContractChecker.available, reason="the schemas are not here")
@pytest.mark.parametrize(
    ("sender", "frame", "problem"),
    [
        ("client", {"type": "rpcCall", "endpoint": "listLoaded", "callId": 0}, "used again"),
        ("client", {"type": "rpcCall", "endpoint": "listLoaded", "callId": True}, "not an integer"),
        ("client", {"type": "rpcCall", "endpoint": "no", "callId": 1}, "no such rpc endpoint"),
        (
            "client",
            {"type": "rpcCall", "endpoint": "listLoaded", "callId": 1, "parameter": None},
            "parameter",
        ),
        (
            "client",
            {
                "type": "rpcCall",
                "endpoint": "unloadModel",
                "callId": 1,
                "parameter": {"identifier": "a", "more": 1},
            },
            "'more' was unexpected",
        ),
        ("client", {"type": "channelSend", "channelId": 9, "message": {}}, "never created"),
        ("client", {"type": "channelAck", "channelId": 9, "ackId": 1}, "nothing asked"),
        ("client", {"type": "keepAlive", "extra": 1}, "extra does not belong here"),
        ("client", {"type": "surprise"}, "no frame of type 'surprise'"),
        ("server", {"type": "rpcResult", "callId": 0}, "returns: missing"),
        ("server", {"type": "rpcResult", "callId": 0, "result": [{}]}, "required property"),
        ("server", {"type": "rpcResult", "callId": 7}, "no call waits"),
        ("server", {"type": "channelClose", "channelId": 7}, "not open"),
    ],
)
async def test_the_contract_checker_sees(sender: str, frame: Json, problem: str) -> None:
    contract = ContractChecker()
    checker = contract.socket("llm")
    checker.client_frame({"authVersion": 1, "clientIdentifier": "a", "clientPasskey": "b"})
    checker.client_frame({"type": "rpcCall", "endpoint": "listLoaded", "callId": 0})
    assert contract.violations == []
    if sender == "client":
        checker.client_frame(frame)
    else:
        checker.server_frame(frame)
    assert any(problem in violation for violation in contract.violations)
