"""Rows that another program removed from one of a table's two tables: never a wrong hit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.copies.support import BY_CODES, answered, ready
from tests.sqlite.support import all_changes, open_store, sql, whole_table

from aiovec import CorruptStoreError, Field, Hit, Schema, Tuning, VectorStore
from aiovec.backend import Metric

DIM = 16
TENANTS = "abcd"
# More than the file path reads one by one for a filter.
ROWS = 2_400

# How a search is answered: from memory by vectors, codes or bits, from the file, and by a prefix.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "memory": ({}, {}),
    "memory by codes": ({"limits": BY_CODES}, {}),
    "memory by prefix": ({"limits": BY_CODES}, {"tuning": Tuning(dims=8)}),
    "bits": ({"scan": "bit"}, {}),
    "disk": ({"scan": "disk"}, {}),
    "disk by prefix": ({"scan": "disk"}, {"tuning": Tuning(dims=8)}),
}


def vectors() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((ROWS, DIM), dtype=np.float32)


async def filled(path: Path, *, metric: Metric = "cosine", partition: bool = False) -> None:
    store = await open_store(path)
    fields = {"tenant": Field(str, partition=partition), "n": int}
    await store.create_table("t", Schema(DIM, metric=metric, fields=fields, quantized="bit"))
    rows = [
        {"id": f"r{n:04}", "embedding": vector, "tenant": TENANTS[n % 4], "n": n}
        for n, vector in enumerate(vectors())
    ]
    await store.insert("t", rows)
    await store.close()


def remove(path: Path, table: str, *numbers: int) -> None:
    with sql(path) as db:
        for number in numbers:
            (rowid,) = db.execute(
                'SELECT _rowid FROM "t.rows" WHERE id = ?', (f"r{number:04}",)
            ).fetchone()
            key = "_rowid" if table == "rows" else "rowid"
            db.execute(f'DELETE FROM "t.{table}" WHERE {key} = ?', (rowid,))


def check(hits: list[Hit], query: Any, tenant: str | None, metric: Metric) -> None:
    """Each hit is its own row with its own distance, of the tenant that was asked for."""
    every = vectors().astype(np.float64)
    for hit in hits:
        number = int(hit.id[1:])
        assert hit["n"] == number
        assert hit["tenant"] == TENANTS[number % 4]
        assert tenant in (None, hit["tenant"])
        row, point = every[number], np.asarray(query, np.float64)
        wanted = {
            "cosine": 1 - row @ point / np.linalg.norm(row) / np.linalg.norm(point),
            "l2": np.linalg.norm(row - point),
            "dot": -row @ point,
        }[metric]
        assert hit.distance == pytest.approx(wanted, abs=1e-5)


async def outcome(search: Awaitable[Any]) -> Any:
    """What was found, or None where the damage was told."""
    try:
        return await search
    except CorruptStoreError as exc:
        assert "'t'" in exc.reason  # noqa: PT017 - either outcome is right
        assert "1" in exc.reason  # noqa: PT017
        return None


# Of a table in partitions the row has gone, of one without its vector; the rest is long.
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("table", "metric", "partition"),
    [
        ("rows", "cosine", True),
        ("vec", "dot", False),
        pytest.param("rows", "dot", False, marks=pytest.mark.soak),
        pytest.param("vec", "cosine", True, marks=pytest.mark.soak),
        pytest.param("rows", "l2", False, marks=pytest.mark.soak),
        pytest.param("vec", "l2", False, marks=pytest.mark.soak),
    ],
)
async def test_searches_never_tell_another_row(
    tmp_path: Path, table: str, way: str, metric: Metric, partition: bool
) -> None:
    """A3: alone, many at once for several tenants, in one call, and with a limit beyond the rows.

    A search that would find the removed row is told as damage.
    """
    path = tmp_path / "a.db"
    await filled(path, metric=metric, partition=partition)
    settings, options = WAYS[way]
    store = await open_store(path, **settings)
    loaded = "disk" not in way
    removed = 5  # of tenant "b"
    queries = vectors()[removed - 1 : removed + 1]
    try:
        if loaded:
            await ready(store, "t")
            for query in queries:  # its vector is kept, where it was read
                await store.search("t", query, **options)
        remove(path, table, removed)
        for limit in (1, 7, ROWS):
            wanted: list[tuple[Any, dict[str, Any]]] = []
            for number, query in enumerate(queries, removed - 1):
                for tenant in (None, "a", "b"):
                    where = None if tenant is None else f"tenant = '{tenant}'"
                    wanted.append((query, {"where": where, "limit": limit, **options}))
                    hits = await outcome(store.search("t", query, **wanted[-1][1]))
                    if hits is not None:
                        check(hits, query, tenant, metric)
                        of_tenant = ROWS if tenant is None else ROWS // 4
                        gone = int(table == "rows" and tenant in (None, "b"))
                        assert len(hits) >= min(limit, of_tenant - gone)
                    # By dot product another row may be the best. And a filter no longer selects
                    # a row that has lost its fields.
                    finds = (
                        number == removed
                        and metric != "dot"
                        and way in ("memory", "memory by codes", "disk")
                    )
                    if finds and (tenant is None or (tenant == "b" and table == "vec")):
                        assert hits is None, where
            many = await asyncio.gather(
                *(outcome(store.search("t", query, **one)) for query, one in wanted)
            )
            for (query, one), hits in zip(wanted, many, strict=True):
                tenant = one["where"] and one["where"][-2]
                check(hits or [], query, tenant, metric)
            lists = await outcome(store.search_many("t", queries, limit=limit, **options))
            for query, hits in zip(queries, lists or [], strict=lists is not None):
                check(hits, query, None, metric)
        if loaded:
            assert answered(store, "t")
    finally:
        await store.close()


@pytest.mark.parametrize("scan", ["disk", "auto"])
@pytest.mark.parametrize("table", ["rows", "vec"])
async def test_a_store_that_is_opened_afterwards(tmp_path: Path, table: str, scan: str) -> None:
    """A3: also where the row was gone before the table was loaded."""
    path = tmp_path / "a.db"
    await filled(path)
    remove(path, table, 5, 9)
    store = await open_store(path, scan=scan)
    try:
        for _ in range(3):
            with pytest.raises(CorruptStoreError, match=r"'t'.* 2 "):
                await store.search("t", vectors()[5], limit=3)
            await asyncio.sleep(0.05)
        # A filter of few rows reads these alone.
        if table == "rows":
            hits = await store.search("t", vectors()[5], limit=ROWS, where="n < 20")
            assert len(hits) == 18
        else:
            with pytest.raises(CorruptStoreError, match="'t'"):
                await store.search("t", vectors()[5], limit=3, where="n < 20")
    finally:
        await store.close()


@pytest.mark.parametrize("rows", ["few", "many"])
async def test_other_reads_tell_a_lost_vector(tmp_path: Path, rows: str) -> None:
    """A3: get, find, export and the change feed."""
    path = tmp_path / "a.db"
    await filled(path)
    remove(path, "vec", 5)
    store = await open_store(path, scan="disk")
    numbers = range(3, 9) if rows == "few" else range(1_000)
    ids = [f"r{n:04}" for n in numbers]
    reads: list[Callable[[VectorStore], Awaitable[Any]]] = [
        lambda store: store.get("t", ids),
        lambda store: store.find("t", limit=len(ids), select=["embedding"]),
        lambda store: whole_table(store, "t"),
        lambda store: all_changes(store, "t"),
    ]
    try:
        for read in reads:
            with pytest.raises(CorruptStoreError, match=r"'t'.*1"):
                await read(store)
        assert len(await store.find("t", limit=len(ids))) == len(ids)  # wants no vector
        remove(path, "rows", 6)
        (one,) = await store.get("t", ["r0006", "r0007"])
        assert (one.id, one["n"]) == ("r0007", 7)
        assert one.vector.tobytes() == vectors()[7].tobytes()
    finally:
        await store.close()


@pytest.mark.slow
@pytest.mark.parametrize("scan", ["disk", "auto"])
async def test_as_many_hits_as_the_filter_has_while_rows_are_deleted(
    tmp_path: Path, scan: str
) -> None:
    """A3: each search sees one moment, so it finds all rows that its filter selects then."""
    path = tmp_path / "a.db"
    await filled(path)
    store = await open_store(path, scan=scan)
    kept = {"a": ROWS // 4 - 60, "b": ROWS // 4}
    try:
        if scan == "auto":
            await ready(store, "t")
        done = asyncio.Event()

        async def delete() -> None:
            for n in range(0, 240, 4):  # of tenant "a"
                await store.delete("t", f"r{n:04}")
            done.set()

        async def search(tenant: str) -> int:
            searches, before = 0, ROWS // 4
            while not done.is_set():
                hits = await store.search(
                    "t", vectors()[searches % ROWS], limit=ROWS, where=f"tenant = '{tenant}'"
                )
                check(hits[:20], vectors()[searches % ROWS], tenant, "cosine")
                assert kept[tenant] <= len(hits) <= before
                before = len(hits)
                searches += 1
            return searches

        counts = await asyncio.gather(delete(), *map(search, "aabb"))
        assert all(count for count in counts[1:] if count is not None)
    finally:
        await store.close()
