"""The least on asyncio: aiohttp's WebSocket and msgspec, in one loop."""

import aiohttp
import anyio
from aiohttp import WSMsgType

from benchmarks.programs import floor_types as wire
from benchmarks.programs.meter import Meter, arguments, prompt

options = arguments()
meter = Meter(options)


async def stream(socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
    request = wire.predict(1, prompt(options))
    await socket.send_frame(request, WSMsgType.TEXT)
    wire.decode((await socket.receive()).data)  # the prompt is processed
    pieces: list[str] = []
    meter.start()
    await socket.send_frame(wire.tokenize(2, "go"), WSMsgType.TEXT)
    while True:
        message = wire.decode((await socket.receive()).data)
        if isinstance(message, wire.ChannelSend) and isinstance(
            message.message, wire.FragmentPacket
        ):
            pieces.append(message.message.fragment.content)
            if len(pieces) == options.count:
                break
    meter.stop()


async def calls(socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
    meter.start()
    for call_id in range(options.count):
        await socket.send_frame(wire.tokenize(call_id, "Hello world, I am a test."), WSMsgType.TEXT)
        answer = wire.decode((await socket.receive()).data)
        assert isinstance(answer, wire.RpcResult)
        assert answer.call_id == call_id
        assert answer.result.tokens
    meter.stop()


async def embed(socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
    meter.start()
    for call_id in range(options.count):
        await socket.send_frame(wire.embed(call_id, "Hello world, I am a test."), WSMsgType.TEXT)
        answer = wire.decode((await socket.receive()).data)
        assert isinstance(answer, wire.RpcResult)
        assert answer.call_id == call_id
        assert len(answer.result.embedding) == 768
    meter.stop()


async def main() -> None:
    namespace = "embedding" if options.workload == "embed" else "llm"
    workload = {"stream": stream, "calls": calls, "embed": embed}[options.workload]
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"ws://{options.address}/{namespace}", decode_text=False, max_msg_size=2**26
        ) as socket,
    ):
        await socket.send_frame(wire.AUTHENTICATION, WSMsgType.TEXT)
        await socket.receive()
        await workload(socket)
    meter.report()


if __name__ == "__main__":
    anyio.run(main, backend_options={"use_uvloop": options.loop == "uvloop"})
