"""What is told of an index, and how hard it is searched, is of the index in use."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from tests.clock import DrivenClock
from tests.waiting import until

import aiovec
from aiovec import F, IndexInfo, Tuning, VectorStore
from aiovec_lancedb.driver import indexing
from aiovec_lancedb.index import recall

from .indexed import DIM, QUESTIONS, ROWS, VECTORS, filled, found_share, rows, store_at
from .support import SURE, run_code

pytestmark = pytest.mark.slow


async def only(store: VectorStore) -> IndexInfo:
    (info,) = await store.indexes("notes")
    return info


async def partitions(folder: Path) -> int:
    """Those of the index, as LanceDB itself tells them."""
    table = await (await lancedb.connect_async(folder)).open_table("notes")
    query = table.query().nearest_to(VECTORS[0]).distance_type("cosine").nprobes(10**6).limit(1)
    plan = await query.analyze_plan()
    searched, parts = re.search(r"partitions_searched=(\d+)", plan), re.search(
        r"deltas_searched=(\d+)", plan
    )  # fmt: skip
    assert searched is not None
    assert parts is not None
    return int(searched[1]) // int(parts[1])


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("ivf_flat", 1),
        pytest.param("ivf_flat", 2, marks=pytest.mark.soak),
        pytest.param("ivf_rq", 2, marks=pytest.mark.soak),
    ],
)
async def test_upkeep_keeps_the_partitions(tmp_path: Path, kind: str, times: int) -> None:
    """19a: the first ``optimize`` joined nearly all partitions, so the short form has one."""
    async with store_at(tmp_path / "store", SURE) as store:
        await filled(store, 9000)
        await store.create_index("notes", kind)
        built = (await only(store)).parameters["num_partitions"]
        assert built == await partitions(tmp_path / "store") >= 60
        for start in (9000, 10_000)[:times]:
            await store.insert("notes", rows(start, start + 600))
            await store.optimize("notes")
            info = await only(store)
            assert info.rows_unindexed == 0
            now = await partitions(tmp_path / "store")
            assert now >= built * 0.7
            assert info.parameters["num_partitions"] == now
            assert info.recall is not None
            assert await found_share(store) >= 0.95


async def test_a_number_of_partitions_is_kept_by_upkeep(tmp_path: Path) -> None:
    """19a, for partitions that the user named."""
    async with store_at(tmp_path / "store") as store:
        await filled(store, 4000)
        await store.create_index("notes", "ivf_flat", num_partitions=20)
        assert (await only(store)).parameters["num_partitions"] == 20
        await store.insert("notes", rows(4000, 4300))
        await store.optimize("notes")
        assert await partitions(tmp_path / "store") >= 14


async def test_an_index_that_upkeep_replaced_is_measured_anew(tmp_path: Path) -> None:
    """19a: until then no recall is told, and the searches find as much."""
    clock = DrivenClock()  # so that the insert leads to nothing by itself
    async with store_at(tmp_path / "store", SURE, clock) as store:
        await filled(store, 6000)
        await store.create_index("notes", "ivf_rq")
        (before,) = await store.indexes("notes")
        assert before.recall is not None
        backend: Any = store._follower.engine.backend
        await store.insert("notes", rows(6000, 6600))
        handle = await backend.open_table("notes")
        await backend._housekeeper.optimize(handle)  # as it does by itself: without the measuring
        assert (await only(store)).recall is None
        assert "not measured yet" in (await store.stats("notes")).index
        assert await found_share(store) >= 0.95  # which has it measured, too

        async def measured() -> bool:
            clock.advance(60)
            return (await only(store)).recall is not None

        await until(measured)
        assert (await only(store)).parameters["measured_at_rows"] == 6600


async def test_an_index_of_an_earlier_release_is_built_anew(tmp_path: Path) -> None:
    """19a: one whose partitions upkeep would join, or has joined."""
    async with store_at(tmp_path / "store", SURE) as store:
        await filled(store, 5000)
    table = await (await lancedb.connect_async(tmp_path / "store")).open_table("notes")
    config = indexing.IvfRq(distance_type="cosine", num_partitions=70, num_bits=4)
    await table.create_index("embedding", config=config)
    note = (
        '{"format":1,"kind":"ivf_rq","auto":true,"kept_off":false,"target":0.97,"options":'
        '{"num_partitions":70,"num_bits":4},"built_rows":5000,"rows":5000,"recall":0.99,'
        '"ladders":{"10":[[0.99,1,null,null]]}}'
    )
    await table.update_field_metadata({"path": "embedding", "metadata": {"aiovec.index": note}})
    async with store_at(tmp_path / "store", SURE, index="auto", index_from=1000) as store:
        stats = await store.stats("notes")
        assert (stats.details["recall"], stats.details["recall_target"]) == (None, 0.97)
        assert await found_share(store) >= 0.97
        await store.optimize("notes")
        info = await only(store)
        assert info.parameters["target_partition_size"] == 5000 // 70
        assert info.recall is not None
        assert info.recall >= 0.97


# What a killed or cancelled build leaves

_STEPS = ("note", "index", "measure")
_BUILD = """
import asyncio, os, signal, sys, aiovec
from aiovec_lancedb.index import build
from aiovec_lancedb.index import recall
from aiovec_lancedb.index.schedule import Indexing

