"""For all tests: a blocked event loop fails the test, ``AIOVEC_LOOP`` chooses the loop, and what
no interpreter and no loop can change is marked ``once``."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import inspect
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import blockbuster.blockbuster as detector
import hypothesis
import pytest
from _pytest.runner import runtestprotocol
from blockbuster import BlockBuster
from blockbuster.blockbuster import BlockBusterFunction
from tests.forked import forking

import aiovec
from aiovec.testing.loop_time import HeldLoopError, begin_at_once

# A shell has what it starts in the background ignore interrupts, and what that starts inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is a matter of the machine and of what else it does.
hypothesis.settings.register_profile(
    "aiovec", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("aiovec")

# Neither another Python nor another event loop can change what these tests show: campaigns against
# processes, disks and servers, and what runs the same code in a process of its own. They take most
# of the time, so ``.ci/run`` runs them with one Python only, and all the others with each.
ONCE = (
    "tests/advice/",
    "tests/bench/",
    "tests/cli/test_advise.py",
    "tests/cli/test_demo.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_extensions.py",
    "tests/cli/test_facts.py",
    "tests/cli/test_import_export.py",
    "tests/cli/test_index.py",
    "tests/cli/test_lancedb.py",
    "tests/cli/test_migrate.py",
    "tests/cli/test_rows.py",
    "tests/cli/test_search.py",
    "tests/cli/test_streams.py",
    "tests/config/test_sample.py",
    "tests/connect/test_third_party.py",
    "tests/contract/test_lancedb.py::TestLancedbFolder",  # in memory it is the same code
    # Of the suites in memory, tests/contract/conftest.py marks what no loop can change.
    "tests/contract/test_lancedb_s3.py",
    "tests/contract/test_remote.py",
    "tests/contract/test_toy.py",
    "tests/core/test_loop_time.py::test_it_is_said_what_was_run_again",
    "tests/core/test_text_query.py",
    "tests/demo/",
    "tests/docs/",
    "tests/examples/",
    "tests/faults/test_full.py",
    "tests/faults/test_io_campaign.py",
    "tests/faults/test_io_errors.py",
    "tests/faults/test_kill.py",
    "tests/faults/test_kill_creation.py",
    "tests/faults/test_kill_once.py",
    "tests/faults/test_kill_of_schema_changes.py",
    "tests/faults/test_many_processes.py",
    "tests/faults/test_other_libraries.py",
    "tests/faults/test_refused_files.py",
    "tests/faults/test_restore.py",
    "tests/faults/test_waiting.py",
    "tests/filters/",
    "tests/hostile/",
    "tests/lancedb/",
    # The rest of its folder stays: a journal, a run, what apps follow.
    "tests/migrate/test_comparing.py",
    "tests/migrate/test_copying.py",
    "tests/migrate/test_cutover.py",
    "tests/migrate/test_ends.py",
    "tests/migrate/test_faults.py",
    "tests/migrate/test_fire.py",
    "tests/migrate/test_in_use.py",
    "tests/migrate/test_kill.py",
    "tests/migrate/test_lost_stores.py",
    "tests/migrate/test_online.py",
    "tests/migrate/test_planning.py",
    "tests/migrate/test_reembedding.py",
    "tests/migrate/test_resume.py",
    "tests/migrate/test_simulation.py",
    "tests/migrate/test_verifying.py",
    "tests/migrate/test_words.py",
    "tests/packaging/",  # each environment of .ci/run is a build and an install by its Python
    "tests/page/",
    "tests/remote/",
    "tests/server/",
    # Numbers, bounds and layouts that C or NumPy compute; test_resident.py's rest stays.
    "tests/sqlite/copies/test_approximate.py",
    "tests/sqlite/copies/test_bits.py",
    "tests/sqlite/copies/test_bound.py",
    "tests/sqlite/copies/test_extreme.py",
    "tests/sqlite/copies/test_memory.py",
    "tests/sqlite/copies/test_missing_vectors.py",
    "tests/sqlite/copies/test_native_scan.py",
    "tests/sqlite/copies/test_partitions.py",
    "tests/sqlite/copies/test_prefix.py",
    "tests/sqlite/copies/test_resident.py::test_the_same_as_from_the_file",
    "tests/sqlite/copies/test_scan_program.py",
    "tests/sqlite/copies/test_ways.py",
    "tests/sqlite/test_fork.py::test_a_fork_amid_allocations_of_sqlite",  # SQLite's own mutexes
    "tests/sqlite/test_missing_rows.py",
    "tests/sqlite/test_near_duplicates.py",
    "tests/sqlite/test_nearest.py",
    "tests/sqlite/test_places.py",  # damage that sqlite-vec itself would crash at
    "tests/transfer/",
    "tests/typing/",
)

# Each takes seconds, and what it shows another test shows too, in fewer ways or on one backend; or
# it is of no use before the package, the demo, the benchmarks or these tests themselves change.
# ``make test-thorough`` and ``.ci/run`` run them.
THOROUGH = (
    "tests/bench/test_bench.py::test_every_benchmark_tells_and_writes_what_it_found",
    "tests/cli/test_command.py::test_closed_streams[info",
    "tests/cli/test_command.py::test_closed_streams[tables",
    "tests/cli/test_command.py::test_output_that_cannot_be_written_is_told[arguments0]",
    "tests/cli/test_command.py::test_output_that_cannot_be_written_is_told[arguments1]",
    "tests/cli/test_command.py::test_output_that_cannot_be_written_is_told[arguments2]",
    "tests/cli/test_demo.py::test_again_and_on_a_terminal",
    "tests/cli/test_demo.py::test_in_a_pipe_there_are_plain_lines[lancedb]",
    "tests/cli/test_demo.py::test_it_finds_what_was_asked_for[lancedb]",
    "tests/cli/test_demo.py::test_it_shows_each_thing_and_ends_with_a_clear_line[lancedb]",
    "tests/cli/test_demo.py::test_what_it_says_to_type_next_works[lancedb]",
    "tests/cli/test_demo.py::test_without_lancedb_it_says_what_to_install",
    "tests/cli/test_doctor.py::test_without_pysqlite3_pythons_own_sqlite3_serves_if_it_loads_extensions",
    "tests/cli/test_import_export.py::test_a_table_goes_out_and_comes_in[notes.arrow]",
    "tests/cli/test_import_export.py::test_a_table_goes_out_and_comes_in[notes.arrows]",
    "tests/cli/test_import_export.py::test_a_table_goes_out_and_comes_in[notes.npy]",
    "tests/cli/test_streams.py::test_an_interrupt_while_it_waits_for_more_rows[given2]",
    "tests/cli/test_streams.py::test_an_interrupt_while_nobody_reads[arrow]",
    "tests/cli/test_streams.py::test_what_a_stream_cannot_be",
    "tests/connect/test_third_party.py::test_a_wrong_key_of_its_section_is_named",
    "tests/connect/test_third_party.py::test_it_is_planned_and_migrated_to_and_from",
    "tests/contract/test_lancedb.py::TestLancedbFolder::test_large_filters",
    "tests/contract/test_lancedb.py::TestLancedbFolder::test_large_keyword_searches",
    "tests/contract/test_lancedb.py::TestLancedbFolder::test_many_filters_at_once",
    "tests/contract/test_lancedb.py::TestLancedbFolder::test_such_fields_in_every_condition[text]",
    # A folder and a bucket show more.
    "tests/contract/test_lancedb.py::TestLancedbMemory",
    "tests/contract/test_lancedb_s3.py::TestLancedbS3::test_close_waits_for_the_writes_that_were_accepted",
    "tests/contract/test_lancedb_s3.py::TestLancedbS3::test_writes_during_an_export_are_not_seen",
    "tests/contract/test_operations.py::test_operations_against_the_oracle[lancedb-memory-100]",
    "tests/contract/test_operations.py::test_operations_against_the_oracle[sqlite-memory-1000]",
    # What the server adds is shown with SQLite behind it, and LanceDB without a server.
    "tests/contract/test_remote.py::TestRemoteLancedb",
    "tests/contract/test_remote.py::TestRemoteSqlite::test_groups",
    "tests/contract/test_remote.py::TestRemoteSqlite::test_large_arguments",
    "tests/contract/test_remote.py::TestRemoteSqlite::test_large_rows",
    "tests/contract/test_remote.py::TestRemoteSqlite::test_limits_beyond_4096",
    "tests/contract/test_remote.py::TestRemoteSqlite::test_many_rows_in_and_out",
    "tests/contract/test_remote.py::TestRemoteSqlite::test_state_machine",
    "tests/contract/test_sqlite.py::TestSqliteFile::test_a_loop_that_ends_while_calls_run[0.02]",
    "tests/contract/test_sqlite.py::TestSqliteFile::test_limits_beyond_4096[dot]",
    "tests/contract/test_sqlite.py::TestSqliteFile::test_limits_beyond_4096[l2]",
    # It shows that the suite asks for nothing that few lines cannot give.
    "tests/contract/test_toy.py::TestToy",
    "tests/core/test_large_calls.py::test_very_many_queries",
    "tests/core/test_loop_time.py::test_it_is_said_what_was_run_again",
    "tests/core/test_opened_files.py::test_whoever_opens_a_file_has_a_reason",
    "tests/core/test_results.py::test_a_notebook_shows_the_beginning_of_long_answers",
    "tests/core/test_searching.py::test_no_step_of_a_large_search_holds_the_loop",
    "tests/core/test_text_query.py::test_ten_thousand_fuzzed_queries[ngram]",
    "tests/demo/",
    "tests/docs/test_migration.py::test_the_walk_through_of_context_vectors",
    "tests/embed/test_misbehaving.py::test_a_thousand_calls_and_cancellations[Awaited]",
    "tests/embed/test_misbehaving.py::test_a_thousand_calls_and_cancellations[Plain]",
    "tests/examples/test_fastapi_app.py::test_its_own_tests_hold_by_the_line_in_the_toml[lancedb]",
    "tests/examples/test_fastapi_app.py::test_its_own_tests_hold_by_the_variable_alone",
    "tests/faults/test_cancellation.py::test_a_cancelled_search_stops_using_the_cpu[dot]",
    "tests/faults/test_io_campaign.py::test_failing_calls_to_the_system[lancedb]",
    "tests/faults/test_io_errors.py::test_a_failed_commit_of_lancedb[other calls]",
    "tests/faults/test_io_errors.py::test_a_failed_commit_of_sqlite[s.db-wal-2]",
    "tests/faults/test_io_errors.py::test_a_failed_commit_of_sqlite[s.db-wal-4]",
    "tests/faults/test_io_errors.py::test_a_failed_commit_of_sqlite[s.db-wal-7]",
    "tests/faults/test_io_errors.py::test_a_failed_read_is_not_told_as_damage[sqlite-1000]",
    "tests/faults/test_io_errors.py::test_an_index_that_cannot_be_completed_is_not_told_as_refused[lancedb]",
    "tests/faults/test_kill_of_schema_changes.py::test_killed_changes_of_a_schema[lancedb-4]",
    "tests/faults/test_kill_once.py::test_killed_writers_with_keys",
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[a backup]",
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[a plan to move]",  # noqa: E501
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[a refused import]",  # noqa: E501
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[a search]",
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[an export]",
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[doctor]",
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[other settings]",  # noqa: E501
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[sources]",
    "tests/faults/test_other_libraries.py::test_rows_survive_another_library_beside_us[without asyncio]",  # noqa: E501
    "tests/faults/test_other_libraries.py::test_two_processes_with_an_older_sqlite",
    "tests/faults/test_soak.py::test_a_short_soak",
    "tests/faults/test_unclosed.py::test_a_loop_that_was_closed_with_calls_in_it_keeps_no_process[lancedb-0]",
    "tests/faults/test_unclosed.py::test_a_loop_that_was_closed_with_calls_in_it_keeps_no_process[sqlite-0]",
    "tests/faults/test_unclosed.py::test_a_store_is_of_use_as_the_process_ends[sqlite]",
    "tests/faults/test_unclosed.py::test_a_store_that_needs_a_thread_as_the_process_ends[sqlite]",
    "tests/faults/test_unclosed.py::test_the_process_ends[an error in between]",
    "tests/faults/test_unclosed.py::test_the_process_ends[forgotten]",
    "tests/faults/test_unclosed.py::test_the_process_ends[kept]",
    "tests/faults/test_unclosed.py::test_the_process_ends[reads in flight]",
    "tests/faults/test_waiting.py::test_calls_that_wait_take_no_memory[lancedb]",
    "tests/faults/test_waiting.py::test_searches_behind_others_of_this_process[sqlite from memory]",
    "tests/faults/test_waiting.py::test_searches_behind_others_of_this_process[sqlite from the file]",  # noqa: E501
    "tests/filters/test_operators.py::test_trees_can_be_pickled_hashed_and_compared",
    "tests/filters/test_sql.py::test_huge_filters[3]",
    "tests/filters/test_sql.py::test_huge_filters[4]",
    "tests/filters/test_sql.py::test_huge_filters[5]",
    "tests/filters/test_sql.py::test_huge_filters[6]",
    "tests/filters/test_sql.py::test_huge_filters[7]",
    "tests/filters/test_sql.py::test_huge_filters[8]",
    "tests/hostile/test_stores.py::test_mutants_that_came_out_raw[3741]",
    "tests/lancedb/test_admission.py::test_searches_at_once_stay_under_their_memory",
    "tests/lancedb/test_errors.py::test_a_table_that_another_process_makes_anew_again_and_again",
    "tests/lancedb/test_errors.py::test_lances_logs_are_held_unless_the_user_set_them[debug]",
    "tests/lancedb/test_export.py::test_a_large_table_goes_in_parts[1000-by ids]",
    "tests/lancedb/test_export.py::test_a_large_table_goes_in_parts[64-by ids]",
    "tests/lancedb/test_export.py::test_a_large_table_goes_in_parts[7-by ids]",
    "tests/lancedb/test_export.py::test_pages_of_a_table_that_is_written_to[2]",
    "tests/lancedb/test_export.py::test_pages_of_a_table_that_is_written_to[3]",
    "tests/lancedb/test_fence.py::test_a_write_that_stands_still_is_not_committed_behind_the_mark[bucket-looked]",
    "tests/lancedb/test_fence.py::test_a_write_that_stands_still_is_not_committed_behind_the_mark[bucket-opened]",
    "tests/lancedb/test_fence.py::test_a_write_that_stands_still_is_not_committed_behind_the_mark[folder-opened]",
    "tests/lancedb/test_filters.py::test_the_deepest_filters_are_answered[40]",
    "tests/lancedb/test_freshness.py::test_a_query_beyond_float32_takes_the_share_of_a_scan",
    "tests/lancedb/test_freshness.py::test_each_write_of_another_store_is_seen_by_the_next_read[young files too]",  # noqa: E501
    "tests/lancedb/test_freshness.py::test_reads_beside_writes_see_what_was_acknowledged[young files too]",  # noqa: E501
    "tests/lancedb/test_index_in_use.py",
    "tests/lancedb/test_indexes.py::test_a_build_in_the_background_is_done_some_time",
    "tests/lancedb/test_indexes.py::test_a_killed_build_leaves_the_table_usable",
    "tests/lancedb/test_indexes.py::test_closing_ends_a_build",
    "tests/lancedb/test_indexes.py::test_deleted_and_replaced_rows_do_not_come_back[ivf_rq]",
    "tests/lancedb/test_indexes.py::test_distances_by_an_index_are_those_of_an_exact_search[dot]",
    "tests/lancedb/test_indexes.py::test_distances_by_an_index_are_those_of_an_exact_search[l2]",
    "tests/lancedb/test_indexes.py::test_every_kind_is_built_and_reaches_its_target[hnsw]",
    "tests/lancedb/test_indexes.py::test_every_kind_is_built_and_reaches_its_target[hnsw_pq]",
    "tests/lancedb/test_indexes.py::test_every_kind_is_built_and_reaches_its_target[ivf_flat]",
    "tests/lancedb/test_indexes.py::test_every_kind_is_built_and_reaches_its_target[ivf_pq]",
    "tests/lancedb/test_indexes.py::test_every_kind_is_built_and_reaches_its_target[ivf_rq]",
    "tests/lancedb/test_indexes.py::test_every_kind_is_built_and_reaches_its_target[ivf_sq]",
    "tests/lancedb/test_indexes.py::test_filters_get_all_their_hits[hnsw_sq]",
    "tests/lancedb/test_indexes.py::test_ids_stay_unique_with_indexes[True]",
    "tests/lancedb/test_indexes.py::test_rows_that_no_index_has_yet_are_found[hnsw_sq]",
    "tests/lancedb/test_indexes.py::test_rows_that_no_index_has_yet_are_found[ivf_rq]",
    "tests/lancedb/test_large_values.py::test_few_rows_that_hold_much[a list of long texts]",
    "tests/lancedb/test_large_values.py::test_few_rows_that_hold_much[an order by long texts]",
    "tests/lancedb/test_large_values.py::test_few_rows_that_hold_much[the ends of long texts]",
    "tests/lancedb/test_large_values.py::test_few_rows_that_hold_much[the items of a list]",
    "tests/lancedb/test_managed.py::test_a_service_that_does_not_answer",
    "tests/lancedb/test_managed.py::test_a_service_that_refuses",
    "tests/lancedb/test_memory.py",
    "tests/lancedb/test_once.py::test_a_write_whose_process_was_killed_behind_the_commit[add_field]",
    "tests/lancedb/test_once.py::test_a_write_whose_process_was_killed_behind_the_commit[create_table]",
    "tests/lancedb/test_once.py::test_a_write_whose_process_was_killed_behind_the_commit[drop_table]",
    "tests/lancedb/test_optimize_beside_indexes.py::test_optimize_while_an_index_is_dropped[5]",
    "tests/lancedb/test_s3.py::test_a_bucket_that_is_not_there",
    "tests/lancedb/test_s3.py::test_a_lock_object_of_any_text_is_taken_over",
    "tests/lancedb/test_s3.py::test_a_lock_that_is_held_for_long_is_not_taken_over",
    "tests/lancedb/test_s3.py::test_a_process_that_exits_without_a_close_leaves_no_lock",
    "tests/lancedb/test_s3.py::test_a_server_that_fails",
    "tests/lancedb/test_s3.py::test_http_has_to_be_allowed",
    "tests/lancedb/test_s3.py::test_nobody_listens",
    "tests/lancedb/test_s3.py::test_wrong_credentials",
    "tests/lancedb/test_scripts.py::test_aiovec_import_waits_for_the_index",
    "tests/lancedb/test_scripts.py::test_many_scripts_leave_few_files",
    "tests/lancedb/test_text.py::test_a_build_that_is_killed",
    "tests/lancedb/test_text.py::test_each_state_of_the_index_finds_the_same[0]",
    "tests/lancedb/test_text.py::test_more_conditions_than_lance_can_plan[True]",
    "tests/lancedb/test_text.py::test_parts_of_words_in_every_state",
    "tests/lancedb/test_topical_filters.py::test_far_from_the_query_and_few",
    "tests/lancedb/test_topical_filters.py::test_who_names_the_probes_gets_these_under_a_filter",
    "tests/lancedb/test_tuning.py::test_a_search_may_ask_for_another_recall",
    "tests/lancedb/test_tuning.py::test_a_table_that_has_grown_by_half_is_measured_again",
    "tests/lancedb/test_tuning.py::test_auto_indexes_a_table_that_has_grown_large",
    "tests/lancedb/test_tuning.py::test_efforts_beyond_all_reason_take_no_memory[hnsw_sq]",
    "tests/lancedb/test_tuning.py::test_questions_that_are_not_stored_reach_the_tables_target",
    "tests/lancedb/test_tuning.py::test_who_names_an_effort_gets_just_that",
    "tests/lancedb/test_unique_ids.py::test_from_tasks_of_one_store",
    "tests/lancedb/test_unique_ids.py::test_from_threads_with_event_loops_of_their_own",
    "tests/lancedb/test_unique_ids.py::test_from_two_stores_of_one_process",
    "tests/lancedb/test_unique_indexed.py::test_two_processes_on_an_indexed_table",
    "tests/lancedb/test_upkeep.py::test_others_writes_are_no_quiet",
    "tests/lancedb/test_upkeep.py::test_single_rows_leave_few_files",
    "tests/migrate/test_comparing.py::test_all_are_counted_and_the_first_named[lancedb-sqlite-tight]",
    "tests/migrate/test_comparing.py::test_all_are_counted_and_the_first_named[sqlite-lancedb-tight]",
    "tests/migrate/test_comparing.py::test_large_rows_are_read_a_few_at_once[sqlite-lancedb]",
    "tests/migrate/test_comparing.py::test_sync_of_many_rows[lancedb-sqlite-tight]",
    "tests/migrate/test_comparing.py::test_what_is_written_meanwhile_is_found_and_settles[lancedb-sqlite]",
    "tests/migrate/test_cutover.py::test_a_toml_that_was_edited_meanwhile_leads_nobody_away[another backend",  # noqa: E501
    "tests/migrate/test_cutover.py::test_a_toml_that_was_edited_meanwhile_leads_nobody_away[another goal-phase:copying]",  # noqa: E501
    "tests/migrate/test_cutover.py::test_a_toml_that_was_edited_meanwhile_leads_nobody_away[another source-cut-over:paused]",  # noqa: E501
    "tests/migrate/test_cutover.py::test_a_toml_that_was_edited_meanwhile_leads_nobody_away[no file",  # noqa: E501
    "tests/migrate/test_cutover.py::test_a_toml_that_was_edited_meanwhile_leads_nobody_away[no toml-cut-over:paused]",  # noqa: E501
    "tests/migrate/test_cutover.py::test_a_way_back_that_stopped_is_completed[cut-over:arrived]",
    "tests/migrate/test_cutover.py::test_a_way_back_that_stopped_is_completed[cut-over:ready]",
    "tests/migrate/test_cutover.py::test_a_way_back_that_stopped_is_completed[verify:compared]",
    "tests/migrate/test_cutover.py::test_behind_a_switch_a_toml_that_was_edited_is_told[abort]",
    "tests/migrate/test_cutover.py::test_behind_a_switch_a_toml_that_was_edited_is_told[finish]",
    "tests/migrate/test_cutover.py::test_behind_a_switch_a_toml_that_was_edited_is_told[verify]",
    "tests/migrate/test_cutover.py::test_behind_the_switch_it_is_too_late_to_abort[cut-over:moved]",
    "tests/migrate/test_ends.py::test_the_named_command_ends_it[back-abort:dropped]",
    "tests/migrate/test_ends.py::test_the_named_command_ends_it[back-phase:aborting]",
    "tests/migrate/test_ends.py::test_there_and_back_and_there_again_with_one_store_open",
    "tests/migrate/test_faults.py::test_an_s3_server_that_errors_hangs_and_recovers",
    "tests/migrate/test_faults.py::test_tables_are_neither_made_nor_altered_nor_dropped_midway[copy:written-lancedb]",
    "tests/migrate/test_faults.py::test_tables_are_neither_made_nor_altered_nor_dropped_midway[phase:catching-up-sqlite]",
    "tests/migrate/test_in_use.py::test_a_run_leaves_a_target_alone_that_another_run_has_put_into_use[planned]",
    "tests/migrate/test_in_use.py::test_a_switch_that_was_decided_is_completed_without_being_asked_for[phase:moved]",
    "tests/migrate/test_in_use.py::test_what_overwrites_stops_where_a_migration_of_the_store_begins[False-verify]",
    "tests/migrate/test_in_use.py::test_what_overwrites_stops_where_a_migration_of_the_store_begins[True-sync]",
    "tests/migrate/test_kill.py::test_a_killed_migrator_in_other_directions",
    "tests/migrate/test_kill.py::test_a_killed_rollback_goes_on[sqlite-lancedb]",
    "tests/migrate/test_lost_stores.py::test_a_rollback_that_was_called_off_loses_nothing[phase:rolling-back]",
    "tests/migrate/test_lost_stores.py::test_a_source_that_was_restored_since_the_switch_gives_the_target_to_nobody[backup-cut-over:moved]",
    "tests/migrate/test_online.py::test_an_app_goes_on[lancedb]",
    "tests/migrate/test_online.py::test_an_app_goes_on_beside_a_copy_from_lancedb_to_lancedb",
    "tests/migrate/test_online.py::test_an_app_goes_on_when_the_migrator_dies_in_the_pause",
    "tests/migrate/test_passing_tables.py::test_a_run_and_its_way_back[lancedb-tables-goes]",
    "tests/migrate/test_passing_tables.py::test_a_run_and_its_way_back[sqlite-open_table-goes]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[catch-up:journalled-lancedb]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[indexed-lancedb]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[phase:catching-up-lancedb]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[phase:copying-lancedb]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[phase:done-lancedb]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[phase:indexing-lancedb]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[planned-lancedb]",
    "tests/migrate/test_resume.py::test_it_goes_on_from_every_step[verify:compared-lancedb]",
    "tests/migrate/test_run.py::test_rows_without_vectors_there_and_back[dot]",
    "tests/migrate/test_run.py::test_rows_without_vectors_there_and_back[l2]",
    "tests/migrate/test_run.py::test_there_and_back_again_to_the_bit[1]",
    "tests/migrate/test_simulation.py::test_a_cursor_that_is_saved_before_the_write_is_found_out",
    "tests/migrate/test_simulation.py::test_a_flip_before_the_mark_is_found_out",
    "tests/migrate/test_simulation.py::test_a_journal_that_lies_is_found_out",
    "tests/migrate/test_simulation.py::test_a_lock_that_is_taken_over_without_a_fence_is_found_out",
    "tests/migrate/test_simulation.py::test_a_write_that_is_not_noted_is_found_out",
    "tests/migrate/test_words.py::test_text_is_carried_there_and_back[english-sqlite-lancedb]",
    "tests/migrate/test_words.py::test_text_is_carried_there_and_back[plain-sqlite-lancedb]",
    "tests/packaging/test_distribution.py",
    "tests/remote/test_sidecar.py::test_the_first_lock_that_a_killed_server_loses_tells_of_it[port]",
    "tests/remote/test_store.py::test_a_fork_leaves_the_parents_connections[client]",
    "tests/remote/test_store.py::test_large_texts_travel_whatever_stands_in_them",
    "tests/server/test_bodies.py::test_a_list_in_pieces_is_the_same_as_at_once[1]",
    "tests/server/test_bodies.py::test_a_long_row_before_many_short_ones[100]",
    "tests/server/test_bodies.py::test_a_long_row_before_many_short_ones[300000]",
    "tests/server/test_faults.py::test_a_server_that_is_killed_under_load[lancedb]",
    "tests/server/test_faults.py::test_answers_that_are_cut_off[lancedb]",
    "tests/server/test_loop_time.py::test_few_rows_that_hold_much_leave_the_event_loop_to_others",
    "tests/server/test_lost_answers.py::test_each_writing_call[lancedb]",
    "tests/server/test_lost_answers.py::test_each_writing_call_around_a_cut_over[back]",
    "tests/server/test_openapi.py::test_no_request_is_a_server_error",
    "tests/server/test_running.py::test_a_second_signal_ends_at_once[15-waits]",
    "tests/server/test_running.py::test_a_second_signal_ends_at_once[2-busy]",
    "tests/sqlite/copies/test_bits.py::test_most_of_the_nearest_are_found_and_truly_measured[dot]",
    "tests/sqlite/copies/test_bits.py::test_products_are_the_same_whole_numbers[off-4096-1]",
    "tests/sqlite/copies/test_bits.py::test_products_are_the_same_whole_numbers[off-4096-32]",
    "tests/sqlite/copies/test_bits.py::test_products_are_the_same_whole_numbers[off-4096-4]",
    "tests/sqlite/copies/test_bits.py::test_products_are_the_same_whole_numbers[off-4096-5]",
    "tests/sqlite/copies/test_bits.py::test_writes_are_seen_at_once[l2]",
    "tests/sqlite/copies/test_extreme.py::test_one_such_row_after_the_copy_was_loaded[cosine-{'scan': 'bit'}]",  # noqa: E501
    "tests/sqlite/copies/test_extreme.py::test_one_such_row_after_the_copy_was_loaded[dot-{}]",
    "tests/sqlite/copies/test_extreme.py::test_one_such_row_after_the_copy_was_loaded[l2-{'scan': 'disk'}]",  # noqa: E501
    "tests/sqlite/copies/test_memory.py",
    "tests/sqlite/copies/test_missing_vectors.py::test_the_same_as_from_the_file[dot-False]",
    "tests/sqlite/copies/test_missing_vectors.py::test_the_same_as_from_the_file[l2-True]",
    "tests/sqlite/copies/test_native_scan.py::test_two_processes_that_compile_it_at_once",
    "tests/sqlite/copies/test_partitions.py::test_two_thousand_keys_take_no_more_than_one",
    "tests/sqlite/copies/test_resident.py::test_closing_amid_searches[0.001]",
    "tests/sqlite/copies/test_resident.py::test_searches_and_writes_at_once[l2]",
    "tests/sqlite/copies/test_resident.py::test_the_same_as_from_the_file[dot-True]",
    "tests/sqlite/copies/test_resident.py::test_the_same_as_from_the_file[l2-False]",
    "tests/sqlite/copies/test_ways.py::test_searches_find_the_same[cosine-off]",
    "tests/sqlite/copies/test_ways.py::test_searches_find_the_same[l2-off]",
    "tests/sqlite/test_export.py::test_a_cursor_gives_each_row_that_stays_exactly_once[indexed]",
    "tests/sqlite/test_export.py::test_a_cursor_gives_each_row_that_stays_exactly_once[partitioned]",
    "tests/sqlite/test_export_wal.py::test_an_open_export_does_not_keep_the_wal_growing[True]",
    "tests/sqlite/test_missing_rows.py::test_as_many_hits_as_the_filter_has_while_rows_are_deleted[disk]",
    "tests/sqlite/test_missing_rows.py::test_searches_never_tell_another_row[vec-dot-False-",
    "tests/sqlite/test_near_duplicates.py::test_the_nearest_of_near_duplicates[dot-384]",
    "tests/sqlite/test_near_duplicates.py::test_the_nearest_of_near_duplicates[l2-384]",
    "tests/sqlite/test_nearest.py::test_more_equal_rows_than_any_margin[auto-False-cosine]",
    "tests/sqlite/test_nearest.py::test_more_equal_rows_than_any_margin[auto-False-l2]",
    "tests/sqlite/test_nearest.py::test_more_equal_rows_than_any_margin[auto-True-dot]",
    "tests/sqlite/test_nearest.py::test_more_equal_rows_than_any_margin[auto-True-l2]",
    "tests/sqlite/test_nearest.py::test_more_equal_rows_than_any_margin[disk-True-dot]",
    "tests/sqlite/test_upkeep.py::test_optimize_gives_room_back_and_changes_no_answer[indexed]",
    "tests/sqlite/test_upkeep.py::test_optimize_gives_room_back_and_changes_no_answer[partitioned]",
    "tests/sync/test_processes.py::test_a_process_sees_what_another_wrote",
    "tests/sync/test_processes.py::test_two_processes_on_one_file[points]",
    "tests/sync/test_store.py::test_a_process_ends_without_closing[raise SystemExit(3)]",
    "tests/sync/test_store.py::test_a_process_ends_without_closing[sys.exit(3)]",
    "tests/sync/test_store.py::test_a_store_that_the_ending_interpreter_collects[count]",
    "tests/sync/test_store.py::test_a_store_that_the_ending_interpreter_collects[generator]",
    "tests/telemetry/test_absent.py::test_an_api_that_is_too_old_counts_as_none",
    "tests/telemetry/test_absent.py::test_providers_may_be_set_after_the_first_calls",
    "tests/telemetry/test_page.py::test_the_example_shows_spans_and_every_metric",
    "tests/transfer/test_fuzzing.py::test_small_files_that_ask_for_much",
    "tests/transfer/test_round_trip.py::test_any_rows_come_back_as_they_were[arrow-stream]",
    "tests/transfer/test_round_trip.py::test_any_rows_come_back_as_they_were[arrow]",
    "tests/transfer/test_round_trip.py::test_any_rows_come_back_as_they_were[jsonl]",
    "tests/transfer/test_round_trip.py::test_any_rows_come_back_as_they_were[numpy]",
    "tests/typing/",
)

# These take the longest, so they begin: at the end, one process would wait for the other. What
# begins is run by one process, so that a browser is started there alone.
FIRST = (
    "tests/bench/test_bench.py",
    "tests/migrate/test_fire.py",
    "tests/migrate/test_online.py",
    "tests/migrate/test_simulation.py",
    "tests/packaging/test_distribution.py",
    "tests/page/test_browser.py",
    "tests/page/test_hostile.py",
    "tests/page/test_migration.py",
)

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Whatever waits on a loop's thread below one of these is a fault. What a test does by itself, as
# writing a file that it needs, is its own affair.
_PACKAGES = (
    "aiovec", "aiovec_sqlite", "aiovec_lancedb", "aiovec_remote", "aiovec_server", "aiovec_migrate",
)  # fmt: skip
_NOT_THE_PRODUCT = ("aiovec.testing",)
# Where it may block all the same: the function, the file, the caller, and why.
_ALLOWED: tuple[tuple[str, str, str, str], ...] = (
    (
        "threading.Lock.acquire", "aiovec/sync/portal.py", "wait",
        "the face without await waits by its nature, in a notebook below a running loop too",
    ),
    (
        "threading.Lock.acquire", "aiovec/sync/portal.py", "stop",
        "so does its close, which ends the thread of its loop",
    ),
    *(
        (
            function, "fastapi/routing.py", "_extract_endpoint_context",
            "FastAPI looks once where an endpoint stands in its file, to name it in its errors",
        )
        for function in ("os.stat", "io.TextIOWrapper.read", "io.BufferedReader.read")
    ),
    (
        "io.TextIOWrapper.write", "asyncio/base_events.py", "call_exception_handler",
        "what asyncio logs of a loop that was closed without an end, when its tasks are collected",
    ),
)  # fmt: skip

_DRIVERS = ("sqlite3", "pysqlite3.dbapi2")
_CONNECTION = ("execute", "executemany", "executescript", "commit", "rollback", "close", "backup")
_CURSOR = ("execute", "executemany", "executescript", "fetchone", "fetchmany", "fetchall")


class _Blocked(list[str]):
    """Each blocking call on an event loop, with its stack: also one whose error was swallowed."""


@pytest.fixture(scope="session")
def watched_loops() -> Iterator[_Blocked]:
    """Watch every event loop of the session, whichever thread it runs in.

    The detector looks for a running loop at each call, so it costs the threads that have none
    next to nothing and need not be switched on and off.
    """
    blocked = _Blocked()
    plain = detector.BlockingError

    class Recorded(plain):  # type: ignore[misc, valid-type]  # a class of the moment
        def __init__(self, func: str) -> None:
            super().__init__(func)
            blocked.append(func + "\n" + "".join(traceback.format_stack(limit=14)[:-1]))

    packages = [name for name in _PACKAGES if importlib.util.find_spec(name) is not None]
    watch = BlockBuster(packages, excluded_modules=_NOT_THE_PRODUCT)
    for driver in _DRIVERS:
        for owner, methods in (("Connection", _CONNECTION), ("Cursor", _CURSOR)):
            _add(watch, packages, f"{driver}.{owner}", methods)
    for function, file, caller, _ in _ALLOWED:
        watch.functions[function].can_block_in(file, caller)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detector, "BlockingError", Recorded)
        watch.activate()
        try:
            yield blocked
        finally:
            watch.deactivate()


def _add(watch: BlockBuster, packages: list[str], owner: str, methods: tuple[str, ...]) -> None:
    if importlib.util.find_spec(owner.partition(".")[0]) is None:
        return  # this driver is not installed here
    for method in methods:
        name = f"{owner}.{method}"
        function = BlockBusterFunction(
            None, name, scanned_modules=packages, excluded_modules=_NOT_THE_PRODUCT
        )
        watch.functions.setdefault(name, function)


@pytest.fixture(autouse=True)
def _no_blocked_loop(watched_loops: _Blocked) -> Iterator[None]:
    """Fail a test in which an event loop was blocked."""
    watched_loops.clear()
    yield
    assert not watched_loops, "the event loop was blocked by " + "\n".join(watched_loops)


_REAL_MODULES = """
from pkgutil import extend_path
__path__ = extend_path(__path__, __name__)
"""
# What processes that tests start find in the place of modules that take long to import and that
# nothing in them uses.
_LEAN_MODULES = {
    # pyarrow imports pandas, an app's own choice, at the first conversion where it is installed:
    # 0.3 s of CPU in each of hundreds of processes, none of which has a frame.
    "pandas.py": """
