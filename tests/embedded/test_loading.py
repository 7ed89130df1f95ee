"""Loading, finding and unloading models, over the bare protocol."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lmstudio_async.embedded import EmbeddedServer

from .conftest import Connect
from .raw import ANY_LOADED, EMBEDDER, STARTER, RawSocket, Refused, at_most, prediction, stack

pytestmark = [pytest.mark.engine, pytest.mark.asyncio]


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> float:
    """Wait until the condition holds; the seconds it took."""
    start = time.monotonic()
    while not await condition():
        assert time.monotonic() - start < seconds, "it did not come to pass in time"
        await asyncio.sleep(0.02)
    return time.monotonic() - start


def query(**conditions: Any) -> dict[str, Any]:
    return {"type": "query", "query": conditions}


async def test_load_reports_what_it_does(llm: RawSocket) -> None:
    packets = await llm.channel("loadModel", {"modelKey": STARTER, "loadConfigStack": stack()})
    assert packets[0]["type"] == "resolved"
    progress = [packet["progress"] for packet in packets if packet["type"] == "progress"]
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert any(0 < value < 1 for value in progress)
    assert progress[-1] == 1
    info = packets[-1]["info"]
    assert info["identifier"] == STARTER
    assert info["paramsString"] == "135M"
    assert info["quantization"] == {"name": "Q4_1", "bits": 4}
    assert info["contextLength"] == 4096
    assert await llm.call("listLoaded") == [info]
    await llm.unload(STARTER)


async def test_identifiers_are_unique(llm: RawSocket) -> None:
    async with llm.loading() as first, llm.loading() as second:
        assert [first["identifier"], second["identifier"]] == [STARTER, f"{STARTER}:2"]
        assert first["instanceReference"] != second["instanceReference"]
        async with llm.loading(identifier="mine") as third:
            assert third["identifier"] == "mine"
            with pytest.raises(Refused, match="mine"):
                await llm.load(identifier="mine")


async def test_get_or_load(llm: RawSocket) -> None:
    parameter = {"identifier": STARTER, "loadConfigStack": stack()}
    packets = await llm.channel("getOrLoad", parameter)
    assert packets[0]["type"] == "startLoading"
    assert packets[-1]["type"] == "loadSuccess"
    info = packets[-1]["info"]
    for name in (STARTER, "nick", info["path"]):
        parameter["identifier"] = name
        (packet,) = await llm.channel("getOrLoad", parameter)
        assert packet == {"type": "alreadyLoaded", "info": info}
    await llm.unload(STARTER)


async def test_concurrent_get_or_load_loads_once(
    connect: Connect, embedded: EmbeddedServer
) -> None:
    sockets = [await connect("llm") for _ in range(8)]
    parameter = {"identifier": STARTER, "loadConfigStack": stack()}
    results = await asyncio.gather(*(socket.channel("getOrLoad", parameter) for socket in sockets))
    assert len({packets[-1]["info"]["instanceReference"] for packets in results}) == 1
    assert [packets[0]["type"] for packets in results] == ["startLoading"] * 8
    assert len(embedded.pids) == 2
    await sockets[0].unload(STARTER)


async def test_a_shared_load_ends_with_the_last_who_waits(
    connect: Connect, embedded: EmbeddedServer
) -> None:
    first, second = await connect("llm"), await connect("llm")
    parameter = {"identifier": STARTER, "loadConfigStack": stack()}
    channel_id = await first.create("getOrLoad", parameter)
    await first.receive()
    other = asyncio.create_task(second.channel("getOrLoad", parameter))
    await first.cancel(channel_id)
    with pytest.raises(Refused, match="cancelled"):
        [packet async for packet in first.packets(channel_id)]
    assert (await other)[-1]["type"] == "loadSuccess"
    await first.unload(STARTER)


@pytest.mark.parametrize("leave", ["cancel", "close"])
async def test_an_unwanted_load_is_cancelled(
    connect: Connect, embedded: EmbeddedServer, leave: str
) -> None:
    socket = await connect("llm")
    channel_id = await socket.create("loadModel", {"modelKey": STARTER, "loadConfigStack": stack()})
    assert (await socket.receive())["message"]["type"] == "resolved"
    assert (await socket.receive())["message"]["type"] == "progress"
    if leave == "cancel":
        await socket.cancel(channel_id)
        with pytest.raises(Refused, match="cancelled"):
            [packet async for packet in socket.packets(channel_id)]
        assert len(embedded.pids) == 1, "its process is still there"
    else:
        await socket.socket.close()

    async def alone() -> bool:
        return len(embedded.pids) == 1

    await eventually(alone)
    assert await (await connect("llm")).loaded() == []


async def test_a_load_can_be_cancelled_at_any_time(
    llm: RawSocket, embedded: EmbeddedServer
) -> None:
    for moment in range(0, 200, 10):
        parameter = {"modelKey": STARTER, "loadConfigStack": stack()}
        channel_id = await llm.create("loadModel", parameter)
        await asyncio.sleep(moment / 1000)
        await llm.cancel(channel_id)
        with pytest.raises(Refused, match="cancelled"):
            [packet async for packet in llm.packets(channel_id)]
        assert len(embedded.pids) == 1, f"its process is still there, cancelled after {moment} ms"


async def test_unknown_key(llm: RawSocket) -> None:
    with pytest.raises(Refused, match="nothing-like-it") as caught:
        await llm.load("nothing-like-it")
    assert caught.value.data == {
        "code": "generic.pathNotFound",
        "path": "nothing-like-it",
        "availablePathsSample": ["alien-7b", EMBEDDER, STARTER],
        "totalModels": 3,
    }


async def test_wrong_kind_of_model(connect: Connect) -> None:
    with pytest.raises(Refused) as caught:
        await (await connect("embedding")).load(STARTER)
    assert caught.value.data == {
        "code": "generic.domainMismatch",
        "path": STARTER,
        "actualDomain": "llm",
        "expectedDomain": "embedding",
    }


async def test_model_that_the_engine_cannot_load(llm: RawSocket) -> None:
    with pytest.raises(Refused, match="could not load") as caught:
        await llm.load("alien-7b")
    assert "alien" in caught.value.error["cause"], "the engine's own words are missing"
    assert await llm.loaded() == []


async def test_bad_setting(llm: RawSocket) -> None:
    with pytest.raises(Refused, match="contextLength"):
        await llm.load(config={"llm.load.contextLength": -1})


async def test_remote_device(llm: RawSocket) -> None:
    with pytest.raises(Refused, match="elsewhere"):
        await llm.load(deviceIdentifier="elsewhere")
    async with llm.loading(deviceIdentifier=None):
        pass


async def test_specifiers(llm: RawSocket) -> None:
    def find(specifier: dict[str, Any], throw: bool = True) -> Any:
        return llm.call("getModelInfo", {"specifier": specifier, "throwIfNotFound": throw})

    with pytest.raises(Refused) as caught:
        await find(ANY_LOADED)
    assert caught.value.code == "generic.noModelMatchingQuery"
    assert await find(ANY_LOADED, throw=False) is None
    async with llm.loading(identifier="one") as info:
        reference = {
            "type": "instanceReference",
            "instanceReference": info["instanceReference"],
        }
        specifiers = [ANY_LOADED, query(identifier="one"), query(path=info["path"]), reference]
        for specifier in specifiers:
            assert await find(specifier) == info
        with pytest.raises(Refused) as caught:
            await find(query(identifier="two"))
        assert caught.value.data == {
            "code": "generic.identifierNotFound",
            "identifier": "two",
            "loadedModelsSample": ["one"],
            "totalLoadedModels": 1,
        }
        with pytest.raises(Refused) as caught:
            await find(query(vision=True))
        assert caught.value.data == {
            "code": "generic.noModelMatchingQuery",
            "query": {"vision": True},
            "loadedModelsSample": ["one"],
            "totalLoadedModels": 1,
        }
    with pytest.raises(Refused) as caught:
        await find(reference)
    assert caught.value.data == {"code": "generic.specificModelUnloaded"}


async def test_unload_of_what_is_not_loaded(llm: RawSocket) -> None:
    with pytest.raises(Refused) as caught:
        await llm.unload("nobody")
    assert caught.value.code == "generic.identifierNotFound"


@pytest.mark.parametrize("shared", [True, False])
async def test_load_config(llm: RawSocket, shared: bool) -> None:
    """Every prediction has the whole context length, however many may run at once."""
    config = {
        "llm.load.contextLength": 300,
        "llm.load.numParallelSessions": 2,
        "llm.load.useUnifiedKvCache": shared,
        "llm.load.llama.flashAttention": True,
        "llm.load.llama.kCacheQuantizationType": {"checked": True, "value": "q8_0"},
        "llm.load.llama.tryMmap": False,
        "llm.load.llama.acceleration.offloadRatio": 0.5,
    }
    async with llm.loading(config=config) as info:
        assert info["contextLength"] == 300
        effective = await llm.call("getLoadConfig", {"specifier": ANY_LOADED})
        assert {field["key"]: field["value"] for field in effective["fields"]} == config
        _, success = await llm.predict("Tell me a very long story.", {"temperature": 0})
        assert success["stats"]["totalTokensCount"] <= 301
        if success["stats"]["stopReason"] != "eosFound":
            assert success["stats"]["stopReason"] == "contextLengthReached"
            assert success["stats"]["totalTokensCount"] >= 299


async def test_parallel_predictions_beyond_the_context_they_share(connect: Connect) -> None:
    sockets = [await connect("llm") for _ in range(3)]
    story = "Tell me a very long story."
    shared = {"llm.load.contextLength": 128, "llm.load.numParallelSessions": 3}
    async with sockets[0].loading(config=shared):
        results = await asyncio.gather(
            *(socket.predict(story) for socket in sockets), return_exceptions=True
        )
        refusals = [result for result in results if isinstance(result, Refused)]
        assert refusals
        assert "share the context" in refusals[0].error["suggestion"]
    separate = shared | {"llm.load.useUnifiedKvCache": False}
    async with sockets[0].loading(config=separate):
        for _, success in await asyncio.gather(*(socket.predict(story) for socket in sockets)):
            assert success["stats"]["stopReason"] in ("contextLengthReached", "eosFound")


async def test_estimate(llm: RawSocket) -> None:
    parameter = {
        "modelKey": STARTER,
        "loadConfigStack": stack({"llm.load.contextLength": 1000}),
    }
    memory = (await llm.call("estimateModelUsage", parameter))["memory"]
    assert memory["modelBytes"] == 98_362_432
    # 30 layers, 3 heads of 64 numbers of 2 bytes, for keys and for values.
    assert memory["contextBytes"] == 1000 * 30 * 3 * 64 * 2 * 2


async def test_ttl(llm: RawSocket) -> None:
    """Counts from the end of the last request; never unloads a model that is working."""
    ttl = 0.4
    info = await llm.load(ttlMs=int(ttl * 1000))
    assert info["ttlMs"] == ttl * 1000
    _, success = await llm.predict("Tell me a long story.", at_most(200))
    finished = time.monotonic()
    assert success["stats"]["totalTimeSec"] > ttl, "too fast to prove anything"

    async def gone() -> bool:
        return await llm.loaded() == []  # asking for it is no use of it

    await eventually(gone)
    assert time.monotonic() - finished > 0.8 * ttl
    with pytest.raises(Refused) as caught:
        await llm.channel("predict", prediction("Are you there?"))
    assert caught.value.code == "generic.noModelMatchingQuery"


async def test_last_used_time(llm: RawSocket) -> None:
    async with llm.loading() as before:
        assert abs(before["lastUsedTime"] / 1000 - time.time()) < 60
        await llm.predict("Hello", at_most(20))
        (after,) = await llm.call("listLoaded")
        assert after["lastUsedTime"] > before["lastUsedTime"]


async def test_new_files_appear(connect: Connect, llm: RawSocket, models_dir: Any) -> None:
    system = await connect("system")
    known = [model["modelKey"] for model in await system.call("listDownloadedModels")]
    assert known == ["alien-7b", EMBEDDER, STARTER]
    copy = models_dir / "someone" / "copy" / "New-1B-Q8_0.gguf"
    copy.parent.mkdir()
    copy.symlink_to(next(models_dir.glob("HuggingFaceTB/*/*.gguf")).resolve())
    try:
        known = [model["modelKey"] for model in await system.call("listDownloadedModels")]
        assert "new-1b" in known
        async with llm.loading("new-1b"):
            pass
    finally:
        copy.unlink()
        copy.parent.rmdir()
