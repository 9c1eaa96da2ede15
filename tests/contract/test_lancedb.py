"""The contract suite on the LanceDB backend: in a folder, and in memory."""

from __future__ import annotations

from pathlib import Path

from tests.contract.contract import BackendContract

from aiovec.backend import Backend
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings

DEVIATIONS = {
    "test_a_payload_keeps_the_order_of_its_keys": "Lance keeps JSON in a binary form that sorts "
    "the keys; filters on payload keys need that form",
}


class TestLancedbFolder(BackendContract):
    deviations = DEVIATIONS
    slow = frozenset({
        # The store asks its backend again and again, and computes the rest by itself.
        "test_groups", "test_groups_far_down_the_ranking", "test_groups_of_what_is_selected",
        "test_hybrid_fuses_the_two_searches", "test_many_queries",
        # What a backend gets is the same, whatever form the rows had.
        "test_rows_in_every_form", "test_vectors_in_every_form",
        "test_what_can_be_read_once_is_read_once", "test_what_came_out_goes_in_again",
        "test_rows_that_nobody_else_holds",
        # One way to quote a name: as text and as lists of text. One way to rank: by cosine.
        *(
            f"test_such_fields_in_every_condition[{kind}]"
            for kind in ("bool", "datetime", "float", "int", "list[float]", "list[int]")
        ),
        "test_limits_beyond_4096[dot]", "test_limits_beyond_4096[l2]",
        "test_a_loop_that_ends_while_calls_run[0.0]", "test_a_loop_that_ends_while_calls_run[0.02]",
        # test_delete_where deletes here, and test_every_method_selects_the_same has the filters.
        "test_delete_where_selects_the_same",
    })  # fmt: skip

    def make_backend(self, path: Path) -> Backend:
        return LancedbBackend(str(path / "store"), LancedbSettings())

    def open_backup(self, path: Path) -> Backend:
        return LancedbBackend(str(path), LancedbSettings())


class TestLancedbMemory(BackendContract):
    deviations = DEVIATIONS
    persistent = False
    renames_tables = False
    # Conversions, filters, reads, searches, the writes of one and what a cancelled call leaves are
    # the same code as in a folder.
    shown_elsewhere = (
        "CancellationContract.", "ChangingContract.", "ChoosingContract.", "EmbeddingContract.",
        "FilteringContract.", "HybridContract.", "LargeCallsContract.", "LoopsContract.",
        "ModelsContract.", "NamesContract.", "NullableVectorsContract.", "ReadingContract.",
        "RowFormsContract.", "SearchingContract.", "TablesContract.", "TextContract.",
        "WritingContract.",
    )  # fmt: skip
    here_too = frozenset({
        "test_a_dropped_table_is_gone", "test_a_loop_for_each_call",
        "test_a_renamed_table_keeps_its_rows",
        "test_a_table_made_anew_is_empty_and_may_differ", "test_an_added_field",
        "test_an_export_goes_on_while_a_field_is_dropped",
        "test_an_index_over_a_field_comes_and_goes", "test_cancelled_writes_are_whole_or_nothing",
        "test_delete_where", "test_fields_change_while_rows_come_and_are_read",
        "test_insert_counts_and_keeps_every_value", "test_inserts_at_once_add_each_id_once",
        "test_keyword_searches_beside_writers", "test_many_hybrid_searches_at_once",
        "test_of_adders_at_once_one_wins", "test_of_creators_at_once_one_wins",
        "test_set_vectors_keeps_fields", "test_update_sets_fields_and_keeps_the_rest",
        "test_upsert_replaces_whole_rows",
    })  # fmt: skip
    slow = frozenset({
        "test_a_table_altered_while_it_is_written", "test_readers_never_see_half_a_call",
        "test_state_machine",
    })  # fmt: skip

    def make_backend(self, path: Path) -> Backend:
        return LancedbBackend("memory://", LancedbSettings())

    def open_backup(self, path: Path) -> Backend:
        return LancedbBackend(str(path), LancedbSettings())
