"""Hybrid search: two lists fused, and the steps that choose from them."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case, filled
from tests.harness.values import DIM, ids_of, vectors

from aiovec import RRF, Field, Hit, Schema, VectorStore, Weighted
from aiovec.errors import InvalidArgumentError

Fusion = RRF | Weighted

HYBRID = Schema(
    DIM,
    model="m",
    fields={
        "title": Field(str, text=True),
        "body": Field(str, text=True),
        "year": int,
        "lang": str,
    },
)
QUERY = np.array([1.0, 0.5, 0.0, 0.0], dtype=np.float32)
_WORDS = ("wool", "hat", "cap", "yarn", "loom", "felt")


def _rows(count: int = 60) -> list[dict[str, Any]]:
    """Rows with lengths that give each its own score; about half of them contain each word."""
    chance = random.Random(8)
    return [
        {
            "id": f"r{n:02}", "embedding": vector, "year": n, "lang": "ab"[n % 2],
            "title": None if n % 5 == 0 else chance.choice(_WORDS),
            "body": " ".join([*chance.choices(_WORDS, k=3), *["other"] * n]), "extra": n,
        }
        for n, vector in enumerate(vectors(count))
    ]  # fmt: skip


def _shares(name: str, hits: list[Hit], most: float) -> list[float]:
    """Return the shares of the rows of a list; the first has at most ``most``."""
    first, last, parts = (1.0, 0.2, 8) if name == "vector" else (most, 0.05 * most, 1)
    values = [hit.score if hit.distance is None else hit.distance for hit in hits]
    if len({*values}) < 2:
        return [first] * len(values)
    length = max(abs(values[-1] - values[0]), parts * values[0] / len(values))
    return [first - (first - last) * abs(value - values[0]) / length for value in values]


def expected_fusion(
    lists: dict[str, list[Hit]], fusion: Fusion, weight: float, length: int = 40
) -> dict[str, float]:
    """Return the scores that the fused hits have, best first, by the definition.

    ``weight`` is the sum of the weights of the words.
    """
    fused: dict[str, float] = {}
    most, words = 1.0, lists["text"]
    known = min(1.0, words[0].score / (0.8 * weight)) if words else 1.0
    for start in range(0, max(map(len, lists.values())), length):
        scores: dict[str, float] = {}
        for name, every in lists.items():
            hits = every[start : start + length]
            for rank, (hit, share) in enumerate(
                zip(hits, _shares(name, hits, known), strict=True), start + 1
            ):
                if isinstance(fusion, RRF):
                    share = (1 / (fusion.k + rank)) / (2 / (fusion.k + 1))
                elif part := fusion.vector if name == "vector" else fusion.text:
                    share *= part / (fusion.vector + fusion.text)
                else:
                    continue
                if hit.id not in fused:
                    scores[hit.id] = scores.get(hit.id, 0.0) + share * most
        fused |= sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        most = [most, *fused.values()][-1]
    return fused


async def _weight(store: VectorStore, clauses: list[str], rows: int = 60) -> float:
    """Return the sum of the BM25 weights of clauses."""
    having = [len(await store.search_text("notes", clause, limit=rows)) for clause in clauses]
    return sum(max(1e-6, math.log((rows - n + 0.5) / (n + 0.5))) for n in having)


async def _hybrid(store: VectorStore, count: int = 60) -> list[dict[str, Any]]:
    rows = _rows(count)
    await filled(store, HYBRID, rows)
    return rows


async def _lists(store: VectorStore, query: str, pool: int, **options: Any) -> dict[str, list[Hit]]:
    return {
        "vector": await store.search("notes", QUERY, limit=pool, **options),
        "text": await store.search_text("notes", query, limit=pool, match="any", **options),
    }


async def test_hybrid_fuses_the_two_searches(store: VectorStore) -> None:
    await _hybrid(store)
    fusions: tuple[Fusion, ...] = (
        RRF(), RRF(k=1), RRF(k=0.5), Weighted(), Weighted(vector=0.2, text=3),
        Weighted(vector=1, text=0), Weighted(vector=0, text=1),
    )  # fmt: skip
    for query, clauses, where in (
        ("wool", ["wool"], None), ("wool hat", ["wool", "hat"], None),
        ('"wool hat"', ['"wool hat"'], None), ("-wool hat", ["hat"], None),
        ("wool nowhere", ["wool", "nowhere"], None), ("nowhere", ["nowhere"], None),
        ("", [], None), ("title:wool", ["title:wool"], "year >= 20"),
        ("loom", ["loom"], "lang = 'a'"), ("loom", ["loom"], "year < 0"),
        ("felt", ["felt"], "id = 'r07'"),
    ):  # fmt: skip
        lists, weight = await _lists(store, query, 60, where=where), await _weight(store, clauses)
        for fusion in fusions:
            expected = expected_fusion(lists, fusion, weight)
            for limit in (1, 5, 40, 100) if query == "wool" else (5, 100):
                with case((query, where, fusion, limit)):
                    hits = await store.search_hybrid(
                        "notes", query, QUERY, fusion=fusion, limit=limit, where=where
                    )
                    assert {hit.id: hit.score for hit in hits} == pytest.approx(
                        dict(list(expected.items())[:limit])
                    )
                    scores = [hit.score for hit in hits]
                    assert scores == sorted(scores, reverse=True)
                    assert all(0 <= score <= 1 for score in scores)


async def test_the_first_of_both_lists_has_the_score_1(store: VectorStore) -> None:
    rows = await _hybrid(store)
    query, vector = "unique", rows[7]["embedding"]
    await store.update("notes", {"title": "unique"}, ids="r07")
    for fusion in (RRF(), RRF(k=1), Weighted(), Weighted(vector=0.2, text=3)):
        with case(fusion):
            hits = await store.search_hybrid("notes", query, vector, fusion=fusion, limit=5)
            assert (hits[0].id, hits[0].score) == ("r07", pytest.approx(1))
            least = hits[0].score - 1e-9
            best = await store.search_hybrid(
                "notes", query, vector, fusion=fusion, limit=5, min_score=least
            )
            assert ids_of(best) == ["r07"]


async def test_a_fused_hit_has_its_rank_and_score_in_each_list(store: VectorStore) -> None:
    rows = {row["id"]: row for row in await _hybrid(store)}
    lists = await _lists(store, "wool", 40)
    distances = {hit.id: hit.distance for hit in await store.search("notes", QUERY, limit=60)}
    hits = await store.search_hybrid("notes", "wool", QUERY, limit=40, highlight=True)
    kinds = set()
    for hit in hits:
        row = rows[hit.id]
        places = {
            name: (ids_of(matches).index(hit.id), matches)
            for name, matches in lists.items()
            if hit.id in ids_of(matches)
        }
        kinds.add(tuple(places))
        assert hit.ranks.keys() == places.keys()
        for name, (place, matches) in places.items():
            assert hit.ranks[name].rank == place + 1
            assert hit.ranks[name].score == pytest.approx(matches[place].score, abs=1e-6)
        shown = hit.to_dict()
        assert shown["_ranks"] == {
            name: {"rank": place + 1, "score": hit.ranks[name].score}
            for name, (place, _) in places.items()
        }
        assert hit.distance == pytest.approx(distances[hit.id], abs=1e-6)
        assert bool(hit.highlights) == ("text" in places)
        assert hit.vector is None
        assert dict(hit) == {k: v for k, v in row.items() if k != "embedding"}
    assert len(kinds) > 1


async def test_the_query_excludes_rows_from_the_keyword_list_only(store: VectorStore) -> None:
    """``where`` excludes them from both."""
    every = {row["id"] for row in await _hybrid(store)}
    wool = set(ids_of(await store.search_text("notes", "wool", limit=100)))
    for query in ("wool -hat", '"wool" -hat', "body:wool -hat"):
        kept = set(ids_of(await store.search_text("notes", query, limit=100)))
        assert kept < wool
        hits = await store.search_hybrid("notes", query, QUERY, limit=100, fetch_k=100)
        assert {hit.id for hit in hits if "text" in hit.ranks} == kept
        assert {hit.id for hit in hits if "vector" in hit.ranks} == every
        others = f"id NOT IN ('{hits[0].id}', '{hits[-1].id}')"
        hits = await store.search_hybrid("notes", query, QUERY, limit=100, where=others)
        assert len(hits) == 58


async def test_reranking_reads_the_texts(store: VectorStore) -> None:
    rows = {row["id"]: row for row in await _hybrid(store)}
    offered: list[list[Hit]] = []

    async def by_length(hits: list[Hit]) -> list[float]:
        offered.append(hits)
        await asyncio.sleep(0)
        return [float(len(hit["body"])) for hit in hits]

    def backwards(hits: list[Hit]) -> list[Hit]:
        offered.append(hits)
        return hits[::-1]

    calls: dict[str, Callable[..., Awaitable[list[Hit]]]] = {
        "vector": lambda **options: store.search("notes", QUERY, **options),
        "text": lambda **options: store.search_text("notes", "wool", **options),
        "hybrid": lambda **options: store.search_hybrid("notes", "wool", QUERY, **options),
    }
    for name, search in calls.items():
        with case(name):
            pool = await search(limit=40)
            for select in (["year"], ["year", "title"], [], ["payload.extra"], None):
                hits = await search(limit=5, select=select, rerank=by_length)
                best = sorted(pool, key=lambda hit: (-len(hit["body"]), hit.id))[:5]
                assert ids_of(hits) == ids_of(best)
                assert ids_of(offered[-1]) == ids_of(pool)
                for hit in offered[-1]:
                    assert hit["body"] == rows[hit.id]["body"]
                    assert hit["title"] == rows[hit.id]["title"]
                plain = await search(limit=40, select=select)
                fields = {hit.id: hit.fields for hit in plain}
                for hit in hits:
                    assert hit.fields == fields[hit.id]
                    assert hit.score == len(rows[hit.id]["body"])
                    assert hit.vector is None
            assert await search(limit=5, rerank=lambda hits: hits[:0]) == []
            hits = await search(limit=5, rerank=backwards)
            assert ids_of(hits) == ids_of(pool[::-1][:5])


async def test_the_pool_is_the_callers_to_choose(store: VectorStore) -> None:
    await _hybrid(store)
    offered: list[int] = []

    def count(hits: list[Hit]) -> list[Hit]:
        offered.append(len(hits))
        return hits

    searches: tuple[Callable[..., Awaitable[list[Any]]], ...] = (
        lambda **options: store.search("notes", QUERY, **options),
        lambda **options: store.search_many("notes", [QUERY], **options),
        lambda **options: store.search_text("notes", "wool -nowhere", **options),
        lambda **options: store.search_hybrid("notes", "wool", QUERY, **options),
    )
    for search in searches:
        offered.clear()
        for fetch_k in (None, 3, 7, 1_000):
            await search(limit=3, fetch_k=fetch_k, rerank=count)
        everything = offered[-1]
        assert offered[:3] == [min(40, everything), 3, 7]
        assert 20 < everything <= 60
        with pytest.raises(InvalidArgumentError) as caught:
            await search(limit=3, fetch_k=2, rerank=count)
        assert caught.value.argument == "fetch_k"
    lists, weight = await _lists(store, "wool", 60), await _weight(store, ["wool"])
    for fetch_k in (1, 11, 60):
        expected = [*expected_fusion(lists, RRF(), weight, fetch_k)]
        hits = await store.search_hybrid(
            "notes", "wool", QUERY, fusion=RRF(), limit=30, fetch_k=fetch_k
        )
        assert ids_of(hits) == expected[:30]
