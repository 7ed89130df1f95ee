"""Predictions, tokens and embeddings, over the bare protocol."""

import asyncio
import json
import math
import time
from typing import Any

import anyio
import psutil
import pytest

from lmstudio_async.embedded import EmbeddedServer

from .conftest import Connect
from .raw import (
    ANY_LOADED,
    EMBEDDER,
    RawSocket,
    Refused,
    at_most,
    chat,
    prediction,
    stack,
)

pytestmark = [pytest.mark.engine, pytest.mark.asyncio]


async def processing_state(socket: RawSocket) -> Any:
    parameter = {"specifier": ANY_LOADED, "throwIfNotFound": True}
    return await socket.call("getInstanceProcessingState", parameter)


async def cpu_rests(pid: int) -> None:
    """Wait until a process uses next to no processor time."""
    process = psutil.Process(pid)
    with anyio.fail_after(10):
        while True:
            before = sum(process.cpu_times()[:2])
            await asyncio.sleep(0.3)
            if sum(process.cpu_times()[:2]) - before < 0.1:
                return


async def test_predict_streams_fragments(llm: RawSocket) -> None:
    async with llm.loading() as info:
        packets = await llm.channel("predict", prediction("Name a colour.", at_most(8)))
        kinds = [packet["type"] for packet in packets]
        assert kinds == sorted(kinds, key=["promptProcessingProgress", "fragment", "success"].index)
        progress = [packet["progress"] for packet in packets if "progress" in packet]
        assert (progress[0], progress[-1]) == (0, 1)
        success = packets[-1]
        assert success["modelInfo"]["identifier"] == info["identifier"]
        stats = success["stats"]
        assert stats["stopReason"] == "maxPredictedTokensReached"
        assert stats["predictedTokensCount"] == 8
        assert sum(p["fragment"]["tokensCount"] for p in packets if "fragment" in p) == 8
        assert stats["promptTokensCount"] == packets[0]["details"]["totalPromptTokenCount"]
        assert stats["totalTokensCount"] == stats["promptTokensCount"] + 8
        assert 0 < stats["timeToFirstTokenSec"] < stats["totalTimeSec"]
        assert stats["tokensPerSecond"] > 0


async def test_stop_reasons(llm: RawSocket) -> None:
    async with llm.loading():
        text, success = await llm.predict("Say hello.")
        assert success["stats"]["stopReason"] == "eosFound"
        assert "stopString" not in success["stats"]
        stop = text.split()[2]
        shorter, success = await llm.predict("Say hello.", {"stopStrings": ["qwertz", stop]})
        assert success["stats"]["stopReason"] == "stopStringFound"
        assert success["stats"]["stopString"] == stop
        assert shorter == text[: text.index(stop)]


async def test_cancel_stops_the_generation(llm: RawSocket, embedded: EmbeddedServer) -> None:
    async with llm.loading():
        channel_id = await llm.create("predict", prediction("Tell me a very long story."))
        packets = []
        async for packet in llm.packets(channel_id):
            packets.append(packet)
            if packet["type"] == "fragment" and len(packets) == 6:
                await llm.cancel(channel_id)
        assert packets[-1]["stats"]["stopReason"] == "userStopped"
        assert packets[-1]["stats"]["predictedTokensCount"] >= 1
        await cpu_rests(embedded.pids[1])
        assert await processing_state(llm) == {"status": "idle", "queued": 0}


async def test_closing_the_socket_stops_the_generation(
    connect: Connect, embedded: EmbeddedServer
) -> None:
    leaver, other = await connect("llm"), await connect("llm")
    async with other.loading():
        await leaver.create("predict", prediction("Tell me a very long story."))
        while (await leaver.receive())["message"]["type"] != "fragment":
            pass
        await leaver.socket.close()
        await cpu_rests(embedded.pids[1])
        assert await processing_state(other) == {"status": "idle", "queued": 0}


async def test_processing_state(connect: Connect) -> None:
    sockets = [await connect("llm") for _ in range(3)]
    other = await connect("llm")
    async with other.loading(config={"llm.load.numParallelSessions": 1}):
        channels = [
            await socket.create("predict", prediction("Tell me a very long story."))
            for socket in sockets
        ]
        seen: set[str] = set()
        with anyio.fail_after(30):
            while "generating" not in seen:
                state = await processing_state(other)
                seen.add(state["status"])
        assert state["queued"] == 2
        for socket, channel_id in zip(sockets, channels, strict=True):
            await socket.cancel(channel_id)
            stats = [packet async for packet in socket.packets(channel_id)][-1]["stats"]
            assert stats["stopReason"] == "userStopped"
        assert await processing_state(other) == {"status": "idle", "queued": 0}


