"""A store that is not closed causes a warning, and never keeps the process from ending."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.harness.processes import run_python
from tests.harness.scripts import KINDS, target_in

import aiovec

pytestmark = pytest.mark.slow

COMMON = """
import asyncio, gc, sys
import aiovec
async def open_store(path):
    store = await aiovec.connect(path)
    await store.create_table("t", aiovec.Schema(4), exist_ok=True)
    await store.upsert("t", [{"id": "a", "embedding": [1, 2, 3, 4]}])
    await store.search("t", [1, 2, 3, 4])
    return store
def row(n): return {"id": f"x{n}", "embedding": [1, 2, 3, 4]}
"""
IN_FLIGHT = """
async def main():
    store = await open_store(sys.argv[1])
    tasks = [asyncio.ensure_future(store.insert("t", [row(n)])) for n in range(100)]
    tasks += [asyncio.ensure_future(store.search("t", [1, 2, 3, 4])) for n in range(300)]
    export = store.export("t", batch_size=1)
    await anext(export)
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
asyncio.run(main())
"""


def run(code: str, *arguments: str) -> tuple[str, str]:
    """Run code in another process, and return its standard output and standard error."""
    done = run_python("-X", "dev", "-c", COMMON + code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_process_ends_with_calls_in_flight(tmp_path: Path, kind: str) -> None:
    target = target_in(tmp_path, kind)
    _, complaints = run(IN_FLIGHT, target)
    assert "Exception in thread" not in complaints
    assert "ResourceWarning" in complaints
    assert "was never closed" in complaints

    async def count() -> int:
        async with aiovec.connect(target) as store:
            return await store.count("t", "id = 'a'")

    assert asyncio.run(count()) == 1  # the acknowledged row exists


AT_EXIT = """
import atexit
import aiovec.sync
store = aiovec.sync.connect(sys.argv[1])
store.create_table("t", aiovec.Schema(4))
store.insert("t", [row(n) for n in range(2)])
while store.stats("t").details["searched"] != "in memory":
    store.search("t", [1, 2, 3, 4])
def bye():
    store.upsert("t", [row(n) for n in range(3)])
    print(store.count("t"), len(store.search("t", [1, 2, 3, 4])))
    store.close()
atexit.register(bye)
"""


OPENED_AT_EXIT = """
import atexit
import aiovec.sync
def bye():
    for opened in (lambda: asyncio.run(open_store(sys.argv[1])),
                   lambda: aiovec.sync.connect(sys.argv[1])):
        try:
            opened()
        except aiovec.AiovecError as exc:
            print(exc)
atexit.register(bye)
"""


def test_opening_a_first_store_while_the_process_exits_is_an_error(tmp_path: Path) -> None:
    said, _ = run(OPENED_AT_EXIT, str(tmp_path / "notes.db"))
    assert said.count("no store can be opened while the process ends") == 2


def test_a_store_can_be_used_while_the_process_exits(tmp_path: Path) -> None:
    said, complaints = run(AT_EXIT, str(tmp_path / "notes.db"))
    assert said == "3 3\n"
    assert "ResourceWarning" not in complaints
