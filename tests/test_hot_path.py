"""How many Python functions run for each fragment, call and embedding.

Time depends on the machine, this does not: calls of our functions and of anyio's are counted, with
a WebSocket in memory that hands out encoded frames. A coroutine counts each time it goes on.
"""

import asyncio
import gc
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import msgspec
import pytest
import trio

import lmstudio_async as lms
from benchmarks import replay_frames
from lmstudio_async.transport import current_backend

pytestmark = pytest.mark.anyio

# The budgets. Whoever needs more, pays with everybody's time; whoever needs less, lowers them.
PER_FRAGMENT_OF_MANY = 7
PER_FRAGMENT_ALONE = 21
PER_CALL = 35
PER_EMBEDDING = 35

# What the event loops themselves do differs from version to version.
COUNTED = {"lmstudio_async", "anyio", "sniffio"}


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"debug": False}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class MemorySocket:
    """Answers as LM Studio does. With `pauses`, a frame comes when the last one is dealt with."""

    pauses = False

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._on_trio = trio.lowlevel.in_trio_task()
        self._sent: asyncio.Event | trio.Event
        self._kind = ""
        self._await_frames()

    async def send(self, frame: bytes) -> None:
        self._frames += self._answer(msgspec.json.decode(frame))
        self._sent.set()

    async def receive(self) -> bytes:
        if self.pauses:
            # Twice, since trio runs what is ready in any order.
            for _ in range(2):
                if self._on_trio:
                    await trio.lowlevel.checkpoint()
                else:
                    await asyncio.sleep(0)
        while not self._frames:
            self._await_frames()
            await self._sent.wait()
        return self._frames.popleft()

    async def receive_all(self, take: Callable[[bytes], bytes | None]) -> None:
        while True:
            take(await self.receive())

    async def aclose(self) -> None:
        pass

    def _await_frames(self) -> None:
        self._sent = trio.Event() if self._on_trio else asyncio.Event()

    def _answer(self, message: Any) -> list[bytes]:
        match message:
            case {"authVersion": 1}:
                return [b'{"success":true}']
            case {"endpoint": "getOrLoad", "channelId": channel_id, "creationParameter": parameter}:
                kind = parameter["identifier"].removeprefix("bench-")
                packet = {"type": "alreadyLoaded", "info": replay_frames.INSTANCES[kind]}
                return [
                    _payload(replay_frames.channel_send(channel_id, packet)),
                    _payload(replay_frames.channel_close(channel_id)),
                ]
            case {"endpoint": "predict", "channelId": channel_id, "creationParameter": parameter}:
                count = int(parameter["history"]["messages"][0]["content"][0]["text"])
                return [
                    *(_payload(replay_frames.fragment(channel_id, n)) for n in range(count)),
                    _payload(replay_frames.success(channel_id, count)),
                    _payload(replay_frames.channel_close(channel_id)),
                ]
            case {"endpoint": "tokenize", "callId": call_id}:
                return [_payload(replay_frames.rpc_result(call_id, replay_frames.TOKENS))]
            case {"endpoint": "embedString", "callId": call_id}:
                return [_payload(replay_frames.rpc_result(call_id, replay_frames.EMBEDDING))]
        raise AssertionError(f"not expected: {message}")


def _payload(frame: bytes) -> bytes:
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


@pytest.fixture
async def client(anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    async def connect(self: object, url: str, server: str) -> MemorySocket:
        return MemorySocket()

    monkeypatch.setattr(type(current_backend()), "connect", connect)
    async with lms.Client("localhost:1234") as client:
        yield client


async def calls_per_item(work: Callable[[int], Awaitable[object]]) -> float:
    """Calls for each item, of which `work` does as many as it is told. Prints where they go."""
    await work(10)
    few, many = await _count(work, 100), await _count(work, 600)
    many.subtract(few)
    for name, count in many.most_common():
        if count:
            print(f"{count / 500:6.2f} {name}")
    print(f"{many.total() / 500:6.2f} in all")
    return round(many.total() / 500, 1)  # now and then trio's order costs a call more


async def _count(work: Callable[[int], Awaitable[object]], items: int) -> "Counter[str]":
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        module = frame.f_globals["__name__"]
        function = frame.f_code.co_qualname
        # The test itself is a coroutine too, of anyio's pytest plugin.
        if event == "call" and module.partition(".")[0] in COUNTED and "TestRunner" not in function:
            counts[f"{module}.{function}"] += 1

    gc.collect()
    gc.disable()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        await work(items)
    finally:
        sys.setprofile(before)
        gc.enable()
    return counts


@pytest.mark.parametrize(
    ("pauses", "budget"), [(False, PER_FRAGMENT_OF_MANY), (True, PER_FRAGMENT_ALONE)]
)
async def test_calls_for_a_fragment(
    client: lms.Client, monkeypatch: pytest.MonkeyPatch, pauses: bool, budget: int
) -> None:
    monkeypatch.setattr(MemorySocket, "pauses", pauses)
    model = await client.llm.model("bench-llm")

    async def stream(count: int) -> None:
        received = 0
        async for _ in model.respond_stream(str(count)):
            received += 1
        assert received == count

    assert await calls_per_item(stream) <= budget


async def test_calls_for_a_call(client: lms.Client) -> None:
    model = await client.llm.model("bench-llm")

    async def calls(count: int) -> None:
        for _ in range(count):
            assert len(await model.tokenize("Hello")) == 12

    assert await calls_per_item(calls) <= PER_CALL


async def test_calls_for_an_embedding(client: lms.Client) -> None:
    model = await client.embedding.model("bench-embedding")

    async def embed(count: int) -> None:
        for _ in range(count):
            assert len(await model.embed("Hello")) == 768

    assert await calls_per_item(embed) <= PER_EMBEDDING
