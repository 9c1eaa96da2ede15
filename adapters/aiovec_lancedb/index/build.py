"""One build of a vector index, and the measuring behind it: what they need, do and leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from aiovec.backend import Field
from aiovec.backend.contract import StaleTableError, TableHandle
from aiovec.backend.memory import size_text, total_memory
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError, InvalidArgumentError, StoreBusyError, TableNotFoundError

from ..driver import indexing
from ..layout import DROPPED, incarnation_of
from ..limits import IndexLimits
from ..session import Opened, Session
from ..writer import CheckFiles, WriteOperation
from . import kinds, recall
from .effort import KEY, LIMITS, Intent, Tuned
from .fields import configs_of, index_name, lacking, text_config
from .info import InUse, partitions_of, vector_index

if TYPE_CHECKING:
    from ..settings import LancedbSettings

Telling = Callable[[str], AbstractContextManager[None]]
"""Says what is done, as long as it is done."""

# Attempts at a build whose commit others were in the way of.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Build:
    """A build that was asked for and can be done."""

    kind: str
    options: Mapping[str, int]
    auto: bool
    target: float | None
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Note(WriteOperation):
    """Keeps with the table what is known of its index."""

    handle: TableHandle
    tuned: Tuned

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        await _note(session, await reopened(session, self.handle), self.tuned)
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class Drop(WriteOperation):
    """Drops an index, by hand: nothing is to make it anew, also if this process ends in between."""

    by_hand: ClassVar[bool] = True

    handle: TableHandle
    index: str

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        vectors = await vector_index(session, table)
        tuned = vectors.tuned if vectors is not None and vectors.name == self.index else None
        if tuned is not None:
            await _note(session, table, replace(tuned, kept_off=True))
        for index in await session.run(table.lance.list_indices()):
            if index.name == self.index and index.columns[0] in table.schema.fields:
                update = {"path": index.columns[0], "metadata": {DROPPED: "1"}}
                await session.run(table.lance.update_field_metadata(update))
        await session.run(table.lance.drop_index(self.index))
        if tuned is not None:
            await _note(session, table, tuned.without_index())
        return [None]


async def _note(session: Session, table: Opened, tuned: Tuned) -> None:
    update = {"path": table.schema.vector, "metadata": {KEY: tuned.to_json()}}
    await session.run(table.lance.update_field_metadata(update))


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
        limits: IndexLimits,
        write: Callable[[str, WriteOperation], Awaitable[Any]],
    ) -> None:
        self._session = session
        self._settings = settings
        self._limits = limits
        self._memory = settings.build_bytes()  # None until the machine was asked
        self._write = write

    async def planned(
        self, table: Opened, kind: str, options: dict[str, int], target: float | None
    ) -> Build:
        """Return the index to build, or raise an error with the reason."""
        schema = table.schema
        rows = int(await self._session.run(table.lance.count_rows()))
        auto = kind == kinds.AUTO
        if target is None:
            target = await self._target(table)
        if table.extreme or not rows:
            reason = (
                "has vectors that are too large or too small for an index"
                if table.extreme
                else "has no rows yet"
            )
            if auto:
                return Build(kinds.NONE, {}, auto=True, target=target, rows=rows)
            raise InvalidArgumentError("kind", kind, f"'auto', because the table {reason}")
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
                f"{rows:,} rows of {schema.dim} dimensions this kind needs about "
                f"{size_text(needed)}",
            )
        return Build(kind, plan, auto, target, rows)

    async def _target(self, table: Opened) -> float | None:
        index = await vector_index(self._session, table)
        known = table.tuned if index is None else index.tuned
        return None if known is None else known.target

    async def again(self, table: Opened, index: InUse) -> Build:
        """The build that gave the index, for the table as it is now."""
        known = index.tuned
        if known.auto:
            build = await self.planned(table, self._settings.index, {}, known.target)
            return replace(build, auto=True)
        # The size was reckoned from the rows of that day where the user named a number.
        named = "num_partitions" in known.options
        options = {
            name: value
            for name, value in known.options.items()
            if not (named and name == "target_partition_size")
        }
        return await self.planned(table, index.kind.name, options, known.target)

    async def build(self, handle: TableHandle, build: Build, tell: Telling) -> None:
        """Build, and measure what was built. Nothing else may be at work on the table's index."""
        if build.kind == kinds.NONE:
            table = await reopened(self._session, handle)
            kept = replace(table.tuned or Tuned(), target=build.target, kept_off=False)
            await self._write(handle.name, Note(handle, kept))
            return
        with tell(f"building {build.kind}"):
            table = await reopened(self._session, handle)
            intent = Intent(build.kind, dict(build.options), build.auto, build.target, build.rows)
            note = replace(table.tuned or Tuned(), intent=intent)
            await self._write(handle.name, Note(handle, note))
            vector, metric = table.schema.vector, table.schema.metric
            config = kinds.config_of(build.kind, build.options, metric)
            await self._index(handle, vector, config)
        await self.measure(handle, tell)

    async def index_ids(self, handle: TableHandle, tell: Telling) -> None:
        """Build the index over the ids, for calls by id."""
        with tell("building the index of the ids"):
            await self._index(handle, "id", indexing.BTree())

    async def index_texts(self, handle: TableHandle, columns: Sequence[str], tell: Telling) -> None:
        """Build the indexes for keyword search over these fields anew, with all rows."""
        config = text_config(handle.schema.analyzer)
        for column in columns:
            with tell(f"building the text index of {column}"):
                await self._index(handle, column, config)

    async def _index(
        self, handle: TableHandle, column: str, config: Any, *, replace: bool = True
    ) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            table = await reopened(self._session, handle)
            named = await index_name(self._session, table.lance, column, config)
            try:
                await self._session.run(
                    table.lance.create_index(column, config=config, replace=replace, name=named)
                )
            except StoreBusyError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                await self._write(handle.name, CheckFiles())
                return

    async def index_field(
        self, handle: TableHandle, name: str, field: Field, tell: Telling
    ) -> None:
        """Build what the field lacks, unless it was altered again meanwhile."""
        with tell(f"indexing {name}"):
            for config in configs_of(field, handle.schema.analyzer):
                table = await reopened(self._session, handle)
                if table.schema.fields.get(name) != field:
                    return
                if not await self._lacks(table, name, config):
                    continue
                try:
                    await self._index(handle, name, config, replace=False)
                except AiovecError:
                    # Upkeep, of any process, makes what a field lacks too.
                    if await self._lacks(await reopened(self._session, handle), name, config):
                        raise

    async def _lacks(self, table: Opened, name: str, config: Any) -> bool:
        """Return whether the field wants this kind of index and has none."""
        field = table.schema.fields.get(name)
        if field is None:
            return False
        wanted = await lacking(self._session, table.lance, {name: field}, table.schema.analyzer)
        return type(config) in [type(one) for _, one in wanted]

    async def measure(self, handle: TableHandle, tell: Telling) -> None:
        """Find the efforts for the index as it is now, and keep them with the table."""
        table = await reopened(self._session, handle)
        index = await vector_index(self._session, table)
        if index is None:
            return
        with tell(f"measuring {index.kind.name}"):
            tuned = index.tuned
            rows = int(await self._session.run(table.lance.count_rows()))
            parts = await partitions_of(self._session, table)
            tried = parts or kinds.partitions_of(tuned.options, rows, index.partition_size)
            found = await recall.measure(self._session, table, index.kind.name, tried, self._limits)
            measured = replace(tuned, rows=rows, ladders=found.ladders or tuned.ladders)
            limit = LIMITS[0]
            target = tuned.target or self._settings.recall_target
            effort, _ = measured.effort(limit, target)
            mean = found.means.get((limit, effort), 1.0)
            measured = replace(
                measured, recall=mean, uuid=index.uuid, partitions=parts, intent=None
            )
            await self._write(handle.name, Note(handle, measured))
