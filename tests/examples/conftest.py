"""The example as a reader has it: a copy of its folder, whose TOML file they edit."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    # It announces the successor of httpx, which is not what is tested here.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient as TestClient

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app"
BACKENDS = ("sqlite", "lancedb")


@dataclass(frozen=True)
class Copy:
    folder: Path

    @property
    def toml(self) -> Path:
        return self.folder / "aiovec.toml"

    def flip(self, backend: str) -> None:
        """Change the line that says the backend, as an editor does, and nothing else."""
        before = self.toml.read_text(encoding="utf-8")
        line = f'backend = "{backend}"'
        after, found = re.subn(r'^backend = "\w+"', line, before, flags=re.MULTILINE)
        assert found == 1
        beside = self.folder / "aiovec.toml.new"
        beside.write_text(after, encoding="utf-8")
        beside.replace(self.toml)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    monkeypatch.delenv("AIOVEC_RETRIEVAL__BACKEND", raising=False)
    folder = tmp_path / "my_app"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "__pycache__", ".*"))
    return Copy(folder)


@pytest.fixture
def app(example: Copy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The copy's app. Its modules have names that anybody's may have, so they go again."""
    monkeypatch.syspath_prepend(example.folder)
    before = set(sys.modules)
    try:
        yield importlib.import_module("app").app
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).is_relative_to(example.folder):
                del sys.modules[name]
