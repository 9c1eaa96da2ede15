"""The process that is killed while it writes under keys: tasks with rows and tables of their own.

    python -m tests.faults.once_writer TARGET TABLE TURN SEED

Before a call it says what it is about to do, under which key, what that returns, and what the task
has then; after the call, that it was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from typing import Any

from aiovec import Field, Schema, VectorStore, connect
from aiovec.backend import Conditions, WriteKey, under

SCHEMA = Schema(4, fields={"n": int, "owner": str})
# What a task has: {"rows": {id: [version of its vector, n, deep]}, "tables": {name: [fields]}}
Owned = dict[str, Any]


def say(*facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def vector_of(version: int) -> list[float]:
    return [1.0, float(version), 0.5, 0.25]


async def call(store: VectorStore, key: str, method: str, arguments: Any, options: Any) -> Any:
    """Make a call of which a line has told, under its key."""
    values = list(arguments)
    if method == "create_table":
        values[1] = Schema.from_json(values[1])
    if method == "add_field":
        values[2] = Field(str, text=values[2])
    with under(Conditions(key=WriteKey(key, b"digest"))):
        return await getattr(store, method)(*values, **options)


class Task:
    def __init__(self, store: VectorStore, table: str, name: str, seed: int) -> None:
        self.store = store
        self.table = table
        self.name = name
        self.random = random.Random(seed)
        self.calls = 0
        self.made = 0
        self.owned: Owned = {"rows": {}, "tables": {}}

    async def run(self) -> None:
        while True:
            if self.random.random() < 0.15:
                await self.change_tables()
            else:
                await self.write()

    async def told(
        self, method: str, arguments: list[Any], outcome: Any, *,
        rows: Any = None, tables: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.calls += 1
        key = f"{self.name}#{self.calls}"
        after = {
            "rows": self.owned["rows"] if rows is None else rows,
            "tables": self.owned["tables"] if tables is None else tables,
        }
        say("begin", self.name, key, method, arguments, options, outcome, after)
        found = await call(self.store, key, method, arguments, options)
        assert found == outcome, (method, found, outcome)
        say("done", self.name, key)
        self.owned = after

    def new(self) -> dict[str, list[Any]]:
        count = self.random.choice([1, 1, 4, 60])
        self.made += count
        row = [self.calls, self.calls, None]
        return {f"{self.name}/{n}": row for n in range(self.made - count, self.made)}

    def some(self) -> list[str]:
        rows = sorted(self.owned["rows"])
        return self.random.sample(rows, min(len(rows), self.random.choice([1, 2, 20])))

    def full(self, rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
        return [
            {"id": id, "embedding": vector_of(version), "n": n, "owner": self.name}
            for id, (version, n, _) in rows.items()
        ]

    async def write(self) -> None:
        rows, chosen, new, n = self.owned["rows"], self.some(), self.new(), self.calls
        changed = {id: [n, n, None] for id in chosen} | new
        act = self.random.randrange(8)
        table = self.table
        if act <= 1 or not chosen:
            await self.told("insert", [table, self.full(new)], len(new), rows=rows | new)
        elif act == 2:
            await self.told(
                "insert", [table, self.full(changed)], len(new), rows=changed | rows,
                on_conflict="skip",
            )  # fmt: skip
        elif act == 3:
            given = [table, self.full(changed)]
            await self.told("upsert", given, len(changed), rows=rows | changed)
        elif act == 4:
            patched = {id: [rows[id][0], n, n] for id in chosen}
            fields = {"n": n, "payload.deep.x": n}
            await self.told("update", [table, fields], len(chosen), rows=rows | patched, ids=chosen)
        elif act == 5:
            vectors = [vector_of(n)] * len(chosen)
            turned = {id: [n, *rows[id][1:]] for id in chosen}
            await self.told(
                "set_vectors", [table, chosen, vectors], len(chosen), rows=rows | turned
            )
        else:
            left = {id: row for id, row in rows.items() if id not in chosen}
            if act == 6:
                await self.told("delete", [table, chosen], len(chosen), rows=left)
                return
            listed = ", ".join(f"'{id}'" for id in chosen)
            where = f"owner = '{self.name}' AND id IN ({listed})"
            await self.told("delete_where", [table, where], len(chosen), rows=left)

    async def change_tables(self) -> None:
        tables = self.owned["tables"]
        if not tables:
            name = f"own-{self.name}-{self.calls}"
            given = [name, SCHEMA.to_json()]
            await self.told("create_table", given, None, tables={name: ["n", "owner"]})
            return
        ((name, fields),) = tables.items()
        act = self.random.randrange(5)
        if act == 0:
            await self.told("drop_table", [name], None, tables={})
        elif act == 1:
            new = f"own-{self.name}-{self.calls}"
            await self.told("rename_table", [name, new], None, tables={new: fields})
        elif act == 2 or len(fields) == 2:
            added = f"f{self.calls}"
            text = self.random.random() < 0.5
            given = [name, added, text]
            await self.told("add_field", given, None, tables={name: [*fields, added]})
        elif act == 3:
            new = f"g{self.calls}"
            renamed = [*fields[:-1], new]
            await self.told("rename_field", [name, fields[-1], new], None, tables={name: renamed})
        else:
            await self.told("drop_field", [name, fields[-1]], None, tables={name: fields[:-1]})


async def main(target: str, table: str, turn: str, seed: int) -> None:
    async with connect(target) as store, asyncio.TaskGroup() as tasks:
        for n in range(6):
            tasks.create_task(Task(store, table, f"t{turn}-{n}", seed * 100 + n).run())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
