"""Tells a model's reasoning from its answer, while both are being generated."""

from collections.abc import Iterator
from dataclasses import dataclass

from lmstudio_async.wire.prediction import ReasoningType


@dataclass(frozen=True)
class Marked:
    """Text, and what it is."""

    text: str
    kind: ReasoningType


class ReasoningParser:
    """Splits text that comes in pieces at the marks around reasoning.

    However the text is cut into pieces, the same characters are told to be the same thing: what may
    yet turn out to be a mark is held back. Reasoning may come any number of times. `inside`: the
    prompt ended with the start mark already.
    """

    def __init__(self, start: str, end: str, *, inside: bool = False) -> None:
        self._start = start
        self._end = end
        self._inside = inside
        self._held = ""

    def feed(self, text: str) -> Iterator[Marked]:
        """What can be said after another piece of text."""
        self._held += text
        while (at := self._held.find(self._mark)) >= 0:
            mark = self._mark
            yield from self._take(at)
            yield Marked(mark, "reasoningEndTag" if self._inside else "reasoningStartTag")
            self._held = self._held[len(mark) :]
            self._inside = not self._inside
        yield from self._take(len(self._held) - _overlap(self._held, self._mark))

    def finish(self) -> Iterator[Marked]:
        """What was held back, when no more text will come."""
        yield from self._take(len(self._held))

    @property
    def _mark(self) -> str:
        return self._end if self._inside else self._start

    def _take(self, length: int) -> Iterator[Marked]:
        if length:
            text, self._held = self._held[:length], self._held[length:]
            yield Marked(text, "reasoning" if self._inside else "none")


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    longest = min(len(text), len(mark) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(mark[:size])), 0)
