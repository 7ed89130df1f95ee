"""The least on trio: `websockets`' Sans-I/O protocol over a trio stream, and msgspec."""

import trio
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from benchmarks.programs import floor_types as wire
from benchmarks.programs.meter import Meter, arguments, prompt

options = arguments()
meter = Meter(options)


async def receive(stream: trio.SocketStream, protocol: ClientProtocol) -> list[Frame]:
    """The frames that have come, at least one."""
    while True:
        protocol.receive_data(await stream.receive_some())
        frames = [event for event in protocol.events_received() if isinstance(event, Frame)]
        if frames:
            return frames


async def send(stream: trio.SocketStream, protocol: ClientProtocol, frame: bytes) -> None:
    protocol.send_text(frame)
    await stream.send_all(b"".join(protocol.data_to_send()))


async def stream(stream: trio.SocketStream, protocol: ClientProtocol) -> None:
    request = wire.predict(1, prompt(options))
    await send(stream, protocol, request)
    await receive(stream, protocol)  # the prompt is processed
    pieces: list[str] = []
    meter.start()
    await send(stream, protocol, wire.tokenize(2, "go"))
    while len(pieces) < options.count:
        for frame in await receive(stream, protocol):
            message = wire.decode(frame.data)
            if isinstance(message, wire.ChannelSend) and isinstance(
                message.message, wire.FragmentPacket
            ):
                pieces.append(message.message.fragment.content)
    meter.stop()


async def calls(stream: trio.SocketStream, protocol: ClientProtocol) -> None:
    meter.start()
    for call_id in range(options.count):
        await send(stream, protocol, wire.tokenize(call_id, "Hello world, I am a test."))
        for frame in await receive(stream, protocol):
            answer = wire.decode(frame.data)
            assert isinstance(answer, wire.RpcResult)
            assert answer.call_id == call_id
            assert answer.result.tokens
    meter.stop()


async def main() -> None:
    uri = parse_uri(f"ws://{options.address}/llm")
    connection = await trio.open_tcp_stream(uri.host, uri.port)
    protocol = ClientProtocol(uri, max_size=2**26)
    protocol.send_request(protocol.connect())
    await connection.send_all(b"".join(protocol.data_to_send()))
    while protocol.state is State.CONNECTING:
        protocol.receive_data(await connection.receive_some())
    protocol.events_received()
    await send(connection, protocol, wire.AUTHENTICATION)
    await receive(connection, protocol)
    await {"stream": stream, "calls": calls}[options.workload](connection, protocol)
    meter.report()
    await connection.aclose()


if __name__ == "__main__":
    trio.run(main)
