"""Ray as an engine for LanceDB tables: many workers load, index and compact one table."""

from __future__ import annotations

from aiovec.backend.engine import Engine
from aiovec.backend.place import Place
from aiovec.errors import UnsupportedError

from .cluster import Cluster


def connect(address: str | None, place: Place) -> Engine:
    """Connect to a Ray cluster, or start one on this machine."""
    if place.backend != "lancedb":
        hint = f"{place} has no tables of LanceDB; name a folder lancedb:///PATH"
        raise UnsupportedError("the engine ray", place.backend, hint)
    cluster = Cluster(address)
    # Import Lance after connecting, because Ray forks processes, which Lance does not survive.
    from .engine import RayEngine

    return RayEngine(cluster)


__all__ = ["connect"]
