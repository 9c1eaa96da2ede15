"""The target of a store: a folder, memory, object storage, or LanceDB's managed service."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiovec.backend import redacted, secrets_in
from aiovec.backend.paths import is_url
from aiovec.errors import ConfigError

if TYPE_CHECKING:
    from .settings import LancedbSettings

MEMORY = "memory://"
MANAGED = "db://"
# The variable that LanceDB's own clients read the key from.
KEY_VARIABLE = "LANCEDB_API_KEY"
NEW_TABLES = {
    "new_table_data_storage_version": "2.1",
    "new_table_enable_stable_row_ids": "true",
}
"""Options of ``connect_async`` for new tables: the format of their data files, and stable row ids,
which ``changes`` needs.

Version 2.2, lancedb's default, stores a column of equal values as one value, and reads each null
next to it as a copy of that value: a text of 8 MB next to 300 nulls exceeds the 2 GiB of an Arrow
array, so such a table could be neither read nor compacted. With version 2.1, writes and searches
are as fast as with 2.2.
"""


@dataclass(frozen=True)
class StoreTarget:
    """The backend's target: an absolute path or a URL."""

    target: str = field(repr=False)  # may contain secrets

    def __str__(self) -> str:
        return self.shown

    @cached_property
    def shown(self) -> str:
        """The target without the secrets that a URL may contain."""
        return MEMORY if self.in_memory else redacted(self.target)

    @property
    def in_memory(self) -> bool:
        return self.target.lower().startswith(MEMORY)

    @property
    def managed(self) -> bool:
        return self.target.lower().startswith(MANAGED)

    @property
    def in_bucket(self) -> bool:
        return self.folder is None and not self.in_memory and not self.managed

    @cached_property
    def folder(self) -> Path | None:
        """The store's folder; None if the store is not in a local folder."""
        return None if is_url(self.target) else Path(self.target)

    @cached_property
    def written(self) -> str:
        """The address for connections that write.

        Lance's own writer for local files does not report if its last write to a file fails, as on
        a full disk. The writer for object storage does, and this is the folder's address for that
        writer.
        """
        if self.folder is None:
            return self.target
        return "file-object-store" + self.folder.as_uri().removeprefix("file")

    @cached_property
    def key(self) -> str:
        """A key that all of this process's stores on the same tables share. Reads the disk."""
        return os.path.realpath(self.target) if self.folder is not None else self.target

    def secrets(self, settings: LancedbSettings) -> frozenset[str]:
        """Return the secrets that LanceDB's messages must not repeat."""
        return secrets_in(self.target, settings.storage_options) | secrets_in(settings.host)

    def connection_options(self, settings: LancedbSettings) -> dict[str, Any]:
        """Return the options for ``lancedb.connect_async``."""
        if not self.in_memory and self.folder is None and "://***@" in self.shown:
            # Lance would treat this address as a path, and create a folder with that name.
            raise ConfigError(
                f"{self.shown}: an address must not contain a user or a password; put credentials "
                "into storage_options or the environment",
                key="lancedb_url",
            )
        defaults = {} if self.managed else NEW_TABLES
        options: dict[str, Any] = {"storage_options": {**defaults, **settings.storage_options}}
        if self.managed:
            key = os.environ.get(KEY_VARIABLE)
            if not key:
                raise ConfigError(
                    f"{self.shown}: the key is missing; set the environment variable "
                    f"{KEY_VARIABLE}",
                    key=KEY_VARIABLE,
                )
            host = settings.host or None
            options |= {"api_key": key, "region": settings.region, "host_override": host}
        return options
