"""Export: a table, or a part of it, to a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import anyio
import pyarrow as pa

from .._input.selection import select_columns
from .._input.types import Where
from .._model.schema import Schema
from .._store.store import VectorStore
from ..backend.threads import in_thread
from ..errors import ConfigError
from .files import TEXTS, format_of, schema_file
from .writing import FileWriter

_BYTES_AT_ONCE = 16 * 2**20


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
    stream: IO[bytes] | None = None,
) -> Saved:
    """Write the rows of one snapshot to a file, in constant memory.

    A ``stream`` is written instead of a file; then the path is its name for messages.
    """
    form = format_of(path, form)
    if stream is not None and form == "arrow":
        form = "arrow-stream"
    full = await store.schema(table)
    columns, schema = exported_schema(full, select)
    if stream is None:
        await in_thread(_check_free, store, path, form, overwrite)
    elif form not in TEXTS and stream.isatty():
        raise ConfigError(f"{path} is a terminal, and {form} is no text; redirect it")

    writer = await in_thread(
        partial(FileWriter, path, form, columns, schema, stream, overwrite=overwrite)
    )
    rows = 0
    try:
        size = min(max(_BYTES_AT_ONCE // (4 * full.dim), 64), 10_000)
        batches: Any = store.export(table, batch_size=size, where=where, select=select)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                # Under the file's own metadata, without the cursor of the export.
                arrays = [batch.column(name) for name in columns.names]
                await in_thread(writer.write, pa.RecordBatch.from_arrays(arrays, schema=columns))
                rows += batch.num_rows
                seen(rows)
        await in_thread(writer.finish)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await in_thread(writer.discard)
        raise
    return Saved(rows, form, tuple(writer.files))


def exported_schema(full: Schema, select: Sequence[str] | None) -> tuple[pa.Schema, Schema | None]:
    """Return the columns of the file, and the schema that it carries: none without the vectors.

    The schema of a selection is that of a table that holds just that.
    """
    if select is None:
        return full.to_arrow(), full
    columns = select_columns(full, select, whole_payload=True).columns
    names = {"id", *columns.fields, *([full.vector] if columns.vector else []),
             *(["payload"] if columns.payload else [])}  # fmt: skip
    if not columns.vector:
        return pa.schema([f for f in full.to_arrow() if f.name in names]), None
    schema = Schema.from_json(
        {
            **full.to_dict(),
            "fields": {n: f.to_dict() for n, f in full.fields.items() if n in names},
            "payload": columns.payload,
        }
    )
    return schema.to_arrow(), schema


def _check_free(store: VectorStore, path: Path, form: str, overwrite: bool) -> None:
    """Refuse to write without a folder, or over a file that must not be replaced."""
    if not os.path.isdir(path.parent):
        raise ConfigError(f"there is no folder {path.parent}")
    for each in [path, schema_file(path)] if form in TEXTS else [path]:
        if not os.path.lexists(each):
            continue
        if not os.path.isfile(each) or store._owns(each):
            raise ConfigError(f"{each} is no file that can be replaced; - is standard output")
        if not overwrite:
            raise ConfigError(f"{each} already exists; pass --overwrite to replace it")
