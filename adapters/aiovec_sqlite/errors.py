"""SQLite's errors become ours, in one table at the edge."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    FilterError,
    StoreBusyError,
    StoreFullError,
)

from .driver import load_driver

# SQLite's primary result codes. Not every driver tells the extended ones.
BUSY = 5
LOCKED = 6
READONLY = 8
INTERRUPT = 9
IOERR = 10
CORRUPT = 11
FULL = 13
CANTOPEN = 14
NOTADB = 26

# How much more a file must be able to grow not to count as full: a few pages of the largest size.
_ROOM = 256 * 1024


def code_of(error: BaseException) -> int:
    """The primary result code, 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    return code_of(error) in (BUSY, LOCKED)


def translate(error: sqlite3.Error, target: str) -> AiovecError:
    """The error of the contract for one of the driver's."""
    code = code_of(error)
    text = str(error)
    if code == FULL:
        return StoreFullError(target, text)
    if code == IOERR and (reason := _why_no_room(target)) is not None:
        return StoreFullError(target, reason)
    if code in (BUSY, LOCKED):
        return StoreBusyError(f"{target} is locked by another process", 0.0)
    if code in (CORRUPT, NOTADB):
        return CorruptStoreError(target, f"the file is damaged ({text}); restore it from a backup")
    if code in (READONLY, CANTOPEN):
        return AiovecError(f"{target} cannot be opened or written: {text}")
    if "parser stack overflow" in text or "Expression tree is too large" in text:
        return FilterError(f"the filter is nested too deeply for this SQLite ({text})")
    if "pattern too complex" in text:
        return FilterError("the LIKE pattern is too long")
    return AiovecError(f"SQLite failed on {target}: {text}")


def _why_no_room(target: str) -> str | None:
    """Why the file cannot grow, where that is so.

    SQLite calls only a full disk FULL; a file-size limit or a quota is an I/O error like any
    other. So a file beside it, as long as the longest of the store's, is tried.
    """
    path = Path(target)
    lengths = [0]
    for name in (path.name, f"{path.name}-wal"):
        with suppress(OSError):
            lengths.append(path.with_name(name).stat().st_size)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.seek(max(lengths))
            probe.write(bytes(_ROOM))
            probe.flush()
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Let no error of the driver pass untranslated."""
    try:
        yield
    except load_driver().Error as exc:
        raise translate(exc, target) from exc
