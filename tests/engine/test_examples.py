"""The examples do what they say, on a real model."""

import asyncio
import functools
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import uvicorn

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer
from tests.conftest import STARTER

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str, typed: str = "") -> str:
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", *arguments],
        input=typed,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_demo_shows_the_memory_come_back() -> None:
    lines = run("demo").splitlines()
    memory = {line.split()[0]: line.split() for line in lines if " MB " in line}
    assert memory["before"][1] == memory["after"][1] == "1"
    assert memory["loaded"][1] == "2"
    before, loaded, after = (float(memory[when][3]) for when in ("before", "loaded", "after"))
    assert loaded > before + 98
    assert after < before + 5


def test_a_chat_answers_until_its_end(engine: EmbeddedServer) -> None:
    out = run(
        *("chat", "--api-host", engine.api_host, "--model", STARTER),
        typed="Say hello.\nAnd now say goodbye.\n",
    )
    assert out.count("> ") == 3
    assert len(out) > 100
    assert engine.pids[1:] == []


def test_the_agent_ends_its_task(engine: EmbeddedServer) -> None:
    out = run("trio_agent", "--api-host", engine.api_host, "--model", STARTER)
    assert " rounds in " in out
    assert engine.pids[1:] == []


@pytest.mark.asyncio
async def test_the_web_app_stops_generating_when_the_browser_goes_away(
    engine: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_HOST", engine.api_host)
    monkeypatch.setenv("MODEL", STARTER)
    from examples.web_app import app

    # An answer without an end, so that only stopping it ends it: the end-of-turn token is banned.
    bias = {"key": "llm.prediction.llama.logitBias", "value": [[2, -1000]]}
    endless = {"contextOverflowPolicy": "rollingWindow", "raw": {"fields": [bias]}}
    respond_stream = functools.partialmethod(lms.LLM.respond_stream, config=endless)
    monkeypatch.setattr(lms.LLM, "respond_stream", respond_stream)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/ask"
        async with asyncio.TaskGroup() as group, asyncio.timeout(60):
            group.create_task(server.serve([listener]))
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, params={"q": "Write a very long story."}) as answer,
            ):
                assert await answer.content.readany()
                answer.close()  # the browser is gone in the middle of the answer
            async with lms.Client(engine.api_host) as client:
                [model] = await client.llm.list_loaded()
                while (await model.get_processing_state()).status != "idle":
                    pass  # the server has no event to wait for
            server.should_exit = True
    assert engine.pids[1:] == []
