"""Requests out of all proportion, on a real model: refused by the protocol, and the model lives."""

import json
import logging
from typing import Any

import pytest

from lmstudio_async.embedded.server import ServerConfig, run_server

from .raw import STARTER, Refused, at_most, connected, prediction, stack

pytestmark = [pytest.mark.engine, pytest.mark.anyio]

NESTED: Any = []
for _ in range(400):
    NESTED = [NESTED]

LOADS: dict[str, dict[str, Any]] = {
    "a huge context": {"llm.load.contextLength": 10**12},
    "a context beyond 32 bits": {"llm.load.contextLength": 2**40},
    "a negative context": {"llm.load.contextLength": -4096},
    "no context": {"llm.load.contextLength": 0},
    "half a token": {"llm.load.contextLength": 0.5},
    "a context in words": {"llm.load.contextLength": "4096"},
    "many predictions": {"llm.load.numParallelSessions": 10**6},
    "a million threads": {"llm.load.llama.cpuThreadPoolSize": 10**6},
    "a huge batch": {"llm.load.llama.evalBatchSize": 2**70},
    "a negative batch": {"llm.load.llama.physicalBatchSize": -1},
    "layers in words": {"llm.load.llama.acceleration.offloadRatio": "all"},
    "too many layers": {"llm.load.llama.acceleration.offloadRatio": 1e300},
    "an unknown cache": {"llm.load.llama.kCacheQuantizationType": {"checked": True, "value": "x"}},
    "a rope of words": {"llm.load.llama.ropeFrequencyBase": {"checked": True, "value": "x"}},
    "a template of numbers": {
        "llm.load.promptTemplate": {"jinjaPromptTemplate": {"template": [1]}}
    },
}
PREDICTIONS: dict[str, dict[str, Any]] = {
    "a hot temperature": {"temperature": 1e300},
    "top k of 2**70": {"topKSampling": 2**70},
    "tokens in words": {"maxPredictedTokens": {"checked": True, "value": "many"}},
    "a million log-probabilities": {"logProbs": {"checked": True, "value": 10**6}},
    "a system prompt of lists": {"systemPrompt": [[]]},
    "stop strings of numbers": {"stopStrings": [1, 2]},
    "a tool without a name": {"tools": {"type": "toolArray", "tools": [{"function": {}}]}},
    "parameters in words": {
        "tools": {
            "type": "toolArray",
            "tools": [{"type": "function", "function": {"name": "a", "parameters": "x"}}],
        }
    },
    "a deep schema": {"structured": {"type": "json", "jsonSchema": {"enum": NESTED}}},
    "a grammar of nothing": {"structured": {"type": "gbnf", "gbnfGrammar": "nonsense"}},
    "a bias of words": {"llama.logitBias": [["x", "y"]]},
    "a template of numbers": {
        "promptTemplate": {"type": "manual", "manualPromptTemplate": {"beforeUser": 7}}
    },
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"debug": True}


async def test_requests_out_of_proportion(
    models_dir: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        run_server(ServerConfig(models_dir=str(models_dir))) as running,
        connected(running.address, "llm") as socket,
        socket.loading(config={"llm.load.contextLength": 256}),
    ):
        for config in LOADS.values():
            with pytest.raises(Refused) as caught:
                await socket.load(config=config)
            assert "Traceback" not in json.dumps(caught.value.error), config
        for ttl in (2**54, 2**70):
            with pytest.raises(Refused, match="out of range"):
                await _load_with_ttl(socket, ttl)
        for config in PREDICTIONS.values():
            with pytest.raises(Refused) as caught:
                await socket.predict("Hello", config)
            assert "Internal error" not in str(caught.value), config
        with pytest.raises(Refused, match="tokens"):
            await socket.channel("predict", prediction("word " * 100_000))
        text, _ = await socket.predict("Hello", at_most(2))
        assert text
        assert await socket.loaded() == [STARTER]
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


async def _load_with_ttl(socket: Any, ttl_ms: int) -> None:
    parameter = {"modelKey": STARTER, "ttlMs": ttl_ms, "loadConfigStack": stack()}
    await socket.channel("loadModel", parameter)
