"""What a function's signature says of the tool that it is."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from msgspec import Meta

from lmstudio_async.errors import LMStudioValueError

_REFUSED = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only, but tools are called by keyword",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of arguments, which no schema can name",
    inspect.Parameter.VAR_KEYWORD: "takes any keyword, which no schema can name",
}


def describe_parameters(
    function: Callable[..., Any], name: str, descriptions: dict[str, str]
) -> dict[str, Any]:
    """Each parameter's type, or {"type": ..., "default": ...}, as `ToolFunctionDef` takes them.

    A description goes along where the annotation has none. Raises LMStudioValueError for what
    cannot be called by keyword and for what has no annotation.
    """
    try:
        hints = get_type_hints(_annotated(function), include_extras=True)
        signature = inspect.signature(function)
    except Exception as error:
        raise LMStudioValueError(f"tool {name!r}: its signature cannot be read: {error}") from error
    parameters: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        where = f"tool {name!r}: parameter {parameter.name!r}"
        if parameter.kind in _REFUSED:
            raise LMStudioValueError(f"{where} {_REFUSED[parameter.kind]}")
        if parameter.name not in hints:
            raise LMStudioValueError(f"{where} has no type annotation")
        hint = hints[parameter.name]
        if parameter.name in descriptions and description_of(hint) is None:
            hint = _annotate(hint, Meta(description=descriptions[parameter.name]))
        parameters[parameter.name] = (
            hint
            if parameter.default is inspect.Parameter.empty
            else {"type": hint, "default": parameter.default}
        )
    return parameters


def description_of(hint: Any) -> str | None:
    """The description in `Annotated[T, Meta(description=...)]` or `Annotated[T, "..."]`."""
    if get_origin(hint) is Annotated:
        for extra in reversed(get_args(hint)[1:]):
            if isinstance(extra, str):
                return extra
            if isinstance(extra, Meta) and extra.description:
                return extra.description
    return None


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives an awaitable and does no work yet."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - objects with an async __call__
    )


def without_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside `functools.partial`, which has its name and its docstring."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """What bears the annotations."""
    function = without_partial(function)
    return function if inspect.isroutine(function) else type(function).__call__


def _annotate(hint: Any, extra: object) -> Any:
    return cast(Any, Annotated)[hint, extra]
