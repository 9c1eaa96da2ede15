"""Searches of partitioned tables from memory: small partitions share segments, large have own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.copies.support import answered, opened, ready, same
from tests.waiting import until

from aiovec import Field, Schema, VectorStore
from aiovec_sqlite.copies import CopyLimits
from aiovec_sqlite.copies.copy import BYTES_BESIDE
from aiovec_sqlite.copies.segments import SHARED, State

DIM = 24
SCHEMA = Schema(
    DIM,
    fields={"n": Field(int, index="btree"), "owner": Field(int, partition=True),
            "team": Field(str, partition=True)},
)  # fmt: skip


# Segments of 200 rows, and keys with 100 rows have their own.
SMALL = {"copies": CopyLimits(whole=0, full_segment=200, own_segments=100)}


def row(rng: np.random.Generator, number: int, owner: int | None, team: str) -> dict[str, Any]:
    return {
        "id": f"r{number:06}", "embedding": rng.standard_normal(DIM, dtype=np.float32),
        "n": number % 100, "owner": owner, "team": team,
    }  # fmt: skip


def state_of(resident: Any) -> State:
    state: State = resident.copy.state
    return state


async def keyed(store: VectorStore, numbers: dict[int | None, int]) -> np.random.Generator:
    """A table with so many rows for each owner, in teams "x" and "y" by turns."""
    rng = np.random.default_rng(3)
    await store.create_table("t", SCHEMA)
    owners = [owner for owner, count in numbers.items() for _ in range(count)]
    order = rng.permutation(len(owners))
    rows = [row(rng, n, owners[place], "xy"[int(place) % 2]) for n, place in enumerate(order)]
    await store.insert("t", rows)
    return rng


def asked(*owners: int | None) -> list[dict[str, Any]]:
    each = ["owner IS NULL" if owner is None else f"owner = {owner}" for owner in owners]
    filters: list[str | None] = [None, "n < 5", "team = 'x'", *each]
    for one in each:
        filters += [f"{one} AND team = 'x'", f"{one} AND team = 'x' AND n < 50"]
    return [{"limit": limit, "where": where} for where in filters for limit in (1, 10)]


@pytest.mark.slow
async def test_two_thousand_keys_take_no_more_than_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as store:
        rng = await keyed(store, dict.fromkeys(range(2000), 4))
        resident = await ready(store, "t")
        state = state_of(resident)
        assert len(state.segments) == 1
        assert state.nbytes <= 8000 * (DIM + BYTES_BESIDE)
        await same(store, path, "t", rng.standard_normal((2, DIM)), asked(0, 7, 1999, 5000, None))
        await store.upsert("t", [row(rng, n, 7, "x") for n in range(100, 130)])
        await store.update("t", {"owner": None}, where="owner = 1999")
        await store.delete_where("t", "owner = 0 OR n = 3")
        await same(store, path, "t", rng.standard_normal((2, DIM)), asked(0, 7, 1999, 5000, None))
        assert len(state_of(resident).segments) == 1


async def test_large_keys_have_segments_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    owners = {0: 700, 1: 150, 2: 250, None: 300, **dict.fromkeys(range(10, 60), 6)}
    async with opened(path, limits=SMALL) as store:
        rng = await keyed(store, owners)
        resident = await ready(store, "t")
        keys = {segment.key for segment in state_of(resident).segments}
        # An owner's rows lie in two teams.
        assert keys == {
            SHARED, *((f"={n}", f"={team}") for n in (0, 2) for team in "xy"),
            *(("", f"={team}") for team in "xy"),
        }  # fmt: skip
        for key in keys - {SHARED}:
            part = state_of(resident).of_key(key)
            assert {segment.key for segment in part.segments} == {key}
        queries = rng.standard_normal((3, DIM))
        await same(store, path, "t", queries, asked(0, 1, 2, 10, 59, 7, None))
        # Rows that move between keys of both kinds, and go.
        await store.update("t", {"owner": 10}, where="owner = 0 AND n < 30")
        await store.update("t", {"owner": 0}, where="owner = 11 OR owner IS NULL AND n < 50")
        await store.delete_where("t", "owner = 2")
        await store.upsert("t", [row(rng, n, n % 12, "x") for n in range(200, 500)])
        await same(store, path, "t", queries, asked(0, 1, 2, 10, 59, 7, None))


async def test_a_key_that_grows_gets_segments_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path, limits=SMALL) as store:
        rng = await keyed(store, dict.fromkeys(range(50), 4))
        resident = await ready(store, "t")
        assert {segment.key for segment in state_of(resident).segments} == {SHARED}
        query = rng.standard_normal(DIM)
        for first in range(1000, 2000, 20):
            # Each of them twice, so that rows that are gone stand beside those that are there.
            for _ in range(2):
                await store.upsert("t", [row(rng, n, 3, "x") for n in range(first, first + 20)])
                await store.search("t", query, limit=1)
            await store.search("t", query, limit=1)
        await until(lambda: ("=3", "=x") in {s.key for s in state_of(resident).segments})
        shared = [s for s in state_of(resident).segments if s.key == SHARED]
        assert sum(s.count - s.dead for s in shared) < 200 + 1000
        await same(store, path, "t", rng.standard_normal((2, DIM)), asked(3, 4, None))
        state = state_of(resident)
        assert state.rows == 1200
        for segment in state.segments:
            alive = segment.offset[: segment.count] > -np.inf
            assert segment.dead == segment.count - np.count_nonzero(alive)
            rowids = segment.rowids[: segment.count][alive]
            assert len(set(rowids.tolist())) == len(rowids)


async def test_keys_that_grow_amid_searches_and_writes(tmp_path: Path) -> None:
    """Each row that was acknowledged is found in its key, whatever is being moved meanwhile."""
    path = tmp_path / "a.db"
    async with opened(path, limits=SMALL) as store:
        rng = await keyed(store, dict.fromkeys(range(20), 5))
        resident = await ready(store, "t")

        async def work(owner: int) -> None:
            own = np.random.default_rng([owner, 9])
            for step in range(60):
                rows = [row(own, 10_000 * owner + 10 * step + i, owner, "x") for i in range(10)]
                await store.upsert("t", rows)
                for where in (None, f"owner = {owner} AND team = 'x'"):
                    (hit,) = await store.search("t", rows[3]["embedding"], limit=1, where=where)
                    assert hit.id == rows[3]["id"]
                await store.delete("t", rows[4]["id"])
                (hit,) = await store.search(
                    "t", rows[4]["embedding"], limit=1, where=f"owner = {owner} AND team = 'x'"
                )
                assert hit.id != rows[4]["id"]

        await asyncio.gather(*(work(owner) for owner in (1, 2, 3, 100)))
        await until(lambda: len({s.key for s in state_of(resident).segments}) == 5)
        assert answered(store, "t") == 4 * 60 * 3
        await same(store, path, "t", rng.standard_normal((2, DIM)), asked(1, 2, 4, 100, None))


async def test_a_whole_key_asks_the_file_for_no_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    async with opened(path, limits={"copies": CopyLimits(whole=0, own_segments=100)}) as store:
        await keyed(store, {0: 600, 1: 10})
        resident = await ready(store, "t")
        found = await store.search("t", np.ones(DIM), limit=400, where="owner = 0 AND team = 'x'")
        assert len(found) == 300
        assert resident.copy.masks.nbytes == 0
