"""The page for those who come from another layout is run from top to bottom."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.harness.command import run
from tests.harness.vec0 import connect

import aiovec.sync
from aiovec.compat import VectorStore

from .blocks import ROOT, blocks

PAGE = "docs/how-to/from-other-stores.md"
UNIT = [row.tobytes() for row in np.eye(4, dtype=np.float32)]
TABLES = """
CREATE TABLE _collection_meta (name TEXT PRIMARY KEY, dim INTEGER, model TEXT);
CREATE VIRTUAL TABLE vec_notes USING vec0(embedding float[4] distance_metric=cosine);
CREATE TABLE payload_notes (rowid INTEGER PRIMARY KEY, orig_id TEXT, payload_json TEXT);
"""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the databases of the page, in which one row is bad."""
    monkeypatch.chdir(tmp_path)
    (view,) = blocks(PAGE, "sql")
    db = connect(tmp_path / "old.db")
    db.executescript(TABLES)
    db.execute("INSERT INTO _collection_meta VALUES ('notes', 4, 'nomic')")
    for rowid, id in enumerate("abc", 1):
        vector = UNIT[rowid] if id != "c" else bytes(16)
        db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (?, ?)", (rowid, vector))
        db.execute("INSERT INTO payload_notes VALUES (?, ?, ?)", (rowid, id, '{"text": "t"}'))
    db.close()
    db = connect(tmp_path / "copy.db")
    db.execute("CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT)")
    db.execute("CREATE VIRTUAL TABLE vectors USING vec0(embedding float[4])")
    for i in (1, 2, 3):
        db.execute("INSERT INTO docs VALUES (?, ?)", (i, f"t{i}"))
        db.execute("INSERT INTO vectors (rowid, embedding) VALUES (?, ?)", (i, UNIT[i]))
    db.executescript(view)
    db.close()
    return tmp_path


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the page, and what it says."""
    for block in blocks(PAGE, "console"):
        for part in re.split(r"^\$ aiovec ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def words(text: str) -> list[str]:
    """The words of an output, whatever stands between them, and without times."""
    return sorted(re.sub(r"\d+\.\d\d s", "… s", text).split())


@pytest.mark.slow
def test_every_command_says_what_the_page_shows(old: Path) -> None:
    listed = list(commands())
    assert len(listed) > 1
    for command, shown in listed:
        done = run(*shlex.split(command))
        incomplete = "rejected" in shown
        assert done.code == int(incomplete), (command, done.err)
        output = done.out + (done.err if incomplete else "")
        assert words(output) == words(shown), command
    (rejects,) = blocks(PAGE, "json")
    written = (old / "old.db.rejects.jsonl").read_text("utf-8").splitlines()
    assert list(map(json.loads, written)) == list(map(json.loads, rejects.splitlines()))
    with aiovec.sync.connect("new.db") as store:
        (hit,) = store.search("texts", [0, 0, 1, 0], limit=1)
        assert (hit.id, hit["title"]) == ("2", "t2")
    with VectorStore("new.db") as points:
        points.ensure_collection("notes", 4, model="nomic")
        (point,) = points.search("notes", [1, 0, 0, 0], limit=1)
        assert (point["id"], point["payload"]) == ("a", {"text": "t"})


def test_the_pages_on_imports_name_every_option() -> None:
    reference = [f"docs/reference/{name}.md" for name in ("sources", "documents", "watch")]
    names = (PAGE, "docs/how-to/files-and-frames.md", *reference)
    pages = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    options = set(re.findall(r"(?m)^ +(?:-\w, )?(--[a-z-]+)", run("import", "--help").out))
    assert len(options) > 10
    special = {"--help", "--config", "--json", "--store"}  # of every command
    assert [option for option in sorted(options - special) if option not in pages] == []
