"""Rows in every form that a user may hold them in."""

from __future__ import annotations

import array
import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import ContractBase, case
from tests.harness.oracle import arrow_table
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    ids_of,
    rows_of_every_kind,
    small_rows,
    vectors,
)

from aiovec import F, Field, Record, Schema, VectorStore
from aiovec.errors import (
    DuplicateIdError,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
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


class RowFormsContract(ContractBase):
    """Each accepted form of rows and of vectors stores the same."""

    async def test_lists_of_numbers(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"nums": list[int], "weights": list[float]})
        await store.create_table("notes", schema)
        nums = [[1, -(2**63)], [], None, [2**63 - 1] * 3, [0], [2**53 + 1]]
        weights = [[0.1, 1e300], None, [], [float("inf"), float("-inf")], [-0.0, 3.0], [5e-324]]
        ids, embedding = [f"r{n}" for n in range(6)], [[1.0] * DIM] * 6
        forms: dict[str, Any] = {
            "lists": {"nums": nums, "weights": weights},
            "tuples": {
                "nums": [None if n is None else tuple(n) for n in nums],
                "weights": [None if w is None else tuple(w) for w in weights],
            },
            "arrays": {
                "nums": [None if n is None else np.array(n, np.int64) for n in nums],
                "weights": [None if w is None else np.array(w, np.float64) for w in weights],
            },
            "Arrow": {
                "nums": pa.array(nums, pa.large_list(pa.int64())),
                "weights": pa.array(weights, pa.list_(pa.float64())),
            },
        }
        for name, columns in forms.items():
            with case(name):
                data = {"id": ids, "embedding": embedding, **columns}
                await store.upsert("notes", pa.table(data) if name == "Arrow" else data)
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

    async def test_lists_of_what_is_no_number(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"nums": list[int], "weights": list[float]})
        await store.create_table("notes", schema)
        nan = float("nan")
        wrong: tuple[tuple[str, Any], ...] = (
            ("nums", [1.5]), ("nums", ["1"]), ("nums", [None]), ("nums", [True]), ("nums", [2**63]),
            ("nums", 1), ("nums", "1"), ("nums", [[1]]), ("nums", {1}), ("nums", np.ones((1, 1))),
            ("nums", np.array(1)), ("nums", np.array([True])), ("weights", [nan]),
            ("weights", np.array([1.0, nan])), ("weights", ["1"]), ("weights", [None, 1.0]),
            ("weights", [10**400]), ("weights", [True]), ("weights", 0.5),
        )  # fmt: skip
        good = {"id": "a", "embedding": [1.0] * DIM}
        for name, value in wrong:
            with case((name, value)):
                with pytest.raises(InvalidRowError) as caught:
                    await store.insert("notes", [good, {**good, "id": "b", name: value}])
                assert (caught.value.field, caught.value.id) == (name, "b")
                with pytest.raises(InvalidRowError):
                    await store.update("notes", {name: value}, where="TRUE")
        columns = (
            ("nums", pa.array([[1], [1.5]], pa.list_(pa.float64()))),
            ("nums", pa.array([["1"], ["1"]])),
            ("weights", pa.array([[1.0], [nan]])), ("weights", pa.array([[1.0], [None]])),
            ("nums", pa.array([[1], [2**64 - 1]], pa.list_(pa.uint64()))),
            ("nums", pa.array([[True], [True]])), ("nums", pa.array([1, 2])),
        )  # fmt: skip
        for name, column in columns:
            with case((name, column)), pytest.raises(InvalidRowError) as caught:
                await store.insert("notes", pa.table({
                    "id": ["a", "b"], "embedding": [[1.0] * DIM] * 2, name: column,
                }))  # fmt: skip
            assert caught.value.field == name
        assert await store.count("notes") == 0

    @pytest.mark.parametrize("write", ["insert", "upsert"])
    async def test_rows_in_every_form(self, store: VectorStore, write: str) -> None:
        rows = rows_of_every_kind(40)
        ids = [row["id"] for row in rows]
        await store.create_table("notes", EVERY_KIND)
        method = store.insert if write == "insert" else store.upsert
        for name, form in FORMS.items():
            with case(name):
                assert await method("notes", form(rows)) == 40
                assert await store.count("notes") == 40
                assert_same_rows(await store.get("notes", ids), rows, EVERY_KIND)
                assert await store.delete("notes", ids) == 40

    async def test_vectors_in_every_form(self, store: VectorStore) -> None:
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
                assert await store.delete("notes", ["x", "y"]) == 2

    async def test_lone_surrogates_are_refused(self, notes: VectorStore) -> None:
        """A6: such text has no UTF-8. It raised UnicodeEncodeError, or was told as damage."""
        bad = "x\ud800"
        row = {"id": "new", "embedding": [1.0] * DIM}
        before = await notes.find("notes")
        rows: dict[str, Any] = {
            "an id": [{**row, "id": bad}],
            "a field": [{**row, "name": bad}],
            "a payload's text": [{**row, "p": bad}],
            "a payload's key": [{**row, bad: 1}],
            "an item": [{**row, "p": [[bad]]}],
            "a key within": [{**row, "p": {"q": {bad: 1}}}],
            "columns": {**{name: [value] for name, value in row.items()}, "p": [{"q": bad}]},
            "JSON": pa.table({"id": ["new"], "embedding": [[1.0] * DIM],
                              "payload": ['{"a":"\\ud800"}']}),
        }  # fmt: skip
        for name, wrong in rows.items():
            with case(name), pytest.raises(InvalidRowError):
                await notes.upsert("notes", wrong)
        for fields in ({"name": bad}, {"p": bad}, {bad: 1}, {"p": [bad]}):
            with case(fields), pytest.raises(InvalidRowError):
                await notes.update("notes", fields, where="TRUE")
        filters: tuple[Callable[[], Any], ...] = (
            lambda: F.name == bad,
            lambda: F.name.in_(["a", bad]),
            lambda: F.name.like(f"{bad}%"),
            lambda: F.name.startswith(bad),
            lambda: F[f"payload.{bad}"] == 1,
            lambda: F.payload[bad] == 1,
            lambda: F["payload.p"].contains(bad),
            lambda: f"name = '{bad}'",
            lambda: f"name LIKE '{bad}_x'",
            lambda: f"name IN ('a', '{bad}')",
            lambda: f'payload."{bad}" = 1',
            lambda: f'payload."{bad}" IS NULL',
            lambda: f"payload.p CONTAINS '{bad}'",
        )
        for number, where in enumerate(filters):
            for method in (notes.find, notes.count, notes.delete_where):
                with case(number), pytest.raises(FilterError):
                    await method("notes", where())
        arguments: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: notes.get("notes", bad),
            lambda: notes.delete("notes", ["a", bad]),
            lambda: notes.update("notes", {"name": "x"}, ids=[bad]),
            lambda: notes.find("notes", order_by=bad),
            lambda: notes.find("notes", select=[bad]),
            lambda: notes.find("notes", select=[f"payload.{bad}"]),
            lambda: notes.add_field("notes", bad, Field(str)),
            lambda: notes.find(bad),
            lambda: notes.create_table(bad),
            lambda: notes.drop_table(bad, missing_ok=True),
        )
        for number, call in enumerate(arguments):
            with case(number), pytest.raises((InvalidArgumentError, InvalidNameError)):
                await call()
        with pytest.raises(InvalidArgumentError):
            Schema(DIM, model=bad)
        assert await notes.find("notes") == before

    async def test_what_can_be_read_once_is_read_once(self, tmp_path: Path) -> None:
        """A7: a call that begins anew, since the table was altered elsewhere, loses nothing."""
        self.need_persistence()
        rows = rows_of_every_kind(6)
        ids = [row["id"] for row in rows]
        queries = [row["embedding"] for row in rows]
        async with await self.open(tmp_path) as store, await self.open(tmp_path) as other:
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

    async def test_arrow_columns_of_near_types(self, store: VectorStore) -> None:
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
            "seen": moment, "extra": {"x": 1}, "uid": str(UUID(bytes=bytes(range(16)))),
        }  # fmt: skip
        assert second.fields == {
            "name": "n", "year": None, "score": 2.0, "live": None, "tags": [], "seen": None,
            "extra": None, "uid": None,
        }  # fmt: skip
        ids = pa.array([bytes(range(16))], pa.uuid())
        await store.insert("notes", pa.table({"id": ids, "embedding": [[1.0, 2, 3, 4]]}))
        assert [r.id for r in await store.get("notes", UUID(bytes=bytes(range(16))))]

    async def test_arrow_columns_that_do_not_fit(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        good = {"id": pa.array(["a"]), "embedding": pa.array([[1.0, 2, 3, 4]])}
        for name, column in {
            "name": pa.array([1]),
            "year": pa.array([1.5]),
            "score": pa.array(["1"]),
            "live": pa.array([1]),
            "seen": pa.array([0], pa.timestamp("us")),
            "tags": pa.array([[1]]),
            "payload": pa.array(["[1]"]),
            "id": pa.array([1.5]),
        }.items():
            with pytest.raises(InvalidRowError) as caught:
                await store.insert("notes", pa.table({**good, name: column}))
            assert caught.value.field == name
        payloads: dict[str, tuple[dict[str, Any], str]] = {
            "twice": ({"payload": ['{"a": 1, "a": 2}']}, "payload"),
            "twice within": ({"payload": ['{"a": [{"b": 1, "b": 2}]}']}, "payload"),
            "in a column too": ({"payload": ['{"k": 1}'], "k": [2]}, "k"),
        }
        for what, (columns, field) in payloads.items():
            with case(what), pytest.raises(InvalidRowError) as caught:
                await store.insert("notes", pa.table({**good, **columns}))
            assert (caught.value.field, caught.value.id) == (field, "a")
        assert await store.count("notes") == 0

    async def test_datetimes_that_python_cannot_hold(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        kind = pa.timestamp("us", tz="UTC")
        for far in (2**62, -(2**62)):
            columns = {
                "id": ["a", "b"], "embedding": vectors(2), "seen": pa.array([None, far], kind),
            }  # fmt: skip
            with pytest.raises(InvalidRowError) as caught:
                await store.insert("notes", columns)
            assert (caught.value.row, caught.value.id, caught.value.field) == (1, "b", "seen")
        assert await store.count("notes") == 0

    async def test_moments_finer_than_a_microsecond_are_cut(self, store: VectorStore) -> None:
        """In every form alike, and before 1970 too."""
        await self.table(store, Schema(DIM, fields={"at": datetime}), [])
        for text in ("1960-01-01T00:00:00.123456789", "2024-01-01T00:00:00.999999999"):
            column = pa.array([np.datetime64(text, "ns")]).cast(pa.timestamp("ns", "UTC"))
            columns = {"embedding": pa.array([[1.0] * DIM]), "at": column, "key": column}
            await store.upsert("notes", pa.table({"id": ["arrow"], **columns}))
            row = {"id": "row", "embedding": [1.0] * DIM, "at": f"{text}Z", "key": f"{text[:26]}Z"}
            await store.upsert("notes", [row])
            arrow, plain = await store.get("notes", ["arrow", "row"])
            assert arrow.fields == plain.fields
            assert str(arrow.fields["at"]).startswith(text[:26].replace("T", " "))

    async def test_datetimes_of_other_zones_and_as_text(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        moment = rows_of_every_kind(4)[3]["seen"]
        zoned = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
        rows = [
            {"id": "a", "embedding": [1] * DIM, "seen": zoned},
            {"id": "b", "embedding": [1] * DIM, "seen": zoned.isoformat()},
        ]
        await store.insert("notes", rows)
        found = await store.find("notes")
        assert [record["seen"] for record in found] == [moment, moment]
        assert all(record["seen"].utcoffset() == timedelta(0) for record in found)

    async def test_numpy_scalars_are_values(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        row = {
            "id": "a", "embedding": [1] * DIM, "year": np.int32(5), "score": np.float32(0.5),
            "live": np.bool_(True),
        }  # fmt: skip
        await store.insert("notes", [row])
        row |= {"year": 5, "score": 0.5, "live": True}
        assert_same_rows(await store.get("notes", "a"), [row], EVERY_KIND)

    async def test_what_came_out_goes_in_again(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(25)
        await self.table(store, EVERY_KIND, rows, name="one")
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

    async def test_what_is_no_rows_is_refused(self, notes: VectorStore) -> None:
        good = small_rows(1, start=50)[0]
        wrong: Any
        for wrong in (
            None,
            7,
            "rows",
            b"rows",
            good,
            Record("x", vectors(1)[0]),
            [good, "x"],
            [good, None],
            [_arrow(rows_of_every_kind(2)), good],
            {"id": ["x"]},
            {"id": ["x", "y"], "embedding": vectors(1)},
            {"id": ["x"], "embedding": vectors(1), "name": ["a", "b"]},
            {"id": "x", "embedding": vectors(1)},
            pa.table({"id": ["x"]}),
            pa.table({"id": [1.5], "embedding": [[1.0] * DIM]}),
        ):
            with pytest.raises(InvalidRowError):
                await notes.insert("notes", wrong)
        assert await notes.count("notes") == 10

    async def test_duplicates_across_batches_are_found(self, notes: VectorStore) -> None:
        table = arrow_table(small_rows(4, start=50), SMALL)
        with pytest.raises(DuplicateIdError) as caught:
            await notes.insert("notes", [table, table.slice(2, 1)])
        assert caught.value.ids == ["r0052"]
        assert await notes.upsert("notes", [table, table.slice(2, 1)]) == 4

    async def test_the_callers_rows_are_left_alone(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(5)
        copies = [dict(row) for row in rows]
        matrix = vectors(3)
        columns = {"id": ["x", "y", "z"], "embedding": matrix}
        await self.table(store, EVERY_KIND, rows)
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

    async def test_masked_vectors_are_refused(self, notes: VectorStore) -> None:
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

    async def test_durations_and_times_of_numpy_are_no_numbers(self, store: VectorStore) -> None:
        """They count as integers for NumPy, or become one: of nanoseconds, say."""
        schema = Schema(DIM, fields={"n": int, "x": float, "whole": list[int]})
        await self.table(store, schema, [{"id": "a", "embedding": [1.0] * DIM, "n": 5}])
        for unit in ("ns", "us", "h", "D"):
            span: Any = np.timedelta64(3, unit)
            moment: Any = np.datetime64("2024-01-01", unit)
            for name, value in (("n", span), ("x", span), ("whole", [span]), ("key", span)):
                row: dict[str, Any] = {"id": "b", "embedding": [1.0] * DIM, name: value}
                with case((unit, name)), pytest.raises(InvalidRowError) as caught:
                    await store.insert("notes", [row])
                assert caught.value.field == name
            with case((unit, "id")), pytest.raises(InvalidRowError):
                await store.insert("notes", [{"id": span, "embedding": [1.0] * DIM}])
            with case((unit, "update")), pytest.raises(InvalidRowError):
                await store.update("notes", {"n": span}, ids="a")
            for value in (span, moment):
                with case((unit, value)), pytest.raises(FilterError):
                    await store.delete_where("notes", F.n < value)
        row = {"id": np.int8(7), "embedding": [1.0] * DIM, "n": np.uint64(3), "x": np.int16(4)}
        await store.insert("notes", [row | {"whole": [np.longlong(5)], "key": np.uintp(6)}])
        (found,) = await store.find("notes", F.n == np.int32(3))
        assert (found.id, found.fields) == ("7", {"n": 3, "x": 4.0, "whole": [5], "key": 6})
        assert await store.count("notes") == 2

    async def test_vectors_that_numpy_cannot_read(self, notes: VectorStore) -> None:
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
