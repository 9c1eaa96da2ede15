"""Rows and vectors in every form that a user may hold them in."""

from __future__ import annotations

import array
import asyncio
import re
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import case, filled
from tests.harness.oracle import arrow_table
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    ids_of,
    in_forms,
    rows_of_every_kind,
    small_rows,
    vectors,
)

import aiovec
from aiovec import F, Field, Record, Schema, VectorStore, new_id
from aiovec.errors import (
    DuplicateIdError,
    FilterError,
    InvalidArgumentError,
    InvalidRowError,
    InvalidVectorError,
)

Rows = list[dict[str, Any]]


class _Stream:
    """Any other library's table: it offers Arrow's C stream and nothing else."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class _OneStream(_Stream):
    """The same, of which only the first stream has rows, as with a query's result."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        table, self._table = self._table, self._table.slice(0, 0)
        return table.__arrow_c_stream__(requested_schema)


class _Tensor:
    """A tensor that its library does not give to NumPy, such as one with a gradient."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Any:
        raise self._error

    def __len__(self) -> int:
        return DIM


class _Cursor:
    """An iterable that is no iterator and can be read only once, as a database's cursor."""

    def __init__(self, rows: Rows) -> None:
        self._left = iter(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._left


async def _listed(count: Awaitable[int]) -> list[None]:
    return [None] * await count


async def _all_of(batches: AsyncIterator[pa.RecordBatch]) -> list[Any]:
    return [row async for batch in batches for row in batch.to_pylist()]


def _records(rows: Rows) -> list[Record]:
    return [
        Record(
            row["id"],
            row["embedding"],
            {k: v for k, v in row.items() if k not in ("id", "embedding")},
        )
        for row in rows
    ]


async def _one_by_one(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


def _lazily(items: Any) -> Iterator[Any]:
    yield from items


def _columns(rows: Rows) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _ndarrays(rows: Rows) -> dict[str, Any]:
    return _columns(rows) | {"embedding": np.stack([row["embedding"] for row in rows])}


def _arrow(rows: Rows) -> pa.Table:
    return arrow_table(rows, EVERY_KIND)


def _batches(rows: Rows) -> list[pa.RecordBatch]:
    batches: list[pa.RecordBatch] = _arrow(rows).to_batches(max_chunksize=7)
    return batches


FORMS: dict[str, Callable[[Rows], Any]] = {
    "list of dicts": lambda rows: rows,
    "tuple of dicts": tuple,
    "other mappings": lambda rows: [
        MappingProxyType(row) if n % 2 else OrderedDict(row) for n, row in enumerate(rows)
    ],
    "iterator of dicts": _lazily,
    "async iterator of dicts": _one_by_one,
    "records": _records,
    "iterator of records": lambda rows: _lazily(_records(rows)),
    "async iterator of records": lambda rows: _one_by_one(_records(rows)),
    "dicts of vectors' dict view": lambda rows: {row["id"]: row for row in rows}.values(),
    "columns": _columns,
    "columns with an array": _ndarrays,
    "columns with Arrow arrays": lambda rows: (
        _columns(rows)
        | {name: _arrow(rows).column(name) for name in ("id", "embedding", *EVERY_KIND.fields)}
    ),
    "table": _arrow,
    "batch": lambda rows: _arrow(rows).combine_chunks().to_batches()[0],
    "table in chunks": lambda rows: pa.Table.from_batches(_batches(rows)),
    "table slice": lambda rows: pa.concat_tables([_arrow(rows), _arrow(rows)]).slice(
        len(rows) // 2, len(rows)
    ),
    "list of batches": _batches,
    "list of tables": lambda rows: [pa.Table.from_batches([b]) for b in _batches(rows)],
    "iterator of batches": lambda rows: _lazily(_batches(rows)),
    "async iterator of batches": lambda rows: _one_by_one(_batches(rows)),
    "reader": lambda rows: _arrow(rows).to_reader(max_chunksize=7),
    "Arrow's C stream": lambda rows: _Stream(_arrow(rows)),
}

VECTORS: dict[str, Callable[[Any], Any]] = {
    "list": lambda v: v.tolist(),
    "tuple": lambda v: tuple(v.tolist()),
    "list of NumPy numbers": list,
    "float32": lambda v: v,
    "float64": lambda v: v.astype(np.float64),
    "float16": lambda v: v.astype(np.float16),
    "int32": lambda v: v.astype(np.int32),
    "uint8": lambda v: np.abs(v).astype(np.uint8),
    "big-endian": lambda v: v.astype(">f4"),
    "every second": lambda v: np.repeat(v, 2)[::2],
    "backwards": lambda v: v[::-1],
    "read-only": lambda v: np.frombuffer(v.tobytes(), dtype=np.float32),
    "array": lambda v: array.array("f", v.tolist()),
    "array of doubles": lambda v: array.array("d", v.tolist()),
    "memoryview": lambda v: memoryview(array.array("f", v.tolist())),
    "range": lambda v: range(1, 1 + len(v)),
    "Arrow array": lambda v: pa.array(v),
}


@dataclass
class _NoId:
    embedding: list[float]
    year: int


async def test_lists_of_numbers(store: VectorStore) -> None:
    schema = Schema(DIM, fields={"nums": list[int], "weights": list[float]})
    await store.create_table("notes", schema)
    nums = [[1, -(2**63)], [], None, [2**63 - 1] * 3, [0], [2**53 + 1]]
    weights = [[0.1, 1e300], None, [], [float("inf"), float("-inf")], [-0.0, 3.0], [5e-324]]
    ids, embedding = [f"r{n}" for n in range(6)], [[1.0] * DIM] * 6
    data = {"id": ids, "embedding": embedding}

    def each(make: Callable[[Any], Any]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {"nums": nums, "weights": weights}
        made = {k: [None if v is None else make(v) for v in some] for k, some in columns.items()}
        return {**data, **made}

    forms = in_forms(each(list)) | {"tuples": each(tuple), "arrays": each(np.array)}
    forms["arrays"]["nums"][1] = np.array([], np.int64)
    for name, rows in forms.items():
        with case(name):
            await store.upsert("notes", rows)
            found = await store.find("notes")
            assert [record["nums"] for record in found] == nums
            assert [record["weights"] for record in found] == weights
            assert all(type(w) is float for record in found for w in record["weights"] or ())
    # Whole numbers that came as floats, narrow numbers, and those of one length.
    await store.upsert("notes", pa.table({
        "id": ["r0", "r1"], "embedding": embedding[:2],
        "nums": pa.array([[1.0, 2.0], None], pa.list_(pa.float64())),
        "weights": pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
    }))  # fmt: skip
    first, second = await store.get("notes", ["r0", "r1"])
    assert (first["nums"], first["weights"], second["nums"]) == ([1, 2], [1.0, 2.0], None)
    assert second["weights"] == [3.0, 4.0]
    await store.update("notes", {"nums": (7, 8), "weights": np.array([1, -0.0])}, ids="r0")
    await store.update("notes", {"nums": [], "weights": None}, ids="r1")
    first, second = await store.get("notes", ["r0", "r1"])
    assert (first["nums"], first["weights"]) == ([7, 8], [1.0, 0.0])
    assert (second["nums"], second["weights"]) == ([], None)
    assert await store.count("notes", (F.weights == [1, 0]) & F.nums.contains(8)) == 1
    batches = [batch async for batch in store.export("notes")]
    assert batches[0].schema.field("nums").type == pa.list_(pa.int64())
    assert batches[0].schema.field("weights").type == pa.list_(pa.float64())
    exported = pa.Table.from_batches(batches)
    await store.create_table("copy", schema)
    await store.insert("copy", exported)
    assert await store.find("copy") == await store.find("notes")


async def test_rows_in_every_form(store: VectorStore) -> None:
    rows = rows_of_every_kind(40)
    ids = [row["id"] for row in rows]
    await store.create_table("notes", EVERY_KIND)
    for number, (name, form) in enumerate(FORMS.items()):
        method = store.upsert if number % 2 else store.insert
        with case(name):
            assert await method("notes", form(rows)) == 40
            assert await store.count("notes") == 40
            assert_same_rows(await store.get("notes", ids), rows, EVERY_KIND)
            assert await store.delete("notes", ids) == 40


async def test_vectors_in_every_form(store: VectorStore) -> None:
    base = np.array([3, 1, 4, 2], dtype=np.float32)
    await store.create_table("notes", Schema(DIM, metric="l2"))
    for name, form in VECTORS.items():
        with case(name):
            rows = [{"id": "x", "embedding": form(base)}, {"id": "y", "embedding": form(-base)}]
            await store.insert("notes", rows)
            (record,) = await store.get("notes", "x")
            assert record.vector is not None
            assert record.vector.tolist() == np.asarray(form(base), dtype=np.float32).tolist()
            hits = await store.search("notes", form(base), limit=1)
            assert [(hit.id, hit.distance) for hit in hits] == [("x", 0.0)]
            many = await store.search_many("notes", [form(base), form(-base)], limit=1)
            assert [hits[0].distance for hits in many] == [0.0, 0.0]
            assert await store.set_vectors("notes", iter("y"), [form(base)]) == 1
            hits = await store.search("notes", form(base), limit=2)
            assert [(hit.id, hit.distance) for hit in hits] == [("x", 0.0), ("y", 0.0)]
            assert await store.delete("notes", ["x", "y"]) == 2
    # Many vectors at once.
    pair = np.stack([base, -base])
    matrices: dict[str, Any] = {
        "an array": pair, "float64": pair.astype(float), "lists": pair.tolist(),
        "a generator": (row for row in pair), "Arrow lists": pa.array(pair.tolist()),
        "Arrow": pa.FixedSizeListArray.from_arrays(pa.array(pair.reshape(-1)), DIM),
    }  # fmt: skip
    for name, matrix in matrices.items():
        with case(name):
            await store.upsert("notes", {"id": ["x", "y"], "embedding": np.ones((2, DIM))})
            assert await store.set_vectors("notes", ["x", "y"], matrix) == 2
            stored = [record.vector for record in await store.get("notes", ["x", "y"])]
            assert np.array_equal(np.stack(stored), pair)  # type: ignore[arg-type]  # it has them
    assert await store.set_vectors("notes", "x", [[5.0, 0, 0, 0]]) == 1


async def test_what_can_be_read_once_is_read_once(tmp_path: Path) -> None:
    """A7: a call that begins anew, since the table was altered elsewhere, loses nothing."""
    rows = rows_of_every_kind(6)
    ids = [row["id"] for row in rows]
    queries = [row["embedding"] for row in rows]
    place = tmp_path / "store.db"
    async with aiovec.connect(place) as store, aiovec.connect(place) as other:
        await store.create_table("notes", EVERY_KIND)
        forms: dict[str, Callable[[Rows], Any]] = {
            **{name: form for name, form in FORMS.items() if "iterator" in name},
            "reader": FORMS["reader"],
            "a cursor": _Cursor,
            "a stream that ends": lambda rows: _OneStream(_arrow(rows)),
            "columns of iterators": lambda rows: {
                name: iter(column) for name, column in _columns(rows).items()
            },
            "an iterator of streams": lambda rows: iter([_OneStream(_arrow(rows))]),
        }
        for number, (name, form) in enumerate(forms.items()):
            with case(name):
                await store.delete("notes", iter(ids))
                await other.add_field("notes", f"new{number}", Field(str))
                assert await store.insert("notes", form(rows)) == 6
                assert await store.count("notes") == 6
        reads: dict[str, Callable[[], Awaitable[Any]]] = {
            "search_many": lambda: store.search_many("notes", iter(queries), limit=1),
            "search_many's select": lambda: store.search_many(
                "notes", queries, limit=1, select=iter(["name"])
            ),
            "search's select": lambda: store.search("notes", queries[0], select=iter(["name"])),
            "find's select": lambda: store.find("notes", select=iter(["name"])),
            "an IN": lambda: store.find("notes", F.id.in_(iter(ids))),
            "get": lambda: store.get("notes", iter(ids)),
            "update": lambda: _listed(store.update("notes", {"year": 7}, ids=iter(ids))),
            "export's select": lambda: _all_of(store.export("notes", select=iter(["name"]))),
            "delete": lambda: _listed(store.delete("notes", iter(ids))),
        }
        for number, (name, read) in enumerate(reads.items()):
            with case(name):
                await other.add_field("notes", f"more{number}", Field(str))
                found = await read()
                assert len(found) == 6
                if name == "find's select":
                    assert set(found[0].fields) == {"name"}


async def test_arrow_columns_of_near_types(store: VectorStore) -> None:
    await store.create_table("notes", EVERY_KIND)
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    table = pa.table(
        {
            "year": pa.array([7, None], pa.uint8()),
            "tags": pa.array([["a"], []], pa.large_list(pa.large_string())),
            "extra": pa.array([{"x": 1}, None]),
            "id": pa.array(["a", "b"], pa.large_string()),
            "score": pa.array([1, 2], pa.int16()),
            "seen": pa.array([moment, None], pa.timestamp("s", tz="Europe/Berlin")),
            "name": pa.array(["n", "n"]).dictionary_encode(),
            "live": pa.nulls(2),
            "embedding": pa.array([[1.0, 2, 3, 4]] * 2, pa.list_(pa.float64())),
            "uid": pa.array([bytes(range(16)), None], pa.uuid()),
        }
    )
    await store.insert("notes", table)
    first, second = await store.get("notes", ["a", "b"])
    assert first.fields == {
        "name": "n", "year": 7, "score": 1.0, "live": None, "tags": ["a"],
        "seen": moment, "extra": {"x": 1}, "uid": str(uuid.UUID(bytes=bytes(range(16)))),
    }  # fmt: skip
    assert second.fields == {
        "name": "n", "year": None, "score": 2.0, "live": None, "tags": [], "seen": None,
        "extra": None, "uid": None,
    }  # fmt: skip
    ids = pa.array([bytes(range(16))], pa.uuid())
    await store.insert("notes", pa.table({"id": ids, "embedding": [[1.0, 2, 3, 4]]}))
    assert [r.id for r in await store.get("notes", uuid.UUID(bytes=bytes(range(16))))]


async def test_what_came_out_goes_in_again(store: VectorStore) -> None:
    rows = rows_of_every_kind(25)
    await filled(store, EVERY_KIND, rows, name="one")
    ids = [row["id"] for row in rows]
    for name in ("two", "three", "four", "five"):
        await store.create_table(name, EVERY_KIND)
    records = await store.get("one", ids)
    await store.insert("two", records)
    await store.insert("three", [record.to_dict() for record in records])
    await store.insert("four", store.export("one", batch_size=4))
    await store.insert("five", [batch async for batch in store.export("one", batch_size=4)])
    for name in ("two", "three", "four", "five"):
        assert_same_rows(await store.get(name, ids), rows, EVERY_KIND)


async def test_the_callers_rows_are_left_alone(store: VectorStore) -> None:
    rows = rows_of_every_kind(5)
    copies = [dict(row) for row in rows]
    matrix = vectors(3)
    columns = {"id": ["x", "y", "z"], "embedding": matrix}
    await filled(store, EVERY_KIND, rows)
    await store.insert("notes", columns)
    matrix[:] = 0  # what was stored does not change with the caller's array
    for row, copy in zip(rows, copies, strict=True):
        assert all(row[name] is copy[name] for name in copy)
        assert len(row) == len(copy)
    found = await store.get("notes", ["x", "y", "z"])
    assert ids_of(found) == ["x", "y", "z"]
    for record, vector in zip(found, vectors(3), strict=True):
        assert record.vector is not None
        assert np.array_equal(record.vector, vector)


async def test_masked_vectors_are_refused(notes: VectorStore) -> None:
    masked = np.ma.masked_array(
        np.ones((2, DIM)), mask=[[False] * DIM, [False, True, False, False]]
    )
    forms: list[Any] = [
        {"id": ["x", "y"], "embedding": masked},
        [{"id": id, "embedding": masked[n]} for n, id in enumerate("xy")],
    ]
    for rows in forms:
        with pytest.raises(InvalidVectorError, match="masked") as caught:
            await notes.insert("notes", rows)
        assert caught.value.row == 1
    with pytest.raises(InvalidVectorError, match="masked"):
        await notes.search("notes", masked[1])
    assert await notes.insert("notes", {"id": ["x"], "embedding": masked[:1]}) == 1


async def test_numbers_of_numpy_are_numbers_and_durations_are_not(store: VectorStore) -> None:
    schema = Schema(DIM, fields={"n": int, "x": float, "whole": list[int]})
    await filled(store, schema, [{"id": "a", "embedding": [1.0] * DIM, "n": 5}])
    for unit in ("ns", "us", "h", "D"):
        for value in (np.timedelta64(3, unit), np.datetime64("2024-01-01", unit)):
            with case((unit, value)), pytest.raises(FilterError):
                await store.delete("notes", where=F.n < value)  # type: ignore[operator]  # bad
    row = {"id": np.int8(7), "embedding": [1.0] * DIM, "n": np.uint64(3), "x": np.int16(4)}
    await store.insert("notes", [row | {"whole": [np.longlong(5)], "key": np.uintp(6)}])
    (found,) = await store.find("notes", F.n == np.int32(3))
    assert (found.id, found.fields) == ("7", {"n": 3, "x": 4.0, "whole": [5], "key": 6})
    assert await store.count("notes") == 2


async def test_vectors_that_numpy_cannot_read(notes: VectorStore) -> None:
    """The error has the row, and the library's own error with its text, which names the cure.

    A tensor with a gradient raised RuntimeError, one of bfloat16 TypeError.
    """
    released = memoryview(array.array("f", [1.0] * DIM))
    released.release()
    wrong: list[tuple[Any, str]] = [
        (_Tensor(RuntimeError("use detach()")), r"detach\(\)"),
        (_Tensor(TypeError("use cpu()")), r"cpu\(\)"),
        (_Tensor(KeyError("use float()")), r"float\(\)"),
        ([_Tensor(RuntimeError("use detach()"))] * DIM, r"detach\(\)"),
        (released, "not a flat sequence"),
    ]
    good, ids = [1.0] * DIM, ["r0000", "r0001"]
    for vector, words in wrong:
        pair = [good, vector]
        rows = [{"id": id, "embedding": v} for id, v in zip(ids, pair, strict=True)]
        calls: dict[str, Awaitable[Any]] = {
            "mappings": notes.insert("notes", rows),
            "columns": notes.upsert("notes", {"id": ids, "embedding": pair}),
            "set_vectors": notes.set_vectors("notes", ids, pair),
            "search_many": notes.search_many("notes", pair),
            "search": notes.search("notes", vector),
        }
        found = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, error in zip(calls, found, strict=True):
            with case((name, words)):
                assert isinstance(error, InvalidVectorError)
                assert re.search(words, error.reason)
                assert (error.__cause__ is None) == (vector is released)
                assert error.row == (None if name == "search" else 1)
                assert error.id == (None if name.startswith("search") else "r0001")


async def test_forms_of_rows_without_vectors(store: VectorStore) -> None:
    schema = Schema(DIM, vector_nullable=True, fields={"name": str, "year": int})
    await store.create_table("notes", schema)
    whole = [1.0, 2, 3, 4]
    column = pa.array([whole, None], pa.list_(pa.float32(), DIM))
    forms = in_forms({"id": ["a", "b"], "embedding": [whole, None]}) | {
        "no key": [{"id": "a", "embedding": whole}, {"id": "b"}],
        "Arrow of one length": pa.table({"id": ["a", "b"], "embedding": column}),
    }
    for name, rows in forms.items():
        with case(name):
            assert await store.upsert("notes", rows) == 2
            one, two = await store.get("notes", ["a", "b"])
            assert one.vector is not None
            assert one.vector.tolist() == whole
            assert two.vector is None
    for rows in ({"id": ["c"]}, pa.table({"id": ["c"]}), [{"id": "c"}]):
        with case(rows):
            await store.upsert("notes", rows)
            assert [r.vector for r in await store.get("notes", "c")] == [None]
    with pytest.raises(InvalidVectorError):
        await store.insert("notes", [{"id": "d", "embedding": [float("nan")] * DIM}])
    with pytest.raises(InvalidVectorError):
        await store.set_vectors("notes", ["a"], [None])  # type: ignore[list-item]  # bad
    assert Schema.from_json(schema.to_json()) == schema
    assert (await store.schema("notes")).vector_nullable
    assert Schema.from_arrow(schema.to_arrow()) == schema


async def test_ids_of_numbers_and_uuids(store: VectorStore) -> None:
    await store.create_table("notes", SMALL)
    one = uuid.UUID("0190A8F0-0000-7000-8000-0000000000AB")
    vector = [1.0, 2, 3, 4]
    ids: list[Any] = [7, -3, one, np.int64(12), 2**70, "text"]
    texts = ["7", "-3", str(one), "12", str(2**70), "text"]
    await store.insert("notes", [{"id": id, "embedding": vector} for id in ids])
    assert sorted(ids_of(await store.find("notes"))) == sorted(texts)
    assert ids_of(await store.get("notes", ids)) == texts
    assert ids_of(await store.get("notes", 7)) == ["7"]
    assert ids_of(await store.get("notes", one)) == [str(one)]
    assert await store.exists("notes", np.array([7, 12, 13])) == {"7", "12"}
    assert await store.exists("notes", pa.array([7, 13])) == {"7"}
    assert await store.set_vectors("notes", [7, one], [vector, vector]) == 2
    assert await store.update("notes", {"year": 1}, ids=[one, 7]) == 2
    assert ids_of(await store.find("notes", F.id == 7)) == ["7"]
    assert ids_of(await store.find("notes", F.id == one)) == [str(one)]
    assert ids_of(await store.find("notes", "id = 12")) == ["12"]
    assert len(await store.find("notes", F.id.in_([7, one, "text", 99]))) == 3
    assert await store.count("notes", F.id != 7) == 5
    assert await store.delete("notes", [7, one, 99]) == 2
    bad: list[Any] = [True, np.True_, 1.0, None, b"1", [1], 10**6_000]
    for id in bad:
        with case(id), pytest.raises(InvalidRowError):
            await store.insert("notes", [{"id": id, "embedding": vector}])
        with case(id), pytest.raises(InvalidArgumentError):
            await store.delete("notes", [id])
    # The same id, given in two forms.
    with pytest.raises(DuplicateIdError):
        await store.insert("notes", [{"id": id, "embedding": vector} for id in (5, "5")])
    forms = in_forms({"id": [20, 21], "embedding": [vector, vector]})
    small = pa.array([20, 21], pa.uint8())
    for name, column in {"an array": np.array([20, 21]), "small Arrow": small}.items():
        forms[name] = {"id": column, "embedding": [vector, vector]}
    for name, rows in forms.items():
        with case(name):
            assert await store.upsert("notes", rows) == 2
            assert await store.exists("notes", [20, 21]) == {"20", "21"}
    with pytest.raises(InvalidRowError):
        await store.insert(
            "notes", pa.table({"id": pa.array([1, None]), "embedding": [vector, vector]})
        )


async def test_ids_are_made_where_rows_have_none(store: VectorStore) -> None:
    await store.create_table("notes", SMALL)
    vector = [1.0, 2, 3, 4]
    columns: dict[str, list[Any]] = {"embedding": [vector] * 5, "year": list(range(5))}
    forms = in_forms(columns) | {
        "an array": {**columns, "embedding": np.array([vector] * 5)},
        "dataclasses": [_NoId(vector, n) for n in range(5)],
        "batches": iter(pa.table(columns).to_batches(2)),
    }
    for name, rows in forms.items():
        with case(name):
            before = new_id()
            assert await store.insert("notes", rows) == 5
            found = await store.find("notes", F.id > before)
            # In the order of the rows, as UUIDs of version 7.
            assert [record["year"] for record in found] == list(range(5))
            assert {uuid.UUID(record.id).version for record in found} == {7}
            assert new_id() > found[-1].id
    mixed: list[dict[str, Any]] = [{"id": "own", "embedding": vector}, {"embedding": vector}]
    assert await store.upsert("notes", mixed) == 2
    assert await store.exists("notes", "own") == {"own"}
    assert await store.count("notes") == 32
    many = [{"embedding": vector} for _ in range(300)]
    counts = await asyncio.gather(*(store.insert("notes", many) for _ in range(2)))
    assert (counts, await store.count("notes")) == ([300] * 2, 632)
    with pytest.raises(InvalidVectorError):
        await store.insert("notes", [{"year": 1}])
    for empty in ({}, {"year": [1]}, pa.table({"year": [1]})):
        with case(empty), pytest.raises(InvalidRowError):
            await store.insert("notes", empty)


async def test_payloads_of_other_libraries(store: VectorStore) -> None:
    """Readers of YAML and XML give dicts and lists of classes of their own."""
    made = [datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)]
    payload: dict[str, Any] = {
        "ordered": OrderedDict(b=1, a=OrderedDict(c=[OrderedDict(d=2)])),
        "default": defaultdict(list, a=[1]),
        "count": Counter("aab"),
        "made": made,
    }
    await store.create_table("notes", SMALL)
    row = {"id": "a", "embedding": [1.0, 2.0, 3.0, 4.0]}
    await store.insert("notes", [{**row, **payload}, OrderedDict(row, id="b")])
    await store.update("notes", payload, ids="b")
    first, second = await store.get("notes", ["a", "b"])
    for record in (first, second):
        assert record["ordered"] == {"b": 1, "a": {"c": [{"d": 2}]}}
        assert (record["default"], record["count"]) == ({"a": [1]}, {"a": 2, "b": 1})
    one: Any
    for one in (np.int64(1), np.uint8(1)):
        made_then = F["payload.made"].contains(made[0])
        found = await store.find("notes", where=made_then, limit=one, offset=one)
        assert ids_of(found) == ["b"]
        assert ids_of(await store.search("notes", [1.0, 2.0, 3.0, 4.0], limit=one)) == ["a"]
    for one in (np.bool_(True), np.float64(1)):
        with pytest.raises(InvalidArgumentError, match="a whole number"):
            await store.find("notes", limit=one)


async def test_an_iterable_is_read_to_its_end_before_the_write(notes: VectorStore) -> None:
    seen = []

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for row in small_rows(300, start=100):
            if row["year"] % 50 == 0:
                seen.append(await notes.count("notes"))
            yield row

    assert await notes.insert("notes", rows()) == 300
    assert seen == [10] * len(seen)
    assert await notes.count("notes") == 310


async def test_an_iterable_that_fails_writes_nothing(notes: VectorStore) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from small_rows(300, start=100)
        raise OSError("the source broke")

    async def batches() -> AsyncIterator[dict[str, Any]]:
        for row in rows():
            yield row

    for given in (rows(), batches()):
        with pytest.raises(OSError, match="the source broke"):
            await notes.insert("notes", given)
    assert await notes.count("notes") == 10
