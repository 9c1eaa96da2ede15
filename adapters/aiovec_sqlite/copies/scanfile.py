"""Scan files, next to the store, hold tables' segments or words. All processes map them.

``docs/internals/adr/0014-a-scan-file-that-processes-share.md`` describes the layout of segments,
and why a file is valid only if the store holds its token: the random bytes of its name, and a
digest of its head. ``postings.py`` has the layout of words.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aiovec.backend import Int64Array
from aiovec.backend.files import create_like, try_lock, unlock

from ..layout import TableLayout, floor_of, newest_change, token_of
from .segments import FULL, RowCodes, Segment, State

# Tables of fewer bytes get no file: they load faster than a user would notice. Tests set the
# environment variable so that they need not write large files.
_WORTH, VARIABLE = 32 * 2**20, "AIOVEC_SCAN_FILE_FROM"
# The first bytes of a file, by the kind of its contents.
_MAGIC = {"codes": b"aiovec scan file", "words": b"aiovec word file"}
_MAGIC_BYTES = 16
# Change this number when the layout or the meaning of the codes changes.
_LAYOUT = 2
HEAD = 4096
# Arrays begin at multiples of this, which is a multiple of every system's page size.
_ALIGNED = 65_536
# The number of bytes written at a time.
_PART = 32 * 2**20
# Seconds without a change to a locked file after which its writer counts as stopped, or as ended
# while a child process still holds its lock.
_STOPPED = 10.0
_NAME = re.compile(r"-scan-[0-9a-f]{32}")
# The bounds of a segment's rows, and the flag for sorted rowids.
_FACTS = ("most_error", "most_reach", "most_offset", "most_lower", "ordered")
_SMALL = ("rowids", "scale", "error", "offset")
_LARGE = ("upper", "lower", "vectors")
# Size in bytes of the digest of a segment's large arrays; only ``aiovec doctor`` verifies it.
_DIGEST = 32

_Array = npt.NDArray[Any]


class SpoiledFileError(Exception):
    """A scan file is damaged: its values are impossible, or do not match their checksum."""


def size_of(rows: int, dim: int) -> int:
    """Return the approximate size in bytes of this many rows, in a file or in memory."""
    return rows * (4 * dim + dim + dim % 2 + 20)


class _Places:
    """The offsets of the arrays in a scan file with a given number of rows."""

    def __init__(self, rows: int, dim: int) -> None:
        # Rows per segment: few, because two segments are in memory while the file is written.
        self.full = min(FULL, max(1024, _PART // (5 * dim + 20)) // 64 * 64)
        half, segments = (dim + 1) // 2, -(-rows // self.full)
        self.arrays: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        self.length = HEAD
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
        """Return the named array in a buffer that begins at byte ``begin`` of the file."""
        start, kind, shape = self.arrays[name]
        flat = np.frombuffer(buffer, kind, int(np.prod(shape)), start - begin)
        return flat.reshape(shape)

    @property
    def large(self) -> int:
        """The offset in the file at which the large arrays begin."""
        return self.arrays["upper"][0]


def _facts(table: TableLayout, rows: int, change: int, digest: str) -> dict[str, Any]:
    schema, places = table.schema, _Places(rows, table.schema.dim)
    return {
        "layout": _LAYOUT, "bytes": sys.byteorder, "full": places.full, "epoch": table.epoch,
        "dim": schema.dim, "metric": schema.metric, "rows": rows, "change": change,
        "length": places.length, "digest": digest,
    }  # fmt: skip


def _digest_of(segment: Segment) -> _Array:
    """Return the digest of a segment's large arrays; opening a file does not check these arrays."""
    digest = hashlib.sha256()
    for name in _LARGE:
        digest.update(getattr(segment, name))
    return np.frombuffer(digest.digest(), np.uint8)


