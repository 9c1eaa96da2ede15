"""Keys of writes in the file and in its copies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from tests.harness.marks import begin_move, pause_writers, set_moved
from tests.sqlite.support import backend_on, sql

import aiovec
from aiovec import Schema, VectorStore
from aiovec.backend.context import CallContext, WriteKey, calling

SCHEMA = Schema(4, fields={"n": int})


def row(id: str, n: int = 0) -> dict[str, object]:
    return {"id": id, "embedding": np.full(4, n + 1, np.float32), "n": n}


def keyed(name: str, *, retried: bool = False) -> AbstractContextManager[None]:
    return calling(CallContext(key=WriteKey(name, b"d"), retried=retried))


def keys_in(path: Path) -> list[str]:
    with sql(path) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if "aiovec_writes" not in tables:
            return []
        return [key for (key,) in db.execute("SELECT key FROM aiovec_writes ORDER BY number")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[VectorStore]:
    async with aiovec.connect(path) as store:
        await store.create_table("notes", SCHEMA)
        yield store


async def test_a_key_is_kept_with_its_write(store: VectorStore, path: Path, tmp_path: Path) -> None:
    """It is kept in a backup, too, and by a read-only store."""
    await store.insert("notes", [row("plain")])
    assert keys_in(path) == []
    for _ in range(2):
        with keyed("k"):
            assert await store.insert("notes", [row("a")]) == 1
    await store.backup(tmp_path / "copy.db")
    with keyed("later"):
        await store.insert("notes", [row("b")])
    assert keys_in(path) == ["k", "later"]
    async with aiovec.connect(tmp_path / "copy.db") as copy:
        for key, id in (("k", "a"), ("later", "b")):
            with keyed(key):
                assert await copy.insert("notes", [row(id)]) == 1
        assert await copy.count("notes") == 3
    async with aiovec.connect(path, read_only=True) as reader, backend_on(path) as backend:
        assert await reader.count("notes") == 3
        kept = await backend.kept(WriteKey("k", b"d"))
        assert kept is not None
        assert kept.outcome == 1
        assert await backend.kept(WriteKey("other", b"d")) is None


async def test_store_that_was_left_still_knows_its_outcomes(store: VectorStore, path: Path) -> None:
    """The write was done before the switch, so the other store has it; it is not repeated."""
    with keyed("k"):
        await store.insert("notes", [row("a")])
    async with backend_on(path) as moves:
        await begin_move(moves, "run")
        await pause_writers(moves, "run", 10)
        assert await set_moved(moves, "run", 1)
    with keyed("k"):
        assert await store.insert("notes", [row("a")]) == 1
    with keyed("new"), pytest.raises(aiovec.StoreMovedError):
        await store.insert("notes", [row("b")])


async def test_outcome_of_write_before_switch_is_not_known(store: VectorStore, path: Path) -> None:
    """The keys of earlier writes are in the old store."""
    async with backend_on(path) as moves:
        await moves.arrive("run", 1)
    with keyed("k", retried=True), pytest.raises(aiovec.OutcomeUnknownError):
        await store.insert("notes", [row("a")])
    with keyed("k"):  # the call is not marked as a retry
        assert await store.insert("notes", [row("a")]) == 1


async def test_a_write_with_damaged_keys_is_an_error(store: VectorStore, path: Path) -> None:
    with keyed("k"):
        await store.insert("notes", [row("a")])
    with sql(path) as db:
        db.execute("DROP TABLE aiovec_writes")
        db.execute("CREATE TABLE aiovec_writes (number INTEGER PRIMARY KEY, key, digest, done)")
    with keyed("k"), pytest.raises(aiovec.AiovecError):
        await store.insert("notes", [row("b")])
    assert await store.insert("notes", [row("b")]) == 1
