"""Upkeep in the background: a store looks after the tables that it writes to.

One task of a store does it, for one table after another, while there is something to look at. Of
several processes on one place, one at a time tidies a table. What takes long is done beside the
writes, at the risk that one of them touches the same files first; then it was in vain and is tried
again. No write ever fails for it: Lance repeats a write whose files were rewritten meanwhile.

A process may end before its tables are looked after. So closing a store does what its writes made
due, and a store looks once at each table that it opens, for what earlier ones left undone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from aiovec.backend.contract import StaleTableError, TableHandle
from aiovec.backend.limits import Deadline, Place, current_deadline, renewed
from aiovec.backend.threads import Background, in_thread, thread_limiter
from aiovec.errors import (
    AiovecError,
    StoreBusyError,
    StoreClosedError,
    StoreMovedError,
    TableNotFoundError,
)

from ..errors import is_read_only
from ..index.fields import lacking
from ..index.info import unindexed_rows
from ..limits import UpkeepLimits
from ..locks.local import TaskLock, WriteLock
from ..memory import ReadAdmission, scan_bytes
from ..session import Opened, Session
from ..tables import IndexFields
from ..writer import CheckFiles, WriteOperation
from .retention import Pins, Retention, Version, versions_of
from .tidy import FULL_FILE, Tidying, TidyingOperation


class Tidied(NamedTuple):
    """A tidying that is done: when it ended, and how many seconds it took."""

    at: datetime
    took: float


class Log:
    """When each table was last tidied: in a file beside the tables, or as long as the store."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, tuple[str, Tidied]] = {}

    def note(self, handle: TableHandle, took: float) -> None:
        """It is done now. Writes to the disk."""
        tidied = Tidied(datetime.now(UTC), took)
        if self._folder is None:
            self._known[handle.name] = _incarnation(handle), tidied
            return
        path = self._folder / f"{handle.name}.optimized"
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(OSError):  # the next one may write it
            text = f"{_incarnation(handle)} {tidied.at.isoformat()} {took:.3f}"
            partial.write_text(text, encoding="ascii")
            partial.replace(path)

    def last(self, handle: TableHandle) -> Tidied | None:
        """Reads the disk."""
        if self._folder is None:
            of, tidied = self._known.get(handle.name, ("", None))
            return tidied if of == _incarnation(handle) else None
        try:
            text = (self._folder / f"{handle.name}.optimized").read_text(encoding="ascii")
            of, at, took = text.split(" ")
            tidied = Tidied(datetime.fromisoformat(at), float(took))
        except (OSError, ValueError):
            return None
        return tidied if of == _incarnation(handle) else None


def _incarnation(handle: TableHandle) -> str:
    """Return the identity that tells the table from an earlier one of the same name."""
    token: Any = handle.token
    return str((token[0] or b"").decode())


LOG = logging.getLogger("aiovec.lancedb")


@dataclass(slots=True)
class _UpkeepState:
    """The state of one table."""

    commits: int = 0
    last_commit: float = 0.0
    rest_until: float = 0.0
    look_at: float | None = None
    failed: int = 0
    tidied_version: int | None = None
    seen_version: int | None = None
    wrote: bool = False

    def next_look(self, limits: UpkeepLimits) -> float:
        """Return when to look at it again, by ``time.monotonic``."""
        at = float("inf") if self.look_at is None else self.look_at
        if self.commits >= limits.commits:
            at = 0.0
        elif self.commits:
            at = min(at, self.last_commit + limits.quiet)
        return max(at, self.rest_until)


