"""The contract suite on the SQLite backend: in a file, and in memory."""

from __future__ import annotations

from pathlib import Path

from aiovec._core.contract import Backend
from aiovec.testing import BackendContract
from aiovec_sqlite import SqliteBackend
from aiovec_sqlite.settings import SqliteSettings


class TestSqliteFile(BackendContract):
    def make_backend(self, path: Path) -> Backend:
        return SqliteBackend(str(path / "store.db"), SqliteSettings())

    def make_forgetful_backend(self, path: Path) -> Backend:
        return SqliteBackend(str(path / "store.db"), SqliteSettings(keep_deletes=100))

    def open_backup(self, path: Path) -> Backend:
        return SqliteBackend(str(path), SqliteSettings())


class TestSqliteMemory(BackendContract):
    persistent = False
    # Conversions and filters are the same code as in a file.
    shown_elsewhere = (
        "FilteringContract.", "ModelsContract.", "NamesContract.", "RowFormsContract.",
    )  # fmt: skip
    slow = frozenset({
        "test_a_loop_that_ends_while_calls_run[0.0]", "test_a_loop_that_ends_while_calls_run[0.02]",
        "test_a_loop_that_is_closed_without_an_end", "test_every_method_selects_the_same",
        "test_large_arguments", "test_large_filters", "test_large_rows", "test_limits_beyond_4096",
        "test_many_queries", "test_many_rows_in_and_out", "test_pages_of_every_size",
        "test_rows_that_nobody_else_holds", "test_state_machine",
    })  # fmt: skip

    def make_backend(self, path: Path) -> Backend:
        return SqliteBackend(":memory:", SqliteSettings())

    def make_forgetful_backend(self, path: Path) -> Backend:
        return SqliteBackend(":memory:", SqliteSettings(keep_deletes=100))

    def open_backup(self, path: Path) -> Backend:
        return SqliteBackend(str(path), SqliteSettings())
