"""Searching: distances and scores, order, limits, what a hit carries, and vectors refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case
from tests.harness.loop_time import own_work
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

from aiovec import F, Field, Hit, Schema, Tuning, VectorStore
from aiovec.backend import Metric
from aiovec.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidVectorError,
)

METRICS: tuple[Metric, ...] = ("cosine", "l2", "dot")
BAD_VECTORS: dict[str, tuple[Any, type[Exception]]] = {
    "too short": ([1.0], DimensionMismatchError),
    "too long": ([1.0] * 5, DimensionMismatchError),
    "empty": ([], DimensionMismatchError),
    "NaN": ([1.0, float("nan"), 0, 0], InvalidVectorError),
    "infinity": ([1.0, float("-inf"), 0, 0], InvalidVectorError),
    "beyond float32": ([1e300, 0, 0, 0], InvalidVectorError),
    "zero under cosine": ([0.0] * DIM, InvalidVectorError),
    "text": ("abcd", InvalidVectorError),
    "list of text": (["a"] * DIM, InvalidVectorError),
    "null": (None, InvalidVectorError),
    "booleans": ([True, False, True, True], InvalidVectorError),
    "a boolean among numbers": ([1.5, True, 0, 2], InvalidVectorError),
    "an array of booleans": (np.array([True] * DIM), InvalidVectorError),
    "nested": ([[1.0, 2, 3, 4]], InvalidVectorError),
    "a number": (1.0, InvalidVectorError),
}


def _unit(vector: Any) -> Any:
    return np.asarray(vector, dtype=np.float64) / np.linalg.norm(vector)


class SearchingContract(ContractBase):
    """``search`` and ``search_many``."""

    @pytest.mark.parametrize("metric", METRICS)
    async def test_the_nearest_come_first(self, store: VectorStore, metric: Metric) -> None:
        schema = Schema(DIM, metric=metric, fields=EVERY_KIND.fields)
        rows = rows_of_every_kind(300)
        for n, row in enumerate(rows):
            row["embedding"] = row["embedding"] * (1 + n % 5)
        oracle = Oracle()
        oracle.create_table("notes", schema)
        oracle.insert("notes", rows)
        await self.table(store, schema, rows)
        for n, query in enumerate(vectors(12, seed=1)):
            limit = (1, 3, 10, 299, 300, 301)[n % 6]
            where = (None, "year >= 2015", "live OR tags CONTAINS 't1'")[n % 3]
            expected = oracle.search("notes", query, limit=limit, where=where)
            hits = await store.search("notes", query, limit=limit, where=where)
            assert_same_hits(hits, expected)
            assert_same_hit_fields(hits, expected)
            exact = await store.search("notes", query, limit=limit, where=where, exact=True)
            assert_same_hits(exact, expected)

    @pytest.mark.parametrize(
        ("metric", "distances", "scores"),
        [
            ("cosine", [0.0, 1 - 2**-0.5, 1.0, 2.0], [1.0, 2**-0.5, 0.0, -1.0]),
            ("l2", [1.0, 2.0, 5**0.5, 3.0], [1 / 2, 1 / 3, 1 / (1 + 5**0.5), 1 / 4]),
            ("dot", [-4.0, -2.0, 0.0, 2.0], [4.0, 2.0, 0.0, -2.0]),
        ],
        ids=METRICS,
    )
    async def test_scores_and_distances_as_defined(
        self, store: VectorStore, metric: Metric, distances: list[float], scores: list[float]
    ) -> None:
        points = {
            "cosine": {"same": [5, 0], "half": [3, 3], "across": [0, 7], "against": [-1, 0]},
            "l2": {"one": [3, 0], "two": [2, 2], "root": [4, 1], "three": [5, 0]},
            "dot": {"four": [2, 9], "two": [1, -5], "none": [0, 3], "minus": [-1, 1]},
        }[metric]
        rows = [{"id": id, "embedding": vector} for id, vector in points.items()]
        await self.table(store, Schema(2, metric=metric), rows[::-1])
        hits = await store.search("notes", [2.0, 0.0])
        assert ids_of(hits) == list(points)
        assert [hit.distance for hit in hits] == pytest.approx(distances, abs=1e-6)
        assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-6)
        assert all(type(hit.distance) is float and type(hit.score) is float for hit in hits)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("dim", [1, 2, 7, 1536, 8192])
    async def test_every_dimension(self, store: VectorStore, metric: Metric, dim: int) -> None:
        schema = Schema(dim, metric=metric)
        rows = [{"id": f"r{n}", "embedding": vector} for n, vector in enumerate(vectors(20, dim))]
        oracle = Oracle()
        oracle.create_table("notes", schema)
        oracle.insert("notes", rows)
        await self.table(store, schema, rows)
        query = vectors(1, dim, seed=3)[0]
        expected = oracle.search("notes", query, limit=5)
        assert_same_hits(await store.search("notes", query, limit=5), expected)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("size", [1e-18, 1e-3, 1e3, 1e15])
    async def test_vectors_of_every_size(
        self, store: VectorStore, metric: Metric, size: float
    ) -> None:
        """float32 holds them, and their squares neither overflow nor vanish."""
        await self._compare_sizes(store, metric, size)

    @pytest.mark.parametrize("size", [1e-30, 1e-25, 1e25, 1e37])
    async def test_cosine_of_vectors_whose_squares_leave_float32(
        self, store: VectorStore, size: float
    ) -> None:
        await self._compare_sizes(store, "cosine", size)

    async def _compare_sizes(self, store: VectorStore, metric: Metric, size: float) -> None:
        schema = Schema(DIM, metric=metric)
        rows = [
            {"id": f"r{n:02}", "embedding": vector.astype(np.float64) * size}
            for n, vector in enumerate(vectors(30))
        ]
        oracle = Oracle()
        oracle.create_table("notes", schema)
        oracle.insert("notes", rows)
        await self.table(store, schema, rows)
        for query in vectors(4, seed=2).astype(np.float64) * size:
            expected = oracle.search("notes", query, limit=8)
            assert_same_hits(await store.search("notes", query, limit=8), expected)

    async def test_searching_an_empty_table(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        assert await store.search("notes", vectors(1)[0]) == []
        assert await store.search_many("notes", vectors(3)) == [[], [], []]
        assert await store.search("notes", vectors(1)[0], where="year > 0") == []

    async def test_default_limit(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(30))
        assert len(await store.search("notes", vectors(1)[0])) == 10

    async def test_a_limit_beyond_the_rows_returns_all(self, notes: VectorStore) -> None:
        for limit in (10, 11, 4_097, 100_000, 2**31, 2**63, 10**20):
            hits = await notes.search("notes", vectors(1)[0], limit=limit)
            assert len(hits) == 10, limit

    @pytest.mark.parametrize("metric", METRICS)
    async def test_limits_beyond_4096(self, store: VectorStore, metric: Metric) -> None:
        schema = Schema(DIM, metric=metric, fields={"year": int})
        rows = small_rows(5_000)
        for row in rows:
            del row["name"]
        await self.table(store, schema, rows)
        oracle = Oracle()
        oracle.create_table("notes", schema)
        oracle.insert("notes", rows)
        query = vectors(1, seed=3)[0]
        for limit, where in ((4_096, None), (4_097, None), (4_900, None), (4_200, "year >= 500"),
                             (6_000, None), (6_000, "year >= 700")):  # fmt: skip
            expected = oracle.search("notes", query, limit=limit, where=where)
            hits = await store.search("notes", query, limit=limit, where=where, select=[])
            with own_work():
                assert_same_hits(hits, expected)
                del hits, expected

    @pytest.mark.parametrize("metric", METRICS)
    async def test_equal_ones_come_by_id(self, store: VectorStore, metric: Metric) -> None:
        vector = [3.0, 1.0, 4.0, 1.5]
        ids = ["b", "a", "é", "B", "10", "9", "😀", "\uffff", "a "]
        rows = [{"id": id, "embedding": vector} for id in ids]
        await self.table(store, Schema(DIM, metric=metric), rows)
        for query in (vector, [1.0, -2.0, 0.5, 3.0]):
            hits = await store.search("notes", query, limit=20)
            assert ids_of(hits) == sorted(ids)
            assert len({hit.distance for hit in hits}) == 1

    @pytest.mark.parametrize("metric", METRICS)
    async def test_equals_across_the_limit(self, store: VectorStore, metric: Metric) -> None:
        near, far = [1.0, 0.1, 0.0, 0.0], [-1.0, 0.0, 0.5, 0.0]
        rows = [{"id": f"far{n}", "embedding": far} for n in range(10)]
        rows += [{"id": f"near{n}", "embedding": near} for n in range(3)]
        schema = Schema(DIM, metric=metric)
        await self.table(store, schema, rows)
        oracle = Oracle()
        oracle.create_table("notes", schema)
        oracle.insert("notes", rows)
        for limit in range(1, 13):
            expected = oracle.search("notes", [1.0, 0, 0, 0], limit=limit)
            assert_same_hits(await store.search("notes", [1.0, 0, 0, 0], limit=limit), expected)

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

    # Filters select first

    @pytest.mark.parametrize("metric", METRICS)
    async def test_a_filter_never_starves_a_search(
        self, store: VectorStore, metric: Metric
    ) -> None:
        query = np.array([1.0, 0, 0, 0], dtype=np.float32)
        drawn = vectors(2_000) * np.float32(0.2)
        # All of the near ones are outside the filter.
        near = drawn[:1_960] + query * 10
        far = drawn[1_960:] - query * 10
        rows = [
            {"id": f"r{n:04}", "embedding": vector, "rare": n >= 1_960, "part": f"p{n % 3}"}
            for n, vector in enumerate(np.concatenate([near, far]))
        ]
        schema = Schema(
            DIM, metric=metric, fields={"rare": bool, "part": Field(str, partition=True)}
        )
        await self.table(store, schema, rows)
        oracle = Oracle()
        oracle.create_table("notes", schema)
        oracle.insert("notes", rows)
        for where in (
            F.rare,
            F.rare & (F.part == "p1"),
            F.rare & F.part.in_(["p0", "p2"]),
            F.rare | (F.id == "r0001"),
            ~(F.part != "p2") & F.rare,
            F.id.in_([f"r{n}" for n in range(1_960, 1_990)]),
        ):
            for limit in (10, 40):
                expected = oracle.search("notes", query, limit=limit, where=where)
                hits = await store.search("notes", query, limit=limit, where=where)
                assert_same_hits(hits, expected)

    # What a hit carries

    async def test_a_hit_tells_its_row(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(5)
        await self.table(store, EVERY_KIND, rows)
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

    async def test_search_selects(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(5)
        await self.table(store, EVERY_KIND, rows)
        query = rows[1]["embedding"]

        async def first(**options: Any) -> tuple[set[str], bool]:
            hit = (await store.search("notes", query, limit=1, **options))[0]
            if hit.vector is not None:
                assert hit.vector.dtype == np.float32
                assert np.array_equal(hit.vector, query)
            return set(hit.fields), hit.vector is not None

        everything = {*EVERY_KIND.fields, "kind", "nested"}
        assert await first() == (everything, False)
        assert await first(include_vector=True) == (everything, True)
        assert await first(select=[]) == (set(), False)
        assert await first(select=["year", "payload.kind"]) == ({"year", "kind"}, False)
        assert await first(select=["embedding"]) == (set(), True)
        assert await first(select=iter(["year"]), include_vector=True) == ({"year"}, True)
        assert await first(select=["payload"]) == ({"kind", "nested"}, False)
        with pytest.raises(InvalidNameError):
            await first(select=["absent"])

    # Many

    async def test_search_many_is_many_searches(self, store: VectorStore) -> None:
        await self.table(store, EVERY_KIND, rows_of_every_kind(80))
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

    async def test_exact_and_tuning_are_taken(self, notes: VectorStore) -> None:
        query = vectors(1)[0]
        plain = ids_of(await notes.search("notes", query, limit=5))
        tuning = Tuning(nprobes=50, ef=200, refine=4, recall=1.0)
        tuned = await notes.search("notes", query, limit=5, tuning=tuning, exact=True)
        assert ids_of(tuned) == plain
        wrong: Any = {"nprobes": 5}
        with pytest.raises(InvalidArgumentError) as caught:
            await notes.search("notes", query, tuning=wrong)
        assert caught.value.argument == "tuning"

    async def test_quantized_tables_search_exactly_when_asked(self, store: VectorStore) -> None:
        schema = Schema(16, quantized="bit")
        rows = [
            {"id": f"r{n:03}", "embedding": vector} for n, vector in enumerate(vectors(200, 16))
        ]
        oracle = Oracle()
        oracle.create_table("notes", schema)
        oracle.insert("notes", rows)
        await self.table(store, schema, rows)
        for query in vectors(5, 16, seed=9):
            hits = await store.search("notes", query, limit=10, exact=True)
            assert_same_hits(hits, oracle.search("notes", query, limit=10))

    @pytest.mark.parametrize("metric", METRICS)
    async def test_near_duplicates_are_told_apart(self, store: VectorStore, metric: Metric) -> None:
        """Float32 ranks them at random; who did not ask for an approximation gets the nearest."""
        rng = np.random.default_rng(3)
        await store.create_table("notes", Schema(8, metric=metric))
        base = rng.normal(size=8).astype(np.float32)
        rows = np.tile(base, (2_000, 1))
        beside = np.nextafter(rows, rng.choice([-9, 9], rows.shape).astype(np.float32))
        rows = np.where(rng.random(rows.shape) < 0.2, beside, rows)
        await store.insert("notes", {"id": [f"{n:04}" for n in range(2_000)], "embedding": rows})
        other = (base + rng.normal(size=8)).astype(np.float32)
        for query in (base, other):
            hits = await store.search("notes", query, limit=5)
            exact = await store.search("notes", query, limit=5, exact=True)
            assert [hit.distance for hit in hits] == [hit.distance for hit in exact]
            if metric == "dot":
                products = rows.astype(np.float64) * query.astype(np.float64)
                best = sorted(math.fsum(row) for row in products.tolist())[:-6:-1]
                assert [math.fsum(products[int(hit.id)].tolist()) for hit in hits] == best

    async def test_bad_queries_are_refused(self, notes: VectorStore) -> None:
        for name, (vector, error) in BAD_VECTORS.items():
            with case(name):
                with pytest.raises(error) as one:
                    await notes.search("notes", vector)
                with pytest.raises(error) as many:
                    await notes.search_many("notes", [vectors(1)[0], vector])
                for caught in (one.value, many.value):
                    assert isinstance(caught, ValueError)
                    if isinstance(caught, DimensionMismatchError):
                        assert (caught.expected, caught.given) == (DIM, len(vector))

    # Diversity and reranking

    async def test_diversity_prefers_what_is_unlike(self, store: VectorStore) -> None:
        near = [[10.0, n / 1000, 0, 0] for n in range(8)]
        other = [[5.0, 8.0, 0, 0], [5.0, 0, 8.0, 0]]
        rows = [{"id": f"r{n}", "embedding": vector} for n, vector in enumerate([*near, *other])]
        await self.table(store, SMALL, rows)
        query = [10.0, 0, 0, 0]
        plain = await store.search("notes", query, limit=3)
        assert ids_of(plain) == ["r0", "r1", "r2"]
        for same in (None, 0):
            again = await store.search("notes", query, limit=3, diversity=same)
            assert ids_of(again) == ids_of(plain)
        varied = await store.search("notes", query, limit=3, diversity=0.8)
        assert varied[0].id == "r0"
        assert {hit.id for hit in varied[1:]} == {"r8", "r9"}
        assert all(hit.vector is None for hit in varied)
        with_vectors = await store.search(
            "notes", query, limit=3, diversity=0.8, include_vector=True
        )
        assert all(hit.vector is not None for hit in with_vectors)
        wrong: Any
        for wrong in (-0.1, 1.1, True):
            with pytest.raises(InvalidArgumentError) as caught:
                await store.search("notes", query, diversity=wrong)
            assert caught.value.argument == "diversity"

    async def test_diversity_chooses_by_the_published_formula(self, store: VectorStore) -> None:
        """19c: it is maximal marginal relevance over the nearest, for every metric."""
        rng = np.random.default_rng(5)
        matrix = rng.standard_normal((60, DIM)).astype(np.float32)
        query = rng.standard_normal(DIM).astype(np.float32)
        for metric in METRICS:
            rows = {"id": [f"r{n:02}" for n in range(60)], "embedding": matrix}
            await store.create_table(metric, Schema(DIM, metric=metric))
            await store.insert(metric, rows)
            pool = await store.search(metric, query, limit=20, include_vector=True)
            unit = [_unit(hit.vector) for hit in pool]
            near = [float(vector @ _unit(query)) for vector in unit]
            for diversity in (0.3, 0.5, 1.0):
                picked: list[int] = []
                while len(picked) < 5:
                    worth = {
                        i: near[i] if not picked else (1 - diversity) * near[i]
                        - diversity * max(float(unit[i] @ unit[j]) for j in picked)
                        for i in range(20) if i not in picked
                    }  # fmt: skip
                    picked.append(max(worth, key=lambda i, worth=worth: worth[i]))  # type: ignore[misc]  # the loop's value
                hits = await store.search(metric, query, limit=5, diversity=diversity)
                with case((metric, diversity)):
                    assert ids_of(hits) == [pool[i].id for i in picked]

    async def test_rerank_gives_new_scores_or_a_new_order(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(40))
        query = vectors(1, seed=3)[0]
        offered: list[int] = []

        def by_year(hits: list[Hit]) -> list[float]:
            offered.append(len(hits))
            return [float(hit["year"]) for hit in hits]

        async def later(hits: list[Hit]) -> list[float]:
            return by_year(hits)

        def backwards(hits: list[Hit]) -> list[Hit]:
            return hits[::-1]

        pool = await store.search("notes", query, limit=20)
        years = sorted((hit["year"] for hit in pool), reverse=True)[:5]
        for rerank in (by_year, later):
            hits = await store.search("notes", query, limit=5, rerank=rerank)
            assert [hit["year"] for hit in hits] == years
            assert [hit.score for hit in hits] == [float(year) for year in years]
        assert offered == [20, 20]
        hits = await store.search("notes", query, limit=5, rerank=backwards)
        assert ids_of(hits) == ids_of(pool[::-1][:5])

        def broken(hits: list[Hit]) -> list[float]:
            return [1.0]

        with pytest.raises(InvalidArgumentError) as caught:
            await store.search("notes", query, limit=5, rerank=broken)
        assert caught.value.argument == "rerank"

    async def test_copies_that_a_function_gives_are_as_diverse(self, notes: VectorStore) -> None:
        """A copy of a hit may lack the vector that diversity is computed from."""
        query = vectors(1, seed=3)[0]

        def copies(hits: list[Hit]) -> list[Hit]:
            return [Hit(hit.id, hit.score, hit.distance, hit.fields) for hit in hits]

        found = [
            await notes.search("notes", query, limit=3, diversity=0.5, rerank=rerank)
            for rerank in (copies, lambda hits: hits)
        ]
        assert ids_of(found[0]) == ids_of(found[1])
        assert len(found[0]) == 3

    async def test_what_a_function_that_reranks_raises_comes_out(self, notes: VectorStore) -> None:
        def broken(hits: list[Hit]) -> list[Hit]:
            raise KeyError("mine")

        for _ in range(6):
            with pytest.raises(KeyError, match="mine"):
                await notes.search("notes", [1.0] * DIM, rerank=broken)

    async def test_a_function_that_reranks_answers_with_the_hits_or_scores(
        self, notes: VectorStore
    ) -> None:
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
            "a copy of no score": lambda hits: [hits[0].__replace__(score=float("nan"))],
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
            "copies": lambda hits: [hit.__replace__(score=0.5) for hit in hits],
            "a tuple": tuple,
        }
        for name, rerank in right.items():
            with case(name):
                found = await notes.search("notes", query, limit=5, rerank=rerank)
                assert ids_of(found) == ids_of(plain)[:5]
