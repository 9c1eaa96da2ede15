"""Search in memory: the copy that answers, and the way around until one is loaded."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, dataclass
from functools import partial

import anyio

from aiovec.backend.contract import Found, StaleTableError, TableHandle, VectorQuery
from aiovec.backend.limits import Deadline, Gate
from aiovec.backend.threads import Background, in_thread

from ..connection import Ticket
from ..errors import failures
from ..layout import TableLayout, current_table
from ..pool import Read
from ..search import can_rank_all, prefix_of
from .batches import MOST_TOGETHER, Call, Pipeline
from .copy import Loader, OlderSnapshotError, ResidentCopy, expected_bytes
from .scan import Workspace
from .segments import LIMITS, CopyLimits, State, needs_compaction
from .settle import Snapshot, Timings

Clock = Callable[[], float]
"""Seconds that only rise, as those of ``time.monotonic``."""


@dataclass(slots=True)
class _Refusal:
    token: object
    reason: str
    failures: int
    until: float


class Backoff:
    """The tables of one store whose searches the file answers for a while."""

    def __init__(self, limits: CopyLimits = LIMITS, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._by_name: dict[str, _Refusal] = {}

    def holds(self, table: TableHandle) -> bool:
        """Return whether it is too early to try to copy the table."""
        refusal = self._by_name.get(table.name)
        return (
            refusal is not None and refusal.token == table.token and self._clock() < refusal.until
        )

    def add(self, table: TableHandle, reason: str, *, failed: bool) -> bool:
        """Let the table wait; return whether the reason differs from the last one.

        ``failed`` says that something went wrong that may go well soon.
        """
        now = self._clock()
        longest = self._limits.longest_pause
        before = self._by_name.get(table.name)
        if before is not None and before.token != table.token:
            before = None
        failures = (0 if before is None else before.failures) + 1 if failed else 0
        # The exponent is bounded, since failures are not.
        pause = self._limits.first_pause * 2 ** min(failures - 1, 30) if failed else longest
        self._forget_old(now)
        until = now + min(pause, longest)
        self._by_name[table.name] = _Refusal(table.token, reason, failures, until)
        return before is None or before.reason != reason

    def settle(self, table: TableHandle) -> None:
        """Note that the table was copied. Its last reason stays known, to be logged only once."""
        refusal = self._by_name.get(table.name)
        if refusal is not None:
            refusal.failures = 0
            refusal.until = self._clock()

    def _forget_old(self, now: float) -> None:
        """Tables may come and go under ever new names."""
        for name, refusal in list(self._by_name.items()):
            if refusal.until + self._limits.longest_pause < now:
                del self._by_name[name]


LOG = logging.getLogger("aiovec")

# Masks may take this share of the budget.
_FOR_MASKS = 1 / 16
_TOO_LARGE = "it is larger than scan_memory"
# Tables that are loaded at once.
_MOST_LOADERS = 2
# What scans use again and again does not count up to here: tables of a few thousand rows need less.
_FREE_FOR_SCANS = 2**20


# Tables whose searches are timed; the one searched longest ago is forgotten.
_MOST_TIMED = 1000
# How often a batch takes a newer snapshot because another one was quicker.
_MOST_SNAPSHOTS = 10


class CannotRankError(Exception):
    """The codes' bound does not hold for this table. Never reaches a user."""


class NotResidentError(Exception):
    """The copy cannot answer for now. Never reaches a user."""


class _Resident:
    """The copy of one table, None until it is loaded, and the tasks that work on it."""

    def __init__(self, token: object) -> None:
        self.token = token
        self.copy: ResidentCopy | None = None
        # What the copy will take that is being made.
        self.reserved = 0
        self.loading: asyncio.Task[None] | None = None
        self.compacting: asyncio.Task[None] | None = None
        self.regrouping: asyncio.Task[None] | None = None
        self.measuring: asyncio.Task[None] | None = None
        # Set when the file has answered; None where no search waits for it.
        self.answered: asyncio.Event | None = None
        # The state for which nothing was left to do.
        self.kept: State | None = None

    @property
    def ready(self) -> bool:
        return self.copy is not None and self.copy.state is not None

    @property
    def nbytes(self) -> int:
        copy = self.copy  # it may go while another thread asks
        return self.reserved if copy is None else copy.nbytes