@dataclass(frozen=True, slots=True)
class Shape:
    """The figures that decide whether a table wants upkeep, and its cost."""

    rows: int
    files: int
    bytes: int
    """Those of the files that are not full, more or less."""

    @classmethod
    def of(cls, stats: Any) -> Shape:
        rows = int(stats["num_rows"])
        size = int(stats["total_bytes"])
        part = size * FULL_FILE // rows if rows > FULL_FILE else size
        return cls(rows, int(stats["fragment_stats"]["num_fragments"]), part)

    def too_many_files(self, limits: UpkeepLimits, *, quiet: bool) -> bool:
        if quiet:
            more = self.bytes // limits.bytes_a_file_in_quiet
            return (
                self.files
                > min(limits.files_in_quiet + more, limits.most_files_in_quiet) + self._full
            )
        return (
            self.files
            > min(limits.files + self.bytes // limits.bytes_a_file, limits.most_files) + self._full
        )

    @property
    def _full(self) -> int:
        return self.rows // FULL_FILE


@dataclass
class Housekeeper:
    """Keeps the tables of one store small. It works on the loop that writes to them."""

    session: Session
    retention: Retention
    pins: Pins
    write: Callable[[str, WriteOperation], Awaitable[Any]]
    lock_of: Callable[[str], WriteLock]
    admission: ReadAdmission
    log: Log
    busy_timeout: float
    look_at_indexes: Callable[[TableHandle], Awaitable[None]]
    limits: UpkeepLimits
    _tables: dict[str, _UpkeepState] = field(default_factory=dict)
    _locks: dict[str, TaskLock] = field(default_factory=dict)
    _held: set[str] = field(default_factory=set)
    # Tables that were opened, those of them that wait for a first look, and those that had it.
    _known: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)
    _unseen: deque[str] = field(default_factory=deque)
    _next_unseen: float = 0.0
    _background: Background = field(default_factory=Background)
    _task: asyncio.Task[None] | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    # What runs in the background among the writes.
    _work: TidyingOperation | None = None
    _finishing: bool = False
    _closed: bool = False

    def wrote(self, table: str) -> None:
        """A commit was made."""
        if self._closed:
            return
        state = self._tables.setdefault(table, _UpkeepState())
        state.commits += 1
        state.wrote = True
        state.last_commit = time.monotonic()
        if not self._start() and state.commits == self.limits.commits:
            self._wake.set()

    def opened(self, table: str) -> None:
        """The store uses the table; what an earlier one left undone is found out a while later."""
        if self._closed or table in self._known:
            return
        self._known.add(table)
        self._unseen.append(table)
        if len(self._unseen) == 1:
            self._next_unseen = time.monotonic() + self.limits.quiet
        if not self._start():
            self._wake.set()

    def _start(self) -> bool:
        """Return whether the task had ended, or never begun."""
        if self._task is not None and not self._task.done():
            return False
        self._wake = asyncio.Event()
        self._task = self._background.start(self._run())
        return True

    async def finish(self) -> None:
        """Look at once at the tables that this store wrote to."""
        self._finishing = True
        if any(state.wrote for state in self._tables.values()):
            self._start()  # a loop that has ended may have left it undone
        if self._task is not None and not self._task.done():
            self._wake.set()
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """End what is under way, without waiting for its end."""
        self._closed = True
        if self._work is not None:
            self._work.stop()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        for lock in list(self._locks.values()):
            await lock.close()

    # In the background

    async def _run(self) -> None:
        while (name := await self._next()) is not None:
            state = self._tables.setdefault(name, _UpkeepState())
            began = time.monotonic()
            quiet = (
                self._finishing
                or state.commits < self.limits.commits
                or began - state.last_commit >= self.limits.quiet
            )
            state.commits, state.look_at = 0, None
            try:
                await self._look(name, state, quiet=quiet)
            except (StaleTableError, TableNotFoundError):
                self._tables.pop(name, None)
                continue
            except (StoreClosedError, StoreMovedError):
                return
            except AiovecError as exc:
                if is_read_only(exc):  # there is nothing to do for who may not write there
                    self._tables.pop(name, None)
                    continue
                # In a thread, since a handler may write to a file.
                text = "upkeep of the table %r failed and will be tried again: %s"
                await in_thread(LOG.warning, text, name, exc)
                state.failed += 1
                state.look_at = time.monotonic() + 60
            ended = time.monotonic()
            if not quiet and state.look_at is None:
                state.look_at = ended + self.limits.quiet  # these may have been the last
            state.rest_until = ended + self.limits.rest * (ended - began)
            if self._finishing or (not state.commits and state.look_at is None):
                self._tables.pop(name, None)

    async def _next(self) -> str | None:
        """Wait for the next table to look at; None where there is none left."""
        while True:
            now = time.monotonic()
            if self._finishing:
                return next((name for name, state in self._tables.items() if state.wrote), None)
            due = [(state.next_look(self.limits), name) for name, state in self._tables.items()]
            at, name = min(due, default=(float("inf"), None))
            if self._unseen and self._next_unseen < at:
                at, name = self._next_unseen, None
            if at == float("inf"):
                return None
            if at > now:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(at - now):
                        await self._wake.wait()
            elif name is not None:
                return name
            else:
                self._next_unseen = now + self.limits.look_every
                return self._unseen.popleft()

    async def _look(self, name: str, state: _UpkeepState, *, quiet: bool) -> None:
        handle = await self.session.handle(name)
        if name not in self._seen and not self._finishing:
            self._seen.add(name)
            await self.look_at_indexes(handle)
        rest = await in_thread(self._rest_of, handle)
        if rest > 0:
            state.look_at = time.monotonic() + rest
            return
        await self._index_fields(handle)
        table = await self.session.opened(handle)
        number = await self.session.run(table.lance.version())
        # Others may be writing, of whom nothing is seen but the versions that they make.
        if quiet and number != state.seen_version and not self._finishing:
            state.seen_version, quiet = number, False
            state.look_at = time.monotonic() + self.limits.quiet
        shape = Shape.of(await self.session.run(table.lance.stats()))
        if not await self._is_due(table, number, shape, state, quiet=quiet):
            return
        if not await self._take_lock(name):
            state.look_at = time.monotonic() + 5  # another process is at it
            return
        try:
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(self._share(handle, shape))
                except StoreBusyError:  # large reads have the memory: nothing was in vain
                    state.look_at = time.monotonic() + self.limits.quiet
                    return
                alone = state.failed >= self.limits.attempts
                await self._tidy(handle, shape, alone=alone, now=False)
        except (StoreBusyError, TimeoutError) as exc:
            state.failed += 1
            state.look_at = time.monotonic() + self.limits.quiet * 2 ** min(state.failed, 8)
            text = "upkeep of the table %r could not run and will be tried again: %s"
            await in_thread(LOG.debug, text, name, exc)
            return
        finally:
            self._release(name)
        state.failed = 0
        await self._look_again(handle, state)

    async def _is_due(
        self, table: Opened, number: int, shape: Shape, state: _UpkeepState, *, quiet: bool
    ) -> bool:
        if shape.too_many_files(self.limits, quiet=quiet):
            return True
        retention = self.retention
        made = None if state.tidied_version is None else number - state.tidied_version
        if quiet or made is None or made > retention.most:
            versions = await versions_of(self.session, table)
            first = retention.first_kept(versions, datetime.now(UTC), None)
            over = 0 if first is None else versions.index(first)
            if over > (self.limits.over if quiet else retention.most):
                return True
            if quiet:
                self._come_back(versions, state)
        uncovered = max((await unindexed_rows(self.session, table)).values(), default=0)
        return uncovered > self.limits.unindexed + self.limits.unindexed_share * shape.rows

    async def _look_again(self, handle: TableHandle, state: _UpkeepState) -> None:
        """Note what is left."""
        table = await self.session.opened(handle)
        state.tidied_version = await self.session.run(table.lance.version())
        state.seen_version = state.tidied_version
        self._come_back(await versions_of(self.session, table), state)

    def _come_back(self, versions: Sequence[Version], state: _UpkeepState) -> None:
        """Look again at versions that somebody might be reading, when nobody does any more."""
        if len(versions) > self.retention.most + self.limits.over:
            state.look_at = (
                time.monotonic() + self.retention.grace.total_seconds() + self.limits.quiet
            )

    def _rest_of(self, handle: TableHandle) -> float:
        """For how many seconds the table is still left alone, by all. Reads the disk."""
        last = self.log.last(handle)
        if last is None:
            return 0.0
        over = self.limits.rest * last.took
        return min(over, over - (datetime.now(UTC) - last.at).total_seconds())

    # Now

    async def optimize(self, handle: TableHandle) -> None:
        """Do the whole upkeep at once, for ``optimize`` of a store."""
        await self._index_fields(handle)
        async with self.alone(handle.name):
            with renewed():  # the store's own upkeep may have taken long
                await self._tidy_all(handle)

    async def _tidy_all(self, handle: TableHandle) -> None:
        table = await self.session.opened(handle)
        shape = Shape.of(await self.session.run(table.lance.stats()))
        async with self._share(handle, shape):
            for _ in range(self.limits.attempts):
                try:
                    return await self._tidy(handle, shape, alone=False, now=True)
                except (StoreBusyError, TimeoutError):
                    continue
            with renewed():  # what was in vain is no time that it waited for others
                await self._tidy(handle, shape, alone=True, now=True)

    async def _index_fields(self, handle: TableHandle) -> None:
        """Make the indexes of fields that could not be made with their columns."""
        table = await self.session.opened(handle)
        schema = table.schema
        if await lacking(self.session, table.lance, schema.fields, schema.analyzer):
            await self.write(handle.name, IndexFields(handle))

    async def last_tidied(self, handle: TableHandle) -> datetime | None:
        tidied = await in_thread(self.log.last, handle)
        return None if tidied is None else tidied.at

    @asynccontextmanager
    async def alone(self, table: str) -> AsyncIterator[None]:
        """No upkeep of the table meanwhile, by this process or another: an index is built, say."""
        deadline = current_deadline(self.busy_timeout)
        lock = self.lock_of(table)
        while not await self._take_lock(table):
            if self._closed:
                raise StoreClosedError(self.session.target)
            if table in self._held:  # what this store does comes to its end
                deadline = Deadline(deadline.seconds)
            if deadline.left() <= 0:
                raise deadline.error(f"another process is doing the upkeep of the table {table!r}")
            # A process that died may have left the lock of the table as well: both expire at once.
            if lock.confirmed:
                await in_thread(lock.watch)
            await asyncio.sleep(self.limits.poll)
        try:
            yield
        finally:
            self._release(table)

    def _share(self, handle: TableHandle, shape: Shape) -> Place:
        return self.admission.share(scan_bytes(min(shape.rows, FULL_FILE), handle.schema.dim))

    async def _tidy(self, handle: TableHandle, shape: Shape, *, alone: bool, now: bool) -> None:
        """The lock for upkeep is held, and a share of the memory. ``alone``: while writers wait."""
        pinned = partial(self.pins.oldest, handle.name)
        tidying = Tidying(self.session, handle, self.retention, pinned)
        if alone or shape.bytes <= self.limits.soon_done:
            work = TidyingOperation(
                tidying, None if now else self.busy_timeout * self.limits.patience
            )
            if not now:
                self._work = work
            took = await self.write(handle.name, work)
        else:
            began = time.monotonic()
            await tidying.run(self.limits.long + shape.bytes / self.limits.bytes_a_second)
            await self.write(handle.name, CheckFiles())
            took = time.monotonic() - began
        await in_thread(self.log.note, handle, took)

    async def _take_lock(self, table: str) -> bool:
        """Return whether the lock for upkeep was free."""
        await self.session.check_place()  # a lock would be made in its place
        lock = self._locks.get(table)
        if lock is None:
            lock = self._locks[table] = TaskLock(self.lock_of(f"{table}.upkeep"))
        taken = await lock.take(0.0, thread_limiter())
        if taken:
            self._held.add(table)
        return taken

    def _release(self, table: str) -> None:
        self._held.discard(table)
        self._locks[table].release()
