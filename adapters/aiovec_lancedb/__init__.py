"""The LanceDB backend of aiovec: a folder, object storage, or LanceDB's managed service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store import LancedbBackend
else:
    # This also imports lancedb, which takes a second and may be missing; ``aiovec doctor`` reports
    # that.
    def __getattr__(name):
        if name != "LancedbBackend":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .store import LancedbBackend

        return LancedbBackend


__all__ = ["LancedbBackend"]
