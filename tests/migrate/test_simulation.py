"""The migrator over model stores, on a loop that is one course of events for each seed.

    python -m tests.migrate.simulation SEED

prints what happened in one of them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from typing import Any

import pytest

from aiovec_migrate import RunState, TableState, copying
from aiovec_migrate.journal import Journal

from .simulation.backend import FileBackend, ModelBackend
from .simulation.course import Course, Scenario
from .simulation.world import ModelJournal, ModelToml

# Seeds among which a broken migrator is found out.
_FOUND_OUT_WITHIN = 150


def run_all(seeds: range) -> None:
    for seed in seeds:
        Course(seed).run()


def test_500_seeds() -> None:
    run_all(range(500))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_10000_seeds() -> None:
    first = int.from_bytes(os.urandom(3)) * 10_000
    print(f"seeds from {first}")  # noqa: T201 - what was tried, should it be asked
    run_all(range(first, first + 10_000))


def test_a_seed_is_one_course_of_events() -> None:
    for seed in (3, 14, 15):
        one, other = Course(seed), Course(seed)
        one.run()
        other.run()
        assert one.world.trace == other.world.trace
        assert len(one.world.trace) > 20


def test_seeds_meet_what_can_happen() -> None:
    """Kills at each kind of moment, faults, pauses that are too long, and all ways to the end."""
    met: Counter[str] = Counter()
    for seed in range(120):
        course = Course(seed)
        course.run()
        lines = [line.split(maxsplit=2) for line in course.world.trace]
        told = [text for _, _, text in lines]
        met.update(course.scenario.commands)
        met.update(f"{course.scenario.source}-{course.scenario.target}" for _ in (1,))
        for before, after in itertools.pairwise(told):
            if "is killed" in after:
                met["killed"] += 1
                met["killed at a step"] += before.startswith("step")
        for text in told:
            for kind in ("ends the pause", "hangs", "fails", "is lost", "is sent on", "follows"):
                met[kind] += kind in text
    wanted = {
        "run", "rollback", "finish", "abort", "sqlite-lancedb", "sqlite-sqlite", "lancedb-sqlite",
        "lancedb-lancedb", "killed", "killed at a step", "ends the pause", "hangs", "fails",
        "is lost", "is sent on", "follows",
    }  # fmt: skip
    assert {kind for kind in wanted if not met[kind]} == set(), met


# A migrator that is broken is found out


def found_out(course: type[Course]) -> str:
    """The first seed's complaint."""
    for seed in range(_FOUND_OUT_WITHIN):
        if not wanted(seed):
            continue
        try:
            course(seed).run()
        except Exception as error:  # noqa: BLE001 - whatever it is that came to light
            return str(error)
    raise AssertionError("nobody noticed")


def wanted(seed: int) -> bool:
    """Whether the seed has what can bring it to light; others would only take time."""
    scenario = Scenario.of(seed)
    return scenario.source == "sqlite" and scenario.options.switch and scenario.workers > 0


class Lying(ModelJournal):
    """It says that a table was copied wholly when the first rows were."""

    async def save(self, state: RunState, *tables: TableState) -> None:
        told = []
        for table in tables:
            known = TableState.from_json(table.to_json())
            known.copied = known.rows > 0
            told.append(known)
        await super().save(state, *told)


def test_a_journal_that_lies_is_found_out() -> None:
    class Broken(Course):
        def journal(self) -> Journal:
            return Lying(self.world)

    assert found_out(Broken)


def test_a_flip_before_the_mark_is_found_out() -> None:
    class Early(FileBackend):
        async def set_moved(self, run: str, moved_to: str, **named: Any) -> bool:
            await ModelToml(self.world).flip("new")
            return await super().set_moved(run, moved_to, **named)

    class Broken(Course):
        def store(self, name: str) -> ModelBackend:
            if name == "old":
                return Early(self.world.disks[name], self.world, faulty=True)
            return super().store(name)

    assert found_out(Broken)


def test_a_pause_that_does_not_wait_for_writes_under_way_is_found_out() -> None:
    class Hasty(FileBackend):
        async def pause_writers(self, run: str, limit: float) -> None:
            self.disk.pause_writers(run, limit)

    class Broken(Course):
        def store(self, name: str) -> ModelBackend:
            if name == "old":
                return Hasty(self.world.disks[name], self.world, faulty=True)
            return super().store(name)

    assert found_out(Broken)


def test_a_cursor_that_is_saved_before_the_write_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = copying.Filler.write
    chance = random.Random(1)

    async def soon(self: copying.Filler, rows: Any) -> None:
        """The write goes on by itself while the cursor is saved."""
        task = asyncio.ensure_future(write(self, rows))
        if chance.random() < 0.9:
            await asyncio.wait([task])

    monkeypatch.setattr(copying.Filler, "write", soon)
    assert found_out(Course)
