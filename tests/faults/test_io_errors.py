"""System calls fail, for a moment or for longer: a call that failed is not done, nothing that was
acknowledged is lost, and the store works when the system does."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.harness import syscalls
from tests.harness.processes import output_of
from tests.harness.scripts import KINDS, target_in

NO_ROOM = {"calls": syscalls.WRITE | syscalls.TRUNCATE, "error": errno.ENOSPC, "fail": 10_000}
ONCE = {"calls": syscalls.CHANGES, "error": errno.EIO, "fail": 1}
READING = {"calls": syscalls.READ | syscalls.OPEN, "error": errno.EIO, "fail": 2}
FLUSHES = {"calls": syscalls.SYNC, "error": errno.EIO, "fail": 10_000}


EVERY = (NO_ROOM, ONCE, READING, FLUSHES)


def campaign(folder: Path, kind: str, step: int, faults: Sequence[dict[str, int]] = EVERY) -> None:
    """Fail every ``step``-th of the system calls that each script makes."""
    (folder / "place").mkdir()
    target = target_in(folder / "place", kind)
    syscalls.run(folder, target, faults=faults, places=[0, 400, step])


@pytest.mark.slow
def test_some_calls_to_the_system_fail_on_sqlite(tmp_path: Path) -> None:
    campaign(tmp_path, "sqlite", 11)


@pytest.mark.slow
def test_some_calls_to_the_system_fail_on_lancedb(tmp_path: Path) -> None:
    campaign(tmp_path, "lancedb", 60, [NO_ROOM, ONCE])


FLUSHED = """
import asyncio, os, sys
from pathlib import Path
import aiovec
from tests.harness.syscalls import SYNC, VARIABLE, Faults

async def main(path):
    faults = Faults(Path(os.environ[VARIABLE]))
    async with aiovec.connect(path) as store:
        await store.create_table("notes", aiovec.Schema(2))
        for number in range(5):
            faults.arm(SYNC, path, fail=0)
            await store.upsert("notes", [{"id": str(number), "embedding": [1, number]}])
            print(faults.matched())

asyncio.run(main(sys.argv[1]))
"""


def test_acknowledged_write_is_flushed_to_disk_unless_users_say_normal(tmp_path: Path) -> None:
    flushes = {}
    for durability in ("full", "normal"):
        environment = syscalls.environment(tmp_path, tmp_path / "control")
        environment["AIOVEC_RETRIEVAL__SQLITE__DURABILITY"] = durability
        printed = output_of("-c", FLUSHED, tmp_path / f"{durability}.db", env=environment)
        flushes[durability] = [int(count) for count in printed.split()]
    assert len(flushes["full"]) == len(flushes["normal"]) == 5
    assert min(flushes["full"]) >= 1
    assert max(flushes["normal"]) == 0


@pytest.mark.soak(minutes=30)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_each_call_to_the_system_fails(tmp_path: Path, kind: str) -> None:
    campaign(tmp_path, kind, 1)
