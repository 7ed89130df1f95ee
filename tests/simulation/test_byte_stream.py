"""The WebSocket on trio over a stream of bytes, divided and cut at every byte.

The simulation replaces whole sockets, so this is the only place where it meets half a frame.
"""

from functools import partial

import trio
import trio.testing
from websockets.client import ClientProtocol
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from lmstudio_async.errors import LMStudioWebsocketError
from lmstudio_async.transport._trio import _TrioWebSocket

FRAMES = [b'{"type":"keepAliveAck"}', b"{}", b'"' + 130 * b"x" + b'"']


async def _serve(stream: trio.abc.Stream, at: int, *, cut: bool, sent: list[int]) -> None:
    """Shake hands and send the frames, in two pieces, or only the first of them."""
    protocol = ServerProtocol()
    while not (events := protocol.events_received()):
        protocol.receive_data(await stream.receive_some())
    assert isinstance(events[0], Request)
    protocol.send_response(protocol.accept(events[0]))
    for frame in FRAMES:
        protocol.send_text(frame)
    data = b"".join(protocol.data_to_send())
    sent.append(len(data))
    if at:
        await stream.send_all(data[:at])
    await trio.testing.wait_all_tasks_blocked()
    if not cut and data[at:]:
        await stream.send_all(data[at:])
    await stream.aclose()


async def _receive(at: int, *, cut: bool) -> tuple[list[bytes], int]:
    """What the client receives until the connection is lost, and how many bytes there were."""
    ours, theirs = trio.testing.memory_stream_pair()
    socket = _TrioWebSocket(ours, ClientProtocol(parse_uri("ws://simulated/llm")), "simulated")
    received: list[bytes] = []
    sent: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: _serve(theirs, at, cut=cut, sent=sent))
        try:
            await socket.handshake()
            while True:
                received.append(await socket.receive())
        except LMStudioWebsocketError:
            await socket.aclose()
    return received, sent[0]


def test_frames_divided_at_any_byte_arrive() -> None:
    _, length = trio.run(partial(_receive, 0, cut=False))
    for at in range(length + 1):
        received, _ = trio.run(partial(_receive, at, cut=False))
        assert received == FRAMES, at


def test_a_connection_cut_at_any_byte_is_lost_after_the_frames_that_were_whole() -> None:
    _, length = trio.run(partial(_receive, 0, cut=False))
    counts = []
    for at in range(length + 1):
        received, _ = trio.run(partial(_receive, at, cut=True))
        assert received == FRAMES[: len(received)], at
        counts.append(len(received))
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3}
