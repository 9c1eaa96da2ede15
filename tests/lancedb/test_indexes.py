"""Indexes: every kind is built, beside writes and in the background, and never hides a row."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from tests.waiting import until

import aiovec
from aiovec import F, Field, Schema, VectorStore
from aiovec_lancedb.index.build import Builder
from aiovec_lancedb.index.kinds import KINDS

from .indexed import (
    DIM,
    QUESTIONS,
    ROWS,
    SCHEMA,
    VECTORS,
    filled,
    found_share,
    ids,
    rows,
    store_at,
)
from .support import SMALL, SURE, numbered, opened


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_built_and_reaches_its_target(store: VectorStore, kind: str) -> None:
    await filled(store)
    await store.create_index("notes", kind)
    (info,) = await store.indexes("notes")
    assert (info.kind, info.column) == (kind, "embedding")
    assert (info.rows_indexed, info.rows_unindexed) == (ROWS, 0)
    assert info.recall is not None
    assert info.recall >= 0.95
    assert await found_share(store) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["l2", "dot"])
async def test_distances_by_an_index_are_those_of_an_exact_search(
    store: VectorStore, metric: Any
) -> None:
    await filled(store, schema=Schema(DIM, metric=metric, fields=SCHEMA.fields))
    await store.create_index("notes", "ivf_rq")
    for question in QUESTIONS[:10]:
        exact = {h.id: h.distance for h in await store.search("notes", question, exact=True)}
        for hit in await store.search("notes", question):
            assert exact.get(hit.id, hit.distance) == hit.distance
    assert await found_share(store) >= 0.95


async def test_hnsw_flat_is_another_name_of_hnsw(store: VectorStore) -> None:
    await filled(store, 300)
    await store.create_index("notes", "hnsw_flat", m=8, ef_construction=40)
    (info,) = await store.indexes("notes")
    assert info.kind == "hnsw"
    assert (info.parameters["m"], info.parameters["ef_construction"]) == (8, 40)


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("ivf", {}, "ivf_pq"),
        (7, {}, "hnsw_sq"),
        ("ivf_flat", {"m": 8}, "num_partitions"),
        ("auto", {"num_partitions": 8}, "recall"),
        ("ivf_flat", {"num_partitions": 0}, "at least 1"),
        ("ivf_flat", {"num_partitions": 2.5}, "whole number"),
        ("ivf_pq", {"num_sub_vectors": 7}, "divisor"),
        ("ivf_pq", {"num_bits": 5}, "4 or 8"),
        ("ivf_rq", {"num_bits": 9}, "from 1 to 8"),
        ("ivf_flat", {"recall": 1.5}, "below 1"),
        ("ivf_flat", {"recall": "high"}, "below 1"),
    ],
)
async def test_what_is_not_accepted_is_told_with_what_is(
    store: VectorStore, kind: Any, options: dict[str, Any], told: str
) -> None:
    await filled(store, 300)
    with pytest.raises(aiovec.InvalidArgumentError, match=told):
        await store.create_index("notes", kind, **options)
    assert await store.indexes("notes") == []


async def test_rotated_codes_need_a_multiple_of_eight(store: VectorStore) -> None:
    await store.create_table("odd", Schema(12))
    vectors = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    await store.insert("odd", {"id": [str(i) for i in range(300)], "embedding": vectors})
    with pytest.raises(aiovec.InvalidArgumentError, match="multiple of 8"):
        await store.create_index("odd", "ivf_rq")
    await store.create_index("odd", "ivf_sq")
    assert [info.kind for info in await store.indexes("odd")] == ["ivf_sq"]


async def test_an_empty_table_gets_no_index_of_a_kind(store: VectorStore) -> None:
    await store.create_table("notes", SCHEMA)
    with pytest.raises(aiovec.InvalidArgumentError, match="no rows"):
        await store.create_index("notes", "ivf_flat")
    await store.create_index("notes")
    assert await store.indexes("notes") == []


async def test_a_build_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    async with store_at(tmp_path / "store", build_memory="64 MiB") as store:
        await filled(store, 300)
        with pytest.raises(aiovec.InvalidArgumentError, match=r"build_memory, 64 MiB.*needs about"):
            await store.create_index("notes", "hnsw")
        assert await store.indexes("notes") == []


# Rows that change


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ivf_rq", "hnsw_sq"])
async def test_deleted_and_replaced_rows_do_not_come_back(store: VectorStore, kind: str) -> None:
    await filled(store)
    await store.create_index("notes", kind)
    question = VECTORS[7]
    first = ids(await store.search("notes", question, limit=3))
    assert first[0] == "r7"
    await store.delete("notes", first[1])
    moved = {"id": "r7", "embedding": -question, "number": 7, "kind": "moved"}
    await store.upsert("notes", [moved])
    await store.update("notes", {"kind": "updated"}, ids=first[2])
    hits = await store.search("notes", question, limit=20)
    assert not {"r7", first[1]}.intersection(ids(hits))
    assert hits[0].id == first[2]
    assert hits[0]["kind"] == "updated"
    assert ids(await store.search("notes", -question, limit=1)) == ["r7"]
    await store.optimize("notes")
    assert not {"r7", first[1]}.intersection(ids(await store.search("notes", question, limit=20)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ivf_rq", "hnsw_sq"])
async def test_rows_that_no_index_has_yet_are_found(store: VectorStore, kind: str) -> None:
    await filled(store)
    await store.create_index("notes", kind)
    await store.insert("notes", rows(ROWS, ROWS + 40))
    (info,) = await store.indexes("notes")
    assert info.rows_unindexed == 40
    assert (await store.stats("notes")).unindexed_rows == 40
    for number in range(ROWS, ROWS + 40):
        assert ids(await store.search("notes", VECTORS[number], limit=1)) == [f"r{number}"]


async def test_writers_go_on_while_an_index_is_built(store: VectorStore) -> None:
    await filled(store, 6000)
    wrote = 0
    for _ in range(10):  # on a busy machine one may be built before
        before = wrote
        building = asyncio.ensure_future(store.create_index("notes", "hnsw_sq"))
        while not building.done() and wrote < before + 40:
            number = 6000 + wrote
            await store.insert("notes", rows(number, number + 1))
            await store.delete("notes", f"r{wrote}")
            await store.upsert("notes", rows(3000 + wrote, 3001 + wrote))
            wrote += 1
        await building
        if wrote >= before + 3:
            break
    assert wrote >= before + 3
    assert await store.count("notes") == 6000
    (info,) = await store.indexes("notes")
    assert info.rows_indexed + info.rows_unindexed == 6000
    for number in (6000, 6000 + wrote - 1, 3000):
        assert ids(await store.search("notes", VECTORS[number], limit=1)) == [f"r{number}"]
    assert "r0" not in ids(await store.search("notes", VECTORS[0], limit=50))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("ivf_rq", marks=pytest.mark.soak), "hnsw_sq"])
async def test_filters_get_all_their_hits(store: VectorStore, kind: str) -> None:
    await filled(store, 6000)
    await store.create_index("notes", kind)
    for where, limit in (
        (F.number.in_([5, 700, 1900, 5999]), 4),
        (F.number < 30, 20),
        (F.number >= 4500, 100),
        (F.kind == "k3", 10),
        (F.kind == "k3", 1100),
    ):
        share = []
        for question in QUESTIONS[:8]:
            hits = await store.search("notes", question, where=where, limit=limit)
            assert len(hits) == limit
            best = await store.search("notes", question, where=where, limit=limit, exact=True)
            share.append(len(set(ids(best)).intersection(ids(hits))) / limit)
        assert np.mean(share) >= 0.95


async def test_a_limit_above_what_an_index_gives_is_still_met(store: VectorStore) -> None:
    await filled(store)
    await store.create_index("notes", "ivf_flat")
    for limit in (500, ROWS, ROWS + 5):
        found = await store.search(
            "notes", QUESTIONS[0], limit=limit, tuning=aiovec.Tuning(nprobes=1)
        )
        assert len(found) == min(limit, ROWS)


# In the background, ended, dropped


async def _builds(store: VectorStore) -> bool:
    return "building" in (await store.stats("notes")).index


@pytest.mark.slow
async def test_a_build_in_the_background_is_done_some_time(store: VectorStore) -> None:
    await filled(store, 6000)
    await store.create_index("notes", "hnsw_sq", wait=False)
    assert "hnsw_sq" in (await store.stats("notes")).index

    async def measured() -> bool:
        return (await store.stats("notes")).details.get("recall") is not None

    await until(measured)
    assert [info.kind for info in await store.indexes("notes")] == ["hnsw_sq"]


async def test_a_cancelled_build_leaves_the_table_as_it_was(store: VectorStore) -> None:
    await filled(store, 20_000)
    building = asyncio.ensure_future(store.create_index("notes", "hnsw_sq"))
    await until(lambda: _builds(store))
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert await store.indexes("notes") == []
    assert (await store.stats("notes")).index == "none"
    await store.create_index("notes", "ivf_flat")
    assert await found_share(store) >= 0.95


@pytest.mark.slow
async def test_closing_ends_a_build(tmp_path: Path) -> None:
    async with store_at(tmp_path / "store") as store:
        await filled(store, 6000)
        await store.create_index("notes", "hnsw_sq", wait=False)
        awaited = asyncio.ensure_future(store.create_index("notes", "ivf_flat"))
        await asyncio.sleep(0.05)
    with pytest.raises(aiovec.StoreClosedError):
        await awaited
    async with store_at(tmp_path / "store") as store:
        assert await store.count("notes") == 6000
        await store.create_index("notes", "ivf_flat")
        assert [info.kind for info in await store.indexes("notes")] == ["ivf_flat"]


async def test_a_table_is_dropped_from_under_its_build(store: VectorStore) -> None:
    await filled(store, 20_000)
    building = asyncio.ensure_future(store.create_index("notes", "hnsw_sq"))
    await until(lambda: _builds(store))
    await store.drop_table("notes")
    with pytest.raises(aiovec.AiovecError):
        await building
    await filled(store, 300)
    assert await store.indexes("notes") == []
    assert len(await store.search("notes", QUESTIONS[0], limit=300)) == 300


async def test_an_index_is_dropped_by_its_name(store: VectorStore) -> None:
    await filled(store)
    await store.create_index("notes", "ivf_flat")
    (info,) = await store.indexes("notes")
    with pytest.raises(aiovec.InvalidArgumentError, match=info.name):
        await store.drop_index("notes", "absent")
    await store.drop_index("notes", info.name)
    assert await store.indexes("notes") == []
    assert (await store.stats("notes")).index == "none"
    assert await found_share(store) == 1.0


_BUILD = """
import asyncio, sys, aiovec

