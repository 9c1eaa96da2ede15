"""Rows of a table in memory, to which the calls of a group are done before they are written."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from aiovec.backend import Schema
from aiovec.backend.contract import StoredRows
from aiovec.backend.rows import NewRows, check_partitions, partition_fields

from .layout import PAYLOAD

Row = Mapping[str, Any]
"""A row's values by the names of the columns: the payload as JSON text, the vector as an array."""


class FoldedRows:
    """Those of the table's rows that calls name, and what the calls make of them.

    ``old`` are rows that the table has and that may be changed, ``there`` others that it has, with
    the values of partition fields alone. The rows in ``written`` are to be written, and those of
    the ids in ``gone`` to be deleted afterwards: a row that is written and then deleted is in both,
    so that each call is done by one commit as a whole.

    Of the written rows, ``changes`` are made of rows that the table has, and those in ``free``
    replace whichever row has the id. The others have an id that the table lacks.
    """

    def __init__(self, schema: Schema, old: StoredRows, there: Mapping[str, Row]) -> None:
        self.schema = schema
        self._now: dict[str, Row] = {**there, **dict(rows_of(schema, old))}
        self._before = frozenset(self._now)
        self.written: dict[str, Row] = {}
        self.changes: set[str] = set()
        self.free: set[str] = set()
        self.gone: set[str] = set()

    def __contains__(self, id: str) -> bool:
        return id in self._now

    def check_partitions(self, rows: NewRows) -> None:
        """Raise InvalidRowError if one of these rows would move to another partition."""
        check_partitions(rows, partition_values(self.schema, self._now, rows.ids))

    @property
    def replaces(self) -> bool:
        """True if a row to write certainly takes the place of another one."""
        return not self._before.isdisjoint(self.written)

    def put(self, id: str, row: Row) -> None:
        """Write a row, whole, whichever there was."""
        if id in self._before or id not in self.written:
            self.free.add(id)
        self.insert(id, row)

    def insert(self, id: str, row: Row) -> None:
        """Write a row that is not there, or not any more."""
        if id in self._before:
            self.free.add(id)
        self._now[id] = self.written[id] = row
        self.changes.discard(id)
        self.gone.discard(id)

    def change(self, id: str, values: Row) -> None:
        """Give a row other values."""
        if id not in self.written:
            self.changes.add(id)
        self._now[id] = self.written[id] = {**self._now[id], **values}

    def drop(self, id: str) -> None:
        """Delete a row."""
        del self._now[id]
        self.gone.add(id)

    def payload(self, id: str) -> str | None:
        text: str | None = self._now[id][PAYLOAD]
        return text

    def to_write(self, wanted: Container[str]) -> NewRows:
        """Return the rows with these ids, in the order in which they came."""
        ids = [id for id in self.written if id in wanted]
        rows = [self.written[id] for id in ids]
        return NewRows(
            self.schema,
            StoredRows(
                ids,
                {name: [row[name] for row in rows] for name in self.schema.fields},
                [row[PAYLOAD] for row in rows] if self.schema.payload else None,
                np.stack([row[self.schema.vector] for row in rows]),
            ),
        )


def partition_values(
    schema: Schema, rows: Mapping[str, Row], ids: Iterable[str]
) -> dict[str, list[Any]]:
    """Return the values of the partition fields of those of the rows that exist."""
    names = partition_fields(schema)
    return {id: [rows[id][name] for name in names] for id in ids if id in rows}


def rows_of(schema: Schema, stored: StoredRows) -> Iterator[tuple[str, Row]]:
    """Yield the id and the row of each of the stored rows, which have all columns."""
    columns: dict[str, Any] = {**stored.fields, schema.vector: stored.vectors}
    if schema.payload:
        columns[PAYLOAD] = stored.payloads
    for id, *values in zip(stored.ids, *columns.values(), strict=True):
        yield id, dict(zip(columns, values, strict=True))
