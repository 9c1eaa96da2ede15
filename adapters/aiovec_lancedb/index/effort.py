"""The note about a vector index: the effort of searches with it, and their measured recall.

The note is JSON in the metadata of the vector column. Each call reads the note from the version of
the table that the call uses, so the note applies in every process, even with object storage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

KEY = "aiovec.index"
"""The key of the note in the metadata of the vector column."""

MEASURED_HITS = 10
"""The number of hits that each search requests when the recall is measured."""

FEWEST_QUESTIONS, MOST_QUESTIONS = 64, 256
"""Minimum number of user queries for measuring the recall, and maximum number to keep."""

MADE, OWN, GIVEN = "made questions", "of your searches", "given questions"
"""The origins of the questions used to measure an index's recall."""

EVERY_PARTITION = 2**20
"""A value of ``nprobes`` above any number of partitions, so that Lance searches all partitions."""

# The most candidates that a search requests with ``ef`` or ``refine``. Lance allocates about 50
# bytes for each requested candidate, however few rows exist, and aborts the process if memory is
# short.
MOST_CANDIDATES = 2**20
# The factor by which a filter raises the ``refine`` measured without a filter, and the most
# candidates with a filter. The nearest matches of a filter are further away, so their distances
# differ by less, and an index's codes tell fewer of them apart: product codes that found 98 of 100
# neighbours with ``refine=10`` found 89 with a topical filter, 95 with ``refine=20`` and 99 with 50
# (``python -m bench lancedb``). Codes that need no refine tell most matches apart, and searching
# all partitions makes up for the others.
_FILTERED_REFINE, _MOST_FILTERED_CANDIDATES = 4, 4000


class _Noted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Effort(_Noted):
    """The effort settings of a lancedb search. None leaves the choice to lancedb."""

    nprobes: PositiveInt | None = None
    ef: PositiveInt | None = None
    refine: PositiveInt | None = None

    def for_limit(self, limit: int) -> Effort:
        """Return the effort for a limit. ``nprobes`` and ``ef`` are larger if the limit exceeds
        ``MEASURED_HITS``."""
        times = limit / MEASURED_HITS
        if times <= 1:
            return self
        return Effort(
            nprobes=None if self.nprobes is None else math.ceil(self.nprobes * math.sqrt(times)),
            ef=None if self.ef is None else max(math.ceil(self.ef * math.sqrt(times)), 2 * limit),
            refine=self.refine,
        )

    def margin(self, limit: int, *, fine: bool) -> int:
        """Return the number of candidates to request beyond the limit.

        With ``refine``, Lance ranks the best candidates by their vectors; without it, aiovec does,
        because the codes in an index slightly change the order of near rows. A larger margin hardly
        helps: with 4 bits per dimension, the recall of 10 neighbours was 0.938 without a margin and
        0.967 with 6 or 16; with ``fine`` codes of 8 or more bits, it was 0.989 without a margin,
        and 0.999 with 2, 3 or 7.
        """
        if self.refine:
            return 0
        return 2 + limit // 16 if fine else 6 + limit // 8

    def under_filter(self, limit: int) -> Effort:
        """Return the effort for a filtered search of a partitioned index: all partitions, and more
        candidates.

        A filter's matches can be anywhere, even only in the partitions furthest from the query. So
        the number of probes that was measured without a filter does not apply.
        """
        refine = self.refine
        if refine is not None:
            most = max(refine, _MOST_FILTERED_CANDIDATES // limit)
            refine = min(refine * _FILTERED_REFINE, most)
        return Effort(nprobes=EVERY_PARTITION, ef=self.ef, refine=refine)

    def bounded(self, requested: int) -> Effort:
        """Return the effort, reduced to Lance's limits for this many hits."""
        nprobes, ef, refine = self.nprobes, self.ef, self.refine
        most = max(requested, MOST_CANDIDATES)
        if nprobes is not None:
            nprobes = min(nprobes, EVERY_PARTITION)
        if refine is not None:
            refine = min(refine, most // requested)
        if ef is not None:  # a graph cannot return more rows than ef
            ef = min(max(ef, requested * (refine or 1)), most)
        return Effort(nprobes=nprobes, ef=ef, refine=refine)

    def shown(self) -> dict[str, int]:
        return self.model_dump(exclude_none=True)


class Tuned(_Noted):
    """The note about a table's vector index.

    ``kind`` is None if no index was built. ``kept_off`` is True if upkeep must not build an index,
    because a user dropped one. With ``effort``, searches find the share ``recall`` of the nearest
    rows. This share was measured when the table had ``measured_rows`` rows (0: never), for the
    target recall ``sought``, with ``questions`` questions of the origin ``whose``.

    ``built_rows`` is 0 for an index that another program built. ``begun`` is the note about an
    unfinished build; the end of the build or the next measurement removes it.
    """

    kind: str | None = None
    auto: bool = False
    kept_off: bool = False
    target: float | None = None
    options: Mapping[str, int] = {}
    built_rows: int = 0
    measured_rows: int = 0
    sought: float = 0.0
    questions: int = 0
    whose: str = MADE
    effort: Effort | None = None
    recall: float | None = None
    begun: Tuned | None = None

    def with_changes(self, **changes: object) -> Tuned:
        return self.model_copy(update=changes)


def with_effort(query: Any, effort: Effort) -> Any:
    """Return the lancedb query with the effort set."""
    if effort.nprobes is not None:
        query = query.nprobes(effort.nprobes)
    if effort.ef is not None:
        query = query.ef(effort.ef)
    return query if effort.refine is None else query.refine_factor(effort.refine)


@lru_cache(maxsize=256)
def tuned_of(text: bytes) -> Tuned:
    """Parse the note from the column's metadata; return an empty note if the text is invalid."""
    try:
        return Tuned.model_validate_json(text)
    except ValidationError:
        return Tuned()
