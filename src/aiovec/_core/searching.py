"""From a user's search to ranked hits: what all backends have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from .._filters import Expr
from .._input.arguments import check_count, check_flag, check_tuning
from .._input.selection import Selection, selected_names, selection_of
from .._input.types import Where
from ..errors import AiovecError, InvalidArgumentError
from .contract import Backend, Found, StoredRows, TableHandle, Tuning, VectorQuery
from .pool import LITTLE, off_loop
from .ranking import (
    POOL,
    Rerank,
    check_diversity,
    check_rerank,
    diversify,
    order_of,
    reranked,
    score_of,
)
from .records import Hit
from .schema import Schema


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
