"""Damaged SQLite stores: every call ends in an answer or an ``AiovecError``, and soon (B24)."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hostile import store_mutants
from tests.sqlite.support import ROOT

# Mutants of one process, and the seconds that it may take for each.
_TOGETHER, _SECONDS = 50, 20


async def survive(folder: Path, first: int, count: int) -> None:
    path = folder / "a.db"
    await store_mutants.make(path)
    whole = path.with_name("a.db.whole")
    found = []
    while count > 0:
        done = await asyncio.to_thread(run, whole, first, min(count, _TOGETHER))
        tried = [int(number) for number in re.findall(r"^mutant (\d+)$", done, re.MULTILINE)]
        found += re.findall(r"^RAW .*(?:\n(?!mutant |RAW |done).*)*", done, re.MULTILINE)
        if not done.endswith("done\n"):
            found.append(f"mutant {tried[-1] if tried else first} ends the process: {done[-2000:]}")
        number = tried[-1] + 1 if tried else first + 1
        first, count = number, count - (number - first)
    assert not found, f"{len(found)} findings, the first ones:\n" + "\n".join(found[:3])


def run(whole: Path, first: int, count: int) -> str:
    """What the process said; its errors, too, where it did not end well."""
    command = [sys.executable, "-m", "tests.hostile.store_mutants"]
    try:
        done = subprocess.run(
            [*command, str(whole), str(first), str(count)],
            cwd=ROOT,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            capture_output=True,
            encoding="utf-8",
            timeout=60 + count * _SECONDS,
        )
    except subprocess.TimeoutExpired as exc:
        return (exc.stdout or b"").decode() + "it hangs"
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


async def test_mutated_stores(tmp_path: Path) -> None:
    """B24: bytes, pages, lengths, the WAL, the schema and any value, seen or not by SQLite."""
    await survive(tmp_path, 0, int(os.environ.get("AIOVEC_MUTANTS", "40")))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [3741, 6723])
async def test_mutants_that_came_out_raw(tmp_path: Path, mutant: int) -> None:
    """A table's name with a NUL, of which the doctor asked; and a change number without a next."""
    await survive(tmp_path, mutant, 1)


@pytest.mark.soak
async def test_many_mutated_stores(tmp_path: Path) -> None:
    await survive(tmp_path, 1_000, 10_000)