def digest_of(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


class NewFile:
    """A scan file that is being written; its lock shows this to other processes.

    Raises OSError if it cannot be written, or if less than twice its approximate size, ``nbytes``,
    is free on the disk.
    """

    def __init__(self, store: Path, kind: str, nbytes: int) -> None:
        self._magic = _MAGIC[kind]
        if shutil.disk_usage(store.parent).free < 2 * nbytes:
            raise OSError("the disk has too little room for a scan file")
        self._random = secrets.token_hex(16)
        self.path = store.with_name(f"{store.name}-scan-{self._random}")
        create_like(self.path, store)
        self._file = self.path.open("r+b", buffering=0)
        try:
            if not try_lock(self._file.fileno()):
                raise OSError("another process holds the lock of a new scan file")
            self._file.write(self._magic)
        except OSError:
            self.discard()
            raise
        self.token = ""

    @property
    def number(self) -> int:
        """The file descriptor."""
        return self._file.fileno()

    def write(self, data: Any, place: int | None = None) -> None:
        """Write data at the offset ``place``; by default, where the last write ended."""
        if place is not None:
            self._file.seek(place)
        left = memoryview(data).cast("B")
        while left:
            left = left[self._file.write(left) :]

    def seal(self, facts: Mapping[str, Any]) -> None:
        """Write the head, and compute the token from it."""
        text = json.dumps({**facts, "random": self._random}).encode()
        head = (self._magic + text).ljust(HEAD, b"\0")
        self.write(head, 0)
        self.token = self._random + digest_of(head)

    def flush(self) -> None:
        """Flush the file to disk; call this before the store gets its token."""
        os.fsync(self._file.fileno())

    def end(self) -> None:
        """Release the lock; call this once the store has the file's token."""
        if not self._file.closed:
            unlock(self._file.fileno())  # explicitly: the mapping keeps the descriptor open
            self._file.close()

    def discard(self) -> None:
        """Remove the file. Processes that have mapped it can still use it."""
        self.end()
        with suppress(OSError):
            self.path.unlink()


def write_segments(
    file: NewFile,
    table: TableLayout,
    rows: int,
    change: int,
    blocks: Iterable[tuple[Int64Array, RowCodes]],
) -> State:
    """Write a snapshot's rows to a new file, and return a state that maps the file.

    ``rows`` is the number of rows, and ``change`` the change number of the snapshot.
    """
    dim, done = table.schema.dim, 0
    places = _Places(rows, dim)
    small, room = bytearray(places.large - HEAD), min(places.full, rows)
    segment, spare = Segment.empty(room, dim), Segment.empty(room, dim)
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "aiovec-scan-file") as writer:
        for rowids, codes in blocks:
            start = 0
            while start < len(rowids) and done < rows:
                part = slice(start, start + room - segment.count)
                segment = segment.append(rowids[part], codes.part(part))
                start += len(rowids[part])
                if segment.count == room:
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(_write_segment, file, places, small, segment, done)
                    done += room
                    room = min(room, rows - done)
                    segment, spare = spare.emptied(room), segment
        if writing is not None:
            writing.result()
    if done != rows:
        raise OSError(f"a scan file for {rows} rows got {done}")
    file.write(small, HEAD)
    file.seal(_facts(table, rows, change, digest_of(small)))
    return read_segments(file.number, file.token, table)


def _write_segment(
    file: NewFile, places: _Places, small: bytearray, segment: Segment, first: int
) -> None:
    """Write a segment's large arrays; copy its small arrays to ``small`` from row ``first`` on."""
    rows = slice(first, first + segment.count)
    for name in _SMALL:
        places.of(small, name, HEAD)[rows] = getattr(segment, name)
    number, facts = first // places.full, [getattr(segment, name) for name in _FACTS]
    places.of(small, "facts", HEAD)[number] = facts
    places.of(small, "digests", HEAD)[number] = _digest_of(segment)
    for name in _LARGE:
        start, kind, shape = places.arrays[name]
        file.write(getattr(segment, name), start + first * kind.itemsize * shape[1])


def _regular(path: str, flags: int) -> int:
    """Open a regular file (an opener for ``open``).

    Raises OSError for anything else, such as a pipe, which could block forever.
    """
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(number).st_mode):
        return number
    os.close(number)
    raise OSError(f"{path} is not a file")


# The errors raised for a file that is missing, damaged, or another table's.
_UNSOUND = (OSError, ValueError, LookupError, TypeError, ArithmeticError, SpoiledFileError)


def mapped(number: int, token: str) -> tuple[mmap.mmap, dict[str, Any]]:
    """Map an open file; return the mapping, and the facts in the file's head.

    Raises ValueError if the file does not match the token.
    """
    area = mmap.mmap(number, os.fstat(number).st_size, access=mmap.ACCESS_READ)
    head = area[:HEAD]
    if digest_of(head) != token[32:]:
        raise ValueError("the head")
    facts: dict[str, Any] = json.loads(head[_MAGIC_BYTES:].rstrip(b"\0"))
    if facts.pop("random") != token[:32]:
        raise ValueError("another file's head")
    return area, facts


def read_segments(number: int, token: str, table: TableLayout, *, whole: bool = False) -> State:
    """Return the state in an open file; raise ValueError if it is not valid for the table.

    With ``whole``, also compare codes and vectors with their digests.
    """
    area, head = mapped(number, token)
    rows, change, digest = head["rows"], head["change"], head["digest"]
    if not (type(rows) is type(change) is int):
        raise ValueError("the numbers of rows and changes")
    places = _Places(rows, table.schema.dim)
    if head != _facts(table, rows, change, digest) or len(area) != places.length:
        raise ValueError("another table, or another length")
    with memoryview(area) as view, view[HEAD : places.large] as small:
        if digest_of(small) != digest:
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
    """Advise the system to read ahead all codes, in large pages, but no vectors."""
    vectors = places.arrays["vectors"][0]
    codes = places.large, vectors - places.large
    for name, start, length in (
        ("MADV_HUGEPAGE", *codes), ("MADV_WILLNEED", *codes),
        ("MADV_RANDOM", vectors, places.length - vectors),
    ):  # fmt: skip
        with suppress(AttributeError, OSError):  # the system does not support it
            area.madvise(getattr(mmap, name), start, length)


