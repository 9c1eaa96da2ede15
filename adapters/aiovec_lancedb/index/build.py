"""Build indexes beside the writes, measure them, and note with the table what was found.

A build reads one version of the table and commits at its end; Lance merges that with what was
written meanwhile, and rows that came later are searched without the index until upkeep brings
them in. So writers never wait for a build. A cancelled build leaves the table as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from aiovec.backend.contract import TableHandle
from aiovec.errors import InvalidArgumentError, StoreBusyError

from ..commit import Change
from ..driver import indexing
from ..layout import load_in, tuned_in
from ..session import Opened, Session
from ..table import Table
from . import kinds, recall
from .effort import KEY, Tuned
from .fields import index_name, lacking
from .info import InUse, vector_index

if TYPE_CHECKING:
    pass

# Attempts at a build whose commit others were in the way of.
_ATTEMPTS = 3


class IndexMaker(Protocol):
    """Builds indexes in the place of LanceDB."""

    async def make(self, table: str, column: str, config: Any, name: str) -> bool:
        """Build an index from a configuration of lancedb; return False to leave it to LanceDB."""
        ...


MAKER: ContextVar[IndexMaker | None] = ContextVar("aiovec_maker", default=None)
"""The engine that builds the indexes in this task."""


@dataclass(frozen=True, slots=True)
class Build:
    """A build that was asked for and can be done."""

    kind: str
    options: Mapping[str, int]
    auto: bool
    target: float | None
    rows: int


async def note(session: Session, tuned: Tuned, table: Opened) -> None:
    """Keep with the table what is known of its index."""
    await session.annotate(table.lance, table.schema.vector, {KEY: tuned.model_dump_json()})


async def drop(session: Session, index: str, table: Opened) -> None:
    """Drop the vector index: nothing is to make it anew, also if this process ends in between."""
    vectors = await vector_index(session, table)
    if vectors is not None and vectors.name == index:
        await note(session, Tuned(kept_off=True, target=vectors.tuned.target), table)
        await session.run(table.lance.drop_index(index))


async def reopened(session: Session, handle: TableHandle) -> Opened:
    """Return the same table as it is now, also altered. StoreBusyError while an engine fills it.

    Nothing is built then: the engine removes files that no version has yet.
    """
    table = await session.opened(handle, altered=True)
    load = load_in(table.arrow)
    if load is not None and load.filling:
        raise StoreBusyError(
            f"`aiovec import --engine` ({load.run}) fills the table {table.name!r}", 0.0
        )
    return table


class Builder:
    """Builds and measures the indexes of a table, on which nothing else is at work meanwhile."""

    def __init__(
        self, table: Table, questions: Callable[[TableHandle], recall.Questions | None]
    ) -> None:
        """``questions`` returns those of the table's users, if enough are known."""
        self._table = table
        self._session = table.session
        self._settings = table.session.settings
        self._questions = questions
        self.doing: str | None = None
        """In words what is done."""

    @contextmanager
    def _tell(self, what: str) -> Iterator[None]:
        self.doing = what
        try:
            yield
        finally:
            self.doing = None

    async def _keep(self, handle: TableHandle, tuned: Tuned) -> None:
        change = Change(partial(note, self._session, tuned), handle, altered=True)
        await self._table.commit(change)

    async def planned(
        self, table: Opened, kind: str, options: dict[str, int], target: float | None
    ) -> Build:
        """Return the index to build, or raise an error with the reason."""
        rows = await self._session.rows(table)
        auto = kind == kinds.AUTO
        if target is None:
            target = tuned_in(table.arrow, table.schema).target
        if auto and (rows == 0 or rows < self._settings.index_from):
            return Build(kinds.NONE, {}, auto=True, target=target, rows=rows)
        if not rows:
            raise InvalidArgumentError("kind", kind, "'auto', because the table has no rows yet")
        if auto:
            kind = kinds.chosen_kind(table.schema)
        plan = kinds.plan_of(kind, options, rows, table.schema.dim)
        return Build(kind, plan, auto, target, rows)

    async def by_settings(self, table: Opened) -> Build:
        """Return the build that the settings ask for, which is done anew as the table grows."""
        return replace(await self.planned(table, self._settings.index, {}, None), auto=True)

    async def again(self, table: Opened, index: InUse) -> Build:
        """Return the build that gave the index, for the table as it is now."""
        known = index.tuned
        if known.auto:
            return await self.by_settings(table)
        return await self.planned(table, index.kind.name, dict(known.options), known.target)

    async def build(self, handle: TableHandle, build: Build) -> None:
        """Build, and measure what was built."""
        table = await reopened(self._session, handle)
        noted = tuned_in(table.arrow, table.schema)
        noted = noted.with_changes(target=build.target, kept_off=False)
        if build.kind == kinds.NONE:
            await self._keep(handle, noted)
            return
        # Noted before, should the process end behind the build: then upkeep measures the index.
        changes = {"kind": build.kind, "auto": build.auto, "options": dict(build.options)}
        if noted.kind != build.kind:  # the efforts are those of another kind
            changes["ladder"] = ()
        noted = noted.with_changes(**changes, built_rows=build.rows, rows=0)
        with self._tell(f"building {build.kind}"):
            await self._keep(handle, noted)
            config = kinds.config_of(build.kind, build.options, build.rows, table.schema.metric)
            await self._index(handle, table.schema.vector, config)
        await self.measure(handle)

    async def index_ids(self, handle: TableHandle) -> None:
        """Build the index over the ids, for calls by id."""
        with self._tell("building the index of the ids"):
            await self._index(handle, "id", indexing.BTree())

    async def index_lacking(self, handle: TableHandle) -> None:
        """Build the indexes over fields that these want and lack."""
        table = await reopened(self._session, handle)
        schema = table.schema
        for name, config in await lacking(
            self._session, table.lance, schema.fields, schema.analyzer
        ):
            await self.index_field(handle, name, config)

    async def index_field(self, handle: TableHandle, name: str, config: Any) -> None:
        """Build one index over a field."""
        with self._tell(f"indexing {name}"):
            await self._index(handle, name, config)

    async def _index(self, handle: TableHandle, column: str, config: Any) -> None:
        maker = MAKER.get()
        for attempt in range(1, _ATTEMPTS + 1):
            table = await reopened(self._session, handle)
            named = await index_name(self._session, table.lance, column, config)
            try:
                with self._session.guarded():
                    made = maker is not None and await maker.make(
                        handle.name, column, config, named or f"{column}_idx"
                    )
                    if not made:
                        await table.lance.create_index(
                            column, config=config, replace=True, name=named
                        )
            except StoreBusyError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                await self._table.commit(Change())
                return

    async def measure(self, handle: TableHandle) -> None:
        """Find the efforts for the index as it is now, and note them with the table."""
        table = await reopened(self._session, handle)
        index = await vector_index(self._session, table)
        if index is None:
            return
        with self._tell(f"measuring {index.kind.name}"):
            rows = await self._session.rows(table)
            partitions = max(1, rows // (index.partition_size or max(1, math.isqrt(rows))))
            asked = self._questions(handle) or await recall.made(self._session, table)
            ladder = await recall.measure(self._session, table, index.kind, partitions, asked)
            tuned = index.tuned.with_changes(
                rows=rows, ladder=ladder, questions=len(asked.vectors), whose=asked.whose
            )
            await self._keep(handle, tuned)
