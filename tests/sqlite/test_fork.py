"""A process that is forked while a store is open: the child gets an error, never a hang (B9)."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import AiovecError, Schema
from aiovec_sqlite import backup
from aiovec_sqlite.forking import GATE, Gate
from aiovec_sqlite.reads import ExportLimits, OwnCopy

from .support import opened, run_code

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

# A child waits on the same files as its parent by one epoll, so it leaves the parent's loop at once
# and alone. A further round of it may take the byte that wakes the parent, and its end, at which
# the interpreter closes it, takes out the socket by which threads wake the parent: that would wait
# for ever. A child that hangs tells where, and is ended by the alarm.
LEAVE = """
import faulthandler, signal

class InChild(SystemExit):
    "No loop goes on after it."

def leave(loop, inherited=None):
    signal.alarm(60)
    faulthandler.dump_traceback_later(40)
    loop.close = lambda: None
    raise InChild(inherited)
"""

# Forks while reads, a write and an export are under way, and prints what each call in the child
# came to. The child ends as an ordinary Python does, with all that it inherited collected.
FORK = """
import asyncio, gc, json, os, sys, warnings
import aiovec
from aiovec import AiovecError, Schema, StoreClosedError

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of the fork as such
warnings.filterwarnings("error", category=ResourceWarning)
told, tell = os.pipe()

def rows(count, start=0):
    return [{"id": f"r{n}", "embedding": [1.0, n, 2.0, 3.0]} for n in range(start, start + count)]

async def export(store):
    return [batch async for batch in store.export("notes")]

async def in_child(store):
    calls = {
        "search": lambda: store.search("notes", [1, 2, 3, 4], limit=2),
        "insert": lambda: store.insert("notes", rows(1, 900)),
        "get": lambda: store.get("notes", "r1"),
        "export": lambda: export(store),
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
    await store.close()
    try:
        await aiovec.connect(sys.argv[1])
    except AiovecError as exc:
        came["own"] = str(exc)
    async with aiovec.connect(sys.argv[1] + ".other") as own:
        await own.create_table("notes", Schema(4))
        came["other"] = await own.insert("notes", rows(1))
    return came

async def main():
    store = await aiovec.connect(sys.argv[1])
    await store.create_table("notes", Schema(4))
    await store.insert("notes", rows(500))
    await store.search("notes", [1, 2, 3, 4], limit=2)
    exporting = store.export("notes", batch_size=10)
    await anext(exporting)
    under_way = [
        asyncio.ensure_future(call)
        for call in (
            store.count("notes"),
            store.find("notes", limit=500),
            store.insert("notes", rows(5, 600)),
        )
    ]
    await asyncio.sleep(0.002)  # they have begun
    child = os.fork()
    if child == 0:
        leave(loop, [store, under_way, exporting])
    faulthandler.dump_traceback_later(100)  # after the fork, or the child would wait for its lock
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    os.close(tell)
    came = json.loads(os.read(told, 100_000).decode() or "{}")
    left = sum([len(batch) async for batch in exporting])
    await asyncio.gather(*under_way)
    await store.insert("notes", rows(1, 800))
    count = await store.count("notes")
    await store.close()
    print(json.dumps([status, came, left, count]))

loop = asyncio.new_event_loop()
inherited = None
try:
    loop.run_until_complete(main())
except InChild as exc:
    inherited = exc.code
if inherited is not None:
    came = asyncio.run(in_child(inherited[0]))
    os.write(tell, json.dumps(came).encode())
    os.close(tell)
    for task in inherited[1]:
        task._log_destroy_pending = False
    del inherited
    gc.collect()
    sys.exit(0)
loop.close()
"""


def test_a_fork_while_calls_run(tmp_path: Path) -> None:
    done = run_code(LEAVE + FORK, str(tmp_path / "notes.db"))
    assert done.returncode == 0, done.stderr
    status, came, left, count = json.loads(done.stdout)
    assert status == 0, f"the child did not end well: {came} {done.stderr}"
    assert came.pop("other") == 1
    # SQLite's count of locks was copied by the fork, and the locks were not.
    assert "was open when this process was forked" in came.pop("own")
    assert set(came) == {"search", "insert", "get", "export", "tables", "optimize"}
    for call, told in came.items():
        assert "before this process was forked" in told, f"{call}: {told}"
    assert left == 490  # of the snapshot before the write under way
    assert count == 500 + 5 + 1
    with closing(sqlite3.connect(tmp_path / "notes.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# Two threads have SQLite allocate without a pause while the process is forked again and again.
# Without the gate, one child in fifteen finds a mutex of SQLite's locked for ever.
FORKS = """
import asyncio, os, sys, warnings
import aiovec
from aiovec import Schema
from aiovec_sqlite.connection import Connection
from aiovec_sqlite.driver import connect

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of the fork as such
ALLOCATE = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 5000) "
    "SELECT count(*) FROM (SELECT x || 'text' AS text FROM n ORDER BY text DESC)"
)

