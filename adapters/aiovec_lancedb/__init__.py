"""The LanceDB backend of aiovec: a folder, object storage, or LanceDB's managed service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from aiovec.backend import Backend, RetrievalSettings

    from .store import LancedbBackend
else:
    # It imports lancedb, which takes long and may be missing; ``aiovec doctor`` tells of both.
    def __getattr__(name):
        if name != "LancedbBackend":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .store import LancedbBackend

        return LancedbBackend


class _Factory:
    """What the entry point names."""

    def __call__(self, target: str, settings: RetrievalSettings) -> Backend:
        """A backend for a folder or a URL."""
        from .store import LancedbBackend

        return LancedbBackend(target, settings.lancedb)

    def claims(self, folder: Path) -> str | None:
        """The target of a folder that holds tables of Lance, or is one of its tables."""
        if (folder / "_versions").is_dir() and folder.suffix == ".lance":
            folder = folder.parent
        elif not any(path.is_dir() for path in folder.glob("*.lance/_versions")):
            return None
        return f"lancedb://{folder}"


create = _Factory()


__all__ = ["LancedbBackend", "create"]
