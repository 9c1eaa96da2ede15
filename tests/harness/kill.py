"""Kill a process that runs scripts endlessly, and check the store that it leaves.

    python -m tests.harness.kill TARGET SEED NUMBER

is that process. It prints a line of JSON before each call, and one after the call is acknowledged.
It writes each line with one system call.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.harness import syscalls
from tests.harness.processes import ROOT
from tests.harness.scripts import (
    BEGIN,
    KEPT,
    TABLE,
    Call,
    Model,
    Place,
    Script,
    keyed,
    kind_of,
    path_of,
    scripts_of,
    settle,
    settled,
    state_of,
    tables_in,
    target_in,
)

# Seconds after which a process that has not been killed is terminated, and the test fails.
_PATIENCE = 300.0


def script_named(name: str, kind: str) -> Script:
    return BEGIN if name == "begin" else scripts_of(kind)[name]


# In the process that is killed


def say(*facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


async def main(target: str, seed: int, number: int) -> None:
    chance = random.Random(seed)
    kind = kind_of(target)
    async with Place(target) as place:
        assert place.store is not None
        model = Model()
        model.held = await tables_in(place.store)
        if await asyncio.to_thread(place.saved.exists):
            model.saved = {}  # the contents of the backup do not matter here
        for n in range(number, 10**9):
            notes = model.held.get(TABLE)
            name = chance.choice(list(scripts_of(kind)))
            if notes is None or not notes.rows.keys() >= set(KEPT):
                name = "begin"
            script = script_named(name, kind)
            say("script", name, n)
            first = script.first(model, n)
            for place_of, call in enumerate(first):
                await run_call(place, place_of, call, None)
                await place.reopen()
            calls = enumerate(script.calls(n), len(first))
            key = f"key {n}" if script.once and kind == "sqlite" else None
            await asyncio.gather(*(run_call(place, at, call, key) for at, call in calls))
            await place.reopen()
            assert place.store is not None
            model.held = await tables_in(place.store)
            model.saved = {} if await asyncio.to_thread(place.saved.exists) else None


async def run_call(place: Place, number: int, call: Call, key: str | None) -> None:
    say("begin", number)
    await (call(place) if key is None else keyed(key, call, place))
    say("done", number)


# In the process that kills it


class Journal:
    """The output of the process: a model of the calls it has made, and the calls still open."""

    def __init__(self, model: Model, kind: str) -> None:
        self.model = model
        self.heard = 0
        self.name = ""
        self.key: tuple[str, Call] | None = None
        self._kind = kind
        self._calls: list[Call] = []
        self._first = 0
        self._begun: list[int] = []
        self._done: set[int] = set()

    def hear(self, kind: str, value: Any, number: int = 0) -> None:
        self.heard += 1
        if kind == "script":
            assert len(self._begun) == len(self._calls) == len(self._done)
            for call in self._calls[self._first :]:
                call(self.model)
            script = script_named(value, self._kind)
            first, calls = script.first(self.model, number), script.calls(number)
            self.name, self._calls, self._first = value, [*first, *calls], len(first)
            self._begun, self._done = [], set()
            keyed = script.once and self._kind == "sqlite"
            self.key = (f"key {number}", calls[0]) if keyed else None
        elif kind == "begin":
            self._begun.append(value)
        else:
            self._done.add(value)
            if value < self._first:  # these calls run one after another, and use the same rows
                self._calls[value](self.model)

    def open(self) -> tuple[list[Call], list[int]]:
        """Return the calls of the last script that began and are not in the model yet, and the
        indexes of the acknowledged ones."""
        begun = [n for n in self._begun if n >= self._first or n not in self._done]
        acknowledged = [at for at, number in enumerate(begun) if number in self._done]
        return [self._calls[number] for number in begun], acknowledged


def run_and_kill(
    target: str, model: Model, number: int, chance: random.Random, *, at_once: bool
) -> Journal:
    """Run the process, and kill it at one of its system calls, after some calls or ``at_once``.

    If system calls cannot be intercepted, kill it at any moment."""
    folder = path_of(target).parent
    exactly = syscalls.can_fail()
    env = syscalls.environment(folder.parent, folder.parent / "control") if exactly else None
    after = 0 if at_once else chance.randrange(1, 60)
    journal = Journal(model, kind_of(target))

    def kill() -> None:
        if exactly:
            faults = syscalls.Faults(folder.parent / "control")
            skip = chance.choice([0, 1, 3, 10, 30, 100]) + chance.randrange(10)
            faults.arm(syscalls.CHANGES, str(folder), skip=skip, error=syscalls.KILL)
        else:
            process.kill()

    seed = chance.randrange(10**6)
    if at_once and exactly:
        kill()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.kill", target, str(seed), str(number)],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    watch = threading.Timer(_PATIENCE, process.terminate)
    watch.start()
    try:
        for line in process.stdout:
            if line.endswith(b"\n"):
                journal.hear(*json.loads(line))
            if journal.heard == after and not (at_once and exactly):
                kill()
        _, complaints = process.communicate()
    finally:
        watch.cancel()
        process.kill()
    assert process.returncode == -signal.SIGKILL, complaints.decode()[-5000:]
    return journal


def kill_repeatedly(folder: Path, kind: str, seed: int, kills: int = 3) -> None:
    """Kill a process while it creates a store, and then others that continue with that store."""
    chance, model = random.Random(seed), Model()
    (folder / str(seed)).mkdir()
    target = target_in(folder / str(seed), kind)
    for turn in range(kills):
        journal = run_and_kill(target, model, 1000 * (turn + 1), chance, at_once=not turn)
        model = asyncio.run(left(target, journal))


async def left(target: str, journal: Journal) -> Model:
    """Check that the store is as the process said. Repeat an open call that has a key: it must be
    done exactly once."""
    calls, acknowledged = journal.open()
    model = await settled(target, journal.model, calls, acknowledged)
    if journal.key is not None and calls:
        async with Place(target) as place:
            await keyed(*journal.key, place)
            model = settle(journal.model, calls, [0], await state_of(place))
    return model


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
