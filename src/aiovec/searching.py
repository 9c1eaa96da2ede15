"""From a user's search to ranked hits: what all backends have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .arguments import check_count, check_tuning
from .backend import Backend, Found, TableHandle, Tuning, VectorQuery
from .errors import InvalidArgumentError
from .filters import Expr
from .ranking import POOL, Rerank, check_diversity, diversify, order_of, reranked, score_of
from .records import Hit
from .schema import Schema
from .selection import Selection, select_columns

if TYPE_CHECKING:
    from .store import Where


@dataclass(slots=True)
class SearchOptions:
    """What a caller of ``search`` wants, checked; used for every query of one call."""

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

    def __post_init__(self) -> None:
        check_count("limit", self.limit)
        check_diversity(self.diversity)
        if self.tuning is not None and not isinstance(self.tuning, Tuning):
            raise InvalidArgumentError("tuning", self.tuning, "an aiovec.Tuning or None")
        if self.select is not None and not isinstance(self.select, str):
            self.select = list(self.select)  # a second attempt reads it again

    @property
    def fetched(self) -> int:
        """How many hits to get, so that a later step has some to choose from."""
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
        chosen = select_columns(
            handle.schema,
            self.select,
            include_vector=self.include_vector,
            needs_vector=bool(self.diversity),
        )
        if self.diversity and not chosen.shows_vector:
            chosen = replace(chosen, shows_vector=True)
            self._strips_vectors = True
        queries = [
            VectorQuery(vector, self.fetched, where, chosen.columns, bool(self.exact), self.tuning)
            for vector in vectors
        ]
        if not queries:
            return []
        answers = await backend.search(handle, queries)
        return [_vector_hits(found, handle.schema, chosen, self.fetched) for found in answers]

    async def finish(
        self, hits: list[Hit], run_in_thread: Callable[..., Awaitable[Any]]
    ) -> list[Hit]:
        """Rerank and diversify where that was asked for, and cut to the limit."""
        if self.rerank is not None:
            hits = await reranked(hits, self.rerank, run_in_thread)
        if self.diversity:
            hits = diversify(hits, self.diversity, self.limit)
        hits = hits[: self.limit]
        return [replace(hit, vector=None) for hit in hits] if self._strips_vectors else hits


def _vector_hits(found: Found, schema: Schema, chosen: Selection, limit: int) -> list[Hit]:
    rows = found.rows
    return [
        Hit(
            rows.ids[i],
            score_of(schema.metric, found.measures[i]),
            found.measures[i],
            chosen.fields_of(rows, i),
            chosen.vector_of(rows, i),
        )
        for i in order_of(found.measures, rows.ids, limit)
    ]


def text_hits(found: Found, chosen: Selection, limit: int) -> list[Hit]:
    """The hits of a text search, best first."""
    rows = found.rows
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
