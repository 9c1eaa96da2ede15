"""A process that is forked while a store is open: the child gets an error, never a hang."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from tests.harness.processes import run_python

# This program prints how the child ended, the result of each of its calls, and the parent's rows.
# The alarm ends a child that hangs.
FORK = """
import asyncio, json, os, signal, sys, warnings
import aiovec
from aiovec import AiovecError, Schema

warnings.simplefilter("ignore")  # lancedb and Python itself warn of the fork as such
told, tell = os.pipe()
target = sys.argv[1]
row = {"id": "a", "embedding": [1, 2, 3, 4]}

async def rows(store):
    return [batch async for batch in store.export("notes")]

async def in_child(store):
    calls = {
        "search": lambda: store.search("notes", [1, 2, 3, 4], exact=True),
        "insert": lambda: store.insert("notes", [row]),
        "get": lambda: store.get("notes", "a"),
        "export": lambda: rows(store),
        "tables": store.tables,
        "optimize": lambda: store.optimize("notes"),
        "open": lambda: aiovec.connect(target).__aenter__(),
    }
    came = {}
    for name, call in calls.items():
        try:
            await call()
            came[name] = "done"
        except AiovecError as exc:
            came[name] = str(exc)
    await store.close()
    if target.endswith(".db"):  # SQLite opens another file in a forked process
        async with aiovec.connect(target + ".other") as own:
            await own.create_table("notes", Schema(4))
            assert await own.insert("notes", [row]) == 1
    return came

async def before():
    store = await aiovec.connect(target)
    await store.create_table("notes", Schema(4))
    await store.search("notes", [1, 2, 3, 4], exact=True)
    return store

runner = asyncio.Runner()
store = runner.run(before())
child = os.fork()
if not child:
    signal.alarm(60)
    came = asyncio.new_event_loop().run_until_complete(in_child(store))
    os.write(tell, json.dumps(came).encode())
    os._exit(0)
_, status = os.waitpid(child, 0)
os.close(tell)
came = os.read(told, 100_000).decode()
runner.run(store.insert("notes", [row]))
count = runner.run(store.count("notes"))
runner.run(store.close())
runner.close()
print(json.dumps([status, json.loads(came or "{}"), count]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    "target",
    [
        pytest.param("{}/s.db", id="sqlite"),
        pytest.param("lancedb://{}/s", id="lancedb", marks=pytest.mark.slow),
    ],
)
async def test_a_forked_child_gets_an_error(tmp_path: Path, target: str) -> None:
    done = await asyncio.to_thread(run_python, "-c", FORK, target.format(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    status, came, count = json.loads(done.stdout)
    assert status == 0, f"the child did not end: {came}"
    assert set(came) == {"search", "insert", "get", "export", "tables", "optimize", "open"}
    for call, message in came.items():
        assert "fork" in message, f"{call}: {message}"
    assert count == 1
