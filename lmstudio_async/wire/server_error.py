"""Errors as the server sends them (`rpcError`, `channelError`), and their meaning in Python.

Source: lmstudio-js, lms-shared-types: SerializedLMSExtendedError and GenericErrorDisplayData.
"""

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from lmstudio_async.errors import (
    LMStudioModelNotFoundError,
    LMStudioModelUnloadedError,
    LMStudioPresetNotFoundError,
    LMStudioServerError,
)

ErrorCode: TypeAlias = Literal[
    "generic.specificModelUnloaded",
    "generic.noModelMatchingQuery",
    "generic.pathNotFound",
    "generic.identifierNotFound",
    "generic.domainMismatch",
    "generic.engineDoesNotSupportFeature",
    "generic.missingRuntimeExtension",
    "generic.presetNotFound",
]


class ServerError(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """An error as it came over the wire.

    `display_data` is a dict whose `code` says what went wrong (`ErrorCode`), with details beside
    it, such as `availablePathsSample`. The server's stack trace is not kept.
    """

    title: Any = None
    cause: Any = None
    suggestion: Any = None
    error_data: Any = None
    display_data: Any = None
    root_title: Any = None

    @property
    def code(self) -> str | None:
        """The machine-readable reason, where the server gave one."""
        if isinstance(self.display_data, dict):
            code = self.display_data.get("code")
            return code if isinstance(code, str) else None
        return None


_EXCEPTIONS: dict[str, type[LMStudioServerError]] = {
    "generic.specificModelUnloaded": LMStudioModelUnloadedError,
    "generic.noModelMatchingQuery": LMStudioModelNotFoundError,
    "generic.pathNotFound": LMStudioModelNotFoundError,
    "generic.identifierNotFound": LMStudioModelNotFoundError,
    "generic.presetNotFound": LMStudioPresetNotFoundError,
}

# Where an error of that code lists what there is instead, and how to call it.
_SAMPLES = {
    "availablePathsSample": ("models on disk", "totalModels"),
    "loadedModelsSample": ("loaded models", "totalLoadedModels"),
    "availablePresetsSample": ("presets", "totalAvailablePresets"),
}

_NEXT_STEP = {
    "generic.specificModelUnloaded": "get a new handle with .model(key), which loads it again",
    "generic.pathNotFound": "use one of these keys, or download the model in LM Studio first",
    "generic.noModelMatchingQuery": "load a model first, for instance with .model(key)",
    "generic.identifierNotFound": "load a model first, for instance with .model(key)",
}


def server_exception(raw: bytes | msgspec.Raw, asked: str, server: str) -> LMStudioServerError:
    """Turn a serialized error into the exception that means the same.

    `asked` says what was asked ("llm.loadModel 'qwen3-4b'"), `server` of whom ("127.0.0.1:1234").
    """
    try:
        error = msgspec.json.decode(raw, type=ServerError)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = ServerError(title=bytes(raw).decode(errors="replace"))
    exception = _EXCEPTIONS.get(error.code or "", LMStudioServerError)
    return exception(f"{asked} failed on {server}: {_describe(error)}", error)


def _describe(error: ServerError) -> str:
    title, root = error.title, error.root_title
    if root and title and root != title:
        text = f"{root}: {title}"
    else:
        text = str(title or root or "unknown error")
    if error.cause:
        text += f" ({error.cause})"
    parts = [text.rstrip(".")]
    if isinstance(error.display_data, dict):
        for field, (what, total_field) in _SAMPLES.items():
            sample = error.display_data.get(field)
            if isinstance(sample, list):
                parts.append(_list_sample(what, sample, error.display_data.get(total_field)))
    if error.suggestion:
        parts.append(str(error.suggestion).rstrip("."))
    elif next_step := _NEXT_STEP.get(error.code or ""):
        parts.append(next_step)
    return "; ".join(parts)


def _list_sample(what: str, sample: list[Any], total: Any) -> str:
    if not sample:
        return f"there are no {what}"
    names = ", ".join(
        str(entry.get("identifier", entry)) if isinstance(entry, dict) else str(entry)
        for entry in sample
    )
    more = (
        f" and {total - len(sample)} more" if isinstance(total, int) and total > len(sample) else ""
    )
    return f"{what}: {names}{more}"
