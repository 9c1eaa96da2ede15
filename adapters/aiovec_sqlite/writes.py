"""Insert, replace, change and delete rows: each function does one call's work in a transaction.

A row is in two tables, joined by its rowid, and both change in the same transaction. The rowid is
the change number of the row's first write, so no rowid is ever reused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import numpy as np

from aiovec.backend import Expr, Float32Array, PayloadPatch, without_vector
from aiovec.backend.changes import Delete, Insert, RowChange, Update, UpdateRows, Upsert
from aiovec.backend.contract import TableHandle
from aiovec.backend.rows import Batch, check_partitions
from aiovec.errors import AiovecError, DuplicateIdError

from .connection import Transaction
from .driver import load_driver
from .errors import DamageError, decodes
from .layout import TableLayout, current_table, partition_value, quoted
from .moves import has_mark
from .reads import condition_of
from .sql.values import field_columns, row_values, to_sql
from .text_index import wanted_fields
from .vectors import check_places

# Rows per executemany: few enough that a cancelled call ends soon.
_BLOCK = 1000
# Limit of the payload bytes changed at a time, and of the characters in one statement.
_BLOCK_PAYLOADS = 8 * 2**20
# Rows with text in one statement, and SQLite's default limit of parameters.
_ROWS_A_STATEMENT, _MOST_PARAMETERS = 256, 32_766
# Changes between two checks of the number of tombstones: this number, or this share of the
# tombstones to keep, because a check counts all of them in the write transaction.
_PRUNE_EVERY, _PRUNE_SHARE = 4096, 16


RowsAct = Callable[[Transaction, TableHandle, Batch, Sequence[int]], Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class JoinedWrite:
    """An ``insert`` or ``upsert``, which can be done together with the writes of other calls.

    One statement for all calls costs little more than a statement for one, because each statement
    releases the GIL several times (``python -m bench writes``).

    ``act`` gets each call's number of rows, and returns the number of rows written for each call.
    """

    act: RowsAct
    handle: TableHandle
    rows: Batch

    @property
    def size(self) -> int:
        return len(self.rows)

    def joins(self, other: object) -> bool:
        """Return whether the other write can be done together with this one."""
        return (
            isinstance(other, JoinedWrite) and self.act is other.act and self.handle == other.handle
        )

    def act_with(self, tx: Transaction, others: Sequence[JoinedWrite]) -> Sequence[int]:
        """Do this write and then ``others``, and return the result of each write.

        If that fails, the caller does each write separately.
        """
        rows = self.rows.joined([other.rows for other in others])
        return self.act(tx, self.handle, rows, [self.size, *(other.size for other in others)])

    def __call__(self, tx: Transaction) -> int:
        return self.act(tx, self.handle, self.rows, [self.size])[0]


def work_of(
    handle: TableHandle, change: RowChange, keep_deletes: int
) -> Callable[[Transaction], int]:
    """Return the function that makes a change in a transaction and returns the number of rows."""
    match change:
        case Insert(rows):
            return JoinedWrite(insert_new if change.skip_existing else insert, handle, rows)
        case Upsert(rows):
            return JoinedWrite(overwrite if change.moves else upsert, handle, rows)
        case Update():
            return lambda tx: update(tx, handle, change)
        case UpdateRows():
            return lambda tx: update_rows(tx, handle, change)
        case Delete():
            return lambda tx: delete(tx, handle, change, keep_deletes)


def insert(
    tx: Transaction, handle: TableHandle, rows: Batch, sizes: Sequence[int]
) -> Sequence[int]:
    tx.expect(len(rows))
    table = current_table(tx.db, handle)
    before = tx.newest
    try:
        _add(tx, table, rows)
    except load_driver().IntegrityError as exc:
        ids = rows.ids
        # Rows that this call added before the conflict exist too, with rowids above ``before``.
        existing = [id for id, rowid in _rowids(tx, table, ids) if rowid <= before]
        if not existing:
            raise
        raise DuplicateIdError(table.name, existing) from exc
    return sizes


def insert_new(
    tx: Transaction, handle: TableHandle, rows: Batch, sizes: Sequence[int]
) -> Sequence[int]:
    """Insert the rows whose ids do not exist. If calls share an id, the first call wins."""
    tx.expect(len(rows))
    table = current_table(tx.db, handle)
    ids = rows.ids
    known = {id for id, _ in _rowids(tx, table, ids)}
    new: list[int] = []
    counts = []
    start = 0
    for size in sizes:
        fresh = [row for row in range(start, start + size) if ids[row] not in known]
        known.update(ids[row] for row in fresh)
        new += fresh
        counts.append(len(fresh))
        start += size
    if new:
        _add(tx, table, rows if len(new) == len(ids) else rows.take(new))
    return counts


def upsert(
    tx: Transaction,
    handle: TableHandle,
    rows: Batch,
    sizes: Sequence[int],
    *,
    moves: bool = False,
) -> Sequence[int]:
    tx.expect(len(rows))
    table = current_table(tx.db, handle)
    ids = rows.ids
    known = dict(_rowids(tx, table, ids))
    if table.partitions and known and not moves:
        stored = _partitions(tx, table, list(known.values()))
        check_partitions(table.schema, rows, dict(zip(known, stored, strict=True)))
    if not known:
        _add(tx, table, rows)
        return sizes
    # Joined calls may repeat a known id: the last row wins. If they repeat a new id, the joined
    # write fails, and each call is tried separately.
    if len(known) < len(ids):
        new = [row for row, id in enumerate(ids) if id not in known]
        _add(tx, table, rows.take(new))
        rows = rows.take([row for row, id in enumerate(ids) if id in known])
        ids = rows.ids
    _replace(tx, table, rows, [known[id] for id in ids])
    return sizes


# A single object, because ``JoinedWrite.joins`` compares acts by identity.
overwrite = partial(upsert, moves=True)


def _rowids(tx: Transaction, table: TableLayout, ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each existing id with its rowid."""
    sql = (
        f"SELECT r.id, r._rowid FROM json_each(?) AS j CROSS JOIN {table.rows} AS r "
        "ON r.id = j.value"
    )
    if len(ids) == 1:  # json_each would take longer than the lookup
        single = f"SELECT r.id, r._rowid FROM {table.rows} AS r WHERE r.id = ?"
        yield from tx.db.execute(single, (ids[0],))
        return
    for start in range(0, len(ids), _BLOCK):
        tx.check()
        yield from tx.db.execute(sql, (json.dumps(ids[start : start + _BLOCK]),))


