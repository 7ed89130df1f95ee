"""The server and its workers as processes: how they begin, and that they always end."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import psutil
import pytest
import trio

from lmstudio_async.embedded import EmbeddedServer, launcher
from lmstudio_async.errors import LMStudioClientError, LMStudioRuntimeError

from .conftest import Connect
from .raw import (
    STARTER,
    RawSocket,
    Refused,
    at_most,
    connected,
    prediction,
    stack,
)

MiB = 2**20


def gone_within(pids: list[int], seconds: float) -> float:
    """How long it took until these processes had ended."""
    start = time.monotonic()
    while any(map(is_running, pids)):
        assert time.monotonic() - start < seconds, f"still there after {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def run_cli(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return run("-m", "lmstudio_async", *arguments, **environment)


async def use(server: EmbeddedServer) -> None:
    """Talk to the server; on any event loop."""
    host, port = server.api_host.split(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(b"GET /lmstudio-greeting HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await stream.receive()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_on_every_event_loop(models_dir: Path, loop: str) -> None:
    async def main() -> list[int]:
        async with EmbeddedServer(models_dir) as server:
            await use(server)
            return server.pids

    if loop == "trio":
        pids = trio.run(main)
    else:
        pids = anyio.run(main, backend_options={"use_uvloop": loop == "uvloop"})
    assert len(pids) == 1
    gone_within(pids, 0.5)


def test_synchronously(models_dir: Path) -> None:
    server = EmbeddedServer(models_dir)
    with server:
        pids = server.pids
        with pytest.raises(LMStudioRuntimeError, match="already"):
            server._start()
    gone_within(pids, 0.5)
    assert server.pids == []
    with pytest.raises(LMStudioRuntimeError, match="not running"):
        _ = server.api_host
    with server:
        assert server.pids != pids


@pytest.mark.asyncio
async def test_entered_and_exited_in_different_tasks(models_dir: Path) -> None:
    server = EmbeddedServer(models_dir)
    await asyncio.create_task(server.__aenter__())
    await use(server)
    pids = server.pids
    await asyncio.create_task(server.__aexit__(None, None, None))
    gone_within(pids, 0.5)


@pytest.mark.asyncio
@pytest.mark.parametrize("natively", [True, False])
async def test_cancelled_while_starting(models_dir: Path, natively: bool) -> None:
    server = EmbeddedServer(models_dir)
    before = {child.pid for child in psutil.Process().children()}

    async def use_for_ever() -> None:
        async with server:
            await anyio.sleep_forever()

    if natively:
        task = asyncio.create_task(use_for_ever())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with anyio.move_on_after(0.05):
            await use_for_ever()
    assert server.pids == []
    assert {child.pid for child in psutil.Process().children()} == before


def test_a_port_that_is_taken(embedded: EmbeddedServer) -> None:
    port = int(embedded.api_host.split(":")[1])
    with (
        pytest.raises(LMStudioClientError, match=r"could not start.*in use"),
        EmbeddedServer(port=port),
    ):
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_other_hosts_need_a_token(host: str) -> None:
    with pytest.raises(LMStudioClientError, match="API token"), EmbeddedServer(host=host):
        pass


def test_a_malformed_token_is_not_shown() -> None:
    with pytest.raises(LMStudioClientError) as caught, EmbeddedServer(api_token="sk-lm-secret"):
        pass
    assert "sk-lm-<8" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_worker_that_dies(
    connect: Connect, llm: RawSocket, embedded: EmbeddedServer
) -> None:
    other = await connect("llm")
    info = await llm.load()
    channel_id = await llm.create("predict", prediction("Tell me a very long story."))
    while (await llm.receive())["message"]["type"] != "fragment":
        pass
    os.kill(embedded.pids[1], signal.SIGKILL)
    with pytest.raises(Refused, match=r"died \(killed by signal 9\)") as caught:
        [packet async for packet in llm.packets(channel_id)]
    assert caught.value.data == {"code": "generic.specificModelUnloaded"}
    assert await other.loaded() == []
    reference = {"type": "instanceReference", "instanceReference": info["instanceReference"]}
    with pytest.raises(Refused) as caught:
        await other.call("countTokens", {"specifier": reference, "inputString": "Hello"})
    assert caught.value.code == "generic.specificModelUnloaded"
    async with llm.loading() as again:
        assert again["identifier"] == STARTER


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_worker_that_dies_during_the_load(llm: RawSocket, embedded: EmbeddedServer) -> None:
    channel_id = await llm.create("loadModel", {"modelKey": STARTER, "loadConfigStack": stack()})
    packets = llm.packets(channel_id)
    async for packet in packets:
        if packet["type"] == "progress":
            while len(embedded.pids) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            os.kill(embedded.pids[1], signal.SIGKILL)
            break
    with pytest.raises(Refused, match=r"could not load.*signal 9"):
        [packet async for packet in packets]
    assert await llm.loaded() == []


@pytest.mark.engine
@pytest.mark.asyncio
@pytest.mark.parametrize("moment", ["loading", "idle", "generating"])
async def test_workers_end_with_a_killed_server(models_dir: Path, moment: str) -> None:
    with EmbeddedServer(models_dir) as server:
        async with connected(server.api_host, "llm") as socket:
            if moment == "loading":
                await socket.create("loadModel", {"modelKey": STARTER, "loadConfigStack": stack()})
                while (await socket.receive())["message"]["type"] != "progress":
                    pass
            else:
                await socket.load()
            if moment == "generating":
                await socket.create("predict", prediction("Tell me a very long story."))
                while (await socket.receive())["message"]["type"] != "fragment":
                    pass
            pids = server.pids
            assert len(pids) == 2
            os.kill(pids[0], signal.SIGKILL)
            seconds = gone_within(pids, 2.0)
            print(f"gone {seconds * 1000:.0f} ms after the server was killed while {moment}")


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_server_that_hangs_is_killed(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_STOP_TIMEOUT", 0.2)
    async with EmbeddedServer(models_dir) as server:
        async with connected(server.api_host, "llm") as socket:
            await socket.load()
        pids = server.pids
        os.kill(pids[0], signal.SIGSTOP)
    gone_within(pids, 2.0)


@pytest.mark.engine
@pytest.mark.asyncio
async def test_exit_while_the_model_is_busy(models_dir: Path) -> None:
    async with EmbeddedServer(models_dir) as server:
        async with connected(server.api_host, "llm") as socket:
            await socket.load()
            await socket.create("predict", prediction("Tell me a very long story."))
            while (await socket.receive())["message"]["type"] != "fragment":
                pass
            pids = server.pids
            started = time.monotonic()
            await server.__aexit__(None, None, None)
            seconds = time.monotonic() - started
            gone_within(pids, 0.1)
    print(f"ended in {seconds:.2f} s while generating")
    assert seconds < 5.0


PARENT = """
import sys, time
from lmstudio_async.embedded import EmbeddedServer
with EmbeddedServer(sys.argv[1]) as server:
    print(server.api_host, flush=True)
    print(server.pids[0], flush=True)
    time.sleep(600)
