"""What the README shows is run as it stands there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiovec

from .blocks import ROOT, blocks


def test_the_first_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    example, printed = blocks("README.md", "python")[0], blocks("README.md", "text")[0]
    outcome = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert outcome.stderr == ""
    assert outcome.stdout == printed
    assert (tmp_path / "notes.db").exists()


def _as_coroutine(code: str, names: dict[str, Any]) -> Callable[[], Awaitable[object]]:
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def run() -> None:
        outcome = eval(compiled, names)
        if outcome is not None:
            await outcome

    return run


async def test_the_tour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "aiovec.toml").write_text('[retrieval]\nsqlite_path = "configured.db"\n')
    tour = [code for code in blocks("README.md", "python")[1:] if "FastAPI" not in code]
    generator = np.random.default_rng(7)
    async with aiovec.connect("tour.db") as store:
        names: dict[str, Any] = {
            "aiovec": aiovec,
            "vector": generator.normal(size=768).astype(np.float32),
            "matrix": generator.normal(size=(2, 768)).astype(np.float32),
            "ids": ["2", "3"],
            "years": [2025, 2019],
        }
        opening, *rest = tour
        # Each way of opening is left open by the page for the sake of shortness.
        for line in opening.splitlines():
            if "connect(" in line:
                await _as_coroutine(f"{line}\nawait store.close()", names)()
        assert (tmp_path / ".notes" / "vectors.sqlite").exists()
        assert (tmp_path / "configured.db").exists()
        names["store"] = store
        for code in rest:
            await _as_coroutine(code, names)()
        assert [hit.id for hit in names["hits"]] == ["1"]
        assert [(record.id, record["year"]) for record in names["records"]] == [
            ("2", 2025),
            ("1", 2024),
        ]
        assert names["records"][1]["read"] is True
        assert [record.id for record in names["recent"]] == ["2"]
        assert "['id', 'embedding', 'body', 'year'" in capsys.readouterr().out


def test_the_web_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    monkeypatch.chdir(tmp_path)
    (code,) = [code for code in blocks("README.md", "python") if "FastAPI" in code]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    with TestClient(names["app"]) as client:
        rows = [
            {"id": "a", "body": "wind from the east", "by": "Ann"},
            {"id": "b", "body": "snow in the north"},
            {"id": "c", "body": "nothing of the kind"},
        ]
        assert client.post("/notes", json=rows).json() == {"count": 3}
        found = client.get("/search", params={"query": "eastern wind"}).json()
    assert len(found) == 3
    assert (found[0]["id"], found[0]["body"], found[0]["by"]) == ("a", rows[0]["body"], "Ann")


async def test_the_embedder_of_the_toml(tmp_path: Path) -> None:
    (lines,) = [text for text in blocks("README.md", "toml") if "embedders" in text]
    (tmp_path / "aiovec.toml").write_text(lines, encoding="utf-8")
    schema = aiovec.Schema(
        768, fields={"body": aiovec.Field(str, text=True)}, embed=aiovec.Embed("body")
    )
    async with aiovec.connect(":memory:", config=tmp_path / "aiovec.toml") as store:
        await store.create_table("docs", schema)
        assert (await store.schema("docs")).model == "nomic-embed-text"


def test_every_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.skipif(os.name == "nt", reason="make is not part of Windows")
def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
