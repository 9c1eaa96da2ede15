"""A table, or a part of it, into a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from .._input.selection import select_columns
from .._input.types import Where
from .._model.schema import Schema
from .._store.store import VectorStore
from ..backend.threads import in_thread
from ..errors import ConfigError
from .files import schema_in
from .formats import (
    SUFFIXES_WITHOUT_SCHEMA,
    TEXTS,
    format_of_stream,
    format_to_write,
    sidecar_of,
)
from .parts import FileWriter, check_apart
from .streams import OutputStream


@dataclass(frozen=True, slots=True)
class Saved:
    """The files that were written: the one that was named comes first."""

    rows: int
    format: str
    files: tuple[Path, ...]


async def save(
    store: VectorStore,
    table: str,
    path: Path,
    *,
    form: str | None = None,
    where: Where = None,
    select: Sequence[str] | None = None,
    overwrite: bool = False,
    seen: Callable[[int], None] = lambda rows: None,
    stream: OutputStream | None = None,
) -> Saved:
    """Write the rows of one snapshot to a file, in constant memory.

    ``stream`` is written instead of a file; then the path is its name for messages.
    """
    chosen = format_to_write(path, form) if stream is None else format_of_stream(form)
    full = await store.schema(table)
    schema, told = exported_schema(full, select)
    if stream is None:
        await in_thread(check_apart, store, [path, sidecar_of(path)])
    writer = await in_thread(_open, path, chosen, schema, told, overwrite, stream)
    rows = 0
    try:
        size = min(max(4 * 1024 * 1024 // (4 * full.dim), 64), 4000)
        batches: Any = store.export(table, batch_size=size, where=where, select=select)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                await in_thread(writer.write, _as(batch, schema))
                rows += batch.num_rows
                seen(rows)
        files = tuple(writer.files)
        await in_thread(writer.finish)
    except BaseException:
        await _shielded(writer.discard)
        raise
    return Saved(rows, chosen, files)


def exported_schema(full: Schema, select: Sequence[str] | None) -> tuple[pa.Schema, Schema | None]:
    """The columns of the file, and the schema it carries: none without the vectors.

    Of a selection it is the schema of a table that holds just that.
    """
    if select is None:
        return full.to_arrow(), full
    columns = select_columns(full, select, whole_payload=True).columns
    names = {"id", *columns.fields, *([full.vector] if columns.vector else []),
             *(["payload"] if columns.payload else [])}  # fmt: skip
    told = Schema.from_json(
        {
            **full.to_dict(),
            "fields": {n: f.to_dict() for n, f in full.fields.items() if n in names},
            "payload": columns.payload,
        }
    )
    if columns.vector:
        return told.to_arrow(), told
    return pa.schema([f for f in full.to_arrow() if f.name in names]), None


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch under the file's own metadata, without the cursor of the export."""
    return pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)


def _open(
    path: Path,
    form: str,
    schema: pa.Schema,
    told: Schema | None,
    overwrite: bool,
    stream: OutputStream | None,
) -> FileWriter:
    if stream is None:
        _check_free(path, form, told, overwrite)
    if form == "jsonl":
        from .jsonlines import JsonLinesWriter

        return JsonLinesWriter(path, schema, told, stream, replaces=overwrite)
    if form == "csv":
        from .csv_files import CsvWriter

        return CsvWriter(path, schema, told, stream, replaces=overwrite)
    if stream is not None and stream.is_terminal:
        raise ConfigError(
            f"{path} is a terminal, and {form} is no text; redirect it into a file or a program"
        )
    from .arrow_files import ArrowFileWriter

    return ArrowFileWriter(path, form, schema, stream, replaces=overwrite)


def _check_free(path: Path, form: str, told: Schema | None, overwrite: bool) -> None:
    """Refuse to write where there is no folder, or over what shall not be replaced."""
    if not os.path.isdir(path.parent):
        raise ConfigError(f"there is no folder {path.parent}")
    if form in TEXTS:
        _check_schema_file(path, told)
    for each in [path, sidecar_of(path)] if form in TEXTS else [path]:
        # Unlike Path's methods, these say no of a name that is too long, which opening it tells.
        if os.path.isdir(each):
            raise ConfigError(f"{each} is a folder")
        if os.path.exists(each) and not os.path.isfile(each):
            raise ConfigError(f"{each} is no file that can be replaced; - is standard output")
        if os.path.lexists(each) and not overwrite:
            raise ConfigError(f"{each} already exists; pass --overwrite to replace it")


def _check_schema_file(path: Path, told: Schema | None) -> None:
    """Refuse to replace or to delete a schema that is of another file, or none of ours."""
    beside = sidecar_of(path)
    if told is None and not os.path.lexists(beside):
        return
    for suffix in SUFFIXES_WITHOUT_SCHEMA:
        other = beside.with_name(f"{path.stem}{suffix}")
        if other != path and os.path.lexists(other):
            raise ConfigError(
                f"{beside} is where the schema of {other} belongs too; export to another name "
                f"than {path.stem!r}"
            )
    if os.path.isfile(beside):
        try:
            schema_in(beside)
        except ConfigError as exc:
            raise ConfigError(f"{exc}, so it is not replaced; name another file") from None


async def _shielded(work: Callable[[], None]) -> None:
    import anyio

    with anyio.CancelScope(shield=True):
        await in_thread(work)
