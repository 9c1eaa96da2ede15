"""Fixtures of the LanceDB backend's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.lancedb.support import opened

from aiovec import VectorStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[VectorStore]:
    """Yield a store in a folder, whose tables get a vector index only on request."""
    async with opened(tmp_path / "store", index="none") as store:
        yield store
