"""Search in memory: one queue for each table, and the copy, or else the file, that answers.

A free reader takes the searches of the table whose first one has waited longest, up to 32 together.
A lone one never waits for company; a few that come while others on the same table are being
answered wait for these: both batches would read all codes.
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

from aiovec.backend import Int64Array
from aiovec.backend.contract import Found, StaleTableError, TableHandle, VectorQuery
from aiovec.backend.limits import Deadline, Line, copy_of_error, current_deadline
from aiovec.backend.threads import Background, in_daemon_thread, in_thread
from aiovec.errors import AiovecError, StoreBusyError, StoreClosedError

from ..connection import Read, Ticket
from ..layout import TableLayout, current_table
from ..search import search as search_in_file
from .copy import ChangesForgottenError, OlderSnapshotError, ResidentCopy, rows_to_load
from .scanfile import WORTH, NewFile, ScanFiles, size_of
from .segments import State
from .settle import Snapshot, answer

LOG = logging.getLogger("aiovec")

# Queries that are answered together. More share the reading of the codes a little better, and let
# the first of them wait longer.
_MOST_TOGETHER = 32
# So many queries are one batch: two of fewer, on two cores, would answer a sixth more of them for
# half as much processor time again.
_ONE_BATCH = 16
_BUSY = "the searches of this process take too long"
# Masks may take this share of the budget.
_FOR_MASKS = 1 / 16
_TOO_LARGE = "it is larger than scan_memory"
# Seconds that a load has for itself before the file answers those that wait. Most tables are
# loaded by then, and the file's answers would hold it up.
_LOADS_ALONE = 2.0
# Seconds until a load that failed is tried again, and until a table that cannot be loaded is looked
# at again, which may have shrunk.
_PAUSE, _LONG_PAUSE = 10.0, 300.0
# Seconds without a search after which a table's private memory is given to another one.
_IDLE = 60.0
# A table is loaded anew when this share of its scan file's rows has come and gone, or as many rows
# of private memory are gone as are left, and some; and when so many times as long has passed as the
# last load took.
_WORN, _GONE, _BETWEEN_LOADS = 1 / 8, 256, 4
# Seconds between looks at a scan file that another process writes.
_LOOK = 0.2
# Seconds between looks at which tables there still are.
_BETWEEN_LOOKS = 1.0
# How often a batch takes a newer snapshot because another one was quicker.
_MOST_SNAPSHOTS = 10


class _Call:
    """The queries of one caller, who may have gone."""

    __slots__ = ("batch", "deadline", "future", "queries", "task")

    def __init__(self, queries: Sequence[VectorQuery], deadline: Deadline) -> None:
        self.queries = queries
        self.deadline = deadline
        self.future: asyncio.Future[list[Found]] = asyncio.get_running_loop().create_future()
        # The calls that are answered together, by a task that ends where nobody waits for it.
        self.batch: Sequence[_Call] | None = None
        self.task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Fail, unless its rows are being read."""
        if self.batch is None:
            self.fail(self.deadline.error(_BUSY))

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(copy_of_error(error))


