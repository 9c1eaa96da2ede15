"""aiovec demo: the first thing that a newcomer sees."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import aiovec
from aiovec.demo import HashingEmbedder

from .conftest import Run
from .test_command import on_a_terminal, posix_only


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder where the demo ran, as a newcomer runs it, and what it wrote into a pipe."""
    folder = tmp_path_factory.mktemp("demo")
    finished = subprocess.run(
        [sys.executable, "-m", "aiovec", "demo"],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return folder, finished.stdout


def test_it_shows_each_thing_and_ends_with_a_clear_line(shown: tuple[Path, str]) -> None:
    _, text = shown
    titles = [line.partition(":")[0] for line in text.splitlines() if re.match(r"\w", line)]
    assert [title.split()[0] for title in titles] == [
        "Text", "Embed", "Search", "Search", "Search", "Filter", "Update", "Delete", "What", "What",
        "demo",
    ]  # fmt: skip
    assert re.search(r"^  [\d,]{5,} passages ", text, re.MULTILINE)
    assert text.count("  3 hits in ") == 5
    assert re.fullmatch(r"demo: done in [\d.]+ s", text.splitlines()[-1])


def test_in_a_pipe_there_are_plain_lines(shown: tuple[Path, str]) -> None:
    _, text = shown
    assert "\x1b" not in text
    assert "\r" not in text
    assert "━" not in text


def test_it_finds_what_was_asked_for(shown: tuple[Path, str]) -> None:
    _, text = shown
    by_query = dict(re.findall(r'^Search: "(.*)"\n.*?\d  (\S+)$', text, re.MULTILINE))
    assert by_query["compress a file with gzip"].startswith("gzip.")
    assert by_query["temporary directory that is removed afterwards"].startswith("tempfile.")
    assert by_query["wait until several tasks are done"].startswith("asyncio.")


def test_what_it_says_to_type_next_works(
    shown: tuple[Path, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = shown
    monkeypatch.chdir(folder)
    commands = re.findall(r"^  aiovec (.+)$", text, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        finished = run(*shlex.split(command))
        assert finished.code == 0, command
        assert len(finished.out.splitlines()) > 1, command


def test_the_store_holds_what_it_showed(shown: tuple[Path, str]) -> None:
    folder, text = shown
    (best,) = re.findall(r"^Delete: (\S+), ", text, re.MULTILINE)

    async def look() -> None:
        async with aiovec.connect(str(folder / "aiovec-demo.db")) as store:
            schema = await store.schema("stdlib")
            assert (schema.dim, schema.model) == (256, HashingEmbedder.model)
            assert await store.count("stdlib") > 3_000
            assert await store.get("stdlib", best) == []
            (row,) = await store.get("stdlib", "json.decoder.JSONDecoder")
            assert row["module"] == "json.decoder"
            assert row["kind"] == "class"
            assert row["length"] == len(row["text"])

    asyncio.run(look())


@posix_only
def test_again_and_on_a_terminal(shown: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, first = shown
    monkeypatch.chdir(folder)
    code, written = on_a_terminal("demo")
    assert code == 0
    assert "embedding and storing" in written  # the bar
    assert "━" in written
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written).replace("\r", "")
    assert re.search(r"demo: done in [\d.]+ s\n$", plain)
    rows = r"aiovec-demo\.db: ([\d,]+) rows"
    assert re.findall(rows, plain) == re.findall(rows, first)


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
