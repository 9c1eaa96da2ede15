"""Create databases like a program that uses sqlite-vec without aiovec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlite_vec

try:  # the SQLite that stores use: two SQLite libraries in one process would lose locks
    import pysqlite3.dbapi2 as driver
except ImportError:
    import sqlite3 as driver


def connect(path: Path) -> Any:
    """Open a database with sqlite-vec, in autocommit mode."""
    db = driver.connect(str(path), timeout=30, isolation_level=None)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    return db
