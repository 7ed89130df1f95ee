"""Handles of LLMs."""

from collections.abc import Callable, Mapping
from typing import Any

from lmstudio_async.arguments import check_callback
from lmstudio_async.models.handle import ModelHandle
from lmstudio_async.models.history import HistoryInput, chat_history
from lmstudio_async.models.kinds import LLM_KIND
from lmstudio_async.models.prediction import (
    PredictionCallbacks,
    PredictionResult,
    PredictionStream,
)
from lmstudio_async.wire.config_input import parse_config
from lmstudio_async.wire.kv_config import single_layer
from lmstudio_async.wire.load_config import LlmLoadModelConfig
from lmstudio_async.wire.model_info import LlmInstanceInfo
from lmstudio_async.wire.prediction import LlmPredictionFragment, PredictParameter
from lmstudio_async.wire.prediction_config import LlmPredictionConfig, prediction_config_to_kv


class LLM(ModelHandle[LlmInstanceInfo, LlmLoadModelConfig]):
    """A loaded LLM."""

    _kind = LLM_KIND

    async def respond(
        self,
        history: HistoryInput,
        *,
        config: LlmPredictionConfig | Mapping[str, Any] | None = None,
        on_first_token: Callable[[], object] | None = None,
        on_prediction_fragment: Callable[[LlmPredictionFragment], object] | None = None,
        on_prompt_processing_progress: Callable[[float], object] | None = None,
    ) -> PredictionResult:
        """The model's answer in a chat. Cancelling it stops the generation on the server.

        history: a prompt, or a list of messages such as {"role": "user", "content": "Hello"}.
        config: settings of this prediction, such as {"temperature": 0.2, "maxTokens": 100}.
        on_first_token: called when the first fragment comes.
        on_prediction_fragment: called with each fragment.
        on_prompt_processing_progress: called with the share of the prompt processed, 0 to 1.
        """
        return await self.respond_stream(
            history,
            config=config,
            on_first_token=on_first_token,
            on_prediction_fragment=on_prediction_fragment,
            on_prompt_processing_progress=on_prompt_processing_progress,
        ).wait_for_result()

    def respond_stream(
        self,
        history: HistoryInput,
        *,
        config: LlmPredictionConfig | Mapping[str, Any] | None = None,
        on_first_token: Callable[[], object] | None = None,
        on_prediction_fragment: Callable[[LlmPredictionFragment], object] | None = None,
        on_prompt_processing_progress: Callable[[float], object] | None = None,
    ) -> PredictionStream:
        """The model's answer as it comes. Parameters as in `respond`.

        `async for fragment in model.respond_stream("Hello"): print(fragment.content)`
        """
        check_callback("on_first_token", on_first_token)
        check_callback("on_prediction_fragment", on_prediction_fragment)
        check_callback("on_prompt_processing_progress", on_prompt_processing_progress)
        parameter = PredictParameter(
            model_specifier=self._specifier,
            history=chat_history(history),
            prediction_config_stack=single_layer(
                prediction_config_to_kv(parse_config(LlmPredictionConfig, config, "config"))
            ),
        )
        callbacks = PredictionCallbacks(
            on_first_token, on_prediction_fragment, on_prompt_processing_progress
        )
        asked = f"a response of {self.identifier!r}"
        return PredictionStream(self._pool, parameter, callbacks, asked)
