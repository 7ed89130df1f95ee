"""Authentication and frames: what the server makes of good and of bad ones."""

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import pytest

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer

from .conftest import Connect
from .raw import GUEST, RawSocket, connected, stack
from .rude import rude_client

pytestmark = pytest.mark.asyncio

TOKEN = "sk-lm-abcdEF12:0123456789abcdefghij"


def credentials(identifier: str, passkey: str) -> dict[str, Any]:
    return {"authVersion": 1, "clientIdentifier": identifier, "clientPasskey": passkey}


async def refusal(socket: RawSocket, given: dict[str, Any]) -> str:
    """The server's reason not to let the client in; it hangs up as well."""
    answer = await socket.authenticate(given)
    assert answer["success"] is False
    assert (await socket.socket.receive()).type is aiohttp.WSMsgType.CLOSE
    return str(answer["error"])


async def get(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text()


async def test_greeting(embedded: EmbeddedServer) -> None:
    status, text = await get(f"http://{embedded.api_host}/lmstudio-greeting")
    assert (status, json.loads(text)) == (200, {"lmstudio": True})


async def test_unknown_namespace(embedded: EmbeddedServer) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with connected(embedded.api_host, "nonsense"):
            pass
    assert caught.value.status == 404


async def test_guests_keep_their_passkey(embedded: EmbeddedServer) -> None:
    async with (
        connected(embedded.api_host, "llm", credentials("me", "mine")),
        connected(embedded.api_host, "llm", None) as thief,
    ):
        async with connected(embedded.api_host, "system", credentials("me", "mine")):
            pass
        assert "another passkey" in await refusal(thief, credentials("me", "guessed"))
    # With the last socket of "me" its passkey is forgotten, as soon as the server notices.
    for _ in range(100):
        async with connected(embedded.api_host, "llm", None) as successor:
            if (await successor.authenticate(credentials("me", "other")))["success"]:
                return
        await asyncio.sleep(0.02)
    pytest.fail("the identifier is never free again")


async def test_token(models_dir: Any, capfd: pytest.CaptureFixture[str]) -> None:
    async with EmbeddedServer(models_dir, api_token=TOKEN) as server:
        identifier, passkey = TOKEN.removeprefix("sk-lm-").split(":")
        async with connected(server.api_host, "llm", credentials(identifier, passkey)) as socket:
            assert await socket.loaded() == []
        for wrong in (GUEST, credentials(identifier, "0" * 20), credentials("x", passkey)):
            async with connected(server.api_host, "llm", None) as socket:
                assert "API token" in await refusal(socket, wrong)
        async with lms.Client(server.api_host, api_token=TOKEN) as client:
            assert await client.llm.list_loaded() == []
        async with lms.Client(server.api_host, api_token=TOKEN[:-1] + "x") as client:
            with pytest.raises(lms.LMStudioClientError, match="API token"):
                await client.llm.list_loaded()
    assert passkey not in "".join(capfd.readouterr())


async def test_unknown_version_of_authentication(embedded: EmbeddedServer) -> None:
    async with connected(embedded.api_host, "llm", None) as socket:
        await socket.send_unchecked(json.dumps(GUEST | {"authVersion": 2}))
        assert "version 2" in (await socket.receive())["error"]


async def test_frames_before_authentication_are_ignored(embedded: EmbeddedServer) -> None:
    async with connected(embedded.api_host, "llm", None) as socket:
        await socket.send_unchecked("garbage")
        await socket.send_unchecked('{"type": "rpcCall", "endpoint": "listLoaded", "callId": 1}')
        assert await socket.authenticate(GUEST) == {"success": True}


async def warning(socket: RawSocket, frame: Any) -> tuple[str, str]:
    """Kind and text of the warning that a frame brings about."""
    await socket.send_unchecked(frame if isinstance(frame, str) else json.dumps(frame))
    answer = await socket.receive()
    assert answer["type"] == "communicationWarning"
    return answer["kind"], answer["warning"]


def rpc_call(endpoint: str, parameter: Any) -> dict[str, Any]:
    return {"type": "rpcCall", "endpoint": endpoint, "callId": 1, "parameter": parameter}


def create(endpoint: str, parameter: Any) -> dict[str, Any]:
    frame = {"type": "channelCreate", "endpoint": endpoint, "channelId": 1}
    return frame | {"creationParameter": parameter}


@pytest.mark.parametrize(
    ("frame", "kind", "text"),
    [
        (rpc_call("fly", {}), "rpcEndpointUnknown", "endpoint = fly"),
        (rpc_call("tokenize", {}), "rpcParameterTypeError", "endpointName = tokenize"),
        (rpc_call("listLoaded", {}), "rpcParameterTypeError", "endpointName = listLoaded"),
        (create("fly", {}), "channelEndpointUnknown", "endpoint = fly"),
        (create("predict", 1), "channelCreationParameterTypeError", "endpointName = predict"),
        (
            {"type": "channelSend", "channelId": 7, "message": {"type": "cancel"}},
            "channelUnknown",
            "channelId = 7",
        ),
        ("{", "unknown", "could not be understood"),
        ("[]", "unknown", "could not be understood"),
        ('{"type": "novelty"}', "unknown", "novelty"),
        ('{"type": "rpcCall", "callId": "one"}', "unknown", "could not be understood"),
    ],
)
async def test_warnings(connect: Connect, frame: Any, kind: str, text: str) -> None:
    socket = await connect("llm")
    received_kind, received_text = await warning(socket, frame)
    assert received_kind == kind
    assert text in received_text
    assert await socket.call("listLoaded") == []


async def test_at_most_five_warnings(connect: Connect) -> None:
    socket = await connect("llm")
    for _ in range(5):
        await warning(socket, "{")
    await socket.send_unchecked("{")
    assert await socket.call("listLoaded") == []


async def test_keep_alive_and_warnings_of_clients(connect: Connect) -> None:
    socket = await connect("system")
    await socket.send(type="communicationWarning", warning="what was that?")
    await socket.send(type="keepAlive")
    assert await socket.receive() == {"type": "keepAliveAck"}


async def test_binary_frames_are_as_good(connect: Connect) -> None:
    socket = await connect("system")
    await socket.socket.send_bytes(b'{"type": "keepAlive"}')
    assert await socket.receive() == {"type": "keepAliveAck"}


@pytest.mark.engine
async def test_channels(llm: RawSocket) -> None:
    """A second creation of a channel, a packet that makes no sense, an acknowledgement."""
    parameter = {"modelKey": "smollm2-135m-instruct", "loadConfigStack": stack()}
    channel_id = await llm.create("loadModel", parameter)
    await llm.receive()
    again = create("loadModel", parameter) | {"channelId": channel_id}
    await llm.send_unchecked(json.dumps(again))
    nonsense = {"type": "channelSend", "channelId": channel_id, "message": {"type": "dance"}}
    await llm.send_unchecked(json.dumps(nonsense))
    cancel = nonsense | {"message": {"type": "cancel"}, "ackId": 5}
    await llm.send(**cancel)
    frames: list[dict[str, Any]] = []
    while not frames or frames[-1]["type"] != "channelError":
        frames.append(await llm.receive())
    kinds = [frame["kind"] for frame in frames if frame["type"] == "communicationWarning"]
    assert kinds == ["channelAlreadyOpen", "channelMessageTypeError"]
    assert {"type": "channelAck", "channelId": channel_id, "ackId": 5} in frames


async def test_an_oversize_frame_ends_only_its_own_socket(connect: Connect) -> None:
    culprit, bystander = await connect("llm"), await connect("llm")
    # The server does not read it to its end, so that either sending or receiving fails.
    with contextlib.suppress(ConnectionError):
        await culprit.send_unchecked("x" * (65 * 2**20))
    assert (await culprit.socket.receive()).type is not aiohttp.WSMsgType.TEXT
    assert culprit.socket.closed
    assert await bystander.call("listLoaded") == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:1234", "Origin": "http://evil.example:1234"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Host": "localhost:1234", "Origin": "http://localhost:1234"}, 200),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
    ],
)
async def test_web_pages_are_kept_out(
    embedded: EmbeddedServer, headers: dict[str, str], status: int
) -> None:
    url = f"http://{embedded.api_host}/lmstudio-greeting"
    assert (await get(url, **headers))[0] == status
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(f"http://{embedded.api_host}/llm", headers=headers):
                outcome = 200
        except aiohttp.WSServerHandshakeError as error:
            outcome = error.status
    assert outcome == status


