"""Several users of one file: locks of other processes, several stores, and several processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.processes import python
from tests.harness.waiting import until
from tests.sqlite.support import LockHolder, check_file, memory_for_copies, open_store, opened, sql

import aiovec
from aiovec import Schema, StoreBusyError, StoreClosedError, VectorStore
from aiovec.backend.context import CallContext, calling

SCHEMA = Schema(4, metric="l2", fields={"n": int})


def row(number: int) -> dict[str, object]:
    return {"id": f"r{number}", "embedding": [float(number), 1, 2, 3], "n": number}


async def test_another_process_that_holds_the_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, write_queue=3, busy_timeout=300) as store:
        await store.create_table("notes", SCHEMA)
        async with LockHolder(path) as holder:
            writes = [asyncio.ensure_future(store.insert("notes", [row(n)])) for n in range(30)]
            # Reads do not wait, and see what was there before.
            assert await store.count("notes") == 0
            assert await store.search("notes", [1.0] * 4) == []
            others = [
                asyncio.ensure_future(call)
                for call in (
                    store.delete("notes", ["r1"]), store.update("notes", {"n": 0}, where="TRUE"),
                    store.optimize("notes"), store.create_table("other", SCHEMA),
                )
            ]  # fmt: skip
            assert not any(write.done() for write in writes)
            for left in (writes[20], *others):  # each leaves at once, and takes no place with it
                left.cancel()
            _, waiting = await asyncio.wait([writes[20], *others], timeout=60)
            assert not waiting
            assert all(call.cancelled() for call in others)
            await holder.free()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert isinstance(outcomes.pop(20), asyncio.CancelledError)
        assert outcomes == [1] * 29
        assert await store.count("notes", "n = 20 OR n = 0") == 1
        assert await store.tables() == ["notes"]
    assert await asyncio.to_thread(check_file, path) == {"notes": 29}


async def test_close_waits_for_writes_behind_one_that_waits_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, busy_timeout=300) as store:
        await store.create_table("notes", SCHEMA)
        async with LockHolder(path):
            writes = []
            for numbers in (range(1), range(1, 600)):  # three commits
                writes += [asyncio.ensure_future(store.insert("notes", [row(n)])) for n in numbers]
                assert await store.count("notes") == 0
            closing = asyncio.ensure_future(store.close())
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert not closing.done()
        await closing
        assert await asyncio.gather(*writes) == [1] * 600
    assert await asyncio.to_thread(check_file, path) == {"notes": 600}


async def test_an_opening_that_waits_for_another_process_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with aiovec.connect(path) as store:
        await store.create_table("notes", SCHEMA)
    with sql(path) as db:
        db.execute("PRAGMA journal_mode = DELETE")  # an opening puts it into WAL mode
    async with LockHolder(path):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await open_store(path, busy_timeout=3600)


async def test_beyond_busy_timeout_a_call_fails_and_does_nothing_later(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with aiovec.connect(path) as patient:
        await patient.create_table("notes", SCHEMA)
        async with LockHolder(path):
            for seconds, queue in ((0.3, 1024), (0.3, 1), (0, 1024)):
                async with opened(path, busy_timeout=seconds, write_queue=queue) as store:
                    outcomes = await asyncio.gather(
                        *(store.insert("notes", [row(n)]) for n in range(5)), return_exceptions=True
                    )
                for outcome in outcomes:
                    assert isinstance(outcome, StoreBusyError), outcome
                    assert outcome.waited >= seconds
                message = " ".join(map(str, outcomes))
                assert ("too many writes" if queue == 1 else "another process") in message
        assert await patient.count("notes") == 0
        assert await patient.insert("notes", [row(1)]) == 1


async def test_a_read_that_a_slow_close_stops_says_that_the_store_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = os.getpid()

    def slowly() -> int:  # a close asks for it
        for _ in range(1_000_000):  # other threads get their turns
            pass
        return pid

    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("notes", SCHEMA)
        ids = [f"r{n}" for n in range(500_000)]
        read = asyncio.ensure_future(store.get("notes", ids))
        await asyncio.sleep(0.3)
        monkeypatch.setattr(os, "getpid", slowly)
    (outcome,) = await asyncio.gather(read, return_exceptions=True)
    assert outcome == [] or isinstance(outcome, StoreClosedError), repr(outcome)


async def test_searches_and_writes_at_once(tmp_path: Path) -> None:
    """A search finds rows that were acknowledged before it began, and none deleted before."""
    async with aiovec.connect(tmp_path / "notes.db") as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [row(n) for n in range(2_500)])
        kept = set(range(2_500))  # acknowledged, and not being deleted
        deleted: set[int] = set()  # acknowledged
        rng = np.random.default_rng(2)
        over = False

        async def write(first: int) -> None:
            for n in range(first, first + 120, 10):
                await store.insert("notes", [row(n + i) for i in range(10)])
                kept.update(range(n, n + 10))
                gone = n - first
                kept.difference_update(range(gone, gone + 5))
                await store.delete("notes", [f"r{gone + i}" for i in range(5)])
                deleted.update(range(gone, gone + 5))

        async def search() -> int:
            searches = 0
            while not over:
                before = set(deleted)
                number = int(rng.choice(list(kept)))
                hits = await store.search("notes", [float(number), 1, 2, 3], limit=5)
                result = {hit["n"] for hit in hits}
                assert number in result or number not in kept
                assert not result & before
                many = await store.search("notes", [0.0] * 4, limit=10_000, where="n < 2500")
                assert {hit["n"] for hit in many} >= {n for n in kept if n < 2_500}
                searches += 1
            return searches

        async def leave() -> None:
            """Ask for much and cancel it, at any moment."""
            while not over:
                call = asyncio.ensure_future(store.search("notes", [0.0] * 4, limit=10_000))
                for _ in range(int(rng.integers(0, 30))):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])

        searching = [asyncio.ensure_future(call) for call in (search(), search(), leave())]
        await asyncio.gather(write(3_000), write(4_000))
        over = True
        first, second, _ = await asyncio.gather(*searching)
        assert first
        assert second


OTHER = """
import asyncio, sys
import aiovec

