"""The `llm` namespace: predictions, and what belongs to them."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from lmstudio_async.embedded.generation import Generation, prompt_tokens
from lmstudio_async.embedded.instances import Instance
from lmstudio_async.embedded.load_settings import to_kv_config
from lmstudio_async.embedded.management import ModelEndpoints
from lmstudio_async.embedded.output import Output
from lmstudio_async.embedded.overflow import longest_that_fits, shorter_chats
from lmstudio_async.embedded.prediction_settings import (
    DEFAULTS,
    RAW_DEFAULTS,
    PredictionSettings,
)
from lmstudio_async.embedded.prompt import render_prompt, with_system_prompt
from lmstudio_async.embedded.refusal import RequestError, feature_not_supported
from lmstudio_async.embedded.session import Channel, Namespace, Rpc, Stream
from lmstudio_async.embedded.tools import ToolOffer, offered_tools
from lmstudio_async.wire.kv_config import KvConfig
from lmstudio_async.wire.loading import SpecifierParameter
from lmstudio_async.wire.model_info import LlmInstanceInfo
from lmstudio_async.wire.prediction import (
    ApplyPromptTemplateParameter,
    ApplyPromptTemplateResult,
    ChatHistory,
    CompleteRawTextParameter,
    PredictionSuccessPacket,
    PredictParameter,
    PreloadDraftModelParameter,
    PromptProcessingDetails,
    PromptProcessingProgressPacket,
)

_ROOM = 4  # one part in so many of the context is kept free for the answer


class LlmEndpoints(ModelEndpoints):
    def namespace(self) -> Namespace:
        shared = super().namespace()
        return Namespace(
            {
                **shared.rpcs,
                "applyPromptTemplate": Rpc(
                    ApplyPromptTemplateParameter, self.apply_prompt_template
                ),
                "preloadDraftModel": Rpc(PreloadDraftModelParameter, self.preload_draft_model),
            },
            {
                **shared.streams,
                "predict": Stream(PredictParameter, self.predict),
                "completeRawText": Stream(CompleteRawTextParameter, self.complete_raw_text),
            },
        )

    async def get_base_prediction_config(self, parameter: SpecifierParameter) -> KvConfig:
        self.resolve(parameter.specifier)
        return to_kv_config(DEFAULTS)

    async def preload_draft_model(self, parameter: PreloadDraftModelParameter) -> None:
        self.resolve(parameter.specifier)
        raise feature_not_supported(
            "speculativeDecoding", "This server does no speculative decoding"
        )

    async def apply_prompt_template(
        self, parameter: ApplyPromptTemplateParameter
    ) -> ApplyPromptTemplateResult:
        instance = self.resolve(parameter.specifier)
        overrides: dict[str, Any] = {}
        if parameter.opts.tool_definitions:
            overrides["tools"] = {"type": "toolArray", "tools": parameter.opts.tool_definitions}
        settings = PredictionSettings(parameter.prediction_config_stack, **overrides)
        history = with_system_prompt(parameter.history, settings)
        with instance.in_use():
            prompt = await render_prompt(
                instance.engine, history, settings, offered_tools(settings)
            )
        return ApplyPromptTemplateResult(prompt)

    async def predict(self, parameter: PredictParameter, channel: Channel) -> None:
        instance = self.resolve(parameter.model_specifier)
        _refuse_preset(parameter.fuzzy_preset_identifier)
        settings = PredictionSettings(parameter.prediction_config_stack)
        offer = offered_tools(settings)
        history = with_system_prompt(parameter.history, settings)

        async def prompt() -> str:
            return await _fitting_prompt(instance, history, settings, offer)

        await _predict(instance, settings, offer, prompt, channel)

    async def complete_raw_text(
        self, parameter: CompleteRawTextParameter, channel: Channel
    ) -> None:
        instance = self.resolve(parameter.model_specifier)
        _refuse_preset(parameter.fuzzy_preset_identifier)
        settings = PredictionSettings(parameter.prediction_config_stack, RAW_DEFAULTS)
        if offered_tools(settings) is not None:
            raise RequestError("There are no tools in the completion of a raw text")

        async def prompt() -> str:
            return parameter.raw_prompt

        await _predict(instance, settings, None, prompt, channel)


async def _predict(
    instance: Instance,
    settings: PredictionSettings,
    offer: ToolOffer | None,
    make_prompt: Callable[[], Awaitable[str]],
    channel: Channel,
) -> None:
    generation = Generation(instance, settings)
    output: Output | None = None
    with channel.cancellable():
        async with instance.turn("processingPrompt") as work:
            prompt = await make_prompt()
            output = Output(prompt, settings, offer)
            async with aclosing(generation.run(prompt, output.grammar, work)) as happenings:
                async for happening in happenings:
                    if isinstance(happening, PromptProcessingDetails):
                        await channel.send(_progress(happening))
                        continue
                    for packet in output.feed(happening):
                        await channel.send(packet)
    for packet in output.finish() if output else ():
        await channel.send(packet)
    info = instance.info()
    assert isinstance(info, LlmInstanceInfo)
    await channel.send(
        PredictionSuccessPacket(
            stats=generation.stats(called_tool=output is not None and output.called_tool),
            model_info=info,
            load_model_config=instance.settings.config,
            prediction_config=settings.config,
        )
    )


async def _fitting_prompt(
    instance: Instance,
    history: ChatHistory,
    settings: PredictionSettings,
    offer: ToolOffer | None,
) -> str:
    """The prompt for a chat, which is shortened first where that is wanted and necessary."""
    limit = instance.settings.context_length
    room = min(settings.max_tokens or limit, limit // _ROOM)

    async def fits(chat: ChatHistory) -> bool:
        prompt = await render_prompt(instance.engine, chat, settings, offer)
        return len(await prompt_tokens(instance, prompt)) + room <= limit

    chats = shorter_chats(history, settings.overflow_policy)
    chat = await longest_that_fits(chats, fits)
    return await render_prompt(instance.engine, chat, settings, offer)


def _progress(details: PromptProcessingDetails) -> PromptProcessingProgressPacket:
    total, done = details.total_prompt_token_count, details.processed_prompt_token_count
    return PromptProcessingProgressPacket(done / total if total else 1.0, details)


def _refuse_preset(identifier: str | None) -> None:
    if identifier is not None:
        raise RequestError(
            f"This server has no presets (asked for {identifier!r})",
            code="generic.presetNotFound",
            specifiedFuzzyPresetIdentifier=identifier,
            availablePresetsSample=[],
            totalAvailablePresets=0,
        )
