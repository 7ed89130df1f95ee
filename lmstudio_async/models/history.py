"""What users pass as a chat, as a request carries it."""

from typing import TypeAlias

from lmstudio_async.errors import LMStudioValueError
from lmstudio_async.models.chat import Chat
from lmstudio_async.models.history_data import HistoryData, history_data
from lmstudio_async.wire.prediction import ChatHistory

HistoryInput: TypeAlias = Chat | HistoryData


def chat_history(history: HistoryInput) -> ChatHistory:
    """A chat from a `Chat`, from a prompt, from a list of messages, or from chat data.

    A message is a dict with a `role` ("system", "user" or "assistant") and a `content`, which is
    text or a list of parts: text, file handles, or dicts in protocol form; chat data is
    {"messages": [...]}. What happens to any of them later does not change the result. Raises
    LMStudioTypeError or LMStudioValueError.
    """
    data = history._snapshot() if isinstance(history, Chat) else history_data(history)
    if not data.messages:
        raise LMStudioValueError("history is empty; it needs at least one message")
    return data
