"""Files that are not stores, or no longer: a clear error, and not one byte of them changed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from asyncio import to_thread
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import (
    SCHEMAS,
    State,
    check_file,
    files_of,
    names_in,
    opened,
    python,
    run_code,
    sql,
)

import aiovec
from aiovec import AiovecError, CorruptStoreError, StoreBusyError, VectorStore
from aiovec_sqlite.driver import load_driver
from aiovec_sqlite.layout import APPLICATION_ID, LAYOUT_VERSION
from aiovec_sqlite.opening import OpenFile


async def make_store(path: Path, rows: int = 400) -> None:
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["indexed"])
        await store.insert("notes", [State(1, 1).row(f"id{n}", f"o{n % 7}") for n in range(rows)])
        await store.delete("notes", ["id0", "id1"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was closed, to be copied."""
    path = tmp_path_factory.mktemp("whole") / "notes.db"
    asyncio.run(make_store(path))
    assert list(files_of(path)) == ["notes.db"]
    return path


def other_application(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA application_id = 1234; CREATE TABLE t (x)")


def ordinary_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE notes (id TEXT); INSERT INTO notes VALUES ('a')")


def ordinary_database_in_wal_mode(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")


def database_with_our_names(path: Path) -> None:
    """Looks like a store from within, but nobody said that it is one."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE aiovec_state (key, value); CREATE TABLE aiovec_tables (n)")


def text_file(path: Path) -> None:
    path.write_text("id,text\na,hello\n" * 50)


def short_text_file(path: Path) -> None:
    path.write_text("hi")


def only_the_magic(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(100_000))


STRANGERS: list[tuple[Callable[[Path], None], str]] = [
    (other_application, "another application.*0x000004d2"),
    (ordinary_database, "another application, or one that aiovec did not create"),
    (ordinary_database_in_wal_mode, "another application, or one that aiovec did not create"),
    (database_with_our_names, "another application, or one that aiovec did not create"),
    (text_file, "not a SQLite database"),
    (short_text_file, "not a SQLite database"),
    (only_the_magic, "not a SQLite database"),
    (zeros, "not a SQLite database"),
]


def look_at(path: Path) -> tuple[dict[str, str], int]:
    return files_of(path), os.stat(path).st_mtime_ns


def alter(path: Path, *statements: str) -> None:
    """Run statements behind aiovec's back."""
    with sql(path) as db:
        for statement in statements:
            db.execute(statement)


@pytest.fixture
def copied(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path))


async def refused(path: Path, message: str) -> None:
    """Opening says why it cannot, twice, and leaves everything as it was."""
    before = await to_thread(look_at, path)
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match=message) as caught:
            await aiovec.connect(path)
        assert caught.value.target == str(path)
        assert str(path) in str(caught.value)
    assert await to_thread(look_at, path) == before


