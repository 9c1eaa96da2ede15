"""The steps that follow a search: reranking, boosts and diversity."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from .._embed.protocol import is_async
from .._input.arguments import is_iterable
from .._input.columns import moment
from .._model.arrays import Float32Array, Float64Array
from .._model.records import Hit
from .._search.fusion import RRF, Fusion, Weighted, as_floats, is_finite, number_of
from .._tools.messages import shown
from ..backend.threads import in_daemon_thread
from ..errors import InvalidArgumentError

Reranked = Sequence[float] | Sequence[Hit]
RerankFunction = Callable[[list[Hit]], Reranked | Awaitable[Reranked]]


class BoostRead(NamedTuple):
    """A field or payload key that a boost reads: its name, a word for its values, the kinds of
    fields that are allowed, and whether the boost can use a value."""

    name: str
    values: str
    kinds: tuple[str, ...]
    is_usable: Callable[[object], bool]


@dataclass(frozen=True, slots=True)
class Decay:
    """Prefer newer hits: the score is multiplied by ``1 - weight * (1 - freshness)``.

    So a very old hit loses the fraction ``weight`` of its score, whatever the other hits are; a
    negative score falls by as much. Freshness is ``2 ** (-age / half_life)``, where the age is
    counted from the time in ``field``. Freshness is 1 for future times, for a row without a time,
    and if the field or payload key ``pinned`` is true: such rows do not age. ``half_life`` is a
    timedelta, or a string such as "45s", "30m", "12h", "7d" or "2w". A time may be an RFC 3339
    string. ``field`` and ``pinned`` may be payload keys, such as "payload.at".
    """

    field: str
    half_life: timedelta | str
    weight: float = 0.3
    pinned: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.field, str):
            raise InvalidArgumentError("field", self.field, "the name of a field")
        if not self.seconds > 0:
            expected = "a timedelta above 0, or a text such as '30m', '12h', '7d' or '2w'"
            raise InvalidArgumentError("half_life", self.half_life, expected)
        if self.pinned is not None and not isinstance(self.pinned, str):
            raise InvalidArgumentError("pinned", self.pinned, "the name of a field, or None")
        _check_weight(self.weight)
        as_floats(self, "weight")

    @property
    def reads(self) -> list[BoostRead]:
        """The fields or payload keys that the boost reads; times may be strings."""
        times = BoostRead(self.field, "times", ("datetime", "text"), _is_time)
        if self.pinned is None:
            return [times]
        return [times, BoostRead(self.pinned, "booleans", ("bool",), _is_true_or_false)]

    def worth_at(self, now: datetime) -> Callable[..., float]:
        """Return a function that computes a row's freshness, 0 to 1, from the values of
        ``reads``."""
        half_life = self.seconds

        def freshness(at: object, pinned: object = False) -> float:
            time = _time_of(at)
            if time is None or pinned is True:
                return 1.0
            return math.exp2(-max(0.0, (now - time).total_seconds()) / half_life)

        return freshness

    @property
    def seconds(self) -> float:
        """The half-life in seconds; 0 if it is not valid."""
        if isinstance(self.half_life, timedelta):
            return self.half_life.total_seconds()
        return seconds_of(self.half_life) if isinstance(self.half_life, str) else 0.0


@dataclass(frozen=True, slots=True)
class Factor:
    """A boost that prefers hits with a higher number in ``field``.

    The score is multiplied by ``1 - weight * (1 - worth)``, where ``worth`` is ``field / most``,
    from 0 to 1. A boolean counts as 1 or 0, a missing number as 0.
    """

    field: str
    weight: float = 0.3
    most: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.field, str):
            raise InvalidArgumentError("field", self.field, "the name of a field")
        if not is_finite(self.most) or not self.most > 0:
            raise InvalidArgumentError("most", self.most, "a finite number above 0")
        _check_weight(self.weight)
        as_floats(self, "weight", "most")

    @property
    def reads(self) -> list[BoostRead]:
        """The field or payload key that the boost reads."""
        kinds = ("int", "float", "bool")
        return [BoostRead(self.field, "numbers or booleans", kinds, _is_number)]

    def worth_at(self, _: datetime) -> Callable[..., float]:
        """Return a function that computes a row's importance, 0 to 1, from the value of
        ``reads``."""

        def importance(number: object) -> float:
            if not isinstance(number, (bool, int, float)) or not number > 0:
                return 0.0
            return min(1.0, number / self.most)

        return importance


Boost = Decay | Factor
Rerank = RerankFunction | Boost | Sequence[Boost]


def _check_weight(weight: object) -> None:
    if not is_finite(weight) or not 0 <= cast("float", weight) <= 1:
        raise InvalidArgumentError("weight", weight, "a number from 0 to 1")


def _time_of(value: object) -> datetime | None:
    """Return a datetime or a string as a datetime; None for other values and for a time without a
    time zone."""
    if isinstance(value, (str, datetime)):
        with suppress(ValueError):
            return moment(value)
    return None


def _is_time(value: object) -> bool:
    return _time_of(value) is not None


def _is_true_or_false(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def seconds_of(span: str) -> float:
    """Return a duration such as "30m" or "7d" in seconds; 0 if the string is not a duration."""
    match = _SPAN.fullmatch(span)
    return 0.0 if match is None else float(match[1]) * _SECONDS[match[2]]


_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def scaled(scores: Sequence[float]) -> list[float]:
    """Return the scores on a scale from 0 to 1; 1 if all are equal."""
    if not scores:
        return []
    low, high = min(scores), max(scores)
    if high == low:
        return [1.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]


Scored = list[tuple[int, float]]
"""The positions of hits in their new order, each with its new score."""


def _best_first(ids: Sequence[str], scores: Sequence[float]) -> Scored:
    """Sort hits by score, and hits with equal scores by id."""
    return sorted(enumerate(scores), key=lambda each: (-each[1], ids[each[0]]))


def boosted(
    ids: Sequence[str],
    scores: Sequence[float],
    boosts: Sequence[Boost],
    values_of: Callable[[str], Sequence[Any]],
) -> Scored:
    """Rank the hits by boosted scores; ``values_of`` returns the values of a field or payload
    key."""
    now = datetime.now(UTC)
    totals = [*scores]
    for boost in boosts:
        worth, columns = boost.worth_at(now), [values_of(read.name) for read in boost.reads]
        for read, values in zip(boost.reads, columns, strict=True):
            _check_values(boost, read, values)
        for n, values in enumerate(zip(*columns, strict=True)):
            totals[n] -= boost.weight * (1.0 - worth(*values)) * abs(totals[n])
    return _best_first(ids, totals)


def _check_values(boost: Boost, read: BoostRead, values: Sequence[Any]) -> None:
    """Raise InvalidArgumentError if hits have values, none of which the boost can use.

    Hits without a value are no error: any row may lack a payload key.
    """
    present = [value for value in values if value is not None and value != ""]
    if present and not any(map(read.is_usable, present)):
        zone = ", as datetimes or RFC 3339 text with a zone" if read.is_usable is _is_time else ""
        reason = (
            f"{type(boost).__name__} reads {read.values}{zone}; {shown(read.name)} has other values"
            f" in all hits, such as {shown(present[0], 60)}"
        )
        raise InvalidArgumentError("rerank", boost, reason=reason)


# The number of hits compared with all others in one step, and the maximum number of multiplications
# in a matrix product: OpenBLAS spreads larger products over its own threads, which take several
# times the CPU time under load.
_AT_ONCE, _MOST_PRODUCTS = 16, 2**18


def diversify(
    rows: Float64Array, nearness: npt.ArrayLike, diversity: float, limit: int
) -> list[int]:
    """Return the positions of hits that are near the query and unlike the hits picked before.

    ``rows`` are the hits' vectors scaled to length 1, or zero for a hit without a vector, which is
    unlike any other hit.

    This is maximal marginal relevance (Carbonell and Goldstein, 1998) with ``lambda`` as
    ``1 - diversity`` and the cosine as similarity, whatever the table's metric: each pick has the
    highest ``lambda * nearness - (1 - lambda) * max(cos(hit, picked))``; the first pick has the
    highest nearness; among equal hits, the first is picked. This function is not called for a
    diversity of 0, which keeps the order of the table's metric.
    """
    near = np.asarray(nearness, np.float64)
    shares = (1.0 - diversity) * near
    worth = np.full(len(near), np.inf)
    picked = [_first_of_best(near)] if len(near) else []
    known: dict[int, Float64Array] = {}
    while len(picked) < min(limit, len(near)):
        last = picked[-1]
        if last not in known:
            # The hits with the highest worth now are the most likely next picks.
            likely = [last, *np.argsort(-worth, kind="stable")[: _AT_ONCE - 1].tolist()]
            after = shares - diversity * _products(rows, rows[likely]).T
            known = dict(zip(likely, after, strict=True))
        np.minimum(worth, known[last], out=worth)
        worth[last] = -np.inf
        picked.append(_first_of_best(worth))
    return picked


def _first_of_best(worth: Float64Array) -> int:
    # Smaller differences are only due to rounding.
    return int((worth >= worth.max() - 1e-12).argmax())


def cosines(rows: Float64Array, query: Float32Array) -> Float64Array:
    """Return the cosine of the query with each row; the rows have length 1."""
    return cast("Float64Array", np.einsum("ij,j->i", rows, unit(query[np.newaxis])[0]))


def _products(rows: Float64Array, few: Float64Array) -> Float64Array:
    """Return the dot products of all rows with a few of them: one row of products for each row.

    The products are float64: in float32, rounding would change the pick between nearly equal hits.
    """
    count, dim = rows.shape
    products = np.empty((count, len(few)))
    step = max(1, _MOST_PRODUCTS // (len(few) * dim))
    for start in range(0, count, step):
        part = slice(start, start + step)
        np.matmul(rows[part], few.T, out=products[part])
    return products


def unit(vectors: npt.NDArray[Any]) -> Float64Array:
    """Return the vectors scaled to length 1; zero vectors and missing vectors become zero."""
    vectors = vectors.astype(np.float64)
    vectors[np.isnan(vectors[:, 0])] = 0.0
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


async def reranked(hits: list[Hit], rerank: RerankFunction, slots: asyncio.Semaphore) -> Any:
    """Return the result of a user's function, which should be scores or reordered hits.

    A plain function runs in a thread; a coroutine function is awaited.
    """
    outcome: Any
    if is_async(rerank):
        outcome = await cast("Awaitable[Reranked]", rerank([*hits]))
    else:
        # If the caller is cancelled, the function keeps running on its own copy and keeps its slot.
        outcome = await in_daemon_thread(copy_context().run, rerank, [*hits], slots=slots)
        if inspect.isawaitable(outcome):
            outcome = await outcome
    return outcome


def in_order(ids: Sequence[str], outcome: Any, rerank: RerankFunction) -> Scored:
    """Return the hits in the order of the user's function, or raise InvalidArgumentError."""

    def refuse(fact: str) -> InvalidArgumentError:
        reason = (
            f"rerank must return one finite number per hit (there are {len(ids)}), or some of the "
            f"hits in a new order, each at most once; it returned {fact}"
        )
        return InvalidArgumentError("rerank", rerank, reason=reason)

    if isinstance(outcome, (str, bytes, Mapping, Set)) or not is_iterable(outcome):
        raise refuse(shown(outcome, 60))
    answer = list(outcome)
    # The list may be empty: perhaps no hit is good enough.
    if all(isinstance(item, Hit) for item in answer):
        left = {id: n for n, id in enumerate(ids)}
        order: Scored = []
        for hit in cast("list[Hit]", answer):
            n = left.pop(hit.id, None) if isinstance(hit.id, str) else None
            if n is None:
                raise refuse(
                    f"a hit with the id {shown(hit.id, 60)}, which is not among them or is repeated"
                )
            if number_of(hit.score) is None:
                raise refuse(f"the hit {shown(hit.id, 60)} with the score {shown(hit.score, 60)}")
            order.append((n, hit.score))
        return order
    if len(answer) != len(ids):
        raise refuse(f"{len(answer)} values")
    scores = list(map(number_of, answer))
    if None in scores:
        n = scores.index(None)
        raise refuse(f"{shown(answer[n], 60)} for the hit {ids[n]!r:.60}")
    return _best_first(ids, cast("list[float]", scores))


