"""From generated text to the packets that tell the client what it means."""

import secrets
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import UNSET, Raw, Struct

from lmstudio_async.embedded.generation import Piece
from lmstudio_async.embedded.prediction_settings import PredictionSettings
from lmstudio_async.embedded.reasoning import Marked, ReasoningParser
from lmstudio_async.embedded.refusal import RequestError
from lmstudio_async.embedded.tools import (
    AnswerText,
    ArgumentText,
    CallBegun,
    CallDone,
    CallFailed,
    CallNamed,
    ToolCallParser,
    ToolEvent,
    ToolOffer,
)
from lmstudio_async.wire.prediction import (
    FragmentPacket,
    LlmPredictionFragment,
    Token,
    ToolCallGenerationArgumentPacket,
    ToolCallGenerationEndPacket,
    ToolCallGenerationFailedPacket,
    ToolCallGenerationNamePacket,
    ToolCallGenerationStartPacket,
    ToolCallRequest,
)


class Output:
    """Follows what one prediction generates.

    `grammar` is what the output is held to, None if it is free.
    `called_tool` tells at the end whether the output was a complete call of a tool.
    """

    def __init__(self, prompt: str, settings: PredictionSettings, offer: ToolOffer | None) -> None:
        marks = _reasoning_marks(settings)
        # Some templates begin the reasoning on the model's behalf.
        inside = marks is not None and prompt.rstrip().endswith(marks[0])
        self.grammar = settings.grammar
        if offer is not None:
            self.grammar = offer.grammar(marks, inside)
        self.called_tool = False
        self._reasoning = ReasoningParser(*marks, inside=inside) if marks else None
        self._call = ToolCallParser(offer) if offer else None
        self._call_id = secrets.token_hex(8)
        self._log_probs = settings.log_probs is not None
        # Of text that is held back.
        self._tokens_count = 0
        self._tokens: list[Token] = []

    def feed(self, piece: Piece) -> Iterator[Struct]:
        self._tokens_count += piece.tokens_count
        self._tokens += piece.tokens
        if not piece.text:  # the end of the text is a token, too
            return
        marked: Iterable[Marked] = [Marked(piece.text, "none")]
        if self._reasoning is not None:
            marked = self._reasoning.feed(piece.text)
        yield from self._packets(marked)

    def finish(self) -> Iterator[Struct]:
        if self._reasoning is not None:
            yield from self._packets(self._reasoning.finish())
        if self._call is not None:
            for event in self._call.finish():
                yield self._call_packet(event)

    def _packets(self, marked: Iterable[Marked]) -> Iterator[Struct]:
        for part in marked:
            if self._call is None or part.kind != "none":
                yield self._fragment(part)
                continue
            for event in self._call.feed(part.text):
                if isinstance(event, AnswerText):
                    yield self._fragment(Marked(event.text, "none"))
                else:
                    yield self._call_packet(event)

    def _fragment(self, part: Marked) -> FragmentPacket:
        # Tokens that hold the end of one part and the beginning of the next count for the first.
        count, self._tokens_count = self._tokens_count, 0
        tokens, self._tokens = self._tokens, []
        return FragmentPacket(
            LlmPredictionFragment(
                content=part.text,
                tokens_count=count,
                reasoning_type=part.kind,
                is_structural=part.kind in ("reasoningStartTag", "reasoningEndTag"),
                tokens=tokens if self._log_probs else UNSET,
            )
        )

    def _call_packet(self, event: ToolEvent) -> Struct:
        match event:
            case CallBegun():
                return ToolCallGenerationStartPacket(self._call_id)
            case CallNamed(name):
                return ToolCallGenerationNamePacket(name)
            case ArgumentText(text):
                return ToolCallGenerationArgumentPacket(text)
            case CallDone(name, arguments, raw):
                self.called_tool = True
                request = ToolCallRequest(name=name, id=self._call_id, arguments=arguments)
                return ToolCallGenerationEndPacket(request, raw)
            case CallFailed(reason, raw):
                error = Raw(msgspec.json.encode(RequestError(reason).error))
                return ToolCallGenerationFailedPacket(error, raw)
            case AnswerText():
                raise AssertionError("an answer is no call")


def _reasoning_marks(settings: PredictionSettings) -> tuple[str, str] | None:
    match settings.get("reasoning.parsing"):
        case {"enabled": True, "startString": str(start), "endString": str(end)} if start and end:
            return start, end
        case _:
            return None