raise ModuleNotFoundError('tests start processes without pandas', name='pandas')
""",
    # lancedb imports the client of Lance's REST catalogs, hundreds of pydantic models: 0.7 s of its
    # 1.4 s of CPU. Most of them it only names in signatures. Here a model that is called, or that
    # is imported from its own module, is the real one.
    "lance_namespace_urllib3_client/__init__.py": _REAL_MODULES,
    "lance_namespace_urllib3_client/models/__init__.py": _REAL_MODULES
    + """
import importlib, re

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def made(cls, *arguments, **options):
        module = re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
        real = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return real(*arguments, **options)

    return globals().setdefault(name, type(name, (), {"__new__": made}))
""",
}


@pytest.fixture(scope="session", autouse=True)
def lean_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let the processes that tests start import less. pytest's own process has the real modules."""
    folder = tmp_path_factory.mktemp("lean")
    for name, text in _LEAN_MODULES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        with forking():
            yield folder


@pytest.fixture
def whole_processes(lean_processes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of this test import all that an app's would, as those measured do."""
    places = os.environ["PYTHONPATH"].split(os.pathsep)
    places.remove(str(lean_processes))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))


def has_its_own_loop(item: pytest.Item) -> bool:
    """Return whether the loop that ``AIOVEC_LOOP`` names is none of this test's.

    A function without ``async`` has no loop, or one that it makes; only the state machine of the
    contract asks for the name itself.
    """
    test = getattr(item, "function", None)
    test = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    return not inspect.iscoroutinefunction(test) and not item.nodeid.startswith("tests/contract/")


