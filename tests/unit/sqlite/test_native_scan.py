"""The native scan against the truth, by each kind of instructions that this processor has."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.contract.base import case as named
from tests.harness.cases import Seeds
from tests.harness.processes import run_python
from tests.unit.sqlite.scans import (
    PARTS,
    check_scan,
    codes_of,
    random_case,
    random_pairs,
    random_words,
)

from aiovec_sqlite.copies.kernel import library as native
from aiovec_sqlite.copies.kernel.library import KINDS, Library, measured
from aiovec_sqlite.copies.scan import ScanQuery, nearest
from aiovec_sqlite.copies.segments import State, appended, encode_rows


@pytest.fixture(params=KINDS)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    loaded = native.load()
    if loaded is None:
        pytest.skip(f"no native scan: {native.why_not()}")
    if request.param not in loaded.kinds:
        pytest.skip(f"this processor has no {request.param}, only {', '.join(loaded.kinds)}")
    monkeypatch.setenv(native.VARIABLE, request.param)
    chosen = native.load()
    assert chosen is not None
    assert chosen.kind == request.param
    return chosen


def campaign(rounds: Iterable[int]) -> None:
    for seed in rounds:
        with named(f"seed {seed}"):
            check_scan(random_case(np.random.default_rng(seed)))


def test_the_best_rows_by_words_are_brute_forces() -> None:
    if native.load() is None:
        pytest.skip(f"no native scan: {native.why_not()}")
    for seed in range(600):
        with named(f"seed {seed}"):
            asked = random_words(np.random.default_rng(seed))
            records, heap = asked.records(), np.empty(asked.wanted)
            room = seed % 5
            while True:
                rows, scores = np.empty(room, np.uint32), np.empty(room)
                count = native.library().functions["words"](
                    native.address(records), len(records), asked.required,
                    native.address(asked.gone), native.address(asked.lengths),
                    len(asked.lengths), float(asked.lengths.min()), asked.mean, asked.wanted,
                    native.address(heap), None, room, native.address(rows), native.address(scores),
                )  # fmt: skip
                if count <= room:
                    break
                room = count
            asked.check(rows[:count], scores[:count])


@pytest.mark.usefixtures("library")
def test_random_scans_find_the_nearest() -> None:
    campaign(range(25))


@pytest.mark.soak(minutes=15)
@pytest.mark.usefixtures("library")
def test_many_random_scans_find_the_nearest(seeds: Seeds) -> None:
    campaign(seeds(100_000))


@pytest.mark.usefixtures("library")
def test_scans_of_hard_sizes_find_the_nearest() -> None:
    """From less than one register of the processor to far more than all of them."""
    rng = np.random.default_rng(1)
    for dim in (1, 2, 3, 4, 5, 8, 16, 17):
        for count in (1, 2, 3, 5):
            with named((dim, count)):
                check_scan(random_case(rng, rows=100, dim=dim, count=count))
    for dim in (768, 1024, 1536, 4095, 4096):
        with named(dim):
            check_scan(random_case(rng, rows=70, dim=dim))
    for count in (1, 2, 4):  # of few queries most rows wait for their lower halves
        with named((9_000, count)):
            check_scan(random_case(rng, rows=9_000, dim=24 + count, count=count))
    case = random_case(rng)
    check_scan(replace(case, segments=[], masks=[None] * len(case.points)))


@pytest.mark.usefixtures("library")
def test_few_queries_whose_filters_pass_few_rows_find_them() -> None:
    """Rows are multiplied one by one then, and no product may lie where another query's does."""
    rng = np.random.default_rng(2)
    for count in (2, 3, 4):
        for rows in (31, 32, 33, 300):
            case = random_case(rng, rows=rows, count=count)
            # The first rows and the last ones of each tile.
            few = [np.isin(np.arange(s.count) % 32, (0, 1, 29, 31)) for s in case.segments]
            with named((count, rows)):
                check_scan(replace(case, masks=[few] * count))


@pytest.mark.usefixtures("library")
def test_rows_in_the_worst_order_are_scanned_right() -> None:
    """Each row is better than all before it, so that each is kept for a while."""
    rng = np.random.default_rng(0)
    case = random_case(rng, metric="dot")
    while not case.segments or case.segments[0].count < 100:
        case = random_case(rng, metric="dot")
    first = case.segments[0]
    order = np.argsort(codes_of(first) @ case.points[0])
    for array in (first.upper, first.lower, first.scale, first.error, first.rowids, first.vectors):
        array[: first.count] = array[: first.count][order]
    check_scan(case)


