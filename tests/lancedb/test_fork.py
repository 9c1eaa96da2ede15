"""A process that is forked while a store is open: the child gets an error, never a hang."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .support import run_code

# Prints what each call in the child came to, and how the child and the parent ended. A child that
# hangs is ended by the alarm.
FORK = """
import asyncio, json, os, signal, sys, warnings
import aiovec
from aiovec import AiovecError, Schema, StoreClosedError

# lancedb and Python itself warn of the fork as such.
warnings.simplefilter("ignore")
told, tell = os.pipe()
target = "lancedb://" + sys.argv[1]
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
    }
    came = {}
    for name, call in calls.items():
        try:
            await call()
            came[name] = "done"
        except StoreClosedError as exc:
            came[name] = str(exc)
    try:
        async with aiovec.connect(target):
            came["open"] = "done"
    except AiovecError as exc:
        came["open"] = str(exc)
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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
async def test_a_fork_after_opening(tmp_path: Path) -> None:
    status, came, count = json.loads(await run_code(FORK, str(tmp_path / "s")))
    assert status == 0, f"the child did not end: {came}"
    assert set(came) == {"search", "insert", "get", "export", "tables", "optimize", "open"}
    for call, told in came.items():
        assert "fork" in told, f"{call}: {told}"
    assert count == 1
