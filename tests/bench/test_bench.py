"""The benchmarks run, at a size that shows no more than that they work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("subjects", ["insert open", pytest.param("all", marks=pytest.mark.soak)])
def test_a_benchmark_tells_and_writes_what_it_found(tmp_path: Path, subjects: str) -> None:
    # In a process of its own: the ways that are compared block their event loop on purpose.
    small = ["--scale", "0.0016", "--repeat", "0.01", "--no-peers"]
    for subject in subjects.split():
        places = ["--folder", str(tmp_path), "--results", str(tmp_path / "results")]
        done = subprocess.run(
            [sys.executable, "-m", "bench", subject, *small, *places],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("AIOVEC_")},
            capture_output=True,
            encoding="utf-8",
        )
        # 1: a target is missed, which says nothing at this size.
        assert done.returncode in (0, 1), done.stderr
        written = json.loads((tmp_path / "results" / f"{subject}.json").read_text("utf-8"))
        assert written["results"]
        for result in written["results"]:
            assert all(value > 0 for value in result["measured"].values())
            assert result["compared"] in done.stdout
