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
from dataclasses import replace
from typing import Any

import pytest

from aiovec.backend import TableHandle
from aiovec_migrate import RunState, TableState, copy
from aiovec_migrate.journal import Journal

from .simulation.backend import FileBackend, LakeBackend, ModelBackend
from .simulation.course import STEPS, Course, Scenario
from .simulation.disk import ModelLock
from .simulation.world import ModelJournal, ModelToml

# Seeds among which a broken migrator is found out.
_FOUND_OUT_WITHIN = 3000


class Met:
    """What seeds have met: a simulation that never kills finds nothing."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, course: Course) -> None:
        scenario = course.scenario
        self.counts.update([f"{scenario.source}-{scenario.target}", *scenario.commands])
        told = [line.split(maxsplit=2)[2] for line in course.world.trace]
        for before, after in itertools.pairwise(told):
            if "is killed" in after:
                self.counts["killed"] += 1
                self.counts["killed at a step"] += before.startswith("step")
        for kind in _HAPPENS:
            self.counts[kind] += sum(kind in text for text in told)

    def missing(self) -> set[str]:
        kinds = ("sqlite", "lancedb", "bucket")
        ways = {f"{a}-{b}" for a in kinds for b in kinds}
        commands = {"run", "rollback", "finish", "abort", "call_off"}
        wanted = ways | commands | {"killed", "killed at a step", *_HAPPENS}
        return {kind for kind in wanted if not self.counts[kind]}


# As the trace tells it.
_HAPPENS = (
    "ends the pause", "hangs", "fails", "is lost", "is sent on", "follows", "called off", "stalls",
    "was fenced off", "takes over", "has made", "has dropped",
)  # fmt: skip


# Among these every kind of event is met: some are rare.
_SEEDS = (*range(460, 525), 542, 573, 584, 585, 590, 602, 607, 626, 783, 1463)


def test_seeds_that_meet_every_kind_of_event() -> None:
    met = Met()
    for seed in _SEEDS:
        course = Course(seed)
        course.run()
        met.note(course)
    assert met.missing() == set(), met.counts


def test_a_rollback_that_was_called_off_carries_what_came_meanwhile() -> None:
    """Seeds that showed that it did not, or never came to its end."""
    for seed in (1305, 7279, 11018):
        Course(seed).run()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_10000_seeds() -> None:
    first = int.from_bytes(os.urandom(3)) * 10_000
    print(f"seeds from {first}")  # noqa: T201 - what was tried, should it be asked
    for seed in range(first, first + 10_000):
        Course(seed).run()


def test_a_seed_is_one_course_of_events() -> None:
    for seed in (3, 14, 15):
        one, other = Course(seed), Course(seed)
        one.run()
        other.run()
        assert one.world.trace == other.world.trace
        assert len(one.world.trace) > 20


# A migrator that is broken is found out


def found_out(course: type[Course], *sources: str, first: int) -> str:
    """The complaint of the first seed that has one, of those from ``first``.

    What a seed comes to is the same each time, so each test begins near one that has.
    """
    for seed in range(first, first + _FOUND_OUT_WITHIN):
        if not wanted(seed, sources or ("sqlite",)):
            continue
        try:
            course(seed).run()
        except Exception as error:  # noqa: BLE001 - whatever it is that came to light
            return str(error)
    raise AssertionError("nobody noticed")


def wanted(seed: int, sources: tuple[str, ...]) -> bool:
    """Whether the seed has what can bring it to light; others would only take time."""
    scenario = Scenario.of(seed)
    return scenario.source in sources and scenario.options.switch and scenario.workers > 0


class Lying(ModelJournal):
    """It says that a table was copied wholly when the first rows were."""

    async def save(self, state: RunState, *tables: TableState) -> None:
        told = []
        for table in tables:
            known = TableState.from_json(table.to_json())
            known.copied = known.rows > 0
            told.append(known)
        await super().save(state, *told)


@pytest.mark.slow
def test_a_journal_that_lies_is_found_out() -> None:
    class Broken(Course):
        def journal(self) -> Journal:
            return Lying(self.world)

    assert found_out(Broken, first=40)


@pytest.mark.slow
def test_a_flip_before_the_mark_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is wrong with it comes to light only by a kill between the two.
    monkeypatch.setitem(STEPS, "run", ["cut-over:checked"])

    class Early(FileBackend):
        async def set_moved(self, run: str, generation: int) -> bool:
            await ModelToml(self.world).name("new")
            return await super().set_moved(run, generation)

    class Broken(Course):
        def store(self, name: str) -> ModelBackend:
            if name == "old":
                return Early(self.world.disks[name], self.world, faulty=True)
            return super().store(name)

    assert found_out(Broken, first=165)


def test_a_pause_that_does_not_wait_for_writes_under_way_is_found_out() -> None:
    class Hasty(LakeBackend):
        async def flush_writers(self, limit: float) -> None:
            await self.world.time_passes()

        async def _newest(self, table: TableHandle) -> list[list[str]]:
            await self.world.time_passes()
            return list(self.disk.notes.get((self.run or "", table.name), []))

    class Broken(Course):
        def store(self, name: str) -> ModelBackend:
            disk = self.world.disks[name]
            if disk.kind == "sqlite":
                return super().store(name)
            return Hasty(disk, self.world, faulty=True)

    assert found_out(Broken, "lancedb", "bucket", first=0)


@pytest.mark.slow
def test_a_write_that_is_not_noted_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(self: LakeBackend, table: Any) -> list[list[str]]:
        return []

    monkeypatch.setattr(LakeBackend, "_newest", none)
    assert found_out(Course, "lancedb", "bucket", first=0)


@pytest.mark.slow
def test_a_lock_that_is_taken_over_without_a_fence_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C4: the commit of who stood still meanwhile came behind the mark."""
    monkeypatch.setattr(ModelLock, "fenced", False)

    class Slow(Course):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.scenario = replace(self.scenario, stalls=50)

    assert found_out(Slow, "bucket", first=215)


@pytest.mark.slow
def test_a_cursor_that_is_saved_before_the_write_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = copy.TableFill.write
    chance = random.Random(1)

    async def soon(self: copy.TableFill, rows: Any) -> None:
        """The write goes on by itself while the cursor is saved."""
        task = asyncio.ensure_future(write(self, rows))
        if chance.random() < 0.9:
            await asyncio.wait([task])

    monkeypatch.setattr(copy.TableFill, "write", soon)
    assert found_out(Course, first=410)