class _OfSnapshot(Protocol):
    """A file's contents, with the change number of the snapshot that they were made from."""

    @property
    def change(self) -> int: ...


_Kept = TypeVar("_Kept", bound=_OfSnapshot)
# Reads the contents of an open file; takes its descriptor and its token.
ReadFile = Callable[[int, str], _Kept]


class ScanFiles:
    """The scan files of one store."""

    def __init__(self, store: Path, *, read_only: bool, patience: float = _STOPPED) -> None:
        # Like SQLite's own files, scan files are next to the store, not next to a link to it.
        self._store = store.resolve()
        self.can_write = not read_only
        self._patience = min(_STOPPED, patience)
        self.least = int(os.environ.get(VARIABLE, _WORTH))
        """The smallest size in bytes for which a table gets a file."""
        # By kind: the files that other processes were writing at the last check, and the time
        # since which these files have not changed.
        self._written: dict[str, tuple[set[tuple[str, int, int]], float]] = {}

    def find(
        self, db: sqlite3.Connection, table: TableLayout, kind: str, read: ReadFile[_Kept]
    ) -> _Kept | None:
        """Return the contents of the table's file of this kind.

        Returns None if the table has no file that is valid in this snapshot.
        """
        token = token_of(db, table.name, kind)
        if token is None:
            return None
        path = self._path_of(token)
        try:
            with open(path, "rb", opener=_regular) as file:
                contents = read(file.fileno(), token)
            self._keep_private(path)
        except _UNSOUND:
            return None
        return contents if floor_of(db, table) <= contents.change <= newest_change(db) else None

    def _path_of(self, token: str) -> Path:
        return self._store.with_name(f"{self._store.name}-scan-{token[:32]}")

    def _keep_private(self, path: Path) -> None:
        """Make a scan file's permissions no wider than those of the store's file."""
        allowed, mode = (stat.S_IMODE(os.stat(file).st_mode) for file in (self._store, path))
        if mode & ~(allowed | 0o600):
            with suppress(OSError):  # another user owns it
                path.chmod(mode & (allowed | 0o600))

    def examine(
        self, db: sqlite3.Connection, table: TableLayout, kind: str, read: ReadFile[Any]
    ) -> tuple[Path, bool] | None:
        """Return the table's file, and True if ``read`` can read it; None without a file."""
        token = token_of(db, table.name, kind)
        if token is None:
            return None
        path = self._path_of(token)
        try:
            with open(path, "rb", opener=_regular) as file:
                read(file.fileno(), token)
        except FileNotFoundError:
            return None
        except _UNSOUND:
            return path, False
        return path, True

    def new(self, kind: str, nbytes: int) -> NewFile:
        """Begin a file of about ``nbytes``; raise OSError if the disk has no room for it."""
        return NewFile(self._store, kind, nbytes)

    def waits(self, kind: str) -> bool:
        """Return whether another process is still writing a file of this kind."""
        written = set[tuple[str, int, int]]()
        with self._locked(_MAGIC[kind]) as (_, busy):
            for path in busy:
                with suppress(OSError):
                    status = path.stat()
                    written.add((path.name, status.st_size, status.st_mtime_ns))
        now = time.monotonic()
        before, since = self._written.get(kind, (set(), now))
        self._written[kind] = written, since if written == before else now
        return bool(written) and now < self._written[kind][1] + self._patience

    def clean(self, db: sqlite3.Connection) -> None:
        """Remove files whose tokens are not in the store: older files, and files that killed
        writers left.

        If a file's lock is free, its writer has ended: it has already committed the token, or never
        will. So the tokens are read while the locks are held.
        """
        with self._locked(*_MAGIC.values()) as (free, _):
            sql = "SELECT key, value FROM aiovec_state WHERE key LIKE 'scan:%'"
            known = {str(value)[:32] for _, value in db.execute(sql).fetchall()}
            for path in free:
                if path.name[-32:] not in known:
                    with suppress(OSError):  # Windows cannot remove mapped files
                        path.unlink()

    @contextmanager
    def _locked(self, *kinds: bytes) -> Iterator[tuple[list[Path], list[Path]]]:
        """Lock the files that nobody is writing; yield their paths, and the other files' paths."""
        free: list[Path] = []
        written: list[Path] = []
        begin = len(self._store.name)
        with ExitStack() as files:
            with suppress(OSError):
                for path in self._store.parent.iterdir():
                    if not path.name.startswith(self._store.name):
                        continue
                    if not _NAME.fullmatch(path.name[begin:]) or path.is_symlink():
                        continue
                    with suppress(OSError):
                        file = files.enter_context(open(path, "r+b", opener=_regular))
                        if file.read(_MAGIC_BYTES) in (*kinds, b""):  # else: not a scan file
                            (free if try_lock(file.fileno()) else written).append(path)
            yield free, written
