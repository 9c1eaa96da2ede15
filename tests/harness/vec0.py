"""Databases as programs make them that use sqlite-vec without aiovec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlite_vec

try:  # many a Python's own sqlite3 loads no extensions
    import pysqlite3.dbapi2 as driver
except ImportError:
    import sqlite3 as driver


def connect(path: Path) -> Any:
    """Open a database with sqlite-vec; each statement commits itself."""
    db = driver.connect(str(path), isolation_level=None)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    return db
