"""The change feed: rows carry the number of their last change, deletes leave a tombstone."""

from __future__ import annotations

import sqlite3

import numpy as np
import pyarrow as pa

from aiovec.backend import Changes, ChangesPrunedError, TableHandle

from .connection import Ticket
from .layout import TableLayout, current_table, floor_of
from .reads import transposed
from .stored import check_stored
from .values import check_rows, payload_to_arrow, to_arrow, vectors_to_arrow
from .vectors import VectorReader


def change_number(db: sqlite3.Connection, handle: TableHandle) -> int:
    table = current_table(db, handle)
    (newest_row,) = db.execute(f"SELECT max(_seq) FROM {table.rows}").fetchone()
    (newest_delete,) = db.execute(
        "SELECT max(seq) FROM aiovec_deleted WHERE name = ?", (table.name,)
    ).fetchone()
    numbers = (newest_row or 0, newest_delete or 0, floor_of(db, table))
    check_stored(numbers, int, f"the change numbers of {table.name!r}")
    return int(max(numbers))


def changes(
    db: sqlite3.Connection, ticket: Ticket, handle: TableHandle, since: int, limit: int
) -> Changes:
    table = current_table(db, handle)
    floor = floor_of(db, table)
    # A reader that starts at 0 has no rows yet, so it misses nothing by the tombstones' absence.
    if 0 < since < floor:
        raise ChangesPrunedError(floor)
    names = ["_seq", "_rowid", *table.row_columns]
    # One more than asked for tells whether there is a further page.
    rows = db.execute(
        f"SELECT {', '.join(names)} FROM {table.rows} WHERE _seq > ? ORDER BY _seq LIMIT ?",
        (since, limit + 1),
    ).fetchall()
    deleted = db.execute(
        "SELECT seq, id FROM aiovec_deleted WHERE name = ? AND seq > ? ORDER BY seq LIMIT ?",
        (table.name, since, limit + 1),
    ).fetchall()
    numbers = [row[0] for row in (*rows, *deleted)]
    check_stored(numbers, int, f"the change numbers of {table.name!r}")
    check_stored([row[1] for row in deleted], str, f"the deleted ids of {table.name!r}")
    numbers.sort()
    complete = len(numbers) <= limit
    number = (numbers[-1] if numbers else since) if complete else numbers[limit - 1]
    return Changes(
        number,
        _as_table(db, ticket, table, [row for row in rows if row[0] <= number], len(names)),
        [id for seq, id in deleted if seq <= number],
        complete,
    )


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
    check_rows(ids, values, [field.kind for field in fields], payload=table.schema.payload)
    arrays = [
        pa.array(ids, type=pa.utf8()),
        vectors_to_arrow(vectors),
        *(to_arrow(column, field) for column, field in zip(values, fields, strict=False)),
    ]
    if table.schema.payload:
        arrays.append(payload_to_arrow(values[-1]))
    return pa.Table.from_arrays(arrays, schema=table.schema.to_arrow())
