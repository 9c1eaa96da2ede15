"""Damaged stores: every call ends in an answer or an error of aiovec, and Python lives on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.scripts import KINDS, path_of, target_in
from tests.hostile.damaged_stores import make

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_stores(tmp_path: Path, kind: str) -> None:
    target = target_in(tmp_path, kind)
    asyncio.run(make(target))
    command = [sys.executable, "-m", "tests.hostile.damaged_stores", str(path_of(target))]
    done = subprocess.run(
        [*command, "0", "3000"], cwd=ROOT, capture_output=True, text=True, timeout=7000
    )
    assert done.returncode == 0, f"{done.stdout[-200:]}\n{done.stderr[-5000:]}"
    assert "answered" in done.stdout
    assert "error" in done.stdout
