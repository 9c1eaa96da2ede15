"""Several processes create, read and write one store: no call fails, and no row is lost."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.faults.shared_writer import SHARED
from tests.harness.processes import python
from tests.harness.scripts import DIM, KINDS, TABLE, row, target_in

import aiovec
from aiovec import Schema


def run_together(module: list[str], several: list[list[str]]) -> list[str]:
    """Run the processes at the same time, and return the output of each."""
    processes = [
        python(*module, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for arguments in several
    ]
    ended = [process.communicate(timeout=600) for process in processes]
    for process, (_, complaints) in zip(processes, ended, strict=True):
        assert process.returncode == 0, complaints[-3000:]
    return [output for output, _ in ended]


def campaign(folder: Path, kind: str, processes: int, rounds: int) -> None:
    target = target_in(folder, kind)
    done = folder / "done"
    done.mkdir()

    async def create() -> None:
        fields: dict[str, Any] = {"name": str, "year": int}
        counters = {f"c{n}": int for n in range(processes)}
        async with aiovec.connect(target) as store:
            await store.create_table(TABLE, Schema(DIM, fields={**fields, **counters}))
            await store.insert(TABLE, [row(id, 0) for id in SHARED])

    asyncio.run(create())
    arguments = [[target, str(done), str(n), str(processes), str(rounds)] for n in range(processes)]
    printed = run_together(["-m", "tests.faults.shared_writer"], arguments)
    asyncio.run(check(target, [json.loads(output) for output in printed]))


async def check(target: str, results: list[dict[str, Any]]) -> None:
    async with aiovec.connect(target) as store:
        for record in await store.get(TABLE, SHARED):
            for n, result in enumerate(results):
                wanted = result["counts"][record.id]
                assert (record[f"c{n}"] or 0) == wanted, f"{record.id} lost an update of {n}"
                assert record.fields.get("key", {}).get(str(n), 0) == wanted
        ids = [id async for batch in store.export(TABLE) for id in batch["id"].to_pylist()]
        assert len(ids) == len(set(ids)), "an id stands twice"
        own = {id: version for result in results for id, version in result["rows"].items()}
        winners = [id for result in results for id in result["won"]]
        assert len(winners) == len(set(winners)), "two processes inserted one id"
        assert set(ids) == {*SHARED, *own, *winners}
        for record in await store.get(TABLE, list(own)):
            assert record["year"] == own[record.id]
            assert record.vector is not None
            assert record.vector.tolist() == row("", own[record.id])["embedding"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_write_one_store(tmp_path: Path, kind: str) -> None:
    campaign(tmp_path, kind, *((3, 8) if kind == "sqlite" else (2, 3)))


@pytest.mark.soak(minutes=5)
@pytest.mark.parametrize("kind", KINDS)
def test_many_processes_that_write_one_store(tmp_path: Path, kind: str) -> None:
    campaign(tmp_path, kind, 8, 200)


CREATE = """
import asyncio, sys
import aiovec
async def main():
    for path in sys.argv[2:]:
        async with aiovec.connect(path) as store:
            await store.create_table("t", aiovec.Schema(4), exist_ok=True)
            await store.insert("t", [{"id": sys.argv[1], "embedding": [1, 2, 3, 4]}])
asyncio.run(main())
"""


@pytest.mark.slow
def test_processes_that_create_the_same_files(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{n}.db") for n in range(10)]
    run_together(["-c", CREATE], [[str(n), *paths] for n in range(2)])

    async def check() -> None:
        for path in paths:
            async with aiovec.connect(path) as store:
                assert await store.count("t") == 2

    asyncio.run(check())
