"""The command as a user runs it: its arguments in, its exit code and both streams out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import Field, Schema
from aiovec._cli import main

SCHEMA = Schema(
    3, model="test-model", fields={"lang": Field(str, index="bitmap"), "year": int, "body": str}
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "embedding": [1, 0, 0], "lang": "en", "year": 2020, "body": "first"},
    {"id": "b", "embedding": [0.9, 0.1, 0], "lang": "de", "year": 2021, "body": "zweite\nZeile"},
    {"id": "c", "embedding": [0, 1, 0], "lang": "en", "year": 2022, "body": "third \x1b[31mred"},
    {"id": "d", "embedding": [0, 0, 1], "lang": None, "year": None, "body": "x" * 1000},
]


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """The lines of a table that was printed into a pipe."""
        return [line.split("\t") for line in self.out.splitlines()]


Run = Callable[..., Finished]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["aiovec", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Finished(int(ended.value.code or 0), captured.out, captured.err)

    return run


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

    async def fill() -> None:
        async with aiovec.connect(str(path)) as vectors:
            await vectors.create_table("notes", SCHEMA)
            await vectors.insert("notes", ROWS)

    asyncio.run(fill())
    return path


@pytest.fixture
def config(folder: Path, store: Path) -> Path:
    """A TOML file, elsewhere, whose sqlite store is ``store``."""
    path = folder / "elsewhere" / "my.toml"
    path.parent.mkdir()
    path.write_text('[retrieval]\nbackend = "sqlite"\nsqlite_path = "../notes.db"\n', "utf-8")
    return path
