"""Structured output: what shape an answer shall have, and turning the answer into it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, is_typeddict

import msgspec
from msgspec import Struct

from lmstudio_async.errors import LMStudioPredictionError, LMStudioTypeError, LMStudioValueError

T = TypeVar("T")


class BaseModel(Struct, kw_only=True):
    """A base for response formats. Any msgspec Struct, pydantic model, dataclass or TypedDict does.

    class Book(lms.BaseModel):
        title: str
        year: int
    """

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The JSON schema of this class."""
        return json_schema(cls)


@dataclass(frozen=True)
class ResponseFormat(Generic[T]):
    """`structured` is the server's setting; `parse` turns the answer's text into its value."""

    structured: dict[str, Any] | None
    parse: Callable[[str], T]


_TEXT: ResponseFormat[str] = ResponseFormat(None, str)


def response_format(given: Any) -> ResponseFormat[Any]:
    """The response format that a user means. Raises LMStudioTypeError or LMStudioValueError."""
    if given is None:
        return _TEXT
    if isinstance(given, Mapping):
        return _from_mapping(given)
    if not isinstance(given, type) and not is_typeddict(given):
        raise LMStudioTypeError(
            "response_format must be a class or a JSON schema, not an instance of "
            f"{type(given).__name__}"
        )
    validate = getattr(given, "model_validate_json", None)
    if validate is not None:  # pydantic, which this package does not import
        return _json(given.model_json_schema(), lambda text: _parse(validate, text, given.__name__))
    return _json(json_schema(given), _parser(given))


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON schema of a Struct, dataclass or TypedDict, itself at the top."""
    try:
        (schema,), definitions = msgspec.json.schema_components(
            [cls], ref_template="#/$defs/{name}"
        )
    except TypeError as error:
        raise LMStudioTypeError(f"response_format: {error}") from None
    if schema.keys() == {"$ref"}:
        # Servers look at the top for the type.
        name = schema["$ref"].rpartition("/")[2]
        schema = dict(definitions[name])
    if schema.get("type") != "object":
        raise LMStudioTypeError(
            f"response_format must be a class with fields; {cls!r} is no JSON object"
        )
    if definitions:
        schema["$defs"] = definitions
    return schema


def _from_mapping(given: Mapping[str, Any]) -> ResponseFormat[Any]:
    if given.get("type") == "gbnf":
        if not isinstance(given.get("gbnfGrammar"), str):
            raise LMStudioValueError("response_format of type gbnf needs a 'gbnfGrammar' string")
        return ResponseFormat(dict(given), str)
    if given.get("type") == "json" and "jsonSchema" in given:
        given = given["jsonSchema"]
    return _json(dict(given), lambda text: _parse(msgspec.json.decode, text, "JSON"))


def _json(schema: dict[str, Any], parse: Callable[[str], T]) -> ResponseFormat[T]:
    return ResponseFormat({"type": "json", "jsonSchema": schema}, parse)


def _parser(cls: type[T]) -> Callable[[str], T]:
    decoder = msgspec.json.Decoder(cls)
    return lambda text: _parse(decoder.decode, text, cls.__name__)


def _parse(parse: Callable[[str], T], text: str, name: str) -> T:
    try:
        return parse(text)
    except ValueError as error:  # msgspec's and pydantic's errors are
        raise LMStudioPredictionError(
            f"the answer is not what {name} asks for: {error}\nThe text received: {text!r}"
        ) from error
