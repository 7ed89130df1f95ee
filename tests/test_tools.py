"""Tools: what the model is told of a function, and what becomes of its arguments."""

import contextvars
import enum
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import msgspec
import pytest

import lmstudio_async as lms

pytestmark = pytest.mark.anyio


class Unit(enum.Enum):
    """Units of temperature."""

    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


@dataclass
class Place:
    """Somewhere."""

    city: str
    country: str = "FR"


class Span(msgspec.Struct):
    days: int


class Options(TypedDict, total=False):
    verbose: bool


def schema(function: Callable[..., Any]) -> Any:
    return lms.ToolFunctionDef.from_callable(function).json_schema


# What the model is told


def test_a_function_says_all_there_is_to_know() -> None:
    def forecast(
        place: Place,
        unit: Unit = Unit.CELSIUS,
        *,
        style: Literal["long", "short"] = "short",
        span: Span | None = None,
        options: Options,
        hours: Annotated[list[int], msgspec.Meta(max_length=3, description="which hours")],
        note: Annotated[str, "for the record"] = "",
        anything: Any = None,
    ) -> str:
        """Tell the weather.

        It may be wrong.
        """
        return ""

    tool = lms.ToolFunctionDef.from_callable(forecast)
    assert tool.name == "forecast"
    assert tool.description == "Tell the weather.\n\nIt may be wrong."
    assert tool.json_schema["required"] == ["place", "options", "hours"]
    properties = tool.json_schema["properties"]
    assert properties == {
        "place": {"$ref": "#/$defs/Place"},
        "unit": {"$ref": "#/$defs/Unit", "default": "celsius"},
        "style": {"enum": ["long", "short"], "default": "short"},
        "span": {"anyOf": [{"$ref": "#/$defs/Span"}, {"type": "null"}], "default": None},
        "options": {"$ref": "#/$defs/Options"},
        "hours": {
            "type": "array",
            "items": {"type": "integer"},
            "maxItems": 3,
            "description": "which hours",
        },
        "note": {"type": "string", "default": "", "description": "for the record"},
        "anything": {"default": None},
    }
    assert set(tool.json_schema["$defs"]) == {"Place", "Unit", "Span", "Options"}
    assert tool.to_protocol() == {
        "type": "function",
        "function": {
            "name": "forecast",
            "description": "Tell the weather.\n\nIt may be wrong.",
            "parameters": tool.json_schema,
        },
    }


GOOGLE = """Add.

    Args:
        a (int): The first number,
            however large.
        b: The second: any.

    Returns:
        c: The sum.
    """
NUMPY = """Add.

    Parameters
    ----------
    a : int
        The first number,
        however large.
    b
        The second: any.

    Returns
    -------
    c : int
        The sum.
    """
REST = """Add.

    :param int a: The first number,
        however large.
    :param b: The second: any.
    :returns: The sum.
        c: no parameter
    """


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, REST], ids=["Google", "numpy", "reST"])
def test_a_docstring_describes_parameters(docstring: str) -> None:
    def add(a: int, b: Annotated[int, msgspec.Meta(ge=0)], c: int = 0) -> int:
        return a + b

    add.__doc__ = docstring
    tool = lms.ToolFunctionDef.from_callable(add)
    assert tool.description == "Add."
    properties = tool.json_schema["properties"]
    assert properties["a"]["description"] == "The first number, however large."
    assert properties["b"]["description"] == "The second: any."
    assert properties["b"]["minimum"] == 0
    assert "description" not in properties["c"]


def test_an_annotation_describes_better_than_the_docstring() -> None:
    def double(a: Annotated[int, "this"]) -> int:
        """Double.

        Args:
            a: that
        """
        return 2 * a

    assert schema(double)["properties"]["a"]["description"] == "this"


@pytest.mark.parametrize(
    "docstring",
    [
        "Args are given as they come.\n\nParameters\nof any kind.",
        "Note: this is no section.\n\n    Nor is this:\n        a: b",
    ],
)
def test_prose_is_not_taken_for_a_section(docstring: str) -> None:
    def double(a: int) -> int:
        return 2 * a

    double.__doc__ = docstring
    tool = lms.ToolFunctionDef.from_callable(double)
    assert tool.description.startswith(docstring[:20])
    assert tool.description.endswith(docstring[-3:])
    assert tool.json_schema["properties"] == {"a": {"type": "integer"}}


