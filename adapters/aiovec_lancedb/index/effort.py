"""The effort of a search in an index, and the measured recall: kept with the table.

The measurements lie as JSON in the metadata of the vector's column. Each call opens its table
anew, so it reads them with the table: on object storage too, and in every process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from aiovec.backend.contract import Tuning

KEY = "aiovec.index"
"""The name of the metadata on the vector's column."""

LIMITS = (10, 100)
"""Numbers of hits for which efforts are measured."""

MARGIN = 16
"""Candidates beyond the limit: near ties that float32 sums, or codes, may put in another order."""

EVERY_PARTITION = 2**20
"""As ``nprobes``: more partitions than any index has. Lance searches those that exist."""

MOST_CANDIDATES = 2**20
"""For one search, by ``ef`` or ``refine``. Lance takes some 50 bytes for each that it is asked for,
however few rows there are, and ends the process where the system has no more."""

_FORMAT = 1
# What is tried of an index that was not measured.
_UNMEASURED_EF, _UNMEASURED_REFINE = 400, 10
# The refine of a search with a filter, in multiples of the one that was measured without a filter.
# The nearest rows of a filter lie further from the query, so their distances differ by less and
# codes confuse more of them: product codes that found 98 of 100 neighbours by ``refine=10`` found
# 89 under a topical filter, 95 by ``refine=20`` and 99 by 50 (``python -m bench lancedb``
# measures what that leads to).
_FILTERED_REFINE, _LEAST_FILTERED_REFINE, _MOST_FILTERED_CANDIDATES = 4, 5, 4000


