"""``aiovec update``: write the columns of a file into existing rows.

Like every command's module, this one imports few modules, so that the command line starts fast.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from importlib import import_module
from typing import Annotated

import typer

from aiovec._cli.run import command_app
from aiovec._cli.stores import AnyTable, At, Embedder, Shown, on_store, table_and_one

from .export_command import FileFormat
from .options import VectorColumn

app: typer.Typer = command_app("update")


@app.command()
@on_store(shows_progress=True)
async def update(
    at: At,
    table: AnyTable = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Parquet, Arrow IPC, JSON Lines or CSV: a path, a URL of s3:// or gs://, a glob "
            "in quotes, or - for standard input, with --format. A single argument is the FILE.",
        ),
    ] = None,
    form: FileFormat = None,
    id_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column or key of the ids. Default: id."),
    ] = None,
    vector_column: VectorColumn = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Change nothing if a row of the file does not exist.")
    ] = False,
    embedder: Embedder = None,
) -> Shown:
    """Write the columns of a file into the rows with the same ids, and keep the other columns.

    All rows change in one commit, or none if one is bad. Ids that do not exist are counted and
    skipped. An empty cell in a CSV file keeps the value; a null in other files sets null. A row
    whose text changes gets a new vector.
    """
    from aiovec.backend.threads import in_thread

    await in_thread(import_module, "aiovec_import.copying")  # slow
    from .copying import opened_update
    from .running import run_import
    from .sources import Wanted

    name, file = table_and_one(table, file, "FILE")
    async with AsyncExitStack() as exits:
        target = await replace(at, exits=exits).table(name)
        schema = await target.schema()
    wanted = Wanted(
        sources=[file], table=target.name, id_column=id_column, vector_column=vector_column,
        form=form, schema=schema, strict=strict,
    )  # fmt: skip
    job = await in_thread(opened_update, wanted)
    at.exits.push_async_callback(in_thread, job.source.close)
    return await run_import(at, job, embedder)
