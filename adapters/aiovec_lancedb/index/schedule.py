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

from aiovec.backend import Field
from aiovec.backend.contract import IndexInfo, StaleTableError, TableHandle, index_behind_change
from aiovec.backend.limits import renewed
from aiovec.backend.threads import wait_out
from aiovec.errors import AiovecError, InvalidArgumentError, StoreBusyError, StoreClosedError

from ..limits import IndexLimits
from ..session import Opened, Session
from ..tables import AlterField
from ..writer import WriteOperation
from . import extremes, kinds
from .build import Build, Builder, Drop, Telling, current, reopened
from .effort import Tuned
from .fields import is_settled, text_columns
from .info import InUse, has_id_index, infos_of, seen_index, vector_index

if TYPE_CHECKING:
    from ..settings import LancedbSettings


class _BuildEndedError(AiovecError):
    """A drop of the table or of its index ended the build that the caller waits for."""

    def __init__(self) -> None:
        super().__init__("the index build was stopped, because its table or index was dropped")


@dataclass(slots=True)
class _IndexState:
    """The state of one table in this store."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    handle: TableHandle | None = None
    added: int = 0
    look_after: int = 1
    last_write: float = 0.0
    put_off_since: float = 0.0
    doing: str | None = None
    failure: str | None = None
    # When an index may be measured again without being asked, and those that were tried so.
    rest_until: float = 0.0
    # The row that was found to hold a vector that no index can rank, and when to look again.
    extreme: str | None = None
    looks_from: float = 0.0
    tried: set[str | None] = field(default_factory=set)


class Indexing:
    """The indexes of one store's tables."""

    def __init__(
        self,
        session: Session,
        settings: LancedbSettings,
        write: Callable[[str, WriteOperation], Awaitable[Any]],
        alone: Callable[[str], AbstractAsyncContextManager[None]],
        limits: IndexLimits,
    ) -> None:
        self._limits = limits
        self._session = session
        self._settings = settings
        self._builder = Builder(session, settings, limits, write)
        self._write = write
        self._alone = alone
        self._states: dict[str, _IndexState] = {}
        self._closed = False

    def doing(self, table: str) -> str | None:
        """Return in words the work under way in this store."""
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
        infos = await infos_of(self._session, table)
        there = {info.name for info in infos}
        if name not in there:
            listed = ", ".join(sorted(there)) or "the table has none"
            raise InvalidArgumentError("name", name, f"the name of an index ({listed})")
        if "text" in [info.kind for info in infos if info.name == name]:
            expected = (
                "the name of another index; drop the text index, which keyword search needs, by "
                "drop_field_index"
            )
            raise InvalidArgumentError("name", name, expected)
        async with self.altering(handle.name):
            await self._write(handle.name, Drop(handle, name))

    async def index_field(self, handle: TableHandle, name: str, field: Field) -> None:
        """Give a field of the table these options, and the indexes that they want."""
        before = handle.schema.fields[name]
        if field == before:
            async with self._session.reading(handle) as table:
                if await is_settled(self._session, table.lance, name, field):
                    return
        task = self._start(handle, self._index_field(handle, name, field))
        await self._end_of(task)

    async def _index_field(self, handle: TableHandle, name: str, field: Field) -> None:
        async with self._only_one(handle.name):
            await self._write(handle.name, AlterField(handle, name, field))
            with index_behind_change(self._session.target, handle.name):
                await self._builder.index_field(handle, name, field, self._telling(handle))

    # As tables grow

    def wrote(self, handle: TableHandle, rows: int, *, loading: bool = False) -> None:
        """Rows were written; some time this is a reason to build or to measure.

        ``loading``: in bulk, which is over when no more come.
        """
        state = self._state(handle.name)
        state.handle = handle
        state.added += rows
        state.last_write = time.monotonic()
        if loading:
            state.put_off_since = state.last_write
        if state.added < state.look_after or state.tasks or self._closed:
            return
        state.added = 0
        state.put_off_since = state.last_write
        self._start(handle, self._tend_quietly(handle, state))

    async def look(self, handle: TableHandle) -> None:
        """Begin in the background what an earlier store left to do."""
        state = self._state(handle.name)
        if not state.tasks and not self._closed and await self._due(handle):
            self._start(handle, self._tend_quietly(handle, state))

    async def finish(self, seconds: float) -> None:
        """Do what is due of the tables that this store wrote to, without waiting for a lull."""
        for state in list(self._states.values()):
            if state.handle is None:
                continue
            with suppress(AiovecError):
                if state.doing is not None or await self._is_done_in(seconds, state.handle):
                    await self.tend(state.handle)

    async def _is_done_in(self, seconds: float, handle: TableHandle) -> bool:
        table = await reopened(self._session, handle)
        rows = int(await self._session.run(table.lance.count_rows()))
        return rows * table.schema.dim * 4 <= seconds * self._limits.bytes_a_second

    def restored(self, handle: TableHandle) -> None:
        """Another version of the table is the newest, with other indexes or none."""
        state = self._state(handle.name)
        state.look_after = 1
        self.wrote(handle, 1)

    def searched(self, handle: TableHandle, table: Opened) -> None:
        """A search used the table's index. One that nobody measured yet is measured now."""
        index = seen_index(table)
        if index is None or index.tuned.measured or self._closed:
            return
        state = self._state(handle.name)
        if state.tasks or index.uuid in state.tried or time.monotonic() < state.rest_until:
            return
        state.tried.add(index.uuid)
        self._start(handle, self._tend_quietly(handle, state))

    async def tend(self, handle: TableHandle) -> None:
        """Build or measure now, where the table has grown enough for it."""
        try:
            await self._end_of(self._start(handle, self._tend(handle)))
        except _BuildEndedError:
            # Whoever drops an index at the same time leaves nothing to build. Of a table that was
            # dropped this raises StaleTableError.
            await self._session.opened(handle)

    async def _tend_quietly(self, handle: TableHandle, state: _IndexState) -> None:
        while True:
            begins = min(
                state.last_write + self._limits.lull,
                state.put_off_since + self._limits.longest_wait,
            )
            begins = max(begins, state.looks_from)
            wait = begins - time.monotonic()
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        # Where others are at it, the next writes bring it here again.
        with suppress(StaleTableError, StoreClosedError, StoreBusyError):
            await self._tend(handle)

    async def _tend(self, handle: TableHandle) -> None:
        if not await self._due(handle):
            return
        async with self._only_one(handle.name):
            due = await self._due(handle)  # others may have done it meanwhile
            if "extremes" in due:
                # An index that was there is built anew: it may have learned from such vectors.
                anew = {"build"} if await self._are_gone(handle) else set()
                due = await self._due(handle) | anew
            if "ids" in due:
                await self._builder.index_ids(handle, self._telling(handle))
            if "texts" in due:
                await self._index_texts(handle)
            if "build" in due:
                await self._build_by_settings(handle)
            elif "measure" in due:
                await self._measure(handle)
        await self._due(handle)

    async def _are_gone(self, handle: TableHandle) -> bool:
        """Let the table have an index where no vector is left that none can rank.

        Return whether it has one that aiovec built.
        """
        state, began = self._state(handle.name), time.monotonic()
        fresh = await current(self._session, handle)
        table = await self._session.opened(fresh)
        mark = await extremes.mark_of(self._session, table)
        state.extreme = await extremes.extreme_id(self._session, table, state.extreme)
        ended = time.monotonic()
        state.looks_from = ended + self._limits.rest * (ended - began)
        if state.extreme is not None or mark is None:
            return False
        unmarked = bool(await self._write(handle.name, extremes.Unmark(fresh, mark)))
        index = await vector_index(self._session, table)
        return unmarked and index is not None and index.ours

    async def _index_texts(self, handle: TableHandle) -> None:
        table = await reopened(self._session, handle)
        rows = int(await self._session.run(table.lance.count_rows()))
        columns = await self._texts_behind(table, rows)
        fresh = await current(self._session, handle)
        await self._builder.index_texts(fresh, columns, self._telling(handle))

    async def _texts_behind(self, table: Opened, rows: int) -> list[str]:
        """The fields for keyword search of which so many rows have to be read at each search that
        building their index anew takes less time than bringing these in."""
        covered = text_columns(await self._session.indices(table))
        most = max(self._limits.texts_from, self._limits.texts_share * rows)
        return [
            name
            for name, field in table.schema.fields.items()
            if field.text and covered.get(name, rows) > most
        ]

    async def _measure(self, handle: TableHandle) -> None:
        began = time.monotonic()
        await self._builder.measure(handle, self._telling(handle))
        ended = time.monotonic()
        self._state(handle.name).rest_until = ended + self._limits.rest * (ended - began)

    async def _due(self, handle: TableHandle) -> set[str]:
        """Return what is due of "ids" and "texts" (their indexes), "build" and "measure".

        Note also after how many rows to look again.
        """
        fresh = await current(self._session, handle)
        async with self._session.reading(fresh) as table:
            rows = int(await self._session.run(table.lance.count_rows()))
            index = await vector_index(self._session, table)
            due, next_rows = self._wanted(table, index, rows)
            wanted = set() if due is None else {due}
            if table.extreme:
                wanted.add("extremes")  # each write may have removed the last of such rows
            if rows < self._limits.ids_from:
                next_rows = min(next_rows, self._limits.ids_from)
            elif not await has_id_index(self._session, table):
                wanted.add("ids")
            if any(field.text for field in table.schema.fields.values()):
                next_rows = min(next_rows, rows + self._limits.texts_from)
                if await self._texts_behind(table, rows):
                    wanted.add("texts")
            look_after = max(self._limits.look_after, next_rows - rows)
            self._state(handle.name).look_after = 1 if table.extreme else look_after
            return wanted

    def _wanted(self, table: Opened, index: InUse | None, rows: int) -> tuple[str | None, int]:
        if table.extreme or not rows:
            return None, rows * 2
        if index is not None:
            return self._wanted_of(index, rows)
        if (table.tuned or Tuned()).kept_off or self._settings.index == kinds.NONE:
            return None, rows * 2
        if rows >= self._settings.index_from:
            return "build", rows
        return None, self._settings.index_from

    def _wanted_of(self, index: InUse, rows: int) -> tuple[str | None, int]:
        tuned = index.tuned
        outgrown = tuned.auto and rows >= self._limits.outgrown * tuned.built_rows
        # An earlier release built it in such a way that upkeep joins nearly all partitions.
        joined = not index.kind.graph and index.partition_size is None
        if index.ours and (outgrown or joined or index.segments > self._limits.most_segments):
            return "build", rows
        if not tuned.measured or rows >= self._limits.grown * tuned.rows:
            return "measure", rows
        return None, math.ceil(self._limits.grown * tuned.rows)

    async def _build_by_settings(self, handle: TableHandle) -> None:
        """Return the index that the settings ask for, or the existing one to build anew."""
        table = await reopened(self._session, handle)
        index = await vector_index(self._session, table)
        if index is not None:
            build = await self._builder.again(table, index)
        else:
            build = await self._builder.planned(table, self._settings.index, {}, None)
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

    def _state(self, table: str) -> _IndexState:
        return self._states.setdefault(table, _IndexState())

    def _start(self, handle: TableHandle, work: Any) -> asyncio.Task[None]:
        if self._closed:
            work.close()
            raise StoreClosedError(self._session.target)
        state = self._state(handle.name)
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        tasks = state.tasks
        tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
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
            own = asyncio.current_task()
            if task.cancelled() and not (own is not None and own.cancelling()):
                if self._closed:
                    raise StoreClosedError(self._session.target) from None
                raise _BuildEndedError from None
            task.cancel()
            await wait_out(task)
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
        async with self.altering(table):
            yield
        self._states.pop(table, None)

    @asynccontextmanager
    async def altering(self, table: str) -> AsyncIterator[None]:
        """No build or upkeep of the table meanwhile: a column of theirs may go.

        What is done within waits from its own start: the store's own upkeep may have taken long.
        """
        async with self._only_one(table):
            with renewed():
                yield

    async def stop(self, table: str) -> None:
        """End what is under way for the table."""
        state = self._states.get(table)
        if state is not None and (tasks := list(state.tasks)):
            for task in tasks:
                task.cancel()
            cancelled = [await wait_out(task) for task in tasks]
            for exc in filter(None, cancelled):
                raise exc

    async def close(self) -> None:
        self._closed = True
        for table in list(self._states):
            await self.stop(table)