async def test_parallel_predictions_agree(connect: Connect) -> None:
    sockets = [await connect("llm") for _ in range(4)]
    async with sockets[0].loading():
        results = await asyncio.gather(
            *(socket.predict("What is the capital of France?", at_most(12)) for socket in sockets)
        )
        assert all("Paris" in text for text, _ in results)


async def test_structured_output(llm: RawSocket) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    }
    async with llm.loading():
        text, _ = await llm.predict(
            "Where is the Louvre?",
            {"structured": {"type": "json", "jsonSchema": schema}, **at_most(60)},
        )
        assert set(json.loads(text)) == {"city"}
        text, _ = await llm.predict(
            "Is water wet?",
            {"structured": {"type": "gbnf", "gbnfGrammar": 'root ::= "yes" | "no"'}},
        )
        assert text in ("yes", "no")
        with pytest.raises(Refused, match="grammar"):
            await llm.predict("?", {"structured": {"type": "gbnf", "gbnfGrammar": "nonsense"}})


async def test_settings_reach_the_engine(llm: RawSocket) -> None:
    async with llm.loading():
        config = {
            "temperature": 1.5,
            "topKSampling": 200,
            "topPSampling": {"checked": False, "value": 0.5},
            "minPSampling": {"checked": False, "value": 0.5},
            "seed": {"checked": True, "value": 7},
            **at_most(12),
        }
        first, success = await llm.predict("Invent a name.", config)
        again, _ = await llm.predict("Invent a name.", config)
        assert first == again
        config["seed"] = {"checked": True, "value": 8}
        other, _ = await llm.predict("Invent a name.", config)
        assert other != first
        effective = {f["key"]: f["value"] for f in success["predictionConfig"]["fields"]}
        assert effective["llm.prediction.temperature"] == 1.5
        assert effective["llm.prediction.repeatPenalty"] == {"checked": True, "value": 1.1}
        with pytest.raises(Refused, match="topPSampling"):
            await llm.predict("?", {"topPSampling": "much"})


