"""The contract suite on the LanceDB backend: in a folder, and in memory."""

from __future__ import annotations

from pathlib import Path

from aiovec._core.contract import Backend
from aiovec.testing import BackendContract
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings

DEVIATIONS = {
    "test_a_payload_keeps_the_order_of_its_keys": "Lance keeps JSON in a binary form that sorts "
    "the keys; filters on payload keys need that form",
}


class TestLancedbFolder(BackendContract):
    deviations = DEVIATIONS
    slow = frozenset({"test_many_queries[an array]"})  # each query is a search of Lance: as lists

    def make_backend(self, path: Path) -> Backend:
        return LancedbBackend(str(path / "store"), LancedbSettings())

    def open_backup(self, path: Path) -> Backend:
        return LancedbBackend(str(path), LancedbSettings())


class TestLancedbMemory(BackendContract):
    deviations = DEVIATIONS
    persistent = False
    renames_tables = False
    # Conversions, filters, reads and searches are the same code as in a folder.
    shown_elsewhere = (
        "ChoosingContract.", "FilteringContract.", "HybridContract.", "LargeCallsContract.",
        "ModelsContract.", "NamesContract.", "ReadingContract.", "RowFormsContract.",
        "SearchingContract.", "TextContract.",
    )  # fmt: skip
    here_too = frozenset({
        "test_find_orders_by_several_keys", "test_groups_beside_writers",
        "test_keyword_searches_beside_writers", "test_many_hybrid_searches_at_once",
        "test_queries", "test_reranking_reads_the_texts",
    })  # fmt: skip
    slow = frozenset({
        "test_a_loop_that_ends_while_calls_run[0.0]", "test_a_loop_that_ends_while_calls_run[0.02]",
        "test_a_loop_that_is_closed_without_an_end", "test_rows_that_nobody_else_holds",
        "test_state_machine", "test_texts_are_kept_exactly",
    })  # fmt: skip

    def make_backend(self, path: Path) -> Backend:
        return LancedbBackend("memory://", LancedbSettings())

    def open_backup(self, path: Path) -> Backend:
        return LancedbBackend(str(path), LancedbSettings())
