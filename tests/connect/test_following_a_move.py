"""Stores that were opened from a TOML go on by themselves where the store has moved to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.connect import toy

import aiovec
from aiovec import Schema, StoreMovedError
from aiovec.settings import RetrievalSettings
from aiovec_sqlite import create

pytest.importorskip("lancedb", reason="the other side of the move is LanceDB")

SCHEMA = Schema(2, fields={"n": int})
TOML = '[retrieval]\nbackend = "sqlite"  # now\nsqlite_path = "a.db"\nlancedb_url = "a.lance"\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("AIOVEC_RETRIEVAL__BACKEND", raising=False)
    file = tmp_path / "aiovec.toml"
    file.write_text(TOML)
    return file


@pytest.fixture
async def moved(config: Path) -> AsyncIterator[Any]:
    """A store with a row on each side, 1 here and 2 there, whose mark says that it has moved."""
    backend = create(str(config.with_name("a.db")), RetrievalSettings())
    async with aiovec.connect(config.with_name("a.db")) as old:
        await old.create_table("notes", SCHEMA)
        await old.insert("notes", [{"id": "a", "embedding": [1, 0], "n": 1}])
    async with aiovec.connect(f"lancedb://{config.with_name('a.lance')}") as new:
        await new.create_table("notes", SCHEMA)
        await new.insert("notes", [{"id": "a", "embedding": [1, 0], "n": 2}])

    async def move() -> Any:
        await backend.open()
        await backend.begin_move("r")
        await backend.pause_writers("r", 60.0)
        place = f"lancedb://{config.with_name('a.lance')}"
        assert await backend.set_moved("r", place, backend="lancedb", config=str(config))
        return backend

    yield move
    await backend.close()


def write(file: Path, text: str) -> None:
    file.write_text(text)


async def n_of(store: aiovec.VectorStore) -> int:
    (found,) = await store.get("notes", "a")
    value: int = found["n"]
    return value


async def test_an_open_store_follows_at_its_next_call(config: Path, moved: Any) -> None:
    async with aiovec.connect(config=config) as store:
        assert await n_of(store) == 1
        await moved()  # the TOML is not changed yet
        assert await n_of(store) == 2
        assert store.backend_name == "lancedb"
        assert await store.upsert("notes", [{"id": "b", "embedding": [1, 1], "n": 3}]) == 1
        write(config, TOML.replace('"sqlite"', '"lancedb"'))
        assert await store.count("notes") == 2


async def test_a_store_opened_before_the_toml_is_changed_follows_too(
    config: Path, moved: Any
) -> None:
    await moved()
    async with aiovec.connect(config=config) as store:
        assert await n_of(store) == 2


async def test_it_comes_back_when_the_move_is_taken_back(config: Path, moved: Any) -> None:
    async with aiovec.connect(config=config) as store:
        backend = await moved()
        assert await n_of(store) == 2
        await backend.end_move("r")
        write(config, TOML + "\n")
        store._follower._next_look = 0.0
        assert await n_of(store) == 1


@pytest.mark.parametrize("held", ["by path", "by variable", "by another file"])
async def test_who_is_held_on_the_old_place_is_told_the_new_one(
    config: Path, moved: Any, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if held == "by variable":
        monkeypatch.setenv("AIOVEC_RETRIEVAL__BACKEND", "sqlite")
    target = config.with_name("a.db") if held == "by path" else None
    file = config
    if held == "by another file":
        file = config.with_name("other.toml")
        file.write_text(TOML)
    async with aiovec.connect(target, config=file) as store:
        assert await n_of(store) == 1
        await moved()
        with pytest.raises(StoreMovedError, match=r"a\.lance"):
            await n_of(store)
        with pytest.raises(StoreMovedError, match=r"a\.lance"):
            await store.upsert("notes", [{"id": "b", "embedding": [1, 1], "n": 3}])


@pytest.fixture
def opened_toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[toy.Toy]:
    """Every backend "toy" that was opened; ``aiovec.toml`` of a test may name one."""
    opened: list[toy.Toy] = []
    plain = toy.Toy.open

    async def noted(self: toy.Toy) -> None:
        opened.append(self)
        await plain(self)

    monkeypatch.setattr(toy.Toy, "open", noted)
    toy.install(monkeypatch, tmp_path / "packages", toy="Toy")
    return opened


@pytest.mark.parametrize("place", ["there", "broken"])
async def test_a_store_opens_once_beforehand_where_a_migration_will_lead(
    config: Path, opened_toys: list[toy.Toy], place: str
) -> None:
    """So that the first call behind the cut-over need not import a driver."""
    write(config, f'{TOML}[retrieval.toy]\nurl = "toy://{place}"\n')
    migrator = create(str(config.with_name("a.db")), RetrievalSettings())
    async with (
        aiovec.connect(config=config) as store,
        aiovec.connect(config.with_name("a.db")) as by_path,
    ):
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": "a", "embedding": [1, 0], "n": 1}])

        async def look() -> None:
            for one in (store, by_path):
                one._follower._next_look = 0.0
                assert await n_of(one) == 1
                if one._follower._preparing is not None:
                    await asyncio.wait({one._follower._preparing})

        await look()
        assert opened_toys == []
        await migrator.open()
        for number, run in enumerate(["r1", "r2"], start=1):
            await migrator.begin_move(run, backend="toy", config=str(config))
            await look()
            await look()
            assert [one.done for one in opened_toys] == [["open", "close"]] * number
            await migrator.end_move(run)
        await migrator.close()
        assert store.backend_name == "sqlite"
