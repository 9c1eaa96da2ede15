"""``aiovec import``: the rows of a file, or of another program's database, into a store.

Imports little, as every command.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiovec._cli.output import Listing, counted, emit, err, progress, working
from aiovec._cli.run import failing_clearly
from aiovec._cli.stores import (
    AsJson,
    Config,
    Embedder,
    FileFormat,
    Metric,
    Store,
    exists,
    expanded,
    give_embedder,
    in_store,
    of_each_table,
)
from aiovec.errors import ConfigError, InvalidNameError, TableNotFoundError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aiovec import Field, Schema, VectorStore

    from .loading import Load
    from .reading import Input
    from .sources import ForeignTable

_REASONS_SHOWN = 10

SchemaFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="JSON file with the schema of a new table.")
]
ModelName = Annotated[
    str | None, typer.Option(help="Embedding model, if the file does not name it.")
]
MetricName = Annotated[Metric | None, typer.Option(help="Metric, if the file does not name it.")]
IdColumn = Annotated[
    str | None,
    typer.Option(help="Column or key of the ids; none makes new ids. Default: id."),
]
VectorColumn = Annotated[str | None, typer.Option(help="Column or key of the vectors.")]


app = typer.Typer(
    name="import",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@failing_clearly
def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Parquet, Arrow IPC, JSON Lines or CSV; a SQLite database with vectors, or a "
            "folder of LanceDB, Chroma, Qdrant, Milvus Lite or FAISS; NAME:PLACE#TABLE, such as "
            "qdrant:http://localhost:6333#docs; or - for standard input, with --format and "
            "--table.",
        ),
    ],
    store: Store = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Table to write (default: the name of the file). For a database: the table to "
            "import (default: all collections, or the only vec0 table)."
        ),
    ] = None,
    as_: Annotated[
        str | None, typer.Option("--as", help="Name of the table in the store, if it differs.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show what would be imported, and write nothing.")
    ] = False,
    form: FileFormat = None,
    schema: SchemaFile = None,
    model: ModelName = None,
    metric: MetricName = None,
    id_column: IdColumn = None,
    vector_column: VectorColumn = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="For a database: type of the BLOBs in --vector-column: float16, float32, float64 "
            "or int8."
        ),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="For a database: table with the other columns of a vec0 table's rows, which have "
            "the same rowids.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FIELD", help="Field for keyword search; may be repeated."),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index", metavar="FIELD", help="Field with an index for filters; may be repeated."
        ),
    ] = None,
    upsert: Annotated[
        bool, typer.Option("--upsert", help="Replace rows that have the same id.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Check all rows first; if one is rejected, import none."),
    ] = False,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Exit with 0 even if something was left out.")
    ] = False,
    backup: Annotated[
        str | None,
        typer.Option(
            metavar="COPY", help="For a SQLite database: copy it to this path before the import."
        ),
    ] = None,
    embedder: Embedder = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Import a file, or the tables of a store that another program wrote.

    Creates the store and the table if they do not exist. Rows that cannot be imported are listed
    with the reason in SOURCE.rejects.jsonl; all others are imported. Exits with 1 if anything was
    left out.
    """
    from aiovec.backend import check_table_name
    from aiovec.backend.files import schema_in

    from .loading import Load, RejectsFile, load, rehearse
    from .reading import open_input, open_source
    from .sources import Hints, Source, legal_table_name

    piped = file == "-"
    if list_ and backup is not None:
        raise typer.BadParameter("--list writes nothing; leave out --backup")
    if piped and not (list_ or table or as_):
        raise typer.BadParameter("standard input has no name; name the table with --table")
    given = None if schema is None else schema_in(expanded(schema))
    hints = Hints(table, id_column, vector_column, dtype, join)
    existing, path = None, Path()
    opened = open_source(file, hints)
    if opened is None:
        path = Path("standard input") if piped else expanded(file)
        existing = existing_schema(store, config, as_ or table or legal_table_name(path.stem))
        opened = open_input(
            path,
            form=form,
            hints=hints,
            schema=given,
            existing=existing,
            stream=sys.stdin.buffer if piped else None,
        )
    with closing(opened) as source:
        if backup is not None:
            with working("copying"):
                source.backup(expanded(backup))
        found = source.tables()
        if list_:
            _show_found(source, found, json)
            return
        if len(found) > 1 and (as_ is not None or given is not None):
            names = ", ".join(one.name for one in found)
            raise ConfigError(
                f"{source.name} has {len(found)} tables; choose one with --table for --as or "
                f"--schema: {names}",
                key="--table",
            )
        name = as_ if source.is_database else as_ or table
        if name is not None:
            check_table_name(name)  # before the store is created
        loads = [
            Load(one, name or one.name, given, metric, model, upsert, text or (), index or ())
            for one in found
        ]
        named = "stdin" if piped else path.name or re.split(r"[/\\:]", source.name.rstrip("/"))[-1]
        listed = RejectsFile(_rejects_path(path, named))
        if isinstance(source.reader, Source) and source.reader.remark:
            err().print(source.reader.remark)

        async def work(vectors: VectorStore) -> str:
            give_embedder(vectors, given or existing, embedder)
            with progress("rows") as bar:
                for one in loads:
                    task = bar.add_task(one.table, total=one.source.rows)
                    one.seen = partial(_show, bar, task)
                await load(vectors, source, loads, listed, strict=strict and not checked)
            # Nobody else builds the indexes after a script.
            filled = [one.table for one in loads if one.rows]
            if filled:
                await of_each_table(vectors, filled, vectors.optimize, "indexing and optimizing")
            return vectors.target

        began = time.perf_counter()
        checked = not exists(store, config) and asyncio.run(
            rehearse(source, loads, listed, strict=strict)
        )
        target = in_store(store, config, work, create=True)
        seconds = time.perf_counter() - began
    failed = {**source.reader.failed, **{one.table: one.problem for one in loads if one.problem}}
    whole = all(one.whole for one in loads) and not failed
    facts = {
        "file": source.name,
        "format": source.form,
        "store": target,
        "backup": backup,
        "seconds": round(seconds, 6),
        "complete": whole,
        "rejects": str(listed.path) if listed.count else None,
        "failed": failed,
        "tables": list(map(_loaded, loads)),
    }
    shown = [] if backup is None else [f"copied {source.name} to {backup}"]
    shown += [line for one in loads for line in _lines(one)] + [f"done in {seconds:.2f} s"]
    if listed.count:
        shown.append(f"rejected {counted(listed.count)}; {listed.path} has the reason for each")
    emit(facts, shown, json)
    if not json:
        _print_notes(found)
        _print_failed(failed)
        for one in loads:
            for reason, rows in one.reasons.most_common(_REASONS_SHOWN):
                err().print(f"{one.table}: rejected {counted(rows)}: {reason}")
            if one.missing:
                total = counted(one.source.rows or 0)
                err().print(
                    f"{one.table}: the source counts {total}, of which {one.missing:,} did not come"
                )
    if failed or not (whole or allow_rejects):
        raise typer.Exit(1)