async def allocate(connection):
    while True:
        await connection.run(lambda db: db.execute(ALLOCATE).fetchone())

async def main():
    threads = [await Connection(lambda: connect(":memory:"), "allocates") for _ in range(2)]
    under_way = [asyncio.ensure_future(allocate(one)) for one in threads]
    children = []
    for _ in range(int(sys.argv[2])):
        await asyncio.sleep(0.02)
        child = os.fork()
        if child == 0:
            leave(loop)
        children.append(child)
    for task in under_way:
        task.cancel()
    for one in threads:
        await one.close()
    # Only now, or the threads would go on for as long as each child takes.
    return [os.waitpid(child, 0)[1] for child in children]

async def in_child():
    async with aiovec.connect(f"{sys.argv[1]}/{os.getpid()}.db") as own:
        await own.create_table("notes", Schema(4))

loop = asyncio.new_event_loop()
try:
    print(loop.run_until_complete(main()))
except InChild:
    asyncio.run(in_child())
    os._exit(0)
"""


def test_a_fork_amid_allocations_of_sqlite(tmp_path: Path) -> None:
    done = run_code(LEAVE + FORKS, str(tmp_path), "15")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0] * 15, done.stderr


def test_a_fork_waits_for_those_inside_and_lets_nobody_in() -> None:
    gate, order = Gate(longest_wait=60), list[str]()
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with gate:
            inside.set()
            leave.wait()
            order.append("left")

    def come() -> None:
        with gate:
            order.append("came")

    def fork() -> None:
        gate.before_fork()
        order.append("forked")

    threads = [threading.Thread(target=work), threading.Thread(target=fork)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join()
    late = threading.Thread(target=come)
    late.start()
    order.append("over")
    gate.after_fork_in_parent()
    late.join()
    assert order == ["left", "forked", "over", "came"]
    gate.check()


async def test_a_fork_waits_for_all_that_uses_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also outside the threads of connections: restoring, and an export's end."""
    path, kept, counted = tmp_path / "notes.db", tmp_path / "kept.db", dict[str, bool]()
    moved = threading.Event()

    def watch(place: Any, name: str, then: Callable[[], object] = bool) -> None:
        called = getattr(place, name)

        def watched(*args: Any, **options: Any) -> Any:
            counted[name] = GATE._inside > 0
            result = called(*args, **options)
            then()
            return result

        monkeypatch.setattr(place, name, watched)

    watch(backup, "_copy")
    watch(backup, "_held_alone")
    watch(OwnCopy, "move", moved.set)
    watch(OwnCopy, "close")
    async with opened(path, limits={"exports": ExportLimits(most_wal=0, look_every=0.01)}) as store:
        await store.create_table("notes", Schema(4))
        await store.insert("notes", [{"id": id, "embedding": [1, 2, 3, 4]} for id in "abc"])
        async with aclosing(store.export("notes", batch_size=1)) as export:
            await anext(export)
            assert await asyncio.to_thread(moved.wait, 60)
        await store.backup(kept)
    await aiovec.restore(kept, path, overwrite=True)
    assert counted == dict.fromkeys(["_copy", "_held_alone", "move", "close"], True)


def test_a_child_of_a_fork_amid_work_that_goes_on_refuses_sqlite() -> None:
    gate = Gate(longest_wait=0.01)
    with gate:
        gate.before_fork()
        gate.after_fork_in_child()
        with pytest.raises(AiovecError, match="forked while SQLite was at work"):
            gate.check()
        with gate:  # what was inherited holds nobody up
            pass
