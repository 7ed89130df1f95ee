"""One WebSocket of the scripted server: authentication, framing, calls and channels."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from tests import scripted_endpoints
from tests.contract import SocketChecker
from tests.scripted_models import (
    Instance,
    Json,
    Refusal,
    no_model_matching,
    specific_model_unloaded,
)

if TYPE_CHECKING:
    from tests.scripted_server import ScriptedServer

# After so many warnings on one socket the real server says nothing more.
MOST_WARNINGS = 5


class Socket:
    def __init__(
        self,
        server: "ScriptedServer",
        request: web.Request,
        ws: web.WebSocketResponse,
        namespace: str,
        checker: SocketChecker,
    ) -> None:
        self.server = server
        self.namespace = namespace
        self.checker = checker
        self.ws = ws
        self._request = request
        self._channels: dict[int, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._warnings = 0
        self._last_ack_id = 0

    async def serve(self) -> None:
        """Answer until the client or the server closes the connection."""
        self.server.socket_opened(self)
        try:
            if not await self._authenticate():
                return
            async with asyncio.TaskGroup() as group:
                try:
                    async for message in self.ws:
                        if message.type is WSMsgType.TEXT:
                            await self._received(group, json.loads(message.data))
                finally:
                    for task in self._tasks:
                        task.cancel()
        finally:
            self.server.socket_closed(self)

    async def send(self, frame: Json, *, checked: bool = True) -> None:
        self.server.record(self, "server", frame, checked=checked)
        # Where the client is gone, the loop in `serve` ends.
        with suppress(ConnectionError):
            await self.ws.send_str(json.dumps(frame))

    async def send_raw(self, data: str | bytes, as_text: bool) -> None:
        if isinstance(data, str):
            await self.ws.send_str(data)
        elif not as_text:
            await self.ws.send_bytes(data)
        else:
            # No public method sends a text frame that is not UTF-8.
            writer = self.ws._writer
            assert writer is not None
            await writer.send_frame(data, WSMsgType.TEXT)

    def abort(self) -> None:
        """Cut the connection without a closing handshake."""
        self.server.socket_closed(self)
        if self._request.transport is not None:
            self._request.transport.abort()

    async def warn(self, warning: str, kind: str) -> None:
        self._warnings += 1
        if self._warnings > MOST_WARNINGS:
            return
        frame = {"type": "communicationWarning", "warning": warning}
        if self.server.warning_kinds:
            frame["kind"] = kind
        await self.send(frame)

    async def _authenticate(self) -> bool:
        message = await self.ws.receive()
        if message.type is not WSMsgType.TEXT:
            return False
        frame = json.loads(message.data)
        self.server.record(self, "client", frame)
        if self.server.take_drop("auth", self.namespace):
            self.abort()
            return False
        if self.server.is_silent("auth", self.namespace):
            async for _ in self.ws:
                pass
            return False
        error = self.server.refuses_credentials(self.namespace, frame)
        if error is not None:
            await self.send({"success": False, "error": error})
            await self.ws.close()
            return False
        await self.send({"success": True})
        return True

    async def _received(self, group: asyncio.TaskGroup, frame: Json) -> None:
        self.server.record(self, "client", frame)
        match frame.get("type"):
            case "rpcCall":
                parameter = frame.get("parameter")
                if await self._accepts("rpc", frame["endpoint"], parameter):
                    self._start(
                        group, self._run_call(frame["endpoint"], frame["callId"], parameter)
                    )
            case "channelCreate":
                channel = Channel(self, frame["channelId"], frame["endpoint"])
                parameter = frame.get("creationParameter")
                if await self._accepts("channel", channel.endpoint, parameter, channel):
                    self._channels[channel.id] = channel
                    self._start(group, self._run_channel(channel, parameter))
            case "channelSend" | "channelAck" as kind:
                known = self._channels.get(frame["channelId"])
                if known is None:
                    text = f"Received {kind} for unknown channel, channelId = {frame['channelId']}"
                    await self.warn(text, "channelUnknown")
                elif kind == "channelAck":
                    self.server.acknowledged(self.namespace, known.id, frame["ackId"])
                elif frame["message"] == {"type": "cancel"}:
                    known.cancelled = True
                    self.server.cancel_received(known.endpoint)
            case "keepAlive":
                if self.server.take_drop("keepAlive", self.namespace):
                    self.abort()
                elif not self.server.is_silent("keepAlive", self.namespace):
                    await self.send({"type": "keepAliveAck"})

    async def _accepts(
        self, kind: str, endpoint: str, parameter: Any, channel: "Channel | None" = None
    ) -> bool:
        """Whether a request gets an answer of its own."""
        server, namespace = self.server, self.namespace
        server.request_received(namespace, endpoint, parameter)
        frame_type = "rpcCall" if kind == "rpc" else "channelCreate"
        if server.take_drop(endpoint, namespace):
            self.abort()
        elif server.is_silent(endpoint, namespace):
            if channel is not None:
                self._channels[channel.id] = channel
        elif not server.knows(kind, endpoint, namespace):
            await self.warn(
                f"Received {frame_type} for unknown endpoint, endpoint = {endpoint}",
                f"{kind}EndpointUnknown",
            )
        elif server.matches(server.unhandled_endpoints, endpoint, namespace):
            await self.warn(
                f"Received {frame_type} for unhandled endpoint, endpoint = {endpoint}",
                f"{kind}EndpointUnhandled",
            )
        elif server.matches(server.reject_parameters, endpoint, namespace):
            part = "parameter" if kind == "rpc" else "creationParameter"
            await self.warn(
                f"Received invalid {part} for {'rpcCall' if kind == 'rpc' else 'channel'}, "
                f"endpointName = {endpoint}, {part} = {json.dumps(parameter)}. Zod error:\n\n"
                f"{part}: Invalid input",
                f"{kind}{'C' if kind == 'channel' else ''}"
                f"{'reationParameter' if kind == 'channel' else 'Parameter'}TypeError",
            )
        else:
            return True
        return False

    def _start(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        task = group.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that is cancelled before its first step never gets to await it.
        task.add_done_callback(lambda _: work.close())

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - kept for the test, which fails with it
            self.server.crashed(error)
            self.abort()

    async def _run_call(self, endpoint: str, call_id: int, parameter: Any) -> None:
        frame: Json = {"type": "rpcResult", "callId": call_id}
        with self.server.running_request(endpoint, self.namespace):
            try:
                self.server.take_failure(endpoint, self.namespace)
                handler = self.server.rpc_handler(endpoint, self.namespace)
                result = await handler(Request(self, parameter))
                if result is not None:
                    frame["result"] = result
            except Refusal as refusal:
                frame = {"type": "rpcError", "callId": call_id, "error": refusal.error}
        await self.send(frame)
        if self.server.replies_twice(endpoint, self.namespace):
            await self.send(frame, checked=False)

    async def _run_channel(self, channel: "Channel", parameter: Any) -> None:
        frame: Json = {"type": "channelClose", "channelId": channel.id}
        last_packet = None
        with self.server.running_request(channel.endpoint, self.namespace):
            try:
                self.server.take_failure(channel.endpoint, self.namespace)
                handler = self.server.channel_handler(channel.endpoint, self.namespace)
                last_packet = await handler(Request(self, parameter), channel)
            except Refusal as refusal:
                frame = {"type": "channelError", "channelId": channel.id, "error": refusal.error}
        # The request is over for the server before the client learns of it.
        twice = self.server.replies_twice(channel.endpoint, self.namespace)
        if last_packet is not None:
            await channel.send(last_packet)
            if twice:
                await channel.send(last_packet)
        await self.send(frame)
        del self._channels[channel.id]
        if twice:
            await self.send(frame, checked=False)

    def next_ack_id(self) -> int:
        self._last_ack_id += 1
        return self._last_ack_id


class Channel:
    """A stream of packets to the client."""

    def __init__(self, socket: Socket, channel_id: int, endpoint: str) -> None:
        self.id = channel_id
        self.endpoint = endpoint
        self.cancelled = False
        self._socket = socket

    async def send(self, packet: Json) -> None:
        frame: Json = {"type": "channelSend", "channelId": self.id, "message": packet}
        if self._socket.server.ack_packets:
            frame["ackId"] = self._socket.next_ack_id()
        await self._socket.send(frame)


class Request:
    """What a handler knows of the call or channel that it answers."""

    def __init__(self, socket: Socket, parameter: Any) -> None:
        self.server = socket.server
        self.namespace = socket.namespace
        self.parameter = parameter

    def instance(self, specifier: Json) -> Instance:
        """The loaded instance that a specifier means; Refusal if there is none."""
        found = self.find(specifier)
        if found is not None:
            return found
        if specifier["type"] == "instanceReference":
            raise Refusal(specific_model_unloaded())
        raise Refusal(no_model_matching(specifier["query"], self.server.loaded))

    def find(self, specifier: Json) -> Instance | None:
        # The latest first: an empty query means the model used last.
        for instance in reversed(self.server.instances(self.namespace)):
            if specifier["type"] == "instanceReference":
                if instance.info["instanceReference"] == specifier["instanceReference"]:
                    return instance
            elif instance.matches(specifier["query"]):
                return instance
        return None


RpcHandler = Callable[[Request], Coroutine[Any, Any, Any]]
ChannelHandler = Callable[[Request, Channel], Coroutine[Any, Any, Json | None]]

RPCS: dict[str, dict[str, RpcHandler]] = scripted_endpoints.RPCS
CHANNELS: dict[str, dict[str, ChannelHandler]] = scripted_endpoints.CHANNELS
