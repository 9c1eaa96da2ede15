"""The pages' examples run, and their tables are complete."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import aiovec
from aiovec import F, Schema
from aiovec.backend import bind

from .blocks import ROOT, blocks


async def test_the_guide_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    async with aiovec.connect("guide.db") as store:
        names["store"] = store
        for code in blocks("docs/GUIDE.md", "python"):
            compiled = compile(code, "GUIDE.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            outcome = eval(compiled, names)
            if outcome is not None:
                await outcome
        assert [record.id for record in names["records"]] == ["c", "a"]
        assert names["total"] == 2
        assert [hit.id for hit in names["hits"]] == ["1"]
        assert [hit.id for hit in names["by_words"]] == ["wool"]
        assert [hit.id for hit in names["by_both"]] == ["e42", "hats"]
        assert [hit.id for hit in names["near"]] == ["1"]
        assert [hit.id for hit in names["both"]] == ["2"]
        after = [batch async for batch in store.export("articles", after=names["cursor"])]
        assert after == []
        (north,) = await store.get("articles", "b")
        assert (north["year"], north["read"]) == (2026, True)


def test_the_reference_shows_one_schema_in_each_form() -> None:
    names: dict[str, Any] = {}
    declare, filters = blocks("docs/REFERENCE.md", "python")
    exec(declare, names)
    schema = names["schema"]
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_arrow(pa.schema(schema.to_arrow())) == schema
    (shown,) = blocks("docs/REFERENCE.md", "json")
    assert Schema.from_json(shown).fields["body"].text
    exec(filters, names)
    assert F is names["F"]
    # The one differs in the last operator only.
    by_text = names["by_text"].replace("LIKE 'x%'", "STARTSWITH 'x'")
    assert bind(names["by_code"], schema) == bind(by_text, schema)


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    page = (ROOT / "docs/CONFIGURATION.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(retrieval\.[\w.]+)` \| `(.+?)` \|", page, re.MULTILINE))
    sample = tomllib.loads((ROOT / "config/aiovec.toml").read_text(encoding="utf-8"))
    expected: dict[str, Any] = {}
    for key, value in sample["retrieval"].items():
        if isinstance(value, dict):
            expected |= {f"retrieval.{key}.{name}": default for name, default in value.items()}
        else:
            expected[f"retrieval.{key}"] = value
    assert {key: tomllib.loads(f"v = {text}")["v"] for key, text in listed.items()} == expected
    for text in blocks("docs/CONFIGURATION.md", "toml"):
        tomllib.loads(text)


def test_every_guarantee_names_tests_that_exist() -> None:
    page = (ROOT / "docs/GUARANTEES.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = [*(ROOT / "tests").rglob("*.py")]
    defined = {
        name
        for source in sources
        for name in re.findall(r"def (test_\w+)", source.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= defined, f"not there: {sorted(named - defined)}"


def test_the_reference_has_every_method_and_every_error() -> None:
    page = (ROOT / "docs/REFERENCE.md").read_text(encoding="utf-8")
    _, _, methods = page.partition("\n## Methods of a store\n")
    methods, _, errors = methods.partition("\n## Errors\n")
    first = "\n".join(re.findall(r"^\| (.+?) \|", methods, re.MULTILINE))
    public = {name for name in vars(aiovec.VectorStore) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)[(`]", first)) == public
    listed = re.findall(r"^\| `(\w+)`( \\\*)? \|.*\| (.*) \|$", errors, re.MULTILINE)
    assert [name for name, *_ in listed] == [
        name
        for name in re.findall(r"^class (\w+)", inspect.getsource(aiovec.errors), re.MULTILINE)
        if name != "AiovecError"
    ]
    for name, star, facts in listed:
        kind = getattr(aiovec.errors, name)
        assert bool(star) == issubclass(kind, ValueError), name
        if name in ("EmbeddingError", "MigrationError"):  # one has a table of its own
            continue
        own = set(re.findall(r"self\.(\w+) =", inspect.getsource(kind)))
        assert set(re.findall(r"`(\w+)`", facts)) == own, name
