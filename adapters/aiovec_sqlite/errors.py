"""Translate SQLite errors into aiovec errors before they leave a thread."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from aiovec.backend.files import writing_to
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    FilterError,
    StoreBusyError,
    StoreFullError,
    StorePermissionError,
)

from . import stems
from .driver import load_driver

_P = ParamSpec("_P")
_T = TypeVar("_T")

# SQLite's primary result codes. Not every driver has the extended result codes.
ERROR = 1
BUSY = 5
LOCKED = 6
READONLY = 8
IOERR = 10
CORRUPT = 11
FULL = 13
CANTOPEN = 14
NOTADB = 26

# SQLite has no codes for these errors. Names and values in our statements come from the file
# itself or were checked, so the errors mean that another program changed the file.
_DAMAGE = re.compile(
    r"^no such (table|column)|^Could not decode to UTF-8|^malformed JSON"
    r"|user-defined function raised exception|^cannot store \w+ value in"
)
_FAILED_IN_VEC0 = re.compile(
    r"^Internal sqlite-vec error|^vec0 (deletion|constructor) error|^chunks iter error"
    r"|^Error preparing stmtChunk|shadow table|\bblob\b|^Could not (fetch|find a row)",
    re.IGNORECASE,
)


class DamageError(Exception):
    """The file contains a value that aiovec never writes.

    Never reaches a user: see ``translate``.
    """


def decodes(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function raise DamageError if it cannot convert a stored value.

    Tables are STRICT, so a value that cannot be converted is not the value that aiovec wrote.
    """

    @wraps(function)
    def decode(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except (TypeError, ValueError, OverflowError) as exc:
            if isinstance(exc, AiovecError):
                raise
            raise DamageError(f"{type(exc).__name__}: {exc}") from exc

    return decode


_REBUILD = (
    "the rows may be intact: rebuild the index with drop_field_index and create_field_index(..., "
    "'text')"
)
_TEXT_INDEX = re.compile(r"\.text[0-9]{1,19}(?![0-9])")


def names_text_index(message: str) -> bool:
    """Return whether one of SQLite's error messages names a table of a text index."""
    return _TEXT_INDEX.search(message) is not None


class TextDamageError(DamageError):
    """The text index of a table is damaged; the table's rows may be intact."""

    def __init__(self, table: str, reason: str) -> None:
        super().__init__(f"the text index of {table!r} is damaged: {reason}; {_REBUILD}")


# Errors from the driver's ``Connection.backup`` have no code.
_CODES = {
    "database or disk is full": FULL,
    "disk I/O error": IOERR,
    "attempt to write a readonly database": READONLY,
    "unable to open database file": CANTOPEN,
    "database is locked": BUSY,
}


def code_of(error: BaseException) -> int:
    """Return the primary result code, or 0 if the error has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return int(_CODES.get(str(error), 0) if code is None else code) & 0xFF


def is_busy(error: BaseException) -> bool:
    return code_of(error) in (BUSY, LOCKED)


def failures() -> tuple[type[Exception], ...]:
    """Return the errors that ``translate`` handles.

    The driver raises UnicodeDecodeError if SQLite's message quotes undecodable data.
    """
    return (load_driver().Error, DamageError, UnicodeDecodeError)


# If fewer bytes than this are free, a sqlite-vec error without a reason means a full disk.
_NO_ROOM = 2**20


def translate(error: Exception, target: str) -> AiovecError:
    """Return the aiovec error for a driver error or an unreadable value."""
    if isinstance(error, AiovecError):
        return error
    code = code_of(error)
    text = str(error)
    if isinstance(error, (DamageError, UnicodeDecodeError)) or _DAMAGE.search(text):
        code = CORRUPT
    elif code in (0, ERROR) and _FAILED_IN_VEC0.search(text):
        code = FULL if _is_full(target) else CORRUPT
    if code == FULL:
        return StoreFullError(target, text)
    if code in (BUSY, LOCKED):
        return StoreBusyError(f"{target} is locked by another process", 0.0)
    if code == IOERR:
        return AiovecError(
            f"the file system or the disk of {target} failed ({text}); nothing was changed, try "
            "again"
        )
    if isinstance(error, TextDamageError):
        return CorruptStoreError(target, text)
    if code in (0, ERROR, CORRUPT) and names_text_index(text):
        return CorruptStoreError(target, f"a text index is damaged ({text}); {_REBUILD}")
    if f"no such function: {stems.NAME}" in text:
        return stems.no_stemmer()
    if "error in tokenizer constructor" in text:
        return AiovecError(
            f"{target} has a text index that this SQLite cannot use ({text}); use a Python with "
            "SQLite 3.45 or newer, also to drop the index"
        )
    if code in (CORRUPT, NOTADB):
        return _damaged(target, text)
    if code in (READONLY, CANTOPEN):
        if (protected := _protected(target)) is not None:
            return StorePermissionError(target, protected)
        return AiovecError(f"{target} cannot be opened or written: {text}")
    if "parser stack overflow" in text or "Expression tree is too large" in text:
        return FilterError(f"the filter is nested too deeply for this SQLite ({text})")
    if "pattern too complex" in text:
        return FilterError("the LIKE pattern is too long")
    return AiovecError(f"SQLite failed on {target}: {text}")


def _damaged(target: str, reason: str) -> CorruptStoreError:
    return CorruptStoreError(
        target,
        f"the file is damaged ({reason}), or the disk failed to read it: run 'aiovec doctor' to "
        "see which, and restore the file from a backup if it is damaged",
    )


def _protected(target: str) -> str | None:
    """Return a message if the file or its folder is write-protected; None if both are writable."""
    path = Path(target)
    effective = os.access in os.supports_effective_ids
    for place in (path, path.resolve().parent):
        if place.exists() and not os.access(place, os.W_OK, effective_ids=effective):
            reads = "; pass read_only=True to open it for reading only" if path.is_file() else ""
            return f"{place} is write-protected{reads}"
    return None


def _is_full(target: str) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(os.path.dirname(os.path.abspath(target))).free < _NO_ROOM
    return False


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Translate the driver's errors that the block raises."""
    try:
        yield
    except AiovecError:
        raise
    except failures() as exc:
        raise translate(exc, target) from exc


@contextmanager
def copying_to(path: str) -> Iterator[None]:
    """Within the block, let disk errors name the copy that is being written, not the store."""
    try:
        with writing_to(path):
            yield
    except load_driver().Error as exc:
        if code_of(exc) in (FULL, READONLY, CANTOPEN):
            raise translate(exc, path) from exc
        raise
