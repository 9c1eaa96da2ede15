"""The upkeep of a store's tables: compactions, and builds and measurements of indexes.

A store has one task, which does the upkeep of one table after another: it compacts a table after
some commits, and does all due work once the table is quiet. It also checks each table once after
the store opens it, for work that an earlier process left undone. If several processes use a store,
only one at a time does a table's upkeep.

Long work runs while other calls write. No write ever fails because of upkeep: Lance retries a write
whose files were rewritten, and upkeep retries a compaction that conflicts with a write.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from aiovec.backend import Field, Float32Array
from aiovec.backend.contract import StaleTableError, TableHandle, index_behind_change
from aiovec.backend.limits import Deadline, current_deadline, renewed, write_gate
from aiovec.backend.memory import give_back
from aiovec.backend.threads import Background, in_thread, wait_out
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    InvalidArgumentError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreMovedError,
    TableNotFoundError,
)

from ..commit import SeparateWrite
from ..errors import is_read_only
from ..index import kinds
from ..index.build import SETTLED, Builds, drop, reopened
from ..index.effort import MADE, MOST_QUESTIONS
from ..index.info import InUse, has_id_index, unindexed_rows, vector_index
from ..layout import tuned_in
from ..manifests import Manifests
from ..memory import scan_bytes
from ..retention import Pins
from ..session import Session, Snapshot, Version
from ..table import Versions, Writes
from ..tables import alter_field

LOG = logging.getLogger("aiovec.lancedb")

# A file with this many rows is not compacted, unless many of them are deleted.
_FULL_FILE = 1_048_576
# A minimum age for calls that must not remove a version; no version is this old.
_NEVER = timedelta(days=36_500)
# A minimum age for calls that must keep only the newest version. With 0, Lance logs a warning.
_AT_ONCE = timedelta(milliseconds=1)
# A time before any version.
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
# Timeouts in seconds of the attempts to remove versions. In object storage, each removed file takes
# a request.
_REMOVALS = (0.25, 2.0, 30.0)
# The most small files of a table: a read by id takes 1.7 ms without small files and 6 ms with 16. A
# compaction rewrites all files that are not full, so one more file is allowed for every 64 MiB.
_FILES, _BYTES_A_FILE, _MOST_FILES = 16, 64 * 2**20, 64
_FILES_IN_QUIET = 4
# The number of surplus versions above which upkeep removes them.
_VERSIONS_OVER = 16
# An index may leave out this many rows plus this share of all rows before a compaction adds them;
# scanning so few rows is fast.
_UNINDEXED, _UNINDEXED_SHARE = 500, 0.02
# The most bytes that a compaction rewrites while writers wait, which takes less than a second. A
# larger compaction is first tried while they write.
_SOON_DONE = 64 * 2**20
_ATTEMPTS = 2

# Seconds without a commit after which a table is quiet, and the longest wait until it is quiet.
_QUIET, _LONGEST_WAIT = 1.0, 30.0
# After its upkeep, a table rests ``_REST`` times as long as the upkeep took, so that upkeep takes a
# fifth of the time. The longest rest is ``_LONGEST_REST`` seconds, because writes during an index
# build leave files that wait for compaction.
_REST, _LONGEST_REST = 4.0, 5.0
# Seconds until the next check after an error, and while another process does the upkeep.
_AFTER_FAILURE, _AFTER_OTHERS = 60.0, 5.0
# Seconds between tries for the upkeep's lock, between tries for its lease, and between tables.
_POLL, _POLL_LEASE, _BETWEEN = 0.05, 1.0, 0.02

# Growth factors after which an index is measured again, and after which "auto" rebuilds its index.
_GROWN, _OUTGROWN = 1.5, 4.0
# An index with more segments than this is rebuilt: each segment is searched separately. Upkeep adds
# a segment for every 2 % more rows, and merges segments when it splits a partition, but never in a
# graph of one partition.
_MOST_SEGMENTS = 32
# The number of rows from which the ids get an index: with 400,000 rows, the index reduced a get of
# one id from 20 ms to 2.3 ms.
_IDS_FROM = 20_000

# The most tables that a store remembers, unless more tables have work in progress. Calls on a
# forgotten table continue.
_MOST_TABLES = 256

# Errors whose cause is not the index.
_NO_FAILURE = (StaleTableError, StoreClosedError, StoreBusyError, StoreMovedError)


class Upkeep:
    """The upkeep of one table: the work that is due, the tasks that do it, and their results."""

    def __init__(self, writes: Writes, tables: OpenTables) -> None:
        self.name = writes.versions.name
        self.builds = Builds(writes)
        self.failure: str | None = None
        self.optimized: datetime | None = None
        self._session = writes.versions.session
        self._versions = writes.versions
        self._writes = writes
        self._tables = tables
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._commits = 0
        self._last_commit = 0.0
        self._busy_since: float | None = None
        self._look_at = math.inf
        self._rest_until = 0.0
        self._seen = False
        # The time of the oldest version that the last removal meant to keep. A removal may leave
        # older versions.
        self._kept_from = _LONG_AGO
        # True if the last removal failed; the failure was logged.
        self._removal_failed = False
        # The number of rows when the last index build failed: once the table has grown, upkeep
        # tries again.
        self._failed_rows = 0

    @property
    def next_look(self) -> float:
        """The time of the table's next check, on the clock of ``time.monotonic``."""
        at = self._look_at
        if self._commits >= _FILES:
            at = 0.0
        elif self._commits:
            at = min(at, self._last_commit + _QUIET)
        return max(at, self._rest_until)

    @property
    def idle(self) -> bool:
        """True if no work is running or waiting, so that the store may forget the table."""
        return not self._tasks and not (self._tables.background and self.next_look < math.inf)

    # In the background

    def opened(self) -> None:
        """Note that the store uses the table, and plan the first check for undone work."""
        if not self._seen:
            self._seen = True
            self._look_after_in(_QUIET)

    def wrote(self) -> None:
        """Note a commit to the table."""
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        self._commits += 1
        self._last_commit = now
        if self._commits in (1, _FILES):
            self._tables.begin()

    def searched(self, vectors: Iterable[Float32Array]) -> None:
        """Keep the vectors of searches; plan a check soon if they suffice for a new measurement."""
        if self.builds.asked.searched(vectors):
            self._look_after_in(min(_QUIET, self._look_at - time.monotonic()))

    def _look_after_in(self, seconds: float) -> None:
        self._look_at = time.monotonic() + seconds
        self._tables.begin()

    def loading(self) -> None:
        """Note a batch of a bulk load, during which upkeep builds no index."""
        self._busy_since = time.monotonic()

    async def maintain(self) -> None:
        """Do the work that is due, once, and plan the next check."""
        now = time.monotonic()
        busy_since = now if self._busy_since is None else self._busy_since
        quiet = now - self._last_commit >= _QUIET or now - busy_since >= _LONGEST_WAIT
        self._commits, self._look_at = 0, now + _QUIET
        if quiet:
            self._busy_since, self._look_at = None, math.inf
        task = self._start(self._pass(quiet=quiet))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        ended = time.monotonic()
        self._rest_until = ended + min(_REST * (ended - now), _LONGEST_REST)

    async def _pass(self, *, quiet: bool) -> None:
        """Do the work that is due. If it fails, log the error, and plan to try again later."""
        later = math.inf
        try:
            async with self.locked(seconds=0.0):
                await self._look_after(await self._session.newest(self.name), quiet=quiet)
            return
        except TableNotFoundError:
            self._tables.forget(self.name)
        except StaleTableError:  # fields were altered, or another table has the name
            later = _QUIET
        except (StoreClosedError, StoreMovedError):
            pass
        except StoreBusyError as exc:  # another process does upkeep, or reads use the memory
            later = _AFTER_OTHERS
            text = "upkeep of the table %r could not run and will be tried again: %s"
            await in_thread(LOG.debug, text, self.name, exc)
        except Exception as exc:  # noqa: BLE001 - the next pass tries again after any error
            if is_read_only(exc):  # a process without write permission has nothing to do
                return
            later = _AFTER_FAILURE
            text = "upkeep of the table %r failed and will be tried again: %s"
            trace = None if isinstance(exc, AiovecError) else exc
            # In a thread, because a handler may write to a file.
            await in_thread(partial(LOG.warning, text, self.name, exc, exc_info=trace))
        self._look_at = time.monotonic() + later

    async def _look_after(
        self, table: Snapshot, *, quiet: bool = True, everything: bool = False
    ) -> None:
        """Do the work that is due; with ``everything``, always compact the table.

        The caller must hold the upkeep lock. Each step works on the version of the table that the
        previous step returned.
        """
        table.check_not_filled()
        # Free disk space first.
        if everything or await self._wants_compaction(table, quiet=quiet):
            table = await self._compact(table)
        table = await self.builds.build_lacking(table)
        if quiet:
            await self._look_after_indexes(table)

    # Compaction

    async def _wants_compaction(self, table: Snapshot, *, quiet: bool) -> bool:
        rows, files, size = await self._shape(table)
        allowed = min(size // _BYTES_A_FILE, _MOST_FILES) + rows // _FULL_FILE
        if files > allowed + (_FILES_IN_QUIET if quiet else _FILES):
            return True
        if not quiet:
            return False
        versions = await self._session.listed_versions(table)
        first = await self._versions.pins.first_kept(table, versions)
        if first is not None and self._are_many(versions[: versions.index(first)]):
            return True
        if self._are_many(versions[: -self._versions.pins.retention.most]):
            self._look_after_grace()
        uncovered = max((await unindexed_rows(table)).values(), default=0)
        return uncovered > _UNINDEXED + _UNINDEXED_SHARE * rows

    def _are_many(self, versions: Sequence[Version]) -> bool:
        """Return whether there are enough of these versions to make a removal worthwhile.

        Versions that the last removal kept do not count: another removal would keep them too.
        """
        return sum(v.created > self._kept_from for v in versions) > _VERSIONS_OVER

    def _look_after_grace(self) -> None:
        """Plan a check for the time when versions that are now too new can be removed."""
        self._look_after_in(self._versions.pins.retention.grace.total_seconds() + _QUIET)

    async def _shape(self, table: Snapshot) -> tuple[int, int, int]:
        """Return the numbers of rows and files, and the bytes in files that are not full."""
        stats = await table.stats()
        rows, size = int(stats["num_rows"]), int(stats["total_bytes"])
        part = size * _FULL_FILE // rows if rows > _FULL_FILE else size
        return rows, int(stats["fragment_stats"]["num_fragments"]), part

    async def _compact(self, table: Snapshot) -> Snapshot:
        """Compact the table; return its new version."""
        rows, _, size = await self._shape(table)
        async with self._session.admission.share(
            scan_bytes(min(rows, _FULL_FILE), table.schema.dim)
        ):
            for _ in range(_ATTEMPTS if size > _SOON_DONE else 0):
                with suppress(StoreBusyError):
                    table = await self._optimize(table, alone=False)
                    break
                table = await reopened(self._session, table.handle)
            else:
                with renewed():  # the time spent on failed attempts does not count as waiting
                    change = SeparateWrite(self._optimize, table.handle, altered=True)
                    table = await self._writes.commit(change)
        self._versions.has_changed()
        if self._session.folder is not None:
            await in_thread(Manifests(self._session.folder, self.name).remove_unfinished)
        # Writes, searches and the compaction leave freed memory in each thread's heap: 100 MiB
        # after a minute of mixed load. Returning this memory takes about 10 ms, without the GIL.
        await in_thread(give_back)
        self._look_after_grace()
        self.optimized = datetime.now(UTC)
        return table

    async def _optimize(self, table: Snapshot, *, alone: bool = True) -> Snapshot:
        """Let Lance merge small neighbouring files, add new rows to indexes, and remove old
        versions; return the table's new version. ``alone`` means that nobody else writes.

        Lance's ``optimize`` does all three, and removes every version older than a given age, even
        versions that are being read. So the first call removes no versions, and later calls only
        remove versions. Each later call gets the age of the oldest version to keep plus a timeout,
        and is cancelled after this timeout.
        """

        async def optimize(age: timedelta) -> None:
            await self._session.run(table.lance.optimize(cleanup_older_than=age))

        await optimize(_NEVER)
        for seconds in _REMOVALS:
            table = await table.advanced()
            listed = await self._session.listed_versions(table)
            if await self._versions.pins.first_kept(table, listed) is None:
                break
            # Lance compares the times within the manifests, not the files' times.
            versions = await table.versions()
            first = await self._versions.pins.first_kept(table, versions)
            if first is None:
                break
            age = datetime.now(UTC) - first.created + timedelta(seconds=seconds)
            if first == versions[-1] and alone:
                age = _AT_ONCE
            try:
                async with asyncio.timeout(seconds):
                    await optimize(age)
            except TimeoutError:
                continue
            except AiovecError as exc:
                if isinstance(exc, (*_NO_FAILURE, CorruptStoreError, StoreFullError)):
                    raise
                await self._note_failed_removal(exc)
            else:
                self._kept_from, self._removal_failed = first.created, False
            break
        return table

    async def _note_failed_removal(self, error: AiovecError) -> None:
        """Log that old versions could not be removed, but only once until a removal succeeds."""
        if not self._removal_failed:
            self._removal_failed = True
            text = "old versions of the table %r could not be removed and stay: %s"
            await in_thread(LOG.warning, text, self.name, error)

    # Indexes

    async def _look_after_indexes(self, table: Snapshot) -> None:
        """Do the due index work: build the index over the ids; build or measure the vector index.

        If the vector index cannot be built, searches stay as they are, and ``stats`` shows the
        reason.
        """
        rows = await table.rows()
        if rows >= _IDS_FROM and not await has_id_index(table):
            table = await self.builds.build_id_index(table)
        index = await vector_index(table)
        try:
            graph = await self._wants_graph(table, index, rows)
            wanted = graph or self._wants_build(table, index, rows)
            if wanted and rows >= _GROWN * self._failed_rows:
                build = await self.builds.plan_again(table, index, settled=graph)
                await self.builds.build(table, build)
            elif index is not None and rows and self._wants_measuring(table, index, rows):
                await self.builds.measure(table)
            self.failure = None
        except _NO_FAILURE:
            raise
        except AiovecError as exc:
            self.failure, self._failed_rows = str(exc), rows
            text = "no index was built for the table %r, so searches stay as they are: %s"
            await in_thread(LOG.warning, text, self.name, exc)

    def _wants_build(self, table: Snapshot, index: InUse | None, rows: int) -> bool:
        automatic = self._session.settings.index != kinds.NONE
        if index is None:
            kept_off = tuned_in(table.arrow, table.schema).kept_off
            return automatic and not kept_off and rows >= self._session.settings.index_from
        outgrown = index.tuned.auto and automatic and rows >= _OUTGROWN * index.tuned.built_rows
        return index.by_aiovec and rows > 0 and (outgrown or index.segments > _MOST_SEGMENTS)

    async def _wants_graph(self, table: Snapshot, index: InUse | None, rows: int) -> bool:
        """Return whether "auto" should now replace its index of codes with a graph."""
        if index is None or index.kind.graph or not index.tuned.auto:
            return False
        automatic = self._session.settings.index == kinds.AUTO and self._session.exclusive
        kind = kinds.chosen_kind(table.schema, rows, graph=automatic, settled=True)
        if not (kinds.KINDS[kind].graph and self.builds.asked.is_full):
            return False
        settled = await self.builds.is_settled(table)
        if not settled:
            self._look_after_in(SETTLED.total_seconds())
        return settled

    def _wants_measuring(self, table: Snapshot, index: InUse, rows: int) -> bool:
        tuned, known = index.tuned, self.builds.asked.questions(table.schema.dim)
        count = 0 if known is None else len(known.vectors)
        more = count and (tuned.whose == MADE or tuned.questions < count == MOST_QUESTIONS)
        outgrown = rows >= _GROWN * tuned.measured_rows
        # If a build of the same kind was interrupted, the index may already be new.
        unknown = tuned.begun is not None and tuned.begun.kind == tuned.kind
        return bool(more) or outgrown or unknown or index.target > tuned.sought

    # Requests of users

    async def optimize(self, handle: TableHandle) -> None:
        """Do all upkeep now, including a compaction that is not due."""
        await self._do(handle, partial(self._look_after, everything=True))

    async def measure(self, handle: TableHandle, questions: Float32Array) -> None:
        """Measure the index with these questions, now and as the table grows."""
        self.builds.asked.give(questions)
        await self._do(handle, self.builds.measure)

    async def by_engine(self, handle: TableHandle, compact: Callable[[], Awaitable[None]]) -> None:
        """Let an engine compact the table, then rebuild incomplete indexes over ids and fields."""

        async def act(table: Snapshot) -> None:
            with self._session.guarded:
                await compact()
            self._versions.has_changed()
            table = await reopened(self._session, handle)
            rows = await table.rows()
            if rows >= _IDS_FROM and (await unindexed_rows(table)).get("id", rows):
                table = await self.builds.build_id_index(table)
            await self.builds.build_lacking(table, whole=True)

        await self._do(handle, act)

    async def create(
        self, handle: TableHandle, kind: str, options: Mapping[str, Any], *, wait: bool
    ) -> None:
        """Build a vector index. Without ``wait``, return before the build ends."""
        name = kinds.named(kind)
        options = dict(options)
        questions = options.pop("questions", None)
        target, chosen = kinds.checked_options(name, options, handle.schema)
        if questions is not None:
            self.builds.asked.give(questions)
        async with self._session.reading(handle) as table:
            settled = name == kinds.AUTO and await self.builds.is_settled(table)
            build = await self.builds.plan(table, name, chosen, target, settled=settled)

        async def act(table: Snapshot) -> None:
            self.failure = None
            try:
                await self.builds.build(table, build)
            except AiovecError as exc:
                self.failure = None if isinstance(exc, _NO_FAILURE) else str(exc)
                raise

        await self._do(handle, act, wait=wait)

    async def drop(self, handle: TableHandle, name: str) -> None:
        """Drop the vector index, which must have this name."""
        await self.stop()
        async with self._session.reading(handle) as table:
            index = await vector_index(table)
        if index is None or index.name != name:
            listed = "it has none" if index is None else repr(index.name)
            expected = (
                f"the name of the table's vector index ({listed}); drop_field_index drops the "
                "index of a field"
            )
            raise InvalidArgumentError("name", name, expected)
        async with self.locked():
            change = SeparateWrite(drop, handle, by_hand=True, args=(name,))
            await self._writes.commit(change)

    async def index_field(self, handle: TableHandle, name: str, field: Field) -> None:
        """Set the options of the field ``name``, and build the indexes that they require."""

        async def act(_: Snapshot) -> None:
            change = SeparateWrite(alter_field, handle, changes_schema=True, args=(name, field))
            await self._writes.commit(change)
            with index_behind_change(self._session.target, handle.name):
                await self.builds.build_lacking(await reopened(self._session, handle))

        await self._do(handle, act)

    # Locks and tasks

    @asynccontextmanager
    async def dropping(self) -> AsyncIterator[None]:
        """Stop the table's upkeep, and prevent it while the table is dropped or renamed.

        Otherwise a build could commit to a later table with the same name.
        """
        await self.stop()
        async with self.locked():
            yield
        self._tables.forget(self.name)

    @asynccontextmanager
    async def locked(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Keep all processes from doing other upkeep of the table while the block runs.

        First wait up to ``seconds`` for other upkeep to end. Time limits in the block begin after
        the wait, because this store's upkeep may take a long time.
        """
        lock = self._session.lock(f"{self.name}.upkeep")
        lease = await self._session.lease(self.name)

        async def taken() -> bool:
            if not await lock.take(0.0):
                return False
            leased = False
            try:  # a lease that is taken while the call is cancelled expires later
                leased = lease is None or await in_thread(lease.take)
            finally:
                if not leased:
                    await lock.release()
            return leased

        async with self._lock:
            if seconds is None:
                seconds = current_deadline(self._session.settings.busy_timeout).seconds
            deadline = Deadline(seconds)
            while not await taken():
                if self._session.closing:
                    raise StoreClosedError(self._session.target)
                if deadline.left() <= 0:
                    busy = f"another process is doing the upkeep of the table {self.name!r}"
                    raise deadline.error(busy)
                await asyncio.sleep(_POLL if lease is None else _POLL_LEASE)
            try:
                with renewed():
                    async with nullcontext() if lease is None else lease.renewed():
                        yield
            finally:
                await lock.release()

    async def _do(
        self, handle: TableHandle, act: Callable[[Snapshot], Awaitable[None]], *, wait: bool = True
    ) -> None:
        """Run ``act`` in a task that holds the lock. Dropping the table or its index cancels it.

        If a waiting caller is cancelled, the task is cancelled too.
        """

        async def work() -> None:
            async with self.locked():
                await act(await reopened(self._session, handle))

        task = self._start(work())
        if not wait:
            return
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and not (current is not None and current.cancelling()):
                if self._session.closing:
                    raise StoreClosedError(self._session.target) from None
                raise AiovecError(
                    "the index build was stopped, because its table or index was dropped"
                ) from None
            task.cancel()
            await wait_out(task)
            raise

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._session.closing:
            work.close()
            raise StoreClosedError(self._session.target)
        tasks = self._tasks
        task = asyncio.ensure_future(work)
        tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled():
                task.exception()  # a waiting caller gets the exception

        task.add_done_callback(ended)
        return task

    async def stop(self) -> None:
        """Cancel the upkeep in progress, and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        cancelled = [await wait_out(task) for task in tasks]
        for exc in filter(None, cancelled):
            raise exc


@dataclass(slots=True)
class Table:
    """A table that a store remembers. The table need not exist."""

    versions: Versions
    writes: Writes
    upkeep: Upkeep

    @property
    def idle(self) -> bool:
        """True if no write or upkeep is running or waiting."""
        return self.writes.idle and self.upkeep.idle


class OpenTables:
    """The tables that a store has used, and the task that does their upkeep in turn."""

    background: bool = False
    """True if the store does upkeep in the background."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.gate = write_gate(session.settings.write_queue)
        """The gate for the store's write calls."""
        # A migration reads all changes since it began, so no version is removed until it ends.
        self.pins = Pins(session.lock_folder, session.settings, session.mark.is_open)
        self._tables: dict[str, Table] = {}
        self._loop = Background()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def __getitem__(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            if len(self._tables) >= _MOST_TABLES:
                idle = (name for name, table in self._tables.items() if table.idle)
                forgotten = next(idle, "")
                self._tables.pop(forgotten, None)
                self.session.connections.newest.pop(forgotten, None)
                self.session.replacing.discard(forgotten)
            versions = Versions(name, self.session, self.pins)
            writes = Writes(versions, self.gate)
            table = self._tables[name] = Table(versions, writes, Upkeep(writes, self))
        return table

    def forget(self, name: str) -> None:
        """Discard the upkeep of a dropped table, before another table gets its name."""
        if (table := self._tables.get(name)) is not None:
            table.upkeep = Upkeep(table.writes, self)

    def begin(self) -> None:
        """Start or wake the task that does each table's upkeep when it is due."""
        if self.background and not self.session.closing:
            self._wake.set()
            if self._task is None or self._task.done():
                self._task = self._loop.start(self._run())

    async def _run(self) -> None:
        while self._tables:
            table = min(self._tables.values(), key=lambda table: table.upkeep.next_look)
            wait = table.upkeep.next_look - time.monotonic()
            if wait == math.inf:
                return
            if wait > 0:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                continue
            await table.upkeep.maintain()
            await asyncio.sleep(_BETWEEN)

    async def close(self) -> None:
        """Cancel the upkeep, and wait for the accepted writes.

        The next store that opens a table does the upkeep that is still due.
        """
        self.session.closing = True
        await self._loop.cancel()
        for table in list(self._tables.values()):
            await table.upkeep.stop()
            await table.writes.finish()
