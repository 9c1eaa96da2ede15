"""The longest stall of the event loop while 20 tasks search at once: aiovec beside its peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiovec

from .data import Data, load
from .measure import RESULTS, Options, Result, lags, machine, number

_SEARCHES, _LIMIT = 20, 10
_TICK = 0.001  # seconds between two looks at the clock
_Search = Callable[[Any], Awaitable[object]]


async def run(options: Options) -> list[Result]:
    data = load(options.rows(20_000), options.data)
    found: dict[str, float] = {}
    notes = [f"{_SEARCHES} searches at once, {data}"]
    for name, opened in _WAYS.items():
        if options.peers == "none" and opened is not _aiovec:
            continue
        try:
            async with opened(options.folder / opened.__name__, data) as search:
                rounds = [await _longest_stall(search, data) for _ in range(options.rounds(3))]
        except ImportError as error:
            notes.append(f"skipped: {name}: {error}")
        else:
            found[name] = min(rounds)  # other work on the machine only adds to it
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "stalls.svg").write_text(_picture(found), encoding="utf-8")
    notes.append(f"picture: {RESULTS / 'stalls.svg'}")
    return [Result("stalls", "the longest stall of the event loop", "ms", found, notes=notes)]


async def _longest_stall(search: _Search, data: Data) -> float:
    """Return how late, in ms, the loop was at most while the searches ran."""
    await search(data.queries[0])
    queries = [data.queries[n % len(data.queries)] for n in range(_SEARCHES)]
    async with lags(_TICK) as late:
        await asyncio.sleep(10 * _TICK)
        late.clear()
        await asyncio.gather(*map(search, queries))
        await asyncio.sleep(2 * _TICK)  # the last stall is seen behind it
    return max(late)


@asynccontextmanager
async def _aiovec(folder: Path, data: Data) -> AsyncIterator[_Search]:
    async with aiovec.connect(folder.with_suffix(".db")) as store:
        await store.create_table("t", data.schema())
        for batch in data.batches():
            await store.insert("t", batch)
        yield lambda vector: store.search("t", vector, limit=_LIMIT)


@asynccontextmanager
async def _lancedb(folder: Path, data: Data) -> AsyncIterator[_Search]:
    import lancedb
    import pyarrow as pa

    database = await lancedb.connect_async(folder)
    table = await database.create_table("t", pa.Table.from_batches(data.batches()))
    yield lambda vector: table.query().nearest_to(vector).limit(_LIMIT).to_list()


@asynccontextmanager
async def _qdrant(_folder: Path, data: Data) -> AsyncIterator[_Search]:
    from qdrant_client import AsyncQdrantClient, models

    client = AsyncQdrantClient(":memory:")
    size = models.VectorParams(size=data.dim, distance=models.Distance.COSINE)
    await client.create_collection("t", vectors_config=size)
    client.upload_collection("t", vectors=data.vectors)
    yield lambda vector: client.query_points("t", query=vector, limit=_LIMIT)
    await client.close()


@asynccontextmanager
async def _milvus(folder: Path, data: Data) -> AsyncIterator[_Search]:
    from pymilvus import AsyncMilvusClient, MilvusClient

    place = str(folder.with_suffix(".milvus.db"))
    made = MilvusClient(place)
    made.create_collection("t", dimension=data.dim, metric_type="COSINE")
    for first in range(0, len(data), 5_000):
        part = enumerate(data.vectors[first : first + 5_000], first)
        made.insert("t", [{"id": n, "vector": vector} for n, vector in part])
    client = AsyncMilvusClient(place)
    yield lambda vector: client.search("t", [vector], limit=_LIMIT)
    await client.close()


_WAYS: dict[str, Any] = {
    "aiovec, SQLite": _aiovec,
    "lancedb, async": _lancedb,
    "Qdrant's local client, async": _qdrant,
    "Milvus Lite, async": _milvus,
}
_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" role="img">
<title>Longest stall of the event loop while 20 tasks search at once</title>
<style>text {{font: 14px sans-serif; fill: #24292f}} rect {{fill: #8a6d3b}}
.ours {{fill: #1a7f5a}} @media (prefers-color-scheme: dark) {{text {{fill: #e6edf3}}}}</style>
<text x="0" y="18" font-weight="bold">Longest stall of the event loop, 20 searches at once</text>
{bars}
<text x="0" y="{foot}" font-size="12">{machine}</text>
</svg>
"""


def _picture(found: dict[str, float]) -> str:
    most, bars = max(found.values()), []
    for n, (name, stall) in enumerate(found.items()):
        top, wide = 34 + 30 * n, max(2, round(320 * stall / most))
        kind = ' class="ours"' if n == 0 else ""
        bars.append(
            f'<text x="0" y="{top + 15}">{name}</text>\n'
            f'<rect{kind} x="205" y="{top}" width="{wide}" height="20"/>\n'
            f'<text x="{213 + wide}" y="{top + 15}">{number(stall)} ms</text>'
        )
    height = 60 + 30 * len(found)
    facts = ", ".join(f"{key} {value}" for key, value in list(machine().items())[:3])
    return _SVG.format(bars="\n".join(bars), height=height, foot=height - 8, machine=facts)
