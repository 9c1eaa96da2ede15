"""Databases as programs make them that use sqlite-vec without aiovec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlite_vec

try:  # the SQLite that a store uses too: two of them in one process would lose locks
    import pysqlite3.dbapi2 as driver
except ImportError:
    import sqlite3 as driver


def connect(path: Path) -> Any:
    """Open a database with sqlite-vec; each statement commits itself."""
    db = driver.connect(str(path), timeout=30, isolation_level=None)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    return db
