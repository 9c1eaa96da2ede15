"""Compaction beside writes: rows that go or come meanwhile are as they would be without it."""

from __future__ import annotations

import numpy as np
import pytest

from aiovec_sqlite.copies.codes import encode_rows
from aiovec_sqlite.copies.segments import (
    Segment,
    State,
    appended,
    compacted,
    replaced,
    sparse,
    without,
)

DIM = 4


def added(segments: list[Segment], rowids: list[int], salt: int = 0) -> list[Segment]:
    """Rows whose codes tell their ids, and which version of the row it is."""
    vectors = np.array([[1, i % 101, i // 101, salt] for i in rowids], dtype=np.float32)
    vectors /= np.abs(vectors).max(axis=1, keepdims=True)
    codes = encode_rows(vectors, "dot")
    return appended(segments, (), np.array(rowids, dtype=np.int64), codes, DIM)


def rows_of(segments: tuple[Segment, ...] | list[Segment]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for part in segments:
        for row in np.flatnonzero(part.offset[: part.count] > -np.inf).tolist():
            rowid = int(part.rowids[row])
            assert rowid not in found, "a row twice"
            codes = part.whole_codes(slice(row, row + 1))
            found[rowid] = codes.tobytes() + part.error[row].tobytes()
    return found


@pytest.mark.parametrize("room", [1, 7, 200])
def test_codes_begin_with_a_line_of_the_processors_cache(room: int) -> None:
    """Rows that lie across one more take half as long again to scan."""
    for width in (4, 64, 384):
        segment = Segment.empty((), room, width)
        assert segment.whole_codes(slice(room)).shape == (room, width)
        for one in (segment, segment.with_room(room + 5)):
            for codes in (one.codes, one.lower):
                assert codes is None or codes.ctypes.data % 64 == 0


def test_what_came_and_went_meanwhile_is_kept() -> None:
    before = without(added([], list(range(1000))), np.arange(100, 900))
    state = State(1, tuple(before))
    parts = sparse(state)
    fresh = compacted(parts)
    # A row goes, one is changed, one comes, and one of an id that was free comes.
    after = without(state.segments, np.array([5, 950]))
    after = added(after, [950, 2000, 300], salt=7)
    wanted = rows_of(after)

    found = replaced(State(2, tuple(after)), parts, fresh)

    assert found is not None
    assert found.change == 2
    assert rows_of(found.segments) == wanted
    assert found.dead < 10


@pytest.mark.parametrize("seed", range(20))
def test_any_writes_beside_any_compaction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    segments: list[Segment] = []
    for step in range(int(rng.integers(1, 6))):
        segments = added(segments, list(range(step * 500, step * 500 + int(rng.integers(1, 400)))))
        segments = without(segments, np.flatnonzero(rng.random(3000) < rng.choice([0.3, 0.8])))
    state = State(1, tuple(segments))
    parts = sparse(state)
    fresh = compacted(parts)
    for step in range(int(rng.integers(0, 4))):
        changed = rng.choice(3000, int(rng.integers(1, 200)), replace=False)
        segments = without(segments, np.sort(changed))
        segments = added(segments, changed[: len(changed) // 2].tolist(), salt=step + 1)
    found = replaced(State(2, tuple(segments)), parts, fresh)
    assert found is not None
    assert rows_of(found.segments) == rows_of(segments)


def test_segments_that_are_no_longer_there_are_not_replaced() -> None:
    state = State(1, tuple(without(added([], list(range(100))), np.arange(90))))
    parts = sparse(state)
    fresh = compacted(parts)
    once = replaced(state, parts, fresh)
    assert once is not None
    assert replaced(once, parts, fresh) is None
