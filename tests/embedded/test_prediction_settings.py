"""Prediction settings, and what they make the engine do."""

import asyncio
import math
from typing import Any

import pytest

from lmstudio_async.embedded.prediction_settings import PredictionSettings
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.wire.kv_config import KvConfig, KvConfigLayer, KvConfigStack, KvField

from .conftest import Connect
from .raw import ANY_LOADED, RawSocket, Refused, at_most, prediction, stack


def settings(name: str, value: Any) -> PredictionSettings:
    config = KvConfig([KvField(f"llm.prediction.{name}", value)])
    return PredictionSettings(KvConfigStack([KvConfigLayer("apiOverride", config)]))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", 0, {"temperature": 0.0}),
        ("topKSampling", 7, {"top_k": 7}),
        ("topPSampling", {"checked": True, "value": 0.3}, {"top_p": 0.3}),
        ("topPSampling", {"checked": False, "value": 0.3}, {"top_p": 1.0}),
        ("minPSampling", {"checked": False, "value": 0.3}, {"min_p": 0.0}),
        ("repeatPenalty", {"checked": False, "value": 2}, {"repeat_penalty": 1.0}),
        ("llama.presencePenalty", {"checked": True, "value": 1}, {"presence_penalty": 1}),
        ("llama.xtcProbability", {"checked": True, "value": 0.5}, {"xtc_probability": 0.5}),
        ("llama.xtcThreshold", {"checked": True, "value": 0.2}, {"xtc_threshold": 0.2}),
        ("llama.locallyTypicalSampling", {"checked": True, "value": 0.9}, {"typical_p": 0.9}),
        (
            "llama.mirostatSampling",
            {"version": 2, "learningRate": 0.1, "targetEntropy": 5},
            {"mirostat": 2, "mirostat_eta": 0.1, "mirostat_tau": 5.0},
        ),
        ("llama.logitBias", [[5, 2], [6, "-inf"]], {"logit_bias": [[5, 2.0], [6, False]]}),
        ("seed", {"checked": True, "value": 3}, {"seed": 3}),
    ],
)
def test_sampling(name: str, value: Any, expected: dict[str, Any]) -> None:
    assert settings(name, value).sampling.items() >= expected.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("topPSampling", 0.5),
        ("maxPredictedTokens", 5),
        ("stopStrings", "stop"),
        ("stopStrings", [1]),
        ("llama.logitBias", [5]),
        ("structured", {"type": "xml"}),
        ("structured", {"type": "json", "jsonSchema": "text"}),
        ("structured", {"type": "gbnf"}),
    ],
)
def test_bad_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name):
        settings(name, value)


@pytest.mark.parametrize(
    ("checked", "value", "most"), [(True, 7, 7), (True, -1, None), (False, 7, None)]
)
def test_token_limits(checked: bool, value: int, most: int | None) -> None:
    assert settings("maxPredictedTokens", {"checked": checked, "value": value}).max_tokens == most


@pytest.mark.engine
@pytest.mark.asyncio
async def test_log_probabilities(llm: RawSocket) -> None:
    async with llm.loading():
        config = {"logProbs": {"checked": True, "value": 3}, **at_most(5)}
        packets = await llm.channel("predict", prediction("Name a colour.", config))
        fragments = [packet["fragment"] for packet in packets if "fragment" in packet]
        tokens = [token for fragment in fragments for token in fragment["tokens"]]
        assert len(tokens) == 5
        assert "".join(one["text"] for one in tokens) == "".join(f["content"] for f in fragments)
        for token in tokens:
            likely = [one["logProb"] for one in token["candidates"]]
            assert len(likely) == 3
            assert likely == sorted(likely, reverse=True)
            assert 0 < sum(map(math.exp, likely)) <= 1
        config["logProbs"] = {"checked": True, "value": 0}
        packets = await llm.channel("predict", prediction("Name a colour.", config))
        (token,) = next(p["fragment"]["tokens"] for p in packets if "fragment" in p)
        assert token["candidates"] == []
        packets = await llm.channel("predict", prediction("Name a colour.", at_most(2)))
        assert all("tokens" not in p["fragment"] for p in packets if "fragment" in p)


@pytest.mark.engine
@pytest.mark.asyncio
async def test_logit_bias(llm: RawSocket) -> None:
    async with llm.loading():
        config = {
            "llama.logitBias": [[19556, 100]],
            "repeatPenalty": {"checked": False, "value": 1},
        }
        text, _ = await llm.predict("Name a colour.", config | at_most(3))
        assert text == "HelloHelloHello"
        config["llama.logitBias"] = [[19556, "-inf"]]
        text, _ = await llm.predict("Say only: Hello", config | at_most(3))
        assert not text.startswith("Hello")


@pytest.mark.engine
@pytest.mark.asyncio
async def test_tool_call_stop_strings(llm: RawSocket) -> None:
    async with llm.loading():
        text, _ = await llm.predict("Say hello.", at_most(8))
        stop = text.split()[2]
        _, success = await llm.predict("Say hello.", {"toolCallStopStrings": [stop], **at_most(8)})
        assert success["stats"]["stopReason"] == "toolCalls"
        assert success["stats"]["stopString"] == stop