@pytest.hookimpl(tryfirst=True)  # before what is not asked for is left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for place in ONCE + THOROUGH + FIRST:
        if not (config.rootpath / place.partition("::")[0]).exists():
            raise pytest.UsageError(f"tests/conftest.py names {place}, which does not exist")
    once, thorough = _beginnings(ONCE), _beginnings(THOROUGH)
    another_loop = os.environ.get("AIOVEC_LOOP") == "uvloop"
    for item in items:
        name = f"{item.nodeid}::"
        if name.startswith(once):
            item.add_marker(pytest.mark.once)
        if another_loop and has_its_own_loop(item):
            item.add_marker(pytest.mark.same_loop)
        if name.startswith(thorough):
            item.add_marker(pytest.mark.thorough)
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


def _beginnings(places: Sequence[str]) -> tuple[str, ...]:
    """Return how the names of the tests at these places begin, with "::" behind each.

    What names parameters may leave the last of them open.
    """
    return tuple(
        place + end
        for place in places
        for end in ([""] if place.endswith("/") or "[" in place else ["::", "["])
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Look for no garbage among what is collected: hardly any of it is."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was collected, and all the modules, out of every garbage collection to come.

    They are a million objects, and none of them is garbage: to look through them took a third of
    a second each time.
    """
    gc.enable()
    gc.collect()
    gc.freeze()


_HELD = "the event loop was held"
# Seconds before each further run of such a test. What a virtual machine counts wrongly, since its
# host has given its processors to others, comes in bursts: tests of 0.1 ms "took" 49 ms twice.
_PAUSES = (0.0, 1.0, 4.0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None and call.excinfo.errisinstance(HeldLoopError):
        item.user_properties.append((_HELD, str(call.excinfo.value)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """A test in which the loop was held is run again, and listed at the end of all.

    What holds the loop does so each time; it is a fault if the last run sees it too.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    seen = 0
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for pause in _PAUSES:
        if not any(name == _HELD for name, _ in item.user_properties[seen:]):
            break
        seen = len(item.user_properties)
        time.sleep(pause)
        item._initrequest()  # type: ignore[attr-defined]  # as plugins that run tests again do
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tests that were run again, with what was seen each time."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == _HELD and report.when == "call":
                terminalreporter.write_sep("-", f"run again: {report.nodeid}")
                terminalreporter.write_line(value)


def _eager_loop() -> asyncio.AbstractEventLoop:
    """As apps have it that set ``asyncio.eager_task_factory``, of Python 3.12 and later."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(begin_at_once)
    return loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """asyncio's own loop; ``AIOVEC_LOOP=uvloop`` and ``AIOVEC_LOOP=eager`` choose others."""
    loop = os.environ.get("AIOVEC_LOOP")
    if loop == "uvloop":
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    if loop == "eager":
        return {"eager": _eager_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[aiovec.VectorStore]:
    """An open store in a new file."""
    async with aiovec.connect(tmp_path / "store.db") as opened:
        yield opened
