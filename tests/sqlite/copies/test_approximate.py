"""Values that count as they are: as many rows as are wanted, of those that may be found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from aiovec_sqlite.copies.codes import QueryCodes, RowCodes
from aiovec_sqlite.copies.kernel.library import NUMPY, OFF, VARIABLE
from aiovec_sqlite.copies.scan import Asked, Candidates, Workspace, candidates
from aiovec_sqlite.copies.segments import Segment, State, appended, without

QUERIES = 3


@pytest.fixture(params=["", OFF, NUMPY])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param:
        monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def state_of(values: npt.NDArray[np.int8], sizes: list[int], gone: npt.NDArray[np.int64]) -> State:
    """Rows whose codes are their values, in segments of these sizes."""
    parts: list[Segment] = []
    first = 0
    for number, size in enumerate(sizes):
        nothing = np.zeros(size, dtype=np.float32)
        codes = RowCodes(values[first : first + size], nothing + 1, nothing, nothing)
        fresh = appended([], (number,), np.arange(first, first + size), codes, QUERIES)
        parts += [replace(part, key=()) for part in fresh]
        first += size
    return State(1, tuple(without(parts, gone)))


def likeliest(
    state: State,
    wanted: list[int],
    masks: list[list[npt.NDArray[np.bool_]] | None],
    workspace: Workspace,
) -> list[Candidates]:
    """For each component the rows where it is largest."""
    axes = np.eye(QUERIES, dtype=np.int8)
    codes = [QueryCodes(axis, 1.0, 0.0, 0.0) for axis in axes]
    asked = [Asked(*one) for one in zip(codes, wanted, masks, strict=True)]
    return candidates(state, asked, "dot", workspace, plain=True)


@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal"])
@pytest.mark.parametrize("sizes", [[1], [5, 3], [3000], [200] * 20, [10, 4000, 2, 900]])
def test_the_best_of_all_segments(sizes: list[int], order: str, way: str) -> None:
    rng = np.random.default_rng(len(sizes))
    rows = sum(sizes)
    gone = np.flatnonzero(rng.random(rows) < 0.2)
    values = rng.integers(-127, 128, (rows, QUERIES), dtype=np.int8)
    if order == "equal":
        values //= 64
    elif order != "random":
        values = np.sort(values, axis=0)[:: 1 if order == "rising" else -1]
    state = state_of(values, sizes, gone)
    alive = np.setdiff1d(np.arange(rows), gone)
    allowed = rng.random(rows) < 0.3
    starts = np.cumsum([0, *sizes[:-1]])
    by_segment = [allowed[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    wanted = [1, 12, 40]
    found = likeliest(state, wanted, [None, by_segment, None], Workspace())
    for column, one in enumerate(found):
        there = alive if column != 1 else alive[allowed[alive]]
        best = np.sort(values[there, column])[::-1][: wanted[column]]
        assert len(set(one.rowids.tolist())) == len(one.rowids)
        assert set(one.rowids.tolist()) <= set(there.tolist())
        assert np.array_equal(values[one.rowids, column], best)
        assert (one.most == np.inf).all()  # nothing bounds their true values


def test_an_empty_table(way: str) -> None:
    found = likeliest(State(1, ()), [3, 3, 3], [None, None, None], Workspace())
    assert [len(one.rowids) for one in found] == [0, 0, 0]
