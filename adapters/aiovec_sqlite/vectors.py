"""Reading vectors from vec0: a few by rowid, many by the chunks that hold them.

sqlite-vec keeps vectors in chunks: BLOBs of some hundred vectors in an ordinary table. A query of
vec0 takes 5 µs a row; reading whole chunks and picking with NumPy takes a tenth of that
(``python -m bench writes``). The chunks' tables are described in sqlite-vec's documents, and aiovec
takes only the versions of sqlite-vec that have them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from aiovec.backend import Float32Array, Int64Array

from .connection import Ticket
from .errors import DamageError, decodes
from .layout import TableLayout

# Below this many rows a query of vec0 is quicker than reading whole chunks.
_FEW = 128
# A chunk is read for no fewer rows than this.
_WORTH_A_CHUNK = 16


class VectorReader:
    """Reads one table's vectors within one snapshot; keeps the chunk it read last."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout) -> None:
        self._db = db
        self._table = table
        self._dim = table.schema.dim
        self._bytes = 4 * self._dim
        self._chunk_id = -1
        self._chunk: Float32Array | None = None

    @decodes
    def read(
        self,
        rowids: Int64Array,
        ticket: Ticket,
        *,
        present: bool = False,
    ) -> Float32Array:
        """Return the vectors of rows that exist, in the order of ``rowids``.

        Where rows may have no vector, theirs is of NaN, unless all of these are known to have one
        (``present``).
        """
        if self._table.schema.vector_nullable and not present:
            return self._read_with_gaps(rowids, ticket)
        return self._read_all(rowids, ticket)

    def _read_all(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        """Read rows that all have a vector."""
        if len(rowids) <= _FEW:
            return self._read_by_rowid(rowids, ticket)
        return self._read_by_chunks(rowids, ticket)

    def _read_with_gaps(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        found = self._db.execute(
            f"SELECT j.key FROM json_each(?) AS j CROSS JOIN {self._table.shadow('rowids')} AS m "
            "ON m.rowid = j.value",
            (json.dumps(rowids.tolist()),),
        ).fetchall()
        there = np.sort(np.array(found, dtype=np.int64).reshape(-1))
        vectors = np.full((len(rowids), self._dim), np.nan, dtype=np.float32)
        if len(there):
            vectors[there] = self._read_all(rowids[there], ticket)
        return vectors

    def _read_by_rowid(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        """Read some with each step of a statement, joined end to end.

        Each step hands the interpreter to another thread and waits to get it back, which under
        load takes longer than the reading (``python -m bench search``).
        """
        vectors = np.empty((len(rowids), self._dim), dtype=np.float32)
        wanted = rowids.tolist()
        start = 0
        while start < len(wanted):
            ticket.check()
            left = len(wanted) - start
            # The last ones are filled up with one of them read again.
            size = next((size for size in _TOGETHER if size <= left + size // 8), _TOGETHER[-1])
            size = size if left > 1 else 1
            some = wanted[start : start + size]
            some += some[-1:] * (size - len(some))
            with ticket.uninterrupted:
                blob, _ = self._db.execute(self._joined(size), some).fetchone()
            if blob is None or len(blob) != size * self._bytes:
                raise self._missing(wanted, ticket)
            joined = np.frombuffer(blob, dtype=np.float32).reshape(size, self._dim)
            vectors[start : start + size] = joined[:left]
            start += size
        return vectors

    def _joined(self, count: int) -> str:
        return _joined(self._table.vec, _places(self._table), count)

    def _read_by_chunks(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        vectors = np.empty((len(rowids), self._dim), dtype=np.float32)
        # Two texts of all numbers are read faster than a row for each.
        sql = (
            "SELECT group_concat(m.chunk_id), group_concat(m.chunk_offset) FROM json_each(?) AS j "
            f"CROSS JOIN {self._table.shadow('rowids')} AS m ON m.rowid = j.value"
        )
        for start in range(0, len(rowids), _BLOCK):
            block = rowids[start : start + _BLOCK]
            texts = self._db.execute(sql, (json.dumps(block.tolist()),)).fetchone()
            chunk_ids, offsets = (np.fromstring(text or "", np.int64, sep=",") for text in texts)
            if not len(chunk_ids) == len(offsets) == len(block):
                raise self._missing(rowids.tolist(), ticket)
            order = np.argsort(chunk_ids, kind="stable")
            chunks, firsts = np.unique(chunk_ids[order], return_index=True)
            scattered = []
            for chunk, members in zip(chunks, np.split(order, firsts[1:]), strict=True):
                if len(members) < _WORTH_A_CHUNK:
                    scattered.append(members)
                    continue
                ticket.check()
                self._pick(int(chunk), offsets[members], vectors, start + members)
            if scattered:
                single = np.concatenate(scattered)
                vectors[start + single] = self._read_by_rowid(block[single], ticket)
        return vectors

    def _missing(self, rowids: Sequence[int], ticket: Ticket) -> DamageError:
        """The error for rows of which at least one has no vector."""
        sql = (
            "SELECT count(*) FROM json_each(?) AS j WHERE NOT EXISTS "
            f"(SELECT 1 FROM {self._table.vec} AS v WHERE v.rowid = j.value)"
        )
        check_places(self._db, self._table)
        with ticket.uninterrupted:
            (count,) = self._db.execute(sql, (json.dumps(list(rowids)),)).fetchone()
        fault = f"{count} rows have no vector" if count else "a vector is cut short"
        return DamageError(f"table {self._table.name!r}: {fault}")

    def check_rows(self) -> None:
        """Raise DamageError where the ordinary table has more or fewer rows than vec0.

        A scan of one of them would pass by what only the other one has.
        """
        rows, vectors = self._db.execute(
            f"SELECT (SELECT count(*) FROM {self._table.rows}), "
            f"(SELECT count(*) FROM {self._table.shadow('rowids')})"
        ).fetchone()
        if self._table.schema.vector_nullable and rows > vectors:
            return
        if rows != vectors:
            fault = (
                "rows that have a vector are missing" if rows < vectors else "rows have no vector"
            )
            raise DamageError(f"table {self._table.name!r}: {abs(rows - vectors)} {fault}")

    def _pick(
        self, chunk_id: int, offsets: Int64Array, vectors: Float32Array, rows: Int64Array
    ) -> None:
        """Copy a chunk's vectors at ``offsets`` to where they belong."""
        chunk = self._read_chunk(chunk_id)
        if offsets.min() < 0 or offsets.max() >= len(chunk):
            raise DamageError(f"a chunk of vectors of {self._table.name!r} is cut short")
        first, last = rows[0], rows[-1]
        if last - first + 1 == len(rows):
            # They rise, so they lie side by side: no second copy. With "raise" there would be one.
            chunk.take(offsets, axis=0, out=vectors[first : last + 1], mode="clip")
        else:
            vectors[rows] = chunk[offsets]

    def _read_chunk(self, chunk_id: int) -> Float32Array:
        if chunk_id == self._chunk_id and self._chunk is not None:
            return self._chunk
        row = self._db.execute(
            f"SELECT vectors FROM {self._table.shadow('vector_chunks00')} WHERE rowid = ?",
            (chunk_id,),
        ).fetchone()
        if row is None or not isinstance(row[0], bytes) or len(row[0]) % self._bytes:
            raise DamageError(f"a chunk of vectors of {self._table.name!r} is missing or cut")
        (blob,) = row
        self._chunk_id = chunk_id
        self._chunk = np.frombuffer(blob, dtype=np.float32).reshape(-1, self._dim)
        return self._chunk


_BLOCK = 2048
# How many vectors a statement joins.
_TOGETHER = (64, 16, 4)


@lru_cache(maxsize=256)
def _joined(vec: str, places: str, count: int) -> str:
    """SQL for so many vectors end to end. ``rowid IN (…)`` would scan the whole table."""
    one = f"(SELECT vector FROM {vec} WHERE rowid = ?)"
    return f"SELECT CAST({_concatenated(one, count)} AS BLOB), ({places})"


def _concatenated(one: str, count: int) -> str:
    """SQL for so many end to end: halves of halves, so that no part is copied often."""
    if count == 1:
        return one
    half = _concatenated(one, count // 2)
    return f"({half} || {half})"


def check_places(db: sqlite3.Connection, table: TableLayout) -> None:
    """Raise what SQLite says where vec0 cannot find a row: vec0 itself crashes there."""
    db.execute(_places(table))


def _places(table: TableLayout) -> str:
    """SQL that finds nothing, and can be prepared just where the statement of vec0 can be."""
    return f"SELECT id + chunk_id + chunk_offset FROM {table.shadow('rowids')} LIMIT 0"
