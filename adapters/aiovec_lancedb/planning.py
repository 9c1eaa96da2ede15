"""How one search is done: with the index, and how hard it tries, or past it."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace

from aiovec.backend import VectorQuery

from .effort import MARGIN, Effort, Tuned, named_effort
from .infos import vector_index
from .session import Opened, Session

# Rows selected by a filter that are all read and measured: so many take about as long as looking
# for them in every partition of an index, and a tenth of what Lance takes to do it.
_FEW = 1000
# How long, in seconds, the share of rows that a filter selects is believed, and of how many.
_BELIEVED = 60.0
_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """``asked`` candidates from Lance, or with ``scans`` all selected rows read and measured here.

    ``effort`` is None where Lance is told nothing, and ``indexed`` tells that an index may answer.
    """

    asked: int
    exact: bool
    effort: Effort | None = None
    indexed: bool = False
    scans: bool = False

    def wider(self, times: int) -> Plan:
        return replace(self, asked=self.asked * times)


def past_index(query: VectorQuery, *, scans: bool = False) -> Plan:
    """Every selected row is measured."""
    return Plan(query.limit + MARGIN, exact=True, scans=scans)


@dataclass(frozen=True, slots=True)
class _Share:
    """What a filter selects: how many rows and what part of all, and how long that is believed."""

    selected: int
    share: float
    until: float


class Planner:
    """Plans the searches of a store. ``target`` is the recall where neither table nor call say."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._shares: OrderedDict[Hashable, _Share] = OrderedDict()

    def target_of(self, tuned: Tuned | None) -> float:
        return self._target if tuned is None or tuned.target is None else tuned.target

    async def plan(
        self, session: Session, table: Opened, query: VectorQuery, condition: str | None
    ) -> Plan:
        """How to search; ``condition`` is the query's filter in SQL."""
        index = await vector_index(session, table)
        selected, share = None, 1.0
        if condition is not None and (query.exact or index is not None):
            selected, share = await self._selected(session, table, condition)
        if query.exact:
            return past_index(query, scans=selected is not None and selected <= _FEW)
        named = named_effort(query.tuning)
        if named is not None:
            return replace(_with_index(query, named), indexed=index is not None)
        if index is None:
            return Plan(query.limit + MARGIN, exact=False)
        if selected is not None and selected <= max(_FEW, query.limit):
            return past_index(query, scans=True)
        tuned = index.tuned
        limit = query.limit
        if index.kind.graph:
            # A graph is walked until so many of the filter's rows are found, wherever they lie.
            limit = math.ceil(limit / share)
        asked_for = query.tuning.recall if query.tuning is not None else None
        effort, reached = tuned.effort(limit, asked_for or self.target_of(tuned))
        if asked_for is not None and (asked_for == 1 or not reached):
            return past_index(query)  # no effort is known to find so much, but this does
        if condition is not None and not index.kind.graph:
            effort = effort.under_filter(limit, whole=index.kind.whole)
        return _with_index(query, effort)

    async def _selected(self, session: Session, table: Opened, condition: str) -> tuple[int, float]:
        """How many rows the filter selects, and their share, as it was a short while ago."""
        # Of a filter by 30,000 ids the text takes a megabyte.
        digest = hashlib.blake2b(condition.encode(), digest_size=16).digest()
        key = (table.name, table.incarnation, digest)
        now = time.monotonic()
        known = self._shares.get(key)
        if known is not None and now < known.until:
            self._shares.move_to_end(key)
            return known.selected, known.share
        rows = await session.run(table.lance.count_rows())
        selected = await session.run(table.lance.count_rows(condition))
        share = max(selected, 1) / max(rows, 1)
        self._shares[key] = _Share(selected, share, now + _BELIEVED)
        self._shares.move_to_end(key)
        while len(self._shares) > _REMEMBERED:
            self._shares.popitem(last=False)
        return selected, share


def _with_index(query: VectorQuery, effort: Effort) -> Plan:
    # With refine Lance reads the vectors of the best codes and ranks by them, without it we do.
    asked = query.limit if effort.refine else query.limit + MARGIN
    return Plan(asked, exact=False, effort=effort.bounded(asked), indexed=True)
