"""Rows as columns, for writing and reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import numpy as np

from .._model.arrays import Float32Array
from .._model.arrow import (
    from_matrix,
    one_array,
    payload_array,
    payload_texts,
    python_values,
    to_matrix,
    without_vector,
)
from .._model.schema import Schema, may_lack_vectors
from .._tools.lazy_arrow import is_array, pa
from ..errors import InvalidRowError

BYTES_A_VALUE = 32
"""Estimated size in bytes of a value that is not a vector."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows as columns: rows to write, which have every column of their schema; the columns of an
    update; or rows that were read.

    ``fields`` are lists of Python values; the fields of rows to write may be Arrow arrays, which
    ``values`` converts. ``payloads`` are JSON texts or None. ``vectors`` has a row of float32 for
    each id, filled with NaN if the row has no vector. ``payloads`` and ``vectors`` are None if they
    were not read or are not updated; ``payloads`` is also None if the schema has no payload.
    """

    ids: Sequence[str]
    fields: Mapping[str, Any]
    payloads: Sequence[str | None] | None = None
    vectors: Float32Array | None = None

    @classmethod
    def of_table(cls, rows: pa.Table, schema: Schema) -> Batch:
        """Return rows to write from a table in the layout of ``Schema.to_arrow``."""
        return cls(
            python_values(rows["id"]),
            {name: one_array(rows[name]) for name in schema.fields},
            payload_texts(rows["payload"]) if schema.payload else None,
            to_matrix(rows[schema.vector]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def values(self, field: str) -> Sequence[Any]:
        """Return a field's values as Python objects."""
        column: Sequence[Any] = self.fields[field]
        return python_values(column) if is_array(column) else column

    def matrix(self) -> Float32Array:
        """Return the vectors of rows to write."""
        return cast("Float32Array", self.vectors)

    @property
    def nbytes(self) -> int:
        """The estimated size in bytes of rows to write."""
        return self.matrix().nbytes + BYTES_A_VALUE * len(self) * (2 + len(self.fields))

    def table(self, schema: Schema) -> pa.Table:
        """Return rows to write as a table in the layout of ``Schema.to_arrow``, with only the
        batch's columns."""
        arrays = {"id": pa.array(self.ids, pa.utf8())}
        if self.vectors is not None:
            arrays[schema.vector] = _vector_column(self.vectors, schema)
        for name, field in schema.fields.items():
            if name in self.fields:
                arrays[name] = pa.array(self.fields[name], field.arrow_type())
        if schema.payload and self.payloads is not None:
            arrays["payload"] = payload_array(self.payloads)
        layout = schema.to_arrow()
        if len(arrays) < len(layout):
            layout = pa.schema([layout.field(name) for name in arrays])
        # For a single row, this takes a third of the time of ``Table.from_arrays``.
        batch = pa.RecordBatch.from_arrays(list(arrays.values()), schema=layout)
        return pa.Table.from_batches([batch])

    def take(self, positions: Sequence[int], fields: Iterable[str] | None = None) -> Batch:
        """Return the rows at these positions, in this order, with only these fields if given."""
        names = self.fields if fields is None else fields
        part: Any = positions
        if isinstance(positions, range):
            part = slice(positions.start, positions.stop, positions.step)
        elif self.vectors is not None:
            part = list(positions)
        return Batch(
            _taken(self.ids, positions),
            {name: _taken(self.fields[name], positions) for name in names},
            None if self.payloads is None else _taken(self.payloads, positions),
            None if self.vectors is None else self.vectors[part],
        )

    def joined(self, others: Sequence[Batch]) -> Batch:
        """Return the rows of this and other batches, which have the same columns, as one batch."""
        batches = [self, *others]
        listed = chain.from_iterable
        return Batch(
            list(listed(batch.ids for batch in batches)),
            {name: _joined([batch.fields[name] for batch in batches]) for name in self.fields},
            None if self.payloads is None else list(listed(b.payloads or () for b in batches)),
            np.concatenate([batch.matrix() for batch in batches]),
        )


def _taken(column: Any, positions: Sequence[int]) -> Any:
    if isinstance(positions, range) and positions.step == 1:
        return column[positions.start : positions.stop]
    if is_array(column):
        return column.take(pa.array(positions, pa.int64()))
    return [column[row] for row in positions]


def _joined(parts: Sequence[Any]) -> Any:
    if all(map(is_array, parts)):
        return pa.concat_arrays(parts)
    values = (python_values(part) if is_array(part) else part for part in parts)
    return list(chain.from_iterable(values))


def partition_fields(schema: Schema) -> list[str]:
    """Return the names of the fields whose values partition a table."""
    return [name for name, field in schema.fields.items() if field.partition]


def check_partitions(schema: Schema, rows: Batch, stored: Mapping[str, Sequence[Any]]) -> None:
    """Raise InvalidRowError if a row would move to another partition.

    ``stored`` maps the id of each existing row to its partition values.
    """
    names = partition_fields(schema)
    for id, *values in zip(rows.ids, *map(rows.values, names), strict=True):
        for name, value, now in zip(names, values, stored.get(id, values), strict=True):
            if value != now:
                # The stored value is not named: it may belong to another tenant.
                reason = (
                    f"the row is in a partition other than {value!r}, and an upsert cannot move "
                    "it; use update(), or another id"
                )
                raise InvalidRowError(reason, id=id, field=name)


def _vector_column(vectors: Float32Array, schema: Schema) -> pa.FixedSizeListArray:
    missing = None
    if may_lack_vectors(schema) and (lacking := without_vector(vectors)).any():
        missing = lacking
        vectors = np.where(missing[:, None], np.float32(0), vectors)
    return from_matrix(vectors, missing)
