"""Model backends: one as SQLite is, with a change feed, and one as LanceDB is, with versions, bulk
loads, indexes, a lock for each table and notes of what changes during a migration. Many processes
hold one each on one disk.

They are as strict as the contract allows them to be, and as disorderly: pages of changes and
batches of an export are shorter than asked for, an export has its rows in no order that tells
anything, and at every await something else may happen.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from tests.harness.evaluate import counted, ends_of, evaluate, in_order, value_in
from tests.harness.values import python_rows
from tests.toy_backend import renamed

from aiovec import Field, IndexInfo, Schema, TableStats
from aiovec.backend import (
    PAUSED,
    Backend,
    BulkLoad,
    BulkLoads,
    ChangeFeed,
    Changes,
    ChangesPrunedError,
    Columns,
    Expr,
    FieldIndex,
    Float32Array,
    Found,
    MoveMark,
    MoveRecord,
    Moves,
    Order,
    PayloadPatch,
    Ref,
    Snapshots,
    StaleTableError,
    StoredRows,
    TableHandle,
    Value,
    VectorIndexes,
    VectorQuery,
)
from aiovec.errors import DuplicateIdError, StoreBusyError, TableExistsError, TableNotFoundError

from .disk import Disk, ModelLock, ModelTable, Row, place_of
from .loop import current_process

if TYPE_CHECKING:
    from .world import World


class ModelBackend(Backend):
    """What both kinds have in common."""

    def __init__(self, disk: Disk, world: World, *, faulty: bool = False) -> None:
        self.disk = disk
        self.world = world
        self.faulty = faulty
        self.run: str | None = None
        """The run that this object acts for."""
        self.waited = 0.0
        """How long one pause has held its last write at most."""

    @property
    def target(self) -> str:
        return f"{self.name}:{self.disk.name}"

    # What happens around each call

    async def _call(self, name: str, act: Callable[[], Any]) -> Any:
        """A read: some time, then one step, then some time again."""
        await self._before(name)
        self._check_moved()
        answer = act()
        await self._after(name)
        return answer

    async def _write(
        self, name: str, act: Callable[[], Any], table: str, touched: Callable[[], list[str]] = list
    ) -> Any:
        """A write: ``act`` commits it, in one step in which nothing else happens."""
        await self._before(name)
        self.waited = 0.0
        answer = await self._commit(act, table, touched, schema=name in _OF_SCHEMA)
        await self._after(name)
        return answer

    async def _commit(
        self,
        act: Callable[[], Any],
        table: str,
        touched: Callable[[], list[str]],
        *,
        schema: bool,
    ) -> Any:
        raise NotImplementedError

    def held_by(self) -> MoveMark | None:
        """The mark that this object has to heed."""
        mark = self.disk.mark
        return None if mark is None or mark.run == self.run else mark

    def may_write(self, *, schema: bool) -> bool:
        """Whether a write may be committed now; False where it has to wait."""
        mark = self.held_by()
        if mark is None:
            return True
        if mark.left:
            raise mark.moved_error(self.target)
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

    def _check_moved(self) -> None:
        mark = self.held_by()
        if mark is not None and mark.left:
            raise mark.moved_error(self.target)

    # Life

    async def open(self) -> None:
        await self._before("open")

    async def close(self) -> None:
        await self.world.time_passes()

    async def ping(self) -> None:
        await self._before("ping")

    # Tables

    async def tables(self) -> list[str]:
        names: list[str] = await self._call("tables", lambda: sorted(self.disk.tables))
        return names

    async def open_table(self, name: str) -> TableHandle:
        handle: TableHandle = await self._call("open_table", lambda: self._handle(name))
        return handle

    def _handle(self, name: str) -> TableHandle:
        if name not in self.disk.tables:
            raise TableNotFoundError(name, sorted(self.disk.tables))
        table = self.disk.tables[name]
        return TableHandle(name, table.schema, table.token)

    async def create_table(self, name: str, schema: Schema) -> None:
        def act() -> None:
            if name in self.disk.tables:
                raise TableExistsError(name)
            self.disk.tables[name] = ModelTable(schema, object())
            self.world.tell(f"{self.disk.name}: table {name} is made")

        if name in self.disk.tables:
            self._check_moved()
            raise TableExistsError(name)
        await self._write("create_table", act, name)

    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        def act() -> None:
            there = self._of(table)
            there.schema = there.schema.with_field(name, field)
            there.token = object()
            there.rows = {id: {**row, name: None} for id, row in there.rows.items()}

        await self._write("add_field", act, table.name)

    async def create_field_index(self, table: TableHandle, field: str, kind: FieldIndex) -> None:
        changed = table.schema.fields[field].with_index(kind)
        await self._alter("create_field_index", table, field, changed)

    async def drop_field_index(
        self, table: TableHandle, field: str, kind: FieldIndex | None
    ) -> None:
        changed = table.schema.fields[field].without_index(kind)
        await self._alter("drop_field_index", table, field, changed)

    async def _alter(self, call: str, table: TableHandle, name: str, field: Field) -> None:
        def act() -> None:
            there = self._of(table)
            there.schema = there.schema.with_changed_field(name, field)
            there.token = object()

        await self._write(call, act, table.name)

    async def drop_field(self, table: TableHandle, field: str) -> None:
        schema = table.schema.without_field(field)
        await self._rewrite("drop_field", table, schema, {field: None})

    async def rename_field(self, table: TableHandle, old: str, new: str) -> None:
        schema = table.schema.with_renamed_field(old, new)
        await self._rewrite("rename_field", table, schema, {old: new})

    async def _rewrite(
        self, call: str, table: TableHandle, schema: Schema, names: Mapping[str, str | None]
    ) -> None:
        def act() -> None:
            there = self._of(table)
            there.schema, there.token = schema, object()
            there.rows = {id: renamed(row, names) for id, row in there.rows.items()}

        await self._write(call, act, table.name)

    async def rename_table(self, old: str, new: str) -> None:
        def act() -> None:
            self._handle(old)
            if new in self.disk.tables:
                raise TableExistsError(new)
            self.disk.tables[new] = self.disk.tables.pop(old)
            self.disk.tables[new].token = object()

        await self._write("rename_table", act, old)

    async def drop_table(self, name: str) -> None:
        def act() -> None:
            self._handle(name)
            del self.disk.tables[name]
            self.world.tell(f"{self.disk.name}: table {name} is dropped")

        await self._write("drop_table", act, name)

    # Writing

    async def insert(
        self, table: TableHandle, rows: pa.Table, *, skip_existing: bool = False
    ) -> int:
        new = {row["id"]: row for row in python_rows(rows)}

        def act() -> int:
            there = self._of(table)
            known = sorted(there.rows.keys() & new.keys())
            if known and not skip_existing:
                raise DuplicateIdError(table.name, known)
            added = {id: row for id, row in new.items() if id not in known}
            there.put(added.values())
            self._tell("insert", table, added)
            return len(added)

        count: int = await self._write("insert", act, table.name, lambda: list(new))
        return count

    async def upsert(self, table: TableHandle, rows: pa.Table) -> None:
        new = {row["id"]: row for row in python_rows(rows)}

        def act() -> None:
            self._of(table).put(new.values())
            self._tell("upsert", table, new)

        await self._write("upsert", act, table.name, lambda: list(new))

    async def update(
        self,
        table: TableHandle,
        values: Mapping[str, Any],
        payload: PayloadPatch,
        *,
        ids: Sequence[str] | None,
        where: Expr | None,
        vector: Float32Array | None = None,
    ) -> int:
        def act() -> int:
            there = self._of(table)
            changed = []
            for row in self._selected(table, where, ids):
                new = {**row, **values}
                if vector is not None:
                    new[table.schema.vector] = vector.tolist()
                if payload:
                    new["payload"] = payload.apply(row["payload"], row["id"])
                changed.append(new)
            there.put(changed)
            self._tell("update", table, [row["id"] for row in changed])
            return len(changed)

        touched = lambda: [row["id"] for row in self._selected(table, where, ids)]  # noqa: E731
        count: int = await self._write("update", act, table.name, touched)
        return count

    async def set_vectors(
        self, table: TableHandle, ids: Sequence[str], vectors: Float32Array
    ) -> int:
        new = dict(zip(ids, vectors, strict=True))

        def act() -> int:
            there = self._of(table)
            found = self._selected(table, None, ids)
            name = table.schema.vector
            there.put([{**row, name: new[row["id"]].tolist()} for row in found])
            self._tell("set_vectors", table, [row["id"] for row in found])
            return len(found)

        count: int = await self._write("set_vectors", act, table.name, lambda: list(ids))
        return count

    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        def act() -> int:
            selected = [row["id"] for row in self._selected(table, where, ids)]
            self._tell("delete", table, selected)
            return self._of(table).remove(selected)

        touched = lambda: [row["id"] for row in self._selected(table, where, ids)]  # noqa: E731
        count: int = await self._write("delete", act, table.name, touched)
        return count

    # Reading

    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> StoredRows:
        found: StoredRows = await self._call(
            "get", lambda: _as_rows(table.schema, self._selected(table, None, ids), columns)
        )
        return found

    async def find(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        order_by: Sequence[Order],
        limit: int,
        offset: int,
        columns: Columns,
    ) -> StoredRows:
        def act() -> StoredRows:
            rows = in_order(self._selected(table, where), order_by, value_in)
            return _as_rows(table.schema, rows[offset : offset + limit], columns)

        found: StoredRows = await self._call("find", act)
        return found

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        def act() -> list[Found]:
            return [_nearest(table.schema, self._selected(table, q.where), q) for q in queries]

        found: list[Found] = await self._call("search", act)
        return found

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        wanted = {"id", *columns.fields} | ({"payload"} if columns.payload else set())
        wanted |= {table.schema.vector} if columns.vector else set()
        layout = table.schema.to_arrow()
        names = [name for name in layout.names if name in wanted]
        snapshot: list[Row] = await self._call("export", lambda: self._selected(table, where))
        placed = sorted((place_of(row["id"]), row["id"], row) for row in snapshot)
        if after is not None:
            behind = tuple(json.loads(after))
            placed = [one for one in placed if one[:2] > behind]
        while placed:
            size = self.world.chance.choice([batch_size, self.world.chance.randint(1, batch_size)])
            part, placed = placed[:size], placed[size:]
            await self._before("batch")
            self._check_moved()
            batch = pa.RecordBatch.from_pylist([row for *_, row in part], schema=layout)
            yield batch.select(names), json.dumps(part[-1][:2]).encode()

    async def count(self, table: TableHandle, where: Expr | None) -> int:
        count: int = await self._call("count", lambda: len(self._selected(table, where)))
        return count

    async def value_counts(
        self, table: TableHandle, ref: Ref, where: Expr | None, limit: int | None
    ) -> list[tuple[Value, int]]:
        def act() -> list[tuple[Value, int]]:
            return counted(self._selected(table, where), ref, value_in)[:limit]

        counts: list[tuple[Value, int]] = await self._call("value_counts", act)
        return counts

    async def bounds(
        self, table: TableHandle, ref: Ref, where: Expr | None
    ) -> tuple[Value, Value] | None:
        def act() -> tuple[Value, Value] | None:
            return ends_of(self._selected(table, where), ref, value_in)

        ends: tuple[Value, Value] | None = await self._call("bounds", act)
        return ends

    async def stats(self, table: TableHandle) -> TableStats:
        count: int = await self._call("stats", lambda: len(self._of(table).rows))
        return TableStats(table.name, self.name, count, 100 * count, "none", count, 0, None, {})

    async def optimize(self, table: TableHandle) -> None:
        await self._call("optimize", lambda: self._of(table))

    # Inside

    def _tell(self, what: str, table: TableHandle, ids: Any) -> None:
        self.world.tell(f"{self.disk.name}: {what} {table.name} {' '.join(ids)}")

    def _of(self, table: TableHandle) -> ModelTable:
        there = self.disk.tables.get(table.name)
        if there is None or there.token is not table.token:
            raise StaleTableError
        return there

    def _selected(
        self, table: TableHandle, where: Expr | None, ids: Sequence[str] | None = None
    ) -> list[Row]:
        there = self._of(table).rows
        rows = [there[id] for id in (there if ids is None else ids) if id in there]
        if where is None or not rows:
            return rows
        held = pa.Table.from_pylist(rows, schema=table.schema.to_arrow())
        chosen = evaluate(where, held, table.schema).to_pylist()
        return [row for row, is_in in zip(rows, chosen, strict=True) if is_in]


# Looks within a pause's limit whether it is over.
LOOKS = 20
# Seconds that a write waits for its turn, and after which a lock in a bucket is taken over.
BUSY, TERM = 30.0, 15.0
_OF_SCHEMA = frozenset(
    {
        "create_table", "add_field", "create_field_index", "drop_field_index", "drop_field",
        "rename_field", "rename_table", "drop_table",
    }
)  # fmt: skip


class MovingBackend(ModelBackend, Moves):
    """The mark, alike on both kinds."""

    async def move_record(self) -> MoveRecord:
        await self._before("move_record")
        return self.disk.record

    async def change_move(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        await self._before("change_move")
        both = self.disk.change(change)
        mark = both[1].mark
        state = "free" if mark is None else f"{mark.state} {mark.generation}"
        self.world.tell(f"{self.disk.name}: is {state}")
        await self._after("change_move")
        return both

    def act_for(self, run: str | None) -> None:
        self.run = run


class FileBackend(MovingBackend, ChangeFeed):
    name: ClassVar[str] = "sqlite"

    async def _commit(
        self,
        act: Callable[[], Any],
        table: str,
        touched: Callable[[], list[str]],
        *,
        schema: bool,
    ) -> Any:
        """The look at the mark and the commit are one transaction."""
        while True:
            await self.world.time_passes(much=True)
            current_process().check_alive()
            if self.may_write(schema=schema):
                return act()
            await self.wait_out()

    async def flush_writers(self, limit: float) -> None:
        await self.world.time_passes()

    # Changes

    async def change_number(self, table: TableHandle) -> int:
        number: int = await self._call("change_number", lambda: self._of(table).newest)
        return number

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        limit = self.world.chance.choice([limit, self.world.chance.randint(1, limit), 1])

        def act() -> Changes:
            there = self._of(table)
            if since < there.floor:
                raise ChangesPrunedError(there.floor)
            every = [(n, id) for id, n in there.numbers.items() if n > since]
            every += [(n, id) for id, n in there.deleted.items() if n > since]
            page = sorted(every)[:limit]
            layout = there.schema.to_arrow()
            kept = [there.rows[id] for _, id in page if id in there.rows]
            complete = len(page) == len(every)
            number = there.newest if complete else page[-1][0]
            gone = [id for _, id in page if id not in there.rows]
            return Changes(number, pa.Table.from_pylist(kept, schema=layout), gone, complete)

        page: Changes = await self._call("changes", act)
        return page


class LakeBackend(MovingBackend, BulkLoads, VectorIndexes, Snapshots):
    """A lock for each table, and notes of what changes while a mark is open. In a bucket a lock
    can be taken over from a process that stands still, whose commit then fails."""

    name: ClassVar[str] = "lancedb"

    async def _take(self, table: str, limit: float) -> int:
        """Take the table's lock; its term."""
        loop = self.world.loop
        me = current_process()
        until = loop.time() + limit
        lock = self.disk.locks.setdefault(table, ModelLock())
        tries = 0
        while lock.holder is not None:
            if self.disk.kind == "bucket" and loop.time() - lock.since > TERM:
                self.world.tell(f"{me.name} takes over the lock of {table}")
                lock.term += 1  # and fences: what was begun before cannot be committed any more
                break
            if loop.time() > until:
                raise StoreBusyError(f"{table} is locked", limit)
            # Looks at a lock whose holder stalls for a minute would be most of what is simulated.
            tries += 1
            slower = min(1 + tries / 4, 20)
            await self.world.sleep(slower * (0.003 + 0.02 * self.world.chance.random()))
        lock.holder, lock.since = me, loop.time()
        return lock.term

    def _give(self, table: str, term: int) -> None:
        lock = self.disk.locks[table]
        if lock.holder is current_process() and lock.term == term:
            lock.holder = None

    async def _commit(
        self,
        act: Callable[[], Any],
        table: str,
        touched: Callable[[], list[str]],
        *,
        schema: bool,
    ) -> Any:
        while True:
            term = await self._take(table, BUSY)
            try:
                if self.may_write(schema=schema):
                    mark = self.held_by()
                    if mark is not None:
                        await self._time_under_lock(table, term)
                        # Under the lock, and so still true when it is committed.
                        self.disk.notes.setdefault((mark.run, table), []).append(touched())
                    await self._time_under_lock(table, term)
                    current_process().check_alive()
                    lock = self.disk.locks[table]
                    if lock.term == term or not lock.fenced:
                        return act()
                    self.world.tell(f"{current_process().name}: its commit was fenced off")
                    continue
            finally:
                if current_process().alive:
                    self._give(table, term)
            await self.wait_out()

    async def _time_under_lock(self, table: str, term: int) -> None:
        began = self.world.loop.time()
        await self.world.time_passes(much=True)
        lock, now = self.disk.locks[table], self.world.loop.time()
        if lock.term == term and now - began < TERM:
            lock.since = now  # it was written anew meanwhile, unless the process stood still

    async def flush_writers(self, limit: float) -> None:
        for table in sorted({*self.disk.tables, *self.disk.locks}):
            await self._before("flush")
            term = await self._take(table, limit)
            try:
                await self.world.time_passes()
            finally:
                if current_process().alive:
                    self._give(table, term)

    async def _newest(self, table: TableHandle) -> list[list[str]]:
        await self._before("newest")
        term = await self._take(table.name, BUSY)
        try:
            await self.world.time_passes()
            self._of(table)
            return list(self.disk.notes.get((self.run or "", table.name), []))
        finally:
            if current_process().alive:
                self._give(table.name, term)

    async def change_number(self, table: TableHandle) -> int:
        return len(await self._newest(table))

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        notes = await self._newest(table)
        if since > len(notes):
            raise ChangesPrunedError(len(notes))
        until = min(len(notes), since + self.world.chance.randint(1, 5))
        ids = list(dict.fromkeys(id for note in notes[since:until] for id in note))
        await self.world.time_passes(much=True)

        def act() -> Changes:
            there = self._of(table)
            kept = [there.rows[id] for id in ids if id in there.rows]
            rows = pa.Table.from_pylist(kept, schema=there.schema.to_arrow())
            gone = [id for id in ids if id not in there.rows]
            return Changes(until, rows, gone, until == len(notes))

        page: Changes = await self._call("changes", act)
        return page

    def bulk_load(self, table: TableHandle) -> BulkLoad:
        return _Load(self, table)

    async def add(self, table: TableHandle, rows: list[Row], seen: set[str] | None) -> set[str]:
        """One step of a load; all ids that it knows of."""

        def act() -> set[str]:
            there = self._of(table)
            known = set(there.rows) if seen is None else seen
            new = {row["id"] for row in rows}
            if new & known:
                raise DuplicateIdError(table.name, sorted(new & known))
            there.twice |= new & there.rows.keys()
            there.put(rows)
            self._tell("load", table, sorted(new))
            return known | new

        known: set[str] = await self._write(
            "add", act, table.name, lambda: [row["id"] for row in rows]
        )
        return known

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        await self._call("create_index", lambda: self._of(table))

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        await self._call("indexes", lambda: self._of(table))
        return []

    async def drop_index(self, table: TableHandle, name: str) -> None:
        await self._call("drop_index", lambda: self._of(table))

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        newest: int = await self._call("versions", lambda: self._of(table).versions)
        return [
            {"version": n, "created": self.world.host.wall()}
            for n in range(max(1, newest - 3), newest + 1)
        ]

    async def restore(self, table: TableHandle, version: int) -> None:
        raise AssertionError("nobody restores a version while it moves away")


class _Load(BulkLoad):
    def __init__(self, backend: LakeBackend, table: TableHandle) -> None:
        self._backend = backend
        self._table = table
        self._seen: set[str] | None = None

    async def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._seen = await self._backend.add(self._table, python_rows(rows), self._seen)


def _as_rows(schema: Schema, rows: list[Row], columns: Columns) -> StoredRows:
    vectors = np.array([row[schema.vector] for row in rows], np.float32).reshape(-1, schema.dim)
    return StoredRows(
        [row["id"] for row in rows],
        {name: [row[name] for row in rows] for name in columns.fields},
        [row["payload"] for row in rows] if columns.payload else None,
        vectors if columns.vector else None,
    )


def _nearest(schema: Schema, rows: list[Row], query: VectorQuery) -> Found:
    measures = [
        float(np.linalg.norm(query.vector.astype(np.float64) - np.array(row[schema.vector])))
        for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda n: (measures[n], rows[n]["id"]))[: query.limit]
    found = _as_rows(schema, [rows[n] for n in order], query.columns)
    return Found(found, [measures[n] for n in order])


BACKENDS: dict[str, type[MovingBackend]] = {
    "sqlite": FileBackend,
    "lancedb": LakeBackend,
    "bucket": LakeBackend,
}
