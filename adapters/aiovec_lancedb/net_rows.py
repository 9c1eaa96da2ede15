"""Apply the calls of a group to a table's rows in memory, before the rows are written."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from aiovec.backend import And, Compare, Expr, IsNull, Or, Ref, Schema
from aiovec.backend.contract import Columns
from aiovec.backend.rows import Batch, check_partitions, partition_fields

from .layout import PAYLOAD

Row = Mapping[str, Any]
"""A row's values by column name. The payload is JSON text, and the vector is an array."""

_IN_COLUMNS: Row = MappingProxyType({})


class NetRows:
    """The rows that a group's operations name, before and after these operations.

    ``existing`` maps ids to rows of the table: a whole row if an operation may change it, otherwise
    only the row's ``looked_at`` fields. The rows in ``written`` will be written, and then the rows
    with the ids in ``gone`` will be deleted. A row that is written and then deleted is in both, so
    that each operation takes effect in one commit.

    Written rows with the ids in ``changes`` change existing rows, and rows with the ids in ``free``
    replace any row with the same id. All other written rows have ids that the table lacks.
    """

    def __init__(self, schema: Schema, existing: Mapping[str, Row]) -> None:
        self.schema = schema
        self._now: dict[str, Row] = dict(existing)
        self._before = frozenset(self._now)
        self.written: dict[str, Row] = {}
        self._many: Batch | None = None
        self.changes: set[str] = set()
        self.free: set[str] = set()
        self.gone: set[str] = set()

    def __contains__(self, id: str) -> bool:
        return id in self._now

    def existing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids for which a row exists."""
        return [id for id in ids if id in self._now]

    def matching(self, ids: Iterable[str], where: Expr | None) -> list[str]:
        """Return the ids whose row matches ``where``, a filter that ``is_known`` accepts."""
        return [id for id in dict.fromkeys(ids) if id in self and _holds(where, self._now[id])]

    def check_partitions(self, rows: Batch) -> None:
        """Raise InvalidRowError if one of these rows would move to another partition."""
        if names := partition_fields(self.schema):
            old = {id: [self._now[id][name] for name in names] for id in self.existing(rows.ids)}
            check_partitions(self.schema, rows, old)

    @property
    def replaces(self) -> bool:
        """True if at least one written row certainly replaces an existing row."""
        return not self._before.isdisjoint(self.written)

    def put(self, rows: Batch, *, replaces: bool, alone: bool) -> None:
        """Write complete rows. Without ``replaces``, none of their ids may exist yet. If the
        operation is ``alone`` in its group, its rows are kept as columns."""
        if alone:
            new, self._many = dict.fromkeys(rows.ids, _IN_COLUMNS), rows
        else:
            new = dict(rows_of(self.schema, rows))
        if replaces:
            self.free |= new.keys() - ((new.keys() & self.written.keys()) - self._before)
        else:
            self.free |= new.keys() & self._before
        self._now |= new
        self.written |= new
        self.changes.difference_update(new)
        self.gone.difference_update(new)

    def change(self, id: str, values: Row) -> None:
        """Change some values of a row."""
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

    def to_write(self, wanted: Container[str], columns: Columns) -> Batch:
        """Return the written rows with the wanted ids, in the order of their calls."""
        if self._many is not None:
            return self._many
        ids = [id for id in self.written if id in wanted]
        rows = [self.written[id] for id in ids]
        return Batch(
            ids,
            {name: [row[name] for row in rows] for name in columns.fields},
            [row[PAYLOAD] for row in rows] if columns.payload else None,
            np.stack([row[self.schema.vector] for row in rows]) if columns.vector else None,
        )


def looked_at(schema: Schema) -> list[str]:
    """Return the names of the fields that decide which changes to an existing row are allowed."""
    times = [] if schema.expires is None else [schema.expires]
    return [*partition_fields(schema), *times]


def is_known(where: Expr | None, schema: Schema) -> bool:
    """Return whether a filter can be applied to rows in memory.

    This is true only of None and of filters for expired or live rows, which aiovec adds to calls on
    tables with expiring rows.
    """
    match where:
        case None:
            return True
        case And(items) | Or(items):
            return all(is_known(item, schema) for item in items)
        case IsNull(ref) | Compare(ref, "<" | ">="):
            return schema.expires is not None and ref == Ref(schema.expires)
        case _:
            return False


def _holds(where: Expr | None, row: Row) -> bool:
    match where:
        case And(items):
            return all(_holds(item, row) for item in items)
        case Or(items):
            return any(_holds(item, row) for item in items)
        case IsNull(ref):
            return row[ref.name] is None
        case Compare(ref, op, value):
            at = row[ref.name]
            return at is not None and (at < value) == (op == "<")
        case _:
            return True


def rows_of(schema: Schema, stored: Batch) -> Iterator[tuple[str, Row]]:
    """Yield each stored row as its id and a ``Row``."""
    columns: dict[str, Any] = {name: stored.values(name) for name in stored.fields}
    if stored.vectors is not None:
        columns[schema.vector] = stored.vectors
    if stored.payloads is not None:
        columns[PAYLOAD] = stored.payloads
    for id, *values in zip(stored.ids, *columns.values(), strict=True):
        yield id, dict(zip(columns, values, strict=True))
