"""Databases of vectors that other programs wrote with SQLite, for ``aiovec import``."""

from __future__ import annotations

from .database import SqliteSource

__all__ = ["SqliteSource"]
