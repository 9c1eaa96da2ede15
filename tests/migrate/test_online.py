"""An app of many processes goes on while its store is migrated: no call of it fails, no write that
was acknowledged is lost, and no reader sees a wrong row or misses one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import State, python

import aiovec
import aiovec_migrate
from aiovec_migrate import Options

from .client import TABLE
from .support import SCHEMAS, contents_at, differences, row, write_toml

_PATIENCE = 240.0


@dataclass
class App:
    """Processes that write and read, each its own rows."""

    config: Path
    folder: Path
    source: str
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    rest: float = 0.04
    """Seconds, at most, between two calls of a process."""

    @property
    def target(self) -> str:
        return "lancedb" if self.source == "sqlite" else "sqlite"

    def start(self, writers: int, readers: int) -> None:
        for role, count in (("writer", writers), ("reader", readers)):
            for n in range(count):
                name = f"{role}{n}"
                self.processes[name] = python(
                    "-m", "tests.migrate.client", str(self.config), str(self.folder), role, name,
                    str(self.rest),
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )  # fmt: skip
        for process in self.processes.values():
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise AssertionError(process.communicate()[1][-3000:])

    def wait_for_writes(self, more: int = 1) -> None:
        """Until each process was acknowledged a write, or some, that ends after now."""
        acks = [self.folder / f"{name}.acks" for name in self.processes]
        before = {file: file.stat().st_size for file in acks}
        end = time.monotonic() + _PATIENCE
        while any(file.stat().st_size < size + more for file, size in before.items()):
            if any(process.poll() is not None for process in self.processes.values()):
                raise AssertionError(f"a process ended by itself: {self.end()}")
            assert time.monotonic() < end, "a writer does not go on"
            time.sleep(0.01)

    def end(self) -> dict[str, dict[str, Any]]:
        """What each process says that it did; AssertionError where a call of one failed."""
        results, failures = {}, []
        for process in self.processes.values():
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdin = None
        while self.processes:
            name = next(iter(self.processes))
            output, errors = self.processes[name].communicate(timeout=_PATIENCE)
            if self.processes.pop(name).returncode:
                failures.append(f"{name}: {errors[-2000:]}")
            else:
                results[name] = json.loads(output)
        assert not failures, "\n\n".join(failures)
        return results

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()


@pytest.fixture
def source() -> str:
    """The backend that the app uses at first; tests of another direction name it."""
    return "sqlite"


@pytest.fixture
def app(tmp_path: Path, source: str) -> Iterator[App]:
    folder = tmp_path / "acks"
    folder.mkdir()
    made = App(write_toml(tmp_path, source), folder, source)
    try:
        yield made
    finally:
        made.kill()


# Both directions in which a TOML can switch.
SOURCES = pytest.mark.parametrize("source", ["sqlite", "lancedb"])


def migrator(app: App, command: str = "run", **told: Any) -> subprocess.Popen[str]:
    arguments = {"source": app.source, "target": app.target} if command == "run" else {}
    return python(
        "-m", "tests.migrate.victim", command, str(app.config), json.dumps({**arguments, **told}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def to_its_end(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=_PATIENCE * 5)
    assert process.returncode == 0, (output[-500:], errors[-3000:])


async def fill(config: Path, count: int) -> None:
    async with aiovec.connect(config=config) as store:
        await store.create_table(TABLE, SCHEMAS[TABLE])
        for start in range(0, count, 5000):
            some = range(start, min(start + 5000, count))
            rows = [row(f"base/{n}", State(n % 50, n % 50), "nobody", TABLE) for n in some]
            await store.insert(TABLE, rows)


async def check(config: Path, base: int, results: dict[str, dict[str, Any]]) -> None:
    """Every acknowledged write is in the store that the TOML names now, and nothing else."""
    yardstick = config.parent / "yardstick.db"
    await asyncio.to_thread(yardstick.unlink, missing_ok=True)
    async with aiovec.connect(yardstick) as store:
        await store.create_table(TABLE, SCHEMAS[TABLE])
        for start in range(0, base, 5000):
            some = range(start, min(start + 5000, base))
            rows = [row(f"base/{n}", State(n % 50, n % 50), "nobody", TABLE) for n in some]
            await store.insert(TABLE, rows)
        for name, result in results.items():
            rows = [row(id, State(*s), name, TABLE) for id, s in result["rows"].items()]
            if rows:
                await store.insert(TABLE, rows)
    found = await contents_at(config=config)
    wanted = await contents_at(yardstick)
    for _, rows_of in (*found.values(), *wanted.values()):
        for one in rows_of.values():
            _without_null_keys(one)
    assert differences(wanted, found) == []


def _without_null_keys(one: dict[str, Any]) -> None:
    """A row that an update told to have no note has a null there, one that was put has none."""
    payload = {k: v for k, v in (one["payload"] or {}).items() if v is not None}
    one["payload"] = payload or None


def told(results: dict[str, dict[str, Any]], what: str, config: Path) -> float:
    """For how long the writers were held, printed.

    Beside it the longest write from which an app's process came back in the new store, with all
    that its driver and the new store took, and the longest write of all: how long those take is
    a matter of how many processes share how many cores.
    """
    state = asyncio.run(aiovec_migrate.status(config=config))
    assert state is not None
    writes = sum(result["writes"] for result in results.values())
    reads = sum(result["reads"] for result in results.values())
    crossing, longest = (
        max(result[key] for result in results.values()) for key in ("crossing", "longest")
    )
    print(  # noqa: T201 - what the test is about
        f"{what}: {writes} writes and {reads} reads by {len(results)} processes; the longest "
        f"pause of the writers was {state.longest_pause:.3f} s, the longest write across the "
        f"cut-over {crossing:.3f} s, the longest write of all {longest:.3f} s"
    )
    return state.longest_pause


def through_the_whole_migration(app: App, base: int, writers: int, readers: int) -> float:
    asyncio.run(fill(app.config, base))
    app.start(writers, readers)
    app.wait_for_writes()
    to_its_end(migrator(app, options={"switch": True}))
    app.wait_for_writes(3)
    results = app.end()
    assert {result["backend"] for result in results.values()} == {app.target}
    longest = told(results, "migration", app.config)
    asyncio.run(check(app.config, base, results))
    return longest


def with_a_migrator_killed_in_the_pause(app: App, base: int, writers: int, readers: int) -> float:
    limit = 1.0
    # A busy machine may need more than a few attempts to keep to so short a pause.
    options = {"switch": True, "pause_limit": limit, "attempts": 20}
    asyncio.run(fill(app.config, base))
    app.start(writers, readers)
    app.wait_for_writes()
    killed = migrator(app, options=options, die=["cut-over:paused", 1])
    killed.communicate(timeout=_PATIENCE * 5)
    # The writers end the pause and go on, while nobody migrates.
    app.wait_for_writes(2)
    to_its_end(migrator(app, options=options))
    app.wait_for_writes(3)
    results = app.end()
    assert {result["backend"] for result in results.values()} == {app.target}
    longest = told(results, "migrator killed in the pause", app.config)
    asyncio.run(check(app.config, base, results))
    return longest


@pytest.mark.slow
@SOURCES
def test_an_app_goes_on(app: App) -> None:
    app.rest = 0.4
    through_the_whole_migration(app, base=2000, writers=2, readers=1)


@pytest.mark.slow
def test_an_app_goes_on_when_the_migrator_dies_in_the_pause(app: App) -> None:
    app.rest = 0.4
    with_a_migrator_killed_in_the_pause(app, base=500, writers=2, readers=0)


@SOURCES
@pytest.mark.soak
def test_a_rollback_brings_back_what_was_written_since(app: App) -> None:
    """C10: the app writes on, there and back. ``test_a_migration_under_fire`` is the short form."""
    app.rest = 0.4
    asyncio.run(fill(app.config, 500))
    app.start(writers=2, readers=0)
    app.wait_for_writes()
    to_its_end(migrator(app, options={"switch": True}))
    app.wait_for_writes(3)
    to_its_end(migrator(app, "rollback"))
    app.wait_for_writes(3)
    results = app.end()
    assert {result["backend"] for result in results.values()} == {app.source}
    to_its_end(migrator(app, "finish"))
    asyncio.run(check(app.config, 500, results))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["lancedb"])
def test_an_app_goes_on_beside_a_copy_from_lancedb_to_lancedb(app: App, tmp_path: Path) -> None:
    """One TOML names one LanceDB store, so there is no switch between two of them."""
    app.rest = 0.4
    copy = f"lancedb://{tmp_path / 'copy.lance'}"
    asyncio.run(fill(app.config, 500))
    app.start(writers=2, readers=1)
    app.wait_for_writes()
    stopped = migrator(app, target=copy, die=["verify:compared", 1])
    stopped.communicate(timeout=_PATIENCE * 5)
    app.wait_for_writes(3)
    results = app.end()
    assert {result["backend"] for result in results.values()} == {app.source}
    to_its_end(migrator(app, target=copy))  # with what was written behind the kill
    asyncio.run(check(app.config, 500, results))
    wanted = asyncio.run(contents_at(config=app.config))
    assert differences(wanted, asyncio.run(contents_at(copy))) == []


# With the shorter one 16 processes take two cores whole.
RESTS = pytest.mark.parametrize("rest", [0.4, 0.04])


@pytest.mark.soak
@RESTS
def test_16_processes_on_100000_rows(app: App, rest: float) -> None:
    app.rest = rest
    assert through_the_whole_migration(app, base=100_000, writers=8, readers=8) < 1.0


@pytest.mark.soak
@pytest.mark.parametrize("source", ["lancedb"])
def test_16_processes_that_leave_lancedb(app: App) -> None:
    """Its writers hold one lock in turn, so a pause is as long as those that wait for it take."""
    app.rest = 0.4
    limit = Options().pause_limit
    assert through_the_whole_migration(app, base=20_000, writers=8, readers=8) < limit


@pytest.mark.soak
@RESTS
def test_16_processes_and_a_migrator_killed_in_the_pause(app: App, rest: float) -> None:
    app.rest = rest
    assert with_a_migrator_killed_in_the_pause(app, base=20_000, writers=8, readers=8) < 1.0
