"""``aiovec mcp``: a store as the tools of an agent. Imports little, as every command."""

from __future__ import annotations

import os
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiovec._cli.output import say
from aiovec._cli.run import command_app, failing_clearly, run_async
from aiovec._cli.stores import (
    Config,
    Embedder,
    Store,
    Watch,
    check_there,
    give_embedder,
    open_place,
    place_named,
)
from aiovec.errors import AiovecError, ConfigError, TableNotFoundError

if TYPE_CHECKING:
    from aiovec.backend.place import Place

KEY_VARIABLE = "AIOVEC_MCP_KEY"
KEYS_VARIABLE = "AIOVEC_MCP_KEYS"

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
    users = _users_by_key(user) if http else {"": user}
    place = place_named(store, config)
    if not (allow_writes or watch):
        check_there(place)
    port_of_http = port if http else None
    run_async(_serve(place, table, read, embedder, allow_writes, port_of_http, users, watch or []))


def _users_by_key(user: str | None) -> dict[str, str | None]:
    """Return the user of each key; the only key is empty if requests need none."""
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
            raise ConfigError(f"{KEYS_VARIABLE} has a key twice; each user needs another one")
    for given in users:
        if (given or entries) and not re.fullmatch("[!-~]{16,512}", given):  # could be guessed
            words = f"the key in {variable} must be 16 to 512 visible ASCII characters"
            raise ConfigError(words + (", as in ana=KEY ben=KEY" if entries else ""))
    return users


async def _serve(
    place: Place,
    table: str,
    read: list[str] | None,
    embedder: str | None,
    allow_writes: bool,
    port: int | None,
    users: dict[str, str | None],
    watch: list[str],
) -> None:
    from aiovec._internals import StoreInternals

    from .server import by_key, create_server
    from .tools import MEMORY

    read_only = not (allow_writes or watch)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(await open_place(place, read_only=read_only))
        try:
            schema = await store.schema(table)
        except TableNotFoundError:
            schema = MEMORY
        give_embedder(store, schema, embedder)
        await stack.enter_async_context(StoreInternals(store).watching(watch))
        servers = {
            key: create_server(store, table=table, allow_writes=allow_writes, readable=read or None,
                               user=user)
            for key, user in users.items()
        }  # fmt: skip
        if port is None:
            await servers[""].run_stdio_async()
            return
        import uvicorn

        # It answers requests for this machine's own names only, so no web page can reach it.
        apps = {key: each.streamable_http_app(host="127.0.0.1") for key, each in servers.items()}
        app: Any = apps.get("") or by_key(apps)
        settings = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")
        listening = settings.bind_socket()
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        say(f"Serving {store.target} at {url} (Ctrl+C stops it)", stderr=True)
        await uvicorn.Server(settings).serve([listening])
