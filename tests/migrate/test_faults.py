"""What goes wrong around a migration: each time a clear error, nothing lost, and it goes on."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.faults.test_full import _take_all, small_disk
from tests.lancedb.buckets import Bucket
from tests.sqlite.support import State, python

import aiovec
import aiovec_migrate
from aiovec import AiovecError, Field, MigrationError, StoreFullError
from aiovec_migrate import Options
from aiovec_migrate.host import RealHost
from aiovec_migrate.limits import Limits

from .flaky_s3 import fail, flaky_s3
from .support import contents_at, differences, fill, migrated, rolled_back, row, write_toml

__all__ = ["small_disk"]  # a fixture

SWITCH = Options(batch_size=50, switch=True, pause_limit=2.0)


class At:
    """Does something at the first occurrence of a step."""

    def __init__(self, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        self.name = name
        self.work = work
        self.met = False

    async def __call__(self, name: str) -> None:
        if name == self.name and not self.met:
            self.met = True
            await self.work()


async def filled(target: Path | str, **counts: int) -> None:
    async with aiovec.connect(target) as store:
        await fill(store, counts or {"notes": 300, "others": 40})


async def app_works(config: Path, name: str) -> None:
    """The app's store is where it was, and takes writes."""
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "sqlite"
        rows = [row(f"{name}/{n}", State(1, 1), "app") for n in range(5)]
        assert await store.insert("notes", rows) == 5
        assert [r.id for r in await store.get("notes", f"{name}/1")] == [f"{name}/1"]


async def check_switched(config: Path, wanted: Any) -> None:
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "lancedb"
    assert differences(wanted, await contents_at(config=config)) == []


# The target


async def test_the_targets_disk_is_full(small_disk: Path, tmp_path: Path) -> None:
    config = await asyncio.to_thread(
        write_toml, tmp_path, "sqlite", lancedb=f"{small_disk / 'notes.lance'}"
    )
    await filled(tmp_path / "notes.db")
    filler = small_disk / "filler"

    async def take_all() -> None:
        await asyncio.to_thread(_take_all, filler)

    with pytest.raises(StoreFullError, match=r"notes\.lance"):
        await migrated(
            "sqlite", "lancedb", config=config, options=SWITCH, step=At("copy:read", take_all)
        )
    await app_works(config, "full")
    with pytest.raises(StoreFullError):
        await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    await asyncio.to_thread(filler.unlink)
    wanted = await contents_at(config=config)
    await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    await check_switched(config, wanted)


@pytest.mark.slow
async def test_an_s3_server_that_errors_hangs_and_recovers(tmp_path: Path) -> None:
    with flaky_s3() as bucket:
        await _through_a_flaky_server(bucket, tmp_path)


async def _through_a_flaky_server(bucket: Bucket, folder: Path) -> None:
    options = {**bucket.options, "timeout": "1s", "client_max_retries": "0"}
    pairs = ", ".join(f'{key} = "{value}"' for key, value in options.items())
    config = await asyncio.to_thread(
        write_toml,
        folder,
        "sqlite",
        lancedb=bucket.new_url(),
        more=f"[retrieval.lancedb]\nstorage_options = {{ {pairs} }}\n",
    )
    await filled(folder / "notes.db")

    async def attempt(step: At | None = None) -> None:
        more = {} if step is None else {"step": step}
        await migrated("sqlite", "lancedb", config=config, options=SWITCH, **more)

    async def errors() -> None:
        await asyncio.to_thread(fail, bucket, 503)

    with pytest.raises(AiovecError, match="the server fails"):
        await attempt(At("copy:read", errors))
    await app_works(config, "errors")
    await asyncio.to_thread(fail, bucket, 200)

    if hasattr(signal, "SIGSTOP"):

        async def hangs() -> None:
            bucket.process.send_signal(signal.SIGSTOP)

        try:
            with pytest.raises(AiovecError, match=r"in time|cannot be reached|no answer"):
                await attempt(At("copy:read", hangs))
            await app_works(config, "hangs")
        finally:
            bucket.process.send_signal(signal.SIGCONT)

    wanted = await contents_at(config=config)
    # It fails in the pause, and recovers before the next try.
    await attempt(At("cut-over:paused", lambda: _for_a_moment(bucket)))
    await check_switched(config, wanted)


async def _for_a_moment(bucket: Bucket) -> None:
    await asyncio.to_thread(fail, bucket, 500)
    loop = asyncio.get_running_loop()
    loop.call_later(0.5, lambda: loop.run_in_executor(None, fail, bucket, 200))


# The source


