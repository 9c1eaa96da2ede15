"""Reading rows of the file as the codes that a copy holds."""

from __future__ import annotations

import sqlite3
from typing import Protocol

from ..connection import Ticket
from ..layout import TableLayout
from ..vectors import VectorReader, ordinary
from .bits import SignReader
from .codes import RowCodes, encode_rows
from .segments import Int64Array

# What a row takes beside its codes: scale, offset, error and rowid.
BYTES_BESIDE = 20
# Vectors encoded at once: what is computed on the way stays in the processor's cache, and is little
# beside the copy.
_BLOCK_BYTES = 384 * 1024
# For fewer rows their chunks would not be read whole.
_FEWEST = 256


class RowReader(Protocol):
    """Reads one table's rows within one snapshot."""

    width: int
    """How many numbers a row's codes are."""
    together: int
    """How many rows should be read at once."""

    def read(self, rowids: Int64Array, ticket: Ticket) -> RowCodes:
        """The codes of rows that exist, in the order of ``rowids``."""
        ...


class Int8Reader:
    """The codes of the exact scan."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout) -> None:
        self.width = table.schema.dim
        self.together = max(_FEWEST, _BLOCK_BYTES // (4 * table.schema.dim))
        self._vectors = VectorReader(db, table)
        self._metric = table.schema.metric

    def read(self, rowids: Int64Array, ticket: Ticket) -> RowCodes:
        return encode_rows(ordinary(self._vectors.read(rowids, ticket)), self._metric)


def bytes_of_row(dim: int, *, bits: bool) -> int:
    """What a row of so many dimensions takes in a copy."""
    return (dim // 8 if bits else dim) + BYTES_BESIDE


def row_reader(db: sqlite3.Connection, table: TableLayout, *, bits: bool) -> RowReader:
    """Reads rows as signs, or as the codes of the exact scan."""
    return SignReader(db, table) if bits else Int8Reader(db, table)
