"""Settings as users give them: a typed object, or a dict with camelCase or snake_case names."""

import difflib
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args

import msgspec
from msgspec import Struct

from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError


class Config(Struct, rename="camel", omit_defaults=True, repr_omit_defaults=True, kw_only=True):
    """Base of the settings classes. A field that is None is left to the server."""


C = TypeVar("C", bound=Config)


def parse_config(cls: type[C], given: "C | Mapping[str, Any] | None", argument: str) -> C:
    """Check settings and return them as an instance of `cls`.

    Raises LMStudioTypeError or LMStudioValueError, naming `argument` and the field, for unknown
    fields, wrong types and values out of range.
    """
    if given is None:
        return cls()
    if not isinstance(given, cls | Mapping):
        raise LMStudioTypeError(
            f"{argument} must be a {cls.__name__} or a dict, not {type(given).__name__}"
        )
    # A msgspec Struct does not check what its constructor is given, so it is taken apart as well.
    plain = _plain(given, argument)
    fields = _with_wire_names(cls, plain, argument)
    _refuse_unsendable(fields, argument)
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`$", f"`{argument}")
        if reason.startswith("Expected") and ", got" in reason:
            raise LMStudioTypeError(f"{argument}: {reason}") from None
        raise LMStudioValueError(f"{argument}: {reason}") from None


@cache
def _wire_names(cls: type[Struct]) -> dict[str, str]:
    """Both spellings of each field, to its name on the wire."""
    wire = {}
    for field in msgspec.structs.fields(cls):
        wire[field.name] = wire[field.encode_name] = field.encode_name
        # Python's usual snake_case of names such as offloadKVCacheToGpu.
        wire[_snake_case(field.encode_name)] = field.encode_name
    return wire


def _snake_case(name: str) -> str:
    out = ""
    for before, char, after in zip(" " + name, name, name[1:] + " ", strict=False):
        if char.isupper() and (not before.isupper() or after.islower()):
            out += "_"
        out += char.lower()
    return out


def _with_wire_names(cls: type[Struct], given: Mapping[str, Any], path: str) -> dict[str, Any]:
    names = _wire_names(cls)
    nested = {field.encode_name: _struct_type(field.type) for field in msgspec.structs.fields(cls)}
    fields: dict[str, Any] = {}
    for name, value in given.items():
        wire_name = names.get(name) if isinstance(name, str) else None
        if wire_name is None:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"it takes: {', '.join(sorted(names))}"
            )
            raise LMStudioValueError(f"{path} has no field {name!r}; {hint}")
        if wire_name in fields:
            raise LMStudioValueError(f"{path} gives {wire_name!r} twice")
        struct = nested[wire_name]
        if struct is not None and isinstance(value, dict):
            value = _with_wire_names(struct, value, f"{path}.{name}")
        fields[wire_name] = value
    return fields


def _struct_type(annotation: Any) -> type[Struct] | None:
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and issubclass(option, Struct):
            return option
    return None


def _plain(given: Any, argument: str) -> dict[str, Any]:
    """Settings as dicts, lists and scalars, all the way down."""

    def as_dict(value: Any) -> dict[Any, Any]:
        if isinstance(value, Mapping):
            return dict(value)
        raise LMStudioTypeError(
            f"{argument} holds a value of type {type(value).__name__}, which JSON cannot carry"
        )

    # bytes would become text in base64, which passes where text is wanted.
    plain = msgspec.to_builtins(given, builtin_types=(bytes, bytearray), enc_hook=as_dict)
    return cast(dict[str, Any], plain)


def _refuse_unsendable(value: Any, path: str) -> None:
    # JSON has neither NaN nor infinity; msgspec would quietly send null. Beyond 2**53 the server,
    # whose numbers are all floats, would take another number than the one given. Half a surrogate
    # pair is no text.
    if isinstance(value, float) and not math.isfinite(value):
        raise LMStudioValueError(f"{path} must be a finite number, not {value}")
    if isinstance(value, int) and abs(value) > 2**53:
        raise LMStudioValueError(f"{path} must lie between -2**53 and 2**53, not be {value}")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise LMStudioValueError(f"{path} is not valid Unicode: {error.reason}") from None
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_unsendable(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            _refuse_unsendable(inner, path)
