"""The command: help, version, wrong usage, failures, and the choice of the store."""

from __future__ import annotations

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness.cases import case
from tests.harness.command import run_process
from tests.transfer.support import error_of

import aiovec

from .conftest import Run, contents

COMMANDS = (
    "doctor info tables search rows get count distinct delete create drop text-index import export "
    "index optimize backup restore advise tune mcp migrate serve update watch"
).split()
MIGRATE = [f"migrate {name}" for name in "plan run status verify abort forget".split()]


def test_each_command_has_help_and_the_version_is_shown(run: Run) -> None:
    listed = run("--help")
    assert sorted(
        re.findall(r"^  ([\w-]+)  ", listed.out.partition("Commands:")[2], re.MULTILINE)
    ) == sorted(COMMANDS)
    for name in COMMANDS + MIGRATE:
        with case(name):
            finished = run(*name.split(), "--help")
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
migrate unknown
migrate run --to x.db --switch --table notes
migrate run --to x.db --pause-limit soon
""".strip().splitlines()


def test_wrong_usage_exits_with_2_and_writes_nothing(run: Run, store: Path, folder: Path) -> None:
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


# Command lines, each with the fix that its error names.
FIXES = {
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
    "search notes three words -s notes.db": "as in aiovec search 'two words'",
    "search words --top 3 -s notes.db": "No such option: --top; did you mean --limit?",
    "search words --filter x=1 -s notes.db": "did you mean --where?",
    "rows notes --top-k 3 -s notes.db": "did you mean --limit?",
    "version": "write aiovec --version",
    "distinct notes -s notes.db": "notes is a table; write the FIELD after it",
    "search notes words --limit abc": "Invalid value for '--limit': ",
    "search notes words --min-score abc": "Invalid value for '--min-score': ",
    "search notes words --by words": "'words' is not one of 'text', 'vector', 'hybrid'",
    "search notes --vector 1,0,0": "a JSON array of numbers such as [1, 0, 0], not '1,0,0'",
    "create n --dim 3 --field year=int": "NAME:TYPE, such as year:int, not 'year=int'",
    "create n --dim 3 --field year:integer": "not 'integer'; did you mean 'int'?",
    "search notes x --not-like a -s notes.db": "--not-like needs --like",
    "search notes --vector [1,0,0] --boost at:soon -s notes.db": "'30m', '12h', '7d'",
    "optimize -s notes.db --every soon": "must be a time such as 10m",
    "index notes -s notes.db --option m": "NAME=NUMBER",
    f"index notes -s notes.db --option m={'9' * 5000}": "NAME=NUMBER",
    "index notes -s notes.db --option recall=1": "NAME=NUMBER",
    "index notes -s notes.db --drop a --recall 0.5": "--drop",
    "import parts/* -s n.db": "3 files go into one table; name the table with --table",
    "import parts/a.parquet -s n.db --address x": "--engine",
    "import old.db --format xlsx -s n.db": "'xlsx' is not one of 'parquet', 'arrow'",
    "import - --table t -s n.db": "standard input has no suffix: pass --format",
    "export notes - -s notes.db": "standard output has no suffix: pass --format",
    "import parts/a.parquet -s n.db --engine ray --upsert": "leave out --upsert",
    "migrate plan": "name the target store",
}


def test_wrong_usage_names_the_fix(run: Run, store: Path, parts: Path) -> None:
    for line, fix in FIXES.items():
        with case(line):
            finished = run(*line.split())
            assert (finished.code, finished.out) == (2, "")
            assert fix in finished.err


FAILURES = {
    "search notes --vector [1,0] -s notes.db": "2 dimensions",
    "search notes --vector [0,0,0] -s notes.db": "zero",
    "search notes --vector [NaN,0,0] -s notes.db": "nan",
    "search notes --like a --like absent -s notes.db": "no row has the id 'absent'",
    "search notes --vector [1,0,0] --boost then:7d -s notes.db": "body, payload.<key>, not 'then'",
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
    "backup other.db -s notes.db": "other.db exists already; name a path that does not exist",
    "tables -s other.db": "another application",
    "tables -s old.db": "if it holds vectors, aiovec import",
    "tables": "-s notes.db",
    "serve": "-s notes.db",
    "restore backup.db": "-s notes.db",
    "info n.db": "no store is named; a store needs an option: write -s n.db",
    "advise n.db": "write -s n.db",
    "info s3://user:secret@bucket/n": "write -s s3://***@bucket/n",
    "create notes --schema {}": "--schema takes the path of a JSON file",
    "tables -s lancedb": "AIOVEC_CONFIG",
    "tables --config absent.toml": "absent.toml",
    "export notes there.parquet -s notes.db": "--overwrite",
    "export notes x.what -s notes.db": "--format",
    "export notes x.parquet --where yea>1 -s notes.db": "yea",
    "export notes absent/x.parquet -s notes.db": "no folder",
    f"export notes {'x' * 300}.parquet -s notes.db": "too long",
    "export notes ~nosuchuser/x.parquet -s notes.db": "~nosuchuser",
    "import absent.parquet -s n.db": "there is no file",
    "import old.db -s n.db": "docs (BLOBs: vec)",
    "import old.db --dtype int4 -s n.db": "there is no dtype",
    "import old.db --schema absent.json -s n.db": "absent.json",
    "import nothing/*.parquet --table t -s n.db": "no file matches",
    "import parts/a.parquet parts/none.csv --table t -s n.db": "there is no file",
    "import parts/a.parquet old.db --table t -s n.db": "old.db does not show its format",
    "import notes.db -s n.db": "already an aiovec store",
    "import parts/a.parquet --engine none -s n.db": "there is no engine 'none'",
    "migrate plan --to lancedb": "no store is named: pass --from STORE, or name a TOML file",
    "migrate run --to lancedb": "no store is named: pass --from STORE, or name a TOML file",
    "migrate plan --from absent.db --to other.db": "there is no store at",
    "migrate run --from notes.db --to n.db --table absent": "the source has no table 'absent'",
}
MISSING = ("missing.db", "missing/deep.db", "missing", "./sqlite", "lancedb://missing")


def test_a_failure_exits_with_1_and_one_line_and_changes_nothing(
    run: Run, store: Path, folder: Path, old: Path, parts: Path
) -> None:
    (folder / "there.parquet").write_text("mine")
    with closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = contents(folder)
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
    assert contents(folder) == before


def test_words_without_quotes_are_no_table(run: Run, store: Path) -> None:
    finished = run("search", "two", "words", "-s", store)
    table, fix = finished.err.splitlines()
    assert (finished.code, "there is no table 'two'" in table) == (1, True)
    assert fix.endswith("aiovec search 'two words'")


def test_the_store_is_chosen_by_option_environment_and_file(
    run: Run, store: Path, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(*arguments: object) -> tuple[str, str]:
        about = run("info", *arguments, "--json").json
        return about["backend"], about["target"]

    expected = ("sqlite", str(store))
    assert used("-s", "notes.db") == used("--store=notes.db") == expected
    assert used("--config", config) == expected
    assert used("-s", "notes.db", "--config", config) == expected
    monkeypatch.setenv("AIOVEC_CONFIG", str(config))
    assert used() == used("-s", "sqlite") == expected
    monkeypatch.delenv("AIOVEC_CONFIG")
    # A backend's name is a store of the TOML file, whichever backend that selects.
    remote = '[retrieval]\nbackend = "remote"\nremote_url = "http://127.0.0.1:1"\n'
    config.write_text(f'{remote}sqlite_path = "../notes.db"\n', "utf-8")
    assert used("-s", "sqlite", "--config", config) == expected
    assert "no answer from http://127.0.0.1:1" in error_of("info", "--config", config)
    (folder / "aiovec.toml").write_text('[retrieval]\nsqlite_path = "notes.db"\n', "utf-8")
    assert used() == used("-s", "sqlite") == expected


def test_a_watched_source_may_be_an_object_of_json(run: Run, store: Path) -> None:
    for given in ("{", '{"embed": "body"}', '{"source": "docs", "embd": "body"}'):
        for command in ("serve", "mcp"):
            with case((command, given)):
                done = run(command, "-s", store, "--watch", given)
                assert (done.code, "--watch" in done.err) == (2, True)
                assert "Traceback" not in done.err


WRONG_ARGUMENTS = """
create 'bad name' --dim 3
create notes --dim 3 --embedder demo
create notes --embed body
import docs --embedder demo --table 'bad name'
import docs --embedder demo --overlap 5000
import docs --embedder unknown
watch docs
watch docs --embedder unknown
watch docs --embedder demo --overlap 5000
watch docs --embedder demo --table 'bad name'
watch app.db#notes --embedder demo
watch app.db#notes --embedder demo --embed unknown
watch app.db#notes --embedder demo --embed body --include '*.md'
watch app.db#unknown --embedder demo --embed body
serve --port 0 --watch unknown
serve --port 0 --watch docs
mcp --watch unknown
mcp --watch docs --embedder unknown
"""


@pytest.mark.arrow
@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS.strip().splitlines())
def test_wrong_arguments_create_no_store(arguments: str, folder: Path) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "a.md").write_text("# A\n\ntext")
    with closing(sqlite3.connect("app.db")) as app:
        app.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    before = contents(folder)
    finished = run_process(*shlex.split(arguments), "-s", "new.db")
    assert finished.code in {1, 2}
    assert "rror: " in finished.err
    assert contents(folder) == before


@pytest.mark.arrow
@pytest.mark.parametrize("source", ["unknown", "unknown.db#notes", "unknown.csv"])
def test_a_watch_of_a_missing_file_says_that_it_is_missing(source: str, run: Run) -> None:
    finished = run("watch", source, "-s", "new.db")
    assert finished.code == 1
    assert finished.err.startswith(f"error: there is no file {source.partition('#')[0]}")
