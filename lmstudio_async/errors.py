"""Exceptions of the SDK. Names equal the official SDK's where the meaning is the same.

LMStudioError
├── LMStudioClientError                 found on this side of the connection
│   ├── LMStudioWebsocketError          no connection, or the connection was lost
│   ├── LMStudioSlowReaderError         a stream was not read as fast as it came
│   └── LMStudioCancelledError          the operation was cancelled
├── LMStudioServerError                 reported by the server
│   ├── LMStudioModelNotFoundError
│   ├── LMStudioModelUnloadedError
│   ├── LMStudioPresetNotFoundError
│   ├── LMStudioPredictionError
│   ├── LMStudioChannelClosedError
│   └── LMStudioProtocolError           the two sides do not understand each other
├── LMStudioTimeoutError                also a TimeoutError
├── LMStudioValueError                  also a ValueError: nothing was sent
├── LMStudioTypeError                   also a TypeError: nothing was sent
├── LMStudioRuntimeError                also a RuntimeError: calls in a wrong order
├── LMStudioOSError                     also an OSError: a local file could not be read
│   └── LMStudioFileNotFoundError       also a FileNotFoundError
└── LMStudioUnloadError                 an exception group: scopes that could not unload
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmstudio_async.wire.server_error import ServerError


class LMStudioError(Exception):
    """Base class of every exception that the SDK raises."""


class LMStudioClientError(LMStudioError):
    """A problem found on this side: no server, a closed client, an answer nobody waits for."""


class LMStudioWebsocketError(LMStudioClientError):
    """No connection to the server could be made, or the connection was lost."""


class LMStudioSlowReaderError(LMStudioClientError):
    """A stream was not read as fast as it came, and more than 16 MiB of it were waiting.

    The server was told to stop. What came before can still be read; this is raised after it.
    """


class LMStudioCancelledError(LMStudioClientError):
    """The operation was cancelled through the SDK (not through the event loop)."""


class LMStudioServerError(LMStudioError):
    """The server answered with an error.

    `server_error` holds the error as the server sent it, without its stack trace, or None where
    the SDK itself concluded that the server failed.
    """

    def __init__(self, message: str, server_error: "ServerError | None" = None) -> None:
        super().__init__(message)
        self.server_error = server_error


class LMStudioModelNotFoundError(LMStudioServerError):
    """No model on disk, or no loaded instance, matches what was asked for."""


class LMStudioModelUnloadedError(LMStudioServerError):
    """The instance that a handle names is no longer loaded.

    It was unloaded by hand, by its scope, by its TTL, by another client, or its engine died.
    """


class LMStudioPresetNotFoundError(LMStudioServerError):
    """The server knows no preset of that name."""


class LMStudioPredictionError(LMStudioServerError):
    """A prediction failed while it was running."""


class LMStudioChannelClosedError(LMStudioServerError):
    """The server closed a stream before the stream's result had come."""


class LMStudioProtocolError(LMStudioServerError):
    """The server refused a request as not understood, or its answer could not be understood.

    Usually one of the two sides is too old for the other; the message names both versions.
    `refused` tells that the server did not take the request at all.
    """

    refused = False


class LMStudioTimeoutError(LMStudioError, TimeoutError):
    """The server did not do something within the time that the SDK allows for it.

    The text tells what was waited for and, of calls and predictions, when the server was last heard
    from. `bound` is the field of `Timeouts` that set the time, and `seconds` the time, be it the
    client's or that of the one call.
    """

    def __init__(self, message: str, bound: str = "", seconds: float = math.nan) -> None:
        super().__init__(message)
        self.bound = bound
        self.seconds = seconds


class LMStudioValueError(ValueError, LMStudioError):
    """An argument has a value that cannot be right. Nothing was sent."""


class LMStudioTypeError(TypeError, LMStudioError):
    """An argument has the wrong type. Nothing was sent."""


class LMStudioRuntimeError(RuntimeError, LMStudioError):
    """Calls came in an order that makes no sense, such as using a client that is closed."""


class LMStudioOSError(OSError, LMStudioError):
    """A file on this machine could not be read. Nothing was sent.

    `errno`, `strerror` and `filename` are those of the operating system's error.
    """


class LMStudioFileNotFoundError(LMStudioOSError, FileNotFoundError):
    """There is no such file on this machine. Nothing was sent."""


class LMStudioUnloadError(ExceptionGroup[LMStudioError], LMStudioError):
    """Instances that their scopes could not unload, one exception for each.

    Raised on leaving a scope or a client, when no other exception is leaving it: the failures of
    nested scopes are collected into one group. Where an exception was leaving already, that one
    goes on and the failures are added to it as notes.
    """

    def derive(self, excs: Sequence[LMStudioError]) -> "LMStudioUnloadError":  # type: ignore[override]
        return LMStudioUnloadError(self.message, excs)
