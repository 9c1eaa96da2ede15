"""The memory that a burst of calls took goes back to the system behind it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.lancedb.support import run_code

# Prints the process's MiB before a burst of reads, at most, and some time after it.
BURST = """
import asyncio, json, sys
import aiovec
from aiovec import Schema
from aiovec._core.memory import resident_memory

def held():
    return resident_memory() / 2**20

async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        await store.create_table("notes", Schema(2, fields={"text": str}))
        text = "abcdefghijklmnopqrstuvwxyz" * 2
        for start in range(0, 10_000, 1000):
            await store.insert("notes", [
                {"id": f"{n:05}", "embedding": [1, n], "text": f"{n} {text * (n % 400)}"}
                for n in range(start, start + 1000)
            ])
        await store.search("notes", [1.0, 2.0])
        await asyncio.sleep(3)
        before = held()

        async def some(start):
            return [await store.get("notes", [f"{start + n:05}"]) for n in range(100)]

        found = await asyncio.gather(*(some(start * 100) for start in range(100)))
        kept = [rows[-1] for rows in found]  # all over the heap
        most = held()
        del found
        after = held()
        for _ in range(150):
            if after < before + 0.5 * (most - before):
                break
            await asyncio.sleep(0.2)
            after = held()
        print(json.dumps([before, most, after]))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries give memory back themselves")
async def test_what_a_burst_took_is_given_back(tmp_path: Path) -> None:
    before, most, after = json.loads(await run_code(BURST, str(tmp_path / "s.db"), fresh=True))
    assert most > 1.3 * before, "the burst took nothing that could be given back"
    assert after < before + 0.5 * (most - before), (before, most, after)
