"""Search by codes: one queue for each table, answered by its copy.

A copy is a list of segments, which lie in a mapped scan file or in memory. The first search of a
table in a process maps the scan file. If there is none, the store's file answers, and a build
begins, for which later searches wait. The file also answers when a build takes very long, and where
there is neither disk nor memory for a copy.

A free reader takes the searches of the table whose first one has waited longest, up to 32 together.
A scan uses all cores, so a table has one at a time; what comes meanwhile waits and is answered
together. A lone search never waits for company, and each caller gets its answer as soon as its rows
are read, those of few rows first.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
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
from aiovec.backend.limits import Deadline, Line, copy_of_error, current_deadline
from aiovec.backend.threads import Background, in_daemon_thread, in_thread
from aiovec.errors import AiovecError, StoreBusyError, StoreClosedError

from ..connection import Read, ReaderPool, Ticket
from ..layout import TableLayout, current_table
from .copy import OlderSnapshotError, ResidentCopy, rows_to_load
from .file_scan import search as search_in_file
from .scan import LARGE, MOST_TOGETHER, Snapshot, SpoiledFileError, answers
from .scanfile import NewFile, ScanFiles, size_of
from .segments import State

LOG = logging.getLogger("aiovec")
_T = TypeVar("_T")

# A hybrid query counts as so many, because a batch looks up the words of its queries one by one.
_HYBRID = 8
_BUSY = "the searches of this process take too long"
_TOO_LARGE = "it is larger than the memory for copies"
# The share of the memory for copies that one table's masks may take, and the changes of one copy.
_FOR_MASKS, _FOR_CHANGES = 1 / 16, 1 / 2
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
# A copy with more changes than this share of its rows is built anew.
_FOLLOWED = 1 / 2
# Seconds between looks at a scan file that another process writes.
_LOOK = 0.2
# Seconds between looks for dropped tables.
_BETWEEN_LOOKS = 1.0
# How often a batch renews its snapshot because another batch was quicker.
_MOST_SNAPSHOTS = 10


def _restart(queries: Sequence[Query]) -> None:
    """Count the bytes of these queries' rows from 0 on, because they will be read again."""
    for query in queries:
        if query.columns.meter is not None:
            query.columns.meter.restart()


