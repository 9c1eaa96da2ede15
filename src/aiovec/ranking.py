"""From distances to ranked hits: scores, ties, fusion, diversity and reranking.

It stands once, in front of every backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from .errors import InvalidArgumentError
from .records import Hit
from .schema import Metric

# How many times the limit is fetched for a step that picks from more than it returns.
POOL = 4

Reranked = Sequence[float] | Sequence[Hit]
Rerank = Callable[[list[Hit]], Reranked | Awaitable[Reranked]]


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion: each list adds ``1 / (k + rank)`` to a row's score."""

    k: float = 60

    def __post_init__(self) -> None:
        if not self.k > 0:
            raise InvalidArgumentError("k", self.k, "above 0")


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted sum of both lists' scores, each scaled to 0…1 over its hits."""

    vector: float = 0.7
    text: float = 0.3

    def __post_init__(self) -> None:
        if self.vector < 0 or self.text < 0 or not self.vector + self.text > 0:
            raise InvalidArgumentError(
                "weights", (self.vector, self.text), "not negative, and not both 0"
            )


Fusion = RRF | Weighted


def score_of(metric: Metric, distance: float) -> float:
    """The score, higher is better, of a distance, lower is better."""
    if metric == "cosine":
        return 1.0 - distance
    if metric == "l2":
        return 1.0 / (1.0 + distance)
    return -distance


def best_first(hits: list[Hit]) -> list[Hit]:
    """By score, equal ones by id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def order_of(measures: Sequence[float], ids: Sequence[str], limit: int) -> list[int]:
    """Positions by measure, the lowest first, equal ones by id."""
    return sorted(range(len(ids)), key=lambda i: (measures[i], ids[i]))[:limit]


def fuse(
    vector_hits: Sequence[Hit], text_hits: Sequence[Hit], fusion: Fusion, limit: int
) -> list[Hit]:
    """One list of two, each best first. ``ranks`` tells where a hit stood in each."""
    lists = {"vector": vector_hits, "text": text_hits}
    scores: dict[str, float] = {}
    ranks: dict[str, dict[str, int]] = {}
    found: dict[str, Hit] = {}
    for name, hits in lists.items():
        scaled = _scaled([hit.score for hit in hits])
        for rank, hit in enumerate(hits, start=1):
            if isinstance(fusion, RRF):
                part = 1.0 / (fusion.k + rank)
            else:
                part = (fusion.vector if name == "vector" else fusion.text) * scaled[rank - 1]
            scores[hit.id] = scores.get(hit.id, 0.0) + part
            ranks.setdefault(hit.id, {})[name] = rank
            known = found.setdefault(hit.id, hit)
            if hit.highlights:
                found[hit.id] = replace(known, highlights=hit.highlights)
    fused = [replace(hit, score=scores[id], ranks=ranks[id]) for id, hit in found.items()]
    return best_first(fused)[:limit]


def _scaled(scores: Sequence[float]) -> list[float]:
    if not scores:
        return []
    low, high = min(scores), max(scores)
    if high == low:
        return [1.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]


def diversify(hits: Sequence[Hit], diversity: float, limit: int) -> list[Hit]:
    """Pick hits that are good and unlike those picked before (maximal marginal relevance).

    Every hit needs its vector. ``diversity`` 0 keeps the order, 1 looks at unlikeness alone.
    """
    if len(hits) < 2:
        return list(hits[:limit])
    vectors = np.stack([cast("Any", hit.vector) for hit in hits]).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1.0)
    relevance = np.asarray(_scaled([hit.score for hit in hits]))
    likeness = np.full(len(hits), -np.inf)
    open_ = np.ones(len(hits), dtype=bool)
    picked = [0]
    while True:
        open_[picked[-1]] = False
        if len(picked) == min(limit, len(hits)):
            return [hits[i] for i in picked]
        likeness = np.maximum(likeness, vectors @ vectors[picked[-1]])
        worth = (1.0 - diversity) * relevance - diversity * likeness
        picked.append(int(np.argmax(np.where(open_, worth, -np.inf))))


async def reranked(
    hits: list[Hit], rerank: Rerank, run_in_thread: Callable[..., Awaitable[Any]]
) -> list[Hit]:
    """The hits in the order of a user's function, which gives scores, or hits in its own order.

    A plain function runs in a thread; a coroutine function is awaited.
    """
    if not hits:
        return hits
    call = getattr(rerank, "__call__", rerank)  # noqa: B004 - an object's async __call__ counts too
    if inspect.iscoroutinefunction(rerank) or inspect.iscoroutinefunction(call):
        outcome = await cast("Awaitable[Reranked]", rerank(hits))
    else:
        outcome = await run_in_thread(rerank, hits)
        if inspect.isawaitable(outcome):
            outcome = await outcome
    answer = list(outcome)
    if answer and all(isinstance(item, Hit) for item in answer):
        return cast("list[Hit]", answer)
    if len(answer) != len(hits):
        raise InvalidArgumentError(
            "rerank", rerank, f"a function that gives {len(hits)} scores for {len(hits)} hits, "
            f"or hits, not {len(answer)} values"
        )  # fmt: skip
    scores = cast("list[float]", answer)
    scored = [replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)]
    return best_first(scored)


def check_diversity(diversity: float | None) -> float | None:
    if diversity is not None and not 0 <= diversity <= 1:
        raise InvalidArgumentError("diversity", diversity, "from 0 to 1")
    return diversity


def check_fusion(fusion: object) -> Fusion:
    if not isinstance(fusion, (RRF, Weighted)):
        raise InvalidArgumentError("fusion", fusion, "RRF(k=…) or Weighted(vector=…, text=…)")
    return fusion
