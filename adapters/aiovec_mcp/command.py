"""``aiovec mcp``: a store as an agent's tools. Like every command's module, it imports little."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from aiovec._cli.output import say
from aiovec._cli.run import check_installed, command_app, failing_clearly, on_signals
from aiovec._cli.stores import (
    At,
    Config,
    Embedder,
    Store,
    Watch,
    check_there,
    give_embedder,
    in_store,
    open_place,
    try_if_new,
)
from aiovec.errors import ConfigError, TableNotFoundError

if TYPE_CHECKING:
    from aiovec import Schema, VectorStore

KEY_VARIABLE = "AIOVEC_MCP_KEY"
KEYS_VARIABLE = "AIOVEC_MCP_KEYS"
# Seconds that calls in progress may take after a signal. Only this limit ends clients' streams.
_SHUTDOWN = 5

_BY_WORDS = (
    "The memory will have keyword search only, which cannot be changed later. To search by meaning "
    "too, pass --embedder, such as --embedder local"
)

app: typer.Typer = command_app("mcp")


@app.command()
@failing_clearly
def mcp(
    store: Store = None,
    config: Config = None,
    table: Annotated[
        str, typer.Option(metavar="TABLE", help="Table of the agent's memories.")
    ] = "memories",
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Let the agent add and delete memories.")
    ] = False,
    read: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE",
            help="Table that the agent may search and read besides its memories; may be repeated. "
            "Default: every table.",
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="User whose memories the agent sees and writes, and no other's."
        ),
    ] = None,
    http: Annotated[
        bool,
        typer.Option(
            "--http",
            help="Serve streamable HTTP on this machine instead of standard input. With a key in "
            f"${KEY_VARIABLE}, each request must bring it as a bearer token. ${KEYS_VARIABLE} has "
            "a key for each of several users: ana=KEY ben=KEY.",
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port for --http; 0 takes a free one.")
    ] = 4003,
    watch: Watch = None,
    embedder: Embedder = None,
    analyzer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Analyzer of the words of a new memory, by default english, and of new tables of "
            "--watch, by default that of their texts: a language, such as german, or cjk.",
        ),
    ] = None,
) -> None:
    """Serve a store to an agent over the Model Context Protocol.

    The agent can search and read every table, or only tables named by --read. With --allow-writes,
    it also has a memory, in one table that the first write creates. SIGTERM and Ctrl+C stop the
    server.
    """
    check_installed("aiovec mcp", "aiovec[mcp]", "aiovec_mcp.server")
    users = _users_by_key(user) if http else {"": user}
    reads_only = not (allow_writes or watch)
    watched: list[Any] = watch or []
    if analyzer is not None:
        objects = [each if isinstance(each, dict) else {"source": each} for each in watched]
        watched = [{"analyzer": analyzer, **each} for each in objects]

    async def serve(at: At) -> None:
        from aiovec._internals import StoreInternals
        from aiovec.backend.threads import in_thread

        from .server import create_server
        from .tools import MEMORY, user_field

        async def prepare(opened: VectorStore) -> Schema:
            try:
                schema = await opened.schema(table)
            except TableNotFoundError:
                schema = replace(MEMORY, analyzer=cast("Any", analyzer or MEMORY.analyzer))
            if any(users.values()):
                user_field(table, schema)
            give_embedder(opened, schema, embedder)
            return schema

        async def check(new: VectorStore) -> None:
            await prepare(new)
            await StoreInternals(new).check_watched(watched)

        place = await at.place()
        if reads_only:
            await in_thread(check_there, place)
        else:
            await try_if_new(place, check)
        opened = await at.exits.enter_async_context(await open_place(place, read_only=reads_only))
        schema = await prepare(opened)
        if (
            allow_writes
            and schema.embed is MEMORY.embed
            and not (await StoreInternals(opened).can_embed(schema))
        ):
            say(_BY_WORDS, stderr=True)
        await at.exits.enter_async_context(StoreInternals(opened).watching(watched))
        options: dict[str, Any] = {"allow_writes": allow_writes, "readable": read or None}
        options["analyzer"] = analyzer or MEMORY.analyzer
        servers = {
            key: create_server(opened, table=table, user=name, **options)
            for key, name in users.items()
        }
        if http:
            await _serve_http(servers, port, opened.target)
        else:
            await _serve_stdio(servers[""], at)

    in_store(store, config, serve)


def _users_by_key(user: str | None) -> dict[str, str | None]:
    """Return the user of each key. If requests need no key, the only key is the empty string."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    users: dict[str, str | None] = {key: user}
    variable = KEY_VARIABLE
    if entries := os.environ.get(KEYS_VARIABLE, "").split():
        if key or user is not None:
            raise ConfigError(f"{KEYS_VARIABLE} has a key for each user: leave out {KEY_VARIABLE} "
                              "and --user")  # fmt: skip
        pairs = [entry.partition("=") for entry in entries]
        users, variable = {given: name for name, _, given in pairs}, KEYS_VARIABLE
        if len(users) < len(entries):
            raise ConfigError(f"{KEYS_VARIABLE} has a key twice; each user needs another key")
    for given in users:
        if (given or entries) and not re.fullmatch("[!-~]{16,512}", given):  # could be guessed
            words = f"the key in {variable} must be 16 to 512 visible ASCII characters"
            raise ConfigError(words + (", as in ana=KEY ben=KEY" if entries else ""))
    return users


async def _serve_stdio(server: Any, at: At) -> None:
    """Serve over standard input and output until the input ends or a signal arrives."""
    import asyncio

    ended = asyncio.Event()
    on_signals(ended.set)
    serving = asyncio.create_task(server.run_stdio_async())
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        await at.exits.aclose()
        os._exit(0)  # any other way to exit would wait for the thread that reads standard input
    waiting.cancel()
    await serving


async def _serve_http(servers: dict[str, Any], port: int, target: str) -> None:
    """Serve over HTTP; each request goes to the server for its key."""
    import uvicorn

    from .server import by_key

    # An app answers only requests addressed to this machine's own names, so no web page can reach
    # it.
    apps = {key: each.streamable_http_app(host="127.0.0.1") for key, each in servers.items()}
    app: Any = apps.get("") or by_key(apps)
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as exc:
        words = f"the server cannot listen at port {port}: {exc.strerror}"
        raise ConfigError(f"{words}; pass another --port, or --port 0 for a free one") from exc
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    say(f"Serving {target} at {url} (Ctrl+C stops it)", stderr=True)
    # At exit, uvicorn raises the received signal again, which would kill the process before the
    # store is closed.
    on_signals(lambda: None)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_SHUTDOWN)
    await uvicorn.Server(config).serve([listening])
