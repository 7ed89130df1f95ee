"""What the replay server sends, encoded ahead of time, in the shapes that LM Studio sends."""

import json
import random
import struct
from typing import Any

LLM_KEY = "bench-llm"
EMBEDDING_KEY = "bench-embedding"
WORDS = (
    *(" the", " model", " answers", ",", " a", " word", " at", " a", " time", " and", " some"),
    *(" are", " longer", " than", " others", "."),
)
_TEXT = 0x81  # a whole text frame


def frame(payload: bytes) -> bytes:
    """A WebSocket text frame, unmasked as servers send them."""
    length = len(payload)
    if length < 126:
        return bytes((_TEXT, length)) + payload
    if length < 65536:
        return struct.pack("!BBH", _TEXT, 126, length) + payload
    return struct.pack("!BBQ", _TEXT, 127, length) + payload


def encode(message: Any) -> bytes:
    return frame(json.dumps(message, separators=(",", ":")).encode())


def channel_send(channel_id: int, packet: Any) -> bytes:
    return encode({"type": "channelSend", "channelId": channel_id, "message": packet})


def channel_close(channel_id: int) -> bytes:
    return encode({"type": "channelClose", "channelId": channel_id})


def rpc_result(call_id: int, result: bytes) -> bytes:
    return frame(b'{"type":"rpcResult","callId":%d,"result":%b}' % (call_id, result))


def fragment(channel_id: int, number: int) -> bytes:
    packet = _FRAGMENTS[number % len(_FRAGMENTS)]
    return frame(b'{"type":"channelSend","channelId":%d,"message":%b}' % (channel_id, packet))


def prompt_processed(channel_id: int) -> bytes:
    details = {
        "cachedTokenCount": 0,
        "totalPromptTokenCount": 9,
        "processedPromptTokenCount": 9,
        "unprocessedPromptTokenCount": 0,
    }
    packet = {"type": "promptProcessingProgress", "progress": 1, "details": details}
    return channel_send(channel_id, packet)


def success(channel_id: int, fragments: int) -> bytes:
    return channel_send(
        channel_id,
        {
            "type": "success",
            "stats": {
                "stopReason": "eosFound",
                "tokensPerSecond": 50.5,
                "numGpuLayers": -1,
                "timeToFirstTokenSec": 0.021,
                "totalTimeSec": 1.5,
                "promptTokensCount": 9,
                "predictedTokensCount": fragments,
                "totalTokensCount": 9 + fragments,
            },
            "modelInfo": INSTANCES["llm"],
            "loadModelConfig": {"fields": [{"key": "llm.load.contextLength", "value": 8192}]},
            "predictionConfig": {"fields": [{"key": "llm.prediction.temperature", "value": 0.8}]},
        },
    )


def _instance(key: str, kind: str) -> dict[str, Any]:
    info: dict[str, Any] = {
        "type": kind,
        "modelKey": key,
        "format": "gguf",
        "displayName": "Bench",
        "publisher": "benchmarks",
        "path": f"benchmarks/{key}/{key}-Q4_K_M.gguf",
        "sizeBytes": 1_000_000,
        "indexedModelIdentifier": f"benchmarks/{key}",
        "deviceIdentifier": None,
        "paramsString": "1B",
        "architecture": "llama" if kind == "llm" else "nomic-bert",
        "quantization": {"name": "Q4_K_M", "bits": 4},
        "maxContextLength": 8192,
        "identifier": key,
        "instanceReference": f"{key}-reference",
        "ttlMs": None,
        "lastUsedTime": 1_700_000_000_000,
        "contextLength": 8192,
    }
    if kind == "llm":
        info |= {"vision": False, "trainedForToolUse": True}
    return info


INSTANCES = {
    "llm": _instance(LLM_KEY, "llm"),
    "embedding": _instance(EMBEDDING_KEY, "embedding"),
}


def _embedding(dimensions: int) -> list[float]:
    # What an engine computes are 32-bit floats, which JavaScript prints as doubles.
    numbers = random.Random(0)
    exact = (numbers.gauss(0, dimensions**-0.5) for _ in range(dimensions))
    return list(struct.unpack(f"{dimensions}f", struct.pack(f"{dimensions}f", *exact)))


def _dump(result: Any) -> bytes:
    return json.dumps(result, separators=(",", ":")).encode()


_FRAGMENTS = [
    _dump(
        {
            "type": "fragment",
            "fragment": {
                "content": word,
                "tokensCount": 1,
                "containsDrafted": False,
                "reasoningType": "none",
                "isStructural": False,
            },
        }
    )
    for word in WORDS
]
TOKENS = _dump({"tokens": [9906, 1917, 11, 358, 1097, 264, 3488, 315, 220, 4278, 13, 128009]})
EMBEDDING = _dump({"embedding": _embedding(768)})
LOADED = {kind: _dump([info]) for kind, info in INSTANCES.items()}
INFO = {kind: _dump(info) for kind, info in INSTANCES.items()}
VERSION = _dump({"version": "0.3.99", "build": 1})
