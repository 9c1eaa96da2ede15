"""A table, or a part of it, into a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from .._input.selection import select_columns
from .._input.types import Where
from .._model.schema import Schema
from .._store.store import VectorStore
from ..backend.threads import in_thread
from ..errors import ConfigError
from .formats import (
    SUFFIXES_WITHOUT_SCHEMA,
    format_of_stream,
    format_to_write,
    records_of,
    sidecar_of,
)
from .parts import check_apart
from .streams import OutputStream
from .text_files import TextWriter

_TEXTS = ("jsonl", "csv")


@dataclass(frozen=True, slots=True)
class Saved:
    """The files that were written: the one that was named comes first."""

    rows: int
    format: str
    files: tuple[Path, ...]


class Writer(Protocol):
    """A writer of one format. Nothing stands under its name before ``finish``."""

    @property
    def files(self) -> list[Path]: ...
    def write(self, batch: pa.RecordBatch) -> None: ...
    def finish(self) -> None: ...
    def discard(self) -> None: ...


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
    stop = None if stream is None else stream.stop
    if stream is None:
        await in_thread(check_apart, store, [path, sidecar_of(path), records_of(path)])
    writer: Writer = await in_thread(
        _open, path, chosen, schema, told, overwrite, stream, stop=stop
    )
    rows = 0
    try:
        size = min(max(4 * 1024 * 1024 // (4 * full.dim), 64), 4000)
        batches: Any = store.export(table, batch_size=size, where=where, select=select)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                await in_thread(writer.write, _as(batch, schema), stop=stop)
                rows += batch.num_rows
                seen(rows)
        files = tuple(writer.files)
        await in_thread(writer.finish, stop=stop)
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
) -> Writer:
    if stream is not None:
        return _open_stream(path, form, schema, told, stream)
    if not os.path.isdir(path.parent):
        raise ConfigError(f"there is no folder {path.parent}")
    if form not in (*_TEXTS, "numpy"):
        from .arrow_files import ArrowFileWriter

        _check_free([path], overwrite)
        return ArrowFileWriter(path, form, schema, replaces=overwrite)
    rows = [path, records_of(path)] if form == "numpy" else [path]
    _check_schema_file(rows, told)
    _check_free([*rows, sidecar_of(path)], overwrite)
    if form == "numpy":
        from .numpy_files import NumpyWriter

        return NumpyWriter(path, schema, told, replaces=overwrite)
    return _text_writer(form)(path, schema, told, replaces=overwrite)


def _open_stream(
    path: Path, form: str, schema: pa.Schema, told: Schema | None, stream: OutputStream
) -> Writer:
    if form in _TEXTS:
        return _text_writer(form)(path, schema, told, stream)
    if stream.is_terminal:
        raise ConfigError(
            f"{path} is a terminal, and {form} is no text; redirect it into a file or a program"
        )
    from .arrow_files import ArrowFileWriter

    return ArrowFileWriter(path, form, schema, stream)


def _text_writer(form: str) -> type[TextWriter]:
    if form == "csv":
        from .csv_files import CsvWriter

        return CsvWriter
    from .jsonlines import JsonLinesWriter

    return JsonLinesWriter


def _check_schema_file(rows: Sequence[Path], told: Schema | None) -> None:
    """Refuse to replace or to delete a schema that is of another file, or none of ours."""
    beside = sidecar_of(rows[0])
    if told is None and not os.path.lexists(beside):
        return
    for suffix in SUFFIXES_WITHOUT_SCHEMA:
        other = beside.with_name(f"{rows[0].stem}{suffix}")
        if other not in rows and os.path.lexists(other):
            raise ConfigError(
                f"{beside} is where the schema of {other} belongs too; export to another name "
                f"than {rows[0].stem!r}"
            )
    if os.path.isfile(beside):
        from .jsonlines import schema_in

        try:
            schema_in(beside)
        except ConfigError as exc:
            raise ConfigError(f"{exc}, so it is not replaced; name another file") from None


def _check_free(paths: Sequence[Path], overwrite: bool) -> None:
    # Some file systems take names of another case for the same.
    if len({str(path).casefold() for path in paths}) < len(paths):
        raise ConfigError(
            f"{paths[0]} would be written twice, as the vectors and as their records; name a file "
            "that ends in .npy"
        )
    for path in paths:
        # Unlike Path's methods, these say no of a name that is too long, which opening it tells.
        if os.path.isdir(path):
            raise ConfigError(f"{path} is a folder")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ConfigError(f"{path} is no file that can be replaced; - is standard output")
        if os.path.lexists(path) and not overwrite:
            raise ConfigError(f"{path} already exists; pass --overwrite to replace it")


async def _shielded(work: Callable[[], None]) -> None:
    import anyio

    with anyio.CancelScope(shield=True):
        await in_thread(work)
