"""Checked rows for a write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import numpy as np

from .._model.arrays import Float32Array
from .._model.arrow import (
    from_matrix,
    payload_array,
    python_values,
    to_matrix,
    without_vector,
)
from .._model.lazy_arrow import pa
from .._model.schema import Schema, may_lack_vectors
from ..errors import InvalidRowError

BYTES_A_VALUE = 32
"""Estimated bytes of a value that is not a vector."""


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows as columns of Python values, in the requested order.

    ``fields`` has one list for each of ``Columns.fields``; ``payloads`` holds JSON text or None,
    ``vectors`` one row of float32 for each id, of NaN if it has no vector; both are None if they
    were not requested.
    """

    ids: Sequence[str]
    fields: Mapping[str, Sequence[Any]]
    payloads: Sequence[str | None] | None = None
    vectors: Float32Array | None = None

    def take(self, positions: Sequence[int], fields: Iterable[str] | None = None) -> StoredRows:
        """Return the rows at these positions, in this order, with only these fields if given."""
        names = self.fields if fields is None else fields
        return StoredRows(
            [self.ids[row] for row in positions],
            {name: [self.fields[name][row] for row in positions] for name in names},
            None if self.payloads is None else [self.payloads[row] for row in positions],
            None if self.vectors is None else self.vectors[list(positions)],
        )


class NewRows:
    """Checked rows of a schema: columns of Python values, or a table in the layout of
    ``Schema.to_arrow``.

    A few rows come as ``columns``, since Arrow would cost more than the rest of their write. Many
    come as a table, and have no columns, if the backend has ``many_as_table``, as do fields of
    Arrow data. A backend can always use ``table``, which is made from the columns if needed.
    """

    __slots__ = ("_table", "columns", "schema")

    def __init__(self, schema: Schema, rows: StoredRows | pa.Table) -> None:
        """``rows`` have all columns of the schema, with a row of NaN for a missing vector."""
        self.schema: Schema = schema
        self.columns: StoredRows | None = rows if isinstance(rows, StoredRows) else None
        self._table = None if isinstance(rows, StoredRows) else rows

    def __len__(self) -> int:
        return int(self.table.num_rows) if self.columns is None else len(self.columns.ids)

    @property
    def table(self) -> pa.Table:
        """The rows as a table."""
        if self._table is None:
            self._table = _table_of(cast("StoredRows", self.columns), self.schema)
        return self._table

    @property
    def ids(self) -> Sequence[str]:
        """The rows' ids."""
        if self.columns is None:
            return python_values(self.table.column("id"))
        return self.columns.ids

    @property
    def vectors(self) -> Float32Array:
        """The rows' vectors, with a row of NaN for a missing one."""
        if self.columns is None:
            return to_matrix(self.table.column(self.schema.vector))
        return cast("Float32Array", self.columns.vectors)

    def values(self, field: str) -> Sequence[Any]:
        """A field's values."""
        if self.columns is None:
            return python_values(self.table.column(field))
        return self.columns.fields[field]

    @property
    def nbytes(self) -> int:
        """About the bytes that the rows take."""
        if self.columns is None:
            return int(self.table.nbytes)
        return self.vectors.nbytes + BYTES_A_VALUE * len(self) * (2 + len(self.schema.fields))

    def with_vectors(self, vectors: Float32Array) -> NewRows:
        """Return the rows with these vectors, with a row of NaN for a missing one."""
        if self.columns is not None:
            return NewRows(self.schema, replace(self.columns, vectors=vectors))
        layout = self.schema.to_arrow()
        at = layout.get_field_index(self.schema.vector)
        column = _vector_column(vectors, self.schema)
        return NewRows(self.schema, self.table.set_column(at, layout.field(at), column))

    def take(self, positions: Sequence[int]) -> NewRows:
        """Return the rows at these positions, in this order."""
        rows = self.columns
        if rows is None:
            if isinstance(positions, range):
                return NewRows(self.schema, self.table.slice(positions.start, len(positions)))
            return NewRows(self.schema, self.table.take(pa.array(positions, pa.int64())))
        return NewRows(self.schema, rows.take(positions))

    def joined(self, others: Sequence[NewRows]) -> NewRows:
        """Return these rows together with those of other batches of the schema."""
        batches = [self, *others]
        parts = [batch.columns for batch in batches if batch.columns is not None]
        if len(parts) < len(batches):
            return NewRows(self.schema, pa.concat_tables([batch.table for batch in batches]))
        listed = chain.from_iterable
        payloads = None
        if self.schema.payload:
            payloads = list(listed(part.payloads or () for part in parts))
        rows = StoredRows(
            list(listed(part.ids for part in parts)),
            {name: list(listed(part.fields[name] for part in parts)) for name in parts[0].fields},
            payloads,
            np.concatenate([batch.vectors for batch in batches]),
        )
        return NewRows(self.schema, rows)


def partition_fields(schema: Schema) -> list[str]:
    """Return the names of the fields whose values partition a table."""
    return [name for name, field in schema.fields.items() if field.partition]


def check_partitions(rows: NewRows, stored: Mapping[str, Sequence[Any]]) -> None:
    """Raise InvalidRowError if a row would move to another partition.

    ``stored`` has the partition values of the existing rows by their ids.
    """
    names = partition_fields(rows.schema)
    for id, *values in zip(rows.ids, *map(rows.values, names), strict=True):
        for name, value, now in zip(names, values, stored.get(id, values), strict=True):
            if value != now:
                # The stored value is not named: it may belong to another tenant.
                raise InvalidRowError(
                    f"the row is in another partition than {value!r}, and an upsert cannot move "
                    "it; use update(), or another id",
                    id=id, field=name,
                )  # fmt: skip


def _vector_column(vectors: Float32Array, schema: Schema) -> pa.FixedSizeListArray:
    missing = None
    if may_lack_vectors(schema) and (lacking := without_vector(vectors)).any():
        missing = lacking
        vectors = np.where(missing[:, None], np.float32(0), vectors)
    return from_matrix(vectors, missing)


def _table_of(rows: StoredRows, schema: Schema) -> pa.Table:
    vectors = cast("Float32Array", rows.vectors)
    arrays = [pa.array(rows.ids, pa.utf8()), _vector_column(vectors, schema)]
    arrays += [
        pa.array(rows.fields[name], field.arrow_type()) for name, field in schema.fields.items()
    ]
    if schema.payload:
        arrays.append(payload_array(rows.payloads or ()))
    # A third of the time of ``Table.from_arrays`` for a single row.
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(arrays, schema=schema.to_arrow())])
