"""The memory and cores that a process may use: limits of its control groups, and of those above."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.base import case

from aiovec.backend import memory

GIB = 2**30
# The group of the process, the files of the groups, the memory limit and the cores.
GROUPS: tuple[tuple[str, str, dict[str, str], int | None, int], ...] = (
    ("none", "0::/", {}, None, 64),
    ("a container", "0::/", {"memory.max": f"{GIB}\n", "cpu.max": "250000 100000"}, GIB, 2),
    ("a service of systemd", "0::/system.slice/app.service", {
        "system.slice/memory.max": "max", "system.slice/app.service/memory.max": str(GIB),
        "system.slice/app.service/cpu.max": "max 100000",
    }, GIB, 64),
    ("a slice with less than its service", "0::/a.slice/b.service", {
        "a.slice/memory.max": str(GIB), "a.slice/b.service/memory.max": str(2 * GIB),
        "a.slice/cpu.max": "50000 100000", "a.slice/b.service/cpu.max": "400000 100000",
    }, GIB, 1),
    ("the first version", "5:memory:/a/b\n4:cpu,cpuacct:/c", {
        "memory/a/memory.limit_in_bytes": str(GIB),
        "memory/a/b/memory.limit_in_bytes": "9223372036854771712",
        "cpu/c/cpu.cfs_quota_us": "300000", "cpu/c/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
    }, GIB, 3),
)  # fmt: skip


def test_memory_and_cores_keep_to_the_limits_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN", tmp_path / "own")
    machine = memory.total_memory()
    for name, own, files, nbytes, cores in GROUPS:
        with case(name):
            for place in tmp_path.rglob("*.*"):
                if place.is_file():
                    place.unlink()
            (tmp_path / "own").write_text(own, encoding="ascii")
            for place, text in files.items():
                (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / place).write_text(text, encoding="ascii")
            assert memory.total_memory() == (machine if nbytes is None else nbytes)
            memory.usable_cores.cache_clear()
            assert memory.usable_cores() == cores
    memory.usable_cores.cache_clear()
