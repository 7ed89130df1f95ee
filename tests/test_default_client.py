"""The client that is simply there: one for each running event loop, gone when the loop ends."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
import trio
import uvloop

import lmstudio_async as lms
from lmstudio_async import default_client
from tests.scripted_server import ScriptedServer

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]


def run_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await main()

    return asyncio.run(run(), debug=True)


def run_uvloop(main: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def run_trio(main: Callable[[], Awaitable[T]]) -> T:
    result: T = trio.run(main)
    return result


RUNS = [
    pytest.param(run_asyncio, id="asyncio"),
    pytest.param(run_uvloop, id="uvloop"),
    pytest.param(run_trio, id="trio"),
]
on_every_loop = pytest.mark.parametrize("run", RUNS)


@pytest.fixture(autouse=True)
def configured(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Default clients use the scripted server; none is left after a test."""
    monkeypatch.setattr(default_client, "_api_host", server.api_host)
    for variable in ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    yield
    assert not default_client._clients


async def version() -> str:
    return (await lms.get_default_client().system.version()).version


@on_every_loop
def test_a_running_loop_has_one(run: Any, server: ScriptedServer) -> None:
    async def main() -> None:
        client = lms.get_default_client()
        assert isinstance(client, lms.Client)
        assert lms.get_default_client() is client
        assert await version() == "0.3.99"
        await version()

    run(main)
    server.wait_until(lambda: not server.open_sockets)
    assert server.upgrades == ["/system"]


@on_every_loop
def test_each_loop_has_its_own(run: Any, server: ScriptedServer) -> None:
    async def main() -> lms.Client:
        await version()
        return lms.get_default_client()

    first, second = run(main), run(main)
    assert first is not second
    for client in (first, second):
        assert "closed" in repr(client)
    assert server.upgrades == ["/system"] * 2


def test_threads_with_loops_of_their_own_have_clients_of_their_own(server: ScriptedServer) -> None:
    clients: list[lms.Client] = []
    everybody = threading.Barrier(len(RUNS), timeout=10)

    async def main() -> None:
        clients.append(lms.get_default_client())
        await version()
        await anyio.to_thread.run_sync(everybody.wait)
        assert lms.get_default_client() in clients
        await version()

    threads = [
        threading.Thread(target=run, args=(main,)) for run in (run_asyncio, run_uvloop, run_trio)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, clients))) == len(RUNS)
    assert server.upgrades == ["/system"] * len(RUNS)


def test_outside_a_loop_there_is_none() -> None:
    for function in (lms.get_default_client, lms.llm, lms.embedding_model):
        with pytest.raises(lms.LMStudioRuntimeError, match="needs a running event loop"):
            function()


@on_every_loop
def test_the_helpers_use_it(run: Any, server: ScriptedServer) -> None:
    async def main() -> None:
        async with lms.llm("llm-a", ttl=60, config={"contextLength": 99}) as model:
            assert str(await model.respond("Hello!")) == server.reply
            assert server.loaded["llm-a"]["ttlMs"] == 60_000
            assert await model.get_context_length() == 99
            assert (await lms.llm()).identifier == "llm-a"
            async with lms.embedding_model("embed-a") as embedder:
                loaded = await lms.list_loaded_models()
                assert {each.identifier for each in loaded} == {"llm-a", "embed-a"}
                (only,) = await lms.list_loaded_models("embedding")
                assert only.identifier == embedder.identifier
        assert server.loaded == {}
        assert len(await lms.list_downloaded_models()) == 3
        assert len(await lms.list_downloaded_models("llm")) == 2

    run(main)
    assert sorted(server.upgrades) == ["/embedding", "/llm", "/system"]


@on_every_loop
def test_a_model_that_was_awaited_stays_loaded_when_the_loop_ends(
    run: Any, server: ScriptedServer
) -> None:
    async def main() -> None:
        await lms.llm("llm-a")

    run(main)
    assert set(server.loaded) == {"llm-a"}


@on_every_loop
def test_a_scope_that_nobody_left_is_left_when_the_loop_ends(
    run: Any, server: ScriptedServer
) -> None:
    async def main() -> None:
        await lms.llm("llm-a").__aenter__()

    run(main)
    assert server.loaded == {}


def test_a_task_that_outlives_main_leaves_its_scope(server: ScriptedServer) -> None:
    tasks = []
    cleaned_up = []

    async def hold(entered: asyncio.Event) -> None:
        async with lms.llm("llm-a") as model:
            entered.set()
            try:
                await asyncio.sleep(3600)
            finally:
                cleaned_up.append(await model.count_tokens("a b"))

    async def main() -> None:
        entered = asyncio.Event()
        tasks.append(asyncio.create_task(hold(entered)))
        await entered.wait()

    run_asyncio(main)
    assert tasks[0].cancelled()
    assert cleaned_up == [2]
    assert server.loaded == {}
    assert server.count("unloadModel") == 1


