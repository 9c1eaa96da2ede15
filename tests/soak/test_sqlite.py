"""64 clients and a second process on one file: every answer right, nothing grows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.soak.run import SoakReport, soak
from tests.soak.world import soak_schema

from aiovec import Field, Schema

TABLES: dict[str, Schema] = {
    "plain": soak_schema(48),
    "parts": soak_schema(32, metric="l2", fields={"owner": Field(str, partition=True)}),
    "dots": soak_schema(24, metric="dot", quantized="bit"),
}


USUAL = (
    "compared with the oracle", "whole answers compared", "searches over all",
    "searches over own rows", "marks of the other process seen", "writes",
    "cancelled calls", "other reads",
)  # fmt: skip
SELDOM = (
    "cancelled writes done", "cancelled writes undone", "refused inserts", "exports", "optimizes",
)  # fmt: skip


def check_done(report: SoakReport, kinds: Sequence[str]) -> None:
    """Each kind of work was done, so the checks checked something."""
    sys.stdout.write(f"{report}\n")
    for kind in kinds:
        assert report.counts[kind] > 0, kind
    assert report.neighbour["writes"] > 0
    assert report.neighbour["searches"] > 0


# In the second one the tables push one another out of memory all the time, or outgrow it.
@pytest.mark.slow
@pytest.mark.parametrize("memory", ["1 GiB", pytest.param("48 KiB", marks=pytest.mark.soak)])
async def test_a_short_soak(tmp_path: Path, memory: str) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text(
        f'[retrieval]\nsqlite_path = "a.db"\n[retrieval.sqlite]\nscan_memory = "{memory}"\n'
    )
    report = await soak(
        None, TABLES, config=config, seconds=3, until=USUAL, base_rows=300, quiet_every=1.4
    )
    check_done(report, USUAL)
    report.check_nothing_left()


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_soak_of_five_minutes(tmp_path: Path) -> None:
    report = await soak(tmp_path / "a.db", TABLES, seconds=300, base_rows=4200, quiet_every=25)
    check_done(report, (*USUAL, *SELDOM))
    report.check_nothing_left()
    # The first minute is for caches that fill.
    report.check_no_growth(memory=0.05, warm_up=3)
