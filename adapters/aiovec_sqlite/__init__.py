"""The SQLite backend of aiovec: a store in one file, with exact searches by sqlite-vec."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store import SqliteBackend
else:
    # Importing the class loads the SQLite driver, which other backends do not need.
    def __getattr__(name):
        if name != "SqliteBackend":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .store import SqliteBackend

        return SqliteBackend


__all__ = ["SqliteBackend"]
