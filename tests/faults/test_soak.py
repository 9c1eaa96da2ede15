"""64 clients and a second process on one file: every answer right, nothing grows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aiovec import Field, Schema
from aiovec.testing.soak import SoakReport, soak, soak_schema

TABLES: dict[str, Schema] = {
    "plain": soak_schema(48),
    "parts": soak_schema(32, metric="l2", fields={"owner": Field(str, partition=True)}),
    "dots": soak_schema(24, metric="dot", quantized="bit"),
}


def check_done(report: SoakReport) -> None:
    """Each kind of work was done, so the checks checked something."""
    sys.stdout.write(f"{report}\n")
    for kind in (
        "compared with the oracle", "whole answers compared", "searches over all",
        "searches over own rows", "marks of the other process seen", "writes",
        "cancelled writes done", "cancelled writes undone", "cancelled calls", "refused inserts",
        "exports", "optimizes", "other reads",
    ):  # fmt: skip
        assert report.counts[kind] > 0, kind
    assert report.neighbour["writes"] > 0
    assert report.neighbour["searches"] > 0


async def test_soak_of_ten_seconds(tmp_path: Path) -> None:
    report = await soak(tmp_path / "a.db", TABLES, seconds=10, base_rows=300, quiet_every=2.5)
    check_done(report)
    report.check_nothing_left()


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_soak_of_five_minutes(tmp_path: Path) -> None:
    report = await soak(tmp_path / "a.db", TABLES, seconds=300, base_rows=4200, quiet_every=25)
    check_done(report)
    report.check_nothing_left()
    # The first minute is for caches that fill.
    report.check_no_growth(memory=0.05, warm_up=3)
