"""From distances to ranked hits: scores, ties, fusion, diversity and reranking."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .._embed.callables import is_async
from .._input.arguments import is_iterable
from .._input.selection import Selection
from .._model.arrays import Float64Array
from .._model.records import Hit, Rank
from .._model.schema import Metric
from ..backend.contract import Found
from ..backend.threads import hop, in_daemon_thread
from ..backend.weight import weight
from ..errors import InvalidArgumentError, shown

Reranked = Sequence[float] | Sequence[Hit]
Rerank = Callable[[list[Hit]], Reranked | Awaitable[Reranked]]


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion: each list adds ``1 / (k + rank)`` to a row's score.

    The sum is scaled to 0…1, so a row that is first in both lists has 1.
    """

    k: float = 60

    def __post_init__(self) -> None:
        if not _is_finite(self.k) or not self.k > 0:
            raise InvalidArgumentError("k", self.k, "a finite number above 0")


@dataclass(frozen=True, slots=True)
class Weighted:
    """The weighted mean of both lists' scores, each scaled to 0…1 over its hits.

    A list of weight 0 brings no hits of its own.
    """

    vector: float = 0.7
    text: float = 0.3

    def __post_init__(self) -> None:
        weights = (self.vector, self.text)
        if not all(map(_is_finite, weights)) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise InvalidArgumentError(
                "weights", weights, "finite numbers, not negative, and not both 0"
            )


@dataclass(frozen=True, slots=True)
class Decay:
    """Prefer newer hits: their scores become ``(1 - weight) * relevance + weight * freshness``.

    Relevance is the hit's score, scaled to 0…1 over the hits that are ranked, ``fetch_k`` of them.
    Freshness is ``2 ** (-age / half_life)`` by the time in ``field``: 1 for now and for future
    times, 0 for a row without a time. ``half_life`` is a timedelta, or a text such as "30m", "12h",
    "7d" or "2w".
    """

    field: str
    half_life: timedelta | str
    weight: float = 0.3

    def __post_init__(self) -> None:
        if not isinstance(self.field, str):
            raise InvalidArgumentError("field", self.field, "the name of a field")
        if not self.seconds > 0:
            expected = "a timedelta above 0, or a text such as '30m', '12h', '7d' or '2w'"
            raise InvalidArgumentError("half_life", self.half_life, expected)
        if not _is_finite(self.weight) or not 0 <= self.weight <= 1:
            raise InvalidArgumentError("weight", self.weight, "a number from 0 to 1")

    @property
    def seconds(self) -> float:
        """Return the half-life in seconds; 0 if it is not valid."""
        if isinstance(self.half_life, timedelta):
            return self.half_life.total_seconds()
        return seconds_of(self.half_life) if isinstance(self.half_life, str) else 0.0


def seconds_of(span: str) -> float:
    """Return the seconds of a duration such as "30m" or "7d"; 0 if the text is not one."""
    match = _SPAN.fullmatch(span)
    return 0.0 if match is None else float(match[1]) * _SECONDS[match[2]]


_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _is_finite(value: object) -> bool:
    return type(value) is not bool and isinstance(value, Real) and _number(value) is not None


Fusion = RRF | Weighted

NOTHING: Mapping[str, Any] = MappingProxyType({})


def best_first(hits: list[Hit]) -> list[Hit]:
    """Sort hits by score, equal ones by id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def by_distance(hits: list[Hit]) -> list[Hit]:
    """Sort hits by distance, then id. Distances below 1e-16 that differ have the same score."""
    return sorted(hits, key=lambda hit: (cast("float", hit.distance), hit.id))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranked rows of a result: ``order`` has their positions, best first, ``scores`` one score
    per position.

    A keyword search has no metric.
    """

    result: Found
    order: Sequence[int]
    scores: Sequence[float]
    metric: Metric | None


