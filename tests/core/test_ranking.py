"""Scores, fusion and diversity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiovec import RRF, Hit, InvalidArgumentError, Weighted
from aiovec._core.ranking import Fusion, Listed, best_first, diversify, fuse, score_of
from aiovec.backend import Metric, order_of


def hits(**scores: float) -> list[Hit]:
    return best_first([Hit(id, score, None) for id, score in scores.items()])


def listed(**scores: float) -> Listed:
    """A list of a hybrid search of hits in this order."""
    found = hits(**scores)

    def hit(place: int, score: float, ranks: Any, highlights: Any) -> Hit:
        return found[place].__replace__(score=score, ranks=ranks, highlights=highlights)

    return Listed([one.id for one in found], [one.score for one in found], hit)


def test_scores() -> None:
    assert score_of("cosine", 0.25) == 0.75
    assert score_of("l2", 3.0) == 0.25
    assert score_of("dot", -7.5) == 7.5


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_lower_distance_never_scores_less(one: float, other: float) -> None:
    metrics: tuple[Metric, ...] = ("cosine", "l2", "dot")
    for metric in metrics:
        low, high = sorted((one, other))
        assert score_of(metric, low) >= score_of(metric, high)


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3)), unique_by=lambda t: t[1]))
def test_order_is_by_measure_then_id(rows: list[tuple[int, str]]) -> None:
    measures = [float(m) for m, _ in rows]
    order = order_of(measures, [id for _, id in rows], 5)
    assert [rows[n] for n in order] == sorted(rows)[:5]


def test_rrf_adds_one_over_k_plus_rank() -> None:
    fused = fuse(listed(a=3, b=2, c=1), listed(c=9, a=8, d=7), RRF(k=10), 10)
    expected = {
        "a": 1 / 11 + 1 / 12, "b": 1 / 12, "c": 1 / 13 + 1 / 11, "d": 1 / 13,
    }  # fmt: skip
    assert {hit.id: hit.score for hit in fused} == pytest.approx(expected)
    assert [hit.id for hit in fused] == ["a", "c", "b", "d"]
    assert {hit.id: dict(hit.ranks) for hit in fused} == {
        "a": {"vector": 1, "text": 2}, "b": {"vector": 2}, "c": {"vector": 3, "text": 1},
        "d": {"text": 3},
    }  # fmt: skip
    assert [hit.id for hit in fuse(listed(a=1), listed(b=1), RRF(), 1)] == ["a"]
    assert fuse(listed(), listed(), RRF(), 5) == []


def test_weighted_scales_each_list() -> None:
    fused = fuse(listed(a=10, b=5, c=0), listed(b=0.2, d=0.1), Weighted(vector=0.75, text=0.25), 10)
    assert {hit.id: hit.score for hit in fused} == pytest.approx(
        {"a": 0.75, "b": 0.375 + 0.25, "c": 0.0, "d": 0.0}
    )


_SCORES = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3)), unique_by=lambda t: t[0]
)


@given(_SCORES, _SCORES, st.integers(1, 9), st.sampled_from([RRF(k=1e300), RRF(), Weighted(1, 1)]))
def test_a_cut_list_is_the_begin_of_the_whole_one(
    one: list[tuple[str, int]], other: list[tuple[str, int]], limit: int, fusion: Fusion
) -> None:
    """Also where hits have the same score as the last one, of which the ids decide."""
    lists = listed(**dict(one)), listed(**dict(other))
    whole = fuse(*lists, fusion, 99)
    assert {hit.id for hit in whole} == {id for id, _ in (*one, *other)}
    assert whole == best_first(whole)
    assert fuse(*lists, fusion, limit) == whole[:limit]


def test_bad_fusions_are_refused() -> None:
    for bad in (0, -1, math.nan):
        with pytest.raises(InvalidArgumentError):
            RRF(k=bad)
    for vector, text in ((-1, 1), (1, -1), (0, 0), (math.nan, 1)):
        with pytest.raises(InvalidArgumentError):
            Weighted(vector=vector, text=text)


def test_diversity() -> None:
    rng = np.random.default_rng(3)
    pool = [
        Hit(f"h{n:02}", 1 - n / 50, None, vector=rng.standard_normal(6).astype(np.float32))
        for n in range(30)
    ]
    assert diversify(pool, None, 1e-9, 10) == pool[:10]
    for diversity in (0.1, 0.5, 1.0):
        picked = diversify(pool, None, diversity, 10)
        assert picked[0] == pool[0]
        assert len({hit.id for hit in picked}) == 10
    assert sorted(h.id for h in diversify(pool, None, 0.5, 99)) == [h.id for h in pool]
    assert diversify(pool[:1], None, 0.5, 5) == pool[:1]
    assert diversify([], None, 0.5, 5) == []


def published_mmr(query: np.ndarray, vectors: np.ndarray, trade: float, count: int) -> list[int]:
    """Carbonell and Goldstein's formula, term by term, as LangChain's function has it."""

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))

    left = list(range(len(vectors)))
    chosen: list[int] = []
    while left and len(chosen) < count:

        def worth(i: int) -> float:
            nearness = cosine(vectors[i], query)
            if not chosen:
                return nearness
            likeness = max(cosine(vectors[i], vectors[j]) for j in chosen)
            return trade * nearness - (1 - trade) * likeness

        best = max(left, key=worth)
        chosen.append(best)
        left.remove(best)
    return chosen


@pytest.mark.parametrize("diversity", [1e-9, 0.2, 0.5, 0.8, 1.0])
def test_diversity_is_maximal_marginal_relevance(diversity: float) -> None:
    """19c: over the same pool, 56 % of the rows were those of the usual function."""
    rng = np.random.default_rng(11)
    for round_ in range(20):
        dim, size = int(rng.integers(3, 40)), int(rng.integers(2, 60))
        centres = rng.standard_normal((4, dim))
        vectors = centres[rng.integers(0, 4, size)] + 0.4 * rng.standard_normal((size, dim))
        query = centres[round_ % 4] + 0.2 * rng.standard_normal(dim)
        pool = [
            Hit(f"h{n:02}", float(rng.random()), None, vector=vector.astype(np.float32))
            for n, vector in enumerate(vectors)
        ]
        expected = published_mmr(query, vectors.astype(np.float32), 1 - diversity, 10)
        picked = diversify(pool, query, diversity, 10)
        assert [hit.id for hit in picked] == [f"h{n:02}" for n in expected]
