"""Export a table, or a part of it, to a file."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from aiovec import VectorStore, Where
from aiovec._input.selection import select_columns
from aiovec._internals import StoreInternals
from aiovec.backend import Schema
from aiovec.backend.files import create_like, flush_folder, rename_new, writing_to
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import ConfigError

from .arrow_files import arrow_writer
from .csv_files import csv_header, csv_lines
from .files import TEXTS, format_of, rows_at_once, schema_file
from .jsonlines import lines_of


@dataclass(frozen=True, slots=True)
class Saved:
    """The result of an export. The first of ``files`` is the requested file."""

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

    With a ``stream``, write to the stream; ``path`` is then the stream's name in messages.
    """
    form = format_of(path, form)
    if stream is not None and form == "arrow":
        form = "arrow-stream"
    full = await store.schema(table)
    columns, schema = exported_schema(full, select)
    if stream is None:
        await in_thread(_check_free, store, path, form, overwrite)
    elif form not in TEXTS and stream.isatty():
        raise ConfigError(f"{path} is a terminal, and {form} is not text; redirect it")

    writer = FileWriter(path, form, columns, schema, stream, overwrite=overwrite)
    rows = 0
    try:
        await in_thread(writer.open)
        batches: Any = store.export(
            table, batch_size=rows_at_once(full), where=where, select=select
        )
        async with contextlib.aclosing(batches):
            async for batch in batches:
                # Use the file's own metadata, without the export's cursor.
                arrays = [batch.column(name) for name in columns.names]
                await in_thread(writer.write, pa.RecordBatch.from_arrays(arrays, schema=columns))
                rows += batch.num_rows
                seen(rows)
        await in_thread(writer.finish)
    except BaseException:
        await to_its_end(in_thread(writer.discard))
        raise
    return Saved(rows, form, writer.files)


def exported_schema(full: Schema, select: Sequence[str] | None) -> tuple[pa.Schema, Schema | None]:
    """Return the file's columns, and the schema to store: None if the file has no vectors.

    The schema of a selection describes a table with only the selected columns.
    """
    if select is None:
        return full.to_arrow(), full
    columns = select_columns(full, select, whole_payload=True).columns
    fields = {name: field for name, field in full.fields.items() if name in columns.fields}
    embed = full.embed if full.embed is not None and full.embed.field in fields else None
    schema = replace(full, fields=fields, payload=columns.payload, embed=embed)
    arrow = schema.to_arrow()
    if columns.vector:
        return arrow, schema
    return arrow.remove(arrow.get_field_index(full.vector)).remove_metadata(), None


def _check_free(store: VectorStore, path: Path, form: str, overwrite: bool) -> None:
    """Raise ConfigError if the folder is missing, or if a file exists that must not be replaced."""
    if not os.path.isdir(path.parent):
        raise ConfigError(f"there is no folder {path.parent}")
    for each in [path, schema_file(path)] if form in TEXTS else [path]:
        if not os.path.lexists(each):
            continue
        if not os.path.isfile(each) or StoreInternals(store).owns(each):
            raise ConfigError(f"{each} is not a file that can be replaced; - is standard output")
        if not overwrite:
            raise ConfigError(f"{each} already exists; pass --overwrite to replace it")


class FileWriter:
    """Writes rows to a temporary file and renames it at the end, or writes to a stream.

    ``schema`` describes the table that an import of the file creates; it is None if the file has no
    vectors. A text format cannot contain a schema, so the schema is written to a second file next
    to the first.
    """

    def __init__(
        self, path: Path, form: str, columns: pa.Schema, schema: Schema | None,
        stream: IO[bytes] | None, *, overwrite: bool,
    ) -> None:  # fmt: skip
        self._path, self._form, self._overwrite = path, form, overwrite
        self._columns, self._schema = columns, schema
        self._file: Any = stream
        self._part = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part")
        self._is_file = stream is None
        self._rows: Any = None
        self.files: tuple[Path, ...] = (path,) if self._is_file else ()
        """The files to write."""
        if self._is_file and form in TEXTS and schema is not None:
            self.files = (path, schema_file(path))

    def open(self) -> None:
        """Write the beginning of the file."""
        with writing_to(self._path):
            if self._is_file:
                create_like(self._part, self._path)
                self._file = self._part.open("wb")
            if self._form == "csv":
                self._file.write(csv_header(self._columns.names).encode())
            elif self._form not in TEXTS:
                self._rows = arrow_writer(self._file, self._form, self._columns)

    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows."""
        with writing_to(self._path):
            if self._rows is not None:
                self._rows.write_batch(batch)
                return
            lines = csv_lines if self._form == "csv" else lines_of
            vector = None if self._schema is None else self._schema.vector
            self._file.write("".join(lines(batch, vector)).encode())

    def finish(self) -> None:
        """Flush the file to the disk, and rename it to the requested name."""
        with writing_to(self._path):
            if self._rows is not None:
                self._rows.close()
            self._file.flush()
            if not self._is_file:
                return
            os.fsync(self._file.fileno())
            self._file.close()
            if self._form in TEXTS:
                self._write_schema(schema_file(self._path))
            (os.replace if self._overwrite else rename_new)(self._part, self._path)
            flush_folder(self._path.parent)

    def _write_schema(self, path: Path) -> None:
        """Write the schema next to the file, or remove the schema of an older file."""
        if self._schema is None:
            path.unlink(missing_ok=True)
        else:
            text = json.dumps(self._schema.to_dict(), ensure_ascii=False, indent=2)
            path.write_text(f"{text}\n", encoding="utf-8")

    def discard(self) -> None:
        """Remove the unfinished files."""
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            if self._rows is not None:
                self._rows.close()  # otherwise the writer would write when it is garbage collected
        if self._is_file:
            with contextlib.suppress(OSError):  # the disk may be too full for buffered data
                if self._file is not None:
                    self._file.close()
            self._part.unlink(missing_ok=True)
