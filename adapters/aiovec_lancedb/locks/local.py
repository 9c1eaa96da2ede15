"""The right to write to a table: one holder at a time, in all threads of a process.

On a folder a locked file holds other processes off as well; the system frees it when its process
ends, however that ends. So who looks an id up and then writes is alone there. In a bucket it is
not, see ``writes``. No task keeps it by being cancelled.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import anyio

from aiovec.backend.files import try_lock, unlock
from aiovec.backend.threads import in_daemon_thread

from ..errors import translate

FOLDER = ".aiovec"
"""Beside the tables' folders; holds a file for each name of a table."""

# How long a try sleeps before the next look at the file.
_POLL = 0.002


@cache
def _in_process(key: str) -> threading.Lock:
    """The same lock for every store of this process, whatever its thread or event loop."""
    return threading.Lock()


class TableLock:
    """The lock of one table, for tasks of one store."""

    def __init__(self, key: str, file: Path | None) -> None:
        self._lock = _in_process(key)
        self._path = file
        self._file: LockedFile | None = None

    async def take(
        self,
        patience: float,
        limit: anyio.CapacityLimiter,
        before: Callable[[], None] = lambda: None,
        first: Callable[[], None] = lambda: None,
    ) -> bool:
        """Take the lock within some seconds; return whether it was taken. If cancelled, it was not.

        ``before`` is done before it is taken, and ``first`` at once under the lock, which is not
        held where either raises.
        """
        # Who pops this first decides: the thread that the lock is taken, or a cancelled caller that
        # it is not.
        wanted = [True]

        def acquire() -> bool:
            before()
            if not self._acquire(patience):
                return False
            try:
                first()
            except BaseException:
                self.release()
                raise
            with suppress(IndexError):
                return wanted.pop()
            self.release()
            return False

        try:
            # A cancelled caller leaves at once: the thread may wait for the lock.
            async with limit:
                return await in_daemon_thread(acquire)
        except BaseException:
            try:
                wanted.pop()
            except IndexError:  # the thread has taken it
                self.release()
            raise

    def _acquire(self, patience: float) -> bool:
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
        try:
            while (file := LockedFile.at(path)) is None:
                if time.monotonic() > until:
                    return False
                time.sleep(_POLL)
        except OSError as exc:
            raise translate(exc, str(path)) from exc
        self._file = file
        return True

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()


class LockedFile:
    """A file that is open as long as it is locked, so a table that rests holds none open."""

    __slots__ = ("_number",)

    def __init__(self, path: Path, flags: int) -> None:
        """Open the file, not yet locked."""
        flags |= os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        self._number: int | None = os.open(path, flags, 0o666)

    @classmethod
    def at(cls, path: Path, *, create: bool = True) -> LockedFile | None:
        """Lock the file at this path, which is created where it is missing.

        Return None where another holds it. Without ``create`` a missing file is a
        FileNotFoundError.
        """
        while True:
            try:
                file = cls(path, os.O_CREAT if create else 0)
            except FileNotFoundError:
                if not create:
                    raise
                path.parent.mkdir(parents=True, exist_ok=True)
                continue
            try:
                if not file._lock():
                    file.close()
                    return None
                # A file that was removed or replaced after it was opened keeps nobody off.
                if file._is_at(path):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()

    def _lock(self) -> bool:
        return self._number is not None and try_lock(self._number)

    def _is_at(self, path: Path) -> bool:
        if self._number is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._number), os.stat(path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Give the lock back; a second time, nothing."""
        number, self._number = self._number, None
        if number is not None:
            try:
                # At once, where a child that was forked has a copy.
                unlock(number)
            finally:
                os.close(number)
