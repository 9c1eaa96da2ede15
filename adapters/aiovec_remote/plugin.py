"""The plugin of the remote backend. It does not import aiohttp, which may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiovec.backend import redacted
from aiovec.backend.contract import Backend
from aiovec.backend.embedders import ADDRESS
from aiovec.backend.plugin import BackendPlugin, Finding
from aiovec.backend.settings import key
from aiovec.errors import ConfigError

from .settings import SCHEME, RemoteSettings

if TYPE_CHECKING:
    from aiovec.backend.config import RetrievalSettings


class RemotePlugin(BackendPlugin):
    """The plugin for an aiovec server at an address."""

    name = "remote"
    schemes = ("http", "https", SCHEME)
    install = "aiovec[remote]"
    settings = RemoteSettings
    address_field = key(
        "http://127.0.0.1:4002",
        pattern=r"^https?://\S.*",
        accepted=ADDRESS,
        description="The address of the remote backend's server, as `aiovec serve` prints it.\n\n"
        'It needs: pip install "aiovec[remote]"',
    )

    def create(self, address: str, settings: RemoteSettings) -> Backend:
        from .backend import RemoteBackend

        return RemoteBackend(address, settings)

    def address_in(self, settings: RetrievalSettings, file: Path) -> str:
        autostart = settings.server.autostart
        return f"{SCHEME}://{file}" if autostart else super().address_in(settings, file)

    def locate(self, target: str, base: Path | None = None) -> str:
        shown = redacted(target)
        scheme, mark, rest = target.partition("://")
        if scheme == SCHEME:
            return target
        if scheme.lower() == self.name:
            target = f"http{mark}{rest}"
        try:
            url = urlsplit(target)
            usable = url.scheme.lower() in ("http", "https") and url.hostname and url.port != 0
        except ValueError:
            usable = False
        words = ""
        if not usable or any(char.isspace() or not char.isprintable() for char in target):
            words = f"{shown!r} is not the address of a server, such as http://host:port"
        elif "@" in url.netloc or url.query or url.fragment:
            words = (
                f"{shown}: the address of a server has no user, query or fragment; a key goes into "
                "api_key of [retrieval.remote], or AIOVEC_RETRIEVAL__REMOTE__API_KEY"
            )
        if words:
            raise ConfigError(words, key="target")
        return target.rstrip("/")

    def findings(self, address: str | None) -> Sequence[Finding]:
        from .doctor import findings

        return findings(address)
