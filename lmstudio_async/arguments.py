"""Checks of what users pass in, made before anything is sent."""

import sys
from collections.abc import Iterable

from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError
from lmstudio_async.wire.api_token import split_token

_LONGEST_KEY = 1024

# The server counts in floats, which hold whole milliseconds up to here.
_LONGEST_TTL = 2**53 // 1000


def check_key(argument: str, value: object) -> str:
    """A model key or an identifier: 1 to 1024 characters."""
    value = check_text(argument, value)
    if not value.strip():
        raise LMStudioValueError(
            f"{argument} is empty; list_downloaded_models() shows what there is"
        )
    if len(value) > _LONGEST_KEY:
        raise LMStudioValueError(f"{argument} is longer than {_LONGEST_KEY} characters")
    return value


def check_ttl(value: object) -> int | None:
    """A TTL in seconds, or None; returned in whole milliseconds, at least 1."""
    if value is None:
        return None
    seconds = check_seconds("ttl", value)
    if seconds > _LONGEST_TTL:
        raise LMStudioValueError(
            f"ttl must be at most {_LONGEST_TTL} seconds, not {value}; None means no limit"
        )
    return max(1, round(seconds * 1000))


def check_seconds(argument: str, value: object) -> float:
    """A positive, finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LMStudioTypeError(
            f"{argument} must be a number of seconds, not {type(value).__name__}"
        )
    if not 0 < value <= sys.float_info.max:
        raise LMStudioValueError(f"{argument} must be a positive number of seconds, not {value}")
    return value


def check_count(argument: str, value: object) -> int | None:
    """A whole number from 1, or None for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise LMStudioTypeError(f"{argument} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise LMStudioValueError(f"{argument} must be at least 1, not {value}; None means no limit")
    return value


def check_text(argument: str, value: object) -> str:
    """Text that can be sent."""
    if not isinstance(value, str):
        raise LMStudioTypeError(f"{argument} must be a string, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise LMStudioValueError(f"{argument} is not valid Unicode: {error.reason}") from None
    return value


def check_texts(argument: str, values: object) -> list[str]:
    """Several such texts."""
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise LMStudioTypeError(
            f"{argument} must be a string or an iterable of strings, not {type(values).__name__}"
        )
    return [check_text(f"{argument}[{index}]", value) for index, value in enumerate(values)]


def check_callback(argument: str, value: object) -> None:
    """Something callable, or None."""
    if value is not None and not callable(value):
        raise LMStudioTypeError(f"{argument} must be callable, not {type(value).__name__}")


def check_namespace(value: object) -> str | None:
    """A kind of model, or None for all."""
    if value is not None and value not in ("llm", "embedding"):
        raise LMStudioValueError(f"namespace must be 'llm', 'embedding' or None, not {value!r}")
    return None if value is None else str(value)


def parse_api_token(argument: str, value: object) -> tuple[str, str]:
    """The client identifier and the passkey in an API token. The token is never shown."""
    if not isinstance(value, str):
        raise LMStudioTypeError(f"{argument} must be a string, not {type(value).__name__}")
    parts = split_token(value)
    if parts is None:
        raise LMStudioValueError(
            f"{argument} is not an LM Studio API token: those are sk-lm-, 8 letters or digits, a "
            "colon, and 20 letters or digits, as LM Studio shows them"
        )
    return parts
