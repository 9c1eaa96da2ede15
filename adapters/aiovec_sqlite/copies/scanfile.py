"""Scan files: a table's segments in a file next to the store, which processes map read-only.

``docs/internals/adr/0014-a-scan-file-that-processes-share.md`` describes the layout, and why a file
counts only if the store holds its token: the random bytes of its name, and a digest of its head.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import Int64Array
from aiovec.backend.files import create_like, try_lock, unlock

from ..layout import TableLayout, floor_of, newest_change, token_of
from .segments import FULL, RowCodes, Segment, State

# Tables of fewer bytes than this load faster than a user would notice. Tests set the variable, so
# that they need not write large files.
_WORTH, VARIABLE = 32 * 2**20, "AIOVEC_SCAN_FILE_FROM"
_MAGIC = b"aiovec scan file"
# A change of the layout, or of the meaning of codes, gets another number.
_LAYOUT = 2
_HEAD = 4096
# Arrays begin at a multiple of this, and so of every system's page size.
_ALIGNED = 65_536
# Bytes written at a time.
_PART = 32 * 2**20
# Seconds without a change after which a file's writer counts as stopped, or as gone with a child
# that inherited its lock.
_STOPPED = 10.0
_NAME = re.compile(r"-scan-[0-9a-f]{32}")
# The bounds of a segment's rows, and whether its rowids are sorted.
_FACTS = ("most_error", "most_reach", "most_offset", "most_lower", "ordered")
_SMALL = ("rowids", "scale", "error", "offset")
_LARGE = ("upper", "lower", "vectors")
# Bytes of the digest of a segment's large arrays, which only ``aiovec doctor`` computes again.
_DIGEST = 32

_Array = npt.NDArray[Any]


def size_of(rows: int, dim: int) -> int:
    """Return the approximate bytes of so many rows, in a file or in memory."""
    return rows * (4 * dim + dim + dim % 2 + 20)


class _Places:
    """The places of the arrays of so many rows in a file."""

    def __init__(self, rows: int, dim: int) -> None:
        # While a file is written, two parts of a segment's rows are in memory.
        self.full = min(FULL, max(1024, _PART // (5 * dim + 20)) // 64 * 64)
        half, segments = (dim + 1) // 2, -(-rows // self.full)
        self.arrays: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        self.length = _HEAD
        for name, kind, shape in (
            ("facts", "f8", (segments, len(_FACTS))), ("rowids", "i8", (rows,)),
            ("scale", "f4", (rows,)), ("error", "f4", (rows,)), ("offset", "f4", (rows,)),
            ("digests", "u1", (segments, _DIGEST)),
            ("upper", "i1", (rows, half)), ("lower", "i1", (rows, half)),
            ("vectors", "f4", (rows, dim)),
        ):  # fmt: skip
            start = -(-self.length // _ALIGNED) * _ALIGNED
            self.arrays[name] = start, np.dtype(kind), shape
            self.length = start + np.dtype(kind).itemsize * int(np.prod(shape))

    def of(self, buffer: Any, name: str, begin: int = 0) -> _Array:
        """Return the array of this name in a buffer that begins at ``begin`` of the file."""
        start, kind, shape = self.arrays[name]
        flat = np.frombuffer(buffer, kind, int(np.prod(shape)), start - begin)
        return flat.reshape(shape)

    @property
    def large(self) -> int:
        """The beginning of the large arrays."""
        return self.arrays["upper"][0]


def _head(table: TableLayout, rows: int, change: int, random: str, digest: str) -> bytes:
    schema, places = table.schema, _Places(rows, table.schema.dim)
    facts = {
        "layout": _LAYOUT, "bytes": sys.byteorder, "full": places.full, "epoch": table.epoch,
        "dim": schema.dim, "metric": schema.metric, "rows": rows, "change": change,
        "length": places.length, "random": random, "digest": digest,
    }  # fmt: skip
    return (_MAGIC + json.dumps(facts).encode()).ljust(_HEAD, b"\0")


def _digest_of(segment: Segment) -> _Array:
    """Return the digest of the arrays that are not checked when the file is opened."""
    digest = hashlib.sha256()
    for name in _LARGE:
        digest.update(getattr(segment, name))
    return np.frombuffer(digest.digest(), np.uint8)


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


class NewFile:
    """A scan file that is being written, which its lock shows to other processes.

    ``OSError`` if it cannot be written, or would leave too little room on the disk.
    """

    def __init__(self, store: Path, table: TableLayout, rows: int, change: int) -> None:
        self._places = _Places(rows, table.schema.dim)
        self._table, self._rows, self._change = table, rows, change
        if shutil.disk_usage(store.parent).free < 2 * self._places.length:
            raise OSError("the disk has too little room for a scan file")
        self._random = secrets.token_hex(16)
        self.path = store.with_name(f"{store.name}-scan-{self._random}")
        create_like(self.path, store)
        self._file = self.path.open("r+b", buffering=0)
        try:
            if not try_lock(self._file.fileno()):
                raise OSError("another process holds the lock of a new scan file")
            self._file.write(_MAGIC)
        except OSError:
            self.discard()
            raise
        self._small = bytearray(self._places.large - _HEAD)
        self.token = ""

    def fill(self, blocks: Iterable[tuple[Int64Array, RowCodes]]) -> State:
        """Write all rows and the head; return the rows as mapped."""
        room, dim, done = min(self._places.full, self._rows), self._table.schema.dim, 0
        segment, spare = Segment.empty(room, dim), Segment.empty(room, dim)
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1, "aiovec-scan-file") as writer:
            for rowids, rows in blocks:
                start = 0
                while start < len(rowids) and done < self._rows:
                    some = slice(start, start + room - segment.count)
                    segment = segment.append(rowids[some], rows.part(some))
                    start += len(rowids[some])
                    if segment.count == room:
                        if writing is not None:
                            writing.result()
                        writing = writer.submit(self._write, segment, done)
                        done += room
                        room = min(room, self._rows - done)
                        segment, spare = spare.emptied(room), segment
            if writing is not None:
                writing.result()
        if done != self._rows:
            raise OSError(f"a scan file of {self._rows} rows got {done}")
        return self._end()

    def _write(self, segment: Segment, first: int) -> None:
        rows = slice(first, first + segment.count)
        for name in _SMALL:
            self._places.of(self._small, name, _HEAD)[rows] = getattr(segment, name)
        number, facts = first // self._places.full, [getattr(segment, name) for name in _FACTS]
        self._places.of(self._small, "facts", _HEAD)[number] = facts
        self._places.of(self._small, "digests", _HEAD)[number] = _digest_of(segment)
        for name in _LARGE:
            start, kind, shape = self._places.arrays[name]
            self._put(start + first * kind.itemsize * shape[1], getattr(segment, name))

    def _end(self) -> State:
        self._put(_HEAD, np.frombuffer(self._small, np.uint8))
        digest = _digest(self._small)
        head = _head(self._table, self._rows, self._change, self._random, digest)
        self._put(0, np.frombuffer(head, np.uint8))
        self.token = self._random + _digest(head)
        return _mapped(self._file.fileno(), self._table, self.token)

    def _put(self, place: int, array: _Array) -> None:
        left = array.data.cast("B")
        self._file.seek(place)
        while left:
            left = left[self._file.write(left) :]

    def flush(self) -> None:
        """Flush it to the disk, before the store gets its token."""
        os.fsync(self._file.fileno())

    def end(self) -> None:
        """Release the lock once the store has its token."""
        if not self._file.closed:
            unlock(self._file.fileno())  # explicitly, because the mapping keeps the descriptor
            self._file.close()

    def discard(self) -> None:
        """Remove it. Processes that have mapped it keep it."""
        self.end()
        with suppress(OSError):
            self.path.unlink()


def _regular(path: str, flags: int) -> int:
    """Open a file for ``open``; OSError for anything else, such as a pipe, which would not end."""
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(number).st_mode):
        return number
    os.close(number)
    raise OSError(f"{path} is not a file")


# The errors of a file that is missing, damaged, or another's.
_UNSOUND = (OSError, ValueError, LookupError, TypeError, ArithmeticError)


def _read(path: Path, table: TableLayout, token: str, *, whole: bool = False) -> State:
    """Return the state in a file; one of ``_UNSOUND`` if it does not count."""
    with open(path, "rb", opener=_regular) as file:
        return _mapped(file.fileno(), table, token, whole=whole)


def _mapped(number: int, table: TableLayout, token: str, *, whole: bool = False) -> State:
    """Return the state in an open file; ValueError if it does not match the token.

    With ``whole``, codes and vectors are compared with their digests too.
    """
    length = os.fstat(number).st_size
    area = mmap.mmap(number, length, access=mmap.ACCESS_READ)
    head = area[:_HEAD]
    if _digest(head) != token[32:]:
        raise ValueError("the head")
    facts = json.loads(head[len(_MAGIC) :].rstrip(b"\0"))
    rows, change, digest = facts["rows"], facts["change"], facts["digest"]
    if not (type(rows) is type(change) is int):
        raise ValueError("the numbers of rows and changes")
    places = _Places(rows, table.schema.dim)
    if head != _head(table, rows, change, token[:32], digest) or length != places.length:
        raise ValueError("another table, or another length")
    with memoryview(area) as view, view[_HEAD : places.large] as small:
        if _digest(small) != digest:
            raise ValueError("the small arrays")
    _advise(area, places)
    names = ("upper", "lower", "scale", "offset", "error", "rowids", "vectors")
    arrays = [places.of(area, name) for name in names]
    segments, facts_of, digests = [], places.of(area, "facts"), places.of(area, "digests")
    for number, first in enumerate(range(0, rows, places.full)):
        most_error, most_reach, most_offset, most_lower, ordered = facts_of[number].tolist()
        upper, lower, scale, offset, error, rowids, vectors = (
            array[first : first + places.full] for array in arrays
        )
        segment = Segment(
            object(), len(rowids), 0, table.schema.dim, upper, lower, scale, offset, error, rowids,
            vectors, bool(ordered), most_error, most_reach, most_offset, most_lower, mapped=True,
        )  # fmt: skip
        if whole and not np.array_equal(_digest_of(segment), digests[number]):
            raise ValueError("codes or vectors")
        segments.append(segment)
    return State(change, tuple(segments))


def _advise(area: mmap.mmap, places: _Places) -> None:
    """Advise the system to read codes ahead in large pages, and vectors only where needed."""
    vectors = places.arrays["vectors"][0]
    codes = places.large, vectors - places.large
    for name, start, length in (
        ("MADV_HUGEPAGE", *codes), ("MADV_WILLNEED", *codes),
        ("MADV_RANDOM", vectors, places.length - vectors),
    ):  # fmt: skip
        with suppress(AttributeError, OSError):  # a system without such advice
            area.madvise(getattr(mmap, name), start, length)


class ScanFiles:
    """The scan files of one store."""

    def __init__(self, store: Path, *, read_only: bool, patience: float = _STOPPED) -> None:
        # Like SQLite's own files, they lie next to the file itself, not next to a link to it.
        self._store = store.resolve()
        self.can_write = not read_only
        self._patience = min(_STOPPED, patience)
        self.least = int(os.environ.get(VARIABLE, _WORTH))
        """The bytes from which on a table gets a file."""
        # The files that others were writing at the last look, and since when they are so.
        self._written: set[tuple[str, int, int]] = set()
        self._written_since = 0.0

    def find(self, db: sqlite3.Connection, table: TableLayout) -> State | None:
        """Map the table's file; None if there is none that counts in this snapshot."""
        token = token_of(db, table.name)
        if token is None:
            return None
        path = self._path_of(token)
        try:
            state = _read(path, table, token)
            self._keep_private(path)
        except _UNSOUND:
            return None
        return state if floor_of(db, table) <= state.change <= newest_change(db) else None

    def _path_of(self, token: str) -> Path:
        return self._store.with_name(f"{self._store.name}-scan-{token[:32]}")

    def _keep_private(self, path: Path) -> None:
        """Let nobody read the file who may not read the store any more."""
        allowed, mode = (stat.S_IMODE(os.stat(one).st_mode) for one in (self._store, path))
        if mode & ~(allowed | 0o600):
            with suppress(OSError):  # it is another user's
                path.chmod(mode & (allowed | 0o600))

    def examine(self, db: sqlite3.Connection, table: TableLayout) -> tuple[Path, bool] | None:
        """Return the table's file, of which all is read, and whether it is sound; None without."""
        token = token_of(db, table.name)
        if token is None:
            return None
        path = self._path_of(token)
        try:
            _read(path, table, token, whole=True)
        except FileNotFoundError:
            return None
        except _UNSOUND:
            return path, False
        return path, True

    def new(self, db: sqlite3.Connection, table: TableLayout, rows: int) -> NewFile:
        """Begin a file for the state of this snapshot; OSError if the disk refuses it."""
        return NewFile(self._store, table, rows, newest_change(db))

    def waits(self) -> bool:
        """Return whether another process is writing a file, and makes progress."""
        written = set()
        with self._locked() as (_, busy):
            for path in busy:
                with suppress(OSError):
                    status = path.stat()
                    written.add((path.name, status.st_size, status.st_mtime_ns))
        if written != self._written:
            self._written, self._written_since = written, time.monotonic()
        return bool(written) and time.monotonic() < self._written_since + self._patience

    def clean(self, db: sqlite3.Connection) -> None:
        """Remove files whose token the store does not hold: older ones, and remains of a kill.

        A file whose lock is free was given up, or the store has its token: so the tokens are read
        after taking the lock.
        """
        with self._locked() as (free, _):
            sql = "SELECT key, value FROM aiovec_state WHERE key LIKE 'scan:%'"
            known = {str(value)[:32] for _, value in db.execute(sql).fetchall()}
            for path in free:
                if path.name[-32:] not in known:
                    with suppress(OSError):  # Windows keeps a mapped file
                        path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[tuple[list[Path], list[Path]]]:
        """Hold the locks of the files that nobody is writing; yield these, and the others."""
        free: list[Path] = []
        written: list[Path] = []
        begin = len(self._store.name)
        with ExitStack() as held:
            with suppress(OSError):
                for path in self._store.parent.iterdir():
                    if not path.name.startswith(self._store.name):
                        continue
                    if not _NAME.fullmatch(path.name[begin:]) or path.is_symlink():
                        continue
                    with suppress(OSError):
                        file = held.enter_context(open(path, "r+b", opener=_regular))
                        if file.read(len(_MAGIC)) in (_MAGIC, b""):  # not another program's
                            (free if try_lock(file.fileno()) else written).append(path)
            yield free, written
