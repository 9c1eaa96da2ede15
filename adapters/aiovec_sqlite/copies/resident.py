"""Search in memory: one queue for each table, answered by its copy or else by the file.

A free reader takes the searches of the table whose first one has waited longest, up to 32 together.
A scan uses all cores, so a table has one at a time; what comes meanwhile waits and is answered
together. A lone search never waits for company.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, TypeVar

from aiovec.backend import Int64Array
from aiovec.backend.contract import (
    Found,
    FromEach,
    HybridQuery,
    StaleTableError,
    TableHandle,
    VectorQuery,
)
from aiovec.backend.limits import Deadline, Line, copy_of_error, current_deadline
from aiovec.backend.threads import Background, in_daemon_thread, in_thread
from aiovec.errors import AiovecError, StoreBusyError, StoreClosedError

from ..connection import Read, Ticket
from ..file_scan import search as search_in_file
from ..layout import TableLayout, current_table
from .copy import ChangesForgottenError, OlderSnapshotError, ResidentCopy, rows_to_load
from .scan import Snapshot, SpoiledFileError, answer
from .scanfile import NewFile, ScanFiles, size_of
from .segments import State

LOG = logging.getLogger("aiovec")
_T = TypeVar("_T")

# Queries answered together. More would share the reading of the codes a little better, but make the
# first of them wait longer.
_MOST_TOGETHER = 32
# A hybrid query counts as so many, because a batch looks up the words of its queries one by one.
_HYBRID = 8
_BUSY = "the searches of this process take too long"
# The share of the budget that masks may take.
_FOR_MASKS = 1 / 16
_TOO_LARGE = "it is larger than scan_memory"
# Seconds after which the file answers searches that wait for a load. Most tables are loaded by
# then, and answering from the file would slow the load down.
_LOADS_ALONE = 2.0
# Seconds until a failed load is tried again, and until a table that was too large, but may have
# shrunk, is tried again.
_PAUSE, _LONG_PAUSE = 10.0, 300.0
# Seconds without a search after which another table may take a table's private memory.
_IDLE = 60.0
# A table is loaded again when this share of its scan file's rows has changed, or when more rows of
# private memory are dead than alive, plus some; and not before this many times the duration of the
# last load.
_WORN, _GONE, _BETWEEN_LOADS = 1 / 8, 256, 4
# Seconds between looks at a scan file that another process writes, and seconds without a change of
# it after which its writer counts as stopped, or as gone with a child that inherited its lock.
_LOOK, _STOPPED = 0.2, 10.0
# Seconds between looks for dropped tables.
_BETWEEN_LOOKS = 1.0
# How often a batch renews its snapshot because another batch was quicker.
_MOST_SNAPSHOTS = 10


class _Call:
    """The queries of one caller, which may have gone, and what makes its result of their rows."""

    __slots__ = ("batch", "deadline", "finish", "future", "queries", "size", "task")

    def __init__(
        self, queries: Sequence[VectorQuery], finish: FromEach[Any], deadline: Deadline
    ) -> None:
        self.queries = queries
        self.finish = finish
        self.size = sum(_HYBRID if isinstance(query, HybridQuery) else 1 for query in queries)
        self.deadline = deadline
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # The calls that are answered together, and their task, which ends if nobody waits for it.
        self.batch: Sequence[_Call] | None = None
        self.task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Fail, unless rows are already being read for it."""
        if self.batch is None:
            self.fail(self.deadline.error(_BUSY))

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(copy_of_error(error))


class _Batch:
    """Calls that are being answered together."""

    __slots__ = ("calls", "queries", "scanned")

    def __init__(self, calls: int, queries: int) -> None:
        self.calls = calls
        # A call of many queries takes several scans, and others run beside it.
        many = queries > _MOST_TOGETHER
        # True once their rows are known and only the fields of these are read.
        self.scanned = many
        # The queries that must wait for a scan beside this batch.
        self.queries = 1 if many else queries


