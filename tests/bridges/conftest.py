"""A store for the bridges on each backend, for code with and without ``await``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiovec import sync

# The plug-in of llm. An installed wheel of it comes first.
sys.path.append(str(Path(__file__).parents[2] / "distributions" / "llm-aiovec"))


@pytest.fixture(params=["sqlite", "lancedb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sync.VectorStore]:
    target = tmp_path / "bridge.db" if request.param == "sqlite" else f"lancedb://{tmp_path}/bridge"
    with sync.connect(target) as store:
        yield store
