"""The migrator over model stores, on a loop that is one course of events for each seed.

    python -m tests.unit.migrate.simulation SEED

prints what happened in one of them.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from tests.harness.cases import Seeds

from .simulation.course import Course

# As the trace tells it.
_HAPPENS = (
    "ends the pause", "hangs", "fails", "did not confirm", "is lost", "is sent on", "called off",
    "stalls", "has made", "has dropped", "is killed",
)  # fmt: skip
_KINDS = ("sqlite", "lancedb")
WANTED = {
    *_HAPPENS,
    *(f"{source}-{target}" for source in _KINDS for target in _KINDS),
    *("run", "back", "abort", "killed at a step"),
}
# Among these every kind of event is met: some are rare. In 3663 nobody can tell whether the switch
# was done.
SEEDS = (1, 2, 3, 10, 58, 97, 1115, 2938, 2975, 3663)


def met_by(course: Course) -> Counter[str]:
    """Return the kinds of events that a seed met; a simulation without kills shows nothing."""
    scenario = course.scenario
    met = Counter([f"{scenario.source}-{scenario.target}", *scenario.commands])
    events = [line.split(maxsplit=2)[2] for line in course.world.trace]
    for before, after in itertools.pairwise(events):
        met["killed at a step"] += "is killed" in after and before.startswith("step")
    for kind in _HAPPENS:
        met[kind] += sum(kind in text for text in events)
    return met


def test_seeds_that_meet_every_kind_of_event() -> None:
    met: Counter[str] = Counter()
    for seed in SEEDS:
        course = Course(seed)
        course.run()
        met += met_by(course)
    assert WANTED - met.keys() == set(), met


@pytest.mark.soak(minutes=10)
@pytest.mark.timeout(7200)
def test_10000_seeds(seeds: Seeds) -> None:
    for seed in seeds(10_000):
        Course(seed).run()
