"""The process that is killed: many tasks write to one table, each to rows of its own.

    python -m tests.faults.crash_writer PATH TABLE TURN SEED

Before a call it says what it is about to do, after the call that it was acknowledged: one line of
JSON each, written by one system call.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from typing import Any

from tests.sqlite.support import State

from aiovec import VectorStore, connect


def say(*facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


class Worker:
    """Writes rows that nobody else writes, and knows what they hold."""

    def __init__(self, store: VectorStore, table: str, name: str, seed: int) -> None:
        self.store = store
        self.table = table
        self.name = name
        self.random = random.Random(seed)
        self.rows: dict[str, State] = {}
        self.calls = 0
        self.made = 0

    def new_ids(self, count: int) -> list[str]:
        self.made += count
        return [f"{self.name}/{n}" for n in range(self.made - count, self.made)]

    def some_ids(self, most: int) -> list[str]:
        return self.random.sample(sorted(self.rows), min(len(self.rows), most))

    async def run(self) -> None:
        while True:
            choice = self.random.random()
            size = self.random.choice([1, 1, 3, 20, 150, 300])
            if choice < 0.35 or not self.rows:
                await self.put({id: State(1, 1) for id in self.new_ids(size)}, insert=True)
            elif choice < 0.6:
                old = self.some_ids(size)
                states = {}
                for id in old:
                    version = self.rows[id].version + 1
                    states[id] = State(version, version)
                states |= {id: State(1, 1) for id in self.new_ids(self.random.choice([0, 5]))}
                await self.put(states, insert=False)
            elif choice < 0.75:
                await self.update()
            elif choice < 0.9:
                await self.delete(self.some_ids(size))
            elif choice < 0.97:
                await self.burst()
            else:
                await self.store.optimize(self.table)

    async def put(self, states: dict[str, State], *, insert: bool) -> None:
        rows = [state.row(id, self.name) for id, state in states.items()]
        write = self.store.insert if insert else self.store.upsert
        await self.told(states, write(self.table, rows))

    async def update(self) -> None:
        """One version for all of them: ``update`` sets the same fields everywhere."""
        ids = self.some_ids(1)
        state = State(self.rows[ids[0]].vector_version, self.rows[ids[0]].version + 1)
        fields = state.fields(ids[0], self.name)
        del fields["vector_version"]
        if self.random.random() < 0.5:
            call = self.store.update(self.table, fields, ids=ids)
        else:
            call = self.store.update(self.table, fields, where=f"id = '{ids[0]}'")
        await self.told({ids[0]: state}, call)

    async def delete(self, ids: list[str]) -> None:
        if self.random.random() < 0.7:
            call = self.store.delete(self.table, ids)
        else:
            listed = ", ".join(f"'{id}'" for id in ids)
            call = self.store.delete_where(
                self.table, f"owner = '{self.name}' AND id IN ({listed})"
            )
        await self.told(dict.fromkeys(ids), call)

    async def burst(self) -> None:
        """Single rows by many tasks, which share commits."""
        await asyncio.gather(*(self.put({id: State(1, 1)}, insert=True) for id in self.new_ids(40)))

    async def told(self, states: dict[str, State | None], call: Any) -> None:
        self.calls += 1
        number = f"{self.name}#{self.calls}"
        plain = {id: s and [s.vector_version, s.version] for id, s in states.items()}
        say("begin", number, self.name, plain)
        count = await call
        assert count == len(states), (count, len(states))
        say("done", number)
        for id, state in states.items():
            if state is None:
                del self.rows[id]
            else:
                self.rows[id] = state


async def main(path: str, table: str, turn: str, seed: int) -> None:
    async with connect(path) as store, asyncio.TaskGroup() as tasks:
        for n in range(6):
            worker = Worker(store, table, f"r{turn}w{n}", seed * 1000 + n)
            tasks.create_task(worker.run())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
