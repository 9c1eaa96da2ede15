"""Searches by vector, by keywords and by both.

Each takes three steps: ``plan_search`` makes a ``Plan`` of the arguments; ``search_vectors``,
``search_words`` or ``search_both`` sends it to the backend and ranks the rows; ``finish`` reranks,
diversifies and cuts.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import partial
from operator import lt
from typing import Any, Literal, TypedDict, TypeVar, cast

import numpy as np

from .._filters import Expr, bind
from .._filters.tree import Ref
from .._input.arguments import check_flag, check_tuning, check_words, count_of
from .._input.selection import Selection, select_columns, selected_names, value_reader, value_ref
from .._input.types import Where
from .._input.vectors import query_vector
from .._model.arrays import Float32Array, Float64Array
from .._model.distance import scores_of
from .._model.fusion import Fusion
from .._model.hints import unexpected
from .._model.records import Hit
from .._model.results import Results, columns_of
from .._model.schema import Schema
from .._text.query import TextClause, check_phrases, parse, text_fields
from ..backend.contract import (
    Backend,
    Found,
    HybridQuery,
    Snippets,
    StoredRows,
    TableHandle,
    TextQuery,
    Tuning,
    VectorQuery,
)
from ..backend.threads import INLINE_LIMIT, hop
from ..backend.weight import weight
from ..errors import InvalidArgumentError, UnsupportedError, listed, shown
from .active_backend import ActiveBackend
from .expiry import LiveRows
from .rank import (
    NOTHING,
    Boost,
    BoostRead,
    Rerank,
    RerankFunction,
    check_boost,
    check_bound,
    check_diversity,
    check_rerank,
    diversify,
    reranked,
    unit,
)

# Steps that pick from a pool fetch this many times the limit.
POOL = 4
# A search whose first rows have too few groups fetches this many times more rows.
_MORE_FOR_GROUPS = 16
# Characters of a filter that weigh one value: parsing text is slower than copying it.
_CHARACTERS_A_VALUE = 2

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
    """A function, or a tuple of boosts."""
    boost: Boost | Sequence[Boost] | None = None
    """Boosts, for ``rerank``."""
    fetch_k: int | None = None
    offset: int = 0
    match: Literal["all", "any", "best"] = "best"
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
        if self.boost is not None:
            put("rerank", self.boost)
        put("chooses", bool(self.diversity) or self.rerank is not None)
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


def _check_match(argument: str, given: object) -> object:
    if given not in ("all", "any", "best"):
        raise InvalidArgumentError(argument, given, "'all', 'any' or 'best'")
    return given


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

    ``selection`` has what the steps need, ``shown`` the part that hits show. Rows that are
    ``left_out`` are no hits.
    """

    options: SearchOptions
    schema: Schema
    shown: Selection
    selection: Selection
    live: LiveRows
    queries: Sequence[VectorQuery] = ()
    text: TextQuery | None = None
    left_out: frozenset[str] = frozenset()


def plan_search(
    backend: Backend,
    handle: TableHandle,
    options: SearchOptions,
    *,
    vectors: Callable[[Schema], Sequence[Float32Array]] | None = None,
    words: str | None = None,
    fusion: Fusion | None = None,
    left_out: frozenset[str] = frozenset(),
    live: LiveRows | None = None,
) -> Plan:
    """Return the plan of a search for ``vectors``, as checked by the schema, or ``words``.

    For both, it has one query, with the fusion of their lists.
    """
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
    selection = _for_the_steps(options, schema, chosen)
    columns, text, queries = selection.columns, None, list[VectorQuery]()
    # Each list of a fusion has more hits than the caller gets.
    limit = options.fetched if fusion is None else options.pool
    clauses = () if words is None else _clauses(backend, handle, words)
    arrays = [] if vectors is None else vectors(schema)
    filters = bound_filters(options.where, schema, len(arrays) if words is None else 1)
    if words is not None:
        filters = [live.only(filters[0])]
        marks = options.highlight if isinstance(options.highlight, tuple) else _MARKS
        text = TextQuery(
            clauses, limit, filters[0], columns, options.match, marks if options.highlight else None
        )
    if text is None:
        limit += len(left_out)
        queries += [
            VectorQuery(array, limit, condition, columns, options.exact, options.tuning)
            for array, condition in zip(arrays, filters, strict=True)
        ]
    elif fusion is not None:
        both = HybridQuery(
            arrays[0], limit, filters[0], columns, options.exact, options.tuning, text=text,
            fusion=fusion, hits=options.fetched, max_distance=options.max_distance,
        )  # fmt: skip
        queries.append(both)
    return Plan(options, schema, chosen, selection, live, queries, text, left_out)


