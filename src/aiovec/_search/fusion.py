"""The order of keyword hits (rows with all words first), and the fusion of two lists of hits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import itemgetter
from typing import Any, Generic, TypeVar

from .._model.records import Rank
from .._model.schema import Metric
from ..errors import InvalidArgumentError
from .distance import scores_of

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion: each list adds ``1 / (k + rank)`` to a row's score.

    The sum is scaled to 0…1, so a row that is first in both lists has the score 1.
    """

    k: float = 60

    def __post_init__(self) -> None:
        if not is_finite(self.k) or not self.k > 0:
            raise InvalidArgumentError("k", self.k, "a finite number above 0")
        as_floats(self, "k")


@dataclass(frozen=True, slots=True)
class Weighted:
    """Fusion by scores: a row gets the weighted mean of its shares in the vector and keyword lists.

    A list without the row adds 0. In the vector list, shares fall with the distance, from 1 for the
    first of ``fetch_k`` rows to 0.2 for the last. In the keyword list they fall with the score,
    from 1 to 0.05, and all are multiplied by the part of the query's information (the sum of its
    words' BM25 weights) that the first row has: if the words of a question hardly occur, the
    keyword list counts little. In a short list of rows that hardly differ, the last row gets nearly
    the same share as the first. A list with weight 0 adds no hits.
    """

    vector: float = 0.5
    text: float = 0.5

    def __post_init__(self) -> None:
        weights = (self.vector, self.text)
        if not all(map(is_finite, weights)) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise InvalidArgumentError(
                "weights", weights, "finite numbers, not negative, and not both 0"
            )
        as_floats(self, "vector", "text")


Fusion = RRF | Weighted


