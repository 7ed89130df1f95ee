"""The protocol as the floors need it: no more than what they send and receive.

One decoding takes a frame into its types, payload and all, which a client that serves calls and
streams of several kinds on one socket cannot do.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from benchmarks.replay_frames import EMBEDDING_KEY, LLM_KEY


class Fragment(Struct, rename="camel"):
    content: str
    tokens_count: int
    contains_drafted: bool
    reasoning_type: Literal["none", "reasoning", "reasoningStartTag", "reasoningEndTag"]
    is_structural: bool


class FragmentPacket(Struct, tag="fragment"):
    fragment: Fragment


class ProgressPacket(Struct, tag="promptProcessingProgress"):
    progress: float


class SuccessPacket(Struct, tag="success"):
    stats: dict[str, object]


class ChannelSend(Struct, tag="channelSend", rename="camel"):
    channel_id: int
    message: FragmentPacket | ProgressPacket | SuccessPacket


class ChannelClose(Struct, tag="channelClose", rename="camel"):
    channel_id: int


class Result(Struct):
    tokens: list[int] = []
    embedding: list[float] = []


class RpcResult(Struct, tag="rpcResult", rename="camel"):
    call_id: int
    result: Result


class Specifier(Struct, tag="instanceReference", rename="camel"):
    instance_reference: str


class TokenizeParameter(Struct, rename="camel"):
    specifier: Specifier
    input_string: str


class EmbedParameter(Struct, rename="camel"):
    model_specifier: Specifier
    input_string: str


class RpcCall(Struct, tag="rpcCall", rename="camel"):
    endpoint: str
    call_id: int
    parameter: TokenizeParameter | EmbedParameter


decode = msgspec.json.Decoder(ChannelSend | ChannelClose | RpcResult).decode
encode = msgspec.json.Encoder().encode

AUTHENTICATION = encode(
    {"authVersion": 1, "clientIdentifier": "guest:floor", "clientPasskey": "floor"}
)
LLM = Specifier(f"{LLM_KEY}-reference")
EMBEDDING = Specifier(f"{EMBEDDING_KEY}-reference")


def tokenize(call_id: int, text: str) -> bytes:
    return encode(RpcCall("tokenize", call_id, TokenizeParameter(LLM, text)))


def embed(call_id: int, text: str) -> bytes:
    return encode(RpcCall("embedString", call_id, EmbedParameter(EMBEDDING, text)))


def predict(channel_id: int, text: str) -> bytes:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    return encode(
        {
            "type": "channelCreate",
            "endpoint": "predict",
            "channelId": channel_id,
            "creationParameter": {
                "modelSpecifier": LLM,
                "history": {"messages": [message]},
                "predictionConfigStack": {"layers": []},
            },
        }
    )
