"""One of several processes that read and write one file at once.

    python -m tests.faults.shared_writer PATH FOLDER NUMBER PROCESSES SECONDS

What it was told to be done it appends to ``FOLDER/NUMBER.done``, one id a line, at once. Its
neighbour reads that file and searches for the newest of these ids: it has to find it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
from tests.sqlite.support import State, vector

from aiovec import DuplicateIdError, VectorStore, connect

SHARED = [f"shared{n}" for n in range(5)]
# Seconds to wait on a busy machine, for the others to begin and for something to be done.
_PATIENCE = 60.0


class Process:
    def __init__(self, store: VectorStore, folder: Path, number: int, processes: int) -> None:
        self.store = store
        self.number = number
        self.processes = processes
        self.name = f"p{number}"
        self.random = random.Random(number)
        self.done = (folder / f"{number}.done").open("ab", buffering=0)
        self.neighbour = folder / f"{(number + 1) % processes}.done"
        self.read = 0
        self.counts = dict.fromkeys(SHARED, 0)
        self.rows: dict[str, int | None] = {}
        self.won: list[str] = []
        self.seen = 0
        self.calls = 0

    async def count_up(self) -> None:
        """Set our own column, and our own key of the payload, in rows that all processes change."""
        while not self.over:
            id = self.random.choice(SHARED)
            number = self.counts[id] + 1
            fields = {f"c{self.number}": number, f"key {self.name}": number}
            if number % 2:
                changed = await self.store.update("notes", fields, ids=id)
            else:
                changed = await self.store.update("notes", fields, where=f"id = '{id}'")
            assert changed == 1
            self.counts[id] = number
            self.calls += 1

    async def own_rows(self) -> None:
        """Insert, replace and delete rows of our own."""
        number = 0
        while not self.over:
            ids = [f"{self.name}/{number + n}" for n in range(self.random.choice([1, 1, 10, 60]))]
            number += len(ids)
            rows = [State(1, 1).row(id, None) for id in ids]
            await self.store.insert("notes", rows)
            self.rows |= dict.fromkeys(ids, 1)
            # The first of a batch stays for ever: the neighbour may search for it at any time.
            self.done.write(f"{ids[0]}\n".encode())
            again = ids[: len(ids) // 2]
            await self.store.upsert("notes", [State(2, 2).row(id, None) for id in again])
            self.rows |= dict.fromkeys(again, 2)
            gone = ids[len(ids) // 2 + 1 :: 3]
            assert await self.store.delete("notes", gone) == len(gone)
            self.rows |= dict.fromkeys(gone)
            self.calls += 3

    async def race(self) -> None:
        """All processes insert the same ids: of each, one process succeeds."""
        number = 0
        while not self.over:
            id = f"race/{number}"
            number += 1
            try:
                await self.store.insert("notes", [State(1, 1).row(id, self.name)])
            except DuplicateIdError:
                pass
            else:
                self.won.append(id)
            self.calls += 1
            await asyncio.sleep(0.01)

    async def look_at_neighbour(self) -> None:
        """What another process was told to be done is found by a search that starts now."""
        while not self.over:
            ids = await asyncio.to_thread(self.news)
            if not ids:
                await asyncio.sleep(0.005)
                continue
            id = ids[-1]
            # The vector is of one of two versions, so both are searched for.
            versions = np.stack([vector(id, 1), vector(id, 2)])
            found = await self.store.search_many("notes", versions, limit=1)
            assert id in {hits[0].id for hits in found if hits}, f"{id} was not found"
            [record] = await self.store.get("notes", id)
            assert State(record["version"], record["version"]).problems(record, None) == []
            self.seen += 1

    def begin_together(self) -> None:
        """Wait until every process has opened the file, or some would be done before others begin.

        Each one makes its file ``NUMBER.done`` before.
        """
        until = time.monotonic() + _PATIENCE
        folder = self.neighbour.parent
        while len(list(folder.glob("*.done"))) < self.processes and time.monotonic() < until:
            time.sleep(0.01)

    def news(self) -> list[str]:
        try:
            with self.neighbour.open("rb") as file:
                file.seek(self.read)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.read += len(whole)
        return whole.decode().split()

    @property
    def over(self) -> bool:
        """Whether the time is up and, however slow the machine is, something of each was done."""
        late = time.monotonic() - self.until
        enough = self.seen > 0 and len(self.rows) > 10 and any(self.counts.values())
        return late > 0 and (enough or late > _PATIENCE)

    async def run(self, seconds: float) -> None:
        await asyncio.to_thread(self.begin_together)
        self.until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for work in (self.count_up, self.own_rows, self.race):
                tasks.create_task(work())
            tasks.create_task(self.look_at_neighbour())


async def main(path: str, folder: str, number: int, processes: int, seconds: float) -> None:
    async with connect(path) as store:
        process = Process(store, Path(folder), number, processes)
        await process.run(seconds)
    result = {
        "counts": process.counts, "rows": process.rows, "won": process.won,
        "seen": process.seen, "calls": process.calls,
    }  # fmt: skip
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    )
