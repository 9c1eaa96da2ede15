"""Searches by vector, by keywords and by both.

Each takes three steps: ``plan_search`` makes a ``Plan`` of the arguments; ``search_vectors``,
``search_words`` or ``search_both`` sends it to the backend and ranks the rows; ``finish`` reranks,
diversifies and cuts.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from operator import lt
from typing import Any, TypedDict, TypeVar, cast

import numpy as np

from .._filters import Expr, bind
from .._filters.tree import In, IsNull, Ref, all_of, any_of
from .._input.arguments import check_flag, check_tuning, check_words, count_of
from .._input.selection import Selection, select_columns, selected_names, value_ref
from .._input.types import Where
from .._input.vectors import query_vector
from .._model.arrays import Float32Array, Float64Array
from .._model.hints import unexpected
from .._model.records import Hit
from .._model.results import Results, columns_of
from .._model.schema import Schema
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
from ..backend.threads import INLINE_LIMIT, hop
from ..backend.weight import weight
from ..errors import (
    FilterError,
    InvalidArgumentError,
    UnsupportedError,
    listed,
    shown,
)
from .active_backend import ActiveBackend
from .expiry import LiveRows
from .rank import (
    NOTHING,
    Boost,
    Decay,
    Factor,
    Fusion,
    Ranking,
    Rerank,
    boosted,
    by_distance,
    check_boost,
    check_bound,
    check_diversity,
    check_rerank,
    diversify,
    filled,
    fuse,
    reranked,
    unit,
)

# Steps that pick from a pool fetch this many times the limit, and a search that found too few
# groups asks for this many times more rows.
POOL = 4
# Characters of a filter that weigh one value: parsing text is slower than copying it.
_CHARACTERS_A_VALUE = 2

_T = TypeVar("_T")
_Method = TypeVar("_Method", bound=Callable[..., Any])


class OneForEach(tuple[Where, ...]):
    """A filter for each vector of a search."""

    __slots__ = ()


Marks = tuple[str, str]
_MARKS = ("<mark>", "</mark>")


class SearchArguments(TypedDict, total=False):
    """The arguments that every search takes; ``VectorStore.search`` explains them."""

    select: Iterable[str] | None
    include_vector: bool
    diversity: float | None
    rerank: Rerank | None
    boost: Boost | Sequence[Boost] | None
    fetch_k: int | None
    offset: int
    min_score: float | None
    group_by: str | None
    per_group: int


class VectorArguments(SearchArguments, total=False):
    """The arguments that every search by vector takes."""

    model: str | None
    exact: bool
    tuning: Tuning | None
    max_distance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The arguments of a search, checked, for every query of one call."""

    limit: int = 10
    where: Where | Sequence[Where] = None
    """A filter for all vectors, or ``OneForEach``."""
    select: Iterable[str] | None = None
    model: str | None = None
    include_vector: bool = False
    exact: bool = False
    tuning: Tuning | None = None
    diversity: float | None = None
    rerank: Rerank | None = None
    boost: Boost | Sequence[Boost] | None = None
    fetch_k: int | None = None
    offset: int = 0
    match: str = "best"
    highlight: bool | Marks = False
    min_score: float | None = None
    max_distance: float | None = None
    group_by: str | None = None
    per_group: int = 1

    chooses: bool = field(default=False, init=False)
    """True if further steps choose among the hits."""
    last: int = field(default=0, init=False)
    """The number of hits, or of groups, to rank: ``offset + limit``."""
    pool: int = field(default=0, init=False)
    """The number of hits from which the steps that choose pick."""
    fetched: int = field(default=0, init=False)
    """The number of hits, or of groups, to rank before those steps."""

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        for name, usual, check in _CHECKS:
            given = getattr(self, name)
            if given is not usual:
                put(name, check(name, given))
        put("last", self.offset + self.limit)
        if self.fetch_k is not None and self.fetch_k < self.last:
            expected = f"None, or at least offset + limit, {self.last}"
            raise InvalidArgumentError("fetch_k", self.fetch_k, expected)
        if self.group_by is not None and self.diversity:
            reason = "diversity and group_by cannot be combined; use one of them"
            raise InvalidArgumentError(
                "diversity", self.diversity, "None with group_by", reason=reason
            )
        if self.boost is not None and self.rerank is not None:
            reason = "boost and rerank cannot be combined; let the function of rerank do both"
            raise InvalidArgumentError("boost", self.boost, "None with rerank", reason=reason)
        reranks = self.rerank is not None or self.boost is not None
        put("chooses", bool(self.diversity) or reranks)
        put("pool", self.last * POOL if self.fetch_k is None else self.fetch_k)
        put("fetched", self.pool if self.chooses else self.last)


