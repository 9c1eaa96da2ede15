"""An app continues while its store is migrated: no call fails, no acknowledged write is lost, and
no read returns a wrong row or misses one."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.harness.cases import Seeds

import aiovec
import aiovec_migrate
from aiovec import MigrationError

from .app import App, Log, problems
from .support import SWITCH, THERE_FIRST, WAYS, a_store, named, switched, victim

# A busy machine may need many attempts to finish within the pause.
PATIENT = replace(SWITCH, attempts=30)


@THERE_FIRST
async def test_an_app_reads_and_writes_through_a_migration(tmp_path: Path, way: str) -> None:
    """Two stores each have one app."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(aiovec.connect(config=config)) for _ in range(2)]
        apps = [App(store, tmp_path, f"app{n}", rest=0.2) for n, store in enumerate(stores)]
        running = [asyncio.ensure_future(app.run()) for app in apps]

        async def writes(count: int) -> None:
            """Wait until each app has made ``count`` more writes."""
            enough = [app.last + count for app in apps]
            while any(app.last <= last for app, last in zip(apps, enough, strict=True)):
                assert not any(task.done() for task in running)
                await asyncio.sleep(0.02)

        await writes(3)
        await switched(config, target, options=PATIENT)
        await writes(3)
        for app in apps:
            app.over = True
        await asyncio.gather(*running)
        assert {store.backend_name for store in stores} == {named(config)} == {target}
    async with aiovec.connect(config=config) as store:
        assert await problems(store, [app.log for app in apps]) == []
        assert await store.count("notes", "name in ('n', 'again')") == 38


_LOCKED = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("released", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_run_waits_longer_than_a_call_for_a_busy_target(
    tmp_path: Path, released: bool
) -> None:
    """If the target stays busy, the run fails in the end, and says how to continue."""
    config = await a_store(tmp_path, "sqlite")
    text = await asyncio.to_thread(config.read_text)
    await asyncio.to_thread(config.write_text, f"{text}[retrieval.sqlite]\nbusy_timeout = 0.3\n")
    target = tmp_path / "copy.db"
    lockers: list[asyncio.subprocess.Process] = []
    async with AsyncExitStack() as stack:

        async def step(name: str) -> None:
            if name != "copy:read" or lockers:
                return
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _LOCKED, target, stdin=pipe, stdout=pipe
            )
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdout.readline()
            lockers.append(process)
            stack.push_async_callback(process.wait)
            stack.callback(process.stdin.close)
            if released:
                asyncio.get_running_loop().call_later(1.5, process.stdin.close)

        run = aiovec_migrate.run(None, target, config=config, _step=step)
        if released:
            assert (await run).equal
        else:
            with pytest.raises(MigrationError, match=r"locked.*; run the same command again"):
                await run


class Apps:
    """Processes that each write and read their own rows."""

    def __init__(self, config: Path, names: list[str], rest: float) -> None:
        self.config, self.rest = config, rest
        self.folder = config.parent
        self.logs = {name: Log(self.folder, name) for name in names}
        self.running = {name: self.start(name) for name in names}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        arguments = [str(self.config), str(self.folder), name, str(self.rest)]
        with (self.folder / f"{name}.err").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.migrate.app", *arguments],
                stdin=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def restart(self, name: str) -> None:
        self.check(name)
        self.running[name].kill()
        self.running[name].communicate()
        self.running[name] = self.start(name)

    def check(self, name: str, ended: int | None = None) -> None:
        if self.running[name].poll() != ended:
            text = (self.folder / f"{name}.err").read_text("utf-8")
            raise AssertionError(f"{name} ended with {self.running[name].poll()}: {text[-3000:]}")

    async def writes(self, count: int) -> None:
        """Wait until each process has made ``count`` more writes."""
        for name, log in self.logs.items():
            await asyncio.to_thread(log.read)
            enough = log.acknowledged + count
            while log.acknowledged < enough:
                self.check(name)
                await asyncio.sleep(0.05)
                await asyncio.to_thread(log.read)

    async def end(self) -> None:
        """End all processes, and compare their logs with the store."""
        for name, process in self.running.items():
            self.check(name)
            await asyncio.to_thread(process.communicate, timeout=240)
            self.check(name, ended=0)
        async with aiovec.connect(config=self.config) as store:
            assert await problems(store, [*self.logs.values()]) == []

    def kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()


@pytest.mark.soak(minutes=10)
@pytest.mark.timeout(7200)
async def test_apps_and_migrators_that_are_killed_lose_and_double_nothing(
    tmp_path: Path, seeds: Seeds
) -> None:
    """Migrate there and back repeatedly, while apps and migrators are killed or stopped."""
    chance = random.Random()
    steps: list[str] = []

    async def note(step: str) -> None:
        steps.append(step)

    await switched(await a_store(tmp_path / "steps", "sqlite"), "lancedb", step=note)
    config = await a_store(tmp_path / "fire", "sqlite")
    apps = Apps(config, ["one", "other", "third"], rest=0.1)

    async def hits() -> None:
        while True:
            await asyncio.sleep(chance.random() * 4)
            name = chance.choice(list(apps.running))
            if chance.random() < 0.2:
                await asyncio.to_thread(apps.restart, name)
                continue
            process = apps.running[name]
            apps.check(name)
            process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(chance.choice([0.5, 2.0, 7.0]))
            finally:
                process.send_signal(signal.SIGCONT)

    try:
        for number, seed in enumerate(seeds(12)):
            chance.seed(seed)
            source, target = WAYS["there" if number % 2 == 0 else "back"]
            await apps.writes(2)
            hitting = asyncio.ensure_future(hits())
            for _ in range(chance.choice([0, 1, 2])):
                dying = victim(config, target, chance.choice(steps))
                await asyncio.to_thread(dying.wait, 240)
            if named(config) == source and chance.random() < 0.2:
                with suppress(MigrationError):  # no migration is open, or it is too late
                    await aiovec_migrate.abort(config=config)
            await switched(config, target, options=PATIENT)
            hitting.cancel()
            await asyncio.wait([hitting])
            assert hitting.cancelled(), hitting.exception()
            await apps.writes(2)
            assert named(config) == target
        await apps.end()
    finally:
        apps.kill()
