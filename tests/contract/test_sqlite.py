"""The contract suite on the SQLite backend: in a file, and in memory."""

from __future__ import annotations

from pathlib import Path

from tests.contract.contract import BackendContract

from aiovec.backend import Backend
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
    # Conversions, filters, reads and searches are the same code as in a file.
    shown_elsewhere = (
        "ChoosingContract.", "FilteringContract.", "HybridContract.", "LargeCallsContract.",
        "ModelsContract.", "NamesContract.", "ReadingContract.", "RowFormsContract.",
        "SearchingContract.", "TextContract.",
    )  # fmt: skip
    here_too = frozenset({
        "test_find_orders_by_several_keys", "test_groups_beside_writers",
        "test_keyword_searches_beside_writers", "test_many_hybrid_searches_at_once",
        "test_queries", "test_the_nearest_come_first",
    })  # fmt: skip
    slow = frozenset({
        "test_a_loop_that_ends_while_calls_run[0.0]", "test_a_loop_that_ends_while_calls_run[0.02]",
        "test_a_loop_that_is_closed_without_an_end", "test_pages_of_every_size",
        "test_rows_that_nobody_else_holds", "test_state_machine",
    })  # fmt: skip

    def make_backend(self, path: Path) -> Backend:
        return SqliteBackend(":memory:", SqliteSettings())

    def make_forgetful_backend(self, path: Path) -> Backend:
        return SqliteBackend(":memory:", SqliteSettings(keep_deletes=100))

    def open_backup(self, path: Path) -> Backend:
        return SqliteBackend(str(path), SqliteSettings())
