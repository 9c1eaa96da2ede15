"""What every part of a run works with: both ends, the journal, and whoever listens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from aiovec.backend import Backend, Columns, Moves, StaleTableError, TableHandle
from aiovec.errors import MigrationError
from aiovec.schema import Schema

from .events import Event, Kind, Listener
from .host import Host, Step
from .journal import Journal
from .model import Phase, RunState, TableState
from .places import Place

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")

# How often a table may be altered while one thing is done with it.
_MOST_TIMES = 20
# Bytes of a row beside its vector, as a guess.
_ROW_BYTES = 512


class Transform(ABC):
    """A change of every row on its way, as a new embedding model brings. See ``reembedding``."""

    name: str
    """What the journal calls it; a run goes on only with the same one."""

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
    def schema(self) -> Schema:
        return self.handle.schema

    async def reopen(self) -> None:
        """Take a new handle; MigrationError where the table is no longer what it was."""
        handle = await self.backend.open_table(self.handle.name)
        differences = handle.schema.differences(self.handle.schema)
        if differences:
            raise MigrationError(
                f"the schema of table {handle.name!r} in {self.backend.target} was changed while "
                "it was moved: " + "; ".join(differences)
            )
        self.handle = handle

    async def do(self, work: Callable[[TableHandle], Awaitable[_T]]) -> _T:
        """What the work returns; it is begun anew where the handle is out of date."""
        for _ in range(_MOST_TIMES):
            try:
                return await work(self.handle)
            except StaleTableError:
                await self.reopen()
        raise MigrationError(f"the table {self.handle.name!r} is altered all the time")

    async def count(self) -> int:
        return await self.do(lambda handle: self.backend.count(handle, None))


def everything(schema: Schema) -> Columns:
    return Columns(tuple(schema.fields), schema.payload, vector=True)


def row_bytes(schema: Schema) -> int:
    """About what a row takes in memory."""
    return schema.dim * 4 + _ROW_BYTES


@dataclass(slots=True)
class Work:
    """``origin`` and ``goal`` are source and target, and the other way round in a rollback."""

    origin: Place
    goal: Place
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

    async def save(self, *tables: TableState) -> None:
        self.state.changed = self.host.wall().isoformat(timespec="seconds")
        await self.journal.save(self.state, *tables)

    async def enter(self, phase: Phase) -> None:
        """Begin a phase: it is written down first."""
        self.state.phase = phase
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


async def unmark(backend: Backend, run: str) -> None:
    """Remove the run's mark from a store; nothing where there is none, or another's."""
    if not isinstance(backend, Moves):
        return
    mark = await backend.move_mark()
    if mark is not None and mark.run == run:
        await backend.begin_move(run)  # a store that has moved obeys nobody else
        await backend.end_move(run)
