"""B12: the wanted recall holds under filters whose rows lie together, near the query or far."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import aiovec
from aiovec import F, Field, Schema, VectorStore

from .indexed import store_at

_ROWS, _DIM, _TOPICS = 8_000, 32, 30
_SCHEMA = Schema(_DIM, fields={"topic": int, "tagged": Field(int, index="bitmap")})
_LIMIT = 10


def _made(rows: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Vectors around the centres of topics, and each one's topic."""
    centres = np.random.default_rng(7).standard_normal((_TOPICS, _DIM))
    chance = np.random.default_rng(seed)
    topics = chance.integers(0, _TOPICS, rows)
    made = centres[topics] + 0.6 * chance.standard_normal((rows, _DIM))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32), topics


_VECTORS, _TOPIC = _made(_ROWS, seed=1)
_QUESTIONS, _ = _made(60, seed=2)  # of every topic, whichever one the filter wants


async def _filled(store: VectorStore) -> None:
    await store.create_table("notes", _SCHEMA)
    ids = [f"r{number}" for number in range(_ROWS)]
    fields = {"topic": _TOPIC, "tagged": _TOPIC % 4}
    await store.insert("notes", {"id": ids, "embedding": _VECTORS, **fields})


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and an index over it, for tests that work on copies."""
    path = tmp_path_factory.mktemp("topical") / "store"

    async def make() -> None:
        async with store_at(path) as store:
            await _filled(store)
            await store.create_index("notes", "ivf_rq")

    asyncio.run(make())
    return path


@pytest.fixture
async def indexed(made_once: Path, tmp_path: Path) -> AsyncIterator[VectorStore]:
    """A store with the table and an index of its own."""
    await asyncio.to_thread(shutil.copytree, made_once, tmp_path / "indexed")
    async with store_at(tmp_path / "indexed") as store:
        yield store


async def _shares(store: VectorStore, where: Any, selected: Any, **options: Any) -> list[float]:
    """For each question what part of the nearest of the filter's rows is found."""
    numbers = np.flatnonzero(selected)
    close = _QUESTIONS.astype(np.float64) @ _VECTORS[numbers].astype(np.float64).T
    last = -np.sort(-close, axis=1)[:, _LIMIT - 1]
    places = {f"r{number}": place for place, number in enumerate(numbers)}
    found = await store.search_many(
        "notes", _QUESTIONS, limit=_LIMIT, where=where, select=[], **options
    )
    return [
        sum(close[query][places[hit.id]] >= last[query] - 1e-6 for hit in hits) / _LIMIT
        for query, hits in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ivf_pq", {"num_sub_vectors": 8}),
        pytest.param("hnsw_sq", {}, marks=pytest.mark.soak),
        pytest.param("ivf_rq", {}, marks=pytest.mark.soak),
        pytest.param("ivf_flat", {}, marks=pytest.mark.soak),
        pytest.param("ivf_sq", {}, marks=pytest.mark.soak),
        pytest.param("hnsw", {}, marks=pytest.mark.soak),
        pytest.param("hnsw_pq", {}, marks=pytest.mark.soak),
        pytest.param("hnsw_sq", {"num_partitions": 8}, marks=pytest.mark.soak),
    ],
)
async def test_recall_under_filters_of_one_topic(
    store: VectorStore, kind: str, options: dict[str, int]
) -> None:
    """B12: a filter of 7 % of the rows had 0.71, and single queries found nothing."""
    await _filled(store)
    await store.create_index("notes", kind, **options)
    for where, selected in (
        (F.topic.in_([3, 4, 5]), np.isin(_TOPIC, [3, 4, 5])),  # one tenth
        (F.tagged == 1, _TOPIC % 4 == 1),  # a quarter, by an index over the field
        (F.topic >= 10, _TOPIC >= 10),  # two thirds
        (F.topic < 10, _TOPIC < 10),
    ):
        shares = await _shares(store, where, selected)
        assert np.mean(shares) >= 0.95, where
        assert min(shares) > 0, where


@pytest.mark.slow
async def test_far_from_the_query_and_few(indexed: VectorStore) -> None:
    """B12: rows of which none lies in a partition near the query, also fewer than the limit."""
    store = indexed
    far = -_VECTORS[_TOPIC < 5][:1500]
    ids = [f"far{number}" for number in range(len(far))]
    await store.insert("notes", {"id": ids, "embedding": far, "topic": [99] * len(far)})
    await store.optimize("notes")
    for limit in (1, 10, 100):
        shares = []
        for query in _VECTORS[_TOPIC < 5][: 5 if limit > 1 else 20]:
            exact = await store.search("notes", query, where=F.topic == 99, limit=limit, exact=True)
            hits = await store.search("notes", query, where=F.topic == 99, limit=limit)
            assert len(hits) == limit
            same = {hit.id for hit in hits}.intersection(hit.id for hit in exact)
            shares.append(len(same) / limit)
        if limit > 1:
            assert np.mean(shares) >= 0.95
            assert min(shares) > 0.8
        else:  # a lone hit is found or not
            assert np.mean(shares) >= 0.8
    few = await store.search("notes", far[0], where=F.id.startswith("far100"), limit=50)
    assert {hit.id for hit in few} == {"far100", *(f"far100{n}" for n in range(10))}


@pytest.mark.slow
async def test_who_names_the_probes_gets_these_under_a_filter(indexed: VectorStore) -> None:
    """B12: named efforts stay as named; but matching rows are never told as none."""
    where, selected = F.topic.in_([3, 4, 5, 6]), np.isin(_TOPIC, [3, 4, 5, 6])
    named = await _shares(indexed, where, selected, tuning=aiovec.Tuning(nprobes=1))
    asked = await _shares(indexed, where, selected, tuning=aiovec.Tuning(recall=0.99))
    assert np.mean(named) < np.mean(asked)
    assert np.mean(asked) >= 0.99


async def test_filters_before_an_index_is_measured(indexed: VectorStore) -> None:
    """B12 beside B13: nothing is known of the index yet."""
    backend: Any = indexed._follower.engine.backend
    table = (await backend._session.open_any("notes"))[0]
    await table.update_field_metadata({"path": "embedding", "metadata": {"aiovec.index": None}})
    shares = await _shares(indexed, F.topic < 5, _TOPIC < 5)
    assert np.mean(shares) >= 0.95
