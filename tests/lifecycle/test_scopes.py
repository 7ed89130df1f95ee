"""Scopes and handles: what is unloaded, when, and what is left alone (L1 to L7, L11)."""

import anyio
import pytest

import lmstudio_async as lms
from tests.scripted_server import ScriptedServer, failure

pytestmark = pytest.mark.anyio


async def test_l1_a_new_instance_lives_as_long_as_its_block(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.load_new_instance("llm-a", "mine") as model:
        assert model.identifier == "mine"
        assert list(server.loaded) == ["mine"]
    assert server.loaded == {}
    assert server.count("unloadModel") == 1


@pytest.mark.parametrize("error", [ValueError("theirs"), KeyboardInterrupt()])
async def test_l1_an_exception_unloads_and_goes_on(
    server: ScriptedServer, client: lms.Client, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        async with client.llm.load_new_instance("llm-a"):
            raise error
    assert caught.value is error
    assert server.loaded == {}


async def test_l1_every_new_instance_is_one_of_its_own(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with (
        client.llm.load_new_instance("llm-a") as first,
        client.llm.load_new_instance("llm-a") as second,
    ):
        assert first.instance_reference != second.instance_reference
        assert len(server.loaded) == 2
    assert server.loaded == {}
    assert server.count("unloadModel") == 2


async def test_l1_its_own_scope_decides_even_if_others_borrow_the_instance(
    server: ScriptedServer, client: lms.Client
) -> None:
    borrower = client.llm.model("llm-a")
    async with client.llm.load_new_instance("llm-a") as owned:
        borrowed = await borrower.__aenter__()
        assert borrowed.instance_reference == owned.instance_reference
    assert server.loaded == {}
    await borrower.__aexit__(None, None, None)
    assert server.count("unloadModel") == 1


async def test_l2_a_scope_unloads_what_it_loaded(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a") as llm, client.embedding.model("embed-a") as embedder:
        assert set(server.loaded) == {llm.identifier, embedder.identifier}
    assert server.loaded == {}


async def test_l2_the_last_scope_of_an_instance_unloads_it(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a") as outer:
        async with client.llm.model("llm-a") as inner:
            assert inner.instance_reference == outer.instance_reference
        assert list(server.loaded) == ["llm-a"]
        assert server.count("unloadModel") == 0
    assert server.loaded == {}
    assert server.count("unloadModel") == 1


async def test_l2_scopes_may_end_in_any_order(server: ScriptedServer, client: lms.Client) -> None:
    first, second = client.llm.model("llm-a"), client.llm.model("llm-a")
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    assert list(server.loaded) == ["llm-a"]
    await second.__aexit__(None, None, None)
    assert server.loaded == {}


async def test_l2_what_others_loaded_is_left_alone(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.load_behind_back("llm-a")
    async with client.llm.model("llm-a"):
        pass
    assert list(server.loaded) == ["llm-a"]
    assert server.count("unloadModel") == 0


async def test_l2_what_was_awaited_without_a_scope_is_left_alone(
    server: ScriptedServer, client: lms.Client
) -> None:
    handle = await client.llm.model("llm-a")
    async with client.llm.model("llm-a") as model:
        assert model.instance_reference == handle.instance_reference
    assert list(server.loaded) == ["llm-a"]


async def test_l2_awaiting_a_model_that_a_scope_loaded_keeps_it(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a"):
        handle = await client.llm.model("llm-a")
    assert list(server.loaded) == ["llm-a"]
    await handle.unload()
    assert server.loaded == {}


async def test_l2_entering_during_the_last_exit_waits_and_loads_anew(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_unloads()
    references = []

    async def leave_and_enter() -> None:
        async with client.llm.model("llm-a") as model:
            references.append(model.instance_reference)

    async with anyio.create_task_group() as group:
        group.start_soon(leave_and_enter)
        await server.until("unloadModel")
        group.start_soon(leave_and_enter)
        group.start_soon(leave_and_enter)
        await anyio.wait_all_tasks_blocked()
        assert server.count("getOrLoad") == 1
        server.release_unloads()
    assert len(set(references)) == 2
    assert server.count("getOrLoad") == 2
    assert server.loaded == {}


async def test_l2_an_instance_that_is_being_unloaded_is_not_handed_out(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_unloads()
    outcome: list[object] = []

    async def leave() -> None:
        async with client.llm.load_new_instance("llm-a", "mine"):
            pass

    async def enter() -> None:
        try:
            outcome.append(await client.llm.model("mine"))
        except lms.LMStudioModelNotFoundError as error:
            outcome.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        await server.until("unloadModel")
        group.start_soon(enter)
        await server.until(lambda: any("alreadyLoaded" in str(f) for *_, f in server.frames))
        await anyio.wait_all_tasks_blocked()
        assert outcome == []
        server.release_unloads()
    # Asked again once it was gone: that was an identifier, not the key of a model on disk.
    assert server.count("getOrLoad") == 2
    assert isinstance(outcome[0], lms.LMStudioModelNotFoundError)


async def test_l3_an_awaited_handle_stays_until_it_is_unloaded(
    server: ScriptedServer, client: lms.Client
) -> None:
    model = await client.llm.model("llm-a")
    other = await client.llm.load_new_instance("llm-a", "second")
    assert set(server.loaded) == {"llm-a", "second"}
    await model.unload()
    assert list(server.loaded) == ["second"]
    await other.unload()
    assert server.loaded == {}


async def test_l3_closing_the_client_leaves_awaited_models_loaded(server: ScriptedServer) -> None:
    async with lms.Client(server.api_host) as client:
        await client.llm.model("llm-a")
    assert list(server.loaded) == ["llm-a"]


async def test_a_scope_serves_once(server: ScriptedServer, client: lms.Client) -> None:
    scope = client.llm.model("llm-a")
    async with scope:
        with pytest.raises(lms.LMStudioRuntimeError, match="already"):
            await scope
    with pytest.raises(lms.LMStudioRuntimeError, match="already"):
        await scope.__aenter__()
    assert server.count("getOrLoad") == 1


async def test_l4_without_a_key_any_loaded_model_serves(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.load_behind_back("llm-b", "somebody's")
    assert (await client.llm.model()).identifier == "somebody's"
    async with client.llm.model() as model:
        assert model.identifier == "somebody's"
    assert list(server.loaded) == ["somebody's"]
    assert server.count("getOrLoad") == 0


async def test_l4_without_a_key_nothing_is_loaded(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.load_behind_back("embed-a")
    with pytest.raises(lms.LMStudioModelNotFoundError, match="no LLM is loaded"):
        await client.llm.model()
    assert server.count("getOrLoad") == server.count("loadModel") == 0


async def test_l4_without_a_key_a_scope_of_ours_still_unloads(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a"):
        async with client.llm.model():
            pass
        assert list(server.loaded) == ["llm-a"]
        await client.llm.model()
    assert server.loaded == {}


async def test_l5_nested_scopes_unload_in_reverse_order(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with (
        client.llm.load_new_instance("llm-a", "1"),
        client.embedding.load_new_instance("embed-a", "2"),
        client.llm.load_new_instance("llm-b", "3"),
    ):
        pass
    assert [request["identifier"] for request in server.requests("unloadModel")] == ["3", "2", "1"]


async def test_l5_a_refused_unload_does_not_prevent_the_others(
    server: ScriptedServer, client: lms.Client
) -> None:
    with pytest.raises(lms.LMStudioUnloadError) as caught:
        async with (
            client.llm.load_new_instance("llm-a", "1"),
            client.llm.load_new_instance("llm-a", "2"),
            client.llm.load_new_instance("llm-a", "3"),
        ):
            server.refuse_unload(times=2)
    assert server.count("unloadModel") == 3
    assert set(server.loaded) == {"2", "3"}
    assert len(caught.value.exceptions) == 2
    assert {"'3'" in str(error) for error in caught.value.exceptions} == {True, False}
    assert isinstance(caught.value, lms.LMStudioError)


async def test_l5_a_failed_unload_does_not_hide_the_exception_on_its_way(
    server: ScriptedServer, client: lms.Client
) -> None:
    with pytest.raises(ValueError, match="theirs") as caught:
        async with client.llm.load_new_instance("llm-a", "1"):
            server.refuse_unload()
            raise ValueError("theirs")
    assert any("'1'" in note for note in caught.value.__notes__)


async def test_l5_a_failed_unload_is_not_tried_again_on_closing(server: ScriptedServer) -> None:
    async with lms.Client(server.api_host) as client:
        with pytest.raises(lms.LMStudioUnloadError):
            async with client.llm.model("llm-a"):
                server.refuse_unload()
    assert server.count("unloadModel") == 1


async def test_l6_leaving_is_shielded_from_cancellation(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_unloads()
    async with anyio.create_task_group() as group:

        async def use() -> None:
            async with client.llm.model("llm-a"):
                group.cancel_scope.cancel()
                await anyio.sleep_forever()

        group.start_soon(use)
        with anyio.CancelScope(shield=True):
            await server.until("unloadModel")
            server.release_unloads()
    assert server.loaded == {}


async def test_l6_leaving_takes_no_longer_than_its_bound(server: ScriptedServer) -> None:
    async with lms.Client(server.api_host, timeouts=lms.Timeouts(unload=0.05)) as client:
        server.hold_unloads()
        with pytest.raises(lms.LMStudioUnloadError) as caught:
            async with client.llm.model("llm-a"):
                pass
        [error] = caught.value.exceptions
        assert isinstance(error, lms.LMStudioTimeoutError)
        assert "'llm-a'" in str(error)
        assert "0.05 s" in str(error)
        server.release_unloads()


@pytest.mark.parametrize("how", ["by hand", "by identifier", "by TTL", "by another client"])
async def test_l6_an_instance_that_is_gone_already_is_no_failure(
    server: ScriptedServer, client: lms.Client, how: str
) -> None:
    async with client.llm.model("llm-a") as model:
        match how:
            case "by hand":
                await model.unload()
                await model.unload()
            case "by identifier":
                await client.llm.unload("llm-a")
            case "by TTL":
                server.evict("llm-a")
            case "by another client":
                async with lms.Client(server.api_host) as other:
                    await other.llm.unload("llm-a")
        unloads = server.count("unloadModel")
    assert server.count("unloadModel") == unloads


async def test_l6_an_instance_that_goes_while_it_is_looked_up_is_no_failure(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a"):
        server.fail_next(
            "unloadModel",
            failure("no such model", {"code": "generic.specificModelUnloaded"}),
        )


async def test_l7_another_instance_under_our_identifier_is_left_alone(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.llm.model("llm-a"):
        server.evict("llm-a")
        theirs = server.load_behind_back("llm-a")
    assert server.loaded["llm-a"]["instanceReference"] == theirs
    assert server.count("unloadModel") == 0


async def test_l7_unloading_by_handle_leaves_another_instance_alone(
    server: ScriptedServer, client: lms.Client
) -> None:
    model = await client.llm.model("llm-a")
    server.evict("llm-a")
    server.load_behind_back("llm-a")
    await model.unload()
    assert list(server.loaded) == ["llm-a"]


async def test_l11_loads_carry_a_ttl_of_an_hour(server: ScriptedServer, client: lms.Client) -> None:
    await client.llm.model("llm-a")
    await client.llm.load_new_instance("llm-a")
    assert server.requests("getOrLoad")[0]["loadTtlMs"] == 3_600_000
    assert server.requests("loadModel")[0]["ttlMs"] == 3_600_000


@pytest.mark.parametrize(("ttl", "milliseconds"), [(60, 60_000), (0.25, 250), (0.0001, 1)])
async def test_l11_a_ttl_is_in_seconds(
    server: ScriptedServer, client: lms.Client, ttl: float, milliseconds: int
) -> None:
    await client.llm.model("llm-a", ttl=ttl)
    await client.embedding.load_new_instance("embed-a", ttl=ttl)
    assert server.requests("getOrLoad")[0]["loadTtlMs"] == milliseconds
    assert server.requests("loadModel")[0]["ttlMs"] == milliseconds


async def test_l11_a_ttl_of_none_is_none(server: ScriptedServer, client: lms.Client) -> None:
    model = await client.llm.model("llm-a", ttl=None)
    assert "loadTtlMs" not in server.requests("getOrLoad")[0]
    assert model.info.ttl_ms is None


async def test_l11_a_handle_of_an_evicted_instance_says_so(
    server: ScriptedServer, client: lms.Client
) -> None:
    model = await client.llm.model("llm-a")
    server.evict("llm-a")
    server.load_behind_back("llm-a")
    for use in (model.count_tokens("x"), model.get_info(), model.respond("Hello")):
        with pytest.raises(lms.LMStudioModelUnloadedError, match="llm-a"):
            await use


async def test_configuration_and_device_reach_the_server(
    server: ScriptedServer, client: lms.Client
) -> None:
    await client.llm.model("llm-a", config={"contextLength": 2048})
    await client.embedding.load_new_instance(
        "embed-a", config=lms.EmbeddingLoadModelConfig(context_length=512)
    )
    stacks = [
        server.requests(endpoint)[0]["loadConfigStack"] for endpoint in ("getOrLoad", "loadModel")
    ]
    assert [stack["layers"][0]["config"]["fields"] for stack in stacks] == [
        [{"key": "llm.load.contextLength", "value": 2048}],
        [{"key": "embedding.load.contextLength", "value": 512}],
    ]


async def test_l6_leaving_waits_for_an_unload_that_somebody_else_began(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.hold_unloads()
    left = anyio.Event()

    async def use() -> None:
        async with client.llm.model("llm-a") as model:
            group.start_soon(model.unload)
            await server.until("unloadModel")
        assert server.loaded == {}
        left.set()

    async with anyio.create_task_group() as group:
        group.start_soon(use)
        await server.until("unloadModel")
        await anyio.wait_all_tasks_blocked()
        assert not left.is_set()
        server.release_unloads()
    assert server.count("unloadModel") == 1


async def test_l7_unloads_by_hand_at_the_same_time_are_one(
    server: ScriptedServer, client: lms.Client
) -> None:
    model = await client.llm.model("llm-a")
    server.hold_unloads()
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(model.unload)
        await server.until("unloadModel")
        await anyio.wait_all_tasks_blocked()
        server.release_unloads()
    assert server.count("unloadModel") == 1
    assert server.loaded == {}
