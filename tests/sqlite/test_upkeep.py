"""optimize, backup, stats and the change feed's floor."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.sqlite.support import (
    SCHEMAS,
    LockHolder,
    State,
    all_changes,
    backend_of,
    check_file,
    names_in,
    opened,
    whole_table,
)
from tests.waiting import Clock

from aiovec import (
    AiovecError,
    Field,
    InvalidArgumentError,
    Schema,
    StoreBusyError,
    VectorStore,
)
from aiovec.backend import ChangesPrunedError
from aiovec_sqlite import upkeep, writer
from aiovec_sqlite.text import index as text_index


def rows(prefix: str, count: int, version: int = 1, owner: str = "me") -> list[dict[str, object]]:
    return [State(version, version).row(f"{prefix}{n}", owner) for n in range(count)]


async def length(path: Path) -> int:
    return (await asyncio.to_thread(os.stat, path)).st_size


async def churn(store: VectorStore) -> None:
    """Fill, and delete most of it in no order, several times."""
    chance = random.Random(1)
    for turn in range(4):
        await store.insert("notes", rows(f"{turn}/", 2000, owner=f"o{turn % 2}"))
        gone = [f"{turn}/{n}" for n in chance.sample(range(2000), 1800)]
        await store.delete("notes", gone)


async def answers(store: VectorStore) -> object:
    query = State(3, 3).row("query", "me")["embedding"]
    return [
        [(hit.id, hit.distance) for hit in await store.search("notes", query, limit=200)],
        [
            (hit.id, hit.distance)
            for hit in await store.search("notes", query, limit=100, where="owner = 'o1'")
        ],
        await whole_table(store, "notes"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("schema", sorted(SCHEMAS))
async def test_optimize_gives_room_back_and_changes_no_answer(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, chunk_size=64, keep_deletes=100) as store:
        await store.create_table("notes", SCHEMAS[schema])
        await churn(store)
        before, chunks = await answers(store), (await store.stats("notes")).details["vector_chunks"]
        large = (await store.stats("notes")).details["file_bytes"]
        assert (await store.stats("notes")).last_optimize is None
        await store.optimize("notes")
        stats = await store.stats("notes")
        assert stats.last_optimize is not None
        assert stats.rows == 800
        # A chunk is at least three quarters full, but for the newest of each partition.
        assert stats.details["vector_chunks"] <= 800 / 48 + 2 < chunks / 2
        assert stats.details["free_bytes"] == 0
        assert await length(path) == stats.details["file_bytes"] < large * 0.8
        assert await answers(store) == before
        small = await length(path)
        await store.optimize("notes")  # nothing is left to do
        assert await length(path) <= small * 1.05
    assert await asyncio.to_thread(check_file, path) == {"notes": 800}


async def test_other_stores_read_and_write_while_one_optimizes(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, chunk_size=8) as store, opened(path) as other:
        await store.create_table("notes", SCHEMAS["partitioned"])
        await churn(store)
        optimizing = asyncio.ensure_future(store.optimize("notes"))
        written = 0
        while not optimizing.done() or not written:
            await other.insert("notes", rows(f"new{written}/", 1))
            assert (await other.search("notes", [1.0] * 16, limit=900))[0].id
            found = await other.get("notes", [f"new{written}/0"])
            assert State(1, 1).problems(found[0], "me") == []
            written += 1
        await optimizing
        assert await store.count("notes") == 800 + written
    await asyncio.to_thread(check_file, path)


async def test_a_slow_export_keeps_neither_optimize_nor_writers_waiting(tmp_path: Path) -> None:
    async with opened(tmp_path / "notes.db", busy_timeout=300) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 500))
        export = store.export("notes", batch_size=10)
        await anext(export)
        await store.delete("notes", [f"a{n}" for n in range(400)])
        optimizing = asyncio.ensure_future(store.optimize("notes"))
        async with asyncio.timeout(60):  # far less than busy_timeout
            for n in range(20):
                await store.insert("notes", rows(f"b{n}/", 1))
            await optimizing
        assert sum([batch.num_rows async for batch in export]) == 490


class SlowWork(Clock):
    """Work that takes longer than ``busy_timeout``, by the time that calls wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self._monkeypatch = monkeypatch
        self.done: Counter[str] = Counter()

    def slow(self, module: ModuleType, name: str, then: Callable[[], None] = lambda: None) -> None:
        work = getattr(module, name)

        def slowed(*args: Any, **options: Any) -> Any:
            result = work(*args, **options)
            self.advance(3600)
            self.done[name] += 1
            then()
            return result

        self._monkeypatch.setattr(module, name, slowed)


