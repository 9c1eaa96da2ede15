"""Building vector indexes beside the writes, measuring them, and doing so again as tables grow.

A build reads one version of the table and commits at its end; Lance merges that with what was
written meanwhile, and rows that came later are searched without the index until upkeep brings
them in. So writers never wait for a build. Only what rewrites files keeps off, by the upkeep's
lock of the table, and dropping the table, which would pull it away from under the build.

A cancelled build stops at once and leaves the table as it was; so does the end of the process.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiovec.backend import IndexInfo, StaleTableError, TableHandle
from aiovec.errors import AiovecError, InvalidArgumentError, StoreBusyError, StoreClosedError

from . import kinds
from .building import Build, Builder, Drop, Note, Telling, current, reopened
from .effort import Tuned
from .infos import infos_of, vector_index
from .session import Opened, Session
from .writer import Work

if TYPE_CHECKING:
    from aiovec.settings import LancedbSettings

# A table is measured again when it has grown by this, and its index built anew by "auto" when its
# partitions were made for a table so much smaller.
_GROWN, _OUTGROWN = 1.5, 4.0
# Rows that are written before a look at whether they matter.
_LOOK_AFTER = 256
# Seconds without a write after which a build begins by itself: it would slow the writes down, and
# of a table that is being filled it would be old at once. And the longest that it is put off.
_LULL, _LONGEST_WAIT = 1.0, 30.0


@dataclass(slots=True)
class _State:
    """What this store knows of one table."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    added: int = 0
    look_after: int = _LOOK_AFTER
    last_write: float = 0.0
    put_off_since: float = 0.0
    doing: str | None = None
    failure: str | None = None


