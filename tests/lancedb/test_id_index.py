"""B11: large tables get an index over their ids, which changes no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from tests.waiting import until

from aiovec import DuplicateIdError, InvalidArgumentError, Schema, VectorStore
from aiovec._input.rows import to_table
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.limits import IndexLimits, Limits
from aiovec_lancedb.settings import LancedbSettings

from .indexed import store_at
from .support import ids_in

_SCHEMA = Schema(4, fields={"number": int})
_FROM = 1000


# Tables get one sooner.
_SOONER = Limits(index=IndexLimits(ids_from=_FROM))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[VectorStore]:
    async with store_at(tmp_path / "store", _SOONER) as opened:
        yield opened


def _rows(first: int, last: int) -> dict[str, Any]:
    numbers = np.arange(first, last)
    vectors = np.random.default_rng(first).standard_normal((len(numbers), 4)).astype(np.float32)
    ids = [f"r{number:06}" for number in numbers]
    return {"id": ids, "embedding": vectors, "number": numbers}


async def _unindexed(store: VectorStore) -> int | None:
    return (await store.stats("notes")).details.get("unindexed_ids")


async def _indexed(store: VectorStore) -> bool:
    return await _unindexed(store) is not None


async def test_a_table_gets_one_when_it_is_large_enough(store: VectorStore) -> None:
    await store.create_table("notes", _SCHEMA)
    await store.insert("notes", _rows(0, _FROM - 1))
    await store.optimize("notes")
    assert not await _indexed(store)
    await store.insert("notes", _rows(_FROM - 1, 2 * _FROM))
    await until(lambda: _indexed(store))
    assert await _unindexed(store) == 0


async def test_an_existing_table_gets_one_with_the_first_write(tmp_path: Path) -> None:
    never = Limits(index=IndexLimits(ids_from=10**9))
    async with store_at(tmp_path / "store", never) as store:
        await store.create_table("notes", _SCHEMA)
        await store.insert("notes", _rows(0, 3000))
        await store.optimize("notes")
        assert not await _indexed(store)
    async with store_at(tmp_path / "store", _SOONER) as store:
        await store.delete("notes", "r000007")
        await until(lambda: _indexed(store))


async def test_a_bulk_load_is_followed_by_one(tmp_path: Path) -> None:
    backend = LancedbBackend(str(tmp_path / "store"), LancedbSettings(index="none"), _SOONER)
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        await store.create_table("notes", _SCHEMA)
        load = backend.bulk_load(await backend.open_table("notes"))
        for start in range(0, 3000, 500):
            await load.add(to_table(_rows(start, start + 500), _SCHEMA))
        await until(lambda: _indexed(store))
        assert await store.count("notes") == 3000


async def test_it_is_none_of_the_indexes_that_users_see(store: VectorStore) -> None:
    await store.create_table("notes", _SCHEMA)
    await store.insert("notes", _rows(0, 3000))
    await store.optimize("notes")
    assert await _indexed(store)
    assert await store.indexes("notes") == []
    table = await (await lancedb.connect_async(store._follower.engine.backend._target.folder)
                   ).open_table("notes")  # fmt: skip
    (own,) = await table.list_indices()
    with pytest.raises(InvalidArgumentError, match="name"):
        await store.drop_index("notes", own.name)
    await store.create_index("notes", "ivf_flat")
    (info,) = await store.indexes("notes")
    await store.drop_index("notes", info.name)
    assert await _unindexed(store) == 0


async def test_it_survives_an_older_version(store: VectorStore) -> None:
    await store.create_table("notes", _SCHEMA)
    await store.insert("notes", _rows(0, 3000))
    before = max(int(one["version"]) for one in await store.versions("notes"))
    await store.optimize("notes")
    assert await _indexed(store)
    await store.insert("notes", _rows(3000, 3001))
    await store.restore("notes", before)
    assert await store.count("notes") == 3000
    await until(lambda: _indexed(store))


async def test_upkeep_brings_new_rows_in(store: VectorStore) -> None:
    await store.create_table("notes", _SCHEMA)
    await store.insert("notes", _rows(0, 3000))
    await store.optimize("notes")
    await store.upsert("notes", _rows(2000, 4000))
    assert await _unindexed(store) == 2000
    await until(lambda: _is(store, 0))
    assert await store.count("notes") == 4000
    assert await store.update("notes", {"own": 1}, where="number < 1000") == 1000
    await until(lambda: _is(store, 0))
    assert len(await store.find("notes", "payload.own = 1", limit=2000)) == 1000


async def _is(store: VectorStore, unindexed: int) -> bool:
    return await _unindexed(store) == unindexed


async def test_new_vectors_and_payloads_of_few_rows_leave_the_others_in_it(
    store: VectorStore,
) -> None:
    """Merges by the index would write the whole column anew, and take all of its rows out."""
    await store.create_table("notes", _SCHEMA)
    await store.insert("notes", _rows(0, 3 * _FROM))
    await store.optimize("notes")
    assert await _unindexed(store) == 0
    await store.set_vectors("notes", ["r000007"], np.ones((1, 4), np.float32))
    await store.update("notes", {"key": "of its payload"}, ids=["r000009"])
    assert await _unindexed(store) == 2
    first, second = await store.get("notes", ["r000007", "r000009"], include_vector=True)
    assert list(first.vector) == [1, 1, 1, 1]
    assert second["key"] == "of its payload"


async def test_every_call_by_id_says_the_same(store: VectorStore) -> None:
    """Of rows that the index covers, of others, of deleted and replaced ones."""
    await store.create_table("notes", _SCHEMA)
    await store.insert("notes", _rows(0, 3000))
    await store.optimize("notes")
    await store.insert("notes", _rows(3000, 3100))
    with pytest.raises(DuplicateIdError) as caught:
        await store.insert("notes", _rows(2999, 3201))
    assert len(caught.value.ids) == 101
    some = [*_rows(2990, 3010)["id"], "absent"]
    found = await store.get("notes", some)
    assert [record.id for record in found] == some[:-1]
    assert [record["number"] for record in found] == list(range(2990, 3010))
    assert await store.delete("notes", ["r002995", "r003005", "absent"]) == 2
    assert [r.id for r in await store.get("notes", some)] == [
        id for id in some[:-1] if id not in ("r002995", "r003005")
    ]
    moved = {**_rows(2995, 2996), "number": [-1]}
    assert await store.upsert("notes", moved) == 1
    assert await store.upsert("notes", {**_rows(3090, 3110), "number": [-2] * 20}) == 20
    assert await store.update("notes", {"number": -3}, ids=["r000001", "r003001", "absent"]) == 2
    assert await store.update("notes", {"own": 1}, ids=["r000002", "r003002"]) == 2
    for id, number in (("r002995", -1), ("r003095", -2), ("r003105", -2), ("r000001", -3)):
        (record,) = await store.get("notes", [id])
        assert record["number"] == number
    assert [record["own"] for record in await store.get("notes", ["r000002", "r003002"])] == [1, 1]
    ids = await ids_in(store)
    assert len(ids) == len(set(ids)) == 3109
    await store.optimize("notes")
    assert await _unindexed(store) == 0
    assert sorted(await ids_in(store)) == sorted(ids)
    assert len(await store.get("notes", ids[:2000])) == 2000


async def test_ids_stay_unique_while_it_is_built(tmp_path: Path) -> None:
    """Lance's own check for keys ends with an index on them; ours does not."""
    place = tmp_path / "store"
    async with store_at(place, _SOONER) as one, store_at(place, _SOONER) as two:
        await one.create_table("notes", _SCHEMA)
        await one.insert("notes", _rows(0, 3000))
        upkeep = asyncio.ensure_future(one.optimize("notes"))
        for turn in range(8):
            fresh, known = 3000 + 10 * turn, 100 * turn
            calls = [store.insert("notes", _rows(fresh, fresh + 5)) for store in (one, two)]
            calls += [store.upsert("notes", _rows(fresh + 5, fresh + 10)) for store in (one, two)]
            calls += [store.upsert("notes", _rows(known, known + 200)) for store in (one, two)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(one, DuplicateIdError) for one in outcomes) == 1, outcomes
        await upkeep
        assert await _indexed(two)
        ids = await ids_in(two)
        assert len(ids) == len(set(ids)) == 3080
