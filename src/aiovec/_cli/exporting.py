"""``aiovec export``: write a table, or a part of it, to a file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import counted, emit, progress
from .run import failing_clearly
from .stores import AsJson, Config, Select, Store, Table, Where, expanded, in_store, names_in

if TYPE_CHECKING:
    from .._store.store import VectorStore


@failing_clearly
def export(
    table: Table,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Target file: .parquet, .arrow, .arrows, .jsonl or .csv; or - for standard "
            "output, with --format.",
        ),
    ],
    store: Store = None,
    where: Where = None,
    select: Select = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="parquet, arrow, arrow-stream, jsonl or csv. Default: by the suffix of the file.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Write a consistent snapshot of a table to a file that aiovec import can read.

    Others can read and write the table in the meantime. The file appears when it is complete. With
    -, rows go to standard output and messages to standard error.
    """
    from .._transfer import Saved, save  # slow, so before a loop runs

    piped, fields = file == "-", names_in(select)
    path = Path("standard output") if piped else expanded(file)
    stream = sys.stdout.buffer if piped else None
    began = time.perf_counter()

    async def work(vectors: VectorStore) -> tuple[str, Saved]:
        with progress("rows") as bar:
            total = await vectors.count(table, where) if not bar.disable else None
            task = bar.add_task("exporting", total=total)
            saved = await save(
                vectors,
                table,
                path,
                form=form,
                where=where,
                select=fields,
                overwrite=overwrite,
                seen=lambda rows: bar.update(task, completed=rows),
                stream=stream,
            )
        return vectors.target, saved

    target, saved = in_store(store, config, work, reading=True)
    seconds = time.perf_counter() - began
    files = [str(written) for written in saved.files]
    facts = {
        "store": target,
        "table": table,
        "format": saved.format,
        "rows": saved.rows,
        "files": files,
        "seconds": round(seconds, 6),
    }
    place = ", ".join(files) or path
    line = f"exported {counted(saved.rows)} of {table} to {place} in {seconds:.2f} s"
    emit(facts, [line], json, stderr=piped)
