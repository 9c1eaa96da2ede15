"""``aiovec export``: write a table, or a part of it, to a file.

Imports little, as every command.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aiovec._cli.output import counted, emit, progress
from aiovec._cli.run import command_app, failing_clearly
from aiovec._cli.stores import (
    AnyTable,
    AsJson,
    Config,
    Select,
    Store,
    Where,
    expanded,
    in_table,
    names_in,
    table_and_one,
)

if TYPE_CHECKING:
    from aiovec import Table

    from .saving import Saved


FileFormat = Annotated[
    Literal["parquet", "arrow", "arrow-stream", "jsonl", "csv"] | None,
    typer.Option("--format", help="Format of the file. Default: by its suffix."),
]

app: typer.Typer = command_app("export")


@app.command()
@failing_clearly
def export(
    table: AnyTable = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Target file: .parquet, .arrow, .arrows, .jsonl or .csv; or - for standard "
            "output, with --format. A single argument is the FILE.",
        ),
    ] = None,
    store: Store = None,
    where: Where = None,
    select: Select = None,
    form: FileFormat = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Write a consistent snapshot of a table to a file that aiovec import can read.

    Others can read and write the table in the meantime. The file appears when it is complete. With
    -, rows go to standard output and messages to standard error.
    """
    from .saving import save  # slow, so before a loop runs

    table, file = table_and_one(table, file, "FILE")
    piped, fields = file == "-", names_in(select)
    if piped and form is None:
        raise typer.BadParameter("standard output has no suffix: pass --format")
    path = Path("standard output") if piped else expanded(file)
    stream = sys.stdout.buffer if piped else None
    began = time.perf_counter()

    async def work(opened: Table) -> tuple[Table, Saved]:
        with progress("rows") as bar:
            total = await opened.count(where) if not bar.disable else None
            task = bar.add_task("exporting", total=total)
            saved = await save(
                opened.store,
                opened.name,
                path,
                form=form,
                where=where,
                select=fields,
                overwrite=overwrite,
                seen=lambda rows: bar.update(task, completed=rows),
                stream=stream,
            )
        return opened, saved

    exported, saved = in_table(store, config, table, work, reading=True, shows_progress=True)
    seconds = time.perf_counter() - began
    files = [str(written) for written in saved.files]
    facts = {
        "store": exported.store.target,
        "table": exported.name,
        "format": saved.format,
        "rows": saved.rows,
        "files": files,
        "seconds": round(seconds, 6),
    }
    place = ", ".join(files) or path
    line = f"exported {counted(saved.rows)} of {exported.name} to {place} in {seconds:.2f} s"
    emit(facts, [line], json, stderr=piped)