def test_a_scope_that_is_being_left_when_main_ends_is_left_all_the_same(
    server: ScriptedServer,
) -> None:
    tasks = []

    async def hold() -> None:
        async with lms.llm("llm-a"):
            server.silence("getModelInfo")

    async def main() -> None:
        tasks.append(asyncio.create_task(hold()))
        await server.until("getModelInfo")
        server.unsilence("getModelInfo")

    run_asyncio(main)
    assert server.loaded == {}


@on_every_loop
def test_what_cannot_be_unloaded_when_the_loop_ends_is_logged(
    run: Any, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuse_unload()

    async def main() -> None:
        await lms.llm("llm-a").__aenter__()

    run(main)
    assert "closing the default client" in caplog.text
    assert "The model cannot be unloaded now" in caplog.text


def test_a_load_given_up_when_main_ends_leaves_nothing(server: ScriptedServer) -> None:
    server.hold_loads()
    tasks = []

    async def load() -> None:
        await lms.llm("llm-a")

    async def main() -> None:
        tasks.append(asyncio.create_task(load()))
        await server.until("getOrLoad")

    run_asyncio(main)
    server.wait_until(lambda: not server.running("getOrLoad"))
    server.release_loads()
    assert server.loaded == {}


def test_a_connection_just_made_when_main_ends_is_closed(server: ScriptedServer) -> None:
    async def main() -> None:
        client = lms.get_default_client()
        connection = await client._open.pool._connection("llm")
        # Cancelled before their first step, as asyncio.run() may do to tasks.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert not connection.closed

    run_asyncio(main)
    server.wait_until(lambda: not server.open_sockets)


@on_every_loop
def test_it_is_configured_before_it_is_used(
    run: Any, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_client, "_api_host", None)
    lms.configure_default_client(server.api_host)

    async def main() -> None:
        lms.configure_default_client(server.api_host)
        assert lms.get_default_client().api_host == server.api_host
        with pytest.raises(lms.LMStudioClientError, match="in use already"):
            lms.configure_default_client("elsewhere")
        with pytest.raises(lms.LMStudioClientError, match="in use already"):
            lms.get_default_client("elsewhere")
        assert lms.get_default_client().api_host == server.api_host

    run(main)
    lms.configure_default_client("elsewhere")


def test_it_may_be_configured_where_no_loop_runs_while_one_does_elsewhere(
    server: ScriptedServer,
) -> None:
    async def main() -> None:
        client = lms.get_default_client()
        await anyio.to_thread.run_sync(lms.configure_default_client, "elsewhere:99")
        assert lms.get_default_client() is client
        assert client.api_host == server.api_host

    async def later() -> None:
        assert lms.get_default_client().api_host == "elsewhere:99"

    run_asyncio(main)
    run_asyncio(later)


@on_every_loop
def test_the_first_use_may_configure_it(
    run: Any, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_client, "_api_host", None)

    async def main() -> None:
        assert lms.get_default_client(server.api_host).api_host == server.api_host
        await version()

    run(main)


@pytest.mark.parametrize("api_host", ["a b", "", 5, None])
def test_a_configuration_that_cannot_be_right_is_refused(
    api_host: Any, server: ScriptedServer
) -> None:
    with pytest.raises((lms.LMStudioValueError, lms.LMStudioTypeError), match="api_host"):
        lms.configure_default_client(api_host)
    assert default_client._api_host == server.api_host


SCRIPT = """
import asyncio, gc, logging, sys
import lmstudio_async as lms

logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that importing takes its time

async def main():
    lms.configure_default_client(sys.argv[2])
    model = await lms.llm("llm-a")
    stream = await model.respond_stream("Hello!")
    await anext(stream)
    await lms.list_downloaded_models()
    async with lms.embedding_model("embed-a") as embedder:
        print(len(await embedder.embed(["a", "b"])))

for _ in range(2):
    match sys.argv[1]:
        case "asyncio":
            asyncio.run(main())
        case "uvloop":
            import uvloop
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        case "trio":
            import trio
            trio.run(main)
    gc.collect()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_nothing_is_left_when_the_loop_ends(loop: str, server: ScriptedServer) -> None:
    server.endless_predictions = True
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, loop, server.api_host],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == "2\n2\n"
    server.wait_until(lambda: not server.predictions_running)
    assert set(server.loaded) == {"llm-a"}
