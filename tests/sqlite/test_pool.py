"""Reads that are cancelled leave their connection as the next call needs it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiovec
from aiovec_sqlite.connection import Connection, Ticket
from aiovec_sqlite.driver import connect
from aiovec_sqlite.pool import ReaderPool, SharedConnection

_ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


@pytest.fixture(params=["file", "memory"])
async def readers(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[ReaderPool | SharedConnection]:
    """One connection alone, so that the next call gets it again."""
    if request.param == "file":
        path = str(tmp_path / "store.db")
        pool = ReaderPool(lambda: Connection(lambda: connect(path), "t"), path, 1, 20)
        yield pool
        await pool.close()
    else:
        connection = await Connection(lambda: connect(":memory:"), "t")
        shared = SharedConnection(connection, ":memory:", 20)
        yield shared
        await shared.close()
        await connection.close()


async def _works(readers: ReaderPool | SharedConnection) -> None:
    for _ in range(3):
        assert await readers.run(lambda db, _: db.execute("SELECT 7").fetchone()) == (7,)
    outside = await readers.run_outside_snapshot(lambda db, _: db.in_transaction)
    assert not outside


async def test_a_cursor_keeps_no_interrupt_for_the_end_of_the_transaction(
    readers: ReaderPool | SharedConnection,
) -> None:
    """The next call got "cannot start a transaction within a transaction", and so did all behind
    it: work that finds itself cancelled between two rows leaves a statement that still runs."""
    loop = asyncio.get_running_loop()
    here, interrupted = asyncio.Event(), threading.Event()

    def work(db: sqlite3.Connection, ticket: Ticket) -> None:
        rows = db.execute(_ENDLESS)
        for _ in rows:
            loop.call_soon_threadsafe(here.set)
            assert interrupted.wait(20)
            ticket.check()

    call = asyncio.ensure_future(readers.run(work))
    await here.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    interrupted.set()  # the first interrupt came with the cancellation
    await _works(readers)


@pytest.mark.parametrize("fails", [False, True])
async def test_no_interrupt_comes_while_the_transaction_ends(
    readers: ReaderPool | SharedConnection, fails: bool
) -> None:
    """One that falls between SQLite's look for others and the run of ROLLBACK stops that: a few in
    a million do, so whether it could come is all that a test can look at."""
    held: list[bool] = []

    def work(db: sqlite3.Connection, ticket: Ticket) -> None:
        def authorize(action: int, told: str | None, *_: Any) -> int:
            if told == "ROLLBACK":
                held.append(ticket.whole.locked())
            return sqlite3.SQLITE_OK

        db.set_authorizer(authorize)
        if fails:
            raise LookupError

    with suppress(LookupError):
        await readers.run(work)
    assert held == [True]
    await _works(readers)


async def test_a_transaction_that_was_left_open_is_ended(
    readers: ReaderPool | SharedConnection,
) -> None:
    await readers.run_outside_snapshot(lambda db, _: db.execute("BEGIN") and None)
    await _works(readers)


_CHECKPOINT = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=20)
print(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
"""


async def test_cancelled_reads_leave_no_reader_in_the_way_of_others(tmp_path: Path) -> None:
    """Another process can empty the log, which a read that was left in its snapshot would hold."""
    path, chance = tmp_path / "store.db", random.Random(3)
    loop = asyncio.get_running_loop()
    vectors = np.random.default_rng(3).standard_normal((3_000, 32), np.float32)
    async with aiovec.connect(path) as store:
        schema = aiovec.Schema(32, fields={"n": int, "body": aiovec.Field(str, text=True)})
        await store.create_table("t", schema)
        numbers = range(len(vectors))
        await store.insert(
            "t",
            {
                "id": [f"{n}" for n in numbers], "embedding": vectors, "n": list(numbers),
                "body": [f"word{n % 50} and others" for n in numbers],
            },
        )  # fmt: skip
        reads: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: store.search("t", vectors[0], limit=2_000, where="n > 100"),
            lambda: store.find("t", "n > 100", limit=3_000),
            lambda: store.search_text("t", "word7 others", limit=3_000),
        ]
        stopped = 0
        for n in range(12):
            # No more than there are connections: nobody comes behind who would tidy up.
            calls = [asyncio.ensure_future(read()) for read in reads]
            for call in calls:
                loop.call_later(0.001 + 0.01 * chance.random(), call.cancel)
            ended = await asyncio.gather(*calls, return_exceptions=True)
            failed = [e for e in ended if isinstance(e, Exception)]
            assert not failed
            stopped += sum(isinstance(e, asyncio.CancelledError) for e in ended)
            await store.update("t", {"n": n}, ids="0")
            found = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", _CHECKPOINT, str(path)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            assert found.stdout == "0\n"
        assert stopped > 0
