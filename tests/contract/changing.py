"""Changing parts of rows, and inserts that meet rows of the same ids."""

from __future__ import annotations

import asyncio
import enum
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import ContractBase, case, open_store
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

from aiovec import REMOVE, F, Field, Schema, VectorStore, new_id
from aiovec._input.columns import MOST_KEYS
from aiovec.backend import ChangeFeed, Moves, PayloadPatch
from aiovec.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    InvalidVectorError,
    ModelMismatchError,
    TableNotFoundError,
)

SCHEMAS = {
    "plain": EVERY_KIND,
    "l2": Schema(DIM, metric="l2", fields={"name": str, "year": int}),
    "parted": Schema(DIM, fields={"name": Field(str, partition=True), "year": int}),
    "bits": Schema(8, fields={"name": str, "year": int}, quantized="bit"),
    "model": Schema(DIM, model="m", payload=False, fields={"name": str, "year": int}),
}


class _Color(enum.Enum):
    RED = "red"


class _Level(enum.IntEnum):
    HIGH = 3


class _Odd(enum.Enum):
    LIST = frozenset((1,))
    SURROGATE = "\ud800"


@dataclass
class _NoId:
    embedding: list[float]
    year: int


def _rows(schema: Schema, count: int) -> list[dict[str, Any]]:
    if schema is EVERY_KIND:
        return rows_of_every_kind(count)
    return [
        {"id": f"r{n:04}", "embedding": vector, "name": f"n{n % 3}", "year": n}
        for n, vector in enumerate(vectors(count, dim=schema.dim))
    ]


