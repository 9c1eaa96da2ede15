"""Which SQLite library is used, and the error if none can load extensions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.harness.processes import output_of

pytestmark = pytest.mark.slow  # each test starts another Python process

# This blocks a module as if it were not installed, and makes sqlite3 like that of many Pythons.
WITHOUT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import sqlite3
if {plain!r}:
    class Connection:
        pass
    sqlite3.Connection = Connection
import asyncio, json, aiovec
async def main():
    try:
        async with aiovec.connect(sys.argv[1]) as store:
            await store.create_table("t", aiovec.Schema(4))
            await store.insert("t", [{{"id": "x", "embedding": [1, 2, 3, 4]}}])
            print(json.dumps({{"count": await store.count("t")}}))
    except aiovec.AiovecError as exc:
        print(json.dumps({{"error": type(exc).__name__, "text": str(exc),
                           "fix": getattr(exc, "fix", None)}}))
asyncio.run(main())
"""


def outcome(code: str, tmp_path: Path) -> dict[str, object]:
    result: dict[str, object] = json.loads(output_of("-c", code, tmp_path / "notes.db"))
    return result


def test_neither_driver_can_load_extensions(tmp_path: Path) -> None:
    blocked = ["pysqlite3", "pysqlite3.dbapi2"]
    came = outcome(WITHOUT.format(blocked=blocked, plain=True), tmp_path)
    assert came["error"] == "ExtensionUnavailableError"
    assert "without loadable extensions" in str(came["text"])
    assert "pip install pysqlite3" in str(
        came["fix"]
    ) or "use a Python that loads extensions" in str(came["fix"])
    assert list(tmp_path.iterdir()) == []


def test_sqlite_vec_is_missing(tmp_path: Path) -> None:
    came = outcome(WITHOUT.format(blocked=["sqlite_vec"], plain=False), tmp_path)
    assert came["error"] == "ExtensionUnavailableError"
    assert "pip install sqlite-vec" in str(came["fix"])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 0  # nothing was written


def test_pythons_own_sqlite3_serves_where_it_can(tmp_path: Path) -> None:
    blocked = ["pysqlite3", "pysqlite3.dbapi2"]
    came = outcome(WITHOUT.format(blocked=blocked, plain=False), tmp_path)
    assert came in ({"count": 1}, {**came, "error": "ExtensionUnavailableError"})
