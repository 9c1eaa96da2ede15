"""How hard a search of an index tries, and what was measured of that: kept with the table.

The measurements lie as JSON in the metadata of the vector's column. Each call opens its table
anew, so it reads them with the table: on object storage too, and in every process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from aiovec.backend import Tuning

KEY = "aiovec.index"
"""The name of the metadata on the vector's column."""

LIMITS = (10, 100)
"""Numbers of hits for which efforts are measured."""

MARGIN = 16
"""Candidates beyond the limit: near ties that float32 sums, or codes, may put in another order."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Effort:
    """What lancedb is told. None leaves a choice to it."""

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

    def shown(self) -> dict[str, int]:
        found = {"nprobes": self.nprobes, "ef": self.ef, "refine": self.refine}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Rung:
    """An effort and the recall that it reaches, less what the measurement may be wrong by."""

    recall: float
    effort: Effort


@dataclass(frozen=True, slots=True)
class Tuned:
    """What is known of the vector index of a table.

    ``kind`` is None where there is none. ``ladders`` holds, for each number of hits that was
    measured, efforts that cost more and find more from one to the next.
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
    """What the metadata says. What another version wrote, or nobody knows, says nothing."""
    try:
        value = json.loads(text)
        if value.pop("format") != _FORMAT:
            return None
        ladders = {
            int(limit): tuple(Rung(recall, Effort(*effort)) for recall, *effort in ladder)
            for limit, ladder in value.pop("ladders").items()
        }
        return replace(Tuned(**value), ladders=ladders)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def named_effort(tuning: Tuning | None) -> Effort | None:
    """The effort that a caller named; None where none was."""
    if tuning is None or (tuning.nprobes, tuning.ef, tuning.refine) == (None, None, None):
        return None
    return Effort(tuning.nprobes, tuning.ef, tuning.refine)
