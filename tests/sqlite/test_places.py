"""What sqlite-vec would crash at, and the process with it, is told as damage instead."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sqlite.support import open_store, sql

from aiovec import Field, Schema

# In a process of their own, since what they look for ends the process.
CALLS = """
import asyncio, sys
import aiovec

async def main(path):
    rows = [{"id": "7", "embedding": [1.0] * 8, "n": "b"}]
    for name, call in {
        "get": lambda store: store.get("t", ["7"]),
        "search": lambda store: store.search("t", [1.0] * 8, exact=True),
        "find": lambda store: store.find("t", limit=300, select=["embedding"]),
        "upsert": lambda store: store.upsert("t", rows),
        "update": lambda store: store.update("t", {"n": "b"}, ids=["7"]),
        "delete": lambda store: store.delete("t", ["7"]),
        "insert": lambda store: store.insert("t", [{**rows[0], "id": "new"}]),
    }.items():
        async with await aiovec.connect(path) as store:  # each on a store that knows nothing yet
            try:
                await call(store)
            except aiovec.CorruptStoreError as exc:
                print(name, "told:", exc, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""

DAMAGES = {
    "the table is gone": 'DROP TABLE "t.vec_rowids"',
    "a column is gone": 'ALTER TABLE "t.vec_rowids" RENAME COLUMN chunk_id TO chunk',
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_table_in_which_vec0_finds_no_row(tmp_path: Path, damage: str) -> None:
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
        [sys.executable, "-c", CALLS, str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert re.match(r"\w+ told: .*the file is damaged", line), line
    assert done.stdout.count("\n") == 7
