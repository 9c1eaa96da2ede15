"""Parquet and Arrow IPC, read and written a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from .._model.arrow import check_table
from .._model.schema import Schema
from ..backend.files import writing_to
from ..backend.foreign import Chunk, ForeignTable
from ..errors import AiovecError, ConfigError, InvalidRowError
from .arrow_rows import Fitting, is_binary, is_vector, suggested_schema
from .files import FileReader, Given, check_names
from .foreign import BYTES_AT_ONCE, reading
from .parts import FileWriter
from .streams import OutputStream

_CARRIED = b"aiovec.schema"
_FEW = 1000  # rows that are looked at for the length of the vectors
# A row group is gathered up to this size: large enough to read fast, small enough to hold.
_ROW_GROUP_BYTES = 32 * 1024 * 1024
# Of each column's chunk this much is read ahead, not all of it.
_BUFFER_BYTES = 1024 * 1024


class ArrowFile(FileReader):
    """The rows of a Parquet or Arrow IPC file."""

    @staticmethod
    def open(path: Path) -> Any:
        return pa.OSFile(str(path), "rb")

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self._opened: Any = None
        self._schema = self._open()
        names = self._schema.names
        check_names(given.path, names)
        if given.id_column not in names:
            raise ConfigError(
                f"there is no column {given.id_column!r}; choose the column of the ids with "
                f"--id-column: {', '.join(names)}",
                key="--id-column", accepted=", ".join(names),
            )  # fmt: skip
        self.omitted = tuple(
            f"the column {column.name} (binary)" for column in self._schema
            if is_binary(column.type)
        )  # fmt: skip
        self.schema, self._vector = self._settled()

    def _settled(self) -> tuple[Schema, str | None]:
        """The schema that is told, carried or suggested, and the column of the vectors."""
        given, hints = self._given, self._given.hints
        told = given.told
        carried = (self._schema.metadata or {}).get(_CARRIED)
        if told is None and carried is not None and hints.vector_column is None:
            told = Schema.from_json(carried)
            if told.vector not in self._schema.names:
                told = None
        if told is not None and hints.vector_column is None and told.vector in self._schema.names:
            given = replace(given, hints=replace(hints, vector_column=told.vector))
        columns = self._columns()
        vector = given.vector(columns)
        if isinstance(vector, Schema):
            return vector, None
        if told is not None:
            return told, vector
        dim = columns[vector]
        if not dim:
            raise ConfigError(
                f"the column {vector!r} starts without a vector, so the length of the vectors is "
                "unknown; pass --schema"
            )
        schema, note = suggested_schema(self._schema, given.id_column, vector, dim)
        self.notes = (note,) if note else ()
        return schema, vector

    def _columns(self) -> dict[str, int | None]:
        """The columns, with the usual length of the vectors that each may hold, 0 for unknown."""
        columns: dict[str, int | None] = dict.fromkeys(self._schema.names)
        able = [column for column in self._schema if is_vector(column.type)]
        first: pa.Table | None = None
        for column in able:
            if pa.types.is_fixed_size_list(column.type):
                columns[column.name] = int(column.type.list_size)
                continue
            first = first or next((rows for _, rows in self._batches(_FEW)), None)
            usual = []
            if first is not None:
                lengths = pc.list_value_length(first.column(column.name))
                usual = pc.mode(lengths.drop_null())
            columns[column.name] = int(usual[0]["mode"].as_py()) if len(usual) else 0
        return columns

    def _open(self) -> pa.Schema:
        """Read what stands before the rows."""
        form = self._given.form
        if form == "parquet":
            self._opened = pq.ParquetFile(self._file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            self.rows = self._opened.metadata.num_rows
            return self._opened.schema_arrow
        self._opened = (ipc.open_file if form == "arrow" else ipc.open_stream)(self._file)
        return self._opened.schema

    def _raw_batches(self, size: int) -> Any:
        form = self._given.form
        if form == "parquet":
            # Beside the batch itself only the row group's own pages are held.
            groups = self._opened.metadata
            nbytes = sum(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups))
            most = BYTES_AT_ONCE * groups.num_rows // max(1, nbytes)
            return self._opened.iter_batches(batch_size=max(1, min(size, most)))
        if form == "arrow":
            return map(self._opened.get_batch, range(self._opened.num_record_batches))
        return self._opened

    def _batches(self, size: int) -> Iterator[tuple[int, pa.Table]]:
        """The batches, and the row that each begins with.

        Each is validated before anything else reads it.
        """
        row = 0
        for batch in self._raw_batches(size):
            table = pa.Table.from_batches([batch])
            try:
                check_table(table)
            except InvalidRowError as exc:
                column = "" if exc.field is None else f", column {exc.field!r}"
                where = f"rows {row} to {row + batch.num_rows - 1}{column}"
                raise ValueError(f"{where}: {exc.reason}") from exc
            yield row, table
            row += batch.num_rows

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        fitting = Fitting(self._schema, schema, self._given.id_column, self._vector)
        with reading(self._path) as here:
            if self._given.form == "arrow-stream":
                self._file.seek(0)
                self._open()
            for row, batch in self._batches(size):
                rows = fitting.of(batch)
                for start in range(0, len(rows), size):
                    part = rows.slice(start, size)
                    yield Chunk(part, range(row + start, row + start + len(part)))
                here.at = f"a row behind {row + len(rows)}"


class ArrowFileWriter(FileWriter):
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
        super().__init__(path, stream, replaces=replaces)
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        with writing_to(path):
            if form == "parquet":
                # Of vectors' numbers a dictionary never pays.
                texts = [column.name for column in schema if pa.types.is_string(column.type)]
                self._sink = pq.ParquetWriter(
                    self._file, schema, compression="zstd", use_dictionary=texts
                )
            else:
                self._sink = (ipc.new_file if form == "arrow" else ipc.new_stream)(
                    self._file, schema
                )

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
        super().finish()

    def discard(self) -> None:
        self._waiting.clear()
        with suppress(OSError, ValueError, AiovecError, pa.ArrowException):
            self._sink.close()  # left open, it would write when it is collected
        super().discard()