def existing_schema(store: str | None, config: str | None, table: str) -> Schema | None:
    """Return the schema of the table that the rows go to, if it exists."""
    try:
        return in_store(store, config, lambda vectors: vectors.schema(table), reading=True)
    except (TableNotFoundError, InvalidNameError, ConfigError):  # --list needs no store
        return None


def _show(bar: Progress, task: TaskID, rows: int) -> None:
    bar.update(task, completed=rows)


def _rejects_path(path: Path, name: str) -> Path:
    # Next to the file, unless nothing can be written there.
    folder = path.parent if path.is_file() and os.access(path.parent, os.W_OK) else Path()
    return folder / f"{name}.rejects.jsonl"


def _show_found(source: Input, found: list[ForeignTable], json: bool) -> None:
    facts = [
        {**_facts(one), "name": one.name, "rows": one.rows, "schema": one.schema.to_dict()}
        for one in found
    ]
    cells = [
        [
            one.name, one.origin, one.layout, "?" if one.rows is None else one.rows,
            one.schema.dim, one.schema.metric, one.schema.model or "-",
        ]
        for one in found
    ]  # fmt: skip
    columns = ["table", "from", "layout", "rows", "dim", "metric", "model"]
    listing = Listing(columns, cells, right=["rows", "dim"])
    named = {"file": source.name, "format": source.form, "failed": source.reader.failed}
    emit({**named, "tables": facts}, [listing], json)
    if not json:
        _print_notes(found)
        _print_failed(source.reader.failed)


def _facts(source: ForeignTable) -> dict[str, Any]:
    return {
        "origin": source.origin,
        "layout": source.layout,
        "notes": source.notes,
        "omitted": source.omitted,
    }


def _loaded(one: Load) -> dict[str, Any]:
    schema = one.used_schema
    return {
        "name": one.table,
        **_facts(one.source),
        "created": one.created,
        "rows": one.rows,
        "rejected": one.rejected,
        "missing": one.missing,
        "reasons": dict(one.reasons.most_common()),
        "dim": schema.dim,
        "metric": schema.metric,
        "model": schema.model,
        "fields": schema.to_dict()["fields"],
    }


def _lines(one: Load) -> Iterator[str]:
    into = f"into the new table {one.table}" if one.created else f"into {one.table}"
    source = f"{one.source.origin} ({one.source.layout})"
    yield f"imported {counted(one.rows)} from {source} {into}"
    fields = one.used_schema.fields.items() if one.created else ()
    if fields:
        yield f"fields: {', '.join(f'{name} {_words(field)}' for name, field in fields)}"


def _words(field: Field) -> str:
    options = [*(["keywords"] if field.text else []), *([field.index] if field.index else [])]
    return f"{field.kind} ({', '.join(options)})" if options else field.kind


def _print_failed(failed: Mapping[str, str]) -> None:
    for name, reason in failed.items():
        err().print(f"{name}: cannot be imported: {reason}")


def _print_notes(sources: Iterable[ForeignTable]) -> None:
    for one in sources:
        for note in (*one.notes, *(f"not imported: {what}" for what in one.omitted)):
            err().print(f"{one.name}: {note}")
