"""Read rows by id or filter, walk all rows, list changes, count values, and find their bounds.

For the change feed, each row has the number of its last change, and a delete leaves a tombstone.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np

from aiovec.backend import (
    Expr,
    Float32Array,
    Int64Array,
    Kind,
    Ref,
    Value,
    from_matrix,
    pa,
    without_vector,
)
from aiovec.backend.context import FEW_ROWS, Meter, values_in
from aiovec.backend.contract import (
    LARGEST_BATCH,
    Changes,
    Columns,
    Find,
    TableHandle,
)
from aiovec.backend.files import look_at
from aiovec.backend.rows import Batch
from aiovec.errors import AiovecError, ChangesPrunedError, InvalidArgumentError

from .connection import Ticket
from .errors import DamageError, decodes
from .layout import TableLayout, current_table, floor_of, quoted
from .sql.filters import condition_sql, counted_items, order_to_sql, sorted_value
from .sql.values import from_sql, ids_to_arrow, numbers_in, payloads_to_arrow, to_arrow
from .vectors import BLOCK, MissingRowsError, VectorReader


def condition_of(where: Expr | None, table: TableLayout) -> tuple[str, list[Any]]:
    """Return a filter as a condition on the ordinary table, named ``r``, and its parameters."""
    if where is None:
        return "1", []
    # A row has a vector if vec0 has its rowid.
    with_vector = f"(SELECT m.rowid FROM {table.rowids} AS m WHERE m.rowid = r._rowid)"
    return condition_sql(where, {Ref(table.schema.vector): with_vector, **table.payload_values})


def rowids_where(
    db: sqlite3.Connection, table: TableLayout, condition: str, values: Sequence[Any]
) -> Int64Array:
    """Return the rowids of the rows of ``r`` that satisfy a condition, in ascending order."""
    (text,) = db.execute(
        f"SELECT group_concat(r._rowid) FROM {table.rows} AS r WHERE {condition}", values
    ).fetchone()
    return np.sort(numbers_in(text))  # an index yields them in another order


@lru_cache(maxsize=256)
def _names(fields: tuple[str, ...], *, payload: bool) -> tuple[str, ...]:
    """Return the SQL names of the columns to read: rowid, id, fields and payload."""
    return ("_rowid", "id", *map(quoted, fields), *(["payload"] if payload else []))


@lru_cache(maxsize=256)
def _selection(fields: tuple[str, ...], *, payload: bool) -> str:
    """Return the columns of ``_names`` as an SQL list of columns of ``r``."""
    return ", ".join(f"r.{name}" for name in _names(fields, payload=payload))


def rows_from_sql(
    ids: Sequence[str],
    values: Sequence[Sequence[Any]],
    columns: Columns,
    table: TableLayout,
    vectors: Float32Array | None,
) -> Batch:
    """Return a Batch from ids and the columns of SQLite values that follow the id in ``_names``."""
    if not set(map(type, ids)) <= {str}:
        raise DamageError(f"an id of {table.name!r} is not text")
    kinds = [table.schema.fields[name].kind for name in columns.fields]
    fields = {
        name: from_sql(values[i], kind)
        for i, (name, kind) in enumerate(zip(columns.fields, kinds, strict=True))
    }
    return Batch(ids, fields, values[len(columns.fields)] if columns.payload else None, vectors)


def vector_column(vectors: Float32Array, table: TableLayout) -> pa.Array:
    """Return vectors from ``VectorReader`` as a column, with null for a row without a vector."""
    return from_matrix(vectors, without_vector(vectors) if table.schema.vector_nullable else None)


def _selected(columns: Columns) -> str:
    """Return the columns of ``r`` that a statement reads for ``_as_rows``.

    If ``columns`` has a meter, these are only the rowids, because otherwise SQLite would sort
    whole rows in memory.
    """
    if columns.meter is not None:
        return "r._rowid"
    return _selection(columns.fields, payload=columns.payload)


def transposed(rows: Sequence[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def get(
    db: sqlite3.Connection,
    ticket: Ticket,
    handle: TableHandle,
    ids: Sequence[str],
    columns: Columns,
) -> Batch:
    table = current_table(db, handle)
    selected = _selected(columns)
    if len(ids) == 1:  # json_each would take as long as reading the row
        sql = f"SELECT {selected} FROM {table.rows} AS r WHERE r.id = ?"
        return _as_rows(db, ticket, table, db.execute(sql, ids).fetchall(), columns)
    sql = f"SELECT {selected} FROM json_each(?) AS j CROSS JOIN {table.rows} AS r ON r.id = j.value"
    rows: list[Sequence[Any]] = []
    for start in range(0, len(ids), BLOCK):
        ticket.check()
        rows += db.execute(sql, (json.dumps(ids[start : start + BLOCK]),)).fetchall()
    return _as_rows(db, ticket, table, rows, columns)


def find(
    db: sqlite3.Connection,
    ticket: Ticket,
    handle: TableHandle,
    read: Find[Any],
) -> Batch:
    table = current_table(db, handle)
    condition, values = condition_of(read.where, table)
    order, keys = order_to_sql(read.order_by)
    rows = db.execute(
        f"SELECT {_selected(read.columns)} FROM {table.rows} AS r WHERE {condition} "
        f"ORDER BY {order} LIMIT ? OFFSET ?",
        (*values, *keys, read.limit, read.offset),
    ).fetchall()
    return _as_rows(db, ticket, table, rows, read.columns)


def by_rowids(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    rowids: Int64Array,
    columns: Columns,
    vectors: Float32Array | None = None,
) -> Batch:
    """Return existing rows, in the order of ``rowids``.

    Pass the rows' ``vectors`` if they were already read. Callers pair the rows with distances and
    queries, so a missing row raises DamageError.
    """
    names = _names(columns.fields, payload=columns.payload)
    wanted = rowids.tolist()
    flat: list[Any] = []
    start = 0
    while start < len(wanted):
        ticket.check()
        most = min(_TOGETHER, len(wanted) - start, _MOST_NUMBERS // len(names))
        # Powers of two, so that there are few different statements.
        size = 1 << max(most.bit_length() - 1, 0)
        part = wanted[start : start + size]
        row = db.execute(_side_by_side(table.rows, names, size), part).fetchone()
        if row is None:
            raise MissingRowsError(table)
        flat += row
        if columns.meter is not None:
            _count(columns, columns.meter, table, row)
        start += size
    stored, ids, *columns_of_values = [flat[place :: len(names)] for place in range(len(names))]
    if stored != wanted:
        raise MissingRowsError(table)
    if columns.vector and vectors is None:
        vectors = VectorReader(db, table).read(rowids, ticket)
    return rows_from_sql(ids, columns_of_values, columns, table, vectors)


def _count(columns: Columns, meter: Meter, table: TableLayout, values: Sequence[Any]) -> None:
    """Add rows' bytes and values to the meter; ``values`` has each row's rowid, id and columns."""
    lists = [table.schema.fields[name].is_list for name in columns.fields]
    is_json = [False, False, *lists, *([True] if columns.payload else [])]
    texts = (text for n in range(len(is_json)) if is_json[n] for text in values[n :: len(is_json)])
    inside = sum(values_in(text) for text in texts if type(text) is str)
    vectors = len(values) // len(is_json) * 4 * table.schema.dim if columns.vector else 0
    meter.add(_bytes_of(values) + vectors, len(values) + inside)


def _bytes_of(values: Iterable[Any]) -> int:
    return sum(len(value) for value in values if type(value) in _SIZED)


# Limits of a statement that reads rows side by side. Rows: SQLite joins at most 64 tables.
# Columns: SQLite's default limit is 2,000.
_TOGETHER = 32
_MOST_NUMBERS = 1500


@lru_cache(maxsize=256)
def _side_by_side(rows: str, names: tuple[str, ...], count: int) -> str:
    """Return SQL for the columns of ``count`` rows, side by side in one row.

    Each step of a statement releases the GIL and waits to get it back. Under load, that takes
    longer than reading the rows (``python -m bench search``).
    """
    columns = (f"r{i}.{name}" for i in range(count) for name in names)
    tables = (f"{rows} AS r{i}" for i in range(count))
    conditions = (f"r{i}._rowid = ?" for i in range(count))
    return (
        f"SELECT {', '.join(columns)} FROM {' CROSS JOIN '.join(tables)} "
        f"WHERE {' AND '.join(conditions)}"
    )


def split(rows: Batch, sizes: Sequence[int]) -> list[Batch]:
    """Split the rows into parts of these sizes."""
    parts = []
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        fields = {name: values[part] for name, values in rows.fields.items()}
        payloads = None if rows.payloads is None else rows.payloads[part]
        vectors = None if rows.vectors is None else rows.vectors[part]
        parts.append(Batch(rows.ids[part], fields, payloads, vectors))
        start += size
    return parts


def _as_rows(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    rows: Sequence[Sequence[Any]],
    columns: Columns,
) -> Batch:
    if columns.meter is not None:
        return by_rowids(db, ticket, table, np.array(rows, np.int64).reshape(-1), columns)
    rowids, ids, *values = transposed(rows, 2 + len(columns.fields) + columns.payload)
    vectors = None
    if columns.vector:
        vectors = VectorReader(db, table).read(np.array(rowids, dtype=np.int64), ticket)
    return rows_from_sql(ids, values, columns, table, vectors)


def count(db: sqlite3.Connection, handle: TableHandle, where: Expr | None) -> int:
    table = current_table(db, handle)
    condition, values = condition_of(where, table)
    (number,) = db.execute(
        f"SELECT count(*) FROM {table.rows} AS r WHERE {condition}", values
    ).fetchone()
    return int(number)


_SIZED = frozenset({str, bytes})
# The most rows that a walk without Arrow reads at a time.
_ROWS_OF_A_PART = 1000
# Bytes by which the WAL may grow while an export reads an older snapshot.
_MOST_WAL = 2**30


def _size(path: str) -> int:
    status = look_at(path)
    return 0 if status is None else status.st_size


class Walk:
    """Reads a table part by part, in the order of rowids, in one snapshot."""

    def __init__(
        self,
        db: sqlite3.Connection,
        handle: TableHandle,
        where: Expr | None,
        columns: Columns,
        wal: str,
        after: int = 0,
    ) -> None:
        self._db = db
        self._wal = wal
        self._most_wal = _size(self._wal) + _MOST_WAL
        self.table = current_table(db, handle)
        self.columns = columns
        self.after = after
        self._vector_bytes = 4 * self.table.schema.dim if columns.vector else 0
        self._vectors = VectorReader(db, self.table)
        self._condition, self._values = condition_of(where, self.table)

    def next_values(self, most: int) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Return the ids and the other columns of the next rows.

        At the end of the table, all columns are empty.
        """
        if _size(self._wal) > self._most_wal:
            raise AiovecError(
                f"the rows were read so slowly that {self._wal} grew by 1 GiB, because SQLite "
                "cannot truncate it during a read; read faster, or continue an export with after="
            )
        fields, payload = self.columns.fields, self.columns.payload
        cursor = self._db.execute(
            # With an index on a filtered field, SQLite would sort all rows again for each batch.
            f"SELECT {_selection(fields, payload=payload)} FROM {self.table.rows} AS r NOT INDEXED "
            f"WHERE r._rowid > ? AND ({self._condition}) ORDER BY r._rowid LIMIT ?",
            (self.after, *self._values, most),
        )
        rows: list[tuple[Any, ...]] = []
        left = LARGEST_BATCH
        for row in cursor:
            rows.append(row)
            left -= self._vector_bytes + _bytes_of(row)
            if left <= 0:
                break
        cursor.close()
        self._rowids, ids, *values = transposed(rows, 2 + len(fields) + payload)
        if rows:
            self.after = self._rowids[-1]
        return ids, values

    def vectors(self, ticket: Ticket) -> Float32Array | None:
        """Return the vectors of the last rows read, or None if the vector is not to be read."""
        if not self.columns.vector:
            return None
        return self._vectors.read(np.array(self._rowids, dtype=np.int64), ticket)

    def next_rows(self, ticket: Ticket) -> Batch | None:
        ids, values = self.next_values(_ROWS_OF_A_PART)
        if not ids:
            return None
        return rows_from_sql(ids, values, self.columns, self.table, self.vectors(ticket))


