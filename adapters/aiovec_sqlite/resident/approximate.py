"""The likeliest rows of a copy by their codes alone, for searches that may be approximate.

Which rows are measured is a guess; their distances are then the true ones, from the stored vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .codes import Float32Array
from .scan import Candidates
from .segments import Int64Array, Segment, State
from .workspace import Workspace

BoolArray = npt.NDArray[np.bool_]

# A first threshold comes from the maxima of so many rows: a little low, and quickly found.
_BLOCK = 64
# Queries of a batch that is small enough to be shared with a helper.
_FEW_QUERIES = 4
# Collected rows, for each wanted one, from which on the threshold is raised on the way.
_MANY = 16


@dataclass(slots=True)
class Sought:
    """How many rows a query wants, and which of each segment it may find (None: all)."""

    wanted: int
    masks: Sequence[BoolArray] | None = None


class Values(Protocol):
    """Values by codes for a batch of queries, higher is better."""

    def __call__(self, segment: Segment) -> Float32Array:
        """One row for each of the segment's, one column a query; the caller may write to it."""
        ...


def likeliest(
    state: State,
    sought: Sequence[Sought],
    values: Callable[[], Values],
    workspace: Workspace,
    *,
    alone: bool,
) -> list[Candidates]:
    """For each query as many rows as it wants, the likeliest first, where there are so many.

    ``values`` makes what computes them, for one thread; ``alone`` tells that a second core has
    nothing else to do.
    """

    def best_of(segments: Sequence[tuple[int, Segment]]) -> _Best:
        best, values_of = _Best([one.wanted for one in sought], workspace), values()
        for number, segment in segments:
            found = values_of(segment)
            if segment.dead:
                found[np.isneginf(segment.offset[: segment.count])] = -np.inf
            for column, one in enumerate(sought):
                if one.masks is not None:
                    found[~one.masks[number][: segment.count], column] = -np.inf
            best.add(segment, found)
        return best

    alive = [
        (i, segment) for i, segment in enumerate(state.segments) if segment.count > segment.dead
    ]
    helper = workspace.helper if alone and len(sought) <= _FEW_QUERIES else None
    if helper is None or len(alive) < 2:
        return best_of(alive).finish()
    half = len(alive) // 2
    waiting = helper.submit(best_of, alive[:half])
    best = best_of(alive[half:])
    best.join(waiting.result())
    return best.finish()


class _Best:
    """The best rows of each query so far."""

    def __init__(self, wanted: Sequence[int], workspace: Workspace) -> None:
        self._wanted = wanted
        self._workspace = workspace
        # Values that as many rows as are wanted reach; below them no row counts.
        self._floors = np.full(len(wanted), -np.inf, dtype=np.float32)
        self._parts: list[tuple[Int64Array, Int64Array, Float32Array]] = []
        self._collected = 0

    def add(self, segment: Segment, values: Float32Array) -> None:
        for column in np.flatnonzero(np.isneginf(self._floors)).tolist():
            self._floors[column] = _reached(values[:, column], self._wanted[column])
        # Those at minus infinity are no rows of the query's.
        least = np.maximum(self._floors, np.finfo(np.float32).min)
        reached = np.greater_equal(values, least, out=self._workspace.reached(*values.shape))
        rows, columns = np.divmod(np.flatnonzero(reached), values.shape[1])
        self._parts.append((columns, segment.rowids[rows], values[rows, columns]))
        self._collected += len(rows)
        if self._collected > _MANY * sum(self._wanted):
            self._settle()

    def join(self, other: _Best) -> None:
        """Take in what was collected from other segments."""
        self._parts += other._parts

    def finish(self) -> list[Candidates]:
        columns, rowids, values = self._settle()
        found = []
        for mine in self._by_query(columns):
            best = np.argsort(-values[mine], kind="stable")
            # Nothing bounds their true values.
            found.append(Candidates(rowids[mine][best], np.full(len(best), np.inf)))
        return found

    def _by_query(self, columns: Int64Array) -> Iterable[slice]:
        """Where each query's rows stand, which are in the order of queries."""
        ends = np.searchsorted(columns, np.arange(len(self._wanted) + 1)).tolist()
        return (slice(start, end) for start, end in pairwise(ends))

    def _settle(self) -> tuple[Int64Array, Int64Array, Float32Array]:
        """Keep each query's best, in the order of queries, and raise the floors."""
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        columns, rowids, values = map(np.concatenate, zip(*self._parts, strict=True))
        # Small numbers are sorted in one pass.
        order = np.argsort(columns.astype(np.int16), kind="stable")
        kept = []
        for column, mine in enumerate(self._by_query(columns[order])):
            best, wanted = order[mine], self._wanted[column]
            if len(best) > wanted:
                place = len(best) - wanted
                best = best[np.argpartition(values[best], place)[place:]]
            if len(best) == wanted:
                self._floors[column] = values[best].min()
            kept.append(best)
        whole = np.concatenate(kept)
        self._parts = [(columns[whole], rowids[whole], values[whole])]
        self._collected = 0
        return self._parts[0]


def _reached(values: Float32Array, wanted: int) -> float:
    """A value that as many rows as are wanted reach; minus infinity where there are fewer."""
    blocks = len(values) // _BLOCK
    pool = values
    if wanted <= blocks // 2:
        pool = values[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    if wanted > len(pool):
        return -np.inf
    place = len(pool) - wanted
    return float(np.partition(pool, place)[place])
