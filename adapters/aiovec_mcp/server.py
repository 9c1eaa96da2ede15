"""The server of the tools, for any transport of the official SDK."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from functools import wraps
from hmac import compare_digest
from typing import Any, ParamSpec, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.types import TextContent, Tool, ToolAnnotations
from pydantic import ValidationError
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from aiovec import AiovecError, VectorStore, __version__

from .tools import Tools

_P = ParamSpec("_P")
_R = TypeVar("_R")

_INSTRUCTIONS = (
    "A store of texts that are found by meaning and by words. `list` shows its tables; `search`, "
    "`get` and `list` read them. `recall` searches your own memory"
)


class _Server(MCPServer[Any]):
    """Refuses arguments that a tool does not have: to pass over a filter would find every row.

    The text of an answer is JSON without the SDK's indents, which cost tokens.
    """

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
            result = await super().call_tool(name, arguments, context)
            if (answer := getattr(result, "structured_content", None)) is not None:
                text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
                result.content = [TextContent(type="text", text=text)]
            return result
        except ToolError as exc:
            if not isinstance(exc.__cause__, ValidationError):
                raise
            faults = exc.__cause__.errors(include_url=False, include_input=False)
            words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in faults)
            raise ToolError(f"{name} cannot take these arguments: {words}") from exc


def create_server(
    store: VectorStore,
    *,
    table: str = "memories",
    allow_writes: bool = False,
    readable: Collection[str] | None = None,
) -> MCPServer[Any]:
    """Return an MCP server over an open store.

    ``table`` is the memory that ``recall`` searches. With ``allow_writes`` the tools ``remember``
    and ``forget`` write it, and nothing else. The agent can search and read the tables
    ``readable``, by default every table, and its memory.
    """
    more = ", which `remember` and `forget` change." if allow_writes else "; you cannot write."
    server = _Server(
        "aiovec", version=__version__, instructions=_INSTRUCTIONS + more, log_level="WARNING"
    )
    tools = Tools(store, store.table(table), readable)
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


def with_key(app: ASGIApp, key: str) -> ASGIApp:
    """Return the app of a server, which answers only requests with this key as a bearer token."""
    expected = f"Bearer {key}".encode()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or compare_digest(given, expected):
            await app(scope, receive, send)
        else:
            words = "This server requires its key: Authorization: Bearer <key>"
            await PlainTextResponse(words, 401, {"WWW-Authenticate": "Bearer"})(
                scope, receive, send
            )

    return answer


def _failing_clearly(
    call: Callable[_P, Awaitable[_R]], error: type[Exception]
) -> Callable[_P, Awaitable[_R]]:
    """Return the call, whose errors reach the model with their text."""

    @wraps(call)
    async def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await call(*args, **kwargs)
        except AiovecError as exc:
            raise error(str(exc)) from exc

    return called
