"""Shared by the tests of the command: a folder, a store in it, and a TOML file that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness import command
from tests.harness.command import Finished

from aiovec import Field, Schema, sync

Run = Callable[..., Finished]

SCHEMA = Schema(
    3, model="test-model", fields={"lang": Field(str, index="bitmap"), "year": int, "body": str}
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "embedding": [1, 0, 0], "lang": "en", "year": 2020, "body": "first"},
    {"id": "b", "embedding": [0.9, 0.1, 0], "lang": "de", "year": 2021, "body": "zweite\nZeile"},
    {"id": "c", "embedding": [0, 1, 0], "lang": "en", "year": 2022, "body": "third \x1b[31mred"},
    {"id": "d", "embedding": [0, 0, 1], "lang": None, "year": None, "body": "x" * 1000},
]


@pytest.fixture
def run() -> Run:
    return command.run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder without a TOML file, and an environment that names none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """A store with the table ``notes``."""
    path = folder / "notes.db"
    with sync.connect(path) as vectors:
        vectors.create_table("notes", SCHEMA)
        vectors.insert("notes", ROWS)
    return path


@pytest.fixture
def config(folder: Path, store: Path) -> Path:
    """A TOML file, elsewhere, whose sqlite store is ``store``."""
    path = folder / "elsewhere" / "my.toml"
    path.parent.mkdir()
    path.write_text('[retrieval]\nbackend = "sqlite"\nsqlite_path = "../notes.db"\n', "utf-8")
    return path
