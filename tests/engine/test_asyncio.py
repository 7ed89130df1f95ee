"""asyncio as users have it: pytest-asyncio's fixtures, a web application, time-outs."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer
from tests.conftest import STARTER

pytestmark = [pytest.mark.asyncio, pytest.mark.engine]


@pytest_asyncio.fixture
async def client(engine: EmbeddedServer) -> AsyncIterator[lms.Client]:
    async with lms.Client(engine.api_host) as client:
        yield client


@pytest_asyncio.fixture
async def model(client: lms.Client) -> AsyncIterator[lms.LLM]:
    async with client.llm.model(STARTER) as model:
        yield model


async def test_a_client_is_a_fixture(model: lms.LLM, client: lms.Client) -> None:
    assert await model.count_tokens("Hello world") == 2
    assert [m.identifier for m in await client.llm.list_loaded()] == [model.identifier]


async def test_the_fixtures_cleaned_up(client: lms.Client, engine: EmbeddedServer) -> None:
    assert await client.list_loaded_models() == []
    assert engine.pids[1:] == []


async def test_asyncio_timeout_leaves_nothing_loaded(client: lms.Client) -> None:
    loading = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60) as bound:

            def expire(progress: float) -> None:
                bound.reschedule(asyncio.get_running_loop().time())
                loading.set()

            async with client.llm.model(STARTER, on_load_progress=expire):
                await asyncio.Event().wait()
    assert loading.is_set()
    async with client.llm.model(STARTER):
        pass
    assert await client.llm.list_loaded() == []


async def test_a_cancelled_task_unloads_before_it_ends(
    client: lms.Client, engine: EmbeddedServer
) -> None:
    entered = asyncio.Event()

    async def use() -> None:
        async with client.llm.model(STARTER):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # impatience does not interrupt the clean-up
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.pids[1:] == []


async def test_a_model_lives_as_long_as_a_web_application(engine: EmbeddedServer) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with lms.Client(engine.api_host) as client, client.llm.model(STARTER) as model:
            yield {"model": model}

    async def count(request: Request) -> JSONResponse:
        model: lms.LLM = request.state.model
        return JSONResponse({"tokens": await model.count_tokens(request.query_params["q"])})

    app = Starlette(routes=[Route("/count", count)], lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    # It accepts connections from now on; the first request waits for the application to start.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/count"
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listener]))
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, params={"q": "Hello world"}) as answer,
            ):
                assert await answer.json() == {"tokens": 2}
            assert len(engine.pids) == 2
            server.should_exit = True
    assert engine.pids[1:] == []
