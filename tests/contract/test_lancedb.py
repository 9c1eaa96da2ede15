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
    # Conversions, filters, reads, searches and the writes of one are the same code as in a folder.
    shown_elsewhere = (
        "ChangingContract.", "ChoosingContract.", "EmbeddingContract.", "FilteringContract.",
        "HybridContract.", "LargeCallsContract.", "ModelsContract.", "NamesContract.",
        "NullableVectorsContract.", "ReadingContract.", "RowFormsContract.", "SearchingContract.",
        "TablesContract.", "TextContract.", "WritingContract.",
    )  # fmt: skip
    here_too = frozenset({
        "test_a_dropped_table_is_gone", "test_a_renamed_table_keeps_its_rows",
        "test_a_table_made_anew_is_empty_and_may_differ", "test_an_added_field",
        "test_an_export_goes_on_while_a_field_is_dropped",
        "test_an_index_over_a_field_comes_and_goes", "test_delete_where",
        "test_fields_change_while_rows_come_and_are_read", "test_find_orders_by_several_keys",
        "test_groups_beside_writers", "test_indexes_over_fields_while_rows_come_and_are_read",
        "test_insert_counts_and_keeps_every_value", "test_inserts_at_once_add_each_id_once",
        "test_keyword_searches_beside_writers", "test_many_hybrid_searches_at_once",
        "test_of_adders_at_once_one_wins", "test_of_creators_at_once_one_wins", "test_queries",
        "test_reranking_reads_the_texts", "test_rows_without_a_vector",
        "test_set_vectors_keeps_fields", "test_update_sets_fields_and_keeps_the_rest",
        "test_updates_beside_set_vectors", "test_upsert_replaces_whole_rows",
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
