"""Arrow tables as the ``Rows`` that a store asks for."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Columns, Float32Array, Rows, Schema, python_values

from .layout import PAYLOAD

# Bytes of an Arrow table that take as long to turn into Python values as one value does.
_BYTES_A_VALUE = 64


def effort_of(rows: pa.Table) -> int:
    """How many values of Python an Arrow table makes, for ``off_loop``."""
    effort = rows.num_rows * (rows.num_columns + 8)
    for column in rows.columns:
        if not pa.types.is_fixed_size_list(column.type):  # vectors stay as they lie
            effort += column.nbytes // _BYTES_A_VALUE
    return int(effort)


def rows_of(table: pa.Table, columns: Columns, vector: str) -> Rows:
    return Rows(
        cast("list[str]", table.column("id").to_pylist()),
        {name: python_values(table.column(name)) for name in columns.fields},
        texts_of(table.column(PAYLOAD)) if columns.payload else None,
        matrix_of(table.column(vector)) if columns.vector else None,
    )


def stored_form(rows: pa.Table, schema: Schema) -> pa.Table:
    """The rows as they are written: a negative zero as zero, for Lance would sort it before."""
    for name, field in schema.fields.items():
        if field.kind == "float":
            place = rows.schema.get_field_index(name)
            column = pc.add(rows.column(place), 0.0)
            rows = rows.set_column(place, rows.schema.field(place), column)
    return rows


def texts_of(payload: pa.ChunkedArray) -> list[str | None]:
    return [text for chunk in payload.chunks for text in chunk.storage.to_pylist()]


def payload_array(texts: list[str | None]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), pa.array(texts, type=pa.utf8()))


def matrix_of(column: pa.ChunkedArray) -> Float32Array:
    """The vectors as one matrix, without a copy where they lie in one piece."""
    dim = column.type.list_size
    parts = [_matrix(chunk, dim) for chunk in column.chunks]
    if not parts:
        return np.empty((0, dim), dtype=np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _matrix(chunk: Any, dim: int) -> Float32Array:
    flat = chunk.values.to_numpy(zero_copy_only=True).reshape(-1, dim)
    return cast("Float32Array", flat[chunk.offset : chunk.offset + len(chunk)])