def fuse(
    vector: Ranking, text: Ranking, fusion: Fusion, limit: int, selection: Selection
) -> list[Hit]:
    """Fuse two lists into one. Each hit's ``ranks`` has its place in both.

    A list of weight 0 adds no hits. Hits are made only for the rows of the fused list.
    """
    fused: dict[str, float] = {}
    places: dict[str, dict[str, int]] = {}
    for name, ranking in (("vector", vector), ("text", text)):
        ids = [ranking.result.rows.ids[i] for i in ranking.order]
        places[name] = dict(zip(ids, range(len(ids)), strict=True))
        if isinstance(fusion, RRF):
            most = (fusion.k + 1) / 2  # the first place in both lists adds up to 1
            parts = [most / (fusion.k + place) for place in range(1, len(ids) + 1)]
        elif weight_of_list := getattr(fusion, name):
            share = weight_of_list / (fusion.vector + fusion.text)
            scores = [ranking.scores[i] for i in ranking.order]
            parts = [share * part for part in _scaled(scores)]
        else:
            continue
        for id, part in zip(ids, parts, strict=True):
            fused[id] = fused.get(id, 0.0) + part
    hits = []
    for id in _best_of(fused, limit):
        ranks = {}
        highlights = NOTHING
        for name, ranking in (("text", text), ("vector", vector)):
            place = places[name].get(id)
            if place is not None:
                result, i = ranking.result, ranking.order[place]
                ranks[name] = Rank(place + 1, ranking.scores[i])
                distance = None if ranking.metric is None else result.measures[i]
                highlights = result.highlights[i] if result.highlights else highlights
        hits.append(
            Hit(
                id,
                fused[id],
                distance,
                selection.fields_of(result.rows, i),
                selection.vector_of(result.rows, i),
                ranks,
                highlights,
                selection.vector_name,
            )
        )
    return hits


def _best_of(scores: Mapping[str, float], limit: int) -> list[str]:
    """Return the ids of the highest scores, equal ones by id."""
    best = list(scores)
    if limit < len(best):  # sorting plain numbers is much faster
        least = sorted(scores.values(), reverse=True)[limit - 1]
        best = [id for id, score in scores.items() if score >= least]
    return sorted(best, key=lambda id: (-scores[id], id))[:limit]


def _scaled(scores: Sequence[float]) -> list[float]:
    if not scores:
        return []
    low, high = min(scores), max(scores)
    if high == low:
        return [1.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]


def boosted(
    hits: Sequence[Hit], boost: Decay, times: Mapping[str, datetime | None], now: datetime
) -> list[Hit]:
    """Return the hits with their scores by relevance and freshness, in their new order."""
    half_life = boost.seconds

    def freshness(at: datetime | None) -> float:
        if at is None:
            return 0.0
        return math.exp2(-max(0.0, (now - at).total_seconds()) / half_life)

    relevance = _scaled([hit.score for hit in hits])
    return best_first(
        [
            hit.__replace__(
                score=(1 - boost.weight) * part + boost.weight * freshness(times[hit.id])
            )
            for hit, part in zip(hits, relevance, strict=True)
        ]
    )


def diversify(
    hits: Sequence[Hit],
    query: npt.NDArray[Any] | None,
    diversity: float,
    limit: int,
) -> list[Hit]:
    """Pick hits that are near the query and unlike those picked before.

    This is maximal marginal relevance (Carbonell and Goldstein, 1998) with ``lambda`` as
    ``1 - diversity`` and the cosine as similarity, whatever the table's metric: each pick has the
    highest ``lambda * cos(hit, query) - (1 - lambda) * max(cos(hit, picked))``, the first the
    highest ``cos(hit, query)``. Without a query the hits' scores, scaled to 0…1, stand for their
    nearness to it. Every hit needs its vector.
    """
    if len(hits) < 2:
        return list(hits[:limit])
    vectors = unit(_matrix(hits))
    if query is None:
        relevance = np.asarray(_scaled([hit.score for hit in hits]))
    else:
        relevance = vectors @ unit(query[np.newaxis])[0]
    # One matrix product costs a fraction of one product per pick. It is float64: in float32,
    # rounding would change the pick between two nearly equal hits.
    alike = vectors @ vectors.T if len(hits) <= _MOST_ALIKE else None
    likeness = np.full(len(hits), -np.inf)
    open_ = np.ones(len(hits), dtype=bool)
    picked = [int(np.argmax(relevance))]
    while True:
        open_[picked[-1]] = False
        if len(picked) == min(limit, len(hits)):
            return [hits[i] for i in picked]
        last = picked[-1]
        likeness = np.maximum(likeness, vectors @ vectors[last] if alike is None else alike[last])
        worth = (1.0 - diversity) * relevance - diversity * likeness
        picked.append(int(np.argmax(np.where(open_, worth, -np.inf))))


# Hits whose cosines with each other are kept at once, in 64 MiB.
_MOST_ALIKE = 2896


