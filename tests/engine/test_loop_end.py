"""What is left when an event loop, or a client, ends."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
import trio

import lmstudio_async as lms
from lmstudio_async import default_client
from lmstudio_async.embedded import EmbeddedServer
from tests.conftest import STARTER

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def configured(engine: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(default_client, "_api_host", engine.api_host)
    yield
    assert engine.pids[1:] == []


def test_the_default_client_serves_until_its_loop_ends(engine: EmbeddedServer) -> None:
    async def main() -> None:
        async with lms.llm(STARTER) as model:
            assert await model.count_tokens("Hello world") == 2
        assert await lms.list_loaded_models() == []

    asyncio.run(main(), debug=True)
    trio.run(main)


def test_a_task_cut_off_by_the_end_of_its_loop_unloads(engine: EmbeddedServer) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def hold() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                async with lms.llm(STARTER):
                    entered.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await entered.wait()
        assert not task.done()

    asyncio.run(main(), debug=True)


def test_an_awaited_model_outlives_its_client(engine: EmbeddedServer) -> None:
    async def abandon() -> None:
        async with lms.Client(engine.api_host) as client:
            model = await client.llm.model(STARTER, ttl=30)
            assert model.info.ttl_ms == 30_000

    async def clean_up() -> None:
        async with lms.Client(engine.api_host) as client:
            await client.llm.unload(STARTER)

    asyncio.run(abandon())
    assert len(engine.pids) == 2
    asyncio.run(clean_up())
