"""The pages' examples run, and their tables are complete."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import aiovec
from aiovec import Schema

from .blocks import ROOT, blocks, run_code


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_the_first_example_prints_what_the_readme_says() -> None:
    example, printed = blocks("README.md", "python")[0], blocks("README.md", "text")[0]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (printed, "")


async def test_the_tour_of_the_readme(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "aiovec.toml").write_text('[retrieval]\nsqlite_path = "configured.db"\n')
    tour = [code for code in blocks("README.md", "python")[1:] if "FastAPI" not in code]
    generator = np.random.default_rng(7)
    names: dict[str, Any] = {
        "aiovec": aiovec,
        "vector": generator.normal(size=768).astype(np.float32),
        "matrix": generator.normal(size=(2, 768)).astype(np.float32),
        "ids": ["2", "3"],
        "years": [2025, 2019],
    }
    opening, *rest = tour
    for line in opening.splitlines():  # each way to open a store, which the page leaves open
        if "connect(" in line:
            await run_code(f"{line}\nawait store.close()", names)
    assert (folder / ".notes" / "vectors.sqlite").exists()
    assert (folder / "configured.db").exists()
    async with aiovec.connect("tour.db") as store:
        names["store"] = store
        for code in rest:
            await run_code(code, names)
    assert [hit.id for hit in names["hits"]] == ["1"]
    assert [(row.id, row["year"]) for row in names["records"]] == [("2", 2025), ("1", 2024)]
    assert [record.id for record in names["recent"]] == ["2"]
    assert "['id', 'embedding', 'body', 'year'" in capsys.readouterr().out


def test_the_web_app_of_the_readme() -> None:
    from fastapi.testclient import TestClient

    (code,) = [code for code in blocks("README.md", "python") if "FastAPI" in code]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    with TestClient(names["app"]) as client:
        bodies = ("wind from the east", "snow in the north", "nothing of the kind")
        rows = [{"id": id, "body": body} for id, body in zip("abc", bodies, strict=True)]
        assert client.post("/notes", json=rows).json() == {"count": 3}
        found = client.get("/search", params={"query": "eastern wind"}).json()
    assert (len(found), found[0]["id"], found[0]["body"]) == (3, "a", rows[0]["body"])


async def test_the_embedder_of_the_readme(folder: Path) -> None:
    (lines,) = [text for text in blocks("README.md", "toml") if "embedders" in text]
    (folder / "aiovec.toml").write_text(lines, encoding="utf-8")
    fields = {"body": aiovec.Field(str, text=True)}
    async with aiovec.connect(":memory:", config=folder / "aiovec.toml") as store:
        await store.create_table("docs", Schema(768, fields=fields, embed=aiovec.Embed("body")))
        assert (await store.schema("docs")).model == "nomic-embed-text"


async def test_the_guide_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {}
    async with aiovec.connect("guide.db") as store:
        names["store"] = store
        for code in blocks("docs/GUIDE.md", "python"):
            await run_code(code, names, "GUIDE.md")
        shown = {
            "records": ["c", "a"], "hits": ["1"], "by_words": ["wool"], "by_both": ["e42", "hats"],
            "near": ["1"], "both": ["2"],
        }  # fmt: skip
        assert {name: [row.id for row in names[name]] for name in shown} == shown
        assert names["total"] == 2
        assert [b async for b in store.export("articles", after=names["cursor"])] == []
        (north,) = await store.get("articles", "b")
        assert (north["year"], north["read"]) == (2026, True)


async def test_the_reference_shows_one_schema_in_each_form() -> None:
    names: dict[str, Any] = {}
    declare, filters = blocks("docs/REFERENCE.md", "python")
    await run_code(declare, names)
    schema = names["schema"]
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_arrow(pa.schema(schema.to_arrow())) == schema
    (shown,) = blocks("docs/REFERENCE.md", "json")
    assert Schema.from_json(shown).fields["body"].text
    await run_code(filters, names)
    async with aiovec.connect("filters.db") as store:  # both filters are ones of the schema
        await store.create_table("t", schema)
        for name in ("by_code", "by_text"):
            assert await store.count("t", names[name]) == 0


def test_the_reference_has_every_method_and_every_error() -> None:
    page = (ROOT / "docs/REFERENCE.md").read_text(encoding="utf-8")
    _, _, methods = page.partition("\n## Methods of a store\n")
    methods, _, errors = methods.partition("\n## Errors\n")
    first = "\n".join(re.findall(r"^\| (.+?) \|", methods, re.MULTILINE))
    public = {name for name in vars(aiovec.VectorStore) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)[(`]", first)) == public
    listed = re.findall(r"^\| `(\w+)`( \\\*)? \|.*\| (.*) \|$", errors, re.MULTILINE)
    defined = re.findall(r"^class (\w+Error)", inspect.getsource(aiovec.errors), re.MULTILINE)
    assert ["AiovecError", *(name for name, *_ in listed)] == defined
    for name, star, facts in listed:
        kind = getattr(aiovec.errors, name)
        assert bool(star) == issubclass(kind, ValueError), name
        if name not in ("EmbeddingError", "MigrationError"):  # which have a page of their own
            own = {field.name for field in dataclasses.fields(kind)}
            assert set(re.findall(r"`(\w+)`", facts)) == own, name


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    page = (ROOT / "docs/CONFIGURATION.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `retrieval\.([\w.]+)` \| `(.+?)` \|", page, re.MULTILINE))
    sample = tomllib.loads((ROOT / "config/aiovec.toml").read_text(encoding="utf-8"))["retrieval"]
    expected: dict[str, Any] = {}
    for key, value in sample.items():
        section = value if isinstance(value, dict) else None
        expected |= {key: value} if section is None else {f"{key}.{k}": section[k] for k in section}
    assert {key: tomllib.loads(f"v = {text}")["v"] for key, text in listed.items()} == expected
    for text in blocks("docs/CONFIGURATION.md", "toml"):
        tomllib.loads(text)
