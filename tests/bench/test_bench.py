"""The benchmarks run, at a size that shows no more than that they work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.__main__ import ALONE, SUBJECTS
from tests.ray.cluster import missing

ROOT = Path(__file__).parents[2]
# What each subject always compares. At this size its figures say nothing.
COMPARED = {
    "search": "aiovec, whole rows / sqlite-vec by hand, whole rows",
    "writes": "aiovec, 64 tasks / SQLite by hand, blocking",
    "get": "aiovec, 30 of the ids / aiosqlite, a join, 30 of the ids",
    "lancedb": "mixed writes by 64 tasks, aiovec / lancedb",
    "migrate": "aiovec migrate, copied and verified / plain loop, nothing verified",
    "text": "aiovec, keywords / FTS5 by hand",
    "sizes": "one search, sqlite / lancedb",
    "server": "POST /search, JSON, 64 clients / in the process, 64 tasks",
}
QUICK = ("get",)


def bench(*arguments: str) -> str:
    # In a process of its own: some of the ways that are compared block their event loop.
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if not name.startswith("AIOVEC_")},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(subject, marks=pytest.mark.slow if subject in QUICK else pytest.mark.soak)
        for subject in (*SUBJECTS, *ALONE)
    ],
)
def test_a_benchmark_compares_and_finds_no_wrong_answer(subject: str, tmp_path: Path) -> None:
    if subject == "lancedb":
        pytest.importorskip("lancedb")
    if subject == "scale" and (lacking := missing()):
        pytest.skip(f"needs {', '.join(lacking)}: pip install 'aiovec[ray]'")
    small = ["--scale", "0.0016", "--repeat", "0.01", "--alone"]
    places = ["--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    out = bench("bench", subject, *small, *places)
    written = json.loads((tmp_path / "results" / f"{subject}.json").read_text("utf-8"))
    results = written["results"]
    assert results
    for result in results:
        assert result["compared"] in out
    if subject in COMPARED:
        assert COMPARED[subject] in {name for result in results for name in result["ratios"]}
