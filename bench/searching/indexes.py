"""The same search by peers with an approximate index, which takes a minute or more to build."""

from __future__ import annotations

import asyncio
import importlib
import re
import shutil
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..options import Options
from .corpus import LIMIT, Corpus, row_number
from .store import Ask

LANCEDB = "LanceDB HNSW_SQ, ef 100"
ZVEC = "Zvec HNSW, ef 100"

_EF = 100
_THREADS = 8  # more gave Zvec no more


@asynccontextmanager
async def indexed_peers(
    corpus: Corpus, options: Options
) -> AsyncIterator[tuple[dict[str, Ask], list[str]]]:
    """The ways that are installed and built, or may be; and a line for each and what it cost."""
    ways: dict[str, Ask] = {}
    told: list[str] = []
    pool = ThreadPoolExecutor(_THREADS, "zvec")
    for name, package, build, opened in (
        (LANCEDB, "lancedb", _build_lancedb, _open_lancedb),
        (ZVEC, "zvec", _build_zvec, _open_zvec),
    ):
        try:
            module = await asyncio.to_thread(importlib.import_module, package)
        except ImportError:
            told.append(f"skipped: {name}: {package} is not installed")
            continue
        folder = _place(corpus, options, package)
        mark = folder / "seconds"
        if not mark.exists():
            if not options.slow_peers:
                told.append(f"skipped: {name}: its index takes long to build; ask by --peers all")
                continue
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            began = time.perf_counter()
            await build(module, folder, corpus)
            mark.write_text(f"{time.perf_counter() - began:.0f}")
        told.append(f"{name}: built in {mark.read_text()} s")
        ways[name] = await opened(module, folder, corpus, pool)
    try:
        yield ways, told
    finally:
        pool.shutdown()


def _place(corpus: Corpus, options: Options, package: str) -> Path:
    named = re.sub(r"\W+", "-", f"{package}-{corpus.origin}-{len(corpus)}-{corpus.dim}")
    return (options.cache or options.folder) / named


async def _build_lancedb(lancedb: Any, folder: Path, corpus: Corpus) -> None:
    index = importlib.import_module("lancedb.index")
    db = await lancedb.connect_async(folder / "data")
    batches = list(corpus.batches())
    table = await db.create_table("docs", schema=batches[0].schema)
    for batch in batches:
        await table.add(batch)
    await table.create_index("embedding", config=index.HnswSq(distance_type="cosine"))


async def _open_lancedb(lancedb: Any, folder: Path, corpus: Corpus, _: ThreadPoolExecutor) -> Ask:
    db = await lancedb.connect_async(folder / "data")
    table = await db.open_table("docs")
    names = ["id", "pick", "text", "_distance"]

    async def ask(query: int) -> list[int]:
        asked = table.query().nearest_to(corpus.queries[query]).distance_type("cosine")
        found = await asked.ef(_EF).select(names).limit(LIMIT).to_list()
        return [row_number(row["id"]) for row in found]

    return ask


async def _build_zvec(zvec: Any, folder: Path, corpus: Corpus) -> None:
    kinds = zvec.DataType
    schema = zvec.CollectionSchema(
        "docs",
        [zvec.FieldSchema("pick", kinds.INT64), zvec.FieldSchema("text", kinds.STRING)],
        zvec.VectorSchema(
            "embedding", kinds.VECTOR_FP32, corpus.dim,
            zvec.HnswIndexParam(zvec.MetricType.COSINE),
        ),
    )  # fmt: skip

    def build() -> None:
        collection = zvec.create_and_open(str(folder / "data"), schema)
        for start in range(0, len(corpus), 1000):
            batch = corpus.batch(slice(start, start + 1000))
            collection.insert(
                [
                    zvec.Doc(
                        id=row["id"],
                        vectors={"embedding": row["embedding"]},
                        fields={"pick": row["pick"], "text": row["text"]},
                    )
                    for row in batch.to_pylist()
                ]
            )
        collection.optimize()
        collection.flush()

    await asyncio.to_thread(build)


async def _open_zvec(zvec: Any, folder: Path, corpus: Corpus, pool: ThreadPoolExecutor) -> Ask:
    collection = await asyncio.to_thread(zvec.open, str(folder / "data"))
    param = zvec.HnswQueryParam(ef=_EF)
    loop = asyncio.get_running_loop()

    def search(query: int) -> list[int]:
        asked = zvec.Query("embedding", vector=corpus.queries[query], param=param)
        found = collection.query(asked, topk=LIMIT, output_fields=["pick", "text"])
        return [row_number(row.id) for row in found]

    async def ask(query: int) -> list[int]:
        return await loop.run_in_executor(pool, search, query)

    return ask
