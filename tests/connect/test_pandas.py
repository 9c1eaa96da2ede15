"""pandas is imported where values become Arrow data, and never on the event loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# It is not there for pyarrow, and tells which thread looked for it.
PANDAS = """
import os, threading
with open(os.environ["SEEN"], "a") as seen:
    print(threading.current_thread() is threading.main_thread(), file=seen)
raise ImportError("no pandas")
"""

PROGRAM = """
import asyncio, sys
import aiovec
from aiovec import Embed, Field, Schema

def made(texts):
    return [[1.0, len(text)] for text in texts]

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

async def many(store):
    await store.create_table("notes", Schema(2, fields={"n": Field(int)}))
    await store.insert("notes", rows(500))

async def columns(store):
    await store.create_table("notes", Schema(2))
    await store.insert("notes", {"id": ["a"], "embedding": [[1.0, 2.0]]})

async def texts(store):
    fields = {"text": Field(str)}
    await store.create_table("notes", Schema(2, model="m", fields=fields, embed=Embed("text")))
    await store.insert("notes", [{"id": "a", "text": "water"}])

async def inferred(store):
    await store.create_table("notes", rows(3))

async def main():
    embedder = aiovec.embedder(made, model="m", dim=2)
    async with aiovec.connect("notes.db", embedder=embedder) as store:
        await globals()[sys.argv[1]](store)
        assert await store.count("notes")

asyncio.run(main())
"""


def looked_for_pandas(folder: Path, case: str) -> list[str]:
    """Run the case; for each time that pandas was looked for, whether it was on the loop."""
    (folder / "pandas").mkdir()
    (folder / "pandas" / "__init__.py").write_text(PANDAS)
    seen = folder / "seen"
    environment = {**os.environ, "PYTHONPATH": str(folder), "SEEN": str(seen)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return seen.read_text().split() if seen.exists() else []


def test_few_rows_need_no_pandas(tmp_path: Path) -> None:
    assert looked_for_pandas(tmp_path, "few") == []


@pytest.mark.parametrize("case", ["many", "columns", "texts", "inferred"])
def test_pandas_is_never_imported_on_the_event_loop(tmp_path: Path, case: str) -> None:
    assert set(looked_for_pandas(tmp_path, case)) == {"False"}
