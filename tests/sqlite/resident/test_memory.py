"""What a process takes in memory for searching, beside the copy itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from tests.sqlite.support import opened, run_code

from aiovec import Field, Schema

DIM = 256
ROWS = 25_000

# Prints how much larger the process is than when it had opened the store, and its copy's size.
MEASURE = """
import asyncio, gc, json, sys
from pathlib import Path
import numpy as np
import psutil
from tests.sqlite.resident.support import ready
from tests.sqlite.support import opened

def resident():
    gc.collect()
    return psutil.Process().memory_info().rss

async def main():
    queries = np.random.default_rng(1).standard_normal((20, int(sys.argv[2])), dtype=np.float32)
    # A reader's pages fill the same small cache for either table.
    async with opened(Path(sys.argv[1]), reader_cache_mb=1) as store:
        before = resident()
        await store.search("t", queries[0])
        copy = await ready(store, "t")
        for query in queries:
            await store.search("t", query)
        print(json.dumps([resident() - before, copy.nbytes]))

asyncio.run(main())
"""


async def fill(path: Path, rows: int) -> None:
    schema = Schema(DIM, fields={"n": Field(int)})
    rng = np.random.default_rng(0)
    async with opened(path) as store:
        await store.create_table("t", schema)
        for start in range(0, rows, 5000):
            vectors = pa.array(rng.standard_normal(5000 * DIM, dtype=np.float32))
            numbers = range(start, start + 5000)
            await store.insert(
                "t",
                pa.RecordBatch.from_pydict(
                    {
                        "id": pa.array([f"r{i:06}" for i in numbers]),
                        "embedding": pa.FixedSizeListArray.from_arrays(vectors, DIM),
                        "n": pa.array(numbers, pa.int64()),
                    }
                ),
            )


async def test_only_the_copy_grows_with_the_rows(tmp_path: Path) -> None:
    """Three times the rows take three times the copy, and not much more beside it."""
    taken, copies = [], []
    for rows in (ROWS, 3 * ROWS):
        path = tmp_path / f"{rows}.db"
        await fill(path, rows)
        done = await asyncio.to_thread(run_code, MEASURE, str(path), str(DIM))
        assert done.returncode == 0, done.stderr
        above, copy = json.loads(done.stdout)
        taken.append(above)
        copies.append(copy)
    grown = copies[1] - copies[0]
    assert grown >= 2 * ROWS * DIM
    beside = [above - copy for above, copy in zip(taken, copies, strict=True)]
    assert beside[1] - beside[0] < grown / 4, (taken, copies)
