"""Which rows of a copy a filter selects: found once, kept while it is asked for again.

A mask is kept by segment. Rows that were changed since stand behind the others, since a changed
row is a new one for the copy; so only those have to be asked about again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aiovec.backend import Expr

from ..layout import TableLayout
from ..reads import condition_of, rowids_where, selected_rowids
from .segments import Int64Array, Segment, State

BoolArray = npt.NDArray[np.bool_]

_MOST_MASKS = 64
# More rows than this are not asked about by a list of their rowids.
_MOST_LISTED = 4096
# About what a literal of a filter takes in memory: a short text and its place in a tuple.
_LITERAL = 80


@dataclass(frozen=True, slots=True)
class _Mask:
    """One filter's mask by segment's mark, and the newest state that was asked for it.

    It tells nothing about older states: what has changed since was asked about as it is now.
    """

    change: int
    parts: dict[object, BoolArray]
    literals: int
    """How many the filter has, which is kept with its mask."""

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values()) + self.literals * _LITERAL


class Masks:
    """The masks of one copy's filters; the least recently used ones go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Expr, _Mask] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(mask.nbytes for mask in self._kept.values())

    def of(
        self, db: sqlite3.Connection, table: TableLayout, state: State, where: Expr
    ) -> list[BoolArray]:
        """For each segment of the state which of its rows the filter selects.

        The state must be that of the connection's snapshot.
        """
        with self._lock:
            kept = self._kept.get(where)
        fits = kept is not None and kept.change <= state.change
        known = dict(kept.parts) if kept is not None and fits else {}
        missing = [
            (segment, known.get(segment.mark))
            for segment in state.segments
            if len(known.get(segment.mark, ())) < segment.count
        ]
        if missing:
            self._ask(db, table, where, known, missing)
            if fits or kept is None:
                parts = {segment.mark: known[segment.mark] for segment in state.segments}
                self._keep(where, _Mask(state.change, parts, where.literals))
        else:
            with self._lock:
                if where in self._kept:
                    self._kept.move_to_end(where)
        return [known[segment.mark][: segment.count] for segment in state.segments]

    def _ask(
        self,
        db: sqlite3.Connection,
        table: TableLayout,
        where: Expr,
        known: dict[object, BoolArray],
        missing: Sequence[tuple[Segment, BoolArray | None]],
    ) -> None:
        unknown = [
            segment.rowids[0 if done is None else len(done) : segment.count]
            for segment, done in missing
        ]
        selected = _selected(db, table, where, np.concatenate(unknown))
        for segment, done in missing:
            part = segment.among(selected, 0 if done is None else len(done))
            known[segment.mark] = part if done is None else np.concatenate([done, part])

    def _keep(self, where: Expr, mask: _Mask) -> None:
        with self._lock:
            kept = self._kept.get(where)
            if kept is not None and kept.change > mask.change:
                return
            self._kept[where] = mask
            self._kept.move_to_end(where)
            size = sum(kept.nbytes for kept in self._kept.values())
            while len(self._kept) > 1 and (
                len(self._kept) > _MOST_MASKS or size > self._most_bytes
            ):
                _, gone = self._kept.popitem(last=False)
                size -= gone.nbytes


def _selected(
    db: sqlite3.Connection, table: TableLayout, where: Expr, among: Int64Array
) -> Int64Array:
    """The rowids that a filter selects, at least those ``among`` the given ones."""
    if len(among) > _MOST_LISTED:
        return selected_rowids(db, table, where)
    condition, values = condition_of(where, table)
    listed = f"({condition}) AND r._rowid IN (SELECT j.value FROM json_each(?) AS j)"
    return rowids_where(db, table, listed, [*values, json.dumps(among.tolist())])
