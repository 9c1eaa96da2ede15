"""One seed from its first event to its last: an app that works, and a user who migrates it,
through kills and faults, until all that he wanted is done. Then everything is checked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from aiovec.backend.changes import Insert
from aiovec.backend.contract import TableHandle
from aiovec.backend.rows import Batch
from aiovec.errors import AiovecError, MigrationError
from aiovec_migrate import Event, Options
from aiovec_migrate.migration import Migration
from aiovec_migrate.places import OpenPlace
from aiovec_migrate.work import Limits, Work

from .app import SCHEMA, Worker, as_table, comparable, make_row
from .backend import LOOKS, ModelBackend
from .disk import Row
from .faults import Faults
from .loop import Process, SimulatedLoop
from .world import ModelToml, World

# A run that is begun again so often has to be over.
_MOST_LIVES = 80


_MOVING = [
    *"target:marked marked dropped created copy:read copy:written compared brought".split(),
    *"catch-up:deleted catch-up:applied optimized verify:compared".split(),
    # More often where writers wait or are led elsewhere: most can go wrong there.
    *[f"cut-over:{name}" for name in "ready paused checked moved arrived flipped".split()] * 3,
    "target:released", "released",
]  # fmt: skip
STEPS = {
    "run": _MOVING,
    "back": _MOVING,
    "abort": ["abort:dropped", "abort:released", "abort:source"],
}
"""At or behind which a migrator is killed."""


# Behind these a command that fails says which store apps use.
_PAUSE = [f"cut-over:{name}" for name in ("ready", "paused", "checked")]


class SimulationError(AssertionError):
    """Something that was promised did not hold."""


@dataclass(frozen=True)
class Scenario:
    """The scenario of a seed."""

    source: str
    target: str
    options: Options
    tables: int
    rows: int
    workers: int
    calls: int
    """After how many calls a worker of the app comes to rest."""
    stalls: int
    """Number of calls of the app that stall."""
    kills: int
    faults: int
    fault_rate: float
    commands: tuple[str, ...]
    hurry: float
    """Seconds that the user waits before a failed command is started again."""
    written_at_once: int
    """The rows that make one write of a copy."""

    @classmethod
    def of(cls, seed: int) -> Scenario:
        chance = random.Random(f"scenario {seed}")
        source = chance.choice(["sqlite", "lancedb"])
        switch = chance.random() < 0.85
        follow_up = [(), ("back",), ("back", "run"), ("back", "run", "back")] if switch else [
            (), ("run",),
        ]  # fmt: skip
        commands = chance.choice([("run", *more) for more in follow_up] * 3 + [("abort",)] * 2)
        if switch and commands != ("abort",) and chance.random() < 0.2:
            commands = (*commands, "abort")
        return cls(
            source=source,
            target=chance.choice(["sqlite", "lancedb", "lancedb"]),
            options=Options(
                switch=switch, pause_limit=chance.choice([0.3, 5.0]), attempts=chance.choice([1, 3])
            ),
            tables=chance.choice([1, 1, 2]),
            rows=chance.choice([0, 5, 30]),
            workers=chance.randint(0, 3),
            calls=chance.choice([5, 30, 100]),
            stalls=chance.choice([0, 0, 1, 5]),
            kills=chance.choice([0, 1, 3]),
            faults=chance.choice([0, 0, 1, 4]),
            fault_rate=chance.choice([0.01, 0.1]),
            commands=commands,
            hurry=chance.choice([0.0, 1.0, 30.0]),
            written_at_once=chance.choice([1, 4, 20]),
        )


class Course:
    """Tests that break the migrator override ``store``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(f"course {seed}")
        self.scenario = scenario = Scenario.of(seed)
        self.loop = SimulatedLoop(seed)
        self.world = World(seed, self.loop, {"old": scenario.source, "new": scenario.target})
        rows = scenario.written_at_once
        self.limits = Limits(
            bulk_rows=rows, insert_rows=rows, compared_rows=self.chance.choice([10, 1000])
        )
        if self.world.slowness > 0.1:
            # A user whose stores are so slow gives them the time.
            options = replace(scenario.options, pause_limit=max(5.0, scenario.options.pause_limit))
            self.scenario = replace(scenario, options=options)
        self.kills_left = scenario.kills
        self.lives: list[Process] = []
        self.workers: list[Worker] = []
        self.untouched: dict[str, dict[str, Row]] = {}
        self.used = "old"
        """The store that is in use."""
        self.began = False
        self.too_late = False
        """It could not be aborted any more."""

    def run(self) -> None:
        """All of it; SimulationError, with the trace as a note, where something is wrong."""
        try:
            with mock.patch("aiovec_migrate.compare.in_thread", self.world.in_thread):
                self.loop.run_until_complete(self._main())
        except BaseException as error:
            error.add_note("\n".join([f"seed {self.seed}: {self.scenario}", *self.world.trace]))
            raise
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _main(self) -> None:
        await self._fill()
        self.world.faults = Faults(
            self.world, self.chance, self.scenario.faults, self.scenario.fault_rate
        )
        self.world.stalls = self.scenario.stalls
        processes = [Process(worker.name) for worker in self.workers]
        working = [
            self.loop.start(process, worker.run(self.scenario.calls))
            for process, worker in zip(processes, self.workers, strict=True)
        ]
        try:
            await self.world.sleep(self.chance.choice([0.0, 0.5]) * self.chance.random())
            for command in self.scenario.commands:
                await self._insist(command)
            # The app goes on for a while where it has not come to its rest.
            await self.world.sleep(self.chance.choice([0.0, 3.0]))
            for worker in self.workers:
                worker.over = True
            for task in working:
                await task
        finally:
            for process in (*self.lives, *processes):
                process.kill()
                await self.loop.bury(process)
            await self.loop.shutdown_asyncgens()
        self._check()

    async def _fill(self) -> None:
        """Tables with rows of each worker, and with some that nobody touches."""
        tables = [f"t{n}" for n in range(self.scenario.tables)]
        self.workers = [Worker(self.world, f"w{n}", tables) for n in range(self.scenario.workers)]
        backend = self.world.connect("old")
        for table in tables:
            await backend.create_table(table, SCHEMA)
            handle: TableHandle = await backend.open_table(table)
            kept = [make_row(f"kept-{n}", n, self.chance) for n in range(self.scenario.rows)]
            self.untouched[table] = {row["id"]: row for row in kept}
            for worker in self.workers:
                own = [make_row(id, 1, self.chance) for id in worker.new_ids(self.scenario.rows)]
                worker.rows[table] = {row["id"]: row for row in own}
                kept += own
            if kept:
                await backend.write(handle, Insert(Batch.of_table(as_table(kept), SCHEMA)))

    def store(self, name: str) -> ModelBackend:
        """One end of the migration, as the migrator opens it."""
        return self.world.connect(name, faulty=True)

    # The user

    async def _insist(self, command: str) -> None:
        """Give the command until it is done."""
        work = getattr(self, f"_{command}")
        for _ in range(_MOST_LIVES):
            if await self._live(command, work):
                return
            await self.world.sleep(self.scenario.hurry * self.chance.random())
        raise SimulationError(f"{command} does not come to its end")

    async def _live(self, command: str, work: Callable[[Migration], Awaitable[Any]]) -> bool:
        """One process of the migrator; whether it did what it was to do."""
        process = Process(f"migrator{len(self.lives) + 1}")
        self.lives.append(process)
        self.world.tell(f"{process.name} is to {command}")
        ended = asyncio.Event()
        process.at_kill += [lambda: self.world.killed(process), ended.set]
        doom = ""
        if self.kills_left and self.chance.random() < 0.3:
            # Early ones as often as late ones.
            process.doom = int(10 ** (1 + 2.7 * self.chance.random()))
        elif self.kills_left:
            doom = self.chance.choice(STEPS[command])
        task = self.loop.start(process, self._process(process, work, doom))
        task.add_done_callback(lambda _: ended.set())
        await ended.wait()
        if not process.alive:
            self.kills_left -= 1
            self.world.tell(f"{process.name} is killed")
            return False
        process.doom = None
        return task.result()

    async def _process(
        self, process: Process, work: Callable[[Migration], Awaitable[Any]], doom: str
    ) -> bool:
        world = self.world
        names = [self.used, "new" if self.used == "old" else "old"]
        source, target = (self.store(name) for name in names)

        last = ""

        def check_stay(text: str) -> None:
            """Check that apps use the source, as the text says."""
            if (mark := source.disk.mark) is not None and mark.left:
                raise SimulationError(f"apps were switched, but: {text}")

        async def step(name: str) -> None:
            nonlocal last
            last = name
            world.tell(f"step {name}")
            if name.startswith("cut-over:"):
                world.faults.rate = max(world.faults.rate, 0.1)
            if name == doom and process.doom is None and self.chance.random() < 0.5:
                # Here, or within what comes next.
                most = self.chance.choice([0, 5, 60])
                process.doom = process.turns + self.chance.randint(0, most)
                if process.doom == process.turns:
                    process.kill()
                    await self.loop.create_future()  # for ever

        def listen(event: Event) -> None:
            nonlocal last
            if event.kind == "warning":  # called off
                check_stay(event.text)
            if event.kind in ("warning", "phase"):  # so a pause is over
                last = ""
            if event.kind != "progress":
                world.tell(f"event {event.to_dict()}")

        try:
            async with world.locked():
                await source.open()
                await target.open()
                run = Work(
                    OpenPlace(source, names[0]),
                    OpenPlace(target, names[1]),
                    self.scenario.options,
                    self.limits,
                    listen,
                    step,
                )
                await work(Migration(run, ModelToml(world)))
                await source.close()
                await target.close()
        except AiovecError as error:
            world.tell(f"fails: {type(error).__name__}: {error}")
            if "Apps still use" in str(error):
                check_stay(str(error))
            elif last in _PAUSE and "did not confirm" not in str(error):
                raise SimulationError(f"nobody knows which store apps use: {error}") from error
            return False
        return True

    async def _run(self, migration: Migration) -> None:
        if (await migration.run()).switched:
            self.used = "new" if self.used == "old" else "old"
        self.began = False

    _back = _run

    async def _abort(self, migration: Migration) -> None:
        """Some of a run, and then the end of it; all of it where it is too late."""
        if not self.began:
            self.began = True
            running = asyncio.ensure_future(migration.run())
            await asyncio.wait([running], timeout=self.chance.random() * 2)
            running.cancel()
            await asyncio.wait([running])
        if self.too_late:
            await self._run(migration)
            return
        try:
            await migration.abort()
        except MigrationError as error:
            self.too_late = any(text in str(error) for text in ("too late", "switched apps to"))
            if self.too_late or "is open" not in str(
                error
            ):  # else it was done before it was killed
                raise

    # The checks

    def _check(self) -> None:
        world, scenario = self.world, self.scenario
        if self.loop.abandoned:
            raise SimulationError(f"left without being closed: {self.loop.abandoned}")
        named, other = self.used, "new" if self.used == "old" else "old"
        if world.named != named:
            raise SimulationError(f"the TOML names {world.named}, not {named}")
        self._check_rows(named)
        if world.disks[named].mark is not None:
            raise SimulationError(f"what is in use is marked: {world.disks[named].mark}")
        mark = world.disks[other].mark
        if world.disks[named].record.generation and (mark is None or not mark.left):
            raise SimulationError(f"what was left has no mark that says so: {mark}")
        # A look may come right before the limit.
        most = scenario.options.pause_limit * (1 + 1 / LOOKS) + 2 * world.slowness + 0.01
        longest = max((worker.longest_wait for worker in self.workers), default=0.0)
        if longest > most:
            raise SimulationError(f"a worker of the app waited for {longest} s")

    def _check_rows(self, named: str) -> None:
        tables = {name for worker in self.workers for name in worker.rows} | {*self.untouched}
        if tables != self.world.disks[named].tables.keys():
            raise SimulationError(
                f"the tables are {sorted(self.world.disks[named].tables)}, not {sorted(tables)}"
            )
        for table in tables:
            untouched = self.untouched.get(table, {})
            stored = self.world.disks[named].tables[table]
            if stored.twice:
                raise SimulationError(f"ids stand twice in {table}: {sorted(stored.twice)}")
            wanted = dict(untouched)
            for worker in self.workers:
                wanted |= worker.rows.get(table, {})
            wrong = sorted(
                id
                for id in wanted.keys() | stored.rows.keys()
                if comparable(wanted.get(id)) != comparable(stored.rows.get(id))
            )
            if wrong:
                raise SimulationError(f"{table} in {named}: {wrong} are missing, extra or other")