class Counter:
    """Counts."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        """Add to the total."""
        self.total += n
        return self.total

    async def __call__(self, n: int) -> int:
        """Add to the total."""
        return self.add(n)


@pytest.mark.parametrize("kind", ["method", "object", "partial", "wrapped", "lambda"])
async def test_tools_are_callables_of_all_kinds(kind: str) -> None:
    counter = Counter()
    match kind:
        case "method":
            tool = lms.ToolFunctionDef.from_callable(counter.add)
            assert (tool.name, tool.description) == ("add", "Add to the total.")
        case "object":
            tool = lms.ToolFunctionDef.from_callable(counter, name="add")
            assert (tool.name, tool.description) == ("add", "Counts.")
        case "partial":
            tool = lms.ToolFunctionDef.from_callable(functools.partial(counter.add))
            assert (tool.name, tool.description) == ("add", "Add to the total.")
        case "wrapped":

            @functools.wraps(counter.add)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return counter.add(*args, **kwargs)

            tool = lms.ToolFunctionDef.from_callable(wrapper)
            assert (tool.name, tool.description) == ("add", "Add to the total.")
        case _:
            tool = lms.ToolFunctionDef("add", "Add.", {"n": int}, lambda n: counter(n))
    assert tool.json_schema["properties"] == {"n": {"type": "integer"}}
    assert await tool.call({"n": 2}) == counter.total == 2


def refused(function: Callable[..., Any], match: str) -> None:
    with pytest.raises(lms.LMStudioValueError, match=match):
        lms.ToolFunctionDef.from_callable(function)


def test_functions_that_no_model_could_call_are_refused() -> None:
    def positional(a: int, /) -> None:
        """Do."""

    def several(*a: int) -> None:
        """Do."""

    def keywords(**a: int) -> None:
        """Do."""

    def bare(a) -> None:  # type: ignore[no-untyped-def]
        """Do."""

    def odd(a: complex) -> None:
        """Do."""

    def unknown(a: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
        """Do."""

    def odd_default(a: int = object()) -> None:  # type: ignore[assignment]
        """Do."""

    def silent(a: int) -> None:
        pass

    refused(positional, "tool 'positional': parameter 'a' is positional-only")
    refused(several, "tool 'several': parameter 'a' takes any number of arguments")
    refused(keywords, "tool 'keywords': parameter 'a' takes any keyword")
    refused(bare, "tool 'bare': parameter 'a' has no type annotation")
    refused(odd, "tool 'odd': parameter 'a' has no JSON schema: .*complex")
    refused(unknown, "tool 'unknown': its signature cannot be read: name 'Nowhere'")
    refused(odd_default, "tool 'odd_default': parameter 'a' has no JSON schema: .*object")
    refused(silent, "tool 'silent' has no docstring")
    refused(Counter(), "Counter object at .* has no name; pass one to ToolFunctionDef")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("", "Do.", {}, print), ValueError, "name of a tool is empty"),
        ((5, "Do.", {}, print), TypeError, "name of a tool must be a string, not int"),
        (("a", None, {}, print), TypeError, "tool 'a': description must be a string"),
        (("a", "Do.", {}, 5), TypeError, "tool 'a': implementation is not callable"),
        (("a", "Do.", {"b": {"type": int, "least": 1}}, print), ValueError, "parameter 'b' must"),
        (("a", "Do.", {"b": {"default": 1}}, print), ValueError, "parameter 'b' must be a type"),
        (("a", "Do.", {"b": int}, print, {"type": "object"}), ValueError, "parameters or json_sch"),
    ],
)
def test_a_wrong_definition_is_refused(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        lms.ToolFunctionDef(*arguments)
    assert isinstance(caught.value, lms.LMStudioError)


def test_a_definition_is_made_of_a_callable_only() -> None:
    with pytest.raises(lms.LMStudioTypeError, match="must be callable, not int"):
        lms.ToolFunctionDef.from_callable(5)  # type: ignore[arg-type]


# Arguments


async def test_arguments_become_what_the_annotations_say() -> None:
    seen: dict[str, Any] = {}

    async def use(place: Place, unit: Unit, spans: list[Span], either: int | str) -> None:
        """Use."""
        seen.update(locals())

    tool = lms.ToolFunctionDef.from_callable(use)
    await tool.call(
        {
            "place": {"city": "Paris"},
            "unit": "celsius",
            "spans": [{"days": 2}],
            "either": "3",
            "unknown": 1,
        }
    )
    assert seen["place"] == Place("Paris")
    assert seen["unit"] is Unit.CELSIUS
    assert seen["spans"] == [Span(2)]
    assert seen["either"] == "3"


async def test_numbers_written_as_text_are_taken() -> None:
    async def use(count: int, share: float, sure: bool) -> Any:
        """Use."""
        return count, share, sure

    tool = lms.ToolFunctionDef.from_callable(use)
    assert await tool.call({"count": "3", "share": "0.5", "sure": "true"}) == (3, 0.5, True)
    assert await tool.call({"count": 3.0, "share": 1, "sure": False}) == (3, 1.0, False)


async def test_defaults_are_used() -> None:
    marker: list[int] = [1]

    async def use(a: list[int] = marker) -> Any:
        """Use."""
        return a

    assert await lms.ToolFunctionDef.from_callable(use).call() is marker

    async def given(**arguments: Any) -> Any:
        return arguments

    tool = lms.ToolFunctionDef("use", "Use.", {"a": int, "b": {"type": str, "default": "x"}}, given)
    assert await tool.call({"a": 1}) == {"a": 1, "b": "x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "argument 'place' is missing; use takes place"),
        (None, "argument 'place' is missing"),
        ({"place": {}}, "argument 'place': Object missing required field `city`"),
        ({"place": {"city": 5}}, r"argument 'place': Expected `str`, got `int` - at `\$.city`"),
    ],
)
async def test_wrong_arguments_are_refused(arguments: Any, message: str) -> None:
    def use(place: Place) -> None:
        """Use."""

    with pytest.raises(lms.LMStudioValueError, match=message):
        await lms.ToolFunctionDef.from_callable(use).call(arguments)


async def test_a_tool_sees_the_context_of_its_caller() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def read() -> int:
        """Read."""
        return variable.get()

    variable.set(5)
    assert await lms.ToolFunctionDef.from_callable(read).call() == 5


async def test_a_json_schema_stands_for_parameters() -> None:
    async def use(**arguments: Any) -> Any:
        return arguments

    json_schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = lms.ToolFunctionDef("use", "Use.", {}, use, json_schema)
    assert tool.to_protocol()["function"]["parameters"] == json_schema
    assert await tool.call({"a": "as it is"}) == {"a": "as it is"}


# Tools of an MCP server


class Model(SimpleNamespace):
    """Like the models of the `mcp` package."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return dict(vars(self))


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


