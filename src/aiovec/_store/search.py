"""Searches by vector, by keywords and by both.

``plan_of`` makes a ``Plan`` from the arguments. ``Plan.answers`` asks the backend, which calls the
plan back in the reading thread: there the rows are ranked, grouped, boosted, diversified and cut,
and the remaining rows become hits. If ``rerank`` is a function, ``Answer.finish_by`` calls it
afterwards; then come diversity, the cut and the final hits.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import partial
from operator import lt
from typing import Any, Literal, TypedDict, TypeVar, cast

import numpy as np

from .._filters import Expr
from .._filters.tree import Ref, all_of
from .._input.arguments import check_flag, check_tuning, check_words, count_of
from .._input.selection import Selection, select_columns, selected_names, value_ref, values_of
from .._input.types import Vector, Where
from .._input.vectors import query_vector
from .._model.arrays import Float32Array, Float64Array
from .._model.records import NOTHING, Hit
from .._model.results import Results, result_columns
from .._model.schema import Schema
from .._search.distance import scores_of
from .._search.fusion import Fusion, Weighted
from .._search.query import TextClause, check_phrases, parse, text_fields
from .._tools.hints import unexpected
from .._tools.messages import listed, shown
from ..backend.contract import Backend, Found, Query, Snippets, Tuning, no_vector
from ..backend.rows import Batch
from ..backend.threads import hop, in_thread
from ..errors import InvalidArgumentError, UnsupportedError
from .opened import OpenTable
from .rank import (
    Boost,
    BoostRead,
    Rerank,
    RerankFunction,
    Scored,
    boosted,
    check_bound,
    check_diversity,
    check_fusion,
    check_rerank,
    cosines,
    diversify,
    in_order,
    reranked,
    scaled,
    unit,
)

_Method = TypeVar("_Method", bound=Callable[..., Any])

Group = tuple[str, Any]
"""The type and the value that the rows of a group share: 1 and TRUE are different groups."""


Highlight = tuple[str, str]
_HIGHLIGHT = ("<mark>", "</mark>")

_FETCH_K = 40
"""The usual ``fetch_k``. For hybrid searches, lists of 20 to 80 rows have the best nDCG@10
(``bench quality``)."""


class SearchArguments(TypedDict, total=False):
    """The arguments that every search takes; ``VectorStore.search`` explains them."""

    select: Iterable[str] | None
    include_vector: bool
    diversity: float | None
    rerank: Rerank | None
    fetch_k: int | None
    offset: int
    min_score: float | None
    group_by: str | None
    per_group: int


class NearArguments(SearchArguments, total=False):
    """The arguments that every search by vector takes, including ``search_like``."""

    exact: bool
    tuning: Tuning | None
    max_distance: float | None


class VectorArguments(NearArguments, total=False):
    """The arguments that every search by a caller's vector takes."""

    model: str | None


def _check_highlight(argument: str, value: Any) -> bool | Highlight:
    if isinstance(value, bool):
        return value
    pair = value if isinstance(value, tuple) else ()
    if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        expected = "True, False, or a tuple of the texts before and after a word"
        raise InvalidArgumentError(argument, value, expected)
    for text in pair:
        check_words(argument, text)
    return pair


def _check_match(argument: str, value: object) -> object:
    if not isinstance(value, str) or value not in ("all", "any", "best"):
        raise InvalidArgumentError(argument, value, "'all', 'any' or 'best'")
    return value


def _check_each_where(argument: str, filters: object) -> tuple[Where, ...]:
    if not isinstance(filters, (list, tuple)):
        expected = "a list with a filter for each vector, or None"
        raise InvalidArgumentError(argument, filters, expected)
    return tuple(filters)  # the caller may change it while the call waits


def _instance_of(kind: type, expected: str) -> Callable[[str, object], object]:
    """Return a check that a value has this type."""

    def check(argument: str, value: object) -> object:
        if not isinstance(value, kind):
            raise InvalidArgumentError(argument, value, expected)
        return value

    return check


def _option(default: Any, check: Callable[[str, Any], object]) -> Any:
    """Declare an argument with its default and the check for any other value."""
    return field(default=default, metadata={"check": check})


