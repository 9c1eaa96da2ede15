"""From distances to ranked hits: scores, ties, fusion, diversity and reranking.

It stands once, in front of every backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, cast

import anyio
import numpy as np
import numpy.typing as npt

from .._model.arrays import Float64Array
from .._model.records import Hit, Rank
from .._model.schema import Metric
from ..backend.pool import off_loop
from ..backend.threads import in_idle_thread
from ..errors import AiovecError, InvalidArgumentError, shown

# How many times the limit is fetched for a step that picks from more than it returns.
POOL = 4

# Whether the running code was called by a user's plain function that reranks.
_INSIDE: ContextVar[bool] = ContextVar("aiovec_reranking", default=False)

Reranked = Sequence[float] | Sequence[Hit]
Rerank = Callable[[list[Hit]], Reranked | Awaitable[Reranked]]


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion: each list adds ``1 / (k + rank)`` to a row's score."""

    k: float = 60

    def __post_init__(self) -> None:
        if not _is_finite(self.k) or not self.k > 0:
            raise InvalidArgumentError("k", self.k, "a finite number above 0")


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted sum of both lists' scores, each scaled to 0…1 over its hits.

    A list of weight 0 brings no hits of its own.
    """

    vector: float = 0.7
    text: float = 0.3

    def __post_init__(self) -> None:
        weights = (self.vector, self.text)
        if not all(map(_is_finite, weights)) or min(weights) < 0 or not sum(weights) > 0:
            raise InvalidArgumentError(
                "weights", weights, "finite numbers, not negative, and not both 0"
            )


def _is_finite(value: object) -> bool:
    return type(value) is not bool and isinstance(value, Real) and _number(value) is not None


Fusion = RRF | Weighted

_NOTHING: Mapping[str, str] = MappingProxyType({})


def score_of(metric: Metric, distance: float) -> float:
    """The score, higher is better, of a distance, lower is better."""
    if metric == "cosine":
        return 1.0 - distance
    if metric == "l2":
        return 1.0 / (1.0 + distance)
    return -distance


def scores_of(metric: Metric, distances: Sequence[float]) -> list[float]:
    """``score_of`` for each distance."""
    if metric == "cosine":
        return [1.0 - distance for distance in distances]
    return [score_of(metric, distance) for distance in distances]


def best_first(hits: list[Hit]) -> list[Hit]:
    """By score, equal ones by id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def nearest_first(hits: list[Hit]) -> list[Hit]:
    """By distance, equal ones by id. Distances below 1e-16 that differ have the same score."""
    return sorted(hits, key=lambda hit: (cast("float", hit.distance), hit.id))


def order_of(measures: Sequence[float], ids: Sequence[str], limit: int) -> list[int]:
    """Positions by measure, the lowest first, equal ones by id."""
    return sorted(range(len(ids)), key=lambda i: (measures[i], ids[i]))[:limit]


MakeHit = Callable[[int, float, Mapping[str, Rank], Mapping[str, str]], Hit]


@dataclass(slots=True)
class Listed:
    """One of the two lists of a hybrid search: the ids of its rows, best first, and their scores.

    ``hit`` makes the hit at a place of the list with the fused score, the ranks and the
    highlights. Most rows are in no fused list, and no hit is made of them.
    """

    ids: Sequence[str]
    scores: Sequence[float]
    hit: MakeHit
    highlights: Sequence[Mapping[str, str]] | None = None


def fuse(vector: Listed, text: Listed, fusion: Fusion, limit: int) -> list[Hit]:
    """Return one list of two. ``ranks`` tells where a hit stood in each.

    A list of weight 0 brings no hits of its own.
    """
    scores: dict[str, float] = {}
    for name, listed in (("vector", vector), ("text", text)):
        if isinstance(fusion, RRF):
            parts = [1.0 / (fusion.k + rank) for rank in range(1, len(listed.ids) + 1)]
        elif weight := getattr(fusion, name):
            parts = [weight * part for part in _scaled(listed.scores)]
        else:
            continue
        known = scores.get
        for id, part in zip(listed.ids, parts, strict=True):
            scores[id] = known(id, 0.0) + part
    places = [dict(zip(one.ids, range(len(one.ids)), strict=True)) for one in (vector, text)]
    by_vector, by_text = (one.get for one in places)
    fused = []
    for id in _best_of(scores, limit):
        ranks: dict[str, Rank] = {}
        highlights = _NOTHING
        listed, place = vector, by_vector(id)
        if place is not None:
            ranks["vector"] = Rank(place + 1, vector.scores[place])
        in_text = by_text(id)
        if in_text is not None:
            ranks["text"] = Rank(in_text + 1, text.scores[in_text])
            highlights = text.highlights[in_text] if text.highlights else _NOTHING
            if place is None:
                listed, place = text, in_text
        fused.append(listed.hit(cast("int", place), scores[id], ranks, highlights))
    return fused


