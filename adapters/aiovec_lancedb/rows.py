"""Arrow tables as the ``Rows`` that a store asks for."""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Schema, payload_texts, python_values, to_matrix
from aiovec.backend.contract import Columns, StoredRows

from .layout import PAYLOAD


def rows_of(table: pa.Table, columns: Columns, vector: str) -> StoredRows:
    return StoredRows(
        cast("list[str]", table.column("id").to_pylist()),
        {name: python_values(table.column(name)) for name in columns.fields},
        payload_texts(table.column(PAYLOAD)) if columns.payload else None,
        to_matrix(table.column(vector)) if columns.vector else None,
    )


def stored_form(rows: pa.Table, schema: Schema) -> pa.Table:
    """The rows as they are written: a negative zero as zero, for Lance would sort it before."""
    columns = rows.columns
    for place, name in enumerate(rows.column_names):
        field = schema.fields.get(name)
        if field is None or field.item_kind != "float":
            continue
        column = columns[place]
        if field.is_list:
            column = pa.chunked_array(map(_without_negative_zeros, column.chunks), column.type)
        else:
            column = pc.add(column, 0.0)
        columns[place] = column
    return pa.Table.from_arrays(columns, schema=rows.schema)


def _without_negative_zeros(lists: pa.ListArray) -> pa.ListArray:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.zeros(len(lists) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    items = pc.add(lists.flatten(), 0.0)  # without what lies below a null
    return pa.ListArray.from_arrays(pa.array(offsets), items, mask=lists.is_null())