async def build():
    async with aiovec.connect(sys.argv[1]) as store:
        await store.create_index("notes", "hnsw_sq", wait=False)
        while "building" not in (await store.stats("notes")).index:
            await asyncio.sleep(0.005)
        print("building", flush=True)
        await asyncio.sleep(600)

asyncio.run(build())
"""


@pytest.mark.slow
async def test_a_killed_build_leaves_the_table_usable(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with store_at(path, SURE) as store:
        await filled(store, 19_000)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BUILD, f"lancedb://{path}", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(120):
        assert (await process.stdout.readline()).strip() == b"building"
    process.kill()
    await process.wait()
    async with store_at(path, SURE) as store:
        assert await store.count("notes") == 19_000
        assert ids(await store.search("notes", VECTORS[9], limit=1)) == ["r9"]
        await store.insert("notes", rows(19_000, 19_010))
        await store.create_index("notes", "ivf_flat")
        assert [info.kind for info in await store.indexes("notes")] == ["ivf_flat"]
        assert await found_share(store) >= 0.95


# Over fields

FIELDS = {
    "lang": Field(str, index="bitmap"),
    "year": Field(int, index="btree"),
    "score": Field(float, index="bitmap"),
    "seen": Field(datetime, index="btree"),
    "live": Field(bool, index="bitmap"),
    "tags": list[str],
}


def _row(number: int) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "embedding": [1.0, float(number)],
        "lang": [None, "en", "de"][number % 3],
        "year": None if number % 7 == 0 else 2000 + number % 30,
        "score": None if number % 5 == 0 else number / 4,
        "seen": datetime(2024, 1, 1 + number % 28, tzinfo=UTC),
        "live": [True, False, None][number % 3],
        "tags": [f"t{number % 4}", "all"] if number % 6 else None,
    }


async def test_fields_are_indexed_as_the_schema_says_and_answers_stay(store: VectorStore) -> None:
    await store.create_table("plain", Schema(2, fields={n: _plain(f) for n, f in FIELDS.items()}))
    await store.create_table("notes", Schema(2, fields=FIELDS))
    kinds = {info.column: info.kind for info in await store.indexes("notes")}
    assert kinds == {
        "lang": "bitmap", "year": "btree", "score": "btree", "seen": "btree", "live": "bitmap",
        "tags": "label_list",
    }  # fmt: skip
    for table in ("plain", "notes"):
        await store.insert(table, [_row(number) for number in range(400)])
        await store.optimize(table)
        await store.insert(table, [_row(number) for number in range(400, 450)])
        await store.delete(table, [f"r{number}" for number in range(0, 450, 9)])
        await store.update(table, {"lang": "fr", "year": None}, where=F.year == 2004)
        await store.upsert(table, [{**_row(3), "tags": ["new"]}, {**_row(4), "lang": None}])
    indexed = {info.column: info.rows_indexed for info in await store.indexes("notes")}
    assert min(indexed.values()) > 0
    for where in (
        F.lang == "fr", F.lang != "fr", F.lang.is_null(), ~F.lang.in_(["en", "fr"]),
        F.year >= 2010, ~(F.year >= 2010), F.year.is_null(), F.score < 20.5, ~(F.score < 20.5),
        F.seen > datetime(2024, 1, 20, tzinfo=UTC), F.live == True, ~(F.live == True),  # noqa: E712
        F.tags.contains("t1"), ~F.tags.contains("t1"), F.tags.contains("new"), F.tags.is_null(),
        (F.lang == "de") & ~F.tags.contains("t2") | (F.year == 2001),
    ):  # fmt: skip
        plain = await store.find("plain", where, limit=1000)
        assert [r.id for r in await store.find("notes", where, limit=1000)] == [r.id for r in plain]


def _plain(field: Any) -> Any:
    return Field(field.kind) if isinstance(field, Field) else field


async def test_an_added_field_is_indexed(store: VectorStore) -> None:
    await filled(store, 300)
    await store.add_field("notes", "lang", Field(str, index="bitmap"))
    assert {info.column: info.kind for info in await store.indexes("notes")} == {"lang": "bitmap"}
    await store.update("notes", {"lang": "en"}, where=F.number < 10)
    assert await store.count("notes", F.lang == "en") == 10
    assert await store.count("notes", F.lang.is_null()) == 290


@pytest.mark.slow
@pytest.mark.parametrize("indexed", [False, True])
async def test_ids_stay_unique_with_indexes(tmp_path: Path, *, indexed: bool) -> None:
    async with store_at(tmp_path / "store") as one, store_at(tmp_path / "store") as other:
        await filled(
            one, 500, Schema(DIM, fields={**SCHEMA.fields, "kind": Field(str, index="btree")})
        )
        if indexed:
            await one.create_index("notes", "ivf_flat")
        for turn in range(20):
            fresh = rows(500 + turn * 10, 510 + turn * 10)
            await asyncio.gather(one.upsert("notes", fresh), other.upsert("notes", fresh))
        found = [record.id for record in await one.find("notes", limit=10_000)]
        assert len(found) == len(set(found)) == 700


async def test_a_cancelled_build_has_ended_when_its_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where every await of the call is cancelled, as a scope of anyio's does."""
    begun, ended = asyncio.Event(), False

    async def build(*_: Any, **__: Any) -> None:
        nonlocal ended
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)  # what it has begun comes to its end
            ended = True

    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(300))
        monkeypatch.setattr(Builder, "build", build)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def stop() -> None:
                    await begun.wait()
                    scope.cancel()

                tasks.start_soon(stop)
                await store.create_index("notes", "ivf_flat")
        assert ended