async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        for line in sys.stdin:
            number = int(line)
            (hit,) = await store.search("notes", [float(number), 1, 2, 3], limit=1)
            await store.delete("notes", f"r{number}")
            row = {"id": f"r{number + 1}", "embedding": [float(number + 1), 1, 2, 3]}
            await store.insert("notes", [row])
            print(hit.id, hit.distance, flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_searches_that_share_a_scan_have_their_own_vectors(tmp_path: Path) -> None:
    """This holds even if some count bytes, and so read vectors by row, not during the scan."""
    vectors = np.random.default_rng(0).standard_normal((45_000, 4)).astype(np.float32)
    columns = {"id": [f"{n}" for n in range(len(vectors))], "embedding": vectors}

    async def counted(call: Awaitable[Any]) -> Any:
        with calling(CallContext(check_bytes=lambda _: None)):
            return await call

    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", columns)
        await until(lambda: in_memory(store))
        wide = {"limit": 40_000, "max_distance": 0.0, "include_vector": True}
        first, second, few, nearest = await asyncio.gather(
            *(store.search("notes", vectors[n]) for n in (3, 5)),
            counted(store.search_many("notes", [vectors[0], vectors[1] + 0.5], **wide)),
            counted(store.search("notes", vectors[2], limit=5, include_vector=True)),
        )
    assert first[0].id == "3"
    assert second[0].id == "5"
    assert [hit.id for hits in few for hit in hits] == ["0"]
    for hit in (few[0][0], *nearest):
        assert np.array_equal(hit.vector, vectors[int(hit.id)])


async def in_memory(store: VectorStore) -> bool:
    await store.search("notes", [1.0] * 4)
    return (await store.stats("notes")).details["searched"] == "in memory"


async def test_each_write_of_another_process_is_seen_by_the_next_search(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with aiovec.connect(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [row(n) for n in range(10_000, 12_000)])
        other = await asyncio.to_thread(
            python, "-c", OTHER, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdin is not None
        assert other.stdout is not None
        for number in range(0, 100, 2):
            await store.insert("notes", [row(number)])
            other.stdin.write(f"{number}\n")
            other.stdin.flush()
            output = await asyncio.to_thread(other.stdout.readline)
            assert output == f"r{number} 0.0\n"
            hits = await store.search("notes", [float(number + 1), 1, 2, 3], limit=2)
            assert (hits[0].id, hits[0].distance) == (f"r{number + 1}", 0)
            assert hits[1].id != f"r{number}"
        await asyncio.to_thread(other.communicate)
        assert other.returncode == 0


async def test_the_copies_of_many_tables_keep_to_their_memory(tmp_path: Path) -> None:
    """One table needs 160 KiB of memory, and all tables four times the limit."""
    names, dim, rows, most = [f"t{n}" for n in range(10)], 128, 250, 400 * 2**10
    vectors = np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32)
    with memory_for_copies(most):
        store = await open_store(tmp_path / "a.db")
    async with store:
        for name in names:
            await store.create_table(name, Schema(dim))
            await store.insert(name, {"id": list(map(str, range(rows))), "embedding": vectors})

        async def two_fit() -> bool:
            searches = [store.search(name, vectors[7], limit=1) for name in names]
            assert [hits[0].id for hits in await asyncio.gather(*searches)] == ["7"] * 10
            taken = [(await store.stats(name)).scan_memory for name in names]
            assert sum(taken) <= most
            return sum(map(bool, taken)) == 2

        await until(two_fit)
