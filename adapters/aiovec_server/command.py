"""``aiovec serve``: the server from the command line.

Exit codes: 0 stopped by a signal or for want of use, 1 failed, 2 wrong usage. Imports little, since
the list of all commands imports it.
"""

from __future__ import annotations

import os
import sys
from json import dumps as dump
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiovec._cli.output import one_line
from aiovec._cli.run import failing_clearly
from aiovec._cli.stores import AsJson, Config, Store, open_or_create, source_of
from aiovec.backend import Origin
from aiovec.errors import AiovecError, ConfigError

if TYPE_CHECKING:
    import asyncio

    from aiovec.backend import RetrievalSettings, ServerSettings

    from .sockets import Address

Host = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address to listen at. One that other machines reach needs an API key. "
        "Default: 127.0.0.1, or the TOML file's.",
        show_default=False,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65_535,
        help="Port to listen at; 0 takes a free one. Default: 4002, or the TOML file's.",
        show_default=False,
    ),
]
AllowWrites = Annotated[
    bool, typer.Option("--allow-writes", help="Let the page at / delete rows and optimize tables.")
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Refuse every call that writes.")]
IdleTimeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Stop after this time without a request. Default: never.",
        show_default=False,
    ),
]

app = typer.Typer(
    name="serve",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@failing_clearly
def serve(
    store: Store = None,
    config: Config = None,
    host: Host = None,
    port: Port = None,
    allow_writes: AllowWrites = False,
    read_only: ReadOnly = False,
    idle_timeout: IdleTimeout = None,
    json: AsJson = False,
) -> None:
    """Serve a store over HTTP, to other machines and languages, and as a page at /.

    SIGTERM and Ctrl+C stop it: calls in progress end first. A second signal stops it at once.
    """
    _check_installed()
    retrieval = source_of(store, config).settings()
    server = retrieval.server
    settings = server.model_copy(
        update={
            "host": host or server.host,
            "port": server.port if port is None else port,
            "allow_writes": allow_writes or server.allow_writes,
            "read_only": read_only or server.read_only,
        }
    )
    source = _source(store, config, retrieval, settings)
    from . import app as _  # noqa: F401 - slow to load, so not on the event loop
    from .running import run
    from .sockets import bind, resolve

    addresses = resolve(settings.host)
    _check_protected(settings, addresses)
    sockets = bind(settings.host, addresses, settings.port)
    try:
        run(lambda stop: _serve(source, settings, sockets, stop, idle_timeout, json=json))
    finally:
        for one in sockets:
            one.close()


def _check_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as exc:
        raise AiovecError(
            f"aiovec serve needs the package {exc.name}, which is not installed; "
            'pip install "aiovec[server]" brings it'
        ) from exc


def _source(
    store: str | None, config: str | None, retrieval: RetrievalSettings, settings: ServerSettings
) -> Origin:
    """Return the store that is served."""
    name = "" if store is not None else settings.backend
    if store is None and not name and retrieval.backend == _REMOTE:
        name = "sqlite"
    if name:
        source = Origin(None, config, backend=name, read_only=settings.read_only)
    else:
        source = source_of(store, config, read_only=settings.read_only)
    if source.location().backend == _REMOTE:
        raise ConfigError(
            f"{source.location()} is served by another server already; name the backend to serve "
            "in [retrieval.server] backend, or pass a store",
            key="retrieval.server.backend",
            accepted="a backend other than remote",
        )
    return source


_REMOTE = "remote"


def _check_protected(settings: ServerSettings, addresses: list[Address]) -> None:
    """Refuse to let other machines in without a key."""
    from .keys import keys_of
    from .sockets import is_loopback

    if keys_of(settings) or is_loopback(addresses):
        return
    raise typer.BadParameter(
        f"{settings.host} can be reached by other machines, and no API key protects the store. Set "
        f"one, of 16 characters or more, in the environment variable {settings.api_keys_env} or in "
        "a file that [retrieval.server] api_keys_file names; or listen at 127.0.0.1",
        param_hint="--host",
    )


async def _serve(
    source: Origin,
    settings: ServerSettings,
    sockets: list[Any],
    stop: asyncio.Event,
    idle_timeout: float | None,
    *,
    json: bool,
) -> None:
    from .app import create_app
    from .running import HttpServer, make_room_for_files, unless
    from .sockets import url_of

    make_room_for_files(settings.max_connections)
    store = await unless(stop, open_or_create(source))
    if store is None:
        return
    async with store:
        server = HttpServer(
            create_app(store=store, settings=settings), settings, idle_timeout=idle_timeout
        )
        url = url_of(settings.host, sockets[0].getsockname()[1])
        facts = {"url": url, "backend": store.backend_name, "store": store.target}

        def ready() -> None:
            if json:
                line = dump({**facts, "pid": os.getpid()})
            else:
                line = one_line(f"Serving {store.target} at {url} (Ctrl+C stops it)")
            typer.echo(line)
            sys.stdout.flush()

        await server.serve(sockets, stop, ready)
