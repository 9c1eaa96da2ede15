"""The native scan against NumPy, by each kind of instructions that this processor has."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.sqlite.copies.scans import (
    METRICS,
    Case,
    check_found,
    expected,
    random_case,
    random_pairs,
)

from aiovec.backend import Metric
from aiovec_sqlite.copies import native as native_scan
from aiovec_sqlite.copies.codes import (
    RowCodes,
    encode_queries,
    encode_rows,
    halved,
    put_together,
)
from aiovec_sqlite.copies.kernel import build
from aiovec_sqlite.copies.kernel import library as native
from aiovec_sqlite.copies.kernel.build import SOURCE, compilers
from aiovec_sqlite.copies.kernel.library import KINDS, Library
from aiovec_sqlite.copies.native import measure, scan_natively
from aiovec_sqlite.copies.scan import Asked, Workspace, candidates
from aiovec_sqlite.copies.segments import Segment, State, appended, gathered


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


def check(library: Library, case: Case) -> None:
    found = scan_natively(
        library, case.segments, case.queries, case.wanted, case.masks, case.metric,
        lambda: None, plain=case.plain,
    )  # fmt: skip
    check_found(case, [rowids.tolist() for rowids, _ in found])
    for (rowids, most), wanted in zip(found, expected(case), strict=True):
        assert np.allclose(most, [wanted[rowid] for rowid in rowids.tolist()], rtol=1e-9, atol=0)


def campaign(library: Library, rounds: range) -> None:
    for seed in rounds:
        case = random_case(np.random.default_rng(seed))
        try:
            check(library, case)
        except AssertionError as exc:
            exc.add_note(f"seed {seed}")
            raise


def test_random_scans(library: Library) -> None:
    campaign(library, range(150))


@pytest.mark.soak
def test_random_scans_at_length(library: Library) -> None:
    campaign(library, range(1_000, 101_000))


def measured_pairs(rounds: range) -> None:
    if native.load() is None:
        pytest.skip(f"no native scan: {native.why_not()}")
    for seed in rounds:
        case = random_pairs(np.random.default_rng(seed))
        found = measure(case.vectors, case.rows, case.points, case.which, case.metric)
        assert np.array_equal(found, case.by_numpy(), equal_nan=True), f"seed {seed}"


def test_distances_are_numpys_to_the_last_bit() -> None:
    """So a search tells the same, whichever way it goes."""
    measured_pairs(range(600))


@pytest.mark.soak
def test_distances_at_length() -> None:
    measured_pairs(range(1_000, 101_000))


@pytest.mark.parametrize("dim", [768, 1024, 1536, 4095, 4096])
def test_many_dimensions(library: Library, dim: int) -> None:
    rng = np.random.default_rng(dim)
    for _ in range(4):
        check(library, random_case(rng, rows=70, dims=dim))


@pytest.mark.parametrize("metric", METRICS)
def test_few_dimensions_and_queries(library: Library, metric: Metric) -> None:
    """What is less than a vector of the processor takes the room of a whole one."""
    for dim, count in itertools.product((1, 2, 3, 4, 5, 8, 16, 17), (1, 2, 3, 4, 5)):
        for seed in range(3):
            rng = np.random.default_rng([dim, count, seed])
            check(library, random_case(rng, rows=100, dim=dim, count=count, metric=metric))


def test_room_that_has_to_grow(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_scan, "_ROOM", 0)
    monkeypatch.setattr(native_scan, "_ROOM_FOR_EACH", 0)
    campaign(library, range(150, 200))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_more_rows_wait_than_there_is_room_for(
    library: Library, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Of few queries most rows wait for their lower halves, where their values hardly differ."""
    for seed in range(6):
        monkeypatch.setattr(native_scan, "_WAITING", 0 if seed % 2 else 2048)
        rng = np.random.default_rng([seed, count])
        case = random_case(rng, rows=9000, dim=24 + seed, count=count)
        check(library, case)


def test_rows_that_come_in_the_worst_order(library: Library) -> None:
    """Each row is better than all before it, so that each is kept for a while."""
    rng = np.random.default_rng(0)
    case = random_case(rng)
    while case.metric != "dot" or case.plain or not case.segments or case.segments[0].count < 100:
        case = random_case(rng)
    one = case.segments[0]
    query = case.queries[0].codes.astype(int)
    order = np.argsort(one.whole_codes(slice(one.count)).astype(int) @ query)
    for array in (one.codes, one.lower, one.scale):
        if array is not None:
            array[: one.count] = array[: one.count][order]
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
    rng = np.random.default_rng(4)
    case = random_case(rng)
    while len(case.segments) < 3 or any(one.count == one.dead for one in case.segments):
        case = random_case(rng)
    left = 1

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        scan_natively(
            library, case.segments, case.queries, case.wanted, case.masks, case.metric, check
        )


