"""aiovec demo: the first thing that a newcomer sees."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import aiovec
from aiovec._demo import HashingEmbedder

from .conftest import Run
from .test_command import on_a_terminal, posix_only

# How a newcomer calls it, and where its store lies then.
CALLS = {
    "sqlite": ((), "aiovec-demo.db"),
    "lancedb": (("--backend", "lancedb"), "lancedb://aiovec-demo.lance"),
}


# The command in a process that cannot import lancedb.
WITHOUT_LANCEDB = """
import sys
sys.modules['lancedb'] = None
sys.argv = ['aiovec', *sys.argv[1:]]
from aiovec._cli import main
main()
"""


@dataclass(frozen=True)
class Shown:
    """The folder where the demo ran, and what it wrote into a pipe."""

    backend: str
    folder: Path
    text: str


@pytest.fixture(scope="module", params=CALLS)
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("demo")
    arguments, _ = CALLS[request.param]
    finished = subprocess.run(
        [sys.executable, "-m", "aiovec", "demo", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return Shown(request.param, folder, finished.stdout)


@pytest.mark.slow
def test_it_shows_each_thing_and_ends_with_a_clear_line(shown: Shown) -> None:
    titles = [line.partition(":")[0] for line in shown.text.splitlines() if re.match(r"\w", line)]
    assert [title.split()[0] for title in titles] == [
        "Text", "Embed", "Vectors", "Vectors", "Vectors", "Keywords", "Hybrid,", "Filter", "Update",
        "Delete",
        *(["Restore"] if shown.backend == "lancedb" else []), "What", "What", "demo",
    ]  # fmt: skip
    assert re.search(r"^  [\d,]{5,} passages ", shown.text, re.MULTILINE)
    assert shown.text.count("  3 hits in ") == 7
    assert re.fullmatch(r"demo: done in [\d.]+ s", shown.text.splitlines()[-1])


@pytest.mark.slow
def test_in_a_pipe_there_are_plain_lines(shown: Shown) -> None:
    assert "\x1b" not in shown.text
    assert "\r" not in shown.text
    assert "━" not in shown.text


@pytest.mark.slow
def test_it_finds_what_was_asked_for(shown: Shown) -> None:
    by_query = dict(re.findall(r'^Vectors: "(.*)"\n.*?\d  (\S+)$', shown.text, re.MULTILINE))
    assert by_query["compress a file with gzip"].startswith("gzip.")
    assert by_query["temporary directory that is removed afterwards"].startswith("tempfile.")
    assert by_query["wait until several tasks are done"].startswith("asyncio.")
    _, _, keywords = shown.text.partition("\nKeywords: ")
    keywords, _, hybrid = keywords.partition("\nHybrid, ")
    assert keywords.count("[RFC 2822]") == 3
    hybrid, _, _ = hybrid.partition("\nFilter: ")
    assert re.search(r"^  0\.0\d\d  email\.\S+  \(vector \d+, text \d+\)$", hybrid, re.MULTILINE)


@pytest.mark.slow
def test_what_it_says_to_type_next_works(
    shown: Shown, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shown.folder)
    commands = re.findall(r"^  aiovec (.+)$", shown.text, re.MULTILINE)
    if shown.backend == "sqlite":
        assert commands.pop() == "demo --backend lancedb"  # the other one that is shown here
    assert len(commands) == 5
    for command in commands:
        finished = run(*shlex.split(command))
        assert finished.code == 0, command
        assert len(finished.out.splitlines()) > 1, command


def test_the_store_holds_what_it_showed(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shown.folder)
    (best,) = re.findall(r"^Delete: (\S+), ", shown.text, re.MULTILINE)

    async def look() -> None:
        async with aiovec.connect(CALLS[shown.backend][1]) as store:
            assert store.backend_name == shown.backend
            schema = await store.schema("stdlib")
            assert (schema.dim, schema.model) == (256, HashingEmbedder.model)
            assert schema.embed == aiovec.Embed("text")
            assert await store.count("stdlib") > 3_000
            restored = [best] if store.supports("snapshots") else []
            assert [row.id for row in await store.get("stdlib", best)] == restored
            (row,) = await store.get("stdlib", "json.decoder.JSONDecoder")
            assert row["module"] == "json.decoder"
            assert row["kind"] == "class"
            assert row["length"] == len(row["text"])

    asyncio.run(look())


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize(
    "shown", ["sqlite", pytest.param("lancedb", marks=pytest.mark.soak)], indirect=True
)
def test_again_and_on_a_terminal(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal is the same with both, and each replaces the demo's table by the same calls.

    With SQLite the process cannot import lancedb, so it ends with how to install that.
    """
    monkeypatch.chdir(shown.folder)
    program = [sys.executable, "-c", WITHOUT_LANCEDB] if shown.backend == "sqlite" else []
    code, written = on_a_terminal("demo", *CALLS[shown.backend][0], program=program)
    assert code == 0
    assert "embedding and storing" in written  # the bar
    assert "━" in written
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written).replace("\r", "")
    assert re.search(r"demo: done in [\d.]+ s\n$", plain)
    rows = r"aiovec-demo\.\w+: ([\d,]+) rows"
    assert len(re.findall(rows, plain)) == 1
    assert re.findall(rows, plain) == re.findall(rows, shown.text)
    if program:
        *_, install, again, _, last = plain.splitlines()
        assert install == '  pip install "aiovec[lancedb]"'
        assert again == "  aiovec demo --backend lancedb"
        assert last.startswith("demo: done in ")


@pytest.mark.slow
def test_without_lancedb_it_says_what_to_install(folder: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_LANCEDB, "demo", "--backend", "lancedb"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1
    assert 'pip install "aiovec[lancedb]"' in finished.stderr
    assert list(folder.iterdir()) == []


def test_a_table_that_is_not_the_demos_is_left_alone(run: Run, folder: Path) -> None:
    path = folder / "mine.db"

    async def fill() -> None:
        async with aiovec.connect(str(path)) as store:
            await store.create_table("stdlib", aiovec.Schema(2))
            await store.insert("stdlib", [{"id": "mine", "embedding": [1, 0]}])

    asyncio.run(fill())
    finished = run("demo", "--path", path)
    assert finished.code == 1
    assert "is not the demo's; name another --path" in finished.err
    found = json.loads(run("tables", path, "--json").out)
    assert [(table["name"], table["rows"]) for table in found["tables"]] == [("stdlib", 1)]


def test_a_path_that_cannot_be_a_store(run: Run, folder: Path) -> None:
    path = folder / "text.txt"
    path.write_text("not a database, but long enough to hold a header " * 10, "utf-8")
    finished = run("demo", "--path", path)
    assert finished.code == 1
    assert finished.err.count("\n") == 1
    assert finished.err.startswith("error: ")