def options_of(call: str, arguments: type, **given: Any) -> SearchOptions:
    """Return the options of a call that takes these arguments; TypeError for another."""
    for name in given:
        if name not in _NAMED and name not in arguments.__annotations__:
            raise unexpected(call, name, [*_NAMED, *arguments.__annotations__])
    return SearchOptions(**given)


# Arguments that the methods declare themselves.
_NAMED = ("limit", "where", "match", "highlight")


def names_options(arguments: type) -> Callable[[_Method], _Method]:
    """List the arguments of ``**options`` in the method's signature, for ``help`` and notebooks."""

    def with_signature(method: _Method) -> _Method:
        shown = inspect.signature(method)
        named = [p for p in shown.parameters.values() if p.kind is not p.VAR_KEYWORD]
        usual = {option.name: option.default for option in fields(SearchOptions)}
        hints = SearchOptions.__annotations__
        more = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=usual[name], annotation=hints[name]
            )
            for name in arguments.__annotations__
        ]
        method.__signature__ = shown.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        return method

    return with_signature


def _check_tuning_type(argument: str, given: object) -> Tuning:
    if not isinstance(given, Tuning):
        raise InvalidArgumentError(argument, given, "an aiovec.Tuning or None")
    return given


def _check_marks(argument: str, given: Any) -> bool | Marks:
    if isinstance(given, bool):
        return given
    if not (
        isinstance(given, tuple)
        and len(given) == 2
        and all(isinstance(mark, str) for mark in given)
    ):
        raise InvalidArgumentError(
            argument, given, "True, False, or a tuple of the texts before and after a word"
        )
    for mark in given:
        check_words(argument, mark)
    return given


def _check_match(argument: str, given: object) -> str:
    if given not in ("all", "any", "best"):
        raise InvalidArgumentError(argument, given, "'all', 'any' or 'best'")
    return str(given)


# Each argument with its default, and the check of any other value.
_CHECKS: tuple[tuple[str, object, Callable[[str, Any], object]], ...] = (
    ("limit", 10, count_of),
    ("offset", 0, partial(count_of, least=0)),
    ("per_group", 1, count_of),
    ("exact", False, check_flag),
    ("include_vector", False, check_flag),
    ("match", "best", _check_match),
    ("select", None, lambda _, names: selected_names(names)),
    ("tuning", None, _check_tuning_type),
    ("diversity", None, check_diversity),
    ("rerank", None, check_rerank),
    ("boost", None, check_boost),
    ("fetch_k", None, count_of),
    ("highlight", False, _check_marks),
    ("min_score", None, check_bound),
    ("max_distance", None, check_bound),
)


