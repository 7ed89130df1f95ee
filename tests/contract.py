"""Frames against the published schemas of LM Studio's protocol."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema

PROTOCOL = Path(__file__).resolve().parents[1].parent / "shared" / "protocol"

_ABSENT: Final = object()

# Keys of each frame: those it must have, those it may have.
_CLIENT_FRAMES: dict[str, tuple[set[str], set[str]]] = {
    "rpcCall": ({"endpoint", "callId"}, {"parameter"}),
    "channelCreate": ({"endpoint", "channelId"}, {"creationParameter"}),
    "channelSend": ({"channelId", "message"}, {"ackId"}),
    "channelAck": ({"channelId", "ackId"}, set()),
    "keepAlive": (set(), set()),
    "communicationWarning": ({"warning"}, {"kind"}),
}
_SERVER_FRAMES: dict[str, tuple[set[str], set[str]]] = {
    "rpcResult": ({"callId"}, {"result"}),
    "rpcError": ({"callId", "error"}, set()),
    "channelSend": ({"channelId", "message"}, {"ackId"}),
    "channelAck": ({"channelId", "ackId"}, set()),
    "channelClose": ({"channelId"}, set()),
    "channelError": ({"channelId", "error"}, set()),
    "keepAliveAck": (set(), set()),
    "communicationWarning": ({"warning"}, {"kind"}),
}


@cache
def protocol(name: str) -> Any:
    """The content of protocol/<name>.json, None where there is no such file."""
    path = PROTOCOL / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def schema_errors(namespace: str, kind: str, endpoint: str, part: str, value: Any) -> list[str]:
    """What the schema of one part of one endpoint has against `value`, such as
    ("llm", "rpc", "listLoaded", "returns").
    """
    spec = protocol(namespace)
    if spec is None:
        return []
    if endpoint not in spec[kind]:
        return [f"the protocol has no such {kind} endpoint"]
    if spec[kind][endpoint]["serialization"] == "superjson" and value is not _ABSENT:
        value = value["json"]
    if value is _ABSENT:
        absent = _takes_absence(spec[kind][endpoint][part])
        return [] if absent else [f"{part}: missing"]
    errors = _validator(namespace, kind, endpoint, part).iter_errors(value)
    return [f"{part}{error.json_path[1:]}: {error.message[:300]}" for error in errors]


@cache
def _validator(namespace: str, kind: str, endpoint: str, part: str) -> Any:
    return jsonschema.Draft7Validator(protocol(namespace)[kind][endpoint][part])


def _takes_absence(schema: dict[str, Any]) -> bool:
    # Absent is not null: {"not": {}} means absent, {} anything or nothing.
    return schema in ({}, {"not": {}}) or any(map(_takes_absence, schema.get("anyOf", ())))


class ContractChecker:
    """Collects what is wrong with the frames of any number of sockets."""

    available = PROTOCOL.is_dir()

    def __init__(self) -> None:
        self.violations: list[str] = []

    def socket(self, namespace: str) -> "SocketChecker":
        return SocketChecker(namespace, self.violations)


class SocketChecker:
    """Follows the frames of one socket, in the order in which the server sees them."""

    def __init__(self, namespace: str, violations: list[str]) -> None:
        self.namespace = namespace
        self._violations = violations
        self._authenticated = False
        self._calls: dict[int, str] = {}
        self._channels: dict[int, str] = {}
        self._unanswered: set[int] = set()
        self._open: set[int] = set()
        self._unacknowledged: set[tuple[int, int]] = set()

    def client_frame(self, frame: Any) -> None:
        """Check a frame that the client sent."""
        if not ContractChecker.available:
            return
        for problem in self._client_problems(frame):
            self._violations.append(f"client on /{self.namespace}: {problem}: {_short(frame)}")

    def server_frame(self, frame: Any) -> None:
        """Check a frame that the server sent."""
        if not ContractChecker.available:
            return
        for problem in self._server_problems(frame):
            self._violations.append(f"server on /{self.namespace}: {problem}: {_short(frame)}")

    def _client_problems(self, frame: Any) -> Iterator[str]:
        if not self._authenticated:
            self._authenticated = True
            yield from _authentication_problems(frame)
            return
        problems = _envelope_problems(frame, _CLIENT_FRAMES)
        if problems:
            yield from problems
            return
        match frame["type"]:
            case "rpcCall":
                call_id, endpoint = frame["callId"], frame["endpoint"]
                if call_id in self._calls:
                    yield f"callId {call_id} is used again"
                self._calls[call_id] = endpoint
                self._unanswered.add(call_id)
                parameter = frame.get("parameter", _ABSENT)
                yield from self._payload("rpc", endpoint, "parameter", parameter)
            case "channelCreate":
                channel_id, endpoint = frame["channelId"], frame["endpoint"]
                if channel_id in self._channels:
                    yield f"channelId {channel_id} is used again"
                self._channels[channel_id] = endpoint
                self._open.add(channel_id)
                parameter = frame.get("creationParameter", _ABSENT)
                yield from self._payload("channel", endpoint, "creationParameter", parameter)
            case "channelSend":
                # To a closed channel is no mistake: the close may have been under way.
                known = self._channels.get(frame["channelId"])
                if known is None:
                    yield "this channel was never created"
                else:
                    yield from self._payload("channel", known, "toServerPacket", frame["message"])
            case "channelAck":
                ack = (frame["channelId"], frame["ackId"])
                if ack not in self._unacknowledged:
                    yield "nothing asked for this acknowledgement"
                self._unacknowledged.discard(ack)

    def _server_problems(self, frame: Any) -> Iterator[str]:
        if isinstance(frame, dict) and "success" in frame and "type" not in frame:
            return
        problems = _envelope_problems(frame, _SERVER_FRAMES)
        if problems:
            yield from problems
            return
        match frame["type"]:
            case "rpcResult" | "rpcError":
                call_id = frame["callId"]
                if call_id not in self._unanswered:
                    yield "no call waits for this"
                self._unanswered.discard(call_id)
                endpoint = self._calls.get(call_id)
                if endpoint is not None and frame["type"] == "rpcResult":
                    result = frame.get("result", _ABSENT)
                    yield from self._payload("rpc", endpoint, "returns", result)
            case "channelSend":
                if frame["channelId"] not in self._open:
                    yield "the channel is not open"
                    return
                if "ackId" in frame:
                    self._unacknowledged.add((frame["channelId"], frame["ackId"]))
                endpoint = self._channels[frame["channelId"]]
                yield from self._payload("channel", endpoint, "toClientPacket", frame["message"])
            case "channelClose" | "channelError":
                if frame["channelId"] not in self._open:
                    yield "the channel is not open"
                self._open.discard(frame["channelId"])

    def _payload(self, kind: str, endpoint: str, part: str, value: Any) -> Iterator[str]:
        for error in schema_errors(self.namespace, kind, endpoint, part, value):
            yield f"{endpoint}: {error}"


def _authentication_problems(frame: Any) -> Iterator[str]:
    if not isinstance(frame, dict) or frame.get("authVersion") != 1:
        yield "the first frame is not an authentication of version 1"
        return
    secrets = {key: value for key, value in frame.items() if key != "authVersion"}
    if set(secrets) != {"clientIdentifier", "clientPasskey"}:
        yield "an authentication has exactly an identifier and a passkey"
    if not all(isinstance(value, str) and value for value in secrets.values()):
        yield "identifier and passkey must be text"


def _envelope_problems(frame: Any, known: dict[str, tuple[set[str], set[str]]]) -> list[str]:
    if not isinstance(frame, dict):
        return ["not an object"]
    if frame.get("type") not in known:
        return [f"there is no frame of type {frame.get('type')!r}"]
    required, optional = known[frame["type"]]
    keys = set(frame) - {"type"}
    problems = [f"{key} is missing" for key in sorted(required - keys)]
    problems += [f"{key} does not belong here" for key in sorted(keys - required - optional)]
    for key in ("callId", "channelId", "ackId"):
        # A bool is an int in Python, and 1.0 is one in JSON Schema.
        if key in frame and type(frame[key]) is not int:
            problems.append(f"{key} is not an integer")
    return problems


def _short(frame: Any) -> str:
    text = json.dumps(frame)
    return text if len(text) < 300 else text[:300] + "…"
