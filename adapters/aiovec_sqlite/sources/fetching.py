"""Rows out of somebody's database, a bounded number of bytes at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import CORRUPT, NOTADB, code_of

_ROWS_AT_ONCE = 64
_BYTES_AT_ONCE = 32 * 2**20


def batches(
    db: sqlite3.Connection, sql: str, values: Sequence[Any], size: int
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a statement, up to ``size`` at once, and fewer where they are large."""
    cursor = db.execute(sql, tuple(values))
    try:
        held: list[tuple[Any, ...]] = []
        nbytes = 0
        while found := cursor.fetchmany(min(size, _ROWS_AT_ONCE)):
            held += found
            nbytes += sum(len(v) for row in found for v in row if isinstance(v, (bytes, str)))
            if len(held) >= size or nbytes >= _BYTES_AT_ONCE:
                yield held
                held, nbytes = [], 0
        if held:
            yield held
    finally:
        cursor.close()


def is_damage(error: BaseException) -> bool:
    """Whether SQLite itself finds the file damaged, rather than the statement at fault."""
    return code_of(error) in (CORRUPT, NOTADB)
