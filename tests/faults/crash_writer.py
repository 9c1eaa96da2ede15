"""The process that is killed: many tasks write to one table, each to rows of its own, and two
create, change and drop tables of their own by every writing call that there is.

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
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tests.sqlite.support import DIM, State, vector

from aiovec import Field, Schema, VectorStore, connect
from aiovec._transfer import Load, Loading, RejectsFile, load, open_input
from aiovec.backend import Hints


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
            await self.step()

    async def step(self) -> None:
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


# {"fields": [names that were added], "text": whether keywords are indexed,
#  "rows": {id: [version, n, late, deep]}}
Content = dict[str, Any]
# The fields that each of these tables has from its creation.
OWN_FIELDS = ("n", "body")


def body_of(id: str) -> str:
    """The text of a row, whatever else changes in it."""
    return f"common words of {id}"


class TableWorker:
    """Has a table of its own, one call after another, and says what it holds after each call.

    So at most one call of it is open at a kill: the table is as before that call or as after it.
    """

    def __init__(self, store: VectorStore, name: str, seed: int, folder: Path) -> None:
        self.store = store
        self.name = name
        self.random = random.Random(seed)
        self.folder = folder
        self.calls = 0
        self.made = 0
        self.table = ""
        self.content: Content = {"fields": [], "text": False, "rows": {}}
        self.versions: dict[int, Content] = {}

    async def run(self) -> None:
        while True:
            await self.create()
            for _ in range(self.random.choice([0, 2, 15, 60])):
                await self.change()
            await self.told("drop", None, self.store.drop_table(self.table))

    async def create(self) -> None:
        self.table = f"{self.name}-{self.calls}"
        text = self.random.random() < 0.3
        self.content, self.versions = {"fields": [], "text": text, "rows": {}}, {}
        index = self.random.choice([None, "btree", "bitmap"])
        metric = self.random.choice(["cosine", "l2", "dot"])
        fields = {"n": Field(int, index=index), "body": Field(str, text=text)}
        schema = Schema(DIM, metric=metric, fields=fields)
        await self.told("create", self.content, self.store.create_table(self.table, schema))

    def some(self) -> list[str]:
        rows = self.content["rows"]
        return self.random.sample(sorted(rows), self.random.randint(0, len(rows)))

    def new_rows(self, ids: list[str]) -> dict[str, list[Any]]:
        return {id: [self.calls, self.calls, None, None] for id in ids}

    def new_ids(self) -> list[str]:
        self.made += 1000
        return [f"{self.made + n}" for n in range(self.random.choice([1, 5, 40, 300]))]

    async def change(self) -> None:
        calls = [self.insert, self.upsert, self.update, self.delete, self.insert, self.upsert,
                 self.bulk_import, self.optimize, self.insert_skipping, self.insert_replacing,
                 self.set_vectors, self.patch, self.index_text]  # fmt: skip
        if len(self.content["fields"]) < 3:
            calls.append(self.add_field)
        if self.content["fields"]:
            calls += [self.rename_field, self.drop_field]
        if self.store.supports("snapshots"):
            calls.append(self.restore)
        if self.store.supports("indexes") and len(self.content["rows"]) > 300:
            calls.append(self.create_index)
        await self.random.choice(calls)()

    def full(self, rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
        return [
            {"id": id, "embedding": vector(id, version), "n": n, "body": body_of(id)}
            for id, (version, n, _, _) in rows.items()
        ]

    def after(self, rows: dict[str, list[Any]]) -> Content:
        return {**self.content, "rows": rows}

    async def insert(self) -> None:
        rows = self.new_rows(self.new_ids())
        after = self.after({**self.content["rows"], **rows})
        await self.told("insert", after, self.store.insert(self.table, self.full(rows)))

    async def upsert(self) -> None:
        rows = self.new_rows(self.some() + self.new_ids())
        after = self.after({**self.content["rows"], **rows})
        await self.told("upsert", after, self.store.upsert(self.table, self.full(rows)))

    def chosen(self) -> tuple[set[str], dict[str, Any]]:
        """Rows, and the arguments that choose them."""
        if self.random.random() < 0.5:
            ids = self.some()
            return set(ids), {"ids": ids}
        least = self.random.randint(0, self.calls)
        rows = self.content["rows"]
        return {id for id in rows if rows[id][1] >= least}, {"where": f"n >= {least}"}

    async def update(self) -> None:
        chosen, by = self.chosen()
        fields = dict.fromkeys(("n", *self.content["fields"]), self.calls)
        late = self.calls if self.content["fields"] else None
        rows = {
            id: [old[0], self.calls, late, old[3]] if id in chosen else old
            for id, old in self.content["rows"].items()
        }
        await self.told("update", self.after(rows), self.store.update(self.table, fields, **by))

    async def delete(self) -> None:
        chosen, by = self.chosen()
        rows = {id: old for id, old in self.content["rows"].items() if id not in chosen}
        remove = self.store.delete if "ids" in by else self.store.delete_where
        await self.told("delete", self.after(rows), remove(self.table, *by.values()))

    async def add_field(self) -> None:
        """Rows have one value for all added fields, so they lose it where one more comes."""
        if self.content["fields"]:
            cleared = dict.fromkeys(self.content["fields"])
            rows = self.without_late()
            call = self.store.update(self.table, cleared, where="TRUE")
            await self.told("update", self.after(rows), call)
        name = f"late{self.calls}"
        after = {**self.content, "fields": [*self.content["fields"], name]}
        field = Field(int, index=self.random.choice([None, "btree"]))
        await self.told("add_field", after, self.store.add_field(self.table, name, field))

    def without_late(self) -> dict[str, list[Any]]:
        return {id: [*old[:2], None, old[3]] for id, old in self.content["rows"].items()}

    async def rename_field(self) -> None:
        fields = list(self.content["fields"])
        old, new = self.random.choice(fields), f"new{self.calls}"
        fields[fields.index(old)] = new
        after = {**self.content, "fields": fields}
        await self.told("rename_field", after, self.store.rename_field(self.table, old, new))

    async def drop_field(self) -> None:
        fields = list(self.content["fields"])
        gone = self.random.choice(fields)
        fields.remove(gone)
        rows = self.content["rows"] if fields else self.without_late()
        after = {**self.content, "fields": fields, "rows": rows}
        await self.told("drop_field", after, self.store.drop_field(self.table, gone))

    async def index_text(self) -> None:
        """Build the index over the texts, or drop it."""
        after = {**self.content, "text": not self.content["text"]}
        act = self.store.create_field_index if after["text"] else self.store.drop_field_index
        await self.told("index_text", after, act(self.table, "body", "text"))

    async def insert_skipping(self) -> None:
        rows = self.new_rows(self.some() + self.new_ids())
        after = self.after({**rows, **self.content["rows"]})
        call = self.store.insert(self.table, self.full(rows), on_conflict="skip")
        await self.told("insert_skip", after, call)

    async def insert_replacing(self) -> None:
        rows = self.new_rows(self.some() + self.new_ids())
        after = self.after({**self.content["rows"], **rows})
        call = self.store.insert(self.table, self.full(rows), on_conflict="replace")
        await self.told("insert_replace", after, call)

    async def set_vectors(self) -> None:
        ids = self.some()
        rows = dict(self.content["rows"])
        rows.update({id: [self.calls, *rows[id][1:]] for id in ids})
        vectors = np.array([vector(id, self.calls) for id in ids]).reshape(-1, DIM)
        call = self.store.set_vectors(self.table, ids, vectors)
        await self.told("set_vectors", self.after(rows), call)

    async def patch(self) -> None:
        """Set a key within the payload of each row, beside which others stay."""
        chosen, by = self.chosen()
        rows = {
            id: [*old[:3], self.calls] if id in chosen else old
            for id, old in self.content["rows"].items()
        }
        fields = {"payload.deep.x": self.calls, "payload.deep.same": "kept"}
        await self.told("patch", self.after(rows), self.store.update(self.table, fields, **by))

    async def bulk_import(self) -> None:
        rows = self.new_rows(self.some() + self.new_ids())
        file = self.folder / f"{self.table}-{self.calls}.jsonl"
        plain = [{**row, "embedding": row["embedding"].tolist()} for row in self.full(rows)]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in plain), encoding="utf-8")
        source = open_input(file, form="jsonl", hints=Hints(), schema=None)
        try:
            loads = [Load(source.tables()[0], self.table)]
            rejects = RejectsFile(file.with_suffix(".rejects"))
            after = self.after({**self.content["rows"], **rows})
            call = load(self.store, source, loads, rejects, Loading(upsert=True))
            await self.told("import", after, call)
        finally:
            source.close()
            file.unlink()

    async def optimize(self) -> None:
        await self.told("optimize", self.content, self.store.optimize(self.table))

    async def create_index(self) -> None:
        kind = self.random.choice(["ivf_flat", "hnsw_sq"])
        await self.told("index", self.content, self.store.create_index(self.table, kind))

    async def restore(self) -> None:
        kept = {version["version"] for version in await self.store.versions(self.table)}
        known = sorted(kept & self.versions.keys())
        if known:
            version = self.random.choice(known)
            call = self.store.restore(self.table, version)
            await self.told("restore", self.versions[version], call)

    async def told(self, kind: str, after: Content | None, call: Any) -> None:
        self.calls += 1
        say("table", self.table, kind, after)
        await call
        say("table-done", self.table)
        if after is not None:
            self.content = after
            if self.store.supports("snapshots"):
                await self.keep_version()

    async def keep_version(self) -> None:
        """Nobody else changes what is in the table, so the newest version holds it."""
        newest = max(v["version"] for v in await self.store.versions(self.table))
        self.versions[newest] = self.content


async def main(path: str, table: str, turn: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await write(path, table, turn, seed, Path(folder))


async def write(path: str, table: str, turn: str, seed: int, folder: Path) -> None:
    async with connect(path) as store, asyncio.TaskGroup() as tasks:
        for n in range(2):
            own = TableWorker(store, f"own{turn}-{n}", seed * 1000 + 500 + n, folder)
            tasks.create_task(own.run())
        for n in range(6):
            worker = Worker(store, table, f"r{turn}w{n}", seed * 1000 + n)
            tasks.create_task(worker.run())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
