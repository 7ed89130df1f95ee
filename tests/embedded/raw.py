"""A client of the bare protocol, which checks every frame of the server against the schemas."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio

from tests.contract import ContractChecker

ANY_LOADED = {"type": "query", "query": {}}
STARTER = "smollm2-135m-instruct"
EMBEDDER = "smol-embedder"
GUEST = {"authVersion": 1, "clientIdentifier": "guest:tests", "clientPasskey": "secret"}
TIMEOUT = 60.0  # seconds; bounds every wait for the server


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["title"])
        self.error = error
        self.data: dict[str, Any] = error.get("displayData") or {}

    @property
    def code(self) -> str | None:
        return self.data.get("code")


class RawSocket:
    """One socket, with one exchange at a time unless frames are handled one by one."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, namespace: str) -> None:
        self.socket = socket
        self.checker = ContractChecker()
        self._frames = self.checker.socket(namespace)
        self._last_id = 0

    async def send(self, **frame: Any) -> None:
        self._frames.client_frame(frame)
        await self.send_unchecked(json.dumps(frame))

    async def send_unchecked(self, text: str) -> None:
        await self.socket.send_str(text)

    async def receive(self) -> dict[str, Any]:
        with anyio.fail_after(TIMEOUT):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        frame: dict[str, Any] = json.loads(message.data)
        self._frames.server_frame(frame)
        assert not self.checker.violations, self.checker.violations
        return frame

    async def authenticate(self, credentials: dict[str, Any]) -> dict[str, Any]:
        await self.send(**credentials)
        return await self.receive()

    async def call(self, endpoint: str, *parameter: Any) -> Any:
        """The result of a call. Raises Refused."""
        self._last_id += 1
        given = {"parameter": parameter[0]} if parameter else {}
        await self.send(type="rpcCall", endpoint=endpoint, callId=self._last_id, **given)
        answer = await self.receive()
        if answer["type"] == "rpcError":
            raise Refused(answer["error"])
        assert answer["type"] == "rpcResult", answer
        assert answer["callId"] == self._last_id
        return answer.get("result")

    async def create(self, endpoint: str, parameter: Any) -> int:
        """Open a channel; its id."""
        self._last_id += 1
        await self.send(
            type="channelCreate",
            endpoint=endpoint,
            channelId=self._last_id,
            creationParameter=parameter,
        )
        return self._last_id

    async def cancel(self, channel_id: int) -> None:
        await self.send(type="channelSend", channelId=channel_id, message={"type": "cancel"})

    async def packets(self, channel_id: int) -> AsyncIterator[dict[str, Any]]:
        """The packets of a channel until it is closed. Raises Refused."""
        while True:
            frame = await self.receive()
            assert frame.get("channelId") == channel_id, frame
            match frame["type"]:
                case "channelSend":
                    yield frame["message"]
                case "channelClose":
                    return
                case "channelError":
                    raise Refused(frame["error"])
                case _:
                    raise AssertionError(frame)

    async def channel(self, endpoint: str, parameter: Any) -> list[dict[str, Any]]:
        """All packets of a channel. Raises Refused."""
        channel_id = await self.create(endpoint, parameter)
        return [packet async for packet in self.packets(channel_id)]

    async def load(
        self, key: str = STARTER, config: dict[str, Any] | None = None, **parameter: Any
    ) -> Any:
        """Load an instance; its info."""
        parameter = {"modelKey": key, "loadConfigStack": stack(config), **parameter}
        return (await self.channel("loadModel", parameter))[-1]["info"]

    async def unload(self, identifier: str) -> None:
        assert await self.call("unloadModel", {"identifier": identifier}) is None

    async def predict(self, text: str, config: dict[str, Any] | None = None) -> Any:
        """Predict with whatever is loaded; the text and the success packet."""
        packets = await self.channel("predict", prediction(text, config))
        content = "".join(
            packet["fragment"]["content"] for packet in packets if packet["type"] == "fragment"
        )
        return content, packets[-1]

    async def loaded(self) -> list[str]:
        return [info["identifier"] for info in await self.call("listLoaded")]

    @asynccontextmanager
    async def loading(self, key: str = STARTER, **parameter: Any) -> AsyncIterator[Any]:
        """An instance for the time of the block, if it is not unloaded in it; its info."""
        info = await self.load(key, **parameter)
        yield info
        if info["identifier"] in await self.loaded():
            await self.unload(info["identifier"])


def stack(config: dict[str, Any] | None = None) -> dict[str, Any]:
    fields = [{"key": key, "value": value} for key, value in (config or {}).items()]
    return {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}


def prediction(text: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """A creation parameter of `predict`; the settings by the end of their key."""
    settings = {f"llm.prediction.{key}": value for key, value in (config or {}).items()}
    return {
        "modelSpecifier": ANY_LOADED,
        "history": chat(text),
        "predictionConfigStack": stack({"llm.prediction.temperature": 0} | settings),
    }


def at_most(tokens: int) -> dict[str, Any]:
    return {"maxPredictedTokens": {"checked": True, "value": tokens}}


@asynccontextmanager
async def connected(
    api_host: str, namespace: str, credentials: dict[str, Any] | None = GUEST
) -> AsyncIterator[RawSocket]:
    """A socket, authenticated unless `credentials` is None."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{api_host}/{namespace}", max_msg_size=0) as socket,
    ):
        raw = RawSocket(socket, namespace)
        if credentials is not None:
            assert await raw.authenticate(credentials) == {"success": True}
        yield raw