async def test_prompt_templates(llm: RawSocket) -> None:
    manual = {
        f"{place}{role}": f"<{place}{role}>"
        for place in ("before", "after")
        for role in ("System", "User", "Assistant")
    }
    template = {"type": "manual", "manualPromptTemplate": manual, "stopStrings": []}

    def parameter(config: dict[str, Any]) -> dict[str, Any]:
        history = {"specifier": ANY_LOADED, "history": chat("Hi"), "opts": {}}
        return history | {"predictionConfigStack": stack(config)}

    async with llm.loading():
        answer = await llm.call("applyPromptTemplate", parameter({}))
        assert answer["formatted"].endswith(
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
        answer = await llm.call(
            "applyPromptTemplate", parameter({"llm.prediction.promptTemplate": template})
        )
        assert answer == {"formatted": "<beforeUser>Hi<afterUser><beforeAssistant>"}
        tool = {"type": "function", "function": {"name": "add"}}
        with_tools = parameter({}) | {"opts": {"toolDefinitions": [tool]}}
        assert "formatted" in await llm.call("applyPromptTemplate", with_tools)
        raw = dict.fromkeys(manual, "")
        config = {"promptTemplate": template | {"manualPromptTemplate": raw}, **at_most(4)}
        text, success = await llm.predict("One, two, three, four,", config)
        assert "five" in text
        assert success["stats"]["promptTokensCount"] == 8
        jinja: dict[str, Any] = {
            "type": "jinja",
            "jinjaPromptTemplate": {"template": "x"},
            "stopStrings": [],
        }
        with pytest.raises(Refused) as caught:
            await llm.predict("?", {"promptTemplate": jinja})
        # The one that clients complete raw texts with is known.
        jinja["jinjaPromptTemplate"] = {
            "template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        }
        answer = await llm.call(
            "applyPromptTemplate", parameter({"llm.prediction.promptTemplate": jinja})
        )
        assert answer == {"formatted": "Hi"}
        assert caught.value.code == "generic.engineDoesNotSupportFeature"
    load = {
        "llm.load.promptTemplate": {
            "type": "jinja",
            "jinjaPromptTemplate": {"template": "{{ messages[0]['content'] }}!"},
        }
    }
    async with llm.loading(config=load):
        assert await llm.call("applyPromptTemplate", parameter({})) == {"formatted": "Hi!"}


async def test_tool_messages_are_rendered(llm: RawSocket) -> None:
    call = {"type": "function", "id": "1", "name": "add", "arguments": {"a": 1}}
    messages = [
        *chat("1+1?")["messages"],
        {"role": "assistant", "content": [{"type": "toolCallRequest", "toolCallRequest": call}]},
        {
            "role": "tool",
            "content": [{"type": "toolCallResult", "content": "two", "toolCallId": "1"}],
        },
    ]
    async with llm.loading():
        answer = await llm.call(
            "applyPromptTemplate",
            {
                "specifier": ANY_LOADED,
                "history": {"messages": messages},
                "predictionConfigStack": stack(),
                "opts": {},
            },
        )
        assert "two" in answer["formatted"]


async def test_files_are_refused(llm: RawSocket) -> None:
    parameter = prediction("What is this?")
    parameter["history"]["messages"][0]["content"].append(
        {"type": "file", "name": "a", "identifier": "b", "sizeBytes": 1, "fileType": "image"}
    )
    async with llm.loading():
        with pytest.raises(Refused, match="vision") as caught:
            await llm.channel("predict", parameter)
        assert caught.value.data == {
            "code": "generic.engineDoesNotSupportFeature",
            "feature": "vision",
            "engineName": "llama.cpp",
            "engineType": "gguf",
            "installedVersion": "embedded",
            "supportedVersion": None,
        }


async def test_presets_are_unknown(llm: RawSocket) -> None:
    async with llm.loading():
        with pytest.raises(Refused) as caught:
            await llm.channel("predict", prediction("?") | {"fuzzyPresetIdentifier": "mine"})
        assert caught.value.code == "generic.presetNotFound"


async def test_a_prompt_longer_than_the_context(llm: RawSocket) -> None:
    async with llm.loading(config={"llm.load.contextLength": 256}):
        with pytest.raises(Refused, match="context"):
            await llm.predict("many words " * 500)
    async with llm.loading(config={"llm.load.contextLength": 300}):
        with pytest.raises(Refused, match="the context only 300"):
            await llm.predict("many words " * 150)
        assert (await llm.predict("Hello", at_most(3)))[1]["stats"]["predictedTokensCount"] == 3


async def test_base_prediction_config(llm: RawSocket) -> None:
    async with llm.loading():
        config = await llm.call("getBasePredictionConfig", {"specifier": ANY_LOADED})
        assert {"key": "llm.prediction.topKSampling", "value": 40} in config["fields"]


async def test_tokens(llm: RawSocket) -> None:
    async with llm.loading():
        parameter = {"specifier": ANY_LOADED, "inputString": "Hello world"}
        tokens = (await llm.call("tokenize", parameter))["tokens"]
        assert tokens == [19556, 905]
        assert await llm.call("countTokens", parameter) == {"tokenCount": 2}
        assert await llm.call("countTokens", parameter | {"inputString": ""}) == {"tokenCount": 0}


async def test_unload_in_the_middle_of_a_prediction(connect: Connect) -> None:
    predicting, waiting, other = [await connect("llm") for _ in range(3)]
    info = await other.load(config={"llm.load.numParallelSessions": 1})
    channel_id = await predicting.create("predict", prediction("Tell me a very long story."))
    while (await predicting.receive())["message"]["type"] != "fragment":
        pass
    waiting_id = await waiting.create("predict", prediction("Tell me a very long story."))
    while (await processing_state(other))["queued"] == 0:
        pass
    started = time.monotonic()
    await other.unload(info["identifier"])
    print(f"unloaded in the middle of a prediction in {time.monotonic() - started:.3f} s")
    for socket, unanswered in ((predicting, channel_id), (waiting, waiting_id)):
        with pytest.raises(Refused, match="unloaded") as caught:
            [packet async for packet in socket.packets(unanswered)]
        assert caught.value.data == {"code": "generic.specificModelUnloaded"}


async def test_embeddings(connect: Connect) -> None:
    socket = await connect("embedding")
    config = {"embedding.load.contextLength": 256}
    async with socket.loading(EMBEDDER, config=config) as info:
        assert info["type"] == "embedding"
        assert info["identifier"] == EMBEDDER

        async def embed(text: str) -> list[float]:
            answer = await socket.call(
                "embedString", {"modelSpecifier": ANY_LOADED, "inputString": text}
            )
            return list(answer["embedding"])

        cat, kitten, tax = [
            await embed(text)
            for text in ("A cat sleeps.", "A kitten naps.", "Value added tax is due on Monday.")
        ]
        assert len(cat) == 576
        assert math.isclose(dot(cat, cat), 1, rel_tol=1e-3)
        assert dot(cat, kitten) > dot(cat, tax)
        parameter = {"specifier": ANY_LOADED, "inputString": "Hello world"}
        assert await socket.call("countTokens", parameter) == {"tokenCount": 2}
        assert len(await embed("word " * 250)) == 576  # as long as the context, in one batch
        with pytest.raises(Refused, match="refused"):
            await embed("word " * 300)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
