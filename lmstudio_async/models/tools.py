"""Tools: Python functions that a model may call."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NotRequired, TypeAlias, TypedDict

import anyio.to_thread
import msgspec

from lmstudio_async.arguments import check_text
from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError
from lmstudio_async.models.docstrings import parse_docstring
from lmstudio_async.models.signature import (
    describe_parameters,
    description_of,
    is_async,
    without_partial,
)


class ToolFunctionDefDict(TypedDict):
    """A `ToolFunctionDef` as a dict."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    implementation: Callable[..., Any]
    json_schema: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True)
class ToolFunctionDef:
    """A tool, described explicitly.

    name, description: what the model is told.
    parameters: the type of each parameter, or {"type": ..., "default": ...}. Types are those that
        msgspec can describe, among them Literal, enums, dataclasses and TypedDicts;
        `Annotated[int, "how many"]` describes a parameter to the model.
    implementation: called with keyword arguments. A plain function runs in a worker thread, an
        `async def` in the event loop.
    json_schema: the JSON schema of the parameters. Where it is given in place of `parameters`,
        arguments reach the implementation unchecked.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    implementation: Callable[..., Any]
    json_schema: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _parameters: Mapping[str, "_Parameter"] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not check_text("the name of a tool", self.name):
            raise LMStudioValueError("the name of a tool is empty")
        check_text(f"tool {self.name!r}: description", self.description)
        if not callable(self.implementation):
            raise LMStudioTypeError(f"tool {self.name!r}: implementation is not callable")
        if self.json_schema:
            if self.parameters:
                raise LMStudioValueError(
                    f"tool {self.name!r}: pass either parameters or json_schema, not both"
                )
            return
        parameters, schema = _described(self.name, self.parameters)
        object.__setattr__(self, "_parameters", parameters)
        object.__setattr__(self, "json_schema", schema)

    @classmethod
    def from_callable(
        cls,
        f: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
    ) -> "ToolFunctionDef":
        """The tool that a function is, by its name, docstring and annotations.

        The description is the docstring up to its first section; a section on the parameters
        (Google, numpy or reST style) describes those whose annotations do not.
        """
        if not callable(f):
            raise LMStudioTypeError(f"a tool must be callable, not {type(f).__name__}")
        named = without_partial(f)
        name = name or getattr(named, "__name__", None)
        if not name:
            raise LMStudioValueError(f"{f!r} has no name; pass one to ToolFunctionDef")
        summary, descriptions = parse_docstring(named.__doc__ or "")
        description = description or summary
        if not description:
            raise LMStudioValueError(
                f"tool {name!r} has no docstring, from which the model would learn what it does"
            )
        return cls(name, description, describe_parameters(f, name, descriptions), f)

    def convert_arguments(self, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        """A model's arguments as the implementation takes them, with defaults for what is missing.

        Numbers and booleans written as text are taken as such where only they fit. Arguments that
        the tool does not know are dropped. Raises LMStudioValueError.
        """
        given = dict(arguments or {})
        if self._parameters is None:
            return given
        converted = {}
        for name, parameter in self._parameters.items():
            if name in given:
                converted[name] = parameter.convert(given[name])
            elif parameter.required:
                raise LMStudioValueError(
                    f"argument {name!r} is missing; {self.name} takes {', '.join(self._parameters)}"
                )
            else:
                converted[name] = parameter.default
        return converted

    async def call(self, arguments: Mapping[str, Any] | None = None) -> Any:
        """Call the tool as a model would. Raises LMStudioValueError for wrong arguments."""
        return await self.run(self.convert_arguments(arguments))

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the implementation with arguments that are converted already.

        A thread cannot be cancelled: if the caller is, a plain function goes on by itself.
        """
        call = partial(self.implementation, **arguments)
        if is_async(self.implementation):
            return await call()
        # In a tuple, since trio lets no thread return a coroutine, as a lambda may.
        (result,) = await anyio.to_thread.run_sync(lambda: (call(),), abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result

    def to_protocol(self) -> dict[str, Any]:
        """The tool as the server describes it to the model."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.json_schema),
            },
        }


ToolDefinition: TypeAlias = ToolFunctionDef | ToolFunctionDefDict | Callable[..., Any]


def tools_by_name(tools: Iterable[ToolDefinition]) -> dict[str, ToolFunctionDef]:
    """Tools as users pass them. Raises for none at all, and for a name given twice."""
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise LMStudioTypeError(f"tools must be a list of tools, not {type(tools).__name__}")
    found: dict[str, ToolFunctionDef] = {}
    for tool in map(_tool, tools):
        if tool.name in found:
            raise LMStudioValueError(f"tools has two tools named {tool.name!r}")
        found[tool.name] = tool
    if not found:
        raise LMStudioValueError("tools is empty; without tools, use respond()")
    return found


def _tool(tool: object) -> ToolFunctionDef:
    if isinstance(tool, ToolFunctionDef):
        return tool
    if isinstance(tool, Mapping):
        try:
            return ToolFunctionDef(**tool)
        except TypeError as error:
            raise LMStudioTypeError(f"tools: {error}") from None
    if callable(tool):
        return ToolFunctionDef.from_callable(tool)
    raise LMStudioTypeError(
        f"a tool must be a function, a ToolFunctionDef or a dict, not {type(tool).__name__}"
    )


@dataclass(frozen=True)
class _Parameter:
    name: str
    type: Any
    required: bool = True
    default: Any = None

    def convert(self, value: Any) -> Any:
        try:
            return msgspec.convert(value, self.type)
        except msgspec.ValidationError as error:
            # Models write 3 as "3" or 3.0; lax conversion is the second choice because it would
            # also take the text "3" for a number where the type is `int | str`.
            try:
                return msgspec.convert(value, self.type, strict=False)
            except msgspec.ValidationError:
                raise LMStudioValueError(f"argument {self.name!r}: {error}") from None


def _described(
    tool: str, parameters: Mapping[str, Any]
) -> tuple[dict[str, _Parameter], dict[str, Any]]:
    """The parameters, and their JSON schema."""
    known = {name: _parameter(tool, name, given) for name, given in parameters.items()}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {},
        "required": [parameter.name for parameter in known.values() if parameter.required],
    }
    definitions: dict[str, Any] = {}
    for parameter in known.values():
        try:
            (described,), components = msgspec.json.schema_components(
                [parameter.type], ref_template="#/$defs/{name}"
            )
            if not parameter.required:
                described = {**described, "default": msgspec.to_builtins(parameter.default)}
        except TypeError as error:
            reason = str(error).splitlines()[-1]
            raise LMStudioValueError(
                f"tool {tool!r}: parameter {parameter.name!r} has no JSON schema: {reason}"
            ) from None
        if text := description_of(parameter.type):
            described = {**described, "description": text}
        schema["properties"][parameter.name] = described
        definitions.update(components)
    if definitions:
        schema["$defs"] = definitions
    return known, schema


def _parameter(tool: str, name: str, given: Any) -> _Parameter:
    if not isinstance(given, Mapping):
        return _Parameter(name, given)
    if "type" not in given or given.keys() - {"type", "default"}:
        raise LMStudioValueError(
            f"tool {tool!r}: parameter {name!r} must be a type, or a dict of 'type' and 'default'"
        )
    return _Parameter(name, given["type"], "default" not in given, given.get("default"))
