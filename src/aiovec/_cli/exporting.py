"""``aiovec export``: a table, or a part of it, into a file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import counted, err, number_of, out, print_json, progress
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, expanded, opened

if TYPE_CHECKING:
    from .._transfer import OutputStream, Saved


@failing_clearly
def export(
    first: Store = None,
    second: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="The table.", show_default=False),
    ] = None,
    third: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Target file: .parquet, .arrow, .arrows, .jsonl, .csv or .npy (with .jsonl beside "
            "it), or - for standard output, with --format. Two arguments are TABLE and FILE; the "
            "store then comes from the TOML file.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Only rows that the filter selects: \"year >= 2024 AND lang = 'en'\".",
            show_default=False,
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELDS",
            help="Only these fields, separated by commas or repeated; the vector by its own name.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format: parquet, arrow, arrow-stream, jsonl, csv or numpy; for standard output "
            "jsonl, csv or arrow. Default: by the suffix.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Write the rows of a table, as it is at one moment, to a file that aiovec import reads back.

    Others may read and write the table meanwhile. A file appears when it is complete. With - the
    rows go to standard output, and everything else to standard error.
    """
    from .._transfer import OutputStream  # slow, so before a loop runs

    if first is None or second is None:
        raise typer.BadParameter("pass [STORE] TABLE FILE")
    store, table, file = (None, first, second) if third is None else (first, second, third)
    fields = None if select is None else [n.strip() for part in select for n in part.split(",")]
    began = time.perf_counter()
    piped = file == "-"
    if piped:
        path = Path("standard output")
        with OutputStream(number_of(sys.__stdout__, "standard output")) as stream:
            work = _export(store, config, table, path, where, fields, form, overwrite, stream)
            target, saved = run(work)
    else:
        path = expanded(file)
        target, saved = run(_export(store, config, table, path, where, fields, form, overwrite))
    seconds = time.perf_counter() - began
    files = [str(written) for written in saved.files]
    if json:
        print_json(
            {
                "store": target,
                "table": table,
                "format": saved.format,
                "rows": saved.rows,
                "files": files,
                "seconds": round(seconds, 6),
            },
            stderr=piped,
        )
        return
    rows = counted(saved.rows)
    place = ", ".join(files) if files else path
    (err if piped else out)().print(f"exported {rows} of {table} to {place} in {seconds:.2f} s")


async def _export(
    store: str | None,
    config: str | None,
    table: str,
    path: Path,
    where: str | None,
    select: list[str] | None,
    form: str | None,
    overwrite: bool,
    stream: OutputStream | None = None,
) -> tuple[str, Saved]:
    from .._transfer import save

    async with opened(store, config, reading=True) as vectors:
        with progress("rows") as bar:
            total = await vectors.count(table, where) if not bar.disable else None
            task = bar.add_task("exporting", total=total)
            saved = await save(
                vectors,
                table,
                path,
                form=form,
                where=where,
                select=select,
                overwrite=overwrite,
                seen=lambda rows: bar.update(task, completed=rows),
                stream=stream,
            )
        return vectors.target, saved
