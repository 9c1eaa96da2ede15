"""The command itself: help, version, wrong usage, and which store it uses."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness.cases import case

import aiovec

from .conftest import Run

COMMANDS = (
    "demo doctor info tables search rows get count distinct delete create drop text-index import "
    "export index optimize backup restore advise mcp migrate serve"
).split()


def test_help_and_version(run: Run) -> None:
    listed = run("--help")
    assert sorted(
        re.findall(r"^  ([\w-]+)  ", listed.out.partition("Commands:")[2], re.MULTILINE)
    ) == sorted(COMMANDS)
    for name in COMMANDS:
        with case(name):
            finished = run(name, "--help")
            assert (finished.code, finished.err) == (0, "")
            assert f"Usage: aiovec {name}" in finished.out
            assert "<bool>" not in finished.out
    assert run("--version").out == f"aiovec {aiovec.__version__}\n"


WRONG_USAGE = """
unknown
tables --unknown
tables notes.db
backup
export
import
import a.csv n.db
import a.csv -s n.db --metric l3
import - -s n.db --format csv
rows notes --limit 0
distinct
get
count notes more
delete
create notes
create notes --dim 2 --schema x.json
drop
text-index notes
text-index notes year more
search
search notes words one-too-many
search notes words --like a
search notes --vector [1,0,0] --like a
search notes --vector [1,0
search notes --vector {}
search notes --like a --limit 0
search notes words --by both
search notes words --by vector --match any
search notes --vector [1,0,0] --match all
""".strip().splitlines()


def test_wrong_usage_ends_with_2_and_writes_nothing(run: Run, store: Path, folder: Path) -> None:
    (folder / "a.csv").write_text('id,embedding\na,"[1, 0]"\n')
    before = sorted(path.name for path in folder.iterdir())
    assert run().code == 2
    for line in WRONG_USAGE:
        with case(line):
            finished = run(*line.split())
            assert (finished.code, finished.out) == (2, "")
            assert "Usage: aiovec" in finished.err
    assert run("search", "notes", "--vector", "[" * 100_000).code == 2
    assert sorted(path.name for path in folder.iterdir()) == before


# What was written, and the cure that the error names.
CURES = {
    "tables n.db": "write -s n.db",
    "serve n.db": "write -s n.db",
    "doctor n.db": "write -s n.db",
    "count docs n.db": "write -s n.db",
    "count n.db docs": "write -s n.db",
    "restore backup.db n.db": "write -s n.db",
    "migrate plan n.db lancedb://x": "write --from n.db --to lancedb://x",
    "count notes more -s notes.db": " (more)\n",
    "n.db": "write aiovec tables -s n.db",
    "--store n.db tables": "write it after the command, as in aiovec COMMAND --store",
    "--json tables -s n.db": "write it after the command, as in aiovec COMMAND --json",
    "help": "write aiovec --help",
    "version": "write aiovec --version",
    "distinct notes -s notes.db": "notes is a table: write the FIELD after it",
    "search notes words --limit abc": "'abc'",
    "search notes words --min-score abc": "'abc'",
    "search notes words --by words": "'--by': 'words' is not one of 'text', 'vector', 'hybrid'",
    "search notes --vector 1,0,0": "a JSON array of numbers such as [1, 0, 0], not '1,0,0'",
    "create n --dim 3 --field year=int": "NAME:TYPE, such as year:int, not 'year=int'",
    "create n --dim 3 --field year:integer": "not 'integer'; did you mean 'int'?",
}


def test_wrong_usage_names_the_cure(run: Run, store: Path) -> None:
    for line, cure in CURES.items():
        with case(line):
            finished = run(*line.split())
            assert (finished.code, finished.out) == (2, "")
            assert cure in finished.err
            assert not re.search("Input should|Value error", finished.err)  # pydantic's words


FAILURES = {
    "search notes --vector [1,0] -s notes.db": "2 dimensions",
    "search notes --vector [0,0,0] -s notes.db": "zero",
    "search notes --vector [NaN,0,0] -s notes.db": "nan",
    "search notes --like a --like absent -s notes.db": "no row has the id 'absent'",
    "search notes --like a --where lang= -s notes.db": "position",
    "search notes --like a --where absent=1 -s notes.db": "absent",
    "search notes --like a --select absent -s notes.db": "absent",
    "search notes words -s notes.db": "aiovec text-index",
    "search notes words --by text -s notes.db": "aiovec text-index",
    "search notes words --by vector -s notes.db": "no embedder",
    "rows absent -s notes.db": "there is no table 'absent'; the tables are: 'notes'",
    "rows notes --order-by absent -s notes.db": "absent",
    "distinct notes absent -s notes.db": "absent",
    "info absent -s notes.db": "there is no table 'absent'; the tables are: 'notes'",
    "optimize absent -s notes.db": "absent",
    "advise absent -s notes.db": "there is no table 'absent'",
    "index notes -s notes.db": "every search is exact",
    "text-index notes year -s notes.db": "year",
    "create notes --dim 3 -s notes.db": "notes",
    "drop absent --yes -s notes.db": "absent",
    "delete absent a -s notes.db": "absent",
    "backup other.db -s notes.db": "other.db",
    "tables -s other.db": "another application",
    "tables": "-s notes.db",
    "serve": "-s notes.db",
    "restore backup.db": "-s notes.db",
    "info n.db": "no store is named; a store needs an option: write -s n.db",
    "advise n.db": "write -s n.db",
    "info s3://user:secret@bucket/n": "write -s s3://***@bucket/n",
    "create notes --schema {}": "--schema takes the path of a JSON file",
    "tables -s lancedb": "AIOVEC_CONFIG",
    "tables --config absent.toml": "absent.toml",
}
MISSING = ("missing.db", "missing/deep.db", "missing", "./sqlite", "lancedb://missing")


def test_a_failure_ends_with_1_and_one_line(run: Run, store: Path, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    cases = FAILURES | {
        f"{command} -s {target}": "there is no store at "
        for command in ("tables", "info", "optimize", "advise")
        for target in MISSING
    }
    for line, reason in cases.items():
        with case(line):
            finished = run(*line.split())
            assert (finished.code, finished.out, finished.err.count("\n")) == (1, "", 1)
            assert finished.err.startswith("error: ")
            assert reason in finished.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_which_store(
    run: Run, store: Path, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(*arguments: object) -> tuple[str, str]:
        about = run("info", *arguments, "--json").json
        return about["backend"], about["target"]

    ours = ("sqlite", str(store))
    assert used("-s", "notes.db") == used("--store=notes.db") == ours
    assert used("--config", config) == ours
    assert used("-s", "notes.db", "--config", config) == ours
    monkeypatch.setenv("AIOVEC_CONFIG", str(config))
    assert used() == used("-s", "sqlite") == ours
    monkeypatch.delenv("AIOVEC_CONFIG")
    # A backend's name is a store of the TOML file, whichever backend that selects.
    remote = '[retrieval]\nbackend = "remote"\nremote_url = "http://127.0.0.1:1"\n'
    config.write_text(f'{remote}sqlite_path = "../notes.db"\n', "utf-8")
    assert used("-s", "sqlite", "--config", config) == ours
    without = run("info", "--config", config)
    assert without.code == 1
    assert "no answer from http://127.0.0.1:1" in without.err
    (folder / "aiovec.toml").write_text('[retrieval]\nsqlite_path = "notes.db"\n', "utf-8")
    assert used() == used("-s", "sqlite") == ours
