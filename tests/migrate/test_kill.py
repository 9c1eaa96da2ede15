"""A migrator that is killed at any of its steps, or at any moment, is begun again and ends, and
no row is missing or another one: neither those there were, nor those written meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import State, python

import aiovec
import aiovec_migrate
from aiovec import StoreMovedError
from aiovec_migrate import Options

from .support import contents_at, differences, fill, migrated, rolled_back, row, write_toml

COUNTS = {"notes": 260, "others": 90}
# A busy machine may need more than a few attempts to keep to so short a pause.
OPTIONS: dict[str, Any] = {"batch_size": 40, "pause_limit": 1.0, "attempts": 20}
FILES = {"sqlite": "notes.db", "lancedb": "notes.lance"}


@dataclass(frozen=True)
class Route:
    """From where to where; ``switch`` where the TOML can name both."""

    source: str
    target: str

    @property
    def switch(self) -> bool:
        return self.source != self.target

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``run`` is told."""
        options = {**OPTIONS, "switch": self.switch}
        return {"source": self.source, "target": self.target_in(None), "options": options}

    def target_in(self, folder: Path | None) -> str:
        """The target as a user names it: by the TOML, or beside the one that the TOML names."""
        if self.switch:
            return self.target
        name = f"copy-{FILES[self.target]}"
        place = name if folder is None else str(folder / name)
        return f"lancedb://{place}" if self.target == "lancedb" else place


TO_LANCEDB = Route("sqlite", "lancedb")
ROUTES = [
    TO_LANCEDB,
    Route("lancedb", "sqlite"),
    Route("sqlite", "sqlite"),
    Route("lancedb", "lancedb"),
]


@dataclass
class Case:
    """One store on its way, and beside it one with the same rows that stays where it is."""

    folder: Path
    route: Route
    writes: int = 0

    @property
    def config(self) -> Path:
        return self.folder / "aiovec.toml"

    @property
    def yardstick(self) -> str:
        path = self.folder / "yardstick" / FILES[self.route.source]
        return f"lancedb://{path}" if self.route.source == "lancedb" else str(path)

    def told(self, **more: Any) -> dict[str, Any]:
        """The arguments of a victim."""
        target = self.route.target_in(self.folder)
        return {**self.route.arguments, "target": target, "limits": {"notice": 0.0}, **more}

    async def write(self, chance: random.Random) -> None:
        """What the app does meanwhile, to its store and to the yardstick alike."""
        self.writes += 1
        table = chance.choice(list(COUNTS))
        new = [row(f"new{self.writes}/{n}", State(1, 1), "app", table) for n in range(3)]
        old = f"r/{chance.randrange(1, COUNTS[table])}"
        gone = f"r/{chance.randrange(1, COUNTS[table])}"
        async with (
            aiovec.connect(config=self.config) as store,
            aiovec.connect(self.yardstick) as yardstick,
        ):
            for each in (store, yardstick):
                await each.insert(table, new)
                await each.upsert(table, [row(old, State(5000, 5000), "app", table)])
                await each.update(table, {"name": f"at {self.writes}"}, ids=[old])
                await each.delete(table, gone)

    async def resume(self, command: str) -> None:
        if command == "run":
            told = self.told()
            await migrated(
                told["source"],
                told["target"],
                config=self.config,
                options=Options(**told["options"]),
            )
        elif command == "rollback":
            await rolled_back(config=self.config)
        elif command == "abort":
            await aiovec_migrate.abort(config=self.config)
        else:
            await aiovec_migrate.finish(config=self.config)

    async def check(self, named: str, *, target: bool = True) -> None:
        """The TOML names that backend, and all rows are there, the same to the bit.

        So are they in a ``target`` that the TOML does not name.
        """
        async with aiovec.connect(config=self.config) as store:
            assert store.backend_name == named
        wanted = await contents_at(self.yardstick)
        assert differences(wanted, await contents_at(config=self.config)) == []
        if target and not self.route.switch:
            copied = await contents_at(self.route.target_in(self.folder))
            assert differences(wanted, copied) == []

    async def check_sent_on(self) -> None:
        """Who opened the source by its path is told where it went."""
        if self.route.source == "sqlite" and self.route.switch:
            async with aiovec.connect(self.folder / FILES["sqlite"]) as store:
                with pytest.raises(StoreMovedError, match=r"notes\.lance"):
                    await store.count("notes")

    async def check_free(self) -> None:
        """The source is nobody's any more, and can be altered."""
        async with aiovec.connect(config=self.config) as store:
            await store.create_table("later", aiovec.Schema(4))
            await store.drop_table("later")


@dataclass
class Masters:
    """What each round begins with a copy of. Its place is always the same one, which the journal
    and the mark of a migration name."""

    folder: Path
    made: set[Path] = field(default_factory=set)

    def copy(self, route: Route, state: str) -> Case:
        """A case where nothing was done yet ("begun"), or the whole migration ("moved")."""
        place = self.folder / f"{route.source}-{route.target}-{state}"
        master = place.with_name(place.name + "-master")
        if place not in self.made:
            asyncio.run(self._make(Case(place, route), state))
            place.rename(master)
            self.made.add(place)
        else:
            shutil.rmtree(place)
        shutil.copytree(master, place)
        return Case(place, route)

    async def _make(self, case: Case, state: str) -> None:
        await asyncio.to_thread((case.folder / "yardstick").mkdir, parents=True)
        await asyncio.to_thread(write_toml, case.folder, case.route.source)
        async with aiovec.connect(config=case.config) as store:
            await fill(store, COUNTS)
        async with aiovec.connect(case.yardstick) as store:
            await fill(store, COUNTS)
        if state == "moved":
            await case.resume("run")


