"""The right to write to a table: one holder at a time, in all threads and processes.

Lance merges concurrent appends without a look at their ids, so whoever looks an id up and then
writes must be alone. In one process a lock is enough. On a folder a locked file holds other
processes off as well; the system frees it when its process ends, however that ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import cache
from pathlib import Path

FOLDER = ".aiovec"
"""Beside the tables' folders; holds a file for each name of a table, which is never removed."""

# How long a try sleeps before the next look at the file.
_POLL = 0.002


@cache
def _in_process(key: str) -> threading.Lock:
    """The same lock for every store of this process, whatever its thread or event loop."""
    return threading.Lock()


class WriteLock:
    """The lock of one table for one store. Every method waits or does I/O: not on the loop."""

    def __init__(self, key: str, file: Path | None) -> None:
        self._lock = _in_process(key)
        self._path = file
        self._file: int | None = None

    def acquire(self, patience: float) -> bool:
        """Take it within ``patience`` seconds; whether it was taken."""
        until = time.monotonic() + patience
        if not self._lock.acquire(timeout=patience):
            return False
        taken = False
        try:
            taken = self._path is None or self._take_file(self._path, until)
        finally:
            if not taken:
                self._lock.release()
        return taken

    def _take_file(self, path: Path, until: float) -> bool:
        if self._file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        while not try_lock(self._file):
            if time.monotonic() > until:
                return False
            time.sleep(_POLL)
        return True

    def release(self) -> None:
        if self._file is not None:
            unlock(self._file)
        self._lock.release()

    def close(self) -> None:
        """Give the file back; the lock is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


if sys.platform == "win32":
    import msvcrt

    def try_lock(file: int) -> bool:
        os.lseek(file, 0, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(file: int) -> bool:
        # Of the open file, not of the process: so two stores of one process exclude each other.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
