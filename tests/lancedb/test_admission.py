"""Work that reads many rows takes turns, and stays under its budget."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aiovec import Schema, StoreBusyError, StoreClosedError, VectorStore
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend, tables
from aiovec_lancedb import store as lancedb_store
from aiovec_lancedb.export import whole_rows
from aiovec_lancedb.memory import ReadAdmission, scan_bytes
from aiovec_lancedb.settings import LancedbSettings
from aiovec_lancedb.tables import check_whole
from aiovec_lancedb.upkeep.schedule import _UpkeepState

from .support import SMALL, ids_in, numbered, opened, run_code

MIB = 2**20

# Prints by how much the process grew beyond what it was after one search, at most, and the ids of
# the first hits.
MEASURE = """
import asyncio, json, sys, threading
import numpy as np
import psutil
from tests.lancedb.support import opened

async def main():
    path, dim, searches, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    process = psutil.Process()
    queries = np.random.default_rng(1).standard_normal((searches, dim), dtype=np.float32)
    async with opened(path, search_memory=memory) as store:
        await store.search("small", queries[0], limit=3, exact=True)
        idle, most, over = process.memory_info().rss, [0], threading.Event()

        def watch():
            while not over.wait(0.002):
                most[0] = max(most[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(store.search("t", query, limit=3, exact=True))
                    for query in queries
                ]
        finally:
            over.set()
            watcher.join()
        print(json.dumps([most[0] - idle, [task.result()[0].id for task in tasks]]))

asyncio.run(main())
"""


async def fill(
    path: Path, rows: int, dim: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    async with opened(path) as store:
        for name, count in (("t", rows), ("small", 64)):
            await store.create_table(name, Schema(dim))
            for start in range(0, count, 10_000):
                part = vectors[start : min(count, start + 10_000)]
                flat = pa.array(part.reshape(-1))
                ids = [f"r{n:06}" for n in range(start, start + len(part))]
                await store.insert(
                    name,
                    pa.table(
                        {
                            "id": ids,
                            "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
                        }
                    ),
                )
    return vectors


async def measured(path: Path, dim: int, searches: int, memory: str) -> tuple[int, list[str]]:
    told = await run_code(
        MEASURE, str(path), str(dim), str(searches), memory, timeout=900, fresh=True
    )
    grown, ids = json.loads(told)
    return int(grown), ids


@pytest.mark.slow
async def test_searches_at_once_stay_under_their_memory(tmp_path: Path) -> None:
    dim, searches = 512, 30
    vectors = await fill(tmp_path / "s", 12_000, dim)
    grown, ids = await measured(tmp_path / "s", dim, searches, "192 MiB")
    assert grown < 192 * MIB
    queries = np.random.default_rng(1).standard_normal((searches, dim), dtype=np.float32)
    cosines = (queries @ vectors.T) / np.linalg.norm(vectors, axis=1)
    assert ids == [f"r{best:06}" for best in cosines.argmax(axis=1)]
    # So many at once take more where they may.
    grown, _ = await measured(tmp_path / "s", dim, searches, "4 GiB")
    assert grown > 192 * MIB


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_two_hundred_searches_over_a_large_table(tmp_path: Path) -> None:
    await fill(tmp_path / "s", 100_000, 768)
    grown, ids = await measured(tmp_path / "s", 768, 200, "2 GiB")
    assert len(ids) == 200
    assert grown < 2048 * MIB


# Prints by how much the process grew while eight exports were open that nobody read.
UNREAD = """
import asyncio, sys
import psutil
from tests.lancedb.support import opened

async def main():
    process = psutil.Process()
    async with opened(sys.argv[1], search_memory=sys.argv[2]) as store:
        async for batch in store.export("small"):
            pass
        idle = process.memory_info().rss
        exports = [store.export("t", batch_size=100) for _ in range(8)]
        for export in exports:
            for _ in range(20):
                await anext(export)
        await asyncio.sleep(0.5)  # for what is read ahead
        print(process.memory_info().rss - idle)

asyncio.run(main())
"""


async def test_exports_that_nobody_reads_hold_half_of_the_memory(tmp_path: Path) -> None:
    await fill(tmp_path / "s", 16_000, 768)
    told = await run_code(UNREAD, str(tmp_path / "s"), "256 MiB", timeout=120, fresh=True)
    assert int(told) < 128 * MIB, f"{int(told) / MIB:.0f} MiB"


async def test_a_small_budget_holds_up_no_export(tmp_path: Path) -> None:
    """Its caller searches between the batches, which takes turns with its reads."""
    await fill(tmp_path / "s", 10_000, 64)
    async with opened(tmp_path / "s", search_memory="1 MiB") as store:
        async with asyncio.timeout(60):
            seen = 0
            async for batch in store.export("t", batch_size=4000):
                seen += len(batch)
                found, records, got = await asyncio.gather(
                    store.search_many("t", np.ones((3, 64)), limit=2, exact=True),
                    store.find("t", limit=9000),
                    store.get("t", [f"r{n:06}" for n in range(5000)]),
                )
                assert [len(hits) for hits in found] == [2, 2, 2]
                assert (len(records), len(got)) == (9000, 5000)
            assert seen == 10_000


async def test_a_closed_store_lets_nobody_wait(tmp_path: Path) -> None:
    await fill(tmp_path / "s", 10_000, 64)
    backend = LancedbBackend(str(tmp_path / "s"), LancedbSettings(search_memory="1 MiB"))
    await backend.open()
    store = VectorStore(backend, RetrievalSettings())
    tasks = [asyncio.ensure_future(store.search("t", np.ones(64), exact=True)) for _ in range(30)]
    await asyncio.sleep(0.05)
    await store.close()
    async with asyncio.timeout(60):
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            assert isinstance(one, StoreClosedError)
        else:
            assert len(one) == 10


@asynccontextmanager
async def backed(path: Path, **settings: Any) -> AsyncIterator[tuple[VectorStore, LancedbBackend]]:
    backend = LancedbBackend(str(path), LancedbSettings(**settings))
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        yield store, backend


async def test_every_read_waits_for_its_memory_for_busy_timeout(tmp_path: Path) -> None:
    """B3: upkeep, a restored version, a backup and an export waited for the reads of others, and
    for as long as those liked."""
    await fill(tmp_path / "s", 20_000, 64)
    async with backed(tmp_path / "s", search_memory="192 MiB", busy_timeout=0.4) as (
        store,
        backend,
    ):
        before = len(await store.versions("t"))
        await store.delete("t", ["r000000"])

        async def export() -> None:
            async for _ in store.export("t"):
                pass

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "search": lambda: store.search("t", np.ones(64), exact=True),
            "find": lambda: store.find("t", limit=15_000),
            "optimize": lambda: store.optimize("t"),
            "restore": lambda: store.restore("t", before),
            "backup": lambda: store.backup(tmp_path / "copy"),
            "export": export,
        }
        async with backend._admission.share(backend._admission.budget):
            for name, call in calls.items():
                with pytest.raises(StoreBusyError, match="search_memory"):
                    async with asyncio.timeout(60):
                        await call()
                assert await store.count("t") == 19_999, name
        assert not await asyncio.to_thread((tmp_path / "copy").exists)
        for call in calls.values():
            await call()
        assert await store.count("t") == 20_000


async def test_a_search_gets_its_turn_in_the_middle_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup held its share until the last row was written: longer than others wait for theirs.

    So did the look at a version that is about to be restored.
    """
    await fill(tmp_path / "s", 20_000, 64)
    turns = 0
    async with backed(tmp_path / "s", search_memory="192 MiB", busy_timeout=5) as (store, backend):

        async def search() -> None:
            nonlocal turns
            budget = backend._admission.budget
            async with backend._admission.share(budget):  # as the largest search takes
                turns += 1

        async def blocks(*args: Any) -> AsyncIterator[pa.Table]:
            async for block in whole_rows(*args):
                await search()
                yield block

        monkeypatch.setattr(lancedb_store, "whole_rows", blocks)
        await store.backup(tmp_path / "copy")
        assert turns > 3
        turns = 0
        await store.restore("t", len(await store.versions("t")))
        assert turns > 3


async def test_the_work_of_a_restore_is_no_time_that_it_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that took longer to read than ``busy_timeout`` could not be restored."""
    await fill(tmp_path / "s", 10, 4)

    async def slow(*args: Any) -> None:
        await check_whole(*args)
        await asyncio.sleep(1.0)

    monkeypatch.setattr(tables, "check_whole", slow)
    async with opened(tmp_path / "s", busy_timeout=0.5) as store:
        await store.delete("t", ["r000000"])
        await store.restore("t", 2)
        assert await store.count("t") == 10


async def test_what_many_queries_find_counts(tmp_path: Path) -> None:
    """The hits of those before are kept while the next ones are looked for."""
    await fill(tmp_path / "s", 2_000, 4)
    async with backed(tmp_path / "s", search_memory="192 MiB") as (store, backend):

        async def most(queries: int) -> int:
            searching = asyncio.ensure_future(
                store.search_many("t", np.ones((queries, 4)), limit=500)
            )
            found = 0
            while not searching.done():
                found = max(found, backend._admission.used)
                await asyncio.sleep(0)
            await searching
            return found

        assert await most(60) - await most(1) >= 59 * 500 * 512
        few = backend._admission.budget - 20 * MIB
        async with backend._admission.share(few), asyncio.timeout(60):
            found = await store.search_many("small", np.ones((300, 4)), limit=1000)
        assert [len(hits) for hits in found] == [64] * 300


async def test_upkeep_that_gets_no_memory_was_not_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two such tries let it hold the writers up from then on, though nothing had failed."""
    await fill(tmp_path / "s", 2_000, 64)
    async with backed(tmp_path / "s", search_memory="192 MiB", busy_timeout=0.3) as (_, backend):
        keeper = backend._housekeeper
        assert keeper is not None

        async def due(*_: Any, **__: Any) -> bool:
            return True

        monkeypatch.setattr(keeper, "_is_due", due)
        state = keeper._tables.setdefault("t", _UpkeepState())
        async with backend._admission.share(backend._admission.budget):
            await keeper._look("t", state, quiet=True)
        assert state.failed == 0
        assert state.look_at is not None
        assert not keeper._held()
        await keeper._look("t", state, quiet=True)
        assert state.tidied_version is not None


# The turns themselves


class Turns:
    """Tasks that hold shares until they are told to end."""

    def __init__(self, admission: ReadAdmission) -> None:
        self.admission = admission
        self.holding: list[str] = []
        self._over: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, size: int) -> None:
        self._over[name] = asyncio.Event()
        self._tasks[name] = asyncio.ensure_future(self._hold(name, size))
        await self._settle()

    async def _hold(self, name: str, size: int) -> None:
        async with self.admission.share(size):
            self.holding.append(name)
            try:
                await self._over[name].wait()
            finally:
                self.holding.remove(name)

    async def end(self, name: str) -> None:
        self._over[name].set()
        await self._settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await self._settle()

    async def error(self, name: str) -> BaseException | None:
        await asyncio.wait({self._tasks[name]})
        return self._tasks[name].exception()

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    turns = Turns(ReadAdmission(60.0, 200 * MIB))
    async with AsyncExitStack() as stack:
        yield turns
        for name in list(turns._tasks):
            stack.push_async_callback(turns.cancel, name)
    assert turns.admission.used == turns.admission.waiting == 0