class Victim:
    """A migrator in a process of its own, and what it said."""

    def __init__(self, command: str, case: Case, **told: Any) -> None:
        self.said = ""
        self.process = python(
            "-m", "tests.migrate.victim",
            command, str(case.config), json.dumps(case.told(**told)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def kill_within(self, seconds: float, chance: random.Random) -> None:
        """Kill it at a random moment after its first step."""
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        time.sleep(chance.random() * seconds)
        self.process.kill()

    def end(self) -> tuple[list[str], bool]:
        """The steps that it came to, and whether it ended by itself."""
        output, errors = self.process.communicate(timeout=120)
        said = (self.said + output).splitlines()
        lines = [json.loads(line) for line in said if line.endswith("]")]
        steps = [facts[0] for kind, *facts in lines if kind == "step"]
        failures = [facts for kind, *facts in lines if kind == "error"]
        assert not failures, failures
        done = any(kind == "done" for kind, *_ in lines)
        assert done or self.process.returncode < 0 or os.name == "nt", errors[-3000:]
        return steps, done


def steps_of(command: str, case: Case) -> Counter[str]:
    """All steps of a command that nobody kills, and how often it comes to each."""
    steps, done = Victim(command, case).end()
    assert done
    return Counter(steps)


BEFORE = {"run": "begun", "rollback": "moved", "finish": "moved"}


class Rounds:
    """Kills, each on a copy of the same store, and what must hold after it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.masters = Masters(folder)
        self.chance = random.Random(seed)
        self.turn = 0
        self.met: Counter[str] = Counter()
        """Where the kills came."""

    def case(self, route: Route, command: str) -> Case:
        self.turn += 1
        return self.masters.copy(route, BEFORE[command])

    def steps(self, route: Route, command: str) -> Counter[str]:
        """The steps of a command that nobody kills, and how often it comes to each."""
        case = self.case(route, command)
        steps, done = Victim(command, case).end()
        assert done
        return Counter(steps)

    def kill(
        self,
        route: Route,
        command: str,
        step: tuple[str, int] | None,
        *,
        again: tuple[str, int] | None = None,
    ) -> None:
        """Kill at the step, or anywhere, perhaps ``again``, and then let it be done."""
        case = self.case(route, command)
        if command != "finish":
            asyncio.run(case.write(self.chance))
        if step is None:
            victim = Victim(command, case)
            victim.kill_within(1.0, self.chance)
        else:
            victim = Victim(command, case, die=step)
        steps, done = victim.end()
        if again is not None:
            asyncio.run(case.write(self.chance))
            steps, done = Victim(command, case, die=again).end()
            assert steps[-1] == again[0], "it did not come to the step"
        where = "its end" if done else steps[-1] if steps else "its beginning"
        self.met[f"{command}: {where}"] += 1
        try:
            asyncio.run(self._go_on(case, command, steps, done=done))
        except BaseException as error:
            error.add_note(f"turn {self.turn}, {route}: {command} killed at {where} ({step})")
            raise

    async def _go_on(self, case: Case, command: str, steps: list[str], *, done: bool) -> None:
        route = case.route
        home = route.target if route.switch else route.source
        if not done:
            # Behind its release from a run without a switch, the source goes its own way.
            if route.switch or not {"released", "phase:done"} & set(steps):
                await case.write(self.chance)
            if command == "run" and self.chance.random() < 0.2 and not await _is_late(case):
                await case.resume("abort")
                await case.check(route.source, target=False)
                await case.check_free()
                return
            await case.resume(command)
        if command == "rollback":
            home = route.source
        await case.check(home)
        if command == "run":
            await case.check_sent_on()
            await case.resume("finish")
        await case.check_free()


async def _is_late(case: Case) -> bool:
    """Whether it can no longer be called off."""
    state = await aiovec_migrate.status(config=case.config)
    return state is None or state.phase in ("cutting-over", "moved", "done")


def test_a_killed_migrator_goes_on(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, seed=1)
    rounds.kill(TO_LANCEDB, "run", ("copy:written", 2))
    rounds.kill(TO_LANCEDB, "run", ("cut-over:moved", 1))
    rounds.kill(TO_LANCEDB, "run", None)


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES[1:], ids=lambda r: f"{r.source}-{r.target}")
def test_a_killed_migrator_in_other_directions(tmp_path: Path, route: Route) -> None:
    Rounds(tmp_path, seed=2).kill(route, "run", ("copy:written", 2))


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES[:2], ids=lambda r: f"{r.source}-{r.target}")
def test_a_killed_rollback_goes_on(tmp_path: Path, route: Route) -> None:
    Rounds(tmp_path, seed=3).kill(route, "rollback", None)


@pytest.mark.soak
def test_100_killed_migrators(tmp_path: Path) -> None:
    """At every step of every command, by turns at its first and at another occurrence, in all
    directions, and then at random moments."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # noqa: T201 - to run a failed campaign again
    rounds = Rounds(tmp_path, seed)
    for route in ROUTES:
        for command in ("run", "rollback", "finish") if route.switch else ("run",):
            for step, count in sorted(rounds.steps(route, command).items()):
                occurrences = {1, rounds.chance.randint(1, count)}
                for occurrence in occurrences if route is TO_LANCEDB else {max(occurrences)}:
                    rounds.kill(route, command, (step, occurrence))
    for step in ("deleted", "journalled"):
        rounds.kill(TO_LANCEDB, "run", ("copy:written", 1), again=(f"catch-up:{step}", 1))
    while sum(rounds.met.values()) < 110:
        rounds.kill(TO_LANCEDB, rounds.chance.choice(["run", "run", "rollback"]), None)
    print(dict(rounds.met))  # noqa: T201 - which steps were met
