"""Choose this process's SQLite driver, and open connections with sqlite-vec loaded."""

from __future__ import annotations

import functools
import importlib
import os
import sqlite3
import sys
import threading
from typing import Any, cast

from aiovec.backend.memory import limit_heaps
from aiovec.errors import ExtensionUnavailableError

from . import stems
from .sql.filters import register
from .sql.folding import count_in

# STRICT tables need 3.37; from 3.38 on, the JSON functions are always built in.
OLDEST_SQLITE = (3, 38, 0)

OPENING = threading.Lock()
"""The lock to hold while a connection opens its file, and while a database is read as an ordinary
file: closing that file would drop the locks of a connection that opened it in the meantime."""
if hasattr(os, "register_at_fork"):  # otherwise a forked child might wait for the lock forever
    os.register_at_fork(
        before=OPENING.acquire, after_in_parent=OPENING.release, after_in_child=OPENING.release
    )


_FIX = (
    "install a SQLite driver that loads extensions: pip install pysqlite3 (it has wheels for Linux "
    "on x86-64, macOS on arm64 and Windows); or use a Python that loads extensions, such as "
    "python.org's, Homebrew's, conda's or your distribution's"
)


@functools.lru_cache(maxsize=1)
def load_driver() -> Any:
    """Return a module with the interface of ``sqlite3`` that can load extensions.

    This is ``pysqlite3`` if it is installed, because its SQLite is recent and loads
    extensions on every platform; otherwise Python's own ``sqlite3``, if it can load extensions.
    """
    try:
        driver = importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        driver = sqlite3
    if not hasattr(driver.Connection, "enable_load_extension"):
        raise ExtensionUnavailableError(
            f"the sqlite3 module of {sys.executable} was built without loadable extensions, which "
            "sqlite-vec needs",
            _FIX,
        )
    if driver.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise ExtensionUnavailableError(
            f"SQLite {driver.sqlite_version} is too old; aiovec needs {oldest} or newer", _FIX
        )
    return driver


@functools.lru_cache(maxsize=1)
def has_fts5() -> bool:
    """Return whether the driver's SQLite has FTS5, which keyword searches need."""
    driver = load_driver()
    db = driver.connect(":memory:")
    try:
        db.execute("CREATE VIRTUAL TABLE probe USING fts5(body)")
    except driver.Error:
        return False
    finally:
        db.close()
    return True


def connect(database: str, *, uri: bool = False, timeout: float = 0.0) -> sqlite3.Connection:
    """Return an autocommit connection with sqlite-vec and aiovec's functions, for any thread."""
    driver = load_driver()
    limit_heaps()
    with OPENING:
        db = cast(
            "sqlite3.Connection",
            driver.connect(
                database, timeout=timeout, isolation_level=None, check_same_thread=False, uri=uri,
                cached_statements=256,
            ),
        )  # fmt: skip
    try:
        load_extension(db)
        register(db)
        db.create_function("aiovec_counts", 2, count_in)
        stems.register(db)
    except BaseException:
        db.close()
        raise
    return db


def load_extension(db: sqlite3.Connection) -> None:
    """Load sqlite-vec into a connection, or raise ExtensionUnavailableError with the reason."""
    try:
        import sqlite_vec
    except ImportError as exc:
        raise ExtensionUnavailableError(
            "the package sqlite-vec is not installed",
            "install it with: pip install sqlite-vec (it has no wheel for musl, such as Alpine)",
        ) from exc
    try:
        db.enable_load_extension(True)
        try:
            sqlite_vec.load(db)
        finally:
            db.enable_load_extension(False)
    except load_driver().Error as exc:
        raise ExtensionUnavailableError(
            f"sqlite-vec could not be loaded: {exc}",
            "reinstall it with: pip install --force-reinstall sqlite-vec",
        ) from exc
