"""Stores that were opened from a TOML go on by themselves where the store has moved to."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.connect import toy
from tests.contract.cancellation import STOPS, stopped_at

import aiovec
from aiovec import Schema, StoreBusyError, StoreClosedError, StoreMovedError
from aiovec.backend import Destination
from aiovec_sqlite import SqliteBackend
from aiovec_sqlite.settings import SqliteSettings

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
    backend = SqliteBackend(str(config.with_name("a.db")), SqliteSettings())
    async with aiovec.connect(config.with_name("a.db")) as old:
        await old.create_table("notes", SCHEMA)
        await old.insert("notes", [{"id": "a", "embedding": [1, 0], "n": 1}])
    async with aiovec.connect(f"lancedb://{config.with_name('a.lance')}") as new:
        await new.create_table("notes", SCHEMA)
        await new.insert("notes", [{"id": "a", "embedding": [1, 0], "n": 2}])

    async def move() -> Any:
        await backend.open()
        place = str(config.with_name("a.lance"))
        destination = Destination(f"lancedb://{place}", "lancedb", str(config), target=place)
        await backend.begin_move("r", destination)
        await backend.pause_writers("r", 60.0)
        assert await backend.set_moved("r", 1)
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
        await backend.arrive("r", 2)
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
    toy.install(monkeypatch, tmp_path / "packages", toy="ToyPlugin")
    return opened


@pytest.mark.parametrize("place", ["there", "broken"])
async def test_a_store_opens_once_beforehand_where_a_migration_will_lead(
    config: Path, opened_toys: list[toy.Toy], place: str
) -> None:
    """So that the first call behind the cut-over need not import a driver."""
    write(config, f'{TOML}[retrieval.toy]\nurl = "toy://{place}"\n')
    migrator = SqliteBackend(str(config.with_name("a.db")), SqliteSettings())
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
            await migrator.begin_move(run, Destination(backend="toy", config=str(config)))
            await look()
            await look()
            assert [one.done for one in opened_toys] == [["open", "close"]] * number
            await migrator.end_move(run)
        await migrator.close()
        assert store.backend_name == "sqlite"


async def test_calls_at_once_after_a_rest_all_follow(config: Path, moved: Any) -> None:
    """C1: only the first call waited for the look at the TOML, the others wrote to the store that
    was left."""
    async with aiovec.connect(config=config) as store:
        backend = await moved()
        write(config, TOML.replace('"sqlite"', '"lancedb"'))
        await backend.end_move("r")
        store._follower._next_look = 0.0  # it has rested
        rows = [[{"id": f"w{n}", "embedding": [1, 1], "n": n}] for n in range(8)]
        assert await asyncio.gather(*(store.upsert("notes", row) for row in rows)) == [1] * 8
        assert await store.count("notes") == 9
    async with aiovec.connect(f"lancedb://{config.with_name('a.lance')}") as new:
        assert await new.count("notes") == 9


async def test_calls_at_once_all_wait_for_a_toml_without_a_mark(tmp_path: Path) -> None:
    """C1, where nothing but the TOML leads elsewhere."""
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "a.db"\n')
    for name in ("a.db", "b.db"):
        async with aiovec.connect(tmp_path / name) as made:
            await made.create_table("notes", SCHEMA)
    async with aiovec.connect(config=config) as store:
        config.write_text('[retrieval]\nsqlite_path = "b.db"\n')
        store._follower._next_look = 0.0
        rows = [[{"id": f"w{n}", "embedding": [1, 1], "n": n}] for n in range(8)]
        await asyncio.gather(*(store.upsert("notes", row) for row in rows))
    async with aiovec.connect(tmp_path / "b.db") as new:
        assert await new.count("notes") == 8


async def test_an_error_of_a_store_that_was_replaced_leads_nowhere(
    config: Path, moved: Any
) -> None:
    """C3: acted on after a rollback, it led back to the store that the rollback had left."""
    async with aiovec.connect(config=config) as store:
        backend = await moved()
        left = store._follower.engine
        assert await n_of(store) == 2
        there = store._follower.engine
        old = StoreMovedError("a.db", "a.lance", backend="lancedb", config=str(config))
        assert await store._follower.follow(left, old)  # is tried again, where it is
        assert store._follower.engine is there
        # And from the engine in use: its mark counts, and it has none.
        wrong = StoreMovedError("a.lance", "a.db", backend="sqlite", config=str(config))
        assert await store._follower.follow(there, wrong)
        assert store._follower.engine is there
        await backend.arrive("r", 2)


async def test_a_toml_that_is_edited_back_by_hand_leads_to_the_store_in_use(
    config: Path, moved: Any
) -> None:
    """C3: open stores and new ones went on in different places."""
    async with aiovec.connect(config=config) as store:
        backend = await moved()
        write(config, TOML.replace('"sqlite"', '"lancedb"'))
        assert await n_of(store) == 2
        write(config, TOML + "# back\n")
        await backend.end_move("r")
        store._follower._next_look = 0.0
        assert await n_of(store) == 2
        async with aiovec.connect(config=config) as young:
            assert await n_of(young) == 2
            await young.upsert("notes", [{"id": "b", "embedding": [1, 1], "n": 3}])
        assert await store.count("notes") == 2


@pytest.mark.parametrize("flipped", [True, False])
async def test_a_place_of_its_own_in_the_environment_is_told(
    config: Path, moved: Any, flipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C13: the app went on in an empty store."""
    own = config.with_name("own.lance")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB_URL", str(own))
    async with aiovec.connect(config=config) as store:
        assert await n_of(store) == 1
        await moved()
        if flipped:
            write(config, TOML.replace('"sqlite"', '"lancedb"'))
            store._follower._next_look = 0.0
        for _ in range(2):
            with pytest.raises(StoreMovedError, match=r"a\.lance; the settings .*own\.lance"):
                await store.upsert("notes", [{"id": "b", "embedding": [1, 1], "n": 3}])
    assert not own.exists()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[aiovec.VectorStore, Path]]:
    """A store that is about to follow its TOML from ``a.db`` to ``b.db``, and the TOML."""
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "a.db"\n')
    for name in ("a.db", "b.db"):
        async with aiovec.connect(tmp_path / name) as made:
            await made.create_table(name[0], SCHEMA)
    async with aiovec.connect(config=config) as store:
        assert await store.tables() == ["a"]
        config.write_text('[retrieval]\nsqlite_path = "b.db"\n')
        yield store, config


