"""For the tests of the one class that users hold, on a SQLite file."""

from __future__ import annotations

import pytest
from tests.contract.base import filled
from tests.harness.values import SMALL, small_rows

from aiovec import VectorStore


@pytest.fixture
async def notes(store: VectorStore) -> VectorStore:
    """A store with a table ``notes`` of ten small rows."""
    return await filled(store, SMALL, small_rows(10))
