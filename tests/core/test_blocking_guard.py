"""The fixture that fails a test whose event loop is blocked does see such calls."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from blockbuster import BlockingError

import aiovec

try:
    import pysqlite3.dbapi2 as other_driver
except ImportError:  # there are no wheels of it for this platform
    other_driver = None

DRIVERS = [sqlite3] if other_driver is None else [sqlite3, other_driver]


def _in_the_product(call: Callable[[], Any]) -> Any:
    """Call it from a frame that seems to lie in the product's folder."""
    made: dict[str, Any] = {}
    exec(compile("def run(call): return call()", aiovec.__file__, "exec"), made)
    return made["run"](call)


async def test_a_blocking_call_is_seen_and_kept(watched_loops: list[str]) -> None:
    with pytest.raises(BlockingError):
        _in_the_product(lambda: time.sleep(0.001))
    assert len(watched_loops) == 1
    assert "time.sleep" in watched_loops[0]
    watched_loops.clear()


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.__name__)
async def test_sql_on_the_loop_is_seen(
    watched_loops: list[str], driver: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    connection = await asyncio.to_thread(driver.connect, path, check_same_thread=False)
    for call in (lambda: connection.execute("SELECT 1"), connection.commit):
        with pytest.raises(BlockingError):
            _in_the_product(call)
    await asyncio.to_thread(connection.close)
    assert len(watched_loops) == 2
    watched_loops.clear()


async def test_what_runs_in_a_thread_is_no_fault(watched_loops: list[str]) -> None:
    await asyncio.to_thread(_in_the_product, lambda: time.sleep(0.001))
    time.sleep(0.001)  # noqa: ASYNC251 - the test's own
    assert not watched_loops
