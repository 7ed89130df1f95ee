"""What happens when the context is full.

Before the prediction: a chat that is too long loses whole turns, a turn being a user's message and
all that follows it up to the next one. System messages at its beginning and the last turn stay.
`truncateMiddle` keeps the first turn, too. During the prediction: of the tokens so far, the newest
stay, and with `truncateMiddle` also the oldest.
"""

from collections.abc import Awaitable, Callable, Sequence

from lmstudio_async.embedded.prediction_settings import OverflowPolicy
from lmstudio_async.wire.prediction import ChatHistory, SystemMessage, UserMessage


def shorter_chats(history: ChatHistory, policy: OverflowPolicy) -> list[ChatHistory]:
    """The chat, and what it may be shortened to, from the longest to the shortest."""
    messages = history.messages
    if policy == "stopAtLimit":
        return [history]
    turns = [at for at, message in enumerate(messages) if isinstance(message, UserMessage)]
    kept = next(
        (at for at, one in enumerate(messages) if not isinstance(one, SystemMessage)), len(messages)
    )
    cuts = [at for at in turns if at > kept]
    if policy == "truncateMiddle" and cuts:
        kept, *cuts = cuts  # where the first turn ends
    return [history, *(ChatHistory(messages[:kept] + messages[at:]) for at in cuts)]


async def longest_that_fits(
    chats: Sequence[ChatHistory], fits: Callable[[ChatHistory], Awaitable[bool]]
) -> ChatHistory:
    """The first chat that fits, or the last one. Asks about few of them: they get ever shorter."""
    low, high = 0, len(chats) - 1
    while low < high:
        middle = (low + high) // 2
        if await fits(chats[middle]):
            high = middle
        else:
            low = middle + 1
    return chats[low]


def shifted(tokens: Sequence[int], limit: int, policy: OverflowPolicy) -> list[int]:
    """Half a context of the tokens that fill it, so that the other half is free again."""
    room = max(limit // 2, 1)
    # The very first token often is one without which models fail: that of a text's beginning.
    head = limit // 4 if policy == "truncateMiddle" else 1
    head = min(head, room - 1)
    if len(tokens) <= room:
        return list(tokens)
    return [*tokens[:head], *tokens[len(tokens) - (room - head) :]]