class Indexing:
    """The indexes of one store's tables."""

    def __init__(
        self,
        session: Session,
        settings: LancedbSettings,
        write: Callable[[str, Work], Awaitable[Any]],
        alone: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._session = session
        self._settings = settings
        self._builder = Builder(session, settings, write)
        self._write = write
        self._alone = alone
        self._states: dict[str, _State] = {}
        self._closed = False

    def doing(self, table: str) -> str | None:
        """What is under way in this store, in words."""
        state = self._states.get(table)
        return None if state is None else state.doing

    def failure(self, table: str) -> str | None:
        """Why the last build in the background failed."""
        state = self._states.get(table)
        return None if state is None else state.failure

    # What users ask for

    async def create(
        self, handle: TableHandle, kind: str, options: Mapping[str, Any], *, wait: bool
    ) -> None:
        name = kinds.named(kind)
        target, chosen = kinds.checked_options(name, options, handle.schema)
        async with self._session.reading(handle) as table:
            build = await self._builder.planned(table, name, chosen, target)
        task = self._start(handle, self._create(handle, build))
        if wait:
            await self._end_of(task)

    async def _create(self, handle: TableHandle, build: Build) -> None:
        async with self._only_one(handle.name):
            await self._builder.build(handle, build, self._telling(handle))

    async def infos(self, handle: TableHandle) -> list[IndexInfo]:
        async with self._session.reading(handle) as table:
            return await infos_of(self._session, table)

    async def drop(self, handle: TableHandle, name: str) -> None:
        await self.stop(handle.name)
        table = await self._session.opened(handle)
        there = {index.name: index for index in await self._session.run(table.lance.list_indices())}
        if name not in there:
            listed = ", ".join(sorted(there)) or "the table has none"
            raise InvalidArgumentError("name", name, f"the name of an index ({listed})")
        async with self._only_one(handle.name):
            await self._write(handle.name, Drop(handle, name))
            if kinds.kind_of_type(there[name].index_type) is not None:
                off = (table.tuned or Tuned()).without_index()
                await self._write(handle.name, Note(handle, off))

    # As tables grow

    def wrote(self, handle: TableHandle, rows: int, *, loading: bool = False) -> None:
        """Rows were written; some time this is a reason to build or to measure.

        ``loading``: in bulk, which is over when no more come.
        """
        state = self._state(handle.name)
        state.added += rows
        state.last_write = time.monotonic()
        if loading:
            state.put_off_since = state.last_write
        if state.added < state.look_after or state.tasks or self._closed:
            return
        state.added = 0
        state.put_off_since = state.last_write
        self._start(handle, self._tend_quietly(handle, state))

    async def tend(self, handle: TableHandle) -> None:
        """Build or measure now, where the table has grown enough for it."""
        await self._end_of(self._start(handle, self._tend(handle)))

    async def _tend_quietly(self, handle: TableHandle, state: _State) -> None:
        while True:
            begins = min(state.last_write + _LULL, state.put_off_since + _LONGEST_WAIT)
            wait = begins - time.monotonic()
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        # Where others are at it, the next writes bring it here again.
        with suppress(StaleTableError, StoreClosedError, StoreBusyError):
            await self._tend(handle)

    async def _tend(self, handle: TableHandle) -> None:
        if await self._due(handle) is None:
            return
        async with self._only_one(handle.name):
            due = await self._due(handle)  # others may have done it meanwhile
            if due == "build":
                await self._build_by_settings(handle)
            elif due == "measure":
                table = await reopened(self._session, handle)
                await self._builder.measure(handle, table.tuned or Tuned(), self._telling(handle))
        await self._due(handle)

    async def _due(self, handle: TableHandle) -> str | None:
        """Whether to "build" or to "measure", and when to look again."""
        fresh = await current(self._session, handle)
        async with self._session.reading(fresh) as table:
            rows = int(await self._session.run(table.lance.count_rows()))
            tuned = table.tuned or Tuned()
            due, next_rows = self._wanted(table, tuned, rows)
            state = self._state(handle.name)
            state.look_after = max(_LOOK_AFTER, next_rows - rows)
            if due == "build" and tuned.kind is None and await vector_index(self._session, table):
                return None  # one that lancedb's own interface made: its maker's affair
            return due

    def _wanted(self, table: Opened, tuned: Tuned, rows: int) -> tuple[str | None, int]:
        if table.extreme:
            return None, rows * 2
        if tuned.kind is not None:
            if tuned.auto and rows >= _OUTGROWN * tuned.built_rows:
                return "build", rows
            if tuned.recall is None or rows >= _GROWN * tuned.rows:
                return "measure", rows
            return None, math.ceil(_GROWN * tuned.rows)
        if tuned.kept_off or self._settings.index == kinds.NONE:
            return None, rows * 2
        if rows >= self._settings.index_from:
            return "build", rows
        return None, self._settings.index_from

    async def _build_by_settings(self, handle: TableHandle) -> None:
        table = await reopened(self._session, handle)
        tuned = table.tuned or Tuned()
        build = await self._builder.planned(table, self._settings.index, {}, tuned.target)
        build = replace(build, auto=True)
        await self._builder.build(handle, build, self._telling(handle))

    # Tasks

    def _telling(self, handle: TableHandle) -> Telling:
        state = self._state(handle.name)

        @contextmanager
        def tell(what: str) -> Iterator[None]:
            state.doing = what
            try:
                yield
            finally:
                state.doing = None

        return tell

    def _state(self, table: str) -> _State:
        return self._states.setdefault(table, _State())

    def _start(self, handle: TableHandle, work: Any) -> asyncio.Task[None]:
        if self._closed:
            work.close()
            raise StoreClosedError(self._session.target)
        state = self._state(handle.name)
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        state.tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            state.tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if not isinstance(error, StaleTableError) and not task.cancelled():
                state.failure = None if error is None else str(error)

        task.add_done_callback(ended)
        return task

    async def _end_of(self, task: asyncio.Task[None]) -> None:
        """Wait for the task; with the caller cancelled, it ends too."""
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done() and task.cancelled():
                if self._closed:
                    raise StoreClosedError(self._session.target) from None
                raise AiovecError("the build was ended: its table or index was dropped") from None
            task.cancel()
            await asyncio.wait({task})
            raise

    @asynccontextmanager
    async def _only_one(self, table: str) -> AsyncIterator[None]:
        """No other build, measuring or upkeep of the table meanwhile."""
        async with self._state(table).lock, self._alone(table):
            yield

    @asynccontextmanager
    async def dropping(self, table: str) -> AsyncIterator[None]:
        """No build of the table meanwhile: its commit would be one to the next of that name."""
        await self.stop(table)
        async with self._only_one(table):
            yield
        self._states.pop(table, None)

    async def stop(self, table: str) -> None:
        """End what is under way for the table."""
        state = self._states.get(table)
        if state is not None and state.tasks:
            tasks = list(state.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def close(self) -> None:
        self._closed = True
        for table in list(self._states):
            await self.stop(table)
