"""From distances to ranked hits: scores, ties, fusion, diversity and reranking.

It stands once, in front of every backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, cast

import anyio
import numpy as np
import numpy.typing as npt

from .._arrays import Float64Array
from .._filters import Expr
from .._input.arguments import check_count, check_flag, check_tuning
from .._input.selection import Selection, selected_names, selection_of
from .._input.types import Where
from ..errors import AiovecError, InvalidArgumentError, shown
from .contract import Backend, Found, StoredRows, TableHandle, Tuning, VectorQuery
from .pool import LITTLE, off_loop
from .records import Hit
from .schema import Metric, Schema
from .threads import in_idle_thread

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
                found[hit.id] = known.__replace__(highlights=hit.highlights)
    fused = [hit.__replace__(score=scores[id], ranks=ranks[id]) for id, hit in found.items()]
    return best_first(fused)[:limit]


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
    vectors = _unit(np.stack([cast("Any", hit.vector) for hit in hits]))
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


def _unit(vectors: npt.NDArray[Any]) -> Float64Array:
    """Vectors of length 1; one of length 0 stays."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


async def reranked(hits: list[Hit], rerank: Rerank, threads: anyio.CapacityLimiter) -> list[Hit]:
    """The hits in the order of a user's function, which gives scores, or hits in its own order.

    A plain function runs in a thread; a coroutine function is awaited.
    """
    if not hits:
        return hits
    call = getattr(rerank, "__call__", rerank)  # noqa: B004 - an object's async __call__ counts too
    if inspect.iscoroutinefunction(rerank) or inspect.iscoroutinefunction(call):
        outcome = await cast("Awaitable[Reranked]", rerank(hits))
    else:
        outcome = await _in_thread(rerank, hits, threads)
        if inspect.isawaitable(outcome):
            outcome = await outcome
    return await off_loop(4 * len(hits), lambda: _in_order(hits, outcome, rerank))


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
    if error is not None:
        raise error
    return outcome


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
    if answer and all(isinstance(item, Hit) for item in answer):
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


def check_diversity(diversity: Any) -> float | None:
    if diversity is None:
        return None
    if not isinstance(diversity, Real) or not 0 <= cast("float", diversity) <= 1:
        raise InvalidArgumentError("diversity", diversity, "a number from 0 to 1")
    return float(diversity)


def check_fusion(fusion: object) -> Fusion:
    if not isinstance(fusion, (RRF, Weighted)):
        raise InvalidArgumentError("fusion", fusion, "RRF(k=…) or Weighted(vector=…, text=…)")
    return fusion


@dataclass(slots=True)
class SearchOptions:
    """The checked arguments of a search, for every query of one call."""

    limit: int
    where: Where
    select: Iterable[str] | None
    model: str | None
    include_vector: bool
    exact: bool
    tuning: Tuning | None
    diversity: float | None
    rerank: Rerank | None
    # Whether the hits carry vectors for diversity alone, which the caller did not ask for.
    _strips_vectors: bool = field(default=False, init=False)
    # ``select``, read once.
    _names: list[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_count("limit", self.limit)
        self.exact = check_flag("exact", self.exact)
        self.include_vector = check_flag("include_vector", self.include_vector)
        self.diversity = check_diversity(self.diversity)
        check_rerank(self.rerank)
        if self.tuning is not None and not isinstance(self.tuning, Tuning):
            raise InvalidArgumentError("tuning", self.tuning, "an aiovec.Tuning or None")
        self._names = selected_names(self.select)

    @property
    def fetched(self) -> int:
        """The number of hits to get, so that a later step has some to choose from."""
        chooses = self.diversity or self.rerank is not None
        return self.limit * POOL if chooses else self.limit

    async def run(
        self,
        backend: Backend,
        handle: TableHandle,
        vectors: Sequence[Any],
        where: Expr | None,
    ) -> list[list[Hit]]:
        """Ask the backend; one list of hits for each vector, best first."""
        if self.tuning is not None:
            check_tuning(self.tuning, handle.schema.dim)
        chosen = await selection_of(
            handle.schema,
            self._names,
            include_vector=self.include_vector,
            needs_vector=bool(self.diversity),
        )
        if self.diversity and not chosen.shows_vector:
            chosen = replace(chosen, shows_vector=True)
            self._strips_vectors = True

        def asked() -> list[VectorQuery]:
            return [
                VectorQuery(
                    vector, self.fetched, where, chosen.columns, bool(self.exact), self.tuning
                )
                for vector in vectors
            ]

        queries = await off_loop(len(vectors), asked)
        if not queries:
            return []
        answers = list(await backend.search(handle, queries))
        if len(answers) != len(queries):
            raise AiovecError(
                f"the backend gave {len(answers)} answers to {len(queries)} queries; "
                "it must give one for each"
            )

        def hits() -> list[list[Hit]]:
            made = []
            answers.reverse()
            while answers:  # freed one by one, and in the thread, as the queries are
                made.append(_vector_hits(answers.pop(), handle.schema, chosen, self.fetched))
            queries.clear()
            return made

        effort = len(answers)
        if effort <= LITTLE:
            effort += sum(chosen.effort(found.rows) for found in answers)
        return await off_loop(effort, hits)

    async def finish(
        self,
        found: list[list[Hit]],
        vectors: Sequence[Any],
        threads: Callable[[], anyio.CapacityLimiter],
    ) -> list[list[Hit]]:
        """Rerank and diversify each query's hits where that was asked for; cut to the limit."""
        if self.rerank is None and not self.diversity:
            return found
        if self.rerank is not None:
            found = [await reranked(hits, self.rerank, threads()) for hits in found]
        if not self.diversity:
            return [hits[: self.limit] for hits in found]

        stopped: list[bool] = []

        def diversified() -> list[list[Hit]]:
            pairs = zip(found, vectors, strict=True)
            return [self._diversified(hits, vector, stopped) for hits, vector in pairs]

        # Each pick is compared with all hits that are left.
        effort = self.limit * sum(map(len, found))
        return await off_loop(effort, diversified, stop=lambda: stopped.append(True))

    def _diversified(self, hits: list[Hit], vector: Any, stopped: list[bool]) -> list[Hit]:
        query = vector if self.rerank is None else None  # what reranks knows better
        kept = diversify(hits, query, self.diversity or 0.0, self.limit, stopped)
        return [hit.__replace__(vector=None) for hit in kept] if self._strips_vectors else kept


def _rows_of(found: Found) -> StoredRows:
    """Return the rows of an answer, which are paired with its measures by position."""
    if len(found.measures) != len(found.rows.ids):
        raise AiovecError(
            f"the backend gave {len(found.measures)} measures for {len(found.rows.ids)} rows; "
            "it must give one for each"
        )
    return found.rows


def _vector_hits(found: Found, schema: Schema, chosen: Selection, limit: int) -> list[Hit]:
    rows = _rows_of(found)
    return [
        Hit(
            rows.ids[i],
            score_of(schema.metric, found.measures[i]),
            found.measures[i],
            chosen.fields_of(rows, i),
            chosen.vector_of(rows, i),
            vector_name=schema.vector,
        )
        for i in order_of(found.measures, rows.ids, limit)
    ]


def text_hits(found: Found, chosen: Selection, limit: int) -> list[Hit]:
    """The hits of a text search, best first."""
    rows = _rows_of(found)
    return [
        Hit(
            rows.ids[i],
            found.measures[i],
            None,
            chosen.fields_of(rows, i),
            highlights=found.highlights[i] if found.highlights else {},
        )
        for i in order_of([-measure for measure in found.measures], rows.ids, limit)
    ]
