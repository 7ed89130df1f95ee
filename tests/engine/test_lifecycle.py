"""The lifecycle on a real engine: what is unloaded is out of memory."""

import os
import signal
import sys

import anyio
import pytest

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer
from tests.conftest import STARTER
from tests.engine.conftest import tree_bytes

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

MODEL_BYTES = 98_362_432


async def test_a_scope_holds_the_model_in_memory_and_no_longer(
    engine: EmbeddedServer, client: lms.Client
) -> None:
    before = tree_bytes(engine)
    async with client.llm.model(STARTER) as model:
        assert tree_bytes(engine) > before + MODEL_BYTES
        assert len(engine.pids) == 2
        assert [m.identifier for m in await client.llm.list_loaded()] == [model.identifier]
    assert len(engine.pids) == 1
    assert tree_bytes(engine) - before < 5e6


async def test_twenty_cycles_leave_nothing_behind(
    engine: EmbeddedServer, client: lms.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    async with client.llm.model(STARTER):
        pass  # the first load may import and allocate for good
    before = tree_bytes(engine)
    for _ in range(20):
        async with client.llm.load_new_instance(STARTER) as model:
            await model.count_tokens("Hello")
    growth = tree_bytes(engine) - before
    with capsys.disabled():
        print(f" [{growth / 1e6:+.1f} MB after 20 cycles]", end="")
    assert growth < 5e6


async def test_progress_is_measured(client: lms.Client) -> None:
    progress: list[float] = []
    async with client.llm.model(STARTER, on_load_progress=progress.append):
        pass
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert len(progress) > 2


async def test_a_cancelled_load_leaves_no_worker(
    engine: EmbeddedServer, client: lms.Client
) -> None:
    async with anyio.create_task_group() as group:

        def cancel(progress: float) -> None:
            group.cancel_scope.cancel()

        async def load() -> None:
            async with client.llm.model(STARTER, on_load_progress=cancel):
                await anyio.sleep_forever()

        group.start_soon(load)
    # The same key waits for its cancelled load to be cleaned up.
    async with client.llm.model(STARTER):
        assert len(engine.pids) == 2


async def test_tasks_that_want_one_model_share_it(
    engine: EmbeddedServer, client: lms.Client
) -> None:
    references = set()
    together = anyio.Event()

    async def use() -> None:
        async with client.llm.model(STARTER) as model:
            references.add(model.instance_reference)
            if len(references) == 1:
                together.set()
            await together.wait()
            await model.count_tokens("Hello")

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(use)
    assert len(references) == 1


async def test_two_clients_at_once_load_once(engine: EmbeddedServer, client: lms.Client) -> None:
    async with lms.Client(engine.api_host) as other:
        models = []

        async def load(by: lms.Client) -> None:
            models.append(await by.llm.model(STARTER))

        async with anyio.create_task_group() as group:
            group.start_soon(load, client)
            group.start_soon(load, other)
        assert models[0].instance_reference == models[1].instance_reference
        await models[0].unload()


async def test_both_kinds_of_models(client: lms.Client) -> None:
    async with (
        client.llm.model(STARTER) as llm,
        client.embedding.model("nomic-embed-text-v1.5") as embedder,
    ):
        assert {m.identifier for m in await client.list_loaded_models()} == {
            llm.identifier,
            embedder.identifier,
        }
        one, two = await embedder.embed(["The cat sat.", "A dog ran."])
        assert len(one) == len(two) == 576
        assert await embedder.embed("The cat sat.") == pytest.approx(one, abs=1e-3)
        tokens = await llm.tokenize("Hello world")
        assert len(tokens) == await llm.count_tokens("Hello world")
        assert await llm.get_context_length() == (await llm.get_info()).context_length
        assert (await llm.get_processing_state()).status == "idle"


async def test_texts_that_are_computed_together_get_their_own_vectors(client: lms.Client) -> None:
    texts = [f"{number} " + "waves " * (number % 4) for number in range(20)]
    async with client.embedding.model("nomic-embed-text-v1.5") as embedder:
        together = await embedder.embed(texts)
        for text, vector in zip(texts, together, strict=True):
            # Sums are rounded in another order where several texts are computed together.
            assert await embedder.embed(text) == pytest.approx(vector, abs=5e-3)
        assert together[0] != pytest.approx(together[1], abs=5e-3)


async def test_load_settings_take_effect(client: lms.Client) -> None:
    config = lms.LlmLoadModelConfig(context_length=1024)
    async with client.llm.load_new_instance(STARTER, config=config) as model:
        assert await model.get_context_length() == 1024
        assert (await model.get_load_config()).context_length == 1024
    estimate = await client.llm.estimate_usage(STARTER, config={"contextLength": 1024})
    assert estimate.memory.total_bytes > MODEL_BYTES


async def test_a_response_is_generated_and_can_be_stopped(client: lms.Client) -> None:
    async with client.llm.model(STARTER) as model:
        result = await model.respond("Say hello.", config={"maxTokens": 8, "temperature": 0})
        assert result.content
        assert result.stats.stop_reason == "maxPredictedTokensReached"
        async for fragment in model.respond_stream("Write a very long story."):
            assert fragment.content
            break
        with anyio.fail_after(30):
            while (await model.get_processing_state()).status != "idle":
                pass  # the server has no event to wait for


async def test_a_downloaded_model_loads_itself(client: lms.Client) -> None:
    [entry] = [m for m in await client.llm.list_downloaded() if m.model_key == STARTER]
    assert entry.info.max_context_length == 8192
    async with entry.model() as model:
        assert model.info.model_key == STARTER


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_a_dead_worker_is_reported_and_gone(
    engine: EmbeddedServer, client: lms.Client
) -> None:
    async with client.llm.model(STARTER) as model:
        with pytest.raises(lms.LMStudioModelUnloadedError):
            async for _ in model.respond_stream("Write a very long story."):
                if engine.pids[1:]:
                    os.kill(engine.pids[1], signal.SIGKILL)
        with pytest.raises(lms.LMStudioModelUnloadedError):
            await model.count_tokens("Hello")


async def test_an_idle_model_is_unloaded_by_its_ttl(
    engine: EmbeddedServer, client: lms.Client
) -> None:
    model = await client.llm.model(STARTER, ttl=0.2)
    with anyio.fail_after(30):
        while await client.llm.list_loaded() or engine.pids[1:]:
            pass
    with pytest.raises(lms.LMStudioModelUnloadedError):
        await model.respond("Hello")


async def test_an_unknown_model_is_not_found(client: lms.Client) -> None:
    with pytest.raises(lms.LMStudioModelNotFoundError, match=STARTER):
        await client.llm.model("no-such-model")
    with pytest.raises(lms.LMStudioServerError):
        await client.embedding.model(STARTER)