@pytest.mark.parametrize(("make", "message"), STRANGERS, ids=lambda v: getattr(v, "__name__", ""))
async def test_strangers(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "notes.db"
    await to_thread(make, path)
    await refused(path, message)


async def test_a_newer_layout(copied: Path) -> None:
    path = copied
    version = f"PRAGMA user_version = {LAYOUT_VERSION + 1}"
    await to_thread(alter, path, "PRAGMA journal_mode = DELETE", version)
    await refused(path, f"layout {LAYOUT_VERSION + 1}.*upgrade aiovec")


async def test_a_newer_layout_in_wal_mode(copied: Path) -> None:
    path = copied
    await to_thread(alter, path, "PRAGMA user_version = 77")
    await refused(path, "layout 77")


@pytest.mark.parametrize("kept", [0.98, 0.5, 0.1])
async def test_a_file_cut_short(copied: Path, kept: float) -> None:
    path = copied
    await to_thread(lambda: os.truncate(path, int(os.stat(path).st_size * kept)))
    await refused(path, "cut short.*restore it from a backup")


@pytest.mark.parametrize("first", [0, 16, 20, 100])
async def test_a_damaged_first_page(copied: Path, first: int) -> None:
    path = copied
    # Not the numbers by which a store is known: those are tried above.
    await to_thread(overwrite, path, first, b"\xa5" * (8 if first < 100 else 4000))
    await refused(path, "not a SQLite database|damaged|cut short")


async def test_a_store_without_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    await to_thread(
        alter,
        path,
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {LAYOUT_VERSION}",
        "CREATE TABLE something (x)",
    )
    await refused(path, "damaged|not")


async def test_a_directory(tmp_path: Path) -> None:
    await to_thread((tmp_path / "vectors.sqlite").mkdir)
    with pytest.raises(CorruptStoreError, match="directory"):
        await aiovec.connect(tmp_path)
    assert await names_in(tmp_path) == ["vectors.sqlite"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
async def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    await to_thread(os.mkfifo, tmp_path / "notes.db")
    with pytest.raises(CorruptStoreError, match="not a file"):
        await aiovec.connect(tmp_path / "notes.db")


async def test_a_file_below_a_file(tmp_path: Path) -> None:
    await to_thread((tmp_path / "file").write_text, "x")
    with pytest.raises(AiovecError, match="file"):
        await aiovec.connect(tmp_path / "file" / "notes.db")


READ_AS_NOBODY = """
import asyncio, os, sys
import aiovec
from aiovec_sqlite.settings import SqliteSettings
from aiovec_sqlite import SqliteBackend
async def main():
    async with aiovec.connect(sys.argv[2]) as store:  # so that all is loaded
        await store.tables()
    os.seteuid(65534)  # who may not read the installed packages either, so no connect()
    try:
        await SqliteBackend(sys.argv[1], SqliteSettings()).open()
    except aiovec.AiovecError as exc:
        print(type(exc).__name__, exc)
asyncio.run(main())
"""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
def test_an_unreadable_file(whole: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # others may enter it, unlike tmp_path
        os.chmod(folder, 0o755)
        path = Path(shutil.copy(whole, folder))
        path.chmod(0o600)
        before = look_at(path)
        done = run_code(READ_AS_NOBODY, str(path), f"{folder}/other.db")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("AiovecError"), done.stdout
        assert "Permission denied" in done.stdout
        assert str(path) in done.stdout
        assert look_at(path) == before


# Damage that no look at the beginning can find


async def every_call(store: VectorStore) -> list[AiovecError]:
    """Call whatever reads or writes; the errors, of which none may be another's than ours."""
    row = State(2, 2).row("id5", "o5")

    async def export() -> None:
        async for _ in store.export("notes"):
            pass

    calls = [
        store.tables, lambda: store.schema("notes"), lambda: store.count("notes"),
        lambda: store.find("notes", limit=1000), lambda: store.find("notes", "owner = 'o3'"),
        lambda: store.get("notes", [f"id{n}" for n in range(0, 400, 2)]), export,
        lambda: store.search("notes", row["embedding"], limit=500),
        lambda: store.search("notes", row["embedding"], where="version >= 1"),
        lambda: store.stats("notes"), lambda: store.upsert("notes", [row]),
        lambda: store.update("notes", {"name": "x"}, where="TRUE"),
        lambda: store.delete("notes", ["id7"]),
        lambda: store.insert("notes", [State(1, 1).row("new", "o1")]),
        lambda: store.optimize("notes"),
    ]  # fmt: skip
    errors = []
    for call in calls:
        try:
            await asyncio.wait_for(call(), 60)
        except AiovecError as exc:
            errors.append(exc)
        except MemoryError:
            pass  # a damaged length asks for more than there is
    return errors


async def test_a_damaged_page_is_told_by_the_call_that_meets_it(copied: Path) -> None:
    path = copied
    await to_thread(overwrite_page_of, path, "notes.rows")
    async with opened(path) as store:
        with pytest.raises(CorruptStoreError, match=r"damaged.*restore it from a backup") as caught:
            await store.find("notes")
        assert caught.value.target == str(path)
        assert caught.value.__cause__ is not None
        with pytest.raises(CorruptStoreError):
            await store.insert("notes", [State(1, 1).row("new", "o1")])
        await store.ping()


async def test_vectors_that_are_gone(copied: Path) -> None:
    """Never another row's vector, never whatever lay in memory."""
    path = copied
    await to_thread(alter, path, 'DELETE FROM "notes.vec" WHERE rowid % 3 = 0')
    async with opened(path) as store:
        with pytest.raises(CorruptStoreError, match="vector"):
            await store.get("notes", [f"id{n}" for n in range(2, 50)])
        with pytest.raises(CorruptStoreError, match="vector"):
            await store.get("notes", [f"id{n}" for n in range(2, 400)])
        with pytest.raises(CorruptStoreError, match="vector"):
            [batch async for batch in store.export("notes")]
        with pytest.raises(CorruptStoreError, match="vector"):
            await store.search("notes", [1.0] * 16, limit=500)


def overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def overwrite_page_of(path: Path, table: str) -> None:
    with sql(path) as db:
        (page_size,) = db.execute("PRAGMA page_size").fetchone()
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    overwrite(path, (root - 1) * page_size, b"\xa5" * page_size)


def damage_at_random(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(chance.choice([1, 5, 50])):
            length = chance.choice([1, 1, 8, 300, 5000])
            file.seek(chance.randrange(200, size - length))
            file.write(chance.randbytes(length))


async def survive_damage(folder: Path, whole: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    told = 0
    for turn in range(rounds):
        path = folder / f"{turn}.db"
        await to_thread(shutil.copy, whole, path)
        await to_thread(damage_at_random, path, chance)
        try:
            store = await aiovec.connect(path)
        except AiovecError as exc:
            assert str(path) in str(exc)  # noqa: PT017
            told += 1
            continue
        try:
            told += bool(await every_call(store))
        finally:
            await store.close()
    assert told


async def test_random_damage_raises_only_our_errors(tmp_path: Path, whole: Path) -> None:
    await survive_damage(tmp_path, whole, rounds=25, seed=3)


@pytest.mark.soak
async def test_much_random_damage_raises_only_our_errors(tmp_path: Path, whole: Path) -> None:
    await survive_damage(tmp_path, whole, rounds=1500, seed=4)


# What may be opened


async def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    await to_thread(path.touch)
    await make_store(path, rows=5)
    assert await to_thread(check_file, path) == {"notes": 3}


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
async def test_a_link_to_a_store(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real.db"
    await to_thread(real.parent.mkdir)
    await to_thread(os.symlink, real, tmp_path / "notes.db")
    async with opened(tmp_path / "notes.db") as one:
        await one.create_table("notes", SCHEMAS["plain"])
        async with opened(tmp_path / "elsewhere" / "real.db") as other:
            assert await other.tables() == ["notes"]
        async with opened(tmp_path / "notes.db") as other:
            assert await other.tables() == ["notes"]


async def test_an_opening_waits_for_who_recovers_the_wal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As four processes that create one file may. It was refused at once, now and then."""
    path, plain, refused = tmp_path / "notes.db", OpenFile.of, [0]

    class Busy:
        def __init__(self, db: Any) -> None:
            self._db = db

        def execute(self, statement: str) -> Any:
            if refused[0] < 5:
                refused[0] += 1
                error = load_driver().OperationalError("database is locked")
                error.sqlite_errorcode = 261  # SQLITE_BUSY_RECOVERY
                raise error
            return self._db.execute(statement)

    def of(path: Path, db: Any, *args: Any, **options: Any) -> OpenFile:
        return plain(path, Busy(db), *args, **options)

    monkeypatch.setattr(OpenFile, "of", of)
    async with opened(path) as store:
        assert await store.tables() == []
    assert refused == [5]
    refused[0] = -1_000_000
    with pytest.raises(StoreBusyError) as caught:
        async with opened(path, busy_timeout=0.3):
            pass
    assert 0.3 <= caught.value.waited < 5


CREATE = """
import asyncio, sys
import aiovec, aiovec._core.store, aiovec._input.rows, aiovec_sqlite.store
async def main():
    print("ready", flush=True)
    for path in sys.stdin.read().split("\\n"):
        async with aiovec.connect(path) as store:
            await store.create_table("t", aiovec.Schema(4), exist_ok=True)
            await store.insert("t", [{"id": sys.argv[1], "embedding": [1, 2, 3, 4]}])
asyncio.run(main())
"""


def test_processes_that_create_the_same_file_at_once(tmp_path: Path) -> None:
    """Fifteen files, in each of which four processes meet."""
    paths = [str(tmp_path / f"{n}.db") for n in range(15)]
    several = [
        python("-c", CREATE, str(n), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
               stderr=subprocess.PIPE)
        for n in range(4)
    ]  # fmt: skip
    for process in several:
        assert process.stdout.readline() == "ready\n"
    for process in several:
        process.stdin.write("\n".join(paths))
        process.stdin.close()
        process.stdin = None
    for process in several:
        _, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
    for path in paths:
        assert check_file(Path(path)) == {"t": 4}


async def test_what_is_refused_can_be_moved_away(tmp_path: Path) -> None:
    """No connection stays behind on a refused file."""
    path = tmp_path / "notes.db"
    await to_thread(path.write_text, "something else" * 100)
    with pytest.raises(CorruptStoreError):
        await aiovec.connect(path)
    await to_thread(path.rename, tmp_path / "kept.txt")
    async with opened(path) as store:
        await store.ping()
    assert await names_in(tmp_path) == ["kept.txt", "notes.db"]
