"""A process of an app that goes on while its store is migrated, until its standard input ends.

    python -m tests.migrate.client CONFIG FOLDER ROLE NAME REST

It opens the store from the TOML and works on rows of its own: a "writer" writes all the time, a
"reader" reads all the time and writes now and then, and between two calls each rests up to REST
seconds. At each write that was acknowledged it adds a byte to ``FOLDER/NAME.acks``; at its end it
says what it did and what its rows must be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from tests.sqlite.support import State, vector

from aiovec import VectorStore, connect

from .support import row

_T = TypeVar("_T")

TABLE = "notes"


class Client:
    def __init__(self, store: VectorStore, folder: Path, name: str) -> None:
        self.store = store
        self.name = name
        self.chance = random.Random(name)
        self.rows: dict[str, State] = {}
        self.made = 0
        self.writes = 0
        self.reads = 0
        self.longest = 0.0
        self.crossing = 0.0
        """How long the write took that began in one backend and was acknowledged by another."""
        self.over = False
        self._acks = (folder / f"{name}.acks").open("ab", buffering=0)

    def new_ids(self, count: int) -> list[str]:
        self.made += count
        return [f"{self.name}/{n}" for n in range(self.made - count, self.made)]

    def some_ids(self, most: int) -> list[str]:
        return self.chance.sample(sorted(self.rows), min(len(self.rows), most))

    async def timed(self, call: Awaitable[int], count: int) -> None:
        """A write: it must concern so many rows, and how long it took is kept."""
        before = self.store.backend_name
        began = time.monotonic()
        done = await call
        took = time.monotonic() - began
        assert done == count, f"{self.name}: {done} rows, not {count}"
        self.writes += 1
        self._acks.write(b".")
        self.longest = max(self.longest, took)
        if self.store.backend_name != before:
            self.crossing = max(self.crossing, took)

    async def insert(self, count: int) -> None:
        new = {id: State(1, 1) for id in self.new_ids(count)}
        rows = [row(id, state, self.name, TABLE) for id, state in new.items()]
        await self.timed(self.store.insert(TABLE, rows), count)
        self.rows |= new

    async def upsert(self, ids: list[str]) -> None:
        new = {id: State(self.rows[id].version + 1, self.rows[id].version + 1) for id in ids}
        new |= {id: State(1, 1) for id in self.new_ids(self.chance.choice([0, 2]))}
        rows = [row(id, state, self.name, TABLE) for id, state in new.items()]
        await self.timed(self.store.upsert(TABLE, rows), len(rows))
        self.rows |= new

    async def update(self, id: str) -> None:
        state = State(self.rows[id].vector_version, self.rows[id].version + 1)
        fields = row(id, state, self.name, TABLE)
        del fields["id"], fields["embedding"]
        # What an update does not name stays: a row without a payload would keep that it had.
        fields.setdefault("note", None)
        await self.timed(self.store.update(TABLE, fields, ids=id), 1)
        self.rows[id] = state

    async def delete(self, ids: list[str]) -> None:
        await self.timed(self.store.delete(TABLE, ids), len(ids))
        for id in ids:
            del self.rows[id]

    async def write(self) -> None:
        kind = self.chance.random()
        some = self.some_ids(self.chance.choice([1, 1, 3, 20]))
        if kind < 0.4 or len(self.rows) < 5:
            await self.insert(self.chance.choice([1, 1, 3, 20]))
        elif kind < 0.65:
            await self.upsert(some)
        elif kind < 0.8:
            await self.update(some[0])
        else:
            # Some are left for those who read.
            await self.delete(some[: len(self.rows) - 3])

    async def read(self) -> None:
        """Our rows as they must be, in every way of reading."""
        self.reads += 1
        kind = self.chance.choice(["get", "get", "search", "count", "gone"])
        if kind == "get":
            ids = self.some_ids(10)
            found = await self.store.get(TABLE, ids)
            assert [record.id for record in found] == ids, f"{self.name} misses a row of {ids}"
            for record in found:
                wanted = row(record.id, self.rows[record.id], self.name, TABLE)
                told = {k: v for k, v in record.fields.items() if v is not None or k in wanted}
                wanted = {k: v for k, v in wanted.items() if k not in ("id", "embedding")}
                told = {k: v for k, v in told.items() if v is not None}
                assert told == {k: v for k, v in wanted.items() if v is not None}, told
                made = vector(record.id, self.rows[record.id].vector_version)
                assert record.vector.tobytes() == made.tobytes(), f"{record.id} has other bits"
        elif kind == "search":
            [id] = self.some_ids(1)
            made = vector(id, self.rows[id].vector_version)
            hits = await self.store.search(TABLE, made, limit=1, exact=True)
            assert [hit.id for hit in hits] == [id], f"{self.name} does not find {id}"
        elif kind == "count":
            count = await self.store.count(TABLE, f"owner = '{self.name}'")
            assert count == len(self.rows), f"{self.name} counts {count}, not {len(self.rows)}"
        else:
            gone = [f"{self.name}/{n}" for n in range(self.made)]
            gone = [id for id in gone if id not in self.rows][-20:]
            assert not await self.store.get(TABLE, gone) if gone else True

    async def run(self, role: str, rest: float) -> None:
        await self.insert(20)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not self.over:
            if role == "writer":
                await self.write()
            else:
                await self.read()
                if self.chance.random() < 0.1:
                    # And what was written is there at once.
                    await self.write()
                    await self.read()
            await asyncio.sleep(self.chance.random() * rest)


def end_of_input() -> asyncio.Future[None]:
    """Done when the standard input ends. Its thread keeps no process that has failed."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def wait() -> None:
        sys.stdin.read()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(None))

    threading.Thread(target=wait, daemon=True).start()
    return ended


async def main(config: str, folder: str, role: str, name: str, rest: str) -> None:
    async with connect(config=config) as store:
        client = Client(store, Path(folder), name)
        running = asyncio.create_task(client.run(role, float(rest)))
        await asyncio.wait([running, end_of_input()], return_when=asyncio.FIRST_COMPLETED)
        client.over = True
        await running
        backend = store.backend_name
    result = {
        "rows": {id: [s.vector_version, s.version] for id, s in client.rows.items()},
        "writes": client.writes, "reads": client.reads, "backend": backend,
        "longest": client.longest, "crossing": client.crossing,
    }  # fmt: skip
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
