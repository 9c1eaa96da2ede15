"""Model backends: one as SQLite is, and one as LanceDB is, with bulk loads and a lock for each
table. Many processes hold one each on one disk.

They are as strict as the contract allows them to be, and as disorderly: pages of changes and
batches of an export are shorter than asked for, an export has its rows in no order that tells
anything, and at every await something else may happen.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from tests.harness.values import python_rows

import aiovec
from aiovec import DuplicateIdError, Schema, TableExistsError, TableNotFoundError, TableStats
from aiovec.backend import Expr
from aiovec.backend.changes import Delete, Insert, RowChange, Update, Upsert
from aiovec.backend.contract import (
    Backend,
    Changes,
    Columns,
    Count,
    Get,
    Read,
    StaleTableError,
    TableHandle,
)
from aiovec.backend.marks import PAUSED, MoveMark, MoveRecord
from aiovec.backend.rows import Batch

from .disk import Disk, ModelTable, Row, place_of
from .loop import current_process

if TYPE_CHECKING:
    from .world import World

_T = TypeVar("_T")

LOOKS = 20
"""Looks within a pause's limit whether it is over."""
# Seconds that a write waits for its turn.
_BUSY = 30.0


def _unused(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("neither the migrator nor the app of the simulation calls this")


# Everything of the contract, of which the models below do what is used.
_Unused: Any = type("_Unused", (Backend,), dict.fromkeys(Backend.__abstractmethods__, _unused))


class ModelBackend(_Unused):
    """The parts of both kinds, such as the mark."""

    def __init__(self, disk: Disk, world: World, *, faulty: bool = False) -> None:
        self.disk = disk
        self.world = world
        self.faulty = faulty
        self.run: str | None = None
        """The run that this object acts for."""
        self.waited = 0.0
        """Seconds that the longest pause has held the last write."""

    @property
    def target(self) -> str:
        return f"{self.name}:{self.disk.name}"

    # What happens around each call

    async def _before(self, name: str) -> None:
        current_process().check_alive()
        await self.world.time_passes()
        if self.faulty:
            await self.world.faults.before(self, name)
        current_process().check_alive()

    async def _after(self, name: str) -> None:
        if self.faulty:
            await self.world.faults.after(self, name)
        await self.world.time_passes()

    async def _call(self, name: str, act: Callable[[], _T]) -> _T:
        """A read: some time, then one step, then some time again."""
        await self._before(name)
        self._check_moved()
        answer = act()
        await self._after(name)
        return answer

    async def _write(
        self, name: str, table: str, act: Callable[[], _T], *, schema: bool = False
    ) -> _T:
        """A write: ``act`` commits it, in one step in which nothing else happens."""
        await self._before(name)
        self.waited = 0.0
        answer = await self._commit(act, table, schema=schema)
        await self._after(name)
        return answer

    async def _commit(self, act: Callable[[], _T], table: str, *, schema: bool) -> _T:
        raise NotImplementedError

    def held_by(self) -> MoveMark | None:
        """The mark that this object has to heed."""
        mark = self.disk.mark
        return None if mark is None or mark.run == self.run else mark

    def _check_moved(self) -> None:
        mark = self.held_by()
        if mark is not None and mark.left:
            raise mark.moved_error(self.target)

    def may_write(self, *, schema: bool) -> bool:
        """Return whether a write may be committed now; False if it has to wait."""
        self._check_moved()
        mark = self.held_by()
        if mark is None:
            return True
        if mark.state == PAUSED:
            return False
        if schema or mark.filling:
            raise mark.frozen_error()
        return True

    async def wait_out(self) -> None:
        """Wait while writers wait, and end a pause that lasts too long."""
        loop = self.world.loop
        began = loop.time()
        paused = self.disk.mark
        while paused is not None and paused.state == PAUSED and self.disk.mark == paused:
            if loop.time() - began >= paused.limit:
                self.world.tell(f"{current_process().name} ends the pause")
                self.disk.change(partial(MoveRecord.end_pause, pause=paused.pause))
                break
            await self.world.sleep(paused.limit / LOOKS)
        self.waited = max(self.waited, loop.time() - began)

    # The mark

    async def move_record(self) -> MoveRecord:
        await self._before("move_record")
        return self.disk.record

    async def change_move(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        await self._before("change_move")
        records = self.disk.change(change)
        mark = records[1].mark
        state = "free" if mark is None else f"{mark.state} {mark.generation}"
        self.world.tell(f"{self.disk.name}: is {state}")
        await self._after("change_move")
        return records

    def act_for(self, run: str | None) -> None:
        self.run = run

    # Tables

    async def open(self) -> None:
        await self._before("open")

    async def close(self) -> None:
        await self.world.time_passes()

    async def tables(self) -> list[str]:
        return await self._call("tables", lambda: sorted(self.disk.tables))

    async def open_table(self, name: str) -> TableHandle:
        return await self._call("open_table", lambda: self._handle(name))

    def _handle(self, name: str) -> TableHandle:
        if name not in self.disk.tables:
            raise TableNotFoundError(name, sorted(self.disk.tables))
        table = self.disk.tables[name]
        return TableHandle(name, table.schema, table.epoch)

    async def create_table(self, name: str, schema: Schema) -> None:
        def act() -> None:
            if name in self.disk.tables:
                raise TableExistsError(name)
            self.disk.tables[name] = ModelTable(schema, object())
            self.world.tell(f"{self.disk.name}: table {name} is made")

        if name in self.disk.tables:
            self._check_moved()
            raise TableExistsError(name)
        await self._write("create_table", name, act, schema=True)

    async def drop_table(self, name: str) -> None:
        def act() -> None:
            self._handle(name)
            del self.disk.tables[name]
            self.world.tell(f"{self.disk.name}: table {name} is dropped")

        await self._write("drop_table", name, act, schema=True)

    # Writing

    async def write(self, table: TableHandle, change: RowChange) -> int:
        name = type(change).__name__.lower()
        return await self._write(name, table.name, lambda: self._done(table, name, change))

    def _done(self, table: TableHandle, name: str, change: RowChange) -> int:
        if isinstance(change, (Insert, Upsert)):
            rows = {row["id"]: row for row in python_rows(change.rows.table(table.schema))}
            known = sorted(self._of(table).rows.keys() & rows.keys())
            if known and isinstance(change, Insert):
                raise DuplicateIdError(table.name, known)
            return self._put(name, table, [*rows.values()])
        assert isinstance(change, (Update, Delete))
        assert change.where is None
        if isinstance(change, Update):
            changed = [{**row, **change.values} for row in self._selected(table, change.ids)]
            for row in changed if change.payload else ():
                row["payload"] = change.payload.apply(row["payload"], row["id"])
            return self._put(name, table, changed)
        gone = [row["id"] for row in self._selected(table, change.ids)]
        self.world.tell(f"{self.disk.name}: delete {table.name} {' '.join(gone)}")
        return self._of(table).remove(gone)

    def _put(self, verb: str, table: TableHandle, rows: list[Row]) -> int:
        self._of(table).put(rows)
        ids = " ".join(row["id"] for row in rows)
        self.world.tell(f"{self.disk.name}: {verb} {table.name} {ids}")
        return len(rows)

    # Reading

    async def read(self, table: TableHandle, read: Read[Any]) -> Any:
        if isinstance(read, Count):
            assert read.where is None
            return await self._call("count", lambda: len(self._of(table).rows))
        assert isinstance(read, Get)
        schema, ids, columns = table.schema, read.ids, read.columns

        def act() -> Batch:
            rows = self._selected(table, ids)
            vectors = [row[schema.vector] for row in rows]
            return Batch(
                [row["id"] for row in rows],
                {name: [row[name] for row in rows] for name in columns.fields},
                [row["payload"] for row in rows] if columns.payload else None,
                np.array(vectors, np.float32).reshape(-1, schema.dim) if columns.vector else None,
            )

        return read.finish(await self._call("get", act))

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        assert where is None
        wanted = {"id", *columns.fields} | ({"payload"} if columns.payload else set())
        wanted |= {table.schema.vector} if columns.vector else set()
        layout = table.schema.to_arrow()
        names = [name for name in layout.names if name in wanted]
        snapshot: list[Row] = await self._call("export", lambda: self._selected(table))
        placed = sorted((place_of(row["id"]), row["id"], row) for row in snapshot)
        if after is not None:
            behind = tuple(json.loads(after))
            placed = [row for row in placed if row[:2] > behind]
        while placed:
            size = self.world.chance.choice([batch_size, self.world.chance.randint(1, batch_size)])
            part, placed = placed[:size], placed[size:]
            await self._before("batch")
            self._check_moved()
            batch = pa.RecordBatch.from_pylist([row for *_, row in part], schema=layout)
            yield batch.select(names), json.dumps(part[-1][:2]).encode()

    async def stats(self, table: TableHandle) -> TableStats:
        count: int = await self._call("stats", lambda: len(self._of(table).rows))
        return TableStats(table.name, self.name, count, 100 * count, "none", count, 0, None, {})

    async def optimize(self, table: TableHandle) -> None:
        await self._call("optimize", lambda: self._of(table))

    async def change_number(self, table: TableHandle) -> int:
        return await self._call("change_number", lambda: self._of(table).newest)

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        limit = self.world.chance.choice([limit, self.world.chance.randint(1, limit), 1])

        def act() -> Changes:
            stored = self._of(table)
            every = [(n, id) for id, n in stored.numbers.items() if n > since]
            every += [(n, id) for id, n in stored.deleted.items() if n > since]
            page = sorted(every)[:limit]
            complete = len(page) == len(every)
            number = stored.newest if complete else page[-1][0]
            return stored.changes(number, [id for _, id in page], complete=complete)

        return await self._call("changes", act)

    def _of(self, table: TableHandle) -> ModelTable:
        stored = self.disk.tables.get(table.name)
        if stored is None or stored.epoch is not table.epoch:
            raise StaleTableError
        return stored

    def _selected(self, table: TableHandle, ids: Sequence[str] | None = None) -> list[Row]:
        rows = self._of(table).rows
        return [rows[id] for id in (rows if ids is None else ids) if id in rows]


class FileBackend(ModelBackend):
    name: ClassVar[str] = "sqlite"
    abilities = frozenset({"changes", "moves"})

    async def _commit(self, act: Callable[[], _T], table: str, *, schema: bool) -> _T:
        """The look at the mark and the commit are one transaction."""
        while True:
            await self.world.time_passes(much=True)
            current_process().check_alive()
            if self.may_write(schema=schema):
                return act()
            await self.wait_out()

    async def flush_writers(self, limit: float) -> None:
        await self.world.time_passes()


class LakeBackend(ModelBackend):
    """A lock for each table."""

    name: ClassVar[str] = "lancedb"
    abilities = frozenset({"bulk-load", "changes", "moves"})

    async def _take(self, table: str, limit: float) -> None:
        """Take the table's lock."""
        loop = self.world.loop
        until = loop.time() + limit
        tries = 0
        while self.disk.locks.get(table) is not None:
            if loop.time() > until:
                raise aiovec.StoreBusyError(f"{table} is locked", limit)
            # Looks at a lock whose holder stalls for a minute would be most of what is simulated.
            tries += 1
            slower = min(1 + tries / 4, 20)
            await self.world.sleep(slower * (0.003 + 0.02 * self.world.chance.random()))
        self.disk.locks[table] = current_process()

    def _give(self, table: str) -> None:
        if current_process().alive:
            self.disk.locks[table] = None

    async def _commit(self, act: Callable[[], _T], table: str, *, schema: bool) -> _T:
        while True:
            await self._take(table, _BUSY)
            try:
                if self.may_write(schema=schema):
                    await self.world.time_passes(much=True)
                    current_process().check_alive()
                    return act()
            finally:
                self._give(table)
            await self.wait_out()

    async def flush_writers(self, limit: float) -> None:
        for table in sorted({*self.disk.tables, *self.disk.locks}):
            await self._before("flush")
            await self._take(table, limit)
            try:
                await self.world.time_passes()
            finally:
                self._give(table)

    async def bulk_add(self, table: TableHandle, rows: pa.Table) -> None:
        new = python_rows(rows)

        def act() -> None:
            stored = self._of(table)
            stored.twice |= {row["id"] for row in new} & stored.rows.keys()
            self._put("load", table, new)

        await self._write("add", table.name, act)


BACKENDS: dict[str, type[ModelBackend]] = {"sqlite": FileBackend, "lancedb": LakeBackend}
