"""The filters that a soak's clients ask with, and which rows each of them selects."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.soak.world import BASE, State, owner_of

from aiovec import F
from aiovec._filters.tree import Combinable

Selects = Callable[[str, State], bool]


def every_row(id: str, state: State) -> bool:
    return True


# Everybody asks with these, so that what a store remembers of a filter serves many.
FILTERS: list[tuple[Combinable | None, Selects]] = [
    (None, every_row),
    (None, every_row),
    (F.owner != BASE, lambda id, _: owner_of(id) != BASE),
    (F.touched >= 30, lambda _, state: state.touched >= 30),
    ((F.touched < 100) & (F.version != 7), lambda _, s: s.touched < 100 and s.version != 7),
    (F.owner.in_([BASE, "c003", "c004"]), lambda id, _: owner_of(id) in (BASE, "c003", "c004")),
]


def own_filters(owner: str, number: int, slots: Iterable[int]) -> list[Combinable]:
    """Filters that select rows of one owner only; ``number`` parts its older writes from others."""
    return [
        F.owner == owner,
        (F.owner == owner) & (F.touched >= number),
        (F.owner == owner) & ~(F.touched < number),
        F.id.in_([f"{owner}/s{n:02}" for n in slots]),
        (F.owner == owner) & (F.version < number),
        F.id.startswith(f"{owner}/x"),
    ]