step, target = sys.argv[2], sys.argv[1]

def dying(real, before):
    async def act(*arguments, **options):
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return result
    return act

if step == "note":  # what is intended is noted, nothing built
    build.Builder._index = dying(build.Builder._index, before=True)
elif step == "index":  # it is built, and nothing noted
    build.Builder._index = dying(build.Builder._index, before=False)
else:
    recall.measure = dying(recall.measure, before=False)

async def build():
    async with aiovec.connect(target) as store:
        await store.create_index("notes", "ivf_pq", recall=0.97, num_partitions=40)

asyncio.run(build())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("step", "again"),
    [
        pytest.param("note", False, id="note-first"),
        pytest.param("index", False, id="index-first"),
        pytest.param("measure", False, id="measure-first", marks=pytest.mark.soak),
        *(pytest.param(step, True, id=f"{step}-again", marks=pytest.mark.soak) for step in _STEPS),
    ],
)
async def test_a_build_killed_at_each_step_keeps_its_tuning(
    tmp_path: Path, step: str, again: bool
) -> None:
    """B13: a kill between the commit of an index and that of its note lost the tuning for good.

    What a kill before the measuring leaves on the disk, one behind it leaves too: that one, and
    kills while an index is replaced, are of the long tests.
    """
    path = tmp_path / "store"
    async with store_at(path, SURE) as store:
        await filled(store, 3000)
        if again:
            await store.create_index("notes", "ivf_pq", num_partitions=4, recall=0.8)
    with pytest.raises(AssertionError):
        await run_code(_BUILD, f"lancedb://{path}", step)
    async with store_at(path, SURE) as store:
        if step == "note":
            found = await store.indexes("notes")
            assert [info.parameters["num_partitions"] for info in found] == [4] * again
            return
        details = (await store.stats("notes")).details
        assert (details["recall"], details["recall_target"]) == (None, 0.97)
        assert await found_share(store) >= 0.97  # the first searches already
        assert await found_share(store, tuning=Tuning(recall=0.99)) >= 0.99

        async def measured() -> bool:
            return (await only(store)).recall is not None

        await until(measured)  # without any call for it
        assert (await only(store)).parameters["num_partitions"] == 40
        assert (await store.stats("notes")).details["effort"]["nprobes"] <= 40
        assert await found_share(store) >= 0.97


@pytest.mark.parametrize("ends", ["closed", pytest.param("cancelled", marks=pytest.mark.soak)])
async def test_a_build_that_ends_before_its_note_is_measured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """B13, for cancellation and close."""
    path = tmp_path / "store"
    reached, real = asyncio.Event(), recall.measure

    async def stands_still(*_: object, **__: object) -> Any:
        reached.set()
        await asyncio.sleep(600)

    monkeypatch.setattr(recall, "measure", stands_still)
    async with store_at(path) as store:
        await filled(store, 3000)
        building = asyncio.ensure_future(store.create_index("notes", "ivf_pq", recall=0.97))
        await reached.wait()
        if ends == "cancelled":
            building.cancel()
    (ended,) = await asyncio.gather(building, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError | aiovec.StoreClosedError)
    monkeypatch.setattr(recall, "measure", real)
    async with store_at(path) as store:
        assert await found_share(store) >= 0.97
        await store.optimize("notes")
        assert (await store.stats("notes")).details["recall_target"] == 0.97
        assert ((await only(store)).recall or 0) >= 0.97


