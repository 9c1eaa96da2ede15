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


class TestRemoteLancedb(OverHttp):
    kind = "lancedb"
    deviations = DEVIATIONS


del OverHttp
