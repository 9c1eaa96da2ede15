"""Fixtures that several of these tests begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.lancedb.support import opened

from aiovec import VectorStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[VectorStore]:
    """A store in a folder, whose tables get no vector index but what they are told."""
    async with opened(tmp_path / "store", index="none") as store:
        yield store
