"""``aiovec import``: the rows of a file, or of somebody's database, into a store."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from .._store.connect import Opening
from ..errors import ConfigError, TableNotFoundError
from .output import counted, err, number_of, out, print_json, print_rows, progress
from .run import failing_clearly, run
from .stores import AsJson, Config, NoStoreError, expanded, opened, source_of

if TYPE_CHECKING:
    from .._model.schema import Schema
    from .._transfer import Input, Load, Loaded, Loading, RejectsFile
    from ..backend.foreign import ForeignTable, Hints, Skipped

_METRICS = ("cosine", "l2", "dot")
_REASONS_SHOWN = 10


@failing_clearly
def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Parquet, Arrow IPC, JSON Lines, CSV, NumPy (.npy with .jsonl beside it), or a "
            "SQLite database with vectors, which is opened read-only; - is standard input, with "
            "--format and --table.",
            show_default=False,
        ),
    ],
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="STORE",
            help="A target such as notes.db, created if it is missing, or, with --config, the name "
            "of a backend.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="The table to write. Default: the name of the file. For a database, the table to "
            "import; default: all.",
            show_default=False,
        ),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as", help="Name of the table in the store, if it differs.", show_default=False
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Only show what would be imported; write nothing.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format: parquet, arrow, arrow-stream, jsonl, csv or numpy; for standard input or "
            "a pipe jsonl, csv or arrow. Default: by the suffix.",
            show_default=False,
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="JSON file with the schema of a table that is created.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Embedding model, if the file does not name it.", show_default=False),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine, l2 or dot.", show_default=False)
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column or key of the ids. Default: id.", show_default=False)
    ] = None,
    vector_column: Annotated[
        str | None, typer.Option(help="Column or key of the vectors.", show_default=False)
    ] = None,
    model_column: Annotated[
        str | None,
        typer.Option(
            help="For a database: the column that names each row's model.", show_default=False
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="For a database: the type of the BLOBs (float32, float64, float16, int8), or json "
            "for text.",
            show_default=False,
        ),
    ] = None,
    upsert: Annotated[
        bool,
        typer.Option("--upsert", help="Replace rows with the same ids instead of rejecting them."),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Check every row first, and import none if one cannot be imported. For an "
            "existing table, the checked rows are then moved into it; with --upsert, a failure of "
            "that move keeps the rows moved so far.",
        ),
    ] = False,
    rejects: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File that lists the rows that cannot be imported. Default: FILE.rejects.jsonl, "
            "or stdin.rejects.jsonl.",
            show_default=False,
        ),
    ] = None,
    allow_rejects: Annotated[
        bool,
        typer.Option(
            "--allow-rejects",
            help="Exit with 0 even if rows, columns or tables of the file were left out.",
        ),
    ] = False,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Import a file, or the tables of a database that another program wrote.

    Rows that cannot be taken are listed with the reason, and the rest goes on. The exit code is 1
    where anything with vectors was not taken, unless --allow-rejects is given.
    """
    from .._transfer import Loading, RejectsFile
    from ..backend.foreign import Hints

    if metric not in (None, *_METRICS):
        raise typer.BadParameter(f"--metric must be one of {', '.join(_METRICS)}")
    piped = file == "-"
    if piped and not (list_ or table or as_):
        raise typer.BadParameter("standard input has no name; name the table with --table")
    path = Path("standard input") if piped else expanded(file)
    told = None if schema is None else _schema_in(expanded(schema))
    hints = Hints(table, id_column, vector_column, model_column, dtype)
    there = partial(_schema_there, store, config, as_ or table, path)
    with closing(_open(path, form, hints, told, piped, there)) as source:
        found = source.tables()
        if list_:
            _show_found(source, found, json=json)
            return
        skipped = source.skipped()
        loads = _loads(source, found, table, as_, told, metric, model)
        # Beside the file, unless that is a place where nothing can be written.
        folder = path.parent if path.is_file() and os.access(path.parent, os.W_OK) else Path()
        beside = folder / f"{'stdin' if piped else path.name}.rejects.jsonl"
        listed = beside if rejects is None else expanded(rejects)
        if listed.absolute() == path.absolute():
            raise typer.BadParameter("--rejects would replace the file itself")
        if source.is_database:
            err().print(
                f"{path} is opened read-only and is not changed; aiovec backup {path} COPY copies "
                "it first"
            )
        began = time.perf_counter()
        notes = RejectsFile(listed)
        target, done = run(
            _import(store, config, source, loads, notes, Loading(upsert=upsert, strict=strict))
        )
        seconds = time.perf_counter() - began
    whole = all(one.whole for one in done) and not skipped
    if json:
        print_json(
            {
                "file": str(path),
                "format": source.form,
                "store": target,
                "seconds": round(seconds, 6),
                "complete": whole,
                "rejects": str(listed) if notes.count else None,
                "tables": [_facts(one, source.place) for one in done],
                "skipped": [_skipped_facts(one) for one in skipped],
            }
        )
    else:
        _show(done, skipped, notes, seconds)
    if not whole and not allow_rejects:
        raise typer.Exit(1)


