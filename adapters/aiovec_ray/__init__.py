"""Ray as an engine for tables of LanceDB: many workers load, index and compact one table."""

from __future__ import annotations

from aiovec.backend.engine import Engine

from .cluster import Cluster


def connect(address: str | None) -> Engine:
    """Connect to a cluster of Ray, or start one on this machine."""
    cluster = Cluster(address)
    # After the connection, because Ray starts processes by a fork, which Lance does not survive.
    from .engine import RayEngine

    return RayEngine(cluster)


__all__ = ["connect"]
