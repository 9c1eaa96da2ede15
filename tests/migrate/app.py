"""An app that reads and writes while its store is migrated, and the log of its writes.

    python -m tests.migrate.app CONFIG FOLDER NAME REST

It works on its own rows until its standard input ends, and pauses up to REST seconds between two
writes. After each write it reads the row, and sometimes all its rows. The log has a line before and
after each write, so that the writes of a killed app are known, except perhaps the last one.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from pathlib import Path

import numpy as np
from tests.harness.values import DIM

import aiovec
from aiovec import MigrationError, OutcomeUnknownError, Record, StoreBusyError, VectorStore, connect

TABLE = "notes"
ROWS = 12
# The name of the log entry for the app's own table, which it creates and drops.
OWN = "own"


def values(id: str, version: int) -> dict[str, object]:
    """Return the row of a version: the id and the version determine all its values."""
    drawn = np.random.default_rng([version, *id.encode()])
    made = drawn.standard_normal(DIM).astype(np.float32)
    return {"id": id, "embedding": made, "name": id.partition("/")[0], "year": version}


class Log:
    """The versions of each row: positive numbers for writes, negative ones for deletes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / f"{name}.log"
        self.known: dict[str, list[int]] = {}
        """Versions that a row may have: the last acknowledged one, and later ones that began."""
        self.acknowledged = 0
        self.read()

    def read(self) -> None:
        self.known, self.acknowledged = {}, 0
        text = self.file.read_text("utf-8") if self.file.exists() else ""
        for line in text.splitlines():
            kind, id, version = line.split()
            if kind == "done":
                self.acknowledged += 1
                self.known[id] = [int(version)]
            elif kind == "begun":
                self.known.setdefault(id, [0]).append(int(version))
            else:
                self.known[id].remove(int(version))

    def write(self, kind: str, id: str, version: int) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{kind} {id} {version}\n")


class App:
    def __init__(self, store: VectorStore, folder: Path, name: str, rest: float) -> None:
        self.store = store
        self.name = name
        self.rest = rest
        self.log = Log(folder, name)
        self.over = False
        self.chance = random.Random(f"{name} {self.log.acknowledged}")
        self.last = 1 + max((abs(v) for seen in self.log.known.values() for v in seen), default=0)
        self.now: dict[str, int] = {}

    @property
    def ids(self) -> list[str]:
        return [f"{self.name}/{n}" for n in range(ROWS)]

    async def begin(self) -> None:
        """Check that the rows are as the log says, whichever store they are in now."""
        records = {record.id: record["year"] for record in await self.store.get(TABLE, self.ids)}
        for id, seen in self.log.known.items():
            if not id.endswith(OWN):
                assert records.get(id, -1) in [max(v, -1) or -1 for v in seen], f"{id}: {records}"
        self.now = records

    async def run(self) -> None:
        await self.begin()
        while not self.over:
            await self.write(self.chance.choice(self.ids))
            if self.chance.random() < 0.1:
                await self.read_all()
            if self.chance.random() < 0.1:
                await self.make_or_drop()
            await asyncio.sleep(self.chance.random() * self.rest)

    async def write(self, id: str) -> None:
        self.last += 1
        delete = id in self.now and self.chance.random() < 0.25
        version = -self.last if delete else self.last
        await asyncio.to_thread(self.log.write, "begun", id, version)
        row = {} if delete else values(id, version)
        try:
            if delete:
                assert await self.store.delete(TABLE, id) == 1
            elif id in self.now:
                by = self.store.update if self.chance.random() < 0.5 else self.store.upsert
                assert await by(TABLE, [row]) == 1
            else:
                assert await self.store.insert(TABLE, [row]) == 1
        except StoreBusyError:  # another process was stopped or slow for longer than the timeout
            await asyncio.to_thread(self.log.write, "refused", id, version)
        else:
            if delete:
                del self.now[id]
            else:
                self.now[id] = version
            await asyncio.to_thread(self.log.write, "done", id, version)
        self.check(await self.store.get(TABLE, [id]), [id])

    async def read_all(self) -> None:
        self.check(await self.store.get(TABLE, self.ids), self.ids)
        count = await self.store.count(TABLE, f"name = '{self.name}'")
        assert count == len(self.now), f"{self.name} counts {count}, not {len(self.now)}"

    def check(self, actual: list[Record], ids: list[str]) -> None:
        """Check that these rows are as they were last written."""
        wanted = {id: self.now[id] for id in ids if id in self.now}
        assert {record.id: record["year"] for record in actual} == wanted
        for record in actual:
            assert np.array_equal(record.vector, values(record.id, record["year"])["embedding"])

    async def make_or_drop(self) -> None:
        """Create or drop the app's own table, which is refused while a migration is open."""
        id, table = f"{self.name}/{OWN}", f"{self.name}_{OWN}"
        self.last += 1
        exists = table in await self.store.tables()
        version = -self.last if exists else self.last
        await asyncio.to_thread(self.log.write, "begun", id, version)
        try:
            if exists:
                await self.store.drop_table(table)
            else:
                await self.store.create_table(table, aiovec.Schema(2))
        except OutcomeUnknownError:  # a migration began during the commit, so it may be done or not
            pass
        except MigrationError:
            await asyncio.to_thread(self.log.write, "refused", id, version)
        else:
            await asyncio.to_thread(self.log.write, "done", id, version)


async def problems(store: VectorStore, logs: list[Log]) -> list[str]:
    """Return the differences between a store and the logs of apps that have ended."""
    wrong = []
    tables = set(await store.tables())
    rows = {row.id: row for row in await store.find(TABLE, limit=10_000, include_vector=True)}
    for log in logs:
        log.read()
        for id, seen in log.known.items():
            if id.endswith(OWN):
                result = id.replace("/", "_") in tables
                if result not in [version > 0 for version in seen]:
                    wrong.append(f"{id}: {result}, not {seen}")
                continue
            row = rows.pop(id, None)
            if row is None:
                if max(map(int, [v <= 0 for v in seen])) == 0:
                    wrong.append(f"{id} is missing, not {seen}")
            elif row["year"] not in seen:
                wrong.append(f"{id} is {row['year']}, not {seen}")
            elif not np.array_equal(row.vector, values(id, row["year"])["embedding"]):
                wrong.append(f"{id} has other bits")
    own = tuple(f"{log.file.stem}/" for log in logs)
    return wrong + [f"{id} is nobody's" for id in rows if id.startswith(own)]


async def main(config: str, folder: str, name: str, rest: str) -> None:
    async with connect(config=config) as store:
        app = App(store, Path(folder), name, float(rest))

        def wait_for_end_of_input() -> None:
            sys.stdin.read()
            app.over = True

        threading.Thread(target=wait_for_end_of_input, daemon=True).start()
        await app.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
