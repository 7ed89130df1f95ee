"""Full contexts: shorter chats, and predictions that go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_async.embedded.overflow import longest_that_fits, shifted, shorter_chats
from lmstudio_async.wire.prediction import (
    AssistantMessage,
    ChatHistory,
    ChatMessage,
    SystemMessage,
    TextPart,
    ToolCallResultPart,
    ToolMessage,
    UserMessage,
)

from .raw import RawSocket, Refused, at_most, prediction

MESSAGES = {"s": SystemMessage, "u": UserMessage, "a": AssistantMessage}


def conversation(roles: str) -> ChatHistory:
    messages: list[ChatMessage] = []
    for number, role in enumerate(roles):
        if role == "t":
            messages.append(ToolMessage([ToolCallResultPart(content=str(number))]))
        else:
            messages.append(MESSAGES[role]([TextPart(text=str(number))]))
    return ChatHistory(messages)


def numbers(chat: ChatHistory) -> str:
    return "".join(
        part.content if isinstance(part, ToolCallResultPart) else part.text
        for message in chat.messages
        for part in message.content
        if isinstance(part, TextPart | ToolCallResultPart)
    )


@pytest.mark.parametrize(
    ("roles", "policy", "expected"),
    [
        ("suauau", "stopAtLimit", ["012345"]),
        ("suauau", "rollingWindow", ["012345", "0345", "05"]),
        ("suauau", "truncateMiddle", ["012345", "0125"]),
        ("uauau", "rollingWindow", ["01234", "234", "4"]),
        ("uatatauau", "rollingWindow", ["012345678", "678", "8"]),
        ("su", "rollingWindow", ["01"]),
        ("su", "truncateMiddle", ["01"]),
        ("a", "rollingWindow", ["0"]),
        ("", "truncateMiddle", [""]),
    ],
)
def test_shorter_chats(roles: str, policy: str, expected: list[str]) -> None:
    chats = shorter_chats(conversation(roles), policy)  # type: ignore[arg-type]
    assert [numbers(chat) for chat in chats] == expected


@pytest.mark.asyncio
@pytest.mark.parametrize("room", range(7))
async def test_the_longest_that_fits(room: int) -> None:
    chats = shorter_chats(conversation("uauaua"), "rollingWindow")

    async def fits(chat: ChatHistory) -> bool:
        return len(chat.messages) <= room

    found = await longest_that_fits(chats, fits)
    assert len(found.messages) == max(room // 2 * 2, 2)


@given(length=st.integers(1, 300), limit=st.integers(2, 200), middle=st.booleans())
def test_shifted_leaves_room(length: int, limit: int, middle: bool) -> None:
    tokens = list(range(length))
    left = shifted(tokens, limit, "truncateMiddle" if middle else "rollingWindow")
    assert len(left) == min(length, limit // 2)
    assert left == sorted(left)
    assert left[-1] == tokens[-1]
    if limit >= 4:
        assert left[0] == tokens[0]


def long_chat(turns: int, policy: str, **config: object) -> dict[str, object]:
    parameter = prediction("?", {"contextOverflowPolicy": policy, **config})
    user, assistant = (
        {"role": role, "content": [{"type": "text", "text": "A sentence of a few words. " * 4}]}
        for role in ("user", "assistant")
    )
    last = {"role": "user", "content": [{"type": "text", "text": "Say hello."}]}
    parameter["history"] = {"messages": [*[user, assistant] * turns, last]}
    return dict(parameter)


@pytest.mark.engine
@pytest.mark.asyncio
async def test_a_chat_that_is_too_long(llm: RawSocket) -> None:
    async with llm.loading(config={"llm.load.contextLength": 256}):
        with pytest.raises(Refused, match="context"):
            await llm.channel("predict", long_chat(7, "stopAtLimit", **at_most(4)))
        for policy in ("truncateMiddle", "rollingWindow"):
            packets = await llm.channel("predict", long_chat(7, policy, **at_most(4)))
            stats = packets[-1]["stats"]
            assert stats["stopReason"] == "maxPredictedTokensReached"
            assert 150 < stats["promptTokensCount"] <= 252
        with pytest.raises(Refused, match="contextOverflowPolicy"):
            await llm.channel("predict", long_chat(1, "hope"))
        with pytest.raises(Refused, match="context"):  # nothing to leave out
            await llm.predict("many words " * 150, {"contextOverflowPolicy": "rollingWindow"})


@pytest.mark.engine
@pytest.mark.asyncio
@pytest.mark.parametrize("policy", ["stopAtLimit", "truncateMiddle", "rollingWindow"])
async def test_a_prediction_that_fills_the_context(llm: RawSocket, policy: str) -> None:
    # No end of the text, so that it goes on.
    endless = {"llama.logitBias": [[2, "-inf"], [0, "-inf"]], "contextOverflowPolicy": policy}
    async with llm.loading(config={"llm.load.contextLength": 64}):
        parameter = prediction("Count to a million.", endless | at_most(60))
        packets = await llm.channel("predict", parameter)
        stats = packets[-1]["stats"]
        if policy == "stopAtLimit":
            assert stats["stopReason"] == "contextLengthReached"
            assert stats["totalTokensCount"] == 64
        else:
            assert stats["stopReason"] == "maxPredictedTokensReached"
            assert stats["predictedTokensCount"] == 60
        counts = [packet["fragment"]["tokensCount"] for packet in packets if "fragment" in packet]
        assert sum(counts) == stats["predictedTokensCount"]
        assert [packet["progress"] for packet in packets if "progress" in packet][-1] == 1
