"""The LanceDB backend of aiovec: a folder, object storage, or LanceDB's managed service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiovec.backend import Backend
    from aiovec.settings import RetrievalSettings

    from .store import LancedbBackend
else:
    # It imports lancedb, which takes long and may be missing; ``aiovec doctor`` tells of both.
    def __getattr__(name):
        if name != "LancedbBackend":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .store import LancedbBackend

        return LancedbBackend


def create(target: str, settings: RetrievalSettings) -> Backend:
    """What the entry point names: a backend for a folder or a URL."""
    from .store import LancedbBackend

    return LancedbBackend(target, settings.lancedb)


__all__ = ["LancedbBackend", "create"]
