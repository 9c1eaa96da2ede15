"""The copies of the tables: their builds, their wear and their memory, and searches by them.

A copy is a list of segments, which lie in a mapped scan file or in memory. The first search of a
table in a process maps the scan file. If there is none, the store's file answers, and a build
begins, for which later searches wait. The file also answers when a build takes very long, and where
there is neither disk nor memory for a copy.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from aiovec.backend import Int64Array
from aiovec.backend.contract import (
    Found,
    FromEach,
    Query,
    StaleTableError,
    TableHandle,
)
from aiovec.backend.threads import Background, in_daemon_thread, in_thread
from aiovec.errors import AiovecError

from ..connection import Read, ReaderPool, Ticket
from ..keyword_search import search_text
from ..layout import TableLayout, current_table
from .batches import Batches, Queue, restart
from .copy import OlderSnapshotError, ResidentCopy, rows_to_load
from .file_scan import search as search_in_file
from .scan import Snapshot, SpoiledFileError, found_by_scan
from .scanfile import NewFile, ScanFiles, size_of
from .segments import State
from .words import Words

LOG = logging.getLogger("aiovec")
_T = TypeVar("_T")

_TOO_LARGE = "it is larger than the memory for copies"
# The share of the memory for copies that one table's masks may take, its words, and the changes of
# one copy.
_FOR_MASKS, _FOR_WORDS, _FOR_CHANGES = 1 / 16, 1 / 8, 1 / 2
# Searches wait for a build for this share of busy_timeout, and so many seconds at most, before the
# file answers them, and between its answers. Each takes about as long as the rest of the build, and
# slows it down.
_BUILDS_ALONE, _LONGEST = 1 / 2, 60.0
# Seconds until the next try of a build, or of a scan file, that failed.
_PAUSE = 60.0
# Seconds without a search after which another table may take a table's private memory.
_IDLE = 60.0
# A table is built again when this share of its scan file's rows has changed, or when more rows of
# private memory are dead than alive, plus some; and not before this many times the duration of the
# last build.
_WORN, _GONE, _BETWEEN_BUILDS = 1 / 8, 256, 4
# A copy with more changes than this share of its rows is built again.
_FOLLOWED = 1 / 2
# Seconds between looks at a scan file that another process writes.
_LOOK = 0.2
# Seconds between looks for dropped tables.
_BETWEEN_LOOKS = 1.0
# How often a batch renews its snapshot because another batch was quicker.
_MOST_SNAPSHOTS = 10


class _SearchedTable:
    """The copy of one table, None until it is built, its build, and its queue of searches."""

    def __init__(self, table: TableHandle, copies: ResidentSearch) -> None:
        self.table = table
        self.queue = Queue(self, partial(copies.answer, self))
        self.copy: ResidentCopy | None = None
        self.building: asyncio.Task[None] | None = None
        # The words of its text index, None until they are loaded.
        self.words: Words | None = None
        self.words_bytes = 0
        self.loading: asyncio.Task[None] | None = None
        # True once a scan file was looked for, by the first search.
        self.looked = False
        # The time from which the file may answer searches that wait for the build.
        self.file_at = 0.0
        # The earliest times of a build, of a renewal, of a scan file, and of words. Where a build
        # failed, the reason.
        self.retry_at = self.renew_at = self.scan_file_at = self.words_at = 0.0
        self.reason = ""
        # The state at the last check of the memory.
        self.kept: State | None = None
        self.searched_at = time.monotonic()
        self.counts = {"searches": 0, "batches": 0, "largest_batch": 0}

    @property
    def is_building(self) -> bool:
        return self.building is not None and not self.building.done()

    @property
    def ready(self) -> bool:
        """True unless searches wait for a build: the copy answers, or without one the file."""
        return self.copy is not None or not self.is_building or time.monotonic() >= self.file_at

    @property
    def by_file(self) -> bool:
        return bool(self.reason)

    @property
    def nbytes(self) -> int:
        copy, words = self.copy, self.words  # another thread may remove them
        return sum(part.nbytes for part in (copy, words) if part is not None)


class ResidentSearch:
    """Answers searches from the tables' copies, and from the file where a table has none.

    Private memory stays within ``memory`` bytes for all tables of a store.
    """

    def __init__(
        self,
        target: str,
        readers: ReaderPool,
        *,
        files: ScanFiles | None,
        check_file: Callable[[], None],
        put_token: Callable[[TableHandle, str | None], Awaitable[None]],
        memory: int,
        workers: int,
        busy_timeout: float,
    ) -> None:
        """``put_token`` makes the store accept a scan file, or with None no one.

        ``workers`` is the number of simultaneous batches.
        """
        self._readers = readers
        self._files = files
        self._put_token = put_token
        self._memory = memory
        self._batches = Batches(
            target, readers, check_file=check_file, workers=workers, busy_timeout=busy_timeout
        )
        self._builds_alone = min(_BUILDS_ALONE * busy_timeout, _LONGEST)
        self._tables: dict[str, _SearchedTable] = {}  # in the order of their last search
        # One table is built at a time, so that each build sees the memory of the others.
        self._builder = asyncio.Lock()
        # Including the tasks of tables that were dropped from memory.
        self._tasks = Background()
        self._looked_at = 0.0
        # True once files were removed that processes left behind which ended while they wrote them.
        self._cleaned = False
        self._closed = False

    def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> Coroutine[Any, Any, _T]:
        """Return what ``finish`` makes of the results of exact searches, in a reader's thread."""
        resident = self._of(table)
        # The file answers one query at first, many take longer there than a build.
        answered_without_build = len(queries) == 1 and (resident.queue.batch or not resident.looked)
        if resident.copy is None and not answered_without_build:
            self._begin_building(resident)
        return self._batches.search(resident.queue, queries, finish)

    async def search_text(self, table: TableHandle, query: Query, finish: FromEach[_T]) -> _T:
        """Return what ``finish`` makes of the rows with the best words, in a reader's thread."""
        resident = self._of(table)

        def work(words: Words | None, db: sqlite3.Connection, ticket: Ticket) -> _T:
            at = None if words is None else words.at(db, ticket)
            return finish([search_text(db, ticket, table, query, at)])

        try:
            for _ in range(_MOST_SNAPSHOTS):
                with suppress(OlderSnapshotError):
                    return await self._readers.read(partial(work, resident.words))
            return await self._readers.read(partial(work, None))
        finally:
            self._look_after_words(resident)

    def _look_after_words(self, resident: _SearchedTable) -> None:
        """Begin to load the words of a table whose texts are searched, or to load them again."""
        loading, words = resident.loading, resident.words
        if words is not None and words.nbytes > resident.words_bytes:
            resident.words_bytes = words.nbytes
            if not self._has_room():
                self._set_words(resident, None)
                resident.words_at = time.monotonic() + _PAUSE
        if words is not None and not words.worn:
            return
        idle = loading is None or loading.done()
        if idle and not self._closed and time.monotonic() >= resident.words_at:
            resident.loading = self._tasks.start(self._load_words(resident, words))
        if words is not None and words.lost:
            self._set_words(resident, None)

    def _set_words(self, resident: _SearchedTable, words: Words | None) -> None:
        """Replace the words of a table, and close those before."""
        before, resident.words = resident.words, words
        if before is not None and not self._closed:
            self._tasks.start(in_thread(before.close))

    async def _load_words(self, resident: _SearchedTable, before: Words | None) -> None:
        def load(db: sqlite3.Connection, ticket: Ticket) -> Words | None:
            layout, most = current_table(db, resident.table), int(self._memory * _FOR_WORDS)
            clauses = () if before is None else before.clauses()
            return Words.loaded(db, ticket, layout, most, clauses)

        resident.words_at = time.monotonic() + _PAUSE  # unless they are loaded
        with suppress(Exception):  # FTS5 answers, or says why it cannot
            async with self._readers.aside() as read:
                words = await read(load)
            if words is not None:
                self._set_words(resident, words)
                resident.words_at, resident.words_bytes = 0.0, 0

    def _of(self, table: TableHandle) -> _SearchedTable:
        """Return what is known of the table, as the one that was searched last."""
        name = table.name
        resident = self._tables.pop(name, None)
        if resident is not None and resident.table.epoch != table.epoch:
            self._unload(resident)
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
            self._unload(resident)
        self._clean()

    def nbytes(self, table: str) -> int:
        resident = self._tables.get(table)
        return 0 if resident is None else resident.nbytes

    def details(self, table: TableHandle) -> dict[str, object]:
        """Return for ``stats`` how the table is searched, and the number of such searches."""
        resident = self._tables.get(table.name)
        copy = None if resident is None else resident.copy
        segments = () if copy is None or copy.state is None else copy.state.segments
        mapped = sum(segment.count for segment in segments if segment.mapped)
        return {
            "searched": "from the file" if copy is None else "in memory",
            "searches": {} if resident is None else dict(resident.counts),
            "scan_file": size_of(mapped, table.schema.dim),
            "keywords": "from the file" if resident is None or not resident.words else "in memory",
        }

    async def close(self) -> None:
        """Fail the waiting calls, stop builds, and release everything."""
        self._closed = True
        self._batches.close()
        words = [resident.words for resident in self._tables.values() if resident.words]
        for resident in self._tables.values():
            self._unload(resident)
        self._tables.clear()
        await self._tasks.cancel()
        for each in words:
            await in_thread(each.close)

    # Builds

    def _begin_building(self, resident: _SearchedTable, before: ResidentCopy | None = None) -> None:
        if self._closed or resident.is_building or time.monotonic() < resident.retry_at:
            return
        resident.looked = True  # the build looks too
        resident.building = self._tasks.start(self._build(resident, before))
        resident.building.add_done_callback(lambda _: self._batches.begin())
        self._wait_for_build(resident)

    def _wait_for_build(self, resident: _SearchedTable) -> None:
        """Make searches wait for the build, for a while."""
        resident.file_at = time.monotonic() + self._builds_alone
        loop = asyncio.get_running_loop()
        loop.call_later(self._builds_alone + 0.001, self._batches.begin)

    async def _build(self, resident: _SearchedTable, before: ResidentCopy | None) -> None:
        """Make the table's copy: the one before or its scan file, with newer rows, or a new one."""
        began = time.monotonic()
        try:
            while not await self._built(resident, before):
                pass
        except StaleTableError:
            self._drop(resident)
        except Exception as exc:  # noqa: BLE001 - the file answers, equally exact
            resident.renew_at = time.monotonic() + _PAUSE
            if resident.copy is None:
                self._refuse(resident, str(exc))
        else:
            ended = time.monotonic()
            resident.renew_at = ended + _BETWEEN_BUILDS * (ended - began)
            self._keep_to_memory(resident)
        self._clean()  # for example, a store was restored next to the files of an earlier one

    async def _built(self, resident: _SearchedTable, before: ResidentCopy | None) -> bool:
        """Make the copy; return False if this has to be tried again."""
        made: list[NewFile] = []
        copy: ResidentCopy | None = None
        try:
            copy = await self._copy(resident, before, made)
            if copy is None:
                await asyncio.sleep(_LOOK)
                return False
            resident.copy, resident.reason = copy, ""
            self._batches.begin()
            if made:
                await in_daemon_thread(made[0].flush)
                await self._put_token(resident.table, made[0].token)
                await in_thread(made.pop().end)
        except OSError:
            if time.monotonic() < resident.scan_file_at:  # it was no scan file that failed
                raise
            resident.scan_file_at = time.monotonic() + _PAUSE
            if copy is not None:  # what a failed flush leaves in memory may not be what was written
                resident.copy = None
            return False
        finally:
            for file in made:
                await in_thread(file.discard)
        return True

    async def _copy(
        self, resident: _SearchedTable, before: ResidentCopy | None, made: list[NewFile]
    ) -> ResidentCopy | None:
        """Return a copy at some recent state; None while another process writes a scan file.

        A new scan file is put into ``made``.
        """
        files = self._files
        async with self._builder, self._readers.aside() as read:
            copy, rows, has_file = await read(partial(self._look, resident, before))
            if rows is None:
                return copy
            size = size_of(len(rows), resident.table.schema.dim)
            if files is not None and size >= files.least and await in_thread(files.waits):
                return None
            if not self._gets_file(resident, size):
                files, worn = None, resident.copy and resident.copy.state
                # Only if most rows are dead is private memory better than a worn scan file.
                if (worn and worn.dead <= worn.rows) or not self._has_room(size):
                    raise AiovecError(_TOO_LARGE)

            def load(db: sqlite3.Connection, ticket: Ticket) -> None:
                if files is not None:
                    made.append(files.new(db, copy.table, len(rows)))
                copy.load(db, ticket, rows, made[0] if made else None)

            await read(load)
            if has_file and self._files is not None and size < self._files.least:
                self._tasks.start(self._forget_file(resident))  # the table has shrunk
            return copy

    def _look(
        self,
        resident: _SearchedTable,
        before: ResidentCopy | None,
        db: sqlite3.Connection,
        ticket: Ticket,
    ) -> tuple[ResidentCopy, Int64Array | None, bool]:
        """Return a copy with all changes; if there is none, an empty one and the rows to load.

        Last comes whether the table has a scan file.
        """
        layout = current_table(db, resident.table)
        copy, mapped = before, self._mapped(db, layout)
        if mapped is not None and (before is None or mapped.file_change > before.file_change):
            copy = mapped
        if copy is not None and copy is not resident.copy:
            most = self._memory * _FOR_CHANGES / size_of(1, layout.schema.dim)
            if copy.follow(db, ticket, min(most, _FOLLOWED * copy.rows)):
                return copy, None, True
        return self._copy_of(layout), rows_to_load(db, layout), mapped is not None

    def _mapped(self, db: sqlite3.Connection, layout: TableLayout) -> ResidentCopy | None:
        """Return a copy of the table's scan file; None without one."""
        state = None if self._files is None else self._files.find(db, layout)
        return None if state is None else self._copy_of(layout, state)

    def _copy_of(self, layout: TableLayout, state: State | None = None) -> ResidentCopy:
        return ResidentCopy(layout, int(self._memory * _FOR_MASKS), state)

    def _gets_file(self, resident: _SearchedTable, size: int) -> bool:
        """Return whether a table of so many bytes is built into a scan file."""
        files = self._files
        if files is None or not files.can_write or time.monotonic() < resident.scan_file_at:
            return False
        return size >= files.least

    def _is_worn(self, resident: _SearchedTable, state: State) -> bool:
        """Return whether enough has changed to build the table again."""
        if time.monotonic() < resident.renew_at:
            return False
        size = size_of(state.rows, resident.table.schema.dim)
        if state.is_mapped or self._gets_file(resident, size):
            return state.changed > _WORN * state.rows
        return state.dead > state.rows + _GONE

    async def _forget_file(self, resident: _SearchedTable) -> None:
        """Have all processes give up the table's scan file, and remove it."""
        if self._files is not None and self._files.can_write:
            with suppress(AiovecError):
                await self._put_token(resident.table, None)
            self._clean()

    def _clean(self) -> None:
        """Begin to remove scan files that the store does not count on."""
        files = self._files
        if files is None or not files.can_write or self._closed:
            return

        async def clean() -> None:
            with suppress(Exception):  # the next call does it
                await self._readers.read(lambda db, _: files.clean(db))

        self._tasks.start(clean())

    def _has_room(self, wanted: int = 0) -> bool:
        """Return whether there is memory, after removing tables that are no longer searched."""
        idle = time.monotonic() - _IDLE
        tables = list(self._tables.values())
        left = self._memory - wanted - sum(resident.nbytes for resident in tables)
        for resident in tables:
            if left < 0 and resident.searched_at < idle and not resident.is_building:
                left += resident.nbytes
                self._unload(resident)
        return left >= 0

    def _keep_to_memory(self, resident: _SearchedTable) -> None:
        """If the table has outgrown the memory, leave it to a new scan file or to the file."""
        copy = resident.copy
        if copy is None or copy.state is None or self._has_room():
            return
        if self._gets_file(resident, size_of(copy.state.rows, copy.table.schema.dim)):
            self._unload(resident)
        else:
            self._refuse(resident, _TOO_LARGE)

    def _refuse(self, resident: _SearchedTable, reason: str) -> None:
        """Leave the table to the file for a while."""
        self._unload(resident)
        resident.retry_at = time.monotonic() + _PAUSE
        if reason != resident.reason:  # in a thread, because a log may be a file
            resident.reason, name = reason, resident.table.name
            say = partial(LOG.warning, "table %s is searched from the file: %s", name, reason)
            self._tasks.start(in_thread(say))

    def _drop(self, resident: _SearchedTable) -> None:
        if self._tables.get(resident.table.name) is resident:
            del self._tables[resident.table.name]
        self._unload(resident)

    def _unload(self, resident: _SearchedTable) -> None:
        resident.copy = None
        self._set_words(resident, None)
        building = resident.building
        if building is not None and building is not asyncio.current_task():
            building.cancel()

    # Searches

    async def answer(
        self,
        resident: _SearchedTable,
        read: Read,
        queries: Sequence[Query],
        on_scanned: Callable[[], None],
        finish: Callable[[Iterator[dict[int, Found]]], _T],
    ) -> _T:
        """Return what ``finish`` makes of the results of queries, all in one snapshot."""
        words, by_both = resident.words, any(query.by_both for query in queries)
        copy: ResidentCopy | None = None
        spoiled = False

        def work(db: sqlite3.Connection, ticket: Ticket) -> tuple[State | None, _T]:
            nonlocal copy, spoiled
            layout = current_table(db, resident.table)
            if copy is None and not resident.looked:
                resident.looked = True
                copy = resident.copy = self._mapped(db, layout)
            state = None if copy is None else copy.advance(db, ticket)
            if copy is not None and state is not None:
                at = words.at(db, ticket) if words is not None and by_both else None
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
                # ``work`` uses this copy; the last attempt is by the file.
                copy = None if attempt == _MOST_SNAPSHOTS else resident.copy
                try:
                    state, finished = await read(work)
                    break
                except OlderSnapshotError:
                    continue
        except StaleTableError:
            self._drop(resident)
            raise
        if by_both:
            self._look_after_words(resident)
        if state is not None:
            self._look_after(resident, queries, state)
            return finished
        if copy is not None and resident.copy is copy:  # it is too far behind, or spoiled
            resident.copy = None
            if spoiled:
                copy, resident.scan_file_at = None, time.monotonic() + _PAUSE
                self._tasks.start(self._forget_file(resident))
        if resident.copy is None:
            self._begin_building(resident, copy)
        if resident.is_building:
            self._wait_for_build(resident)
        return finished

    def _look_after(self, resident: _SearchedTable, queries: Sequence[Query], state: State) -> None:
        """Count the queries, keep to the memory, and build the table again if it is worn."""
        if not self._cleaned:
            self._cleaned = True
            self._clean()
        counts = resident.counts
        counts["searches"] += len(queries)
        counts["batches"] += 1
        counts["largest_batch"] = max(counts["largest_batch"], len(queries))
        now = time.monotonic()
        # Without a filter only the state can have grown.
        if resident.kept is state and all(query.where is None for query in queries):
            return
        # Look again later if it is too early now to build.
        resident.kept = state if now >= max(resident.renew_at, resident.scan_file_at) else None
        self._keep_to_memory(resident)
        if self._is_worn(resident, state):
            self._begin_building(resident, resident.copy)
        if now >= self._looked_at + _BETWEEN_LOOKS and len(self._tables) > 1:
            self._looked_at = now
            self._tasks.start(self._drop_stale())

    async def _drop_stale(self) -> None:
        """Remove copies of tables that another process dropped or altered."""
        with suppress(Exception):  # the next look does it
            epochs = await self._readers.read(
                lambda db, _: dict(db.execute("SELECT name, epoch FROM aiovec_tables").fetchall())
            )
            for name, resident in list(self._tables.items()):
                if epochs.get(name) != resident.table.epoch:
                    self._drop(resident)
