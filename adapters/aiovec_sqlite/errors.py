"""SQLite's errors become ours, in one table at the edge.

What a file holds is checked as well before it is believed: SQLite keeps any type in any column once
a disk or a program has damaged the file, so each value that is read back has its type looked at.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from aiovec.backend.files import NO_ROOM, writing_to
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    FilterError,
    StoreBusyError,
    StoreFullError,
)

from .driver import load_driver

# SQLite's primary result codes. Not every driver tells the extended ones.
ERROR = 1
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
# How long, in seconds, a file is read to see whether that can be done, and bytes in one piece.
_LONGEST_LOOK, _AT_ONCE = 10.0, 2**20


class DamageError(Exception):
    """The value read cannot be the value written. Never reaches a user: see ``translate``."""


_REBUILD = (
    "the rows may be intact: rebuild the index with drop_field_index and create_field_index(..., "
    "'text')"
)
_TEXT_INDEX = re.compile(r"\.text[0-9]{1,19}(?![0-9])")


def names_text_index(message: str) -> bool:
    """Return whether SQLite's message is about the table of a text index."""
    return _TEXT_INDEX.search(message) is not None


class TextDamageError(DamageError):
    """The text index of a table is damaged, and its rows need not be."""

    def __init__(self, table: str, reason: str, code: int = 0) -> None:
        # A driver's error may be one of the file system, see ``may_pass``.
        self.sqlite_errorcode = code
        super().__init__(f"the text index of {table!r} is damaged: {reason}; {_REBUILD}")


# What ``Connection.backup`` of the driver raises has no code.
_CODES = {
    "database or disk is full": FULL,
    "disk I/O error": IOERR,
    "attempt to write a readonly database": READONLY,
    "unable to open database file": CANTOPEN,
    "database is locked": BUSY,
}


def code_of(error: BaseException) -> int:
    """The primary result code, 0 where there is none."""
    code = getattr(error, "sqlite_errorcode", None)
    return int(_CODES.get(str(error), 0) if code is None else code) & 0xFF


def is_busy(error: BaseException) -> bool:
    return code_of(error) in (BUSY, LOCKED)


def may_pass(error: BaseException) -> bool:
    """Return whether the error may be one of the file system that the next try does not meet.

    SQLite says CORRUPT for EIO, and sqlite-vec does not say why.
    """
    code = code_of(error)
    return code in (IOERR, CORRUPT) or (
        code in (0, 1) and _FAILED_IN_VEC0.search(str(error)) is not None
    )


def failures() -> tuple[type[Exception], ...]:
    """Return the errors that ``translate`` takes."""
    # The driver's message about a damaged file can hold bytes that are no text.
    return (load_driver().Error, DamageError, UnicodeDecodeError)


def translate(error: Exception, target: str, *, repeated: bool = True) -> AiovecError:
    """The error of the contract for one of the driver's.

    Without ``repeated`` it came at the first try, so it may be one of the file system.
    """
    passing = not repeated and may_pass(error)
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
    if code in (IOERR, CORRUPT) and (reason := _why_unreadable(target)) is not None:
        return AiovecError(
            f"the file system or the disk failed to read {target} ({reason}); the stored data may "
            "be intact, and nothing was changed; try again"
        )
    if code == IOERR:
        return AiovecError(
            f"the file system or the disk of {target} failed ({text}); nothing was changed, try "
            "again"
        )
    if passing and code == CORRUPT:
        return AiovecError(
            f"{target} could not be read ({text}): the file system failed, or the file is damaged; "
            "try again, and if it still fails, run 'aiovec doctor' to see which"
        )
    if isinstance(error, TextDamageError):
        return CorruptStoreError(target, text)
    if code in (0, ERROR, CORRUPT) and names_text_index(text):
        return CorruptStoreError(target, f"a text index is damaged ({text}); {_REBUILD}")
    if "no such module: fts5" in text or "error in tokenizer constructor" in text:
        return AiovecError(
            f"{target} has a text index that this SQLite cannot use ({text}); use a newer SQLite "
            "(pip install pysqlite3), or drop the text index with one"
        )
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
        if exc.errno in NO_ROOM:
            return exc.strerror or str(exc)
    return None


def _why_unreadable(target: str) -> str | None:
    """Why the file or its WAL cannot be read, where that is so: then it is not called damaged.

    They are read where SQLite has them open: to open and close them would drop its locks. Where
    that cannot be found out (on Windows), they count as readable.
    """
    wanted = {os.path.realpath(target), os.path.realpath(target) + "-wal"}
    until = time.monotonic() + _LONGEST_LOOK
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        return None
    for number in numbers:
        if _path_of(number) not in wanted:
            continue
        wanted.discard(_path_of(number))
        at = 0
        try:
            while time.monotonic() < until and (read := len(os.pread(number, _AT_ONCE, at))):
                at += read
        except OSError as exc:
            if exc.errno != errno.EBADF:  # closed meanwhile
                return exc.strerror or str(exc)
    return None


def _path_of(number: int) -> str:
    try:
        if sys.platform == "darwin":
            import fcntl

            return os.fsdecode(fcntl.fcntl(number, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Let no error of the driver pass untranslated."""
    try:
        yield
    except failures() as exc:
        raise translate(exc, target) from exc


@contextmanager
def copying_to(path: str) -> Iterator[None]:
    """For a copy that is written to a path: what fails there is told of it, not of the store."""
    try:
        with writing_to(path):
            yield
    except failures() as exc:
        code = code_of(exc)
        if code in (FULL, READONLY, CANTOPEN) or (code == IOERR and _why_no_room(path)):
            raise translate(exc, path) from exc
        raise


_T = TypeVar("_T")


def stored(value: object, kind: type[_T], what: str) -> _T:
    """The value, or DamageError where it is of another type. ``what`` names it in the error."""
    if type(value) is not kind:
        raise DamageError(f"{what} is {_told(value)}, not {kind.__name__}")
    return value


def check_stored(values: Iterable[object], kind: type, what: str, *, null: bool = False) -> None:
    """Raise DamageError where a value of a column is of another type."""
    allowed = {kind, type(None)} if null else {kind}
    if not allowed.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in allowed)
        raise DamageError(f"{what} holds {_told(wrong)}, not {kind.__name__}")


def _told(value: object) -> str:
    return "NULL" if value is None else f"a {type(value).__name__}"
