"""Idle stores keep few threads and open files, and answer as before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.harness.processes import run_python

WAITING = """
import asyncio, os, sys, threading
import aiovec

ROWS = [{"id": str(n), "embedding": [n + 1.0] * 4} for n in range(30)]

def held():
    return [threading.active_count(), len(os.listdir("/proc/self/fd"))]

async def main():
    stores, before = [], held()
    for n in range(40):
        store = await aiovec.connect(f"{sys.argv[1]}/{n}.db")
        await store.create_table("t", aiovec.Schema(4))
        await store.upsert("t", ROWS)
        await store.search("t", [1.0] * 4)
        stores.append(store)
    export = stores[0].export("t", batch_size=10)
    rows = (await anext(export)).num_rows
    async with asyncio.timeout(100):
        # The export has a reader of its own.
        while held()[0] > before[0] + 2 or held()[1] > before[1] + 4 * len(stores) + 4:
            await asyncio.sleep(0.1)
    for store in stores:
        await store.delete("t", ["7"])
        assert await store.count("t") == len(await store.search("t", [1.0] * 4, limit=30)) == 29
    async for batch in export:
        rows += batch.num_rows
    for store in stores:
        await store.close()
    print(rows)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts its files in /proc")
def test_waiting_stores_keep_no_threads_and_four_files_each(tmp_path: Path) -> None:
    """An export that waits continues in its snapshot."""
    done = run_python("-c", WAITING, tmp_path)
    assert done.stdout == "30\n", done.stderr
