"""SQLite's errors become ours, in one table at the edge."""

from __future__ import annotations

import re
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
IOERR = 10
CORRUPT = 11
FULL = 13
CANTOPEN = 14
NOTADB = 26

# SQLite has no code of its own for these. Names and values in our statements come from the file
# itself or were checked, so they are told only where something was changed behind our back.
_DAMAGE = re.compile(
    r"^no such (table|column)|^Could not decode to UTF-8|^malformed JSON"
    r"|user-defined function raised exception|^cannot store \w+ value in"
)
_FAILED_IN_VEC0 = re.compile(
    r"^Internal sqlite-vec error|^vec0 (deletion|constructor) error|^chunks iter error"
    r"|^Error preparing stmtChunk|shadow table|\bblob\b|^Could not (fetch|find a row)",
    re.IGNORECASE,
)

# How much more a file must be able to grow not to count as full: a few pages of the largest size.
_ROOM = 256 * 1024


class DamageError(Exception):
    """What was read cannot be what was written. Never reaches a user: see ``translate``."""


def code_of(error: BaseException) -> int:
    """The primary result code, 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    return code_of(error) in (BUSY, LOCKED)


def failures() -> tuple[type[Exception], ...]:
    """What ``translate`` is for."""
    # The driver's message about a damaged file can hold bytes that are no text.
    return (load_driver().Error, DamageError, UnicodeDecodeError)


def translate(error: Exception, target: str) -> AiovecError:
    """The error of the contract for one of the driver's."""
    code = code_of(error)
    text = str(error)
    if isinstance(error, (DamageError, UnicodeDecodeError)) or _DAMAGE.search(text):
        code = CORRUPT
    elif code in (0, 1) and _FAILED_IN_VEC0.search(text):
        # sqlite-vec does not pass on why a statement of its own failed.
        code = CORRUPT if _why_no_room(target) is None else IOERR
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
    except failures() as exc:
        raise translate(exc, target) from exc
