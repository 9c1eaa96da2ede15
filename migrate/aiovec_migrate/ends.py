"""The two stores of a migration with their open tables, and the context of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from aiovec.backend import Schema
from aiovec.backend.contract import Backend, Columns, StaleTableError, TableHandle, moves_of
from aiovec.backend.marks import MoveMark, MoveRecord
from aiovec.errors import MigrationError, TableNotFoundError

from .host import Host, Step
from .journal import Journal
from .locate import Place
from .state import Event, Kind, Listener, Phase, RunState, TableState

if TYPE_CHECKING:
    import pyarrow as pa


_T = TypeVar("_T")

# How often a table may be altered while one thing is done with it.
_MOST_TIMES = 20
# What tells that a table was altered, dropped or made anew since it was looked at.
ALTERED = (StaleTableError, TableNotFoundError)
# Bytes of a row beside its vector, at least.
_ROW_BYTES = 512


class Transform(ABC):
    """A change of every row on its way, as a new embedding model brings. See ``reembed``."""

    name: str
    """Its name in the journal; a run goes on only with the same one."""

    @abstractmethod
    def target_schema(self, schema: Schema) -> Schema:
        """The schema of what comes out for rows of this one."""

    @abstractmethod
    async def __call__(self, rows: pa.Table) -> pa.Table:
        """The rows as the target gets them."""


class OpenTable:
    """A table of one end. Its handle is taken anew where the table's state has changed."""

    def __init__(self, backend: Backend, handle: TableHandle) -> None:
        self.backend = backend
        self.handle = handle

    @classmethod
    async def open(cls, backend: Backend, name: str) -> OpenTable:
        return cls(backend, await backend.open_table(name))

    @property
    def name(self) -> str:
        return self.handle.name

    @property
    def schema(self) -> Schema:
        return self.handle.schema

    async def reopen(self) -> None:
        """Take a new handle; MigrationError where the table is no longer what it was."""
        handle = await self.backend.open_table(self.handle.name)
        differences = handle.schema.differences(self.handle.schema)
        if differences:
            raise MigrationError(
                f"the schema of table {handle.name!r} in {self.backend.target} changed during the "
                "migration: " + "; ".join(differences)
            )
        self.handle = handle

    async def do(self, work: Callable[[TableHandle], Awaitable[_T]]) -> _T:
        """Return what the work returns; begin it again if the handle is out of date."""
        for _ in range(_MOST_TIMES):
            try:
                return await work(self.handle)
            except StaleTableError:
                await self.reopen()
        raise MigrationError(f"the schema of table {self.handle.name!r} keeps changing; try again")

    async def count(self) -> int:
        return await self.do(lambda handle: self.backend.count(handle, None))


async def looked_at(
    backend: Backend, name: str, look: Callable[[TableHandle], Awaitable[_T]]
) -> _T | None:
    """Open a table and return what ``look`` returns for it; None if the table is gone.

    Until a store is marked, its apps may drop its tables at any moment and make them anew.
    """
    for _ in range(_MOST_TIMES):
        try:
            return await look(await backend.open_table(name))
        except ALTERED as exc:
            reason = exc
            if name not in await backend.tables():
                return None
    raise MigrationError(f"the table {name!r} keeps changing; try again") from reason


def everything(schema: Schema) -> Columns:
    return Columns(tuple(schema.fields), schema.payload, vector=True)


