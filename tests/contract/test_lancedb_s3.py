"""The contract suite on the LanceDB backend with an S3 server.

The ordinary run takes what touches object storage in a way of its own: opening, writing together,
reading while others write, cancelling, exports. The rest of the suite is the same code on the same
queries as on a folder, so it runs with the long tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.contract.contract import BackendContract
from tests.lancedb.buckets import BUCKET, Bucket, s3_server

from aiovec.backend import Backend
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings

from .test_lancedb import DEVIATIONS

# What the ordinary run leaves to the long tests is told by conftest.py.
ORDINARY = frozenset(
    {
        "test_a_cursor_survives_reopening",
        "test_a_dropped_table_is_gone",
        "test_a_store_opens_again",
        "test_another_store_sees_a_write_when_it_returned",
        "test_another_store_sees_altered_tables",
        "test_backup_is_a_store",
        "test_cancelled_writes_are_whole_or_nothing",
        "test_close_waits_for_the_writes_that_were_accepted",
        "test_delete_where",
        "test_insert_counts_and_keeps_every_value",
        "test_insert_refuses_an_id_that_exists",
        "test_of_creators_at_once_one_wins",
        "test_of_inserts_of_an_id_one_wins",
        "test_reads_and_writes_go_on_while_it_optimizes",
        "test_reads_under_way_end_when_the_store_closes",
        "test_rows_survive_reopening",
        "test_two_stores_write_one_table",
        "test_update_sets_keys_of_the_payload",
        "test_upsert_replaces_whole_rows",
        "test_upserts_of_the_same_rows_leave_whole_ones",
        "test_what_was_cancelled_stays_whole_when_reopened",
        "test_writes_during_an_export_are_not_seen",
    }
)


class TestLancedbS3(BackendContract):
    deviations = DEVIATIONS
    renames_tables = False
    server: ClassVar[Bucket]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _server(cls) -> Iterator[None]:
        with s3_server() as cls.server:
            yield

    def make_backend(self, path: Path) -> Backend:
        url = f"s3://{BUCKET}{path.as_posix()}/store"
        return LancedbBackend(url, self.server.settings())

    def open_backup(self, path: Path) -> Backend:
        return LancedbBackend(str(path), LancedbSettings())
