"""An id stands in a table once, whoever writes it at once: stores, or processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contract.base import case
from tests.harness.values import SMALL, small_rows

from aiovec import DuplicateIdError, InvalidArgumentError, VectorStore

from .support import details, ids_in, lance_calls, opened

# Rows from which a table's ids get an index.
LARGE = 20_000


@asynccontextmanager
async def filled(folder: Path, count: int) -> AsyncIterator[VectorStore]:
    """Open a store with the table ``notes`` of so many rows, compacted."""
    async with opened(folder, index="none") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(count))
        await store.optimize("notes")
        assert (await details(store, "unindexed_ids") == 0) is (count >= LARGE)
        yield store


async def written_at_once(first: VectorStore, second: VectorStore, number: int) -> None:
    """Both stores insert and upsert the same ids, new ones and a known one."""
    known = f"r{number:04}"
    vector = [1.0, 2.0, 3.0, 4.0]

    def given(*ids: str) -> list[dict[str, object]]:
        return [{"id": id, "embedding": vector} for id in ids]

    calls = [store.insert("notes", given(f"i{number}")) for store in (first, second)]
    calls += [store.upsert("notes", given(f"u{number}", known)) for store in (first, second)]
    calls += [store.insert("notes", given(f"x{number}", known)) for store in (first, second)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[:2].count(1) == 1, outcomes
    assert [type(outcome) for outcome in outcomes].count(DuplicateIdError) == 3, outcomes
    assert outcomes[2:4] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("count", [400, LARGE])
async def test_two_stores_while_a_third_tidies(tmp_path: Path, count: int) -> None:
    """Without an index over the ids, and with one, while it is brought up to date."""
    async with (
        filled(tmp_path / "s", count) as first,
        opened(tmp_path / "s", index="none") as second,
        opened(tmp_path / "s", index="none") as third,
    ):
        for n in range(8):
            with case(n):
                tidying = asyncio.ensure_future(third.optimize("notes"))
                await written_at_once(first, second, n)
                await tidying
        ids = await ids_in(first)
        assert len(ids) == len(set(ids)) == count + 2 * 8
        await first.optimize("notes")
        assert await ids_in(second) == ids


async def test_calls_by_id_with_an_index_over_ids(tmp_path: Path) -> None:
    """Of rows that it covers, of others, of deleted and replaced ones."""
    async with filled(tmp_path / "s", LARGE) as store:
        await store.insert("notes", small_rows(100, start=LARGE))
        assert await details(store, "unindexed_ids") == 100
        with pytest.raises(DuplicateIdError) as caught:
            await store.insert("notes", small_rows(201, start=LARGE - 1))
        assert len(caught.value.ids) == 101
        old, new = f"r{LARGE - 5}", f"r{LARGE + 5}"
        records = await store.get("notes", [new, "absent", old])
        assert [(record.id, record["year"]) for record in records] == [
            (new, LARGE + 5), (old, LARGE - 5),
        ]  # fmt: skip
        assert await store.delete("notes", [old, new, "absent"]) == 2
        assert await store.get("notes", [new, old]) == []
        assert await store.upsert("notes", [{**small_rows(1)[0], "id": old}]) == 1
        assert await store.update("notes", {"year": -3}, ids=["r0001", old, "absent"]) == 2
        assert await store.update("notes", {"own": 1}, ids=["r0002", f"r{LARGE + 6}"]) == 2
        await store.set_vectors("notes", ["r0007"], [[1.0] * 4])
        for id, name, value in (("r0001", "year", -3), (old, "year", -3), ("r0002", "own", 1)):
            (record,) = await store.get("notes", [id])
            assert record[name] == value, id
        (record,) = await store.get("notes", ["r0007"])
        assert list(record.vector) == [1.0] * 4
        ids = await ids_in(store)
        assert len(ids) == len(set(ids)) == LARGE + 99
        await store.optimize("notes")
        assert await details(store, "unindexed_ids") == 0
        assert await ids_in(store) == ids
        assert len(await store.get("notes", ids[:2000])) == 2000


async def test_upserts_look_for_their_rows_unless_the_last_one_replaced_some(
    tmp_path: Path,
) -> None:
    async with filled(tmp_path / "s", 400) as store:

        async def looks_of_upsert(*numbers: int) -> int:
            rows = [row for n in numbers for row in small_rows(1, start=n)]
            with lance_calls() as calls:
                assert await store.upsert("notes", rows) == len(rows)
            return calls["to_batches"]

        looks = [
            await looks_of_upsert(*numbers)
            for numbers in ([400], [401], [3], [4], [5, 402], [403], [404], [6], [7])
        ]
        assert looks == [1, 1, 1, 0, 0, 0, 1, 1, 0]
        assert await ids_in(store) == sorted(row["id"] for row in small_rows(405))


async def test_users_see_no_index_over_ids(tmp_path: Path) -> None:
    async with filled(tmp_path / "s", LARGE) as store:
        assert await store.indexes("notes") == []
        with pytest.raises(InvalidArgumentError, match="name"):
            await store.drop_index("notes", "id_idx")


async def test_no_lock_is_taken_or_given_back_on_the_event_loop(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network drive each of them is a request."""
    fcntl = pytest.importorskip("fcntl")
    threads = set()
    flock = fcntl.flock
    monkeypatch.setattr(
        fcntl, "flock", lambda *to: threads.add(threading.current_thread()) or flock(*to)
    )
    await store.create_table("notes", SMALL)
    await store.insert("notes", small_rows(3))
    await store.optimize("notes")
    await store.rename_table("notes", "other")
    await store.drop_table("other")
    assert threads
    assert threading.main_thread() not in threads