def test_a_library_that_is_damaged_or_missing(tmp_path: Path) -> None:
    """A file that is cut short would end the process that loads it."""
    if not native.LIBRARY.exists():
        pytest.skip(native.why_not())
    whole = native.LIBRARY.read_bytes()
    library, digest = tmp_path / native.LIBRARY.name, tmp_path / native.DIGEST.name
    with pytest.raises(native.UnusableError, match="was not compiled"):
        native.opened("", library, digest)
    library.mkdir()
    with pytest.raises(native.UnusableError, match="cannot be read"):
        native.opened("", library, digest)
    library.rmdir()
    library.write_bytes(whole)
    with pytest.raises(native.UnusableError, match="damaged"):  # nothing tells that it is whole
        native.opened("", library, digest)
    digest.write_bytes(b"\xff" * 64)
    with pytest.raises(native.UnusableError, match="damaged"):
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


def compiled(folder: Path, source: str, *flags: str) -> tuple[Path, Path]:
    """A library made of C, and its digest; skip where there is no compiler."""
    if not compilers():
        pytest.skip("there is no compiler")
    folder.mkdir(exist_ok=True)
    code, library, digest = (folder / f"made.{suffix}" for suffix in ("c", "so", "sha256"))
    code.write_text(source)
    command = [*compilers()[0], "-shared", "-fPIC", *flags, "-o", str(library), str(code)]
    subprocess.run(command, check=True)
    digest.write_text(hashlib.sha256(library.read_bytes()).hexdigest())
    return library, digest


def test_a_library_of_another_version(tmp_path: Path) -> None:
    functions = (
        "scan_version",
        "scan_kinds",
        "scan",
        "scan_settle",
        "scan_halve",
        "scan_distances",
    )
    source = "".join(f"long long aiovec_{name}(void) {{ return 1; }}\n" for name in functions)
    with pytest.raises(native.UnusableError, match="of another version"):
        native.opened("", *compiled(tmp_path, source))
    with pytest.raises(native.UnusableError, match="cannot be loaded"):
        native.opened("", *compiled(tmp_path / "other", "int other(void) { return 0; }"))


def test_a_library_for_another_processor(tmp_path: Path) -> None:
    if not native.LIBRARY.exists() or sys.platform != "linux":
        pytest.skip("only Linux tells the processor in these bytes")
    other = bytearray(native.LIBRARY.read_bytes())
    other[18:20] = (243).to_bytes(2, sys.byteorder)  # a RISC-V
    library, digest = tmp_path / "made.so", tmp_path / "made.sha256"
    library.write_bytes(other)
    digest.write_text(hashlib.sha256(other).hexdigest())
    with pytest.raises(native.UnusableError, match="cannot be loaded"):
        native.opened("", library, digest)


