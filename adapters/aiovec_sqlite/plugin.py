"""The SQLite backend's plugin: settings, addresses, and findings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aiovec.backend import redacted
from aiovec.backend.contract import Backend
from aiovec.backend.paths import is_url, local_path, path_of_url
from aiovec.backend.plugin import BackendPlugin, Finding, backends
from aiovec.backend.settings import not_empty
from aiovec.errors import ConfigError

from .settings import MEMORY, SqliteSettings, store_file


class SqlitePlugin(BackendPlugin):
    """The plugin for stores in one file, or in ``:memory:``."""

    name = "sqlite"
    install = "aiovec"
    settings = SqliteSettings
    address_key = "sqlite_path"
    address_field = not_empty(
        "aiovec.db",
        description="The file of the SQLite backend, or a folder that holds vectors.sqlite.\n\n"
        'A path without a suffix is a folder. ":memory:" is a store that ends with its process.',
    )

    def create(self, address: str, settings: SqliteSettings) -> Backend:
        from .store import SqliteBackend

        return SqliteBackend(address, settings)

    def locate(self, target: str, base: Path | None = None) -> str:
        if is_url(target):
            path = path_of_url(target)
            if "?" in path or "#" in path:
                raise ConfigError(
                    f"{redacted(target)}: a sqlite:// target takes no options; set them in the "
                    "TOML file under [retrieval.sqlite]"
                )
            if path == f"/{MEMORY}":
                path = MEMORY
            # In a SQLAlchemy URL, which an app may have too, three slashes begin a relative path.
            elif path.rfind("/") == 0 and not os.path.exists(path):
                raise ConfigError(
                    f"{redacted(target)} is the file {path}, which does not exist; write "
                    f"{path[1:]!r} for a file in the current folder, as SQLAlchemy means it, or "
                    f"{path!r}",
                    key="target",
                )
            target = path
        if target == MEMORY:
            return MEMORY
        path = local_path(target, base)
        file = store_file(path)
        if not os.path.exists(file):
            _refuse_place_of_another(Path(path))
        return file

    def exists(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_size > 0

    def findings(self, address: str | None) -> Sequence[Finding]:
        from .doctor import findings

        return findings(None if address in (None, MEMORY) else Path(str(address)))


def _refuse_place_of_another(path: Path) -> None:
    for plugin in backends():
        target = plugin.claims(path)
        if target is None:
            continue
        name = plugin.name
        raise ConfigError(
            f"{path} is a store of the {name} backend; open it as {target}"
            if os.path.lexists(path)
            else f"{path} is named like a store of the {name} backend, but would become a SQLite "
            f"file; open it as {target}, or choose another name",
            key="target",
        )
