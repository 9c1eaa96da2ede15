"""A table's versions, for reads, and the queue of its writes.

Opening a table takes several hops to Lance's threads, so the newest version is kept. On a folder,
each read first checks that the kept version is still the newest, by the file names in the folder of
versions, as Lance does when it looks for the newest version. The check costs a third of opening the
table again. If the check is inconclusive, the read opens the table again. So a read sees every
write that was acknowledged before it began.

A Lance table that refreshes itself (with a ``read_consistency_interval`` of 0) would do the same
for twice the CPU time: its version does not show that the table was dropped and created again, so
its schema has to be read too. In a bucket this would take two requests, but opening the table takes
only one.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from aiovec.backend.commit import GroupCommit
from aiovec.backend.contract import Columns, StaleTableError, TableHandle
from aiovec.backend.limits import Deadline, Gate, current_deadline
from aiovec.backend.threads import in_thread
from aiovec.errors import CorruptStoreError, StoreClosedError

from .commit import OperationCall, TableCommitter, WriteOperation
from .layout import is_moving
from .memory import ids_bytes, result_bytes
from .retention import Pin, Pins
from .session import Newest, Session, Snapshot

# Reads of up to this many rows do not count the table's rows.
_FEW = 1000
_ID = Columns(())
# Seconds for which the measured size of a table's rows is used.
_SIZES_FOR = 10.0
# A file younger than this many nanoseconds may be replaced by another file with the same times,
# because the clock for file times advances only every few milliseconds.
_TOO_YOUNG = 100_000_000
# The name of a manifest: 2**64 - 1 minus its version, so the newest comes first. Manifests of old
# Lance versions have other names.
_NAME = re.compile(r"[0-9]{20}\.manifest\Z")


ManifestIdentity = tuple[str, int, int, int, int]
"""The name, inode, size and times of a manifest, which distinguish it from a manifest with the same
name after the table was dropped and recreated."""


def newest_manifest(folder: Path, table: str) -> ManifestIdentity | None:
    """Return the newest manifest's identity; None if it is too young to trust, or cannot be read.

    Reads the disk.
    """
    versions = folder / f"{table}.lance" / "_versions"
    try:
        name = min(os.listdir(versions))
        if not _NAME.match(name):
            return None  # for example, a file being written
        seen = os.stat(versions / name)
    except (OSError, ValueError):
        return None
    if time.time_ns() - max(seen.st_mtime_ns, seen.st_ctime_ns) < _TOO_YOUNG:
        return None
    return name, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


class Versions:
    """Opens the newest version of a table for reads, and pins versions."""

    def __init__(self, name: str, session: Session, pins: Pins) -> None:
        self.name = name
        self.session = session
        self.pins = pins
        # The number of this store's writes, which every later read has to see.
        self._writes = 0
        # The average size in bytes of a row without its vector, and the time until which it is
        # valid.
        self._row_bytes, self._row_until = 0, 0.0
        # A check of the disk that is waiting for an earlier one to end.
        self._look: asyncio.Task[ManifestIdentity | None] | None = None
        self._looking = asyncio.Lock()

    async def snapshot(self, handle: TableHandle) -> Snapshot:
        """Return the newest version. Unless the kept version is still the newest, this opens the
        table."""
        connections = self.session.connections
        now, writes = time.monotonic(), self._writes
        kept = connections.kept(handle)
        fresh = kept is not None and now < kept.fresh_until and kept.writes == writes
        if not fresh:
            manifest = await self._look_at_disk()
            kept = connections.kept(handle)  # another read may have opened it
        if kept is not None and (fresh or (manifest is not None and kept.manifest == manifest)):
            table = kept.table
            if is_moving(table.arrow):
                await self.session.mark.check_here()
        else:
            table = await self.session.opened(handle, reads=True)
            if kept is not None and await kept.table.version() == await table.version():
                table = kept.table
            await table.indexes()
        if not fresh:
            # The check came before the table was opened. If the manifest belonged to another
            # version, or to another table of this name, the next check will find a different one.
            until = now + self.session.settings.read_freshness
            connections.newest[self.name] = Newest(table, handle.epoch, manifest, writes, until)
        return table

    async def _look_at_disk(self) -> ManifestIdentity | None:
        """Return the newest manifest's identity. Reads that wait for a check share the next check.

        A check that has already begun may miss writes that this read has to see.
        """

        async def look() -> ManifestIdentity | None:
            async with self._looking:
                self._look = None
                return await in_thread(newest_manifest, folder, self.name)

        folder = self.session.folder
        if folder is None:
            return None
        if self._look is None:
            self._look = asyncio.ensure_future(look())
        return await asyncio.shield(self._look)

    @asynccontextmanager
    async def reading(
        self,
        handle: TableHandle,
        results: int = 0,
        columns: Columns = _ID,
        *,
        times: int = 1,
        beside: Callable[[Snapshot], Awaitable[int]] | None = None,
        version: Snapshot | None = None,
    ) -> AsyncIterator[Snapshot]:
        """Open the newest version, or continue with ``version``, for a read of up to ``results``
        rows with these columns.

        ``times`` is the number of queries, each of which returns up to ``results`` rows. ``beside``
        returns how many additional bytes the read may hold.
        """
        table, admission = version or await self.snapshot(handle), self.session.admission
        try:
            size = times * await self._results(table, results, columns)
            size += 0 if beside is None else await beside(table)
            waits = admission.waits(size)
            async with admission.share(size), admission.turn():
                # After the wait, the version may no longer be the newest.
                if waits and version is None:
                    table = await self.snapshot(handle)
                yield table
        except CorruptStoreError:
            # The table may have been dropped, or upkeep may have removed the version.
            self.session.connections.newest.pop(self.name, None)
            await self.session.check_not_dropped(handle)
            present = await self.session.opened(handle)
            if await present.version() == await table.version():
                raise
            raise StaleTableError(handle.name) from None

    async def changing(
        self, handle: TableHandle, most: int | None, dim: int
    ) -> AbstractAsyncContextManager[object]:
        """Return a context manager that holds the memory for changing ``most`` rows' payloads.

        If ``most`` is None, all rows are changed. ``dim`` is 0 unless vectors are changed too.
        """
        row = self._known_row_bytes()
        if row is None or most is None or most > _FEW:
            table = await self.snapshot(handle)
            rows = await table.rows()
            most = rows if most is None else min(rows, most)
            row = await self.row_bytes(table)
        return self.session.admission.share(result_bytes(most, dim, row))

    async def _results(self, table: Snapshot, most: int, columns: Columns) -> int:
        if not most:
            return 0
        row = await self.row_bytes(table) if columns.payload or columns.fields else 0
        dim = table.schema.dim if columns.vector else 0
        if most <= _FEW:
            return result_bytes(most, dim, row)
        rows = await table.rows()
        return ids_bytes(rows) + result_bytes(min(rows, most), dim, row)

    async def row_bytes(self, table: Snapshot) -> int:
        """Return the average size in bytes of a row without its vector."""
        size = self._known_row_bytes()
        if size is None:
            stats = await table.stats()
            vectors = int(stats["num_rows"]) * table.schema.dim * 4
            beside = max(0, int(stats["total_bytes"]) - vectors)
            size = beside // max(1, int(stats["num_rows"]))
            self._row_bytes, self._row_until = size, time.monotonic() + _SIZES_FOR
        return size

    def _known_row_bytes(self) -> int | None:
        return self._row_bytes if time.monotonic() < self._row_until else None

    def pin(self, version: int) -> Pin:
        """Return a context manager that keeps a version while its block runs."""
        return self.pins.pin(self.name, version)

    def has_changed(self) -> None:
        """Make this store's later reads check for a newer version."""
        self._writes += 1