def _schema_in(path: Path) -> Schema:
    from .._transfer.jsonlines import schema_in

    return schema_in(path)


def _schema_there(
    store: str | None, config: str | None, table: str | None, path: Path
) -> Schema | None:
    """The schema of the table that the rows go to, if it is there.

    Another process may drop it meanwhile: the table is made again then, as it was.
    """
    from ..backend.foreign import legal_table_name

    async def look() -> Schema | None:
        try:
            async with opened(store, config, reading=True) as vectors:
                return await vectors.schema(table or legal_table_name(path.stem))
        except (NoStoreError, TableNotFoundError, ConfigError):  # --list needs no store
            return None

    return run(look())


def _open(
    file: Path,
    form: str | None,
    hints: Hints,
    told: Schema | None,
    piped: bool,
    there: Callable[[], Schema | None],
) -> Input:
    from .._transfer import InputStream, open_input

    stream = InputStream(number_of(sys.__stdin__, "standard input")) if piped else None
    return open_input(file, form=form, hints=hints, schema=told, stream=stream, there=there)


def _loads(
    source: Input,
    found: list[ForeignTable],
    table: str | None,
    as_: str | None,
    schema: Schema | None,
    metric: str | None,
    model: str | None,
) -> list[Load]:
    """The table that each part of the input goes to."""
    from .._model.schema import check_table_name
    from .._transfer import Load

    if len(found) > 1 and (as_ is not None or schema is not None):
        raise ConfigError(
            f"{source.path} has {len(found)} tables; choose one with --table for --as or --schema: "
            f"{', '.join(one.name for one in found)}",
            key="--table",
        )
    chosen = as_ if source.is_database else as_ or table
    if chosen is not None:
        check_table_name(chosen)  # before the store is made
    kind = cast("Literal['cosine', 'l2', 'dot'] | None", metric)
    return [Load(one, chosen or one.name, schema, kind, model) for one in found]


async def _import(
    store: str | None,
    config: str | None,
    source: Input,
    loads: list[Load],
    rejects: RejectsFile,
    how: Loading,
) -> tuple[str, list[Loaded]]:
    from .._transfer import load

    opening = await asyncio.to_thread(source_of, store, config)
    async with Opening(lambda: opening) as vectors:
        with progress("rows") as bar:
            how.seen = _shown_on(bar, loads)
            done = await load(vectors, source, loads, rejects, how)
        # Indexes and compaction, however long they take: a script has nobody who does it later.
        with progress("tables") as bar:
            filled = [one.table for one in done if one.rows]
            task = bar.add_task("indexing and optimizing", total=len(filled))
            for table in filled:
                await vectors.optimize(table)
                bar.advance(task)
        return vectors.target, done


