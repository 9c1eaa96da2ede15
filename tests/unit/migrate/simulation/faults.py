"""Faults: stores that refuse, break off, lose an answer or hang for a while.

Only the migrator meets it, and only so many times, so that a run that is begun again and again
has to end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiovec.errors import AiovecError, StoreBusyError, StoreFullError

if TYPE_CHECKING:
    from .backend import ModelBackend
    from .world import World

# Calls that fail on a full disk.
_WRITES = frozenset({"insert", "upsert", "add", "create_table", "create_index"})


class Faults:
    def __init__(self, world: World, chance: random.Random, budget: int, rate: float) -> None:
        self._world = world
        self._chance = chance
        self.rate = rate
        self.left = budget

    def _happens(self) -> bool:
        if self.left <= 0 or self._chance.random() >= self.rate:
            return False
        self.left -= 1
        return True

    async def before(self, backend: ModelBackend, name: str) -> None:
        """Perhaps a failure of a call that has not done anything."""
        if not self._happens():
            return
        failures: list[Callable[[], AiovecError]] = [
            lambda: StoreBusyError(f"{name} met others", 1.0),
            lambda: AiovecError(f"the connection of {name} was reset"),
        ]
        if name in _WRITES:
            failures.append(lambda: StoreFullError(backend.target, "no space"))
        hangs = self._chance.random() < 0.4
        if hangs:
            seconds = self._chance.choice([0.5, 3.0, 40.0])
            self._world.tell(f"{backend.disk.name}: {name} hangs for {seconds} s")
            await self._world.sleep(seconds)
        if not hangs or self._chance.random() < 0.4:
            error = self._chance.choice(failures)()
            self._world.tell(f"{backend.disk.name}: {name} fails: {error}")
            raise error

    async def after(self, backend: ModelBackend, name: str) -> None:
        """Perhaps a failure of a call that is done and durable."""
        if self._happens():
            self._world.tell(f"{backend.disk.name}: the answer of {name} is lost")
            raise AiovecError(f"the answer of {name} was lost")

    def flip(self) -> None:
        if self._happens():
            self._world.tell("the TOML cannot be written")
            raise AiovecError("the TOML cannot be written")
