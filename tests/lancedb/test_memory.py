"""Large reads take turns and stay under ``search_memory``, and replaced indexes leave nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from tests.harness.processes import run_python
from tests.harness.waiting import until

from aiovec import Field, Schema, StoreClosedError

from .buckets import s3_server
from .support import opened

pytestmark = pytest.mark.slow
MIB = 2**20

# Prints by how much the process grew during searches at once, and while exports were open that
# nobody read, with the ids of the first hits; or during so many counts of all ids, with their
# lengths.
MEASURE = """
import asyncio, json, sys, threading
import numpy as np
import psutil
from tests.lancedb.support import opened

async def searched(store, queries):
    found = await asyncio.gather(
        *(store.search("t", query, limit=3, exact=True) for query in queries)
    )
    exports = [store.export("t", batch_size=100) for _ in range(8)]
    for export in exports:
        for _ in range(10):
            await anext(export)
    return [hits[0].id for hits in found]

async def counted(store, queries):
    return await asyncio.gather(*(length(store) for _ in queries))

async def length(store):
    return len(await store.distinct("t", "id", limit=10))

async def main(work, path, dim, searches, memory):
    process = psutil.Process()
    queries = np.random.default_rng(1).standard_normal((searches, dim), dtype=np.float32)
    async with opened(path, index="none", search_memory=memory, busy_timeout=600) as store:
        await store.search("small", queries[0], limit=3, exact=True)
        async for _ in store.export("small"):
            pass
        idle, most, over = process.memory_info().rss, [0], threading.Event()

        def watch():
            while not over.wait(0.002):
                most[0] = max(most[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            came = await {"searched": searched, "counted": counted}[work](store, queries)
        finally:
            over.set()
            watcher.join()
        print(json.dumps([most[0] - idle, came]))

_, work, path, dim, searches, memory = sys.argv
asyncio.run(main(work, "lancedb://" + path, int(dim), int(searches), memory))
"""


async def filled(path: Path, rows: int, dim: int) -> np.ndarray:
    """Make the table ``t`` of so many rows, and a small one."""
    vectors = np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32)
    async with opened(path, index="none") as store:
        for name, count in (("t", rows), ("small", 64)):
            await store.create_table(name, Schema(dim))
            ids = [f"r{n:06}" for n in range(count)]
            await store.insert(name, {"id": ids, "embedding": vectors[:count]})
    return vectors


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts memory in another way")
async def test_searches_and_exports_at_once_stay_under_their_memory(tmp_path: Path) -> None:
    dim, searches = 512, 30
    vectors = await filled(tmp_path / "s", 12_000, dim)
    arguments = ("searched", tmp_path / "s", dim, searches, "192 MiB")
    done = await asyncio.to_thread(run_python, "-c", MEASURE, *arguments)
    assert (done.returncode, done.stderr) == (0, "")  # Lance logs nothing
    grown, ids = json.loads(done.stdout)
    queries = np.random.default_rng(1).standard_normal((searches, dim), dtype=np.float32)
    cosines = (queries @ vectors.T) / np.linalg.norm(vectors, axis=1)
    assert ids == [f"r{best:06}" for best in cosines.argmax(axis=1)]
    # Without a bound they took 845 MiB.
    assert grown < 384 * MIB, f"{grown / MIB:.0f} MiB"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts memory in another way")
async def test_counts_of_many_values_at_once_stay_under_their_memory(tmp_path: Path) -> None:
    await filled(tmp_path / "s", 200_000, 4)
    arguments = ("counted", tmp_path / "s", 4, 10, "192 MiB")
    done = await asyncio.to_thread(run_python, "-c", MEASURE, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    grown, lengths = json.loads(done.stdout)
    assert lengths == [10] * 10
    assert grown < 256 * MIB, f"{grown / MIB:.0f} MiB"


async def test_a_small_budget_holds_up_nobody(tmp_path: Path) -> None:
    """The caller of an export searches between the batches, which takes turns with its reads."""
    await filled(tmp_path / "s", 10_000, 64)
    async with opened(tmp_path / "s", search_memory="1 MiB") as store:
        async with asyncio.timeout(120):
            seen = 0
            async for batch in store.export("t", batch_size=4000):
                seen += len(batch)
                matches, records, got, updated, _ = await asyncio.gather(
                    store.search_many("t", np.ones((3, 64)), limit=2, exact=True),
                    store.find("t", limit=9000),
                    store.get("t", [f"r{n:06}" for n in range(5000)]),
                    store.update("t", {"n": seen}, where="id < 'r000300'"),
                    store.optimize("t"),
                )
                assert [len(hits) for hits in matches] == [2, 2, 2]
                assert (len(records), len(got), updated) == (9000, 5000, 300)
            assert seen == 10_000


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read in /proc")
@pytest.mark.parametrize("place", ["folder", "bucket"])
async def test_replaced_indexes_leave_no_descriptor(tmp_path: Path, place: str) -> None:
    """Of files or sockets: few while the store is open, and none when it is closed."""
    chance, fields = random.Random(0), [f"f{n}" for n in range(4)]
    schema = Schema(4, fields=dict.fromkeys(fields, Field(str, text=True)))

    def row(id: str) -> dict[str, object]:
        texts = {name: f"{id} {chance.randbytes(60).hex(' ', 3)}" for name in fields}
        return {"id": id, "embedding": [1, 2, 3, 4], **texts}

    with s3_server() if place == "bucket" else nullcontext() as bucket:
        url = tmp_path / "s" if bucket is None else bucket.new_url()
        settings = {} if bucket is None else {"storage_options": bucket.options}
        async with opened(url, **settings) as store:
            await store.create_table("notes", schema)
            await store.insert("notes", [row(f"r{n}") for n in range(1500)])
        before = descriptors()
        async with opened(url, upkeep="elsewhere", **settings) as store:
            export = store.export("notes", batch_size=100)
            seen = len(await anext(export))
            for n in range(10):  # each round replaces four indexes, whose files are large
                await store.insert("notes", [row(f"new{n}")])
                await store.optimize("notes")
                (hit,) = await store.search_text("notes", f"new{n}")
                assert hit.id == f"new{n}"
            async for batch in export:  # it goes on with what it began with
                seen += len(batch)
            assert seen == 1500
            await until(lambda: descriptors() < before + 30, 30)
        await until(lambda: descriptors() <= before, 30)
        with pytest.raises(StoreClosedError):
            await store.count("notes")