def _matrix(hits: Sequence[Hit]) -> npt.NDArray[Any]:
    """Return the hits' vectors; zeros for a row without one, so it is similar to no other."""
    vectors = [hit.vector for hit in hits]
    there = next((vector for vector in vectors if vector is not None), np.zeros(1))
    nothing = np.zeros_like(there)
    return np.stack([cast("Any", nothing if vector is None else vector) for vector in vectors])


def unit(vectors: npt.NDArray[Any]) -> Float64Array:
    """Return the vectors scaled to length 1; a zero vector stays zero."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


async def reranked(hits: list[Hit], rerank: Rerank, places: asyncio.Semaphore) -> list[Hit]:
    """Return the hits in the order of a user's function, which returns scores or reordered hits.

    A plain function runs in a thread; a coroutine function is awaited.
    """
    if not hits:
        return hits
    outcome: Any
    if is_async(rerank):
        outcome = await cast("Awaitable[Reranked]", rerank([*hits]))
    else:
        # If the caller is cancelled, the function keeps running on its own copy and keeps its slot.
        work = partial(copy_context().run, rerank, [*hits])
        outcome = await in_daemon_thread(work, places)
        if inspect.isawaitable(outcome):
            outcome = await outcome
    return await hop(weight(hits), _in_order, hits, outcome, rerank)


def _in_order(hits: list[Hit], outcome: Any, rerank: Rerank) -> list[Hit]:
    """Return the hits as the user's function ranked them, or raise InvalidArgumentError."""

    def refuse(fact: str) -> InvalidArgumentError:
        expected = (
            f"a function that returns a list of one finite number for each of the {len(hits)} "
            f"hits, or of some of these hits, each once at most; it returned {fact}"
        )
        return InvalidArgumentError("rerank", rerank, expected)

    if isinstance(outcome, (str, bytes, Mapping, Set)) or not is_iterable(outcome):
        raise refuse(shown(outcome, 60))
    answer = list(outcome)
    # The list may be empty: perhaps no hit is good enough.
    if all(isinstance(item, Hit) for item in answer):
        left = {hit.id: hit for hit in hits}
        order = []
        for hit in cast("list[Hit]", answer):
            known = left.pop(hit.id, None) if isinstance(hit.id, str) else None
            if known is None:
                raise refuse(
                    f"a hit with the id {shown(hit.id, 60)}, which is not among them or is repeated"
                )
            if _number(hit.score) is None:
                raise refuse(f"the hit {shown(hit.id, 60)} with the score {shown(hit.score, 60)}")
            # The user may have copied a hit without the vector, which diversity needs.
            order.append(hit if hit.vector is not None else hit.__replace__(vector=known.vector))
        return order
    if len(answer) != len(hits):
        raise refuse(f"{len(answer)} values")
    scored = []
    for hit, item in zip(hits, answer, strict=True):
        score = _number(item)
        if score is None:
            raise refuse(f"{shown(item, 60)} for the hit {hit.id!r:.60}")
        scored.append(hit.__replace__(score=score))
    return best_first(scored)


def _number(score: Any) -> float | None:
    """Return a score of any numeric type as a float; None if it is not finite or no number."""
    if isinstance(score, (str, bytes)):
        return None
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def check_rerank(argument: str, rerank: Any) -> Rerank:
    if not callable(rerank):
        raise InvalidArgumentError(argument, rerank, "a function that takes the hits, or None")
    return cast("Rerank", rerank)


def check_bound(argument: str, bound: Any) -> float:
    """Return a finite number as a float; InvalidArgumentError for anything else."""
    if not _is_finite(bound):
        raise InvalidArgumentError(argument, bound, "a finite number or None")
    return float(bound)


def check_diversity(argument: str, diversity: Any) -> float:
    if not _is_finite(diversity) or not 0 <= diversity <= 1:
        raise InvalidArgumentError(argument, diversity, "a number from 0 to 1")
    return float(diversity)


def check_boost(argument: str, boost: object) -> Decay:
    if not isinstance(boost, Decay):
        raise InvalidArgumentError(argument, boost, "Decay(field, half_life=…, weight=…) or None")
    return boost


def check_fusion(fusion: object) -> Fusion:
    if not isinstance(fusion, (RRF, Weighted)):
        raise InvalidArgumentError("fusion", fusion, "RRF(k=…) or Weighted(vector=…, text=…)")
    return fusion
