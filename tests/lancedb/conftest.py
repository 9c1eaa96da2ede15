"""What several of these tests begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.lancedb.indexed import store_at
from tests.lancedb.support import SURE

from aiovec import VectorStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[VectorStore]:
    """A store in a folder, whose tables get no index but what they are told."""
    async with store_at(tmp_path / "store", SURE) as opened:
        yield opened
