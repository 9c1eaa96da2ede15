"""Every benchmark runs, at a size that shows no more than that it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench import data
from bench.__main__ import SUBJECTS
from bench.measure import Check
from bench.page import PAGE
from bench.pictures import PICTURES, figures, machine_of

ROOT = Path(__file__).parents[2]
# Results that have no target.
INFORMATION = {
    "choices",
    "search, approximate",
    "search, approximate: memory",
    "search, approximate: rate",
    "search, approximate: recall",
    "search, approximate: work",
    "search, by clients",
    "search, cost: disk",
    "search, cost: memory",
    "search, cost: others",
    "search, cost: time",
    "migrate, index",
    "text, others",
    "text, quality",
}


# What takes the most of the time, and is not what every change could break.
LONG = ("search", "text", "migrate", "server")
RUN = """
import sys
from bench import __main__ as bench
for subject in sys.argv[1].split():
    del bench.SUBJECTS[subject]
sys.exit(bench.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [LONG, pytest.param((), marks=pytest.mark.soak)])
def test_every_benchmark_tells_and_writes_what_it_found(
    tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    # In a process of its own: the ways that are compared block their event loop on purpose.
    # At this scale the load is of the least tasks alone.
    small = ["--scale", "0.0016", "--repeat", "0.01", "--no-peers"]
    places = ["--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    done = subprocess.run(
        [sys.executable, "-c", RUN, " ".join(left_out), "all", *small, *places],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != data.FOLDER_VARIABLE},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )

    # Whether a target holds at this size, on a busy machine, says nothing: that would be 1.
    assert done.returncode in (0, 1), done.stderr
    results = json.loads((tmp_path / "results" / "all.json").read_text(encoding="utf-8"))["results"]
    # One that has several parts is there by their names.
    told = {result["subject"].partition(",")[0] for result in results}
    assert told >= SUBJECTS.keys() - {*left_out}, done.stderr
    for result in results:
        assert len(result["measured"]) >= 2
        assert all(value > 0 for value in result["measured"].values())
        assert (result["subject"] in INFORMATION) == (not result["checks"])
        assert result["compared"] in done.stdout
        assert all(check["what"] in done.stdout for check in result["checks"])


def test_generated_data_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    one, other = data.load(50, 16, None), data.load(50, 16, None)

    assert (one.vectors == other.vectors).all()
    assert one.texts == other.texts
    assert one.vectors.shape == (50, 16)


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        (Check("rate", 10, 10), True),
        (Check("rate", 9.9, 10), False),
        (Check("time", 10, 10, at_most=True), True),
        (Check("time", 10.1, 10, at_most=True), False),
    ],
)
def test_a_check_holds_on_the_right_side_of_its_target(check: Check, holds: bool) -> None:
    assert check.holds is holds
    assert ("MISSED" not in str(check)) is holds


def test_the_pictures_are_drawn_from_tables_that_the_page_has() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert figures(page, "search-million", "Search-million")["sqlite-vec, same file"] > 0
    assert figures(page, "search", "By clients")["aiovec, 64 clients"] > 0
    for name in PICTURES:
        assert f"({name})" in page
        assert machine_of(page, name.partition("-")[0]) in (PAGE.parent / name).read_text(
            encoding="utf-8"
        )
