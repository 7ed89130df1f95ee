"""Checks for the values of settings: the engine would crash, or fill the memory, for some.

Each takes a value and returns it. Raises ValueError or TypeError.
"""

import math
from collections.abc import Callable
from typing import Any

INT32_MAX = 2**31 - 1


def whole(least: int, most: int) -> Callable[[Any], int]:
    """A whole number, as JSON has it: 2.0 is one."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not least <= value <= most or value != int(value):
            raise ValueError
        return int(value)

    return check


def number(least: float = -math.inf, most: float = math.inf) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not least <= value <= most or not math.isfinite(float(value)):
            raise ValueError
        return float(value)

    return check


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [text(one) for one in value]


def if_checked(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The value of a setting that can be switched off; None if it is."""

    def check_setting(value: Any) -> Any:
        return check(value["value"]) if flag(value["checked"]) else None

    return check_setting


BAD_VALUE = (TypeError, ValueError, KeyError, OverflowError)
