"""A process that is forked while a store is open: the child gets an error, never a hang."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .support import run_code

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

# Prints what each call in the child came to, and how the child and the parent ended. A child that
# hangs is ended by the alarm.
FORK = """
import asyncio, json, os, signal, sys, warnings
from aiovec import AiovecError, StoreClosedError
from tests.lancedb.support import SMALL, numbered, opened

# lancedb and Python itself warn of the fork as such.
warnings.simplefilter("ignore")
told, tell = os.pipe()

async def rows(store):
    return [batch async for batch in store.export("notes")]

async def in_child(store):
    calls = {
        "search": lambda: store.search("notes", [1, 2, 3, 4], limit=2, exact=True),
        "insert": lambda: store.insert("notes", numbered(1, start=900)),
        "get": lambda: store.get("notes", "r00001"),
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
        async with opened(sys.argv[1]):
            came["open"] = "done"
    except AiovecError as exc:
        came["open"] = str(exc)
    await store.close()
    came["close"] = "done"
    return came

loop = asyncio.new_event_loop()

async def before():
    await store.create_table("notes", SMALL)
    await store.insert("notes", numbered(500))
    await store.search("notes", [1, 2, 3, 4], limit=2, exact=True)

context = opened(sys.argv[1])
store = loop.run_until_complete(context.__aenter__())
loop.run_until_complete(before())
child = os.fork()
if not child:
    signal.alarm(30)
    os.write(tell, json.dumps(asyncio.run(in_child(store))).encode())
    os._exit(0)
_, status = os.waitpid(child, 0)
os.close(tell)
came = os.read(told, 100_000).decode()
loop.run_until_complete(store.insert("notes", numbered(1, start=700)))
count = loop.run_until_complete(store.count("notes"))
loop.run_until_complete(context.__aexit__(None, None, None))
print(json.dumps([status, json.loads(came or "{}"), count]))
"""


async def test_a_fork_after_opening(tmp_path: Path) -> None:
    status, came, count = json.loads(await run_code(FORK, str(tmp_path / "s")))
    assert status == 0, f"the child did not end: {came}"
    assert came.pop("close") == "done"
    assert set(came) == {"search", "insert", "get", "export", "tables", "optimize", "open"}
    for call, told in came.items():
        assert "before this process was forked" in told, f"{call}: {told}"
    assert count == 501
