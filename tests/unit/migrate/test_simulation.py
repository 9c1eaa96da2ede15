"""The migrator over model stores, on a loop that is one course of events for each seed.

    python -m tests.unit.migrate.simulation SEED

prints what happened in one of them.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest

from .simulation.backend import FileBackend, LakeBackend, ModelBackend
from .simulation.course import STEPS, Course, Scenario
from .simulation.world import ModelToml

# As the trace tells it.
_HAPPENS = (
    "ends the pause", "hangs", "fails", "is lost", "is sent on", "called off", "stalls",
    "has made", "has dropped", "is killed",
)  # fmt: skip
_KINDS = ("sqlite", "lancedb")
WANTED = {
    *_HAPPENS,
    *(f"{one}-{other}" for one in _KINDS for other in _KINDS),
    *("run", "back", "abort", "killed at a step"),
}
# Among these every kind of event is met: some are rare.
SEEDS = (*range(1, 7), 10, 18, 21, 71)


def met_by(course: Course) -> Counter[str]:
    """What a seed has met: a simulation that never kills finds nothing."""
    scenario = course.scenario
    met = Counter([f"{scenario.source}-{scenario.target}", *scenario.commands])
    told = [line.split(maxsplit=2)[2] for line in course.world.trace]
    for before, after in itertools.pairwise(told):
        met["killed at a step"] += "is killed" in after and before.startswith("step")
    for kind in _HAPPENS:
        met[kind] += sum(kind in text for text in told)
    return met


def test_seeds_that_meet_every_kind_of_event() -> None:
    met: Counter[str] = Counter()
    for seed in SEEDS:
        course = Course(seed)
        course.run()
        met += met_by(course)
    assert WANTED - met.keys() == set(), met


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_10000_seeds() -> None:
    first = int.from_bytes(os.urandom(3)) * 10_000
    print(f"seeds from {first}")  # noqa: T201 - what was tried, should it be asked
    for seed in range(first, first + 10_000):
        Course(seed).run()


def test_a_seed_is_one_course_of_events() -> None:
    one, other = Course(14), Course(14)
    one.run()
    other.run()
    assert one.world.trace == other.world.trace
    assert len(one.world.trace) > 20


# A migrator that is broken is found out


def found_out(course: type[Course], source: str, first: int, most: int = 1000) -> str:
    """The complaint of the first seed that has one, of those from ``first``."""
    for seed in range(first, first + most):
        scenario = Scenario.of(seed)
        # Others have nothing that could bring it to light.
        if scenario.source == source and scenario.options.switch and scenario.workers:
            try:
                course(seed).run()
            except Exception as error:  # noqa: BLE001 - whatever it is that came to light
                return f"{seed}: {error}"
    raise AssertionError("nobody noticed")


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

    assert found_out(Broken, "sqlite", first=180)


def test_a_pause_that_does_not_wait_for_writes_under_way_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(self: LakeBackend, limit: float) -> None:
        await self.world.time_passes()

    monkeypatch.setattr(LakeBackend, "flush_writers", at_once)
    assert found_out(Course, "lancedb", first=1)
