"""The search effort is measured, kept with the table, and used as it was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb.table import AsyncTable
from tests.clock import DrivenClock
from tests.waiting import until

import aiovec
from aiovec import F, Tuning, VectorStore
from aiovec._input.rows import to_table
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend, search
from aiovec_lancedb.index import recall
from aiovec_lancedb.index.effort import Effort, Rung, Tuned, tuned_of
from aiovec_lancedb.limits import Limits
from aiovec_lancedb.settings import LancedbSettings

from .indexed import (
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
from .support import QUICK, SURE


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Effort | None]:
    """What lancedb is told in each search; None where the index is passed by."""
    efforts: list[Effort | None] = []
    real: Callable[..., Any] = search._lance_query

    def watched(table: Any, query: Any, plan: Any) -> Any:
        efforts.append(None if plan.exact else plan.effort)
        return real(table, query, plan)

    monkeypatch.setattr(search, "_lance_query", watched)
    return efforts


LONG = pytest.mark.soak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("ivf_rq", 0.8),
        pytest.param("ivf_pq", 0.95, marks=LONG),
        pytest.param("hnsw_pq", 0.99, marks=LONG),
        pytest.param("ivf_rq", 0.99, marks=LONG),
        pytest.param("ivf_pq", 0.8, marks=LONG),
        pytest.param("hnsw_pq", 0.8, marks=LONG),
        pytest.param("hnsw_sq", 0.95, marks=LONG),
    ],
)
async def test_questions_that_are_not_stored_reach_the_tables_target(
    tmp_path: Path, kind: str, target: float
) -> None:
    async with store_at(tmp_path / "store", Limits()) as store:
        await filled(store, 3000)
        await store.create_index("notes", kind, recall=target)
        stats = await store.stats("notes")
        assert stats.details["recall_target"] == target
        assert stats.details["recall"] >= target
        assert kind in stats.index
        assert f"target {target:g}" in stats.index
        assert await found_share(store) >= target
        assert await found_share(store, limit=60) >= target


@pytest.mark.slow
async def test_a_search_may_ask_for_another_recall(
    store: VectorStore, told: list[Effort | None]
) -> None:
    await filled(store, 3000)
    await store.create_index("notes", "ivf_flat", recall=0.6)
    told.clear()
    await store.search("notes", QUESTIONS[0])
    await store.search("notes", QUESTIONS[0], tuning=Tuning(recall=0.99))
    low, high = told
    assert low is not None
    assert high is not None
    assert (low.nprobes or 0) < (high.nprobes or 0)
    assert await found_share(store, tuning=Tuning(recall=0.99)) >= 0.99
    told.clear()
    assert await found_share(store, tuning=Tuning(recall=1)) == 1.0
    assert set(told) == {None}  # no effort is sure to find all of them


@pytest.mark.slow
async def test_who_names_an_effort_gets_just_that(
    store: VectorStore, told: list[Effort | None]
) -> None:
    await filled(store)
    await store.create_index("notes", "ivf_pq")
    for tuning, effort in (
        (Tuning(nprobes=3), Effort(3)),
        (Tuning(nprobes=2, refine=4), Effort(2, None, 4)),
        (Tuning(refine=2), Effort(None, None, 2)),
        (Tuning(ef=90, recall=0.5), Effort(None, 90, None)),
    ):
        told.clear()
        await store.search("notes", QUESTIONS[0], tuning=tuning)
        assert told == [effort]
        told.clear()
        await store.search("notes", QUESTIONS[0], tuning=tuning, exact=True)
        assert set(told) == {None}


async def test_a_graph_is_searched_for_as_many_as_are_wanted(store: VectorStore) -> None:
    await filled(store)
    await store.create_index("notes", "hnsw_sq")
    found = await store.search("notes", QUESTIONS[0], limit=50, tuning=Tuning(ef=1))
    assert len(found) == 50
    found = await store.search("notes", QUESTIONS[0], limit=50, tuning=Tuning(ef=60, refine=3))
    assert len(found) == 50


@pytest.mark.parametrize(
    "tuning",
    [Tuning(nprobes=0), Tuning(ef=-1), Tuning(refine=0), Tuning(recall=0), Tuning(recall=1.01)],
)
async def test_efforts_that_are_none_are_refused(store: VectorStore, tuning: Tuning) -> None:
    await filled(store, 300)
    with pytest.raises(aiovec.InvalidArgumentError, match="tuning"):
        await store.search("notes", QUESTIONS[0], tuning=tuning)


async def test_other_stores_see_the_effort_and_their_handles_stay_good(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with store_at(path) as one, store_at(path) as other:
        await filled(one)
        before = ids(await other.search("notes", QUESTIONS[0]))
        await one.create_index("notes", "ivf_flat", recall=0.9)
        mine, theirs = await one.stats("notes"), await other.stats("notes")
        assert theirs.details["effort"] == mine.details["effort"] != {}
        assert theirs.details["recall"] == mine.details["recall"]
        await other.insert("notes", rows(ROWS, ROWS + 1))
        assert len(ids(await other.search("notes", QUESTIONS[0]))) == len(before)
    async with store_at(path) as later:
        assert (await later.stats("notes")).details["recall_target"] == 0.9


# By itself


@pytest.mark.slow
async def test_auto_indexes_a_table_that_has_grown_large(tmp_path: Path) -> None:
    async with store_at(tmp_path / "store", SURE, index="auto", index_from=1500) as store:
        await filled(store, 1400)
        await store.create_index("notes")
        assert await store.indexes("notes") == []
        await store.insert("notes", rows(1400, 2200))

        async def measured() -> bool:
            return (await store.stats("notes")).details.get("recall") is not None

        await until(measured)
        assert (await store.stats("notes")).index.startswith("ivf_rq")
        assert await found_share(store) >= 0.95


async def test_a_bulk_load_brings_an_index_when_it_is_over(tmp_path: Path) -> None:
    backend = LancedbBackend(str(tmp_path / "store"), LancedbSettings(index_from=1500))
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        await store.create_table("notes", SCHEMA)
        load = backend.bulk_load(await backend.open_table("notes"))
        for start in range(0, ROWS, 500):
            await load.add(to_table(rows(start, start + 500), SCHEMA))

        async def indexed() -> bool:
            return bool(await store.indexes("notes"))

        await until(indexed)


async def test_an_index_is_not_built_amid_many_writes(tmp_path: Path) -> None:
    """Until they end, or have gone on for long."""
    limits, clock = QUICK.index, DrivenClock()
    step = 0.9 * limits.lull
    steps = int(limits.longest_wait / step)
    settings: dict[str, Any] = {"index": "ivf_flat", "index_from": 1500}
    async with store_at(tmp_path / "store", QUICK, clock, **settings) as store:
        await filled(store)
        for number in range(ROWS, ROWS + steps):
            clock.advance(step)
            await store.insert("notes", rows(number, number + 1))
            assert await store.indexes("notes") == []
            assert "building" not in (await store.stats("notes")).index
        clock.advance(step)

        async def indexed() -> bool:
            return bool(await store.indexes("notes"))

        await until(indexed)


async def test_an_index_is_built_when_the_writes_have_ended(tmp_path: Path) -> None:
    clock = DrivenClock()
    settings: dict[str, Any] = {"index": "ivf_flat", "index_from": 1500}
    async with store_at(tmp_path / "store", QUICK, clock, **settings) as store:
        await filled(store)
        clock.advance(QUICK.index.lull)

        async def indexed() -> bool:
            return bool(await store.indexes("notes"))

        await until(indexed)


async def test_optimize_does_not_wait_for_the_background(tmp_path: Path) -> None:
    async with store_at(tmp_path / "store", index="none") as store:
        await filled(store)
        await store.optimize("notes")
        assert await store.indexes("notes") == []
    async with store_at(tmp_path / "store", index="hnsw_sq", index_from=1000) as store:
        await store.optimize("notes")
        assert [info.kind for info in await store.indexes("notes")] == ["hnsw_sq"]


@pytest.mark.slow
async def test_a_table_that_has_grown_by_half_is_measured_again(store: VectorStore) -> None:
    await filled(store)
    await store.create_index("notes", "hnsw")  # upkeep adds to it, and never replaces it
    (info,) = await store.indexes("notes")
    assert info.parameters["measured_at_rows"] == ROWS
    await store.insert("notes", rows(ROWS, ROWS + 600))
    await store.optimize("notes")
    (info,) = await store.indexes("notes")
    assert info.parameters["measured_at_rows"] == ROWS
    await store.insert("notes", rows(ROWS + 600, ROWS + 1100))

    async def measured_again() -> bool:
        (info,) = await store.indexes("notes")
        return bool(info.parameters["measured_at_rows"] == ROWS + 1100)

    await until(measured_again)


async def test_an_index_that_was_dropped_is_not_built_again_by_itself(tmp_path: Path) -> None:
    async with store_at(tmp_path / "store", index="ivf_flat", index_from=1000) as store:
        await filled(store)
        await store.optimize("notes")
        (info,) = await store.indexes("notes")
        await store.drop_index("notes", info.name)
        await store.optimize("notes")
        assert await store.indexes("notes") == []
        await store.create_index("notes", "auto")
        assert [info.kind for info in await store.indexes("notes")] == ["ivf_rq"]


async def test_a_drop_that_ends_behind_its_commit_keeps_the_index_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note that keeps upkeep from building it anew came behind, as a write of its own."""
    async with store_at(tmp_path / "store", index="ivf_flat", index_from=1000) as store:
        await filled(store)
        await store.optimize("notes")
        (info,) = await store.indexes("notes")
        plain = AsyncTable.drop_index

        async def ends(table: Any, name: str) -> None:
            await plain(table, name)
            raise RuntimeError("lance error: LanceError(IO): Generic LocalFileSystem error")

        with monkeypatch.context() as patched:
            patched.setattr(AsyncTable, "drop_index", ends)
            with pytest.raises(aiovec.AiovecError):
                await store.drop_index("notes", info.name)
        assert await store.indexes("notes") == []
    async with store_at(tmp_path / "store", index="ivf_flat", index_from=1000) as store:
        await store.optimize("notes")
        assert await store.indexes("notes") == []