async def test_an_index_that_lancedb_made_is_measured_and_left_in_place(tmp_path: Path) -> None:
    """B13: searched with LanceDB's own effort, it found 4 of 10."""
    async with store_at(tmp_path / "store", index="auto", index_from=1000) as store:
        await store.create_table("notes", aiovec.Schema(DIM, fields={"number": int, "kind": str}))
    table = await (await lancedb.connect_async(tmp_path / "store")).open_table("notes")
    async with store_at(tmp_path / "store") as store:
        await store.insert("notes", rows(0, 5000))
    await table.checkout_latest()
    config = indexing.IvfPq(distance_type="cosine", num_partitions=50, num_sub_vectors=2)
    await table.create_index("embedding", config=config)
    async with store_at(tmp_path / "store", index="auto", index_from=1000) as store:
        made = (await only(store)).rows_indexed
        assert await found_share(store) >= 0.9
        await store.optimize("notes")
        info = await only(store)
        assert (info.kind, info.rows_indexed) == ("ivf_pq", made)
        assert info.recall is not None


# Vectors that float32 cannot rank


async def test_the_index_is_back_when_an_extreme_row_has_gone(store: VectorStore) -> None:
    """B18: one extreme row removed the index for good, also after its deletion."""
    await filled(store, 3000)
    await store.create_index("notes", "ivf_rq")
    extreme = {"embedding": np.full(DIM, 1e30), "number": 1, "kind": "x"}
    await store.insert("notes", [{"id": name, **extreme} for name in ("big", "bigger")])
    exact = [hit.id for hit in await store.search("notes", QUESTIONS[0])]
    await store.delete("notes", "big")
    await store.optimize("notes")
    with pytest.raises(aiovec.InvalidArgumentError, match="too large or too small"):
        await store.create_index("notes", "ivf_flat")  # there is another
    await store.upsert("notes", [{"id": "bigger", **extreme, "embedding": VECTORS[1]}])
    await store.optimize("notes")
    info = await only(store)
    assert (info.kind, info.rows_unindexed) == ("ivf_rq", 0)
    assert (info.recall or 0) >= 0.95
    assert await found_share(store) >= 0.95
    await store.create_index("notes", "ivf_flat")  # there may be one again
    await store.insert("notes", [{"id": "small", **extreme, "embedding": np.full(DIM, 1e-30)}])
    hits = await store.search("notes", np.full(DIM, 1e-30), limit=1)
    assert [hit.id for hit in hits] == ["small"]
    assert [hit.id for hit in await store.search("notes", QUESTIONS[0], exact=True)] == exact


async def test_the_index_comes_back_by_itself(tmp_path: Path) -> None:
    """18, without a call of ``optimize``."""
    async with store_at(tmp_path / "store", index="ivf_flat", index_from=1000) as store:
        await filled(store)
        await store.insert("notes", {"id": ["big"], "embedding": [[1e30] * DIM]})
        await store.optimize("notes")
        assert await store.indexes("notes") == []
        await store.delete("notes", "big")

        async def indexed() -> bool:
            return bool(await store.indexes("notes"))

        await until(indexed)


async def test_an_extreme_row_that_comes_meanwhile_is_not_overlooked(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B18: written while the table is looked through for such rows."""
    from aiovec_lancedb.index import extremes

    await filled(store)
    await store.insert("notes", {"id": ["big"], "embedding": [[1e30] * DIM]})
    await store.delete("notes", "big")
    real = extremes.extreme_id

    async def slow(*arguments: Any) -> Any:
        found = await real(*arguments)
        await store.upsert("notes", {"id": ["late"], "embedding": [[-1e30] * DIM]})
        return found

    monkeypatch.setattr(extremes, "extreme_id", slow)
    await store.optimize("notes")
    hits = await store.search("notes", [-1e30] * DIM, limit=1)
    assert [hit.id for hit in hits] == ["late"]
    with pytest.raises(aiovec.InvalidArgumentError, match="too large or too small"):
        await store.create_index("notes", "ivf_flat")


async def test_filters_still_count_what_they_find(store: VectorStore) -> None:
    """A search with a filter has an index measured that was not."""
    await filled(store, 3000)
    await store.create_index("notes", "ivf_flat")
    assert len(await store.search("notes", QUESTIONS[0], where=F.kind == "k1", limit=7)) == 7
    assert await store.count("notes") == 3000 > ROWS