async def test_who_asks_first_is_served_first(turns: Turns) -> None:
    await turns.ask("a", 60 * MIB)
    await turns.ask("b", 60 * MIB)
    await turns.ask("c", 10 * MIB)
    assert turns.holding == ["a"]  # c would fit, but b came first
    await turns.end("a")
    assert turns.holding == ["b", "c"]


async def test_more_than_all_runs_alone(turns: Turns) -> None:
    await turns.ask("a", 30 * MIB)
    await turns.ask("large", 900 * MIB)
    await turns.ask("b", 30 * MIB)
    assert turns.holding == ["a"]
    await turns.end("a")
    assert turns.holding == ["large"]
    await turns.end("large")
    assert turns.holding == ["b"]


async def test_little_never_waits(turns: Turns) -> None:
    await turns.ask("all", 900 * MIB)
    await turns.ask("waits", 50 * MIB)
    await turns.ask("little", 1 * MIB)
    assert turns.holding == ["all", "little"]


async def test_who_is_cancelled_makes_room(turns: Turns) -> None:
    await turns.ask("a", 60 * MIB)
    await turns.ask("b", 60 * MIB)
    await turns.ask("c", 30 * MIB)
    await turns.cancel("b")
    assert turns.holding == ["a", "c"]
    await turns.cancel("a")
    assert turns.holding == ["c"]
    assert turns.admission.used == 30 * MIB


