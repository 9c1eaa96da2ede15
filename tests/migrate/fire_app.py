"""A process of an app that is under fire: it is stopped, killed and started again at any moment.

    python -m tests.migrate.fire_app STORE FOLDER NAME REST

STORE is a TOML, or the place of a store. Before each write the process notes what it intends in
``FOLDER/NAME.log``, and behind it that it was acknowledged; then it reads back what it has written.
Between calls it rests up to REST seconds and then makes several calls at once. It also reads what
other processes write. It ends when its standard input does; any other end is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.sqlite.support import State, vector

from aiovec import (
    MigrationError,
    Record,
    Schema,
    StoreBusyError,
    StoreMovedError,
    StoreReplacedError,
    TableNotFoundError,
    VectorStore,
    connect,
)

from .client import TABLE, end_of_input
from .fire_log import Found, History, Log
from .support import row

ROWS = 24
_GROUPS = 6


def state_of(record: Record, owner: str) -> State:
    """What a row is; AssertionError where it is not wholly one thing."""
    fields = record.fields
    state = State(fields["vector_version"], fields["version"])
    wanted = row(record.id, state, owner, TABLE)
    told = {k: v for k, v in fields.items() if v is not None}
    meant = {k: v for k, v in wanted.items() if k not in ("id", "embedding") and v is not None}
    assert told == meant, f"{record.id} is {told}, not {meant}"
    made = vector(record.id, state.vector_version)
    assert record.vector is not None
    assert record.vector.tobytes() == made.tobytes(), f"{record.id} has other bits"
    return state


def churned(name: str) -> str:
    """The table that a process creates and drops. Its model tells which creation it is of."""
    return f"young_{name}"


async def see_table(store: VectorStore, name: str) -> Found:
    if name not in await store.tables():
        return None
    with contextlib.suppress(TableNotFoundError):
        version = int((await store.schema(name)).model or 0)
        return State(version, version)
    return None


class App:
    def __init__(self, store: VectorStore, folder: Path, name: str, *, by_path: bool) -> None:
        self.store = store
        self.folder = folder
        self.name = name
        self.by_path = by_path
        # Not the same course again behind a restart.
        self.chance = random.Random(f"{name} {os.getpid()}")
        file = folder / f"{name}.log"
        self.log = Log(file)
        history = History(file).read()
        self.number = history.newest
        self.ids = [f"{name}/{n}" for n in range(ROWS)]
        self.known: dict[str, Found] = {}
        self.expected = dict(history.look().possible)
        self.others: dict[str, History] = {}
        self.over = False
        self.tolerated: tuple[type[Exception], ...] = (StoreBusyError,)
        if by_path:
            self.tolerated = (StoreBusyError, StoreMovedError, StoreReplacedError)

    # Reading

    async def seen(self, ids: Sequence[str], owner: str) -> dict[str, Found]:
        records = await self.store.get(TABLE, ids)
        states: dict[str, Found] = dict.fromkeys(ids)
        assert len({record.id for record in records}) == len(records), f"twice: {records}"
        return states | {record.id: state_of(record, owner) for record in records}

    async def settle(self, ids: Sequence[str]) -> None:
        """Find out what became of rows whose last write was not acknowledged."""
        open_ids = [id for id in ids if id not in self.known]
        if open_ids:
            found = await self.seen(open_ids, self.name)
            for id, state in found.items():
                allowed = self.expected.get(id, [None])
                assert state in allowed, f"{self.name}: {id} is {state}, none of {allowed}"
            self.log.saw(found)
            self.known |= found

    async def read_back(self, ids: Sequence[str]) -> None:
        found = await self.seen(ids, self.name)
        for id in ids:
            assert found[id] == self.known[id], (
                f"{self.name}: {id} is {found[id]}, acknowledged was {self.known[id]}"
            )

    async def look_at_others(self) -> None:
        files = [file for file in self.folder.glob("*.log") if file.stem != self.name]
        if not files:
            return
        file = self.chance.choice(sorted(files))
        history = self.others.setdefault(file.stem, History(file))
        before = history.look()
        ids = self.chance.sample([f"{file.stem}/{n}" for n in range(ROWS)], 8)
        found = await self.seen(ids, file.stem)
        problems = before.wrong(history.look(), found, ids)
        assert not problems, f"{self.name} reads: " + "; ".join(problems)

    # Writing

    async def write(self, ids: Sequence[str]) -> None:
        """One write of rows that nobody else writes meanwhile, and what it must have done."""
        kind = self.chance.choice(["upsert", "upsert", "insert", "update", "delete"])
        if not self.by_path or kind != "upsert":
            # Who cannot read where the store is may still try to write there.
            await self.settle(ids)
        known = {id: self.known[id] for id in ids if id in self.known}
        there = {id: state for id, state in known.items() if state is not None}
        self.number += 1
        n = self.number
        states: dict[str, Found]
        if kind == "delete" and there:
            states = dict.fromkeys(there)
            call = self.store.delete(TABLE, list(there))
        elif kind == "update" and there:
            id, state = next(iter(there.items()))
            states = {id: State(state.vector_version, n)}
            fields = row(id, State(state.vector_version, n), self.name, TABLE)
            del fields["id"], fields["embedding"]
            fields.setdefault("note", None)
            call = self.store.update(TABLE, fields, ids=id)
        else:
            missing = [id for id in known if id not in there]
            insert = kind == "insert" and missing
            states = dict.fromkeys(missing if insert else ids, State(n, n))
            rows = [row(id, State(n, n), self.name, TABLE) for id in states]
            call = self.store.insert(TABLE, rows) if insert else self.store.upsert(TABLE, rows)
        for id, made in states.items():
            old = [self.known.pop(id)] if id in self.known else self.expected.get(id, [None])
            self.expected[id] = [*old, made]
        self.log.intends(n, states)
        try:
            done = await call
        except self.tolerated as error:
            self.log.refused(n, error)
            raise
        self.log.acknowledged(n)
        self.known |= states
        assert done == len(states), f"{self.name}: {kind} of {sorted(states)} did {done}"
        await self.read_back(list(states))

    async def churn(self) -> None:
        """Create a table, or drop it, as far as a migration lets us."""
        name = churned(self.name)
        id = f"#{name}"
        if id not in self.known:
            found = await see_table(self.store, name)
            allowed = self.expected.get(id, [None])
            assert found in allowed, f"{name} is {found}, none of {allowed}"
            self.log.saw({id: found})
            self.known[id] = found
        there = self.known.pop(id)
        self.number += 1
        n = self.number
        made = State(n, n) if there is None else None
        self.expected[id] = [there, made]
        self.log.intends(n, {id: made})
        try:
            if there is None:
                await self.store.create_table(name, Schema(4, model=str(n)))
            else:
                await self.store.drop_table(name)
        except MigrationError as error:
            self.log.refused(n, error)
            return
        except self.tolerated as error:
            self.log.refused(n, error)
            raise
        self.log.acknowledged(n)
        self.known[id] = made
        found = await see_table(self.store, name)
        assert found == made, f"{name} is {found}, acknowledged was {made}"

    # Living

    async def tolerating(self, call: asyncio.Future[None]) -> None:
        try:
            await call
        except self.tolerated as error:
            self.log.note("met", type(error).__name__)
            await asyncio.sleep(0.1)

    async def burst(self) -> None:
        """Several calls at once, on rows of their own each."""
        ids = self.chance.sample(self.ids, len(self.ids))
        size = ROWS // _GROUPS
        calls = [
            self.write(ids[n * size : n * size + self.chance.randint(1, size)])
            for n in range(self.chance.choice([1, 1, 2, _GROUPS]))
        ]
        calls.append(self.look_at_others())
        if self.chance.random() < 0.2:
            calls.append(self.churn())
        self.chance.shuffle(calls)
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(self.tolerating(asyncio.ensure_future(call)))

    async def run(self, rest: float) -> None:
        while not self.over:
            await self.burst()
            self.log.note("burst", str(os.getpid()))
            # Mostly short, and now and then as long as it may be.
            await asyncio.sleep(rest * self.chance.random() ** 4)


async def main(place: str, folder: str, name: str, rest: str) -> None:
    by_path = not place.endswith(".toml")
    opening = connect(place) if by_path else connect(config=place)
    async with opening as store:
        app = App(store, Path(folder), name, by_path=by_path)
        running = asyncio.create_task(app.run(float(rest)))
        await asyncio.wait([running, end_of_input()], return_when=asyncio.FIRST_COMPLETED)
        app.over = True
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