class _Resident:
    """The copy of one table, None until it is loaded, the calls that wait, and its tasks."""

    def __init__(self, table: TableHandle) -> None:
        self.table = table
        self.copy: ResidentCopy | None = None
        # The scan file was looked for.
        self.looked = False
        # Too much has changed to be brought in while a search waits.
        self.is_behind = False
        self.loading: asyncio.Task[None] | None = None
        # When the file may answer searches that wait for the load.
        self.file_at = 0.0
        # Until when no load is tried, and why; when it may be loaded anew.
        self.retry_at, self.reason, self.renew_at = 0.0, "", 0.0
        # No scan file can be written.
        self.no_file = False
        # The state that was looked after last.
        self.kept: State | None = None
        self.searched_at = time.monotonic()
        self.waiting: deque[_Call] = deque()
        self.batches = 0
        self.counts = {"searches": 0, "batches": 0, "largest_batch": 0}

    @property
    def ready(self) -> bool:
        return self.copy is not None and not self.is_behind

    @property
    def answers(self) -> bool:
        """True if a batch may begin: in memory, or now and then while the table is loaded.

        Where no copy can be made, the file answers all.
        """
        if self.ready:
            return True
        if _is_over(self.loading):  # or the first search looks for a scan file
            return bool(self.reason) or not self.batches
        return not self.batches and time.monotonic() >= self.file_at

    @property
    def nbytes(self) -> int:
        copy = self.copy  # it may go while another thread asks
        return 0 if copy is None else copy.nbytes

    @property
    def wanted(self) -> int:
        """The queries that wait."""
        return sum(len(call.queries) for call in self.waiting)

    def take(self, share: int) -> list[_Call]:
        """Return the calls that waited longest, with as many queries as the share, or some more."""
        calls: list[_Call] = []
        queries = 0
        while self.waiting and queries < share:
            call = self.waiting.popleft()
            if call.deadline.left() <= 0:
                call.give_up()
            if not call.future.done():  # else its caller has gone
                calls.append(call)
                queries += len(call.queries)
        return calls


