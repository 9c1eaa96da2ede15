"""Searches by vector, by keywords and by both: one way from the arguments to the hits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import lt
from types import MappingProxyType
from typing import Any, TypeVar

import anyio

from .._filters import Expr
from .._filters.tree import Ref
from .._input.arguments import check_flag, check_tuning, check_words, count_of
from .._input.selection import Selection, group_key, selected_names, selection_of
from .._input.types import Where
from .._model.records import Hit, Rank
from .._model.results import Results, columns_of
from .._model.schema import Field, Metric
from .._text.query import TextClause, check_phrases, parse, text_fields
from ..backend.contract import (
    Backend,
    Found,
    StoredRows,
    TableHandle,
    TextQuery,
    Tuning,
    VectorQuery,
)
from ..backend.limits import current_deadline
from ..backend.pool import LITTLE, NUMBERS_A_VALUE, off_loop
from ..backend.threads import wait_out
from ..errors import AiovecError, InvalidArgumentError, UnsupportedError
from .grouping import Ask, Group, Grouping, group_of, picked
from .rank import (
    POOL,
    Fusion,
    Listed,
    Rerank,
    check_bound,
    check_diversity,
    check_rerank,
    diversify,
    fuse,
    order_of,
    reranked,
    scores_of,
)

_T = TypeVar("_T")
# A query of single letters takes as long to parse, for each character, as so many values to copy.
_VALUES_A_CHARACTER = 4

Marks = tuple[str, str]
_MARKS = ("<mark>", "</mark>")
# So many hits are put into another list as fast as one value is copied.
_HITS_A_VALUE = 16
# A row of one list of two takes its place there as fast as so many values are copied.
_VALUES_A_LISTED_ROW = 4
# Fusing looks at a hit as long as it takes to copy so many values.
_VALUES_A_FUSED_HIT = 8
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NONE_FOUND = Found(StoredRows([], {}), [])


@dataclass(slots=True, kw_only=True)
class SearchOptions:
    """The arguments of a search, checked, for every query of one call."""

    limit: int = 10
    where: Where = None
    wheres: Sequence[Where] | None = None
    """A filter for each vector of ``search_many``, in place of ``where``."""
    select: Iterable[str] | None = None
    model: str | None = None
    include_vector: bool = False
    exact: bool = False
    tuning: Tuning | None = None
    diversity: float | None = None
    rerank: Rerank | None = None
    fetch_k: int | None = None
    any: bool = False
    highlight: bool | Marks = False
    min_score: float | None = None
    max_distance: float | None = None
    group_by: str | None = None
    per_group: int = 1
    names: list[str] | None = field(default=None, init=False)
    """``select``, read once."""

    def __post_init__(self) -> None:
        self.limit = count_of("limit", self.limit)
        self.exact = check_flag("exact", self.exact)
        self.include_vector = check_flag("include_vector", self.include_vector)
        self.any = check_flag("any", self.any)
        self.diversity = check_diversity(self.diversity)
        check_rerank(self.rerank)
        if self.tuning is not None and not isinstance(self.tuning, Tuning):
            raise InvalidArgumentError("tuning", self.tuning, "an aiovec.Tuning or None")
        if self.fetch_k is not None:
            self.fetch_k = count_of("fetch_k", self.fetch_k)
            if self.fetch_k < self.limit:
                raise InvalidArgumentError(
                    "fetch_k", self.fetch_k, f"None, or at least the limit of {self.limit}"
                )
        self._check_marks()
        self.min_score = check_bound("min_score", self.min_score)
        self.max_distance = check_bound("max_distance", self.max_distance)
        self.per_group = count_of("per_group", self.per_group)
        if self.group_by is not None and self.diversity:
            raise InvalidArgumentError(
                "diversity", self.diversity, "None with group_by, which is for variety as well"
            )
        self.names = selected_names(self.select)

    @property
    def pool(self) -> int:
        """The number of hits from which the steps that choose take theirs."""
        return self.limit * POOL if self.fetch_k is None else self.fetch_k

    @property
    def fetched(self) -> int:
        """The number of hits to rank before the steps that choose."""
        chooses = self.diversity or self.rerank is not None
        return self.pool if chooses else self.limit

    @property
    def marks(self) -> Marks | None:
        """The texts around each matching word of a snippet; None without snippets."""
        if isinstance(self.highlight, tuple):
            return self.highlight
        return _MARKS if self.highlight else None

    def _check_marks(self) -> None:
        given: object = self.highlight
        if isinstance(given, tuple):
            good = len(given) == 2 and all(isinstance(mark, str) for mark in given)
        else:
            good = given is None or isinstance(given, bool)
        if not good:
            raise InvalidArgumentError(
                "highlight", given, "True, False, or a tuple of the texts before and behind a word"
            )
        for mark in given if isinstance(given, tuple) else ():
            check_words("highlight", mark)


@dataclass(slots=True)
class Ranked:
    """The hits of each query of a call, and what the last steps need to know of them.

    ``vectors`` are the queries, None where nearness to them is not what ranked the hits.
    ``added`` are names of fields that were read for reranking alone.
    """

    hits: list[list[Hit]]
    vectors: Sequence[Any] | None
    strips_vectors: bool = False
    added: frozenset[str] = frozenset()
    groups: Mapping[str, Group] | None = None
    columns: Mapping[str, Field | None] = field(default_factory=dict)


async def clauses_of(backend: Backend, handle: TableHandle, query: str) -> tuple[TextClause, ...]:
    """Return the clauses of a keyword search that this backend can answer on this table."""
    backend.check_able("text")
    if not text_fields(handle.schema):
        raise UnsupportedError(
            "text", backend.name,
            "no field of it has text=True; create_field_index(table, field, 'text') covers a field "
            "of text, and add_field(table, name, Field(str, text=True)) adds one",
            table=handle.name,
        )  # fmt: skip
    clauses = await off_loop(_VALUES_A_CHARACTER * len(query), parse, query, handle.schema)
    await off_loop(len(query), check_phrases, query, clauses, handle.schema)
    for clause in clauses:
        if clause.prefix and not backend.supports("text-prefix"):
            raise UnsupportedError(
                "text-prefix", backend.name,
                f"it finds whole words only; leave the '*' out of {clause.text + '*'!r:.60}, or "
                "use a table with analyzer='ngram', which finds parts of words",
            )  # fmt: skip
    return clauses


class Search:
    """One call's search of a table, on one attempt.

    ``left_out`` is the id of a row that is no hit. What ``fuses`` has its least score, and its
    groups, in the fused list.
    """

    def __init__(
        self,
        backend: Backend,
        handle: TableHandle,
        options: SearchOptions,
        where: Expr | None,
        chosen: Selection,
        added: Sequence[str],
        ref: Ref | None,
        *,
        left_out: str | None = None,
        fuses: bool = False,
    ) -> None:
        self._backend = backend
        self._handle = handle
        self._options = options
        self._where = where
        self._left_out = left_out
        self._fuses = fuses
        self._ref = ref
        self._groups: dict[str, Group] = {}
        self._left_to_make = 0
        self._strips_vectors = bool(options.diversity) and not chosen.shows_vector
        self._added = frozenset(added)
        columns = chosen.columns
        if added:
            columns = replace(columns, fields=(*columns.fields, *added))
        if ref is not None and ref.path and not columns.payload:
            columns = replace(columns, payload=True)
            chosen = replace(chosen, keys={})
        shows = chosen.shows_vector or self._strips_vectors
        if columns is not chosen.columns or shows is not chosen.shows_vector:
            chosen = replace(chosen, columns=columns, shows_vector=shows)
        self._chosen = chosen

    @classmethod
    async def of(
        cls,
        backend: Backend,
        handle: TableHandle,
        options: SearchOptions,
        where: Expr | None,
        *,
        left_out: str | None = None,
        fuses: bool = False,
    ) -> Search:
        """Return the search with the columns that its steps need; ``where`` is bound."""
        schema = handle.schema
        if options.tuning is not None:
            check_tuning(options.tuning, schema.dim)
        chosen = await selection_of(
            schema,
            options.names,
            include_vector=options.include_vector,
            needs_vector=bool(options.diversity),
        )
        ref = None if options.group_by is None else group_key(schema, options.group_by)
        # What reranks reads the texts, whatever the caller wants to keep of them.
        needed = [] if options.rerank is None else text_fields(schema)
        if ref is not None and not ref.path:
            needed.append(ref.name)
        known = set(chosen.columns.fields)
        added = [name for name in dict.fromkeys(needed) if name not in known]
        return cls(
            backend, handle, options, where, chosen, added, ref, left_out=left_out, fuses=fuses
        )

    # The hits of each query, best first, with all that its options ask for but the last steps

    async def of_vectors(
        self, vectors: Sequence[Any], wheres: Sequence[Expr | None] | None = None
    ) -> list[list[Hit]]:
        """Return the hits of each vector; ``wheres`` has a filter for each of them."""
        if self._ref is None:
            return await self.by_vectors(vectors, self._options.fetched, wheres)
        found = []
        for n, vector in enumerate(vectors):

            async def ask(
                where: Expr | None, count: int, vector: Any = vector
            ) -> tuple[list[Hit], bool]:
                (hits,) = await self.by_vectors([vector], count, [where])
                return hits, len(hits) < count

            where = self._where if wheres is None else wheres[n]
            found.append(await self._grouping(self._ref, ask, where, narrows=True))
        return found

    async def of_clauses(self, clauses: tuple[TextClause, ...]) -> list[Hit]:
        """Return the hits of a keyword search."""
        if self._ref is None:
            return await self.by_clauses(clauses, self._options.fetched, self._where)

        async def ask(where: Expr | None, count: int) -> tuple[list[Hit], bool]:
            hits = await self.by_clauses(clauses, count, where)
            return hits, len(hits) < count

        return await self._grouping(self._ref, ask, self._where)

    async def of_both(
        self,
        by_vector: Callable[[int], Awaitable[Listed]],
        by_text: Callable[[int], Awaitable[Listed]],
        fusion: Fusion,
    ) -> list[Hit]:
        """Return the fused hits of two searches for so many hits, which run at once."""

        deadline = current_deadline(None)

        async def both(count: int) -> dict[str, Listed]:
            lists: dict[str, Listed] = {}

            async def vector() -> None:
                with deadline.shared():
                    lists["vector"] = await by_vector(count)

            async def text() -> None:
                # The other one takes longer, and two threads that begin at once keep each other
                # waiting for the interpreter (``python -m bench text``).
                await asyncio.sleep(0)
                with deadline.shared():
                    lists["text"] = await by_text(count)

            await together(vector(), text())
            return lists

        if self._ref is None:
            lists = await both(self._options.pool)
            return await self._fused(lists, fusion, self._options.fetched)

        async def ask(where: Expr | None, count: int) -> tuple[list[Hit], bool]:
            lists = await both(count)
            over = all(len(one.ids) < count for one in lists.values())
            return await self._fused(lists, fusion, 2 * count), over

        return await self._grouping(self._ref, ask, self._where)

    async def _grouping(
        self, ref: Ref, ask: Ask, where: Expr | None, *, narrows: bool = False
    ) -> list[Hit]:
        options = self._options
        grouping = Grouping(
            self._handle.schema, ref, self._groups, options.fetched, options.per_group,
            narrows=narrows,
        )  # fmt: skip
        return await grouping.run(ask, where, options.pool)

    # What the backend is asked for

    async def by_vectors(
        self, vectors: Sequence[Any], limit: int, wheres: Sequence[Expr | None] | None = None
    ) -> list[list[Hit]]:
        """Return the nearest of each vector, best first."""
        return await self._by_vectors(vectors, limit, wheres, self._hits)

    async def by_clauses(
        self, clauses: tuple[TextClause, ...], limit: int, where: Expr | None
    ) -> list[Hit]:
        """Return the best rows by keywords, best first."""
        return await self._by_clauses(clauses, limit, where, self._hits)

    async def list_by_vector(self, vector: Any, limit: int) -> Listed:
        """Return the nearest of a vector, to be fused."""
        (listed,) = await self._by_vectors([vector], limit, None, self._listed)
        return listed

    async def list_by_clauses(
        self, clauses: tuple[TextClause, ...], limit: int, where: Expr | None
    ) -> Listed:
        """Return the best rows by keywords, to be fused."""
        return await self._by_clauses(clauses, limit, where, self._listed)

    async def _by_vectors(
        self,
        vectors: Sequence[Any],
        limit: int,
        wheres: Sequence[Expr | None] | None,
        of: Callable[[Found, int, Metric | None], _T],
    ) -> list[_T]:
        options = self._options
        wanted = limit if self._left_out is None else limit + 1

        def asked() -> list[VectorQuery]:
            conditions = [self._where] * len(vectors) if wheres is None else wheres
            return [
                VectorQuery(
                    vector, wanted, where, self._chosen.columns, options.exact, options.tuning
                )
                for vector, where in zip(vectors, conditions, strict=True)
            ]

        queries = await off_loop(len(vectors), asked)
        if not queries:
            return []
        answers = list(await self._backend.search(self._handle, queries))
        if len(answers) != len(queries):
            raise AiovecError(
                f"the backend gave {len(answers)} answers to {len(queries)} queries; "
                "it must give one for each"
            )
        effort = len(answers)
        if effort <= LITTLE:
            for found in answers:
                effort += self._effort(found.rows)
                if effort > LITTLE:
                    break

        def hits() -> list[_T]:
            made = []
            answers.reverse()
            while answers:  # freed one by one, and in the thread, as the queries are
                made.append(of(answers.pop(), limit, self._handle.schema.metric))
            queries.clear()
            return made

        return await off_loop(effort, hits)

    async def _by_clauses(
        self,
        clauses: tuple[TextClause, ...],
        limit: int,
        where: Expr | None,
        of: Callable[[Found, int, Metric | None], _T],
    ) -> _T:
        if all(clause.excluded for clause in clauses):
            return of(_NONE_FOUND, limit, None)
        options = self._options
        asked = TextQuery(clauses, limit, where, self._chosen.columns, options.any, options.marks)
        answers = [await self._backend.search_text(self._handle, asked)]
        effort = self._effort(answers[0].rows)
        return await off_loop(effort, lambda: of(answers.pop(), limit, None))

    def _effort(self, rows: StoredRows) -> int:
        """Return how many values it takes to list the rows; what is fused is made later."""
        effort = self._chosen.effort(rows)
        if not self._fuses:
            return effort
        self._left_to_make += effort
        return effort if self._ref is not None else _VALUES_A_LISTED_ROW * len(rows.ids)

    def _hits(self, found: Found, limit: int, metric: Metric | None) -> list[Hit]:
        """Return the hits of one answer, best first; without a metric, of a keyword search."""
        best, scores = self._best(found, limit, metric)
        rows, chosen, highlights = found.rows, self._chosen, found.highlights
        fields = chosen.fields_of_each(rows, best)
        shows, name = chosen.shows_vector, self._handle.schema.vector
        return [
            Hit(
                rows.ids[i],
                scores[i],
                None if metric is None else found.measures[i],
                own,
                chosen.vector_of(rows, i) if shows else None,
                _NOTHING,
                highlights[i] if highlights else _NOTHING,
                name,
            )
            for i, own in zip(best, fields, strict=True)
        ]

    def _listed(self, found: Found, limit: int, metric: Metric | None) -> Listed:
        """Return the rows of one answer, to be fused."""
        best, scores = self._best(found, limit, metric)
        rows, chosen, name = found.rows, self._chosen, self._handle.schema.vector

        def hit(
            place: int, score: float, ranks: Mapping[str, Rank], highlights: Mapping[str, str]
        ) -> Hit:
            i = best[place]
            return Hit(
                rows.ids[i],
                score,
                None if metric is None else found.measures[i],
                chosen.fields_of(rows, i),
                chosen.vector_of(rows, i),
                ranks,
                highlights,
                name,
            )

        return Listed(
            [rows.ids[i] for i in best],
            [scores[i] for i in best],
            hit,
            [found.highlights[i] for i in best] if found.highlights else None,
        )

    def _best(
        self, found: Found, limit: int, metric: Metric | None
    ) -> tuple[Sequence[int], Sequence[float]]:
        """Return positions in an answer, best first, and the score at every position."""
        rows, measures = _rows_of(found), found.measures
        scores = measures if metric is None else scores_of(metric, measures)
        lowest_first = measures if metric is not None else [-measure for measure in measures]
        order: Sequence[int] = range(len(measures))
        if not all(map(lt, lowest_first, lowest_first[1:])):
            order = order_of(lowest_first, rows.ids, len(rows.ids))
        farthest = self._options.max_distance
        if metric is not None and farthest is not None:
            order = [i for i in order if measures[i] <= farthest]
        least = None if self._fuses else self._options.min_score
        if least is not None:
            order = [i for i in order if scores[i] >= least]
        if self._left_out is not None:
            order = [i for i in order if rows.ids[i] != self._left_out]
        best = order[:limit]
        if self._ref is not None:
            for i in best:
                self._groups[rows.ids[i]] = group_of(rows, i, self._ref)
        return best, scores

    async def _fused(self, lists: dict[str, Listed], fusion: Fusion, limit: int) -> list[Hit]:
        """Return one list of both, which are emptied."""
        rows = sum(len(one.ids) for one in lists.values())
        effort = _VALUES_A_FUSED_HIT * rows + self._left_to_make
        self._left_to_make = 0
        least = self._options.min_score

        def fused() -> list[Hit]:
            hits = fuse(lists["vector"], lists["text"], fusion, limit)
            lists.clear()  # in the thread: it takes its time to free the hits
            return hits if least is None else [hit for hit in hits if hit.score >= least]

        return await off_loop(effort, fused)

    def ranked(self, hits: list[list[Hit]], vectors: Sequence[Any] | None) -> Ranked:
        groups = None if self._ref is None else self._groups
        names = [name for name in self._chosen.columns.fields if name not in self._added]
        vector = self._chosen.shows_vector and not self._strips_vectors
        columns = columns_of(self._handle.schema, names, hits=True, vector=vector)
        return Ranked(hits, vectors, self._strips_vectors, self._added, groups, columns)


def _rows_of(found: Found) -> StoredRows:
    """Return the rows of an answer, which are paired with its measures by position."""
    count = len(found.rows.ids)
    for name, values in (("measures", found.measures), ("highlights", found.highlights)):
        if values is not None and len(values) != count:
            raise AiovecError(
                f"the backend gave {len(values)} {name} for {count} rows; it must give one for each"
            )
    return found.rows


async def together(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run both at once. Where one fails, or the caller is cancelled, both have ended then."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = 2

    def end() -> None:
        if not over.done():
            over.set_result(None)

    async def watched(work: Coroutine[Any, Any, None]) -> None:
        nonlocal left
        try:
            await work
            left -= 1
        except BaseException:
            left = 0
            raise
        finally:
            if not left:  # said here, the caller goes on a round of the loop sooner
                end()

    tasks = [asyncio.ensure_future(watched(one)), asyncio.ensure_future(watched(other))]
    for task in tasks:  # one that is cancelled before it begins says nothing
        task.add_done_callback(lambda done: end() if done.cancelled() else None)
    cancelled = None
    try:
        await over
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            if not task.done():
                cancelled = await wait_out(task) or cancelled
        failures = [task.exception() for task in tasks if not task.cancelled()]
        del task
        tasks.clear()
    if cancelled is not None:
        raise cancelled
    stopped = len(failures) < 2
    failure = next(filter(None, failures), None)
    failures.clear()
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # it refers to this frame
    if stopped:
        raise asyncio.CancelledError


async def finished(
    ranked: Ranked, options: SearchOptions, threads: Callable[[], anyio.CapacityLimiter]
) -> list[Results[Hit]]:
    """Rerank and diversify each query's hits where that was asked for; cut to the limit."""
    lists = ranked.hits

    def results(hits: list[list[Hit]]) -> list[Results[Hit]]:
        return [Results(one, columns=ranked.columns) for one in hits]

    if options.rerank is None and not options.diversity and not ranked.added:
        effort = len(lists) + sum(map(len, lists)) // _HITS_A_VALUE
        return await off_loop(effort, partial(results, lists))
    if options.rerank is not None:
        for n in range(len(lists)):
            held, lists[n] = [lists[n]], []
            lists[n] = await reranked(held, options.rerank, threads())
    stopped: list[bool] = []

    def last_steps() -> list[Results[Hit]]:
        made = []
        # What reranks knows better than the vector.
        queries = ranked.vectors if options.rerank is None else None
        for n in range(len(lists)):
            hits, lists[n] = lists[n], []  # what is left over is freed here, in the thread
            if options.diversity:
                query = None if queries is None else queries[n]
                hits = diversify(hits, query, options.diversity, options.limit, stopped)
            if ranked.groups is None:
                hits = hits[: options.limit]
            else:
                hits = picked(hits, ranked.groups, options.limit, options.per_group)
            made.append([_stripped(hit, ranked) for hit in hits])
        return results(made)

    count = sum(map(len, lists))
    if options.diversity:  # each pick is compared with all hits that are left
        vectors = (hit.vector for hits in lists for hit in hits if hit.vector is not None)
        first = next(vectors, None)
        length = 0 if first is None else len(first)
        count *= options.limit * (1 + length // NUMBERS_A_VALUE)
    return await off_loop(count, last_steps, stop=lambda: stopped.append(True))


def _stripped(hit: Hit, ranked: Ranked) -> Hit:
    """Return the hit without what the caller did not ask for."""
    if ranked.strips_vectors:
        hit = hit.__replace__(vector=None)
    if not ranked.added.isdisjoint(hit.fields):
        kept = {name: value for name, value in hit.fields.items() if name not in ranked.added}
        hit = hit.__replace__(fields=kept)
    return hit
