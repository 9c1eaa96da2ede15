"""What all tests of the migration begin with."""

from __future__ import annotations

import pytest

from aiovec_migrate import cutover


@pytest.fixture(autouse=True)
def no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store is open in these tests that would need the time; those who need it set it."""
    monkeypatch.setattr(cutover, "NOTICE", 0.0)
