"""``aiovec mcp``: a store as the tools of an agent. Imports little, as every command."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiovec._cli.output import say
from aiovec._cli.run import command_app, failing_clearly, run_async
from aiovec._cli.stores import (
    Config,
    Embedder,
    Store,
    check_there,
    give_embedder,
    open_place,
    place_named,
)
from aiovec.errors import AiovecError, ConfigError, TableNotFoundError

if TYPE_CHECKING:
    from aiovec.backend.place import Place

KEY_VARIABLE = "AIOVEC_MCP_KEY"

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
            help="Table that the agent may search and read beside its memories; may be repeated. "
            "Default: every table.",
        ),
    ] = None,
    http: Annotated[
        bool,
        typer.Option(
            "--http",
            help="Serve streamable HTTP on this machine instead of standard input. With a key in "
            f"${KEY_VARIABLE}, each request must bring it as a bearer token.",
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port for --http; 0 takes a free one.")
    ] = 4003,
    embedder: Embedder = None,
) -> None:
    """Serve a store to an agent over the Model Context Protocol.

    The agent can search and read every table, or those of --read. With --allow-writes it also has a
    memory of its own, in one table that the first write creates.
    """
    try:
        import aiovec_mcp.server  # noqa: F401
    except ModuleNotFoundError as exc:
        raise AiovecError(
            f"aiovec mcp needs the package {exc.name}, which is not installed; "
            'pip install "aiovec[mcp]" brings it'
        ) from exc
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if http and key and not re.fullmatch("[!-~]{16,512}", key):  # fewer could be guessed
        raise ConfigError(f"the key in {KEY_VARIABLE} must be 16 to 512 visible ASCII characters")
    place = place_named(store, config)
    if not allow_writes:
        check_there(place)
    run_async(_serve(place, table, read, embedder, allow_writes, port if http else None, key))


async def _serve(
    place: Place,
    table: str,
    read: list[str] | None,
    embedder: str | None,
    allow_writes: bool,
    port: int | None,
    key: str,
) -> None:
    from .server import create_server, with_key
    from .tools import MEMORY

    async with await open_place(place, read_only=not allow_writes) as store:
        try:
            schema = await store.schema(table)
        except TableNotFoundError:
            schema = MEMORY
        give_embedder(store, schema, embedder)
        server = create_server(store, table=table, allow_writes=allow_writes, readable=read or None)
        if port is None:
            await server.run_stdio_async()
            return
        import uvicorn

        # It answers requests for this machine's own names only, so no web page can reach it.
        app: Any = server.streamable_http_app(host="127.0.0.1")
        if key:
            app = with_key(app, key)
        settings = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")
        listening = settings.bind_socket()
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        say(f"Serving {store.target} at {url} (Ctrl+C stops it)", stderr=True)
        await uvicorn.Server(settings).serve([listening])
