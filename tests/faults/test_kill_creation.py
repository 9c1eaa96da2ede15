"""A process that is killed while it creates a store leaves nothing that cannot be opened."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from tests.faults.creation_victims import left_pages
from tests.sqlite.support import SCHEMAS, State, check_file, opened, python

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the killed processes are made by fork"
)


async def _use(path: Path) -> None:
    async with opened(path) as store:
        assert await store.tables() == []
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", [State(1, 1).row("a", "me")])
        assert await store.count("notes") == 1


def campaign(folder: Path, rounds: int, seed: int) -> None:
    process = python(
        "-m", "tests.faults.creation_victims", str(folder), str(rounds), str(seed),
        stderr=subprocess.PIPE,
    )  # fmt: skip
    _, complaints = process.communicate(timeout=240)
    assert process.returncode == 0, complaints
    lengths = {file.stat().st_size for file in folder.glob("*.db")}
    # Some kills came before the first page, some amid the commit, some after it.
    assert 0 in lengths
    assert len(lengths) > 3
    assert left_pages(folder)
    for path in sorted(folder.glob("*.db")):
        asyncio.run(_use(path))
        assert check_file(path) == {"notes": 1}


def test_killed_creations(tmp_path: Path) -> None:
    campaign(tmp_path, rounds=40, seed=1)


@pytest.mark.soak
def test_many_killed_creations(tmp_path: Path) -> None:
    campaign(tmp_path, rounds=2000, seed=2)
