"""The contract suite on the remote backend: against a server in another process, on both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.contract.remote_server import Server, running_server
from tests.contract.test_lancedb import DEVIATIONS

from aiovec._core.contract import Backend
from aiovec.testing import BackendContract
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
    # The store asks its backend again and again, and computes the rest by itself.
    slow = frozenset({
        "test_groups", "test_groups_far_down_the_ranking", "test_groups_of_what_is_selected",
        "test_hybrid_fuses_the_two_searches", "test_large_keyword_searches",
    })  # fmt: skip


class TestRemoteLancedb(OverHttp):
    kind = "lancedb"
    deviations = DEVIATIONS
    # What client and server do with a call is the same for every store, and what LanceDB does with
    # it the same for every client.
    shown_elsewhere = (
        "CancellationContract.", "ChoosingContract.", "ConcurrencyContract.", "EmbeddingContract.",
        "FilteringContract.", "HybridContract.", "LargeCallsContract.", "LoopsContract.",
        "ModelsContract.", "MovingContract.", "NamesContract.", "NullableVectorsContract.",
        "ReadingContract.", "RowFormsContract.", "TextContract.",
    )  # fmt: skip
    here_too = frozenset(
        {"test_queries", "test_highlights", "test_a_cancelled_export_frees_its_snapshot"}
    )
    slow = frozenset({"test_state_machine"})


del OverHttp
