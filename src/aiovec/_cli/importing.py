"""``aiovec import``: the rows of a file, or of another program's database, into a store."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._model.schema import Metric, Schema, check_table_name
from ..errors import ConfigError, TableNotFoundError
from .output import Listing, counted, emit, err, number_of, out, print_json, progress
from .run import failing_clearly
from .stores import AsJson, Config, NoStoreError, Store, expanded, in_store

if TYPE_CHECKING:
    from .._store.store import VectorStore
    from .._transfer import Input, Load, Loaded, RejectsFile
    from ..backend.foreign import ForeignTable

_REASONS_SHOWN = 10


@failing_clearly
def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Parquet, Arrow IPC, JSON Lines, CSV, or a SQLite database with vectors, which "
            "is opened read-only; or - for standard input, with --format and --table.",
        ),
    ],
    store: Store = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Table to write (default: the name of the file). For a database: the table to "
            "import (default: the collections, or the only vec0 table)."
        ),
    ] = None,
    as_: Annotated[
        str | None, typer.Option("--as", help="Name of the table in the store, if it differs.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show what would be imported, and write nothing.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="parquet, arrow, arrow-stream, jsonl or csv; for standard input or a pipe jsonl, "
            "csv or arrow. Default: by the suffix of the file.",
        ),
    ] = None,
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON file with the schema of a new table.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Embedding model, if the file does not name it.")
    ] = None,
    metric: Annotated[
        Metric | None, typer.Option(help="Metric, if the file does not name it.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column or key of the ids. Default: id.")
    ] = None,
    vector_column: Annotated[str | None, typer.Option(help="Column or key of the vectors.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="For a database: type of the BLOBs in --vector-column: float16, float32, float64 "
            "or int8."
        ),
    ] = None,
    upsert: Annotated[
        bool, typer.Option("--upsert", help="Replace rows that have the same id.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Check all rows first; if one is rejected, import none."),
    ] = False,
    rejects: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where to list rejected rows. Default: FILE.rejects.jsonl, or "
            "stdin.rejects.jsonl.",
        ),
    ] = None,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Exit with 0 even if something was left out.")
    ] = False,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Import a file, or the tables of a database that another program wrote.

    Creates the store and the table if they do not exist. Rows that cannot be imported are listed
    with the reason; all others are imported. Exits with 1 if anything was left out.
    """
    from .._transfer import InputStream, Loading, RejectsFile, load, open_input, schema_in
    from ..backend.foreign import Hints

    piped = file == "-"
    if piped and not (list_ or table or as_):
        raise typer.BadParameter("standard input has no name; name the table with --table")
    path = Path("standard input") if piped else expanded(file)
    given = None if schema is None else schema_in(expanded(schema))
    opened = open_input(
        path,
        form=form,
        hints=Hints(table, id_column, vector_column, dtype),
        schema=given,
        stream=InputStream(number_of(sys.__stdin__, "standard input")) if piped else None,
        twice=strict,
        there=partial(_existing_schema, store, config, as_ or table, path),
    )
    with closing(opened) as source:
        found = source.tables()
        if list_:
            _show_found(source, found, json)
            return
        loads = _loads(source, found, table, as_, given, metric, model)
        listed = _rejects_file(path, "stdin" if piped else path.name, rejects)
        if source.is_database:
            err().print(
                f"{path} is opened read-only and is not changed; to copy it first: aiovec backup "
                f"COPY -s {path}"
            )
        notes, how = RejectsFile(listed), Loading(upsert=upsert, strict=strict)

        async def work(vectors: VectorStore) -> tuple[str, list[Loaded]]:
            with progress("rows") as bar:
                tasks = {
                    id(one): bar.add_task(one.table, total=one.source.rows, visible=i == 0)
                    for i, one in enumerate(loads)
                }
                how.seen = lambda one, rows: bar.update(
                    tasks[id(one)], completed=rows, visible=True
                )
                done = await load(vectors, source, loads, notes, how)
            # Nobody else builds the indexes after a script.
            with progress("tables") as bar:
                filled = [one.table for one in done if one.rows]
                task = bar.add_task("indexing and optimizing", total=len(filled))
                for name in filled:
                    await vectors.optimize(name)
                    bar.advance(task)
            return vectors.target, done

        began = time.perf_counter()
        target, done = in_store(store, config, work, create=True)
        seconds = time.perf_counter() - began
    whole = all(one.whole for one in done)
    if json:
        facts = {
            "file": str(path),
            "format": source.form,
            "store": target,
            "seconds": round(seconds, 6),
            "complete": whole,
            "rejects": str(listed) if notes.count else None,
            "tables": [_facts(one, source.place) for one in done],
        }
        print_json(facts)
    else:
        _show(done, notes, seconds)
    if not whole and not allow_rejects:
        raise typer.Exit(1)


