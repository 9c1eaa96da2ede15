"""The LanceDB backend before it is opened. Imports no lancedb, which may be missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aiovec.backend.contract import Backend
from aiovec.backend.doctor import Finding
from aiovec.backend.locate import is_url, local_path, path_of_url
from aiovec.backend.plugin import AddressKey, BackendPlugin, Location

from .settings import LancedbSettings
from .target import MEMORY


class LancedbPlugin(BackendPlugin):
    """A folder, memory, object storage, or LanceDB's managed service."""

    name = "lancedb"
    schemes = ("memory", "s3", "gs", "az", "db")
    install = "aiovec[lancedb]"
    requires = ("lancedb",)
    settings = LancedbSettings
    address_key = AddressKey(
        "lancedb_url",
        "aiovec.lance",
        "Where the LanceDB backend stores: a folder, or s3://, gs://, az://, db:// or http://.\n\n"
        'It needs: pip install "aiovec[lancedb]"',
    )
    delegates = frozenset({"remote"})

    def create(self, address: str, settings: LancedbSettings) -> Backend:
        from .store import LancedbBackend

        return LancedbBackend(address, settings)

    def locate(self, target: str, base: Path | None = None) -> Location:
        if target.lower().startswith(f"{self.name}://"):
            target = path_of_url(target)
        address = local_path(target, base)
        if is_url(address):
            in_memory = address.lower().startswith(MEMORY)
            return Location(self.name, address, in_memory=in_memory)
        return Location(self.name, address, Path(address), Path(address))

    def exists(self, location: Location) -> bool:
        path = location.path
        return path is None or (path.is_dir() and any(path.iterdir()))

    def claims(self, folder: Path) -> str | None:
        """Return the target of a folder that holds tables of Lance, or is one of its tables.

        What is not there yet is told by its name.
        """
        if folder.suffix in (".lance", ".lancedb") and not os.path.lexists(folder):
            return f"lancedb://{folder}"
        if (folder / "_versions").is_dir() and folder.suffix == ".lance":
            folder = folder.parent
        elif not any(path.is_dir() for path in folder.glob("*.lance/_versions")):
            return None
        return f"lancedb://{folder}"

    def findings(self, location: Location | None) -> Sequence[Finding]:
        from .doctor import findings

        return findings(None if location is None else location.address)
