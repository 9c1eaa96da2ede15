"""Foreign, newer and damaged files get a clear error, and no byte of them changes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from asyncio import to_thread
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import PIPE

import pytest
from tests.harness.cases import case
from tests.harness.command import run
from tests.harness.processes import python
from tests.harness.scripts import KINDS, SCHEMA, TABLE, row, target_in

import aiovec
from aiovec import AiovecError, CorruptStoreError, Field, Schema

OF_ANOTHER = "another application, or one that aiovec did not create"


def in_sqlite(path: Path, *statements: str) -> None:
    """Run statements without aiovec."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def made_by(*statements: str) -> Callable[[Path], object]:
    return lambda path: in_sqlite(path, *statements)


STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "of another application": (
        made_by("PRAGMA application_id = 1234", "CREATE TABLE t (x)"), "another application",
    ),
    "a database": (made_by("CREATE TABLE notes (id)", "INSERT INTO notes VALUES (1)"), OF_ANOTHER),
    "in WAL mode": (made_by("PRAGMA journal_mode = WAL", "CREATE TABLE t (x)"), OF_ANOTHER),
    "with names of ours": (made_by("CREATE TABLE aiovec_state (key, value)"), OF_ANOTHER),
    "a text": (lambda path: path.write_text("id,text\na,hello\n" * 50), "not a SQLite database"),
    "a short text": (lambda path: path.write_text("hi"), "not a SQLite database"),
    "zeros": (lambda path: path.write_bytes(bytes(100_000)), "not a SQLite database"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a closed store, for tests to copy."""
    path = tmp_path_factory.mktemp("whole") / "notes.db"

    async def make() -> None:
        async with aiovec.connect(path) as store:
            await store.create_table(TABLE, SCHEMA)
            await store.insert(TABLE, [row(f"r{n}", n) for n in range(400)])

    asyncio.run(make())
    return path


def look_at(path: Path) -> dict[str, tuple[str, int]]:
    """Return the hash and the time of each file in the folder."""
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in path.parent.iterdir()
    }


async def refused(path: Path, message: str) -> None:
    before = await to_thread(look_at, path)
    for read_only in (False, True):
        with pytest.raises(CorruptStoreError, match=message) as caught:
            await aiovec.connect(path, read_only=read_only)
        assert caught.value.target == str(path)
        assert str(path) in str(caught.value)
    assert await to_thread(look_at, path) == before


async def test_a_foreign_file_is_refused_unchanged(tmp_path: Path) -> None:
    for number, (name, (make, message)) in enumerate(STRANGERS.items()):
        with case(name):
            path = tmp_path / str(number) / "notes.db"
            await to_thread(path.parent.mkdir)
            await to_thread(make, path)
            await refused(path, message)
            # No connection stays open, so the file can be moved.
            await to_thread(path.rename, path.with_name("kept"))
            async with aiovec.connect(path) as store:
                assert await store.tables() == []


async def test_a_file_of_a_newer_layout_is_refused_unchanged(tmp_path: Path, whole: Path) -> None:
    for mode in ("WAL", "DELETE"):
        path = Path(await to_thread(shutil.copy, whole, tmp_path / f"{mode}.db"))
        statements = (f"PRAGMA journal_mode = {mode}", "PRAGMA user_version = 77")
        await to_thread(in_sqlite, path, *statements)
        await refused(path, "layout 77.*upgrade aiovec")


def in_schema(statement: str) -> tuple[str, ...]:
    """Return statements that write another statement into the schema, as a table's."""
    entry = f"INSERT INTO sqlite_master VALUES ('table', 'v', 'v', 0, '{statement}')"
    return "PRAGMA writable_schema = ON", entry


# SQL in a table's schema that would run forever, or use unlimited memory, in calls on the table.
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT"
ROWS = f'"{TABLE}.rows"'
HOSTILE = {
    "the state": (
        "DROP TABLE aiovec_state",
        f"CREATE VIEW aiovec_state AS {ENDLESS} 'change' AS key, x AS value FROM n",
    ),
    "the list of tables": (
        "ALTER TABLE aiovec_tables RENAME TO real",
        f"CREATE VIEW aiovec_tables AS SELECT * FROM real WHERE ({ENDLESS} max(x) FROM n)",
    ),
    "the rows": (
        f"ALTER TABLE {ROWS} RENAME TO real",
        f"CREATE VIEW {ROWS} AS SELECT * FROM real WHERE ({ENDLESS} max(x) FROM n)",
    ),
    "a table's view in the name of an index's": (
        f'CREATE VIEW "{TABLE}.text99.rows" AS {ENDLESS} x AS _rowid, x AS c1 FROM n',
    ),
    "a trigger": (f"CREATE TRIGGER t AFTER INSERT ON {ROWS} BEGIN {ENDLESS} max(x) FROM n; END",),
    "a trigger on deletes": (
        f"CREATE TRIGGER t BEFORE DELETE ON {ROWS} BEGIN SELECT RAISE(IGNORE); END",
    ),
    "a column": (f"ALTER TABLE {ROWS} ADD COLUMN x TEXT AS (hex(zeroblob(4)))",),
    "a default": ("CREATE TABLE theirs (x DEFAULT (hex(zeroblob(4))))",),
    "a check": ('CREATE TABLE theirs ("CHECK" CHECK(hex(zeroblob(4))))',),
    "an index": (f"CREATE INDEX i ON {ROWS} (hex(zeroblob(4)))",),
    "a part of an index": (f"CREATE INDEX i ON {ROWS} (id) WHERE id LIKE '%a%a%a%a%a%'",),
    "a comment": ('CREATE TABLE theirs (n, x /* " */ AS (1) /* " */ )',),
    "a virtual table": in_schema("CREATE VIRTUAL TABLE v USING fts5(x, content=v)"),
}


async def test_store_with_sql_of_its_own_is_refused_unchanged(tmp_path: Path, whole: Path) -> None:
    told = "this version of aiovec does not create the"
    for number, (name, statements) in enumerate(HOSTILE.items()):
        with case(name):
            path = tmp_path / str(number) / "notes.db"
            await to_thread(path.parent.mkdir)
            await to_thread(shutil.copy, whole, path)
            await to_thread(in_sqlite, path, "PRAGMA journal_mode = DELETE", *statements)
            await refused(path, told)
    checked = await to_thread(run, "doctor", "-s", str(path))
    assert (checked.code, told in checked.out) == (1, True)
    with pytest.raises(CorruptStoreError, match=told):
        await aiovec.restore(path, tmp_path / "restored.db")


async def test_sql_of_its_own_in_a_wal_is_refused(tmp_path: Path, whole: Path) -> None:
    path = Path(await to_thread(shutil.copy, whole, tmp_path / "notes.db"))
    writer = await to_thread(
        python, "-c", HOLD_OPEN, path, *HOSTILE["the state"], stdin=PIPE, stdout=PIPE
    )
    assert writer.stdout is not None
    assert await to_thread(writer.stdout.readline) == "open\n"
    try:
        for read_only in (False, True):
            with pytest.raises(
                CorruptStoreError, match="this version of aiovec does not create the"
            ):
                await aiovec.connect(path, read_only=read_only)
    finally:
        await to_thread(writer.communicate, "", timeout=60)


HOLD_OPEN = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in ["PRAGMA journal_mode = WAL", *sys.argv[2:]]:
    db.execute(statement)
print("open", flush=True)
sys.stdin.read()
"""


async def test_plain_tables_of_a_user_in_a_store_do_no_harm(tmp_path: Path, whole: Path) -> None:
    path = Path(await to_thread(shutil.copy, whole, tmp_path / "notes.db"))
    plain = (
        "CREATE TABLE mine (\"as\" TEXT DEFAULT 'x', n INTEGER NOT NULL DEFAULT 0)",
        "CREATE UNIQUE INDEX theirs ON mine (n)",
        "ANALYZE",
    )
    await to_thread(in_sqlite, path, *plain)
    async with aiovec.connect(path) as store:
        assert await store.count(TABLE) == 400


async def test_an_early_python_3_11_opens_a_store_with_keyword_search(tmp_path: Path) -> None:
    """Debian 12 has 3.11.2, whose regular expressions differ."""
    early = shutil.which("python3.11", path=os.pathsep.join(["/usr/bin", "/usr/local/bin"]))
    if early is None or sys.version_info[:2] != (3, 11):
        pytest.skip("there is no python3.11 of the system that could use these packages")
    packages = [part for part in sys.path if part and not part.startswith(sys.base_prefix)]
    path, text = tmp_path / "notes.db", Field(str, text=True)
    async with aiovec.connect(path) as store:
        await store.create_table("notes", Schema(dim=1, fields={"title": text, "body": text}))
        await store.insert("notes", [{"id": "a", "embedding": [1.0], "body": "green tea"}])
    process = await asyncio.create_subprocess_exec(
        early, "-m", "aiovec", "search", "notes", "tea", "-s", str(path), stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages)},
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"green tea" in output


async def test_a_damaged_file_is_refused_unchanged(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "notes.db"
    for kept in (0.9, 0.5, 0.1):
        await to_thread(shutil.copy, whole, path)
        await to_thread(lambda kept=kept: os.truncate(path, int(path.stat().st_size * kept)))
        await refused(path, "damaged.*restore a sound backup")
    data = await to_thread(whole.read_bytes)
    for first, length in ((0, 8), (16, 8), (20, 8), (100, 4000)):
        damaged = data[:first] + b"\xa5" * length + data[first + length :]
        await to_thread(path.write_bytes, damaged)
        await refused(path, "not a SQLite database|damaged")


WRITE = """
import asyncio, os, signal, sys
import aiovec
async def main():
    store = await aiovec.connect(sys.argv[1])
    await store.insert("notes", [
        {"id": f"w{n}", "embedding": [n, 1, 2, 3], "name": "x" * 500} for n in range(200)])
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
async def test_a_file_beside_the_wal_of_another_is_refused(tmp_path: Path) -> None:
    """After a kill, a backup was copied by hand, so it is unknown which rows are valid."""
    path, backup = tmp_path / "notes.db", tmp_path / "backup.db"
    async with aiovec.connect(path) as store:
        await store.create_table(TABLE, SCHEMA)
        await store.insert(TABLE, [row("a", 1)])
        await store.backup(backup)
    await to_thread(subprocess.run, [sys.executable, "-c", WRITE, str(path)])
    assert path.with_name("notes.db-wal").stat().st_size
    await to_thread(shutil.copy, backup, path)
    before = await to_thread(path.read_bytes)
    for read_only in (False, True):
        with pytest.raises(CorruptStoreError, match=r"notes\.db-wal.*aiovec restore"):
            await aiovec.connect(path, read_only=read_only)
    assert await to_thread(path.read_bytes) == before
    await aiovec.restore(backup, path)
    async with aiovec.connect(path) as store:
        assert await store.count(TABLE) == 1


async def test_a_folder_a_pipe_or_a_foreign_file_is_refused(tmp_path: Path) -> None:
    await to_thread((tmp_path / "file").write_text, "x")
    await to_thread((tmp_path / "folder" / "vectors.sqlite").mkdir, parents=True)
    with pytest.raises(CorruptStoreError, match=r"folder.*lancedb://"):
        await aiovec.connect(tmp_path / "folder")
    for kind in KINDS:
        with case(kind), pytest.raises(AiovecError, match="file"):
            async with aiovec.connect(target_in(tmp_path / "file", kind)) as store:
                await store.create_table(TABLE, SCHEMA)
    with pytest.raises(AiovecError, match="file"):
        await aiovec.connect(f"lancedb://{tmp_path}/file")
    if hasattr(os, "mkfifo"):
        await to_thread(os.mkfifo, tmp_path / "notes.db")
        with pytest.raises(CorruptStoreError, match="not a file"):  # it waits for no writer
            await aiovec.connect(tmp_path / "notes.db")


async def test_an_empty_file_and_a_link_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    await to_thread(path.touch)
    async with aiovec.connect(path) as store:
        await store.create_table(TABLE, SCHEMA)
    if os.name == "nt":
        return
    await to_thread((tmp_path / "link.db").symlink_to, path)
    async with aiovec.connect(tmp_path / "link.db") as linked, aiovec.connect(path) as other:
        await linked.insert(TABLE, [row("a", 1)])
        assert await other.count(TABLE) == 1