async def test_cancelled_at_the_moment_of_ones_turn(turns: Turns) -> None:
    await turns.ask("a", 60 * MIB)
    await turns.ask("b", 60 * MIB)
    turns._over["a"].set()
    await asyncio.sleep(0)
    assert turns.admission.used == 60 * MIB  # it is b's already
    await turns.cancel("b")
    assert turns.holding == []
    assert turns.admission.used == 0


async def test_those_that_wait_hear_of_the_end(turns: Turns) -> None:
    await turns.ask("a", 60 * MIB)
    await turns.ask("b", 60 * MIB)
    turns.admission.close(StoreClosedError("here"))
    assert isinstance(await turns.error("b"), StoreClosedError)
    assert turns.holding == ["a"]


async def test_a_budget_is_no_more_than_the_largest_search_needs() -> None:
    """However many rows there are: Lance holds no more than it reads ahead and may throw away."""
    assert scan_bytes(10**9, 768) == scan_bytes(10**7, 768) < 1024 * MIB
    assert scan_bytes(1000, 768) < 8 * MIB < scan_bytes(5000, 768)


async def test_exports_go_on_after_the_wait(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", search_memory="1 MiB") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(3000))
        exported = await asyncio.gather(*(ids_in(store) for _ in range(5)))
        assert exported == [[f"r{n:05}" for n in range(3000)]] * 5
