"""Reads, writes and flushes fail at random below tasks that write, in a process that is then
killed: nothing that was acknowledged is lost, nothing that failed is there, no answer is wrong."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.lancedb import test_kill as lancedb_kill
from tests.sqlite.support import SCHEMAS, State, check_file

from . import shim
from . import test_kill as sqlite_kill
from .test_kill import Journal, run_and_kill, settle


class FaultJournal(Journal):
    """Knows too which calls failed, and how many calls to the system did."""

    def __init__(self, faults: int) -> None:
        super().__init__()
        self.wanted = faults
        self.faults = 0
        self.failed = 0

    def said(self, kind: str, what: str) -> None:
        if kind == "failed":
            self.failed += 1
            del self.begun[what]
        elif kind == "table-failed":
            self.failed += 1
            del self.open[what]
        else:
            assert kind == "faults"
            self.faults += int(what)
            if self.faults >= self.wanted:
                self.heard.set()

    def so_far(self) -> str:
        return f"{self.faults} calls to the system failed, {super().so_far()}"


def campaign(tmp_path: Path, kind: str, rounds: int, faults: int, seed: int) -> Journal:
    """Rounds on one store, each from what the last one left."""
    chance = random.Random(seed)
    library = shim.compiled(tmp_path)
    place = tmp_path / ("place.db" if kind == "sqlite" else "place")
    target = str(place) if kind == "sqlite" else f"lancedb://{place}"
    kills = sqlite_kill if kind == "sqlite" else lancedb_kill
    tables = list(SCHEMAS if kind == "sqlite" else lancedb_kill.TABLES)
    asyncio.run(kills.create(place))
    expected: dict[str, dict[str, State]] = {name: {} for name in tables}
    for turn in range(rounds):
        table = tables[turn % len(tables)]
        journal = FaultJournal(faults)
        run_and_kill(
            target, table, turn, chance,
            writer="tests.faults.fault_writer", journal=journal,
            environment=shim.environment(library, tmp_path / "control"), patience=240.0,
        )  # fmt: skip
        assert journal.done
        asyncio.run(kills.check_own_tables(place, journal))
        settle(journal, expected[table], asyncio.run(kills.records(place, table)))
        if kind == "sqlite":
            assert check_file(place) == {name: len(rows) for name, rows in expected.items()}
    return journal


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_failing_calls_to_the_system(tmp_path: Path, kind: str) -> None:
    """B8."""
    campaign(tmp_path, kind, 2, 60, seed=5)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_ten_thousand_failing_calls_to_the_system(tmp_path: Path, kind: str, part: int) -> None:
    """B8: 500 of them or more in each part."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # noqa: T201 - to run a failed campaign again
    campaign(tmp_path, kind, 5, 100, seed)
