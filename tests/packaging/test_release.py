"""The workflow that publishes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_campaign_is_in_one_job_of_the_release() -> None:
    workflow = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    matrix = workflow.split("        part:\n")[1].split("    runs-on:")[0]
    *parts, rest = re.split(r"^ +- ", matrix, flags=re.MULTILINE)[1:]
    named = [Path(ROOT, path) for part in parts for path in part.split()]
    assert [path for path in named if not path.exists()] == []
    left = {Path(ROOT, path) for path in re.findall(r"--ignore (\S+)", rest)}
    marked = [
        file
        for file in (ROOT / "tests").glob("*/**/*.py")
        if "mark.soak" in file.read_text("utf-8")
    ]
    assert marked
    for file in marked:
        jobs = sum(file.is_relative_to(path) for path in named)
        jobs += not any(file.is_relative_to(path) for path in left)
        assert jobs == 1, file


def test_each_project_is_published_by_an_environment_of_its_own() -> None:
    workflow = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    folders = [ROOT, *sorted((ROOT / "distributions").iterdir())]
    names = [re.findall(r'^name = "(.+)"', read(folder), re.MULTILINE)[0] for folder in folders]
    published = re.findall(r"^ +project: \[(.+)\]$", workflow, re.MULTILINE)
    assert published == [", ".join(names)] * 2
    kinds = re.findall(r"^ +environment: (.+)$", workflow, re.MULTILINE)
    assert kinds == [f"{kind}-${{{{ matrix.project }}}}" for kind in ("testpypi", "release")]


def read(folder: Path) -> str:
    return (folder / "pyproject.toml").read_text("utf-8")


def test_each_test_that_the_emulator_skips_exists() -> None:
    script = (ROOT / "scripts/try-arm64").read_text("utf-8")
    lines = re.findall(r'^skipped="(.+)"', script, re.MULTILINE)
    skipped = {part for line in lines for part in line.split(" or ")} - {"$skipped"}
    assert skipped
    files = [
        *(ROOT / "tests/contract").glob("*.py"),
        ROOT / "tests/unit/sqlite/test_native_scan.py",
    ]
    tests = " ".join(
        name for file in files for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
    )
    assert [part for part in sorted(skipped) if part not in tests] == []