def _best_of(scores: Mapping[str, float], limit: int) -> list[str]:
    """The ids of the highest scores, equal ones by id."""
    best = list(scores)
    if limit < len(best):  # numbers alone are sorted much faster
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


def diversify(
    hits: Sequence[Hit],
    query: npt.NDArray[Any] | None,
    diversity: float,
    limit: int,
    stopped: Collection[object] = (),
) -> list[Hit]:
    """Pick hits that are near the query and unlike those picked before.

    This is maximal marginal relevance (Carbonell and Goldstein, 1998) with ``lambda`` as
    ``1 - diversity`` and the cosine as similarity, whatever the table's metric: each pick has the
    highest ``lambda * cos(hit, query) - (1 - lambda) * max(cos(hit, picked))``, the first the
    highest ``cos(hit, query)``. Without a query the hits' scores, scaled to 0…1, stand for their
    nearness to it. Every hit needs its vector. It ends, with fewer hits, once something is in
    ``stopped``.
    """
    if len(hits) < 2:
        return list(hits[:limit])
    vectors = _unit(_matrix(hits))
    if query is None:
        relevance = np.asarray(_scaled([hit.score for hit in hits]))
    else:
        relevance = vectors @ _unit(query[np.newaxis])[0]
    likeness = np.full(len(hits), -np.inf)
    open_ = np.ones(len(hits), dtype=bool)
    picked = [int(np.argmax(relevance))]
    while True:
        open_[picked[-1]] = False
        if len(picked) == min(limit, len(hits)) or stopped:
            return [hits[i] for i in picked]
        likeness = np.maximum(likeness, vectors @ vectors[picked[-1]])
        worth = (1.0 - diversity) * relevance - diversity * likeness
        picked.append(int(np.argmax(np.where(open_, worth, -np.inf))))


def _matrix(hits: Sequence[Hit]) -> npt.NDArray[Any]:
    """Return the hits' vectors; zeros for a row without one, which is like no other then."""
    vectors = [hit.vector for hit in hits]
    there = next((vector for vector in vectors if vector is not None), np.zeros(1))
    nothing = np.zeros_like(there)
    return np.stack([cast("Any", nothing if vector is None else vector) for vector in vectors])


