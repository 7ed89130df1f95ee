"""A model of LM Studio: what is loaded, and how it answers."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import anyio
import msgspec
from msgspec import UNSET, Raw

from lmstudio_async.wire import loading, messages, model_info, prediction
from lmstudio_async.wire.kv_config import KvConfig
from tests.contract import ContractChecker
from tests.scripted_endpoints import fragment_packet
from tests.scripted_models import (
    Json,
    Refusal,
    embedding,
    failure,
    identifier_not_found,
    model_on_disk,
    no_model_matching,
    path_not_found,
    specific_model_unloaded,
    tokens,
)
from tests.simulation.clock import Timeline
from tests.simulation.faults import KEYS, Calm
from tests.simulation.log import Log
from tests.simulation.network import MemorySocket

_INFO: dict[str, Any] = {
    "llm": model_info.LlmInstanceInfo,
    "embedding": model_info.EmbeddingModelInstanceInfo,
}
_DISK_INFO: dict[str, Any] = {
    "llm": model_info.LlmInfo,
    "embedding": model_info.EmbeddingModelInfo,
}
_FRAGMENTS = ("One ", "two ", "three ", "four ", "five.")


@dataclass(eq=False)
class Instance:
    """A model in memory.

    `channel` is the load that has brought it about, None if no client under test did. `excused`:
    why it may stay.
    """

    namespace: str
    info: model_info.AnyInstanceInfo
    channel: "Channel | None"
    loaded_at: float
    excused: str | None = None


class Server:
    """`contract`: what the frames are held against, which takes time."""

    def __init__(
        self, timeline: Timeline, faults: Calm, log: Log, contract: ContractChecker | None
    ) -> None:
        self.contract = contract
        self.timeline = timeline
        self.faults = faults
        self.log = log
        self.loaded: dict[str, Instance] = {}
        self.reserved: set[str] = set()
        self.sessions: list[Session] = []
        self.violations: list[str] = []
        self.calls = 0
        self.predictions: Counter[str] = Counter()
        # Called with the identifier of a client and the instance that it unloads.
        self.on_unload: Callable[[str, Instance], None] = lambda client, instance: None
        # When a client last found, by its reference, an instance under this identifier.
        self.looked_up: dict[tuple[str, str], float] = {}
        self.loads: list[Channel] = []
        self._references = 0

    def accept(self, socket: MemorySocket, namespace: str) -> "Session":
        session = Session(self, socket, namespace)
        self.sessions.append(session)
        return session

    def add(self, namespace: str, key: str, identifier: str, channel: "Channel | None") -> Instance:
        self._references += 1
        info = msgspec.convert(
            model_on_disk(key, "llm" if namespace == "llm" else "embedding")
            | {"identifier": identifier, "instanceReference": f"ref-{self._references}"},
            _INFO[namespace],
        )
        instance = Instance(namespace, info, channel, anyio.current_time())
        self.loaded[identifier] = instance
        self.log(
            f"loaded {identifier} as ref-{self._references} for {'us' if channel else 'others'}"
        )
        return instance

    def reserve(self, wanted: str | None, key: str) -> str:
        """A name that no other instance has and none that is loading."""
        taken = self.reserved | self.loaded.keys()
        if wanted is not None and wanted in taken:
            raise Refusal(failure(f"{wanted} is taken"))
        number, name = 1, wanted or key
        while name in taken:
            number += 1
            name = f"{key}:{number}"
        self.reserved.add(name)
        return name

    # What others do

    def load_for_stranger(self, namespace: str, name: str) -> bool:
        if name in self.loaded or name in self.reserved:
            return False
        key = name if name in KEYS[namespace] else KEYS[namespace][0]
        self.add(namespace, key, name, None)
        return True

    def unload_of_stranger(self, name: str) -> bool:
        found = self.loaded.get(name)
        return found is not None and found.channel is None and self.evict(name)

    def evict(self, name: str) -> bool:
        if self.loaded.pop(name, None) is None:
            return False
        self.log(f"evicted {name}")
        return True

    def restart(self) -> None:
        self.log("restart")
        self.loaded.clear()
        for session in list(self.sessions):
            session.restarted = True
            session.socket.cut()


class Channel:
    """A stream to the client. `ended` for the server; the client may not know yet."""

    def __init__(self, session: "Session", channel_id: int, endpoint: str) -> None:
        self.id = channel_id
        self.endpoint = endpoint
        self.cancelled = False
        self.client = session.client
        self.identifier: str | None = None
        # What the client has read: under which identifier it loads, and what came of it.
        self.named = False
        self.told = False
        self._session = session
        # That a load has succeeded is told before anybody hears that the instance is there.
        self._order = self.id if endpoint == "predict" else "loads"

    def send(self, packet: object, on_read: Callable[[], None] | None = None) -> None:
        session = self._session
        ack_id = session.next_ack_id() if session.server.faults.ask_for_acks else UNSET
        message = messages.ChannelSend(self.id, packet, ack_id)
        session.send(message, self._order, on_read)

    def read_name(self) -> None:
        self.named = True

    def read_outcome(self) -> None:
        self.told = True

    def fail(self, error: Json) -> None:
        self._session.send(messages.ChannelError(self.id, error), self._order, self.read_outcome)

    def close(self) -> None:
        self._session.send(messages.ChannelClose(self.id), self._order, self.read_outcome)


class Session:
    """One WebSocket, as the server sees it."""

    def __init__(self, server: Server, socket: MemorySocket, namespace: str) -> None:
        self.server = server
        self.socket = socket
        self.namespace = namespace
        self.open = True
        self.restarted = False
        self.client = ""
        self._channels: dict[int, Channel] = {}
        contract = server.contract
        self._checker = None if contract is None else contract.socket(namespace)
        self._last_id = 0
        self._warnings = 0
        self._last_ack_id = 0

    def next_ack_id(self) -> int:
        self._last_ack_id += 1
        return self._last_ack_id

    def lost(self) -> None:
        """The connection has ended, one way or the other."""
        if self.open:
            self.open = False
            self.server.sessions.remove(self)

    def send(self, message: object, order: Hashable, on_read: Any = None) -> None:
        if self.open:
            frame = messages.encode(message)
            if self._checker is not None:
                self._checker.server_frame(json.loads(frame))
            self.socket.deliver(frame, order, on_read)

    def received(self, frame: bytes) -> None:
        if not self.open:
            return
        if self._checker is not None:
            self._checker.client_frame(json.loads(frame))
        if not self.client:
            self.client = messages.authentication_decoder.decode(frame).client_identifier
            self.send(messages.AuthenticationResult(success=True), None)
            return
        match messages.decode_client_message.decode(frame):
            case messages.RpcCall() as call:
                self._check_id(call.call_id)
                self.server.timeline.play(self._answer(call))
            case messages.ChannelCreate() as create:
                self._check_id(create.channel_id)
                channel = Channel(self, create.channel_id, create.endpoint)
                self._channels[channel.id] = channel
                self.server.timeline.play(self._serve(channel, create.creation_parameter))
            case messages.ChannelSend() as packet:
                known = self._channels.get(packet.channel_id)
                if known is None:
                    self._warn(
                        f"Received channelSend for unknown channel, channelId = {packet.channel_id}"
                    )
                else:
                    known.cancelled = True
            case messages.KeepAlive():
                self.send(messages.KeepAliveAck(), None)

    def _check_id(self, number: int) -> None:
        self.server.calls += 1
        # The client counts up, so an id that does not grow was used before.
        if number <= self._last_id:
            self.server.violations.append(f"{self.socket.name}: id {number} is used again")
        self._last_id = number

    def _warn(self, warning: str) -> None:
        self._warnings += 1
        if self._warnings <= 5:
            self.send(messages.CommunicationWarning(warning), None)

    def _answer(self, call: messages.RpcCall[Any]) -> Iterator[float]:
        result: Any = UNSET
        try:
            if call.endpoint == "unloadModel":
                yield from self._unload(
                    msgspec.json.decode(cast(Raw, call.parameter))["identifier"]
                )
            else:
                result = self._result(call.endpoint, call.parameter)
        except Refusal as refusal:
            self.send(messages.RpcError(call.call_id, refusal.error), call.call_id)
        else:
            if self.server.faults.answers_call():
                self.send(messages.RpcResult(call.call_id, result), call.call_id)

    def _result(self, endpoint: str, parameter: Any) -> Any:
        match endpoint:
            case "version":
                return loading.ServerVersion("0.3.99", 1)
            case "listLoaded":
                return [each.info for each in self._instances()]
            case "getModelInfo":
                find = msgspec.json.decode(parameter, type=loading.FindParameter)
                if find.throw_if_not_found:
                    return self._instance(find.specifier).info
                found = self._find(find.specifier)
                if found is None:
                    return UNSET
                if isinstance(find.specifier, model_info.InstanceSpecifier):
                    found_at = anyio.current_time()
                    self.server.looked_up[self.client, found.info.identifier] = found_at
                return found.info
            case "tokenize" | "countTokens":
                text = msgspec.json.decode(parameter, type=loading.TextParameter)
                self._instance(text.specifier)
                numbers = tokens(text.input_string)
                if endpoint == "countTokens":
                    return loading.CountTokensResult(len(numbers))
                return loading.TokenizeResult(numbers)
            case "embedString":
                embed = msgspec.json.decode(parameter, type=loading.EmbedParameter)
                self._instance(embed.model_specifier)
                return loading.EmbeddingResult(embedding(embed.input_string))
        raise AssertionError(f"the model of the server does not know {endpoint}")

    def _unload(self, identifier: str) -> Iterator[float]:
        server = self.server
        instance = server.loaded.get(identifier)
        if instance is None or instance.namespace != self.namespace:
            raise Refusal(identifier_not_found(identifier, server.loaded))
        if server.faults.refuses_unload():
            instance.excused = "the server refused to unload it"
            raise Refusal(failure("It cannot be unloaded now."))
        # What is unloaded is settled now; what happens to its name meanwhile makes no difference.
        server.on_unload(self.client, instance)
        yield server.faults.work()
        if server.loaded.get(identifier) is not instance:
            raise Refusal(identifier_not_found(identifier, server.loaded))
        del server.loaded[identifier]
        server.log(f"unloaded {identifier}, {instance.info.instance_reference}")

    def _serve(self, channel: Channel, parameter: Any) -> Iterator[float]:
        try:
            match channel.endpoint:
                case "getOrLoad":
                    get = msgspec.json.decode(parameter, type=loading.GetOrLoadParameter)
                    yield from self._get_or_load(channel, get.identifier)
                case "loadModel":
                    load = msgspec.json.decode(parameter, type=loading.LoadModelParameter)
                    info = self._on_disk(load.model_key)
                    channel.send(loading.ResolvedPacket(info))
                    yield from self._load(channel, load.model_key, load.identifier)
                case "predict":
                    predict = msgspec.json.decode(parameter, type=prediction.PredictParameter)
                    endless = "endless" in str(predict.history)
                    fragments = itertools.cycle(_FRAGMENTS) if endless else _FRAGMENTS
                    instance = self._instance(predict.model_specifier)
                    yield from self._predict(channel, instance, fragments)
                case endpoint:
                    raise AssertionError(f"the model of the server does not know {endpoint}")
        except Refusal as refusal:
            channel.fail(refusal.error)
        else:
            channel.close()
        del self._channels[channel.id]

    def _get_or_load(self, channel: Channel, name: str) -> Iterator[float]:
        for instance in self._instances():
            if name in (instance.info.identifier, instance.info.model_key):
                channel.send(loading.AlreadyLoadedPacket(instance.info))
                return
        info = self._on_disk(name)
        yield from self._load(channel, name, None, info)

    def _load(
        self, channel: Channel, key: str, wanted: str | None, jit: Any = None
    ) -> Iterator[float]:
        """Load a model. `jit`: the model on disk, for getOrLoad, which has packets of its own."""
        server = self.server
        channel.identifier = identifier = server.reserve(wanted, key)
        server.loads.append(channel)
        if jit is not None:
            channel.send(loading.StartLoadingPacket(identifier, jit), channel.read_name)
        stubborn = False
        told = True
        for share in (0.0, 0.5, 1.0):
            channel.send(
                loading.ProgressPacket(share) if jit is None else loading.LoadProgressPacket(share),
                None if wanted is None else channel.read_name,
            )
            yield server.faults.work()
            stalled = server.faults.stalls_load()
            while stalled and self.open and not channel.cancelled:
                yield 1.0
            if self.restarted:
                server.reserved.discard(identifier)
                return
            if (channel.cancelled or not self.open) and not stubborn:
                stubborn = server.faults.finishes_load("cancel" if channel.cancelled else "loss")
                if not stubborn:
                    server.reserved.discard(identifier)
                    return
                told = not self.open or server.faults.tells_of_finished_load()
        server.reserved.discard(identifier)
        instance = server.add(self.namespace, key, identifier, channel)
        if not told:
            instance.excused = "the server loaded it despite a cancel and did not say so"
            return
        success = loading.SuccessPacket if jit is None else loading.LoadSuccessPacket
        channel.send(success(instance.info), channel.read_outcome)

    def _predict(
        self, channel: Channel, instance: Instance, fragments: Iterable[str]
    ) -> Iterator[float]:
        server = self.server
        server.predictions[self.client] += 1
        try:
            reason: prediction.StopReason = "eosFound"
            for text in fragments:
                yield max(0.05, server.faults.work() / 10)
                if not self.open:
                    return
                if server.loaded.get(instance.info.identifier) is not instance:
                    raise Refusal(specific_model_unloaded())
                if channel.cancelled:
                    reason = "userStopped"
                    break
                channel.send(fragment_packet(text))
        finally:
            server.predictions[self.client] -= 1
        assert isinstance(instance.info, model_info.LlmInstanceInfo)
        stats = prediction.LlmPredictionStats(stop_reason=reason)
        empty = KvConfig([])
        channel.send(prediction.PredictionSuccessPacket(stats, instance.info, empty, empty))

    def _instances(self) -> list[Instance]:
        every = self.server.loaded.values()
        return [each for each in every if each.namespace == self.namespace]

    def _instance(self, specifier: model_info.ModelSpecifier) -> Instance:
        found = self._find(specifier)
        if found is not None:
            return found
        if isinstance(specifier, model_info.InstanceSpecifier):
            raise Refusal(specific_model_unloaded())
        raise Refusal(no_model_matching(msgspec.to_builtins(specifier.query), self.server.loaded))

    def _find(self, specifier: model_info.ModelSpecifier) -> Instance | None:
        for instance in reversed(self._instances()):
            if isinstance(specifier, model_info.InstanceSpecifier):
                if instance.info.instance_reference == specifier.instance_reference:
                    return instance
            elif specifier.query.identifier in (None, instance.info.identifier):
                return instance
        return None

    def _on_disk(self, key: str) -> Any:
        if key not in KEYS[self.namespace]:
            raise Refusal(path_not_found(key, KEYS[self.namespace]))
        kind = self.namespace
        return msgspec.convert(
            model_on_disk(key, "llm" if kind == "llm" else "embedding"), _DISK_INFO[kind]
        )
