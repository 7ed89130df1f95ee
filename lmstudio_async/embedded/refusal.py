"""Errors that the server answers with, in the protocol's form."""

import reprlib
from collections.abc import Sequence

import msgspec

from lmstudio_async.wire.model_info import ModelQuery
from lmstudio_async.wire.server_error import ErrorCode, ServerError

_SAMPLE = 10
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200  # characters


class RequestError(Exception):
    """A request that cannot be fulfilled; `error` is what the client gets to see."""

    def __init__(
        self,
        title: str,
        *,
        cause: str | None = None,
        suggestion: str | None = None,
        code: ErrorCode | None = None,
        **details: object,
    ) -> None:
        super().__init__(title)
        self.error = ServerError(
            title=title,
            root_title=title,
            cause=cause,
            suggestion=suggestion,
            display_data=None if code is None else {"code": code, **details},
        )


def shown(value: object) -> str:
    """A client's value as errors repeat it, be it ever so long or deep."""
    return _SHORT.repr(value)


def bad_value(key: str, value: object) -> RequestError:
    """The error for a value that a setting cannot have."""
    return RequestError(f"{shown(value)} is no value for {key}")


def specific_model_unloaded(what_happened: str) -> RequestError:
    return RequestError(what_happened, code="generic.specificModelUnloaded")


def no_model_matching_query(query: ModelQuery, loaded: Sequence[str]) -> RequestError:
    return RequestError(
        "No loaded model matches the query",
        code="generic.noModelMatchingQuery",
        query=msgspec.to_builtins(query),
        loadedModelsSample=list(loaded[:_SAMPLE]),
        totalLoadedModels=len(loaded),
    )


def identifier_not_found(identifier: str, loaded: Sequence[str]) -> RequestError:
    return RequestError(
        f"No loaded model has the identifier {shown(identifier)}",
        code="generic.identifierNotFound",
        identifier=identifier,
        loadedModelsSample=list(loaded[:_SAMPLE]),
        totalLoadedModels=len(loaded),
    )


def path_not_found(path: str, available: Sequence[str]) -> RequestError:
    return RequestError(
        f"No model on disk has the key {shown(path)}",
        code="generic.pathNotFound",
        path=path,
        availablePathsSample=list(available[:_SAMPLE]),
        totalModels=len(available),
    )


def domain_mismatch(path: str, actual: str, expected: str) -> RequestError:
    return RequestError(
        f"{shown(path)} is of the kind {actual!r}, not {expected!r}",
        code="generic.domainMismatch",
        path=path,
        actualDomain=actual,
        expectedDomain=expected,
    )


def feature_not_supported(feature: str, title: str) -> RequestError:
    return RequestError(
        title,
        code="generic.engineDoesNotSupportFeature",
        feature=feature,
        engineName="llama.cpp",
        engineType="gguf",
        installedVersion="embedded",
        supportedVersion=None,
    )


def refuse_remote_device(device_identifier: object) -> None:
    """Raise RequestError if a request names a device other than this one."""
    if isinstance(device_identifier, str):
        raise RequestError(
            f"This server holds no models of another device (asked for {shown(device_identifier)})"
        )
