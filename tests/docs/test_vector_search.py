"""The page for those who come from another layout is run from top to bottom."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiovec._cli import main
from aiovec_sqlite.driver import connect

from .blocks import ROOT, blocks

PAGE = "docs/VECTOR_SEARCH.md"
UNIT = np.eye(4, dtype=np.float32)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's database, with a few rows of which one in two tables is bad."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    db = connect(str(tmp_path / "old.db"))
    collection, items, docs, _ = blocks(PAGE, "sql")
    for block in (collection, items, docs):
        db.executescript(block)
    db.execute("INSERT INTO _collection_meta VALUES ('notes', 4, 'nomic')")
    for rowid, id in enumerate("abc", 1):
        vector = UNIT[rowid] if id != "c" else np.zeros(4, np.float32)
        db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (?, ?)", (rowid, vector.data))
        db.execute("INSERT INTO payload_notes VALUES (?, ?, ?)", (rowid, id, '{"text": "t"}'))
    for i, model in enumerate(("small", "large", "small", "large")):
        db.execute(
            "INSERT INTO items VALUES (?, ?, ?, 'a', ?)", (i, UNIT[i].tobytes(), model, f"b{i}")
        )
    for i in (1, 2, 3):
        blob = UNIT[i].tobytes()[: 12 if i == 3 else 16]
        db.execute("INSERT INTO docs VALUES (?, ?, ?, ?)", (i, f"t{i}", 1999 + i, blob))
    db.close()
    return tmp_path


def beside(folder: Path) -> None:
    """The two databases that later parts of the page speak of."""
    db = connect(str(folder / "copy.db"))
    db.execute("CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT)")
    db.execute("CREATE VIRTUAL TABLE vectors USING vec0(embedding float[4])")
    for i in (1, 2, 3):
        db.execute("INSERT INTO docs VALUES (?, ?)", (i, f"t{i}"))
        db.execute("INSERT INTO vectors (rowid, embedding) VALUES (?, ?)", (i, UNIT[i].tobytes()))
    db.executescript(blocks(PAGE, "sql")[-1])
    db.close()
    db = connect(str(folder / "halves.db"))
    db.execute("CREATE TABLE halves (code TEXT, v BLOB)")
    for i in (1, 2):
        db.execute("INSERT INTO halves VALUES (?, ?)", (f"c{i}", UNIT[i].astype("<f2").tobytes()))
    db.close()


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the page, and what it says."""
    for block in blocks(PAGE, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def words(text: str) -> list[str]:
    """The words of an output, whatever stands between them, and without times."""
    return re.sub(r"\d+\.\d\d s", "… s", text).split()


def test_every_command_says_what_the_page_shows(
    old: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(old)
    found = list(commands())
    assert len(found) > 7
    for command, shown in found:
        program, *arguments = shlex.split(command)
        assert program == "aiovec"
        monkeypatch.setattr(sys, "argv", ["aiovec", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        incomplete = "not taken" in shown and "--allow-rejects" not in arguments
        assert int(ended.value.code or 0) == int(incomplete), (command, printed.err)
        output = printed.out + (printed.err if "such as" in shown else "")
        assert sorted(words(output)) == sorted(words(shown)), command
    (rejects,) = blocks(PAGE, "json")
    listed = (old / "old.db.rejects.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in listed] == [
        json.loads(line) for line in rejects.splitlines()
    ]
    assert {f"{name}.db" for name in ("old", "before", "new", "other")} <= set(os.listdir())
    names: dict[str, Any] = {}
    for code in blocks(PAGE, "python"):
        compiled = compile(code, PAGE, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(compiled, names)
        if outcome is not None:
            asyncio.run(outcome)
    assert names["found"] == [("0", "b0"), ("2", "b2")]
    assert [(point["id"], point["payload"]) for point in names["points"]] == [("a", {"text": "t"})]


def test_the_page_names_every_format_and_option() -> None:
    from aiovec._transfer import formats

    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for suffix in formats._SUFFIXES:
        assert f"`{suffix}`" in page
    source = (ROOT / "src/aiovec/_cli/importing.py").read_text(encoding="utf-8")
    for option in re.findall(r'"(--[a-z-]+)"', source):
        assert option in page, option
