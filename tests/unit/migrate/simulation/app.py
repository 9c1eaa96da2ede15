"""The app that goes on all the time: processes that write and read rows of their own, each
through a store that follows the TOML, and that keep a record of what was acknowledged."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from aiovec import Schema
from aiovec.backend import PayloadPatch
from aiovec.backend.changes import Delete, Insert, Update, Upsert
from aiovec.backend.contract import Columns, Get, StaleTableError, TableHandle
from aiovec.backend.rows import Batch
from aiovec.errors import MigrationError, StoreBusyError, StoreMovedError

from .backend import ModelBackend
from .disk import Row
from .world import CONFIG, World

SCHEMA = Schema(2, metric="l2", fields={"version": int, "text": str})
EVERYTHING = Columns(("version", "text"), payload=True, vector=True)

TableWork = Callable[[ModelBackend, TableHandle], Awaitable[Any]]


def make_row(id: str, version: int, chance: random.Random) -> Row:
    return {
        "id": id,
        "embedding": [chance.randrange(64) / 8, float(version)],
        "version": version,
        "text": None if version % 5 == 4 else f"{id}:{version}",
        "payload": None if version % 3 == 2 else json.dumps({"n": version, "of": id}),
    }


def as_table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA.to_arrow())


def comparable(row: Row | None) -> Row | None:
    payload = None if row is None else row["payload"]
    return row if payload is None else {**row, "payload": json.loads(payload)}


class Follower:
    """A store opened from the TOML: what leads it elsewhere is the mark in the store in use."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._go_to(world.named)
        self._switching = asyncio.Lock()

    def _go_to(self, name: str) -> None:
        self.name = name
        self.backend = self.world.connect(name)
        self._handles: dict[str, TableHandle] = {}

    async def call(self, work: Callable[[ModelBackend], Awaitable[Any]]) -> Any:
        for _ in range(20):
            await self.world.time_passes(much=True)
            backend = self.backend
            try:
                return await work(backend)
            except StaleTableError:
                self._handles.clear()
            except StoreMovedError:
                await self._follow(backend)
        raise AssertionError("it is sent to and fro")

    async def on(self, table: str, work: TableWork) -> Any:
        async def opened(backend: ModelBackend) -> Any:
            handles = self._handles
            if table not in handles:
                handles[table] = await backend.open_table(table)
            return await work(backend, handles[table])

        return await self.call(opened)

    async def _follow(self, left: ModelBackend) -> None:
        async with self._switching:
            if self.backend is not left:
                return
            mark = await left.move_mark()
            if mark is None or not mark.left:
                return
            assert mark.config == CONFIG
            self.world.tell(f"is sent on from {self.name} to {mark.backend}")
            backend = self.world.connect(mark.backend)
            await self.world.time_passes(much=True)
            await backend.arrive(mark.run, mark.generation)
            self._go_to(mark.backend)
            self.backend = backend


