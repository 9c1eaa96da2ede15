"""Size, upkeep, indexes and versions of a table."""

from __future__ import annotations

from dataclasses import asdict

from starlette.responses import Response

from ..bodies import camel_case, json_response
from ..call import Call
from ..decode import arguments_in
from ..models import Restore, VectorIndex
from .declaring import Endpoints
from .document import COUNT as WHOLE_NUMBER
from .document import NOTHING, Answer, an_object, listed
from .document import TEXT as WORDS

ENDPOINTS = Endpoints()

_INDEX = an_object(
    {
        "name": WORDS, "kind": WORDS, "column": WORDS, "parameters": {"type": "object"},
        "rowsIndexed": WHOLE_NUMBER, "rowsUnindexed": WHOLE_NUMBER,
        "recall": {"type": ["number", "null"]},
    }
)  # fmt: skip
_INDEXES = Answer(
    an_object({"indexes": listed(_INDEX)}),
    {
        "indexes": [
            {
                "name": "embedding_idx", "kind": "IVF_RQ", "column": "embedding", "parameters": {},
                "rowsIndexed": 100000, "rowsUnindexed": 12, "recall": 0.97,
            }
        ]
    },
)  # fmt: skip

_STATS = Answer(
    an_object({"table": WORDS, "backend": WORDS, "rows": WHOLE_NUMBER, "bytes": WHOLE_NUMBER}),
    {
        "table": "notes", "backend": "sqlite", "rows": 1200, "bytes": 4100000,
        "index": "exact", "unindexedRows": 0, "scanMemory": 1000000, "lastOptimize": None,
        "details": {},
    },
)  # fmt: skip
_VERSIONS = Answer(
    an_object({"versions": listed({"type": "object"})}),
    {"versions": [{"version": 3, "timestamp": "2024-01-01T00:00:00Z"}]},
)


@ENDPOINTS.add("GET", "/tables/{table}/stats", _STATS)
async def table_stats(call: Call) -> Response:
    """Read the size and the costs of a table."""
    return json_response(camel_case(asdict(await call.store.stats(call.table))))


@ENDPOINTS.add("POST", "/tables/{table}/optimize", NOTHING, status=204, writes=True)
async def optimize_table(call: Call) -> Response:
    """Do now what keeps a table small and fast."""
    await call.store.optimize(call.table)
    return Response(status_code=204)


@ENDPOINTS.add("GET", "/tables/{table}/indexes", _INDEXES)
async def list_indexes(call: Call) -> Response:
    """List the indexes over the vectors."""
    return await _indexes(call)


@ENDPOINTS.add(
    "POST", "/tables/{table}/indexes", _INDEXES, body=VectorIndex, example={"recall": 0.95},
    status=201, writes=True,
)  # fmt: skip
async def create_index(call: Call) -> Response:
    """Build an approximate index over the vectors."""
    options = await arguments_in(call, VectorIndex, needed=False)
    await call.store.create_index(call.table, **options)
    return await _indexes(call, 201)


@ENDPOINTS.add("DELETE", "/tables/{table}/indexes/{index}", NOTHING, status=204, writes=True)
async def drop_index(call: Call) -> Response:
    """Drop an index over the vectors."""
    await call.store.drop_index(call.table, call.last_segment("index"))
    return Response(status_code=204)


@ENDPOINTS.add("GET", "/tables/{table}/versions", _VERSIONS)
async def list_versions(call: Call) -> Response:
    """List the earlier versions of a table that are kept."""
    found = await call.store.versions(call.table)
    return json_response({"versions": [dict(version) for version in found]})


@ENDPOINTS.add(
    "POST", "/tables/{table}/versions/restore", NOTHING, body=Restore, example={"version": 3},
    status=204, writes=True,
)  # fmt: skip
async def restore_version(call: Call) -> Response:
    """Make an earlier version of a table the present one."""
    await call.store.restore(call.table, **await arguments_in(call, Restore))
    return Response(status_code=204)


async def _indexes(call: Call, status: int = 200) -> Response:
    found = await call.store.indexes(call.table)
    return json_response({"indexes": [camel_case(asdict(index)) for index in found]}, status)