@pytest.mark.parametrize("made", ["nothing", "text", "folder", "no digest"])
def test_searches_go_on_without_it(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever lies in its place: a warning, once, and the same answers."""
    library = tmp_path / native.LIBRARY.name
    if made == "folder":
        library.mkdir()
    elif made == "no digest" and native.LIBRARY.exists():
        library.write_bytes(native.LIBRARY.read_bytes())
    elif made != "nothing":
        library.write_text("no library")
    monkeypatch.delenv(native.VARIABLE, raising=False)
    monkeypatch.setattr(native, "LIBRARY", library)
    monkeypatch.setattr(native, "DIGEST", tmp_path / native.DIGEST.name)
    native._loaded.cache_clear()
    cases = (random_case(np.random.default_rng(seed)) for seed in itertools.count())
    case = next(
        one for one in cases
        if not one.plain and one.metric == "dot" and len(one.segments) == 3
        and all(part.count for part in one.segments)
    )  # fmt: skip
    asked = [Asked(*one) for one in zip(case.queries, case.wanted, case.masks, strict=True)]
    try:
        for _ in range(2):
            found = candidates(
                State(1, tuple(case.segments)), asked, case.metric, Workspace()
            )  # fmt: skip
            for one, wanted in zip(found, expected(case), strict=True):
                assert set(one.rowids.tolist()) >= set(wanted)
    finally:
        native._loaded.cache_clear()
    warnings = [one.getMessage() for one in caplog.records if one.name == native.LOG.name]
    assert len(warnings) == (made != "nothing")
    assert all("searches are slower" in warning for warning in warnings)


@pytest.mark.slow
def test_two_processes_that_compile_it_at_once(tmp_path: Path) -> None:
    if not compilers():
        pytest.skip("there is no compiler")
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    for source in (SOURCE, Path(build.__file__)):
        (kernel / source.name).write_bytes(source.read_bytes())
    command = [sys.executable, str(kernel / "build.py")]
    environment = {**os.environ, "CFLAGS": "-O0"}
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            )
            for _ in range(2)
        ]
    assert [one.returncode for one in started] == [0, 0]
    assert {one.name for one in kernel.iterdir()} == {
        "build.py", "scan.c", native.LIBRARY.name, native.DIGEST.name,
    }  # fmt: skip
    assert native.opened("", kernel / native.LIBRARY.name, kernel / native.DIGEST.name).kinds


def test_candidates_are_the_same_without_it(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ways of a machine without a compiler."""
    workspace = Workspace()
    for seed in range(200, 230):
        case = random_case(np.random.default_rng(seed))
        if case.plain:
            continue
        state = State(1, tuple(one for one in case.segments if one.count))
        masks = [None if mask is None else [m for m in mask if len(m)] for mask in case.masks]
        asked = [Asked(*one) for one in zip(case.queries, case.wanted, masks, strict=True)]
        if case.metric == "l2":  # whose offsets the other way adds in float32
            continue
        every = []
        for chosen in (library.kind, native.OFF, native.NUMPY):
            monkeypatch.setenv(native.VARIABLE, chosen)
            found = candidates(state, asked, case.metric, workspace)
            every.append([set(one.rowids.tolist()) for one in found])
        assert every[0] == every[1] == every[2], seed


_NAMES = ("codes", "scale", "offset", "error")


@pytest.mark.parametrize("dim", [1, 2, 33, 384])
def test_halves_are_numpys(library: Library, dim: int) -> None:
    codes = np.random.default_rng(dim).integers(-127, 128, (50, dim)).astype(np.int8)
    upper, lower, longest = halved(codes, library)
    by_numpy = halved(codes, None)
    assert np.array_equal(upper, by_numpy[0])
    assert np.array_equal(lower, by_numpy[1])
    assert longest == by_numpy[2]
    assert np.array_equal(put_together(upper, lower, dim), codes)


def test_a_copy_that_was_begun_in_another_way(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``AIOVEC_SCAN`` may change while a process runs: segments are in halves then, or are not."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((300, 33)).astype(np.float32)
    ids = np.arange(300, dtype=np.int64)
    coded_rows = encode_rows(vectors, "dot")
    segments: list[Segment] = []
    # The last rows of each way go into a segment of the way before, which has room or has to grow.
    for first, last, way, coming in (
        (0, 70, library.kind, 100), (70, 160, native.OFF, 0), (160, 250, library.kind, 140),
        (250, 300, native.OFF, 0),
    ):  # fmt: skip
        monkeypatch.setenv(native.VARIABLE, way)
        rows = slice(first, last)
        part = RowCodes(*(getattr(coded_rows, name)[rows] for name in _NAMES))
        segments = appended(segments, (), ids[rows], part, 33, coming=coming, full=100)
    monkeypatch.setenv(native.VARIABLE, library.kind)
    assert [one.lower is None for one in segments] == [False, True, False]
    for one in segments:
        mine = one.rowids[: one.count]
        assert np.array_equal(one.whole_codes(slice(one.count)), coded_rows.codes[mine])
    query = rng.standard_normal((1, 33)).astype(np.float32)
    (coded,) = encode_queries(query, "dot")
    best = set(np.argsort(-(vectors @ query[0]))[:10].tolist())
    for part in (segments, segments[:1], segments[1:2]):
        state = State(1, tuple(part))
        wanted = best & {rowid for one in part for rowid in one.rowids.tolist()}
        for alone in (state, gathered(state, [np.ones(one.count, dtype=bool) for one in part])):
            (found,) = candidates(alone, [Asked(coded, 10)], "dot", Workspace())
            assert wanted <= set(found.rowids.tolist())