@pytest.mark.engine
@pytest.mark.asyncio
async def test_reasoning_is_told_apart(llm: RawSocket) -> None:
    text = "<think>\nTwo and two.\n</think>\nFour"
    grammar = f"root ::= {text!r}".replace("'", '"')
    config = {"structured": {"type": "gbnf", "gbnfGrammar": grammar}}
    off = {"reasoning.parsing": {"enabled": False, "startString": "<think>", "endString": "x"}}
    async with llm.loading():
        packets = await llm.channel("predict", prediction("2+2?", config))
        fragments = [packet["fragment"] for packet in packets if "fragment" in packet]
        by_kind: dict[str, str] = {}
        for fragment in fragments:
            kind = fragment["reasoningType"]
            by_kind[kind] = by_kind.get(kind, "") + fragment["content"]
        assert list(by_kind.items()) == [
            ("reasoningStartTag", "<think>"),
            ("reasoning", "\nTwo and two.\n"),
            ("reasoningEndTag", "</think>"),
            ("none", "\nFour"),
        ]
        stats = packets[-1]["stats"]
        # The end of the text is a token, too, but no text.
        counted = sum(fragment["tokensCount"] for fragment in fragments)
        assert counted in (stats["predictedTokensCount"], stats["predictedTokensCount"] - 1)
        packets = await llm.channel("predict", prediction("2+2?", config | off))
        assert {p["fragment"]["reasoningType"] for p in packets if "fragment" in p} == {"none"}


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_template_may_begin_the_reasoning(llm: RawSocket) -> None:
    template = {"template": "{{ messages[0]['content'] }}<think>\n"}
    load = {"llm.load.promptTemplate": {"type": "jinja", "jinjaPromptTemplate": template}}
    structured = {"type": "gbnf", "gbnfGrammar": 'root ::= "So</think>Four"'}
    async with llm.loading(config=load):
        packets = await llm.channel("predict", prediction("2+2?", {"structured": structured}))
        fragments = [packet["fragment"] for packet in packets if "fragment" in packet]
        kinds = dict.fromkeys(fragment["reasoningType"] for fragment in fragments)
        assert list(kinds) == ["reasoning", "reasoningEndTag", "none"]
        assert fragments[0]["content"][0] == "S"


@pytest.mark.engine
@pytest.mark.asyncio
async def test_complete_raw_text(llm: RawSocket) -> None:
    parameter = {
        "modelSpecifier": ANY_LOADED,
        "rawPrompt": "One, two, three, four,",
        "predictionConfigStack": stack(
            {
                "llm.prediction.temperature": 0,
                "llm.prediction.maxPredictedTokens": {"checked": True, "value": 4},
            }
        ),
    }
    tools = stack({"llm.prediction.tools": {"type": "toolArray", "tools": [NOW]}})
    async with llm.loading():
        packets = await llm.channel("completeRawText", parameter)
        text = "".join(p["fragment"]["content"] for p in packets if "fragment" in p)
        assert "five" in text
        assert packets[-1]["stats"]["promptTokensCount"] == 8
        assert packets[-1]["stats"]["stopReason"] == "maxPredictedTokensReached"
        with pytest.raises(Refused, match="tools"):
            await llm.channel("completeRawText", parameter | {"predictionConfigStack": tools})
        with pytest.raises(Refused, match="preset"):
            await llm.channel("completeRawText", parameter | {"fuzzyPresetIdentifier": "mine"})


NOW = {"type": "function", "function": {"name": "now"}}


@pytest.mark.engine
@pytest.mark.asyncio
async def test_speculative_decoding_is_refused(llm: RawSocket) -> None:
    async with llm.loading():
        draft = {"specifier": ANY_LOADED, "draftModelKey": "small"}
        with pytest.raises(Refused, match="speculative") as caught:
            await llm.call("preloadDraftModel", draft)
        assert caught.value.code == "generic.engineDoesNotSupportFeature"
        with pytest.raises(Refused, match="speculative"):
            await llm.predict("?", {"speculativeDecoding.draftModel": "small"})
        await llm.predict("?", {"speculativeDecoding.draftModel": "", **at_most(1)})


@pytest.mark.engine
@pytest.mark.asyncio
async def test_bad_schemas_are_refused(connect: Connect) -> None:
    llm, other = await connect("llm"), await connect("llm")
    async with llm.loading():
        for schema in ({"type": "nonsense"}, {"$ref": "#/nowhere"}):
            structured = {"structured": {"type": "json", "jsonSchema": schema}}
            with pytest.raises(Refused, match="refused the grammar or JSON schema") as caught:
                await llm.predict("?", structured)
            assert caught.value.error["cause"]
        # What one does wrong, another does not, not at the same time either.
        good = {"structured": {"type": "json", "jsonSchema": {"type": "boolean"}}}
        for attempt in range(5):
            bad = {"structured": {"type": "json", "jsonSchema": {"type": f"nonsense{attempt}"}}}
            answering = asyncio.create_task(other.predict("Is water wet?", good))
            with pytest.raises(Refused, match="refused") as caught:
                await llm.predict("?", bad)
            assert f"nonsense{attempt}" in caught.value.error["cause"]
            assert (await answering)[0] in ("true", "false")


@pytest.mark.engine
@pytest.mark.asyncio
async def test_the_system_prompt_of_the_settings(llm: RawSocket) -> None:
    def parameter(system: str) -> dict[str, Any]:
        history = prediction("Hi")["history"]
        return {
            "specifier": ANY_LOADED,
            "history": history,
            "predictionConfigStack": stack({"llm.prediction.systemPrompt": system}),
            "opts": {},
        }

    async with llm.loading():
        answer = await llm.call("applyPromptTemplate", parameter("Be brief."))
        assert "<|im_start|>system\nBe brief.<|im_end|>" in answer["formatted"]
