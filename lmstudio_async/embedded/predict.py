"""The `llm` namespace: predictions, and what belongs to them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from lmstudio_async.embedded.instances import Instance, Work
from lmstudio_async.embedded.load_settings import merge_layers, to_kv_config
from lmstudio_async.embedded.management import ModelEndpoints
from lmstudio_async.embedded.prompt import render_prompt, template_stop_strings
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.embedded.session import Channel, Namespace, Rpc, Stream
from lmstudio_async.wire.kv_config import KvConfig
from lmstudio_async.wire.loading import SpecifierParameter
from lmstudio_async.wire.model_info import LlmInstanceInfo
from lmstudio_async.wire.prediction import (
    ApplyPromptTemplateParameter,
    ApplyPromptTemplateResult,
    FragmentPacket,
    LlmPredictionFragment,
    LlmPredictionStats,
    PredictionSuccessPacket,
    PredictParameter,
    PromptProcessingDetails,
    PromptProcessingProgressPacket,
    StopReason,
)

_PREFIX = "llm.prediction."
# The defaults of the protocol's own description of these settings.
_DEFAULTS: dict[str, Any] = {
    _PREFIX + "temperature": 0.8,
    _PREFIX + "topKSampling": 40,
    _PREFIX + "repeatPenalty": {"checked": True, "value": 1.1},
    _PREFIX + "minPSampling": {"checked": True, "value": 0.05},
    _PREFIX + "topPSampling": {"checked": True, "value": 0.95},
    _PREFIX + "maxPredictedTokens": {"checked": False, "value": 1000},
    _PREFIX + "stopStrings": [],
    # The engine neither shortens a chat nor lets its beginning roll out.
    _PREFIX + "contextOverflowPolicy": "stopAtLimit",
}


class LlmEndpoints(ModelEndpoints):
    def namespace(self) -> Namespace:
        shared = super().namespace()
        return Namespace(
            {
                **shared.rpcs,
                "applyPromptTemplate": Rpc(
                    ApplyPromptTemplateParameter, self.apply_prompt_template
                ),
            },
            {**shared.streams, "predict": Stream(PredictParameter, self.predict)},
        )

    async def get_base_prediction_config(self, parameter: SpecifierParameter) -> KvConfig:
        self.resolve(parameter.specifier)
        return to_kv_config(_DEFAULTS)

    async def apply_prompt_template(
        self, parameter: ApplyPromptTemplateParameter
    ) -> ApplyPromptTemplateResult:
        instance = self.resolve(parameter.specifier)
        config = _DEFAULTS | merge_layers(parameter.prediction_config_stack)
        if parameter.opts.tool_definitions:
            tools = {"type": "toolArray", "tools": parameter.opts.tool_definitions}
            config[_PREFIX + "tools"] = tools
        with instance.in_use():
            prompt = await render_prompt(instance.engine, parameter.history, config)
        return ApplyPromptTemplateResult(prompt)

    async def predict(self, parameter: PredictParameter, channel: Channel) -> None:
        instance = self.resolve(parameter.model_specifier)
        if parameter.fuzzy_preset_identifier is not None:
            raise RequestError(
                f"This server has no presets (asked for {parameter.fuzzy_preset_identifier!r})",
                code="generic.presetNotFound",
                specifiedFuzzyPresetIdentifier=parameter.fuzzy_preset_identifier,
                availablePresetsSample=[],
                totalAvailablePresets=0,
            )
        config = _DEFAULTS | merge_layers(parameter.prediction_config_stack)
        progress = _Progress(time.monotonic())
        stop_reason: StopReason = "userStopped"
        with channel.cancellable():
            async with instance.turn("processingPrompt") as work:
                prompt = await render_prompt(instance.engine, parameter.history, config)
                stop_reason = await _generate(instance, prompt, config, channel, work, progress)
        info = instance.info()
        assert isinstance(info, LlmInstanceInfo)
        await channel.send(
            PredictionSuccessPacket(
                stats=progress.stats(stop_reason),
                model_info=info,
                load_model_config=instance.settings.config,
                prediction_config=to_kv_config(config),
            )
        )


@dataclass
class _Progress:
    """What is known of a prediction so far. Times are of the monotonic clock, in seconds."""

    started: float
    first_token: float | None = None
    prompt_tokens: int = 0
    predicted_tokens: int = 0
    final: dict[str, Any] | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.predicted_tokens

    def stats(self, stop_reason: StopReason) -> LlmPredictionStats:
        now = time.monotonic()
        generating = None if self.first_token is None else now - self.first_token
        speed = self.predicted_tokens / generating if generating else None
        stop_string = None
        if self.final is not None:
            speed = self.final["timings"]["predicted_per_second"] or None
            stop_string = self.final["stopping_word"] or None
        return LlmPredictionStats(
            stop_reason=stop_reason,
            stop_string=stop_string,
            tokens_per_second=speed,
            time_to_first_token_sec=self.first_token and self.first_token - self.started,
            total_time_sec=now - self.started,
            prompt_tokens_count=self.prompt_tokens,
            predicted_tokens_count=self.predicted_tokens,
            total_tokens_count=self.total_tokens,
        )


def _stop_reason(final: dict[str, Any]) -> StopReason:
    match final["stop_type"]:
        case "eos":
            return "eosFound"
        case "word":
            return "stopStringFound"
        case _:
            limit = final["generation_settings"]["n_predict"]
            if 0 <= limit <= final["tokens_predicted"]:
                return "maxPredictedTokensReached"
            return "contextLengthReached"


async def _generate(
    instance: Instance,
    prompt: str,
    config: dict[str, Any],
    channel: Channel,
    work: Work,
    progress: _Progress,
) -> StopReason:
    """Send the client what the engine generates, and note it in `progress`; why it ended."""
    # The engine rounds the length of its context up, so that its own limit comes later.
    limit = instance.settings.context_length
    events = instance.engine.stream(
        "/completion",
        {"prompt": prompt, "stream": True, "return_progress": True, **_sampling(config)},
    )
    try:
        async for event in events:
            progress.prompt_tokens = event["tokens_evaluated"]
            if progress.prompt_tokens > limit:
                raise RequestError(
                    f"The prompt has {progress.prompt_tokens} tokens, the context only {limit}"
                )
            if (processed := event.get("prompt_progress")) is not None:
                await channel.send(_prompt_progress(processed))
                continue
            new_tokens = event["tokens_predicted"] - progress.predicted_tokens
            progress.predicted_tokens = event["tokens_predicted"]
            if event["stop"]:
                progress.final = event
            elif progress.first_token is None:
                progress.first_token = time.monotonic()
                work.status = "generating"
            if event["content"]:
                await channel.send(
                    FragmentPacket(
                        LlmPredictionFragment(content=event["content"], tokens_count=new_tokens)
                    )
                )
            if progress.final is None and progress.total_tokens >= limit:
                return "contextLengthReached"
    finally:
        # Closing the stream is what stops the engine.
        with anyio.CancelScope(shield=True):
            await events.aclose()
    if progress.final is None:
        raise RequestError("The engine ended the prediction without saying why")
    return _stop_reason(progress.final)


def _prompt_progress(processed: dict[str, Any]) -> PromptProcessingProgressPacket:
    total, done = processed["total"], processed["processed"]
    return PromptProcessingProgressPacket(
        progress=done / total if total else 1.0,
        details=PromptProcessingDetails(
            cached_token_count=processed["cache"],
            total_prompt_token_count=total,
            processed_prompt_token_count=done,
            unprocessed_prompt_token_count=total - done,
        ),
    )


def _checked(off: Any) -> Callable[[Any], Any]:
    return lambda value: value["value"] if value["checked"] else off


# Setting, the engine's name for it, and how its value translates.
_SAMPLING: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("temperature", "temperature", float),
    ("maxPredictedTokens", "n_predict", _checked(-1)),
    ("topKSampling", "top_k", int),
    ("topPSampling", "top_p", _checked(1.0)),
    ("minPSampling", "min_p", _checked(0.0)),
    ("repeatPenalty", "repeat_penalty", _checked(1.0)),
    ("llama.presencePenalty", "presence_penalty", _checked(0.0)),
    ("llama.frequencyPenalty", "frequency_penalty", _checked(0.0)),
    ("llama.xtcProbability", "xtc_probability", _checked(0.0)),
    ("llama.xtcThreshold", "xtc_threshold", _checked(0.1)),
    ("seed", "seed", _checked(-1)),
)


def _sampling(config: dict[str, Any]) -> dict[str, Any]:
    """The engine's parameters for generation."""
    body: dict[str, Any] = {}
    for name, parameter, translate in _SAMPLING:
        if (value := config.get(_PREFIX + name)) is not None:
            try:
                body[parameter] = translate(value)
            except (TypeError, KeyError, ValueError):
                raise RequestError(f"{value!r} is no value for {_PREFIX}{name}") from None
    body["stop"] = [*config[_PREFIX + "stopStrings"], *template_stop_strings(config)]
    structured = config.get(_PREFIX + "structured") or {"type": "none"}
    match structured["type"]:
        case "json":
            # Without a schema, any JSON value.
            body["json_schema"] = structured.get("jsonSchema") or {}
        case "gbnf":
            body["grammar"] = structured["gbnfGrammar"]
    return body
