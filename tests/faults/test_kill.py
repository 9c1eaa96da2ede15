"""If a process is killed, each call is done completely or not at all, and acknowledged calls are
kept. Calls that were not acknowledged can be repeated under a key."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.cases import Seeds
from tests.harness.kill import kill_repeatedly
from tests.harness.scripts import KINDS, target_in
from tests.harness.syscalls import CHANGES, KILL, Faults, environment

import aiovec

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 4), ("lancedb", 2)])
def test_killed_process_leaves_each_call_done_or_not(tmp_path: Path, kind: str, kills: int) -> None:
    kill_repeatedly(tmp_path, kind, 1, kills)


@pytest.mark.soak(minutes=15)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_many_killed_processes_leave_each_call_done_or_not(
    tmp_path: Path, kind: str, seeds: Seeds
) -> None:
    for seed in seeds(100):
        kill_repeatedly(tmp_path, kind, seed)


async def rows_of(target: str) -> dict[str, int]:
    async with aiovec.connect(target) as store:
        tables = await store.tables()
        records = await store.find("t", limit=10_000) if tables else []
        assert len(records) == (await store.count("t") if tables else 0)
        return {record.id: record["n"] for record in records}


@pytest.mark.slow
def test_a_killed_import_goes_on_by_the_same_command(tmp_path: Path) -> None:
    """The command has ``--upsert``. The killed import left only complete rows of the file."""
    file, folder = tmp_path / "rows.jsonl", tmp_path / "place"
    folder.mkdir()
    wanted = {f"r{n}": n for n in range(3000)}
    file.write_text(
        "".join(
            json.dumps({"id": id, "embedding": [1, n, 2, 3], "n": n}) + "\n"
            for id, n in wanted.items()
        )
    )
    target = target_in(folder, "sqlite")
    command = [sys.executable, "-m", "aiovec", "import", str(file), "-s", target]
    command += ["--table", "t", "--upsert"]
    env = environment(tmp_path, tmp_path / "control")
    faults = Faults(tmp_path / "control")
    faults.arm(CHANGES, str(folder), skip=40, error=KILL)
    killed = subprocess.run(command, env=env, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert asyncio.run(rows_of(target)).items() <= wanted.items()
    faults.disarm()
    subprocess.run(command, env=env, capture_output=True, check=True)
    assert asyncio.run(rows_of(target)) == wanted
