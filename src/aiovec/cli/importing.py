"""``aiovec import``: the rows of a file, or of somebody's database, into a store."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ..connect import Opening
from ..errors import ConfigError
from .output import counted, err, out, print_json, print_rows, progress
from .run import failing_clearly, run
from .stores import AsJson, Config, source_of

if TYPE_CHECKING:
    from ..schema import Schema
    from ..sources import ForeignTable
    from ..transfer import Input, Load, Loaded, Loading, RejectsFile

_METRICS = ("cosine", "l2", "dot")


@failing_clearly
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Parquet, Arrow IPC, JSON Lines, NumPy (.npy with .jsonl beside it), or a SQLite "
            "database with vectors, which is opened read-only.",
            show_default=False,
        ),
    ],
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="STORE",
            help="A target such as notes.db, created where it is missing, or, with --config, the "
            "name of a backend.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="The table to write, by default named like the file; of a database, the table "
            "to take, by default all.",
            show_default=False,
        ),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", help="Another name for the table here.", show_default=False),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Only show what can be imported; write nothing.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="parquet, arrow, arrow-stream, jsonl or numpy, where it cannot be seen.",
            show_default=False,
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A schema in JSON for a table that is created.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The embedding model, where the file does not say.", show_default=False),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine, l2 or dot.", show_default=False)
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Where the ids are, if not in id.", show_default=False)
    ] = None,
    vector_column: Annotated[
        str | None, typer.Option(help="Where the vectors are.", show_default=False)
    ] = None,
    model_column: Annotated[
        str | None,
        typer.Option(
            help="Of a database: the column that names each row's model.", show_default=False
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of a database's BLOBs: float32, float64, float16, int8, or json for text.",
            show_default=False,
        ),
    ] = None,
    upsert: Annotated[
        bool, typer.Option("--upsert", help="Replace rows of the same ids instead of refusing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Keep nothing unless every row can be taken.")
    ] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the rows that cannot be taken are listed; by default FILE.rejects.jsonl.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Import a file, or the tables of a database that another program wrote.

    Rows that cannot be taken are listed with the reason, and the rest goes on.
    """
    from ..sources import Hints
    from ..transfer import Loading, RejectsFile

    if metric not in (None, *_METRICS):
        raise typer.BadParameter(f"--metric is one of {', '.join(_METRICS)}")
    told = None if schema is None else _schema_in(schema)
    hints = Hints(table, id_column, vector_column, model_column, dtype)
    with closing(_open(file, form, hints, told)) as source:
        found = source.tables()
        if list_:
            _show_found(source, found, json=json)
            return
        loads = _loads(source, found, table, as_, told, metric, model)
        # Beside the file, unless that is a place where nothing can be written.
        folder = file.parent if os.access(file.parent, os.W_OK) else Path()
        listed = rejects or folder / f"{file.name}.rejects.jsonl"
        if listed.absolute() == file.absolute():
            raise typer.BadParameter("--rejects would replace the file itself")
        if source.is_database:
            err().print(
                f"{file} is opened read-only and stays as it is; "
                f"aiovec backup {file} COPY copies it first"
            )
        began = time.perf_counter()
        notes = RejectsFile(listed)
        target, done = run(
            _import(store, config, source, loads, notes, Loading(upsert=upsert, strict=strict))
        )
        seconds = time.perf_counter() - began
    if json:
        print_json(
            {
                "file": str(file),
                "format": source.form,
                "store": target,
                "seconds": round(seconds, 6),
                "rejects": str(listed) if notes.count else None,
                "tables": [_facts(one) for one in done],
            }
        )
        return
    _show(done, notes, seconds)


def _schema_in(path: Path) -> Schema:
    from ..transfer.jsonlines import schema_in

    return schema_in(path)


def _open(file: Path, form: str | None, hints: Any, told: Schema | None) -> Input:
    from ..transfer import open_input

    return open_input(file, form=form, hints=hints, schema=told)


def _loads(
    source: Input,
    found: list[ForeignTable],
    table: str | None,
    as_: str | None,
    schema: Schema | None,
    metric: str | None,
    model: str | None,
) -> list[Load]:
    """Which table goes where."""
    from ..transfer import Load

    if len(found) > 1 and (as_ is not None or schema is not None):
        raise ConfigError(
            f"{source.path} has {len(found)} tables; choose one by --table to go with --as or "
            f"--schema: {', '.join(one.name for one in found)}",
            key="--table",
        )
    chosen = as_ if source.is_database else as_ or table
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
    from ..transfer import load

    opening = await asyncio.to_thread(source_of, store, config)
    async with Opening(opening) as vectors:
        with progress("rows") as bar:
            how.seen = _shown_on(bar, loads)
            return vectors.target, await load(vectors, source, loads, rejects, how)


def _shown_on(bar: Any, loads: list[Load]) -> Callable[[Load, int], None]:
    tasks = {
        id(one): bar.add_task(one.table, total=one.source.rows, visible=i == 0)
        for i, one in enumerate(loads)
    }
    return lambda one, rows: bar.update(tasks[id(one)], completed=rows, visible=True)


def _show_found(source: Input, found: list[ForeignTable], *, json: bool) -> None:
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
                    }
                    for one in found
                ],
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
        for note in one.notes:
            err().print(f"{one.name}: {note}")


def _facts(one: Loaded) -> dict[str, Any]:
    return {
        "name": one.table,
        "origin": one.origin,
        "layout": one.layout,
        "created": one.created,
        "rows": one.rows,
        "rejected": one.rejected,
        "dim": one.schema.dim,
        "metric": one.schema.metric,
        "model": one.schema.model,
        "notes": list(one.notes),
    }


def _show(done: list[Loaded], rejects: RejectsFile, seconds: float) -> None:
    for one in done:
        into = f"the new table {one.table}" if one.created else one.table
        out().print(f"imported {counted(one.rows)} from {one.origin} ({one.layout}) into {into}")
        for note in one.notes:
            err().print(f"{one.table}: {note}")
    out().print(f"done in {seconds:.2f} s")
    if rejects.count:
        out().print(f"not taken: {counted(rejects.count)}; {rejects.path} tells why for each")