# The ability that each value of a tuning needs, and a hint for backends without it.
_TUNED = (
    (
        "indexes", ("nprobes", "ef", "refine", "recall"),
        "it searches exactly; an index of LanceDB takes this. Leave it out, or pass exact=True",
    ),
    (
        "quantized", ("dims",),
        "SQLite does; here Tuning(recall=…) sets the effort. Leave it out, or pass exact=True",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """A search of one table: the queries, and the steps that follow them.

    ``added`` names fields that are read only for these steps, as the vector is with
    ``hides_vector``; hits do not show them. Rows that are ``left_out`` are no hits. With both
    queries and ``text``, the two lists are fused, and ``min_score`` applies to the fused list.
    """

    options: SearchOptions
    schema: Schema
    selection: Selection
    queries: Sequence[VectorQuery]
    text: TextQuery | None
    group: Ref | None
    boosts: Sequence[tuple[Boost, Sequence[Ref]]]
    live: LiveRows
    added: frozenset[str] = frozenset()
    hides_vector: bool = False
    left_out: frozenset[str] = frozenset()


def plan_search(
    backend: Backend,
    handle: TableHandle,
    options: SearchOptions,
    *,
    vectors: Callable[[Schema], Sequence[Float32Array]] | None = None,
    words: str | None = None,
    left_out: frozenset[str] = frozenset(),
    live: LiveRows | None = None,
) -> Plan:
    """Return the plan of a search for ``vectors``, as checked by the schema, or ``words``."""
    schema = handle.schema
    live = live or LiveRows(backend, handle)
    if options.tuning is not None:
        check_tuning(options.tuning, schema.dim)
        if not options.exact:
            _check_means_something(options.tuning, backend)
    chosen = select_columns(
        schema,
        options.select,  # type: ignore[arg-type]  # a list by now
        include_vector=options.include_vector,
    )
    group = None
    if options.group_by is not None:
        group = value_ref(schema, options.group_by, "group_by", ids=False)
    given = cast("tuple[Boost, ...]", options.boost or ())  # a tuple by now
    boosts = [(boost, _boost_refs(schema, boost)) for boost in given]
    # A rerank function gets all text fields, also those that the caller did not select.
    needed = [] if options.rerank is None else text_fields(schema)
    refs = [*([] if group is None else [group]), *(ref for _, read in boosts for ref in read)]
    needed += [ref.name for ref in refs if not ref.path]
    columns = chosen.columns
    added = frozenset(needed).difference(columns.fields)
    if added:
        columns = replace(columns, fields=(*columns.fields, *sorted(added)))
    if any(ref.path for ref in refs) and not columns.payload:
        columns, chosen = replace(columns, payload=True), replace(chosen, keys={})
    hides = bool(options.diversity) and not chosen.shows_vector
    if hides:
        columns = replace(columns, vector=True)
    if columns is not chosen.columns:
        chosen = replace(chosen, columns=columns, shows_vector=hides or chosen.shows_vector)
    text, queries = None, []
    # Each list of a fusion has more hits than the caller gets.
    limit = options.fetched if words is None or vectors is None else options.pool
    clauses = () if words is None else _clauses(backend, handle, words)
    arrays = [] if vectors is None else vectors(schema)
    filters = bound_filters(options.where, schema, len(arrays) if words is None else 1)
    if words is not None:
        marks = options.highlight if isinstance(options.highlight, tuple) else _MARKS
        text = TextQuery(
            clauses, limit, live.only(filters[0]), columns, options.match == "any",
            marks if options.highlight else None,
        )  # fmt: skip
    if vectors is not None:
        limit += len(left_out)
        queries = [
            VectorQuery(array, limit, condition, columns, options.exact, options.tuning)
            for array, condition in zip(arrays, filters, strict=True)
        ]
    return Plan(options, schema, chosen, queries, text, group, boosts, live, added, hides, left_out)


_BOOSTS: Mapping[type, tuple[str, tuple[str, ...]]] = {
    Decay: ("times", ("datetime", "text")),
    Factor: ("numbers or booleans", ("int", "float", "bool")),
}


def _boost_refs(schema: Schema, boost: Boost) -> list[Ref]:
    """Return the fields or payload keys that a boost reads; times may be texts."""
    values, kinds = _BOOSTS[type(boost)]
    refs = [_boost_ref(schema, boost.field, values, kinds)]
    if isinstance(boost, Decay) and boost.pinned is not None:
        refs.append(_boost_ref(schema, boost.pinned, "booleans", ("bool",)))
    return refs


def _boost_ref(schema: Schema, name: str, values: str, kinds: tuple[str, ...]) -> Ref:
    able = [known for known, field in schema.fields.items() if field.kind in kinds]
    if name in able or name.startswith("payload."):
        return value_ref(schema, name, "boost", ids=False)
    payload = ["payload.<key>"] if schema.payload else []
    expected = listed(able, *payload) or "no field of this table"
    accepted = f"a field of {values}: {expected}"
    reason = f"boost has to read {accepted}, not {shown(name)}"
    raise InvalidArgumentError("boost", name, accepted, reason=reason)


def _check_means_something(tuning: Tuning, backend: Backend) -> None:
    """Raise UnsupportedError for a value that this backend would ignore."""
    for ability, names, hint in _TUNED:
        for name in () if backend.supports(ability) else names:
            if getattr(tuning, name) is not None:
                raise UnsupportedError(f"Tuning({name}=…)", backend.name, hint)


def bound_filters(where: Where | Sequence[Where], schema: Schema, count: int) -> list[Expr | None]:
    """Return a bound filter for each of ``count`` vectors; equal texts are parsed once."""
    if not isinstance(where, OneForEach):
        return [bind(where, schema)] * count
    if len(where) != count:
        raise InvalidArgumentError(
            "where", list(where),
            f"one filter, or one for each of the {count} vectors (there are {len(where)})",
        )  # fmt: skip
    keys = [each if isinstance(each, str) else id(each) for each in where]
    bound = {key: bind(each, schema) for key, each in dict(zip(keys, where, strict=True)).items()}
    return [bound[key] for key in keys]


def _clauses(backend: Backend, handle: TableHandle, words: str) -> tuple[TextClause, ...]:
    """Return the clauses of a keyword search that this backend can answer on this table."""
    if not text_fields(handle.schema):
        raise UnsupportedError(
            "text", backend.name,
            "none of its fields has text=True; create_field_index(table, field, 'text') indexes an "
            "existing text field, add_field(table, name, Field(str, text=True)) adds one",
            table=handle.name,
        )  # fmt: skip
    clauses = parse(words, handle.schema)
    check_phrases(words, clauses, handle.schema)
    return clauses


def weight_of_text(text: object, levels: int = 2) -> int:
    """Return the weight of a filter, or of the words of a search.

    A list of filters, each a list, has two levels. Counting stops beyond ``INLINE_LIMIT``, since a
    list may contain itself.
    """
    if text is None:
        return 0
    if isinstance(text, (list, tuple)) and levels:
        total = 0
        for item in text:
            if total > INLINE_LIMIT:
                break
            total += 1 + weight_of_text(item, levels - 1)
        return total
    return len(text) // _CHARACTERS_A_VALUE if isinstance(text, str) else weight(text)


def vector_like(
    rows: StoredRows, ids: Sequence[str], not_like: Sequence[str], schema: Schema
) -> list[Float32Array]:
    """Return the vector to search for, made from rows that were read by their ids."""
    places = {id: place for place, id in enumerate(rows.ids)}

    def vectors_of(argument: str, ids: Sequence[str]) -> Float32Array:
        for id in ids:
            # A row without a vector has one of NaN.
            if id not in places or rows.vectors is None or np.isnan(rows.vectors[places[id]][0]):
                raise InvalidArgumentError(argument, id, "the id of a row that has a vector")
        return cast("Float32Array", rows.vectors)[[places[id] for id in ids]]

    def mean(vectors: Float32Array) -> Float64Array:
        scaled = unit(vectors) if schema.metric == "cosine" else vectors.astype(np.float64)
        return cast("Float64Array", scaled.mean(axis=0))

    liked, unlike = vectors_of("ids", ids), vectors_of("not_like", not_like)
    if not not_like:
        return [liked[0] if len(ids) == 1 else query_vector(mean(liked), schema)]
    return [query_vector(2 * mean(liked) - mean(unlike), schema)]


# From the plan to the hits


Group = tuple[str, Any]
"""The type of the value that rows of one group share, and the value: 1 and TRUE are two."""

_NULL: Group = ("null", None)


@dataclass(slots=True)
class Ranked:
    """The hits of each query of a plan, best first; the group and the boosts' values of each id."""

    plan: Plan
    hits: list[list[Hit]] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    boosts: dict[str, list[list[Any]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.hits))

    def ranking(self, result: Found, limit: int, *, by_vector: bool) -> Ranking:
        """Rank the rows of a result and keep the best; note what the next steps read."""
        plan, options = self.plan, self.plan.options
        ids, measures = result.rows.ids, result.measures
        metric = plan.schema.metric if by_vector else None
        scores = lowest_first = measures
        if metric is None:
            lowest_first = [-measure for measure in measures]
        elif metric == "cosine":
            scores = [1.0 - distance for distance in measures]
        elif metric == "l2":
            scores = [1.0 / (1.0 + distance) for distance in measures]
        else:
            scores = [-distance for distance in measures]
        order: Sequence[int] = range(len(ids))
        if not all(map(lt, lowest_first, lowest_first[1:])):
            order = [i for _, _, i in sorted(zip(lowest_first, ids, order, strict=True))]
        if by_vector and (farthest := options.max_distance) is not None:
            order = [i for i in order if measures[i] <= farthest]
        fuses = plan.text is not None and plan.queries
        if not fuses and (least := options.min_score) is not None:
            order = [i for i in order if scores[i] >= least]
        if plan.left_out:
            order = [i for i in order if ids[i] not in plan.left_out]
        order = order[:limit]
        if plan.group is not None:
            for i in order:
                self.groups[ids[i]] = _group_of(_value_of(result.rows, i, plan.group))
        for i in order if plan.boosts else ():
            self.boosts[ids[i]] = [
                [_value_of(result.rows, i, ref) for ref in refs] for _, refs in plan.boosts
            ]
        return Ranking(result, order, scores, metric)

    def hits_of(self, results: Sequence[Found], limit: int, by_vector: bool) -> list[list[Hit]]:
        """Return the hits of each result."""
        return [self._hits(self.ranking(result, limit, by_vector=by_vector)) for result in results]

    def _hits(self, ranking: Ranking) -> list[Hit]:
        result, scores, selection = ranking.result, ranking.scores, self.plan.selection
        rows, measures, highlights = result.rows, result.measures, result.highlights
        vectors = selection.shows_vector
        every = zip(ranking.order, selection.fields_of_each(rows, ranking.order), strict=True)
        return [
            Hit(
                rows.ids[i],
                scores[i],
                None if ranking.metric is None else measures[i],
                fields,
                selection.vector_of(rows, i) if vectors else None,
                NOTHING,
                highlights[i] if highlights else NOTHING,
                selection.vector_name,
            )
            for i, fields in every
        ]

    def fused(
        self, vector: Found, text: Found, fusion: Fusion, count: int, limit: int
    ) -> list[Hit]:
        """Fuse both results, of at most ``count`` rows each, into one list of hits."""
        hits = fuse(
            self.ranking(vector, count, by_vector=True), self.ranking(text, count, by_vector=False),
            fusion, limit, self.plan.selection,
        )  # fmt: skip
        least = self.plan.options.min_score
        return hits if least is None else [hit for hit in hits if hit.score >= least]


Searcher = Callable[[Backend, TableHandle, Plan], Awaitable[Ranked]]


async def run_search(
    active: ActiveBackend,
    handle: TableHandle,
    options: SearchOptions,
    effort: int,
    plan: Callable[[Backend, TableHandle, SearchOptions], Plan],
    search: Searcher,
) -> Ranked:
    """Wait at the gate, plan the search and send it to the backend."""
    # Keyword searches are short, so they do not wait behind vector searches.
    gate = active.word_searches if search is search_words else active.vector_searches
    async with gate.enter(current_deadline(active.backend.busy_timeout)):
        if options.where is not None:
            effort += weight_of_text(options.where)
        planned = await hop(effort, plan, active.backend, handle, options)
        return await search(active.backend, handle, planned)


async def search_vectors(backend: Backend, handle: TableHandle, plan: Plan) -> Ranked:
    """Search for the plan's vectors."""
    ranked = Ranked(plan)
    limit = plan.options.fetched
    if plan.group is None:
        results = await plan.live.search(plan.queries) if plan.queries else []
        ranked.hits = await hop(weight(*results), ranked.hits_of, results, limit, True)
        return ranked
    for query in plan.queries:

        async def fetch(where: Expr | None, count: int, query: VectorQuery = query) -> _Fetched:
            wanted = count + len(plan.left_out)
            (result,) = await plan.live.search([replace(query, limit=wanted, where=where)])
            (hits,) = await hop(weight(result), ranked.hits_of, [result], count, True)
            return hits, len(hits) < count

        ranked.hits.append(await _grouped(fetch, ranked, plan.group, query.where, fills=True))
    return ranked


async def search_words(backend: Backend, handle: TableHandle, plan: Plan) -> Ranked:
    """Search for the plan's words."""
    ranked, text = Ranked(plan), cast("TextQuery", plan.text)

    async def fetch(where: Expr | None, count: int) -> _Fetched:
        result = await _matching(backend, handle, plan, replace(text, limit=count, where=where))
        (hits,) = await hop(weight(result), ranked.hits_of, [result], count, False)
        return hits, len(hits) < count

    if plan.group is None:
        hits, _ = await fetch(text.where, text.limit)
    else:
        hits = await _grouped(fetch, ranked, plan.group, text.where)
    ranked.hits.append(hits)
    return ranked


async def search_both(backend: Backend, handle: TableHandle, plan: Plan, fusion: Fusion) -> Ranked:
    """Search by vector and by words concurrently, and fuse both lists."""
    ranked, text = Ranked(plan), cast("TextQuery", plan.text)
    deadline = current_deadline(backend.busy_timeout)

    async def part(work: Awaitable[_T]) -> _T:
        with deadline.shared():
            return await work

    async def fused(count: int, limit: int) -> tuple[list[Hit], bool]:
        queries, words = [replace(plan.queries[0], limit=count)], replace(text, limit=count)
        try:
            async with asyncio.TaskGroup() as both:
                by_vector = both.create_task(part(plan.live.search(queries)))
                by_words = both.create_task(part(_matching(backend, handle, plan, words)))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        (near,), matching = by_vector.result(), by_words.result()
        effort = weight(near, matching)
        hits = await hop(effort, ranked.fused, near, matching, fusion, count, limit)
        over = max(len(near.rows.ids), len(matching.rows.ids)) < count
        return hits, over

    if plan.group is None:
        hits, _ = await fused(plan.options.pool, plan.options.fetched)
    else:
        hits = await _grouped(
            lambda _, count: fused(count, 2 * count), ranked, plan.group, text.where
        )
    ranked.hits.append(hits)
    return ranked


async def _matching(backend: Backend, handle: TableHandle, plan: Plan, query: TextQuery) -> Found:
    """Return the rows that match; for "best", filled up with rows that have some of the words."""
    words = sum(not clause.excluded for clause in query.clauses)
    if words == 0:
        return Found(StoredRows([], {}), [])
    whole = await backend.search_text(handle, query)
    if plan.options.match != "best":
        return whole
    if words == 1 or len(whole.rows.ids) >= query.limit:
        return replace(whole, partial=0)
    some = await backend.search_text(handle, replace(query, any=True))
    return await hop(weight(some), filled, whole, some)


# Groups: rows of the same value in a field or in a key of the payload

_Fetched = tuple[list[Hit], bool]


async def _grouped(
    fetch: Callable[[Expr | None, int], Awaitable[_Fetched]],
    ranked: Ranked,
    group: Ref,
    where: Expr | None,
    *,
    fills: bool = False,
) -> list[Hit]:
    """Return the best hits of the best groups.

    ``fetch`` returns the best ``count`` hits that a filter selects, and True if there are no more.
    It is called with larger counts until there are enough groups. With ``fills`` this ends after
    two calls, since a few groups may have the whole table: further calls select rows of other
    groups, and at last rows of the groups that have too few. Scores of keywords may depend on the
    filter, and fused scores on the number of hits: without ``fills``, a group has only the rows
    that these calls return.
    """
    options, groups = ranked.plan.options, ranked.groups
    wanted, per_group = options.fetched, options.per_group

    def picked(hits: Sequence[Hit]) -> list[Hit]:
        return _picked(hits, groups, wanted, per_group)

    def merged(hits: list[Hit], more: list[Hit]) -> list[Hit]:
        known = {hit.id: hit for hit in (*hits, *more)}
        return picked(by_distance([*known.values()]))

    def sizes_of(hits: Iterable[Hit]) -> Counter[Group]:
        return Counter(groups[hit.id] for hit in hits)

    schema = ranked.plan.schema
    count = count_of("limit", options.pool * per_group)  # backends count in 64 bits
    fetched, over = await fetch(where, count)
    hits = await hop(weight(fetched), picked, fetched)
    while not over and len(sizes_of(hits)) < wanted:
        count *= POOL
        fetched, over = await fetch(where, count)
        hits = await hop(weight(fetched), picked, fetched)
        if fills:
            break
    every = over or not fills
    while not every:
        sizes = sizes_of(hits)
        # A filter cannot compare JSON, so the rows of such a group come from the search for rows of
        # no other group.
        few = any(size < per_group for group, size in sizes.items() if group[0] == "json")
        if len(sizes) >= wanted and not few:
            break
        others = _among(schema, group, sizes, where, others=True)
        more, every = await fetch(where if others is None else others, count)
        hits = await hop(weight(more), merged, hits, more)
        if len(sizes_of(hits)) == len(sizes):
            count *= POOL
    while fills and not over:
        small = {value for value, size in sizes_of(hits).items() if size < per_group}
        within = _among(schema, group, small, where, others=False)
        if within is None:
            break
        more, over = await fetch(within, count)
        hits = await hop(weight(more), merged, hits, more)
        count *= POOL
    return hits


def _among(
    schema: Schema, ref: Ref, groups: Iterable[Group], where: Expr | None, *, others: bool
) -> Expr | None:
    """Return the filter for rows of these groups, or of ``others``.

    None if it would be too large, or if all groups are of JSON, which filters cannot compare.
    """
    values = tuple(value for kind, value in groups if kind not in ("json", "null"))
    terms: list[Expr] = [In(ref, values)] if values else []
    if _NULL in groups:
        terms.append(IsNull(ref))
    if not terms:
        return None
    try:
        named = any_of(terms)
        bound = bind(named.is_not_true() if others else named, schema)
        return bound if where is None or bound is None else all_of([where, bound])
    except FilterError:  # too deep or too large for a filter
        return None


def _value_of(rows: StoredRows, i: int, ref: Ref) -> Any:
    """Return a row's value of a field or a payload key."""
    if not ref.path:
        return rows.fields[ref.name][i]
    text = rows.payloads[i] if rows.payloads is not None else None
    value = None if text is None else json.loads(text)
    for key in ref.path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _group_of(value: Any) -> Group:
    """Return the group of a row's value. Lists and objects of the payload are compared as JSON."""
    if value is None:
        return _NULL
    if isinstance(value, (bool, str, datetime)):
        return type(value).__name__, value
    if isinstance(value, (int, float)):
        return "number", value
    return "json", json.dumps(value, sort_keys=True)


def _picked(
    hits: Iterable[Hit], groups: Mapping[str, Group], last: int, per_group: int, offset: int = 0
) -> list[Hit]:
    """Return the hits of the groups from ``offset`` to ``last``, at most ``per_group`` of each."""
    sizes: dict[Group, int] = {}
    chosen = []
    for hit in hits:
        group = groups[hit.id]
        if group not in sizes and len(sizes) < last:
            sizes[group] = 0 if len(sizes) >= offset else per_group
        if sizes.get(group, per_group) < per_group:
            sizes[group] += 1
            chosen.append(hit)
    return chosen


# From the hits to the results


async def finish(ranked: Ranked, rerank_places: asyncio.Semaphore) -> list[Results[Hit]]:
    """Rerank, boost and diversify each query's hits as requested, and cut them to the limit."""
    plan, options, lists = ranked.plan, ranked.plan.options, ranked.hits
    if options.rerank is not None:
        lists = [await reranked(hits, options.rerank, rerank_places) for hits in lists]
    shows = plan.selection.shows_vector and not plan.hides_vector
    names = plan.selection.columns.fields
    if plan.added:
        names = tuple(name for name in names if name not in plan.added)
    columns = columns_of(plan.schema, names, hits=True, vector=shows)
    now = datetime.now(UTC)

    def results() -> list[Results[Hit]]:
        made = []
        for n, hits in enumerate(lists):
            if options.boost is not None:
                hits = boosted(hits, [boost for boost, _ in plan.boosts], ranked.boosts, now)
            if options.diversity:
                # After reranking or boosting, use those scores instead of vector distances.
                scored = options.rerank is not None or options.boost is not None
                near = not scored and bool(plan.queries) and plan.text is None
                query = plan.queries[n].vector if near else None
                hits = diversify(hits, query, options.diversity, options.last)
            if plan.group is None:
                hits = hits[options.offset : options.last]
            else:
                hits = _picked(hits, ranked.groups, options.last, options.per_group, options.offset)
            if plan.hides_vector or plan.added:
                hits = [_stripped(hit, plan) for hit in hits]
            made.append(Results(hits, columns=columns))
        return made

    effort = weight(*lists) if options.chooses or plan.added else len(lists)
    if options.diversity:  # each pick is compared with all remaining hits
        effort *= options.last
    return await hop(effort, results)


def _stripped(hit: Hit, plan: Plan) -> Hit:
    """Return the hit without values that only the steps needed."""
    if plan.hides_vector:
        hit = hit.__replace__(vector=None)
    if not plan.added.isdisjoint(hit.fields):
        kept = {name: value for name, value in hit.fields.items() if name not in plan.added}
        hit = hit.__replace__(fields=kept)
    return hit
