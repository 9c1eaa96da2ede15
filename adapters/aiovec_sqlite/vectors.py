"""Read vectors from vec0: a few vectors by rowid, many by chunk.

sqlite-vec keeps vectors in chunks: BLOBs of a few hundred vectors in an ordinary table. A query of
vec0 takes 5 µs per row; reading whole chunks and selecting with NumPy takes a tenth of that
(``python -m bench writes``). sqlite-vec documents its chunk tables, and aiovec accepts only
versions of sqlite-vec that have them.
"""

from __future__ import annotations

import json
import sqlite3

import numpy as np

from aiovec.backend import Float32Array, Int64Array

from .connection import Ticket
from .errors import DamageError, decodes
from .layout import TableLayout
from .sql.values import numbers_in

# Up to this many rows, a vec0 query is faster than reading whole chunks.
_FEW = 128
# The fewest rows for which a whole chunk is read.
_WORTH_A_CHUNK = 16


class VectorReader:
    """Reads a table's vectors in one snapshot, and caches the last chunk."""

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
        """Return the vectors of existing rows, in the order of ``rowids``.

        A row without a vector gets NaN. Pass ``present`` only if all these rows have a vector.
        """
        if self._table.schema.vector_nullable and not present:
            return self._read_with_gaps(rowids, ticket)
        return self._read_all(rowids, ticket)

    def _read_all(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        """Return the vectors of rows, all of which must have a vector."""
        if len(rowids) <= _FEW:
            return self._read_by_rowid(rowids, ticket)
        return self._read_by_chunks(rowids, ticket)

    def _read_with_gaps(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        rows = self._db.execute(
            f"SELECT j.key FROM json_each(?) AS j CROSS JOIN {self._table.rowids} AS m "
            "ON m.rowid = j.value",
            (json.dumps(rowids.tolist()),),
        ).fetchall()
        with_vector = np.sort(np.array(rows, dtype=np.int64).reshape(-1))
        vectors = np.full((len(rowids), self._dim), np.nan, dtype=np.float32)
        if len(with_vector):
            vectors[with_vector] = self._read_all(rowids[with_vector], ticket)
        return vectors

    def _read_by_rowid(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        check_places(self._db, self._table)
        # ``rowid IN (…)`` would scan the whole table.
        sql = (
            f"SELECT v.vector FROM json_each(?) AS j CROSS JOIN {self._table.vec} AS v "
            "ON v.rowid = j.value"
        )
        with ticket.uninterrupted:
            rows = self._db.execute(sql, (json.dumps(rowids.tolist()),)).fetchall()
        if len(rows) != len(rowids):
            raise self._missing()
        joined = np.frombuffer(bytearray().join([row[0] for row in rows]), np.float32)
        return joined.reshape(len(rowids), self._dim)

    def _read_by_chunks(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        vectors = np.empty((len(rowids), self._dim), dtype=np.float32)
        sql = (
            "SELECT group_concat(m.chunk_id), group_concat(m.chunk_offset) FROM json_each(?) AS j "
            f"CROSS JOIN {self._table.rowids} AS m ON m.rowid = j.value"
        )
        for start in range(0, len(rowids), BLOCK):
            block = rowids[start : start + BLOCK]
            texts = self._db.execute(sql, (json.dumps(block.tolist()),)).fetchone()
            chunk_ids, offsets = map(numbers_in, texts)
            if not len(chunk_ids) == len(offsets) == len(block):
                raise self._missing()
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

    def _missing(self) -> DamageError:
        return DamageError(f"table {self._table.name!r}: rows have no vector")

    def check_rows(self) -> None:
        """Raise DamageError unless vec0 has as many rows as the ordinary table.

        If vectors are nullable, vec0 may have fewer rows. A scan of one table would miss the rows
        that only the other table has.
        """
        rows, vectors = self._db.execute(
            f"SELECT (SELECT count(*) FROM {self._table.rows}), "
            f"(SELECT count(*) FROM {self._table.rowids})"
        ).fetchone()
        if rows < vectors:
            raise MissingRowsError(self._table)
        if rows > vectors and not self._table.schema.vector_nullable:
            raise self._missing()

    def _pick(
        self, chunk_id: int, offsets: Int64Array, vectors: Float32Array, rows: Int64Array
    ) -> None:
        """Copy a chunk's vectors at ``offsets`` to these ``rows`` of ``vectors``."""
        chunk = self._read_chunk(chunk_id)
        if offsets.min() < 0 or offsets.max() >= len(chunk):
            raise DamageError(f"a chunk of vectors of {self._table.name!r} is truncated")
        first, last = rows[0], rows[-1]
        if last - first + 1 == len(rows):
            # The rows are consecutive, so one copy is enough. The mode "raise" would copy them
            # twice.
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
            raise DamageError(f"a chunk of vectors of {self._table.name!r} is missing or truncated")
        (blob,) = row
        self._chunk_id = chunk_id
        self._chunk = np.frombuffer(blob, dtype=np.float32).reshape(-1, self._dim)
        return self._chunk


# Rows read at a time.
BLOCK = 2048


class MissingRowsError(DamageError):
    """vec0 or an index has rows that the ordinary table lacks."""

    def __init__(self, table: TableLayout) -> None:
        super().__init__(f"table {table.name!r}: rows with a vector are missing")


def check_places(db: sqlite3.Connection, table: TableLayout) -> None:
    """Raise SQLite's error if vec0 cannot look up rowids; vec0 itself would crash instead."""
    db.execute(f"SELECT id + chunk_id + chunk_offset FROM {table.rowids} LIMIT 0")
