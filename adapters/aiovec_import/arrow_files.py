"""Read and write Parquet and Arrow IPC, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from aiovec._input.infer import field_of_arrow
from aiovec.backend import Field, Schema, is_list, unstorable

from .files import FileReader
from .sources import BYTES_AT_ONCE, Chunk, ForeignTable

_CARRIED = b"aiovec.schema"
# Number of rows to search for the length of the vectors.
_FEW = 1000
# Bytes of a Parquet column to read ahead.
_BUFFER_BYTES = 1024 * 1024


class ArrowFile(FileReader):
    """Reads a Parquet or Arrow IPC file."""

    def _begin(self) -> None:
        opened = self._open()
        if self.form == "parquet":
            self.rows: int | None = opened.metadata.num_rows
            self._columns = opened.schema_arrow
        else:
            self._columns = opened.schema
        names = self._columns.names
        self.check_names(names)
        self.omitted: tuple[str, ...] = tuple(
            f"the column {column.name} ({word})" for column in self._columns
            if (word := unstorable(column.type))
        )  # fmt: skip
        carried = (self._columns.metadata or {}).get(_CARRIED)
        if carried is None or self._wanted.vector_column is not None:
            self.settle(names)
        else:
            self.settle(names, Schema.from_json(carried))

    def _open(self) -> Any:
        """Open the file at its beginning."""
        self._file.seek(0)
        if self.form == "parquet":
            return pq.ParquetFile(self._file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        return (ipc.open_file if self.form == "arrow" else ipc.open_stream)(self._file)

    def _dim(self, name: str) -> int | None:
        kind = self._columns.field(name).type
        if not is_list(kind) or not pa.types.is_floating(kind.value_type):
            return None
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in self._batches(_FEW):
            lengths = pc.list_value_length(batch.column(name)).drop_null()
            return int(lengths[0].as_py()) if len(lengths) else None
        return None

    def _types(self, vector: str) -> dict[str, Field | None]:
        return {
            column.name: field_of_arrow(column) for column in self._columns
            if not unstorable(column.type)
        }  # fmt: skip

    def _batches(self, size: int) -> Iterator[pa.RecordBatch]:
        opened = self._open()
        if self.form == "parquet":
            groups = opened.metadata
            nbytes = sum(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups))
            most = BYTES_AT_ONCE * groups.num_rows // max(1, nbytes)
            batches = opened.iter_batches(batch_size=max(1, min(size, most)))
        elif self.form == "arrow":
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            batches = opened
        for batch in batches:
            batch.validate(full=True)
            yield batch

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        columns = [column.name for column in self._columns if not unstorable(column.type)]
        names = self.new_names(columns, schema)
        row = 0
        for batch in self._batches(size):
            rows = pa.table(
                {new: _fitting(batch.column(old), new, schema) for old, new in names.items()}
            )
            for start in range(0, len(rows), size):
                part = rows.slice(start, size)
                yield Chunk(part, range(row + start, row + start + len(part)))
            row += len(rows)


def _fitting(column: pa.Array, name: str, schema: Schema) -> pa.Array:
    """Convert a column for ``insert``: integer ids, and dates in the payload, become text."""
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
    return column.cast(_as_text(kind))


def _as_text(kind: pa.DataType) -> pa.DataType:
    """Replace types that JSON lacks with text, also in lists and structs."""
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_text(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_text(field.type)) for field in kind])
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    return (
        pa.utf8()
        if (pa.types.is_temporal(kind) and not zoned) or pa.types.is_decimal(kind)
        else kind
    )


class _ParquetWriter:
    """Writes rows to a Parquet file; nullable vectors become lists of variable length.

    pyarrow before 26 can neither write nor read nulls in a column of fixed-size lists.
    """

    def __init__(self, file: IO[bytes], columns: pa.Schema) -> None:
        for i, column in enumerate(columns):
            if pa.types.is_fixed_size_list(column.type) and column.nullable:
                columns = columns.set(i, column.with_type(pa.list_(column.type.value_field)))
        self._columns = columns
        # Only strings repeat often enough for a dictionary; vector components do not.
        texts = [column.name for column in columns if pa.types.is_string(column.type)]
        self._writer = pq.ParquetWriter(file, columns, compression="zstd", use_dictionary=texts)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        arrays = [
            array if array.type == column.type else _as_list(array, column.type)
            for array, column in zip(batch.columns, self._columns, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(arrays, self._columns))

    def close(self) -> None:
        self._writer.close()


def _as_list(vectors: pa.FixedSizeListArray, kind: pa.DataType) -> pa.ListArray:
    """Convert vectors to lists of this type, in which a null has no items.

    Arrow's cast would keep the items of a null, which Parquet does not accept.
    """
    valid = vectors.is_valid()
    ends = np.cumsum(valid.to_numpy(zero_copy_only=False)) * vectors.type.list_size
    offsets = pa.array(np.append(0, ends), pa.int32())
    return pa.ListArray.from_arrays(offsets, vectors.flatten(), kind, mask=pc.invert(valid))


def arrow_writer(file: IO[bytes], form: str, columns: pa.Schema) -> Any:
    """Return a writer for a format. The metadata of ``columns`` contains the aiovec schema."""
    if form == "parquet":
        return _ParquetWriter(file, columns)
    return (ipc.new_file if form == "arrow" else ipc.new_stream)(file, columns)
