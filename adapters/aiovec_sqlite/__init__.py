"""The SQLite backend of aiovec: one file, sqlite-vec, exact search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .store import SqliteBackend

if TYPE_CHECKING:
    from aiovec.backend import Backend, RetrievalSettings


def create(target: str, settings: RetrievalSettings) -> Backend:
    """What the entry point names: a backend for a path or ``:memory:``."""
    return SqliteBackend(target, settings.sqlite)


__all__ = ["SqliteBackend", "create"]