def check_bound(argument: str, bound: Any) -> float:
    """Return a finite number as a float, or raise InvalidArgumentError."""
    if not is_finite(bound):
        raise InvalidArgumentError(argument, bound, "a finite number or None")
    return float(bound)


def check_diversity(argument: str, diversity: Any) -> float:
    if not is_finite(diversity) or not 0 <= diversity <= 1:
        raise InvalidArgumentError(argument, diversity, "a number from 0 to 1")
    return float(diversity)


# Each boost reads every hit, including its payload.
_MOST_BOOSTS = 16


def check_rerank(argument: str, rerank: Any) -> RerankFunction | tuple[Boost, ...]:
    """Return the function, or the boosts as a tuple."""
    if callable(rerank):
        return cast("RerankFunction", rerank)
    listed = (rerank,) if isinstance(rerank, Boost) else rerank if is_iterable(rerank) else ()
    boosts = tuple(islice(listed, _MOST_BOOSTS + 1))
    if not boosts or not all(isinstance(each, Boost) for each in boosts):
        expected = (
            "a function that takes the hits, Decay(…), Factor(…), a list of these boosts, or None"
        )
        if isinstance(rerank, str):
            expected += " (a function can call the model)"
        raise InvalidArgumentError(argument, rerank, expected)
    if len(boosts) > _MOST_BOOSTS:
        reason = f"{argument} has more than {_MOST_BOOSTS} boosts"
        raise InvalidArgumentError(argument, rerank, reason=reason)
    return boosts


def check_fusion(argument: str, fusion: object) -> Fusion:
    if not isinstance(fusion, (RRF, Weighted)):
        expected = "aiovec.RRF(k=…) or aiovec.Weighted(vector=…, text=…), or None"
        raise InvalidArgumentError(argument, fusion, expected)
    return fusion
