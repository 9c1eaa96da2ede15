"""What sqlite-vec would crash at, and the process with it, is told as damage instead."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sqlite.support import open_store, sql

from aiovec import Field, Schema

# Each call in a process that is alone with it, since what it looks for ends the process.
CALLS = """
import asyncio, sys
import aiovec

async def main(path, call):
    async with await aiovec.connect(path) as store:
        rows = [{"id": "7", "embedding": [1.0] * 8, "n": "b"}]
        try:
            await {
                "get": lambda: store.get("t", ["7"]),
                "search": lambda: store.search("t", [1.0] * 8, exact=True),
                "find": lambda: store.find("t", limit=300, select=["embedding"]),
                "upsert": lambda: store.upsert("t", rows),
                "update": lambda: store.update("t", {"n": "b"}, ids=["7"]),
                "delete": lambda: store.delete("t", ["7"]),
                "insert": lambda: store.insert("t", [{**rows[0], "id": "new"}]),
            }[call]()
        except aiovec.CorruptStoreError as exc:
            print("told:", exc)

asyncio.run(main(*sys.argv[1:]))
"""

DAMAGES = {
    "the table is gone": 'DROP TABLE "t.vec_rowids"',
    "a column is gone": 'ALTER TABLE "t.vec_rowids" RENAME COLUMN chunk_id TO chunk',
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("call", ["get", "search", "find", "upsert", "update", "delete", "insert"])
async def test_a_table_in_which_vec0_finds_no_row(tmp_path: Path, damage: str, call: str) -> None:
    path = tmp_path / "store.db"
    store = await open_store(path)
    await store.create_table("t", Schema(8, fields={"n": Field(str, partition=True)}))
    rows = [{"id": str(n), "embedding": [float(n)] * 8, "n": "a"} for n in range(1, 400)]
    await store.insert("t", rows)
    await store.close()
    with sql(path) as db:
        db.execute(DAMAGES[damage])
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CALLS, str(path), call],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the file is damaged" in done.stdout
