"""The contract suite on the remote backend: against a server in another process, on both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.contract.contract import BackendContract
from tests.contract.remote_server import Server, running_server
from tests.contract.test_lancedb import DEVIATIONS

from aiovec.backend import Backend
from aiovec_remote.backend import RemoteBackend
from aiovec_remote.settings import RemoteSettings


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


class OverHttp(BackendContract):
    """The suite over HTTP, on stores of one kind."""

    kind: ClassVar[str]
    _server: Server

    @pytest.fixture(autouse=True)
    def served(self, server: Server) -> Iterator[None]:
        self._server = server
        yield
        server.forget()

    def make_backend(self, path: Path) -> Backend:
        return RemoteBackend(self._server.url(self.kind, path), RemoteSettings())


class TestRemoteSqlite(OverHttp):
    kind = "sqlite"
    slow = frozenset({
        # The store asks its backend again and again, and computes the rest by itself.
        "test_groups", "test_groups_far_down_the_ranking", "test_groups_of_what_is_selected",
        "test_hybrid_fuses_the_two_searches", "test_large_keyword_searches",
        # What a backend gets is the same, whatever form the rows had.
        "test_rows_in_every_form", "test_vectors_in_every_form",
        "test_what_can_be_read_once_is_read_once", "test_what_came_out_goes_in_again",
        "test_rows_that_nobody_else_holds", "test_many_queries[an array]",
        # What the store behind the server selects and ranks is shown on a file.
        "test_a_filter_never_starves_a_keyword_search", "test_every_dimension",
        "test_find_orders_selects_and_filters_in_every_combination",
        "test_fuzzed_parts_of_words_match_the_oracle", "test_fuzzed_queries_match_the_oracle",
        "test_groups_of_keyword_and_hybrid_searches",
        "test_highlights_of_a_word_that_a_text_repeats", "test_many_rows_are_ordered_by_a_payload",
        "test_random_texts_match_the_oracle", "test_vectors_of_every_size",
        "test_what_filters_select", "test_delete_where_selects_the_same",
        *(
            f"{name}[{metric}]"
            for metric in ("dot", "l2")
            for name in (
                "test_a_filter_never_starves_a_search", "test_equal_ones_come_by_id",
                "test_the_nearest_come_first",
            )
        ),
        # The filter goes as it is; tests/server has bodies of all sizes.
        "test_large_filters", "test_fields_named_like_words_of_sql",
        *(
            f"test_such_fields_in_every_condition[{kind}]"
            for kind in ("bool", "float", "int", "list[float]", "list[int]")
        ),
        "test_limits_beyond_4096[dot]", "test_limits_beyond_4096[l2]",
        "test_a_loop_that_ends_while_calls_run[0.0]", "test_a_loop_that_ends_while_calls_run[0.02]",
    })  # fmt: skip


class TestRemoteLancedb(OverHttp):
    kind = "lancedb"
    deviations = DEVIATIONS
    # What client and server do with a call is the same for every store, and what LanceDB does with
    # it the same for every client.
    shown_elsewhere = (
        "CancellationContract.", "ChangingContract.", "ChoosingContract.", "ConcurrencyContract.",
        "EmbeddingContract.", "FilteringContract.", "HybridContract.", "LargeCallsContract.",
        "LoopsContract.", "ModelsContract.", "MovingContract.", "NamesContract.",
        "NullableVectorsContract.", "ReadingContract.", "RowFormsContract.", "SearchingContract.",
        "TablesContract.", "TextContract.", "WritingContract.",
    )  # fmt: skip
    # Each call once, what LanceDB alone gives, and what each store refuses in its own way.
    here_too = frozenset({
        "test_a_bad_row_in_the_middle_keeps_nothing", "test_a_bad_update_changes_nothing",
        "test_a_cancelled_export_frees_its_snapshot", "test_a_dropped_field_is_gone",
        "test_a_hit_tells_its_row", "test_a_renamed_field_keeps_values_and_place",
        "test_a_renamed_table_keeps_its_rows", "test_a_schema_comes_back_as_it_was",
        "test_an_added_field", "test_an_index_over_a_field_comes_and_goes",
        "test_an_index_over_every_kind_of_field", "test_an_index_that_no_field_can_have_is_refused",
        "test_another_store_sees_a_write_when_it_returned", "test_bad_queries_are_refused",
        "test_delete_where", "test_every_method_tells_a_missing_table",
        "test_exact_and_tuning_are_taken", "test_exists_and_parts_of_rows",
        "test_fields_change_while_rows_come_and_are_read", "test_highlights",
        "test_insert_counts_and_keeps_every_value", "test_insert_of_rows_that_exist",
        "test_insert_refuses_an_id_that_exists", "test_of_creators_at_once_one_wins",
        "test_queries", "test_rows_survive_reopening", "test_rows_without_a_vector",
        "test_scores_and_distances_as_defined", "test_search_many_is_many_searches",
        "test_search_selects", "test_set_vectors_keeps_fields", "test_the_nearest_come_first",
        "test_update_by_ids_and_where", "test_update_of_parts_of_the_payload",
        "test_update_sets_keys_of_the_payload", "test_upsert_replaces_whole_rows",
    })  # fmt: skip
    slow = frozenset({
        "test_state_machine", "test_the_nearest_come_first[dot]", "test_the_nearest_come_first[l2]",
        *(
            f"{name}[{kind}]"
            for kind in ("bits", "dot", "l2", "model", "parted")
            for name in ("test_rows_without_a_vector", "test_set_vectors_keeps_fields")
        ),
    })  # fmt: skip


del OverHttp
