"""aiovec demo."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.harness.command import run_process
from tests.transfer.support import error_of

import aiovec
from aiovec import sync

from .conftest import Run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "target"),
    [
        ("sqlite", "aiovec-demo.db"),
        pytest.param("lancedb", "lancedb://aiovec-demo.lance", marks=pytest.mark.soak(minutes=1)),
    ],
)
def test_the_demo_shows_searches_and_working_commands(run: Run, backend: str, target: str) -> None:
    options = [] if backend == "sqlite" else ["-s", target]
    shown = run_process("demo", *options, PYTHONIOENCODING="utf-8", COLUMNS="120")
    assert shown.code == 0, shown.err
    text = shown.out
    assert not re.search(r"[\x1b\r━]", text)
    results = re.findall(r"^(\S.*)\n  [\d.]+  (\S+)$", text, re.MULTILINE)
    best = dict(results)
    assert best['Vectors: "compress a file with gzip"'].startswith("gzip.")
    assert best['Vectors: "temporary directory that is removed afterwards"'].startswith("tempfile.")
    assert best['Vectors: "wait until several tasks are done"'].startswith("asyncio.")
    assert best['Keywords: "RFC 2822" -header'].startswith("email.")
    kinds = [title.split(":")[0].split(",")[0] for title, _ in results]
    assert kinds == ["Vectors"] * 3 + ["Filter", "Keywords", "Hybrid"]
    with sync.connect(target) as store:
        assert store.backend_name == backend
        schema = store.schema("stdlib")
        local = find_spec("wordllama") and find_spec("tokenizers")
        model = "wordllama-l2-supercat-256" if local else "aiovec-demo-hash-256"
        assert (schema.dim, schema.model) == (256, model)
        rows = store.count("stdlib")
        assert rows > 3_000
        (row,) = store.get("stdlib", "json.decoder.JSONDecoder")
        assert (row["module"], row["kind"]) == ("json.decoder", "class")
    *_, last = text.splitlines()
    assert re.fullmatch(rf"demo: done in [\d.]+ s; {rows:,} passages are in .*aiovec-demo\S+", last)
    *commands, other = re.findall(r"^  aiovec (.+)$", text, re.MULTILINE)
    assert other == "demo -s lancedb://aiovec-demo.lance"
    assert len(commands) == 3
    for command_line in commands:
        finished = run(*shlex.split(command_line))
        assert finished.code == 0, command_line
        assert len(finished.out.splitlines()) > 1, command_line


def test_the_demo_leaves_another_programs_data_alone(run: Run, folder: Path) -> None:
    with sync.connect("mine.db") as store:
        store.create_table("stdlib", aiovec.Schema(2))
        store.insert("stdlib", [{"id": "mine", "embedding": [1, 0]}])
    assert "is not the demo's; name another --store" in error_of("demo", "-s", "mine.db")
    assert run("tables", "-s", "mine.db").lines[1][:2] == ["stdlib", "1"]
    (folder / "text.txt").write_text("no database, but long enough to hold a header " * 10)
    finished = run("demo", "-s", "text.txt")
    assert (finished.code, finished.err.count("\n")) == (1, 1)
