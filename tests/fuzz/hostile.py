"""Frames as a hostile peer might send them: valid ones, bent."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.contract import protocol

NUMBERS = st.sampled_from([0, -1, 1.5, 2**31, 2**53, 2**63, 2**64, 2**70, 1e300, -1e300, 10**400])
TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        "\0",
        "../../etc/passwd",
        "x" * 5000,
        "\n",
        "$ref",
        "instanceReference",
        "query",
        "\U0001f4a9",
    ]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | NUMBERS
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
# What JSON cannot carry, or says twice, or hides.
GARBLED = st.sampled_from(
    [
        b"",
        b"\0",
        b"{",
        b"null",
        b"NaN",
        b"-",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"type":"keepAlive","type":"keepAliveAck"}',
        b'{"type":"rpcResult","callId":1e400}',
        b'{"type":"rpcResult","callId":' + b"9" * 5000 + b"}",
        b'{"type":"rpcError","callId":1,"error":{"title":"\\ud800"}}',
        b'{"type":"rpcError","callId":1,"error":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"type":"channelSend","channelId":2,"message":' + b"[" * 990 + b"]" * 990 + b"}",
        b'{"type":"rpcError","callId":1,"error":{"title":' + b"[" * 980 + b"]" * 980 + b"}}",
        b'{"type":"rpcError","callId":1,"error":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ]
)


def bent(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of which any part may be missing, doubled, or something else altogether."""
    return st.builds(_bend, valid, st.lists(st.tuples(st.integers(0, 40), JSON), max_size=3))


def _bend(value: Any, changes: list[tuple[int, Any]]) -> Any:
    holder = [json.loads(json.dumps(value))]
    for number, replacement in changes:
        places = list(_places(holder))
        container, key = places[number % len(places)]
        if number % 3 == 0 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = replacement
    return holder[0]


def _places(container: Any) -> Any:
    entries = container.items() if isinstance(container, dict) else enumerate(container)
    for key, value in list(entries):
        yield container, key
        if isinstance(value, dict | list):
            yield from _places(value)


def spoiled(frames: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Frames as bytes, some with a byte changed, cut off, or garbled from the start."""
    encoded = frames.map(lambda frame: json.dumps(frame).encode())
    cut = st.builds(lambda frame, at: frame[: at % (len(frame) + 1)], encoded, st.integers(0, 999))
    changed = st.builds(
        lambda frame, at, byte: (
            frame[: at % len(frame)] + bytes([byte]) + frame[at % len(frame) + 1 :]
        ),
        encoded,
        st.integers(0, 999),
        st.integers(0, 255),
    )
    return st.one_of(encoded, encoded, encoded, cut, changed, GARBLED, st.binary(max_size=30))


def setting_keys(prefix: str) -> list[str]:
    """Keys of the KV config that begin so, where the protocol's description is at hand."""
    return [one["key"] for one in protocol("kv-config-keys") or () if one["key"].startswith(prefix)]
