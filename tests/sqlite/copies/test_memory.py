"""What a process takes in memory for searching, beside the copy itself."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.sqlite.support import opened, run_code

from aiovec import Field, Schema

pytestmark = pytest.mark.slow

DIM = 256
ROWS = 25_000

# Prints how much larger the process is than when it had opened the store, and its copy's size.
MEASURE = """
import asyncio, gc, json, sys
from pathlib import Path
import numpy as np
import psutil
from tests.sqlite.copies.support import ready
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
        done = await asyncio.to_thread(run_code, MEASURE, str(path), str(DIM), fresh=True)
        assert done.returncode == 0, done.stderr
        above, copy = json.loads(done.stdout)
        taken.append(above)
        copies.append(copy)
    grown = copies[1] - copies[0]
    assert grown >= 2 * ROWS * DIM
    beside = [above - copy for above, copy in zip(taken, copies, strict=True)]
    assert beside[1] - beside[0] < grown / 4, (taken, copies)


LOADING = """
import asyncio, json, resource, sys
from pathlib import Path
import numpy as np
from tests.sqlite.support import backend_of, opened

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

async def main(path, dim, scan, budget):
    queries = np.random.default_rng(1).standard_normal((4, dim), dtype=np.float32)
    async with opened(path, scan=scan, scan_memory=budget, reader_cache_mb=1) as store:
        names = await store.tables()
        await store.search(names[0], queries[0], where="n = 1")
        before, counted = most(), 0
        for _ in range(8):
            await asyncio.gather(*(store.search(n, q) for n in names for q in queries))
            if scan == "auto":
                resident = backend_of(store)._resident
                counted = max(counted, resident._taken())
        print(json.dumps([most() - before, counted]))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="asks the system for the most memory so far")
async def test_many_tables_that_load_at_once_keep_to_the_budget(tmp_path: Path) -> None:
    """B1: tables that are being loaded did not count, and any number was loaded at once."""
    path, dim, tables, rows, budget = tmp_path / "a.db", 1024, 8, 3_000, 4 * 2**20
    rng = np.random.default_rng(0)
    async with opened(path, scan="disk") as store:
        for table in range(tables):
            await store.create_table(f"t{table}", Schema(dim, fields={"n": Field(int)}))
            vectors = rng.standard_normal((rows, dim), dtype=np.float32)
            ids = [f"r{n}" for n in range(rows)]
            await store.insert(
                f"t{table}", {"id": ids, "embedding": vectors, "n": list(range(rows))}
            )
    # One table takes 3 MiB, all of them 24.
    taken = {}
    for scan in ("disk", "auto"):
        done = await asyncio.to_thread(
            run_code, LOADING, str(path), str(dim), scan, str(budget), fresh=True
        )
        assert done.returncode == 0, done.stderr
        taken[scan], counted = json.loads(done.stdout)
        assert counted <= budget
    assert taken["auto"] - taken["disk"] < budget + 12 * 2**20, taken


LISTS = """
import asyncio, gc, json, sys
from pathlib import Path
import numpy as np
import psutil
from aiovec import F
from tests.sqlite.copies.support import ready
from tests.sqlite.support import opened

def resident():
    gc.collect()
    return psutil.Process().memory_info().rss

async def main(path, dim, scan, searches):
    query = np.ones(dim, dtype=np.float32)
    async with opened(path, scan=scan, scan_memory=str(64 * 2**20), reader_cache_mb=1) as store:
        if scan == "auto":
            await ready(store, "t")
        async def search(n):
            ids = [f"r{i:06}" for i in range(n, n + 20_000)]
            assert len(await store.search("t", query, where=F.id.in_(ids), limit=3)) == 3
            assert await store.count("t", F.n.not_in(range(n, n + 20_000))) == 5_000
        for n in range(8):
            await search(n)
        before = resident()
        for n in range(8, 8 + searches):
            await search(n)
        print(json.dumps(resident() - before))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
"""


@pytest.mark.parametrize("scan", [pytest.param("disk", marks=pytest.mark.soak), "auto"])
async def test_long_lists_of_filters_are_not_kept(tmp_path: Path, scan: str) -> None:
    """B1: a statement with 20,000 parameters takes 1.4 MB, and each connection keeps 256."""
    path = tmp_path / "a.db"
    await fill(path, ROWS)
    done = await asyncio.to_thread(run_code, LISTS, str(path), str(DIM), scan, "18", fresh=True)
    assert done.returncode == 0, done.stderr
    # Masks of filters may take a sixteenth of the budget. It were 50 MB for statements alone.
    assert json.loads(done.stdout) < 20 * 2**20
