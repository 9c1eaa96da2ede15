"""Hits by groups: rows of the same value in a field or in a key of the payload."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from .._filters import Expr, bind
from .._filters.tree import In, IsNull, Ref, all_of, any_of, negated
from .._model.records import Hit
from .._model.schema import Schema
from ..backend.contract import StoredRows
from ..backend.pool import off_loop
from ..errors import FilterError
from .rank import POOL, best_first, nearest_first

Ask = Callable[[Expr | None, int], Awaitable[tuple[list[Hit], bool]]]
"""Returns so many of the best hits that a filter selects, and True where there are no more."""

# Sorting hits into groups looks at one as long as it takes to copy so many values.
_VALUES_A_HIT = 4
# Beyond so many groups a filter that names them costs more than asking for more hits.
_MOST_NAMED = 2_000


class Group(NamedTuple):
    """The value that rows of one group share, and its type: 1 and TRUE are not the same."""

    type: str
    value: Any


NULL = Group("null", None)


def group_of(rows: StoredRows, i: int, ref: Ref) -> Group:
    """Return the group of a row. Lists and objects of the payload are compared as JSON."""
    if not ref.path:
        value = rows.fields[ref.name][i]
    else:
        text = rows.payloads[i] if rows.payloads is not None else None
        value = None if text is None else json.loads(text)
        for key in ref.path:
            value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return NULL
    if isinstance(value, (bool, str, datetime)):
        return Group(type(value).__name__, value)
    if isinstance(value, (int, float)):
        return Group("number", value)
    return Group("json", json.dumps(value, sort_keys=True))


def picked(
    hits: Iterable[Hit], groups: Mapping[str, Group], limit: int, per_group: int
) -> list[Hit]:
    """Return the hits of the first ``limit`` groups, at most ``per_group`` of each."""
    sizes: dict[Group, int] = {}
    chosen = []
    for hit in hits:
        group = groups[hit.id]
        size = sizes.get(group, 0)
        if size < per_group and (size or len(sizes) < limit):
            sizes[group] = size + 1
            chosen.append(hit)
    return chosen


class Grouping:
    """One query's hits by groups. ``groups`` has the group of every hit, by its id.

    What ``narrows`` asks for the groups that are missing alone, as a search by vectors may. Scores
    of keywords may depend on the filter, and fused ones on the number of hits; there each question
    has the filter of the caller, and its answer has all hits of the one before.
    """

    def __init__(
        self,
        schema: Schema,
        ref: Ref,
        groups: Mapping[str, Group],
        limit: int,
        per_group: int,
        *,
        narrows: bool,
    ) -> None:
        self._schema = schema
        self._ref = ref
        self._groups = groups
        self._limit = limit
        self._per_group = per_group
        self._narrows = narrows
        self._hits: dict[str, Hit] = {}

    async def run(self, ask: Ask, where: Expr | None, pool: int) -> list[Hit]:
        """Return the best hits of the best groups: ask for more until there are enough."""
        count = pool * self._per_group
        narrowed = where
        while True:
            if not self._narrows:
                self._hits.clear()
            hits, over = await ask(narrowed, count)
            sizes = await off_loop(_VALUES_A_HIT * len(hits), self._add, hits)
            if over or len(sizes) >= self._limit:
                break
            # Of a key of the payload, NOT IN leaves out values of another type as well.
            by_field = self._narrows and not self._ref.path
            rest = self._without(where, sizes.keys()) if by_field else None
            if rest is None:
                count *= POOL
            else:
                narrowed = rest
        if self._narrows and not (over and narrowed is where):
            await self._fill(ask, where)
        return await off_loop(_VALUES_A_HIT * len(self._hits), self._picked)

    async def _fill(self, ask: Ask, where: Expr | None) -> None:
        """Find more rows of the groups that have fewer than ``per_group`` hits so far."""
        small = await off_loop(_VALUES_A_HIT * len(self._hits), self._small)
        count = POOL * self._per_group * len(small)
        while small:
            narrowed = self._within(where, small)
            if narrowed is None:
                return
            hits, over = await ask(narrowed, count)
            await off_loop(_VALUES_A_HIT * len(hits), self._add, hits)
            if over:
                return
            left = await off_loop(_VALUES_A_HIT * len(self._hits), self._small)
            if left == small:
                count *= POOL
            small = left

    def _add(self, hits: list[Hit]) -> dict[Group, int]:
        self._hits.update((hit.id, hit) for hit in hits)
        return self._sizes()

    def _sizes(self) -> dict[Group, int]:
        sizes: dict[Group, int] = {}
        for id in self._hits:
            group = self._groups[id]
            sizes[group] = sizes.get(group, 0) + 1
        return sizes

    def _picked(self) -> list[Hit]:
        in_order = nearest_first if self._narrows else best_first
        hits = in_order(list(self._hits.values()))
        return picked(hits, self._groups, self._limit, self._per_group)

    def _small(self) -> set[Group]:
        """Return the chosen groups that may have more rows. JSON cannot be compared in a filter."""
        sizes = self._sizes()
        chosen = {self._groups[hit.id] for hit in self._picked()}
        return {g for g in chosen if sizes[g] < self._per_group and g.type != "json"}

    def _without(self, where: Expr | None, groups: Collection[Group]) -> Expr | None:
        """Return the filter for rows of other groups; None where it would be too large."""
        condition = self._in(groups)
        if condition is None:
            return None
        others = negated(condition)
        if NULL not in groups:
            others = any_of([others, IsNull(self._ref)])
        return self._both(where, others)

    def _within(self, where: Expr | None, groups: Collection[Group]) -> Expr | None:
        """Return the filter for rows of these groups; None where it would be too large."""
        condition = self._in(groups)
        return None if condition is None else self._both(where, condition)

    def _in(self, groups: Collection[Group]) -> Expr | None:
        if len(groups) > _MOST_NAMED:
            return None
        values = tuple(group.value for group in groups if group is not NULL)
        terms: list[Expr] = [In(self._ref, values)] if values else []
        return any_of([*terms, IsNull(self._ref)] if NULL in groups else terms)

    def _both(self, where: Expr | None, condition: Expr) -> Expr | None:
        try:
            bound = bind(condition, self._schema)
            return bound if where is None or bound is None else all_of([where, bound])
        except FilterError:  # the caller's filter is as deep or as large as filters may be
            return None
