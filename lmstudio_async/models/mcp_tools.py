"""Tools of an MCP server.

What the `mcp` package returns is read in the form that MCP gives it on the wire: the names of its
attributes differ between releases of the package.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from lmstudio_async.errors import LMStudioError
from lmstudio_async.models.tools import ToolFunctionDef


class McpSession(Protocol):
    """What is needed of an `mcp.ClientSession`."""

    @property
    def list_tools(self) -> Callable[..., Awaitable[Any]]:
        """Gives a page of tools."""

    @property
    def call_tool(self) -> Callable[..., Awaitable[Any]]:
        """Gives the result of a call."""


class McpToolError(LMStudioError):
    """A tool of an MCP server reported an error. `act` tells the model."""


async def mcp_tools(session: McpSession) -> list[ToolFunctionDef]:
    """The tools of an MCP server, for `LLM.act`.

    session: an initialized `mcp.ClientSession`, which must stay open while the tools are in use.
    """
    page = _on_the_wire(await session.list_tools())
    tools = list(page["tools"])
    while cursor := page.get("nextCursor"):
        page = _on_the_wire(await session.list_tools(**_from(cursor, session.list_tools)))
        tools += page["tools"]
    return [_tool(session, tool) for tool in tools]


def _from(cursor: str, list_tools: Callable[..., object]) -> dict[str, Any]:
    """Arguments for the page at a cursor."""
    if "params" not in inspect.signature(list_tools).parameters:
        return {"cursor": cursor}
    from mcp.types import PaginatedRequestParams

    return {"params": PaginatedRequestParams(cursor=cursor)}


def _tool(session: McpSession, tool: dict[str, Any]) -> ToolFunctionDef:
    name = tool["name"]

    async def call(**arguments: Any) -> Any:
        result = _on_the_wire(await session.call_tool(name, arguments))
        content = _content(result)
        if result.get("isError"):
            raise McpToolError(str(content))
        return content

    return ToolFunctionDef(
        name,
        tool.get("description") or name,
        {},
        call,
        # LM Studio wants the properties named even if there are none.
        json_schema={"properties": {}, **tool["inputSchema"]},
    )


def _content(result: dict[str, Any]) -> Any:
    """The structured result if there is one, else the text, else all parts."""
    if (structured := result.get("structuredContent")) is not None:
        return structured
    parts = result.get("content", [])
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _on_the_wire(model: Any) -> dict[str, Any]:
    plain: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return plain
