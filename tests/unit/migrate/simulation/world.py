"""All that outlives a migrator: the disks, the TOML, the lock; and its threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aiovec.errors import MigrationError
from aiovec_migrate.places import OpenPlace
from aiovec_migrate.toml import TomlFile

from .backend import BACKENDS, ModelBackend
from .disk import Disk
from .faults import Faults
from .loop import Process, SimulatedLoop, current_process

_T = TypeVar("_T")

CONFIG = "/model/aiovec.toml"


class World:
    def __init__(self, seed: int, loop: SimulatedLoop, kinds: dict[str, str]) -> None:
        self.loop = loop
        self.chance = random.Random(f"world {seed}")
        self.slowness = self.chance.choice([0.002, 0.02, 0.2])
        self.faults = Faults(self, self.chance, 0, 0.0)
        self.disks = {name: Disk(name, kind) for name, kind in kinds.items()}
        self.holder: Process | None = None
        """The process that holds the lock beside the source."""
        self.named = next(iter(kinds))
        """The backend that the TOML names."""
        self.stalls = 0
        """Number of calls of the app that may still stall."""
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

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Take the place of a thread."""
        await self.time_passes()
        current_process().check_alive()
        answer = work(*args)
        await self.time_passes()
        return answer

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep other migrators out."""
        await self.time_passes()
        if self.holder is not None:
            raise MigrationError(f"{self.holder.name} is at work")
        self.holder = current_process()
        try:
            yield
        finally:
            if self.holder is current_process():
                self.holder = None

    def connect(self, name: str, *, faulty: bool = False) -> ModelBackend:
        disk = self.disks[name]
        return BACKENDS[disk.kind](disk, self, faulty=faulty)

    def killed(self, process: Process) -> None:
        for disk in self.disks.values():
            disk.killed(process)
        if self.holder is process:
            self.holder = None


class ModelToml(TomlFile):
    def __init__(self, world: World) -> None:
        super().__init__(Path(CONFIG))
        self.world = world

    async def current(self) -> str:
        return self.world.named

    async def check(self, source: OpenPlace, target: OpenPlace) -> None:
        """Nobody else edits it here."""

    async def flip(self, target: OpenPlace) -> str:
        await self.name(target.configured)
        return ""

    async def name(self, backend: str) -> None:
        await self.world.time_passes()
        current_process().check_alive()
        self.world.faults.flip()
        self.world.named = backend
        self.world.tell(f"the TOML names {backend}")
        await self.world.time_passes()
