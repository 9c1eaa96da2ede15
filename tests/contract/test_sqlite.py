"""The contract suite on SQLite: in a file, and in memory."""

from __future__ import annotations

from pathlib import Path

from tests.contract.contract import BackendContract


class TestSqliteFile(BackendContract):
    backend = "sqlite"
    forgetful = {"keep_deletes": 100}  # noqa: RUF012
    impatient = {"busy_timeout": 0}  # noqa: RUF012
    one_writer = {"write_queue": 1, "busy_timeout": 20}  # noqa: RUF012

    def target(self, path: Path) -> str:
        return str(path / "store.db")


class TestSqliteMemory(BackendContract):
    backend = "sqlite"
    tiers = ("slow", "soak")
    persistent = False

    def target(self, path: Path) -> str:
        return ":memory:"
