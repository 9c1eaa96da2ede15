"""Searches of various tables, with various queries and filters, compared with NumPy in float64."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.cases import Seeds
from tests.harness.hard_vectors import KINDS, Random, hard_query, hard_rows
from tests.sqlite.support import memory_for_copies, opened, ready

from aiovec import Field, Hit, Schema, VectorStore
from aiovec.backend import Metric

Matrix = np.ndarray[Any, np.dtype[np.float64]]

METRICS: tuple[Metric, ...] = ("cosine", "l2", "dot")
NOISE = 1e-12  # the rounding error of float64, relative to the vectors' size


@dataclass(frozen=True)
class Shape:
    """The kind of a table: its rows, and how it is searched."""

    kind: str
    metric: Metric
    dim: int
    count: int = 2_500
    partition: bool = False
    in_memory: bool = True
    mapped: bool = False

    def vectors(self, rng: Random, count: int) -> Any:
        made = hard_rows(self.kind, rng, count, self.dim, self.metric)
        return np.resize(made, (count, self.dim))  # cosine takes no vectors of zeros


# The tables with ``mapped`` are large enough for a scan file.
SHAPES = (
    Shape("near ties", "cosine", 800, count=1_200, partition=True, mapped=True),
    Shape("norms of all sizes", "l2", 17, in_memory=False),
)
FURTHER_SHAPES = (
    Shape("constant", "dot", 8, count=3_500, partition=True),
    Shape("gaussian", "l2", 65, count=1_800, partition=True, mapped=True),
    Shape("gaussian", "l2", 4096, count=1_800, partition=True, mapped=True),
    Shape("last bits", "cosine", 48, mapped=True),
    Shape("clustered", "l2", 3, partition=True),
    Shape("near ties", "l2", 33, count=1_200, partition=True, in_memory=False),
    Shape("duplicates", "cosine", 8, count=4_500, in_memory=False),
    Shape("spiked", "dot", 1_024, count=2_000, mapped=True),
    Shape("components of all sizes", "dot", 700, mapped=True),
)

WHERES: dict[str | None, Callable[[dict[str, Any]], bool]] = {
    None: lambda row: True,
    "owner = 'b'": lambda row: row["owner"] == "b",
    "owner IS NULL OR n >= 1500": lambda row: row["owner"] is None or row["n"] >= 1500,
    "NOT owner = 'a' AND n < 800": lambda row: row["owner"] in ("b", "c") and row["n"] < 800,
    "n < 40": lambda row: row["n"] < 40,
    "payload.kind = 'x'": lambda row: row.get("kind") == "x",
}


@dataclass
class Twin:
    """A store's table, and its rows as plain Python."""

    store: VectorStore
    shape: Shape
    rng: Random
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def made(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        rng = self.rng
        vectors = self.shape.vectors(rng, len(ids))
        rows = []
        for id, vector in zip(ids, vectors, strict=True):
            owner = (None, "a", "b", "c")[int(rng.integers(0, 4))]
            if (existing := self.rows.get(f"r{id:05}")) is not None:
                owner = existing["owner"]  # an upsert moves no row to another partition
            row = {
                "id": f"r{id:05}", "embedding": vector if rng.random() > 0.02 else None,
                "n": int(rng.integers(0, 2_000)),
                "owner": owner,
            }  # fmt: skip
            if rng.random() < 0.3:
                row["kind"] = str(rng.choice(["x", "y"]))
            rows.append(row)
        return rows

    async def upsert(self, ids: Sequence[int]) -> None:
        rows = self.made(ids)
        await self.store.upsert("t", rows)
        self.rows |= {row["id"]: row for row in rows}

    async def change(self) -> None:
        """Write with every kind of call."""
        ids = sorted(self.rows)
        gone = [str(id) for id in self.rng.choice(ids, min(50, len(ids) // 2), replace=False)]
        await self.store.delete("t", gone)
        for id in gone:
            del self.rows[id]
        await self.upsert([*range(100, 160), *range(90_000, 90_040)])
        await self.store.update("t", {"owner": "b"}, where="n < 200")
        for row in self.rows.values():
            if row["n"] < 200:
                row["owner"] = "b"
        chosen = [str(id) for id in self.rng.choice(sorted(self.rows), 20, replace=False)]
        new = self.shape.vectors(self.rng, len(chosen))
        await self.store.set_vectors("t", chosen, new)
        for id, vector in zip(chosen, new, strict=True):
            self.rows[id] = {**self.rows[id], "embedding": vector}
        await self.store.delete("t", where="n >= 1990")
        self.rows = {id: row for id, row in self.rows.items() if row["n"] < 1990}

    def query(self) -> Any:
        rows = [row["embedding"] for row in self.rows.values() if row["embedding"] is not None]
        return hard_query(self.rng, np.array(rows), self.shape.metric)


class Truth:
    """The distances of all current rows."""

    def __init__(self, twin: Twin, query: Any) -> None:
        present = [row for row in twin.rows.values() if row["embedding"] is not None]
        self._rows = {row["id"]: row for row in present}
        point = query.astype(np.float64)
        rows = np.array([row["embedding"] for row in present], np.float64)
        distances, sizes = _distances(rows, point, twin.shape.metric)
        self._distances = dict(zip(self._rows, distances.tolist(), strict=True))
        self._sizes = dict(zip(self._rows, sizes.tolist(), strict=True))

    def check(self, hits: Sequence[Hit], where: str | None, limit: int) -> None:
        """Check that the hits are the nearest in order, with true distances; equal ones by id."""
        selects = WHERES[where]
        nearest = sorted(
            (self._distances[id], id) for id, row in self._rows.items() if selects(row)
        )[:limit]
        assert len(hits) == len({hit.id for hit in hits}) == len(nearest)
        for hit, (distance, id) in zip(hits, nearest, strict=True):
            slack = NOISE * (self._sizes[hit.id] + self._sizes[id])
            assert selects(self._rows[hit.id]), f"{hit.id} is not selected"
            assert abs(self._distances[hit.id] - distance) <= slack, f"{hit.id} instead of {id}"
            assert abs((hit.distance or 0.0) - self._distances[hit.id]) <= slack, hit.id
            for name in hit.fields.keys() & {"n", "owner", "kind"}:
                assert hit[name] == self._rows[hit.id].get(name), f"{name} of {hit.id}"
        order = [(hit.distance, hit.id) for hit in hits]
        assert order == sorted(order)


def _distances(rows: Matrix, point: Matrix, metric: Metric) -> tuple[Matrix, Matrix]:
    """Return the distances, and the size of the numbers behind each."""
    lengths = np.linalg.norm(rows, axis=1)
    length = np.linalg.norm(point)
    if metric == "l2":
        return np.linalg.norm(rows - point, axis=1), lengths + length
    products = (rows * point).sum(axis=1)
    if metric == "dot":
        return -products, lengths * length
    return 1 - products / lengths / length, np.ones(len(rows))


async def compare(twin: Twin, store: VectorStore, disk: VectorStore) -> None:
    """Make many searches concurrently, some in one call, and one from the disk."""
    query = twin.query()
    searches = [(where, limit) for where in WHERES for limit in (10, 300)]
    searches += [(None, 1), (None, 4_100), ("owner = 'b'", 4_100), (None, 20_000)]
    matches = await asyncio.gather(
        *(
            store.search(
                "t", query, limit=limit, where=where, select=["n", "owner"] if limit < 300 else []
            )
            for where, limit in searches
        )
    )
    together = [query, *(twin.query() for _ in range(3))]
    many = await store.search_many("t", together, limit=5, select=[])
    truth = Truth(twin, query)
    for (where, limit), hits in zip(searches, matches, strict=True):
        with case((where, limit)):
            truth.check(hits, where, limit)
    for point, hits in zip(together, many, strict=True):
        Truth(twin, point).check(hits, None, 5)
    near = [
        [(hit.distance, hit.id) for hit in await each.search("t", query, limit=60)]
        for each in (store, disk)
    ]
    last = near[0][-1][0]  # of rows as far away as the last one, any may be returned
    assert [hit for hit in near[0] if hit[0] != last] == [hit for hit in near[1] if hit[0] != last]


async def same_as_brute_force(path: Path, shape: Shape, rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    schema = Schema(
        shape.dim,
        metric=shape.metric,
        vector_nullable=True,
        fields={"n": Field(int, index="btree"), "owner": Field(str, partition=shape.partition)},
    )
    memory = 2**30 if shape.in_memory else 16 * 2**10
    with memory_for_copies(memory):
        async with opened(path) as store, opened(path) as other, opened(path, scan="disk") as disk:
            await store.create_table("t", schema)
            twin = Twin(store, shape, rng)
            await twin.upsert(range(shape.count))
            with case("while the table is built"):
                await compare(twin, store, disk)
            if shape.in_memory:
                await ready(store, "t")
                assert bool((await store.stats("t")).details["scan_file"]) is shape.mapped
            else:
                assert (await store.stats("t")).details["searched"] == "from the file"
            for turn in range(rounds):
                with case(f"round {turn}"):
                    await compare(twin, store, disk)
                    await twin.change()
                    await compare(twin, (store, other)[turn % 2], disk)
            await store.optimize("t")
            with case("optimized"):
                await compare(twin, store, disk)


def name_of(shape: Shape) -> str:
    return f"{shape.kind}-{shape.metric}"


@pytest.mark.usefixtures("small_scan_files")
@pytest.mark.parametrize(
    "shape",
    [*SHAPES, *(pytest.param(shape, marks=pytest.mark.slow) for shape in FURTHER_SHAPES)],
    ids=name_of,
)
async def test_same_as_brute_force(tmp_path: Path, shape: Shape) -> None:
    await same_as_brute_force(tmp_path / "a.db", shape, rounds=1, seed=7)


@pytest.mark.soak(minutes=15)
@pytest.mark.timeout(7200)
async def test_same_as_brute_force_at_length(tmp_path: Path, seeds: Seeds) -> None:
    for seed in seeds(100):
        rng = np.random.default_rng(seed)
        dim = int(rng.choice([1, 2, 7, 16, 63, 64, 65, 384, 1024]))
        count = int(rng.choice([10, 700, 6_000]))
        shape = Shape(
            str(rng.choice([*KINDS])), METRICS[rng.integers(3)], dim, count,
            partition=bool(rng.random() < 0.4), in_memory=bool(count == 10 or rng.random() < 0.6),
        )  # fmt: skip
        with case(f"{seed}: {shape}"):
            await same_as_brute_force(tmp_path / f"{seed}.db", shape, rounds=4, seed=seed)
