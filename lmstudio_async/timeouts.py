"""How long to wait for what."""

import math
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from lmstudio_async.arguments import check_seconds
from lmstudio_async.errors import LMStudioTypeError

# A scope's exit is shielded from cancellation, so these may not be left open.
_FINITE = ("connect", "authenticate", "unload", "close")


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """The most seconds that each kind of wait may take.

    A wait that takes longer ends in LMStudioTimeoutError, whose `bound` is the name of the field.
    Methods that wait for `call`, `load`, `prediction` or `unload` take a `timeout` of their own as
    well. Of these, the first three may be `math.inf`: no bound but the connection's life.

    However generous the bounds are, a server that is not there any more is noticed within 20 s:
    each connection asks for a sign of life every 5 s, and is lost when three went unanswered. One
    that makes no room for a request is lost after 30 s.

    connect: connecting to one namespace, TLS included. Looking for a server on this machine takes
        up to 2 s before that.
    authenticate: the server's word on whether this client may come in.
    call: the answer to a call, such as `tokenize` or `list_loaded`.
    load: between two words of the server about a load, however long it takes in all.
    prediction: between two words of the server about a prediction. The time that a prediction
        waits for others to end counts, and so does the processing of its prompt, of which servers
        tell from time to time.
    unload: unloading one instance.
    close: leaving the client, the unloading of all that is left included.

    Raises LMStudioValueError or LMStudioTypeError for what is no positive number of seconds.
    """

    connect: float = 10.0
    authenticate: float = 10.0
    call: float = 60.0
    load: float = 120.0
    prediction: float = 600.0
    unload: float = 30.0
    close: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(f"Timeouts.{field.name}", field.name, getattr(self, field.name))

    def bound(
        self,
        name: Literal["call", "load", "prediction", "unload", "close"],
        timeout: float | None = None,
    ) -> "Bound":
        """The bound of one method call; its own `timeout`, which is checked, comes first."""
        if timeout is None:
            return Bound(name, getattr(self, name))
        _check("timeout", name, timeout)
        return Bound(name, timeout)


class Bound(NamedTuple):
    """A number of seconds, and the field of `Timeouts` that it is about."""

    name: str
    seconds: float


def check_timeouts(timeouts: object) -> Timeouts:
    """What was given as a client's time-outs; None for the defaults."""
    if timeouts is None:
        return Timeouts()
    if not isinstance(timeouts, Timeouts):
        raise LMStudioTypeError(f"timeouts must be a Timeouts, not {type(timeouts).__name__}")
    return timeouts


def _check(argument: str, name: str, seconds: object) -> None:
    if seconds != math.inf or name in _FINITE:
        check_seconds(argument, seconds)
