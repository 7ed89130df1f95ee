"""Telling reasoning from the answer, however the text is cut into pieces."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_async.embedded.reasoning import Marked, ReasoningParser

KINDS = {"none": "n", "reasoning": "r", "reasoningStartTag": "S", "reasoningEndTag": "E"}


def parse(pieces: list[str], parser: ReasoningParser) -> list[tuple[str, str]]:
    """Kind and text, with neighbours of one kind joined."""
    marked: list[Marked] = []
    for piece in pieces:
        marked += parser.feed(piece)
    marked += parser.finish()
    assert all(one.text for one in marked)
    return [
        (KINDS[kind], "".join(one.text for one in group))
        for kind, group in groupby(marked, key=lambda one: one.kind)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Hello", [("n", "Hello")]),
        ("<think>hm</think>Yes", [("S", "<think>"), ("r", "hm"), ("E", "</think>"), ("n", "Yes")]),
        ("<think></think>", [("S", "<think>"), ("E", "</think>")]),
        ("<think>never", [("S", "<think>"), ("r", "never")]),
        ("a <thin", [("n", "a <thin")]),
        ("<<think>x", [("n", "<"), ("S", "<think>"), ("r", "x")]),
        ("</think>a", [("n", "</think>a")]),
        ("<think><think></think>", [("S", "<think>"), ("r", "<think>"), ("E", "</think>")]),
    ],
)
def test_marks(text: str, expected: list[tuple[str, str]]) -> None:
    assert parse([text], ReasoningParser("<think>", "</think>")) == expected
    assert parse(list(text), ReasoningParser("<think>", "</think>")) == expected


def test_only_what_may_be_a_mark_is_held_back() -> None:
    parser = ReasoningParser("<think>", "</think>")
    assert [*parser.feed("one <th")] == [Marked("one ", "none")]
    assert [*parser.feed("ree")] == [Marked("<three", "none")]


def test_the_prompt_may_have_begun_the_reasoning() -> None:
    parser = ReasoningParser("<think>", "</think>", inside=True)
    assert parse(["so</thi", "nk>ok"], parser) == [("r", "so"), ("E", "</think>"), ("n", "ok")]


@given(
    pieces=st.lists(st.text("ab<>", max_size=5), max_size=12),
    start=st.text("ab<>", min_size=1, max_size=4),
    end=st.text("ab<>", min_size=1, max_size=4),
    inside=st.booleans(),
)
def test_how_it_is_cut_does_not_matter(
    pieces: list[str], start: str, end: str, inside: bool
) -> None:
    whole = parse(["".join(pieces)], ReasoningParser(start, end, inside=inside))
    cut = parse(pieces, ReasoningParser(start, end, inside=inside))
    assert cut == whole
    assert "".join(text for _, text in cut) == "".join(pieces)