class Export:
    """A walk that returns Arrow batches.

    Rowids never change and are never reused, so a batch's last rowid is its cursor.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        handle: TableHandle,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
        wal: str,
    ) -> None:
        self._batch_size = batch_size
        self._schema = columns.layout(handle.schema)
        fields = tuple(name for name in self._schema.names if name in columns.fields)
        ordered = Columns(fields, columns.payload, columns.vector)
        self._walk = Walk(db, handle, where, ordered, wal, _rowid_of_cursor(after))

    def next_batch(self, ticket: Ticket) -> tuple[pa.RecordBatch, bytes] | None:
        walk = self._walk
        ids, values = walk.next_values(self._batch_size)
        if not ids:
            return None
        fields = walk.table.schema.fields
        arrays = [ids_to_arrow(ids)]
        if (vectors := walk.vectors(ticket)) is not None:
            arrays.append(vector_column(vectors, walk.table))
        arrays += [
            to_arrow(column, fields[name])
            for name, column in zip(walk.columns.fields, values, strict=False)
        ]
        if walk.columns.payload:
            arrays.append(payloads_to_arrow(values[-1]))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema), str(walk.after).encode()


def _rowid_of_cursor(cursor: bytes | None) -> int:
    if cursor is None:
        return 0
    rowid = int(cursor) if cursor.isdigit() and len(cursor) <= 19 else -1
    if not 0 <= rowid < 2**63:
        raise InvalidArgumentError(
            "after", cursor, "the cursor of a batch that this store exported"
        )
    return rowid


# A caller's change number has two parts: the newest change that the caller has read and, in the
# lower bits, the floor at that time. A reader pages through rows below the floor too, and misses
# no deletion there as long as the floor stays the same.
_FLOOR_BITS = 62


def change_number(db: sqlite3.Connection, handle: TableHandle) -> int:
    table = current_table(db, handle)
    return _newest(db, table) << _FLOOR_BITS | floor_of(db, table)


def _has_change(db: sqlite3.Connection, table: TableLayout, floor: int, number: int) -> bool:
    read, floor_then = divmod(number, 1 << _FLOOR_BITS)
    return (
        (read >= floor or floor_then == floor)
        and floor_then <= floor
        and read <= _newest(db, table)
    )


@decodes
def _newest(db: sqlite3.Connection, table: TableLayout) -> int:
    (newest_row,) = db.execute(f"SELECT max(_seq) FROM {table.rows}").fetchone()
    (newest_delete,) = db.execute(
        "SELECT max(seq) FROM aiovec_deleted WHERE name = ?", (table.name,)
    ).fetchone()
    numbers = (newest_row or 0, newest_delete or 0, floor_of(db, table))
    return int(max(numbers))


def changes(
    db: sqlite3.Connection, ticket: Ticket, handle: TableHandle, since: int, limit: int
) -> Changes:
    table = current_table(db, handle)
    floor = floor_of(db, table)
    # A reader that starts at 0 has no rows, so it needs no tombstones.
    read = since >> _FLOOR_BITS
    if since and not _has_change(db, table, floor, since):
        raise ChangesPrunedError(floor << _FLOOR_BITS | floor)
    names = ["_seq", "_rowid", *table.row_columns]
    # One row more than requested shows whether there is another page.
    rows = db.execute(
        f"SELECT {', '.join(names)} FROM {table.rows} WHERE _seq > ? ORDER BY _seq LIMIT ?",
        (read, limit + 1),
    ).fetchall()
    deleted = db.execute(
        "SELECT seq, id FROM aiovec_deleted WHERE name = ? AND seq > ? ORDER BY seq LIMIT ?",
        (table.name, read, limit + 1),
    ).fetchall()
    numbers = _in_order([row[0] for row in (*rows, *deleted)])
    complete = len(numbers) <= limit
    number = max([read, floor, *numbers]) if complete else numbers[limit - 1]
    return Changes(
        number << _FLOOR_BITS | floor,
        _as_table(db, ticket, table, [row for row in rows if row[0] <= number], len(names)),
        [id for seq, id in deleted if seq <= number],
        complete,
    )


@decodes
def _in_order(numbers: list[Any]) -> list[int]:
    return sorted(map(index, numbers))


def _as_table(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    rows: list[tuple[object, ...]],
    width: int,
) -> pa.Table:
    _, rowids, ids, *values = transposed(rows, width)
    vectors = VectorReader(db, table).read(np.array(rowids, dtype=np.int64), ticket)
    fields = table.schema.fields.values()
    arrays = [
        ids_to_arrow(ids),
        vector_column(vectors, table),
        *(to_arrow(column, field) for column, field in zip(values, fields, strict=False)),
    ]
    if table.schema.payload:
        arrays.append(payloads_to_arrow(values[-1]))
    return pa.Table.from_arrays(arrays, schema=table.schema.to_arrow())


def value_counts(
    db: sqlite3.Connection,
    handle: TableHandle,
    ref: Ref,
    where: Expr | None,
    limit: int | None,
    meter: Meter | None,
) -> list[tuple[Value, int]]:
    table = current_table(db, handle)
    condition, bound = condition_of(where, table)
    most = -1 if limit is None else limit  # a negative number means no limit to SQLite
    field = table.schema.fields.get(ref.name)
    if field is not None and field.is_list:
        items = f"json_each(r.{quoted(ref.name)}) AS listed"
        cursor = db.execute(
            "SELECT v, count(*) AS n FROM (SELECT DISTINCT r._rowid, listed.value AS v "
            f"FROM {table.rows} AS r, {items} WHERE {condition}) "
            "GROUP BY v ORDER BY n DESC, v LIMIT ?",
            (*bound, most),
        )
    elif ref.path:
        value, tables, keys = counted_items(ref)
        cursor = db.execute(
            "SELECT v, count(*) AS n, max(is_int) FROM "
            f"(SELECT {value} AS v, max(typeof({value}) = 'integer') AS is_int "
            f"FROM {table.rows} AS r, {tables} WHERE {keys} AND {condition} GROUP BY r._rowid, 1) "
            "WHERE v IS NOT NULL GROUP BY v ORDER BY n DESC, v LIMIT ?",
            (*ref.path, *bound, most),
        )
    else:
        value, _ = sorted_value(ref)
        cursor = db.execute(
            f"SELECT {value} AS v, count(*) AS n FROM {table.rows} AS r "
            f"WHERE v IS NOT NULL AND {condition} GROUP BY v ORDER BY n DESC, v LIMIT ?",
            (*bound, most),
        )
    rows: list[Any] = []
    while batch := cursor.fetchmany(FEW_ROWS):
        rows += batch
        if meter is not None:
            meter.add(_bytes_of([row[0] for row in batch]), len(batch))
    if ref.path:
        return [(_of_payload(value, is_int=bool(is_int)), n) for value, n, is_int in rows]
    counts = [row[1] for row in rows]
    return list(zip(_of_column([row[0] for row in rows], ref, table), counts, strict=True))


def bounds(
    db: sqlite3.Connection, handle: TableHandle, ref: Ref, where: Expr | None
) -> tuple[Value, Value] | None:
    table = current_table(db, handle)
    condition, bound = condition_of(where, table)
    value, keys = sorted_value(ref)
    # Each bound is a separate query, so that SQLite finds it directly in an index on the field.
    ends = [
        f"(SELECT v FROM (SELECT {value} AS v FROM {table.rows} AS r WHERE {condition}) "
        f"WHERE v IS NOT NULL ORDER BY v {way} LIMIT 1)"
        for way in ("ASC", "DESC")
    ]
    parameters = (*keys, *bound)
    values = db.execute(f"SELECT {', '.join(ends)}", (*parameters, *parameters)).fetchone()
    if values[0] is None:
        return None
    least, greatest = map(_of_payload, values) if ref.path else _of_column(list(values), ref, table)
    return least, greatest


def _of_column(values: Sequence[Any], ref: Ref, table: TableLayout) -> Sequence[Value]:
    field = table.schema.fields.get(ref.name)
    kind: Kind = "text" if field is None else field.item_kind
    return from_sql(values, kind)


def _of_payload(value: Any, *, is_int: bool = False) -> Value:
    """Convert a ``sorted_value``, in which booleans are BLOBs, back to the payload's value."""
    if isinstance(value, bytes):
        return value == b"\x01"
    # 1 and 1.0 are the same value, and either may be returned.
    return int(value) if is_int else value
