"""Parquet and Arrow IPC, read and written a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from .._model.arrays import Int64Array
from .._model.arrow import (
    check_array,
    check_table,
    is_text,
    names_of,
    plain,
)
from .._model.schema import Schema
from ..backend.files import writing_to
from ..backend.foreign import Chunk, Hints, nothing_there
from ..errors import AiovecError, ConfigError, InvalidRowError
from .arrow_rows import Fitting, suggested_schema
from .foreign import BYTES_AT_ONCE, reading
from .parquet_limits import check_limits
from .parts import PartFile
from .streams import InputStream, OutputStream

# A row group is gathered up to this size: large enough to read fast, small enough to hold.
_ROW_GROUP_BYTES = 32 * 1024 * 1024
# Of each column's chunk this much is read ahead, not all of it.
_BUFFER_BYTES = 1024 * 1024
# A file that unpacks to more than this, and to so many times its size, is no data.
_LEAST_ROOM = 256 * 1024 * 1024
_RATIO = 1_000


class ArrowFile:
    """The rows of a Parquet or Arrow IPC file."""

    place = "row"

    def __init__(
        self,
        path: Path,
        form: str,
        hints: Hints,
        told: Schema | None,
        stream: InputStream | None = None,
        there: Callable[[], Schema | None] = nothing_there,
    ) -> None:
        self._path = path
        self._hints = hints
        self._stream = stream
        if stream is None:
            self._file = pa.OSFile(str(path), "rb")
        else:
            stream.seek(0)  # nothing of it is kept to be read again
            self._file = pa.PythonFile(stream, "r")
        try:
            with reading(path):
                self._open(form)
                if told is not None and hints.vector_column is None:
                    named = told.vector in self._schema.names
                    self._hints = replace(hints, vector_column=told.vector if named else None)
                self.schema, self.notes, self.omitted = suggested_schema(
                    self._schema, self._hints, self._first, lambda: told or there()
                )
        except BaseException:
            self.close()
            raise

    def _open(self, form: str) -> None:
        self.rows: int | None = None
        self._batches: Callable[[int], Iterable[pa.RecordBatch]]
        if form == "parquet":
            at_once = check_limits(self._path)
            metadata = pq.ParquetFile(self._file, pre_buffer=False).metadata
            self._schema = metadata.schema.to_arrow_schema()
            texts = [field.name for field in self._schema if is_text(field.type)]
            parquet = pq.ParquetFile(
                self._file, metadata=metadata, pre_buffer=False, buffer_size=_BUFFER_BYTES,
                read_dictionary=texts,
            )  # fmt: skip
            self.rows = metadata.num_rows
            # Beside the batch itself only the row group's own pages are held.
            self._batches = lambda size: parquet.iter_batches(batch_size=min(size, at_once))
        elif form == "arrow":
            whole = ipc.open_file(self._file)
            self._schema = whole.schema
            self._batches = lambda _: (whole.get_batch(i) for i in range(whole.num_record_batches))
        else:
            stream = ipc.open_stream(self._file)
            self._schema = stream.schema
            self._batches = lambda _: stream
        names = self._schema.names
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ConfigError(
                f"{self._path} has several columns of one name ({', '.join(map(repr, twice))}), "
                "which cannot be told apart; write the file again with different names",
                file=str(self._path),
            )
        self._held: pa.Table | None = None
        self._left: Iterator[pa.Table] | None = None

    def _first(self) -> pa.Table | None:
        """The sound rows of the first batch, which is kept: a stream cannot go back."""
        if self._left is None:
            self._left = self._sound_batches(1000)
            self._held = next(self._left, None)
        return self._held

    def _sound_batches(self, size: int) -> Iterator[pa.Table]:
        size_of_file = self._path.stat().st_size if self._stream is None else 0
        unpacked = 0
        for batch in self._batches(size):
            sizes = _repeated_sizes(batch)
            # Not nbytes, which follows offsets that nobody has validated yet.
            unpacked += max(batch.get_total_buffer_size(), int(sizes.sum()))
            came = size_of_file if self._stream is None else self._stream.count
            if unpacked > max(_LEAST_ROOM, _RATIO * came):
                raise ConfigError(
                    f"{self._path} unpacks to more than {_RATIO:,} times its size; it may be made "
                    "to fill the memory. Write it again without texts that repeat in every row",
                    file=str(self._path),
                )
            for part in _bounded(batch, sizes):
                yield _sound(part)

    def _all(self, size: int) -> Iterator[pa.Table]:
        if self._left is None:
            self._left = self._sound_batches(size)
        if self._held is not None:
            held, self._held = self._held, None
            yield held
        yield from self._left

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]:
        fitting = Fitting(self._schema, schema, self.schema, self._hints)
        row = 0
        with reading(self._path, "row 0") as here:
            for batch in self._all(size):
                table = fitting.of(batch)
                for start in range(0, table.num_rows, size):
                    part = table.slice(start, size)
                    yield Chunk(part, range(row + start, row + start + part.num_rows))
                row += table.num_rows
                here.at = f"row {row}"

    def close(self) -> None:
        self._file.close()


def _repeated_sizes(batch: pa.RecordBatch) -> Int64Array:
    """The bytes that each row's texts take when a dictionary no longer shares them."""
    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        if not (pa.types.is_dictionary(column.type) and is_text(column.type.value_type)):
            continue
        check_array(column, "dictionary")
        lengths = pc.binary_length(column.dictionary.cast(pa.large_utf8()))
        taken = pc.fill_null(lengths.take(column.indices), 0)
        sizes += taken.to_numpy(zero_copy_only=False).astype(np.int64)
    return sizes


