"""Parquet and Arrow IPC, read and written a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from .._model.arrow import is_list
from .._model.schema import Field, Schema, check_field_name
from ..backend.files import writing_to
from ..backend.foreign import Chunk, ForeignTable
from ..errors import AiovecError, ConfigError, InvalidArgumentError
from .files import BYTES_AT_ONCE, FileReader, Given, legal_vector
from .writing import FileWriter

_CARRIED = b"aiovec.schema"
# Rows that are looked at for the length of the vectors.
_FEW = 1000
# This much of a Parquet column is read ahead, not all of it.
_BUFFER_BYTES = 1024 * 1024


class ArrowFile(FileReader):
    """Reads a Parquet or Arrow IPC file."""

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        opened = self._open()
        if given.form == "parquet":
            self.rows = opened.metadata.num_rows
            self._columns = opened.schema_arrow
        else:
            self._columns = opened.schema
        self.check_names(self._columns.names)
        self.omitted = tuple(
            f"the column {column.name} (binary)" for column in self._columns
            if is_binary(column.type)
        )  # fmt: skip
        self._settle()

    def _open(self) -> Any:
        """Open the file at its beginning."""
        self._file.seek(0)
        if self._given.form == "parquet":
            return pq.ParquetFile(self._file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        return (ipc.open_file if self._given.form == "arrow" else ipc.open_stream)(self._file)

    def _settle(self) -> None:
        """Set the schema: the one given, carried by the file, or suggested by its columns."""
        given, names = self._given, self._columns.names
        wanted = given.hints.vector_column
        schema = given.schema
        carried = (self._columns.metadata or {}).get(_CARRIED)
        if schema is None and carried is not None and wanted is None:
            schema = Schema.from_json(carried)
            if schema.vector not in names:
                schema = None
        columns = self._lengths()
        self._vector: str | None
        if schema is not None and wanted is None and schema.vector in names:
            self._vector = schema.vector
        else:
            self._vector = self.find_vector(columns)
        if schema is None and self._vector is not None:
            dim = columns[self._vector]
            if not dim:
                raise self.wrong(
                    f"has no vector in the first rows of {self._vector!r}, so their length is "
                    "unknown; pass --schema"
                )
            schema, kept = suggested_schema(self._columns, given.id_column, self._vector, dim)
            if kept:
                why = "kept in the payload, because their name or type suits no field"
                self.notes = (f"{why}: {', '.join(kept)}",)
        # Rows without vectors need a table that takes them.
        self.schema = schema or cast("Schema", given.existing)

    def _lengths(self) -> dict[str, int | None]:
        """Return the columns, with the usual length of the vectors that each may hold."""
        columns: dict[str, int | None] = dict.fromkeys(self._columns.names)
        first: pa.RecordBatch | None = None
        for column in self._columns:
            if not (is_list(column.type) and pa.types.is_floating(column.type.value_type)):
                continue
            if pa.types.is_fixed_size_list(column.type):
                columns[column.name] = int(column.type.list_size)
                continue
            first = first or next(self._batches(_FEW), None)
            usual = []
            if first is not None:
                usual = pc.mode(pc.list_value_length(first.column(column.name)).drop_null())
            columns[column.name] = int(usual[0]["mode"].as_py()) if len(usual) else 0
        return columns

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        opened = self._open()
        if self._given.form == "parquet":
            groups = opened.metadata
            nbytes = sum(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups))
            most = BYTES_AT_ONCE * groups.num_rows // max(1, nbytes)
            batches = opened.iter_batches(batch_size=max(1, min(size, most)))
        elif self._given.form == "arrow":
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            batches = opened
        for batch in batches:
            batch.validate(full=True)
            yield batch

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        names = self._new_names(schema)
        row = 0
        for batch in self._batches(size):
            rows = pa.table(
                {new: _fitting(batch.column(old), new, schema) for old, new in names.items()}
            )
            for start in range(0, len(rows), size):
                part = rows.slice(start, size)
                yield Chunk(part, range(row + start, row + start + len(part)))
            row += len(rows)

    def _new_names(self, schema: Schema) -> dict[str, str]:
        """Return the columns to import, each with its name in the table."""
        names = {self._given.id_column: "id"}
        if self._vector is not None:
            names[self._vector] = schema.vector
        for column in self._columns:
            if column.name in names or is_binary(column.type):
                continue
            if column.name in ("id", schema.vector):
                raise ConfigError(
                    f"the column {column.name!r} has the name that another one gets in the table"
                )
            names[column.name] = column.name
        return names


def suggested_schema(
    found: pa.Schema, id_column: str, vector: str, dim: int
) -> tuple[Schema, list[str]]:
    """Return the schema that columns suggest, and the columns that are kept in the payload.

    The payload holds types that no field has (dates, structs, lists of lists) and names that no
    field may have.
    """
    fields: dict[str, Field] = {}
    kept: list[str] = []
    taken = {"id", "payload", legal_vector(vector).lower()}
    for column in found:
        if column.name in (id_column, vector, "payload") or is_binary(column.type):
            continue
        field = _field_of(column)
        if field is not None and column.name.lower() not in taken:
            fields[column.name] = field
            taken.add(column.name.lower())
        else:
            kept.append(column.name)
    return Schema(dim, vector=legal_vector(vector), fields=fields), kept


def _field_of(column: pa.Field) -> Field | None:
    try:
        check_field_name(column.name)
        (field,) = Schema.from_arrow(
            pa.schema([pa.field("v", pa.list_(pa.float32(), 1)), pa.field("f", column.type)])
        ).fields.values()
    except (AiovecError, InvalidArgumentError):
        return None
    return Field(field.kind, nullable=column.nullable)


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a type is bytes, of any width."""
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind)
    )  # fmt: skip


def _fitting(column: pa.Array, name: str, schema: Schema) -> pa.Array:
    """Return a column as ``insert`` takes it: ids and dates in the payload as text."""
    kind = column.type
    if name == "id" and pa.types.is_integer(kind):
        return column.cast(pa.utf8())
    if name in ("id", "payload", schema.vector, *schema.fields):
        return column
    if pa.types.is_dictionary(kind):
        return _fitting(column.cast(kind.value_type), name, schema)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_timestamp(kind):
        return pc.replace_substring(column.cast(pa.utf8()), " ", "T", max_replacements=1)
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.utf8())
    return column


class ArrowFileWriter(FileWriter):
    """Writes a Parquet or Arrow IPC file."""

    def __init__(
        self,
        path: Path,
        form: str,
        columns: pa.Schema,
        schema: Schema | None,
        stream: IO[bytes] | None,
        *,
        overwrite: bool,
    ) -> None:
        super().__init__(path, schema, stream, overwrite=overwrite)
        with writing_to(path):
            if form == "parquet":
                # A dictionary never pays for the numbers of vectors.
                texts = [column.name for column in columns if pa.types.is_string(column.type)]
                self._sink = pq.ParquetWriter(
                    self._file, columns, compression="zstd", use_dictionary=texts
                )
            else:
                new = ipc.new_file if form == "arrow" else ipc.new_stream
                self._sink = new(self._file, columns)

    def write(self, batch: pa.RecordBatch) -> None:
        with writing_to(self._path):
            self._sink.write_batch(batch)

    def finish(self) -> None:
        with writing_to(self._path):
            self._sink.close()
        super().finish()

    def discard(self) -> None:
        with suppress(OSError, ValueError, pa.ArrowException):
            self._sink.close()  # left open, it would write when it is collected
        super().discard()
