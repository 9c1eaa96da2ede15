"""Running a soak, and what comes of it."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.client import Client
from tests.soak.neighbour import Neighbour
from tests.soak.resources import Resources, growth
from tests.soak.whole import check_whole
from tests.soak.world import World

from aiovec import Schema, VectorStore, connect

# Seconds between two calls of ``optimize``, beside all others.
_OPTIMIZE_EVERY = 5.0
# A closed store's last threads end soon after.
_GRACE = 60.0
# A busy machine gets to the rarer kinds of work late.
_LONGER = 120.0


@dataclass
class SoakReport:
    """The calls, the checks, and the resources of the processes at the quiet points."""

    seconds: float
    counts: Counter[str]
    neighbour: Counter[str]
    before: Resources
    after: Resources
    held: list[Resources] = field(default_factory=list)
    held_by_neighbour: list[Resources] = field(default_factory=list)

    def check_no_growth(self, *, memory: float, warm_up: int) -> None:
        """Nothing grows, and after ``warm_up`` quiet points memory by less than this share.

        Memory is compared between the first and the last third of these points. In the last third
        of all there are never more threads and files than at some point before: what a leak took
        would be more each time, but the most exports at once, say, may come late, and SQLite keeps
        their closed files for the next ones.
        """
        for who, held in (("this process", self.held), ("its neighbour", self.held_by_neighbour)):
            grown = growth([point.memory for point in held[warm_up:]])
            assert grown < memory, f"{who} grew by {grown:.1%}: {held}"
            third = max(1, len(held) // 3)
            early, late = held[:-third], held[-third:]
            for kind in ("threads", "files"):
                most = max(getattr(point, kind) for point in early)
                most_late = max(getattr(point, kind) for point in late)
                assert most_late <= most, f"{who} has more {kind}: {held}"

    def check_nothing_left(self) -> None:
        """The closed store gave back its threads and files."""
        assert self.after.threads <= self.before.threads, f"{self.before} became {self.after}"
        assert self.after.files <= self.before.files, f"{self.before} became {self.after}"

    def __str__(self) -> str:
        parts = [f"soak of {self.seconds:.0f} s"]
        parts += [f"{name} {number}" for name, number in sorted(self.counts.items())]
        parts.append(f"second process: writes {self.neighbour['writes']}")
        parts.append(f"searches {self.neighbour['searches']}")
        for who, held in (("", self.held), ("second process ", self.held_by_neighbour)):
            memory = [f"{point.memory / 2**20:.1f}" for point in held]
            parts.append(f"{who}MiB {' '.join(memory)}")
            parts.append(f"{who}threads {' '.join(str(point.threads) for point in held)}")
            parts.append(f"{who}files {' '.join(str(point.files) for point in held)}")
        return ", ".join(parts)


async def soak(
    target: str | Path | None,
    tables: Mapping[str, Schema],
    *,
    seconds: float,
    until: Sequence[str] = (),
    config: str | Path | None = None,
    clients: int = 64,
    base_rows: int = 2000,
    quiet_every: float = 15.0,
    exact: bool = False,
    seed: int = 0,
) -> SoakReport:
    """Soak the store that ``connect(target, config=config)`` opens, which must be empty.

    The clients share one store and are spread over the tables, whose schemas have the fields of
    ``soak_schema``. Fails at the first wrong answer. Lasts longer than ``seconds`` where a busy
    machine has not done each kind of work in ``until`` by then, or the other process has not
    written and searched. ``exact`` goes with every search: for backends that are not exact without
    it.
    """
    world = World(tables, base_rows, exact=exact)
    chance = random.Random(seed)
    async with connect(target, config=config) as store:
        for name, schema in tables.items():
            await store.create_table(name, schema)
            await store.insert(name, world.base[name].rows)
        for number in range(clients):
            name = list(tables)[number % len(tables)]
            owner = f"c{number:03}"
            world.clients[owner] = Client(world, store, name, owner, seed)
        for name in tables:  # so that all that is loaded once is loaded
            await check_whole(store, world, name, {}, chance)
    await _run_a_process()
    before = Resources.now()
    arguments = {
        "target": None if target is None else str(target),
        "config": None if config is None else str(config),
        "base_rows": base_rows,
        "seed": seed,
    }
    run = _Run(world, seconds, until, quiet_every, chance)
    async with connect(target, config=config) as store:
        for client in world.clients.values():
            client.use(store)
        async with Neighbour(world, arguments) as neighbour:
            await run.all_at_once(store, neighbour)
    deadline = time.monotonic() + _GRACE
    while True:
        after = Resources.now()
        gone = after.threads <= before.threads and after.files <= before.files
        if gone or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    return SoakReport(
        seconds, world.counts, neighbour.counts, before, after, run.held, run.held_by_neighbour
    )


async def _run_a_process() -> None:
    """A loop keeps what it needed for its first child process; uvloop an open file."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", "", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await process.communicate()


class _Run:
    def __init__(
        self,
        world: World,
        seconds: float,
        until: Sequence[str],
        quiet_every: float,
        chance: random.Random,
    ) -> None:
        self._world = world
        self._seconds = seconds
        self._until = until
        self._quiet_every = quiet_every
        self._chance = chance
        self.held: list[Resources] = []
        self.held_by_neighbour: list[Resources] = []

    async def all_at_once(self, store: VectorStore, neighbour: Neighbour) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(neighbour.listen())
            for client in self._world.clients.values():
                group.create_task(client.run())
            upkeep = group.create_task(self._optimize(store))
            await self._direct(store, neighbour)
            upkeep.cancel()
            self._world.over = True
            self._world.gate.open()
            neighbour.end()

    async def _direct(self, store: VectorStore, neighbour: Neighbour) -> None:
        """Let them work, and look at the whole every now and then, and in the end."""
        deadline = time.monotonic() + self._seconds
        latest = deadline + _LONGER
        while (left := deadline - time.monotonic()) > 0 or (
            self._lacks(neighbour) and time.monotonic() < latest
        ):
            await asyncio.sleep(min(left, self._quiet_every) if left > 0 else self._quiet_every)
            await self._world.pause()
            theirs, held = await neighbour.pause()
            for name in self._world.schemas:
                rows = dict(theirs[name])
                for client in self._world.clients.values():
                    if client.table == name:
                        rows |= client.rows
                await check_whole(store, self._world, name, rows, self._chance)
            self.held.append(Resources.now())
            self.held_by_neighbour.append(held)
            neighbour.go_on()
            self._world.gate.open()

    def _lacks(self, neighbour: Neighbour) -> bool:
        done = self._world.counts
        theirs = neighbour.counts
        return not all(
            [*(done[kind] for kind in self._until), theirs["writes"], theirs["searches"]]
        )

    async def _optimize(self, store: VectorStore) -> None:
        while True:
            await asyncio.sleep(_OPTIMIZE_EVERY)
            for name in self._world.schemas:
                async with self._world.gate.inside():
                    await store.optimize(name)
                    self._world.counts["optimizes"] += 1
