"""The command itself: help, version, wrong usage, and which store it uses."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import aiovec

from .conftest import Run

COMMANDS = (
    "demo doctor info tables search rows distinct import export index optimize backup restore "
    "advise migrate serve"
).split()


def test_help_and_version(run: Run) -> None:
    listed = run("--help")
    assert sorted(re.findall(r"^[│|] (\w+)  ", listed.out, re.MULTILINE)) == sorted(COMMANDS)
    for name in COMMANDS:
        finished = run(name, "--help")
        assert (finished.code, finished.err) == (0, ""), name
        assert f"Usage: aiovec {name}" in finished.out
    assert run("--version").out == f"aiovec {aiovec.__version__}\n"


WRONG_USAGE = """
unknown
tables --unknown
backup
export notes.db
import
import notes.db n.db --metric l3
import a.csv n.db --rejects a.csv
import - n.db --format csv
index
rows
rows notes.db notes --csv --json
rows notes.db notes --limit 0
distinct notes.db
search
search notes.db notes
search notes.db notes one-too-many --like a
search notes.db notes --vector [1,0,0] --like a
search notes.db notes --vector [1,0
search notes.db notes --vector {}
search notes.db notes --vector [true]
search notes.db notes --vector @missing.json
search notes.db notes --like a --limit 0
search notes.db notes words --text --hybrid
search notes.db notes words --text --max-distance 1
search notes.db notes --vector [1,0,0] --any
search notes.db notes --vector [1,0,0] --per-group 0
""".strip().splitlines()


def test_wrong_usage_ends_with_2_and_writes_nothing(run: Run, store: Path, folder: Path) -> None:
    (folder / "a.csv").write_text('id,embedding\na,"[1, 0]"\n')
    before = sorted(path.name for path in folder.iterdir())
    assert run().code == 2
    for line in WRONG_USAGE:
        finished = run(*line.split())
        assert (finished.code, finished.out) == (2, ""), line
        assert "Usage: aiovec" in finished.err
    assert run("search", store, "notes", "--vector", "[" * 100_000).code == 2
    assert sorted(path.name for path in folder.iterdir()) == before


FAILURES = {
    "search notes.db notes --vector [1,0]": "2 dimensions",
    "search notes.db notes --vector [0,0,0]": "zero",
    "search notes.db notes --vector [NaN,0,0]": "nan",
    "search notes.db notes --like absent": "--like must be the id of a row",
    "search notes.db notes --like a --where lang=": "position",
    "search notes.db notes --like a --where absent=1": "absent",
    "search notes.db notes --like a --select absent": "absent",
    "search notes.db notes words": "--vector or --like",
    "search notes.db notes --vector words": "has no embedder",
    "rows notes.db absent": "there is no table 'absent'; the tables are: 'notes'",
    "rows notes.db notes --order-by absent": "absent",
    "distinct notes.db notes absent": "absent",
    "info notes.db absent": "there is no table 'absent'; the tables are: 'notes'",
    "optimize notes.db absent": "absent",
    "advise notes.db absent": "there is no table 'absent'",
    "index notes.db notes": "indexes",
    "backup notes.db other.db": "other.db",
    "tables other.db": "another application",
    "tables": "AIOVEC_CONFIG",
    "tables --config absent.toml": "absent.toml",
}  # fmt: skip
MISSING = ("missing.db", "missing/deep.db", "missing", "sqlite", "lancedb://missing")


def test_a_failure_ends_with_1_and_one_line(run: Run, store: Path, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    cases = FAILURES | {
        f"{command} {target}": "there is no store at "
        for command in ("tables", "info", "optimize", "advise")
        for target in MISSING
    }
    for line, reason in cases.items():
        finished = run(*line.split())
        assert (finished.code, finished.out, finished.err.count("\n")) == (1, "", 1), line
        assert finished.err.startswith("error: ")
        assert reason in finished.err, line
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_which_store(
    run: Run, store: Path, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(*arguments: object) -> tuple[str, str]:
        about = run("info", *arguments, "--json").json
        return about["backend"], about["target"]

    ours = ("sqlite", str(store))
    assert used("--config", config) == ours
    assert used("notes.db", "--config", config) == ours
    monkeypatch.setenv("AIOVEC_CONFIG", str(config))
    assert used() == ours
    monkeypatch.delenv("AIOVEC_CONFIG")
    (folder / "aiovec.toml").write_text('[retrieval]\nsqlite_path = "notes.db"\n', "utf-8")
    assert used() == ours
    # With a TOML file a backend's name is a store, whichever backend the file uses now.
    remote = '[retrieval]\nbackend = "remote"\nremote_url = "http://127.0.0.1:1"\n'
    config.write_text(f'{remote}sqlite_path = "../notes.db"\n', "utf-8")
    assert used("sqlite", "--config", config) == ours
    without = run("info", "--config", config)
    assert without.code == 1
    assert "no server answers at http://127.0.0.1:1" in without.err
