"""The server of the tools, for any transport of the official SDK."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, ParamSpec

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.types import Tool, ToolAnnotations
from pydantic import ValidationError

from aiovec import AiovecError, VectorStore, __version__

from .tools import Tools

_P = ParamSpec("_P")

_INSTRUCTIONS = (
    "A store of texts that are found by meaning and by words. `list` shows its tables; `search`, "
    "`get` and `list` read them. `recall` searches your own memory"
)


class _Server(MCPServer[Any]):
    """Refuses arguments that a tool does not have: to pass over a filter would find every row."""

    async def list_tools(self) -> list[Tool]:
        tools = await super().list_tools()
        for tool in tools:
            tool.input_schema = {**tool.input_schema, "additionalProperties": False}
        return tools

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> Any:
        for tool in await self.list_tools():
            known = tool.input_schema["properties"]
            if tool.name == name and (unknown := arguments.keys() - known.keys()):
                words = f"{name} has no argument {', '.join(map(repr, sorted(unknown)))}"
                raise ToolError(f"{words}; its arguments are: {', '.join(known)}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as exc:
            if not isinstance(exc.__cause__, ValidationError):
                raise
            faults = exc.__cause__.errors(include_url=False, include_input=False)
            words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in faults)
            raise ToolError(f"{name} cannot take these arguments: {words}") from exc


def create_server(
    store: VectorStore, *, table: str = "memories", allow_writes: bool = False
) -> MCPServer[Any]:
    """Return an MCP server over an open store.

    ``table`` is the memory that ``recall`` searches. With ``allow_writes`` the tools ``remember``
    and ``forget`` write it, and nothing else.
    """
    more = ", which `remember` and `forget` change." if allow_writes else "; you cannot write."
    server = _Server(
        "aiovec", version=__version__, instructions=_INSTRUCTIONS + more, log_level="WARNING"
    )
    tools = Tools(store, store.table(table))
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    adding = ToolAnnotations(destructive_hint=False, open_world_hint=False)
    deleting = ToolAnnotations(destructive_hint=True, open_world_hint=False)
    for tool, name in (
        (tools.recall, "recall"),
        (tools.search, "search"),
        (tools.get, "get"),
        (tools.list_, "list"),
    ):
        server.add_tool(_failing_clearly(tool, ToolError), name, annotations=reading)
    if allow_writes:
        server.add_tool(_failing_clearly(tools.remember, ToolError), annotations=adding)
        server.add_tool(_failing_clearly(tools.forget, ToolError), annotations=deleting)

    resource = server.resource("aiovec://tables/{table}", mime_type="application/json")
    resource(_failing_clearly(tools.describe, ResourceError))
    return server


def _failing_clearly(
    call: Callable[_P, Awaitable[dict[str, Any]]], error: type[Exception]
) -> Callable[_P, Awaitable[dict[str, Any]]]:
    """Return the call, whose errors reach the model with their text."""

    @wraps(call)
    async def called(*args: _P.args, **kwargs: _P.kwargs) -> dict[str, Any]:
        try:
            return await call(*args, **kwargs)
        except AiovecError as exc:
            raise error(str(exc)) from exc

    return called