class _Resident:
    """The copy of one table, None until it is loaded, its waiting calls, and its tasks."""

    def __init__(self, table: TableHandle) -> None:
        self.table = table
        self.copy: ResidentCopy | None = None
        # True once a scan file was looked for.
        self.looked = False
        # True if more has changed than is brought in while a search waits.
        self.is_behind = False
        self.loading: asyncio.Task[None] | None = None
        # The time from which the file may answer searches that wait for the load.
        self.file_at = 0.0
        # The earliest time of the next load with the reason for the wait, and of a renewal.
        self.retry_at, self.reason, self.renew_at = 0.0, "", 0.0
        # The time from which a scan file may be written, after one that could not.
        self.file_from = 0.0
        # The scan files that others were writing at the last look, and since when they are so.
        self.written: frozenset[tuple[str, int, int]] = frozenset()
        self.written_since = 0.0
        # The state at the last check of the budget.
        self.kept: State | None = None
        self.searched_at = time.monotonic()
        self.waiting: deque[_Call] = deque()
        # The newest batch under way, and the calls of the last one that ended.
        self.batch: _Batch | None = None
        self.last_calls = 1
        self.counts = {"searches": 0, "batches": 0, "largest_batch": 0}

    @property
    def ready(self) -> bool:
        return self.copy is not None and not self.is_behind

    @property
    def answers(self) -> bool:
        """True if a batch may begin: in memory, or now and then while the table is loaded.

        Behind a scan, the next one begins at once if as many queries wait as it had. If they are
        fewer, its callers will soon have their answers, ask again, and join them.
        """
        batch = self.batch
        if batch is None:
            return self.ready or _is_over(self.loading) or time.monotonic() >= self.file_at
        if self.ready:
            return batch.scanned and self.wanted >= batch.queries
        # If no copy can be made, the file answers every search.
        return bool(self.reason) and self.wanted >= _MOST_TOGETHER

    @property
    def nbytes(self) -> int:
        copy = self.copy  # another thread may remove it
        return 0 if copy is None else copy.nbytes

    @property
    def wanted(self) -> int:
        """The number of waiting queries."""
        return sum(call.size for call in self.waiting)

    def take(self, share: int) -> list[_Call]:
        """Return the calls that waited longest, with at least ``share`` queries if there are."""
        calls: list[_Call] = []
        queries = 0
        while self.waiting and queries < share:
            call = self.waiting.popleft()
            if call.deadline.left() <= 0:
                call.give_up()
            if not call.future.done():  # otherwise its caller has gone
                calls.append(call)
                queries += call.size
        return calls