def _for_the_steps(options: SearchOptions, schema: Schema, chosen: Selection) -> Selection:
    """Return the selection with what the steps behind the search read, too."""
    boosts = options.rerank if isinstance(options.rerank, tuple) else ()
    refs = [_boost_ref(schema, read) for boost in boosts for read in boost.reads]
    if options.group_by is not None:
        refs.append(value_ref(schema, options.group_by, "group_by", ids=False))
    needed = {ref.name for ref in refs if not ref.path}
    # A function gets all text fields, also those that the caller did not select.
    if options.highlight or callable(options.rerank):
        needed.update(text_fields(schema))
    columns = chosen.columns
    wider = replace(
        columns,
        fields=(*columns.fields, *sorted(needed.difference(columns.fields))),
        payload=columns.payload or any(ref.path for ref in refs),
        vector=columns.vector or bool(options.diversity),
    )
    if wider == columns and (chosen.keys is None or not any(ref.path for ref in refs)):
        return chosen
    return Selection(wider, chosen.vector_name, shows_vector=wider.vector)


def _boost_ref(schema: Schema, read: BoostRead) -> Ref:
    name, values, kinds = read
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


_Fetch = Callable[[int], Awaitable[Found]]
"""Returns the best rows, at most so many."""


@dataclass(slots=True)
class Ranked:
    """The hits of each query of a plan, best first, and the group of each id.

    ``snippets`` makes the snippets of the only query.
    """

    plan: Plan
    hits: list[list[Hit]] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    snippets: Snippets | None = None

    def __len__(self) -> int:
        return sum(map(len, self.hits))

    async def collect(self, fetch: _Fetch) -> None:
        """Add the best hits of a query, or those of its best groups.

        If the first rows have too few groups, more are fetched once; what these have is the answer.
        So the rows of few groups, or of one that comes first, do not make it read the table.
        """
        options = self.plan.options
        if options.group_by is None:
            result = await fetch(options.fetched)
            self.hits += await hop(weight(result), self.hits_of, [result], options.fetched)
            return
        count = count_of("limit", options.pool * options.per_group)  # backends count in 64 bits
        value_of, picked = value_reader(options.group_by, self.plan.schema), list[Hit]()

        def best(result: Found) -> int:
            """Pick the hits, and return how many there were."""
            (hits,) = self.hits_of([result], count)
            self.groups |= {hit.id: _group_of(value_of(hit.fields)) for hit in hits}
            picked[:] = _picked(hits, self.groups, options.fetched, options.per_group)
            return len(hits)

        result = await fetch(count)
        hits = await hop(weight(result), best, result)
        if hits >= count and len({self.groups[hit.id] for hit in picked}) < options.fetched:
            count *= _MORE_FOR_GROUPS
            result = await fetch(count)
            await hop(weight(result), best, result)
        self.hits.append(picked)

    def hits_of(self, results: Sequence[Found], limit: int) -> list[list[Hit]]:
        """Return the best hits of each result."""
        return [self._hits_of(result, limit) for result in results]

    def _hits_of(self, result: Found, limit: int) -> list[Hit]:
        plan, options, selection = self.plan, self.plan.options, self.plan.selection
        self.snippets = result.snippets
        rows, scores, fused = result.rows, result.measures, result.fused
        distances: Sequence[float | None] = [None] * len(scores)
        lowest_first: Sequence[float] = [-score for score in scores]
        if fused is not None:
            distances = [hit.distance for hit in fused]
        elif plan.text is None:
            distances = lowest_first = result.measures
            scores = scores_of(plan.schema.metric, result.measures)
        order: Sequence[int] = range(len(scores))
        if not all(map(lt, lowest_first, lowest_first[1:])):
            order = [i for _, _, i in sorted(zip(lowest_first, rows.ids, order, strict=True))]
        if plan.text is None and (farthest := options.max_distance) is not None:
            order = [i for i in order if result.measures[i] <= farthest]
        if (least := options.min_score) is not None:
            order = [i for i in order if scores[i] >= least]
        if plan.left_out:
            order = [i for i in order if rows.ids[i] not in plan.left_out]
        order = order[:limit]
        vectors = selection.shows_vector
        every = zip(order, selection.fields_of_each(rows, order), strict=True)
        return [
            Hit(
                rows.ids[i],
                scores[i],
                distances[i],
                fields,
                selection.vector_of(rows, i) if vectors else None,
                NOTHING if fused is None else fused[i].ranks,
                NOTHING,
                selection.vector_name,
            )
            for i, fields in every
        ]