class ResidentSearch:
    """Answers searches from copies in memory, within a budget for all tables of a store.

    A table is copied when it is first searched; until then ``search`` gives None, and the file has
    to be asked. Where the budget is short, the table that was searched longest ago gives way.
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
        limits: CopyLimits = LIMITS,
        clock: Clock = time.monotonic,
    ) -> None:
        """``workers`` is the count of batches at once.

        ``bits`` has tables that keep bit codes searched by these.
        """
        self._read = read
        # Reads for work in the background.
        self._aside = aside
        self._budget = budget
        self._limits = limits
        self._bits = bits
        self._pipeline = Pipeline(self._answer, workers, busy_timeout)
        self._tables: dict[str, _Resident] = {}  # in the order of their last search
        self._backoff = Backoff(limits, clock)
        self._timings: dict[str, Timings] = {}
        self._threads = anyio.CapacityLimiter(1)
        self._workspace = Workspace(limits)
        self._answering = 0
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
        if not self._prepared(table, searched=True) or not await can_rank_all(queries):
            return None
        if self.by_bits(table) and any(map(_needs_vectors, queries)):
            return None
        try:
            if self._is_quick(table, queries):
                return await self._found(table, queries, [time.perf_counter()])
            return await self._pipeline.search(table, queries)
        except NotResidentError:
            return None

    def _is_quick(self, table: TableHandle, queries: Sequence[VectorQuery]) -> bool:
        """Return whether it takes longer to make a batch than to answer by a read of its own.

        Of searches that come together the first is answered so; the others find it under way, and
        are joined.
        """
        if len(queries) > 1 or self._answering or not self._pipeline.idle:
            return False
        copy = self._tables[table.name].copy
        return copy is not None and copy.whole

    def prepare(self, table: TableHandle) -> bool:
        """Return whether there is a copy; begin to make one where there is none."""
        return self._prepared(table, searched=False)

    def file_answered(self, table: TableHandle) -> None:
        """The file has answered a search, or failed to."""
        resident = self._tables.get(table.name)
        if resident is not None and resident.answered is not None:
            resident.answered.set()

    def _prepared(self, table: TableHandle, *, searched: bool) -> bool:
        name = table.name
        resident = self._tables.pop(name, None)
        if resident is not None and resident.token != table.token:
            self._let_go(resident)
            resident = None
        if resident is None:
            if self._closed or self._backoff.holds(table):
                return False
            resident = _Resident(table.token)
        if resident.copy is None and _is_over(resident.loading):
            resident.answered = asyncio.Event() if searched else None
            resident.loading = self._tasks.start(self._load(table, resident))
        self._tables[name] = resident
        return resident.ready

    def forget(self, name: str) -> None:
        """Give back the memory of a table that is no longer there under this name."""
        resident = self._tables.pop(name, None)
        if resident is not None:
            self._let_go(resident)
        self._timings.pop(name, None)

    def by_bits(self, table: TableHandle) -> bool:
        """Return whether the table is searched by bit codes once it is in memory."""
        return self._bits and table.schema.quantized == "bit"

    def nbytes(self, table: str) -> int:
        resident = self._tables.get(table)
        return 0 if resident is None else resident.nbytes

    def index(self, table: TableHandle) -> str | None:
        """For ``stats``: what is approximate; None where every search is exact."""
        if not self.by_bits(table):
            return None
        resident = self._tables.get(table.name)
        if resident is None or resident.copy is None:
            return "bit codes: approximate once they are in memory, exact until then"
        recall = resident.copy.recall
        if recall is None:
            return "bit codes: approximate, recall not measured yet"
        found = f"recall@{recall.k} {recall.recall:.3f} measured on {recall.sample} rows"
        return f"bit codes: approximate, {found}"

    def details(self, table: TableHandle, rows: int) -> dict[str, object]:
        """For ``stats``: how the table is searched, and what its searches cost so far."""
        resident = self._tables.get(table.name)
        if resident is None:
            state = "from the file"
        else:
            state = (
                "in memory" if resident.ready else "from the file while the table is being loaded"
            )
        timings = self._timings.get(table.name)
        searches = {} if timings is None else timings.to_dict()
        told: dict[str, object] = {
            "searched": state,
            "searches": searches,
            "scan_expected": expected_bytes(
                rows, table.schema.dim, bits=self.by_bits(table), limits=self._limits
            ),
            "scan_budget": self._budget,
        }
        copy = None if resident is None else resident.copy
        if copy is not None and copy.recall is not None:
            told["recall"] = asdict(copy.recall)
        return told

    async def close(self) -> None:
        """Stop loading, let go of everything."""
        self._closed = True
        self._tables.clear()
        await self._tasks.cancel()
        await self._pipeline.close()

    # Loading

    async def _load(self, table: TableHandle, resident: _Resident) -> None:
        try:
            if resident.answered is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.head_start):
                        await resident.answered.wait()
            async with self._loaders.enter(None):
                await self._load_now(table, resident)
        except StaleTableError:
            self._drop(table.name, resident)
        except CannotRankError as exc:
            self._refuse(table, resident, str(exc))
        except Exception as exc:  # noqa: BLE001 - searches go on from the file, with the same results
            self._refuse(table, resident, f"loading it failed: {exc}", failed=True)

    async def _load_now(self, table: TableHandle, resident: _Resident) -> None:
        try:
            async with self._aside() as read:
                await self._load_by(read, table, resident)
        finally:
            resident.reserved = 0
            self._loading.discard(resident)

    async def _load_by(self, read: Read, table: TableHandle, resident: _Resident) -> None:
        loader = await read(partial(self._begin_loading, table))
        if not self._fits(loader.expected_bytes):
            self._refuse(table, resident, _TOO_LARGE)
            return
        # Before the first step: what is being loaded counts as if it were there.
        self._make_room(table.name, loader.expected_bytes)
        if self._taken() + loader.expected_bytes > self._budget:
            # What others are being loaded into is not given away. A later search tries again.
            self._drop(table.name, resident)
            return
        resident.reserved = loader.expected_bytes
        self._loading.add(resident)
        while await read(partial(self._load_some, table, loader)):
            pass
        # The copy alone counts from now on. Whoever lets it go counts on its memory, though the
        # connection that it was read by is still being closed.
        resident.copy, resident.reserved = loader.copy, 0
        self._backoff.settle(table)
        self._measure(table, resident)

    def _begin_loading(self, table: TableHandle, db: sqlite3.Connection, _: Ticket) -> Loader:
        layout = _rankable(db, table)
        copy = ResidentCopy(
            layout,
            self._workspace,
            bits=self.by_bits(table),
            most_for_masks=int(self._budget * _FOR_MASKS),
        )
        return Loader(db, copy, self._limits)

    @staticmethod
    def _load_some(
        table: TableHandle, loader: Loader, db: sqlite3.Connection, ticket: Ticket
    ) -> bool:
        _rankable(db, table)
        return loader.step(db, ticket)

    def _fits(self, wanted: int) -> bool:
        """Return whether the budget would do for so much, and for the memory of scans."""
        return wanted + self._for_scans() <= self._budget

    def _for_scans(self) -> int:
        return max(0, self._workspace.nbytes - _FREE_FOR_SCANS)

    def _taken(self) -> int:
        """Return the bytes in memory, and those promised to tables that are being loaded."""
        residents = {*self._tables.values(), *self._loading}
        return sum(resident.nbytes for resident in residents) + self._for_scans()

    def _make_room(self, name: str, wanted: int) -> None:
        """Let go of the tables that were searched longest ago, as many as have to."""
        for other in list(self._tables):
            if self._taken() + wanted <= self._budget:
                break
            if other != name and self._tables[other].ready:
                self._let_go(self._tables.pop(other))

    def _refuse(
        self, table: TableHandle, resident: _Resident, reason: str, *, failed: bool = False
    ) -> None:
        """Leave the table to the file for a while."""
        is_news = self._backoff.add(table, reason, failed=failed)
        self._drop(table.name, resident)
        if is_news:  # in a thread, since a log may be a file
            say = partial(LOG.warning, "table %s is searched from the file: %s", table.name, reason)
            self._tasks.start(in_thread(say, limit=self._threads))

    def _drop(self, name: str, resident: _Resident) -> None:
        if self._tables.get(name) is resident:
            del self._tables[name]
        self._let_go(resident)

    @staticmethod
    def _let_go(resident: _Resident) -> None:
        resident.copy = None
        loading = resident.loading
        if loading is not None and not loading.done() and loading is not asyncio.current_task():
            loading.cancel()

    # Answering

    def _timings_of(self, name: str) -> Timings:
        timings = self._timings.pop(name, None) or Timings()
        self._timings[name] = timings
        while len(self._timings) > _MOST_TIMED:  # tables may come and go under ever new names
            del self._timings[next(iter(self._timings))]
        return timings

    async def _answer(self, table: TableHandle, calls: Sequence[Call]) -> list[list[Found]]:
        queries = [query for call in calls for query in call.queries]
        with min((call.deadline for call in calls), key=Deadline.left).shared():
            answers = iter(await self._found(table, queries, [call.since for call in calls]))
        return [[next(answers) for _ in call.queries] for call in calls]

    async def _found(
        self, table: TableHandle, queries: Sequence[VectorQuery], since: Sequence[float]
    ) -> list[Found]:
        """Return what queries find, all in one snapshot. ``since`` is when each call began."""
        resident = self._tables.get(table.name)
        copy = None if resident is None else resident.copy
        if resident is None or copy is None:
            raise NotResidentError
        timings = self._timings_of(table.name)
        began = time.perf_counter()
        for moment in since:
            timings.add_waiting(began - moment)

        def work(db: sqlite3.Connection, ticket: Ticket) -> tuple[State, list[Found]]:
            layout = current_table(db, table)
            if layout.extreme:  # such rows have no codes, so the copy cannot take them in
                raise NotResidentError
            with timings.stage("fresh"):
                state = copy.advance(db, ticket)
            if state is None:
                raise NotResidentError
            snapshot = Snapshot(db, ticket, layout, state)
            found: list[Found] = []
            for start in range(0, len(queries), MOST_TOGETHER):
                part = queries[start : start + MOST_TOGETHER]
                found += copy.search_batch(snapshot, part, timings)
            return state, found

        for _ in range(_MOST_SNAPSHOTS):
            self._answering += 1
            try:
                state, found = await self._read(work)
                break
            except OlderSnapshotError:
                continue
            except NotResidentError:
                # Too much has changed to be brought in on the way: the copy is made anew.
                self._drop(table.name, resident)
                raise
            finally:
                self._answering -= 1
        else:
            raise NotResidentError
        # Without a filter nothing but the state can have grown, where the file is not asked.
        plain = all(query.where is None for query in queries)
        self._keep_house(table, resident, state, plain=plain)
        return found

    def _keep_house(
        self, table: TableHandle, resident: _Resident, state: State, *, plain: bool
    ) -> None:
        if resident.kept is state and plain:
            return
        resident.kept = None
        if not self._fits(resident.nbytes):
            self._refuse(table, resident, _TOO_LARGE)
            self._workspace.clear()
            return
        self._make_room(table.name, 0)  # tables grow
        copy = resident.copy
        if copy is None:
            return
        cuts, compacts, regroups = copy.may_cut(), needs_compaction(state), copy.may_regroup()
        if (cuts or compacts) and _is_over(resident.compacting):
            work = copy.cut if cuts else copy.compact
            resident.compacting = self._tasks.start(in_thread(work, limit=self._threads))
        if regroups and _is_over(resident.regrouping):
            resident.regrouping = self._tasks.start(self._tend(table, copy.regroup))
        self._measure(table, resident)
        if state.whole and not (cuts or compacts or regroups):
            resident.kept = state

    def _measure(self, table: TableHandle, resident: _Resident) -> None:
        """Find out how much searches by bits find, where that is not known."""
        copy = resident.copy
        if copy is not None and copy.may_measure() and _is_over(resident.measuring):
            resident.measuring = self._tasks.start(self._tend(table, copy.measure))

    async def _tend(
        self, table: TableHandle, work: Callable[[sqlite3.Connection, Ticket], None]
    ) -> None:
        """Do some work on the copy's behalf in the background, in one snapshot.

        Where it fails, nothing is lost: searches are right without it, and ask for it again.
        """

        def run(db: sqlite3.Connection, ticket: Ticket) -> None:
            if not current_table(db, table).extreme:  # see _answer
                work(db, ticket)

        with suppress(StaleTableError, OlderSnapshotError, *failures()):
            async with self._aside() as read:
                await read(run)


def _is_over(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()


def _rankable(db: sqlite3.Connection, table: TableHandle) -> TableLayout:
    """The table as it is; CannotRankError where it has rows of which no codes can be made."""
    layout = current_table(db, table)
    if layout.extreme:
        raise CannotRankError("the table has vectors whose squares do not fit into float32")
    return layout


def _needs_vectors(query: VectorQuery) -> bool:
    """Return whether bits cannot answer: an exact search, or one by the first components."""
    return query.exact or prefix_of(query, len(query.vector)) is not None
