"""The contract suite on the LanceDB backend: in a folder, and in memory."""

from __future__ import annotations

from pathlib import Path

from aiovec.backend import Backend
from aiovec.settings import LancedbSettings
from aiovec.testing import BackendContract
from aiovec_lancedb import LancedbBackend

DEVIATIONS = {
    "test_a_payload_keeps_the_order_of_its_keys": "Lance keeps JSON in a binary form that sorts "
    "the keys; filters on payload keys need that form",
}


class TestLancedbFolder(BackendContract):
    deviations = DEVIATIONS

    def make_backend(self, path: Path) -> Backend:
        return LancedbBackend(str(path / "store"), LancedbSettings())

    def open_backup(self, path: Path) -> Backend:
        return LancedbBackend(str(path), LancedbSettings())


class TestLancedbMemory(BackendContract):
    deviations = DEVIATIONS
    persistent = False

    def make_backend(self, path: Path) -> Backend:
        return LancedbBackend("memory://", LancedbSettings())

    def open_backup(self, path: Path) -> Backend:
        return LancedbBackend(str(path), LancedbSettings())
