"""All that outlives a migrator: the disks, the journal's file, the TOML; and its host."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from aiovec.errors import MigrationError
from aiovec_migrate import RunState, TableState
from aiovec_migrate.journal import Journal
from aiovec_migrate.limits import Limits
from aiovec_migrate.locate import Place

from .backend import BACKENDS, ModelBackend
from .disk import Disk
from .faults import Faults
from .loop import Process, SimulatedLoop, current_process

_T = TypeVar("_T")

CONFIG = "/model/aiovec.toml"


@dataclass
class JournalFile:
    """What was saved, as text: whatever the migrator changes later is not in it."""

    run: str | None = None
    tables: dict[str, str] = field(default_factory=dict)
    holder: Process | None = None


class World:
    def __init__(self, seed: int, loop: SimulatedLoop, kinds: dict[str, str]) -> None:
        self.loop = loop
        self.chance = random.Random(f"world {seed}")
        self.slowness = self.chance.choice([0.002, 0.02, 0.2])
        self.host = ModelHost(self)
        self.faults = Faults(self, self.chance, 0, 0.0)
        self.disks = {name: Disk(name, kind) for name, kind in kinds.items()}
        self.journal = JournalFile()
        self.named = next(iter(kinds))
        """What the TOML names."""
        self.stalls = 0
        """How many calls of the app may still stand still for a long time."""
        self.trace: list[str] = []

    def tell(self, text: str) -> None:
        self.trace.append(f"{self.loop.time():9.3f} {current_process().name:>10}  {text}")

    async def time_passes(self, *, much: bool = False) -> None:
        """Others may run, and now and then for a while."""
        kind = self.chance.random()
        if much and self.stalls and self.chance.random() < 0.1 and self.is_app():
            self.stalls -= 1
            seconds = self.chance.choice([1.0, 6.0, 20.0, 60.0]) * (0.5 + self.chance.random())
            self.tell(f"stalls for {seconds:.1f} s")
            await asyncio.sleep(seconds)
        elif much and kind < 0.1:
            await asyncio.sleep(self.chance.random() * 10 * self.slowness)
        elif kind < 0.15:
            await asyncio.sleep(self.chance.random() * self.slowness)
        elif kind < 0.6:
            await asyncio.sleep(0)

    def is_app(self) -> bool:
        return current_process().name.startswith("w")

    async def sleep(self, seconds: float) -> None:
        current_process().check_alive()
        await asyncio.sleep(seconds)
        current_process().check_alive()

    def connect(self, name: str, *, faulty: bool = False) -> ModelBackend:
        disk = self.disks[name]
        return BACKENDS[disk.kind](disk, self, faulty=faulty)

    def killed(self, process: Process) -> None:
        for disk in self.disks.values():
            disk.killed(process)
        if self.journal.holder is process:
            self.journal.holder = None


class ModelHost:
    def __init__(self, world: World) -> None:
        self._world = world
        self.limits = Limits(notice=0.0)

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        await self._world.time_passes()
        current_process().check_alive()
        answer = work(*args)
        await self._world.time_passes()
        return answer

    def now(self) -> float:
        return self._world.loop.time()

    def wall(self) -> datetime:
        """A clock that somebody sets now and then."""
        jump = self._world.chance.choice([0, 0, 0, 86_400, -86_400 * 400])
        return datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=self.now() + jump)

    async def sleep(self, seconds: float) -> None:
        await self._world.sleep(seconds)


class ModelJournal(Journal):
    def __init__(self, world: World) -> None:
        self.world = world
        self._file = world.journal

    async def load(self) -> RunState | None:
        await self.world.time_passes()
        if self._file.run is None:
            return None
        return RunState.from_json(self._file.run, self._file.tables)

    async def save(self, state: RunState, *tables: TableState) -> None:
        await self._change(
            "saved " + " ".join([state.phase, *(f"{t.name}:{t.rows}" for t in tables)]),
            lambda: self.write(state, *tables),
        )

    def write(self, state: RunState, *tables: TableState) -> None:
        self._file.run = state.to_json()
        self._file.tables |= {table.name: table.to_json() for table in tables}

    async def remove(self) -> None:
        def act() -> None:
            self._file.run = None
            self._file.tables = {}

        await self._change("removed", act)

    async def _change(self, text: str, act: Callable[[], None]) -> None:
        await self.world.time_passes()
        current_process().check_alive()
        act()
        self.world.tell(f"journal {text}")
        await self.world.time_passes()

    async def lock(self) -> None:
        await self.world.time_passes()
        if self._file.holder is not None:
            raise MigrationError(f"{self._file.holder.name} is at work")
        self._file.holder = current_process()

    async def unlock(self) -> None:
        if self._file.holder is current_process():
            self._file.holder = None


class ModelToml:
    path = CONFIG

    def __init__(self, world: World) -> None:
        self.world = world

    async def check(self, origin: Place, goal: Place) -> None:
        """Nobody else edits it here."""

    async def flip(self, goal: Place) -> None:
        await self.name(goal.configured)

    async def name(self, backend: str) -> None:
        await self.world.time_passes()
        current_process().check_alive()
        self.world.faults.flip()
        self.world.named = backend
        self.world.tell(f"the TOML names {backend}")
        await self.world.time_passes()
