"""Prediction settings, from KV config to the parameters of llama.cpp's sampling."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from lmstudio_async.embedded.load_settings import merge_layers, to_kv_config
from lmstudio_async.embedded.ranges import (
    BAD_VALUE,
    INT32_MAX,
    flag,
    if_checked,
    number,
    text,
    texts,
    whole,
)
from lmstudio_async.embedded.refusal import RequestError, bad_value, feature_not_supported
from lmstudio_async.wire.kv_config import KvConfig, KvConfigStack

LLGUIDANCE = "%llguidance {}"  # how a grammar in the dialect of that library begins
_PREFIX = "llm.prediction."
# The defaults of the protocol's own description of these settings, but for the last: a model that
# never comes to an end must not keep a machine busy unless someone asks for it.
DEFAULTS: dict[str, Any] = {
    _PREFIX + "temperature": 0.8,
    _PREFIX + "topKSampling": 40,
    _PREFIX + "repeatPenalty": {"checked": True, "value": 1.1},
    _PREFIX + "minPSampling": {"checked": True, "value": 0.05},
    _PREFIX + "topPSampling": {"checked": True, "value": 0.95},
    _PREFIX + "maxPredictedTokens": {"checked": False, "value": 1000},
    _PREFIX + "stopStrings": [],
    _PREFIX + "toolCallStopStrings": [],
    _PREFIX + "toolNaming": "removeSpecial",
    _PREFIX + "reasoning.parsing": {
        "enabled": True,
        "startString": "<think>",
        "endString": "</think>",
    },
    _PREFIX + "contextOverflowPolicy": "stopAtLimit",
}
# A raw prompt is completed as it stands: nothing in the answer has a meaning of its own.
RAW_DEFAULTS = DEFAULTS | {
    _PREFIX + "reasoning.parsing": {"enabled": False, "startString": "", "endString": ""}
}

OverflowPolicy: TypeAlias = Literal["stopAtLimit", "truncateMiddle", "rollingWindow"]
_FLOAT = number(-3e38, 3e38)  # the engine's are of 32 bits
_MAX_LOG_PROBS = 100
_POLICIES: tuple[OverflowPolicy, ...] = ("stopAtLimit", "truncateMiddle", "rollingWindow")


class PredictionSettings:
    """The settings of one prediction, by the end of their key. Raises RequestError for bad ones."""

    def __init__(
        self, stack: KvConfigStack, defaults: dict[str, Any] = DEFAULTS, **overrides: Any
    ) -> None:
        self._values = defaults | merge_layers(stack)
        self._values |= {_PREFIX + name: value for name, value in overrides.items()}
        if self.get("speculativeDecoding.draftModel"):
            raise feature_not_supported(
                "speculativeDecoding", "This server does no speculative decoding"
            )
        self.sampling = self._sampling()
        template = self.checked("promptTemplate", _template) or {}
        self.stop_strings = [*self._strings("stopStrings"), *template.get("stopStrings", [])]
        self.tool_call_stop_strings = self._strings("toolCallStopStrings")
        most = self.checked("maxPredictedTokens", if_checked(whole(-1, INT32_MAX)))
        self.max_tokens: int | None = None if most is None or most < 0 else most
        self.log_probs: int | None = self.checked("logProbs", if_checked(whole(0, _MAX_LOG_PROBS)))
        self.checked("systemPrompt", text)
        self.checked("reasoning.enableThinking", flag)
        self.grammar: str | None = self._grammar()

    @property
    def config(self) -> KvConfig:
        """The effective settings, the server's defaults among them."""
        return to_kv_config(self._values)

    @property
    def overflow_policy(self) -> OverflowPolicy:
        policy: OverflowPolicy = self.get("contextOverflowPolicy")
        if policy not in _POLICIES:
            raise no_value("contextOverflowPolicy", policy)
        return policy

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(_PREFIX + name, default)

    def checked(self, name: str, check: Callable[[Any], Any]) -> Any:
        """The value of a setting as `check` returns it, None if there is none."""
        if (value := self.get(name)) is None:
            return None
        try:
            return check(value)
        except BAD_VALUE:
            raise no_value(name, value) from None

    def _strings(self, name: str) -> list[str]:
        # The engine would stop at once for an empty one.
        return [one for one in self.checked(name, texts) or [] if one]

    def _sampling(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for name, translate in _SAMPLING.items():
            parameters |= self.checked(name, translate) or {}
        return parameters

    def _grammar(self) -> str | None:
        """What structured output is held to."""
        value = self.get("structured") or {"type": "none"}
        match value:
            case {"type": "none"}:
                return None
            case {"type": "json"}:
                # Without a schema, any JSON value.
                schema = value.get("jsonSchema") or {}
                if isinstance(schema, dict):
                    return f"{LLGUIDANCE}\nstart: %json {msgspec.json.encode(schema).decode()}"
            case {"type": "gbnf", "gbnfGrammar": str(grammar)} if grammar.strip():
                return grammar
        raise no_value("structured", value)


def no_value(name: str, value: Any) -> RequestError:
    """The error for a value that a setting cannot have."""
    return bad_value(_PREFIX + name, value)


def _plain(parameter: str, check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {parameter: check(value)}


def _if_checked(
    parameter: str, off: Any, check: Callable[[Any], Any] = _FLOAT
) -> Callable[[Any], dict[str, Any]]:
    def translate(value: Any) -> dict[str, Any]:
        checked = if_checked(check)(value)
        return {parameter: off if checked is None else checked}

    return translate


def _mirostat(value: Any) -> dict[str, Any]:
    return {
        "mirostat": whole(0, 2)(value["version"]),
        "mirostat_eta": _FLOAT(value["learningRate"]),
        "mirostat_tau": _FLOAT(value["targetEntropy"]),
    }


def _logit_bias(value: Any) -> dict[str, Any]:
    # False is the engine's word for "never".
    bias = [
        [whole(0, INT32_MAX)(token), False if by == "-inf" else _FLOAT(by)] for token, by in value
    ]
    return {"logit_bias": bias}


def _template(value: Any) -> dict[str, Any]:
    """A prompt template, checked as far as every kind of it has these fields."""
    if not isinstance(value, dict):
        raise TypeError
    texts(value.get("stopStrings", []))
    return value


_SAMPLING: dict[str, Callable[[Any], dict[str, Any]]] = {
    "temperature": _plain("temperature", _FLOAT),
    "topKSampling": _plain("top_k", whole(-1, INT32_MAX)),
    "topPSampling": _if_checked("top_p", 1.0),
    "minPSampling": _if_checked("min_p", 0.0),
    "repeatPenalty": _if_checked("repeat_penalty", 1.0),
    "llama.presencePenalty": _if_checked("presence_penalty", 0.0),
    "llama.frequencyPenalty": _if_checked("frequency_penalty", 0.0),
    "llama.xtcProbability": _if_checked("xtc_probability", 0.0),
    "llama.xtcThreshold": _if_checked("xtc_threshold", 0.1),
    "llama.locallyTypicalSampling": _if_checked("typical_p", 1.0),
    "llama.mirostatSampling": _mirostat,
    "llama.logitBias": _logit_bias,
    "seed": _if_checked("seed", -1, whole(-1, 2**32 - 1)),
}