def _bounded(batch: pa.RecordBatch, sizes: Int64Array) -> Iterator[pa.RecordBatch]:
    """The batch in parts, so that texts which a dictionary repeats take a bounded room."""
    start, total = 0, 0
    for row, size in enumerate(sizes.tolist() if int(sizes.sum()) > BYTES_AT_ONCE else ()):
        total += size
        if total > BYTES_AT_ONCE and row > start:
            yield batch.slice(start, row - start)
            start, total = row, size
    yield batch.slice(start)


def _sound(batch: pa.RecordBatch) -> pa.Table:
    """Validate a batch. Nothing else reads it before."""
    names = names_of(batch)
    if len(set(names)) != len(names):
        raise InvalidRowError(f"a column's name stands twice in {names}")
    check_table(pa.Table.from_batches([batch]))
    return pa.table({name: plain(batch.column(name), name) for name in names})


class _Sink(Protocol):
    def write_table(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


class ArrowFileWriter:
    """Writes a Parquet or Arrow IPC file."""

    def __init__(
        self,
        path: Path,
        form: str,
        schema: pa.Schema,
        stream: OutputStream | None = None,
        *,
        replaces: bool = True,
    ) -> None:
        self._path = path
        self._schema = schema
        self._part = PartFile(path, replaces=replaces) if stream is None else None
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._sink: Any = None
        with writing_to(path):
            if self._part is None:
                self._file = pa.PythonFile(stream, "w")
            else:
                self._file = pa.OSFile(str(self._part.begin()), "wb")
            try:
                self._sink = self._sink_of(form)
            except BaseException:
                self.discard()
                raise

    @property
    def files(self) -> list[Path]:
        return [] if self._part is None else [self._path]

    def _sink_of(self, form: str) -> _Sink:
        sink: _Sink
        if form == "parquet":
            texts = [field.name for field in self._schema if _repeats(field.type)]
            sink = pq.ParquetWriter(
                self._file, self._schema, compression="zstd", use_dictionary=texts
            )
        elif form == "arrow":
            sink = ipc.new_file(self._file, self._schema)
        else:
            sink = ipc.new_stream(self._file, self._schema)
        return sink

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            with writing_to(self._path):
                self._sink.write_table(pa.Table.from_batches(self._waiting, self._schema))
            self._waiting, self._bytes = [], 0

    def finish(self) -> None:
        self._flush()
        with writing_to(self._path):
            self._sink.close()
            self._file.close()
            if self._part is not None:
                self._part.finish()

    def discard(self) -> None:
        self._waiting.clear()
        with suppress(OSError, ValueError, AiovecError, pa.ArrowException):
            if self._sink is not None:
                self._sink.close()  # left open, it would write when it is collected
        with suppress(OSError):
            self._file.close()
        if self._part is not None:
            self._part.discard()


def _repeats(kind: pa.DataType) -> bool:
    """Return whether a dictionary may pay. Of vectors' numbers it never does."""
    return bool(pa.types.is_string(kind))