class Worker:
    """One process of the app. ``rows`` has what was acknowledged of each table."""

    def __init__(self, world: World, name: str, tables: list[str]) -> None:
        self.world = world
        self.name = name
        self.chance = random.Random(world.chance.random())
        self.rows: dict[str, dict[str, Row]] = {table: {} for table in tables}
        self.made = 0
        self.calls = 0
        self.longest_wait = 0.0
        self.over = False
        self.rests = self.chance.choice([0.0, 0.05, 0.5])
        self.long_rests = self.chance.random() < 0.5
        self.restarts = self.chance.choice([0.0, 0.1])
        self.tables_made = 0
        self.own_tables: set[str] = set()

    def new_ids(self, count: int) -> list[str]:
        self.made += count
        return [f"{self.name}-{n}" for n in range(self.made - count, self.made)]

    async def run(self, calls: int) -> None:
        """Work for so many calls, or until ``over``."""
        await self.world.sleep(self.chance.choice([0.0, 3.0, 15.0]) * self.chance.random())
        follower = Follower(self.world)
        while not self.over and self.calls < calls:
            if self.chance.random() < self.restarts:
                follower = Follower(self.world)
            kind = self.chance.random()
            if kind < 0.03:
                await self.make_table(follower)
            elif kind < 0.05:
                await self.drop_table(follower)
            elif kind < 0.2:
                await self.write_at_once(follower)
            else:
                table = self.chance.choice(list(self.rows))
                await self.write(follower, table)
                if self.chance.random() < 0.4:
                    await self.read(follower, table)
            if self.long_rests and self.chance.random() < 0.1:
                await self.rest(self.chance.random() * 40)
                await self.write_at_once(follower)
            elif self.rests:
                await self.rest(self.chance.random() * self.rests)

    async def rest(self, seconds: float) -> None:
        end = self.world.loop.time() + seconds
        while not self.over and self.world.loop.time() < end:
            await self.world.sleep(min(1.0, end - self.world.loop.time()))

    async def make_table(self, follower: Follower) -> None:
        """A table of its own; refused while a migration is open."""
        self.tables_made += 1
        name = f"{self.name}-t{self.tables_made}"
        with suppress(MigrationError, StoreBusyError):
            await follower.call(lambda backend: backend.create_table(name, SCHEMA))
            self.rows[name] = {}
            self.own_tables.add(name)
            self.world.tell(f"{self.name} has made {name}")

    async def drop_table(self, follower: Follower) -> None:
        if not self.own_tables:
            return
        name = self.chance.choice(sorted(self.own_tables))
        with suppress(MigrationError, StoreBusyError):
            await follower.call(lambda backend: backend.drop_table(name))
            del self.rows[name]
            self.own_tables.discard(name)
            self.world.tell(f"{self.name} has dropped {name}")

    async def write_at_once(self, follower: Follower) -> None:
        """Some calls at once, as an app does that wakes up."""
        calls = []
        for _ in range(self.chance.randint(2, 4)):
            table = self.chance.choice(list(self.rows))
            new = [make_row(id, 1, self.chance) for id in self.new_ids(1)]
            calls.append(self._put(follower, table, new, insert=True))
        await asyncio.gather(*calls)

    async def write(self, follower: Follower, table: str) -> None:
        rows = self.rows[table]
        ids = self.chance.sample(sorted(rows), min(len(rows), self.chance.randint(1, 3)))
        kind = self.chance.random()
        if kind < 0.35 or not ids:
            new = [make_row(id, 1, self.chance) for id in self.new_ids(self.chance.randint(1, 3))]
            await self._put(follower, table, new, insert=True)
        elif kind < 0.6:
            new = [make_row(id, rows[id]["version"] + 1, self.chance) for id in ids]
            new += [make_row(id, 1, self.chance) for id in self.new_ids(self.chance.randint(0, 1))]
            await self._put(follower, table, new, insert=False)
        elif kind < 0.8:
            [id, *_] = ids
            await self._update(follower, table, {**rows[id], "version": rows[id]["version"] + 1})
        else:
            count = await self._call(
                follower, table, lambda backend, handle: backend.write(handle, Delete(ids))
            )
            assert count == len(ids), f"{count} of {ids} were deleted"
            for id in ids:
                del rows[id]

    async def _put(self, follower: Follower, table: str, rows: list[Row], *, insert: bool) -> None:
        given = Batch.of_table(as_table(rows), SCHEMA)

        async def put(backend: ModelBackend, handle: TableHandle) -> None:
            await backend.write(handle, Insert(given) if insert else Upsert(given))

        await self._call(follower, table, put)
        self.rows[table] |= {row["id"]: row for row in rows}

    async def _update(self, follower: Follower, table: str, row: Row) -> None:
        values = {"version": row["version"], "text": f"updated {row['version']}"}
        extra = {"u": row["version"]} if row["version"] % 2 else {}
        payload = PayloadPatch(tuple(((key,), value) for key, value in extra.items()))
        change = Update(values, payload, [row["id"]])
        count = await self._call(
            follower, table, lambda backend, handle: backend.write(handle, change)
        )
        assert count == 1, f"{row['id']} was not there to be updated"
        payload = row["payload"]
        if extra:
            payload = json.dumps({**json.loads(payload or "{}"), **extra})
        self.rows[table][row["id"]] = {**row, **values, "payload": payload}

    async def _call(self, follower: Follower, table: str, work: TableWork) -> Any:
        async def measured(backend: ModelBackend, handle: TableHandle) -> Any:
            try:
                return await work(backend, handle)
            finally:
                self.longest_wait = max(self.longest_wait, backend.waited)

        while True:
            try:
                answer = await follower.on(table, measured)
            except StoreBusyError:
                continue  # nothing was done
            self.calls += 1
            return answer

    async def read(self, follower: Follower, table: str) -> None:
        """It reads what it wrote, wherever that is by now."""
        ids = [f"{self.name}-{n}" for n in range(self.made)]

        async def get(backend: ModelBackend, handle: TableHandle) -> Any:
            return await backend.read(handle, Get(ids, EVERYTHING, lambda rows: rows))

        present = await follower.on(table, get)
        placed = {id: n for n, id in enumerate(present.ids)}
        rows = self.rows[table]
        assert placed.keys() == rows.keys(), (
            f"{self.name} reads in {follower.name} what it did not write, or misses what it wrote: "
            f"{sorted(placed.keys() ^ rows.keys())}"
        )
        for id, n in placed.items():
            read = {
                "id": id,
                "embedding": present.vectors[n].tolist(),
                "version": present.fields["version"][n],
                "text": present.fields["text"][n],
                "payload": present.payloads[n],
            }
            assert comparable(read) == comparable(rows[id]), f"{self.name} reads {read}"
