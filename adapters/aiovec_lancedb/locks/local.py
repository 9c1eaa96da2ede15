"""The write lock of a table. Only one thread of a process can hold the lock at a time.

In a folder, a locked file also keeps out other processes; the system unlocks the file when the
process ends, even in a crash. So a process can look up an id and then write, without another write
in between. In a bucket this is not possible: see ``operations``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

from aiovec.backend.files import lock_file, unlock_file
from aiovec.backend.threads import in_thread, to_its_end

from ..errors import Translated

FOLDER = ".aiovec"
"""The folder with the lock files and the migration mark, next to the tables' folders."""

ONE_TRY = 0.1
"""Seconds that one try for a lock may take before the waiting calls are checked again: some may
have been cancelled or have reached their timeout."""

_in_process: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
_first = threading.Lock()


def _lock_of(key: str) -> threading.Lock:
    """Return this process's lock for a key, the same in every thread and event loop."""
    with _first:
        return _in_process.setdefault(key, threading.Lock())


class TableLock:
    """One table's lock, for the tasks of one store.

    ``check`` raises an error if the folder was removed, because taking the lock would create it
    again. ``threads`` limits the threads that wait for locks, so that they do not delay other work.
    """

    def __init__(
        self, key: str, file: Path | None, check: Callable[[], None], threads: asyncio.Semaphore
    ) -> None:
        self._lock = _lock_of(key)
        self._path = file
        self._check = check
        self._threads = threads
        self._thread = asyncio.Semaphore(1)  # so that releasing the lock waits for no other work
        self._file: int | None = None
        self._held = False

    async def take(self, patience: float, first: Callable[[], None] = lambda: None) -> bool:
        """Take the lock within ``patience`` seconds; return whether it was taken.

        A cancelled call does not hold the lock. ``first`` is called under the lock, which is
        released if ``first`` raises an error.
        """

        def acquire() -> bool:
            self._check()
            self._held = self._acquire(patience)
            if self._held:
                try:
                    first()
                except BaseException:
                    self._release()
                    raise
            return self._held

        try:
            return await in_thread(acquire, limit=self._threads)
        except asyncio.CancelledError:
            await self.release()
            raise

    def _acquire(self, patience: float) -> bool:
        if not self._lock.acquire(timeout=patience):
            return False
        taken = self._path is None
        try:
            if self._path is not None:
                with Translated(str(self._path)):
                    self._file = lock_file(self._path, patience=patience)
                taken = self._file is not None
        finally:
            if not taken:
                self._lock.release()
        return taken

    async def release(self) -> None:
        """Release the lock, if it is held.

        A thread unlocks the file, because on a network drive this takes a request.
        """
        try:
            await to_its_end(in_thread(self._release, limit=self._thread))
        finally:
            self._release()  # the event loop's end may have cancelled the thread's work

    def _release(self) -> None:
        if not self._held:
            return
        self._held = False
        number, self._file = self._file, None
        try:
            if number is not None:
                unlock_file(number)
        finally:
            self._lock.release()
