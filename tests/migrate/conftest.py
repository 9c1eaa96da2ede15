"""What all tests of the migration begin with."""

from __future__ import annotations

import pytest

from aiovec_migrate import cut_over


@pytest.fixture(autouse=True)
def no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store is open in these tests that would need the time; those who need it set it."""
    monkeypatch.setattr(cut_over, "NOTICE", 0.0)