def _existing_schema(
    store: str | None, config: str | None, table: str | None, path: Path
) -> Schema | None:
    """Return the schema of the table that the rows go to, if it exists."""
    from ..backend.foreign import legal_table_name

    name = table or legal_table_name(path.stem)
    try:
        return in_store(store, config, lambda vectors: vectors.schema(name), reading=True)
    except (NoStoreError, TableNotFoundError, ConfigError):  # --list needs no store
        return None


def _rejects_file(path: Path, name: str, given: str | None) -> Path:
    # Next to the file, unless nothing can be written there.
    folder = path.parent if path.is_file() and os.access(path.parent, os.W_OK) else Path()
    listed = folder / f"{name}.rejects.jsonl" if given is None else expanded(given)
    if listed.absolute() == path.absolute():
        raise typer.BadParameter("--rejects would replace the file itself")
    return listed


def _loads(
    source: Input,
    found: list[ForeignTable],
    table: str | None,
    as_: str | None,
    schema: Schema | None,
    metric: Metric | None,
    model: str | None,
) -> list[Load]:
    """Return each table of the input with the table that it goes to."""
    from .._transfer import Load

    if len(found) > 1 and (as_ is not None or schema is not None):
        raise ConfigError(
            f"{source.path} has {len(found)} tables; choose one with --table for --as or --schema: "
            f"{', '.join(one.name for one in found)}",
            key="--table",
        )
    chosen = as_ if source.is_database else as_ or table
    if chosen is not None:
        check_table_name(chosen)  # before the store is created
    return [Load(one, chosen or one.name, schema, metric, model) for one in found]


def _show_found(source: Input, found: list[ForeignTable], json: bool) -> None:
    facts = {
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
    }
    cells = [
        [
            one.name, one.origin, one.layout, "?" if one.rows is None else one.rows,
            one.schema.dim, one.schema.metric, one.schema.model or "-",
        ]
        for one in found
    ]  # fmt: skip
    columns = ["table", "from", "layout", "rows", "dim", "metric", "model"]
    emit(facts, [Listing(columns, cells, right=["rows", "dim"])], json)
    if not json:
        for one in found:
            _show_notes(one.name, one.notes, one.omitted)


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


def _show(done: list[Loaded], rejects: RejectsFile, seconds: float) -> None:
    for one in done:
        into = f" into the new table {one.table}" if one.created else f" into {one.table}"
        if one.rejected and not one.rows and not one.created:
            into = ""  # a new table is created with its first row
        replaced = f", of which {one.replaced:,} replaced existing rows" if one.replaced else ""
        out().print(
            f"imported {counted(one.rows)} from {one.origin} ({one.layout}){into}{replaced}"
        )
        _show_notes(one.table, one.notes, one.omitted)
        for reason in one.reasons[:_REASONS_SHOWN]:
            first = reason.examples[0]
            which = first.id if first.id is not None else first.row
            example = "" if which is None else f", such as {which}"
            err().print(f"{one.table}: rejected {counted(reason.rows)}{example}: {reason.text}")
        more = len(one.reasons) - _REASONS_SHOWN
        if more > 0:
            err().print(f"{one.table}: and {more} more reasons")
        if one.missing:
            err().print(f"{one.table}: not imported: {counted(one.missing)} that cannot be read")
    out().print(f"done in {seconds:.2f} s")
    if rejects.count:
        out().print(f"rejected {counted(rejects.count)}; {rejects.path} has the reason for each")


def _show_notes(table: str, notes: Sequence[str], omitted: Sequence[str]) -> None:
    for note in notes:
        err().print(f"{table}: {note}")
    for what in omitted:
        err().print(f"{table}: not imported: {what}")