async def row_bytes(*tables: OpenTable) -> int:
    """About what a row takes in memory: the most that one of the tables tells.

    A store may keep rows in less than they take in memory.
    """
    found = []
    for table in tables:
        stats = await table.do(table.backend.stats)
        found.append(max(least_bytes(table.schema), stats.bytes // max(1, stats.rows)))
    return max(found)


def least_bytes(schema: Schema) -> int:
    """Return the bytes of a row that has little but its vector."""
    return schema.dim * 4 + _ROW_BYTES


@dataclass(frozen=True, slots=True)
class Ends:
    """The two stores of a migration, and the tables that were opened in them.

    The source is the store that is left: in a rollback that is the target of the run.
    """

    source: Place
    target: Place
    _tables: dict[tuple[Backend, str], OpenTable] = field(default_factory=dict)

    def reversed(self) -> Ends:
        """Return the same stores and tables with the source for the target."""
        return Ends(self.target, self.source, self._tables)

    async def source_table(self, name: str) -> OpenTable:
        """Return a table of the source, which is opened once."""
        return await self._table(self.source.backend, name)

    async def target_table(self, name: str) -> OpenTable:
        """Return a table of the target, which is opened once."""
        return await self._table(self.target.backend, name)

    async def _table(self, backend: Backend, name: str) -> OpenTable:
        table = self._tables.get((backend, name))
        if table is None:
            table = self._tables[backend, name] = await OpenTable.open(backend, name)
        return table

    async def drop_target_table(self, name: str) -> None:
        """Drop a table of the target. TableNotFoundError if there is none."""
        self._tables.pop((self.target.backend, name), None)
        await self.target.backend.drop_table(name)


@dataclass(slots=True)
class RunContext:
    """The context that all parts of a run share."""

    ends: Ends
    journal: Journal
    state: RunState
    host: Host
    step: Step
    listener: Listener
    transform: Transform | None = None
    marked_at: float = 0.0
    """When this process marked the origin, on the host's clock."""
    _began: float = 0.0
    _rows: int = 0
    _task: tuple[str, str | None] = field(default=("", None))

    @property
    def run(self) -> str:
        return self.state.run

    @property
    def origin(self) -> Place:
        return self.ends.source

    @property
    def goal(self) -> Place:
        return self.ends.target

    def leaving(self) -> Backend:
        """The origin as a store that can be left while it is in use."""
        moves = moves_of(self.origin.backend)
        if moves is None:
            raise MigrationError(
                f"{self.origin} cannot be left while it is in use: it has no lock that all its "
                "writers use. Stop every program that writes to it, move its tables (aiovec "
                "migrate run, without --switch), name the new backend in the TOML, and start "
                "the programs again"
            )
        return moves

    async def taken(self) -> str:
        """Return, in words, that others may have written to the goal since this run began; empty
        where none can have.

        Another run has led stores into it or out of it, or this one has let go of it.
        """
        state = self.state
        goal = None if self.goal.missing else moves_of(self.goal.backend)
        if goal is None:
            return ""
        record = await goal.move_record()
        if record.mark is not None and record.mark.run == self.run:
            return ""
        is_back = state.phase in (Phase.ROLLED_BACK, Phase.ABORTING)
        if record.run == self.run and not is_back:
            return ""
        if record.run != self.run and state.generation not in (None, record.generation):
            return f"the run {record.run} has led apps to {self.goal}, or away from it, meanwhile"
        if state.released:
            return f"all rows were carried to {self.goal}, which others may use since"
        if record.run == self.run or (state.filled and state.begun):
            return (
                f"{self.goal} has no mark of this run any more: it was replaced, restored or let "
                "go of, and others may have written there"
            )
        return ""

    async def fill(self) -> None:
        """Have nobody but the run write to the goal."""
        goal = moves_of(self.goal.backend)
        if goal is not None:
            await goal.fill(self.run, self.origin.backend.address, self.journal.place)

    async def mark(self, config: str) -> None:
        """Act for the run on both ends; the origin sends everybody to the goal after it."""
        goal = moves_of(self.goal.backend)
        if self.state.filled:
            await self.fill()
        elif goal is not None:
            await goal.reenter(self.run, self.origin.backend.target)
        if moves_of(self.origin.backend) is None:
            return
        switches = self.state.options.switch
        there = await mark_of(self.goal)
        mark = MoveMark(
            self.run,
            moved_to=self.goal.backend.address,
            backend=self.goal.configured if switches else "",
            config=config if switches else "",
            target=self.goal.backend.target,
            source=self.origin.backend.address,
            journal=self.journal.place,
            target_marked=there is not None and there.run == self.run,
        )
        try:
            await self.leaving().begin_move(self.run, mark)
        except MigrationError:  # another run was faster
            if not self.state.begun:
                await unmark(self.goal, self.run)
            raise

    async def save(self, *tables: TableState) -> None:
        self.state.changed = self.host.wall().isoformat(timespec="seconds")
        await self.journal.save(self.state, *tables)

    async def enter(self, phase: Phase) -> None:
        """Begin a phase: it is written down first."""
        self.state.enter(phase)
        self.state.rate = self.state.left = None
        await self.save()
        self.tell("phase")
        await self.step(f"phase:{phase}")

    async def changed(self, rows: pa.Table) -> pa.Table:
        """The rows as the goal gets them."""
        return rows if self.transform is None else await self.transform(rows)

    # Telling

    def tell(
        self,
        kind: Kind,
        text: str = "",
        *,
        table: str | None = None,
        rows: int | None = None,
        total: int | None = None,
        lag: int | None = None,
    ) -> None:
        self.listener(
            Event(
                kind, self.state.phase, table, rows, total,
                self.state.rate, self.state.left, lag, text,
            )
        )  # fmt: skip

    def progress(self, table: str, rows: int, total: int) -> None:
        """Some rows of a table are through; the rate is that since the first of them."""
        task = (str(self.state.phase), table)
        now = self.host.now()
        if task != self._task:
            self._task, self._began, self._rows = task, now, rows
        passed = now - self._began
        if passed > 0 and rows > self._rows:
            self.state.rate = (rows - self._rows) / passed
            self.state.left = max(0, total - rows) / self.state.rate
        self.tell("progress", table=table, rows=rows, total=max(rows, total))


async def record_of(place: Place) -> MoveRecord:
    """All that a store keeps about migrations; an empty record where it can keep nothing."""
    moves = None if place.missing else moves_of(place.backend)
    return MoveRecord() if moves is None else await moves.move_record()


async def mark_of(place: Place) -> MoveMark | None:
    """The mark in a store; None where there is none, and where there can be none."""
    return (await record_of(place)).mark


async def has_left(place: Place, run: str) -> bool:
    """Return whether the mark of this store says that the run has switched away from it."""
    mark = await mark_of(place)
    return mark is not None and mark.run == run and mark.left


async def leads_nowhere(place: Place, other: Place, run: str) -> bool:
    """Return whether the run has left a store for another one that is not there any more, or that
    has been replaced."""
    mark = await mark_of(place)
    if mark is None or mark.run != run or not mark.left:
        return False
    return not mark.leads_to(await record_of(other))


async def unmark(place: Place, run: str) -> None:
    """End what the run has marked in a store; nothing where there is no mark, or another's."""
    mark = await mark_of(place)
    moves = moves_of(place.backend)
    if moves is not None and mark is not None and mark.run == run:
        moves.act_for(run)  # a store that has moved obeys nobody else
        await moves.end_move(run)
