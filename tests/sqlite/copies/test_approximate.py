"""The likeliest rows by values: as many as are wanted, of those that count, from all segments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from aiovec_sqlite.copies.approximate import Sought, likeliest
from aiovec_sqlite.copies.codes import RowCodes
from aiovec_sqlite.copies.scan import Workspace
from aiovec_sqlite.copies.segments import Segment, State, appended, without

Values = npt.NDArray[np.float32]


def state_of(sizes: list[int], gone: npt.NDArray[np.int64]) -> State:
    parts: list[Segment] = []
    first = 0
    for number, size in enumerate(sizes):
        nothing = np.zeros(size, dtype=np.float32)
        codes = RowCodes(np.zeros((size, 1), dtype=np.int8), nothing, nothing, nothing)
        fresh = appended([], (number,), np.arange(first, first + size), codes, 1)
        parts += [replace(part, key=()) for part in fresh]
        first += size
    return State(1, tuple(without(parts, gone)))


@pytest.mark.parametrize("helpers", [0, 1])
@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal"])
@pytest.mark.parametrize("sizes", [[1], [5, 3], [3000], [200] * 20, [10, 4000, 2, 900]])
def test_the_best_of_all_segments(sizes: list[int], order: str, helpers: int) -> None:
    rng = np.random.default_rng(len(sizes) + helpers)
    rows = sum(sizes)
    gone = np.flatnonzero(rng.random(rows) < 0.2)
    state = state_of(sizes, gone)
    workspace = Workspace(helpers=helpers)
    queries = 3
    values = rng.standard_normal((rows, queries)).astype(np.float32)
    if order == "equal":
        values = np.round(values * 0.5)
    elif order != "random":
        values = np.sort(values, axis=0)[:: 1 if order == "rising" else -1]
    alive = np.setdiff1d(np.arange(rows), gone)
    allowed = rng.random(rows) < 0.3
    starts = np.cumsum([0, *sizes[:-1]])
    by_segment = [allowed[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    wanted = [1, 12, 40]
    sought = [Sought(wanted[0]), Sought(wanted[1], by_segment), Sought(wanted[2])]

    def make() -> object:
        return lambda segment: values[segment.rowids[: segment.count]].copy()

    try:
        found = likeliest(state, sought, make, workspace, alone=True)  # type: ignore[arg-type]
    finally:
        workspace.close()
    for column, one in enumerate(found):
        there = alive if column != 1 else alive[allowed[alive]]
        best = np.sort(values[there, column])[::-1][: wanted[column]]
        assert len(set(one.rowids.tolist())) == len(one.rowids)
        assert set(one.rowids.tolist()) <= set(there.tolist())
        assert np.array_equal(values[one.rowids, column], best)


def test_an_empty_table() -> None:
    (found,) = likeliest(State(1, ()), [Sought(3)], lambda: None, Workspace(helpers=0), alone=True)  # type: ignore[arg-type, return-value]
    assert len(found.rowids) == 0
