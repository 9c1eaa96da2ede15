from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder without a TOML file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """A place for a store."""
    return folder / "store.db"
