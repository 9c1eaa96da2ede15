"""One of several processes that read and write one store at the same time.

    python -m tests.faults.shared_writer TARGET FOLDER NUMBER PROCESSES ROUNDS

It appends the ids of acknowledged rows to ``FOLDER/NUMBER.done`` immediately, one per line. Its
neighbour reads that file and searches for the newest id, which it must find.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

from tests.harness.scripts import TABLE, row
from tests.harness.waiting import until

from aiovec import DuplicateIdError, VectorStore, connect

SHARED = [f"shared{n}" for n in range(5)]


class Process:
    def __init__(self, store: VectorStore, folder: Path, number: int, processes: int) -> None:
        self.store = store
        self.number = number
        self.random = random.Random(number)
        self.done = (folder / f"{number}.done").open("ab", buffering=0)
        self.neighbour = folder / f"{(number + 1) % processes}.done"
        self.counts = dict.fromkeys(SHARED, 0)
        self.rows: dict[str, int] = {}
        self.won: list[str] = []
        self.seen = 0

    async def count_up(self) -> None:
        """Set our own field, and our own key of the payload, in rows that all processes change."""
        id = self.random.choice(SHARED)
        number = self.counts[id] + 1
        fields = {f"c{self.number}": number, f"payload.key.{self.number}": number}
        if number % 2:
            assert await self.store.update(TABLE, fields, ids=id) == 1
        else:
            assert await self.store.update(TABLE, fields, where=f"id = '{id}'") == 1
        self.counts[id] = number

    async def own_rows(self, start: int) -> None:
        """Insert, replace and delete rows of our own."""
        ids = [f"p{self.number}/{start}-{n}" for n in range(self.random.choice([2, 4, 30]))]
        await self.store.insert(TABLE, [row(id, 1) for id in ids])
        self.rows |= dict.fromkeys(ids, 1)
        # The first row is never deleted, because the neighbour may search for it at any time.
        self.done.write(f"{ids[0]}\n".encode())
        again, gone = ids[: len(ids) // 2], ids[len(ids) // 2 + 1 :: 3]
        await self.store.upsert(TABLE, [row(id, 2) for id in again])
        self.rows |= dict.fromkeys(again, 2)
        assert await self.store.delete(TABLE, gone) == len(gone)
        for id in gone:
            del self.rows[id]

    async def race(self, number: int) -> None:
        """Insert the same id in all processes: only one of them succeeds."""
        try:
            await self.store.insert(TABLE, [row(f"race/{number}", self.number)])
        except DuplicateIdError:
            return
        self.won.append(f"race/{number}")

    async def look_at_neighbour(self) -> None:
        """Check that a search finds the newest acknowledged row of another process."""
        lines = await asyncio.to_thread(self.neighbour.read_bytes)
        ids = lines[: lines.rfind(b"\n") + 1].decode().split()
        if ids:
            where = f"id = '{ids[-1]}'"
            hits = await self.store.search(TABLE, [1.0, 2.0, 2.0, 3.0], where=where)
            assert [hit.id for hit in hits] == [ids[-1]], f"{ids[-1]} was not found"
            assert hits[0]["name"] == f"note of {hits[0]['year']}"
            self.seen += 1

    async def run(self, rounds: int, processes: int) -> None:
        # Wait until each process has created its file, so that all run at the same time.
        folder = self.neighbour.parent
        await until(lambda: len(list(folder.glob("*.done"))) == processes)
        for n in range(rounds):
            await asyncio.gather(
                self.count_up(), self.own_rows(n), self.race(n), self.look_at_neighbour()
            )
        while not self.seen:
            await self.look_at_neighbour()
            await asyncio.sleep(0.01)


async def main(target: str, folder: str, number: int, processes: int, rounds: int) -> None:
    async with connect(target) as store:
        process = Process(store, Path(folder), number, processes)
        await process.run(rounds, processes)
    print(json.dumps({"counts": process.counts, "rows": process.rows, "won": process.won}))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])))
