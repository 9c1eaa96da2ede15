"""The MCP server that offers the tools, for any transport of the official SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import ValidationError, create_model
from pydantic_core import to_json, to_jsonable_python
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from aiovec import AiovecError, VectorStore, __version__

from .tools import MEMORY, Tools

if TYPE_CHECKING:
    from mcp.types import Tool as ListedTool

_INSTRUCTIONS = (
    "A store of texts, searched by meaning and by words. `list` shows its tables; `search`, "
    "`get` and `list` read them. `recall`, if you have it, searches your own memory"
)


def create_server(
    store: VectorStore,
    *,
    table: str = "memories",
    allow_writes: bool = False,
    readable: Collection[str] | None = None,
    user: str | None = None,
    analyzer: str = MEMORY.analyzer,
) -> MCPServer[Any]:
    """Return an MCP server over an open store.

    ``table`` is the memory that the tool ``recall`` searches. ``allow_writes`` adds the tools
    ``remember`` and ``forget``, which write only to the memory; without it, the server offers
    ``recall`` only if the table exists. The agent can search and read the memory and the tables in
    ``readable``, by default every table. With ``user``, the agent sees only this user's memories,
    and cannot choose another user. If the memory is a table of your own, ``user`` needs a text
    field "user" or a payload, preferring newer memories needs a field "at", and memories that
    expire need a field with ``expires``. ``analyzer`` is that of a new memory.
    """
    more = ", which `remember` and `forget` change." if allow_writes else "; you cannot write."
    tools = Tools(store, store.table(table), readable, user, analyzer)
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    offered = [
        _tool(tools.recall, "recall", reading),
        _tool(tools.search, "search", reading),
        _tool(tools.get, "get", reading),
        _tool(tools.list_, "list", reading),
    ]
    if allow_writes:
        adding = ToolAnnotations(destructive_hint=False, open_world_hint=False)
        deleting = ToolAnnotations(destructive_hint=True, open_world_hint=False)
        offered.append(_tool(tools.remember, "remember", adding))
        offered.append(_tool(tools.forget, "forget", deleting))
    return _Server(
        None if allow_writes else tools,
        "aiovec",
        version=__version__,
        instructions=_INSTRUCTIONS + more,
        tools=offered,
        log_level="WARNING",
    )


class _Server(MCPServer[Any]):
    """A server that offers ``recall`` only if the agent may write or the memory exists.

    Otherwise an agent might call ``recall`` first, find nothing, and stop searching.
    """

    def __init__(self, reading: Tools | None, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._reading = reading

    async def list_tools(self) -> list[ListedTool]:
        offered = await super().list_tools()
        if self._reading is None or await self._reading.has_memory():
            return offered
        return [tool for tool in offered if tool.name != "recall"]


def by_key(apps: Mapping[str, Starlette]) -> ASGIApp:
    """Return an app that chooses the server for each request by the request's bearer token."""
    words = "This server requires its key: Authorization: Bearer <key>"
    refused = PlainTextResponse(words, 401, {"WWW-Authenticate": "Bearer"})
    # Compare digests, so that the time of a comparison reveals nothing about a key.
    expected = {_digest_of(key): app for key, app in apps.items()}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        app = expected.get(_digest_of(key)) if scheme.lower() == "bearer" else None
        await (app or refused)(scope, receive, send)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    return Starlette(routes=[Mount("/", answer)], lifespan=lifespan)


def _digest_of(key: str) -> bytes:
    return sha256(key.strip().encode("utf-8", "replace")).digest()


class _Tool(Tool):
    """A tool that names wrong arguments in its errors, without the URL that pydantic adds."""

    async def run(self, arguments: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().run(arguments, *args, **kwargs)
        except ToolError as exc:
            if not isinstance(exc.__cause__, ValidationError):
                raise
            words = []
            for fault in exc.__cause__.errors(include_url=False):
                name = ".".join(map(str, fault["loc"]))
                unknown = fault["type"] == "extra_forbidden"
                words.append(f"has no argument {name!r}" if unknown else f"{name}: {fault['msg']}")
            known = ", ".join(self.parameters["properties"])
            raise ToolError(f"{self.name} {'; '.join(words)}; its arguments are: {known}") from exc


def _tool(call: Callable[..., Awaitable[Any]], name: str, annotations: ToolAnnotations) -> Tool:
    """Return a tool whose answers and errors reach the model as text.

    The text of an answer is JSON without the SDK's indentation, which costs tokens. The tool
    refuses unknown arguments: if it ignored a misspelt filter, it would return every row.
    """

    @wraps(call)
    async def called(*args: Any, **kwargs: Any) -> CallToolResult:
        try:
            answer = to_jsonable_python(await call(*args, **kwargs), fallback=str)
        except AiovecError as exc:
            raise ToolError(str(exc)) from exc
        text = TextContent(type="text", text=to_json(answer).decode())
        return CallToolResult(content=[text], structured_content=answer)

    tool = _Tool.from_function(called, name, annotations=annotations, structured_output=False)
    known = tool.fn_metadata.arg_model
    exact = create_model(known.__name__, __base__=known, __cls_kwargs__={"extra": "forbid"})
    tool.fn_metadata.arg_model = exact
    tool.parameters = exact.model_json_schema(by_alias=True)
    return tool
