"""The files that explain the settings are written from the models, and say what these accept."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aiovec._settings.load import json_schema, retrieval_model
from aiovec.backend import load_settings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
SAMPLE = CONFIG / "aiovec.toml"


def _keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every key and section."""
    found = []
    for name, field in model.model_fields.items():
        found.append((*path, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _keys(field.annotation, (*path, name))
    return found


KEYS = _keys(retrieval_model())
SECTIONS = [("sqlite",), ("lancedb",), ("remote",), ("server",), ("advise",), ("embedders",)]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)


def _at(document: dict[str, Any], path: tuple[str, ...]) -> Any:
    for part in path:
        document = document[part]
    return document


def test_the_sections_are_found() -> None:
    assert {path[:1] for path in KEYS if len(path) > 1} <= set(SECTIONS) <= set(KEYS)
    assert ("sqlite", "durability") in KEYS


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_the_sample_has_every_key_with_its_default(path: tuple[str, ...]) -> None:
    sample = tomllib.loads(SAMPLE.read_text(encoding="utf-8"))
    default = _at(retrieval_model()().model_dump(), path)
    assert _at(sample["retrieval"], path) == default
    assert type(_at(sample["retrieval"], path)) is type(default)


def test_the_sample_has_nothing_else() -> None:
    sample = tomllib.loads(SAMPLE.read_text(encoding="utf-8"))
    assert sample == {"retrieval": retrieval_model()().model_dump()}


@pytest.mark.parametrize("path", [path for path in KEYS if path not in SECTIONS], ids=".".join)
def test_the_sample_explains_every_key(path: tuple[str, ...]) -> None:
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith(f"{path[-1]} = "))
    assert lines[place - 1].startswith("# ")


def test_the_sample_loads() -> None:
    loaded = load_settings(SAMPLE).settings.retrieval
    assert loaded.sqlite_path == str(CONFIG / "aiovec.db")
    assert loaded.lancedb_url == str(CONFIG / "aiovec.lance")
    kept = {"sqlite_path", "lancedb_url"}
    assert loaded.model_dump(exclude=kept) == retrieval_model()().model_dump(exclude=kept)


def test_the_files_are_those_that_the_models_write(tmp_path: Path) -> None:
    names = ["config/aiovec.toml", "config/aiovec.schema.json", "docs/CONFIGURATION.md"]
    (tmp_path / "config").mkdir()
    (tmp_path / "docs").mkdir()
    page = (ROOT / names[2]).read_text(encoding="utf-8")
    without_rows = re.sub(r"^\| `.*\n", "", page, flags=re.MULTILINE)
    assert without_rows != page
    (tmp_path / names[2]).write_text(without_rows, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "aiovec._settings.generate"], cwd=tmp_path, check=True, timeout=60
    )
    for name in names:
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert (ROOT / name).read_text(encoding="utf-8") == written, (
            f"{name} is out of date; run: python -m aiovec._settings.generate"
        )


def test_the_json_schema_describes_every_key() -> None:
    schema = json_schema()
    for path in KEYS:
        node = schema["$defs"]["RetrievalSettings"]
        for part in path:
            node = node["properties"][part]
            if "$ref" in node:
                node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        assert node["description"], path
        if path not in SECTIONS:
            assert node["default"] == _at(retrieval_model()().model_dump(), path)