def _shown_on(bar: Any, loads: list[Load]) -> Callable[[Load, int], None]:
    tasks = {
        id(one): bar.add_task(one.table, total=one.source.rows, visible=i == 0)
        for i, one in enumerate(loads)
    }
    return lambda one, rows: bar.update(tasks[id(one)], completed=rows, visible=True)


def _show_found(source: Input, found: list[ForeignTable], *, json: bool) -> None:
    skipped = source.skipped()
    if json:
        print_json(
            {
                "file": str(source.path),
                "format": source.form,
                "tables": [
                    {
                        "name": one.name,
                        "origin": one.origin,
                        "layout": one.layout,
                        "rows": one.rows,
                        "schema": one.schema.to_dict(),
                        "notes": list(one.notes),
                        "omitted": list(one.omitted),
                    }
                    for one in found
                ],
                "skipped": [_skipped_facts(one) for one in skipped],
            }
        )
        return
    print_rows(
        ["table", "from", "layout", "rows", "dim", "metric", "model"],
        [
            [
                one.name, one.origin, one.layout, "?" if one.rows is None else one.rows,
                one.schema.dim, one.schema.metric, one.schema.model or "-",
            ]
            for one in found
        ],
        right=["rows", "dim"],
    )  # fmt: skip
    for one in found:
        _show_notes(one.name, one.notes, one.omitted)
    for other in skipped:
        err().print(f"{other.origin}: not taken: {other.reason}")


def _facts(one: Loaded, place: str) -> dict[str, Any]:
    return {
        "name": one.table,
        "origin": one.origin,
        "layout": one.layout,
        "created": one.created,
        "rows": one.rows,
        "replaced": one.replaced,
        "rejected": one.rejected,
        "missing": one.missing,
        "reasons": [
            {
                "reason": reason.text,
                "rows": reason.rows,
                "examples": [{place: row.row, "id": row.id} for row in reason.examples],
            }
            for reason in one.reasons
        ],
        "omitted": list(one.omitted),
        "dim": one.schema.dim,
        "metric": one.schema.metric,
        "model": one.schema.model,
        "notes": list(one.notes),
    }


def _skipped_facts(one: Skipped) -> dict[str, Any]:
    return {"origin": one.origin, "rows": one.rows, "reason": one.reason}


def _show_notes(table: str, notes: Sequence[str], omitted: Sequence[str]) -> None:
    for note in notes:
        err().print(f"{table}: {note}")
    for what in omitted:
        err().print(f"{table}: not taken: {what}")


def _show(
    done: list[Loaded], skipped: Sequence[Skipped], rejects: RejectsFile, seconds: float
) -> None:
    for one in done:
        into = f" into the new table {one.table}" if one.created else f" into {one.table}"
        if one.rejected and not one.rows and not one.created:
            into = ""  # a new table is made with its first row
        replaced = f", {one.replaced:,} of which replaced another" if one.replaced else ""
        out().print(
            f"imported {counted(one.rows)} from {one.origin} ({one.layout}){into}{replaced}"
        )
        _show_notes(one.table, one.notes, one.omitted)
        for reason in one.reasons[:_REASONS_SHOWN]:
            first = reason.examples[0]
            which = first.id if first.id is not None else first.row
            example = "" if which is None else f", such as {which}"
            err().print(f"{one.table}: not taken: {counted(reason.rows)}{example}: {reason.text}")
        more = len(one.reasons) - _REASONS_SHOWN
        if more > 0:
            err().print(f"{one.table}: and {more} more reasons")
        if one.missing:
            err().print(f"{one.table}: not taken: {counted(one.missing)} that cannot be read")
    for other in skipped:
        rows = "" if other.rows is None else f" ({counted(other.rows)})"
        err().print(f"{other.origin}{rows}: not taken: {other.reason}")
    out().print(f"done in {seconds:.2f} s")
    if rejects.count:
        out().print(
            f"not imported: {counted(rejects.count)}; {rejects.path} has the reason for each"
        )
