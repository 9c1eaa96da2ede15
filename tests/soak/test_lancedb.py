"""64 clients and a second process on one folder: every answer right, nothing grows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.soak.run import SoakReport, soak
from tests.soak.world import soak_schema

TABLES = {
    "plain": soak_schema(48),
    "lengths": soak_schema(32, metric="l2"),
    "dots": soak_schema(24, metric="dot"),
}
USUAL = (
    "compared with the oracle", "whole answers compared", "searches over all",
    "searches over own rows", "writes", "cancelled calls", "other reads",
)  # fmt: skip


def check_done(report: SoakReport) -> None:
    """Each kind of work was done, so the checks checked something."""
    sys.stdout.write(f"{report}\n")
    for kind in USUAL:
        assert report.counts[kind] > 0, kind
    assert report.neighbour["writes"] > 0
    assert report.neighbour["searches"] > 0


# In the second one every scan waits for its turn.
@pytest.mark.soak
@pytest.mark.parametrize("memory", ["auto", "64 KiB"])
async def test_a_short_soak(tmp_path: Path, memory: str) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text(
        f'[retrieval]\nbackend = "lancedb"\nlancedb_url = "store"\n'
        f'[retrieval.lancedb]\nsearch_memory = "{memory}"\nmax_versions = 20\n'
    )
    report = await soak(
        None, TABLES, config=config, seconds=3, until=USUAL,
        base_rows=200, quiet_every=1.5, exact=True,
    )  # fmt: skip
    check_done(report)
    report.check_nothing_left()


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_soak_of_five_minutes(tmp_path: Path) -> None:
    report = await soak(
        f"lancedb://{tmp_path / 'store'}",
        TABLES, seconds=300, base_rows=2000, quiet_every=25, exact=True,
    )  # fmt: skip
    check_done(report)
    report.check_nothing_left()
    # The first minutes are for caches that fill.
    report.check_no_growth(memory=0.1, warm_up=5)
    files = sum(path.is_file() for path in (tmp_path / "store").rglob("*"))
    assert files < 2000, f"{files} files are left"