@dataclass(frozen=True, slots=True)
class Effort:
    """The settings of one search for lancedb. None leaves a choice to it."""

    nprobes: int | None = None
    ef: int | None = None
    refine: int | None = None

    def for_limit(self, limit: int, measured: int) -> Effort:
        """For more hits than were measured: further partitions, a wider search of the graph."""
        if limit <= measured:
            return self
        times = limit / measured
        return Effort(
            None if self.nprobes is None else math.ceil(self.nprobes * math.sqrt(times)),
            None if self.ef is None else math.ceil(self.ef * times),
            self.refine,
        )

    def under_filter(self, limit: int, *, whole: bool) -> Effort:
        """For a filter on an index of partitions: all of these, and more of the candidates.

        The rows that a filter selects may lie anywhere, also only in the partitions furthest from
        the query. No number of probes that was measured without the filter says anything then.
        """
        if whole:  # without codes nothing is confused
            return Effort(EVERY_PARTITION, self.ef, self.refine)
        refine = self.refine or 1
        most = max(refine, _MOST_FILTERED_CANDIDATES // limit)
        refine = min(max(refine * _FILTERED_REFINE, _LEAST_FILTERED_REFINE), most)
        return Effort(EVERY_PARTITION, self.ef, refine)

    def bounded(self, asked: int) -> Effort:
        """Return what Lance can be told for so many hits, whatever a caller or a file says."""
        nprobes, ef, refine = self.nprobes, self.ef, self.refine
        most = max(asked, MOST_CANDIDATES)
        if nprobes is not None:
            nprobes = min(nprobes, EVERY_PARTITION)
        if refine is not None:
            refine = min(refine, most // asked)
        if ef is not None:
            # A graph cannot give more rows than ef.
            ef = min(max(ef, asked * (refine or 1)), most)
        return Effort(nprobes, ef, refine)

    def doubled(self) -> Effort:
        return Effort(
            None if self.nprobes is None else 2 * self.nprobes,
            None if self.ef is None else 2 * self.ef,
            self.refine,
        )

    def shown(self) -> dict[str, int]:
        found = {"nprobes": self.nprobes, "ef": self.ef, "refine": self.refine}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Rung:
    """An effort and the recall that it reaches, less what the measurement may be wrong by."""

    recall: float
    effort: Effort


@dataclass(frozen=True, slots=True)
class Intent:
    """A build that was begun: what its index is to be, should nobody be left to note it."""

    kind: str
    options: Mapping[str, int] = field(default_factory=dict)
    auto: bool = False
    target: float | None = None
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Tuned:
    """The note about the vector index of a table.

    ``kind`` is None where there is none. ``ladders`` holds, for each number of hits that was
    measured, efforts that cost more and find more from one to the next. ``uuid`` tells the index
    that all this is about: of any other index it says nothing.
    """

    kind: str | None = None
    auto: bool = False
    kept_off: bool = False
    target: float | None = None
    options: Mapping[str, int] = field(default_factory=dict)
    built_rows: int = 0
    rows: int = 0
    recall: float | None = None
    ladders: Mapping[int, tuple[Rung, ...]] = field(default_factory=dict)
    uuid: str | None = None
    partitions: int | None = None
    intent: Intent | None = None

    @property
    def measured(self) -> bool:
        return self.recall is not None

    @classmethod
    def unmeasured(cls, kind: str, *, graph: bool, whole: bool, **known: Any) -> Tuned:
        """Of an index that exists and was not measured: it is searched all through."""
        ef = _UNMEASURED_EF if graph else None
        refine = None if graph or whole else _UNMEASURED_REFINE
        ladders = {LIMITS[0]: (Rung(0.0, Effort(EVERY_PARTITION, ef, refine)),)}
        return cls(kind, ladders=ladders, **known)

    def renewed(self, uuid: str) -> Tuned:
        """Of the index that upkeep put in the place of this one.

        Upkeep splits and joins partitions and keeps their size, so twice the probes find at least
        as much until the new index is measured.
        """
        ladders = {
            limit: tuple(replace(rung, effort=rung.effort.doubled()) for rung in ladder)
            for limit, ladder in self.ladders.items()
        }
        return replace(self, recall=None, ladders=ladders, uuid=uuid, partitions=None, intent=None)

    def effort(self, limit: int, target: float) -> tuple[Effort, bool]:
        """The smallest effort that finds so much of ``limit`` hits, and whether one does."""
        if not self.ladders:
            return Effort(), False
        measured = min((one for one in self.ladders if one >= limit), default=max(self.ladders))
        ladder = self.ladders[measured]
        for rung in ladder:
            if rung.recall >= target:
                return rung.effort.for_limit(limit, measured), True
        return ladder[-1].effort.for_limit(limit, measured), False

    def without_index(self) -> Tuned:
        """After its index was dropped by hand, which "auto" is not to undo."""
        return Tuned(kept_off=True, target=self.target)

    def to_json(self) -> str:
        value: dict[str, Any] = {"format": _FORMAT, "kind": self.kind}
        value |= {"auto": self.auto, "kept_off": self.kept_off, "target": self.target}
        value |= {"options": dict(self.options), "built_rows": self.built_rows}
        value |= {"rows": self.rows, "recall": self.recall}
        value |= {"uuid": self.uuid, "partitions": self.partitions}
        value["intent"] = None if self.intent is None else asdict(self.intent)
        value["ladders"] = {
            str(limit): [
                [round(rung.recall, 4), rung.effort.nprobes, rung.effort.ef, rung.effort.refine]
                for rung in ladder
            ]
            for limit, ladder in self.ladders.items()
        }
        return json.dumps(value, separators=(",", ":"))


@lru_cache(maxsize=256)
def tuned_of(text: bytes) -> Tuned | None:
    """Return the note in the metadata; an empty one if another version wrote it."""
    try:
        value = json.loads(text)
        if value.pop("format") != _FORMAT:
            return None
        ladders = {int(limit): _ladder(rungs) for limit, rungs in value.pop("ladders").items()}
        intent = value.pop("intent", None)
        intent = None if intent is None else Intent(**_checked(intent))
        return replace(Tuned(**_checked(value)), ladders=ladders, intent=intent)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


# Of what stands in the metadata, under each name.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "kind": (str, type(None)), "auto": (bool,), "kept_off": (bool,),
    "target": (int, float, type(None)), "options": (dict,), "built_rows": (int,), "rows": (int,),
    "recall": (int, float, type(None)), "uuid": (str, type(None)),
    "partitions": (int, type(None)),
}  # fmt: skip


def _checked(value: dict[str, Any]) -> dict[str, Any]:
    for name, item in value.items():
        if type(item) not in _TYPES[name]:
            raise TypeError(name)
    if not set(map(type, value.get("options", {}).values())) <= {int}:
        raise TypeError("options")
    return value


def _ladder(rungs: list[list[Any]]) -> tuple[Rung, ...]:
    for recall, *effort in rungs:
        if type(recall) not in (int, float) or not -1 <= recall <= 1:  # below 0, less the doubt
            raise TypeError("recall")
        if any(part is not None and (type(part) is not int or part < 1) for part in effort):
            raise TypeError("effort")
    if not rungs:
        raise ValueError("no rung")
    return tuple(Rung(recall, Effort(*effort)) for recall, *effort in rungs)


def named_effort(tuning: Tuning | None) -> Effort | None:
    """The effort that a caller named; None where none was."""
    if tuning is None or (tuning.nprobes, tuning.ef, tuning.refine) == (None, None, None):
        return None
    return Effort(tuning.nprobes, tuning.ef, tuning.refine)
