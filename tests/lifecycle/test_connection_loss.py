"""Lost connections, and closing: what fails, what goes on, what is cleaned up (L10, L12, L13)."""

import anyio
import pytest

import lmstudio_async as lms
from tests.scripted_server import ScriptedServer

pytestmark = pytest.mark.anyio


async def test_l10_a_load_in_flight_fails_with_a_clear_error(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_loads()
    errors: list[Exception] = []

    async def load() -> None:
        try:
            await client.llm.model("llm-a")
        except lms.LMStudioWebsocketError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(load)
        group.start_soon(load)
        await server.until("getOrLoad")
        await anyio.wait_all_tasks_blocked()
        server.drop_connections()
    assert len(errors) == 2
    assert server.api_host in str(errors[0])


@pytest.mark.parametrize("kind", ["model", "load_new_instance"])
async def test_l10_a_load_that_outlives_its_connection_is_unloaded(
    server: ScriptedServer, client: lms.Client, kind: str
) -> None:
    server.hold_loads()
    server.finish_load_despite_drop = True
    scope = (
        client.llm.model("llm-a")
        if kind == "model"
        else client.llm.load_new_instance("llm-a", "mine")
    )
    started = anyio.Event()

    async with anyio.create_task_group() as group:

        async def load() -> None:
            with pytest.raises(lms.LMStudioWebsocketError):
                await scope

        group.start_soon(load)
        await server.until(lambda: server.running("getOrLoad") or server.running("loadModel"))
        await server.until(lambda: any("rogress" in str(frame) for *_, frame in server.frames))
        await anyio.wait_all_tasks_blocked()
        server.drop_connections()
        server.release_loads()
        started.set()
    await server.until(lambda: server.count("unloadModel") == 1 and not server.loaded)


async def test_l10_a_model_wanted_again_after_a_lost_load_is_taken_over(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_loads()
    server.finish_load_despite_drop = True
    async with anyio.create_task_group() as group:

        async def load() -> None:
            with pytest.raises(lms.LMStudioWebsocketError):
                await client.llm.model("llm-a")
            # The load goes on over there. Until it is finished, so is the look-out for it.
            server.release_loads()
            async with client.llm.model("llm-a") as model:
                assert list(server.loaded) == [model.identifier]

        group.start_soon(load)
        await server.until(lambda: any("rogress" in str(frame) for *_, frame in server.frames))
        await anyio.wait_all_tasks_blocked()
        server.drop_connections()
    await server.until(lambda: not server.loaded)


async def test_l10_handles_and_scopes_survive_a_reconnection(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a") as model:
        server.drop_connections()
        assert await model.count_tokens("three words here") == 3
        server.drop_connections()
    assert server.loaded == {}
    assert server.count("unloadModel") == 1


async def test_l10_a_connection_lost_while_unloading_is_looked_into(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a"):
        server.drop_on("unloadModel")
    assert server.loaded == {}


async def test_l10_after_a_restart_there_is_nothing_to_unload(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a") as model:
        server.restart()
        with pytest.raises(lms.LMStudioModelUnloadedError):
            await model.count_tokens("x")
    assert server.count("unloadModel") == 0


async def test_l12_closing_exits_what_is_open_newest_first(server: ScriptedServer) -> None:
    client = lms.Client(server.api_host)
    async with client:
        scopes = [client.llm.load_new_instance("llm-a", name) for name in "123"]
        for scope in scopes:
            await scope.__aenter__()
        shared = client.embedding.model("embed-a")
        await shared.__aenter__()
    unloaded = [request["identifier"] for request in server.requests("unloadModel")]
    assert unloaded == ["embed-a", "3", "2", "1"]
    for scope in scopes:
        await scope.__aexit__(None, None, None)
    assert server.count("unloadModel") == 4


async def test_l12_closing_cancels_loads_under_way(server: ScriptedServer) -> None:
    server.hold_loads()
    async with anyio.create_task_group() as group:
        async with lms.Client(server.api_host) as client:

            async def load() -> None:
                with pytest.raises(lms.LMStudioClientError, match="closed"):
                    await client.llm.model("llm-a")

            group.start_soon(load)
            await server.until("getOrLoad")
    assert server.cancels == ["getOrLoad"]
    assert server.loaded == {}


async def test_l12_closing_does_not_wait_for_ever_for_a_load_that_ignores_its_cancel(
    server: ScriptedServer,
) -> None:
    server.hold_loads()
    server.ignore_load_cancel = True
    async with anyio.create_task_group() as group:
        async with lms.Client(server.api_host, timeouts=lms.Timeouts(close=0.05)) as client:

            async def load() -> None:
                with pytest.raises(lms.LMStudioClientError, match="closed"):
                    await client.llm.model("llm-a")

            group.start_soon(load)
            await server.until("getOrLoad")
    server.release_loads()


async def test_l12_closing_reports_what_could_not_be_unloaded(server: ScriptedServer) -> None:
    with pytest.raises(lms.LMStudioUnloadError) as caught:
        async with lms.Client(server.api_host) as client:
            await client.llm.load_new_instance("llm-a", "1").__aenter__()
            await client.llm.load_new_instance("llm-a", "2").__aenter__()
            server.refuse_unload(times=2)
    assert len(caught.value.exceptions) == 2


async def test_l12_closing_under_cancellation_still_unloads(server: ScriptedServer) -> None:
    async with anyio.create_task_group() as group:

        async def use() -> None:
            async with lms.Client(server.api_host) as client:
                await client.llm.model("llm-a").__aenter__()
                group.cancel_scope.cancel()
                await anyio.sleep_forever()

        group.start_soon(use)
    assert server.loaded == {}


async def test_l12_a_closed_client_leaves_no_task_and_no_socket(server: ScriptedServer) -> None:
    before = len(anyio.get_running_tasks())
    async with lms.Client(server.api_host) as client:
        async with client.llm.model("llm-a") as model, client.embedding.model("embed-a"):
            await model.respond("Hello")
            await client.list_downloaded_models()
        assert sorted(server.open_sockets) == ["embedding", "llm", "system"]
    assert len(anyio.get_running_tasks()) == before
    await server.until(lambda: not server.open_sockets)


async def test_l13_entered_in_one_task_and_left_in_another(server: ScriptedServer) -> None:
    client = lms.Client(server.api_host)
    scope = None

    async def enter() -> None:
        nonlocal scope
        await client.__aenter__()
        scope = client.llm.model("llm-a")
        await scope.__aenter__()

    async def leave() -> None:
        assert scope is not None
        await scope.__aexit__(None, None, None)
        assert server.loaded == {}
        await client.__aexit__(None, None, None)

    for step in (enter, leave):
        async with anyio.create_task_group() as group:
            group.start_soon(step)


async def test_a_client_can_be_opened_again(server: ScriptedServer) -> None:
    client = lms.Client(server.api_host)
    for _ in range(2):
        async with client, client.llm.model("llm-a") as model:
            assert await model.count_tokens("a b") == 2
    assert server.loaded == {}
