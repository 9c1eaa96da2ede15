"""The contract suite on the toy backend: the suite asks for nothing that few lines cannot give."""

from __future__ import annotations

from pathlib import Path

from tests.toy_backend import ToyBackend

from aiovec.backend import Backend
from aiovec.testing import BackendContract


class TestToy(BackendContract):
    persistent = False

    def make_backend(self, path: Path) -> Backend:
        return ToyBackend()
