"""The versions of a table that upkeep keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.contract.base import case

from aiovec_lancedb.retention import Pins, Retention
from aiovec_lancedb.session import Version
from aiovec_lancedb.settings import LancedbSettings

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = START + timedelta(seconds=1000)
KEPT = Retention(timedelta(seconds=500), 3, timedelta(seconds=5))


def test_versions_that_are_old_many_or_pinned_are_kept_or_removed() -> None:
    """By the second at which each was made, and the number of the oldest that is read."""
    cases: list[tuple[list[float], int | None, int | None]] = [
        ([100], None, None),  # the newest is never removed
        ([100, 200], None, 1),  # replaced 800 s ago
        ([100, 600], None, None),  # it was the newest until 400 s ago
        ([600, 700, 800], None, None),
        ([600, 700, 800, 900], None, 1),  # no more than three
        ([991, 992, 996, 997, 998, 999], None, 1),  # replaced within 5 s, and those behind
        ([100, 200, 300, 400], 2, 2),  # somebody reads it
        ([100, 200, 300, 400], 0, None),
    ]
    for created, pinned, first in cases:
        with case((created, pinned)):
            versions = [
                Version(number, START + timedelta(seconds=second))
                for number, second in enumerate(created)
            ]
            oldest = KEPT.first_kept(versions, NOW, pinned)
            assert oldest == (None if first is None else versions[first])


def test_reads_from_a_bucket_have_an_hour_for_nobody_sees_them() -> None:
    bucket, folder = (Pins(place, LancedbSettings(), bool) for place in (None, Path("locks")))
    assert bucket.retention.grace >= timedelta(hours=1)
    assert folder.retention.grace <= timedelta(minutes=1)
