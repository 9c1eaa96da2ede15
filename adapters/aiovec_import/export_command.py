"""``aiovec export``: write a table, or a part of it, to a file.

Like every command's module, this one imports few modules, so that the command line starts fast.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aiovec._cli.output import counted, progress
from aiovec._cli.run import command_app
from aiovec._cli.stores import (
    AnyTable,
    At,
    Select,
    Shown,
    Where,
    expanded,
    names_in,
    on_store,
    table_and_one,
)

if TYPE_CHECKING:
    from .saving import Saved


FileFormat = Annotated[
    Literal["parquet", "arrow", "arrow-stream", "jsonl", "csv"] | None,
    typer.Option("--format", help="Format of the file. Default: by its suffix."),
]

app: typer.Typer = command_app("export")


@app.command()
@on_store(shows_progress=True)
async def export(
    at: At,
    table: AnyTable = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Target file: .parquet, .arrow, .arrows, .jsonl or .csv; or - for standard "
            "output, with --format. A single argument is the FILE.",
        ),
    ] = None,
    where: Where = None,
    select: Select = None,
    form: FileFormat = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> Shown:
    """Write a consistent snapshot of a table to a file that aiovec import can read.

    Other programs can read and write the table during the export. The file appears when it is
    complete. With -, rows go to standard output and messages to standard error.
    """
    from aiovec.backend.threads import in_thread

    table, file = table_and_one(table, file, "FILE")
    piped = file == "-"
    if piped and form is None:
        raise typer.BadParameter("standard output has no suffix: pass --format")
    path = Path("standard output") if piped else expanded(file)
    save = (await in_thread(import_module, "aiovec_import.saving")).save  # slow
    opened = await at.table(table, reading=True)
    began = time.perf_counter()
    with progress("rows") as bar:
        total = await opened.count(where) if not bar.disable else None
        task = bar.add_task("exporting", total=total)
        saved: Saved = await save(
            opened.store,
            opened.name,
            path,
            form=form,
            where=where,
            select=names_in(select),
            overwrite=overwrite,
            seen=lambda rows: bar.update(task, completed=rows),
            stream=sys.stdout.buffer if piped else None,
        )
    seconds = time.perf_counter() - began
    files = [str(written) for written in saved.files]
    facts = {
        "store": opened.store.target,
        "table": opened.name,
        "format": saved.format,
        "rows": saved.rows,
        "files": files,
        "seconds": round(seconds, 6),
    }
    place = ", ".join(files) or path
    line = f"exported {counted(saved.rows)} of {opened.name} to {place} in {seconds:.2f} s"
    return Shown(facts, [line], stderr=piped)