class Writes:
    """The queue of a table's writes. Writes that wait at the same time may share a commit."""

    def __init__(self, versions: Versions, gate: Gate) -> None:
        """``gate`` admits the store's write calls."""
        self.versions = versions
        committer = TableCommitter(versions.session, versions.name)
        self._commits = GroupCommit(committer, gate)

    async def commit(self, operation: WriteOperation, limit: float | None = None) -> Any:
        """Queue an operation, and return its result after its commit.

        Raises StoreBusyError if the operation cannot begin within ``limit`` seconds (by default,
        ``busy_timeout``). If the caller is cancelled before the operation begins, it is never done.
        If the caller is cancelled later, the operation is still done, unless a conflict requires a
        retry. The outcome is settled when the call returns, however often the caller is cancelled.
        """
        session = self.versions.session
        if session.closing:
            raise StoreClosedError(session.target)
        session.check()
        patience = session.settings.busy_timeout
        deadline = current_deadline(patience) if limit is None else Deadline(limit)
        try:
            return await self._commits.run(OperationCall(operation), deadline)
        finally:  # also after an unknown outcome
            self.versions.has_changed()

    @property
    def idle(self) -> bool:
        """True if no write is waiting or running."""
        return self._commits.idle

    async def finish(self) -> None:
        """Wait for the writes that were accepted."""
        await self._commits.finish()
