"""The graph that "auto" builds for a large table once it has settled, here for a small one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import pytest
from tests.harness.waiting import until
from tests.lancedb.indexed import QUESTIONS, filled, rows, true_recall
from tests.lancedb.support import opened

from aiovec import AiovecError, VectorStore
from aiovec_lancedb.index import build, kinds
from aiovec_lancedb.upkeep import loop


async def _kind(store: VectorStore) -> str | None:
    infos = await store.indexes("notes")
    return infos[0].kind if infos and infos[0].recall is not None else None


async def _measures(store: VectorStore) -> list[Any]:
    details = (await store.stats("notes")).details
    return [details.get(name) for name in ("effort", "recall", "recall_by", "recall_target")]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a small table be large, and settled after a second."""
    monkeypatch.setattr(kinds, "_MOST_OF_A_GRAPH", 0)
    for module in (build, loop):
        monkeypatch.setattr(module, "SETTLED", timedelta(seconds=1))


async def test_a_large_table_gets_codes_at_once_and_a_graph_when_it_is_searched_and_settled(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "s", index_from=500) as store:
        await filled(store, 600)

        async def has(kind: str) -> bool:
            return await _kind(store) == kind

        await until(lambda: has("ivf_rq"))
        await store.optimize("notes")
        assert await has("ivf_rq")  # nobody searches
        for turn in range(5):
            await store.search_many("notes", QUESTIONS + turn)
        await until(lambda: has("hnsw_sq"))
        assert await true_recall(store) >= 0.9


@pytest.mark.parametrize("end", ["failed", "killed"])
async def test_searches_keep_the_measured_codes_until_a_graph_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """While it is built, and after a build that did not end well; the next one replaces them."""
    building, go_on = asyncio.Event(), asyncio.Event()

    async def create_index(*_: Any, **__: Any) -> None:
        building.set()
        await go_on.wait()
        raise RuntimeError("lance error: no graph today")

    async with opened(tmp_path / "s", index_from=500) as store:
        await filled(store, 600)
        await until(lambda: _kind(store))
        codes = await _measures(store)
        await asyncio.sleep(1.1)
        with monkeypatch.context() as patch:
            patch.setattr(lancedb.AsyncTable, "create_index", create_index)
            graph = asyncio.ensure_future(store.create_index("notes", "auto", recall=0.99))
            await building.wait()
            assert await _measures(store) == codes
            if end == "killed":
                graph.cancel()
            go_on.set()
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
        for turn in range(5):
            await store.search_many("notes", QUESTIONS + turn)

        async def has_graph() -> bool:
            return await _kind(store) == "hnsw_sq"

        await until(has_graph)


async def test_a_failed_rebuild_of_a_grown_table_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def create_index(*_: Any, **__: Any) -> None:
        raise RuntimeError("lance error: no codes today")

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
        assert await partition_size(store) == size
    async with opened(tmp_path / "s", index_from=500) as store:
        await store.optimize("notes")
        assert await partition_size(store) != size
        assert await _kind(store) == "ivf_rq"


async def test_an_index_that_another_program_built_is_measured_once(tmp_path: Path) -> None:
    """And upkeep never builds it again."""
    async with opened(tmp_path / "s", index="none") as store:
        await filled(store, 600)
        table = await (await lancedb.connect_async(tmp_path / "s")).open_table("notes")
        await table.create_index("embedding", config=lancedb.index.IvfFlat())
        await store.optimize("notes")
        measures, versions = await _measures(store), await store.versions("notes")
        assert measures[2] == "192 made questions"
        await store.optimize("notes")
        assert (await _measures(store), await store.versions("notes")) == (measures, versions)