@pytest.mark.usefixtures("library")
def test_a_scan_that_nobody_waits_for_ends() -> None:
    case = random_case(np.random.default_rng(4), count=2)
    assert any(len(result.rowids) for result in nearest(case.state, case.queries, case.metric))
    for parts in PARTS:
        stop = ctypes.c_byte(1)
        stopped = nearest(case.state, case.queries, case.metric, stop, parts=parts, unit=32)
        assert [len(result.rowids) for result in stopped] == [0, 0]


FORKED = """
import os

import numpy as np

from aiovec_sqlite.copies.scan import ScanQuery, nearest
from aiovec_sqlite.copies.segments import State, appended, encode_rows

rows = np.random.default_rng(0).standard_normal((20_000, 64)).astype("f4")
state = State(1, tuple(appended([], np.arange(20_000), encode_rows(rows, "l2"))))

def matches():
    (near,) = nearest(state, [ScanQuery(rows[5], 10)], "l2", parts=3, unit=32)
    return near.rowids.tolist()

wanted = matches()
child = os.fork()
if not child:
    os._exit(matches() != wanted)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert matches() == wanted
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_scans_with_threads_of_its_own() -> None:
    if native.load() is None:
        pytest.skip(f"no native scan: {native.why_not()}")
    done = run_python("-c", FORKED)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("library")
def test_more_equal_rows_than_there_is_room_for() -> None:
    rows = np.ones((1000, 24), dtype=np.float32)
    coded = encode_rows(rows, "l2")
    state = State(1, tuple(appended([], np.arange(1000), coded, full=300)))
    for count in (1, 6):
        queries = [ScanQuery(rows[0], 3)] * count
        scanned = [
            result
            for parts in PARTS
            for result in nearest(state, queries, "l2", vectors=True, parts=parts, unit=32)
        ]
        for result in scanned:
            assert sorted(result.rowids.tolist()) == list(range(1000))
            assert not result.distances.any()
            assert result.vectors is not None
            assert (result.vectors == 1).all()


def measured_pairs(rounds: Iterable[int]) -> None:
    if native.load() is None:
        pytest.skip(f"no native scan: {native.why_not()}")
    for seed in rounds:
        case = random_pairs(np.random.default_rng(seed))
        truth = case.by_numpy()
        for number, point in enumerate(case.points):
            pairs = case.which == number
            scanned = measured(case.vectors[case.rows[pairs]], point, case.metric)
            assert np.array_equal(scanned, truth[pairs], equal_nan=True), f"seed {seed}"


def test_distances_are_numpys_to_the_last_bit() -> None:
    """So a search tells the same, whichever way it goes."""
    measured_pairs(range(300))


@pytest.mark.soak(minutes=5)
def test_many_distances_are_numpys_to_the_last_bit(seeds: Seeds) -> None:
    measured_pairs(seeds(100_000))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the library."""
    if not native.LIBRARY.exists():
        pytest.skip(native.why_not())
    return Path(shutil.copy(native.LIBRARY, tmp_path))


def test_a_damaged_or_missing_library_is_not_loaded(copied: Path) -> None:
    """A file that is cut short would end the process that loads it."""
    whole = copied.read_bytes()
    for length in (*range(70), *range(70, len(whole) - 8192, 997)):
        copied.write_bytes(whole[:length])
        with pytest.raises(native.UnusableError, match=r"damaged|cannot be loaded"):
            native.opened("", copied)
    copied.unlink()
    with pytest.raises(native.UnusableError, match="was not compiled"):
        native.opened("", copied)
    copied.write_bytes(whole)
    assert native.opened("", copied).kind


def test_a_library_that_a_distribution_has_stripped_is_loaded(copied: Path) -> None:
    if (strip := shutil.which("strip")) is None:
        pytest.skip("there is no strip")
    before = copied.stat().st_size
    options = ["-x"] if sys.platform == "darwin" else ["--strip-unneeded"]
    subprocess.run([strip, *options, str(copied)], check=True)
    assert copied.stat().st_size < before
    assert native.opened("", copied).kind
