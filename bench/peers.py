"""One store as its own documentation opens it, measured in a separate environment.

``python -m bench.peers NAME JSON`` needs NumPy and the packages of that store, no more. `bench
against` makes the environment, runs it and reads what it prints.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module as _load
from pathlib import Path
from typing import Any

import numpy as np

from .measure import block_of, lags, rate

LIMIT = 10
_BATCH = 1000
_EF = 100
_AT_ONCE, _TICK = 20, 0.001

Search = Callable[[Any, int | None], Awaitable[list[int]]]
"""Return the numbers of the rows nearest to a vector, of those with ``pick`` below a bound."""


@dataclass(frozen=True)
class Rows:
    """Row ``n`` has the id ``n``, a vector of unit length, a number and a text."""

    vectors: Any
    picks: list[int]
    texts: list[str]

    def fields(self, row: int) -> dict[str, Any]:
        return {"pick": self.picks[row], "text": self.texts[row]}

    def batches(self) -> list[range]:
        size = len(self.picks)
        return [range(first, min(first + _BATCH, size)) for first in range(0, size, _BATCH)]


@dataclass(frozen=True)
class Peer:
    """What pip installs for a store, and how to fill and search it."""

    packages: tuple[str, ...]
    opened: Callable[[Path, Rows], AbstractAsyncContextManager[Search]]


def in_thread(search: Callable[[Any, int | None], list[int]]) -> Search:
    """Call a blocking client as an async app has to."""
    return lambda vector, most: asyncio.to_thread(search, vector, most)


@asynccontextmanager
async def _aiovec(folder: Path, rows: Rows) -> AsyncIterator[Search]:
    aiovec = _load("aiovec")
    async with aiovec.connect(folder / "a.db") as store:
        fields = {"pick": int, "text": str}
        await store.create_table("t", aiovec.Schema(rows.vectors.shape[1], fields=fields))
        for part in rows.batches():
            at = slice(part.start, part.stop)
            columns = {"id": [str(n) for n in part], "embedding": rows.vectors[at]}
            await store.insert("t", columns | {"pick": rows.picks[at], "text": rows.texts[at]})

        async def search(vector: Any, most: int | None) -> list[int]:
            where = None if most is None else aiovec.F.pick < most
            hits = await store.search("t", vector, limit=LIMIT, where=where)
            return [int(hit.id) for hit in hits]

        yield search


@asynccontextmanager
async def _sqlite_vec(folder: Path, rows: Rows) -> AsyncIterator[Search]:
    driver, sqlite_vec = _load("pysqlite3.dbapi2"), _load("sqlite_vec")
    db = driver.connect(str(folder / "a.db"), isolation_level=None, check_same_thread=False)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    db.execute(
        f"CREATE VIRTUAL TABLE t USING vec0(vector float[{rows.vectors.shape[1]}] "
        "distance_metric=cosine, pick integer, +text text)"
    )
    for part in rows.batches():
        db.execute("BEGIN")
        values = ((n, rows.vectors[n].tobytes(), rows.picks[n], rows.texts[n]) for n in part)
        db.executemany("INSERT INTO t (rowid, vector, pick, text) VALUES (?, ?, ?, ?)", values)
        db.execute("COMMIT")

    def search(vector: Any, most: int | None) -> list[int]:
        where = "" if most is None else f" AND pick < {most}"
        sql = f"SELECT rowid, text FROM t WHERE vector MATCH ? AND k = {LIMIT}{where}"
        return [row[0] for row in db.execute(sql, (vector.tobytes(),))]

    yield in_thread(search)


@asynccontextmanager
async def _faiss(_folder: Path, rows: Rows) -> AsyncIterator[Search]:
    faiss = _load("faiss")
    index = faiss.IndexFlatIP(rows.vectors.shape[1])
    index.add(rows.vectors)
    picks = np.array(rows.picks)

    def search(vector: Any, most: int | None) -> list[int]:
        chosen = None
        if most is not None:
            wanted = faiss.IDSelectorBatch(np.flatnonzero(picks < most))
            chosen = faiss.SearchParameters(sel=wanted)
        nearest = index.search(vector[None], LIMIT, params=chosen)[1][0]
        return [int(row) for row in nearest if row >= 0]

    yield in_thread(search)


@asynccontextmanager
async def _chroma(folder: Path, rows: Rows) -> AsyncIterator[Search]:
    client = _load("chromadb").PersistentClient(str(folder))
    table = client.create_collection("docs", configuration={"hnsw": {"space": "cosine"}})
    for part in rows.batches():
        table.add(
            ids=[str(n) for n in part],
            embeddings=rows.vectors[part.start : part.stop],
            documents=[rows.texts[n] for n in part],
            metadatas=[{"pick": rows.picks[n]} for n in part],
        )

    def search(vector: Any, most: int | None) -> list[int]:
        where = None if most is None else {"pick": {"$lt": most}}
        answer = table.query(query_embeddings=vector[None], n_results=LIMIT, where=where)
        return [int(id) for id in answer["ids"][0]]

    yield in_thread(search)


@asynccontextmanager
async def _qdrant(_folder: Path, rows: Rows) -> AsyncIterator[Search]:
    qdrant = _load("qdrant_client")
    models = qdrant.models
    client = qdrant.AsyncQdrantClient(":memory:")  # a folder takes a commit for each row
    size = models.VectorParams(size=rows.vectors.shape[1], distance=models.Distance.COSINE)
    await client.create_collection("t", vectors_config=size)
    for part in rows.batches():
        points = [
            models.PointStruct(id=n, vector=rows.vectors[n].tolist(), payload=rows.fields(n))
            for n in part
        ]
        await client.upsert("t", points)

    async def search(vector: Any, most: int | None) -> list[int]:
        below = models.FieldCondition(key="pick", range=models.Range(lt=most))
        where = None if most is None else models.Filter(must=[below])
        answer = await client.query_points("t", query=vector, limit=LIMIT, query_filter=where)
        return [point.id for point in answer.points]

    yield search
    await client.close()


@asynccontextmanager
async def _qdrant_edge(folder: Path, rows: Rows) -> AsyncIterator[Search]:
    q = _load("qdrant_edge")
    size = q.EdgeVectorParams(size=rows.vectors.shape[1], distance=q.Distance.Cosine)
    shard = q.EdgeShard.create(str(folder), q.EdgeConfig(vectors=size))
    for part in rows.batches():
        points = [q.Point(n, rows.vectors[n].tolist(), rows.fields(n)) for n in part]
        shard.update(q.UpdateOperation.upsert_points(points))
    shard.optimize()

    def search(vector: Any, most: int | None) -> list[int]:
        below = q.FieldCondition(key="pick", range=q.RangeFloat(lt=most))
        where = None if most is None else q.Filter(must=[below])
        request = q.QueryRequest(
            limit=LIMIT, query=q.Query.Nearest(vector.tolist()), filter=where,
            with_payload=True, with_vector=False, params=q.SearchParams(hnsw_ef=_EF),
        )  # fmt: skip
        return [point.id for point in shard.query(request)]

    yield in_thread(search)
    shard.close()


def _lancedb(indexed: bool) -> Callable[[Path, Rows], AbstractAsyncContextManager[Search]]:
    @asynccontextmanager
    async def opened(folder: Path, rows: Rows) -> AsyncIterator[Search]:
        lancedb, pa, index = _load("lancedb"), _load("pyarrow"), _load("lancedb.index")
        database = await lancedb.connect_async(folder)
        flat = pa.array(rows.vectors.ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, rows.vectors.shape[1])
        columns = {"id": range(len(rows.picks)), "pick": rows.picks, "text": rows.texts}
        table = await database.create_table("t", pa.table({**columns, "vector": vectors}))
        if indexed:
            await table.create_index("vector", config=index.HnswSq(distance_type="cosine"))

        async def search(vector: Any, most: int | None) -> list[int]:
            query = table.query().nearest_to(vector).distance_type("cosine").limit(LIMIT)
            query = query.ef(_EF) if indexed else query
            query = query if most is None else query.where(f"pick < {most}")
            nearest = await query.select(["id", "pick", "text", "_distance"]).to_list()
            return [row["id"] for row in nearest]

        yield search

    return opened


@asynccontextmanager
async def _milvus(folder: Path, rows: Rows) -> AsyncIterator[Search]:
    pymilvus = _load("pymilvus")
    place = str(folder / "milvus.db")
    made = pymilvus.MilvusClient(place)
    made.create_collection("t", dimension=rows.vectors.shape[1], metric_type="COSINE")
    for part in rows.batches():
        made.insert("t", [{"id": n, "vector": rows.vectors[n], **rows.fields(n)} for n in part])
    client = pymilvus.AsyncMilvusClient(place)

    async def search(vector: Any, most: int | None) -> list[int]:
        where = "" if most is None else f"pick < {most}"
        answer = await client.search(
            "t", [vector], limit=LIMIT, filter=where, output_fields=["pick", "text"]
        )
        return [row["id"] for row in answer[0]]

    yield search
    await client.close()


@asynccontextmanager
async def _zvec(folder: Path, rows: Rows) -> AsyncIterator[Search]:
    zvec = _load("zvec")
    kinds = zvec.DataType
    fields = [zvec.FieldSchema("pick", kinds.INT64), zvec.FieldSchema("text", kinds.STRING)]
    index = zvec.HnswIndexParam(zvec.MetricType.COSINE)
    vector = zvec.VectorSchema("v", kinds.VECTOR_FP32, rows.vectors.shape[1], index)
    table = zvec.create_and_open(str(folder / "t"), zvec.CollectionSchema("t", fields, vector))
    for part in rows.batches():
        table.insert(
            [zvec.Doc(str(n), vectors={"v": rows.vectors[n]}, fields=rows.fields(n)) for n in part]
        )
    table.optimize()

    def search(vector: Any, most: int | None) -> list[int]:
        query = zvec.Query("v", vector=vector, param=zvec.HnswQueryParam(ef=_EF))
        where = None if most is None else f"pick < {most}"
        nearest = table.query(query, topk=LIMIT, filter=where, output_fields=["pick", "text"])
        return [int(row.id) for row in nearest]

    yield in_thread(search)


OURS = "aiovec"
PEERS = {
    OURS: Peer((".",), _aiovec),
    "sqlite-vec": Peer(("sqlite-vec", "pysqlite3"), _sqlite_vec),
    "FAISS, flat": Peer(("faiss-cpu",), _faiss),
    "Chroma": Peer(("chromadb",), _chroma),
    "Qdrant's client, in memory": Peer(("qdrant-client",), _qdrant),
    "Qdrant Edge": Peer(("qdrant-edge-py",), _qdrant_edge),
    "LanceDB, no index": Peer(("lancedb", "pyarrow"), _lancedb(indexed=False)),
    "LanceDB, HNSW": Peer(("lancedb", "pyarrow"), _lancedb(indexed=True)),
    "Milvus Lite": Peer(("pymilvus", "milvus-lite"), _milvus),
    "Zvec": Peer(("zvec",), _zvec),
}


async def measure(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Fill the store, search it in each way, and return the figures and the answers.

    Without clients, it searches once.
    """
    given = np.load(settings["data"])
    rows = Rows(given["vectors"], given["picks"].tolist(), given["texts"].tolist())
    queries, seconds = given["queries"], settings["seconds"]
    folder = Path(settings["folder"])
    folder.mkdir()  # noqa: ASYNC240
    began = time.perf_counter()
    async with PEERS[name].opened(folder, rows) as search:
        filled = time.perf_counter() - began
        if not settings["clients"]:
            await search(queries[0], None)
            return {}

        async def ask(turn: int, most: int | None = None) -> list[int]:
            return await search(queries[turn % len(queries)], most)

        every, few = [
            [await search(query, most) for query in queries] for most in (None, settings["most"])
        ]
        stall = min([await _stall(search, queries) for _ in range(3)])
        plain, filtered = [
            await block_of(partial(ask, most=most), len(queries), seconds)()
            for most in (None, settings["most"])
        ]
        many = await rate(ask, settings["clients"], seconds)
    return {
        "opened and filled (s)": filled, "recall": every, "recall under a filter": few,
        "longest stall (ms)": stall,
        "one search (ms)": plain, "one search under a filter (ms)": filtered,
        "searches/s together": many,
    }  # fmt: skip


async def _stall(search: Search, queries: Any) -> float:
    """Return by how many ms a timer of the event loop is late at most while tasks search."""
    async with lags(_TICK) as late:
        await asyncio.sleep(10 * _TICK)
        late.clear()
        await asyncio.gather(*(search(query, None) for query in queries[:_AT_ONCE]))
        await asyncio.sleep(2 * _TICK)  # the last stall is seen behind it
        return max(late)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], json.loads(sys.argv[2])))))
