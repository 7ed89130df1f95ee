"""Streams that are not read as fast as they come."""

import anyio
import pytest

import lmstudio_async as lms
from lmstudio_async.exchanges import HIGH_WATER_MARK
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