@dataclass(slots=True, kw_only=True)
class SearchOptions:
    """The checked arguments of one call, for all its queries."""

    vector: Vector | str | None = None
    vectors: Any = None
    """The vectors of ``search_many``, as ``collect_vectors`` returns them."""
    like: tuple[list[str], list[str]] | None = None
    """``ids`` and ``not_like`` of ``search_like``."""
    query: str | None = None
    hybrid: bool = False
    fusion: Fusion | None = _option(None, check_fusion)
    limit: int = _option(10, count_of)
    where: Where = None
    each_where: Sequence[Where] | None = _option(None, _check_each_where)
    select: Iterable[str] | None = _option(None, lambda _, names: selected_names(names))
    model: str | None = None
    include_vector: bool = _option(False, check_flag)
    exact: bool = _option(False, check_flag)
    tuning: Tuning | None = _option(None, _instance_of(Tuning, "an aiovec.Tuning or None"))
    diversity: float | None = _option(None, check_diversity)
    rerank: Rerank | None = _option(None, check_rerank)
    """A function, or a tuple of boosts."""
    fetch_k: int | None = _option(None, count_of)
    offset: int = _option(0, partial(count_of, least=0))
    match: Literal["all", "any", "best"] = _option("any", _check_match)
    highlight: bool | Highlight = _option(False, _check_highlight)
    min_score: float | None = _option(None, check_bound)
    max_distance: float | None = _option(None, check_bound)
    group_by: str | None = _option(
        None, _instance_of(str, "the name of a field or a key of the payload")
    )
    per_group: int = _option(1, count_of)

    last: int = field(default=0, init=False)
    """The number of hits, or of groups, up to the end of the page: ``offset + limit``."""
    pool: int = field(default=0, init=False)
    """The number of hits that diversity and rerank order, and of rows of each list that fusion
    merges at a time. It does not depend on ``last``, so that all pages are parts of one order."""
    fetched: int = field(default=0, init=False)
    """The number of hits, or of groups, to rank: ``pool`` if diversity or rerank is requested,
    otherwise ``last``."""

    def __post_init__(self) -> None:
        for name, usual, check in _CHECKS:
            value = getattr(self, name)
            if value is not usual:
                setattr(self, name, check(name, value))
        self.last = self.offset + self.limit
        if self.group_by is not None and self.diversity:
            reason = "diversity and group_by cannot be combined; use one of them"
            raise InvalidArgumentError("diversity", self.diversity, reason=reason)
        self.pool = _FETCH_K if self.fetch_k is None else self.fetch_k
        chooses = self.diversity or self.rerank is not None
        self.fetched = self.pool if chooses else self.last
        if self.last > self.pool and (chooses or self.many_of_each):
            reason = (
                f"offset + limit is {self.last:,}, but rerank, diversity and per_group order only "
                f"the best fetch_k hits, here {self.pool:,}; pass fetch_k={self.last} or more, the "
                "same for every page"
            )
            raise InvalidArgumentError("fetch_k", self.fetch_k, reason=reason)

    @property
    def many_of_each(self) -> bool:
        """True if a group may have more than one hit."""
        return self.group_by is not None and self.per_group > 1


_CHECKS = [
    (option.name, option.default, option.metadata["check"])
    for option in fields(SearchOptions)
    if option.metadata
]


def options_of(
    call: str, arguments: type, options: Mapping[str, Any], **named: Any
) -> SearchOptions:
    """Return the options of a call. Raises TypeError for an option not in ``arguments``.

    ``named`` has the arguments that the method's signature names.
    """
    for name in options:
        if name not in arguments.__annotations__:
            raise unexpected(call, name, [*named, *arguments.__annotations__])
    return SearchOptions(**named, **options)


def names_options(arguments: type) -> Callable[[_Method], _Method]:
    """List the arguments of ``**options`` in the method's signature, for ``help`` and notebooks."""

    def with_signature(method: _Method) -> _Method:
        signature = inspect.signature(method)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        usual = {option.name: option.default for option in fields(SearchOptions)}
        hints = SearchOptions.__annotations__
        more = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=usual[name], annotation=hints[name]
            )
            for name in arguments.__annotations__
        ]
        method.__signature__ = signature.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        return method

    return with_signature


