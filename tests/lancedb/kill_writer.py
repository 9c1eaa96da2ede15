"""The process that is killed: the writers of ``tests.faults.crash_writer``, and beside them a task
that compacts the table and builds and drops its index without a pause.

    python -m tests.lancedb.kill_writer TARGET TABLE TURN SEED
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.faults.crash_writer import TableWorker, Worker, say

from aiovec import AiovecError, VectorStore, connect


async def tidy(store: VectorStore, table: str, chance: random.Random) -> None:
    """It says what it begins, so that the kill can be told to have met it."""
    while True:
        if store.supports("indexes") and await store.count(table) > 300 and chance.random() < 0.5:
            say("tidy", "index")
            kind = chance.choice(["ivf_flat", "hnsw_sq", "ivf_pq"])
            try:
                await store.create_index(table, kind, wait=True)
                for index in await store.indexes(table):
                    if chance.random() < 0.3:
                        await store.drop_index(table, index.name)
            except AiovecError as exc:
                # Deletes may leave too few rows for this kind between the count and the build.
                if "rows" not in str(exc):
                    raise
        else:
            say("tidy", "optimize")
            await store.optimize(table)
        say("tidy", "over")
        await asyncio.sleep(0.01)


async def main(target: str, table: str, turn: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await write(target, table, turn, seed, Path(folder))


async def write(target: str, table: str, turn: str, seed: int, folder: Path) -> None:
    async with connect(target) as store, asyncio.TaskGroup() as tasks:
        own = TableWorker(store, f"own{turn}", seed * 1000 + 500, folder)
        tasks.create_task(own.run())
        for n in range(4):
            worker = Worker(store, table, f"r{turn}w{n}", seed * 1000 + n)
            tasks.create_task(worker.run())
        tasks.create_task(tidy(store, table, random.Random(seed)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
