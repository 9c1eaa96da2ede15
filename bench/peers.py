"""One store, opened as in its own documentation and measured in a separate environment.

``python -m bench.peers NAME JSON`` needs only NumPy and that store's packages. `bench against`
creates the environment, runs this module in it and reads the output; `bench many` runs
``bench.many`` in it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import time
import venv
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module as _load
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Options, block_of, lags, output, rate

LIMIT = 10
_BATCH = 1000
_EF = 100
_AT_ONCE, _TICK = 20, 0.001

Search = Callable[[Any, int | None], Awaitable[list[int]]]
"""Returns the numbers of the rows nearest to a vector, with ``pick`` below a bound if given."""


@dataclass(frozen=True)
class Opened:
    """An open table, with functions that add a batch of rows, complete the index, and search."""

    add: Callable[[range], Any]
    search: Search
    complete: Callable[[], Any] = lambda: None

    async def fill(self, *batches: range) -> None:
        for part in batches:
            if inspect.isawaitable(added := self.add(part)):
                await added


@dataclass(frozen=True)
class Rows:
    """The rows to store. Row ``n`` has the id ``n``, a unit-length vector, a number and a text."""

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
    """A store's pip packages, and a function that opens it."""

    packages: tuple[str, ...]
    opened: Callable[[Path, Rows], AbstractAsyncContextManager[Opened]]
    """Opens the table in a folder, or creates it."""
    on_disk: bool = True

    async def environment(self, options: Options) -> Path:
        """Return the Python of an environment with the packages; create it if necessary."""
        name = "-".join(self.packages).strip(".") or OURS
        folder = (options.cache or options.folder) / "environments" / name
        python = folder / ("Scripts/python" if os.name == "nt" else "bin/python")
        if not (folder / "complete").exists() or name == OURS:
            await asyncio.to_thread(venv.create, folder, with_pip=True, clear=True)
            await output(str(python), "-m", "pip", "install", "--quiet", "numpy", *self.packages)
            (folder / "complete").touch()
        return python


def in_thread(search: Callable[[Any, int | None], list[int]]) -> Search:
    """Call a blocking client in a thread, as an async app has to."""
    return lambda vector, most: asyncio.to_thread(search, vector, most)


@asynccontextmanager
async def _aiovec(folder: Path, rows: Rows) -> AsyncIterator[Opened]:
    aiovec = _load("aiovec")
    async with aiovec.connect(folder / "a.db") as store:
        fields = {"pick": int, "text": str}
        schema = aiovec.Schema(rows.vectors.shape[1], fields=fields)
        await store.create_table("t", schema, exist_ok=True)

        async def add(part: range) -> None:
            at = slice(part.start, part.stop)
            columns = {"id": [str(n) for n in part], "embedding": rows.vectors[at]}
            await store.insert("t", columns | {"pick": rows.picks[at], "text": rows.texts[at]})

        async def search(vector: Any, most: int | None) -> list[int]:
            where = None if most is None else aiovec.F.pick < most
            hits = await store.search("t", vector, limit=LIMIT, where=where)
            return [int(hit.id) for hit in hits]

        yield Opened(add, search)


@asynccontextmanager
async def _sqlite_vec(folder: Path, rows: Rows) -> AsyncIterator[Opened]:
    driver, sqlite_vec = _load("sqlcipher3.dbapi2"), _load("sqlite_vec")
    db = driver.connect(str(folder / "a.db"), isolation_level=None, check_same_thread=False)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    db.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS t USING vec0(vector float[{rows.vectors.shape[1]}] "
        "distance_metric=cosine, pick integer, +text text)"
    )

    def add(part: range) -> None:
        values = ((n, rows.vectors[n].tobytes(), rows.picks[n], rows.texts[n]) for n in part)
        db.execute("BEGIN")
        try:
            db.executemany("INSERT INTO t (rowid, vector, pick, text) VALUES (?, ?, ?, ?)", values)
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def search(vector: Any, most: int | None) -> list[int]:
        where = "" if most is None else f" AND pick < {most}"
        sql = f"SELECT rowid, text FROM t WHERE vector MATCH ? AND k = {LIMIT}{where}"
        return [row[0] for row in db.execute(sql, (vector.tobytes(),))]

    yield Opened(add, in_thread(search))