class ResidentSearch:
    """Answers searches from copies in memory, or from the file while a table has none.

    A copy is the table's scan file, as it is mapped, with what has changed since; the first search
    finds it. Where there is none, the table is loaded, into a new scan file if it is large. Private
    memory stays within a budget for all tables of a store.
    """

    def __init__(
        self,
        target: str,
        read: Read,
        reader: Callable[[], AbstractAsyncContextManager[Read]],
        aside: Callable[[], AbstractAsyncContextManager[Read]],
        *,
        files: ScanFiles | None,
        put_token: Callable[[TableHandle, str], Awaitable[None]],
        budget: int,
        workers: int,
        busy_timeout: float,
    ) -> None:
        """``reader`` waits for a connection without a deadline, ``aside`` opens another one.

        ``put_token`` has the store count on a scan file. ``workers`` is the count of batches at
        once.
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
        self._tables: dict[str, _Resident] = {}  # in the order of their last search
        # Tables with calls that wait.
        self._waiting: dict[_Resident, None] = {}
        self._line = Line()
        self._at_work = 0
        self._batches: set[asyncio.Task[None]] = set()
        # One table is loaded at a time, so that each sees how much memory the others take.
        self._loader = asyncio.Lock()
        # Also those of tables that were let go.
        self._tasks = Background()
        self._looked_at = 0.0
        self._closed = False

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        """Return what exact searches find."""
        # Many queries wait for the load, like those that come behind the first search.
        resident = self.prepare(table, searched=len(queries) == 1)
        alone = not (resident.batches or resident.waiting) and self._at_work < self._workers
        if not (alone and resident.answers):
            return await self._in_turn(resident, queries)
        self._begin(resident)
        try:
            return await self._found(self._read, resident, queries)
        finally:
            self._end(resident)

    def prepare(self, table: TableHandle, *, searched: bool = False) -> _Resident:
        """Begin to make a copy where there is none; a search that comes first does so itself."""
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
        """Give back what a table took that is no longer there under this name."""
        resident = self._tables.pop(name, None)
        if resident is not None:
            self._unload(resident)
        if self._files is not None and not self._closed:
            self._tasks.start(self._clean(self._files))

    def nbytes(self, table: str) -> int:
        resident = self._tables.get(table)
        return 0 if resident is None else resident.nbytes

    def details(self, table: TableHandle, rows: int) -> dict[str, object]:
        """For ``stats``: how the table is searched, and how many searches were answered so."""
        resident = self._tables.get(table.name)
        searched, size = "from the file", size_of(rows, table.schema.dim)
        copy = None if resident is None else resident.copy
        state = None if copy is None else copy.state
        if resident is not None and resident.ready:
            searched = "in memory"
        elif resident is not None and not _is_over(resident.loading):
            searched = "from the file while the table is being loaded"
        mapped = 0 if state is None else sum(one.count for one in state.segments if one.mapped)
        shared = mapped or self._gets_file(resident or _Resident(table), rows)
        return {
            "searched": searched,
            "searches": {} if resident is None else dict(resident.counts),
            "scan_expected": 0 if shared else size,
            "scan_budget": self._budget,
            "scan_file": size_of(mapped, table.schema.dim),
        }

    async def close(self) -> None:
        """Fail the calls that wait, stop loading, let go of everything."""
        self._closed = True
        for resident in self._waiting:
            for call in resident.waiting:
                call.fail(StoreClosedError(self._target))
        self._tables.clear()
        await self._tasks.cancel()

    # Loading

    async def _load(self, resident: _Resident) -> None:
        """Make the table's copy, or bring it up to date, or write its scan file anew."""
        try:
            if resident.copy is None or self._is_worn(resident):
                await self._load_now(resident)
            if resident.is_behind and resident.copy is not None:
                await self._catch_up(resident.copy)
                resident.is_behind = False
            self._keep_to_budget(resident)
        except (ChangesForgottenError, StaleTableError):
            self._drop(resident)
        except Exception as exc:  # noqa: BLE001 - searches go on from the file, with the same results
            resident.renew_at = time.monotonic() + _LONG_PAUSE
            if not resident.ready:
                self._refuse(resident, f"loading it failed: {exc}", pause=_PAUSE)

    def _is_worn(self, resident: _Resident) -> bool:
        """Return whether so much has changed that it is worth to load the table anew."""
        copy = resident.copy
        state = None if copy is None else copy.state
        if state is None or time.monotonic() < resident.renew_at:
            return False
        if state.is_mapped or self._gets_file(resident, state.rows):
            return state.changed > _WORN * state.rows
        return state.dead > state.rows + _GONE

    def _gets_file(self, resident: _Resident, rows: int) -> bool:
        """Return whether a table of so many rows is loaded into a scan file."""
        can = self._files is not None and self._files.can_write and not resident.no_file
        return can and size_of(rows, resident.table.schema.dim) >= WORTH

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
                if rowids is not None:  # there is no room, or nothing better than before
                    return
                await asyncio.sleep(_LOOK)
            self._begin_batches()
        except BaseException:
            if file is not None:
                await in_thread(file.discard)
            raise
        if file is not None and self._files is not None:
            await self._publish(resident, file, self._files)
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
        """A copy by a scan file that is newer than before; without one, the rows to load.

        Neither where another process writes one.
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
        large = size_of(len(rowids), layout.schema.dim) >= WORTH
        if large and files is not None and files.is_written():
            return copy, None
        return copy, rowids

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
        """Load the copy, into a new scan file if there can be one, else where there is memory."""
        files, file = self._files, None
        if files is not None and not resident.no_file:
            file = await read(lambda db, _: files.new(db, copy.table, len(rowids)))
        if file is None:
            size = size_of(len(rowids), copy.table.schema.dim)
            state = None if before is None else before.state
            if state is not None and (state.is_mapped or state.dead <= state.rows):
                resident.renew_at = time.monotonic() + _LONG_PAUSE
                return None
            if not self._has_room(resident, size):
                resident.copy = None  # until then the file answers
            if not self._has_room(resident, size):
                pause = _LONG_PAUSE if size > self._budget else _PAUSE
                self._refuse(resident, _TOO_LARGE, pause=pause)
                return None
        try:
            await read(partial(copy.load, rowids=rowids, file=file))
        except BaseException as exc:
            if file is not None:
                resident.no_file = isinstance(exc, OSError)
                await in_thread(file.discard)
            raise
        return file

    async def _publish(self, resident: _Resident, file: NewFile, files: ScanFiles) -> None:
        """Have the store count on a scan file, as soon as it has reached the disk.

        Where that fails the file is removed, and this process goes on with what it has mapped.
        """
        try:
            await in_daemon_thread(file.flush)
            await self._put_token(resident.table, file.token)
        except (AiovecError, OSError, asyncio.CancelledError) as exc:
            resident.renew_at = time.monotonic() + _LONG_PAUSE
            await in_thread(file.discard)
            if isinstance(exc, asyncio.CancelledError):
                raise
            return
        await in_thread(file.end)
        await self._clean(files)

    async def _clean(self, files: ScanFiles) -> None:
        with suppress(Exception):  # the next one does it
            await self._read(lambda db, _: files.clean(db))

    def _taken(self) -> int:
        """Return the private bytes."""
        return sum(one.nbytes for one in self._tables.values())

    def _has_room(self, resident: _Resident, wanted: int) -> bool:
        """Return whether there is room, once tables that nobody searches have gone."""
        idle = time.monotonic() - _IDLE
        for one in list(self._tables.values()):
            if self._taken() + wanted <= self._budget:
                return True
            if one is not resident and one.ready and one.searched_at < idle:
                self._unload(one)
        return self._taken() + wanted <= self._budget

    def _refuse(self, resident: _Resident, reason: str, *, pause: float = _LONG_PAUSE) -> None:
        """Leave the table to the file for a while."""
        self._unload(resident)
        before, resident.reason = resident.reason, reason
        resident.retry_at = time.monotonic() + pause
        if reason != before:  # in a thread, since a log may be a file
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

    async def _in_turn(self, resident: _Resident, queries: Sequence[VectorQuery]) -> list[Found]:
        """Return what the queries find, together with others. StoreBusyError where none begins in
        time. A cancelled caller leaves its batch, which goes on without it.
        """
        if self._closed:
            raise StoreClosedError(self._target)
        call = _Call(queries, current_deadline(self._busy_timeout))
        resident.waiting.append(call)
        self._waiting[resident] = None
        self._begin_batches()
        try:
            return await self._line.wait(call.future, call.deadline, call.give_up)
        except asyncio.CancelledError:
            gone = call.batch is not None and all(one.future.done() for one in call.batch)
            if gone and call.task is not None:
                call.task.cancel()
            raise

    def _begin_batches(self) -> None:
        """Begin batches of the calls that wait, as many as there are workers for."""
        while self._at_work < self._workers and (resident := self._longest_waiting()) is not None:
            share = resident.wanted
            if not resident.ready:  # the file is read once for all
                share = _MOST_TOGETHER
            elif share > _ONE_BATCH:
                share = min(_MOST_TOGETHER, -(-share // (self._workers - self._at_work)))
            self._begin(resident)
            calls = resident.take(share)
            if not resident.waiting:
                del self._waiting[resident]
            batch = asyncio.create_task(self._answer(resident, calls))
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)

    def _longest_waiting(self) -> _Resident | None:
        """The table whose first call has waited longest, of those that may have a further batch."""
        some = [
            one for one in self._waiting
            if one.answers and not (one.batches and one.wanted <= _ONE_BATCH)
        ]  # fmt: skip
        return min(some, key=lambda one: one.waiting[0].deadline.began, default=None)

    def _begin(self, resident: _Resident) -> None:
        self._at_work += 1
        resident.batches += 1

    def _end(self, resident: _Resident) -> None:
        self._at_work -= 1
        resident.batches -= 1
        if self._waiting:
            # Callers that got answers ask again first: they join the ones that wait.
            asyncio.get_running_loop().call_soon(self._begin_batches)

    async def _answer(self, resident: _Resident, calls: Sequence[_Call]) -> None:
        try:
            async with self._reader() as read:
                if calls := [call for call in calls if not call.future.done()]:
                    for call in calls:
                        call.batch, call.task = calls, asyncio.current_task()
                    await self._answer_calls(read, resident, calls)
        except asyncio.CancelledError:
            for call in calls:
                call.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - no reader is left
            for call in calls:
                call.fail(error)
        finally:
            self._end(resident)

    async def _answer_calls(self, read: Read, resident: _Resident, calls: Sequence[_Call]) -> None:
        queries = [query for call in calls for query in call.queries]
        try:
            found = iter(await self._found(read, resident, queries))
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            if isinstance(error, StoreBusyError):
                for call in calls:
                    call.fail(call.deadline.error(error.reason))
                return
            if len(calls) == 1:
                calls[0].fail(error)
                return
            for call in calls:  # whose it is shows when each is asked alone
                await self._answer_calls(read, resident, [call])
            return
        for call in calls:
            own = [next(found) for _ in call.queries]
            if not call.future.done():
                call.future.set_result(own)

    async def _found(
        self, read: Read, resident: _Resident, queries: Sequence[VectorQuery]
    ) -> list[Found]:
        """Return what queries find, all in one snapshot."""
        by_file = False

        def work(db: sqlite3.Connection, ticket: Ticket) -> tuple[State | None, list[Found]]:
            layout = current_table(db, resident.table)
            copy = None if by_file else self._copy(resident, layout, db)
            state = None if copy is None else copy.advance(db, ticket)
            if copy is None or state is None:
                resident.is_behind |= copy is not None
                return None, search_in_file(db, ticket, resident.table, queries, by_bits=False)
            snapshot = Snapshot(db, ticket, layout, state)
            found: list[Found] = []
            for start in range(0, len(queries), _MOST_TOGETHER):
                part = queries[start : start + _MOST_TOGETHER]
                found += answer(snapshot, copy.masks, part)
            return state, found

        try:
            for attempt in range(_MOST_SNAPSHOTS + 1):
                by_file = attempt == _MOST_SNAPSHOTS
                try:
                    state, found = await read(work)
                    break
                except OlderSnapshotError:
                    continue
        except StaleTableError:
            self._drop(resident)
            raise
        if state is None:
            self._answered_by_file(resident)
            return found
        counts = resident.counts
        counts["searches"] += len(queries)
        counts["batches"] += 1
        counts["largest_batch"] = max(counts["largest_batch"], len(queries))
        # Without a filter nothing but the state can have grown.
        if resident.kept is not state or any(query.where is not None for query in queries):
            self._look_after(resident, state)
        return found

    def _copy(
        self, resident: _Resident, layout: TableLayout, db: sqlite3.Connection
    ) -> ResidentCopy | None:
        """The table's copy, at the first search by its scan file; None where the file answers."""
        if resident.copy is None and not resident.looked and self._files is not None:
            resident.looked = True
            copy = self._new_copy(layout, db)
            if copy.state is not None:
                resident.copy = copy
        return None if resident.is_behind else resident.copy

    def _answered_by_file(self, resident: _Resident) -> None:
        self._begin_loading(resident)
        if not _is_over(resident.loading):
            self._let_load(resident)

    def _let_load(self, resident: _Resident) -> None:
        """Have searches wait for the load, for a while."""
        resident.file_at = time.monotonic() + self._loads_alone
        loop = asyncio.get_running_loop()
        loop.call_later(self._loads_alone + 0.001, self._begin_batches)

    def _look_after(self, resident: _Resident, state: State) -> None:
        """Keep to the budget, and have the table loaded anew where that is worth it."""
        resident.kept = state
        self._keep_to_budget(resident)
        if self._is_worn(resident):
            self._begin_loading(resident)
        now = time.monotonic()
        if now >= self._looked_at + _BETWEEN_LOOKS and len(self._tables) > 1:
            self._looked_at = now
            self._tasks.start(self._drop_stale())

    async def _drop_stale(self) -> None:
        """Let go of tables that another process dropped, or altered."""
        with suppress(Exception):  # the next look does it
            epochs = await self._read(
                lambda db, _: dict(db.execute("SELECT name, epoch FROM aiovec_tables").fetchall())
            )
            for name, resident in list(self._tables.items()):
                if epochs.get(name) != resident.table.token:
                    self._drop(resident)

    def _keep_to_budget(self, resident: _Resident) -> None:
        """Tables grow: the largest goes to a new scan file, or is left to the store's file."""
        if self._has_room(resident, 0):
            return
        largest = max(self._tables.values(), key=lambda one: one.nbytes, default=resident)
        copy = largest.copy
        if copy is not None and copy.state is not None:
            gets_file = self._gets_file(largest, copy.state.rows)
            self._refuse(largest, _TOO_LARGE, pause=_PAUSE if gets_file else _LONG_PAUSE)


def _is_over(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
