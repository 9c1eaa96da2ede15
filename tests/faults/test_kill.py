"""A process that is killed at any moment leaves every call as a whole or not at all, and what it
acknowledged; what it did not, it can repeat under a key."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.harness.kill import every_kill
from tests.harness.scripts import KINDS

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rounds"), [("sqlite", 5), ("lancedb", 2)])
def test_killed_processes(tmp_path: Path, kind: str, rounds: int) -> None:
    every_kill(tmp_path, kind, rounds, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_many_killed_processes(tmp_path: Path, kind: str) -> None:
    met = every_kill(tmp_path, kind, 300, seed=int.from_bytes(os.urandom(4)))
    assert len(met) > 15, met