class Session:
    """Like an `mcp.ClientSession`; its tools are found on two pages."""

    ANSWERS: ClassVar[dict[str, dict[str, Any]]] = {
        "one": {"content": [text("a"), text("b")], "isError": False},
        "two": {"content": [text("no")], "structuredContent": {"n": 2}},
        "three": {"content": [text("a"), {"type": "image", "data": ""}]},
        "bad": {"content": [text("It broke.")], "isError": True},
    }

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def list_tools(self, cursor: str | None = None) -> Model:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        if cursor is None:
            tools = [{"name": "one", "description": "Do.", "inputSchema": schema}]
            return Model(tools=tools, nextCursor="page 2")
        assert cursor == "page 2"
        rest = [name for name in self.ANSWERS if name != "one"]
        return Model(tools=[{"name": name, "inputSchema": {"type": "object"}} for name in rest])

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None) -> Model:
        self.calls.append((name, arguments))
        return Model(**self.ANSWERS[name])


async def test_an_mcp_server_offers_tools() -> None:
    session = Session()
    tools = await lms.mcp_tools(session)
    one, two, three, bad = tools
    assert (one.name, one.description) == ("one", "Do.")
    assert one.json_schema["properties"] == {"a": {"type": "integer"}}
    assert (two.description, two.json_schema) == ("two", {"type": "object", "properties": {}})
    assert await one.call({"a": 1}) == "a\nb"
    assert await two.call() == {"n": 2}
    assert await three.call() == Session.ANSWERS["three"]["content"]
    with pytest.raises(lms.McpToolError, match=r"It broke\."):
        await bad.call()
    assert session.calls == [("one", {"a": 1}), ("two", {}), ("three", {}), ("bad", {})]


async def test_later_releases_of_mcp_take_the_cursor_as_a_parameter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = ModuleType("mcp.types")
    types.PaginatedRequestParams = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcp", ModuleType("mcp"))
    monkeypatch.setitem(sys.modules, "mcp.types", types)

    class LaterSession(Session):
        async def list_tools(self, *, params: Any = None) -> Model:  # type: ignore[override]
            return await super().list_tools(params and params.cursor)

    assert len(await lms.mcp_tools(LaterSession())) == 4
