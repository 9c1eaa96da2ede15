"""Commands that change tables, and commands without TABLE in a store with one table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.cases import case
from tests.harness.command import COMMAND, run_process

from aiovec import sync

from .conftest import Run


def test_a_table_is_created_filled_searched_and_dropped(run: Run, folder: Path) -> None:
    notes = ("-s", "notes.db")
    made = run("create", "notes", *notes, "--dim", 2, "--field", "year:int", "--field",
               "tags:list[text]", "--field", "title:text", "--text", "body")  # fmt: skip
    assert (made.code, made.out) == (0, "created notes\n")
    (folder / "rows.jsonl").write_text(
        '{"id": "a", "embedding": [1, 0], "year": 2023, "title": "walk", "body": "by the sea"}\n'
        '{"id": "b", "embedding": [0, 1], "year": 2024, "title": "rain", "body": "on the sea"}\n'
    )
    assert run("import", "rows.jsonl", *notes, "--table", "notes").code == 0
    assert run("count", *notes).out == "2\n"
    assert run("count", "--where", "year > 2023", *notes, "--json").json == {"count": 1}
    assert [row[1] for row in run("search", "sea", *notes).lines[1:]] == ["a", "b"]
    assert run("search", "walk", *notes).lines == [["score", "id"]]
    assert run("text-index", "notes", "title", *notes).code == 0
    assert [row[1] for row in run("search", "walk", *notes).lines[1:]] == ["a"]
    assert run("text-index", "notes", "title", "--drop", *notes).code == 0
    assert run("search", "walk", *notes).lines == [["score", "id"]]
    got = run("get", "b", *notes, "--include-vector", "--json").json["rows"]
    assert (got[0]["year"], got[0]["embedding"]) == (2024, [0, 1])
    missing = run("get", "notes", "a", "x", *notes)
    assert (missing.code, missing.lines[1][0]) == (1, "a")
    assert missing.err == "error: no row has the id 'x'\n"
    assert run("distinct", "year", *notes, "--json").json["values"] == [
        {"value": 2023, "rows": 1}, {"value": 2024, "rows": 1},
    ]  # fmt: skip
    assert run("rows", *notes, "--where", "year = 2024", "--select", "year").lines[1:] == [
        ["b", "2024"]
    ]
    assert run("export", "copy.jsonl", *notes).code == 0
    assert run("delete", "notes", "a", "x", *notes).out == "deleted 1 row\n"
    unnamed = run("delete", "b", *notes)
    assert (unnamed.code, "pass an ID after the table b, or --where" in unnamed.err) == (2, True)
    assert run("delete", "notes", "--where", "year > 3000", *notes).out == "deleted 0 rows\n"
    assert run("delete", "notes", "b", *notes, "--json").json == {"deleted": 1}
    refused = run_process("drop", "notes", *notes)
    assert (refused.code, "pass --yes" in refused.err) == (2, True)
    assert run("tables", *notes).lines[1][0] == "notes"
    assert run("drop", "notes", "--yes", *notes).out == "dropped notes with 0 rows\n"
    none = run("rows", *notes)
    assert (none.code, none.err) == (1, "error: the store has no tables\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is needed")
def test_drop_asks_on_a_terminal(run: Run, store: Path) -> None:
    import pty

    for answer, code, left in (("n", 1, 4), ("y", 0, None)):
        controller, terminal = pty.openpty()
        with (
            os.fdopen(controller, "r+b", buffering=0) as keyboard,
            subprocess.Popen(
                [*COMMAND, "drop", "notes", "-s", store], stdin=terminal, stderr=terminal
            ) as process,
        ):
            os.close(terminal)
            prompt = b""
            while b"[y/N]:" not in prompt:
                prompt += keyboard.read(100)
            assert b"Drop notes with 4 rows?" in prompt
            keyboard.write(f"{answer}\n".encode())
            assert process.wait(60) == code, answer
        with sync.connect(store) as vectors:
            assert (vectors.count("notes") if vectors.tables() else None) == left


def test_a_command_without_a_table_lists_the_tables_to_choose(run: Run, store: Path) -> None:
    with sync.connect(store) as vectors:
        vectors.create_table("memos")
    for line in ("rows", "count", "get a", "distinct id", "search --like a",
                 "export out.jsonl"):  # fmt: skip
        with case(line):
            finished = run(*line.split(), "-s", store)
            assert finished.code == 1
            assert finished.err == "error: name one of the tables: memos, notes\n"
    assert run("count", "notes", "-s", store).out == "4\n"