async def test_an_index_whose_measuring_was_cut_short_is_measured_later(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(store)

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(recall, "measure", killed)
        with pytest.raises((asyncio.CancelledError, aiovec.AiovecError)):
            await store.create_index("notes", "ivf_pq")
    stats = await store.stats("notes")
    assert "not measured yet" in stats.index
    assert await found_share(store) >= 0.9
    await store.optimize("notes")
    assert (await store.stats("notes")).details["recall"] >= 0.95


async def test_equal_vectors_do_not_spoil_the_measuring(store: VectorStore) -> None:
    await store.create_table("notes", aiovec.Schema(VECTORS.shape[1]))
    equal = np.repeat(VECTORS[:50], 40, axis=0)
    await store.insert("notes", {"id": [f"r{i}" for i in range(len(equal))], "embedding": equal})
    await store.create_index("notes", "ivf_flat")
    assert (await store.stats("notes")).details["recall"] >= 0.95


async def test_filters_are_looked_for_further(
    store: VectorStore, told: list[Effort | None]
) -> None:
    await filled(store, 6000)
    await store.create_index("notes", "ivf_flat")
    told.clear()
    # The largest limit that is measured: beyond, the probes rise with it.
    await store.search("notes", QUESTIONS[0], limit=100)
    await store.search("notes", QUESTIONS[0], limit=100, where=F.kind == "k1")
    plain, filtered = told
    assert plain is not None
    assert filtered is not None
    assert (filtered.nprobes or 0) > (plain.nprobes or 0)


def test_what_is_kept_with_a_table_reads_as_it_was_written() -> None:
    ladders = {10: (Rung(-0.02, Effort(1)), Rung(0.5, Effort(3)), Rung(0.99, Effort(9, None, 2)))}
    tuned = Tuned("ivf_pq", True, False, 0.9, {"num_partitions": 12}, 100, 120, 0.97, ladders)
    assert tuned_of(tuned.to_json().encode()) == tuned
    for strange in (b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff"):
        assert tuned_of(strange) is None
    whole = json.loads(tuned.to_json())
    for name, wrong in {
        "ladders": {"10": []}, "recall": "much", "target": [], "options": {"a": "b"}, "rows": 1.5,
        "kind": 3, "intent": {"kind": None, "rows": {}}, "uuid": 1, "more": 1,
    }.items():  # fmt: skip
        assert tuned_of(json.dumps({**whole, name: wrong}).encode()) is None, name
    for rung in (["1", 1], [2, 1], [0.5, 0], [0.5, 1, "x"], [0.5, 1, 1, 1, 1], []):
        assert tuned_of(json.dumps({**whole, "ladders": {"10": [rung]}}).encode()) is None, rung
    assert tuned_of(b"[" * 100_000) is None


def test_more_hits_than_were_measured_take_more_effort() -> None:
    tuned = Tuned("ivf_rq", ladders={10: (Rung(0.9, Effort(4)),), 100: (Rung(0.9, Effort(9)),)})
    assert tuned.effort(7, 0.9) == (Effort(4), True)
    assert tuned.effort(50, 0.9) == (Effort(9), True)
    assert tuned.effort(400, 0.9) == (Effort(18), True)
    assert tuned.effort(10, 0.95) == (Effort(4), False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "ivf_flat", "ivf_pq", "hnsw_sq"])
async def test_efforts_beyond_all_reason_take_no_memory(
    store: VectorStore, kind: str | None
) -> None:
    """Lance ended the process where it could not have what ``refine`` asked for."""
    await filled(store, 300)
    if kind is not None:
        await store.create_index("notes", kind)
    for tuning in (
        Tuning(refine=10**9), Tuning(refine=10**11), Tuning(ef=2**40), Tuning(nprobes=2**33),
        Tuning(nprobes=2**70, ef=2**70, refine=2**70),
    ):  # fmt: skip
        hits = await store.search("notes", VECTORS[7], limit=3, tuning=tuning)
        assert (hits[0].id, len(hits)) == ("r7", 3)
