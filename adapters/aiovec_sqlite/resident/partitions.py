"""Which rows of a partitioned table have segments of their own: those of keys with many rows.

Each segment of a scan costs some time, whatever its size. So the rows of small keys share segments,
and a search in such a key has its rows looked up by the file's index and gathered. A key is in one
state either large or small: all its rows lie in its own segments, or all in shared ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Hashable, Sequence
from typing import Any

import numpy as np

from ..layout import TableLayout, partition_value, quoted
from ..reads import rowids_where
from .segments import SHARED, Int64Array, Segment, State, appended, gathered, without

# Rows from which on a key has its own segments. A scan of fewer takes hardly longer than what each
# segment costs (``python -m bench search``).
OWN = 4096


def key_of(values: Sequence[object]) -> Hashable:
    return tuple(map(partition_value, values))


def key_columns(table: TableLayout) -> list[str]:
    """The partition fields as columns of ``r``."""
    return [f"r.{quoted(name)}" for name in table.partitions]


def by_segments(
    rows: Sequence[tuple[Any, ...]], own: Collection[Hashable]
) -> list[tuple[Hashable, Int64Array]]:
    """The rowids of rows by the key of the segments they belong to; ``own`` are the large keys."""
    if not rows:
        return []
    if len(rows[0]) == 1 or not own:
        return [(SHARED, np.array([row[0] for row in rows], dtype=np.int64))]
    found: dict[Hashable, list[int]] = {}
    for rowid, *values in rows:
        key = key_of(values)
        found.setdefault(key if key in own else SHARED, []).append(rowid)
    return [(key, np.array(rowids, dtype=np.int64)) for key, rowids in found.items()]


def large_keys(db: sqlite3.Connection, table: TableLayout) -> dict[Hashable, tuple[Any, ...]]:
    """The keys with many rows, and what their rows' columns hold."""
    if not table.partitions:
        return {}
    columns = ", ".join(key_columns(table))
    found = db.execute(
        f"SELECT {columns} FROM {table.rows} AS r GROUP BY {columns} HAVING count(*) >= ?", (OWN,)
    ).fetchall()
    return {key_of(values): tuple(values) for values in found}


def rowids_of_key(
    db: sqlite3.Connection, table: TableLayout, values: Sequence[object]
) -> Int64Array:
    condition = " AND ".join(f"{column} IS ?" for column in key_columns(table))
    return rowids_where(db, table, condition, values)


def moved(state: State, key: Hashable, rowids: Int64Array) -> State:
    """The state with these rows, which lie in shared segments, in segments of their key."""
    shared = state.of_key(SHARED)
    masks = [
        part.among(rowids, 0) & (part.offset[: part.count] > -np.inf) for part in shared.segments
    ]
    fresh: list[Segment] = []
    for part in gathered(shared, masks).segments:
        order = np.argsort(part.rowids)
        fresh = appended(fresh, key, part.rowids[order], part.rows(order), part.codes.shape[1])
    rest = without(shared.segments, rowids)
    others = [part for part in state.segments if part.key != SHARED]
    return State(state.change, (*rest, *others, *fresh))


def shared_rows(state: State) -> int:
    """How many rows share segments with others."""
    return sum(part.count - part.dead for part in state.segments if part.key == SHARED)
