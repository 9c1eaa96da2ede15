"""The choice among a search's ranked rows: bounds, groups, diversity, reranking, likeness."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case, filled
from tests.contract.searching import METRICS
from tests.contract.tables import CALLS
from tests.harness.values import DIM, ids_of, small_rows, vectors

from aiovec import F, Field, Hit, Schema, VectorStore
from aiovec.errors import FilterError, InvalidArgumentError

CHUNKS = Schema(
    DIM,
    fields={
        "doc": str,
        "page": int,
        "part": float,
        "day": datetime,
        "live": bool,
        "tags": list[str],
        "body": Field(str, text=True),
    },
)
"""Chunks of documents, to be grouped by each field and by keys of the payload."""

KEYS = ("doc", "part", "live", "payload.doc", "payload.deep.doc", "payload.mixed")
_MIXED: tuple[Any, ...] = (1, 1.5, "1", True, False, None, [1], {"a": 1}, "x", -3)


def _chunks(count: int, *, texts: bool = True) -> list[dict[str, Any]]:
    """Rows to be grouped. Without ``texts`` all have the same short one."""
    chance = random.Random(21)
    # Each text has a length of its own, so that no two have one score.
    lengths = chance.sample(range(count), count)
    rows = []
    for n, vector in enumerate(vectors(count, seed=21)):
        doc = None if chance.random() < 0.1 else f"d{int(chance.paretovariate(0.7)) % 40}"
        row: dict[str, Any] = {
            "id": f"c{n:04}", "embedding": vector, "tags": ["a"], "deep": {"doc": doc},
            "body": "wool " + "other " * lengths[n] * texts,
        }  # fmt: skip
        if doc is not None:
            number = int(doc[1:])
            row |= {
                "doc": doc, "page": number, "part": number / 4, "live": number % 2 == 0,
                "day": datetime(2020, 1, 1 + number % 28, tzinfo=UTC),
            }  # fmt: skip
        row["mixed"] = _MIXED[n % len(_MIXED)]
        rows.append(row)
    return rows


def _value(row: Mapping[str, Any], key: str) -> Any:
    if key == "payload.deep.doc":
        value = row["deep"]["doc"]
    elif key == "payload.doc":
        value = None  # a declared field of this name takes it
    else:
        value = row.get(key.removeprefix("payload."))
    return (type(value).__name__.replace("float", "int"), str(value)) if value == value else None


def grouped(
    hits: Sequence[Hit], rows: Mapping[str, Any], key: str, limit: int, per_group: int
) -> list[str]:
    """Return the ids of the best hits of the best groups, from all hits."""
    sizes: dict[Any, int] = {}
    matches = []
    for hit in hits:
        value = _value(rows[hit.id], key)
        if value not in sizes and len(sizes) == limit:
            continue
        sizes[value] = sizes.get(value, 0) + 1
        if sizes[value] <= per_group:
            matches.append(hit.id)
    return matches


async def test_searches_keep_to_bounds_of_score_and_distance(store: VectorStore) -> None:
    for metric in METRICS:
        await filled(store, Schema(DIM, metric=metric), _plain(200), name=metric)
        query = vectors(1, seed=4)[0]
        for limit in (5, 300):
            pool = await store.search(metric, query, limit=limit)
            for middle in (pool[0], pool[len(pool) // 2], pool[-1]):
                assert middle.distance is not None
                by_score = await store.search(metric, query, limit=limit, min_score=middle.score)
                assert ids_of(by_score) == [h.id for h in pool if h.score >= middle.score]
                by_distance = await store.search(
                    metric, query, limit=limit, max_distance=middle.distance
                )
                assert ids_of(by_distance) == [
                    hit.id for hit in pool if (hit.distance or 0.0) <= middle.distance
                ]
                (many,) = await store.search_many(
                    metric, [query], limit=limit, min_score=middle.score,
                    max_distance=middle.distance,
                )  # fmt: skip
                assert {*ids_of(many)} == {*ids_of(by_score)} & {*ids_of(by_distance)}
        assert await store.search(metric, query, min_score=1e9) == []
        assert await store.search(metric, query, max_distance=-1e9) == []
        assert len(await store.search(metric, query, min_score=-1e9, max_distance=1e9)) == 10


async def test_bounds_come_before_the_steps_that_choose(notes: VectorStore) -> None:
    query = [1.0] * DIM
    pool = await notes.search("notes", query)
    offered: list[Hit] = []

    def keep(hits: list[Hit]) -> list[float]:
        offered[:] = hits
        return [-5.0] * len(hits)

    matches = await notes.search("notes", query, min_score=pool[4].score, rerank=keep)
    assert ids_of(offered) == ids_of(pool)[:5]
    assert [hit.score for hit in matches] == [-5.0] * 5
    diverse = await notes.search("notes", query, min_score=pool[4].score, diversity=0.9)
    assert {*ids_of(diverse)} == {*ids_of(pool[:5])}


async def test_keyword_and_hybrid_searches_keep_to_bounds_of_score_and_distance(
    store: VectorStore,
) -> None:
    await filled(store, CHUNKS, _chunks(60))
    pool = await store.search_text("notes", "wool", limit=60)
    least = pool[20].score
    matches = await store.search_text("notes", "wool", limit=60, min_score=least)
    assert ids_of(matches) == [hit.id for hit in pool if hit.score >= least]
    assert await store.search_text("notes", "wool", min_score=1e9) == []
    query = [1.0] * DIM
    fused = await store.search_hybrid("notes", "wool", query, limit=60)
    best = await store.search_hybrid("notes", "wool", query, limit=60, min_score=fused[10].score)
    assert ids_of(best) == [hit.id for hit in fused if hit.score >= fused[10].score]
    near = await store.search("notes", query, limit=9)
    far = near[-1].distance
    assert far is not None
    within = await store.search_hybrid(
        "notes", "wool", query, limit=60, fetch_k=60, max_distance=far
    )
    assert {hit.id for hit in within if "vector" in hit.ranks} == {*ids_of(near)}
    assert {hit.id for hit in within if "text" in hit.ranks} == {*ids_of(pool)}


async def test_search_many_takes_a_filter_for_each_query(store: VectorStore) -> None:
    await filled(store, CHUNKS, _chunks(300, texts=False))
    wheres: list[Any] = [
        None, "page < 3", F.live, "page < 3", (F.doc == "d1") | F.doc.is_null(), "FALSE",
        "page BETWEEN 2 AND 9", F["payload.mixed"] == "x", None,
    ]  # fmt: skip
    queries = vectors(len(wheres), seed=22)
    for form in (list, tuple):
        many = await store.search_many("notes", queries, each_where=form(wheres), limit=8)
        for query, where, hits in zip(queries, wheres, many, strict=True):
            with case(where):
                alone = await store.search("notes", query, where=where, limit=8)
                assert ids_of(hits) == ids_of(alone)
    assert many[5] == []
    assert await store.search_many("notes", [], each_where=[]) == []
    wrong: Any
    for wrong in ([], ["page < 3"], [None] * 10, "page < 3", 5, iter(wheres)):
        with pytest.raises(InvalidArgumentError) as caught:
            await store.search_many("notes", queries, each_where=wrong)
        assert caught.value.argument == "each_where"
    for wrong in ("absent = 1", 5, [["page < 3"]]):
        with pytest.raises(FilterError):
            await store.search_many("notes", queries[:2], each_where=[None, wrong])


async def test_a_list_as_where_is_one_filter_in_every_search(store: VectorStore) -> None:
    await filled(store, CHUNKS, _chunks(300, texts=False))
    queries, both = vectors(2, seed=22), ["page > 2", {"live": True}]
    own = ["page < 9", None]
    many = await store.search_many("notes", queries, where=both)
    narrowed = await store.search_many("notes", queries, where=both, each_where=own)
    for query, each, hits, fewer in zip(queries, own, many, narrowed, strict=True):
        alone = await store.search("notes", query, where="page > 2 AND live = TRUE")
        assert ids_of(hits) == ids_of(alone) != []
        more = [*both, each] if each else both
        assert ids_of(fewer) == ids_of(await store.search("notes", query, where=more)) != []


async def test_search_like_finds_the_rows_near_a_row(store: VectorStore) -> None:
    for metric in METRICS:
        schema = Schema(DIM, metric=metric, fields={"year": int})
        rows = small_rows(60)
        for row in rows:
            del row["name"]
        await filled(store, schema, rows, name=metric)
        for row in rows[:2]:
            every = await store.search(metric, row["embedding"], limit=60)
            others = [hit for hit in every if hit.id != row["id"]]
            for limit in (1, 10, 58, 59, 60, 1_000):
                hits = await store.search_like(metric, row["id"], limit=limit)
                assert ids_of(hits) == ids_of(others)[:limit]
            assert [hit.distance for hit in hits] == pytest.approx(
                [hit.distance for hit in others], abs=1e-6
            )
            narrowed = await store.search_like(
                metric, row["id"], where="year < 30", limit=5, select=["year"],
                include_vector=True, exact=True,
            )  # fmt: skip
            assert ids_of(narrowed) == [h.id for h in others if h["year"] < 30][:5]
            assert all(hit.vector is not None for hit in narrowed)
            assert narrowed[0].fields.keys() == {"year"}
            near = others[7]
            bounded = await store.search_like(metric, row["id"], min_score=near.score)
            assert 7 <= len(bounded) <= 9
            backwards = await store.search_like(
                metric, row["id"], limit=3, rerank=lambda hits: hits[::-1]
            )
            assert ids_of(backwards) == ids_of(others[:40][::-1])[:3]
            varied = await store.search_like(metric, row["id"], limit=5, diversity=0.8)
            assert row["id"] not in ids_of(varied)
            assert len(varied) == 5


async def test_search_like_leaves_the_row_out_among_many_equal_ones(store: VectorStore) -> None:
    """It is left out also where far more rows than the limit are as near to it as itself."""
    rows = [{"id": f"r{n:03}", "embedding": [1.0, 2.0, 3.0, 4.0]} for n in range(300)]
    await filled(store, Schema(DIM), rows)
    for id in ("r000", "r150", "r299"):
        for limit in (1, 5, 299, 300):
            matches = ids_of(await store.search_like("notes", id, limit=limit))
            assert id not in matches
            assert len(set(matches)) == min(limit, 299)
    await store.delete("notes", where="id != 'r007'")
    assert await store.search_like("notes", "r007") == []


async def test_a_grouped_search_has_the_best_rows_of_the_best_groups(store: VectorStore) -> None:
    rows = {row["id"]: row for row in _chunks(300, texts=False)}
    await filled(store, CHUNKS, list(rows.values()))
    query = vectors(1, seed=24)[0]
    for where in (None, "page >= 1"):
        every = await store.search("notes", query, limit=300, where=where, select=[])
        for key in KEYS:
            for limit, per_group in ((1, 1), (10, 1), (100, 1), (2, 3), (5, 700)):
                options: dict[str, Any] = {
                    "limit": limit, "group_by": key, "per_group": per_group, "where": where,
                }  # fmt: skip
                expected = grouped(every, rows, key, limit, per_group)
                with case(options):
                    hits = await store.search("notes", query, **options)
                    if per_group > 1:
                        # Further rows of a group may rank too low to have been looked at.
                        assert _best_of_each(hits, rows, key) == _best_of(expected, rows, key)
                        expected = [id for id in expected if id in ids_of(hits)]
                    assert ids_of(hits) == expected
                    assert hits[0].fields.keys() >= {"doc", "mixed"}
                    (many,) = await store.search_many("notes", [query], **options)
                    assert ids_of(many) == expected


async def test_groups_behind_many_rows_of_another_are_not_looked_for(store: VectorStore) -> None:
    """The rows that are looked at are bounded, however many rows the table and its groups have."""
    rows: list[dict[str, Any]] = [
        {"id": f"n{n:04}", "embedding": [1.0, n / 1e6, 0, 0], "doc": "big", "body": "wool wool"}
        for n in range(1_000)
    ]
    rows += [
        {"id": f"f{n}", "embedding": [-1.0, n, 0, 0], "doc": f"small{n}", "body": "a wool hat"}
        for n in range(3)
    ]
    await filled(store, CHUNKS, rows)
    query = [1.0, 0, 0, 0]
    calls: dict[str, Any] = {
        "vector": lambda **options: store.search("notes", query, **options),
        "text": lambda **options: store.search_text("notes", "wool", **options),
        "hybrid": lambda **options: store.search_hybrid("notes", "wool", query, **options),
    }
    for name, search in calls.items():
        for per_group in (1, 2):
            with case((name, per_group)):
                few = await search(limit=4, group_by="doc", fetch_k=20, per_group=per_group)
                assert ids_of(few) == ["n0000", "n0001"][:per_group]
                every = await search(limit=4, group_by="doc", fetch_k=80, per_group=per_group)
                assert {hit["doc"] for hit in every} == {"big", "small0", "small1", "small2"}


async def test_near_duplicates_are_grouped_by_their_distances(store: VectorStore) -> None:
    """Their scores are equal, their distances are not."""
    nearest_last = [1e-8, 1e-9, 0.0]
    query = [1.0, 0]
    for metric in ("cosine", "l2"):
        name = f"{metric}-groups"
        await store.create_table(name, Schema(2, metric=metric, fields={"doc": str}))
        rows = [
            {"id": f"{n}-{doc}", "embedding": [1.0, y + shift], "doc": doc}
            for n, y in enumerate(nearest_last)
            for doc, shift in (("a", 4e-10), ("b", 2e-10))
        ]
        await store.insert(name, rows)
        plain = await store.search(name, query, limit=6)
        assert ids_of(plain) == ["2-b", "2-a", "1-b", "1-a", "0-b", "0-a"]
        assert len({hit.distance for hit in plain}) == 6
        for per_group in (1, 2):
            with case((metric, per_group)):
                hits = await store.search(name, query, group_by="doc", per_group=per_group)
                assert ids_of(hits) == ids_of(plain)[: 2 * per_group]


async def test_keyword_and_hybrid_searches_can_be_grouped(store: VectorStore) -> None:
    rows = {row["id"]: row for row in _chunks(300)}
    await filled(store, CHUNKS, list(rows.values()))
    every = await store.search_text("notes", "wool", limit=300)
    query = vectors(1, seed=26)[0]
    for key in ("doc", "page", "payload.deep.doc"):
        for limit, per_group in ((3, 1), (100, 1), (4, 2)):
            with case((key, limit, per_group)):
                options: dict[str, Any] = {
                    "limit": limit, "group_by": key, "per_group": per_group, "select": [],
                }  # fmt: skip
                hits = await store.search_text("notes", "wool", **options)
                best = grouped(every, rows, key, limit, per_group)
                if per_group == 1:
                    assert ids_of(hits) == best
                # Further rows of a group may rank too low to have been looked at.
                assert ids_of(hits) == [id for id in best if id in ids_of(hits)]
                assert _best_of_each(hits, rows, key) == _best_of(best, rows, key)
                assert all(hit.fields == {} for hit in hits)
                hybrid = await store.search_hybrid("notes", "wool", query, **options)
                groups = [_value(rows[hit.id], key) for hit in hybrid]
                values = {_value(row, key) for row in rows.values()}
                assert len(set(groups)) == min(limit, len(values))
                assert max(map(groups.count, groups)) <= per_group
                assert all(hit.ranks for hit in hybrid)


async def test_groups_are_reranked(store: VectorStore) -> None:
    rows = {row["id"]: row for row in _chunks(300, texts=False)}
    await filled(store, CHUNKS, list(rows.values()))
    offered: list[Hit] = []

    def last_first(hits: list[Hit]) -> list[Hit]:
        offered[:] = hits
        return hits[::-1]

    query = vectors(1, seed=27)[0]
    matches = await store.search(
        "notes", query, limit=4, group_by="doc", rerank=last_first, select=["page"]
    )
    every = await store.search("notes", query, limit=300)
    assert ids_of(offered) == grouped(every, rows, "doc", 40, 1)
    assert all("body" in hit.fields for hit in offered)
    assert ids_of(matches) == ids_of(offered[::-1])[:4]
    assert {frozenset(hit.fields) for hit in matches} == {frozenset({"page"})}


def _plain(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r{n:03}", "embedding": v} for n, v in enumerate(vectors(count, seed=20))]


def _best_of(ids: Sequence[str], rows: Mapping[str, Any], key: str) -> dict[Any, str]:
    best: dict[Any, str] = {}
    for id in ids:
        best.setdefault(_value(rows[id], key), id)
    return best


def _best_of_each(hits: Sequence[Hit], rows: Mapping[str, Any], key: str) -> dict[Any, str]:
    return _best_of(ids_of(hits), rows, key)


def _unit(vector: Any) -> Any:
    precise = np.asarray(vector, dtype=np.float64)
    return precise / np.linalg.norm(precise)


async def test_diversity_chooses_by_the_published_formula(store: VectorStore) -> None:
    """It is maximal marginal relevance over the nearest, few or many, for every metric; of two rows
    with the same vector, the first by id is picked first."""
    rng = np.random.default_rng(5)
    matrix = np.repeat(rng.standard_normal((1_500, DIM)).astype(np.float32), 2, axis=0)
    query = rng.standard_normal(DIM).astype(np.float32)
    for metric in METRICS:
        rows = {"id": [f"r{n:04}" for n in range(3_000)], "embedding": matrix}
        await store.create_table(metric, Schema(DIM, metric=metric))
        await store.insert(metric, rows)
        every = await store.search(metric, query, limit=3_000, include_vector=True)
        unit = np.array([_unit(hit.vector) for hit in every])
        near = unit @ _unit(query)
        for diversity, size in itertools.product((0.3, 0.5, 1.0), (20, 3_000)):
            picked, worth = list[int](), near[:size]
            while len(picked) < 20:
                picked.append(int((worth >= worth.max() - 1e-12).argmax()))
                closest = (unit[:size] @ unit[picked].T).max(axis=1)
                worth = (1 - diversity) * near[:size] - diversity * closest
                worth[picked] = -np.inf
            hits = await store.search(metric, query, limit=20, diversity=diversity, fetch_k=size)
            with case((metric, diversity, size)):
                assert ids_of(hits) == [every[i].id for i in picked]


async def test_a_function_that_reranks_answers_with_the_hits_or_scores(notes: VectorStore) -> None:
    query = [1.0] * DIM

    def scores(*values: Any) -> Any:
        return lambda hits: [*values, *range(len(hits) - len(values))]

    wrong: dict[str, Any] = {
        "no function": 5,
        "None": lambda hits: None,
        "a number": lambda hits: 5,
        "an array without a length": lambda hits: np.array(1.0),
        "too few": lambda hits: [1.0],
        "a text": lambda hits: "1" * len(hits),
        "a mapping": lambda hits: {hit.id: 1.0 for hit in hits},
        "a set": lambda hits: set(range(len(hits))),
        "NaN": scores(1.0, float("nan")),
        "infinity": scores(float("inf")),
        "a text among scores": scores("1"),
        "None among scores": scores(None),
        "an enormous number": scores(10**400),
        "a hit among scores": lambda hits: [hits[0], *range(len(hits) - 1)],
        "a hit twice": lambda hits: hits[:1] * 5,
        "a hit from elsewhere": lambda hits: [*hits, Hit("ghost", 1.0, None)],
    }
    for name, rerank in wrong.items():
        with case(name):
            with pytest.raises(InvalidArgumentError) as caught:
                await notes.search("notes", query, limit=5, rerank=rerank)
            assert caught.value.argument == "rerank"
    plain = await notes.search("notes", query, limit=10)
    right: dict[str, Any] = {
        "an array": lambda hits: np.arange(len(hits), 0, -1),
        "a generator": lambda hits: (-n for n, _ in enumerate(hits)),
        "some": lambda hits: hits[:5],
        "altered copies": lambda hits: [hit.__replace__(score=0.5, fields={}) for hit in hits],
        "a tuple": tuple,
    }
    for name, rerank in right.items():
        with case(name):
            matches = await notes.search("notes", query, limit=5, rerank=rerank)
            assert ids_of(matches) == ids_of(plain)[:5]
            assert [hit.fields for hit in matches] == [hit.fields for hit in plain[:5]]


async def test_slow_reranking_holds_no_other_call(notes: VectorStore) -> None:
    """An app's own functions may wait for anything, also for calls of the store."""
    over = threading.Event()
    loop, begun = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def slow(hits: list[Hit]) -> list[Hit]:
        loop.call_soon_threadsafe(begun.release)
        over.wait(120)
        return hits

    waiting = [
        asyncio.ensure_future(notes.search("notes", [1.0] * DIM, rerank=slow)) for _ in range(8)
    ]
    try:
        for _ in range(4):
            await asyncio.wait_for(begun.acquire(), 120)
        for name, call in CALLS.items():
            if name not in ("insert", "drop_table"):
                with case(name):
                    await call(notes, "notes")
    finally:
        over.set()
        matches = await asyncio.gather(*waiting)
    assert [len(hits) for hits in matches] == [10] * 8