async def tables_after_a_look(store: aiovec.VectorStore) -> list[str]:
    await store._follower.look(now=True)
    return await store.tables()


async def test_a_mark_that_cannot_be_read_for_now_is_asked_for_again(
    two: tuple[aiovec.VectorStore, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store took itself for where the TOML led, and stayed where it was for ever."""
    store, _ = two

    async def busy(_: object) -> None:
        raise StoreBusyError("another process writes", 1.0)

    with monkeypatch.context() as patched:
        patched.setattr(type(store._follower.engine.backend), "move_mark", busy)
        with pytest.raises(StoreBusyError):
            await store._follower.look(now=True)
    assert await tables_after_a_look(store) == ["b"]


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
async def test_a_look_that_is_stopped_at_any_await_is_made_again(
    stop: Any, two: tuple[aiovec.VectorStore, Path]
) -> None:
    store, config = two
    follower = store._follower
    assert follower._source is not None
    at, there = 1, "b"
    while True:
        for delay in (0.0, 0.002):
            far, _ = await stopped_at(follower._look(follower._source), at, stop, delay)
            assert await tables_after_a_look(store) == [there]
            there = "a" if there == "b" else "b"
            # Another file, since the time of two writes may be the same.
            beside = config.with_name("new.toml")
            beside.write_text(f'[retrieval]\nsqlite_path = "{there}.db"\n')
            beside.replace(config)
        at += 1
        if not far:
            break
    assert at > 5


@pytest.mark.skipif(os.name == "nt", reason="Windows does not move a file that is open")
async def test_a_store_whose_file_is_gone_is_left_by_the_toml(
    two: tuple[aiovec.VectorStore, Path],
) -> None:
    store, config = two
    config.with_name("a.db").rename(config.with_name("old.db"))
    assert await tables_after_a_look(store) == ["b"]


async def test_a_store_that_is_closed_waits_for_no_call_on_the_store_it_left(
    two: tuple[aiovec.VectorStore, Path],
) -> None:
    """Whoever held an export open and closed the store waited for ever."""
    store, _ = two
    await store.insert("a", [{"id": f"{n}", "embedding": [1, n], "n": n} for n in range(300)])
    export = store.export("a", batch_size=100)
    await anext(export)
    left = store._follower.engine.backend
    assert await tables_after_a_look(store) == ["b"]
    async with asyncio.timeout(30):
        await store.close()
    with pytest.raises(StoreClosedError):
        await left.ping()
    with pytest.raises(StoreClosedError):
        await anext(export)
    await export.aclose()


async def test_the_store_that_was_left_is_closed_too_where_closing_the_other_fails(
    two: tuple[aiovec.VectorStore, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = two
    export = store.export("a")
    await store.insert("a", [{"id": "a", "embedding": [1, 0], "n": 1}])
    await anext(export)
    left = store._follower.engine.backend
    assert await tables_after_a_look(store) == ["b"]
    used = store._follower.engine.backend

    async def fail() -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(used, "close", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            await store.close()
    with pytest.raises(StoreClosedError):
        await left.ping()
    await export.aclose()
    await store.close()  # which tries again
    with pytest.raises(StoreClosedError):
        await used.ping()


EXITS = """
import asyncio, sys
from pathlib import Path
import aiovec

async def main():
    store = await aiovec.connect(config=sys.argv[1])
    export = store.export("a", batch_size=10)
    await anext(export)
    Path(sys.argv[1]).write_text('[retrieval]\\nsqlite_path = "b.db"\\n')
    await store._follower.look(now=True)
    print(*await store.tables())

asyncio.run(main())
"""


async def test_a_script_that_exits_with_a_call_on_the_store_it_left_ends(tmp_path: Path) -> None:
    """It closes neither the store nor the export."""
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "a.db"\n')
    for name in "ab":
        async with aiovec.connect(tmp_path / f"{name}.db") as store:
            await store.create_table(name, SCHEMA)
            await store.insert(name, [{"id": f"{n}", "embedding": [1, n]} for n in range(300)])
    script = [sys.executable, "-c", EXITS, str(config)]
    ended = await asyncio.to_thread(
        subprocess.run, script, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "b\n"
    for name in "ab":
        async with aiovec.connect(tmp_path / f"{name}.db") as store:
            assert await store.count(name) == 300
