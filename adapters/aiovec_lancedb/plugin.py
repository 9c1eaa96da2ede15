"""The LanceDB backend's plugin. It does not import lancedb, which may be missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend import paths
from aiovec.backend.contract import Backend
from aiovec.backend.plugin import BackendPlugin, Finding
from aiovec.backend.settings import not_empty

from .target import MEMORY

if TYPE_CHECKING:
    from .settings import LancedbSettings


class LancedbPlugin(BackendPlugin):
    """The backend for a folder, memory, object storage, or LanceDB's managed service."""

    name = "lancedb"
    schemes = ("memory", "s3", "gs", "az", "db")
    install = "aiovec[lancedb]"
    address_field = not_empty(
        "aiovec.lance",
        description="Where the LanceDB backend stores: a folder, or s3://, gs://, az://, db:// or "
        'http://.\n\nIt needs: pip install "aiovec[lancedb]"',
    )
    delegates = frozenset({"remote"})
    memory = MEMORY

    @property
    def settings(self) -> type[LancedbSettings]:
        from .settings import LancedbSettings

        return LancedbSettings

    def create(self, address: str, settings: LancedbSettings) -> Backend:
        from .store import LancedbBackend

        return LancedbBackend(address, settings)

    def locate(self, target: str, base: Path | None = None) -> str:
        if target.lower().startswith(f"{self.name}://"):
            target = paths.path_of_url(target)
        path = paths.local_path(target, base)
        return MEMORY if path == paths.MEMORY else path

    def exists(self, path: Path) -> bool:
        return path.is_dir() and any(path.iterdir())

    def claims(self, folder: Path) -> str | None:
        """Return the store's target if the folder contains Lance tables, is a Lance table, or does
        not exist but has the suffix ``.lance`` or ``.lancedb``; otherwise None."""
        if folder.suffix in (".lance", ".lancedb") and not os.path.lexists(folder):
            return f"lancedb://{folder}"
        if (folder / "_versions").is_dir() and folder.suffix == ".lance":
            folder = folder.parent
        elif not any(path.is_dir() for path in folder.glob("*.lance/_versions")):
            return None
        return f"lancedb://{folder}"

    def findings(self, address: str | None) -> Sequence[Finding]:
        from .doctor import findings

        return findings(address)
