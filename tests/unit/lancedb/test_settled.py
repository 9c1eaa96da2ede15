"""The graph that "auto" builds for a large table once it has settled, here for a small one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.waiting import until
from tests.lancedb.indexed import QUESTIONS, filled, found_share
from tests.lancedb.support import opened

from aiovec import VectorStore
from aiovec_lancedb.index import build, kinds
from aiovec_lancedb.upkeep import loop


async def _kind(store: VectorStore) -> str | None:
    infos = await store.indexes("notes")
    return infos[0].kind if infos and infos[0].recall is not None else None


async def test_a_large_table_gets_codes_at_once_and_a_graph_when_it_is_searched_and_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_MOST_OF_A_GRAPH", 0)
    for module in (build, loop):
        monkeypatch.setattr(module, "SETTLED", timedelta(seconds=1))
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
        assert await found_share(store) >= 0.9
