"""Stores for the bridges: one backend after the other, open for code with and without await."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiovec import sync


@pytest.fixture(params=["sqlite", "lancedb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sync.VectorStore]:
    target = tmp_path / "bridge.db" if request.param == "sqlite" else f"lancedb://{tmp_path}/bridge"
    with sync.connect(target) as store:
        yield store
