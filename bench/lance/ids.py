"""Calls by id, beside what one writes by hand with lancedb on a table with a BTree over its ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import aiovec
from aiovec import Field, Schema, VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from ..searching.corpus import TABLE, Corpus
from . import direct

_SMALL, _MILLION, _MILLION_DIM = 117_659, 1_000_000, 64
_FEW, _DOOMED = 30, 5000
_ROUNDS = 40
_LOAD = 50_000
_PATIENCE = 120.0
_MOST = 2.0

_CONFIG = """
[retrieval]
backend = "lancedb"
lancedb_url = "ours"
[retrieval.lancedb]
index = "none"
"""

Act = Callable[[], Awaitable[None]]


async def run(options: Options) -> list[Result]:
    """Of the real set, and of a million generated rows."""
    corpus = Corpus.load(options.rows(_SMALL), 384, options.data)
    results = [await _compared(options.folder / "ids", _Rows(corpus.vectors), options)]
    if options.asked_rows is None:
        chance = np.random.default_rng(5)
        shape = (options.rows(_MILLION), _MILLION_DIM)
        made = chance.standard_normal(shape, dtype=np.float32)
        results.append(await _compared(options.folder / "ids-million", _Rows(made), options))
    return results


class _Rows:
    """Rows with ids that do not follow each other, and new ones."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self._chance = np.random.default_rng(1)
        self._new = iter(range(len(vectors), 10**9))
        # Some are only deleted, the others only asked for and replaced.
        self._kept = max(_FEW, len(vectors) - _DOOMED)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def loads(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self), _LOAD):
            yield self.of(range(start, min(start + _LOAD, len(self))))

    def of(self, numbers: range) -> pa.RecordBatch:
        vectors = self.vectors[np.asarray(numbers) % len(self)]
        values = pa.array(vectors.reshape(-1))
        return pa.RecordBatch.from_pydict(
            {
                "id": pa.array([_id(number) for number in numbers]),
                "embedding": pa.FixedSizeListArray.from_arrays(values, self.dim),
                "pick": pa.array(np.asarray(numbers, dtype=np.int64)),
                "text": pa.array([f"text {number}" for number in numbers]),
            }
        )

    def some(self, count: int) -> list[str]:
        return [_id(int(n)) for n in self._chance.choice(self._kept, count, replace=False)]

    def doomed(self) -> str:
        return _id(int(self._chance.integers(self._kept, len(self))))

    def new(self) -> pa.RecordBatch:
        number = next(self._new)
        return self.of(range(number, number + 1))

    def known(self) -> pa.RecordBatch:
        number = int(self._chance.integers(self._kept))
        return self.of(range(number, number + 1))


def _id(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}-{number}"


async def _compared(folder: Path, rows: _Rows, options: Options) -> Result:
    fields = {"pick": Field(int), "text": Field(str)}
    schema = Schema(rows.dim, fields=fields, payload=False)
    config = await asyncio.to_thread(_config, folder)
    async with aiovec.connect(config=config) as store:
        await store.create_table(TABLE, schema)
        table = await direct.create(folder / "bare", rows.of(range(1)))
        for batch in rows.loads():
            await store.insert(TABLE, batch)
            await table.add(batch)
        await store.optimize(TABLE)
        await table.optimize()
        await _btree(table)
        ways: dict[str, Act] = {}
        for name, (ours, bare) in _calls(store, table, rows).items():
            ways[f"{name}, aiovec"], ways[f"{name}, lancedb"] = ours, bare
        timed = {name: _timed(act) for name, act in ways.items()}
        found = medians(await interleaved(timed, options.rounds(_ROUNDS)))
    calls = [name.removesuffix(", aiovec") for name in ways if name.endswith(", aiovec")]
    return Result(
        "lancedb-ids",
        f"calls by id among {len(rows):,} rows of {rows.dim} dims, beside lancedb with a BTree on "
        f"the ids (median of {options.rounds(_ROUNDS)})",
        "ms", found,
        [
            Check(
                f"{name}, aiovec / lancedb",
                found[f"{name}, aiovec"] / found[f"{name}, lancedb"], _MOST, at_most=True,
            )
            for name in calls
        ],
    )  # fmt: skip


def _config(folder: Path) -> Path:
    folder.mkdir()
    config = folder / "aiovec.toml"
    # Vectors play no part here.
    config.write_text(_CONFIG, encoding="utf-8")
    return config


async def _btree(table: Any) -> None:
    from lancedb.index import BTree

    await table.create_index("id", config=BTree())
    began = time.perf_counter()
    while (await table.index_stats("id_idx")).num_unindexed_rows:
        if time.perf_counter() - began > _PATIENCE:
            raise TimeoutError("the index over the ids was not ready in time")
        await asyncio.sleep(0.05)


def _calls(store: VectorStore, table: Any, rows: _Rows) -> dict[str, tuple[Act, Act]]:
    """Each call as aiovec has it, and the least that does the same with lancedb."""

    async def get(count: int) -> None:
        assert len(await store.get(TABLE, rows.some(count))) == count

    async def bare_get(count: int) -> None:
        condition = _in(rows.some(count))
        assert (await table.query().where(condition).to_arrow()).num_rows == count

    async def insert() -> None:
        await store.insert(TABLE, rows.new())

    async def bare_insert() -> None:
        merge = table.merge_insert("id").when_not_matched_insert_all()
        await merge.execute(pa.Table.from_batches([rows.new()]))

    async def upsert() -> None:
        await store.upsert(TABLE, rows.known())

    async def bare_upsert() -> None:
        await direct.upsert(table, rows.known())

    async def delete() -> None:
        await store.delete(TABLE, rows.doomed())

    async def bare_delete() -> None:
        await table.delete(_in([rows.doomed()]))

    return {
        "get of one": (lambda: get(1), lambda: bare_get(1)),
        f"get of {_FEW}": (lambda: get(_FEW), lambda: bare_get(_FEW)),
        "insert of one": (insert, bare_insert),
        "upsert of one": (upsert, bare_upsert),
        "delete of one": (delete, bare_delete),
    }


def _in(ids: list[str]) -> str:
    return "id IN ({})".format(", ".join(f"'{id}'" for id in ids))


def _timed(act: Act) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        began = time.perf_counter()
        await act()
        return (time.perf_counter() - began) * 1000

    return measure
