"""The migrator over model stores, on a loop that is one course of events for each seed.

    python -m tests.unit.migrate.simulation SEED

prints what happened in one of them.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest

from .simulation.course import Course

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
SEEDS = (*range(1, 7), 10, 14, 18, 21, 108, 116)


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