@dataclass(frozen=True, slots=True)
class Plan:
    """A search of one table: queries to the backend, and steps that turn their results into hits.

    ``selection`` has the columns that the steps need, ``selected`` the columns that hits show. Each
    vector has its own filter; a keyword search has one filter, and ``clauses``. With a vector and
    ``clauses``, the two lists of hits are fused. The ids in ``left_out`` are never hits.
    """

    table: OpenTable
    options: SearchOptions
    selected: Selection
    selection: Selection
    filters: Sequence[Expr | None]
    vectors: Sequence[Float32Array]
    clauses: tuple[TextClause, ...] | None
    fusion: Fusion | None
    left_out: frozenset[str]

    # To the backend

    async def answers(self) -> list[Answer]:
        """Return the answers to all queries, from one state of the table; with ``group_by``, each
        query is a separate search."""
        options, every = self.options, range(len(self.filters))
        parts: list[Sequence[int]] = [every] if every else []
        rounds = [options.fetched]
        if options.group_by is not None:
            parts = [[n] for n in every]
            # At most two searches: even if a few groups have most rows, not all rows are read.
            count = options.pool * options.per_group
            if not options.many_of_each:
                # A longer search sees more rows, which changes no group's best row.
                count = max(count, options.fetched * 4)
            count = count_of("limit", count)  # backends count in 64 bits
            rounds = [count, count * 16]
        answers: list[Answer] = []
        for part in parts:
            for count in rounds:
                queries = await hop(4 * len(part), self._queries, part, count)
                of_part = await self.table.search(queries, partial(self._answers, part, count))
                if all(answer.complete for answer in of_part):
                    break
            answers += of_part
        return answers

    def _queries(self, part: Sequence[int], count: int) -> list[Query]:
        options, highlight = self.options, self.options.highlight
        limit = count + len(self.left_out)
        columns = self.selection.columns.metered(limit * len(part))
        if self.fusion is not None:
            limit = count_of("limit", -(-count // options.pool) * options.pool)
        return [
            Query(
                limit=limit,
                where=self.filters[n],
                columns=columns,
                vector=self.vectors[n] if self.vectors else no_vector(),
                exact=options.exact,
                tuning=options.tuning,
                max_distance=options.max_distance,
                clauses=self.clauses or (),
                match=options.match,
                highlight=_HIGHLIGHT if highlight is True else highlight or None,
                fusion=self.fusion,
                hits=count,
                fused=options.pool,
            )
            for n in part
        ]

    # From the backend to the hits, in the reading thread

    def _answers(self, part: Sequence[int], count: int, results: Sequence[Found]) -> list[Answer]:
        return [self._answer(n, count, result) for n, result in zip(part, results, strict=True)]

    def _answer(self, n: int, count: int, result: Found) -> Answer:
        """Return the answer to query ``n``, made from its best ``count`` rows."""
        options = self.options
        answer = Answer(self, result, *self._ranked(result, count))
        if options.group_by is not None:
            answer.group(options.group_by, count)
        elif options.diversity and options.rerank is None:
            answer.diversify(None if self.clauses is not None else self.vectors[n])
        if callable(options.rerank):
            answer.hits = answer.hits_with(self.selection)
        else:
            if options.rerank is not None:
                answer.boost(cast("Sequence[Boost]", options.rerank))
            answer.finish()
        return answer

    def _ranked(self, result: Found, limit: int) -> tuple[list[int], list[float]]:
        """Return the positions of the best rows, best first, and the scores of all rows."""
        options, ids = self.options, result.rows.ids
        by_distance = self.clauses is None
        distances = result.distances
        scores = list(result.scores)
        if by_distance:
            scores = scores_of(self.table.schema.metric, cast("Sequence[float]", distances))
        lowest_first: Sequence[Any] = distances if by_distance else [-score for score in scores]
        places = list(range(len(scores)))
        # If every row is worse than the previous one, the rows are in order and there is no tie.
        if not all(map(lt, lowest_first, lowest_first[1:])):
            places = [i for _, _, i in sorted(zip(lowest_first, ids, places, strict=True))]
        if by_distance and (farthest := options.max_distance) is not None:
            places = [i for i in places if cast("float", distances[i]) <= farthest]
        if (least := options.min_score) is not None:
            places = [i for i in places if scores[i] >= least]
        if self.left_out:
            places = [i for i in places if ids[i] not in self.left_out]
        return places[:limit], scores


@dataclass(slots=True)
class Answer:
    """The answer to one query of a plan.

    ``places`` has the positions of the chosen rows in ``result``, best first, and ``scores`` the
    score of every row. The steps change ``places`` and ``scores``, from which ``hits`` are made:
    first the hits for a user's function, finally the hits to return.

    ``groups`` maps each position to its group. An answer is ``complete`` if more rows would not
    yield more groups.
    """

    plan: Plan
    result: Found
    places: list[int]
    scores: list[float]
    groups: dict[int, Group] = field(default_factory=dict)
    complete: bool = True
    hits: list[Hit] = field(default_factory=list)

    def _keep(self, picked: Iterable[int]) -> None:
        self.places = [self.places[i] for i in picked]

    def _keep_scored(self, scored: Scored) -> None:
        self._keep(i for i, _ in scored)
        for place, (_, score) in zip(self.places, scored, strict=True):
            self.scores[place] = score

    @property
    def _scored(self) -> tuple[list[str], list[float]]:
        """The ids of the chosen rows, and their scores."""
        ids = self.result.rows.ids
        return [ids[i] for i in self.places], [self.scores[i] for i in self.places]

    def _keep_groups(self, last: int, offset: int = 0) -> None:
        of_each = [self.groups[i] for i in self.places]
        self._keep(_picked(of_each, last, self.plan.options.per_group, offset))

    def group(self, by: str, count: int) -> None:
        """Keep the best rows of each group; ``count`` rows were requested."""
        options, places = self.plan.options, self.places
        values = values_of(self.result.rows, places, by)
        self.groups = dict(zip(places, map(_group_of, values), strict=True))
        self._keep_groups(options.fetched)
        sizes = Counter(self.groups[i] for i in self.places)
        # More rows could also fill the groups that have less than ``per_group`` rows.
        full = min(sizes.values(), default=0) >= options.per_group
        self.complete = (full and len(sizes) >= options.fetched) or len(places) < count

    def diversify(self, query: Float32Array | None = None) -> None:
        """Keep rows that are near the query and unlike each other. Without a query, the scores are
        used as the nearness."""
        options = self.plan.options
        vectors = unit(cast("Float32Array", self.result.rows.vectors)[self.places])
        near: Any = scaled(self._scored[1]) if query is None else cosines(vectors, query)
        self._keep(diversify(vectors, near, cast("float", options.diversity), options.last))

    def boost(self, boosts: Sequence[Boost]) -> None:
        values = partial(values_of, self.result.rows, self.places)
        self._keep_scored(boosted(*self._scored, boosts, values))

    async def finish_by(self, rerank: RerankFunction, slots: asyncio.Semaphore) -> None:
        """Rerank the hits with a user's function, then finish."""
        outcome = await reranked(self.hits, rerank, slots) if self.hits else []
        await in_thread(self._finish_in_order, rerank, outcome)

    def _finish_in_order(self, rerank: RerankFunction, outcome: Any) -> None:
        self._keep_scored(in_order(self._scored[0], outcome, rerank))
        self.finish()

    def finish(self) -> None:
        """Diversify reranked rows if needed, keep only the requested page, and make the hits."""
        plan, options = self.plan, self.plan.options
        schema, selected = plan.table.schema, plan.selected
        if options.diversity and options.rerank is not None and self.places:
            self.diversify()
        if options.group_by is None:
            self.places = self.places[options.offset : options.last]
        else:
            self._keep_groups(options.last, options.offset)
        names, vector = selected.columns.fields, selected.shows_vector
        columns = result_columns(schema, names, hits=True, vector=vector)
        self.hits = Results(self.hits_with(selected, self.result.snippets), columns=columns)
        del self.result  # otherwise a call with many queries would hold the rows of all of them

    def hits_with(self, selection: Selection, snippets: Snippets | None = None) -> list[Hit]:
        """Return the chosen rows as hits with the selected columns, and snippets of their texts."""
        result, places = self.result, self.places
        rows, columns = result.rows, selection.columns
        highlights: Sequence[Mapping[str, str]] = [NOTHING] * len(places)
        if snippets is not None:
            names = text_fields(self.plan.table.schema)
            texts = [{name: rows.fields[name][i] for name in names} for i in places]
            highlights = snippets([rows.ids[i] for i in places], texts)
        if selection is not self.plan.selection:  # leave out values that only the steps needed
            fields = {name: rows.fields[name] for name in columns.fields}
            rows = replace(rows, fields=fields, payloads=rows.payloads if columns.payload else None)
        shows, vector_name = selection.shows_vector, selection.vector_name
        fields_of_each = selection.fields_of_each(rows, places)
        return [
            Hit(
                rows.ids[i],
                self.scores[i],
                result.distances[i] if result.distances else None,
                fields_of_each[n],
                selection.vector_of(rows, i) if shows else None,
                result.ranks[i] if result.ranks else NOTHING,
                highlights[n],
                vector_name,
            )
            for n, i in enumerate(places)
        ]


def hits_in(answers: Sequence[Answer]) -> int:
    """Return the number of hits, for telemetry."""
    return sum(len(answer.hits) for answer in answers)


def plan_of(table: OpenTable, options: SearchOptions, vectors: Sequence[Float32Array]) -> Plan:
    """Return the plan of a search for checked vectors, for the words of ``query``, or for both."""
    schema = table.schema
    if options.tuning is not None:
        check_tuning(options.tuning, schema.dim)
        if not options.exact:
            _check_taken(options.tuning, table.backend)
    selected = select_columns(
        schema,
        options.select,  # type: ignore[arg-type]  # a list by now
        include_vector=options.include_vector,
    )
    selection = _for_the_steps(options, schema, selected)
    clauses = None if options.query is None else _clauses(table, options.query)
    filters = bound_filters(options, table, len(vectors) if clauses is None else 1)
    left_out = frozenset[str]().union(*(options.like or ()))
    fusion = (options.fusion or _fusion_of(schema)) if options.hybrid else None
    return Plan(table, options, selected, selection, filters, vectors, clauses, fusion, left_out)


def _fusion_of(schema: Schema) -> Fusion:
    """Return the fusion of hybrid searches that name none, by the embedder of the table."""
    embed = schema.embed
    weight = None if embed is None else embed.weight
    return Weighted() if weight is None else Weighted(weight, 1 - weight)


def _for_the_steps(options: SearchOptions, schema: Schema, chosen: Selection) -> Selection:
    """Return the selection with the columns that the steps after the search need."""
    reads = options.highlight or options.diversity
    if options.rerank is None and options.group_by is None and not reads:
        return chosen
    boosts = options.rerank if isinstance(options.rerank, tuple) else ()
    refs = [_boost_ref(schema, read) for boost in boosts for read in boost.reads]
    if options.group_by is not None:
        hint = "; no two rows have the same id" if options.group_by == "id" else ""
        refs.append(value_ref(schema, options.group_by, "group_by", ids=False, hint=hint))
    needed = {ref.name for ref in refs if not ref.path}
    # A function gets all text fields, even those that the caller did not select.
    if options.highlight or callable(options.rerank):
        needed.update(text_fields(schema))
    columns = chosen.columns
    wider = replace(
        columns,
        fields=(*columns.fields, *sorted(needed.difference(columns.fields))),
        payload=columns.payload or any(ref.path for ref in refs),
        vector=columns.vector or bool(options.diversity),
    )
    if wider == columns:
        return chosen
    return Selection(wider, chosen.vector_name, shows_vector=wider.vector)


def _boost_ref(schema: Schema, read: BoostRead) -> Ref:
    name, values, kinds, _ = read
    able = [known for known, field in schema.fields.items() if field.kind in kinds]
    if name in able or name.startswith("payload."):
        return value_ref(schema, name, "rerank", ids=False)
    payload = ["payload.<key>"] if schema.payload else []
    expected = listed(able, *payload) or "no field of this table"
    accepted = f"a field of {values}: {expected}"
    reason = f"a boost must read {accepted}, not {shown(name)}"
    raise InvalidArgumentError("rerank", name, reason=reason)


def _check_taken(tuning: Tuning, backend: Backend) -> None:
    """Raise UnsupportedError for a ``Tuning`` value that the backend's searches do not accept."""
    taken = backend.tunings
    if taken is None:
        return
    for name in tuning.values().keys() - taken:
        takes = f"its searches take {listed(sorted(taken))}" if taken else "its searches are exact"
        hint = f"{takes}; leave {name} out, or pass exact=True"
        raise UnsupportedError(f"Tuning({name}=…)", backend.name, hint)


def bound_filters(options: SearchOptions, table: OpenTable, count: int) -> list[Expr | None]:
    """Return a bound filter for each of ``count`` vectors; equal strings are parsed once."""
    alone, each_where = options.query is None, options.each_where
    common = table.bind(options.where, alone=alone)
    if each_where is None:
        return [common] * count
    if len(each_where) != count:
        expected = f"a filter for each of the {count} vectors (there are {len(each_where)})"
        raise InvalidArgumentError("each_where", list(each_where), expected)
    keys = [each if isinstance(each, str) else id(each) for each in each_where]
    distinct = dict(zip(keys, each_where, strict=True))
    bound = {key: table.bind(each, alone=alone) for key, each in distinct.items()}
    if common is not None:
        for key, each in bound.items():
            bound[key] = common if each is None else all_of([common, each])
    return [bound[key] for key in keys]


def _clauses(table: OpenTable, words: str) -> tuple[TextClause, ...]:
    """Return the clauses of a keyword search. Raises UnsupportedError if no field has text=True."""
    if not text_fields(table.schema):
        reason = (
            "none of its fields has text=True; create_field_index(table, field, 'text') indexes an "
            "existing text field, add_field(table, name, Field(str, text=True)) adds one"
        )
        raise UnsupportedError("text", table.backend.name, reason, table=table.handle.name)
    clauses = parse(words, table.schema)
    check_phrases(words, clauses, table.schema)
    return clauses


def vector_like(
    like: tuple[Sequence[str], Sequence[str]], schema: Schema, rows: Batch
) -> list[Float32Array]:
    """Return the vector to search for, made from the rows of ``ids`` and ``not_like``."""
    ids, not_like = like
    indices = {id: index for index, id in enumerate(rows.ids)}

    def vectors_of(argument: str, ids: Sequence[str]) -> Float32Array:
        for id in ids:
            # A missing vector is read as NaN.
            if id not in indices or rows.vectors is None or np.isnan(rows.vectors[indices[id]][0]):
                raise InvalidArgumentError(argument, id, "the id of a row that has a vector")
        return cast("Float32Array", rows.vectors)[[indices[id] for id in ids]]

    def mean(vectors: Float32Array) -> Float64Array:
        each = unit(vectors) if schema.metric == "cosine" else vectors.astype(np.float64)
        return cast("Float64Array", each.mean(axis=0))

    liked, unlike = vectors_of("ids", ids), vectors_of("not_like", not_like)
    if not not_like:
        return [liked[0] if len(ids) == 1 else query_vector(mean(liked), schema)]
    return [query_vector(2 * mean(liked) - mean(unlike), schema)]


def _group_of(value: Any) -> Group:
    """Return the group of a row's value. Lists and objects of the payload are compared as JSON."""
    if value is None:
        return "null", None
    if isinstance(value, (bool, str, datetime)):
        return type(value).__name__, value
    if isinstance(value, (int, float)):
        return "number", value
    return "json", json.dumps(value, sort_keys=True)


def _picked(groups: Sequence[Group], last: int, per_group: int, offset: int = 0) -> list[int]:
    """Return the positions of the rows to keep: at most ``per_group`` of each of the first
    ``last`` groups, without the first ``offset`` groups."""
    sizes: dict[Group, int] = {}
    picked = []
    for place, group in enumerate(groups):
        if group not in sizes and len(sizes) < last:
            sizes[group] = 0 if len(sizes) >= offset else per_group
        if sizes.get(group, per_group) < per_group:
            sizes[group] += 1
            picked.append(place)
    return picked
