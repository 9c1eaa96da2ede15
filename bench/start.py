"""What a process pays before its first answer.

All times are of new processes, the interpreter's own start included.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from .measure import Options, Result, Way, interleaved, medians

_ROUNDS = 7
_ANSWER = """
import asyncio, sys, aiovec

ROWS = [{"id": str(n), "embedding": [n + 1.0] * 8, "year": n} for n in range(10)]

async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        await store.create_table("t", aiovec.Schema(dim=8, fields={"year": int}), exist_ok=True)
        await store.upsert("t", ROWS)
        assert len(await store.search("t", [1.0] * 8)) == 10

asyncio.run(main())
"""
_SEARCH = """
import asyncio, sys, aiovec

async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        assert len(await store.search("t", [1.0] * 8)) == 10

asyncio.run(main())
"""
# What such a process imports of other packages: the part of its start that is not ours.
_PACKAGES_OF_A_SEARCH = "import aiosqlite, asyncio, numpy"
# The rows of _ANSWER by other libraries that run in the process, in their own words.
_PEERS = {
    "lancedb": """
import asyncio, sys, lancedb

async def main():
    rows = [{"id": str(n), "vector": [n + 1.0] * 8, "year": n} for n in range(10)]
    db = await lancedb.connect_async(sys.argv[1])
    table = await db.create_table("t", rows)
    assert len(await table.query().nearest_to([1.0] * 8).limit(10).to_list()) == 10

asyncio.run(main())
""",
    "qdrant_edge": """
import sys, qdrant_edge as q, os

os.makedirs(sys.argv[1])
vectors = q.EdgeVectorParams(size=8, distance=q.Distance.Cosine)
shard = q.EdgeShard.create(sys.argv[1], q.EdgeConfig(vectors=vectors))
points = [q.Point(n, [n + 1.0] * 8, {"year": n}) for n in range(10)]
shard.update(q.UpdateOperation.upsert_points(points))
nearest = q.Query.Nearest([1.0] * 8)
request = q.QueryRequest(limit=10, query=nearest, with_payload=True, with_vector=False)
assert len(shard.query(request)) == 10
shard.close()
""",
    "zvec": """
import sys, zvec

fields = [zvec.FieldSchema("year", zvec.DataType.INT64)]
index = zvec.FlatIndexParam(zvec.MetricType.COSINE)
vector = zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, 8, index)
table = zvec.create_and_open(sys.argv[1], zvec.CollectionSchema("t", fields, vector))
docs = [zvec.Doc(str(n), vectors={"v": [n + 1.0] * 8}, fields={"year": n}) for n in range(10)]
table.upsert(docs)
assert len(table.query(zvec.Query("v", vector=[1.0] * 8), topk=10)) == 10
""",
    "chromadb": """
import sys, chromadb

table = chromadb.PersistentClient(sys.argv[1]).create_collection("docs")
ids, vectors = [str(n) for n in range(10)], [[n + 1.0] * 8 for n in range(10)]
table.upsert(ids=ids, embeddings=vectors, metadatas=[{"year": n} for n in range(10)])
assert len(table.query(query_embeddings=[[1.0] * 8], n_results=10)["ids"][0]) == 10
""",
}
_MEMORY = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"


async def run(options: Options) -> list[Result]:
    python = sys.executable
    answers = {
        "SQLite": str(options.folder / "start.db"),
        "LanceDB": f"lancedb://{options.folder / 'start'}",
    }
    asked: dict[str, Sequence[str]] = {
        "Python, nothing": (python, "-c", "pass"),
        "import numpy": (python, "-c", "import numpy"),
        "import aiovec": (python, "-c", "import aiovec"),
        "aiovec --version": (python, "-m", "aiovec", "--version"),
        "aiovec --help": (python, "-m", "aiovec", "--help"),
        "aiovec count": (python, "-m", "aiovec", "count", "t", "-s", answers["SQLite"]),
        "the packages that a search imports": (python, "-c", _PACKAGES_OF_A_SEARCH),
        "10 rows found, SQLite": (python, "-c", _SEARCH, answers["SQLite"]),
    }
    await _said((python, "-c", _ANSWER, answers["SQLite"]))
    for name, target in answers.items():
        asked[f"10 rows written and found, {name}"] = (python, "-c", _ANSWER, target)
    if find_spec("lancedb") is not None:
        asked["import lancedb"] = (python, "-c", "import lancedb")
    else:
        del asked["10 rows written and found, LanceDB"], answers["LanceDB"]
    for module, program in _PEERS.items():
        if find_spec(module) is not None:
            asked[f"10 rows written and found, {module}"] = (python, "-c", program, "")
    cpu: dict[str, list[float]] = {name: [] for name in asked}
    ways: dict[str, Way] = {
        name: _measured(command, options.folder, cpu[name]) for name, command in asked.items()
    }
    took = medians(await interleaved(ways, options.rounds(_ROUNDS)))
    most = {
        f"{name} (MiB)": float(await _said((python, "-c", _ANSWER + _MEMORY, target)))
        for name, target in answers.items()
    }
    return [
        Result("start, time", "new processes, files in the system's cache (median)", "ms", took),
        Result("start, processor time", "of the same", "ms", medians(cpu)),
        Result("start, memory", "the most that such a process takes", "", most),
    ]


def _measured(command: Sequence[str], folder: Path, cpu: list[float]) -> Way:
    """Return a way: the milliseconds of a new process, whose processor time goes to ``cpu``."""
    numbers = count()

    async def measure() -> float:
        # A peer's program makes its table, so each run has a folder of its own.
        fresh = str(folder / f"peer-{id(command)}-{next(numbers)}")
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        await _said([part or fresh for part in command])
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu.append(used * 1000)
        return took * 1000

    return measure


async def _said(command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, command
    return out.decode()
