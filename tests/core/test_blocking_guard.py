"""The fixture that fails a test whose event loop is blocked does see such calls."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from types import ModuleType

import pytest
from blockbuster import BlockingError

try:
    import pysqlite3.dbapi2 as other_driver
except ImportError:  # there are no wheels of it for this platform
    other_driver = None

DRIVERS = [sqlite3] if other_driver is None else [sqlite3, other_driver]


async def test_a_blocking_call_is_seen_and_kept(_watched_loops: list[str]) -> None:
    with pytest.raises(BlockingError):
        time.sleep(0.001)  # noqa: ASYNC251 - the fault that is to be seen
    assert len(_watched_loops) == 1
    assert "time.sleep" in _watched_loops[0]
    _watched_loops.clear()


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.__name__)
async def test_sql_on_the_loop_is_seen(
    _watched_loops: list[str], driver: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    connection = await asyncio.to_thread(driver.connect, path, check_same_thread=False)
    for call in (lambda: connection.execute("SELECT 1"), connection.commit):
        with pytest.raises(BlockingError):
            call()
    await asyncio.to_thread(connection.close)
    assert len(_watched_loops) == 2
    _watched_loops.clear()


async def test_what_runs_in_a_thread_is_no_fault(_watched_loops: list[str]) -> None:
    await asyncio.to_thread(time.sleep, 0.001)
    assert not _watched_loops
