"""Which SQLite library opens stores: Python's own if it can, otherwise sqlcipher3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness import vec0
from tests.harness.cases import case
from tests.harness.processes import ROOT, output_of

# What many Pythons' sqlite3 is like: without extensions, without FTS5, or old.
PLAIN = (ROOT / "tests/harness/plain/sitecustomize.py").read_text("utf-8")
WITHOUT_FTS5 = """
import sqlite3
from functools import partial
class Plain(sqlite3.Connection):
    def enable_load_extension(self, enable):
        pass
    def execute(self, sql, *args):
        return super().execute(sql.replace("fts5", "no_fts5"), *args)
sqlite3.connect = partial(sqlite3.connect, factory=Plain)
"""
OLD = "import sqlite3; sqlite3.sqlite_version, sqlite3.sqlite_version_info = '3.37.2', (3, 37, 2)\n"
# A sqlite3 that loads extensions, which not every Python that runs the tests has.
ABLE = """
import sys, sqlcipher3.dbapi2
sys.modules["sqlite3"] = sqlcipher3.dbapi2
"""
BLOCKED = """
import sys
for name in ("sqlcipher3", "sqlcipher3.dbapi2"):
    sys.modules[name] = None
"""
PROGRAM = """
import asyncio, json, sys, aiovec
from aiovec import Schema
async def main():
    try:
        async with aiovec.connect(sys.argv[1]) as store:
            schema = Schema(4, fields={"body": aiovec.Field(str, text=True)}, analyzer="english")
            await store.create_table("t", schema, exist_ok=True)
            row = {"id": sys.argv[2], "embedding": [1, 2, 3, 4], "body": "foxes", "more": 1}
            await store.insert("t", [row])
            await store.optimize("t")
            where = "payload.more = 1"
            found = sorted(hit.id for hit in await store.search_text("t", "fox", where=where))
            assert found == sorted(hit.id for hit in await store.search("t", [1, 2, 3, 4]))
        print(json.dumps({"found": found, "other": bool(sys.modules.get("sqlcipher3"))}))
    except aiovec.AiovecError as exc:
        print(json.dumps({"error": type(exc).__name__, "text": str(exc),
                          "fix": getattr(exc, "fix", None)}))
asyncio.run(main())
"""


def outcome(code: str, path: Path, id: str = "a") -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output_of("-c", code + PROGRAM, path, id))
    return result


def test_pythons_own_sqlite3_opens_stores_if_it_can(tmp_path: Path) -> None:
    assert outcome(ABLE + BLOCKED, tmp_path / "notes.db") == {"found": ["a"], "other": False}
    if vec0.OWN:  # sqlcipher3 is installed here, and stays unused
        assert outcome("", tmp_path / "notes.db", "b") == {"found": ["a", "b"], "other": False}


@pytest.mark.slow
def test_otherwise_sqlcipher3_opens_them_or_the_error_names_it(tmp_path: Path) -> None:
    doctor = "import sys\nsys.argv[1:] = ['doctor']\nfrom aiovec.__main__ import main\nmain()"
    for code, reason in (
        (PLAIN, "was built without loadable extensions, which sqlite-vec needs"),
        (WITHOUT_FTS5, "was built without FTS5, which keyword searches need"),
        (OLD, "has SQLite 3.37.2, and aiovec needs 3.38.0 or newer"),
    ):
        with case(reason):
            path = tmp_path / "notes.db"
            path.unlink(missing_ok=True)
            refused = outcome(code + BLOCKED, path)
            assert refused["error"] == "ExtensionUnavailableError"
            assert reason in refused["text"]
            assert "pip install sqlcipher3" in refused["fix"]
            assert list(tmp_path.iterdir()) == []
            assert outcome(code, path) == {"found": ["a"], "other": True}
            lines = output_of("-c", code + doctor)
            assert f"because Python's sqlite3 {reason}; never open a store's file" in lines


@pytest.mark.skipif(not vec0.OWN, reason="this Python's sqlite3 loads no extensions")
def test_a_store_of_one_library_opens_with_the_other(tmp_path: Path) -> None:
    ids: list[str] = []
    for turn, code in enumerate(("", PLAIN, "", PLAIN)):
        ids.append(f"r{turn}")
        came = outcome(code, tmp_path / "notes.db", ids[-1])
        assert came == {"found": ids, "other": bool(code)}
        with vec0.driver.connect(tmp_path / "notes.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_sqlite_vec_is_missing(tmp_path: Path) -> None:
    came = outcome("import sys\nsys.modules['sqlite_vec'] = None\n", tmp_path / "notes.db")
    assert came["error"] == "ExtensionUnavailableError"
    assert "pip install sqlite-vec" in came["fix"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 0  # nothing was written
