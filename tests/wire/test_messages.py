import json

import msgspec
import pytest
from msgspec import UNSET, Raw

from lmstudio_async.wire.messages import (
    Authentication,
    ChannelAck,
    ChannelClose,
    ChannelCreate,
    ChannelError,
    ChannelSend,
    CommunicationWarning,
    KeepAlive,
    KeepAliveAck,
    RpcCall,
    RpcError,
    RpcResult,
    authentication_decoder,
    authentication_result_decoder,
    decode_client_message,
    encode,
    frame_decoder,
    server_message_decoder,
)
from tests.wire.strategies import to_json

FROM_CLIENT = [
    (RpcCall("version", 1), {"type": "rpcCall", "endpoint": "version", "callId": 1}),
    (
        RpcCall("tokenize", 2, {"inputString": "a"}),
        {
            "type": "rpcCall",
            "endpoint": "tokenize",
            "callId": 2,
            "parameter": {"inputString": "a"},
        },
    ),
    (
        RpcCall("x", 3, None),
        {"type": "rpcCall", "endpoint": "x", "callId": 3, "parameter": None},
    ),
    (
        ChannelCreate("streamLogs", 4),
        {"type": "channelCreate", "endpoint": "streamLogs", "channelId": 4},
    ),
    (
        ChannelCreate("predict", 5, []),
        {"type": "channelCreate", "endpoint": "predict", "channelId": 5, "creationParameter": []},
    ),
    (
        ChannelSend(5, {"type": "cancel"}),
        {"type": "channelSend", "channelId": 5, "message": {"type": "cancel"}},
    ),
    (
        ChannelSend(5, 1, ack_id=7),
        {"type": "channelSend", "channelId": 5, "message": 1, "ackId": 7},
    ),
    (ChannelAck(5, 8), {"type": "channelAck", "channelId": 5, "ackId": 8}),
    (KeepAlive(), {"type": "keepAlive"}),
    (CommunicationWarning("what?"), {"type": "communicationWarning", "warning": "what?"}),
]
FROM_SERVER = [
    (RpcResult(1), {"type": "rpcResult", "callId": 1}),
    (RpcResult(1, None), {"type": "rpcResult", "callId": 1, "result": None}),
    (RpcResult(1, [0]), {"type": "rpcResult", "callId": 1, "result": [0]}),
    (RpcError(1, {"title": "no"}), {"type": "rpcError", "callId": 1, "error": {"title": "no"}}),
    (ChannelSend(5, [1]), {"type": "channelSend", "channelId": 5, "message": [1]}),
    (ChannelAck(5, 8), {"type": "channelAck", "channelId": 5, "ackId": 8}),
    (ChannelClose(5), {"type": "channelClose", "channelId": 5}),
    (
        ChannelError(5, {"title": "no"}),
        {"type": "channelError", "channelId": 5, "error": {"title": "no"}},
    ),
    (KeepAliveAck(), {"type": "keepAliveAck"}),
    (
        CommunicationWarning("what?", "unknown"),
        {"type": "communicationWarning", "warning": "what?", "kind": "unknown"},
    ),
]

decode_server_message = server_message_decoder(Raw).decode


@pytest.mark.parametrize(("message", "frame"), FROM_CLIENT)
def test_a_frame_from_the_client(message: msgspec.Struct, frame: object) -> None:
    assert to_json(message) == frame
    assert to_json(decode_client_message.decode(encode(message))) == frame


@pytest.mark.parametrize(("message", "frame"), FROM_SERVER)
def test_a_frame_from_the_server(message: msgspec.Struct, frame: object) -> None:
    assert to_json(message) == frame
    assert to_json(decode_server_message(encode(message))) == frame


def test_payloads_stay_undecoded() -> None:
    message = decode_server_message(b'{"type":"rpcResult","result":{"a" : 1},"callId":3}')
    assert isinstance(message, RpcResult)
    assert isinstance(message.result, Raw)
    assert bytes(message.result) == b'{"a" : 1}'


@pytest.mark.parametrize(("result", "is_absent"), [("", True), (',"result":null', False)])
def test_an_absent_result_is_not_null(result: str, is_absent: bool) -> None:
    message = decode_server_message(f'{{"type":"rpcResult","callId":3{result}}}'.encode())
    assert isinstance(message, RpcResult)
    assert (message.result is UNSET) is is_absent


@pytest.mark.parametrize(("parameter", "is_absent"), [("", True), (',"parameter":null', False)])
def test_an_absent_parameter_is_not_null(parameter: str, is_absent: bool) -> None:
    frame = f'{{"type":"rpcCall","endpoint":"x","callId":3{parameter}}}'
    message = decode_client_message.decode(frame.encode())
    assert isinstance(message, RpcCall)
    assert (message.parameter is UNSET) is is_absent


@pytest.mark.parametrize("frame", [frame for _, frame in FROM_SERVER])
def test_unknown_fields_are_ignored(frame: dict[str, object]) -> None:
    decoded = decode_server_message(json.dumps(frame | {"fromTheFuture": [1]}).encode())
    assert to_json(decoded) == frame


def test_an_unknown_type_differs_from_a_malformed_frame() -> None:
    future = b'{"type":"signalUpdate","subscribeId":1,"patches":[]}'
    with pytest.raises(msgspec.ValidationError):
        decode_server_message(future)
    assert frame_decoder.decode(future).type == "signalUpdate"
    for malformed in (b'{"type":"rpcResult"}', b'{"type":"rpcResult","callId":"1"}'):
        with pytest.raises(msgspec.ValidationError):
            decode_server_message(malformed)
        assert frame_decoder.decode(malformed).type == "rpcResult"
    with pytest.raises(msgspec.DecodeError):
        frame_decoder.decode(b"{")


def test_authentication() -> None:
    authentication = Authentication("guest:1", "secret")
    frame = {"clientIdentifier": "guest:1", "clientPasskey": "secret", "authVersion": 1}
    assert to_json(authentication) == frame
    assert authentication_decoder.decode(encode(authentication)) == authentication


def test_secrets_do_not_show() -> None:
    authentication = Authentication("the-identifier", "the-passkey")
    for text in (repr(authentication), str(authentication), f"{[authentication]}"):
        assert "the-" not in text


@pytest.mark.parametrize(
    ("frame", "success", "error"),
    [(b'{"success":true}', True, None), (b'{"success":false,"error":"no"}', False, "no")],
)
def test_the_answer_to_authentication(frame: bytes, success: bool, error: str | None) -> None:
    result = authentication_result_decoder.decode(frame)
    assert (result.success, result.error) == (success, error)
    assert encode(result) == frame
