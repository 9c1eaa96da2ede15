"""``aiovec serve``: the server from the command line.

Exit codes: 0 stopped by a signal or after the idle timeout, 1 failed, 2 wrong usage. This
module imports little, because listing all commands imports it.
"""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from json import dumps as dump
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aiovec._cli.output import one_line
from aiovec._cli.run import check_installed, command_app, failing_clearly
from aiovec._cli.stores import (
    AsJson,
    Config,
    Store,
    Watch,
    open_place,
    place_named,
    try_if_new,
)
from aiovec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from socket import socket

    from aiovec import VectorStore
    from aiovec.backend.place import Place
    from aiovec.backend.server import ServerSettings

    Opened = Callable[[], Awaitable[VectorStore]]


_PACKAGES = ("httptools", "prometheus_client", "pyarrow", "starlette", "uvicorn")

app: typer.Typer = command_app("serve")


@app.command()
@failing_clearly
def serve(
    store: Store = None,
    config: Config = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. An address that other machines can reach needs an API key. "
            "Default: `host` of the TOML file, or 127.0.0.1.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="Port to listen on; 0 takes a free one. Default: `port` of the TOML file, or "
            "4002.",
        ),
    ] = None,
    page_writes: Annotated[
        bool,
        typer.Option("--page-writes", help="Let the web page delete rows and optimize tables."),
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse all writes.")] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Open a newer copy that replaces the file; with --read-only."
        ),
    ] = False,
    watch: Watch = None,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Stop after this long without a request. Default: never.",
        ),
    ] = None,
    json: AsJson = False,
    # Hidden, because only the remote backend passes this option: see ``aiovec._http.autostart``.
    shared: Annotated[bool, typer.Option("--shared", hidden=True)] = False,
) -> None:
    """Serve a store over HTTP, with a REST API and a web page at /.

    SIGTERM and Ctrl+C stop the server once the calls in progress have finished. A second signal
    cancels them.
    """
    check_installed("aiovec serve", "aiovec[server]", *_PACKAGES)
    if shared and config is None:
        raise typer.BadParameter("--shared needs --config")
    place = place_named(store, config)
    given = {
        "host": host, "port": port, "page_writes": page_writes or None,
        "read_only": read_only or None,
    }  # fmt: skip
    changed = {name: value for name, value in given.items() if value is not None}
    settings = place.settings.server.changed(**changed)
    if follow and not settings.read_only:
        raise typer.BadParameter("--follow is for read-only copies: add --read-only")
    if store is None:
        place = _served(place, config, settings.backend)
    if place.backend == _REMOTE:
        raise ConfigError(
            f"{place} is served by another server already; name the backend to serve in "
            "[retrieval.server] backend, or pass a store",
            key="retrieval.server.backend",
        )

    async def opened() -> VectorStore:
        if watch:
            from aiovec._internals import StoreInternals

            await try_if_new(place, lambda new: StoreInternals(new).check_watched(watch))
        return await open_place(place, read_only=settings.read_only, follow=follow)

    if shared:
        _serve_shared(opened, settings, Path(str(config)))
    else:
        _serve_alone(opened, settings, idle_timeout, watch or (), json=json)


def _serve_alone(
    opened: Opened,
    settings: ServerSettings,
    idle_timeout: float | None,
    watch: Sequence[str],
    *,
    json: bool,
) -> None:
    from .process import is_loopback, listen, url_of
    from .security import keys_of

    with listen(settings.host, settings.port) as listening:
        if not keys_of(settings) and not is_loopback(listening):
            raise typer.BadParameter(
                f"{settings.host} can be reached by other machines, and no API key protects the "
                "store. Set one, of 16 characters or more, in the environment variable "
                f"{settings.api_keys_env} or in a file that [retrieval.server] api_keys_file "
                "names; or listen at 127.0.0.1",
                param_hint="--host",
            )

        def ready(store: VectorStore) -> None:
            url = url_of(settings.host, listening.getsockname()[1])
            line = f"Serving {store.target} at {url} (Ctrl+C stops it)"
            facts = {"url": url, "backend": store.backend_name, "store": store.target}
            with suppress(OSError):  # standard output is closed
                typer.echo(dump({**facts, "pid": os.getpid()}) if json else one_line(line))

        _run(opened, settings, ready, idle_timeout, listening=listening, watch=watch)


def _serve_shared(opened: Opened, settings: ServerSettings, config: Path) -> None:
    """Serve this user's processes that share a TOML file, until the idle timeout."""
    from aiovec._http.autostart import KEY_VARIABLE, SharedFolder

    from .process import listen

    folder = SharedFolder(config)
    if not folder.claim():
        return
    # Other users and browsers cannot reach the socket, so a log of every request is not needed.
    changed = {
        "api_keys_env": KEY_VARIABLE, "api_keys_file": "", "access_log": False, "cors_origins": [],
        "host": "127.0.0.1",
    }  # fmt: skip
    settings = settings.changed(**changed)
    listening, key = None, ""
    if folder.socket is None:
        os.environ[KEY_VARIABLE] = key = folder.new_key()
        listening = listen(settings.host, 0)

    def ready(store: VectorStore) -> None:
        if listening is not None:
            folder.publish(listening.getsockname()[1], key)

    try:
        _run(opened, settings, ready, settings.idle_timeout, listening=listening, uds=folder.socket)
    finally:
        folder.withdraw()


def _run(
    opened: Opened,
    settings: ServerSettings,
    ready: Callable[[VectorStore], None],
    idle_timeout: float | None,
    *,
    listening: socket | None,
    uds: str | None = None,
    watch: Sequence[str] = (),
) -> None:
    """Open the store and serve it until a signal or the idle timeout."""
    import asyncio

    from uvicorn.loops.auto import auto_loop_factory

    from aiovec._internals import StoreInternals

    from .app import create_app
    from .logs import log_to_stderr
    from .process import Server

    log_to_stderr()

    async def run() -> None:
        async with await opened() as store, StoreInternals(store).watching(watch):
            app = create_app(store=store, settings=settings)
            server = Server(
                app, settings, ready=lambda: ready(store), idle_timeout=idle_timeout, uds=uds
            )
            # Otherwise each full garbage collection rescans every imported object and blocks the
            # event loop for about 50 ms.
            gc.freeze()
            await server.serve(None if listening is None else [listening])

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(run())


def _served(place: Place, config: str | None, backend: str) -> Place:
    """Return the place to serve: that of the backend named ``backend``.

    If no backend is named, this is ``place``, or the place of "sqlite" if ``place`` is remote.
    """
    from aiovec.backend.place import find_place

    name = backend or ("sqlite" if place.settings.backend == _REMOTE else "")
    return find_place(config=config, backend=name) if name else place


_REMOTE = "remote"
