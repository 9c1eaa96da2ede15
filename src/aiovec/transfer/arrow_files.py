"""Parquet and Arrow IPC, read and written a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from ..errors import AiovecError, ConfigError
from ..schema import Schema
from ..sources import Chunk, Hints
from .arrow_rows import Fitting, suggested_schema
from .parts import PartFile, writing_to

# A row group is gathered up to this size: large enough to read fast, small enough to hold.
_ROW_GROUP_BYTES = 32 * 1024 * 1024


class ArrowFile:
    """The rows of a Parquet or Arrow IPC file."""

    place = "row"

    def __init__(self, path: Path, form: str, hints: Hints, told: Schema | None) -> None:
        self._path = path
        self._hints = hints
        self._file = pa.OSFile(str(path), "rb")
        try:
            with _reading(path):
                self._open(form)
                if told is not None and hints.vector_column is None:
                    there = told.vector in self._schema.names
                    self._hints = replace(hints, vector_column=told.vector if there else None)
                self.schema, self.notes = suggested_schema(self._schema, self._hints, self._first)
        except BaseException:
            self.close()
            raise

    def _open(self, form: str) -> None:
        self.rows: int | None = None
        self._batches: Callable[[int], Iterable[pa.RecordBatch]]
        if form == "parquet":
            parquet = pq.ParquetFile(self._file, pre_buffer=False)
            self._schema = parquet.schema_arrow
            self.rows = parquet.metadata.num_rows
            # Beside the batch itself only the row group's own pages are held.
            self._batches = lambda size: parquet.iter_batches(batch_size=size)
        elif form == "arrow":
            whole = ipc.open_file(self._file)
            self._schema = whole.schema
            self._batches = lambda _: (whole.get_batch(i) for i in range(whole.num_record_batches))
        else:
            stream = ipc.open_stream(self._file)
            self._schema = stream.schema
            self._batches = lambda _: stream
        self._held: pa.RecordBatch | None = None
        self._left: Iterator[pa.RecordBatch] | None = None

    def _first(self) -> pa.RecordBatch | None:
        """The first batch, which is kept for the reading: a stream cannot go back."""
        if self._left is None:
            self._left = iter(self._batches(1000))
            self._held = next(self._left, None)
        return self._held

    def _all(self, size: int) -> Iterator[pa.RecordBatch]:
        if self._left is None:
            self._left = iter(self._batches(size))
        if self._held is not None:
            held, self._held = self._held, None
            yield held
        yield from self._left

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]:
        fitting = Fitting(self._schema, schema, self.schema, self._hints)
        row = 0
        with _reading(self._path):
            for batch in self._all(size):
                table = fitting.of(pa.Table.from_batches([batch]))
                for start in range(0, table.num_rows, size):
                    part = table.slice(start, size)
                    yield Chunk(part, range(row, row + part.num_rows))
                    row += part.num_rows

    def close(self) -> None:
        self._file.close()


class _Sink(Protocol):
    def write_table(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


class ArrowFileWriter:
    """Writes a Parquet or Arrow IPC file."""

    def __init__(self, path: Path, form: str, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._part = PartFile(path)
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._sink: Any = None
        with writing_to(path):
            self._file = pa.OSFile(str(self._part.part), "wb")
            try:
                self._sink = self._sink_of(form)
            except BaseException:
                self.discard()
                raise

    @property
    def files(self) -> list[Path]:
        return [self._path]

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
            self._part.finish()

    def discard(self) -> None:
        self._waiting.clear()
        with suppress(OSError, ValueError, pa.ArrowException):
            if self._sink is not None:
                self._sink.close()  # left open, it would write when it is collected
        with suppress(OSError):
            self._file.close()
        self._part.discard()


def _repeats(kind: pa.DataType) -> bool:
    """Whether a dictionary may pay. Of vectors' numbers it never does."""
    return bool(pa.types.is_string(kind))


class _reading:  # noqa: N801 - reads as a statement
    """Let an unreadable file be told by its name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AiovecError):
            return
        if isinstance(error, (pa.ArrowException, OSError)):
            raise ConfigError(
                f"{self._path} cannot be read: {error}", file=str(self._path)
            ) from error