TEXTS = Schema(2, fields={"body": Field(str)})


async def insert_texts(store: VectorStore) -> None:
    for start in range(0, 100, 10):
        found = [
            {"id": f"{n}", "embedding": [1.0, n], "body": f"some words of {n}"}
            for n in range(start, start + 10)
        ]
        await store.insert("notes", found)


@pytest.mark.parametrize("target", ["notes.db", ":memory:"])
async def test_work_that_lasts_longer_than_busy_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Nobody else uses the store: the work of a call is no time that it waits."""
    monkeypatch.setattr(text_index, "_MOST_ROWS", 20)
    work = SlowWork(monkeypatch)
    for name in ("sparse_chunks", "empty_chunks", "settle", "without_extremes", "give_back"):
        work.slow(upkeep, name)
    for name in ("advance", "merge_some"):
        work.slow(text_index, name)
    place = target if target == ":memory:" else tmp_path / target
    async with opened(place, chunk_size=8, busy_timeout=600) as store:
        await store.create_table("notes", TEXTS)
        await insert_texts(store)
        await store.create_field_index("notes", "body", "text")
        assert work.done["advance"] > 5
        await store.delete("notes", [f"{n}" for n in range(100) if n % 8])
        await store.optimize("notes")
        assert min(work.done.values()) > 0
        assert len(work.done) == 7
        assert len(await store.search_text("notes", "words", limit=100)) == 13


async def test_a_later_step_without_a_turn_tells_that_earlier_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "notes.db", busy_timeout=600) as store:
        await store.create_table("notes", TEXTS)
        await insert_texts(store)
        backend = backend_of(store)

        def lock(patched: pytest.MonkeyPatch) -> None:
            """Let others hold the lock from now on, for longer than calls wait."""
            patched.setattr(writer, "_begin", lambda db: False)
            patched.setattr(backend._writer, "_busy_timeout", 0.0)

        with monkeypatch.context() as patched:
            lock(patched)
            with pytest.raises(StoreBusyError, match="nothing of the call was done") as first:
                await store.optimize("notes")
            assert not first.value.in_part
        with monkeypatch.context() as patched:
            SlowWork(patched).slow(upkeep, "settle", lambda: lock(patched))
            with pytest.raises(StoreBusyError, match="earlier steps of the call are kept") as later:
                await store.optimize("notes")
            assert later.value.in_part
            assert later.value.waited < 3600  # its own
        assert (await store.stats("notes")).last_optimize is not None
        await store.optimize("notes")


async def test_optimize_cancelled_midway(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, chunk_size=8) as store:
        await store.create_table("notes", SCHEMAS["partitioned"])
        await churn(store)
        before = await answers(store)
        for n in range(30):
            try:
                async with asyncio.timeout(0.002 * n):
                    await store.optimize("notes")
            except TimeoutError:
                continue
        assert await answers(store) == before
        await store.insert("notes", rows("later", 10))
    assert await asyncio.to_thread(check_file, path) == {"notes": 810}


async def test_tombstones_are_pruned_and_the_floor_tells_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "notes.db", keep_deletes=50) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        backend = backend_of(store)
        handle = await backend.open_table("notes")
        await store.insert("notes", rows("a", 300))
        early = await backend.change_number(handle)
        for n in range(200):
            await store.delete("notes", f"a{n}")
        late = await backend.change_number(handle)
        # Nothing is forgotten yet.
        page = await backend.changes(handle, early)
        assert len(page.deleted) == 200
        assert page.complete
        await store.optimize("notes")
        with pytest.raises(ChangesPrunedError) as caught:
            await backend.changes(handle, early)
        floor = caught.value.floor
        assert early < floor < late
        assert len((await backend.changes(handle, floor)).deleted) == 50
        assert (await backend.changes(handle, late)).deleted == []
        # Who starts anew misses nothing.
        assert (await all_changes(store, "notes"))[0] == await whole_table(store, "notes")
        # Deleting many prunes by itself.
        await store.insert("notes", rows("b", 9000))
        await store.delete_where("notes", "STARTSWITH(id, 'b')")
        assert (await store.stats("notes")).details["deletes_kept"] < 9000
        assert await backend.change_number(handle) > late


async def test_the_feed_in_small_pages_while_writers_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("notes", SCHEMAS["plain"])
        backend = backend_of(store)
        handle = await backend.open_table("notes")
        chance = random.Random(3)
        copy: dict[str, object] = {}
        number = 0
        for turn in range(60):
            ids = chance.sample(range(40), 6)
            if turn < 50:
                await store.upsert("notes", [State(turn, turn).row(f"a{n}", "me") for n in ids[:4]])
                await store.delete("notes", [f"a{n}" for n in ids[3:]])
            page = await backend.changes(handle, number, limit=chance.choice([1, 3, 7]))
            assert page.number >= number
            for id in page.deleted:
                copy.pop(id, None)
            copy.update({row["id"]: row for row in page.upserted.to_pylist()})
            number = page.number
        while not page.complete:
            page = await backend.changes(handle, number, limit=2)
            for id in page.deleted:
                copy.pop(id, None)
            copy.update({row["id"]: row for row in page.upserted.to_pylist()})
            number = page.number
        assert copy == await whole_table(store, "notes")
        assert number == await backend.change_number(handle)


# Backup


async def test_backup_while_writers_go_on(tmp_path: Path) -> None:
    path, copy = tmp_path / "notes.db", tmp_path / "copy.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["partitioned"])
        await store.insert("notes", rows("a", 3000))
        over = asyncio.Event()

        async def write() -> int:
            """Pairs of rows, each pair in one call: a copy has both of them or none."""
            pairs = 0
            while not over.is_set():
                await store.insert("notes", rows(f"pair{pairs}/", 2))
                pairs += 1
            return pairs

        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.02)
        before = await store.count("notes")
        await store.backup(copy)
        over.set()
        pairs = await writing
        assert await store.count("notes") == 3000 + 2 * pairs
    counts = await asyncio.to_thread(check_file, copy)
    assert before <= counts["notes"] <= 3000 + 2 * pairs
    assert counts["notes"] % 2 == 0
    async with opened(copy) as restored:
        assert await restored.schema("notes") == SCHEMAS["partitioned"]
        await restored.insert("notes", rows("more", 1))
        await restored.optimize("notes")
        assert (await all_changes(restored, "notes"))[0] == await whole_table(restored, "notes")


async def test_backup_of_a_store_in_memory(tmp_path: Path) -> None:
    async with opened(":memory:") as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 30))
        await store.backup(tmp_path / "copy.db")
    assert await asyncio.to_thread(check_file, tmp_path / "copy.db") == {"notes": 30}


async def test_backup_refuses_a_path_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    await asyncio.to_thread((tmp_path / "there").write_text, "mine")
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        for there in (tmp_path / "there", path, tmp_path):
            with pytest.raises(InvalidArgumentError, match="exist"):
                await store.backup(there)
        with pytest.raises(AiovecError):
            await store.backup(tmp_path / "no such folder" / "copy.db")
    assert await asyncio.to_thread((tmp_path / "there").read_text) == "mine"
    assert await names_in(tmp_path) == ["notes.db", "there"]


async def test_a_cancelled_backup_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    await asyncio.to_thread(folder.mkdir)
    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("notes", Schema(512))
        data = [{"id": f"a{n}", "embedding": [float(n + 1)] * 512} for n in range(6000)]
        await store.insert("notes", data)
        cancelled = 0
        for n in range(12):
            try:
                async with asyncio.timeout(0.003 * n):
                    await store.backup(folder / f"{n}.db")
            except TimeoutError:
                cancelled += 1
        assert cancelled
        for _ in range(500):
            names = await names_in(folder)
            if not any("partial" in name for name in names):
                break
            await asyncio.sleep(0.01)
        assert not any("partial" in name for name in names), names
        await store.backup(folder / "last.db")
        for name in await names_in(folder):
            assert await asyncio.to_thread(check_file, folder / name) == {"notes": 6000}


async def test_a_backup_needs_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 30))
        async with LockHolder(path):
            await store.backup(tmp_path / "copy.db")
    assert await asyncio.to_thread(check_file, tmp_path / "copy.db") == {"notes": 30}