"""


@pytest.mark.engine
@pytest.mark.asyncio
async def test_everything_ends_with_a_killed_parent(models_dir: Path) -> None:
    parent = run("-c", PARENT, str(models_dir))
    assert parent.stdout is not None
    with parent:
        api_host, pid = parent.stdout.readline().strip(), int(parent.stdout.readline())
        async with connected(api_host, "llm") as socket:
            await socket.load()
            pids = [pid, *(child.pid for child in psutil.Process(pid).children())]
            parent.kill()
            gone_within(pids, 2.0)


def resident_bytes(pids: list[int]) -> int:
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in pids)


@pytest.mark.engine
@pytest.mark.asyncio
async def test_memory_comes_back(models_dir: Path) -> None:
    cycles = 20
    with EmbeddedServer(models_dir) as server:
        async with connected(server.api_host, "llm") as socket:
            async with socket.loading():  # imports, and the caches of the first use
                await socket.predict("Hello", at_most(2))
            before = resident_bytes(server.pids)
            for _ in range(cycles):
                async with socket.loading():
                    await socket.predict("Hello", at_most(2))
                    loaded = resident_bytes(server.pids) - before
            assert len(server.pids) == 1
            growth = resident_bytes(server.pids) - before
    told = (
        f"{growth / MiB:.2f} MiB more than before after {cycles} cycles, "
        f"{loaded / MiB:.0f} MiB while loaded"
    )
    print(told)
    assert loaded > 90 * MiB, told
    assert growth < 5 * MiB, told


@pytest.mark.engine
@pytest.mark.asyncio
async def test_the_first_unload_frees_the_memory(models_dir: Path) -> None:
    with EmbeddedServer(models_dir) as server:
        async with connected(server.api_host, "llm") as socket:
            await socket.call("listLoaded")
            before = resident_bytes(server.pids)
            await socket.unload((await socket.load())["identifier"])
            growth = resident_bytes(server.pids) - before
    told = f"{growth / MiB:.2f} MiB more than before the first load"
    print(told)
    assert growth < 5 * MiB, told


@pytest.mark.engine
@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_command_serve(models_dir: Path, number: signal.Signals) -> None:
    folder = str(models_dir)
    more = ["--alias", f"nick={STARTER}", "--embedding-model", f"emb={STARTER}"]
    with run_cli("serve", "--port", "0", "--models-dir", folder, *more) as process:
        try:
            assert process.stdout is not None
            listening = re.fullmatch(r"Listening on (.*)\n", process.stdout.readline())
            assert listening is not None
            listed = [process.stdout.readline() for _ in range(3)]
            assert [line.split()[0] for line in listed] == ["alien-7b", "emb", STARTER]
            async with connected(listening[1], "llm") as socket:
                await socket.load("nick")
                pids = [child.pid for child in psutil.Process(process.pid).children()]
                process.send_signal(number)
                _, errors = await asyncio.to_thread(process.communicate, timeout=10)
            assert process.returncode == 0
            assert "Traceback" not in errors
            assert len(pids) == 1
            gone_within(pids, 0.5)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--host", "0.0.0.0"], "needs an API token"),
        (["serve", "--port", "0", "--api-token", "sk-lm-secret"], "an API token looks like"),
        (["serve", "--alias", "nonsense"], "not of the form"),
        ([], "required"),
    ],
)
def test_command_errors(arguments: list[str], message: str) -> None:
    with run_cli(*arguments, LM_API_TOKEN="") as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode in (1, 2)
    assert message in errors
    assert "Traceback" not in errors
    assert "secret" not in errors


@pytest.mark.engine
def test_command_fetch_starter_model(starter_file: Path, tmp_path: Path) -> None:
    target = tmp_path / starter_file.relative_to(starter_file.parents[2])
    target.parent.mkdir(parents=True)
    target.symlink_to(starter_file)
    with run_cli("fetch-starter-model", "--models-dir", str(tmp_path)) as process:
        output, errors = process.communicate(timeout=20)
    assert (output, errors) == (f"{target}\n", "")
