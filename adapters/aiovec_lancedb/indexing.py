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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from aiovec.backend import IndexInfo, StaleTableError, TableHandle
from aiovec.errors import (
    AiovecError,
    InvalidArgumentError,
    StoreBusyError,
    StoreClosedError,
    TableNotFoundError,
)
from aiovec.memory import total_memory

from . import kinds, recall
from .effort import KEY, LIMITS, Effort, Rung, Tuned
from .infos import infos_of, vector_index
from .layout import incarnation_of
from .session import Opened, Session
from .writer import Work

if TYPE_CHECKING:
    from aiovec.settings import LancedbSettings

# A table is measured again when it has grown by this, and its index built anew by "auto" when its
# partitions were made for a table so much smaller.
_GROWN, _OUTGROWN = 1.5, 4.0
# Rows that are written before a look at whether they matter.
_LOOK_AFTER = 256
# Attempts at a build whose commit others were in the way of.
_ATTEMPTS = 3
# What is tried until an index is measured: rather too much.
_UNMEASURED_EF, _UNMEASURED_REFINE = 400, 10


@dataclass(frozen=True, slots=True)
class Build:
    """A build that was asked for and can be done."""

    kind: str
    options: Mapping[str, int]
    auto: bool
    target: float | None
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Note(Work):
    """Keeps with the table what is known of its index."""

    handle: TableHandle
    tuned: Tuned

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        table = await reopened(session, self.handle)
        metadata = {KEY: self.tuned.to_json()}
        update = {"path": table.schema.vector, "metadata": metadata}
        await session.run(table.lance.update_field_metadata(update))
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class Drop(Work):
    handle: TableHandle
    index: str

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        table = await session.opened(self.handle)
        await session.run(table.lance.drop_index(self.index))
        return [None]


async def reopened(session: Session, handle: TableHandle) -> Opened:
    """The same table, which may have got a field meanwhile; StaleTableError where it is gone."""
    try:
        fresh = await session.handle(handle.name)
    except TableNotFoundError as exc:
        raise StaleTableError(handle.name) from exc
    if incarnation_of(fresh) != incarnation_of(handle):
        raise StaleTableError(handle.name)
    return await session.opened(fresh)


