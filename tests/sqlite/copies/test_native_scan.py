"""The native scan against NumPy, by each kind of instructions that this processor has."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.sqlite.copies.scans import Case, check_found, expected, random_case

from aiovec_sqlite.copies import native as native_scan
from aiovec_sqlite.copies.kernel import library as native
from aiovec_sqlite.copies.kernel.library import KINDS, Library
from aiovec_sqlite.copies.native import scan_natively
from aiovec_sqlite.copies.scan import Asked, Workspace, candidates
from aiovec_sqlite.copies.segments import State


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
        library, case.segments, case.queries, case.wanted, case.masks, case.metric, helper,
        lambda: None, plain=case.plain,
    )  # fmt: skip
    check_found(case, [rowids.tolist() for rowids, _ in found])
    for (rowids, most), wanted in zip(found, expected(case), strict=True):
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
    while case.metric != "dot" or case.plain or not case.segments or case.segments[0].count < 100:
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


def test_a_scan_that_nobody_waits_for_ends(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_scan, "_WITHOUT_BREAK", 1)
    monkeypatch.setattr(native_scan, "_WORTH_SHARING", 0)
    rng = np.random.default_rng(4)
    case = random_case(rng)
    while len(case.segments) < 3 or any(one.count == one.dead for one in case.segments):
        case = random_case(rng)
    left = 0

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TimeoutError

    with ThreadPoolExecutor(1) as pool:
        for helper, left in ((None, 1), (pool, 0)):  # noqa: B007 - check counts it down
            with pytest.raises(TimeoutError):
                scan_natively(
                    library, case.segments, case.queries, case.wanted, case.masks, case.metric,
                    helper, check,
                )  # fmt: skip


def test_a_library_that_is_damaged_or_missing(tmp_path: Path) -> None:
    """A file that is cut short would end the process that loads it."""
    if not native.LIBRARY.exists():
        pytest.skip(native.why_not())
    whole = native.LIBRARY.read_bytes()
    library, digest = tmp_path / native.LIBRARY.name, tmp_path / native.DIGEST.name
    with pytest.raises(native.UnusableError, match="was not compiled"):
        native.opened("", library, digest)
    digest.write_bytes(native.DIGEST.read_bytes())
    for made in (b"", whole[:1000], whole[:-1], whole[:-1] + b"?", b"no library"):
        library.write_bytes(made)
        with pytest.raises(native.UnusableError, match="damaged"):
            native.opened("", library, digest)
    library.write_bytes(b"no library")
    digest.write_text(hashlib.sha256(b"no library").hexdigest())
    with pytest.raises(native.UnusableError, match="cannot be loaded"):
        native.opened("", library, digest)
    library.write_bytes(whole)
    digest.write_bytes(native.DIGEST.read_bytes())
    assert native.opened("", library, digest).kind
    with pytest.raises(native.UnusableError, match=r"AIOVEC_SCAN=sse9 .* it has portable"):
        native.opened("sse9", library, digest)
    with pytest.raises(native.UnusableError, match="AIOVEC_SCAN=off"):
        native.opened("off", library, digest)


def test_candidates_are_the_same_without_it(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a machine without a compiler."""
    workspace = Workspace(helpers=0)
    for seed in range(200, 230):
        case = random_case(np.random.default_rng(seed))
        if case.plain:
            continue
        state = State(1, tuple(one for one in case.segments if one.count))
        masks = [None if mask is None else [m for m in mask if len(m)] for mask in case.masks]
        asked = [Asked(*one) for one in zip(case.queries, case.wanted, masks, strict=True)]
        if case.metric == "l2":  # whose offsets the other way adds in float32
            continue
        both = []
        for chosen in (library.kind, native.OFF):
            monkeypatch.setenv(native.VARIABLE, chosen)
            found = candidates(state, asked, case.metric, workspace, alone=False)
            both.append([set(one.rowids.tolist()) for one in found])
        assert both[0] == both[1], seed
