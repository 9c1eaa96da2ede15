"""Contract tests for searches: distances, scores, order, limits, hits, and rejected vectors."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.oracle import Oracle, assert_same_hit_fields, assert_same_hits
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    ids_of,
    rows_of_every_kind,
    small_rows,
    vectors,
)

import aiovec
from aiovec import (
    RRF,
    Decay,
    F,
    Factor,
    Field,
    Hit,
    InvalidArgumentError,
    Schema,
    Tuning,
    VectorStore,
    Weighted,
)
from aiovec.backend import Metric

METRICS: tuple[Metric, ...] = ("cosine", "l2", "dot")
# Points around the query [2, 0], nearest first, with their distances and scores.
POINTS: dict[Metric, dict[str, tuple[list[float], float, float]]] = {
    "cosine": {
        "same": ([5, 0], 0.0, 1.0), "half": ([3, 3], 1 - 2**-0.5, 2**-0.5),
        "across": ([0, 7], 1.0, 0.0), "against": ([-1, 0], 2.0, -1.0),
    },
    "l2": {
        "one": ([3, 0], 1.0, 1 / 2), "two": ([2, 2], 2.0, 1 / 3),
        "root": ([4, 1], 5**0.5, 1 / (1 + 5**0.5)), "three": ([5, 0], 3.0, 1 / 4),
    },
    "dot": {
        "four": ([2, 9], -4.0, 4.0), "two": ([1, -5], -2.0, 2.0), "none": ([0, 3], 0.0, 0.0),
        "minus": ([-1, 1], 2.0, -2.0),
    },
}  # fmt: skip


class SearchingContract(ContractBase):
    """``search`` and ``search_many``."""

    async def both(
        self, store: VectorStore, schema: Schema, rows: list[dict[str, Any]], name: str = "notes"
    ) -> Oracle:
        """Create the same table in the store and in an oracle, and return the oracle."""
        await filled(store, schema, rows, name=name)
        oracle = Oracle()
        oracle.create_table(name, schema)
        oracle.insert(name, rows)
        return oracle

    @pytest.mark.parametrize(
        "metric", [pytest.param("cosine", marks=pytest.mark.core), "l2", "dot"]
    )
    async def test_the_nearest_come_first(self, store: VectorStore, metric: Metric) -> None:
        rows = rows_of_every_kind(150)
        for n, row in enumerate(rows):
            row["embedding"] = row["embedding"] * (1 + n % 5)
        oracle = await self.both(store, Schema(DIM, metric=metric, fields=EVERY_KIND.fields), rows)
        for n, query in enumerate(vectors(6, seed=1)):
            limit = (1, 3, 10, 149, 150, 151)[n % 6]
            where = (None, F.year >= 2015, F.live | F.tags.contains("t1"))[n % 3]
            expected = oracle.search("notes", query, limit=limit, where=where)
            for exact in (False, True):
                hits = await store.search("notes", query, limit=limit, where=where, exact=exact)
                assert_same_hits(hits, expected)
                assert_same_hit_fields(hits, expected)

    @pytest.mark.core
    async def test_scores_and_distances_are_as_defined(self, store: VectorStore) -> None:
        for metric, points in POINTS.items():
            rows = [{"id": id, "embedding": vector} for id, (vector, _, _) in points.items()]
            await filled(store, Schema(2, metric=metric), rows[::-1], name=metric)
            hits = await store.search(metric, [2.0, 0.0])
            assert ids_of(hits) == list(points)
            _, distances, scores = zip(*points.values(), strict=True)
            assert [hit.distance for hit in hits] == pytest.approx(distances, abs=1e-6)
            assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-6)
            assert all(type(hit.distance) is float and type(hit.score) is float for hit in hits)

    async def test_distances_are_right_for_all_dimensions_and_magnitudes(
        self, store: VectorStore
    ) -> None:
        for number, (metric, dim, size) in enumerate(
            [(metric, dim, 1.0) for metric in METRICS for dim in (1, 2, 7, 1536, 8192)]
            + [(metric, DIM, size) for metric in METRICS for size in (1e-12, 1e-3, 1e3, 1e12)]
        ):
            with case((metric, dim, size)):
                drawn = vectors(20, dim).astype(float) * size
                rows = [{"id": f"r{n}", "embedding": vector} for n, vector in enumerate(drawn)]
                name = f"t{number}"
                oracle = await self.both(store, Schema(dim, metric=metric), rows, name)
                query = vectors(1, dim, seed=3)[0].astype(float) * size
                hits = await store.search(name, query, limit=5)
                assert_same_hits(hits, oracle.search(name, query, limit=5))

    async def test_the_largest_and_smallest_components_are_kept_and_found(
        self, store: VectorStore
    ) -> None:
        kept = [[1e15, 0.0], [-1e15, 1e-30], [1e-15, 0.0]]
        for metric in METRICS:
            rows = [{"id": f"r{n}", "embedding": vector} for n, vector in enumerate(kept)]
            await filled(store, Schema(2, metric=metric), rows, name=metric)
            stored = [row.vector for row in await store.find(metric, include_vector=True)]
            assert np.array_equal(stored, np.asarray(kept, np.float32))  # type: ignore[arg-type]
            assert len(await store.search(metric, [1e15, 1.0], limit=3)) == 3

    async def test_limits_beyond_4096(self, store: VectorStore) -> None:
        oracle = await self.both(store, SMALL, small_rows(4_300))
        query = vectors(1, seed=3)[0]
        for limit, where in (
            (4_097, None), (4_200, F.year >= 50), (6_000, F.year >= 100),
        ):  # fmt: skip
            hits = await store.search("notes", query, limit=limit, where=where, select=[])
            assert_same_hits(hits, oracle.search("notes", query, limit=limit, where=where))

    @pytest.mark.core
    async def test_equally_near_rows_come_by_id(self, store: VectorStore) -> None:
        vector = [3.0, 1.0, 4.0, 1.5]
        ids = ["b", "a", "é", "B", "10", "9", "😀", "\uffff", "a "]
        rows = [{"id": id, "embedding": vector} for id in ids]
        far: list[dict[str, Any]] = [
            {"id": f"far{n}", "embedding": [-v for v in vector]} for n in range(10)
        ]
        for metric in METRICS:
            oracle = await self.both(store, Schema(DIM, metric=metric), rows + far, metric)
            for query in (vector, [1.0, -2.0, 0.5, 3.0]):
                hits = await store.search(metric, query, limit=20)
                assert [hit.id for hit in hits if hit.id in ids] == sorted(ids)
                assert len({hit.distance for hit in hits}) == 2
                for limit in range(1, 13):
                    hits = await store.search(metric, query, limit=limit)
                    assert_same_hits(hits, oracle.search(metric, query, limit=limit))

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_numbers_beyond_all_rows(self, store: VectorStore) -> None:
        """No number that a caller may pass makes the store fail, or appear damaged."""
        words = {"fields": {"name": Field(str, text=store.supports("text"))}}
        await filled(store, Schema(DIM, **words), small_rows(10, name="word"))
        query = vectors(1)[0]
        for most in (10, 11, 4_097, 100_000, 2**31, 2**53, 2**63 - 2, 2**63 - 1, 2**63, 10**20):
            with case(most):
                assert len(await store.find("notes", limit=most)) == 10
                assert len(await store.search("notes", query, limit=most)) == 10
                assert await store.distinct("notes", "name", limit=most) == {"word": 10}
                batches = [batch async for batch in store.export("notes", batch_size=most)]
                assert sum(batch.num_rows for batch in batches) == 10
                groups = {"group_by": "name", "per_group": most, "limit": 2, "fetch_k": most}
                assert len(await store.search("notes", query, **groups)) == 10
                again = {"fetch_k": most, "diversity": 0.5}
                assert len(await store.search("notes", query, **again)) == 10
                assert await store.find("notes", limit=most, offset=most) == []
                assert await store.search("notes", query, limit=most, offset=most) == []
                if store.supports("text"):
                    hits = await store.search_text("notes", "word", limit=most, highlight=True)
                    assert len(hits) == 10
                    hits = await store.search_hybrid("notes", "word", query, limit=most)
                    assert len(hits) == 10
                    hits = await store.search_text("notes", "word", **groups | {"limit": most})
                    assert len(hits) == 10
                if store.supports("changes"):
                    assert (await store.changes("notes", limit=most)).upserted.num_rows == 10

    async def test_a_search_sees_every_write(self, notes: VectorStore) -> None:
        query = [9.0, -9.0, 9.0, -9.0]
        await notes.insert("notes", [{"id": "x", "embedding": query, "year": 1_000}])
        assert ids_of(await notes.search("notes", query, limit=1)) == ["x"]
        await notes.update("notes", {"year": 1_001}, ids="x")
        assert ids_of(await notes.search("notes", query, limit=1, where="year > 1000")) == ["x"]
        await notes.upsert("notes", [{"id": "x", "embedding": [-q for q in query]}])
        last = (await notes.search("notes", query, limit=20))[-1]
        assert (last.id, last["year"]) == ("x", None)
        await notes.delete("notes", "x")
        assert "x" not in ids_of(await notes.search("notes", query, limit=20))

    @pytest.mark.core
    async def test_a_filter_never_starves_a_search(self, store: VectorStore) -> None:
        query = np.array([1.0, 0, 0, 0], dtype=np.float32)
        drawn = vectors(500) * np.float32(0.2)
        # The filter excludes all near rows.
        drawn = np.concatenate([drawn[:460] + query * 10, drawn[460:] - query * 10])
        rows = [
            {"id": f"r{n:04}", "embedding": vector, "rare": n >= 460, "part": f"p{n % 3}"}
            for n, vector in enumerate(drawn)
        ]
        for metric in METRICS:
            fields: dict[str, Any] = {"rare": bool, "part": Field(str, partition=True)}
            schema = Schema(DIM, metric=metric, fields=fields)
            oracle = await self.both(store, schema, rows, metric)
            for where in (
                F.rare & F.part.in_(["p0", "p2"]),
                F.rare | (F.id == "r0001"),
                ~(F.part != "p2") & F.rare,
                F.id.in_([f"r0{n}" for n in range(460, 490)]),
            ):
                for limit in (10, 40):
                    expected = oracle.search(metric, query, limit=limit, where=where)
                    hits = await store.search(metric, query, limit=limit, where=where)
                    assert_same_hits(hits, expected)

    # What a hit carries

    async def test_a_hit_has_the_fields_of_its_row(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(5)
        await filled(store, EVERY_KIND, rows)
        (hit,) = await store.search("notes", rows[2]["embedding"], limit=1)
        assert isinstance(hit, Hit)
        assert (hit.id, hit["year"], hit["kind"]) == ("r0002", 2002, "y")
        assert hit.vector is None
        assert not hit.ranks
        assert not hit.highlights
        with pytest.raises(KeyError):
            hit["absent"]
        shown = hit.to_dict()
        assert shown == {
            "id": "r0002",
            "_score": hit.score,
            "_distance": hit.distance,
            **hit.fields,
        }
        assert dict(hit) == {"id": "r0002", **hit.fields}
        (hit,) = await store.search("notes", rows[2]["embedding"], limit=1, include_vector=True)
        assert hit.to_dict() == {**shown, EVERY_KIND.vector: rows[2]["embedding"].tolist()}

    # Many

    @pytest.mark.core
    async def test_pages_follow_each_other(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"year": int, "body": Field(str, text=True)})
        rows = [{**row, "body": f"wool {'wool ' * n}"} for n, row in enumerate(small_rows(30))]
        for n, row in enumerate(rows):
            row["year"] = n % 7
        await filled(store, schema, rows)
        query = vectors(1, seed=3)[0]
        calls: dict[str, Callable[..., Awaitable[list[Hit]]]] = {
            "near": lambda **page: store.search("notes", query, **page),
            "like": lambda **page: store.search_like("notes", "r0003", **page),
            "varied": lambda **page: store.search("notes", query, diversity=0.5, **page),
            "reranked": lambda **page: store.search(
                "notes", query, rerank=lambda hits: hits[::-1], **page
            ),
        }
        if store.supports("text"):
            calls["words"] = lambda **page: store.search_text("notes", "wool", **page)
            calls["both"] = lambda **page: store.search_hybrid("notes", "wool", query, **page)
        for name, call in calls.items():
            with case(name):
                every = ids_of(await call(limit=30))
                for offset, limit in ((0, 4), (4, 4), (27, 4), (30, 4)):
                    page = await call(limit=limit, offset=offset)
                    assert ids_of(page) == every[offset : offset + limit]
        groups = await store.search("notes", query, group_by="year", per_group=2, limit=7)
        page = await store.search("notes", query, group_by="year", per_group=2, limit=3, offset=2)
        years = list(dict.fromkeys(hit["year"] for hit in groups))[2:5]
        assert ids_of(page) == [hit.id for hit in groups if hit["year"] in years]
        wrong: Any
        for wrong in (-1, 1.5, True, None):
            with pytest.raises(InvalidArgumentError):
                await store.search("notes", query, offset=wrong)
        for choice in (
            {"diversity": 0.5}, {"rerank": Decay("payload.at", "7d")},
            {"group_by": "year", "per_group": 2},
        ):  # fmt: skip
            for fetch_k, last in ((13, 14), (None, 41)):
                with pytest.raises(InvalidArgumentError, match=f"pass fetch_k={last} or more"):
                    await store.search(
                        "notes", query, limit=4, offset=last - 4, fetch_k=fetch_k, **choice
                    )

    async def test_a_longer_search_begins_with_the_hits_of_a_shorter_one(
        self, store: VectorStore
    ) -> None:
        chance = random.Random(7)
        words = ("wool", "hat", "cap", "yarn", "loom", "felt")
        rows = [
            {
                "id": f"r{n:03}", "embedding": vector,
                "doc": f"d{int(chance.paretovariate(0.7)) % 60}",
                "at": datetime(2020, 1 + chance.randrange(12), 1, tzinfo=UTC),
                "body": " ".join(chance.choices(words, k=chance.randrange(2, 9))),
            }
            for n, vector in enumerate(vectors(400, seed=9))
        ]  # fmt: skip
        body = Field(str, text=store.supports("text"))
        await filled(store, Schema(DIM, fields={"doc": str, "at": datetime, "body": body}), rows)
        query = vectors(1, seed=3)[0]
        searches: dict[str, Callable[..., Awaitable[list[Hit]]]] = {
            "near": lambda **options: store.search("notes", query, exact=True, **options)
        }
        if store.supports("text"):
            text = "wool hat loom"
            searches["words"] = lambda **options: store.search_text("notes", text, **options)
            for fusion in (Weighted(), Weighted(0.9, 0.1), RRF()):
                searches[f"{fusion}"] = partial(
                    store.search_hybrid, "notes", text, query, fusion=fusion, exact=True
                )
        choices: list[dict[str, Any]] = [
            {}, {"where": "doc > 'd2'"}, {"group_by": "doc"}, {"group_by": "doc", "per_group": 3},
            {"rerank": Decay("at", "60d", weight=0.9)}, {"diversity": 0.5},
            {"rerank": lambda hits: hits[::-1], "diversity": 0.3},
            {"group_by": "doc", "rerank": Decay("at", "60d")},
        ]  # fmt: skip
        for (name, search), choice in itertools.product(searches.items(), choices):
            chooses = choice.keys() & {"rerank", "diversity", "per_group"}
            limits = (1, 3, 10, 25, 40) if chooses else (1, 10, 40, 41, 100, 400)
            with case((name, choice)):
                every = await search(limit=limits[-1], **choice)
                docs = list(dict.fromkeys(hit["doc"] for hit in every))
                for limit in limits[:-1]:
                    hits = await search(limit=limit, **choice)
                    page = await search(limit=limit, offset=limits[-1] - limit, **choice)
                    if "group_by" in choice:
                        first, last = docs[:limit], docs[limits[-1] - limit : limits[-1]]
                        assert hits == [hit for hit in every if hit["doc"] in first]
                        assert page == [hit for hit in every if hit["doc"] in last]
                    else:
                        assert hits == every[:limit]
                        assert page == every[limits[-1] - limit : limits[-1]]

    async def test_groups_that_have_all_the_rows(self, store: VectorStore) -> None:
        """There are fewer groups than requested, and some values cannot be compared by a filter."""
        values: tuple[Any, ...] = ([1], {"z": [1]}, "far", None, 1, True, "1")
        rows = small_rows(150)
        for n, row in enumerate(rows):
            value = values[n % len(values)] if n % 3 else values[0]
            if n in (0, 49):  # the farthest and the nearest
                value = {"of": "both ends"}
            row |= {"embedding": [float(n % 50), n + 1, 0, 0]} | ({"k": value} if value else {})
            row["name"] = f"{json.dumps(value)}"
        await filled(store, SMALL, rows)
        query = [1.0, 0, 0, 0]
        every = await store.search("notes", query, limit=150)
        for key, limit, per_group in (
            ("payload.k", 10, 1), ("payload.k", 10, 40), ("payload.k", 2, 1), ("name", 10, 3),
            ("payload.absent", 10, 3),
        ):  # fmt: skip
            wanted: dict[str, list[str]] = {}
            for hit in every:
                group = "" if key == "payload.absent" else hit["name"]
                if group in wanted or len(wanted) < limit:
                    wanted.setdefault(group, []).append(hit.id)
            best = {id for ids in wanted.values() for id in ids[:per_group]}
            with case((key, limit, per_group)):
                hits = await store.search(
                    "notes", query, group_by=key, limit=limit, per_group=per_group
                )
                assert ids_of(hits) == [id for id in ids_of(every) if id in best]

    @pytest.mark.parametrize("metric", METRICS)
    async def test_search_like_takes_several_rows_and_rows_to_avoid(
        self, store: VectorStore, metric: Metric
    ) -> None:
        rows = small_rows(40)
        await filled(store, Schema(DIM, metric=metric), rows)

        def mean(*places: int) -> Any:
            matches = np.array([rows[place]["embedding"] for place in places], dtype=np.float64)
            if metric == "cosine":
                matches /= np.linalg.norm(matches, axis=1, keepdims=True)
            return matches.mean(axis=0)

        cases: list[tuple[list[int], list[int], Any]] = [
            ([1], [], rows[1]["embedding"]),
            ([1, 5, 9], [], mean(1, 5, 9)),
            ([1, 5], [7, 8], 2 * mean(1, 5) - mean(7, 8)),
        ]
        for like, unlike, vector in cases:
            named = {rows[place]["id"] for place in (*like, *unlike)}
            every = ids_of(await store.search("notes", vector, limit=40))
            hits = await store.search_like(
                "notes", [rows[place]["id"] for place in like],
                not_like=[rows[place]["id"] for place in unlike], limit=12,
            )  # fmt: skip
            assert ids_of(hits) == [id for id in every if id not in named][:12]

    async def test_newer_rows_are_preferred(self, store: VectorStore) -> None:
        now, week = datetime.now(UTC), timedelta(days=7)
        ages = [0.0, 40.0, 3.0, 11.0, -2.0, 90.0, 7.0, 5.0, 28.0, 1.0, None, 14.0]
        fields = {"at": datetime, "page": int, "body": Field(str, text=True)}
        rows: list[dict[str, Any]] = []
        for n, (age, vector) in enumerate(zip(ages, vectors(len(ages)), strict=True)):
            at = None if age is None else now - timedelta(days=age)
            rows.append({
                "id": f"r{n:02}", "embedding": vector, "at": at, "page": n % 5,
                "body": "wool " * (n + 1), "in": {"at": None if at is None else at.isoformat()},
            })  # fmt: skip
        await filled(store, Schema(DIM, fields=fields), rows)
        query = vectors(1, seed=3)[0]
        fresh = {
            row["id"]: 1.0 if age is None else 2 ** (-max(age, 0) / 7)
            for row, age in zip(rows, ages, strict=True)
        }

        def expected(hits: Sequence[Hit], weight: float) -> dict[str, float]:
            return {
                hit.id: hit.score - weight * (1 - fresh[hit.id]) * abs(hit.score) for hit in hits
            }

        calls: list[Callable[..., Awaitable[list[Hit]]]] = [
            lambda **options: store.search("notes", query, fetch_k=12, **options)
        ]
        if store.supports("text"):
            calls += [
                lambda **options: store.search_text("notes", "wool", fetch_k=12, **options),
                lambda **options: store.search_hybrid(
                    "notes", "wool", query, fetch_k=12, **options
                ),
            ]
        for call in calls:
            every = await call(limit=12)
            for decay in (
                Decay("at", "7d"), Decay("at", week, weight=1), Decay("payload.in.at", "1w", 0.5),
                Decay("at", "168h", weight=0),
            ):  # fmt: skip
                with case(decay):
                    scores = expected(every, decay.weight)
                    hits = await call(limit=4, offset=1, rerank=decay, select=["page"])
                    assert [hit.score for hit in hits] == pytest.approx(
                        sorted(scores.values(), reverse=True)[1:5], abs=1e-4
                    )
                    for hit in hits:
                        assert hit.score == pytest.approx(scores[hit.id], abs=1e-4)
                        assert hit.fields.keys() == {"page"}
                    for same in (decay, [decay]):
                        reranked = await call(limit=4, offset=1, rerank=same, select=["page"])
                        assert ids_of(reranked) == ids_of(hits)
        # Only the ``fetch_k`` nearest rows are reranked.
        near = await store.search("notes", query, limit=3)
        newest = await store.search("notes", query, limit=3, fetch_k=3, rerank=Decay("at", "7d", 1))
        assert {*ids_of(newest)} == {*ids_of(near)}
        groups = await store.search(
            "notes", query, group_by="page", limit=5, fetch_k=12, rerank=Decay("at", "7d", 1)
        )
        assert len({hit["page"] for hit in groups}) == 5
        assert [hit.score for hit in groups] == sorted((h.score for h in groups), reverse=True)
        wrong: Any
        for wrong in ("page", "id", "embedding", "absent"):
            with case(wrong), pytest.raises(InvalidArgumentError):
                await store.search("notes", query, rerank=Decay(wrong, "7d"))
        for wrong in ({"half_life": "7 days"}, {"half_life": "0d"}, {"half_life": 7},
                      {"half_life": "1d", "weight": 1.5}, {"half_life": -week}):  # fmt: skip
            with case(wrong), pytest.raises(InvalidArgumentError):
                Decay("at", **wrong)
        wrong = 0.3
        with pytest.raises(InvalidArgumentError):
            await store.search("notes", query, rerank=wrong)
        with pytest.raises(InvalidArgumentError):
            await store.search("notes", query, rerank=[Decay("at", "7d"), list])  # type: ignore[list-item]

    async def test_importance_boosts_and_pinned_rows_do_not_age(self, store: VectorStore) -> None:
        fields = {"at": datetime, "worth": float, "keep": bool}
        await store.create_table("memories", Schema(2, metric="l2", fields=fields))
        new, old = datetime.now(UTC), datetime.now(UTC) - timedelta(days=3650)
        rows = (
            {"id": "new", "at": new, "worth": 0.0, "in": {"worth": 5}},
            {"id": "old", "at": old, "worth": 0.5, "in": {"worth": "much"}},
            {"id": "kept", "at": old, "keep": True, "in": {"keep": True}},
            {"id": "timeless", "worth": 2.0, "in": {"worth": 20}},
        )
        await store.insert("memories", [{**row, "embedding": [1, 0]} for row in rows])
        fresh = {"new": 1, "old": 0, "kept": 0, "timeless": 1}
        for boost, worth in (
            (Decay("at", "7d", 1), fresh),
            (Decay("at", "7d", 1, pinned="keep"), {**fresh, "kept": 1}),
            (Decay("at", "7d", 1, pinned="payload.in.keep"), {**fresh, "kept": 1}),
            (Factor("worth", 1), {"new": 0, "old": 0.5, "kept": 0, "timeless": 1}),
            (Factor("payload.in.worth", 1, 10), {"new": 0.5, "old": 0, "kept": 0, "timeless": 1}),
            (Factor("keep", 1), {"new": 0, "old": 0, "kept": 1, "timeless": 0}),
            ([Decay("at", "7d", 0.25), Factor("worth", 0.75)],
             {"new": 0.25, "old": 0.469, "kept": 0.188, "timeless": 1}),
            ([Decay("at", "7d", 0.5), Factor("worth", 0.6)],
             {"new": 0.4, "old": 0.35, "kept": 0.2, "timeless": 1}),
        ):  # fmt: skip
            with case(boost):
                hits = await store.search("memories", [1, 0], rerank=boost, select=[])
                assert {hit.id: round(hit.score, 3) for hit in hits} == worth
        wrong: Any
        for wrong in (Factor("at"), Factor("absent"), Decay("at", "7d", pinned="worth"), [], ["at"],
                      [Factor("worth", 0)] * 17, itertools.repeat(Factor("worth", 0))):  # fmt: skip
            with case(wrong), pytest.raises(InvalidArgumentError):
                await store.search("memories", [1, 0], rerank=wrong)
        for wrong in ({"weight": 2}, {"most": 0}, {"most": float("nan")}):
            with case(wrong), pytest.raises(InvalidArgumentError):
                Factor("worth", **wrong)

    async def test_a_boost_refuses_values_that_it_cannot_use(self, store: VectorStore) -> None:
        """Without any value, it changes no order: any row may lack a payload key."""
        await store.create_table("notes", Schema(2, fields={"title": str}))
        rows = [
            {"id": f"r{n}", "embedding": [1, n], "title": f"note {n}", "seconds": 1.7e9, "no": "",
             "local": "2026-01-01T10:00:00", "many": "3", "pinned": "yes", "at": at}
            for n, at in enumerate(["2026-01-01T10:00:00Z", "soon", None])
        ]  # fmt: skip
        await store.insert("notes", rows)
        for boost in (
            Decay("title", "7d"), Decay("payload.seconds", "7d"), Decay("payload.local", "7d"),
            Decay("payload.at", "7d", pinned="payload.pinned"), Factor("payload.many"),
        ):  # fmt: skip
            with (
                case(boost),
                pytest.raises(InvalidArgumentError, match=r"reads .* has other values"),
            ):
                await store.search("notes", [1, 0], rerank=boost)
        for boost in (
            Decay("payload.at", "7d"), Decay("payload.absent", "7d"), Decay("payload.no", "7d"),
            Decay("payload.at", "7d", pinned="payload.absent"), Factor("payload.absent"),
        ):  # fmt: skip
            with case(boost):
                hits = await store.search("notes", [1, 0], rerank=boost)
                assert {hit.id for hit in hits} == {"r0", "r1", "r2"}

    @pytest.mark.parametrize("metric", METRICS)
    async def test_a_newer_fact_comes_before_an_older_one_whatever_else_is_found(
        self, store: VectorStore, metric: Metric
    ) -> None:
        """An old exact answer still comes before new, unrelated rows. Some models give any two
        texts a cosine of at least 0.8: with them, a vector search needs a lower weight, like
        the score 1 / (1 + distance)."""
        now, chance = datetime.now(UTC), np.random.default_rng(7)
        texts = store.supports("text")

        def vector(cosine: float, common: float) -> list[float]:
            other = chance.standard_normal(15)
            along = (1 - cosine**2) ** 0.5 * other / np.linalg.norm(other)
            return [common**0.5, *((1 - common) ** 0.5 * np.array([cosine, *along])).tolist()]

        def row(n: int, cosine: float, common: float, days: int, body: str) -> dict[str, Any]:
            at, place = now - timedelta(days=days), vector(cosine, common)
            return {"id": f"r{n}", "embedding": place, "n": n, "at": at, "body": body}

        fields = {"n": int, "at": datetime, "body": Field(str, text=True) if texts else str}
        for common, (older, newer) in itertools.product(
            (0.0, 0.8), ((0.99995, 0.99994), (0.95, 0.94), (0.8, 0.65))
        ):
            query = [common**0.5, (1 - common) ** 0.5, *[0.0] * 15]
            name = f"memory{common:.0f}{older:.5f}".replace(".", "_")
            await store.create_table(name, Schema(17, metric=metric, fields=fields))
            rows = [row(0, older, common, 4000, "Ana lives in Paris")]
            rows += [row(1, newer, common, 0, "Ana now lives in Lisbon")]
            for n in range(2, 200):
                rows += [row(n, chance.uniform(-0.3, 0.3), common, 0, f"The shop sells wool {n}")]
            await store.insert(name, rows)
            decay = Decay("at", "30d", 0.1 if common else 0.2 if metric == "l2" else 0.3)
            searches: dict[str, Callable[..., Awaitable[list[Hit]]]] = {
                "vector": partial(store.search, name, query, rerank=decay)
            }
            if texts:
                searches["hybrid"] = partial(
                    store.search_hybrid, name, "where does Ana live", query,
                    rerank=Decay("at", "30d"),
                )  # fmt: skip
            for (by, search), limit, count in itertools.product(
                searches.items(), (1, 5), (2, 3, 10, 32, 200)
            ):
                with case((common, older, by, limit, count)):
                    hits = await search(limit=limit, where=F.n < count)
                    assert ids_of(hits)[:2] == ["r1", "r0"][:limit]
                    hits = await search(limit=limit, where=[F.n < count, F.n != 1])
                    assert hits[0].id == "r0"

    async def test_search_many_is_many_searches(self, store: VectorStore) -> None:
        await filled(store, EVERY_KIND, rows_of_every_kind(80))
        queries = vectors(9, seed=5)
        options: dict[str, Any] = {
            "limit": 7, "where": "year > 2005", "select": ["year"], "include_vector": True,
        }  # fmt: skip
        many = await store.search_many("notes", queries, **options)
        single = [await store.search("notes", query, **options) for query in queries]
        assert [ids_of(hits) for hits in many] == [ids_of(hits) for hits in single]
        for hits, others in zip(many, single, strict=True):
            for hit, other in zip(hits, others, strict=True):
                assert hit.distance == pytest.approx(other.distance, abs=1e-6)
                assert (hit.fields, hit.vector is not None) == (other.fields, True)
        assert await store.search_many("notes", []) == []
        as_lists = await store.search_many(
            "notes", iter(queries.tolist()), limit=7, where="year > 2005"
        )
        assert [ids_of(hits) for hits in as_lists] == [ids_of(hits) for hits in many]
        with pytest.raises(InvalidArgumentError):
            await store.search_many("notes", queries[0])

    # Options

    async def test_a_tuning_that_means_nothing_is_refused(
        self, notes: VectorStore, tmp_path: Path
    ) -> None:
        query = vectors(1)[0]
        async with self.opened_backend(tmp_path) as backend:
            taken = backend.tunings
        for tuning in (
            Tuning(), Tuning(measure=False), Tuning(ef=50), Tuning(nprobes=1), Tuning(refine=2),
            Tuning(dims=2), Tuning(oversample=2), Tuning(others={"beam": 3}),
            Tuning(nprobes=50, ef=200, refine=4, measure=False),
        ):  # fmt: skip
            with case(tuning):
                hits = await notes.search("notes", query, tuning=tuning, exact=True)
                assert ids_of(hits) == ids_of(await notes.search("notes", query))
                search = notes.search_many("notes", [query, query], tuning=tuning)
                if taken is None or tuning.values().keys() <= taken:
                    with suppress(*[aiovec.UnsupportedError] * (taken is None)):
                        assert len(await search) == 2
                else:
                    with pytest.raises(aiovec.UnsupportedError, match="exact=True"):
                        await search

    async def test_quantized_tables_search_exactly_when_asked(self, store: VectorStore) -> None:
        self.need(store, "quantized")
        rows = [
            {"id": f"r{n:03}", "embedding": vector} for n, vector in enumerate(vectors(200, 16))
        ]
        oracle = await self.both(store, Schema(16, quantized="bit"), rows)
        for query in vectors(5, 16, seed=9):
            hits = await store.search("notes", query, limit=10, exact=True)
            assert_same_hits(hits, oracle.search("notes", query, limit=10))

    async def test_near_duplicates_are_ranked_by_their_true_distances(
        self, store: VectorStore
    ) -> None:
        """Float32 ranks them at random, but a search that is not approximate finds the nearest."""
        rng = np.random.default_rng(3)
        base = rng.normal(size=8).astype(np.float32)
        rows = np.tile(base, (2_000, 1))
        beside = np.nextafter(rows, rng.choice([-9, 9], rows.shape).astype(np.float32))
        rows = np.where(rng.random(rows.shape) < 0.2, beside, rows)
        columns = {"id": [f"{n:04}" for n in range(2_000)], "embedding": rows}
        other = (base + rng.normal(size=8)).astype(np.float32)
        for metric in METRICS:
            await filled(store, Schema(8, metric=metric), columns, name=metric)
            for query in (base, other):
                hits = await store.search(metric, query, limit=5)
                exact = await store.search(metric, query, limit=5, exact=True)
                assert [hit.distance for hit in hits] == [hit.distance for hit in exact]
                if metric == "dot":
                    products = rows.astype(np.float64) * query.astype(np.float64)
                    best = sorted(math.fsum(row) for row in products.tolist())[:-6:-1]
                    assert [math.fsum(products[int(hit.id)].tolist()) for hit in hits] == best
