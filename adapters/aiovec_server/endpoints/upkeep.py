"""Size, upkeep, indexes and versions of a table."""

from __future__ import annotations

from dataclasses import asdict

from starlette.responses import Response

from ..bodies import json_response
from ..call import Call
from ..decode import body_json
from ..kinds import COUNT, FLAG, NUMBER, TEXT, WHOLE, Key, Keys
from .declaring import NO_KEYS, Endpoints
from .document import COUNT as WHOLE_NUMBER
from .document import NOTHING, Answer, an_object, listed
from .document import TEXT as WORDS

ENDPOINTS = Endpoints()

_WHOLE_OPTIONS = {
    "numPartitions": "Partitions of an IVF index.",
    "targetPartitionSize": "Rows of a partition, in place of numPartitions.",
    "maxIterations": "Iterations of the training.",
    "sampleRate": "Rows for each partition that are trained on.",
    "m": "Links of a row in a graph.",
    "efConstruction": "Candidates while a graph is built.",
    "numSubVectors": "Parts of a vector's code.",
    "numBits": "Bits of each part.",
}
_NAMES = {
    "numPartitions": "num_partitions", "targetPartitionSize": "target_partition_size",
    "maxIterations": "max_iterations", "sampleRate": "sample_rate", "m": "m",
    "efConstruction": "ef_construction", "numSubVectors": "num_sub_vectors",
    "numBits": "num_bits",
}  # fmt: skip
CREATE = Keys(
    (
        Key("kind", "kind", TEXT, "A kind of index that the backend has.", default="auto"),
        Key("wait", "wait", FLAG, "Answer when the index is built; else when its build has begun.",
            default=True),
        Key("recall", "recall", NUMBER, "The part of the true nearest rows to find, up to 1."),
        *(Key(name, _NAMES[name], COUNT, about) for name, about in _WHOLE_OPTIONS.items()),
    )
)  # fmt: skip
RESTORE = Keys((Key("version", "version", WHOLE, "The version.", required=True),))

_INDEX = an_object(
    {
        "name": WORDS, "kind": WORDS, "column": WORDS, "parameters": {"type": "object"},
        "rows_indexed": WHOLE_NUMBER, "rows_unindexed": WHOLE_NUMBER,
        "recall": {"type": ["number", "null"]},
    }
)  # fmt: skip
_INDEXES = Answer(
    an_object({"indexes": listed(_INDEX)}),
    {
        "indexes": [
            {
                "name": "embedding_idx", "kind": "IVF_RQ", "column": "embedding", "parameters": {},
                "rows_indexed": 100000, "rows_unindexed": 12, "recall": 0.97,
            }
        ]
    },
)  # fmt: skip

_STATS = Answer(
    an_object({"table": WORDS, "backend": WORDS, "rows": WHOLE_NUMBER, "bytes": WHOLE_NUMBER}),
    {
        "table": "notes", "backend": "sqlite", "rows": 1200, "bytes": 4100000,
        "index": "exact", "unindexed_rows": 0, "scan_memory": 1000000, "last_optimize": None,
        "details": {},
    },
)  # fmt: skip
_VERSIONS = Answer(
    an_object({"versions": listed({"type": "object"})}),
    {"versions": [{"version": 3, "timestamp": "2024-01-01T00:00:00Z"}]},
)


@ENDPOINTS.add("POST", "/tables/{table}/stats", _STATS)
@ENDPOINTS.add("GET", "/tables/{table}/stats", _STATS)
async def table_stats(call: Call) -> Response:
    """Read the size and the costs of a table."""
    await _no_body(call)
    found = asdict(await call.store.stats(call.table))
    return json_response(found)


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
    "POST", "/tables/{table}/indexes", _INDEXES, body=CREATE, example={"recall": 0.95},
    status=201, writes=True,
)  # fmt: skip
async def create_index(call: Call) -> Response:
    """Build an approximate index over the vectors."""
    await call.store.create_index(call.table, **CREATE.of_body(await body_json(call, needed=False)))
    return await _indexes(call, 201)


@ENDPOINTS.add("DELETE", "/tables/{table}/indexes/{index}", NOTHING, status=204, writes=True)
async def drop_index(call: Call) -> Response:
    """Drop an index over the vectors."""
    await call.store.drop_index(call.table, call.last_segment("index"))
    return Response(status_code=204)


@ENDPOINTS.add("POST", "/tables/{table}/versions", _VERSIONS)
@ENDPOINTS.add("GET", "/tables/{table}/versions", _VERSIONS)
async def list_versions(call: Call) -> Response:
    """List the earlier versions of a table that are kept."""
    await _no_body(call)
    found = await call.store.versions(call.table)
    return json_response({"versions": [dict(version) for version in found]})


@ENDPOINTS.add(
    "POST", "/tables/{table}/versions/restore", NOTHING, body=RESTORE, example={"version": 3},
    status=204, writes=True,
)  # fmt: skip
async def restore_version(call: Call) -> Response:
    """Make an earlier version of a table the present one."""
    await call.store.restore(call.table, **RESTORE.of_body(await body_json(call)))
    return Response(status_code=204)


async def _no_body(call: Call) -> None:
    """Refuse keys where there are none. A client may send ``{}`` with a POST."""
    if call.request.method == "POST":
        NO_KEYS.of_body(await body_json(call, needed=False))


async def _indexes(call: Call, status: int = 200) -> Response:
    found = await call.store.indexes(call.table)
    return json_response({"indexes": [asdict(index) for index in found]}, status)