class ResidentSearch:
    """Answers searches from copies in memory, or from the file while a table has none.

    A copy is the table's mapped scan file with later changes; the first search finds it. Without a
    scan file the table is loaded, into a new scan file if it is large. Private memory stays within
    a budget for all tables of a store.
    """

    def __init__(
        self,
        target: str,
        read: Read,
        reader: Callable[[], AbstractAsyncContextManager[Read]],
        aside: Callable[[], AbstractAsyncContextManager[Read]],
        *,
        files: ScanFiles | None,
        put_token: Callable[[TableHandle, str | None], Awaitable[None]],
        budget: int,
        workers: int,
        busy_timeout: float,
    ) -> None:
        """``reader`` waits for a connection without a deadline, ``aside`` opens another one.

        ``put_token`` makes the store accept a scan file, or with None no one. ``workers`` is the
        number of simultaneous batches.
        """
        self._target = target
        self._read = read
        self._reader = reader
        self._aside = aside
        self._files = files
        self._put_token = put_token
        self._budget = budget
        self._workers = workers
        self._busy_timeout = busy_timeout
        self._loads_alone = min(_LOADS_ALONE, busy_timeout / 4)
        self._stopped = min(_STOPPED, busy_timeout)
        self._tables: dict[str, _Resident] = {}  # in the order of their last search
        # Tables with waiting calls.
        self._waiting: dict[_Resident, None] = {}
        self._line = Line()
        self._at_work = 0
        self._batches: set[asyncio.Task[None]] = set()
        # One table is loaded at a time, so that each load sees the memory of the others.
        self._loader = asyncio.Lock()
        # Including the tasks of tables that were dropped from memory.
        self._tasks = Background()
        self._looked_at = 0.0
        self._cleaned = False
        self._closed = False

    async def search(
        self, table: TableHandle, queries: Sequence[VectorQuery], finish: FromEach[_T]
    ) -> _T:
        """Return what ``finish`` makes of the results of exact searches, in a reader's thread."""
        # A call of many queries waits for the load, like calls after the first search.
        resident = self.prepare(table, searched=len(queries) == 1)
        # Callers that were answered together ask again at the same time, so each waits for all.
        alone = not (resident.batch or resident.waiting) and resident.last_calls == 1
        if not (alone and self._at_work < self._workers and resident.answers):
            return await self._in_turn(resident, queries, finish)
        batch = self._begin(resident, _Batch(1, len(queries)))
        try:
            return await self._answers(self._read, resident, queries, batch, finish)
        finally:
            self._end(resident, batch)

    def prepare(self, table: TableHandle, *, searched: bool = False) -> _Resident:
        """Begin to make a missing copy; the first search does so itself."""
        name = table.name
        resident = self._tables.pop(name, None)
        if resident is not None and resident.table.token != table.token:
            self._unload(resident)
            resident = None
        if resident is None:
            resident = _Resident(table)
        self._tables[name] = resident
        resident.searched_at = time.monotonic()
        if resident.copy is None and not searched:
            self._begin_loading(resident)
        return resident

    def _begin_loading(self, resident: _Resident) -> None:
        over = _is_over(resident.loading)
        if self._closed or not over or time.monotonic() < resident.retry_at:
            return
        resident.loading = self._tasks.start(self._load(resident))
        self._let_load(resident)
        resident.loading.add_done_callback(lambda _: self._begin_batches())

    def forget(self, name: str) -> None:
        """Release the memory of a table that no longer exists under this name."""
        resident = self._tables.pop(name, None)
        if resident is not None:
            self._unload(resident)
        self._clean()

    def nbytes(self, table: str) -> int:
        resident = self._tables.get(table)
        return 0 if resident is None else resident.nbytes

    def details(self, table: TableHandle, rows: int) -> dict[str, object]:
        """Return for ``stats`` how the table is searched, and the number of such searches."""
        resident = self._tables.get(table.name)
        searched, size = "from the file", size_of(rows, table.schema.dim)
        copy = None if resident is None else resident.copy
        state = None if copy is None else copy.state
        if resident is not None and resident.ready:
            searched = "in memory"
        elif resident is not None and not _is_over(resident.loading):
            searched = "from the file while the table is being loaded"
        segments = () if state is None else state.segments
        mapped = sum(segment.count for segment in segments if segment.mapped)
        shared = mapped or self._gets_file(resident or _Resident(table), rows)
        return {
            "searched": searched,
            "searches": {} if resident is None else dict(resident.counts),
            "scan_expected": 0 if shared else size,
            "scan_budget": self._budget,
            "scan_file": size_of(mapped, table.schema.dim),
        }

    async def close(self) -> None:
        """Fail the waiting calls, stop loading, and release everything."""
        self._closed = True
        for resident in self._waiting:
            for call in resident.waiting:
                call.fail(StoreClosedError(self._target))
        self._tables.clear()
        await self._tasks.cancel()

    # Loading

    async def _load(self, resident: _Resident) -> None:
        """Make the table's copy, or bring it up to date, or write its scan file again."""
        try:
            if resident.copy is None or self._is_worn(resident):
                await self._load_now(resident)
            if resident.is_behind and resident.copy is not None:
                await self._catch_up(resident.copy)
                resident.is_behind = False
            self._keep_to_budget(resident)
        except (ChangesForgottenError, StaleTableError):
            self._drop(resident)
        except Exception as exc:  # noqa: BLE001 - searches continue from the file, equally exact
            resident.renew_at = time.monotonic() + _LONG_PAUSE
            if not resident.ready:
                self._refuse(resident, f"loading it failed: {exc}", pause=_PAUSE)

    def _is_worn(self, resident: _Resident) -> bool:
        """Return whether enough has changed to load the table again."""
        copy = resident.copy
        state = None if copy is None else copy.state
        if state is None or time.monotonic() < resident.renew_at:
            return False
        if state.is_mapped or self._gets_file(resident, state.rows):
            return state.changed > _WORN * state.rows
        return state.dead > state.rows + _GONE

    def _gets_file(self, resident: _Resident, rows: int) -> bool:
        """Return whether a table of so many rows is loaded into a scan file."""
        files = self._files
        if files is None or not files.can_write or time.monotonic() < resident.file_from:
            return False
        return size_of(rows, resident.table.schema.dim) >= files.least

    async def _load_now(self, resident: _Resident) -> None:
        began = time.monotonic()
        before, file = resident.copy, None
        try:
            while True:
                async with self._loader:
                    async with self._aside() as read:
                        copy, rowids = await read(partial(self._look_for_file, resident, before))
                        if rowids is not None:
                            file = await self._load_by(read, resident, before, copy, rowids)
                    if copy.state is not None:
                        await self._catch_up(copy)
                        resident.copy, resident.is_behind = copy, False
                        break
                if rowids is not None:  # no memory is free, or the copy would be no better
                    return
                await asyncio.sleep(_LOOK)
            self._begin_batches()
        except BaseException:
            if file is not None:
                await in_thread(file.discard)
            raise
        if file is not None:
            await self._publish(resident, file)
        elif before is not None and before.file_change >= 0 and self._is_small(copy):
            await self._forget_file(resident)
        took = time.monotonic() - began
        resident.renew_at = max(resident.renew_at, began + (1 + _BETWEEN_LOADS) * took)

    async def _catch_up(self, copy: ResidentCopy) -> None:
        while True:
            async with self._aside() as read:
                if await read(copy.catch_up):
                    return

    def _look_for_file(
        self, resident: _Resident, before: ResidentCopy | None, db: sqlite3.Connection, _: Ticket
    ) -> tuple[ResidentCopy, Int64Array | None]:
        """Return a copy of a scan file that is newer than before; without one, the rows to load.

        Neither while another process is writing one.
        """
        layout = current_table(db, resident.table)
        copy, files = self._new_copy(layout, db), self._files
        last = -1 if before is None else before.file_change
        if copy.state is not None and copy.file_change > last:
            rows = copy.state.rows
            most = min(_WORN * rows, self._budget / 2 / size_of(1, layout.schema.dim))
            if not (self._gets_file(resident, rows) and copy.is_worn(db, most)):
                return copy, None
        copy.state, copy.file_change = None, -1
        rowids = rows_to_load(db, layout)
        size = size_of(len(rowids), layout.schema.dim)
        if files is not None and size >= files.least and self._waits(resident, files):
            return copy, None
        return copy, rowids

    def _waits(self, resident: _Resident, files: ScanFiles) -> bool:
        """Return whether another process is writing a scan file, and goes on with it."""
        written, now = files.being_written(), time.monotonic()
        if written != resident.written:
            resident.written, resident.written_since = written, now
        return bool(written) and now < resident.written_since + self._stopped

    def _new_copy(self, layout: TableLayout, db: sqlite3.Connection) -> ResidentCopy:
        state = None if self._files is None else self._files.find(db, layout)
        return ResidentCopy(layout, int(self._budget * _FOR_MASKS), state)

    async def _load_by(
        self,
        read: Read,
        resident: _Resident,
        before: ResidentCopy | None,
        copy: ResidentCopy,
        rowids: Int64Array,
    ) -> NewFile | None:
        """Load the copy, into a new scan file if possible, otherwise into free memory."""
        files = self._files
        file: NewFile | None = None

        def begin(db: sqlite3.Connection, _: Ticket) -> None:
            nonlocal file  # also if the load is cancelled meanwhile
            file = None if files is None else files.new(db, copy.table, len(rowids))

        try:
            if files is not None and time.monotonic() >= resident.file_from:
                await read(begin)
            if file is None and not self._may_load(resident, before, copy, len(rowids)):
                return None
            await read(partial(copy.load, rowids=rowids, file=file))
        except BaseException as exc:
            if file is not None:
                if isinstance(exc, OSError):
                    resident.file_from = time.monotonic() + _LONG_PAUSE
                await in_thread(file.discard)
            raise
        return file

    def _may_load(
        self, resident: _Resident, before: ResidentCopy | None, copy: ResidentCopy, rows: int
    ) -> bool:
        """Return whether so many rows may be loaded into private memory."""
        size = size_of(rows, copy.table.schema.dim)
        state = None if before is None else before.state
        if state is not None and not self._is_better(resident, state, size):
            resident.renew_at = time.monotonic() + _LONG_PAUSE
            return False
        if not self._has_room(resident, size):
            resident.copy = None  # the file answers until the load is done
        if not self._has_room(resident, size):
            pause = _LONG_PAUSE if size > self._budget else _PAUSE
            self._refuse(resident, _TOO_LARGE, pause=pause)
            return False
        return True

    def _is_better(self, resident: _Resident, state: State, size: int) -> bool:
        """Return whether private memory of this size is better than a worn state.

        A table that a scan file outlasts leaves it: each search would look at all deleted rows.
        """
        files = self._files
        small = state.is_mapped and files is not None and size < files.least
        if not small and state.dead <= state.rows:
            return False
        return not state.is_mapped or self._has_room(resident, size)

    def _is_small(self, copy: ResidentCopy) -> bool:
        """Return whether a copy's table is too small for a scan file."""
        files, state = self._files, copy.state
        size = 0 if state is None else size_of(state.rows, copy.table.schema.dim)
        return files is not None and size < files.least

    async def _publish(self, resident: _Resident, file: NewFile) -> None:
        """Make the store accept a scan file, once it has reached the disk.

        If that fails the file is removed. What a failed flush leaves in memory need not be what was
        written, so the table is loaded again, without a file.
        """
        try:
            try:
                await in_daemon_thread(file.flush)
            except OSError:
                self._distrust(resident)
                raise
            await self._put_token(resident.table, file.token)
        except (AiovecError, OSError, asyncio.CancelledError) as exc:
            resident.renew_at = time.monotonic() + _LONG_PAUSE
            await in_thread(file.discard)
            if isinstance(exc, asyncio.CancelledError):
                raise
            return
        try:
            await in_thread(file.end)
        finally:
            # Also after a cancellation: if the table was dropped, its file was locked until now.
            self._clean()

    @staticmethod
    def _distrust(resident: _Resident) -> None:
        """Answer from the store's file until the table is loaded into private memory."""
        resident.copy = None
        resident.file_from = time.monotonic() + _LONG_PAUSE

    async def _forget_file(self, resident: _Resident) -> None:
        """Have all processes give up the table's scan file, and remove it."""
        if self._files is not None and self._files.can_write:
            with suppress(AiovecError):
                await self._put_token(resident.table, None)
            self._clean()

    def _clean(self) -> None:
        """Begin to remove scan files that the store does not count on."""
        files = self._files
        if files is None or self._closed:
            return

        async def clean() -> None:
            with suppress(Exception):  # the next call does it
                await self._read(lambda db, _: files.clean(db))

        self._tasks.start(clean())

    def _taken(self) -> int:
        """Return the private bytes of all tables."""
        return sum(resident.nbytes for resident in self._tables.values())

    def _has_room(self, resident: _Resident, wanted: int) -> bool:
        """Return whether there is room, after removing tables that are no longer searched."""
        idle = time.monotonic() - _IDLE
        for other in list(self._tables.values()):
            if self._taken() + wanted <= self._budget:
                return True
            if other is not resident and other.ready and other.searched_at < idle:
                self._unload(other)
        return self._taken() + wanted <= self._budget

    def _refuse(self, resident: _Resident, reason: str, *, pause: float = _LONG_PAUSE) -> None:
        """Leave the table to the file for a while."""
        self._unload(resident)
        before, resident.reason = resident.reason, reason
        resident.retry_at = time.monotonic() + pause
        if reason != before:  # in a thread, because a log may be a file
            name = resident.table.name
            say = partial(LOG.warning, "table %s is searched from the file: %s", name, reason)
            self._tasks.start(in_thread(say))

    def _drop(self, resident: _Resident) -> None:
        if self._tables.get(resident.table.name) is resident:
            del self._tables[resident.table.name]
        self._unload(resident)

    @staticmethod
    def _unload(resident: _Resident) -> None:
        resident.copy, resident.is_behind = None, False
        loading = resident.loading
        if loading is not None and not loading.done() and loading is not asyncio.current_task():
            loading.cancel()

    # Batches

    async def _in_turn(
        self, resident: _Resident, queries: Sequence[VectorQuery], finish: FromEach[_T]
    ) -> _T:
        """Return the results of queries, together with others. StoreBusyError if they do not begin
        in time. A cancelled caller leaves its batch, which continues without it.
        """
        if self._closed:
            raise StoreClosedError(self._target)
        call = _Call(queries, finish, current_deadline(self._busy_timeout))
        self._line.check_room(call.deadline, _BUSY)
        resident.waiting.append(call)
        self._waiting[resident] = None
        # Those that ask in the same turn of the event loop are answered together.
        asyncio.get_running_loop().call_soon(self._begin_batches)
        try:
            return await self._line.wait(call.future, call.deadline, call.give_up)
        except asyncio.CancelledError:
            gone = call.batch is not None and all(other.future.done() for other in call.batch)
            if gone and call.task is not None:
                call.task.cancel()
            raise

    def _begin_batches(self) -> None:
        """Begin batches of the waiting calls, up to the number of workers."""
        while self._at_work < self._workers and (resident := self._longest_waiting()) is not None:
            calls = resident.take(_MOST_TOGETHER)
            if not resident.waiting:
                del self._waiting[resident]
            queries = sum(call.size for call in calls)
            batch = self._begin(resident, _Batch(len(calls), queries))
            task = asyncio.create_task(self._answer(resident, calls, batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    def _longest_waiting(self) -> _Resident | None:
        """Return the table whose first call has waited longest, among those ready for a batch."""
        ready = [resident for resident in self._waiting if resident.answers]
        return min(ready, key=lambda table: table.waiting[0].deadline.began, default=None)

    def _begin(self, resident: _Resident, batch: _Batch) -> _Batch:
        self._at_work += 1
        resident.batch = batch
        return batch

    def _end(self, resident: _Resident, batch: _Batch) -> None:
        self._at_work -= 1
        resident.last_calls = batch.calls
        if resident.batch is batch:
            resident.batch = None
        if self._waiting:
            # Callers with answers ask again first, so they join the waiting ones.
            asyncio.get_running_loop().call_soon(self._begin_batches)

    async def _answer(self, resident: _Resident, calls: Sequence[_Call], batch: _Batch) -> None:
        try:
            async with self._reader() as read:
                if calls := [call for call in calls if not call.future.done()]:
                    for call in calls:
                        call.batch, call.task = calls, asyncio.current_task()
                    await self._answer_calls(read, resident, calls, batch)
        except asyncio.CancelledError:
            for call in calls:
                call.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - for example, no reader could be opened
            for call in calls:
                call.fail(error)
        finally:
            self._end(resident, batch)

    async def _answer_calls(
        self, read: Read, resident: _Resident, calls: Sequence[_Call], batch: _Batch
    ) -> None:
        queries = [query for call in calls for query in call.queries]

        def finish(answers: list[Found]) -> list[Any]:
            left = iter(answers)
            return [call.finish([next(left) for _ in call.queries]) for call in calls]

        try:
            results = await self._answers(read, resident, queries, batch, finish)
        except Exception as error:  # noqa: BLE001 - it belongs to the waiting callers
            if isinstance(error, StoreBusyError):
                for call in calls:
                    call.fail(call.deadline.error(error.reason))
                return
            if len(calls) == 1:
                calls[0].fail(error)
                return
            for call in calls:  # each alone, to see which of them fails
                if (meter := call.queries[0].columns.meter) is not None:
                    meter.restart()
                await self._answer_calls(read, resident, [call], batch)
            return
        for call, result in zip(calls, results, strict=True):
            if not call.future.done():
                call.future.set_result(result)

    async def _answers(
        self,
        read: Read,
        resident: _Resident,
        queries: Sequence[VectorQuery],
        batch: _Batch,
        finish: FromEach[_T],
    ) -> _T:
        """Return what ``finish`` makes of the results of queries, all in one snapshot."""
        by_file, spoiled, loop = False, False, asyncio.get_running_loop()

        def scanned() -> None:
            batch.scanned = True
            if resident.waiting:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._begin_batches)

        def by_scan(db: sqlite3.Connection, ticket: Ticket) -> _T:
            found = search_in_file(db, ticket, resident.table, queries, by_bits=False)
            return finish(found)

        def work(db: sqlite3.Connection, ticket: Ticket) -> tuple[State | None, _T]:
            nonlocal spoiled
            layout = current_table(db, resident.table)
            copy = None if by_file else self._copy(resident, layout, db)
            state = None if copy is None else copy.advance(db, ticket)
            if copy is None or state is None:
                resident.is_behind |= copy is not None
                return None, by_scan(db, ticket)
            snapshot = Snapshot(db, ticket, layout, state)
            answers: list[Found] = []
            try:
                for start in range(0, len(queries), _MOST_TOGETHER):
                    part = queries[start : start + _MOST_TOGETHER]
                    last = start + _MOST_TOGETHER >= len(queries)
                    answers += answer(snapshot, copy.masks, part, scanned if last else None)
            except SpoiledFileError:
                spoiled = True
                self._distrust(resident)
                return None, by_scan(db, ticket)
            return state, finish(answers)

        try:
            for attempt in range(_MOST_SNAPSHOTS + 1):
                by_file = attempt == _MOST_SNAPSHOTS
                try:
                    state, finished = await read(work)
                    break
                except OlderSnapshotError:
                    continue
        except StaleTableError:
            self._drop(resident)
            raise
        if state is None:
            if spoiled:
                self._tasks.start(self._forget_file(resident))
            self._begin_loading(resident)
            if not _is_over(resident.loading):
                self._let_load(resident)
            return finished
        counts = resident.counts
        counts["searches"] += len(queries)
        counts["batches"] += 1
        counts["largest_batch"] = max(counts["largest_batch"], len(queries))
        # Without a filter only the state can have grown, but there may be room for a file again.
        is_due = 0.0 < resident.file_from <= time.monotonic()
        if is_due:
            resident.file_from = 0.0
        filtered = any(query.where is not None for query in queries)
        if resident.kept is not state or filtered or is_due:
            self._look_after(resident, state)
        return finished

    def _copy(
        self, resident: _Resident, layout: TableLayout, db: sqlite3.Connection
    ) -> ResidentCopy | None:
        """Return the table's copy, which the first search takes from its scan file; None if the
        file has to answer."""
        if resident.copy is None and not resident.looked and self._files is not None:
            resident.looked = True
            copy = self._new_copy(layout, db)
            if copy.state is not None:
                resident.copy = copy
        return None if resident.is_behind else resident.copy

    def _let_load(self, resident: _Resident) -> None:
        """Make searches wait for the load, for a while."""
        resident.file_at = time.monotonic() + self._loads_alone
        loop = asyncio.get_running_loop()
        loop.call_later(self._loads_alone + 0.001, self._begin_batches)

    def _look_after(self, resident: _Resident, state: State) -> None:
        """Keep to the budget, and load the table again if enough has changed."""
        resident.kept = state
        if not self._cleaned:  # a restored store may lie beside the files of the one before
            self._cleaned = True
            self._clean()
        self._keep_to_budget(resident)
        if self._is_worn(resident):
            self._begin_loading(resident)
        now = time.monotonic()
        if now >= self._looked_at + _BETWEEN_LOOKS and len(self._tables) > 1:
            self._looked_at = now
            self._tasks.start(self._drop_stale())

    async def _drop_stale(self) -> None:
        """Remove copies of tables that another process dropped or altered."""
        with suppress(Exception):  # the next look does it
            epochs = await self._read(
                lambda db, _: dict(db.execute("SELECT name, epoch FROM aiovec_tables").fetchall())
            )
            for name, resident in list(self._tables.items()):
                if epochs.get(name) != resident.table.token:
                    self._drop(resident)

    def _keep_to_budget(self, resident: _Resident) -> None:
        """If tables have outgrown it, move the largest to a scan file, or leave it to the file."""
        if self._has_room(resident, 0):
            return
        largest = max(self._tables.values(), key=lambda table: table.nbytes, default=resident)
        copy = largest.copy
        if copy is not None and copy.state is not None:
            gets_file = self._gets_file(largest, copy.state.rows)
            self._refuse(largest, _TOO_LARGE, pause=_PAUSE if gets_file else _LONG_PAUSE)


def _is_over(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
