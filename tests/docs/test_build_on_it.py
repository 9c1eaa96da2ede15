"""Each example of the pages on plug-ins is short, and works once it is installed."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.harness.command import run
from tests.harness.packages import install

import aiovec
import aiovec.sync
from aiovec import Schema

from .blocks import ROOT, commands

PAGE = "docs/how-to/build-on-it.md"
PAGES = (PAGE, "docs/internals/writing-a-backend.md")
Use = Callable[[str], None]


def section(title: str) -> str:
    """Return the text under a heading of the pages."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def install_example(title: str, site: Path) -> list[str]:
    """Install the package of a section; return its modules."""
    modules = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", section(title), re.DOTALL))
    lines = [line for source in modules.values() for line in source.splitlines() if line.strip()]
    assert 0 < len(lines) <= 30, title
    entries = ""
    for block in re.findall(r"```toml\n(\[project\..*?)```", section(title), re.DOTALL):
        ((group, names),) = tomllib.loads(block)["project"]["entry-points"].items()
        entries = "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in names.items())])
    install(site, title.replace(" ", "_"), entries, **modules)
    return list(modules)


def commands_of(title: str) -> list[tuple[list[str], str]]:
    """Return the arguments of each command of a section, and the output that it shows."""
    (block,) = re.findall(r"```console\n(.*?)```", section(title), re.DOTALL)
    parts = re.split(r"^(?=\$ )", block, flags=re.MULTILINE)[1:]
    return [(commands(part)[0], part.partition("\n")[2]) for part in parts]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    for name in ("AIOVEC_CONFIG", "AIOVEC_RETRIEVAL__BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install the package of a section, and run the section's commands."""

    def use(title: str) -> None:
        monkeypatch.syspath_prepend(folder / "site")  # what is installed is cached by the path
        for module in install_example(title, folder / "site"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        for block in re.findall(r"```toml\n(\[retrieval.*?)```", section(title), re.DOTALL):
            (folder / "aiovec.toml").write_text(block, encoding="utf-8")
        for arguments, shown in commands_of(title):
            done, words = run(*arguments), shown.split()
            assert (done.code, done.out.split()[: len(words)]) == (0, words), (arguments, done)

    return use


def test_the_page_names_every_group_of_entry_points() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"^\| \[`(aiovec\.\w+)`\]", text, re.MULTILINE)
    ours = {group for group in project["entry-points"] if group.startswith("aiovec.")}
    assert sorted(named) == sorted({"aiovec.backends", "aiovec.commands", *ours})


def test_the_command_lists_rows_and_says_in_one_line_what_is_wrong(use: Use) -> None:
    with aiovec.sync.connect("papers.db") as store:
        store.create_table("papers", Schema(1, fields={"year": int}))
        years = {"a": 1999, "b": 2017, "c": 2021}
        rows = [{"id": id, "embedding": [1], "year": year} for id, year in years.items()]
        store.insert("papers", rows)
    use("A command")
    refused = run("top", "papers", "weight", "papers.db")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "List the rows with the largest values" in run("--help").out


def test_the_source_imports_every_vector(use: Use) -> None:
    vectors = np.eye(3, dtype=np.float32)
    np.savez("points.npz", ids=np.array([7, 8, 9]), vectors=vectors)
    use("A source")
    with aiovec.sync.connect("points.db") as store:
        rows = store.get("points", ["7", "8", "9"], include_vector=True)
    np.testing.assert_array_equal([row.vector for row in rows], vectors)
    assert run("import", "npz:points.npz", "--upsert", "-s", "points.db").code == 0
    with aiovec.sync.connect("points.db") as store:
        assert store.tables() == ["points"]


@pytest.mark.slow
def test_the_backend_is_opened_configured_examined_and_migrated_to_and_from(
    use: Use, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with aiovec.sync.connect("notes.db") as store:
        store.create_table("notes", Schema(2, fields={"n": int}))
        rows = [{"id": str(n), "embedding": [n, 1], "n": n} for n in range(50)]
        store.insert("notes", rows)
    use("A plug-in")
    assert [(record.name, record.getMessage()) for record in caplog.records][-1:] == [
        ("app.audit", "deletes from notes")
    ]
    for target in (None, "audited://audited.db"):
        with aiovec.sync.connect(target) as store:
            assert (store.backend_name, store.target) == ("audited", str(folder / "audited.db"))
            assert store.count("notes") == 40
    for command in ("doctor", "tables"):
        assert run(command).code == 0
    moved = run("migrate", "run", "--to", "lancedb", "--switch")
    assert moved.code == 0, moved.err
    assert run("count", "notes").out == "40\n"
    Path("wrong.toml").write_text('[retrieval.audited]\nlog = "x"\n', encoding="utf-8")
    with pytest.raises(aiovec.ConfigError, match="logger") as caught:
        aiovec.sync.connect("x.db", config="wrong.toml")
    assert caught.value.key == "retrieval.audited.log"


@pytest.mark.slow
def test_the_engine_adds_all_files_or_nothing(use: Use, folder: Path) -> None:
    (folder / "parts").mkdir()
    for n in range(3):
        row = {"id": f"r{n}", "embedding": [n, 1]}
        Path("parts", f"{n}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    use("An engine")
    assert run("count", "parts", "-s", "parts.db").out == "3\n"
    Path("parts", "3.jsonl").write_text('{"id": "r9", "embedding": [9, 1]}', encoding="utf-8")
    again, _ = commands_of("An engine")[0]
    refused = run(*again)
    assert (refused.code, "already" in refused.err) == (1, True), refused.err
    assert run("count", "parts", "-s", "parts.db").out == "3\n"


def test_the_embedder_finds_an_anagram(use: Use) -> None:
    lines = [json.dumps({"id": word, "word": word}) for word in ("below", "above", "window")]
    Path("words.jsonl").write_text("\n".join(lines), encoding="utf-8")
    use("An embedder")
