"""Size, upkeep, indexes and versions of a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..bodies import camel_case
from ..call import Call
from ..models import Indexes, Revert, Stats, VectorIndex, Versions
from .declaring import endpoint


@endpoint("GET", "/tables/{table}/stats", Stats)
async def table_stats(call: Call, options: dict[str, Any]) -> Any:
    """Read the size and the costs of a table."""
    return camel_case(asdict(await call.store.stats(call.table)))


@endpoint("POST", "/tables/{table}/optimize", writes=True)
async def optimize_table(call: Call, options: dict[str, Any]) -> Any:
    """Do now what keeps a table small and fast."""
    await call.store.optimize(call.table)


@endpoint("GET", "/tables/{table}/indexes", Indexes)
async def list_indexes(call: Call, options: dict[str, Any]) -> Any:
    """List the indexes over the vectors."""
    return {"indexes": [camel_case(asdict(one)) for one in await call.store.indexes(call.table)]}


@endpoint(
    "POST", "/tables/{table}/indexes", Indexes, body=VectorIndex, example={"recall": 0.95},
    status=201, writes=True,
)  # fmt: skip
async def create_index(call: Call, options: dict[str, Any]) -> Any:
    """Build an approximate index over the vectors."""
    await call.store.create_index(call.table, **options)
    return await list_indexes(call, {})


@endpoint("DELETE", "/tables/{table}/indexes/{index}", writes=True)
async def drop_index(call: Call, options: dict[str, Any]) -> Any:
    """Drop an index over the vectors."""
    await call.store.drop_index(call.table, call.last_segment("index"))


@endpoint("GET", "/tables/{table}/versions", Versions)
async def list_versions(call: Call, options: dict[str, Any]) -> Any:
    """List the earlier versions of a table that are kept."""
    return {"versions": [dict(version) for version in await call.store.versions(call.table)]}


@endpoint(
    "POST", "/tables/{table}/versions/revert", body=Revert, example={"version": 3}, writes=True
)
async def revert_version(call: Call, options: dict[str, Any]) -> Any:
    """Make an earlier version of a table the present one."""
    await call.store.revert(call.table, **options)
