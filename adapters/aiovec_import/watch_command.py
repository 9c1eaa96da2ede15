"""``aiovec watch``: keep a table in step with its source.

Like every command's module, this one imports few modules, so that the command line starts fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Annotated, Any

import typer

from aiovec._cli.run import command_app, on_signals
from aiovec._cli.stores import At, Embedder, Shown, on_store, try_if_new

from .options import OF_SOURCES

app: typer.Typer = command_app("watch")


@app.command()
@on_store(shared=OF_SOURCES)
async def watch(
    at: At,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder or a file of documents, or rows with the --embed FIELD of a text: a "
            "table of an app's SQLite database, such as app.db#articles, of PostgreSQL, or files.",
        ),
    ],
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Interval of comparing all rows if the source can have no triggers: a view, "
            "a --query, PostgreSQL, files of rows. Default: 60.",
        ),
    ] = None,
    stop: Annotated[
        bool,
        typer.Option(
            "--stop",
            help="Do not watch: remove the queue and the triggers that earlier watches of "
            "FILE#TABLE left in its database. Needs no store.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="With --stop: show what would be removed, and keep it."),
    ] = False,
    embedder: Embedder = None,
    **options: Any,
) -> Shown:
    """Keep a table in step with its source, until Ctrl+C or SIGTERM.

    The first start copies everything, and creates the store and the table if they do not exist.
    After that, only changes are copied, and rows that the source no longer has are deleted.

    For a SQLite table, the watch creates a queue in the table's database, and triggers that add the
    keys of changed rows to the queue. --stop removes the queue and the triggers. --json prints the
    state when the watch ends.
    """
    from aiovec.backend.threads import in_thread

    given = {name: value for name, value in (options | {"every": every}).items() if value}
    if stop:
        if given or embedder or at.store or at.config:
            raise typer.BadParameter("--stop takes no other option than --dry-run and --json")
        watching = await in_thread(import_module, "aiovec_import.watching")  # slow
        removed = await in_thread(watching.stop_watching, source, dry_run)
        lines = removed or [f"{source} is not watched: there is nothing to remove"]
        return Shown({"removed": removed, "dry_run": dry_run}, lines)
    if dry_run:
        raise typer.BadParameter("--dry-run goes with --stop; aiovec import --dry-run counts")
    return Shown(await _follow(at, source, given, embedder), [])


async def _follow(
    at: At, source: str, given: Mapping[str, Any], embedder: str | None
) -> dict[str, Any]:
    """Watch a source until a signal ends it; return its last state, and the table's analyzer."""
    import asyncio
    import logging

    import aiovec
    from aiovec._internals import StoreInternals
    from aiovec.backend.threads import in_thread
    from aiovec.documents import SCHEMA

    await in_thread(import_module, "aiovec_import.running")  # slow
    from .files import default_table
    from .running import use_embedder

    log, said = logging.getLogger("aiovec.watch"), logging.StreamHandler()
    log.setLevel(logging.INFO)
    log.addHandler(said)
    ended = asyncio.Event()
    on_signals(ended.set)
    is_query = "query" in given
    table: str = given.get("table", "") or await in_thread(default_table, source, is_query)

    async def prepare(vectors: aiovec.VectorStore) -> None:
        if embedder is not None:
            await use_embedder(vectors, embedder, table, SCHEMA)

    async def check(vectors: aiovec.VectorStore) -> None:
        await prepare(vectors)
        await StoreInternals(vectors).check_watched([{**given, "source": source}])

    await try_if_new(await at.place(), check)
    vectors = await at.open(create=True)
    await prepare(vectors)
    async with aiovec.watch(vectors, source, **given) as watching:
        await ended.wait()
        state = asdict(await watching.state())
        exists = watching.table in await vectors.tables()
        schema = await vectors.schema(watching.table) if exists else None
        return state | {"analyzer": schema and schema.analyzer}