class ChangingContract(ContractBase):
    """``set_vectors`` and ``insert(on_conflict=…)``."""

    # New vectors

    @pytest.mark.parametrize("kind", list(SCHEMAS))
    async def test_set_vectors_keeps_fields(self, store: VectorStore, kind: str) -> None:
        schema = SCHEMAS[kind]
        rows = _rows(schema, 40)
        await self.table(store, schema, rows)
        await store.search("notes", rows[0]["embedding"])  # whatever is kept in memory is there
        new = vectors(40, dim=schema.dim, seed=9)
        ids = [row["id"] for row in rows]
        assert await store.set_vectors("notes", ids[::2], new[::2]) == 20
        for row, vector in zip(rows[::2], new[::2], strict=True):
            row["embedding"] = vector
        assert_same_rows(await store.get("notes", ids), rows, schema)
        for row in rows[:10]:  # five of each
            (hit,) = await store.search("notes", row["embedding"], limit=1)
            assert hit.id == row["id"]
            assert hit.distance == pytest.approx(0, abs=1e-4)
            where = f"name = '{row['name']}'" if schema is not EVERY_KIND else None
            found = await store.search("notes", row["embedding"], limit=1, where=where)
            assert ids_of(found) == [row["id"]]
        assert await store.count("notes") == 40

    async def test_set_vectors_takes_every_form(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(4))
        given = np.arange(1, 9, dtype=np.float32).reshape(2, DIM)
        forms: dict[str, Any] = {
            "an array": given,
            "float64": given.astype(float),
            "lists": given.tolist(),
            "a generator": (row for row in given),
            "Arrow": pa.FixedSizeListArray.from_arrays(pa.array(given.reshape(-1)), DIM),
            "Arrow lists": pa.array(given.tolist()),
        }
        for name, form in forms.items():
            with case(name):
                await store.set_vectors("notes", ["r0001", "r0002"], np.ones((2, DIM)))
                ids = iter(["r0001", "r0002"]) if name == "lists" else ["r0001", "r0002"]
                assert await store.set_vectors("notes", ids, form) == 2
                found = await store.get("notes", ["r0001", "r0002"])
                assert all(
                    np.array_equal(record.vector, vector)  # type: ignore[arg-type]  # it has one
                    for record, vector in zip(found, given, strict=True)
                )
        assert await store.set_vectors("notes", "r0003", [[5.0, 0, 0, 0]]) == 1

    async def test_set_vectors_of_absent_and_repeated_ids(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(4))
        new = vectors(5, seed=3)
        ids = ["r0001", "absent", "r0002", "r0001", ""]
        assert await store.set_vectors("notes", ids, new) == 2
        one, two = await store.get("notes", ["r0001", "r0002"])
        assert np.array_equal(one.vector, new[3])  # type: ignore[arg-type]  # it has one
        assert np.array_equal(two.vector, new[2])  # type: ignore[arg-type]  # it has one
        assert await store.count("notes") == 4
        assert await store.set_vectors("notes", [], []) == 0
        assert await store.set_vectors("notes", ["absent"], new[:1]) == 0

    async def test_set_vectors_checks_as_insert_does(self, store: VectorStore) -> None:
        schema = Schema(DIM, model="m", fields={"year": int})
        await self.table(store, schema, [{"id": "a", "embedding": [1.0, 0, 0, 0]}])
        good = [1.0, 2.0, 3.0, 4.0]
        bad: dict[str, tuple[Any, type[Exception]]] = {
            "too short": ([1.0], DimensionMismatchError),
            "NaN": ([float("nan"), 0, 0, 0], InvalidVectorError),
            "infinity": ([float("inf"), 0, 0, 0], InvalidVectorError),
            "zero": ([0.0] * DIM, InvalidVectorError),
            "missing": (None, InvalidVectorError),
            "text": ("abcd", InvalidVectorError),
            "flags": ([True, False, True, False], InvalidVectorError),
        }
        for name, (vector, error) in bad.items():
            with case(name), pytest.raises(error) as caught:
                await store.set_vectors("notes", ["x", "a"], [good, vector])
            assert (vars(caught.value)["row"], vars(caught.value)["id"]) == (1, "a")
        for given in ([good], [good] * 3, good, 7, "text", {"a": good}):
            with case(given), pytest.raises((InvalidArgumentError, InvalidVectorError)):
                await store.set_vectors("notes", ["x", "a"], given)  # type: ignore[arg-type]  # bad
        for ids in (None, b"ab", {"a": 1}, ["a", None], ["a", b"b"]):
            with case(ids), pytest.raises(InvalidArgumentError):
                await store.set_vectors("notes", ids, [good, good])  # type: ignore[arg-type]  # bad
        with pytest.raises(ModelMismatchError):
            await store.set_vectors("notes", ["a"], [good], model="other")
        with pytest.raises(TableNotFoundError):
            await store.set_vectors("absent", ["a"], [good])
        (record,) = await store.get("notes", "a")
        assert record.vector is not None
        assert record.vector.tolist() == [1.0, 0, 0, 0]
        assert await store.set_vectors("notes", ["a"], [good], model="m") == 1

    async def test_set_vectors_of_many_rows(self, store: VectorStore) -> None:
        rows = small_rows(3_000)
        await self.table(store, SMALL, rows)
        new = vectors(3_000, seed=21)
        assert await store.set_vectors("notes", [row["id"] for row in rows], new) == 3_000
        for n in (0, 1_499, 2_999):
            (hit,) = await store.search("notes", new[n], limit=1)
            assert (hit.id, hit["year"]) == (rows[n]["id"], rows[n]["year"])

    async def test_updates_beside_set_vectors(self, store: VectorStore) -> None:
        """Fields and vectors are changed by different callers; neither loses the other's."""
        await self.table(store, SMALL, small_rows(30))
        ids = [f"r{n:04}" for n in range(30)]
        new = vectors(30, seed=5)
        for turn in range(2):
            calls = [store.set_vectors("notes", [id], [new[n]]) for n, id in enumerate(ids)]
            calls += [store.update("notes", {"name": f"u{turn}"}, ids=[id]) for id in ids]
            assert await asyncio.gather(*calls) == [1] * 60
            found = await store.get("notes", ids)
            assert {record["name"] for record in found} == {f"u{turn}"}
            assert all(
                np.array_equal(record.vector, vector)  # type: ignore[arg-type]  # it has one
                for record, vector in zip(found, new, strict=True)
            )

    async def test_a_backend_updates_fields_and_vector_at_once(self, tmp_path: Path) -> None:
        for kind, schema in SCHEMAS.items():
            backend = self.make_backend(tmp_path / kind)
            async with await open_store(backend) as store:
                await self.table(store, schema, _rows(schema, 20))
                handle = await backend.open_table("notes")
                vector = np.arange(1, schema.dim + 1, dtype=np.float32)
                payload = {"kind": "new"} if schema.payload else {}
                for fields in ({"name": "moved", "year": 7}, {"name": "again"}, {}):
                    for extra in (payload, {}):
                        with case((kind, fields, extra)):
                            vector = vector + 1
                            ids = ["r0003", "r0005", "absent"]
                            count = await backend.update(
                                handle,
                                fields,
                                PayloadPatch.of(extra),
                                ids=ids,
                                where=None,
                                vector=vector,
                            )
                            assert count == 2
                            hits = await store.search("notes", vector, limit=2, include_vector=True)
                            assert set(ids_of(hits)) == {"r0003", "r0005"}
                            for hit in hits:
                                assert np.array_equal(hit.vector, vector)  # type: ignore[arg-type]  # asked for
                                assert hit.distance == pytest.approx(0, abs=1e-5)
                                assert fields.items() <= hit.fields.items()
                                assert extra.items() <= hit.fields.items()

    async def test_new_vectors_are_changes(self, tmp_path: Path) -> None:
        backend = self.make_backend(tmp_path)
        async with await open_store(backend) as store:
            if not isinstance(backend, ChangeFeed):
                pytest.skip("this backend has no change feed")
            await self.table(store, SMALL, small_rows(5))
            handle = await backend.open_table("notes")
            number = await backend.change_number(handle)
            await store.set_vectors("notes", ["r0001", "r0003", "no"], vectors(3, seed=4))
            page = await backend.changes(handle, number)
            assert sorted(page.upserted.column("id").to_pylist()) == ["r0001", "r0003"]
            number = page.number
            one = np.ones(DIM, np.float32)
            await backend.update(handle, {}, PayloadPatch(), ids=["r0002"], where=None, vector=one)
            page = await backend.changes(handle, number)
            assert page.upserted.column("id").to_pylist() == ["r0002"]
            assert page.upserted.column("embedding").to_pylist() == [[1.0] * DIM]

    async def test_a_migration_learns_of_the_new_writes(self, tmp_path: Path) -> None:
        self.need_persistence()
        backend = self.make_backend(tmp_path)
        async with await self.open(tmp_path) as store, await open_store(backend):
            self.need(store, "moves")
            assert isinstance(backend, Moves)
            await self.table(store, SMALL, small_rows(5))
            await backend.begin_move("r1")
            handle = await backend.open_table("notes")
            number = await backend.change_number(handle)
            new = vectors(2, seed=6)
            await store.set_vectors("notes", ["r0001", "r0003"], new)
            await store.insert("notes", small_rows(7), on_conflict="skip")
            await store.insert("notes", small_rows(1), on_conflict="replace")
            seen: dict[str, Any] = {}
            while True:
                page = await backend.changes(handle, number)
                for row in page.upserted.to_pylist():
                    seen[row["id"]] = row["embedding"]
                number = page.number
                if page.complete:
                    break
            assert {"r0000", "r0001", "r0003", "r0005", "r0006"} <= set(seen)
            assert [seen["r0001"], seen["r0003"]] == new.tolist()
            await backend.pause_writers("r1", 5.0)
            blocked = [
                asyncio.ensure_future(store.set_vectors("notes", ["r0002"], new[:1])),
                asyncio.ensure_future(store.insert("notes", small_rows(8), on_conflict="skip")),
            ]
            await asyncio.sleep(0.2)
            assert not any(call.done() for call in blocked)
            await backend.end_move("r1")
            assert await asyncio.gather(*blocked) == [1, 1]

    # Parts of the payload

    async def test_update_of_parts_of_the_payload(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        start = {"a": {"b": {"c": 1, "d": 2}, "e": None, "x.y": 1}, "flat": 5, "list": [1]}
        rows = [
            {"id": "1", "embedding": [1.0] * DIM, **start},
            {"id": "2", "embedding": [1.0] * DIM, "year": 1},
        ]
        await store.insert("notes", rows)

        async def payloads() -> list[dict[str, Any]]:
            found = await store.get("notes", ["1", "2"], include_vector=False)
            return [{k: r[k] for k in r.fields if k not in ("name", "year")} for r in found]

        steps: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
            (
                {"payload.a.b.c": 9, "name": "n"},
                {**start, "a": {"b": {"c": 9, "d": 2}, "e": None, "x.y": 1}},
                {"a": {"b": {"c": 9}}},
            ),
            (
                {"payload.a.b": REMOVE, "payload.flat": 6, 'payload.a."x.y"': {"z": [None]}},
                {**start, "a": {"e": None, "x.y": {"z": [None]}}, "flat": 6},
                {"a": {"x.y": {"z": [None]}}, "flat": 6},
            ),
            (
                {"payload.a.e.f": True, "list": REMOVE, "payload.absent.b": REMOVE},
                {"a": {"e": {"f": True}, "x.y": {"z": [None]}}, "flat": 6},
                {"a": {"e": {"f": True}, "x.y": {"z": [None]}}, "flat": 6},
            ),
            ({"payload.flat.b": REMOVE, "dotted.key": 1}, {"dotted.key": 1}, {"dotted.key": 1}),
            ({'payload."dotted.key"': REMOVE, "a": REMOVE, "flat": REMOVE}, {}, {}),
        ]
        for step, (change, one, two) in enumerate(steps):
            with case(change):
                assert await store.update("notes", change, ids=["1", "2"]) == 2
                if step == 3:
                    kept = {"a": {"e": {"f": True}, "x.y": {"z": [None]}}, "flat": 6}
                    one, two = {**kept, **one}, {**kept, **two}
                assert await payloads() == [one, two]
        assert await store.find("notes", "payload.a IS NOT NULL") == []
        (record,) = await store.get("notes", "1")
        assert record["name"] == "n"
        assert await store.count("notes", "year = 1") == 1

    async def test_the_empty_key_of_a_payload(self, store: VectorStore) -> None:
        """It is written ``payload.""`` wherever a key of the payload is named."""
        row = {"id": "1", "embedding": [1.0] * DIM, "": 1, "x": {"": 2, '"': 3}, '".': 4}
        await self.table(store, SMALL, [row, {"id": "2", "embedding": [1.0] * DIM}])
        for name, key, value in (
            ('payload.""', F.payload[""], 1),
            ('payload.x.""', F.payload["x"][""], 2),
            ('payload.x.""""', F.payload["x"]['"'], 3),
            ('payload."""."', F.payload['".'], 4),
        ):
            with case(name):
                assert await store.count("notes", key == value) == 1
                assert await store.count("notes", f"{name} = {value}") == 1
                assert await store.distinct("notes", name) == {value: 1}
                assert await store.bounds("notes", name) == (value, value)
                assert ids_of(await store.find("notes", order_by=name)) == ["1", "2"]
                hits = await store.search("notes", [1.0] * DIM, group_by=name)
                assert sorted(ids_of(hits)) == ["1", "2"]
        selected = ['payload.""', 'payload.x.""']
        (record,) = await store.get("notes", "1", select=selected)
        assert record.fields == {"": 1, "x": {"": 2}}
        changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"": 5, 'payload.x.""': REMOVE}, {"": 5, "x": {'"': 3}, '".': 4}),
            ({'payload.""': {"": [7]}, "x": REMOVE, 'payload."""."': REMOVE}, {"": {"": [7]}}),
            ({'payload."".""': 8}, {"": {"": 8}}),
            ({"": REMOVE}, {}),
        ]
        for change, fields in changes:
            with case(change):
                assert await store.update("notes", change, ids="1") == 1
                (record,) = await store.find("notes", "id = '1'", select=["payload"])
                assert record.fields == fields
        with pytest.raises(InvalidRowError):
            await store.update("notes", {"": 1, 'payload.""': 2}, ids="1")
        await store.update("notes", {"": 1}, ids="1")
        with pytest.raises(InvalidRowError) as caught:
            await store.update("notes", {'payload."".x': 2}, ids="1")
        assert caught.value.field == 'payload."".x'

    async def test_a_path_through_a_value_changes_nothing(self, store: VectorStore) -> None:
        rows = [{**row, "a": {"b": n}} for n, row in enumerate(small_rows(50))]
        rows[40]["a"] = 5
        await self.table(store, SMALL, rows)
        changes: list[dict[str, Any]] = [{"payload.a.c": 1}, {"name": "no", "payload.a.b": 7}]
        for change in changes:
            with pytest.raises(InvalidRowError) as caught:
                await store.update("notes", change, where="TRUE")
            assert caught.value.id == "r0040"
        ids = [row["id"] for row in rows]
        assert_same_rows(await store.get("notes", ids), rows, SMALL)

    async def test_a_path_as_deep_as_a_payload_and_a_deeper_one(self, store: VectorStore) -> None:
        """The deeper one was cut short: another key was set, or removed, than the call named."""
        await self.table(store, SMALL, [{"id": "1", "embedding": [1.0] * DIM, "b": 1}])
        assert await store.update("notes", {"payload" + ".a" * MOST_KEYS: 1}, where="TRUE") == 1
        (before,) = await store.find("notes")
        within: Any = before.fields
        for _ in range(MOST_KEYS):
            within = within["a"]
        assert within == 1
        for depth in (MOST_KEYS + 1, 5_000):
            for value in (2, None, REMOVE):
                name = "payload" + ".a" * depth
                with case((depth, value)), pytest.raises(InvalidRowError, match="deep") as caught:
                    await store.update("notes", {name: value, "b": 2}, where="TRUE")
                assert caught.value.field == name
                assert len(str(caught.value)) < 1_000
                assert await store.find("notes") == [before]
        assert (
            await store.update("notes", {"payload" + ".a" * MOST_KEYS: REMOVE}, where="TRUE") == 1
        )
        (record,) = await store.find("notes")
        assert str(record["a"]).count("a") == MOST_KEYS - 2

    async def test_bad_parts_of_the_payload(self, store: VectorStore) -> None:
        await self.table(store, SMALL, [{"id": "1", "embedding": [1.0] * DIM, "a": 1}])
        bad: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"payload.": 1}, InvalidNameError),
            ({"payload.a..b": 1}, InvalidNameError),
            ({'payload."a': 1}, InvalidNameError),
            ({'payload.a"b': 1}, InvalidNameError),
            ({"payload.\ud800": 1}, InvalidNameError),
            ({"payload.a": 1, "a": 2}, InvalidRowError),
            ({"payload.a.b": 1, "payload.a": 2}, InvalidRowError),
            ({"payload.a": REMOVE, "payload.a.b.c": 2}, InvalidRowError),
            ({"payload.year": 1}, InvalidRowError),
            ({"payload.id": "x"}, InvalidRowError),
            ({"payload.embedding": [1]}, InvalidRowError),
            ({"year": REMOVE}, InvalidRowError),
            ({"id": REMOVE}, InvalidRowError),
            ({"payload.a": {1}}, InvalidRowError),
            ({"payload.a": float("nan")}, InvalidRowError),
            ({"payload.a": {"b": REMOVE}}, InvalidRowError),
            ({"payload." + ".".join("a" * 150): 1}, InvalidRowError),
        ]
        for change, error in bad:
            with case(change), pytest.raises(error):
                await store.update("notes", change, where="TRUE")
        with pytest.raises(InvalidRowError):
            await store.insert("notes", [{"id": "2", "embedding": [1.0] * DIM, "a": REMOVE}])
        (record,) = await store.find("notes")
        assert record["a"] == 1
        await store.create_table("plain", Schema(DIM, payload=False, fields={"year": int}))
        for change in ({"payload.a": 1}, {"payload.a.b": REMOVE}, {"a": REMOVE}):
            with case(change), pytest.raises(InvalidRowError):
                await store.update("plain", change, where="TRUE")

    async def test_parts_of_many_payloads_at_once(self, store: VectorStore) -> None:
        """Calls that set different keys of the same payloads lose none of them."""
        await self.table(store, SMALL, small_rows(1_500))
        calls = [store.update("notes", {f"payload.a.k{n}": n}, where="TRUE") for n in range(5)]
        assert await asyncio.gather(*calls) == [1_500] * 5
        found = await store.find("notes", limit=2_000, select=["payload.a"])
        assert len(found) == 1_500
        assert all(record["a"] == {f"k{n}": n for n in range(5)} for record in found)

    # Ids and values that stand for others

    async def test_ids_of_numbers_and_uuids(self, store: VectorStore) -> None:
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
        forms: dict[str, Any] = {
            "columns": {"id": [20, 21], "embedding": [vector, vector]},
            "an array": {"id": np.array([20, 21]), "embedding": [vector, vector]},
            "Arrow": pa.table({"id": pa.array([20, 21]), "embedding": [vector, vector]}),
            "small Arrow": pa.table(
                {"id": pa.array([20, 21], pa.uint8()), "embedding": [vector, vector]}
            ),
            "UUIDs": {"id": [uuid.UUID(int=20), uuid.UUID(int=21)], "embedding": [vector, vector]},
        }
        for name, rows in forms.items():
            with case(name):
                assert await store.upsert("notes", rows) == 2
                assert await store.exists("notes", [20, 21]) == {"20", "21"}
        with pytest.raises(InvalidRowError):
            await store.insert(
                "notes", pa.table({"id": pa.array([1, None]), "embedding": [vector, vector]})
            )

    async def test_ids_are_made_where_rows_have_none(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        vector = [1.0, 2, 3, 4]
        forms: dict[str, Any] = {
            "mappings": [{"embedding": vector, "year": n} for n in range(5)],
            "columns": {"embedding": [vector] * 5, "year": list(range(5))},
            "an array": {"year": list(range(5)), "embedding": np.array([vector] * 5)},
            "Arrow": pa.table({"embedding": [vector] * 5, "year": list(range(5))}),
            "dataclasses": [_NoId(vector, n) for n in range(5)],
            "batches": iter(
                pa.table({"embedding": [vector] * 5, "year": list(range(5))}).to_batches(2)
            ),
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
        many = [{"embedding": vector} for _ in range(3_000)]
        counts = await asyncio.gather(*(store.insert("notes", many) for _ in range(2)))
        assert (counts, await store.count("notes")) == ([3_000] * 2, 6_032)
        with pytest.raises(InvalidVectorError):
            await store.insert("notes", [{"year": 1}])
        for empty in ({}, {"year": [1]}, pa.table({"year": [1]})):
            with case(empty), pytest.raises(InvalidRowError):
                await store.insert("notes", empty)

    async def test_values_of_the_payload_that_stand_for_others(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        one = uuid.UUID(int=5)
        zone = timezone(timedelta(hours=2))
        values: dict[str, tuple[Any, Any]] = {
            "moment": (datetime(2024, 1, 1, 2, tzinfo=zone), "2024-01-01T00:00:00.000000Z"),
            "day": (date(2024, 1, 31), "2024-01-31"),
            "uuid": (one, str(one)),
            "enum": (_Color.RED, "red"),
            "int enum": (_Level.HIGH, 3),
            "int": (np.int16(4), 4),
            "float": (np.float32(0.5), 0.5),
            "float64": (np.float64(0.25), 0.25),
            "flag": (np.True_, True),
            "text": (np.str_("x"), "x"),
            "tuple": ((1, ("a", _Color.RED)), [1, ["a", "red"]]),
            "nested": ({"a": [{"b": (np.int64(1), one)}]}, {"a": [{"b": [1, str(one)]}]}),
        }
        row: dict[str, Any] = {key: given for key, (given, _) in values.items()}
        await store.insert("notes", [{"id": "1", "embedding": [1.0] * DIM, **row}])
        await store.insert("notes", [{"id": "2", "embedding": [1.0] * DIM}])
        await store.update("notes", row, ids="2")
        for record in await store.get("notes", ["1", "2"]):
            for key, (_, kept) in values.items():
                assert record[key] == kept, key
                assert type(record[key]) is type(kept), key
        for key in ("moment", "day", "uuid", "enum", "int enum", "int", "float", "flag", "text"):
            with case(key):
                assert await store.count("notes", F.payload[key] == row[key]) == 2
                assert await store.count("notes", F.payload[key].in_([row[key]])) == 2
                assert await store.count("notes", F.payload[key] != row[key]) == 0
        moment_of = F.payload["moment"]
        second = timedelta(microseconds=1)
        for later in (second, 500_000 * second, timedelta(days=400)):
            moment = row["moment"]
            assert await store.count("notes", moment_of < moment + later) == 2
            assert await store.count("notes", moment_of > moment - later) == 2
            assert await store.count("notes", moment_of >= moment + later) == 0
        bad: list[Any] = [
            Decimal("1.5"), b"x", {1}, object(), datetime(2024, 1, 1), time(1), np.array([1]),  # noqa: DTZ001 - the missing zone is the fault
            np.float64("nan"), timedelta(1), [np.datetime64("2024-01-01")], _Odd.LIST, 1j, {1: 2},
            {_Color.RED: 1}, uuid.UUID, np.uint64(2**64 - 1), "\ud800", _Odd.SURROGATE,
        ]  # fmt: skip
        for value in bad:
            with case(value), pytest.raises(InvalidRowError) as caught:
                await store.insert("notes", [{"id": "3", "embedding": [1.0] * DIM, "key": value}])
            assert (caught.value.row, caught.value.id, caught.value.field) == (0, "3", "key")
            with case(value), pytest.raises(InvalidRowError):
                await store.update("notes", {"payload.key": value}, where="TRUE")

    # Reading parts

    async def test_exists_and_parts_of_rows(self, notes: VectorStore) -> None:
        ids = [f"r{n:04}" for n in range(12)]
        assert await notes.exists("notes", ids) == set(ids[:10])
        assert await notes.exists("notes", "r0003") == {"r0003"}
        assert await notes.exists("notes", iter(["r0003", "r0003", "no"])) == {"r0003"}
        assert await notes.exists("notes", []) == set()
        with pytest.raises(InvalidArgumentError):
            await notes.exists("notes", [None])  # type: ignore[list-item]  # no id
        with pytest.raises(TableNotFoundError):
            await notes.exists("absent", "a")
        (whole,) = await notes.get("notes", "r0003")
        assert whole.vector is not None
        (part,) = await notes.get("notes", "r0003", select=["year"])
        assert (dict(part), part.vector is None) == ({"id": "r0003", "year": whole["year"]}, False)
        (bare,) = await notes.get("notes", "r0003", select=[], include_vector=False)
        assert (dict(bare), bare.vector) == ({"id": "r0003"}, None)
        (named,) = await notes.get("notes", "r0003", select=["embedding"], include_vector=False)
        assert named.vector is not None
        with pytest.raises(InvalidNameError):
            await notes.get("notes", [], select=["absent"])
        found = await notes.find("notes", "year < 3", include_vector=True)
        assert all(record.vector is not None for record in found)
        assert [r.vector for r in await notes.find("notes", "year < 3")] == [None] * 3

    # Rows that exist

    async def test_insert_of_rows_that_exist(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(20)
        await self.table(store, EVERY_KIND, rows[:10])
        changed = [{**row, "name": "changed", "embedding": [1.0, 2, 3, 4]} for row in rows]
        with pytest.raises(DuplicateIdError):
            await store.insert("notes", changed, on_conflict="fail")
        assert await store.count("notes") == 10
        assert await store.insert("notes", changed, on_conflict="skip") == 10
        assert await store.insert("notes", changed, on_conflict="skip") == 0
        ids = [row["id"] for row in rows]
        assert_same_rows(await store.get("notes", ids), rows[:10] + changed[10:], EVERY_KIND)
        assert await store.insert("notes", changed, on_conflict="replace") == 20
        assert_same_rows(await store.get("notes", ids), changed, EVERY_KIND)
        assert await store.count("notes") == 20
        hits = await store.search("notes", [1.0, 2, 3, 4], limit=30)
        assert len(hits) == 20
        for bad in ("ignore", None, True, 1, ["skip"], np.zeros(2)):
            with case(bad), pytest.raises(InvalidArgumentError) as caught:
                await store.insert("notes", rows, on_conflict=bad)  # type: ignore[arg-type]  # bad
            assert caught.value.argument == "on_conflict"

    async def test_an_id_twice_in_a_call(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        twice = [
            {"id": id, "embedding": [1.0, n, 0, 0], "year": n}
            for n, id in enumerate(["a", "b", "a", "c", "b", "a"])
        ]
        with pytest.raises(DuplicateIdError) as caught:
            await store.insert("notes", twice)
        assert caught.value.within_call
        assert await store.insert("notes", twice, on_conflict="skip") == 3
        found = await store.find("notes")
        assert [(r.id, r["year"]) for r in found] == [("a", 0), ("b", 1), ("c", 3)]
        assert await store.insert("notes", twice, on_conflict="replace") == 3
        found = await store.find("notes")
        assert [(r.id, r["year"]) for r in found] == [("a", 5), ("b", 4), ("c", 3)]
        # A bad row is refused, also where its id exists.
        with pytest.raises(InvalidVectorError):
            await store.insert("notes", [{"id": "a", "embedding": None}], on_conflict="skip")

    async def test_inserts_at_once_add_each_id_once(self, tmp_path: Path) -> None:
        """Of two stores, where the backend keeps what it has; their counts add up."""
        async with await self.open(tmp_path) as one:
            await one.create_table("notes", SMALL)
            two = await self.open(tmp_path) if self.persistent else one
            try:
                chance = np.random.default_rng(3)
                calls = []
                for n in range(60):
                    ids = chance.choice(200, size=int(chance.integers(1, 30)), replace=True)
                    rows = [
                        {"id": f"x{id}", "embedding": [1.0, float(id), n, 0], "year": n}
                        for id in ids
                    ]
                    store = two if n % 2 else one
                    calls.append((rows, store.insert("notes", rows, on_conflict="skip")))
                counts = await asyncio.gather(*(call for _, call in calls))
                wanted = {str(row["id"]) for rows, _ in calls for row in rows}
                assert sum(counts) == len(wanted) == await one.count("notes")
                found = await one.find("notes", limit=1_000)
                assert {record.id for record in found} == wanted
                # Each call added as many rows as it says, and no part of a row is another's.
                added = Counter(record["year"] for record in found)
                assert [added[n] for n in range(60)] == counts
                for record in await one.get("notes", sorted(wanted)):
                    assert record.vector is not None
                    assert record.vector[2] == record["year"]
                assert len(await one.search("notes", [1.0, 1, 1, 1], limit=1_000)) == len(wanted)
            finally:
                if two is not one:
                    await two.close()

    async def test_a_large_insert_that_skips(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(3_000))
        assert await store.insert("notes", small_rows(5_000), on_conflict="skip") == 2_000
        assert await store.count("notes") == 5_000


NULLABLE = {
    "cosine": Schema(DIM, vector_nullable=True, fields={"name": str, "year": int}),
    "l2": Schema(DIM, metric="l2", vector_nullable=True, fields={"name": str, "year": int}),
    "dot": Schema(DIM, metric="dot", vector_nullable=True, fields={"name": str, "year": int}),
    "parted": Schema(
        DIM, vector_nullable=True, fields={"name": Field(str, partition=True), "year": int}
    ),
    "bits": Schema(8, vector_nullable=True, fields={"name": str, "year": int}, quantized="bit"),
}


class NullableVectorsContract(ContractBase):
    """Tables with ``vector_nullable=True``."""

    @pytest.mark.parametrize("kind", list(NULLABLE))
    async def test_rows_without_a_vector(self, store: VectorStore, kind: str) -> None:
        schema = NULLABLE[kind]
        rows = _rows(schema, 60)
        for n, row in enumerate(rows):
            if n % 3 == 1:
                row["embedding"] = None
            elif n % 3 == 2 and n > 30:
                del row["embedding"]
        with_vector = [row for row in rows if row.get("embedding") is not None]
        without = [row["id"] for row in rows if row.get("embedding") is None]
        await self.table(store, schema, rows)
        assert await store.count("notes") == 60
        assert len(await store.find("notes", limit=100)) == 60
        for record in await store.get("notes", [row["id"] for row in rows]):
            assert (record.vector is None) == (record.id in without)
            assert ("embedding" in record.to_dict()) == (record.id not in without)
        query = with_vector[0]["embedding"]
        for exact in (False, True):
            hits = await store.search("notes", query, limit=100, exact=exact)
            assert {hit.id for hit in hits} == {row["id"] for row in with_vector}
            assert all(hit.distance is not None and hit.distance == hit.distance for hit in hits)
            assert hits[0].id == with_vector[0]["id"] or kind == "dot"
            some = await store.search("notes", query, limit=3, exact=exact, include_vector=True)
            assert ids_of(some) == ids_of(hits[:3])
            found = await store.search("notes", query, limit=100, where="year < 10", exact=exact)
            assert {hit.id for hit in found} == {r["id"] for r in with_vector if r["year"] < 10}
            ids = [row["id"] for row in with_vector if row["name"] == "n0"]
            found = await store.search("notes", query, limit=100, where="name = 'n0'", exact=exact)
            assert {hit.id for hit in found} == set(ids)
        many = await store.search_many("notes", [query, query], limit=100)
        assert [len(hits) for hits in many] == [len(with_vector)] * 2
        assert await store.search("notes", query, where=F.id.in_(without)) == []
        exported = [row async for b in store.export("notes") for row in b.to_pylist()]
        assert {row["id"] for row in exported if row["embedding"] is None} == set(without)
        # The vector comes, goes and changes, and the fields stay or are replaced.
        new = vectors(60, dim=schema.dim, seed=77)
        assert await store.set_vectors("notes", without[:5], new[:5]) == 5
        for id, vector in zip(without[:5], new[:5], strict=True):
            found = await store.search("notes", vector, limit=1, where=F.id == id)
            assert ids_of(found) == [id]
            assert found[0]["year"] == int(id[1:])
        gone = [row["id"] for row in with_vector[:5]]
        await store.upsert("notes", [{"id": id, "name": "gone", "year": 1} for id in gone])
        await store.upsert(
            "notes", [{"id": without[6], "name": "came", "embedding": new[6].tolist()}]
        )
        hits = await store.search("notes", query, limit=100)
        expected = {row["id"] for row in with_vector} - set(gone) | {*without[:5], without[6]}
        assert {hit.id for hit in hits} == expected
        assert await store.update("notes", {"name": "all"}, where="TRUE") == 60
        assert len(await store.search("notes", query, limit=100, where="name = 'all'")) == len(hits)
        await store.optimize("notes")
        assert {hit.id for hit in await store.search("notes", query, limit=100)} == expected
        assert await store.delete("notes", [*gone, *without]) == len({*gone, *without})
        left = await store.search("notes", query, limit=100)
        assert len(left) == await store.count("notes") == 60 - len({*gone, *without})

    async def test_forms_of_rows_without_vectors(self, store: VectorStore) -> None:
        schema = NULLABLE["cosine"]
        await store.create_table("notes", schema)
        whole = [1.0, 2, 3, 4]
        column = pa.array([whole, None], pa.list_(pa.float32(), DIM))
        forms: dict[str, Any] = {
            "mappings": [{"id": "a", "embedding": whole}, {"id": "b"}],
            "columns": {"id": ["a", "b"], "embedding": [whole, None]},
            "Arrow": pa.table({"id": ["a", "b"], "embedding": column}),
            "Arrow lists": pa.table({"id": ["a", "b"], "embedding": [whole, None]}),
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

    async def test_a_table_of_no_vectors_at_all(self, store: VectorStore) -> None:
        for kind, schema in NULLABLE.items():
            name = f"t-{kind}"
            await self.create(store, name, schema)
            await store.insert(name, [{"id": str(n), "year": n} for n in range(10)])
            query = [1.0] * schema.dim
            for exact in (False, True):
                assert await store.search(name, query, exact=exact) == []
                assert await store.search(name, query, where="year > 3", exact=exact) == []
            await store.optimize(name)
            assert await store.count(name) == 10
            await store.set_vectors(name, ["3"], [query])
            assert ids_of(await store.search(name, query)) == ["3"]

    async def test_many_rows_of_which_few_have_vectors(self, store: VectorStore) -> None:
        schema = NULLABLE["cosine"]
        await store.create_table("notes", schema)
        given = vectors(5_000, seed=1)
        rows = [
            {"id": f"r{n:04}", "year": n, "embedding": given[n].tolist() if n % 10 == 0 else None}
            for n in range(5_000)
        ]
        await store.insert("notes", rows)
        for where in (None, "year >= 1000"):
            hits = await store.search("notes", given[2_000], limit=600, where=where)
            assert len(hits) == (500 if where is None else 400)
            assert hits[0].id == "r2000"
        if store.supports("indexes"):
            await store.create_index("notes")
            for exact in (False, True):
                hits = await store.search("notes", given[2_000], limit=600, exact=exact)
                assert len(hits) == 500
                assert hits[0].id == "r2000"
            (hit,) = await store.search("notes", given[4_990], limit=1)
            assert hit.id == "r4990"
            await store.set_vectors("notes", ["r0001"], [given[4_990]])
            found = await store.search("notes", given[4_990], limit=2)
            assert set(ids_of(found)) == {"r0001", "r4990"}

    async def test_new_vectors_and_none_are_changes(self, tmp_path: Path) -> None:
        backend = self.make_backend(tmp_path)
        async with await open_store(backend) as store:
            if not isinstance(backend, ChangeFeed):
                pytest.skip("this backend has no change feed")
            await store.create_table("notes", NULLABLE["cosine"])
            await store.insert("notes", [{"id": str(n)} for n in range(3)])
            await store.set_vectors("notes", ["1"], [[1.0, 2, 3, 4]])
            handle = await backend.open_table("notes")
            page = await backend.changes(handle, 0)
            found = {row["id"]: row["embedding"] for row in page.upserted.to_pylist()}
            assert found == {"0": None, "1": [1.0, 2, 3, 4], "2": None}
