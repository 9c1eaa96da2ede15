"""A process that is killed while it renames or drops leaves the old state or the new one."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from pathlib import Path

import pytest
from tests.sqlite.support import python

import aiovec
from aiovec import Field, Schema

WRITER = """
import asyncio, sys
import aiovec
from aiovec import Field

async def main(target):
    async with aiovec.connect(target) as store:
        tables = await store.tables()
        print("ready", flush=True)
        table = tables[0]
        while True:
            other = "b" if table == "a" else "a"
            await store.rename_table(table, other)
            table = other
            fields = (await store.schema(table)).fields
            if "extra" not in fields:
                await store.add_field(table, "extra", Field(str, index="btree"))
            old, new = ("year", "when") if "year" in fields else ("when", "year")
            await store.rename_field(table, old, new)
            await store.create_field_index(table, "name", "bitmap")
            await store.drop_field(table, "extra")
            await store.drop_field_index(table, "name")

asyncio.run(main(sys.argv[1]))
"""
ROWS = 300


async def fill(target: str) -> None:
    async with aiovec.connect(target) as store:
        schema = Schema(4, fields={"name": str, "year": Field(int, index="btree", nullable=False)})
        await store.create_table("a", schema)
        rows = [
            {"id": f"r{n:04}", "embedding": [1.0, n, 0, 0], "name": f"n{n}", "year": n}
            for n in range(ROWS)
        ]
        await store.insert("a", rows)


async def check(target: str) -> None:
    async with aiovec.connect(target) as store:
        (table,) = await store.tables()
        assert table in ("a", "b")
        fields = dict((await store.schema(table)).fields)
        (year,) = {"year", "when"} & fields.keys()
        assert fields[year] == Field(int, index="btree", nullable=False)
        assert fields["name"] in (Field(str), Field(str, index="bitmap"))
        assert fields.keys() - {"name", year} <= {"extra"}
        found = await store.find(table, limit=ROWS + 1)
        assert [(row.id, row[year]) for row in found] == [(f"r{n:04}", n) for n in range(ROWS)]
        assert await store.count(table, f"{year} < 100") == 100
        assert len(await store.search(table, [1.0, 5, 0, 0], where="name = 'n5'")) == 1
        await store.optimize(table)
        await store.upsert(table, [{"id": "r0000", "embedding": [1.0, 0, 0, 0], year: 0}])
        await store.update(table, {"name": "n0"}, ids="r0000")


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "rounds"), [("sqlite", 6), ("lancedb", 4)])
def test_killed_changes_of_a_schema(tmp_path: Path, backend: str, rounds: int) -> None:
    if backend == "lancedb":
        pytest.importorskip("lancedb")
    target = str(tmp_path / "notes.db") if backend == "sqlite" else f"lancedb://{tmp_path}/notes"
    asyncio.run(fill(target))
    chance = random.Random(11)
    for _ in range(rounds):
        process = python("-c", WRITER, target, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            time.sleep(0.3 * chance.random())
            assert process.poll() is None, "the process ended by itself"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        asyncio.run(check(target))
