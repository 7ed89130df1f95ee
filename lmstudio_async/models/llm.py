"""Handles of LLMs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict, TypeVar, Unpack, overload

import msgspec

from lmstudio_async.arguments import check_callback, check_count, check_key, check_text
from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError
from lmstudio_async.models.act import Act, ActResult
from lmstudio_async.models.act_callbacks import ActCallbacks, check_callbacks
from lmstudio_async.models.handle import ModelHandle
from lmstudio_async.models.history import HistoryInput, chat_history
from lmstudio_async.models.kinds import LLM_KIND
from lmstudio_async.models.prediction import (
    PredictionCallbacks,
    PredictionRequest,
    PredictionResult,
    PredictionStream,
)
from lmstudio_async.models.response_format import ResponseFormat, response_format
from lmstudio_async.models.tool_requests import ToolCallRequestError, ToolCallRequestInfo
from lmstudio_async.models.tools import ToolDefinition, tools_by_name
from lmstudio_async.wire.config_input import parse_config
from lmstudio_async.wire.kv_config import (
    KvConfig,
    KvConfigLayer,
    KvConfigStack,
    KvField,
    single_layer,
)
from lmstudio_async.wire.load_config import LlmLoadModelConfig
from lmstudio_async.wire.model_info import LlmInstanceInfo
from lmstudio_async.wire.prediction import (
    ApplyPromptTemplateOptions,
    ApplyPromptTemplateParameter,
    ApplyPromptTemplateResult,
    AssistantMessage,
    BasePredictionConfigParameter,
    ChatHistory,
    CompleteRawTextParameter,
    LlmPredictionFragment,
    PredictParameter,
    PreloadDraftModelParameter,
)
from lmstudio_async.wire.prediction_config import (
    LlmPredictionConfig,
    prediction_config_from_kv,
    prediction_config_to_kv,
)

T = TypeVar("T")

# A template that adds nothing: `predict` on a single message completes its text.
_BARE_TEMPLATE = {
    "type": "manual",
    "manualPromptTemplate": {
        "beforeSystem": "",
        "afterSystem": "",
        "beforeUser": "",
        "afterUser": "",
        "beforeAssistant": "",
        "afterAssistant": "",
    },
    "stopStrings": [],
}


_NO_CALLBACKS = PredictionCallbacks()


class PredictionOptions(TypedDict, total=False):
    """What every prediction takes.

    config: settings of this prediction, such as {"temperature": 0.2, "maxTokens": 100}.
    preset: name of a preset of settings on the server.
    timeout: most seconds between two words of the server, in place of `Timeouts.prediction`.
    on_message: called with the finished answer, as a message for the chat.
    on_first_token: called when the first fragment comes.
    on_prediction_fragment: called with each fragment.
    on_prompt_processing_progress: called with the share of the prompt processed, 0 to 1.
    on_tool_call_request_start, ..._name_received, ..._argument_fragment_generated: called with the
        number of a tool call, from 0, and what the model has just written of it: its own id for
        the call, or None; the tool's name; a piece of the arguments. Tools are offered to the
        model by `raw_tools` in the config; `act` does that, and makes the calls.
    on_tool_call_request_end: called with a tool call's number and the whole request.
    on_tool_call_request_failure: called with its number and what is wrong with the request.
    """

    config: LlmPredictionConfig | Mapping[str, Any] | None
    preset: str | None
    timeout: float | None
    on_message: Callable[[AssistantMessage], object] | None
    on_first_token: Callable[[], object] | None
    on_prediction_fragment: Callable[[LlmPredictionFragment], object] | None
    on_prompt_processing_progress: Callable[[float], object] | None
    on_tool_call_request_start: Callable[[int, str | None], object] | None
    on_tool_call_request_name_received: Callable[[int, str], object] | None
    on_tool_call_request_argument_fragment_generated: Callable[[int, str], object] | None
    on_tool_call_request_end: Callable[[int, ToolCallRequestInfo], object] | None
    on_tool_call_request_failure: Callable[[int, ToolCallRequestError], object] | None


class LLM(ModelHandle[LlmInstanceInfo, LlmLoadModelConfig]):
    """A loaded LLM."""

    _kind = LLM_KIND

    @overload
    async def respond(
        self,
        history: HistoryInput,
        *,
        response_format: type[T],
        **options: Unpack[PredictionOptions],
    ) -> PredictionResult[T]: ...
    @overload
    async def respond(
        self,
        history: HistoryInput,
        *,
        response_format: None = None,
        **options: Unpack[PredictionOptions],
    ) -> PredictionResult[str]: ...
    @overload
    async def respond(
        self,
        history: HistoryInput,
        *,
        response_format: Mapping[str, Any],
        **options: Unpack[PredictionOptions],
    ) -> PredictionResult[Any]: ...
    async def respond(
        self,
        history: HistoryInput,
        *,
        response_format: Any = None,
        **options: Unpack[PredictionOptions],
    ) -> PredictionResult[Any]:
        """The model's answer in a chat. Cancelling it stops the generation on the server.

        history: a prompt, or a list of messages such as {"role": "user", "content": "Hello"}.
        response_format: the shape of the answer: a class (`lms.BaseModel`, any msgspec Struct,
            pydantic model, dataclass or TypedDict), of which `result.parsed` is an instance then;
            a JSON schema; or {"type": "gbnf", "gbnfGrammar": "..."}.
        options: as in `PredictionOptions`.

        Raises LMStudioPredictionError if the answer is not what `response_format` asks for.
        """
        stream = self.respond_stream(history, response_format=response_format, **options)
        return await stream.wait_for_result()

    @overload
    def respond_stream(
        self,
        history: HistoryInput,
        *,
        response_format: type[T],
        **options: Unpack[PredictionOptions],
    ) -> PredictionStream[T]: ...
    @overload
    def respond_stream(
        self,
        history: HistoryInput,
        *,
        response_format: None = None,
        **options: Unpack[PredictionOptions],
    ) -> PredictionStream[str]: ...
    @overload
    def respond_stream(
        self,
        history: HistoryInput,
        *,
        response_format: Mapping[str, Any],
        **options: Unpack[PredictionOptions],
    ) -> PredictionStream[Any]: ...
    def respond_stream(
        self,
        history: HistoryInput,
        *,
        response_format: Any = None,
        **options: Unpack[PredictionOptions],
    ) -> PredictionStream[Any]:
        """The model's answer as it comes. Parameters as in `respond`.

        `async for fragment in model.respond_stream("Hello"): print(fragment.content)`
        """
        settings = _Settings(response_format, options)
        return self._stream(
            settings,
            f"a response of {self.identifier!r}",
            self._predict_parameter(chat_history(history), settings),
        )

    @overload
    async def complete(
        self, prompt: str, *, response_format: type[T], **options: Unpack[PredictionOptions]
    ) -> PredictionResult[T]: ...
    @overload
    async def complete(
        self, prompt: str, *, response_format: None = None, **options: Unpack[PredictionOptions]
    ) -> PredictionResult[str]: ...
    @overload
    async def complete(
        self,
        prompt: str,
        *,
        response_format: Mapping[str, Any],
        **options: Unpack[PredictionOptions],
    ) -> PredictionResult[Any]: ...
    async def complete(
        self, prompt: str, *, response_format: Any = None, **options: Unpack[PredictionOptions]
    ) -> PredictionResult[Any]:
        """Go on with a text, without any chat template. Parameters as in `respond`."""
        stream = self.complete_stream(prompt, response_format=response_format, **options)
        return await stream.wait_for_result()

    @overload
    def complete_stream(
        self, prompt: str, *, response_format: type[T], **options: Unpack[PredictionOptions]
    ) -> PredictionStream[T]: ...
    @overload
    def complete_stream(
        self, prompt: str, *, response_format: None = None, **options: Unpack[PredictionOptions]
    ) -> PredictionStream[str]: ...
    @overload
    def complete_stream(
        self,
        prompt: str,
        *,
        response_format: Mapping[str, Any],
        **options: Unpack[PredictionOptions],
    ) -> PredictionStream[Any]: ...
    def complete_stream(
        self, prompt: str, *, response_format: Any = None, **options: Unpack[PredictionOptions]
    ) -> PredictionStream[Any]:
        """Go on with a text, as it comes. Parameters as in `respond`."""
        text = check_text("prompt", prompt)
        settings = _Settings(response_format, options)
        parameter = CompleteRawTextParameter(
            model_specifier=self._specifier,
            raw_prompt=text,
            prediction_config_stack=single_layer(settings.kv),
            fuzzy_preset_identifier=settings.preset,
        )
        fallback = self._predict_parameter(chat_history(text), settings)
        template = KvField("llm.prediction.promptTemplate", _BARE_TEMPLATE)
        fallback.prediction_config_stack.layers.append(
            KvConfigLayer("completeModeFormatting", KvConfig([template]))
        )
        asked = f"a completion of {self.identifier!r}"
        return self._stream(settings, asked, parameter, fallback)

    async def act(
        self,
        chat: HistoryInput,
        tools: Iterable[ToolDefinition],
        *,
        max_prediction_rounds: int | None = None,
        max_parallel_tool_calls: int | None = 1,
        config: LlmPredictionConfig | Mapping[str, Any] | None = None,
        preset: str | None = None,
        timeout: float | None = None,
        **callbacks: Unpack[ActCallbacks],
    ) -> ActResult:
        """Let the model answer, and call tools for it, round by round until it needs none.

        Cancelling it cancels the tool calls and stops the generation.

        chat: as in `respond`. It is not changed: `on_message` tells what to add to it.
        tools: functions with a docstring and annotations, or `ToolFunctionDef`s.
        max_prediction_rounds: in the last of them, the model gets no tools.
        max_parallel_tool_calls: how many calls may run at once, None for any number.
        config, preset, timeout: as in `respond`; they hold for each round.
        callbacks: as in `ActCallbacks`.
        """
        check_callbacks(callbacks)
        settings = parse_config(LlmPredictionConfig, config, "config")
        if settings.raw_tools is not None:
            raise LMStudioValueError("config: raw_tools is made of the tools that are passed")
        act = Act(
            pool=self._pool,
            specifier=self._specifier,
            tools=tools_by_name(tools),
            config=settings,
            preset=None if preset is None else check_key("preset", preset),
            max_rounds=check_count("max_prediction_rounds", max_prediction_rounds),
            max_parallel_calls=check_count("max_parallel_tool_calls", max_parallel_tool_calls),
            bound=self._pool.timeouts.bound("prediction", timeout),
            callbacks=callbacks,
            asked=f"a response of {self.identifier!r}",
        )
        return await act.run(chat_history(chat))

    async def apply_prompt_template(
        self,
        history: HistoryInput,
        *,
        omit_bos_token: bool | None = None,
        omit_eos_token: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """The prompt that the model would see for a chat."""
        parameter = ApplyPromptTemplateParameter(
            specifier=self._specifier,
            history=chat_history(history),
            prediction_config_stack=KvConfigStack([]),
            opts=ApplyPromptTemplateOptions(
                omit_bos_token=omit_bos_token, omit_eos_token=omit_eos_token
            ),
        )
        result: ApplyPromptTemplateResult = await self._call(
            "applyPromptTemplate", parameter, ApplyPromptTemplateResult, self._bound(timeout)
        )
        return result.formatted

    async def get_base_prediction_config(
        self, *, timeout: float | None = None
    ) -> LlmPredictionConfig:
        """The settings that a prediction has where it does not choose its own."""
        kv: KvConfig = await self._call(
            "getBasePredictionConfig",
            BasePredictionConfigParameter(self._specifier),
            KvConfig,
            self._bound(timeout),
        )
        return prediction_config_from_kv(kv)

    async def preload_draft_model(
        self, draft_model_key: str, *, timeout: float | None = None
    ) -> None:
        """Load a model for speculative decoding now rather than with the first prediction.

        timeout: most seconds for it, in place of `Timeouts.prediction`, since it is that long that
            the first prediction would wait for it.
        """
        key = check_key("draft_model_key", draft_model_key)
        await self._call(
            "preloadDraftModel",
            PreloadDraftModelParameter(self._specifier, key),
            None,
            self._pool.timeouts.bound("prediction", timeout),
        )

    def _predict_parameter(self, history: ChatHistory, settings: "_Settings") -> PredictParameter:
        return PredictParameter(
            model_specifier=self._specifier,
            history=history,
            prediction_config_stack=single_layer(settings.kv),
            fuzzy_preset_identifier=settings.preset,
        )

    def _stream(
        self,
        settings: "_Settings",
        asked: str,
        parameter: PredictParameter | CompleteRawTextParameter,
        fallback: PredictParameter | None = None,
    ) -> PredictionStream[Any]:
        bound = self._pool.timeouts.bound("prediction", settings.timeout)
        request = PredictionRequest(parameter, fallback, settings.format, bound, asked)
        return PredictionStream(self._pool, request, settings.callbacks)


class _Settings:
    """The options of a prediction, checked."""

    def __init__(self, shape: Any, options: PredictionOptions) -> None:
        unknown = options.keys() - PredictionOptions.__annotations__.keys()
        if unknown:
            raise LMStudioTypeError(f"a prediction has no option {min(unknown)!r}")
        config = parse_config(LlmPredictionConfig, options.get("config"), "config")
        self.format: ResponseFormat[Any] = response_format(shape)
        if self.format.structured is not None:
            if config.structured is not None:
                raise LMStudioValueError("give either response_format or config.structured")
            config = msgspec.structs.replace(config, structured=self.format.structured)
        self.kv = prediction_config_to_kv(config)
        preset = options.get("preset")
        self.preset = None if preset is None else check_key("preset", preset)
        self.timeout = options.get("timeout")
        callbacks: dict[str, Any] = {
            name: value for name, value in options.items() if name.startswith("on_")
        }
        for name, value in callbacks.items():
            check_callback(name, value)
        self.callbacks = PredictionCallbacks(**callbacks) if callbacks else _NO_CALLBACKS