@dataclass(slots=True)
class _State:
    """What this store knows of one table."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    added: int = 0
    look_after: int = _LOOK_AFTER
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
        self._memory = settings.build_bytes()  # None until the machine was asked
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
        table = await self._session.opened(handle)
        build = await self._planned(table, name, chosen, target)
        task = self._start(handle, self._create(handle, build))
        if wait:
            await self._end_of(task)

    async def _create(self, handle: TableHandle, build: Build) -> None:
        async with self._only_one(handle.name):
            await self._build(handle, build)

    async def infos(self, handle: TableHandle) -> list[IndexInfo]:
        return await infos_of(self._session, await self._session.opened(handle))

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

    def wrote(self, handle: TableHandle, rows: int) -> None:
        """Rows were written; some time this is a reason to build or to measure."""
        state = self._state(handle.name)
        state.added += rows
        if state.added < state.look_after or state.tasks or self._closed:
            return
        state.added = 0
        self._start(handle, self._tend_quietly(handle))

    async def tend(self, handle: TableHandle) -> None:
        """Build or measure now, where the table has grown enough for it."""
        await self._end_of(self._start(handle, self._tend(handle)))

    async def _tend_quietly(self, handle: TableHandle) -> None:
        state = self._state(handle.name)
        try:
            await self._tend(handle)
            state.failure = None
        except (StaleTableError, StoreClosedError):
            return
        except StoreBusyError:
            return  # others are at it; the next writes bring it here again
        except AiovecError as exc:
            state.failure = str(exc)

    async def _tend(self, handle: TableHandle) -> None:
        if await self._due(handle) is None:
            return
        async with self._only_one(handle.name):
            due = await self._due(handle)  # others may have done it meanwhile
            if due == "build":
                await self._build_by_settings(handle)
            elif due == "measure":
                table = await reopened(self._session, handle)
                await self._measure(handle, table.tuned or Tuned())
        await self._due(handle)

    async def _due(self, handle: TableHandle) -> str | None:
        """Whether to "build" or to "measure", and when to look again."""
        table = await reopened(self._session, handle)
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
        build = await self._planned(table, self._settings.index, {}, tuned.target)
        await self._build(handle, replace(build, auto=True))

    # Building and measuring

    async def _planned(
        self, table: Opened, kind: str, options: dict[str, int], target: float | None
    ) -> Build:
        """What to build, or why it cannot be."""
        schema = table.schema
        rows = int(await self._session.run(table.lance.count_rows()))
        auto = kind == kinds.AUTO
        if target is None and table.tuned is not None:
            target = table.tuned.target
        if table.extreme or not rows:
            reason = "has vectors too large or small for it" if table.extreme else "has no rows yet"
            if auto:
                return Build(kinds.NONE, {}, auto=True, target=target, rows=rows)
            raise InvalidArgumentError("kind", kind, f"'auto' while the table {reason}")
        if auto:
            if rows < self._settings.index_from:
                return Build(kinds.NONE, {}, auto=True, target=target, rows=rows)
            kind = kinds.chosen_kind(schema)
        plan = kinds.plan_of(kind, options, rows, schema.dim)
        needed = kinds.build_bytes(kind, plan, rows, schema.dim)
        if self._memory is None:
            self._memory = await anyio.to_thread.run_sync(total_memory) // 2
        if needed > self._memory:
            raise InvalidArgumentError(
                "kind",
                kind,
                f"one that builds within build_memory, {_size(self._memory)}: over {rows:,} rows "
                f"of {schema.dim} dimensions this takes some {_size(needed)}",
            )
        return Build(kind, plan, auto, target, rows)

    async def _build(self, handle: TableHandle, build: Build) -> None:
        """``_only_one`` is held."""
        state = self._state(handle.name)
        if build.kind == kinds.NONE:
            table = await reopened(self._session, handle)
            before = table.tuned or Tuned()
            if before.kind is None:
                kept = replace(before, target=build.target, kept_off=False)
                await self._write(handle.name, Note(handle, kept))
            return
        state.doing = f"building {build.kind}"
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                table = await reopened(self._session, handle)
                config = kinds.config_of(build.kind, build.options, table.schema.metric)
                call = table.lance.create_index(table.schema.vector, config=config, replace=True)
                try:
                    await self._session.run(call)
                    break
                except StoreBusyError:
                    if attempt == _ATTEMPTS:
                        raise
            tuned = Tuned(
                build.kind,
                auto=build.auto,
                target=build.target,
                options=dict(build.options),
                built_rows=build.rows,
            )
            tuned = replace(tuned, ladders={LIMITS[0]: (_unmeasured(tuned),)})
            await self._write(handle.name, Note(handle, tuned))
            await self._measure(handle, tuned)
            state.failure = None
        finally:
            state.doing = None

    async def _measure(self, handle: TableHandle, tuned: Tuned) -> None:
        if tuned.kind is None:
            return
        state = self._state(handle.name)
        before, state.doing = state.doing, f"measuring {tuned.kind}"
        try:
            table = await reopened(self._session, handle)
            rows = int(await self._session.run(table.lance.count_rows()))
            parts = _partitions(tuned)
            found = await recall.measure(self._session, table, tuned.kind, parts)
            measured = replace(tuned, rows=rows, ladders=found.ladders or tuned.ladders)
            limit = LIMITS[0]
            target = tuned.target or self._settings.recall_target
            effort, _ = measured.effort(limit, target)
            measured = replace(measured, recall=found.means.get((limit, effort), 1.0))
            await self._write(handle.name, Note(handle, measured))
        finally:
            state.doing = before

    # Tasks

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
            if error is not None and not isinstance(error, StaleTableError):
                state.failure = str(error)

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


def _partitions(tuned: Tuned) -> int:
    """Of an index as it was built. Lance makes one partition of a graph for a million rows."""
    given = tuned.options.get("num_partitions")
    if given is not None:
        return given
    size = tuned.options.get("target_partition_size", 2**20)
    return max(1, math.ceil(tuned.built_rows / size))


def _unmeasured(tuned: Tuned) -> Rung:
    """An effort for the moments until the measuring is done."""
    kind = kinds.KINDS[tuned.kind or "ivf_flat"]
    refine = None if kind.whole else _UNMEASURED_REFINE
    partitions = _partitions(tuned)
    if kind.graph:
        return Rung(0.0, Effort(partitions, _UNMEASURED_EF, None))
    return Rung(0.0, Effort(math.ceil(partitions / 2), None, refine))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
