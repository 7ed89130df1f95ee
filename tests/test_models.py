"""Handles, lists of models, and what the server tells of them."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

import lmstudio_async as lms
from lmstudio_async.wire.model_info import InstanceSpecifier, QuerySpecifier
from tests.scripted_models import embedding, failure, tokens
from tests.scripted_server import ScriptedServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def model(client: lms.Client) -> AsyncIterator[lms.LLM]:
    async with client.llm.load_new_instance("llm-a") as model:
        yield model


@pytest.fixture
async def embedder(client: lms.Client) -> AsyncIterator[lms.EmbeddingModel]:
    async with client.embedding.load_new_instance("embed-a") as embedder:
        yield embedder


# Texts


async def test_tokenize_and_count(model: lms.LLM, embedder: lms.EmbeddingModel) -> None:
    for handle in (model, embedder):
        assert await handle.tokenize("a b a") == tokens("a b a")
        assert await handle.count_tokens("a b a") == 3
        assert await handle.count_tokens("") == 0


async def test_embed(embedder: lms.EmbeddingModel) -> None:
    assert await embedder.embed("Grüße") == embedding("Grüße")


TEXTS = [f"text {number}" for number in range(50)]


@pytest.mark.parametrize("make", [list, tuple, iter, lambda texts: (text for text in texts)])
async def test_several_texts_give_results_in_their_order(
    model: lms.LLM, embedder: lms.EmbeddingModel, make: Callable[[list[str]], Any]
) -> None:
    assert await model.tokenize(make(TEXTS)) == [tokens(text) for text in TEXTS]
    assert await embedder.embed(make(TEXTS)) == [embedding(text) for text in TEXTS]


async def test_no_texts_give_no_results(
    server: ScriptedServer, embedder: lms.EmbeddingModel
) -> None:
    assert await embedder.embed([]) == []
    assert await embedder.tokenize(iter([])) == []
    assert server.count("embedString") == 0


async def test_several_texts_are_in_flight_but_not_all(
    server: ScriptedServer, embedder: lms.EmbeddingModel
) -> None:
    server.silence("embedString")
    async with anyio.create_task_group() as group:
        group.start_soon(embedder.embed, TEXTS)
        await server.until(lambda: server.count("embedString") == 16)
        # The same connection, so this comes after whatever else was sent.
        await embedder.count_tokens("a")
        assert server.count("embedString") == 16
        group.cancel_scope.cancel()


async def test_the_first_failure_cancels_the_rest_and_comes_bare(
    server: ScriptedServer, embedder: lms.EmbeddingModel
) -> None:
    def fail_on_the_third(parameter: Any) -> Any:
        if parameter["inputString"] == TEXTS[2]:
            server.fail_next("embedString", failure("Too long."), times=100)
        return {"embedding": [1.0]}

    server.answer("embedString", fail_on_the_third)
    with pytest.raises(lms.LMStudioServerError, match=r"embedding\.embedString .*Too long"):
        await embedder.embed(TEXTS)
    assert server.count("embedString") < len(TEXTS)


async def test_results_in_whole_numbers_are_numbers(
    server: ScriptedServer, embedder: lms.EmbeddingModel
) -> None:
    server.answer("embedString", {"embedding": [1, 0.5]})
    assert await embedder.embed("a") == [1.0, 0.5]


# What a handle tells


async def test_a_handle_tells_what_it_is(server: ScriptedServer, client: lms.Client) -> None:
    async with client.llm.load_new_instance("llm-a", "mine", config={"contextLength": 99}) as model:
        assert model.identifier == "mine"
        assert model.instance_reference == server.loaded["mine"]["instanceReference"]
        assert model.info.model_key == "llm-a"
        assert model.info.type == "llm"
        assert repr(model) == f"<LLM 'mine' on {server.api_host}>"
        assert await model.get_info() == model.info
        assert await model.get_context_length() == 99
        assert await model.get_load_config() == lms.LlmLoadModelConfig(context_length=99)


async def test_so_does_that_of_an_embedding_model(
    server: ScriptedServer, client: lms.Client
) -> None:
    async with client.embedding.load_new_instance(
        "embed-a", config=lms.EmbeddingLoadModelConfig(context_length=99)
    ) as embedder:
        assert embedder.info.type == "embedding"
        assert repr(embedder) == f"<EmbeddingModel 'embed-a' on {server.api_host}>"
        assert await embedder.get_info() == embedder.info
        assert await embedder.get_context_length() == 99
        config = await embedder.get_load_config()
        assert config == lms.EmbeddingLoadModelConfig(context_length=99)


async def test_a_handle_tells_what_its_instance_is_doing(
    server: ScriptedServer, model: lms.LLM
) -> None:
    assert await model.get_processing_state() == lms.ProcessingState("idle", 0)
    server.hold_predictions(after=1)
    async with model.respond_stream("a") as one, model.respond_stream("b") as two:
        await anext(one)
        await anext(two)
        assert await model.get_processing_state() == lms.ProcessingState("generating", 1)


ON_ANY_HANDLE: dict[str, Callable[[Any], Any]] = {
    "get_info": lambda handle: handle.get_info(),
    "get_load_config": lambda handle: handle.get_load_config(),
    "get_context_length": lambda handle: handle.get_context_length(),
    "get_processing_state": lambda handle: handle.get_processing_state(),
    "tokenize": lambda handle: handle.tokenize("a"),
    "tokenize several": lambda handle: handle.tokenize(["a", "b"]),
    "count_tokens": lambda handle: handle.count_tokens("a"),
}
ON_AN_LLM: dict[str, Callable[[Any], Any]] = {
    "respond": lambda handle: handle.respond("a"),
    "respond_stream": lambda handle: handle.respond_stream("a").wait_for_result(),
}
ON_AN_EMBEDDER: dict[str, Callable[[Any], Any]] = {
    "embed": lambda handle: handle.embed("a"),
    "embed several": lambda handle: handle.embed(["a", "b"]),
}


@pytest.mark.parametrize("again", [False, True], ids=["gone", "loaded again"])
async def test_every_method_tells_that_the_instance_is_gone(
    server: ScriptedServer, model: lms.LLM, embedder: lms.EmbeddingModel, again: bool
) -> None:
    server.forget_all()
    if again:
        server.load_behind_back("llm-a")
        server.load_behind_back("embed-a")
    for handle, methods in (
        (model, ON_ANY_HANDLE | ON_AN_LLM),
        (embedder, ON_ANY_HANDLE | ON_AN_EMBEDDER),
    ):
        for name, call in methods.items():
            with pytest.raises(lms.LMStudioModelUnloadedError) as caught:
                await call(handle)
            assert handle.identifier in str(caught.value), name
            assert caught.value.server_error is not None


async def test_a_server_that_calls_it_not_found_means_gone(
    server: ScriptedServer, model: lms.LLM
) -> None:
    error = failure("No such model.", {"code": "generic.noModelMatchingQuery"})
    server.fail_next("countTokens", error)
    with pytest.raises(
        lms.LMStudioModelUnloadedError, match=r"No such model.*the instance 'llm-a' of this handle"
    ) as caught:
        await model.count_tokens("a")
    assert caught.value.server_error is not None
    assert caught.value.server_error.code == "generic.noModelMatchingQuery"


async def test_unloading_what_is_gone_does_nothing(
    server: ScriptedServer, client: lms.Client
) -> None:
    model = await client.llm.model("llm-a")
    await model.unload()
    await model.unload()
    assert server.loaded == {}
    assert server.count("unloadModel") == 1


# Lists


async def test_everything_loaded_is_listed(server: ScriptedServer, client: lms.Client) -> None:
    assert await client.list_loaded_models() == []
    reference = server.load_behind_back("llm-a", "other")
    server.load_behind_back("embed-a")
    models = await client.list_loaded_models()
    assert [repr(model).split(" on ")[0] for model in models] == [
        "<LLM 'other'",
        "<EmbeddingModel 'embed-a'",
    ]
    assert models[0].instance_reference == reference
    assert await models[0].count_tokens("a") == 1
    for kind, identifier in (("llm", "other"), ("embedding", "embed-a")):
        (model,) = await client.list_loaded_models(kind)
        assert model.identifier == identifier
    assert [model.identifier for model in await client.llm.list_loaded()] == ["other"]
    assert [model.identifier for model in await client.embedding.list_loaded()] == ["embed-a"]


async def test_everything_on_disk_is_listed(server: ScriptedServer, client: lms.Client) -> None:
    models = await client.list_downloaded_models()
    assert [(model.type, model.model_key) for model in models] == [
        ("llm", "llm-a"),
        ("llm", "llm-b"),
        ("embedding", "embed-a"),
    ]
    assert models[0].path == "tests/llm-a/llm-a-Q4_K_M.gguf"
    assert models[0].info.quantization == lms.Quantization("Q4_K_M", 4)
    assert repr(models[0]) == "<DownloadedLlm 'llm-a'>"
    assert repr(models[2]) == "<DownloadedEmbeddingModel 'embed-a'>"
    for kind, lister, keys in (
        ("llm", client.llm.list_downloaded, ["llm-a", "llm-b"]),
        ("embedding", client.embedding.list_downloaded, ["embed-a"]),
    ):
        assert [model.model_key for model in await client.list_downloaded_models(kind)] == keys
        assert [model.model_key for model in await lister()] == keys
    assert len(await client.system.list_downloaded_models()) == 3


async def test_a_model_on_disk_can_be_loaded(server: ScriptedServer, client: lms.Client) -> None:
    chat, _, embedder = await client.list_downloaded_models()
    progress: list[float] = []
    async with (
        chat.model(ttl=60, config={"contextLength": 99}, on_load_progress=progress.append) as model,
        chat.load_new_instance("second", ttl=None, on_load_progress=progress.append) as second,
        embedder.model() as embedding_model,
    ):
        assert isinstance(model, lms.LLM)
        assert isinstance(embedding_model, lms.EmbeddingModel)
        assert second.identifier == "second"
        assert await model.get_context_length() == 99
        assert set(server.loaded) == {"llm-a", "second", "embed-a"}
        assert server.loaded["llm-a"]["ttlMs"] == 60_000
        assert server.loaded["second"]["ttlMs"] is None
    assert server.loaded == {}
    assert progress.count(1.0) == 2


async def test_kinds_of_models_that_are_unknown_are_not_listed(
    server: ScriptedServer, client: lms.Client
) -> None:
    server._check_frames = False
    known = server.models["llm-a"]
    server.answer(
        "listDownloadedModels",
        [known | {"type": "timeMachine"}, known | {"type": "tts", "voice": "low"}, known],
    )
    for lister in (client.list_downloaded_models, client.llm.list_downloaded):
        assert [model.model_key for model in await lister()] == ["llm-a"]


OLD = {
    "type": "llm",
    "modelKey": "llm-a",
    "format": "gguf",
    "displayName": "A",
    "path": "a.gguf",
    "sizeBytes": 1,
    "maxContextLength": 10,
}


async def test_older_servers_tell_less(server: ScriptedServer, client: lms.Client) -> None:
    server._check_frames = False
    loaded = OLD | {"identifier": "a", "instanceReference": "ref"}
    server.answer("listDownloadedModels", [OLD])
    server.answer("listLoaded", [loaded])
    (on_disk,) = await client.llm.list_downloaded()
    assert on_disk.info == lms.LlmInfo(
        model_key="llm-a",
        format="gguf",
        display_name="A",
        path="a.gguf",
        size_bytes=1,
        max_context_length=10,
    )
    (model,) = await client.llm.list_loaded()
    assert model.info.ttl_ms is None
    assert model.info.vision is False
    assert model.info.quantization is None


async def test_newer_servers_tell_more(server: ScriptedServer, client: lms.Client) -> None:
    server._check_frames = False
    server.answer("listDownloadedModels", [OLD | {"smell": "roses", "quantization": None}])
    assert len(await client.llm.list_downloaded()) == 1


# Looking up


@pytest.mark.parametrize(
    "specifier",
    [
        "mine",
        lms.ModelQuery(identifier="mine"),
        lms.ModelQuery(path="llm-a"),
        lms.ModelQuery(),
        QuerySpecifier(lms.ModelQuery(domain="llm")),
        InstanceSpecifier("ref-1"),
    ],
)
async def test_a_loaded_model_can_be_looked_up(
    server: ScriptedServer, client: lms.Client, specifier: Any
) -> None:
    server.load_behind_back("llm-a", "mine")
    info = await client.llm.get_model_info(specifier)
    assert isinstance(info, lms.LlmInstanceInfo)
    assert (info.identifier, info.model_key) == ("mine", "llm-a")


async def test_what_is_not_loaded_cannot_be_looked_up(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.load_behind_back("embed-a")
    with pytest.raises(lms.LMStudioModelNotFoundError, match="looking up 'nothing'"):
        await client.llm.get_model_info("nothing")
    with pytest.raises(lms.LMStudioModelNotFoundError):
        await client.llm.get_model_info(lms.ModelQuery())
    info = await client.embedding.get_model_info("embed-a")
    assert isinstance(info, lms.EmbeddingModelInstanceInfo)


async def test_any_loaded_model_will_do(server: ScriptedServer, client: lms.Client) -> None:
    with pytest.raises(lms.LMStudioModelNotFoundError, match="no LLM is loaded on") as caught:
        await client.llm.model()
    assert server.api_host in str(caught.value)
    with pytest.raises(lms.LMStudioModelNotFoundError, match="no embedding model is loaded"):
        await client.embedding.model()
    server.load_behind_back("llm-b")
    async with client.llm.model() as model:
        assert model.identifier == "llm-b"
    assert set(server.loaded) == {"llm-b"}


async def test_what_a_model_would_take_can_be_estimated(
    server: ScriptedServer, client: lms.Client
) -> None:
    estimate = await client.llm.estimate_usage("llm-a", config={"contextLength": 99})
    assert estimate.passes_guardrails
    assert estimate.memory.total_bytes == 1_200_000
    assert estimate.memory.confidence == "high"
    assert server.loaded == {}
    (parameter,) = server.requests("estimateModelUsage")
    (layer,) = parameter["loadConfigStack"]["layers"]
    assert layer["config"]["fields"] == [{"key": "llm.load.contextLength", "value": 99}]
    with pytest.raises(lms.LMStudioModelNotFoundError, match=r"estimating 'nothing'.*llm-a"):
        await client.embedding.estimate_usage("nothing")


async def test_a_device_can_be_named(server: ScriptedServer, client: lms.Client) -> None:
    await client.llm.estimate_usage("llm-a", device_identifier="box")
    async with client.llm.model("llm-a", device_identifier="box"):
        pass
    async with client.llm.load_new_instance("llm-a", device_identifier="box"):
        pass
    for endpoint in ("estimateModelUsage", "getOrLoad", "loadModel"):
        assert server.requests(endpoint)[0]["deviceIdentifier"] == "box"


async def test_a_model_can_be_unloaded_by_its_identifier(
    server: ScriptedServer, client: lms.Client
) -> None:
    server.load_behind_back("llm-a", "other")
    with pytest.raises(lms.LMStudioModelNotFoundError, match="unloading 'llm-a'"):
        await client.llm.unload("llm-a")
    await client.llm.unload("other")
    assert server.loaded == {}


# The system


async def test_the_server_tells_its_version(client: lms.Client) -> None:
    assert await client.system.version() == lms.ServerVersion("0.3.99", 1)
    info = await client.system.info()
    assert (info.version, info.is_daemon) == ("0.3.99", False)
