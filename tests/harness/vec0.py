"""Create databases like a program that uses sqlite-vec without aiovec."""

from __future__ import annotations

import importlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlite_vec

# The library that stores use: two in one process would release each other's locks.
with closing(sqlite3.connect(":memory:")) as _db:
    OWN = hasattr(_db, "enable_load_extension")
driver: Any = sqlite3 if OWN else importlib.import_module("sqlcipher3.dbapi2")

needs_recent_sqlite = pytest.mark.skipif(
    driver.sqlite_version_info < (3, 45),
    reason="before 3.45, SQLite cuts texts in JSON at a NUL, and its trigrams keep accents",
)


def connect(path: Path) -> Any:
    """Open a database with sqlite-vec, in autocommit mode."""
    db = driver.connect(str(path), timeout=30, isolation_level=None)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    return db
