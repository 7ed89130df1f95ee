"""Loads: cancelled, shared, and followed (L8, L9)."""

import logging

import anyio
import pytest

import lmstudio_async as lms
from tests.scripted_server import ScriptedServer, failure

pytestmark = pytest.mark.anyio


async def test_l8_cancelling_a_load_cancels_it_on_the_server(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_loads()
    for scope in (client.llm.model("llm-a"), client.llm.load_new_instance("llm-a")):
        async with anyio.create_task_group() as group:
            group.start_soon(scope.__aenter__)
            await server.until(lambda: server.running("getOrLoad") or server.running("loadModel"))
            group.cancel_scope.cancel()
    await server.until(lambda: server.cancels == ["getOrLoad", "loadModel"])
    await server.until(lambda: not server.running("getOrLoad") + server.running("loadModel"))
    assert server.loaded == {}


@pytest.mark.parametrize("awaited", [True, False])
async def test_l8_a_time_out_cancels_the_load(
    server: ScriptedServer, client: lms.Client, awaited: bool
) -> None:
    server.hold_loads()
    async with anyio.create_task_group() as group:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(60) as bound:

                async def fire_once_it_loads() -> None:
                    await server.until("getOrLoad")
                    bound.deadline = anyio.current_time()

                group.start_soon(fire_once_it_loads)
                scope = client.llm.model("llm-a")
                await (scope if awaited else scope.__aenter__())
    await server.until(lambda: server.cancels == ["getOrLoad"])


@pytest.mark.parametrize("kind", ["getOrLoad", "loadModel"])
async def test_l8_a_load_that_finishes_all_the_same_is_unloaded(
    server: ScriptedServer, client: lms.Client, kind: str
) -> None:
    server.hold_loads()
    server.finish_load_despite_cancel = "success"
    async with anyio.create_task_group() as group:
        load = client.llm.model if kind == "getOrLoad" else client.llm.load_new_instance
        group.start_soon(load("llm-a").__aenter__)
        await server.until(lambda: server.running(kind))
        group.cancel_scope.cancel()
    await server.until(lambda: server.count("unloadModel") == 1 and not server.loaded)


async def test_l8_a_load_that_ignores_its_cancel_is_unloaded_when_it_is_done(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_loads()
    server.ignore_load_cancel = True
    async with anyio.create_task_group() as group:
        group.start_soon(client.llm.model("llm-a").__aenter__)
        await server.until("getOrLoad")
        group.cancel_scope.cancel()
    await server.until(lambda: server.cancels)
    assert server.count("unloadModel") == 0
    server.release_loads()
    await server.until(lambda: server.count("unloadModel") == 1 and not server.loaded)


async def test_l8_a_cancelled_load_that_ends_in_an_error_is_done(
    server: ScriptedServer, client: lms.Client, caplog: pytest.LogCaptureFixture
) -> None:
    server.hold_loads()
    server.cancelled_load_is_error = True
    async with anyio.create_task_group() as group:
        group.start_soon(client.llm.model("llm-a").__aenter__)
        await server.until("getOrLoad")
        group.cancel_scope.cancel()
    server.release_loads()
    async with client.llm.model("llm-a"):
        pass
    assert server.loaded == {}


async def test_l8_a_model_wanted_again_waits_for_its_cancelled_load(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_loads()
    server.ignore_load_cancel = True
    async with anyio.create_task_group() as group:
        group.start_soon(client.llm.model("llm-a").__aenter__)
        await server.until("getOrLoad")
        group.cancel_scope.cancel()
    async with anyio.create_task_group() as group:
        references: list[str] = []

        async def use() -> None:
            async with client.llm.model("llm-a") as model:
                references.append(model.instance_reference)
                assert list(server.loaded) == ["llm-a"]

        group.start_soon(use)
        await server.until(lambda: server.cancels)
        server.release_loads()
    assert len(references) == 1
    assert server.count("getOrLoad") == 2
    assert server.loaded == {}


async def test_l8_a_callback_that_raises_is_logged_and_harms_nothing(
    server: ScriptedServer, client: lms.Client, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(progress: float) -> None:
        raise RuntimeError("broken progress bar")

    async with client.llm.model("llm-a", on_load_progress=callback):
        pass
    assert "broken progress bar" in caplog.text


async def test_l9_concurrent_calls_share_one_load(
    server: ScriptedServer, client: lms.Client
) -> None:
    references: set[str] = set()

    async def use() -> None:
        async with client.llm.model("llm-a") as model:
            references.add(model.instance_reference)
            await everybody_is_in.wait()

    everybody_is_in = anyio.Event()
    server.hold_loads()
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(use)
        await server.until("getOrLoad")
        await anyio.wait_all_tasks_blocked()
        server.release_loads()
        await server.until(lambda: server.loaded)
        await anyio.wait_all_tasks_blocked()
        everybody_is_in.set()
    assert server.count("getOrLoad") == 1
    assert len(references) == 1
    assert server.count("unloadModel") == 1
    assert server.loaded == {}


async def test_l9_everybody_hears_of_the_progress(
    server: ScriptedServer, client: lms.Client
) -> None:
    heard: list[list[float]] = [[], [], []]

    async def use(index: int) -> None:
        async with client.llm.model("llm-a", on_load_progress=heard[index].append):
            pass

    server.hold_loads()
    async with anyio.create_task_group() as group:
        for index in range(3):
            group.start_soon(use, index)
        await server.until("getOrLoad")
        await anyio.wait_all_tasks_blocked()
        server.release_loads()
    assert heard[0] == heard[1] == heard[2]
    assert heard[0] == sorted(heard[0])
    assert heard[0][-1] == 1


@pytest.mark.parametrize("leaver", [0, 1])
async def test_l9_cancelling_one_of_several_does_not_cancel_the_load(
    server: ScriptedServer, client: lms.Client, leaver: int
) -> None:
    scopes = [anyio.CancelScope(), anyio.CancelScope()]
    entered: list[int] = []

    async def use(index: int) -> None:
        with scopes[index]:
            async with client.llm.model("llm-a"):
                entered.append(index)

    server.hold_loads()
    async with anyio.create_task_group() as group:
        for index in range(2):
            group.start_soon(use, index)
            await anyio.wait_all_tasks_blocked()
        await server.until("getOrLoad")
        scopes[leaver].cancel()
        await anyio.wait_all_tasks_blocked()
        server.release_loads()
    assert entered == [1 - leaver]
    assert server.cancels == []
    assert server.count("getOrLoad") == 1
    assert server.loaded == {}


async def test_l9_cancelling_the_last_of_several_cancels_the_load(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_loads()
    scopes = [anyio.CancelScope(), anyio.CancelScope()]

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await client.llm.model("llm-a")

    async with anyio.create_task_group() as group:
        for scope in scopes:
            group.start_soon(wait, scope)
        await server.until("getOrLoad")
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert server.cancels == []
        scopes[1].cancel()
    await server.until(lambda: server.cancels == ["getOrLoad"])


async def test_l9_the_settings_of_the_first_apply_and_others_are_warned(
    server: ScriptedServer, client: lms.Client, caplog: pytest.LogCaptureFixture
) -> None:
    server.hold_loads()
    async with anyio.create_task_group() as group:

        async def get(ttl: float) -> None:
            await client.llm.model("llm-a", ttl=ttl)

        group.start_soon(get, 60)
        await server.until("getOrLoad")
        with caplog.at_level(logging.WARNING):
            group.start_soon(get, 60)
            await anyio.wait_all_tasks_blocked()
            assert "those of the first" not in caplog.text
            group.start_soon(get, 90)
            await anyio.wait_all_tasks_blocked()
        assert "those of the first" in caplog.text
        server.release_loads()
    assert [request["loadTtlMs"] for request in server.requests("getOrLoad")] == [60_000]


async def test_l9_a_plain_await_among_scopes_keeps_the_model(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_loads()
    async with anyio.create_task_group() as group:

        async def scope() -> None:
            async with client.llm.model("llm-a"):
                pass

        async def plain() -> None:
            await client.llm.model("llm-a")

        group.start_soon(plain)
        group.start_soon(scope)
        await server.until("getOrLoad")
        await anyio.wait_all_tasks_blocked()
        server.release_loads()
    assert list(server.loaded) == ["llm-a"]


async def test_l9_an_error_reaches_everybody(server: ScriptedServer, client: lms.Client) -> None:
    server.hold_loads()
    errors: list[lms.LMStudioError] = []

    async def use() -> None:
        try:
            await client.llm.model("llm-a")
        except lms.LMStudioError as error:
            errors.append(error)

    server.fail_next("getOrLoad", failure("out of memory"))
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(use)
    assert len(errors) == 3
    assert len({id(error) for error in errors}) == 3
    assert all("out of memory" in str(error) for error in errors)


async def test_l9_new_instances_are_never_shared(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with anyio.create_task_group() as group:

        async def load() -> None:
            await client.llm.load_new_instance("llm-a")

        for _ in range(3):
            group.start_soon(load)
    assert server.count("loadModel") == 3
    assert len(server.loaded) == 3


async def test_a_load_that_somebody_cancels_on_the_server_is_an_error(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.stream("getOrLoad")
    with pytest.raises(lms.LMStudioChannelClosedError, match="llm-a"):
        await client.llm.model("llm-a")


async def test_ambiguous_keys_and_evictions_are_logged(
    server: ScriptedServer, client: lms.Client, caplog: pytest.LogCaptureFixture
) -> None:
    server.evict_just_in_time = True
    with caplog.at_level(logging.INFO, "lmstudio_async"):
        await client.llm.model("llm-a")
        await client.llm.model("llm-b")
    assert "unloads 'llm-a' first" in caplog.text
    assert list(server.loaded) == ["llm-b"]