def _add(tx: Transaction, table: TableLayout, rows: Batch) -> None:
    first = tx.take(len(rows))
    columns = ["_rowid", *table.row_columns, "_seq"]
    add_vector = _vector_insert(table)
    for start, block in _blocks(tx, rows):
        numbers = range(first + start, first + start + len(block))
        values = zip(numbers, *row_values(block, table.schema), numbers, strict=True)
        _run_rows(tx, table, _INSERT, tuple(columns), values)
        partitions = _partition_values(block, table)
        tx.db.executemany(add_vector, _vector_rows(table, numbers, block.matrix(), partitions))


def _blocks(tx: Transaction, rows: Batch) -> Iterator[tuple[int, Batch]]:
    """Yield the rows in blocks, each with the index of its first row."""
    for start in range(0, len(rows), _BLOCK):
        tx.check()
        end = min(start + _BLOCK, len(rows))
        yield start, rows if end - start == len(rows) else rows.take(range(start, end))


_INSERT, _UPDATE = "insert", "update"


def _run_rows(
    tx: Transaction,
    table: TableLayout,
    act: str,
    columns: tuple[str, ...],
    values: Iterable[tuple[Any, ...]],
) -> None:
    """Insert rows, or update existing rows; for an update, each tuple ends with the rowid.

    Before each statement, FTS5 writes its pending data to the file. So rows with text share a
    statement, which takes a third of the time of separate statements (``python -m bench text``).
    """
    if not wanted_fields(table.schema):
        tx.db.executemany(_rows_statement(table.rows, act, columns, 1), values)
        return
    width = len(columns) + (act == _UPDATE)
    rows = list(values)
    length = sum(len(value) for value in rows[0] if isinstance(value, str)) if rows else 0
    size = min(_ROWS_A_STATEMENT, _MOST_PARAMETERS // width, _BLOCK_PAYLOADS // (length or 1))
    size = max(1, size)
    start = 0
    while start < len(rows):
        while size > len(rows) - start:
            size = (size + 1) // 2  # few sizes, so that statements stay cached
        part = rows[start : start + size]
        tx.check()
        sql = _rows_statement(table.rows, act, columns, size)
        tx.db.execute(sql, list(chain.from_iterable(part)))
        start += size


@lru_cache(maxsize=256)
def _rows_statement(rows: str, act: str, columns: tuple[str, ...], count: int) -> str:
    width = len(columns) + (act == _UPDATE)
    values = ", ".join([f"({', '.join('?' * width)})"] * count)
    if act == _INSERT:
        return f"INSERT INTO {rows} ({', '.join(columns)}) VALUES {values}"
    if count == 1:
        sets = ", ".join(f"{column} = ?" for column in columns)
        return f"UPDATE {rows} SET {sets} WHERE _rowid = ?"
    sets = ", ".join(f"{column} = v.column{n}" for n, column in enumerate(columns, 1))
    return f"UPDATE {rows} SET {sets} FROM (VALUES {values}) AS v WHERE _rowid = v.column{width}"


def _replace(
    tx: Transaction,
    table: TableLayout,
    rows: Batch,
    rowids: Sequence[int],
) -> None:
    first = tx.take(len(rows))
    check_places(tx.db, table)
    columns = (*table.row_columns, "_seq")
    for start, block in _blocks(tx, rows):
        end = start + len(block)
        block_rowids = rowids[start:end]
        numbers = range(first + start, first + end)
        values = zip(*row_values(block, table.schema), numbers, block_rowids, strict=True)
        _run_rows(tx, table, _UPDATE, columns, values)
        keys = _partition_values(block, table)
        _change_vectors(tx, table, block_rowids, block.matrix(), keys)


def _change_vectors(
    tx: Transaction,
    table: TableLayout,
    rowids: Sequence[int],
    vectors: Float32Array,
    partitions: Sequence[Sequence[str]],
) -> None:
    """Set the vectors and partition keys of rows; a NaN vector removes the row's vector."""
    schema = table.schema
    # vec0 can change a vector in place, but neither a partition key nor a bit vector.
    if not (table.partitions or schema.quantized or schema.vector_nullable):
        sql = f"UPDATE {table.vec} SET vector = ? WHERE rowid = ?"
        tx.db.executemany(sql, zip(list(vectors), rowids, strict=True))
        return
    _insert_again(tx, table, rowids, vectors, partitions)


def _insert_again(
    tx: Transaction,
    table: TableLayout,
    rowids: Sequence[int],
    vectors: Float32Array,
    partitions: Sequence[Sequence[str]],
) -> None:
    sql = f"DELETE FROM {table.vec} WHERE rowid = ?"
    tx.db.executemany(sql, ((rowid,) for rowid in rowids))
    tx.db.executemany(_vector_insert(table), _vector_rows(table, rowids, vectors, partitions))


def _stored_partitions(
    tx: Transaction, table: TableLayout, rowids: Sequence[int]
) -> list[list[str]]:
    """Return the current partition keys of rows, one list per partition field."""
    stored = _partitions(tx, table, rowids) if table.partitions else []
    return [list(map(partition_value, column)) for column in zip(*stored, strict=True)]


def _partitions(
    tx: Transaction, table: TableLayout, rowids: Sequence[int]
) -> list[tuple[Any, ...]]:
    """Return the current partition field values of rows, one tuple per row."""
    names = ", ".join(f"r.{quoted(name)}" for name in table.partitions)
    values: list[tuple[Any, ...]] = tx.db.execute(
        f"SELECT {names} FROM json_each(?) AS j "
        f"CROSS JOIN {table.rows} AS r ON r._rowid = j.value ORDER BY j.key",
        (json.dumps(list(rowids)),),
    ).fetchall()
    return values


def _vector_insert(table: TableLayout) -> str:
    columns = ["rowid", "vector"]
    marks = ["?", "?"]
    if table.schema.quantized:
        columns.append("vector_bit")
        marks.append("vec_quantize_binary(?)")
    for name in table.partitions:
        columns.append(table.partition_column(name))
        marks.append("?")
    return f"INSERT INTO {table.vec} ({', '.join(columns)}) VALUES ({', '.join(marks)})"


def _vector_rows(
    table: TableLayout,
    rowids: Iterable[int],
    vectors: Float32Array,
    partitions: Sequence[Sequence[str]],
) -> Iterator[tuple[Any, ...]]:
    if table.schema.vector_nullable:
        present = np.flatnonzero(~without_vector(vectors)).tolist()
        numbers = list(rowids)
        rowids, vectors = [numbers[row] for row in present], vectors[present]
        partitions = [[part[row] for row in present] for part in partitions]
    blobs = list(vectors)  # each row is bound without a copy
    columns = [blobs, blobs] if table.schema.quantized else [blobs]
    return zip(rowids, *columns, *partitions, strict=True)


def _partition_values(rows: Batch, table: TableLayout) -> list[list[str]]:
    return [list(map(partition_value, rows.values(name))) for name in table.partitions]


def selected(
    tx: Transaction, table: TableLayout, ids: Sequence[str] | None, where: Expr | None
) -> list[int]:
    """Return the rowids of the rows that ``ids`` and ``where`` select; None selects every row."""
    condition, values = condition_of(where, table)
    if ids is None:
        sql = f"SELECT r._rowid FROM {table.rows} AS r WHERE {condition}"
        return [row[0] for row in tx.db.execute(sql, values)]
    sql = (
        f"SELECT r._rowid FROM {table.rows} AS r "
        f"WHERE r.id IN (SELECT j.value FROM json_each(?) AS j) AND ({condition})"
    )
    rowids = []
    for start in range(0, len(ids), _BLOCK):
        tx.check()
        listed = json.dumps(ids[start : start + _BLOCK])
        rowids += [row[0] for row in tx.db.execute(sql, (listed, *values))]
    return rowids


def update(tx: Transaction, handle: TableHandle, change: Update) -> int:
    table = current_table(tx.db, handle)
    rowids = selected(tx, table, change.ids, change.where)
    count = len(rowids)
    tx.expect(count)
    values = {name: [to_sql(value)] * count for name, value in change.values.items()}
    patches = [change.payload] * count if change.payload else None
    vectors = change.vector
    if vectors is not None:
        vectors = np.broadcast_to(vectors, (count, len(vectors)))
    _change(tx, table, rowids, values, patches, vectors)
    return count


def update_rows(tx: Transaction, handle: TableHandle, change: UpdateRows) -> int:
    table = current_table(tx.db, handle)
    ids = change.ids
    tx.expect(len(ids))
    known = dict(_rowids(tx, table, ids))
    change.check(known)
    for part in change.parts:
        rows = part
        if len(known) < len(ids):
            rows = part.take([row for row, id in enumerate(part.ids) if id in known])
        patches = [change.payloads[id] for id in rows.ids] if change.patches(part) else None
        rowids = [known[id] for id in rows.ids]
        _change(tx, table, rowids, field_columns(rows, table.schema), patches, rows.vectors)
    return len(known)


def _change(
    tx: Transaction,
    table: TableLayout,
    rowids: Sequence[int],
    values: Mapping[str, Sequence[Any]],
    patches: Sequence[PayloadPatch] | None,
    vectors: Float32Array | None,
) -> None:
    """Set the fields in ``values``, which has a column for each of them.

    Also apply ``patches`` to the rows' payloads, and set ``vectors``; None changes nothing.
    """
    if not rowids:
        return
    if vectors is not None:
        check_places(tx.db, table)
    first = tx.take(len(rowids))
    columns = (*map(quoted, values), *(["payload"] if patches else []), "_seq")
    moves = any(name in values for name in table.partitions)
    for start, end in _payload_blocks(tx, table, rowids, patches):
        tx.check()
        block = rowids[start:end]
        cells = [column[start:end] for column in values.values()]
        if patches:
            cells.append(_patched(tx, table, patches[start:end], block))
        cells.append(range(first + start, first + end))
        _run_rows(tx, table, _UPDATE, columns, zip(*cells, block, strict=True))
        if vectors is not None:
            keys = _stored_partitions(tx, table, block)
            _change_vectors(tx, table, block, vectors[start:end], keys)
        elif moves:
            move_vectors(tx, table, block)


def _payload_blocks(
    tx: Transaction,
    table: TableLayout,
    rowids: Sequence[int],
    patches: Sequence[PayloadPatch] | None,
) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each block.

    If payloads change, a block has only one row, or its payloads take at most a few MiB before and
    after the change.
    """
    for start in range(0, len(rowids), _BLOCK):
        end = min(start + _BLOCK, len(rowids))
        if patches:
            sizes = tx.db.execute(
                f"SELECT length(CAST(r.payload AS BLOB)) FROM json_each(?) AS j "
                f"CROSS JOIN {table.rows} AS r ON r._rowid = j.value ORDER BY j.key",
                (json.dumps(rowids[start:end]),),
            ).fetchall()
            added, patch, total = 0, None, 0
            for place, (length,) in enumerate(sizes, start):
                if patches[place] is not patch:
                    patch = patches[place]
                    added = patch.added()
                size = (length or 0) + added
                if total and total + size > _BLOCK_PAYLOADS:
                    yield start, place
                    start, total = place, 0
                total += size
        yield start, end


def _patched(
    tx: Transaction, table: TableLayout, patches: Sequence[PayloadPatch], rowids: Sequence[int]
) -> list[str | None]:
    """Return the changed payloads of these rows."""
    stored = tx.db.execute(
        f"SELECT r.id, r.payload FROM json_each(?) AS j "
        f"CROSS JOIN {table.rows} AS r ON r._rowid = j.value ORDER BY j.key",
        (json.dumps(rowids),),
    ).fetchall()
    if len(stored) < len(rowids):
        raise DamageError(f"rows of {table.name!r} that an index names are missing")
    try:
        return [patch.apply(text, id) for patch, (id, text) in zip(patches, stored, strict=True)]
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, AiovecError):
            raise
        raise DamageError(f"a payload of {table.name!r} is not a JSON object") from exc


@decodes
def move_vectors(tx: Transaction, table: TableLayout, rowids: Sequence[int]) -> None:
    """Move vectors to newer vec0 chunks, in the partitions of their rows' current keys."""
    check_places(tx.db, table)
    rows = tx.db.execute(
        f"SELECT v.rowid, v.vector FROM json_each(?) AS j "
        f"CROSS JOIN {table.vec} AS v ON v.rowid = j.value "
        f"CROSS JOIN {table.rows} AS r ON r._rowid = j.value",
        (json.dumps(list(rowids)),),
    ).fetchall()
    rowids = [row[0] for row in rows]
    joined = np.frombuffer(b"".join([row[1] for row in rows]), np.float32)
    vectors = joined.reshape(len(rows), table.schema.dim)
    _insert_again(tx, table, rowids, vectors, _stored_partitions(tx, table, rowids))


def delete(tx: Transaction, handle: TableHandle, change: Delete, keep_deletes: int) -> int:
    table = current_table(tx.db, handle)
    rowids = selected(tx, table, change.ids, change.where)
    tx.expect(len(rowids))
    first = tx.take(len(rowids))
    check_places(tx.db, table)
    for start in range(0, len(rowids), _BLOCK):
        tx.check()
        block = rowids[start : start + _BLOCK]
        # Write the tombstones first, because they need the ids.
        tx.db.executemany(
            "INSERT INTO aiovec_deleted (name, seq, id, row) "
            f"SELECT ?, ?, id, _rowid FROM {table.rows} WHERE _rowid = ?",
            ((table.name, first + start + i, rowid) for i, rowid in enumerate(block)),
        )
        tx.db.execute(
            f"DELETE FROM {table.rows} WHERE _rowid IN (SELECT value FROM json_each(?))",
            (json.dumps(block),),
        )
        sql = f"DELETE FROM {table.vec} WHERE rowid = ?"
        tx.db.executemany(sql, ((rowid,) for rowid in block))
    every = max(_PRUNE_EVERY, keep_deletes // _PRUNE_SHARE)
    if first // every != (first + len(rowids)) // every:
        prune_deletes(tx, table.name, keep_deletes)
    return len(rowids)


def prune_deletes(tx: Transaction, name: str, keep: int) -> None:
    """Delete the oldest tombstones until ``keep`` are left, and raise the floor, which shows slow
    readers that they missed deletes.

    Does nothing during a migration.
    """
    if has_mark(tx.db):
        return  # a migration needs the tombstones to catch up
    row = tx.db.execute(
        "SELECT seq FROM aiovec_deleted WHERE name = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
        (name, keep),
    ).fetchone()
    if row is not None:
        tx.db.execute("DELETE FROM aiovec_deleted WHERE name = ? AND seq <= ?", (name, row[0]))
        tx.db.execute(
            "UPDATE aiovec_tables SET floor = max(floor, ?) WHERE name = ?", (row[0], name)
        )