@asynccontextmanager
async def _faiss(_folder: Path, rows: Rows) -> AsyncIterator[Opened]:
    faiss = _load("faiss")
    index = faiss.IndexFlatIP(rows.vectors.shape[1])
    picks = np.array(rows.picks)

    def search(vector: Any, most: int | None) -> list[int]:
        chosen = None
        if most is not None:
            wanted = faiss.IDSelectorBatch(np.flatnonzero(picks < most))
            chosen = faiss.SearchParameters(sel=wanted)
        nearest = index.search(vector[None], LIMIT, params=chosen)[1][0]
        return [int(row) for row in nearest if row >= 0]

    yield Opened(lambda part: index.add(rows.vectors[part.start : part.stop]), in_thread(search))


@asynccontextmanager
async def _chroma(folder: Path, rows: Rows) -> AsyncIterator[Opened]:
    client = _load("chromadb").PersistentClient(str(folder))
    table = client.get_or_create_collection("docs", configuration={"hnsw": {"space": "cosine"}})

    def add(part: range) -> None:
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

    yield Opened(add, in_thread(search))


@asynccontextmanager
async def _qdrant(folder: Path, rows: Rows, *, in_memory: bool) -> AsyncIterator[Opened]:
    qdrant = _load("qdrant_client")
    models = qdrant.models
    place = {"location": ":memory:"} if in_memory else {"path": str(folder)}
    client = qdrant.AsyncQdrantClient(**place)
    size = models.VectorParams(size=rows.vectors.shape[1], distance=models.Distance.COSINE)
    if not await client.collection_exists("t"):
        await client.create_collection("t", vectors_config=size)

    async def add(part: range) -> None:
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

    yield Opened(add, search)
    await client.close()


@asynccontextmanager
async def _qdrant_edge(folder: Path, rows: Rows) -> AsyncIterator[Opened]:
    q = _load("qdrant_edge")
    size = q.EdgeVectorParams(size=rows.vectors.shape[1], distance=q.Distance.Cosine)
    if any(folder.iterdir()):  # noqa: ASYNC240
        shard = q.EdgeShard.load(str(folder))
    else:
        shard = q.EdgeShard.create(str(folder), q.EdgeConfig(vectors=size))

    def add(part: range) -> None:
        points = [q.Point(n, rows.vectors[n].tolist(), rows.fields(n)) for n in part]
        shard.update(q.UpdateOperation.upsert_points(points))

    def search(vector: Any, most: int | None) -> list[int]:
        below = q.FieldCondition(key="pick", range=q.RangeFloat(lt=most))
        where = None if most is None else q.Filter(must=[below])
        request = q.QueryRequest(
            limit=LIMIT, query=q.Query.Nearest(vector.tolist()), filter=where,
            with_payload=True, with_vector=False, params=q.SearchParams(hnsw_ef=_EF),
        )  # fmt: skip
        return [point.id for point in shard.query(request)]

    yield Opened(add, in_thread(search), shard.optimize)
    shard.close()


@asynccontextmanager
async def _lancedb(folder: Path, rows: Rows, *, indexed: bool) -> AsyncIterator[Opened]:
    lancedb, pa, index = _load("lancedb"), _load("pyarrow"), _load("lancedb.index")
    database = await lancedb.connect_async(folder)
    vector = pa.list_(pa.float32(), rows.vectors.shape[1])
    columns = {"id": pa.int64(), "pick": pa.int64(), "text": pa.string(), "vector": vector}
    schema = pa.schema(columns)
    table = await database.create_table("t", schema=schema, exist_ok=True)

    async def add(part: range) -> None:
        at = slice(part.start, part.stop)
        flat = pa.array(rows.vectors[at].ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, rows.vectors.shape[1])
        fields = [[*part], rows.picks[at], rows.texts[at], vectors]
        await table.add(pa.table(fields, schema=schema))

    async def complete() -> None:
        if indexed:
            await table.create_index("vector", config=index.HnswSq(distance_type="cosine"))

    async def search(vector: Any, most: int | None) -> list[int]:
        query = table.query().nearest_to(vector).distance_type("cosine").limit(LIMIT)
        query = query.ef(_EF) if indexed else query
        query = query if most is None else query.where(f"pick < {most}")
        nearest = await query.select(["id", "pick", "text", "_distance"]).to_list()
        return [row["id"] for row in nearest]

    yield Opened(add, search, complete)


