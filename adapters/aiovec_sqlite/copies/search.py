"""Search in memory: the copy that answers, and the way around until one is loaded.

Searches of a table that wait are answered together. A lone one never waits for company; a few that
come while others on the same table are being answered wait for these: both batches would read all
codes, and the one under way has all cores for itself.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import anyio

from aiovec.backend import Int64Array
from aiovec.backend.contract import Found, StaleTableError, TableHandle, VectorQuery
from aiovec.backend.limits import Deadline, Gate, Line, copy_of_error, current_deadline
from aiovec.backend.threads import Background, in_thread
from aiovec.errors import StoreBusyError

from ..connection import Read, Ticket
from ..layout import current_table
from ..search import is_approximate
from .copy import (
    ChangesForgottenError,
    OlderSnapshotError,
    ResidentCopy,
    expected_bytes,
    rows_to_load,
    vector_bytes,
)
from .segments import State, needs_compaction
from .settle import Snapshot, answer

LOG = logging.getLogger("aiovec")

# Queries that are answered together. More share the reading of the codes a little better, and let
# the first of them wait longer.
_MOST_TOGETHER = 32
# So many queries are one batch, on which all cores work: reading the codes for two batches of fewer
# would take longer.
_ONE_BATCH = 16
_BUSY = "the searches of this process take too long"
# Masks may take this share of the budget.
_FOR_MASKS = 1 / 16
_TOO_LARGE = "it is larger than scan_memory"
# Tables that are loaded at once.
_MOST_LOADERS = 2
# Seconds that a load waits at most for the file's answer to the search that asked for it: both at
# once take twice as long to that answer, and a huge file takes long.
_HEAD_START = 0.5
# Seconds that it then has for itself before the file answers another search. Most tables are loaded
# by then, and the file's answers would hold it up.
_LOADS_ALONE = 2.0
# Seconds until a load that failed is tried again, and until a table that cannot be loaded is looked
# at again, which may have shrunk.
_PAUSE, _LONG_PAUSE = 10.0, 300.0
# Tables whose pauses are remembered; they may come and go under ever new names.
_MOST_PAUSES = 1000
# How often a batch takes a newer snapshot because another one was quicker.
_MOST_SNAPSHOTS = 10


class NotResidentError(Exception):
    """The copy cannot answer for now. Never reaches a user."""


class _Call:
    """The queries of one caller, who may have gone meanwhile."""

    __slots__ = ("batch", "deadline", "future", "queries")

    def __init__(self, queries: Sequence[VectorQuery], deadline: Deadline) -> None:
        self.queries = queries
        self.deadline = deadline
        self.future: asyncio.Future[list[Found]] = asyncio.get_running_loop().create_future()
        self.batch: _Batch | None = None

    def give_up(self) -> None:
        """Fail, unless its rows are being read."""
        if self.batch is None or not self.batch.reads:
            self.fail(self.deadline.error(_BUSY))

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(copy_of_error(error))


class _Batch:
    """Calls that are answered together, by a task that ends where nobody waits for it."""

    __slots__ = ("calls", "reads", "task")

    def __init__(self, calls: Sequence[_Call]) -> None:
        self.calls = calls
        self.reads = False
        self.task: asyncio.Task[None] | None = None
        for call in calls:
            call.batch = self

    def look(self) -> None:
        if self.task is not None and all(call.future.done() for call in self.calls):
            self.task.cancel()


class _Resident:
    """The copy of one table, None until it is loaded, the calls that wait, and its tasks."""

    def __init__(self, table: TableHandle) -> None:
        self.table = table
        self.copy: ResidentCopy | None = None
        # Too much has changed to be brought in while a search waits.
        self.is_behind = False
        # What the copy will take that is being made.
        self.reserved = 0
        self.loading: asyncio.Task[None] | None = None
        self.compacting: asyncio.Task[None] | None = None
        # Set when the file has answered; None where no search waits for it.
        self.answered: asyncio.Event | None = None
        # A search that came while the table is being loaded is answered by the file.
        self.at_file = False
        # The state that was looked after last.
        self.kept: State | None = None
        self.waiting: deque[_Call] = deque()
        self.batches = 0
        self.counts = {"searches": 0, "batches": 0, "largest_batch": 0}

    @property
    def ready(self) -> bool:
        return self.copy is not None and not self.is_behind

    @property
    def nbytes(self) -> int:
        copy = self.copy  # it may go while another thread asks
        return self.reserved if copy is None else copy.nbytes

    def take(self, share: int) -> list[_Call]:
        """Return the calls that waited longest, with as many queries as the share, or some more."""
        calls: list[_Call] = []
        queries = 0
        while self.waiting and queries < share:
            call = self.waiting.popleft()
            if not call.future.done():  # else its caller has gone
                calls.append(call)
                queries += len(call.queries)
        return calls


class ResidentSearch:
    """Answers searches from copies in memory, within a budget for all tables of a store.

    A table is copied when it is first searched. Meanwhile the file answers a query now and then, to
    whose caller ``search`` gives None; others wait for their turn there, or for the copy, since
    many scans of the file take longer than the load, and hold it up. Where the budget is short,
    vectors go first, of the table that was searched longest ago; then whole tables in that order.
    """

    def __init__(
        self,
        read: Read,
        aside: Callable[[], AbstractAsyncContextManager[Read]],
        *,
        budget: int,
        workers: int,
        busy_timeout: float,
        bits: bool = False,
    ) -> None:
        """``workers`` is the count of batches at once.

        ``bits`` has tables that keep bit codes searched by these, in the file.
        """
        self._read = read
        # Reads for work in the background.
        self._aside = aside
        self._budget = budget
        self._workers = workers
        self._busy_timeout = busy_timeout
        self._bits = bits
        self._tables: dict[str, _Resident] = {}  # in the order of their last search
        # Tables that the file answers for a while: until when, and why.
        self._retry_at: dict[str, tuple[object, float, str]] = {}
        # Those with calls that wait, the longest first.
        self._waiting: dict[_Resident, None] = {}
        self._line = Line()
        self._at_work = 0
        self._batches: set[asyncio.Task[None]] = set()
        self._threads = anyio.CapacityLimiter(1)
        # Loading takes some memory beside the copy, so tables are loaded one after the other.
        self._loaders = Gate("other tables are being loaded", calls=_MOST_LOADERS)
        # Those that have reserved memory, also where the table was let go and the thread runs on.
        self._loading: set[_Resident] = set()
        # Also those of tables that were let go.
        self._tasks = Background()
        self._closed = False

    async def search(
        self, table: TableHandle, queries: Sequence[VectorQuery]
    ) -> list[Found] | None:
        """The answers, or None where the file has to be asked; ``file_answered`` is called then."""
        by_bits = self.by_bits(table)
        if any(is_approximate(query, table.schema, by_bits=by_bits) for query in queries):
            return None
        ready = self.prepare(table, searched=len(queries) == 1)
        resident = self._tables.get(table.name)
        if resident is None or (not ready and resident.copy is not None):
            return None
        if not ready and not resident.at_file and len(queries) == 1:
            resident.at_file = True
            return None
        try:
            if not ready or resident.batches or resident.waiting or self._at_work >= self._workers:
                return await self._in_turn(resident, queries)
            self._begin(resident)
            try:
                return await self._found(resident, queries)
            finally:
                self._end(resident)
        except NotResidentError:
            return None

    def file_answered(self, table: TableHandle) -> None:
        """The file has answered a search, or failed to: soon it is the next one's turn."""
        resident = self._tables.get(table.name)
        if resident is None:
            return
        if resident.answered is not None:
            resident.answered.set()
        if resident.copy is None:
            asyncio.get_running_loop().call_later(_LOADS_ALONE, self._next_at_file, resident)

    @staticmethod
    def _next_at_file(resident: _Resident) -> None:
        resident.at_file = False
        for call in resident.waiting if resident.copy is None else ():
            if len(call.queries) == 1 and not call.future.done():
                resident.waiting.remove(call)
                resident.at_file = True
                call.fail(NotResidentError())
                return

    def prepare(self, table: TableHandle, *, searched: bool = False) -> bool:
        """Return whether there is a copy; begin to make one where there is none.

        That waits for the file's answer to a search where the table is ``searched``.
        """
        name = table.name
        resident = self._tables.pop(name, None)
        if resident is not None and resident.table.token != table.token:
            self._unload(resident)
            resident = None
        if resident is None:
            if self._closed or self._pauses(table):
                return False
            resident = _Resident(table)
        if resident.copy is None and _is_over(resident.loading):
            resident.answered = asyncio.Event() if searched else None
            resident.loading = self._tasks.start(self._load(resident))
            resident.loading.add_done_callback(lambda _: self._begin_batches())
        self._tables[name] = resident
        return resident.ready

    def _pauses(self, table: TableHandle) -> bool:
        """Return whether it is too early to try to copy the table."""
        token, until, _ = self._retry_at.get(table.name, (None, 0.0, ""))
        return token == table.token and time.monotonic() < until

    def forget(self, name: str) -> None:
        """Give back the memory of a table that is no longer there under this name."""
        self._retry_at.pop(name, None)
        resident = self._tables.pop(name, None)
        if resident is not None:
            self._unload(resident)

    def by_bits(self, table: TableHandle) -> bool:
        """Return whether the table is searched by bit codes."""
        return self._bits and table.schema.quantized == "bit"

    def nbytes(self, table: str) -> int:
        resident = self._tables.get(table)
        return 0 if resident is None else resident.nbytes

    def details(self, table: TableHandle, rows: int) -> dict[str, object]:
        """For ``stats``: how the table is searched, and how many searches were answered so."""
        resident = self._tables.get(table.name)
        state = "from the file"
        if resident is not None:
            state = "in memory" if resident.ready else f"{state} while the table is being loaded"
        return {
            "searched": state,
            "searches": {} if resident is None else dict(resident.counts),
            "scan_expected": expected_bytes(rows, table.schema.dim),
            "scan_budget": self._budget,
        }

    async def close(self) -> None:
        """Stop loading, let go of everything. Calls that wait are answered first."""
        self._closed = True
        while self._batches or self._waiting:
            if self._batches:
                await asyncio.wait(self._batches)
            await asyncio.sleep(0.001)
        self._tables.clear()
        await self._tasks.cancel()

    # Loading

    async def _load(self, resident: _Resident) -> None:
        try:
            if resident.answered is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HEAD_START):
                        await resident.answered.wait()
            async with self._loaders.enter(None):
                if resident.copy is None:
                    await self._load_now(resident)
                await self._catch_up(resident)
        except (ChangesForgottenError, StaleTableError):
            self._drop(resident)
        except Exception as exc:  # noqa: BLE001 - searches go on from the file, with the same results
            self._refuse(resident, f"loading it failed: {exc}", pause=_PAUSE)

    async def _load_now(self, resident: _Resident) -> None:
        try:
            async with self._aside() as read:
                await self._load_by(read, resident)
        finally:
            resident.reserved = 0
            self._loading.discard(resident)

    async def _load_by(self, read: Read, resident: _Resident) -> None:
        table = resident.table
        copy, rowids = await read(partial(self._begin_loading, table))
        dim = table.schema.dim
        wanted, vectors = expected_bytes(len(rowids), dim), vector_bytes(len(rowids), dim)
        if wanted > self._budget:
            self._refuse(resident, _TOO_LARGE)
            return
        if self._taken() + wanted + vectors <= self._budget:
            copy.keeps_vectors = True
            wanted += vectors
        # Before the first step: what is being loaded counts as if it were there.
        self._make_room(resident, wanted)
        if self._taken() + wanted > self._budget:
            # What others are being loaded into is not given away. A later search tries again.
            self._drop(resident)
            return
        resident.reserved = wanted
        self._loading.add(resident)
        await read(partial(copy.load, rowids=rowids))
        # The copy alone counts from now on. Whoever lets it go counts on its memory, though the
        # connection that it was read by is still being closed.
        resident.copy, resident.reserved, resident.is_behind = copy, 0, True

    def _begin_loading(
        self, table: TableHandle, db: sqlite3.Connection, _: Ticket
    ) -> tuple[ResidentCopy, Int64Array]:
        layout = current_table(db, table)
        copy = ResidentCopy(layout, int(self._budget * _FOR_MASKS))
        return copy, rows_to_load(db, layout)

    async def _catch_up(self, resident: _Resident) -> None:
        """Bring in what has changed, until so little is left that a search can do it."""
        while resident.is_behind and (copy := resident.copy) is not None:
            async with self._aside() as read:
                resident.is_behind = not await read(copy.catch_up)
            self._keep_to_budget(resident)

    def _taken(self) -> int:
        """Return the bytes in memory, and those promised to tables that are being loaded."""
        return sum(one.nbytes for one in {*self._tables.values(), *self._loading})

    def _make_room(self, resident: _Resident, wanted: int) -> None:
        """Let go of vectors, then of other tables, as many as have to."""
        for one in list(self._tables.values()):
            if self._taken() + wanted <= self._budget:
                return
            if one.copy is not None and one.copy.keeps_vectors:
                one.copy.keeps_vectors = False
                self._tasks.start(in_thread(one.copy.drop_vectors, limit=self._threads))
        for one in list(self._tables.values()):
            if self._taken() + wanted <= self._budget:
                return
            if one is not resident and one.ready:
                self._drop(one)

    def _refuse(self, resident: _Resident, reason: str, *, pause: float = _LONG_PAUSE) -> None:
        """Leave the table to the file for a while."""
        table = resident.table
        _, _, before = self._retry_at.pop(table.name, (None, 0.0, ""))
        self._retry_at[table.name] = (table.token, time.monotonic() + pause, reason)
        if len(self._retry_at) > _MOST_PAUSES:
            del self._retry_at[next(iter(self._retry_at))]
        self._drop(resident)
        if reason != before:  # in a thread, since a log may be a file
            say = partial(LOG.warning, "table %s is searched from the file: %s", table.name, reason)
            self._tasks.start(in_thread(say, limit=self._threads))

    def _drop(self, resident: _Resident) -> None:
        if self._tables.get(resident.table.name) is resident:
            del self._tables[resident.table.name]
        self._unload(resident)

    @staticmethod
    def _unload(resident: _Resident) -> None:
        resident.copy = None
        loading = resident.loading
        if loading is not None and not loading.done() and loading is not asyncio.current_task():
            loading.cancel()

    # Batches

    async def _in_turn(self, resident: _Resident, queries: Sequence[VectorQuery]) -> list[Found]:
        """Return what the queries find, together with others. StoreBusyError where none begins in
        time. A cancelled caller leaves its batch, which goes on without it.
        """
        call = _Call(queries, current_deadline(self._busy_timeout))
        resident.waiting.append(call)
        self._waiting[resident] = None
        self._begin_batches()
        try:
            return await self._line.wait(call.future, call.deadline, call.give_up)
        except asyncio.CancelledError:
            if call.batch is not None:
                call.batch.look()
            raise

    def _begin_batches(self) -> None:
        """Begin batches of the calls that wait, as many as there are workers for."""
        for resident in list(self._waiting):
            if self._at_work >= self._workers:
                return
            if not resident.ready and not _is_over(resident.loading):
                continue
            while self._at_work < self._workers:
                share = sum(len(call.queries) for call in resident.waiting)
                if resident.batches and share <= _ONE_BATCH:
                    break
                if share > _ONE_BATCH:
                    share = min(_MOST_TOGETHER, -(-share // (self._workers - self._at_work)))
                calls = resident.take(share)
                if not calls:
                    break
                self._begin(resident)
                batch = _Batch(calls)
                batch.task = asyncio.create_task(self._answer(resident, batch))
                self._batches.add(batch.task)
                batch.task.add_done_callback(self._batches.discard)
            del self._waiting[resident]
            if resident.waiting:  # behind the others
                self._waiting[resident] = None

    def _begin(self, resident: _Resident) -> None:
        self._at_work += 1
        resident.batches += 1

    def _end(self, resident: _Resident) -> None:
        self._at_work -= 1
        resident.batches -= 1
        if self._waiting:
            # Those who got answers ask again first: they join those that wait.
            asyncio.get_running_loop().call_soon(self._begin_batches)

    async def _answer(self, resident: _Resident, batch: _Batch) -> None:
        try:
            await self._answer_calls(resident, batch, batch.calls)
        except asyncio.CancelledError:
            for call in batch.calls:
                call.future.cancel()
            raise
        finally:
            self._end(resident)

    async def _answer_calls(
        self, resident: _Resident, batch: _Batch, calls: Sequence[_Call]
    ) -> None:
        queries = [query for call in calls for query in call.queries]
        try:
            with max((call.deadline for call in calls), key=Deadline.left).shared():
                found = iter(await self._found(resident, queries, batch))
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            if isinstance(error, StoreBusyError):
                for call in calls:
                    call.fail(call.deadline.error(error.reason))
                return
            if len(calls) == 1 or isinstance(error, NotResidentError):
                for call in calls:
                    call.fail(error)
                return
            for call in calls:  # whose it is shows when each is asked alone
                await self._answer_calls(resident, batch, [call])
            return
        for call in calls:
            own = [next(found) for _ in call.queries]
            if not call.future.done():
                call.future.set_result(own)

    async def _found(
        self, resident: _Resident, queries: Sequence[VectorQuery], batch: _Batch | None = None
    ) -> list[Found]:
        """Return what queries find, all in one snapshot."""
        table, copy = resident.table, resident.copy
        if copy is None:
            raise NotResidentError

        def work(db: sqlite3.Connection, ticket: Ticket) -> tuple[State, list[Found]]:
            if batch is not None:
                batch.reads = True
            layout = current_table(db, table)
            state = copy.advance(db, ticket)
            if state is None:
                raise NotResidentError
            snapshot = Snapshot(db, ticket, layout, state)
            found: list[Found] = []
            for start in range(0, len(queries), _MOST_TOGETHER):
                part = queries[start : start + _MOST_TOGETHER]
                found += answer(snapshot, copy.masks, part)
            return state, found

        for _ in range(_MOST_SNAPSHOTS):
            try:
                state, found = await self._read(work)
                break
            except OlderSnapshotError:
                continue
            except NotResidentError:
                if resident.copy is copy and _is_over(resident.loading):
                    resident.is_behind = True
                    resident.loading = self._tasks.start(self._load(resident))
                raise
        else:
            raise NotResidentError
        counts = resident.counts
        counts["searches"] += len(queries)
        counts["batches"] += 1
        counts["largest_batch"] = max(counts["largest_batch"], len(queries))
        # Without a filter nothing but the state can have grown.
        if resident.kept is not state or any(query.where is not None for query in queries):
            self._look_after(resident, state)
        return found

    def _look_after(self, resident: _Resident, state: State) -> None:
        """Keep the tables within the budget, and have rows that are gone give back their room."""
        resident.kept = state
        self._keep_to_budget(resident)
        copy = resident.copy
        if copy is not None and needs_compaction(state) and _is_over(resident.compacting):
            resident.compacting = self._tasks.start(in_thread(copy.compact, limit=self._threads))

    def _keep_to_budget(self, resident: _Resident) -> None:
        self._make_room(resident, 0)  # tables grow
        if resident.nbytes > self._budget:
            self._refuse(resident, _TOO_LARGE)


def _is_over(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