@pytest.mark.parametrize("path", ["lmstudio-greeting", "llm", "nonsense"])
async def test_no_page_may_read_an_answer(embedded: EmbeddedServer, path: str) -> None:
    """Without these headers a browser keeps the answer from the page that asked for it."""
    origin = {
        "Origin": f"http://{embedded.api_host}",
        "Access-Control-Request-Method": "GET",
    }
    async with aiohttp.ClientSession() as session:
        for method in ("GET", "OPTIONS", "POST", "HEAD"):
            url = f"http://{embedded.api_host}/{path}"
            async with session.request(method, url, headers=origin) as response:
                assert not [name for name in response.headers if name.startswith("Access-Control")]
                assert response.headers["Server"] == "lmstudio_async"
                if path != "lmstudio-greeting" or method not in ("GET", "HEAD"):
                    assert response.status in (400, 404, 405)


async def test_duplicate_hosts_are_refused(embedded: EmbeddedServer) -> None:
    async with rude_client(embedded.api_host) as client:
        await client.send(
            b"GET /lmstudio-greeting HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        )
        assert (await client.read_to_end())[8:12] in (b" 400", b" 403")


async def test_system(connect: Connect, embedded: EmbeddedServer) -> None:
    system = await connect("system")
    info = await system.call("info")
    assert info["pid"] == embedded.pids[0]
    assert (await system.call("version"))["version"] == info["version"]