@asynccontextmanager
async def _milvus(folder: Path, rows: Rows) -> AsyncIterator[Opened]:
    pymilvus = _load("pymilvus")
    place = str(folder / "milvus.db")
    made = pymilvus.MilvusClient(place)
    if made.has_collection("t"):
        made.load_collection("t")
    else:
        made.create_collection("t", dimension=rows.vectors.shape[1], metric_type="COSINE")

    def add(part: range) -> None:
        made.insert("t", [{"id": n, "vector": rows.vectors[n], **rows.fields(n)} for n in part])

    client = pymilvus.AsyncMilvusClient(place)

    async def search(vector: Any, most: int | None) -> list[int]:
        where = "" if most is None else f"pick < {most}"
        answer = await client.search(
            "t", [vector], limit=LIMIT, filter=where, output_fields=["pick", "text"]
        )
        return [row["id"] for row in answer[0]]

    yield Opened(add, search)
    await client.close()


@asynccontextmanager
async def _zvec(folder: Path, rows: Rows) -> AsyncIterator[Opened]:
    zvec = _load("zvec")
    kinds = zvec.DataType
    fields = [zvec.FieldSchema("pick", kinds.INT64), zvec.FieldSchema("text", kinds.STRING)]
    index = zvec.HnswIndexParam(zvec.MetricType.COSINE)
    vector = zvec.VectorSchema("v", kinds.VECTOR_FP32, rows.vectors.shape[1], index)
    place = str(folder / "t")
    if Path(place).exists():  # noqa: ASYNC240
        table = zvec.open(place)
    else:
        table = zvec.create_and_open(place, zvec.CollectionSchema("t", fields, vector))

    def add(part: range) -> None:
        table.insert(
            [zvec.Doc(str(n), vectors={"v": rows.vectors[n]}, fields=rows.fields(n)) for n in part]
        )

    def search(vector: Any, most: int | None) -> list[int]:
        query = zvec.Query("v", vector=vector, param=zvec.HnswQueryParam(ef=_EF))
        where = None if most is None else f"pick < {most}"
        nearest = table.query(query, topk=LIMIT, filter=where, output_fields=["pick", "text"])
        return [int(row.id) for row in nearest]

    yield Opened(add, in_thread(search), table.optimize)


OURS = "aiovec"
PEERS = {
    OURS: Peer((".",), _aiovec),
    "sqlite-vec": Peer(("sqlite-vec", "sqlcipher3"), _sqlite_vec),
    "FAISS, flat": Peer(("faiss-cpu",), _faiss, on_disk=False),
    "Chroma": Peer(("chromadb",), _chroma),
    "Qdrant's client, in memory": Peer(
        ("qdrant-client",), partial(_qdrant, in_memory=True), on_disk=False
    ),
    "Qdrant Edge": Peer(("qdrant-edge-py",), _qdrant_edge),
    "LanceDB, no index": Peer(("lancedb", "pyarrow"), partial(_lancedb, indexed=False)),
    "LanceDB, HNSW": Peer(("lancedb", "pyarrow"), partial(_lancedb, indexed=True)),
    "Milvus Lite": Peer(("pymilvus", "milvus-lite"), _milvus),
    "Zvec": Peer(("zvec",), _zvec),
}


# In a folder, Qdrant's client commits each row separately, so `bench against` leaves it out.
SHARED = {name: peer for name, peer in PEERS.items() if peer.on_disk and name != "LanceDB, HNSW"}
SHARED["Qdrant's client"] = Peer(("qdrant-client",), partial(_qdrant, in_memory=False))


def last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]


async def measure(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Fill the store, search it in each way, and return the figures and the answers.

    With 0 clients, search only once, and return no figures.
    """
    data = np.load(settings["data"])
    rows = Rows(data["vectors"], data["picks"].tolist(), data["texts"].tolist())
    queries, seconds = data["queries"], settings["seconds"]
    folder = Path(settings["folder"])
    folder.mkdir()  # noqa: ASYNC240
    began = time.perf_counter()
    async with PEERS[name].opened(folder, rows) as table:
        await table.fill(*rows.batches())
        if inspect.isawaitable(completed := table.complete()):
            await completed
        search = table.search
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
    """Return the longest delay of an event-loop timer, in milliseconds, while tasks search."""
    async with lags(_TICK) as late:
        await asyncio.sleep(10 * _TICK)
        late.clear()
        await asyncio.gather(*(search(query, None) for query in queries[:_AT_ONCE]))
        await asyncio.sleep(2 * _TICK)  # a stall shows only after it ends
        return max(late)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], json.loads(sys.argv[2])))))
