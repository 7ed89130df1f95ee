"""Runs one prediction on an engine: what is generated, how far it is, and why it ends."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio

from lmstudio_async.embedded.instances import Instance, Work
from lmstudio_async.embedded.overflow import shifted
from lmstudio_async.embedded.prediction_settings import LLGUIDANCE, PredictionSettings
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.wire.prediction import (
    LlmPredictionStats,
    PromptProcessingDetails,
    StopReason,
    Token,
    TokenCandidate,
)


@dataclass
class Piece:
    """Some generated text. `tokens` is empty unless log-probabilities were asked for."""

    text: str
    tokens_count: int
    tokens: list[Token] = field(default_factory=list)


class Generation:
    """One prediction, and its figures so far. Times are of the monotonic clock, in seconds.

    With an overflow policy other than `stopAtLimit`, a full context does not end it: the engine is
    asked to go on from half of it. A grammar could not be taken up in the middle, so there it does.
    """

    def __init__(self, instance: Instance, settings: PredictionSettings) -> None:
        self._instance = instance
        self._settings = settings
        # The engine rounds the length of its context up, so that its own limit comes later.
        self._limit = instance.settings.context_length
        self._policy = settings.overflow_policy
        self._body = {
            "stream": True,
            "return_progress": True,
            "stop": settings.stop_strings + settings.tool_call_stop_strings,
            **settings.sampling,
        }
        if settings.log_probs is not None:
            self._body["n_probs"] = max(settings.log_probs, 1)
        self._started = time.monotonic()
        self._first_token: float | None = None
        self._last_token = 0.0
        self._text: list[str] = []
        self._prompt_tokens = 0
        self._predicted_tokens = 0
        self._stop_string: str | None = None
        self._stop_reason: StopReason = "userStopped"

    async def run(
        self, prompt: str, grammar: str | None, work: Work
    ) -> AsyncGenerator[Piece | PromptProcessingDetails, None]:
        """What happens until the end. Closing it stops the engine."""
        if grammar is not None:
            if grammar.startswith(LLGUIDANCE):
                await self._instance.engine.check_grammar(grammar)
            self._body["grammar"] = grammar
            self._policy = "stopAtLimit"
        request: str | list[int] = prompt
        while True:
            async with aclosing(self._request(request, work)) as happenings:
                async for happening in happenings:
                    if isinstance(happening, Piece):
                        self._text.append(happening.text)
                        yield happening
                    elif request is prompt:
                        yield happening
            if self._stop_reason != "contextLengthReached" or self._policy == "stopAtLimit":
                return
            tokens = await prompt_tokens(self._instance, prompt + "".join(self._text))
            request = shifted(tokens, self._limit, self._policy)
            self._stop_reason = "userStopped"  # unless the engine comes to an end before

    async def _request(
        self, prompt: str | list[int], work: Work
    ) -> AsyncGenerator[Piece | PromptProcessingDetails, None]:
        before = self._predicted_tokens
        most = self._settings.max_tokens
        body = {**self._body, "prompt": prompt, "n_predict": -1 if most is None else most - before}
        events = self._instance.engine.stream("/completion", body)
        final: dict[str, Any] | None = None
        try:
            async for event in events:
                evaluated = event["tokens_evaluated"]
                if not before:
                    self._prompt_tokens = evaluated
                if evaluated > self._limit:
                    raise RequestError(
                        f"The prompt has {evaluated} tokens, the context only {self._limit}"
                    )
                if (progress := event.get("prompt_progress")) is not None:
                    yield _details(progress)
                    continue
                new = before + event["tokens_predicted"] - self._predicted_tokens
                self._predicted_tokens += new
                if new:
                    self._note_time()
                    work.status = "generating"
                if event["content"] or new:
                    yield Piece(event["content"], new, self._tokens(event))
                if event["stop"]:
                    final = event
                elif evaluated + event["tokens_predicted"] >= self._limit:
                    self._stop_reason = "contextLengthReached"
                    return
        finally:
            # Closing the stream is what stops the engine.
            with anyio.CancelScope(shield=True):
                await events.aclose()
        if final is None:
            raise RequestError("The engine ended the prediction without saying why")
        self._end(final)

    def _note_time(self) -> None:
        self._last_token = time.monotonic()
        if self._first_token is None:
            self._first_token = self._last_token

    def _tokens(self, event: dict[str, Any]) -> list[Token]:
        wanted = self._settings.log_probs
        if wanted is None:
            return []
        return [
            Token(
                one["token"],
                one["id"],
                one["logprob"],
                [
                    TokenCandidate(other["token"], other["id"], other["logprob"])
                    for other in one["top_logprobs"][:wanted]
                ],
            )
            for one in event.get("completion_probabilities", ())
        ]

    def _end(self, final: dict[str, Any]) -> None:
        match final["stop_type"]:
            case "eos":
                self._stop_reason = "eosFound"
            case "word":
                self._stop_string = final["stopping_word"]
                is_call = self._stop_string in self._settings.tool_call_stop_strings
                self._stop_reason = "toolCalls" if is_call else "stopStringFound"
            case _:
                most = self._settings.max_tokens
                if most is not None and self._predicted_tokens >= most:
                    self._stop_reason = "maxPredictedTokensReached"
                else:
                    self._stop_reason = "contextLengthReached"

    def stats(self, *, called_tool: bool) -> LlmPredictionStats:
        first, last = self._first_token, self._last_token
        # The first token came with the prompt: the time between the two holds one token less.
        speed = None
        if first is not None and last > first:
            speed = (self._predicted_tokens - 1) / (last - first)
        return LlmPredictionStats(
            stop_reason="toolCalls" if called_tool else self._stop_reason,
            stop_string=self._stop_string,
            tokens_per_second=speed,
            time_to_first_token_sec=None if first is None else first - self._started,
            total_time_sec=time.monotonic() - self._started,
            prompt_tokens_count=self._prompt_tokens,
            predicted_tokens_count=self._predicted_tokens,
            total_tokens_count=self._prompt_tokens + self._predicted_tokens,
        )


async def prompt_tokens(instance: Instance, prompt: str) -> list[int]:
    """The tokens that the engine makes of a prompt."""
    body = {"content": prompt, "add_special": True, "parse_special": True}
    answer = await instance.engine.post("/tokenize", body)
    tokens: list[int] = answer["tokens"]
    return tokens


def _details(progress: dict[str, Any]) -> PromptProcessingDetails:
    total, done = progress["total"], progress["processed"]
    return PromptProcessingDetails(
        cached_token_count=progress["cache"],
        total_prompt_token_count=total,
        processed_prompt_token_count=done,
        unprocessed_prompt_token_count=total - done,
    )
