"""The contract suite over HTTP: a server of both kinds of store, in a thread of this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.contract.contract import BackendContract
from tests.contract.remote_server import Server, server
from tests.contract.test_lancedb import DEVIATIONS

__all__ = ["server"]  # a fixture


NOT_OVER_HTTP = {
    "test_infinities_are_stored": "an update goes as JSON, which has no infinities",
    "test_a_read_of_many_rows_ends_when_their_bytes_are_too_many": "the server bounds its answers",
    "test_a_search_reads_a_field_and_the_payload_key_that_it_hides": "a row is one flat object",
    "test_numbers_beyond_all_rows": "a server answers a bounded number of rows, and says so",
}


class TestRemoteSqlite(BackendContract):
    backend = "remote"
    tiers = ("slow", "slow")
    deviations = NOT_OVER_HTTP
    kind: ClassVar[str] = "sqlite"
    _server: Server

    @pytest.fixture(autouse=True)
    def _served(self, server: Server) -> Iterator[None]:
        self._server = server
        yield
        server.forget()

    def target(self, path: Path) -> str:
        return self._server.url(self.kind, path)


class TestRemoteLancedb(TestRemoteSqlite):
    tiers = ("soak", "soak")
    kind = "lancedb"
    deviations = DEVIATIONS | NOT_OVER_HTTP
