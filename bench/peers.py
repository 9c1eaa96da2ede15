"""The same searches by other libraries, where they are installed."""

from __future__ import annotations

import asyncio
import importlib
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from .data import LIMIT, Data, row_number
from .measure import Ask, Options
from .stores import by_lance, fill_lance, lance

FAISS = "faiss flat, one thread, row numbers only"
LANCEDB = "LanceDB HNSW_SQ, ef 100"
QDRANT = "Qdrant Edge HNSW, ef 100"
ZVEC = "Zvec HNSW, ef 100"

_EF = 100
_BATCH = 1000
_THREADS = 8  # more threads gave Zvec no higher rate


def faiss_flat(data: Data) -> Ask:
    """Scan float32 vectors. It blocks the event loop. Raises ImportError."""
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(data.dim)
    index.add(data.vectors)

    async def ask(query: int) -> list[int]:
        number = query % len(data.queries)
        found: list[int] = index.search(data.queries[number : number + 1], LIMIT)[1][0].tolist()
        return [row for row in found if row >= 0]

    return ask


@asynccontextmanager
async def indexed(data: Data, options: Options) -> AsyncIterator[tuple[dict[str, Ask], list[str]]]:
    """Open the approximate peers; a note says what each index took or why it is left out.

    An index that is not in the cache is only built with ``--peers all``.
    """
    ways: dict[str, Ask] = {}
    notes: list[str] = []
    async with AsyncExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, "peers"))
        for name, package, build, open_ in (
            (LANCEDB, "lancedb", _build_lancedb, None),
            (QDRANT, "qdrant_edge", _build_qdrant, _open_qdrant),
            (ZVEC, "zvec", _build_zvec, _open_zvec),
        ):
            try:
                module = await asyncio.to_thread(importlib.import_module, package)
            except ImportError:
                notes.append(f"skipped: {name}: {package} is not installed")
                continue
            folder = _place(data, options, package)
            mark = folder / "seconds"
            if not mark.exists():
                if options.peers != "all":
                    notes.append(f"skipped: {name}: --peers all builds its index, in minutes")
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                began = time.perf_counter()
                await build(module, folder / "data", data)
                mark.write_text(f"{time.perf_counter() - began:.0f}")
            notes.append(f"{name}: built in {mark.read_text()} s")
            if open_ is None:
                connection = await stack.enter_async_context(lance(folder / "data"))
                ways[name] = by_lance(await connection.open_table("docs"), data, ef=_EF)
            else:
                search = await asyncio.to_thread(open_, module, folder / "data", data)
                ways[name] = _in_threads(search, pool)
        yield ways, notes


def _place(data: Data, options: Options, package: str) -> Path:
    named = re.sub(r"\W+", "-", f"{package}-{data.origin}-{len(data)}-{data.dim}")
    return (options.cache or options.folder) / named


def _in_threads(search: Callable[[int], list[int]], pool: ThreadPoolExecutor) -> Ask:
    async def ask(query: int) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(pool, search, query)

    return ask


async def _build_lancedb(_: Any, folder: Path, data: Data) -> None:
    index = importlib.import_module("lancedb.index")
    async with lance(folder) as connection:
        table = await fill_lance(connection, data)
        await table.create_index("embedding", config=index.HnswSq(distance_type="cosine"))


async def _build_qdrant(qdrant: Any, folder: Path, data: Data) -> None:
    def build() -> None:
        vectors = qdrant.EdgeVectorParams(size=data.dim, distance=qdrant.Distance.Cosine)
        shard = qdrant.EdgeShard.create(str(folder), qdrant.EdgeConfig(vectors=vectors))
        for batch in data.batches(_BATCH):
            points = [
                qdrant.Point(row["place"], row.pop("embedding"), row) for row in batch.to_pylist()
            ]
            shard.update(qdrant.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.close()

    await asyncio.to_thread(build)


def _open_qdrant(qdrant: Any, folder: Path, data: Data) -> Callable[[int], list[int]]:
    shard = qdrant.EdgeShard.load(str(folder))
    params = qdrant.SearchParams(hnsw_ef=_EF)

    def search(query: int) -> list[int]:
        nearest = qdrant.Query.Nearest(data.queries[query % len(data.queries)].tolist())
        asked = qdrant.QueryRequest(
            limit=LIMIT, query=nearest, with_payload=True, with_vector=False, params=params
        )
        return [point.id for point in shard.query(asked)]

    return search


async def _build_zvec(zvec: Any, folder: Path, data: Data) -> None:
    kinds = zvec.DataType
    schema = zvec.CollectionSchema(
        "docs",
        [zvec.FieldSchema("pick", kinds.INT64), zvec.FieldSchema("place", kinds.INT64),
         zvec.FieldSchema("text", kinds.STRING)],
        zvec.VectorSchema("embedding", kinds.VECTOR_FP32, data.dim,
                          zvec.HnswIndexParam(zvec.MetricType.COSINE)),
    )  # fmt: skip

    def build() -> None:
        collection = zvec.create_and_open(str(folder), schema)
        for batch in data.batches(_BATCH):
            collection.insert(
                [
                    zvec.Doc(row.pop("id"), vectors={"embedding": row.pop("embedding")}, fields=row)
                    for row in batch.to_pylist()
                ]
            )
        collection.optimize()
        collection.flush()

    await asyncio.to_thread(build)


def _open_zvec(zvec: Any, folder: Path, data: Data) -> Callable[[int], list[int]]:
    collection = zvec.open(str(folder))
    param = zvec.HnswQueryParam(ef=_EF)

    def search(query: int) -> list[int]:
        vector = data.queries[query % len(data.queries)]
        asked = zvec.Query("embedding", vector=vector, param=param)
        found = collection.query(asked, topk=LIMIT, output_fields=["pick", "place", "text"])
        return [row_number(row.id) for row in found]

    return search
