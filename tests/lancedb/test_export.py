"""Export: in the order of ids, in parts where a table is large, from one version."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import run_code

from aiovec_lancedb import export

from .support import SMALL, ids_in, numbered, opened


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
async def test_a_large_table_goes_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """Parts, blocks and batches each end somewhere else."""
    monkeypatch.setattr(export, "_IDS", 60)
    monkeypatch.setattr(export, "_SAMPLE", 20)
    monkeypatch.setattr(export, "_BLOCK_BYTES", 17 * (512 + 16))
    rows = numbered(501)
    random.Random(5).shuffle(rows)
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        for start in range(0, 501, 120):
            await store.insert("notes", rows[start : start + 120])
        batches = [b async for b in store.export("notes", batch_size=batch_size)]
        ids = [id for batch in batches for id in batch.column("id").to_pylist()]
        assert ids == [f"r{n:05}" for n in range(501)]
        assert {batch.num_rows for batch in batches[:-1]} <= {batch_size}
        years = [year for batch in batches for year in batch.column("year").to_pylist()]
        assert years == list(range(501))
        half = len(batches) // 2
        cursor = batches[half].schema.metadata[b"aiovec.cursor"]
        rest = [b async for b in store.export("notes", batch_size=batch_size, after=cursor)]
        again = [id for batch in rest for id in batch.column("id").to_pylist()]
        assert again == ids[(half + 1) * batch_size :]
        filtered = [b async for b in store.export("notes", where="year >= 490", select=["year"])]
        assert [year for b in filtered for year in b.column("year").to_pylist()] == list(
            range(490, 501)
        )


async def test_ids_of_every_kind(tmp_path: Path) -> None:
    """The order is that of code points, in Lance and in Arrow."""
    ids = ["'", '"', "\\", "%", "a", "A", "é", "z", "\uffff", "\U0001f600", "x" * 512, "--", "\n"]
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", [{"id": id, "embedding": [1, 2, 3, 4]} for id in ids])
        seen: list[str] = []
        cursor = None
        while True:
            batches = [b async for b in store.export("notes", batch_size=2, after=cursor)]
            if not batches:
                break
            seen += batches[0].column("id").to_pylist()
            cursor = batches[0].schema.metadata[b"aiovec.cursor"]
        assert seen == sorted(ids)


async def test_compaction_during_an_export(tmp_path: Path) -> None:
    """Every row is moved into new files while they are read."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        for start in range(0, 400, 40):
            await store.insert("notes", numbered(40, start=start))
        seen = []
        async for batch in store.export("notes", batch_size=50):
            seen += batch.column("id").to_pylist()
            await store.update("notes", {"owner": f"{len(seen)}"}, where="TRUE")
            await store.optimize("notes")
        assert seen == [f"r{n:05}" for n in range(400)]
        assert await ids_in(store) == seen


async def test_blocks_of_large_rows_are_as_large_as_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B16: whatever lies beside the vector, and however small Lance's files of it are."""
    sizes: list[int] = []
    block = export.Export._block

    async def noted(*given: Any) -> Any:
        found = await block(*given)
        sizes.append(found.nbytes)
        return found

    monkeypatch.setattr(export, "_FIRST_ROWS", 8)
    monkeypatch.setattr(export, "_BLOCK_BYTES", 2**18)
    monkeypatch.setattr(export.Export, "_block", noted)
    rows = [{**row, "owner": "o" * 10_000, "more": "m" * 10_000} for row in numbered(200)]
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", rows)
        assert await ids_in(store) == [row["id"] for row in rows]
        assert 20 * 10_000 < max(sizes) < 2**18 + 2 * 20_000
        sizes.clear()
        [_] = [b async for b in store.export("notes", select=["year"])]
        assert len(sizes) == 3, "small rows go many at once"


MEMORY = """
import asyncio, resource, sys
import numpy as np
from aiovec import Schema
from tests.lancedb.support import opened

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def main(path):
    async with opened(path) as store:
        vectors = np.random.default_rng(0).standard_normal((5_000, 1024), dtype=np.float32)
        await store.create_table("notes", Schema(1024))
        for n in range(24):
            ids = [f"{n:02}{i:06}" for i in range(5_000)]
            await store.insert("notes", {"id": ids, "embedding": vectors})
        before = peak()
        rows = 0
        async for batch in store.export("notes", batch_size=1_000):
            rows += batch.num_rows
        assert rows == 120_000, rows
        print(peak() - before)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no peak of memory this way")
def test_memory_stays_within_some_blocks(tmp_path: Path) -> None:
    """470 MiB of vectors leave in a fraction of that."""
    done = run_code(MEMORY, str(tmp_path / "s"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) < 350, f"{done.stdout} MiB more"
