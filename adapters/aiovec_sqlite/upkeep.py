"""Report the size of a table, and reclaim unused space."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

import numpy as np

from aiovec.backend.contract import TableHandle, TableStats

from . import text_index
from .connection import Ticket, Transaction
from .errors import DamageError, decodes
from .layout import TableLayout, current_table
from .writes import move_vectors, prune_deletes

# Chunks with a smaller share of used slots are emptied, and sqlite-vec then frees them.
_SPARSE = 0.75
# Rows moved in one transaction, so that writers wait only briefly.
_MOST_MOVED = 2000
# Rows of each index that ANALYZE samples: with more, writers would wait too long.
_ANALYZED = 1000
# Free pages returned in one transaction.
_PAGES_A_STEP = 2000


@decodes
def stats(db: sqlite3.Connection, handle: TableHandle, backend: str) -> TableStats:
    table = current_table(db, handle)
    (rows,) = db.execute(f"SELECT count(*) FROM {table.rows}").fetchone()
    chunks, slots = db.execute(
        f"SELECT count(*), coalesce(sum(size), 0) FROM {table.shadow('chunks')}"
    ).fetchone()
    (deletes,) = db.execute(
        "SELECT count(*) FROM aiovec_deleted WHERE name = ?", (table.name,)
    ).fetchone()
    optimized, created = db.execute(
        "SELECT optimized, created FROM aiovec_tables WHERE name = ?", (table.name,)
    ).fetchone()
    page_size, pages, free = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    # A slot contains the vector, its bits, and the rowid.
    dim, bits = table.schema.dim, table.schema.dim // 8 if table.schema.quantized else 0
    vector_bytes = slots * (4 * dim + bits + 8)
    text_bytes, text_details = text_index.details_of(db, table)
    return TableStats(
        table=table.name,
        backend=backend,
        rows=rows,
        bytes=vector_bytes + text_bytes + _row_bytes(db, table, rows),
        index="none: every search is exact",
        unindexed_rows=rows,
        scan_memory=0,
        last_optimize=None if optimized is None else datetime.fromisoformat(optimized),
        details={
            "created": created,
            "vector_bytes": vector_bytes,
            "vector_chunks": chunks,
            "vector_slots": slots,
            "deletes_kept": deletes,
            "file_bytes": pages * page_size,
            "free_bytes": free * page_size,
            **text_details,
        },
    )


def _row_bytes(db: sqlite3.Connection, table: TableLayout, rows: int) -> int:
    """Return the approximate size in bytes of the ordinary table, estimated from some rows."""
    lengths = " + ".join(f"coalesce(length({c}), 0)" for c in table.row_columns)
    (mean,) = db.execute(
        f"SELECT avg({lengths}) FROM (SELECT * FROM {table.rows} LIMIT 1000)"
    ).fetchone()
    # The id is also in an index, and rowid and change number take about 16 bytes in each of two
    # places.
    return int(rows * ((mean or 0) + 32))


@decodes
def sparse_chunks(db: sqlite3.Connection, ticket: Ticket, handle: TableHandle) -> list[int]:
    """Return the ids of all sparse chunks, except the last chunk of each partition."""
    table = current_table(db, handle)
    sparse = []
    newest: dict[object, int] = {}
    keys = "".join(f", partition{i:02}" for i in range(len(table.partitions)))
    for chunk, size, validity, *key in db.execute(
        f"SELECT chunk_id, size, validity{keys} FROM {table.shadow('chunks')} ORDER BY chunk_id"
    ):
        ticket.check()
        if len(validity) * 8 != size:
            raise DamageError(f"a chunk of {table.name!r} is truncated")
        newest[tuple(key)] = chunk
        used = int(np.unpackbits(np.frombuffer(validity, dtype=np.uint8)).sum())
        if used < _SPARSE * size:
            sparse.append(chunk)
    last = set(newest.values())
    return [chunk for chunk in sparse if chunk not in last]


def empty_chunks(tx: Transaction, handle: TableHandle, chunks: list[int]) -> int:
    """Empty the first few of these chunks into newer ones; return the number of chunks emptied."""
    table = current_table(tx.db, handle)
    moved = 0
    for done, chunk in enumerate(chunks):
        if moved >= _MOST_MOVED:
            return done
        rowids = [
            row[0]
            for row in tx.db.execute(
                f"SELECT rowid FROM {table.rowids} WHERE chunk_id = ?", (chunk,)
            )
        ]
        tx.check()
        move_vectors(tx, table, rowids)
        moved += len(rowids)
    return len(chunks)


def finish_optimize(tx: Transaction, handle: TableHandle, keep_deletes: int) -> None:
    """Prune old tombstones, update the query planner's statistics, and record the time."""
    table = current_table(tx.db, handle)
    prune_deletes(tx, table.name, keep_deletes)
    tx.db.execute(f"PRAGMA analysis_limit = {_ANALYZED}")
    tx.db.execute(f"ANALYZE {table.rows}")
    tx.db.execute(
        "UPDATE aiovec_tables SET optimized = ? WHERE name = ?",
        (datetime.now(UTC).isoformat(), table.name),
    )


def give_back(tx: Transaction) -> bool:
    """Give some free pages back to the file system; return True if more are left."""
    (before,) = tx.db.execute("PRAGMA freelist_count").fetchone()
    if not before:
        return False
    tx.take()  # SQLite does not count this as a change
    tx.db.execute(f"PRAGMA incremental_vacuum({_PAGES_A_STEP})").fetchall()
    (free,) = tx.db.execute("PRAGMA freelist_count").fetchone()
    # If another tool rewrote the file without auto_vacuum, its free pages stay.
    return bool(0 < free < before)


def checkpoint(db: sqlite3.Connection, _: Ticket) -> None:
    """Copy the WAL into the file, and truncate the WAL unless readers still need it."""
    (timeout,) = db.execute("PRAGMA busy_timeout").fetchone()
    # Waiting for a reader, such as a slow export, would make every writer wait too.
    db.execute("PRAGMA busy_timeout = 0")
    try:
        # If it cannot truncate, it copies as PASSIVE would. A second checkpoint right behind it is
        # one half of the WAL-reset bug, which SQLite had until 3.51.3.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        db.execute(f"PRAGMA busy_timeout = {timeout}")
