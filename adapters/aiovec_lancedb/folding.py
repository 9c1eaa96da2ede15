"""Rows of a table in memory, to which the calls of a group are done before they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aiovec.backend import (
    Schema,
    from_matrix,
    one_array,
    payload_array,
    payload_texts,
    without_vector,
)

from .layout import PAYLOAD


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of one of the tables, with other values in some columns."""

    table: int
    place: int
    values: Mapping[str, Any]


class FoldedRows:
    """Those of the table's rows that calls name, and what the calls make of them.

    ``old`` are rows that the table has and that may be changed, ``there`` the ids of others that it
    has, of which only inserts ask.
    """

    def __init__(self, schema: Schema, old: pa.Table, there: AbstractSet[str]) -> None:
        self.schema = schema
        self._layout = schema.to_arrow()
        self._tables = [self._in_layout(old)]
        self._old = {
            id: _Row(0, place, {}) for place, id in enumerate(old.column("id").to_pylist())
        }
        self._there = there
        self._written: dict[str, _Row] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._written or id in self._old or id in self._there

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the rows to write."""
        return list(self._written)

    @property
    def replaces(self) -> bool:
        """True if a row to write certainly takes the place of another one."""
        return not (self._old.keys() | self._there).isdisjoint(self._written)

    def put(self, rows: pa.Table, ids: Sequence[str], places: Sequence[int]) -> None:
        """Write the rows at these places, whole."""
        self._tables.append(self._in_layout(rows))
        for place in places:
            self._written[ids[place]] = _Row(len(self._tables) - 1, place, {})

    def change(self, id: str, values: Mapping[str, Any]) -> None:
        """Give a row other values: the payload as JSON text, the vector of NaN where it goes."""
        row = self._row(id)
        self._written[id] = _Row(row.table, row.place, {**row.values, **values})

    def payload(self, id: str) -> str | None:
        """Return a row's payload as JSON text."""
        row = self._row(id)
        if PAYLOAD in row.values:
            text: str | None = row.values[PAYLOAD]
            return text
        return payload_texts(self._tables[row.table].column(PAYLOAD).slice(row.place, 1))[0]

    def _row(self, id: str) -> _Row:
        return self._written.get(id) or self._old[id]

    def _in_layout(self, rows: pa.Table) -> pa.Table:
        arrays = [one_array(rows.column(field.name)) for field in self._layout]
        return pa.Table.from_arrays(arrays, schema=self._layout)

    def written(self) -> pa.Table | None:
        """Return the rows to write; None where there are none."""
        rows = list(self._written.values())
        if not rows:
            return None
        first = np.cumsum([0, *(table.num_rows for table in self._tables)])
        places = pa.array([first[row.table] + row.place for row in rows], pa.int64())
        taken = pa.concat_tables(self._tables).take(places)
        for number, name in enumerate(self._layout.names):
            changed = [place for place, row in enumerate(rows) if name in row.values]
            if changed:
                column = one_array(taken.column(number))
                new = self._column(name, [rows[place].values[name] for place in changed])
                order = np.arange(len(rows))
                order[changed] = np.arange(len(rows), len(rows) + len(changed))
                column = pa.concat_arrays([column, new]).take(pa.array(order))
                taken = taken.set_column(number, self._layout.field(number), column)
        return taken

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        if name == PAYLOAD:
            return payload_array(values)
        if name == self.schema.vector:
            matrix = np.stack(values)
            return from_matrix(matrix, without_vector(matrix)).cast(self._layout.field(name).type)
        return pa.array(values, self._layout.field(name).type)