class _Caller:
    """The queries of one caller, which may have gone, and what makes its result of their rows."""

    __slots__ = ("batch", "deadline", "finish", "future", "large", "queries", "size", "task")

    def __init__(self, queries: Sequence[Query], finish: FromEach[Any], deadline: Deadline) -> None:
        self.queries = queries
        self.finish = finish
        self.size = sum(_HYBRID if query.fusion is not None else 1 for query in queries)
        self.large = any(query.limit > LARGE and query.fusion is None for query in queries)
        self.deadline = deadline
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # The calls that are answered together, and their task, which ends if nobody waits for it.
        self.batch: Sequence[_Caller] | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def refused(self) -> bool:
        """True if its rows have too many bytes."""
        meter = self.queries[0].columns.meter
        return meter is not None and meter.refused

    def give_up(self) -> None:
        """Fail, unless rows are already being read for it."""
        if self.batch is None:
            self.fail(self.deadline.error(_BUSY))

    def succeed(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(copy_of_error(error))


class _Batch:
    """Calls that are being answered together."""

    __slots__ = ("calls", "queries", "scanned")

    def __init__(self, calls: int, queries: int, large: int, *, by_file: bool) -> None:
        self.calls = calls
        # A call of many queries takes several scans, and others run beside it.
        many = queries > MOST_TOGETHER
        # True once their rows are known and only the fields of these are read. A table that has no
        # copy is read for several batches at a time.
        self.scanned = many or by_file
        # The queries that must wait for a scan beside this batch. The callers of large ones do not
        # get their answers soon.
        self.queries = 1 if many else max(1, queries - large)


class _Resident:
    """The copy of one table, None until it is built, its waiting calls, and its tasks."""

    def __init__(self, table: TableHandle) -> None:
        self.table = table
        self.copy: ResidentCopy | None = None
        self.building: asyncio.Task[None] | None = None
        # True once a scan file was looked for, by the first search.
        self.looked = False
        # The time from which the file may answer searches that wait for the build.
        self.file_at = 0.0
        # The earliest times of a build, of a renewal, and of a scan file. Where a build failed, the
        # reason.
        self.retry_at = self.renew_at = self.scan_file_at = 0.0
        self.reason = ""
        # The state at the last check of the memory.
        self.kept: State | None = None
        self.searched_at = time.monotonic()
        self.waiting: deque[_Caller] = deque()
        # The newest batch under way, and the calls of the last one that ended.
        self.batch: _Batch | None = None
        self.last_calls = 1
        self.counts = {"searches": 0, "batches": 0, "largest_batch": 0}

    @property
    def is_building(self) -> bool:
        return self.building is not None and not self.building.done()

    @property
    def answers(self) -> bool:
        """True if a batch may begin: by the copy, or by the file if the build takes long.

        Behind a scan, the next one begins at once if as many queries wait as it had. If they are
        fewer, its callers will soon have their answers, ask again, and join them.
        """
        batch = self.batch
        if batch is not None:
            return batch.scanned and self.wanted >= batch.queries
        return self.copy is not None or not self.is_building or time.monotonic() >= self.file_at

    @property
    def nbytes(self) -> int:
        copy = self.copy  # another thread may remove it
        return 0 if copy is None else copy.nbytes

    @property
    def wanted(self) -> int:
        """The number of waiting queries."""
        return sum(call.size for call in self.waiting)

    def take(self, share: int) -> list[_Caller]:
        """Return the calls that waited longest, with at least ``share`` queries if there are."""
        calls: list[_Caller] = []
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
    """Answers searches from the tables' copies, and from the file where a table has none.

    Private memory stays within ``memory`` bytes for all tables of a store.
    """

    def __init__(
        self,
        target: str,
        readers: ReaderPool,
        *,
        files: ScanFiles | None,
        put_token: Callable[[TableHandle, str | None], Awaitable[None]],
        memory: int,
        workers: int,
        busy_timeout: float,
    ) -> None:
        """``put_token`` makes the store accept a scan file, or with None no one.

        ``workers`` is the number of simultaneous batches.
        """
        self._target = target
        self._readers = readers
        self._files = files
        self._put_token = put_token
        self._memory = memory
        self._workers = workers
        self._busy_timeout = busy_timeout
        self._builds_alone = min(_BUILDS_ALONE * busy_timeout, _LONGEST)
        self._tables: dict[str, _Resident] = {}  # in the order of their last search
        # Tables with waiting calls.
        self._waiting: dict[_Resident, None] = {}
        self._line = Line()
        self._at_work = 0
        self._batches: set[asyncio.Task[None]] = set()
        # One table is built at a time, so that each build sees the memory of the others.
        self._builder = asyncio.Lock()
        # Including the tasks of tables that were dropped from memory.
        self._tasks = Background()
        self._looked_at = 0.0
        # True once files were removed that processes left behind which ended while they wrote them.
        self._cleaned = False
        self._closed = False

    async def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> _T:
        """Return what ``finish`` makes of the results of exact searches, in a reader's thread."""
        resident = self._of(table)
        # The file answers one query at first, many take longer there than a build.
        first = len(queries) == 1 and (resident.batch or not resident.looked)
        if resident.copy is None and not first:
            self._begin_building(resident)
        # Callers that were answered together ask again at the same time, so each waits for all.
        alone = not (resident.batch or resident.waiting) and resident.last_calls == 1
        if not (alone and self._at_work < self._workers and resident.answers):
            return await self._in_turn(resident, queries, finish)
        batch = self._begin(resident, 1, len(queries))

        def all_of(found: Iterator[dict[int, Found]]) -> _T:
            answers: dict[int, Found] = {}
            for some in found:
                answers |= some
            return finish([answers[place] for place in range(len(queries))])

        try:
            return await self._answers(self._readers.read, resident, queries, batch, all_of)
        finally:
            self._end(resident, batch)

    def _of(self, table: TableHandle) -> _Resident:
        """Return what is known of the table, as the one that was searched last."""
        name = table.name
        resident = self._tables.pop(name, None)
        if resident is not None and resident.table.epoch != table.epoch:
            self._unload(resident)
            resident = None
        if resident is None:
            resident = _Resident(table)
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
        }

    async def close(self) -> None:
        """Fail the waiting calls, stop builds, and release everything."""
        self._closed = True
        for resident in self._waiting:
            for call in resident.waiting:
                call.fail(StoreClosedError(self._target))
        self._tables.clear()
        await self._tasks.cancel()

    # Builds

    def _begin_building(self, resident: _Resident, before: ResidentCopy | None = None) -> None:
        if self._closed or resident.is_building or time.monotonic() < resident.retry_at:
            return
        resident.looked = True  # the build looks too
        resident.building = self._tasks.start(self._build(resident, before))
        resident.building.add_done_callback(lambda _: self._begin_batches())
        self._wait_for_build(resident)

    def _wait_for_build(self, resident: _Resident) -> None:
        """Make searches wait for the build, for a while."""
        resident.file_at = time.monotonic() + self._builds_alone
        loop = asyncio.get_running_loop()
        loop.call_later(self._builds_alone + 0.001, self._begin_batches)

    async def _build(self, resident: _Resident, before: ResidentCopy | None) -> None:
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
        self._clean()  # for example, a store was restored beside the files of the one before

    async def _built(self, resident: _Resident, before: ResidentCopy | None) -> bool:
        """Make the copy; return False if this has to be tried again."""
        made: list[NewFile] = []
        copy: ResidentCopy | None = None
        try:
            copy = await self._copy(resident, before, made)
            if copy is None:
                await asyncio.sleep(_LOOK)
                return False
            resident.copy, resident.reason = copy, ""
            self._begin_batches()
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
        self, resident: _Resident, before: ResidentCopy | None, made: list[NewFile]
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
        resident: _Resident,
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

    def _gets_file(self, resident: _Resident, size: int) -> bool:
        """Return whether a table of so many bytes is built into a scan file."""
        files = self._files
        if files is None or not files.can_write or time.monotonic() < resident.scan_file_at:
            return False
        return size >= files.least

    def _is_worn(self, resident: _Resident, state: State) -> bool:
        """Return whether enough has changed to build the table again."""
        if time.monotonic() < resident.renew_at:
            return False
        size = size_of(state.rows, resident.table.schema.dim)
        if state.is_mapped or self._gets_file(resident, size):
            return state.changed > _WORN * state.rows
        return state.dead > state.rows + _GONE

    async def _forget_file(self, resident: _Resident) -> None:
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

    def _keep_to_memory(self, resident: _Resident) -> None:
        """If the table has outgrown the memory, leave it to a new scan file or to the file."""
        copy = resident.copy
        if copy is None or copy.state is None or self._has_room():
            return
        if self._gets_file(resident, size_of(copy.state.rows, copy.table.schema.dim)):
            self._unload(resident)
        else:
            self._refuse(resident, _TOO_LARGE)

    def _refuse(self, resident: _Resident, reason: str) -> None:
        """Leave the table to the file for a while."""
        self._unload(resident)
        resident.retry_at = time.monotonic() + _PAUSE
        if reason != resident.reason:  # in a thread, because a log may be a file
            resident.reason, name = reason, resident.table.name
            say = partial(LOG.warning, "table %s is searched from the file: %s", name, reason)
            self._tasks.start(in_thread(say))

    def _drop(self, resident: _Resident) -> None:
        if self._tables.get(resident.table.name) is resident:
            del self._tables[resident.table.name]
        self._unload(resident)

    @staticmethod
    def _unload(resident: _Resident) -> None:
        resident.copy = None
        building = resident.building
        if building is not None and building is not asyncio.current_task():
            building.cancel()

    # Batches

    async def _in_turn(
        self, resident: _Resident, queries: Sequence[Query], finish: FromEach[_T]
    ) -> _T:
        """Return the results of queries, together with others. StoreBusyError if they do not begin
        in time. A cancelled caller leaves its batch, which continues without it.
        """
        if self._closed:
            raise StoreClosedError(self._target)
        call = _Caller(queries, finish, current_deadline(self._busy_timeout))
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
            calls = resident.take(MOST_TOGETHER)
            if not resident.waiting:
                del self._waiting[resident]
            queries = sum(call.size for call in calls)
            large = sum(call.size for call in calls if call.large)
            batch = self._begin(resident, len(calls), queries, large)
            task = asyncio.create_task(self._answer(resident, calls, batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    def _longest_waiting(self) -> _Resident | None:
        """Return the table whose first call has waited longest, among those ready for a batch."""
        ready = [resident for resident in self._waiting if resident.answers]
        return min(ready, key=lambda table: table.waiting[0].deadline.began, default=None)

    def _begin(self, resident: _Resident, calls: int, queries: int, large: int = 0) -> _Batch:
        self._at_work += 1
        resident.batch = batch = _Batch(calls, queries, large, by_file=bool(resident.reason))
        return batch

    def _end(self, resident: _Resident, batch: _Batch) -> None:
        self._at_work -= 1
        resident.last_calls = batch.calls
        if resident.batch is batch:
            resident.batch = None
        if self._waiting:
            # Callers with answers ask again first, so they join the waiting ones.
            asyncio.get_running_loop().call_soon(self._begin_batches)

    async def _answer(self, resident: _Resident, calls: Sequence[_Caller], batch: _Batch) -> None:
        try:
            async with self._readers.reader() as read:
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
        self,
        read: Read,
        resident: _Resident,
        calls: Sequence[_Caller],
        batch: _Batch,
        *,
        again: bool = False,
    ) -> None:
        calls = [call for call in calls if not call.future.done()]  # some may have gone
        queries = [query for call in calls for query in call.queries]
        if not queries:
            return
        _restart(queries)

        try:
            deliver = partial(self._deliver, asyncio.get_running_loop(), calls)
            results = await self._answers(read, resident, queries, batch, deliver)
        except Exception as error:  # noqa: BLE001 - it belongs to the waiting callers
            if isinstance(error, StoreBusyError):
                for call in calls:
                    call.fail(call.deadline.error(error.reason))
                return
            refused = calls if len(calls) == 1 else [call for call in calls if call.refused]
            for call in refused:
                call.fail(error)
            # If it is not known which of them fails, or a second one does, each is answered alone.
            for some in [calls] if refused and not again else [[call] for call in calls]:
                await self._answer_calls(read, resident, some, batch, again=True)
            return
        for call, result in results:
            call.succeed(result)

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        calls: Sequence[_Caller],
        found: Iterator[dict[int, Found]],
    ) -> list[tuple[_Caller, Any]]:
        """Finish the calls in the reader's thread, each as soon as all its rows are read.

        Return the calls that end last, with their results; the others have theirs already.
        """
        answers: dict[int, Found] = {}
        places = iter(range(sum(len(call.queries) for call in calls)))
        left = {call: [next(places) for _ in call.queries] for call in calls}
        for some in found:
            answers |= some
            ready = [call for call, needed in left.items() if answers.keys() >= set(needed)]
            results = [
                (call, call.finish([answers.pop(place) for place in left.pop(call)]))
                for call in ready
            ]
            if not left:
                return results
            self._readers.check_file()
            for call, result in results:
                loop.call_soon_threadsafe(call.succeed, result)
        return []

    async def _answers(
        self,
        read: Read,
        resident: _Resident,
        queries: Sequence[Query],
        batch: _Batch,
        finish: Callable[[Iterator[dict[int, Found]]], _T],
    ) -> _T:
        """Return what ``finish`` makes of the results of queries, all in one snapshot."""
        loop, spoiled = asyncio.get_running_loop(), False
        copy: ResidentCopy | None = None

        def scanned() -> None:
            batch.scanned = True
            if resident.waiting:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._begin_batches)

        def work(db: sqlite3.Connection, ticket: Ticket) -> tuple[State | None, _T]:
            nonlocal copy, spoiled
            layout = current_table(db, resident.table)
            if copy is None and not resident.looked:
                resident.looked = True
                copy = resident.copy = self._mapped(db, layout)
            state = None if copy is None else copy.advance(db, ticket)
            if copy is not None and state is not None:
                snapshot = Snapshot(db, ticket, layout, state)
                try:
                    found = answers(snapshot, copy.masks, queries, scanned)
                except SpoiledFileError:
                    spoiled = True
                    _restart(queries)
                else:
                    return state, finish(found)
            rows = search_in_file(db, ticket, resident.table, queries, by_bits=False)
            return None, finish(iter([dict(enumerate(rows))]))

        try:
            for attempt in range(_MOST_SNAPSHOTS + 1):
                copy = None if attempt == _MOST_SNAPSHOTS else resident.copy
                try:
                    state, finished = await read(work)
                    break
                except OlderSnapshotError:
                    continue
        except StaleTableError:
            self._drop(resident)
            raise
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

    def _look_after(self, resident: _Resident, queries: Sequence[Query], state: State) -> None:
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
