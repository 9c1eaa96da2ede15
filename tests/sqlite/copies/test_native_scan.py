"""The native scan against NumPy, by each kind of instructions that this processor has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.sqlite.copies.scans import Case, expected, random_case

from aiovec_sqlite.copies import native as native_scan
from aiovec_sqlite.copies.kernel import library as native
from aiovec_sqlite.copies.kernel.library import KINDS, Library
from aiovec_sqlite.copies.native import scan_natively


@pytest.fixture(params=KINDS)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    found = native.load()
    if found is None:
        pytest.skip(f"no native scan: {native.why_not()}")
    if request.param not in found.kinds:
        pytest.skip(f"this processor has no {request.param}, only {', '.join(found.kinds)}")
    monkeypatch.setenv(native.VARIABLE, request.param)
    chosen = native.load()
    assert chosen is not None
    assert chosen.kind == request.param
    return chosen


def check(library: Library, case: Case, helper: ThreadPoolExecutor | None = None) -> None:
    found = scan_natively(
        library, case.segments, case.queries, case.wanted, case.masks, case.metric, helper
    )
    assert len(found) == len(case.queries)
    for (rowids, most), wanted in zip(found, expected(case), strict=True):
        assert set(rowids.tolist()) == set(wanted)
        assert len(rowids) == len(wanted)
        assert np.allclose(most, [wanted[rowid] for rowid in rowids.tolist()], rtol=1e-9, atol=0)


def campaign(library: Library, rounds: range) -> None:
    with ThreadPoolExecutor(1) as helper:
        for seed in rounds:
            case = random_case(np.random.default_rng(seed))
            try:
                check(library, case, helper if seed % 3 == 0 else None)
            except AssertionError as exc:
                exc.add_note(f"seed {seed}")
                raise


def test_random_scans(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_scan, "_WORTH_SHARING", 0)
    monkeypatch.setattr(native_scan, "_PIECE", 64)
    campaign(library, range(150))


@pytest.mark.long
def test_random_scans_at_length(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_scan, "_WORTH_SHARING", 0)
    monkeypatch.setattr(native_scan, "_PIECE", 64)
    campaign(library, range(1_000, 101_000))


@pytest.mark.parametrize("dim", [768, 1024, 1536, 4095, 4096])
def test_many_dimensions(library: Library, dim: int) -> None:
    rng = np.random.default_rng(dim)
    for _ in range(4):
        check(library, random_case(rng, rows=70, dims=dim))


def test_room_that_has_to_grow(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_scan, "_ROOM", 0)
    monkeypatch.setattr(native_scan, "_ROOM_FOR_EACH", 0)
    campaign(library, range(150, 200))


def test_rows_that_come_in_the_worst_order(library: Library) -> None:
    """Each row is better than all before it, so that each is kept for a while."""
    rng = np.random.default_rng(0)
    case = random_case(rng)
    while case.metric != "dot" or not case.segments or case.segments[0].count < 100:
        case = random_case(rng)
    one = case.segments[0]
    order = np.argsort(one.codes[: one.count].astype(int) @ case.queries[0].codes.astype(int))
    one.codes[: one.count] = one.codes[: one.count][order]
    one.scale[: one.count] = one.scale[: one.count][order]
    check(library, case)


def test_no_rows_and_no_segments(library: Library) -> None:
    rng = np.random.default_rng(1)
    case = random_case(rng)
    empty = Case([], case.queries, case.wanted, [None] * len(case.queries), case.metric)
    check(library, empty)
