"""A connection on its own thread: what is used there is let go of there."""

import gc
import sqlite3
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import backend_of, opened

from aiovec_sqlite.connection import Connection, Ticket
from aiovec_sqlite.driver import connect
from aiovec_sqlite.writer import Transaction


class RefusedError(Exception):
    pass


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def _rows(db: sqlite3.Connection, kept: list[Any]) -> Iterator[Any]:
    cursor = db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    )
    kept.append(weakref.ref(cursor))
    yield from cursor


def _deep(db: sqlite3.Connection, kept: list[Any]) -> None:
    rows = _rows(db, kept)
    for (row,) in rows:
        if row == 3:
            raise RefusedError


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("cancellable", [False, True])
async def test_an_error_holds_no_cursor_of_the_thread(cancellable: bool) -> None:
    """It would be reset on the thread that drops the error, beside what runs on this one."""
    connection = await Connection(lambda: connect(":memory:"), "t")
    kept: list[Any] = []

    def work(db: sqlite3.Connection, _: Ticket | None = None) -> None:
        started = db.execute("SELECT 1 UNION ALL SELECT 2")
        kept.append(weakref.ref(started))
        try:
            try:
                _deep(db, kept)
            except RefusedError:
                second = db.execute("SELECT 1 UNION ALL SELECT 2")
                kept.append(weakref.ref(second))
                raise LookupError("Restore the backup")  # noqa: B904 - so that it has a context alone
        except LookupError as exc:
            raise ValueError("at last") from exc

    with pytest.raises(ValueError, match="at last") as raised:
        await (
            connection.run_cancellable(work, lambda: None) if cancellable else connection.run(work)
        )
    assert isinstance(raised.value.__cause__, LookupError)
    assert isinstance(raised.value.__cause__.__context__, RefusedError)
    assert len(kept) == 3
    assert [ref() for ref in kept] == [None] * 3
    await connection.close()


@pytest.mark.usefixtures("no_gc")
async def test_nor_does_an_error_of_a_write(tmp_path: Path) -> None:
    kept: list[Any] = []

    def work(tx: Transaction) -> None:
        started = tx.db.execute("SELECT 1 UNION ALL SELECT 2")
        kept.append(weakref.ref(started))
        _deep(tx.db, kept)

    async with opened(tmp_path / "notes.db") as store:
        with pytest.raises(RefusedError) as raised:
            await backend_of(store)._write(work)
        assert [ref() for ref in kept] == [None] * 2
    del raised


async def test_an_error_still_tells_where_it_was_raised() -> None:
    connection = await Connection(lambda: connect(":memory:"), "t")
    with pytest.raises(Exception, match="no such table") as raised:
        await connection.run(lambda db: db.execute("SELECT * FROM missing"))
    assert any(entry.name == "_serve" for entry in raised.traceback)
    await connection.close()


_INTERRUPTED = """
import asyncio, sys
import aiovec
from aiovec_sqlite.connection import CancelledWorkError, Connection

opened = Connection._open_here

def open_here(self):
    opened(self)
    # As where a caller is cancelled while this reads the first vector of the connection.
    db, reads = self._connection, []
    db.set_trace_callback(lambda sql: reads.append(sql.startswith("SELECT CAST(")))
    db.set_progress_handler(lambda: self.interrupt_now() if reads[-1:] == [True] else None, 1)

async def main(target):
    rows = [{"id": str(n), "embedding": [float(n + 1)] * 8, "n": n} for n in range(400)]
    async with await aiovec.connect(target) as store:
        await store.create_table("t", aiovec.Schema(dim=8, fields={"n": int}))
        await store.insert("t", rows)
    Connection._open_here = open_here
    async with await aiovec.connect(target) as store:
        for call in (
            lambda: store.get("t", ["7", "8"]),
            lambda: store.search("t", [1.0] * 8, limit=5, exact=True),
            lambda: store.find("t", limit=99, select=["embedding"]),
        ):
            try:
                print(len(await call()))
            except (aiovec.AiovecError, CancelledWorkError) as exc:
                print(repr(exc))

asyncio.run(main(sys.argv[1]))
"""


def test_what_sqlite_vec_prepares_is_not_interrupted(tmp_path: Path) -> None:
    """It crashes where it is: a search cancelled at the wrong moment ended the process."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path / "store.db")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "5", "99"]


_ENDING_LOOPS = """
import asyncio, random, sys
import numpy as np
import aiovec

async def calls(path, turn, seed):
    chance = random.Random(f"{seed}-{turn}")
    store = await aiovec.connect(path)
    if turn == 0:
        await store.create_table("t", aiovec.Schema(8, fields={"n": int}))
    vectors = np.random.default_rng(turn).standard_normal((400, 8), dtype=np.float32)
    await store.upsert("t", {"id": [str(n) for n in range(turn, turn + 400)],
                             "embedding": vectors, "n": [turn] * 400})
    async def export():
        async for _ in store.export("t", batch_size=10):
            await asyncio.sleep(0)
    left = [asyncio.ensure_future(call) for call in (
        *(store.search("t", vector) for vector in vectors[:6]),
        *(store.get("t", [str(turn + n)]) for n in range(4)), export(), export(),
    )]
    await asyncio.sleep(chance.choice([0, 0.02 * chance.random()]))
    left.clear()

for turn in range(250):
    asyncio.run(calls(sys.argv[1], turn, sys.argv[2]))
print("whole")
"""


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_many_loops_that_end(tmp_path: Path, seed: int) -> None:
    """Every call is cancelled, most of them at the first look of a new connection."""
    done = subprocess.run(
        [sys.executable, "-c", _ENDING_LOOPS, str(tmp_path / "store.db"), str(seed)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
