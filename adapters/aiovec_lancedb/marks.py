"""A migration's mark, which is a record stored next to the tables."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aiovec.backend.files import flush_folder, lock_file, unlock_file
from aiovec.backend.marks import OPEN, PAUSED, MoveMark, MoveRecord, unreadable_mark
from aiovec.backend.threads import in_thread
from aiovec.errors import CorruptStoreError, StoreBusyError, UnsupportedError

from .errors import Translated
from .locks.local import FOLDER

if TYPE_CHECKING:
    from .locks.bucket import Bucket

_T = TypeVar("_T")

# Seconds for which a change of the mark waits for another one to end.
_PATIENCE = 30.0
# Windows refuses to replace or open a file while another process has it open.
_TRIES, _BETWEEN_TRIES = (100, 0.01) if sys.platform == "win32" else (1, 0.0)


def _tried(act: Callable[[], _T]) -> _T:
    """Return a function's result; on Windows, retry for a second while access is denied."""
    for _ in range(_TRIES - 1):
        with suppress(PermissionError):
            return act()
        time.sleep(_BETWEEN_TRIES)
    return act()


_RECORD = "_move.json"
_IN_BUCKET = f"{FOLDER}/{_RECORD}"
# The most attempts to change the object while other processes keep changing it.
_ATTEMPTS = 20


def generation_in(folder: Path) -> int:
    """Return the generation in the folder's record; 0 without a readable record."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        return MoveRecord.from_json((folder / _RECORD).read_bytes()).generation
    return 0


def write_generation(folder: Path, generation: int) -> None:
    """Create a store's lock folder. Unless ``generation`` is 0, write a record of it there."""
    folder.mkdir()
    if generation:
        text = MoveRecord(generation=generation).to_json()
        (folder / _RECORD).write_text(text, encoding="utf-8")


class MarkFile:
    """A folder's mark, stored in a file. Every method does I/O, so never call one on the event
    loop."""

    poll = 0.01
    """Seconds between two checks of a mark that pauses writers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / _RECORD

    def read(self) -> bytes | None:
        """Return the stored record; None if no record exists."""
        with suppress(FileNotFoundError):
            return _tried(self._file.read_bytes)
        return None

    def change(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the record atomically with the result of ``change``, unless the result is None.
        ``change`` may be called more than once."""
        lock = lock_file(self._folder / "_move.lock", patience=_PATIENCE)
        if lock is None:
            raise StoreBusyError("another process is changing the mark of the migration", _PATIENCE)
        try:
            text = change(self.read())
            if text is not None:
                self._replace(text)
        finally:
            unlock_file(lock)

    def _replace(self, text: bytes) -> None:
        # Every writer of the store reads the record, so it gets the default permissions, like other
        # files.
        partial = self._folder / f"_move.{uuid.uuid4().hex}.partial"
        try:
            with partial.open("xb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            _tried(lambda: partial.replace(self._file))
            flush_folder(self._folder)
        finally:
            partial.unlink(missing_ok=True)


class MarkObject:
    """A bucket's mark, stored in an object. The methods are the same as those of ``MarkFile``.

    A change is written only if the object has not changed since it was read, so no change is lost.
    """

    poll = 0.2

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def read(self) -> bytes | None:
        return self._bucket.get(_IN_BUCKET)[0]

    def change(self, change: Callable[[bytes | None], bytes | None]) -> None:
        for _ in range(_ATTEMPTS):
            old, mode = self._bucket.get(_IN_BUCKET)
            text = change(old)
            if text is None or self._bucket.put(_IN_BUCKET, text, mode):
                return
        raise StoreBusyError("other processes keep changing the mark of the migration", 0.0)


MarkStorage = MarkFile | MarkObject


class StoreMark:
    """The mark as one store sees it. ``make``, which creates the mark's storage, is None if the
    store can have no mark."""

    def __init__(self, target: str, make: Callable[[], MarkStorage] | None) -> None:
        self._target = target
        self._make = make
        self.run: str | None = None
        """The migration run that this store acts for."""

    @property
    def supported(self) -> bool:
        return self._make is not None

    @property
    def poll(self) -> float:
        """Seconds between two checks of a mark that pauses writers."""
        return self._storage.poll

    @cached_property
    def _storage(self) -> MarkStorage:
        """The storage, created in a thread at the first check of the mark."""
        if self._make is None:
            raise UnsupportedError(
                "a migration while the app writes", "lancedb",
                f"{self._target} has no lock that all its writers use",
            )  # fmt: skip
        return self._make()

    # In a thread

    def read(self) -> MoveRecord:
        if self._make is None:
            return MoveRecord()
        with Translated(self._target):
            return self._record(self._storage.read())

    def _record(self, text: bytes | None) -> MoveRecord:
        try:
            return MoveRecord() if text is None else MoveRecord.from_json(text)
        except (ValueError, TypeError, RecursionError) as exc:
            raise CorruptStoreError(self._target, unreadable_mark(exc)) from exc

    def is_open(self) -> bool:
        """Return whether a migration away from the store is in progress."""
        mark = self.read().mark
        return mark is not None and mark.state in (OPEN, PAUSED)

    def look(self) -> MoveMark | None:
        """Return the mark that this store has to obey."""
        mark = self.read().mark
        return None if mark is None or mark.run == self.run else mark

    def change(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        records = [MoveRecord(), MoveRecord()]

        def replace(text: bytes | None) -> bytes | None:
            damaged = False
            try:
                before = self._record(text)
            except CorruptStoreError:
                if not anew:
                    raise
                before, damaged = MoveRecord(), True
            after = change(before)
            records[:] = [before, after]
            return after.to_json().encode() if damaged or after != before else None

        with Translated(self._target):
            self._storage.change(replace)
        return records[0], records[1]

    def end_pause(self, paused: MoveMark) -> None:
        self.change(lambda record: record.end_pause(paused.pause))

    def is_over(self, paused: MoveMark) -> bool:
        mark = self.read().mark
        return mark is None or mark.state != PAUSED or mark.pause != paused.pause

    # On the event loop

    async def check_here(self) -> None:
        """Raise StoreMovedError if a migration has moved the store, unless this object belongs to
        that migration's run."""
        if self._make is None:
            return
        mark = await in_thread(self.look)
        if mark is not None and mark.left:
            raise mark.moved_error(self._target)

    async def concerns_reads(self) -> bool:
        """Return whether the store has a mark that readers have to check."""
        mark = (await in_thread(self.read)).mark
        return mark is not None and not mark.filling
