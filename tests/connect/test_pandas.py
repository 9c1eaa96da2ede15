"""pyarrow and pandas are imported where values become Arrow data, and never on the event loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys, threading

if sys.argv[1].startswith("arrow"):
    import pyarrow as pa  # by the app, which converts no value to Arrow

    def array(kind, count, *buffers):
        return pa.Array.from_buffers(kind, count, [None, *map(pa.py_buffer, buffers)])

    IDS = array(pa.utf8(), 1, bytes([0, 0, 0, 0, 1, 0, 0, 0]), b"a")
    ONES = array(pa.float32(), 2, bytes([0, 0, 128, 63] * 2))
    VECTORS = pa.FixedSizeListArray.from_arrays(ONES, 2)
    TABLE = pa.Table.from_arrays([IDS, VECTORS], ["id", "embedding"])
import aiovec
from aiovec import Field, Schema

class Finder:  # tells which thread looks for a module, and has no pandas
    def find_spec(self, name, *_):
        if name in ("pandas", "pyarrow"):
            print(threading.current_thread() is threading.main_thread())
        if name == "pandas":
            raise ImportError("no pandas")

sys.meta_path.insert(0, Finder())

def rows(count):
    return [{"id": str(n), "embedding": [1.0, n], "n": n, "more": "x"} for n in range(count)]

async def few(store):
    await store.create_table("notes", Schema(2, fields={"n": Field(int)}))
    await store.insert("notes", rows(3))
    await store.search("notes", [1.0, 1.0], where="n > 0")
    await store.find("notes", where="n = 1")
    await store.get("notes", ["1"])
    await store.upsert("notes", rows(2))
    await store.update("notes", {"n": 5}, ids=["1"])
    await store.delete("notes", ["0"])

async def arrow(store):
    await store.create_table("notes", Schema(2))
    await store.insert("notes", TABLE)

async def arrow_in_a_list(store):
    await store.create_table("notes", Schema(2))
    await store.insert("notes", [TABLE])

async def arrow_column(store):
    await store.create_table("notes", Schema(2))
    await store.insert("notes", {"id": ["a"], "embedding": VECTORS})

async def exported(store):
    await few(store)
    assert [batch.num_rows async for batch in store.export("notes")] == [2]

async def changed(store):
    await few(store)
    assert (await store.changes("notes")).upserted.num_rows == 2

async def main():
    async with aiovec.connect("notes.db") as store:
        await globals()[sys.argv[1]](store)
        assert await store.count("notes")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "case",
    [
        "arrow_column",
        "exported",
        pytest.param("arrow", marks=pytest.mark.slow),
        pytest.param("arrow_in_a_list", marks=pytest.mark.slow),
        pytest.param("changed", marks=pytest.mark.slow),
    ],
)
def test_pyarrow_and_pandas_are_imported_in_a_thread(tmp_path: Path, case: str) -> None:
    """And never on the event loop."""
    command = [sys.executable, "-c", PROGRAM, case]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == {"False"}