def number_of(value: Any) -> float | None:
    """Return a number of any type as a float; None if it is not finite or not a number."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_finite(value: object) -> bool:
    """Return whether a value is a finite real number, and not a bool."""
    return type(value) is not bool and isinstance(value, Real) and number_of(value) is not None


def as_floats(options: object, *names: str) -> None:
    """Convert these attributes to float; NumPy numbers would make the scores NumPy numbers."""
    for name in names:
        object.__setattr__(options, name, float(getattr(options, name)))


def all_words_first(
    all_words: Sequence[tuple[_K, float]], any_word: Sequence[tuple[_K, float]], limit: int
) -> list[tuple[_K, float]]:
    """Return the rows with all words, then, with lowered scores, the rows with only some words.

    Both lists have rows with their scores, best first.
    """
    known = {row for row, _ in all_words}
    others = [(row, score) for row, score in any_word if row not in known][: limit - len(all_words)]
    # A row that lacks a word keeps at most half of its score. Otherwise words that match by chance
    # push better vectors aside (``bench quality``).
    share = 0.5
    if all_words and others and (best := others[0][1]) > 0:
        # The factor keeps rounding from making two scores equal.
        share = min(share, 0.999 * all_words[-1][1] / best)
    return [*all_words, *((row, share * score) for row, score in others)]


IdsOf = Callable[[Sequence[_K]], Mapping[_K, str]]
"""A function that maps the keys of rows to their ids."""


def least(
    rows: Sequence[tuple[float, _K]], limit: int, ids_of: IdsOf[_K]
) -> list[tuple[float, _K]]:
    """Return the rows with the lowest values, in order; rows with equal values are ordered by id.

    ``ids_of`` is called only for rows that share their value with another row.
    """
    order = sorted(rows, key=itemgetter(0))
    if len(order) > limit:
        last = order[limit - 1][0]
        order = [row for row in order if row[0] <= last]
    if len({value for value, _ in order}) < len(order):
        counts = Counter(value for value, _ in order)
        ids = ids_of([key for value, key in order if counts[value] > 1])
        order.sort(key=lambda row: (row[0], ids.get(row[1], "")))
    return order[:limit]


@dataclass(slots=True)
class FusedHit(Generic[_K]):
    """A row of a fused list. ``key`` is the row's id, or another key that the backend uses.

    The distance is None if the row has no vector, or until it is measured.
    """

    key: _K
    score: float
    distance: float | None
    ranks: dict[str, Rank]


# The part of the query's information from which on the keyword list counts in full: the score of
# the best row, divided by the sum of the weights. With 0.8, no set of ``bench quality`` fell by
# 0.01, and memories gained most (ADR 30).
_ENOUGH = 0.8


def fuse(
    fusion: Fusion,
    metric: Metric,
    near: Sequence[tuple[_K, float]],
    words: Sequence[tuple[_K, float]],
    weight: float,
    length: int,
    limit: int,
    ids_of: IdsOf[_K],
) -> list[FusedHit[_K]]:
    """Fuse two lists and return the best rows; rows with equal scores are ordered by id.

    ``near`` has the keys and distances of the vector list, ``words`` the keys and scores of the
    keyword list, both best first. ``weight`` is the sum of the BM25 weights of the query's clauses,
    or 0 if it is unknown.

    The first ``length`` rows of both lists are fused, then the next ones, which follow with lower
    scores. So longer lists add rows and change none.
    """
    hits: list[FusedHit[_K]] = []
    known: set[_K] = set()
    most = 1.0
    first = min(1.0, words[0][1] / (_ENOUGH * weight)) if words and weight > 0 else 1.0
    for start in range(0, max(len(near), len(words)), length):
        part = slice(start, start + length)
        rows = _fuse(fusion, metric, near[part], words[part], first, start)
        new = {key: hit for key, hit in rows.items() if key not in known}
        known |= new.keys()
        for score, key in least([(-hit.score, key) for key, hit in new.items()], len(new), ids_of):
            new[key].score = -score * most
            hits.append(new[key])
        if len(hits) >= limit:
            break
        most = hits[-1].score if hits else most
    return hits[:limit]


def _fuse(
    fusion: Fusion,
    metric: Metric,
    near: Sequence[tuple[_K, float]],
    words: Sequence[tuple[_K, float]],
    first: float,
    start: int,
) -> dict[_K, FusedHit[_K]]:
    """Return the rows of two lists, with the sum of their shares as the score.

    ``first`` is the largest share of the keyword list, and ``start`` the number of rows before
    these in each list.
    """
    distances = dict(near)
    lists = {
        "text": (words, _between([score for _, score in words], first, 0.05 * first)),
        "vector": (
            [*zip(distances, scores_of(metric, [*distances.values()]), strict=True)],
            _vector_shares(metric, [*distances.values()]),
        ),
    }
    hits: dict[_K, FusedHit[_K]] = {}
    for name, (rows, shares) in lists.items():
        weighted = _weighted(fusion, name, shares, start)
        for place, ((key, score), share) in enumerate(zip(rows, weighted, strict=False), start + 1):
            hit = hits.setdefault(key, FusedHit(key, 0.0, distances.get(key), {}))
            hit.score += share
            hit.ranks[name] = Rank(place, score)
    return hits


def _weighted(fusion: Fusion, name: str, shares: Sequence[float], start: int) -> list[float]:
    """Return the numbers that a list adds to the scores of its rows; none if its weight is 0."""
    if isinstance(fusion, RRF):
        most = (fusion.k + 1) / 2  # the first rank in both lists adds up to 1
        return [most / (fusion.k + start + rank) for rank in range(1, len(shares) + 1)]
    weight = (fusion.vector if name == "vector" else fusion.text) / (fusion.vector + fusion.text)
    return [weight * share for share in shares] if weight else []


def _vector_shares(metric: Metric, distances: Sequence[float]) -> list[float]:
    # The last row's share is not 0: the row is near, and a list has to end somewhere.
    if metric == "dot":  # the distance of equal vectors is not fixed, so it is scaled as a score
        return _between(distances, 1.0, 0.2)
    # Squared Euclidean distances of unit vectors are proportional to their cosine distances.
    scale = [distance**2 for distance in distances] if metric == "l2" else distances
    # ``parts`` keeps two nearly equal rows from getting the largest and the smallest share. By
    # ``bench quality``, 8 and 10 are better than 0 and 16. With more than 8, an irrelevant row in a
    # list of two gets too near the good row (ADR 26).
    return _between(scale, 1.0, 0.2, parts=8)


def _between(values: Sequence[float], first: float, last: float, parts: float = 1.0) -> list[float]:
    """Map sorted values to a scale from ``first`` for the first value to ``last`` for the last.

    With n values, the scale spans at least ``parts / n`` times the first value. If the values
    differ by less, the last one is mapped to a number before ``last``.
    """
    if not values or values[0] == values[-1]:
        return [first] * len(values)
    start = values[0]
    length = max(abs(values[-1] - start), parts * abs(start) / len(values))
    return [first - (first - last) * (abs(value - start) / length) for value in values]
