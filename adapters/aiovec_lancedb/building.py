"""One build of a vector index, and the measuring behind it: what they need, do and leave."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aiovec.backend import StaleTableError, TableHandle
from aiovec.errors import InvalidArgumentError, StoreBusyError, TableNotFoundError
from aiovec.memory import size_text, total_memory
from aiovec.pool import in_thread

from . import kinds, recall
from .effort import KEY, LIMITS, Effort, Rung, Tuned
from .layout import incarnation_of
from .session import Opened, Session
from .writer import Work

if TYPE_CHECKING:
    from aiovec.settings import LancedbSettings

Telling = Callable[[str], AbstractContextManager[None]]
"""Says what is done, as long as it is done."""

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


async def current(session: Session, handle: TableHandle) -> TableHandle:
    """Of the same table, which may have got a field meanwhile; StaleTableError where it is gone."""
    try:
        fresh = await session.handle(handle.name)
    except TableNotFoundError as exc:
        raise StaleTableError(handle.name) from exc
    if incarnation_of(fresh) != incarnation_of(handle):
        raise StaleTableError(handle.name)
    return fresh


async def reopened(session: Session, handle: TableHandle) -> Opened:
    """The same table as it is now."""
    return await session.opened(await current(session, handle))


class Builder:
    """Builds and measures the indexes of one store's tables."""

    def __init__(
        self,
        session: Session,
        settings: LancedbSettings,
        write: Callable[[str, Work], Awaitable[Any]],
    ) -> None:
        self._session = session
        self._settings = settings
        self._memory = settings.build_bytes()  # None until the machine was asked
        self._write = write

    async def planned(
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
            self._memory = await in_thread(total_memory) // 2
        if needed > self._memory:
            raise InvalidArgumentError(
                "kind",
                kind,
                f"one that builds within build_memory, {size_text(self._memory)}: over "
                f"{rows:,} rows of {schema.dim} dimensions this takes some {size_text(needed)}",
            )
        return Build(kind, plan, auto, target, rows)

    async def build(self, handle: TableHandle, build: Build, tell: Telling) -> None:
        """Build, and measure what was built. Nothing else may be at work on the table's index."""
        if build.kind == kinds.NONE:
            table = await reopened(self._session, handle)
            kept = replace(table.tuned or Tuned(), target=build.target, kept_off=False)
            await self._write(handle.name, Note(handle, kept))
            return
        with tell(f"building {build.kind}"):
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
        await self.measure(handle, tuned, tell)

    async def measure(self, handle: TableHandle, tuned: Tuned, tell: Telling) -> None:
        """Find the efforts for the index as it is now, and keep them with the table."""
        if tuned.kind is None:
            return
        with tell(f"measuring {tuned.kind}"):
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
