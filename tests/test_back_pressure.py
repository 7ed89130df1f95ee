"""Streams that are not read as fast as they come."""

import anyio
import pytest
from msgspec import Raw

import lmstudio_async as lms
from lmstudio_async.exchanges import HIGH_WATER_MARK, Channel
from lmstudio_async.transport import current_backend
from tests.scripted_server import ScriptedServer, fragment_packet

pytestmark = pytest.mark.anyio


async def test_unread_fragments_do_not_delay_a_call(
    server: ScriptedServer, client: lms.Client
) -> None:
    server._check_frames = False  # ten thousand frames alike
    server.script_prediction(*[fragment_packet(f"{number} ") for number in range(10_000)])
    async with client.llm.model("llm-a") as model:
        unread = await model.respond_stream("Hello")
        await server.until(lambda: server.fragments_sent == 10_000)
        assert await model.tokenize("Hello")
        read = [fragment.content async for fragment in unread]
    assert read == [f"{number} " for number in range(10_000)]
    assert unread.result().stats.stop_reason == "eosFound"


async def test_a_stream_that_is_not_read_is_stopped_and_harms_no_other(
    server: ScriptedServer, client: lms.Client
) -> None:
    server._check_frames = False
    chunk = "x" * 2**18
    server.script_prediction(*[fragment_packet(chunk)] * (2 * HIGH_WATER_MARK // 2**18))
    async with client.llm.model("llm-a") as model:
        unread = await model.respond_stream("Hello")
        await server.until(lambda: server.cancels == ["predict"])
        assert (await model.respond("Hello")).content == server.reply
        read: list[str] = []
        with pytest.raises(lms.LMStudioSlowReaderError, match="more than 16 MiB") as caught:
            while True:
                read.append((await anext(unread)).content)
    assert read == [chunk] * len(read)
    assert len(read) > 50
    assert str(caught.value).startswith("a response of 'llm-a': ")
    assert server.cancels == ["predict"]


@pytest.mark.parametrize("how", ["anext", "async for"])
async def test_two_tasks_cannot_read_one_stream(
    server: ScriptedServer, client: lms.Client, how: str
) -> None:
    server.hold_predictions(after=0)
    async with client.llm.model("llm-a") as model:
        stream = await model.respond_stream("Hello")
        first: list[str] = []

        async def read() -> None:
            first.extend([fragment.content async for fragment in stream])

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(lms.LMStudioRuntimeError, match="another task is reading"):
                if how == "anext":
                    await anext(stream)
                else:
                    async for _ in stream:
                        pytest.fail("two read")
            server.release_predictions()
    assert "".join(first) == server.reply
    assert server.cancels == []


async def test_a_large_packet_that_is_waited_for_is_no_slow_reader(
    server: ScriptedServer, client: lms.Client
) -> None:
    server._check_frames = False
    chunk = "x" * (HIGH_WATER_MARK + 1)
    server.script_prediction(fragment_packet(chunk))
    async with client.llm.model("llm-a") as model:
        assert (await model.respond("Hello")).content == chunk


async def test_a_packet_that_another_task_has_taken_is_not_the_end() -> None:
    backend = current_backend()
    channel = Channel(1, "predict", "asked", None, backend.clock(), backend.wakeup())
    received: list[Raw | None] = []

    async def receive() -> None:
        received.append(await channel.receive())

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        channel.add(Raw(b"1"), backend.clock())
        channel.packets.popleft()
        await anyio.wait_all_tasks_blocked()
        channel.add(Raw(b"2"), backend.clock())
    assert received == [Raw(b"2")]
