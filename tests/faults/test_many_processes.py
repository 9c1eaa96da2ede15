"""Eight processes that read and write one file: nobody fails, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.faults.shared_writer import SHARED
from tests.sqlite.support import FIELDS, State, check_file, opened, python

from aiovec import Schema

PROCESSES = 8
COUNTERS = {f"c{n}": int for n in range(PROCESSES)}


async def _create(path: Path) -> None:
    async with opened(path) as store:
        await store.create_table("notes", Schema(16, fields={**FIELDS, "owner": str, **COUNTERS}))
        await store.insert("notes", [{"id": id, "embedding": [1.0] * 16} for id in SHARED])


async def _check(path: Path, results: list[dict[str, Any]]) -> None:
    async with opened(path) as store:
        for record in await store.get("notes", SHARED):
            for n, result in enumerate(results):
                wanted = result["counts"][record.id]
                assert (record[f"c{n}"] or 0) == wanted, f"{record.id} lost an update of {n}"
                assert record.fields.get(f"key p{n}", 0) == wanted
        for result in results:
            kept = {id: version for id, version in result["rows"].items() if version is not None}
            found = {record.id: record for record in await store.get("notes", list(result["rows"]))}
            assert found.keys() == kept.keys()
            for id, version in kept.items():
                row = found[id]
                fields = {k: v for k, v in row.fields.items() if k not in COUNTERS}
                assert fields == State(version, version).fields(id, None)
        winners = [id for result in results for id in result["won"]]
        assert len(winners) == len(set(winners)), "two processes inserted one id"
        assert await store.count("notes", "STARTSWITH(id, 'race/')") == len(winners)


def campaign(folder: Path, seconds: float) -> None:
    path = folder / "notes.db"
    asyncio.run(_create(path))
    processes = [
        python(
            "-m", "tests.faults.shared_writer",
            str(path), str(folder), str(n), str(PROCESSES), str(seconds),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(PROCESSES)
    ]  # fmt: skip
    results = []
    failures = []
    for process in processes:
        output, complaints = process.communicate(timeout=seconds + 200)
        if process.returncode:
            failures.append(complaints[-3000:])
        else:
            results.append(json.loads(output))
    assert not failures, "\n\n".join(failures)
    # Each did all of its kinds of work, so the checks below check something.
    for result in results:
        assert result["seen"] > 0
        assert sum(result["counts"].values()) > 0
        assert len(result["rows"]) > 10
    asyncio.run(_check(path, results))
    assert set(check_file(path)) == {"notes"}


def test_eight_processes(tmp_path: Path) -> None:
    campaign(tmp_path, seconds=2)


@pytest.mark.soak
def test_eight_processes_for_30_seconds(tmp_path: Path) -> None:
    campaign(tmp_path, seconds=30)
