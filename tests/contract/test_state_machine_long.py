"""The state machine with many examples, new ones each time: part of ``make test-long``."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from tests.contract.machine import default_settings, run_machine
from tests.toy_backend import ToyBackend

from aiovec.backend import Backend
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings
from aiovec_sqlite import SqliteBackend
from aiovec_sqlite.settings import SqliteSettings

LONG = settings(default_settings(), max_examples=500, stateful_step_count=60, derandomize=False)


def _in_file(path: Path) -> Backend:
    return SqliteBackend(str(path / "store.db"), SqliteSettings(durability="normal"))


def _in_memory(path: Path) -> Backend:
    return SqliteBackend(":memory:", SqliteSettings())


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sqlite_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed here")
    monkeypatch.setenv("AIOVEC_LOOP", loop)
    run_machine(_in_file, tmp_path, options=LONG)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sqlite_in_memory(tmp_path: Path) -> None:
    run_machine(_in_memory, tmp_path, persistent=False, options=LONG)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_lancedb_in_a_folder(tmp_path: Path) -> None:
    def in_folder(path: Path) -> Backend:
        return LancedbBackend(str(path / "store"), LancedbSettings())

    run_machine(in_folder, tmp_path, options=LONG)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_lancedb_in_memory(tmp_path: Path) -> None:
    def in_memory(path: Path) -> Backend:
        return LancedbBackend("memory://", LancedbSettings())

    run_machine(in_memory, tmp_path, persistent=False, options=LONG)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_toy(tmp_path: Path) -> None:
    run_machine(lambda path: ToyBackend(), tmp_path, persistent=False, options=LONG)
