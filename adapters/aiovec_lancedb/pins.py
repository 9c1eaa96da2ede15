"""Versions that somebody reads for long: none of them may be removed.

A pin holds in this process for every store on the same place, and on a folder for other processes
too: by a locked file whose name tells the version. The system frees it when its process ends,
however that ends. On object storage other machines' reads are not known.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from aiovec.backend import TableHandle, in_thread, to_its_end

from .errors import READ_ONLY, translate
from .locks import LockedFile
from .session import Opened, Session

_FOLDER = "readers"
_numbers = itertools.count()


class _File(NamedTuple):
    locked: LockedFile
    path: Path


class _Held:
    """The pins of this process on one table, by version."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.versions: Counter[int] = Counter()


@cache
def _held(key: str) -> _Held:
    return _Held()


class Pins:
    """The pins on the tables of one place."""

    def __init__(self, key: str, folder: Path | None) -> None:
        self._key = key
        self._folder = None if folder is None else folder / _FOLDER

    @asynccontextmanager
    async def reading(self, session: Session, handle: TableHandle) -> AsyncIterator[Opened]:
        """The table for a read that takes long."""
        async with session.reading(handle) as opened:
            version = int(await session.run(opened.lance.version()))
            async with self.held(handle.name, version):
                yield opened

    @asynccontextmanager
    async def held(self, table: str, version: int) -> AsyncIterator[None]:
        """Keep a version that is the newest, or was a moment ago."""
        taking = asyncio.ensure_future(in_thread(self._take, table, version))
        try:
            await asyncio.shield(taking)
            yield
        finally:
            # Whoever is cancelled now must not leave it taken: a thread's work that is cancelled
            # before it began is never done.
            await to_its_end(self._released(table, version, taking))

    async def _released(
        self, table: str, version: int, taking: asyncio.Future[_File | None]
    ) -> None:
        await asyncio.wait({taking})
        if not taking.cancelled() and taking.exception() is None:
            await in_thread(self._give_back, table, version, taking.result())

    def _take(self, table: str, version: int) -> _File | None:
        file = None if self._folder is None else _locked_file(self._folder / table, version)
        held = _held(f"{self._key}\n{table}")
        with held.lock:
            held.versions[version] += 1
        return file

    def _give_back(self, table: str, version: int, file: _File | None) -> None:
        held = _held(f"{self._key}\n{table}")
        with held.lock:
            held.versions[version] -= 1
            held.versions += Counter()
        if file is not None:
            _remove(file)

    def oldest(self, table: str) -> int | None:
        """The oldest version that is pinned, by whomever. Reads the disk."""
        held = _held(f"{self._key}\n{table}")
        with held.lock:
            found = set(held.versions)
        if self._folder is not None:
            found |= set(_in_use(self._folder / table))
        return min(found, default=None)


def _locked_file(folder: Path, version: int) -> _File | None:
    """A file that pins the version; None where this process may not write to the folder.

    Whoever can write there does not see the pin then: reading needs no right to write.
    """
    path = folder / f"{version}-{os.getpid()}-{next(_numbers)}"
    while True:
        try:
            file = LockedFile.at(path)
        except OSError as exc:
            if exc.errno in READ_ONLY:
                return None
            raise translate(exc, str(folder)) from exc
        if file is not None:
            return _File(file, path)
        # Another took it, just made and not yet locked, for one left behind.


def _remove(file: _File) -> None:
    # Where an open file cannot be removed, it goes with the next look for the oldest.
    with suppress(OSError):
        file.path.unlink()
    file.locked.close()


def _in_use(folder: Path) -> Iterator[int]:
    """The versions of the files that are locked. Files that a process left behind go."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        version, _, _ = name.partition("-")
        try:
            file = LockedFile.at(folder / name, create=False)
        except FileNotFoundError:
            continue
        except OSError:
            file = None
        if file is None:
            yield int(version)
        else:
            _remove(_File(file, folder / name))
