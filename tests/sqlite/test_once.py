"""Keys of writes as they lie in the file, how they are forgotten, and where they go with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import numpy as np
import pytest

import aiovec
from aiovec import Field, Schema, VectorStore
from aiovec.backend import Conditions, WriteKey, moves_of, under
from aiovec_sqlite import SqliteBackend
from aiovec_sqlite.driver import connect as raw_connect
from aiovec_sqlite.once import Keys

SCHEMA = Schema(4, fields={"n": int})


def row(id: str, n: int = 0) -> dict[str, object]:
    return {"id": id, "embedding": np.full(4, n + 1, np.float32), "n": n}


def keyed(name: str, digest: bytes = b"d") -> AbstractContextManager[None]:
    return under(Conditions(key=WriteKey(name, digest)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[VectorStore]:
    async with aiovec.connect(path) as store:
        await store.create_table("notes", SCHEMA)
        yield store


def backend_of(store: VectorStore) -> SqliteBackend:
    backend = store._follower.engine.backend
    assert isinstance(backend, SqliteBackend)
    return backend


def tables_in(path: Path) -> set[str]:
    with closing(raw_connect(str(path))) as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master")}


def keys_in(path: Path) -> list[str]:
    with closing(raw_connect(str(path))) as db:
        return [key for (key,) in db.execute("SELECT key FROM aiovec_writes ORDER BY number")]


async def test_without_a_key_nothing_is_made(store: VectorStore, path: Path) -> None:
    await store.insert("notes", [row("a")])
    await store.update("notes", {"n": 5}, where="TRUE")
    await store.delete("notes", ["a"])
    assert "aiovec_writes" not in tables_in(path)
    with keyed("k"):
        await store.insert("notes", [row("a")])
    assert keys_in(path) == ["k"]
    await store.insert("notes", [row("b")])
    assert keys_in(path) == ["k"]


async def test_old_keys_and_many_are_forgotten(store: VectorStore, path: Path) -> None:
    writer = backend_of(store)._writer
    assert writer is not None
    writer.keys = Keys(keep=10)
    for number in range(40):
        with keyed(f"k{number}"):
            await store.insert("notes", [row(f"a{number}")])
    assert keys_in(path) == [f"k{number}" for number in range(30, 40)]
    writer.keys = Keys(seconds=-1)
    for number in range(3):
        with keyed(f"n{number}"):
            await store.insert("notes", [row(f"b{number}")])
    assert len(keys_in(path)) <= 3
    # It is forgotten, so the store tells what it sees.
    with keyed("k1"), pytest.raises(aiovec.DuplicateIdError):
        await store.insert("notes", [row("a1")])


async def test_a_backup_has_the_keys_of_its_rows(store: VectorStore, tmp_path: Path) -> None:
    with keyed("k"):
        await store.insert("notes", [row("a")])
    await store.backup(tmp_path / "copy.db")
    with keyed("later"):
        await store.insert("notes", [row("b")])
    async with aiovec.connect(tmp_path / "copy.db") as copy:
        with keyed("k"):
            assert await copy.insert("notes", [row("a")]) == 1
        with keyed("later"):
            assert await copy.insert("notes", [row("b")]) == 1
        assert await copy.count("notes") == 2


async def test_in_memory() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", SCHEMA)
        for _ in range(2):
            with keyed("k"):
                assert await store.insert("notes", [row("a")]) == 1
        assert await store.count("notes") == 1


async def test_a_store_that_only_reads_knows_the_outcome(store: VectorStore, path: Path) -> None:
    with keyed("k"):
        await store.insert("notes", [row("a")])
    async with aiovec.connect(path, read_only=True) as reader:
        kept = await backend_of(reader).kept(WriteKey("k", b"d"))
        assert kept is not None
        assert kept.outcome == 1
        assert await backend_of(reader).kept(WriteKey("other", b"d")) is None


async def test_a_build_that_was_left_is_completed(store: VectorStore) -> None:
    """The process that altered the table was killed before its text index was complete."""
    await store.insert("notes", [row(f"a{n}", n) for n in range(50)])
    backend = backend_of(store)

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    whole = backend._build_text
    backend._build_text = killed  # type: ignore[method-assign]
    with keyed("k"), pytest.raises(asyncio.CancelledError):
        await store.add_field("notes", "body", Field(str, text=True))
    backend._build_text = whole  # type: ignore[method-assign]
    with keyed("k"):
        await store.add_field("notes", "body", Field(str, text=True))
    await store.update("notes", {"body": "words"}, ids=["a7"])
    assert [hit.id for hit in await store.search_text("notes", "words")] == ["a7"]


async def test_a_store_that_was_left_still_knows_its_outcomes(store: VectorStore) -> None:
    """The write was done before the cut-over, so it is in the other store; it is not done again."""
    with keyed("k"):
        await store.insert("notes", [row("a")])
    moves = moves_of(backend_of(store))
    assert moves is not None
    await moves.begin_move("run")
    await moves.pause_writers("run", 10)
    assert await moves.set_moved("run", 1)
    moves.act_for(None)
    with keyed("k"):
        assert await store.insert("notes", [row("a")]) == 1
    with keyed("new"), pytest.raises(aiovec.StoreMovedError):
        await store.insert("notes", [row("b")])


async def test_damaged_keys_are_told(store: VectorStore, path: Path) -> None:
    with keyed("k"):
        await store.insert("notes", [row("a")])
    with closing(raw_connect(str(path))) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DROP TABLE aiovec_writes")
        db.execute("CREATE TABLE aiovec_writes (number INTEGER PRIMARY KEY, key, digest, done)")
    with keyed("k"), pytest.raises(aiovec.AiovecError):
        await store.insert("notes", [row("b")])
    assert await store.insert("notes", [row("b")]) == 1


async def moved_to(store: VectorStore) -> None:
    """As after a cut-over: the keys of earlier writes are in the store that was left."""
    moves = moves_of(backend_of(store))
    assert moves is not None
    await moves.arrive("run", 1)


async def test_a_store_that_nothing_was_moved_to_knows_what_it_did(store: VectorStore) -> None:
    await store.insert("notes", [row("a")])
    with (
        under(Conditions(key=WriteKey("k", b"d"), retried=True)),
        pytest.raises(aiovec.DuplicateIdError),
    ):
        await store.insert("notes", [row("a")])


async def test_a_retried_insert_counts_where_its_rows_are_there(store: VectorStore) -> None:
    await moved_to(store)
    rows = [{**row(f"a{n}", n), "more": {"x": [n]}} for n in range(2500)]
    await store.insert("notes", rows)
    with under(Conditions(key=WriteKey("k", b"d"), retried=True)):
        assert await store.insert("notes", rows) == 2500
    with keyed("new"), pytest.raises(aiovec.DuplicateIdError):  # nobody says that it is retried
        await store.insert("notes", rows)
    for change in (
        {"n": 999},
        {"more": {"x": [7.5]}},
        {"embedding": np.nextafter(np.full(4, 2400, np.float32), np.float32(9e9))},
    ):
        other = [*rows[:-1], {**rows[-1], **change}]
        with (
            under(Conditions(key=WriteKey("k2", b"d"), retried=True)),
            pytest.raises(aiovec.DuplicateIdError),
        ):
            await store.insert("notes", other)
    with (
        under(Conditions(key=WriteKey("k3", b"d"), retried=True)),
        pytest.raises(aiovec.DuplicateIdError),
    ):
        await store.insert("notes", [rows[0], row("new")])
    assert await store.count("notes") == 2500


async def test_other_retried_calls_count_where_they_are_done(store: VectorStore) -> None:
    await moved_to(store)
    await store.add_field("notes", "lang", str)
    conditions = Conditions(key=WriteKey("k", b"d"), retried=True)
    calls = (
        lambda: store.create_table("notes", Schema(4, fields={"n": int, "lang": str})),
        lambda: store.add_field("notes", "lang", str),
        lambda: store.drop_field("notes", "absent"),
        lambda: store.rename_field("notes", "absent", "lang"),
        lambda: store.drop_table("absent"),
        lambda: store.rename_table("absent", "notes"),
    )
    for number, call in enumerate(calls):
        with under(conditions):
            await call()
        with pytest.raises(aiovec.AiovecError):
            await call()
        assert await store.tables() == ["notes"], number
    with under(conditions), pytest.raises(aiovec.TableExistsError):
        await store.create_table("notes", Schema(5))
    with under(conditions), pytest.raises(aiovec.InvalidNameError):
        await store.add_field("notes", "lang", int)
