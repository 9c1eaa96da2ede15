"""The remote backend before it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from aiovec.backend import AddressKey, BackendPlugin, BackendSettings, Finding, Location
from aiovec.errors import BackendNotInstalledError


class RemotePlugin(BackendPlugin):
    """An aiovec server, by its address. Its client is not part of this version."""

    name = "remote"
    schemes = ("http", "https")
    install = "aiovec[remote]"
    address_key = AddressKey(
        "remote_url",
        "http://127.0.0.1:4002",
        "The server of the remote backend, which is not part of this version.",
        r"^https?://\S",
    )

    def create(self, address: str, settings: BackendSettings) -> NoReturn:
        raise BackendNotInstalledError(self.name, self.install)

    def exists(self, location: Location) -> bool:
        return False  # nobody can tell without the client

    def findings(self, location: Location | None) -> Sequence[Finding]:
        if location is None:
            return []
        what = f"the store needs the backend {self.name!r}, which is not installed"
        return [Finding("backend", what, ok=False, cure=f'pip install "{self.install}"')]
