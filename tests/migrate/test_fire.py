"""Migration under fire: no write that was acknowledged is lost, doubled or stale afterwards.

Processes of an app write and read all the time while their store is migrated, there and back, with
rollbacks and aborts. They and the migrator are killed, stopped for a while and started again at
random moments, and what holds is compared with a log outside of every store.

    python -m tests.migrate.test_fire FOLDERS ROUNDS SEED

makes so many stores, each of which is migrated in so many rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import python

import aiovec
import aiovec_migrate
from aiovec_migrate import RunState

from .client import TABLE
from .fire_app import ROWS, churned, see_table, state_of
from .fire_log import Found, History, Look
from .support import FILES, SCHEMAS, some_rows, write_toml

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there, no process can be stopped")

_PATIENCE = 240.0
_BASE = 150
OTHER = {"sqlite": "lancedb", "lancedb": "sqlite"}
STALLED_AT = [
    "marked", "copy:written", "catch-up:applied", "cut-over:ready", "cut-over:paused",
    "cut-over:paused", "cut-over:checked", "cut-over:checked", "cut-over:moved",
    "cut-over:arrived", "cut-over:flipped", "rollback:marked", "rollback:created",
    "rollback:released", "abort:released", "abort:dropped", "finish:released", "phase:done",
]  # fmt: skip


@dataclass(frozen=True)
class Heat:
    """How hot it is: seconds of stalls, of rests of an app, and between two hits of one."""

    stalls: tuple[float, ...] = (0.1, 0.3, 1.0)
    rest: float = 2.0
    between: float = 1.0
    hits: int = 2
    """How often a command of the migrator is hit at most, before it is let go on."""


LONG = Heat(stalls=(0.1, 0.3, 0.5, 1.0, 1.0, 2.0, 3.0, 8.0), rest=12.0, between=0.4, hits=5)
STALL_OF_A_MINUTE = 0.01
"""Share of the stalls of the long form that last a minute."""


@dataclass
class Process:
    """One process of the app, by whatever process of the system it is at the moment."""

    name: str
    place: str
    running: subprocess.Popen[str]
    history: History

    def bursts(self) -> int:
        """With how many bursts of calls it is through since it was started."""
        notes = History(self.history.file).read().notes
        return notes.get(f"burst {self.running.pid}", 0)


@dataclass
class Fire:
    folder: Path
    seed: int
    heat: Heat = field(default_factory=Heat)
    met: Counter[str] = field(default_factory=Counter)
    used: str = "sqlite"
    processes: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._hits = random.Random(self.seed + 1)
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.config = write_toml(self.folder, self.used)
        self._lock = threading.RLock()
        self._out = threading.Event()
        self._failure: BaseException | None = None

    # The app

    def place(self, backend: str) -> str:
        path = str(self.folder / FILES[backend])
        return path if backend == "sqlite" else f"lancedb://{path}"

    def start(self, name: str, place: str, rest: float) -> None:
        with (self.folder / f"{name}.err").open("ab") as errors:
            running = python(
                "-m", "tests.migrate.fire_app", place, str(self.logs), name, str(rest),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        file = self.logs / f"{name}.log"
        file.touch()
        self.processes[name] = Process(name, place, running, History(file))

    def start_all(self) -> None:
        self.start("writer", str(self.config), 0.1)
        self.start("idler", str(self.config), self.heat.rest)
        self.start("pather", self.place(self.used), 0.4)
        for process in self.processes.values():
            self._wait_for(process.name, 1)

    def restart(self, name: str, place: str | None = None) -> None:
        with self._lock:
            process = self.processes[name]
            self._check(process)
            process.running.kill()
            process.running.communicate()
            rest = {"writer": 0.1, "pather": 0.4}
            self.start(name, place or process.place, rest.get(name, self.heat.rest))

    def _check(self, process: Process) -> None:
        if process.running.poll() is not None:
            text = (self.folder / f"{process.name}.err").read_text("utf-8")
            raise AssertionError(f"{process.name} ended by itself: {text[-4000:]}")

    def _wait_for(self, name: str, more: int) -> None:
        """Until it was through with so many bursts of calls that end after now."""
        end = time.monotonic() + _PATIENCE
        process = self.processes[name]
        wanted = process.bursts() + more
        while process.bursts() < wanted:
            self._check(process)
            assert time.monotonic() < end, f"{name} does not go on"
            time.sleep(0.05)

    def wait_for_all(self, more: int = 2) -> None:
        """The first burst may have begun before."""
        for name in list(self.processes):
            if name != "pather":
                self._wait_for(name, more)

    # Hits

    def _stall(self) -> float:
        if self.heat is LONG and self._hits.random() < STALL_OF_A_MINUTE:
            self.met["stall of a minute"] += 1
            return 60.0
        return self._hits.choice(self.heat.stalls) * (0.5 + self._hits.random() / 2)

    def _hit_apps(self) -> None:
        """In a thread, until the fire is out."""
        try:
            while not self._out.wait(self._hits.random() * self.heat.between):
                name = self._hits.choice(sorted(self.processes))
                if self._hits.random() < 0.15:
                    # One that had no time to do anything cannot be hit at it.
                    if self.processes[name].bursts():
                        self.restart(name)
                        self.met["app killed"] += 1
                    continue
                with self._lock:
                    process = self.processes[name].running
                    self._check(self.processes[name])
                    process.send_signal(signal.SIGSTOP)
                    self.met["app stopped"] += 1
                try:
                    self._out.wait(self._stall())
                finally:
                    process.send_signal(signal.SIGCONT)
        except BaseException as exc:  # noqa: BLE001 - told by the main thread
            self._failure = exc

    @contextlib.contextmanager
    def burning(self) -> Any:
        self._out.clear()
        thread = threading.Thread(target=self._hit_apps)
        thread.start()
        try:
            yield
        finally:
            self._out.set()
            thread.join()
        if self._failure is not None:
            raise self._failure

    # The migrator

    def status(self) -> RunState | None:
        return asyncio.run(aiovec_migrate.status(config=self.config))

    def migrator(self, command: str, *, hit: bool) -> tuple[bool, str]:
        """Run a command, and hit it perhaps; whether it came to its end, and its error."""
        told: dict[str, Any] = {"limits": {"notice": 0.2}}
        if command == "run":
            options = {"switch": True, "batch_size": 30, "pause_limit": 1.0, "index": False}
            told |= {"source": self.used, "target": OTHER[self.used], "options": options}
        fate = self.chance.choice(["none", "die", "stall", "kill", "stop"]) if hit else "none"
        step = self.chance.choice(STALLED_AT), 1
        if fate == "die":
            told["die"] = step
        elif fate == "stall":
            told["stall"] = (*step, self._stall())
        output = self.folder / "migrator.out"
        with output.open("w") as out, (self.folder / "migrator.err").open("w") as err:
            process = python(
                "-m", "tests.migrate.victim", command, str(self.config), json.dumps(told),
                stdout=out, stderr=err,
            )  # fmt: skip
            if fate in ("kill", "stop"):
                self._hit(process, output, fate)
            process.wait(_PATIENCE)
        self.met[f"{command}: {fate}"] += 1
        said = [json.loads(line) for line in output.read_text().splitlines() if line[-1:] == "]"]
        error = next((f"{facts[0]}: {facts[1]}" for kind, *facts in said if kind == "error"), "")
        if error:
            self.met[f"{command}: {error.partition(':')[0]}"] += 1
            print(f"{command}: {error}")  # noqa: T201
        elif process.returncode > 0:
            raise AssertionError((self.folder / "migrator.err").read_text()[-4000:])
        return any(kind == "done" for kind, *_ in said), error

    def _hit(self, process: subprocess.Popen[str], output: Path, fate: str) -> None:
        """At a random moment after its first step."""
        while not output.stat().st_size and process.poll() is None:
            time.sleep(0.01)
        time.sleep(self.chance.random() ** 2 * 4)
        if fate == "kill":
            process.kill()
        else:
            process.send_signal(signal.SIGSTOP)
            time.sleep(self._stall())
            process.send_signal(signal.SIGCONT)

    def until(self, wanted: str, is_done: Callable[[RunState | None], bool]) -> None:
        """The command, and whenever it was hit the one that its status names."""
        begun = False
        for turn in range(40):
            state = self.status()
            if begun and is_done(state):
                return
            command = wanted
            if begun and state is not None and wanted in ("run", "rollback"):
                fresh = wanted == "rollback" and state.phase == "done"
                command = wanted if fresh else state.next_command
            done, error = self.migrator(command, hit=turn < self.heat.hits)
            begun = begun or wanted != "run" or self.status() is not None
            if done:
                begun = True
            elif error and "StoreBusy" not in error and "tried" not in error:
                raise AssertionError(f"{command} (for {wanted}): {error}")
        raise AssertionError(f"{wanted} comes to no end: {self.status()}")

    def go(self, ending: str) -> None:
        """One round: to the other store, and what ``ending`` says."""
        if ending == "abort":
            self.migrator("run", hit=True)
            state = self.status()
            if state is None or state.phase in ("cutting-over", "moved", "done"):
                self.met["too late to abort"] += 1
                ending = "finish"
            else:
                self.until("abort", lambda state: state is None)
                self.met[f"from {self.used}: abort"] += 1
                return
        self.until("run", lambda state: state is not None and state.phase == "done")
        if ending == "finish":
            self.until("finish", lambda state: state is None)
            self.met[f"from {self.used}: finish"] += 1
            self.used = OTHER[self.used]
            return
        time.sleep(self.chance.random() * self.heat.rest / 4)
        self.until("rollback", lambda state: state is not None and state.phase == "rolled-back")
        self.until(ending.split()[1], lambda state: state is None)
        self.met[f"from {self.used}: {ending}"] += 1

    def clear_the_way(self) -> None:
        """Remove the store that is not in use, once no process has it open any more."""
        if self.processes["pather"].place != self.place(self.used):
            self.restart("pather", self.place(self.used))
        self.wait_for_all()
        old = self.folder / FILES[OTHER[self.used]]
        shutil.rmtree(old, ignore_errors=True)
        for file in self.folder.glob(old.name + "*"):
            file.unlink(missing_ok=True)

    # What must hold

    def look(self) -> dict[str, Look]:
        return {name: process.history.look() for name, process in self.processes.items()}

    async def check(self) -> None:
        """All that is in the store in use is what the logs say, whoever writes meanwhile."""
        async with aiovec.connect(config=self.config) as store:
            assert store.backend_name == self.used
            before = self.look()
            found: dict[str, Found] = {}
            records = await store.get(TABLE, [id for name in before for id in ids_of(name)])
            for record in records:
                found[record.id] = state_of(record, record.id.partition("/")[0])
            seen = [id async for batch in store.export(TABLE) for id in batch["id"].to_pylist()]
            assert len(seen) == len(set(seen)), "rows are there twice"
            base = {id for id in seen if id.startswith("r/")}
            assert base == {f"r/{n}" for n in range(_BASE)}, "rows of the beginning are gone"
            names = {name for name in before if name != "pather"}
            tables = {f"#{churned(name)}": await see_table(store, churned(name)) for name in names}
            after = self.look()
        problems = []
        for name, look in before.items():
            problems += look.wrong(after[name], found, ids_of(name))
            id = f"#{churned(name)}"
            if id in tables:
                problems += look.wrong(after[name], tables, [id])
        strays = set(seen) - base - {id for name in before for id in ids_of(name)}
        assert not problems, problems
        assert not strays, strays

    def end(self) -> None:
        """Let all processes come to their end."""
        for process in self.processes.values():
            self._check(process)
            assert process.running.stdin is not None
            with contextlib.suppress(OSError):
                process.running.stdin.close()
            process.running.stdin = None
        for process in self.processes.values():
            process.running.wait(_PATIENCE)
            text = (self.folder / f"{process.name}.err").read_text("utf-8")
            assert process.running.returncode == 0, f"{process.name}: {text[-4000:]}"

    def kill(self) -> None:
        for process in self.processes.values():
            process.running.kill()
            process.running.communicate()

    async def fill(self) -> None:
        async with aiovec.connect(config=self.config) as store:
            await store.create_table(TABLE, SCHEMAS[TABLE])
            await store.insert(TABLE, some_rows("r", _BASE, TABLE))

    def run(self, endings: list[str]) -> None:
        try:
            asyncio.run(self.fill())
            self.start_all()
            for number, ending in enumerate(endings, 1):
                try:
                    with self.burning():
                        self.go(ending)
                    asyncio.run(self.check())
                    self.wait_for_all(1)
                    if number < len(endings):
                        self.clear_the_way()
                except BaseException as error:
                    error.add_note(f"in round {number} of {endings}")
                    raise
            self.end()
            asyncio.run(self.check())
            for process in self.processes.values():
                history = process.history
                self.met["acknowledged"] += history.acknowledged
                for kind, count in history.notes.items():
                    if "burst" not in kind:
                        self.met[kind] += count
        except BaseException as error:
            error.add_note(f"seed {self.seed}, {dict(self.met)}")
            raise
        finally:
            self.kill()


def ids_of(name: str) -> list[str]:
    return [f"{name}/{n}" for n in range(ROWS)]


ENDINGS = ["finish", "finish", "rollback finish", "rollback abort", "abort"]


def campaign(folder: Path, folders: int, rounds: int, seed: int) -> Counter[str]:
    """So many stores with so many rounds each."""
    met: Counter[str] = Counter()
    for number in range(folders):
        place = folder / str(number)
        place.mkdir()
        chance = random.Random(seed + number)
        endings = [chance.choice(ENDINGS) for _ in range(rounds)]
        used = chance.choice(["sqlite", "lancedb"])
        fire = Fire(place, seed + number, LONG, met, used)
        began = time.monotonic()
        fire.run(endings)
        shutil.rmtree(place)
        took = time.monotonic() - began
        print(f"seed {seed + number}: {endings} from {used} in {took:.0f} s", flush=True)  # noqa: T201
    return met


def test_a_migration_under_fire(tmp_path: Path) -> None:
    """There, and back by a rollback."""
    Fire(tmp_path, int.from_bytes(os.urandom(3))).run(["rollback abort"])


@pytest.mark.soak
@pytest.mark.parametrize("part", range(5))
def test_200_rounds_under_fire(tmp_path: Path, part: int) -> None:
    """40 of them in each part."""
    met = campaign(tmp_path, 5, 8, int.from_bytes(os.urandom(3)))
    print(dict(met))  # noqa: T201


if __name__ == "__main__":
    folders, rounds, seed = map(int, sys.argv[1:4])
    with tempfile.TemporaryDirectory() as made:
        print(dict(campaign(Path(made), folders, rounds, seed)))  # noqa: T201