def _unit(vectors: npt.NDArray[Any]) -> Float64Array:
    """Vectors of length 1; one of length 0 stays."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


async def reranked(
    held: list[list[Hit]], rerank: Rerank, threads: anyio.CapacityLimiter
) -> list[Hit]:
    """Return hits in the order of a user's function, which gives scores, or hits in its own order.

    ``held`` has the list of hits and is emptied: a long one is freed in a thread. A plain function
    runs in a thread; a coroutine function is awaited.
    """
    count = len(held[0])
    if not count:
        return held.pop()
    call = getattr(rerank, "__call__", rerank)  # noqa: B004 - an object's async __call__ counts too
    if inspect.iscoroutinefunction(rerank) or inspect.iscoroutinefunction(call):
        outcome = await cast("Awaitable[Reranked]", rerank([*held[0]]))
    else:
        outcome = await _in_thread(rerank, [*held[0]], threads)
        if inspect.isawaitable(outcome):
            outcome = await outcome
    outcomes = [outcome]
    del outcome
    return await off_loop(4 * count, lambda: _in_order(held.pop(), outcomes.pop(), rerank))


async def _in_thread(rerank: Rerank, hits: list[Hit], threads: anyio.CapacityLimiter) -> Any:
    """Return the result of a plain function, within the limit.

    When cancelled it returns at once: the hits are the function's own. It keeps its place until it
    has ended. One that searches the store itself, and reranks there, is one of those that have the
    places: were it to wait for another place, all of them could wait for one another.
    """
    loop = asyncio.get_running_loop()
    limit = anyio.CapacityLimiter(1) if _INSIDE.get() else threads
    place = object()

    def inside() -> Any:
        _INSIDE.set(True)  # in a context of its own
        return rerank(hits)

    def work() -> tuple[Any, BaseException | None]:
        try:
            return context.run(inside), None
        except BaseException as exc:  # noqa: BLE001 - it belongs to the one who waits
            return None, exc
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants a place
                loop.call_soon_threadsafe(limit.release_on_behalf_of, place)

    context = copy_context()
    await limit.acquire_on_behalf_of(place)
    try:
        outcome, error = await in_idle_thread(work)
    except AiovecError:  # no thread was begun
        limit.release_on_behalf_of(place)
        raise
    if error is None:
        return outcome
    try:
        raise error
    finally:
        del error  # it refers to this frame


def _in_order(hits: list[Hit], outcome: Any, rerank: Rerank) -> list[Hit]:
    """The hits as a user's function wants them, or InvalidArgumentError."""

    def refuse(fact: str) -> InvalidArgumentError:
        expected = (
            f"a function that gives a list of one finite number for each of the {len(hits)} hits, "
            f"or of some of these hits, each once at most; it gave {fact}"
        )
        return InvalidArgumentError("rerank", rerank, expected)

    try:
        items = iter(outcome)
    except TypeError:
        raise refuse(shown(outcome, 60)) from None
    if isinstance(outcome, (str, bytes, Mapping, Set)):
        raise refuse(f"a {type(outcome).__name__}")
    answer = list(items)
    # Also none: a function may find that no hit is good enough.
    if all(isinstance(item, Hit) for item in answer):
        given = {hit.id: hit for hit in hits}
        seen: set[str] = set()
        order = []
        for hit in cast("list[Hit]", answer):
            known = given.get(hit.id) if isinstance(hit.id, str) else None
            if known is None:
                raise refuse(f"a hit with the id {hit.id!r:.60}, which was not among them")
            if hit.id in seen:
                raise refuse(f"the hit {hit.id!r:.60} more than once")
            if hit is not known and hit.score != known.score and _number(hit.score) is None:
                raise refuse(f"the hit {hit.id!r:.60} with the score {hit.score!r:.60}")
            seen.add(hit.id)
            # A copy without the vector lacks what diversity is computed from.
            order.append(hit if hit.vector is not None else hit.__replace__(vector=known.vector))
        return order
    if len(answer) != len(hits):
        raise refuse(f"{len(answer)} values")
    scored = []
    for hit, item in zip(hits, answer, strict=True):
        score = _number(item)
        if score is None:
            raise refuse(f"{item!r:.60} for the hit {hit.id!r:.60}")
        scored.append(hit.__replace__(score=score))
    return best_first(scored)


def _number(score: Any) -> float | None:
    """A score as a float, whichever library's number it is; None where it is no finite one."""
    if isinstance(score, (str, bytes)):
        return None
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def check_rerank(rerank: object) -> None:
    if rerank is not None and not callable(rerank):
        raise InvalidArgumentError("rerank", rerank, "a function that takes the hits, or None")


def check_bound(argument: str, bound: Any) -> float | None:
    """A finite number as a float, or None; InvalidArgumentError for anything else."""
    if bound is None:
        return None
    if not _is_finite(bound):
        raise InvalidArgumentError(argument, bound, "a finite number or None")
    return float(bound)


def check_diversity(diversity: Any) -> float | None:
    if diversity is None:
        return None
    if not _is_finite(diversity) or not 0 <= diversity <= 1:
        raise InvalidArgumentError("diversity", diversity, "a number from 0 to 1")
    return float(diversity)


def check_fusion(fusion: object) -> Fusion:
    if not isinstance(fusion, (RRF, Weighted)):
        raise InvalidArgumentError("fusion", fusion, "RRF(k=…) or Weighted(vector=…, text=…)")
    return fusion
