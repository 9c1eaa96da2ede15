"""The store of users who write it by hand: SQLite and sqlite-vec without aiovec, tuned alike."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import sqlite_vec

from aiovec_sqlite.driver import load_driver

Float32Array = npt.NDArray[np.float32]

PAGE_SIZE = 16_384
CHUNK_SIZE = 256
CACHE_MB = 64


def connect(path: Path, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """A connection with sqlite-vec, set up as aiovec's writer is, by the same driver."""
    db = cast(
        "sqlite3.Connection",
        load_driver().connect(str(path), isolation_level=None, check_same_thread=False),
    )
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    db.enable_load_extension(False)
    db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute(f"PRAGMA cache_size = {-1024 * CACHE_MB}")
    return db


@contextmanager
def slow_flush(seconds: float) -> Iterator[None]:
    """Make every commit of this process last longer, as on a disk that flushes slowly.

    Many server disks answer a flush from a protected cache in 0.1 ms; others take 2 to 10 ms.
    """
    driver = load_driver()
    connect = driver.connect

    class SlowConnection(driver.Connection):  # type: ignore[misc,name-defined]
        def execute(self, sql: str, *values: Any) -> Any:
            cursor = super().execute(sql, *values)
            if sql == "COMMIT":
                time.sleep(seconds)
            return cursor

    driver.connect = partial(connect, factory=SlowConnection)
    try:
        yield
    finally:
        driver.connect = connect


def create_vec0(db: sqlite3.Connection, dim: int) -> None:
    db.execute(
        "CREATE VIRTUAL TABLE vec USING vec0("
        f"vector float[{dim}] distance_metric=cosine, chunk_size={CHUNK_SIZE})"
    )


def create_blobs(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE blobs (rowid INTEGER PRIMARY KEY, vector BLOB NOT NULL)")


def insert_vectors(
    db: sqlite3.Connection, table: str, rowids: Iterable[int], vectors: Float32Array
) -> None:
    """One transaction, one ``executemany``."""
    db.execute("BEGIN IMMEDIATE")
    db.executemany(
        f"INSERT INTO {table} (rowid, vector) VALUES (?, ?)",
        zip(rowids, map(bytes, vectors), strict=True),
    )
    db.execute("COMMIT")


def create_rows(db: sqlite3.Connection, columns: Sequence[str]) -> None:
    """An ordinary table beside vec0, for what a real application stores with a vector."""
    named = ", ".join(f"{name} TEXT" for name in columns)
    db.execute(f"CREATE TABLE rows (rowid INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, {named})")


def insert_rows(
    db: sqlite3.Connection, rowids: Iterable[int], columns: Sequence[Sequence[Any]]
) -> None:
    marks = ", ".join("?" * (len(columns) + 1))
    db.executemany(f"INSERT INTO rows VALUES ({marks})", zip(rowids, *columns, strict=True))
