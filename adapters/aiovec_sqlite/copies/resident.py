"""Search tables using copies and words in memory, and limit the memory that these take.

A copy is a list of segments, in a mapped scan file or in memory. The first search of a table in a
process maps the scan file. If the table has no scan file, a first search with a single query reads
the store's file, and other searches wait for a build of the copy. Searches also read the store's
file if a build takes too long, or if there is neither disk space nor memory for a copy.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from aiovec.backend.contract import Found, FromEach, Query, StaleTableError, TableHandle

from ..connection import Read, ReaderPool, Ticket
from ..keyword_search import search_text
from ..layout import current_table
from .batches import Batches, Queue, restart
from .copy import OlderSnapshotError, ResidentCopy
from .file_scan import search as search_in_file
from .kept import PAUSE, Keeper, KeptCopy, KeptWords, PutToken
from .scan import Snapshot, found_by_scan
from .scanfile import ScanFiles, SpoiledFileError, size_of
from .segments import State

_T = TypeVar("_T")

# Searches wait for a build for this share of busy_timeout, but at most this many seconds. Then one
# batch is answered from the store's file, and the other searches wait again: reading the file takes
# about as long as the rest of the build, and slows the build down.
_BUILDS_ALONE, _LONGEST = 1 / 2, 60.0
# Seconds without a search after which a table can be unloaded to make room for another table.
_IDLE = 60.0
# Seconds between checks for dropped tables.
_BETWEEN_LOOKS = 1.0
# The most times that a batch renews its snapshot because another batch advanced the copy first.
_MOST_SNAPSHOTS = 10


class _SearchedTable:
    """The copy, the words, and the queue of searches of one table."""

    def __init__(self, table: TableHandle, copies: ResidentSearch) -> None:
        self.table = table
        self.queue = Queue(self, partial(copies.answer, self))
        self.copy, self.words = KeptCopy(table, copies), KeptWords(table, copies)
        # True once the first search has looked for a scan file.
        self.looked = False
        # The time from which searches that wait for the build can read the store's file.
        self.answered_at = 0.0
        # The state at the last check of the memory.
        self.kept: State | None = None
        self.searched_at = time.monotonic()
        self.counts = {"searches": 0, "batches": 0, "largest_batch": 0}

    @property
    def ready(self) -> bool:
        """True unless searches wait for a build of the copy."""
        if self.copy.value is not None or not self.copy.is_loading:
            return True
        return time.monotonic() >= self.answered_at

    @property
    def by_file(self) -> bool:
        return bool(self.copy.reason)

    @property
    def nbytes(self) -> int:
        return self.copy.nbytes + self.words.nbytes

    def unload(self) -> None:
        self.copy.drop()
        self.words.drop()


class ResidentSearch(Keeper):
    """Answers searches from the tables' copies, or from the store's file if a table has no copy.

    All tables of a store together use at most ``memory`` bytes of private memory.
    """

    def __init__(
        self,
        target: str,
        readers: ReaderPool,
        *,
        files: ScanFiles | None,
        check_file: Callable[[], None],
        put_token: PutToken,
        memory: int,
        workers: int,
        busy_timeout: float,
    ) -> None:
        """``workers`` is the maximum number of simultaneous batches."""
        super().__init__(readers, files, put_token, memory)
        self._batches = Batches(target, readers, check_file=check_file, workers=workers)
        self._builds_alone = min(_BUILDS_ALONE * busy_timeout, _LONGEST)
        self._tables: dict[str, _SearchedTable] = {}  # in the order of their last search
        self._looked_at = 0.0
        # True once the removal of scan files that killed writers left has begun.
        self._cleaned = False

    def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> Coroutine[Any, Any, _T]:
        """Answer exact searches; return the result of ``finish``, which a reader's thread calls."""
        resident = self._of(table)
        # The first single query is answered from the file; for several queries, a build is faster.
        answered_without_build = len(queries) == 1 and (resident.queue.batch or not resident.looked)
        if resident.copy.value is None and not answered_without_build:
            self._begin_building(resident)
        return self._batches.search(resident.queue, queries, finish)

    async def search_text(self, table: TableHandle, query: Query, finish: FromEach[_T]) -> _T:
        """Search by keywords; return the result of ``finish``, which a reader's thread calls."""
        kept = self._of(table).words

        def work(db: sqlite3.Connection, ticket: Ticket, *, by_lists: bool = True) -> _T:
            words = kept.find(db) if by_lists else None
            at = None if words is None else words.at(db, ticket)
            return finish([search_text(db, ticket, table, query, at)])

        try:
            for _ in range(_MOST_SNAPSHOTS):
                with suppress(OlderSnapshotError):
                    return await self.readers.read(work)
            return await self.readers.read(partial(work, by_lists=False))
        finally:
            kept.look_after()

    def _of(self, table: TableHandle) -> _SearchedTable:
        """Return the table's entry, and mark it as the most recently searched one."""
        name = table.name
        resident = self._tables.pop(name, None)
        if resident is not None and resident.table.epoch != table.epoch:
            resident.unload()
            resident = None
        if resident is None:
            resident = _SearchedTable(table, self)
        self._tables[name] = resident
        resident.searched_at = time.monotonic()
        return resident

    def forget(self, name: str) -> None:
        """Release the memory of a table that no longer exists under this name."""
        resident = self._tables.pop(name, None)
        if resident is not None:
            resident.unload()
        self.clean()

    def nbytes(self, table: str) -> int:
        resident = self._tables.get(table)
        return 0 if resident is None else resident.nbytes

    def details(self, table: TableHandle) -> dict[str, object]:
        """Return details for ``stats``: how the table is searched, and how often."""
        resident = self._tables.get(table.name)
        copy, words = (
            (None, None) if resident is None else (resident.copy.value, resident.words.value)
        )
        segments = () if copy is None or copy.state is None else copy.state.segments
        mapped = sum(segment.count for segment in segments if segment.mapped)
        return {
            "searched": "from the file" if copy is None else "in memory",
            "searches": {} if resident is None else dict(resident.counts),
            "scan_file": size_of(mapped, table.schema.dim),
            "keywords": "from the file" if words is None else "in memory",
            "words_file": 0 if words is None else words.file_bytes,
        }

    async def close(self) -> None:
        """Fail the waiting calls, stop builds, and release everything."""
        self.closed = True
        self._batches.close()
        for resident in self._tables.values():
            resident.unload()
        self._tables.clear()
        await self.tasks.cancel()

    # Builds

    def _begin_building(self, resident: _SearchedTable, before: ResidentCopy | None = None) -> None:
        task = resident.copy.begin(before)
        if task is not None:
            resident.looked = True  # the build looks for a scan file too
            task.add_done_callback(lambda _: self._batches.begin())
            self._wait_for_build(resident)

    def _wait_for_build(self, resident: _SearchedTable) -> None:
        """Make searches wait for the build, for a limited time."""
        resident.answered_at = time.monotonic() + self._builds_alone
        loop = asyncio.get_running_loop()
        loop.call_later(self._builds_alone + 0.001, self._batches.begin)

    def ready(self) -> None:
        self._batches.begin()

    def has_room(self, wanted: int = 0) -> bool:
        """Return whether ``wanted`` more bytes fit; if necessary, unload idle tables first."""
        idle = time.monotonic() - _IDLE
        tables = list(self._tables.values())
        left = self.memory - wanted - sum(resident.nbytes for resident in tables)
        for resident in tables:
            if left < 0 and resident.searched_at < idle and not resident.copy.is_loading:
                left += resident.nbytes
                resident.unload()
        return left >= 0

    def stale(self, table: TableHandle) -> None:
        resident = self._tables.get(table.name)
        if resident is not None and resident.table is table:
            del self._tables[table.name]
            resident.unload()

    # Searches

    async def answer(
        self,
        resident: _SearchedTable,
        read: Read,
        queries: Sequence[Query],
        on_scanned: Callable[[], None],
        finish: Callable[[Iterator[dict[int, Found]]], _T],
    ) -> _T:
        """Answer queries in one snapshot, and return the result of ``finish``."""
        by_both = any(query.by_both for query in queries)
        copy: ResidentCopy | None = None
        spoiled = False

        def work(db: sqlite3.Connection, ticket: Ticket) -> tuple[State | None, _T]:
            nonlocal copy, spoiled
            layout = current_table(db, resident.table)
            if copy is None and not resident.looked:
                resident.looked = True
                copy = resident.copy.value = resident.copy.mapped(db, layout)
            state = None if copy is None else copy.advance(db, ticket)
            if copy is not None and state is not None:
                words = resident.words.find(db) if by_both else None
                at = None if words is None else words.at(db, ticket)
                snapshot = Snapshot(db, ticket, layout, state, at)
                try:
                    return state, finish(found_by_scan(snapshot, copy.masks, queries, on_scanned))
                except SpoiledFileError:
                    spoiled = True
                    restart(queries)
            rows = search_in_file(db, ticket, resident.table, queries, scan="disk")
            return None, finish(iter([dict(enumerate(rows))]))

        try:
            for attempt in range(_MOST_SNAPSHOTS + 1):
                # ``work`` uses this copy; the last attempt reads the file.
                copy = None if attempt == _MOST_SNAPSHOTS else resident.copy.value
                try:
                    state, finished = await read(work)
                    break
                except OlderSnapshotError:
                    continue
        except StaleTableError:
            self.stale(resident.table)
            raise
        finally:
            if by_both:
                resident.words.look_after()
        if state is not None:
            self._look_after(resident, queries, state)
            return finished
        if copy is not None and resident.copy.value is copy:  # too many changes, or a damaged file
            resident.copy.value = None
            if spoiled:
                copy, resident.copy.file_at = None, time.monotonic() + PAUSE
                self.tasks.start(resident.copy.forget_file())
        if resident.copy.value is None:
            self._begin_building(resident, copy)
        if resident.copy.is_loading:
            self._wait_for_build(resident)
        return finished

    def _look_after(self, resident: _SearchedTable, queries: Sequence[Query], state: State) -> None:
        """Count the queries, check the memory, and rebuild the copy if many rows have changed."""
        if not self._cleaned:
            self._cleaned = True
            self.clean()
        counts = resident.counts
        counts["searches"] += len(queries)
        counts["batches"] += 1
        counts["largest_batch"] = max(counts["largest_batch"], len(queries))
        now = time.monotonic()
        # Without filters, memory grows only when the state changes.
        if resident.kept is state and all(query.where is None for query in queries):
            return
        # If it is too early to build now, check again after the next batch.
        copy = resident.copy
        resident.kept = state if now >= max(copy.renew_at, copy.file_at) else None
        copy.keep_to_memory()
        if copy.is_worn(state):
            self._begin_building(resident, copy.value)
        if now >= self._looked_at + _BETWEEN_LOOKS and len(self._tables) > 1:
            self._looked_at = now
            self.tasks.start(self._drop_stale())

    async def _drop_stale(self) -> None:
        """Drop copies of tables that another process dropped or altered."""
        with suppress(Exception):  # the next check retries
            epochs = await self.readers.read(
                lambda db, _: dict(db.execute("SELECT name, epoch FROM aiovec_tables").fetchall())
            )
            for name, resident in list(self._tables.items()):
                if epochs.get(name) != resident.table.epoch:
                    self.stale(resident.table)
