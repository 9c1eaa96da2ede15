"""Calls of any size: none holds the event loop, whatever it takes in or gives back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case
from tests.harness.loop_time import own_work
from tests.harness.values import DIM

from aiovec import F, Schema, VectorStore
from aiovec.errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError

_ROWS = 19_000  # a store may index larger tables by itself, which takes the most of such a test
_SCHEMA = Schema(DIM, fields={"name": str, "year": int, "tags": list[str]})


@own_work()
def _columns(count: int) -> dict[str, Any]:
    drawn = np.random.default_rng(7).normal(size=(count, DIM)).astype(np.float32)
    return {
        "id": [f"r{n:05}" for n in range(count)],
        "embedding": drawn,
        "name": [f"name {n}" for n in range(count)],
        "year": list(range(count)),
        "tags": [["a", "b"]] * count,
        "extra": [{"n": n} for n in range(count)],
    }


@own_work()
def _large_fields() -> dict[str, dict[str, Any]]:
    megabyte = "long text " * 100_000
    return {
        "text": {"name": megabyte, "more": megabyte},
        "items": {"items": list(range(200_000))},
        "nested": {"nested": {"deep": [{"n": n, "items": [n, [n]]} for n in range(20_000)]}},
        "tags": {"tags": [f"täg {n}" for n in range(60_000)]},
    }


class LargeCallsContract(ContractBase):
    """B2. What fails these tests is the fixture ``loop_time``, and what it says is where."""

    async def test_many_rows_in_and_out(self, store: VectorStore) -> None:
        columns = _columns(_ROWS)
        ids: list[str] = columns["id"]
        query = columns["embedding"][0]
        with own_work():
            rows = [{name: column[n] for name, column in columns.items()} for n in range(_ROWS)]
        await store.create_table("notes", _SCHEMA)
        with case("insert"):
            assert await store.insert("notes", columns) == _ROWS
        with case("upsert"):
            assert await store.upsert("notes", rows) == _ROWS
        with case("get"):
            assert len(await store.get("notes", ids)) == _ROWS
        with case("find"):
            assert len(await store.find("notes", limit=_ROWS)) == _ROWS
        with case("search"):
            assert len(await store.search("notes", query, limit=_ROWS)) == _ROWS
        with case("diversity"):
            assert len(await store.search("notes", query, limit=500, diversity=0.5)) == 500
        with case("rerank"):
            hits = await store.search("notes", query, limit=2_000, rerank=lambda hits: hits[::-1])
            assert len(hits) == 2_000
        with case("export"):
            taken = [b.num_rows async for b in store.export("notes", batch_size=_ROWS)]
            assert sum(taken) == _ROWS
        with case("a filter of ids"):
            assert await store.count("notes", F.id.in_(ids)) == _ROWS
        with case("a filter of numbers"):
            assert await store.count("notes", F.year.not_in(range(10_000))) == _ROWS - 10_000
        with case("a filter as text"):
            with own_work():
                text = f"id IN ({', '.join(map(repr, ids))})"
            assert len(await store.search("notes", query, where=text)) == 10
        with case("update"):
            assert await store.update("notes", {"year": 1, "more": 2}, ids=ids) == _ROWS
        with case("delete"):
            assert await store.delete("notes", iter(ids)) == _ROWS
        with own_work():  # freeing what the test made takes its time too
            del columns, ids, rows, hits, text

    @pytest.mark.parametrize(
        ("form", "count"),
        [
            pytest.param("an array", 2_000, id="an array"),
            pytest.param("lists", 1_000, id="lists"),
        ],
    )
    async def test_many_queries(self, store: VectorStore, form: str, count: int) -> None:
        """Results come as they do whatever the form, so only one of them has very many."""
        columns = _columns(1_000)
        await store.create_table("notes", _SCHEMA)
        await store.insert("notes", columns)
        with own_work():
            queries: Any = np.random.default_rng(3).normal(size=(count, DIM))
            if form == "lists":
                queries = queries.tolist()
        found = await store.search_many("notes", queries, limit=3)
        with own_work():
            assert list(map(len, found)) == [3] * count
            del columns, found, queries

    async def test_rows_that_nobody_else_holds(self, store: VectorStore) -> None:
        """They are freed by the store, and freeing 16,000 lists of numbers takes its time."""
        await store.create_table("notes", Schema(128))
        rows: list[dict[str, Any]] = []

        async def at_once() -> AsyncIterator[Any]:
            while rows:
                yield rows.pop()

        iterable: Any
        for insert, iterable in {
            store.insert: (rows.pop() for _ in range(16_000)), store.upsert: at_once(),
        }.items():  # fmt: skip
            with own_work():
                numbers = [float(n) for n in range(1, 129)]
                rows += ({"id": str(n), "embedding": [*numbers]} for n in range(16_000))
                for row in rows:
                    row["embedding"] = [number + 0.5 for number in row["embedding"]]
            with case(insert.__name__):
                assert await insert("notes", iterable) == 16_000

    async def test_large_rows(self, store: VectorStore) -> None:
        """One row may be as much work as many."""
        await store.create_table("notes", _SCHEMA)
        large = _large_fields()
        for name, fields in large.items():
            with case(name):
                row = {"id": name, "embedding": [1.0] * DIM, **fields}
                assert await store.upsert("notes", [row]) == 1
                assert await store.update("notes", fields, ids=name) == 1
                (record,) = await store.get("notes", name)
                (hit,) = await store.search("notes", [1.0] * DIM, where=F.id == name)
                with own_work():
                    for key, value in fields.items():
                        assert record[key] == hit[key] == value
                    del record, hit, row
        with own_work():
            del large, fields

    async def test_few_rows_of_many_columns(self, store: VectorStore) -> None:
        """Each column takes its time, however few rows there are."""
        fields = {f"f{n:03}": [1.0, 2.5] for n in range(100)}
        keys = {f"k{n:03}": 1.5 for n in range(600)}
        await store.create_table("notes", Schema(DIM, fields=dict.fromkeys(fields, list[float])))
        row = {"id": "a", "embedding": [1.0] * DIM, **fields}
        wide = {"id": "b", "embedding": [1.0] * DIM, **keys}
        calls: dict[str, Callable[[], Awaitable[int]]] = {
            "insert": lambda: store.insert("notes", [row]),
            "insert of columns": lambda: store.insert(
                "notes", {name: [value] for name, value in {**row, "id": "c"}.items()}
            ),
            "upsert": lambda: store.upsert("notes", [row]),
            "upsert of a payload": lambda: store.upsert("notes", [wide]),
            "update": lambda: store.update("notes", fields, ids="a"),
            "update of a payload": lambda: store.update("notes", keys, ids="b"),
        }
        for name, call in calls.items():
            with case(name):
                assert await call() == 1
        for record in await store.get("notes", ["a", "b"]):
            assert len(record.fields) >= 100
        assert len(await store.search("notes", [1.0] * DIM)) == 3

    async def test_large_arguments(self, notes: VectorStore) -> None:
        """Far too large arguments are refused, or taken, without holding the loop either."""
        with own_work():
            vectors: dict[str, Any] = {
                "numbers": [0.0] * 3_000_000,
                "an array": np.zeros(30_000_000),
                "flags": np.ones(30_000_000, dtype=bool),
                "a matrix": np.zeros((1, 30_000_000)),
                "texts": ["a"] * 1_000_000,
                "nested": [[0.0] * 500_000] * DIM,
                "a range": range(3_000_000),
                "a text": "long text " * 1_000_000,
            }
        for name, vector in vectors.items():
            with case(name), pytest.raises((DimensionMismatchError, InvalidVectorError)):
                await notes.search("notes", vector)
        with own_work():
            vectors.clear()
            names = [f"payload.k{n}" for n in range(10_000)]
            path = ".".join(["payload", *map(str, range(10_000))])
            too_many = [f"payload.k{n}" for n in range(1_000_000)]
            too_long = ".".join(["payload", *map(str, range(1_000_000))])
            wide: dict[str, Any] = {f"k{n}": [n] for n in range(100_000)}
            wide.update(id=["wide"], embedding=[[1.0] * DIM])
        for chosen in (names, [path]):
            with case(len(chosen)):
                assert len(await notes.find("notes", select=chosen)) == 10
                assert len(await notes.search("notes", [1.0] * DIM, select=chosen)) == 10
        for select in (too_many, iter(too_many), [too_long], [*names, "payload.more"], [path] * 2):
            with case("too many"):
                with pytest.raises(InvalidArgumentError, match="at most 10,000 names"):
                    await notes.find("notes", select=select)
                with pytest.raises(InvalidArgumentError, match="at most 10,000 names"):
                    await notes.search("notes", [1.0] * DIM, select=select)
        with case("columns"):
            assert await notes.upsert("notes", wide) == 1
        with own_work():
            del names, path, too_many, too_long, chosen, select, wide
