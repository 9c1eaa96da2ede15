"""Reading vectors from vec0: a few by rowid, many by the chunks that hold them.

sqlite-vec keeps vectors in chunks: BLOBs of some hundred vectors in an ordinary table. A query of
vec0 takes 5 µs a row; reading whole chunks and picking with NumPy takes a tenth of that
(``python -m bench export``). The chunks' tables are described in sqlite-vec's documents but are not
its promise, so where they look otherwise vec0 itself is asked.
"""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import numpy.typing as npt

from .connection import Ticket
from .layout import TableLayout

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

# Below this many rows a query of vec0 is quicker than reading whole chunks.
_FEW = 128


class VectorReader:
    """Reads one table's vectors within one snapshot; keeps the chunk it read last."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout) -> None:
        self._db = db
        self._table = table
        self._dim = table.schema.dim
        self._chunk_id = -1
        self._chunk: Float32Array | None = None
        self._by_chunks = _has_known_chunks(db, table)

    def read(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        """The vectors of rows that exist, in the order of ``rowids``."""
        if len(rowids) <= _FEW or not self._by_chunks:
            return self._read_by_rowid(rowids, ticket)
        return self._read_by_chunks(rowids, ticket)

    def _read_by_rowid(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        vectors = np.empty((len(rowids), self._dim), dtype=np.float32)
        # ``rowid IN (…)`` would scan the whole table; a join from a list looks each row up.
        sql = (
            f"SELECT j.key, v.vector FROM json_each(?) AS j CROSS JOIN {self._table.vec} AS v "
            "ON v.rowid = j.value"
        )
        for start in range(0, len(rowids), _BLOCK):
            ticket.check()
            listed = json.dumps(rowids[start : start + _BLOCK].tolist())
            for position, blob in self._db.execute(sql, (listed,)):
                vectors[start + position] = np.frombuffer(blob, dtype=np.float32)
        return vectors

    def _read_by_chunks(self, rowids: Int64Array, ticket: Ticket) -> Float32Array:
        vectors = np.empty((len(rowids), self._dim), dtype=np.float32)
        sql = (
            "SELECT m.chunk_id, m.chunk_offset FROM json_each(?) AS j "
            f"CROSS JOIN {self._table.shadow('rowids')} AS m ON m.rowid = j.value"
        )
        for start in range(0, len(rowids), _BLOCK):
            block = rowids[start : start + _BLOCK]
            places = np.array(
                self._db.execute(sql, (json.dumps(block.tolist()),)).fetchall(), dtype=np.int64
            )
            order = np.argsort(places[:, 0], kind="stable")
            chunks, firsts = np.unique(places[order, 0], return_index=True)
            for chunk, members in zip(chunks, np.split(order, firsts[1:]), strict=True):
                ticket.check()
                vectors[start + members] = self._read_chunk(int(chunk))[places[members, 1]]
        return vectors

    def _read_chunk(self, chunk_id: int) -> Float32Array:
        if chunk_id == self._chunk_id and self._chunk is not None:
            return self._chunk
        (blob,) = self._db.execute(
            f"SELECT vectors FROM {self._table.shadow('vector_chunks00')} WHERE rowid = ?",
            (chunk_id,),
        ).fetchone()
        self._chunk_id = chunk_id
        self._chunk = np.frombuffer(blob, dtype=np.float32).reshape(-1, self._dim)
        return self._chunk


_BLOCK = 2048


def _has_known_chunks(db: sqlite3.Connection, table: TableLayout) -> bool:
    return (
        {"chunk_id", "chunk_offset"} <= _columns(db, f"{table.name}.vec_rowids")
        and "vectors" in _columns(db, f"{table.name}.vec_vector_chunks00")
    )  # fmt: skip


def _columns(db: sqlite3.Connection, name: str) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (name,))}