Searcher = Callable[[Backend, TableHandle, Plan], Awaitable[Ranked]]


async def run_search(
    active: ActiveBackend,
    handle: TableHandle,
    options: SearchOptions,
    effort: int,
    plan: Callable[[Backend, TableHandle, SearchOptions], Plan],
    search: Searcher,
) -> Ranked:
    """Plan the search and send it to the backend."""
    if options.where is not None:
        effort += weight_of_text(options.where)
    planned = await hop(effort, plan, active.backend, handle, options)
    return await search(active.backend, handle, planned)


async def search_vectors(backend: Backend, handle: TableHandle, plan: Plan) -> Ranked:
    """Search for the plan's vectors."""
    ranked = Ranked(plan)
    if plan.options.group_by is None:
        results = await plan.live.search(plan.queries) if plan.queries else []
        ranked.hits = await hop(weight(*results), ranked.hits_of, results, plan.options.fetched)
        return ranked
    for query in plan.queries:

        async def fetch(count: int, query: VectorQuery = query) -> Found:
            wanted = replace(query, limit=count + len(plan.left_out))
            return (await plan.live.search([wanted]))[0]

        await ranked.collect(fetch)
    return ranked


async def search_words(backend: Backend, handle: TableHandle, plan: Plan) -> Ranked:
    """Search for the plan's words."""
    ranked, text = Ranked(plan), cast("TextQuery", plan.text)
    await ranked.collect(lambda count: backend.search_text(handle, replace(text, limit=count)))
    return ranked


async def search_both(backend: Backend, handle: TableHandle, plan: Plan) -> Ranked:
    """Search by vector and by words, and fuse both lists."""
    ranked, (query,) = Ranked(plan), cast("Sequence[HybridQuery]", plan.queries)
    grouped = plan.options.group_by is not None

    async def fetch(count: int) -> Found:
        both = query
        if grouped:
            text = replace(query.text, limit=count)
            both = replace(query, limit=count, hits=count, text=text)
        return await backend.search_hybrid(handle, both)

    await ranked.collect(fetch)
    return ranked


def _group_of(value: Any) -> Group:
    """Return the group of a row's value. Lists and objects of the payload are compared as JSON."""
    if value is None:
        return "null", None
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
    """Rerank and diversify each query's hits as requested, and cut them to the limit."""
    plan, options, lists = ranked.plan, ranked.plan.options, ranked.hits
    if options.rerank is not None:
        rerank = cast("RerankFunction | tuple[Boost, ...]", options.rerank)
        lists = [await reranked(hits, rerank, plan.schema, rerank_places) for hits in lists]
    shown = plan.shown
    columns = columns_of(plan.schema, shown.columns.fields, hits=True, vector=shown.shows_vector)

    def results() -> list[Results[Hit]]:
        made = []
        for n, hits in enumerate(lists):
            if options.diversity:
                # After reranking, use those scores instead of vector distances.
                near = options.rerank is None and plan.text is None
                query = plan.queries[n].vector if near else None
                hits = diversify(hits, query, options.diversity, options.last)
            if options.group_by is None:
                hits = hits[options.offset : options.last]
            else:
                hits = _picked(hits, ranked.groups, options.last, options.per_group, options.offset)
            if ranked.snippets is not None:
                hits = _with_snippets(hits, ranked.snippets, plan.schema)
            if plan.selection is not shown:
                hits = [_stripped(hit, plan) for hit in hits]
            made.append(Results(hits, columns=columns))
        return made

    effort = weight(*lists) if options.chooses or plan.selection is not shown else len(lists)
    if options.diversity:  # each pick is compared with all remaining hits
        effort *= options.last
    if ranked.snippets is not None:
        effort += INLINE_LIMIT
    return await hop(effort, results)


def _with_snippets(hits: Sequence[Hit], snippets: Snippets, schema: Schema) -> list[Hit]:
    """Return the hits with a snippet of each text that the query matches."""
    names = text_fields(schema)
    texts = [{name: hit.fields.get(name) for name in names} for hit in hits]
    made = snippets([hit.id for hit in hits], texts)
    return [hit.__replace__(highlights=each) for hit, each in zip(hits, made, strict=True)]


def _stripped(hit: Hit, plan: Plan) -> Hit:
    """Return the hit without values that only the steps needed."""
    fields = plan.shown.cut(hit.fields, plan.schema)
    return hit.__replace__(fields=fields, vector=hit.vector if plan.shown.shows_vector else None)
