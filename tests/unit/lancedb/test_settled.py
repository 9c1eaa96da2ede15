"""The graph that "auto" builds for a large table once it has settled, here for a small one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from tests.harness.cases import case
from tests.harness.waiting import until
from tests.lancedb.indexed import DIM, QUESTIONS, VECTORS, filled, rows, true_recall
from tests.lancedb.support import opened

from aiovec import AiovecError, Tuning, VectorStore
from aiovec_lancedb.index import build, kinds, recall
from aiovec_lancedb.upkeep import loop


async def _kind(store: VectorStore) -> str | None:
    infos = await store.indexes("notes")
    return infos[0].kind if infos and infos[0].recall is not None else None


async def _has(store: VectorStore, kind: str) -> bool:
    return await _kind(store) == kind


async def _measures(store: VectorStore) -> list[Any]:
    details = (await store.stats("notes")).details
    return [details.get(name) for name in ("effort", "recall", "recall_by", "recall_target")]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a small table be large, settled after 0.2 s, and measured with few questions by an
    upkeep that begins soon and never rests."""
    monkeypatch.setattr(kinds, "_MOST_OF_A_GRAPH", 0)
    monkeypatch.setattr(recall, "_MADE_OF", 16)
    monkeypatch.setattr(loop, "_QUIET", 0.05)
    monkeypatch.setattr(loop, "_LONGEST_REST", 0.0)
    for module in (build, loop):
        monkeypatch.setattr(module, "SETTLED", timedelta(seconds=0.2))
        monkeypatch.setattr(module, "MOST_QUESTIONS", 60)


async def test_a_large_table_gets_codes_at_once_and_a_graph_when_it_is_searched_and_settled(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "s", index_from=500) as store:
        await filled(store, 600)
        await until(lambda: _has(store, "ivf_rq"))
        await store.optimize("notes")
        assert await _has(store, "ivf_rq")  # nobody searches
        await store.search_many("notes", QUESTIONS)
        await until(lambda: _has(store, "hnsw_sq"))
        assert await true_recall(store) >= 0.9


async def test_the_reported_recall_is_that_of_the_worst_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = np.random.default_rng(3).standard_normal((60, DIM)).astype(np.float32)
    both = np.stack([VECTORS[:60], far], axis=1).reshape(-1, DIM)
    monkeypatch.setattr(
        recall, "_questions_from", lambda *_: recall.Questions(both, "made questions", 2)
    )
    async with opened(tmp_path / "s", index="none") as store:
        await filled(store, 600)
        await store.create_index("notes", "ivf_flat", num_partitions=20)
        effort, measured, *_ = await _measures(store)
        assert 0.95 <= measured < 1
        true = await true_recall(store, far, tuning=Tuning(**effort))
        assert measured == pytest.approx(true, abs=0.002)
        assert measured < await true_recall(store, VECTORS[:60], tuning=Tuning(**effort))


@pytest.mark.slow
async def test_searches_keep_the_measured_codes_until_a_graph_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is built, and after a build that failed or was killed; the next replaces them."""
    building, go_on = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def create_index(*_: Any, **__: Any) -> None:
        building.release()
        await go_on.acquire()
        raise RuntimeError("lance error: no graph today")

    async with opened(tmp_path / "s", index_from=500) as store:
        await filled(store, 600)
        await until(lambda: _kind(store))
        codes = await _measures(store)
        for end in ("failed", "killed"):
            await asyncio.sleep(0.25)  # until it is settled
            with case(end), monkeypatch.context() as patch:
                patch.setattr(lancedb.AsyncTable, "create_index", create_index)
                graph = asyncio.ensure_future(store.create_index("notes", "auto", recall=0.99))
                await building.acquire()
                assert await _measures(store) == codes
                if end == "killed":
                    graph.cancel()
                go_on.release()
                with pytest.raises((AiovecError, asyncio.CancelledError)):
                    await graph
                assert await _measures(store) == codes
    async with opened(tmp_path / "s", index_from=500) as store:
        assert await _measures(store) == codes
        await store.optimize("notes")
        versions = await store.versions("notes")
        await store.optimize("notes")
        assert await store.versions("notes") == versions
        assert await _measures(store) == codes
        await store.search_many("notes", QUESTIONS)
        await until(lambda: _has(store, "hnsw_sq"))


@pytest.mark.slow
async def test_a_failed_rebuild_of_a_grown_table_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ``stats`` says why it failed, as of a build that nobody waits for."""

    async def create_index(*_: Any, config: Any, **__: Any) -> None:
        raise RuntimeError(f"lance error: no {type(config).__name__} today")

    async def has_failed(store: VectorStore, kind: str) -> bool:
        return f"no {kind} today" in (await store.stats("notes")).details.get("index_failure", "")

    async def partition_size(store: VectorStore) -> Any:
        (info,) = await store.indexes("notes")
        return info.parameters["target_partition_size"]

    async with opened(tmp_path / "s", index_from=500) as store:
        await filled(store, 600)
        await until(lambda: _kind(store))
        size = await partition_size(store)
        with monkeypatch.context() as patch:
            patch.setattr(lancedb.AsyncTable, "create_index", create_index)
            await store.insert("notes", rows(600, 2500))
            await store.optimize("notes")
            assert await has_failed(store, "IvfRq")
            await store.create_index("notes", "ivf_flat", wait=False)
            await until(lambda: has_failed(store, "IvfFlat"))
        assert await partition_size(store) == size
    async with opened(tmp_path / "s", index_from=500) as store:
        await store.optimize("notes")
        assert await partition_size(store) != size
        assert await _has(store, "ivf_rq")


async def test_an_index_that_another_program_built_is_measured_once(tmp_path: Path) -> None:
    """And upkeep never builds it again."""
    async with opened(tmp_path / "s", index="none") as store:
        await filled(store, 600)
        table = await (await lancedb.connect_async(tmp_path / "s")).open_table("notes")
        await table.create_index("embedding", config=lancedb.index.IvfFlat())
        await store.optimize("notes")
        measures, versions = await _measures(store), await store.versions("notes")
        assert measures[2] == "64 made questions"
        await store.optimize("notes")
        assert (await _measures(store), await store.versions("notes")) == (measures, versions)