async def test_a_damaged_source(tmp_path: Path) -> None:
    """Its pages are overwritten while it is copied; it is mended from a copy."""
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    await filled(tmp_path / "notes.db", notes=4000)
    whole = await contents_at(config=config)
    file = tmp_path / "notes.db"
    kept: dict[str, bytes] = {}

    def harm() -> None:
        for part in tmp_path.glob("notes.db*"):
            kept[part.name] = part.read_bytes()
        content = bytearray(kept["notes.db"])
        chance = random.Random(5)
        for at in range(3 * 4096, len(content) - 4096, 4096):
            content[at : at + 512] = chance.randbytes(512)
        file.write_bytes(content)

    def mend() -> None:
        for part in tmp_path.glob("notes.db*"):
            part.unlink()
        for name, content in kept.items():
            (tmp_path / name).write_bytes(content)

    with pytest.raises(AiovecError, match=r"notes\.db"):
        await migrated(
            "sqlite",
            "lancedb",
            config=config,
            options=Options(batch_size=50, switch=True),
            step=At("table:created", lambda: asyncio.to_thread(harm)),
        )
    assert (await aiovec_migrate.status(config=config)) is not None
    await asyncio.to_thread(mend)
    await app_works(config, "mended")
    wanted = await contents_at(config=config)
    assert len(wanted["notes"][1]) == len(whole["notes"][1]) + 5
    await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    await check_switched(config, wanted)


async def test_a_source_replaced_midway(tmp_path: Path) -> None:
    """Another store lies in its place when the run goes on: refused, and left as it is."""
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    await filled(tmp_path / "notes.db")
    await filled(tmp_path / "another.db", notes=50, others=10)

    class StoppedError(Exception): ...

    async def stop() -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        await migrated(
            "sqlite", "lancedb", config=config, options=SWITCH, step=At("copy:journalled", stop)
        )

    def replace() -> None:
        for part in tmp_path.glob("notes.db*"):
            part.rename(part.with_name(part.name.replace("notes.db", "old.db")))
        (tmp_path / "another.db").rename(tmp_path / "notes.db")

    await asyncio.to_thread(replace)
    before = await contents_at(config=config)
    with pytest.raises(MigrationError, match="not the store that the run"):
        await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    await app_works(config, "replaced")
    await aiovec_migrate.abort(config=config)
    assert len((await contents_at(config=config))["notes"][1]) == len(before["notes"][1]) + 5
    wanted = await contents_at(config=config)
    await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    await check_switched(config, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["sqlite", "lancedb"])
@pytest.mark.parametrize("step", ["copy:written", "phase:catching-up"])
async def test_tables_are_neither_made_nor_altered_nor_dropped_midway(
    tmp_path: Path, source: str, step: str
) -> None:
    """C5: a table that was made on LanceDB during a switch stayed behind."""
    config = await asyncio.to_thread(write_toml, tmp_path, source)
    place = tmp_path / "notes.db" if source == "sqlite" else f"lancedb://{tmp_path / 'notes.lance'}"
    await filled(place)
    target = "lancedb" if source == "sqlite" else "sqlite"
    refused = 0

    async def alter() -> None:
        nonlocal refused
        async with aiovec.connect(config=config) as store:
            for call in (
                store.add_field("notes", "added", Field(str)),
                store.create_table("young", aiovec.Schema(2)),
                store.drop_table("others"),
            ):
                with pytest.raises(MigrationError, match="a migration is open"):
                    await call
                refused += 1
            await store.insert("notes", [row("late", State(1, 1), "app")])

    before = await contents_at(config=config)
    await migrated(source, target, config=config, options=SWITCH, step=At(step, alter))
    assert refused == 3
    after = await contents_at(config=config)
    assert after["notes"][1].pop("late")
    assert differences(before, after) == []


# The migrators and their clock


async def test_two_migrators_at_once(tmp_path: Path) -> None:
    """One does it, the other is told so at once and changes nothing."""
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    await filled(tmp_path / "notes.db")
    wanted = await contents_at(config=config)
    told = json.dumps(
        {"source": "sqlite", "target": "lancedb", "options": {"switch": True, "batch_size": 20}}
    )

    def race() -> list[tuple[int, str]]:
        both = [
            python(
                "-m", "tests.migrate.victim", "run", str(config), told,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for _ in range(2)
        ]  # fmt: skip
        said = [process.communicate(timeout=120)[0] for process in both]
        return sorted((process.returncode, text) for process, text in zip(both, said, strict=True))

    (first, _), (second, complaint) = await asyncio.to_thread(race)
    assert first == 0
    # Where the second came late it found the run done.
    assert second == 0 or "another migrator is at work" in complaint, complaint
    await check_switched(config, wanted)


async def test_a_clock_that_jumps(tmp_path: Path) -> None:
    class Jumping(RealHost):
        def __init__(self) -> None:
            super().__init__(Limits(notice=0.0))
            self.looks = 0

        def wall(self) -> datetime:
            self.looks += 1
            days = (-4000, 4000, 0, -1)[self.looks % 4]
            return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=days)

    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    await filled(tmp_path / "notes.db")
    wanted = await contents_at(config=config)
    host = Jumping()
    await migrated("sqlite", "lancedb", config=config, options=SWITCH, host=host)
    assert host.looks > 4
    await check_switched(config, wanted)
    state = await aiovec_migrate.status(config=config, host=host)
    assert state is not None
    assert state.phase.over
    await rolled_back(config=config, host=host)
    await aiovec_migrate.finish(config=config, host=host)
    assert differences(wanted, await contents_at(config=config)) == []
