"""Contract tests for insert, upsert, update and delete: each is done completely or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.contract.machine import assert_same_outcome, assert_same_records
from tests.harness.oracle import Oracle, arrow_table, assert_same_hits
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    SMALL,
    assert_same_fields,
    assert_same_rows,
    flat,
    ids_of,
    rows_of_every_kind,
    small_rows,
    vectors,
)
from tests.harness.vec0 import needs_recent_sqlite

from aiovec import REMOVE, F, Field, Schema, VectorStore
from aiovec.backend.changes import Upsert
from aiovec.backend.rows import Batch
from aiovec.errors import AiovecError, DuplicateIdError, InvalidRowError, InvalidVectorError

GOOD = [1.0, 2.0, 3.0, 4.0]
ALL = F.id.is_not_null()
MOMENT = datetime(2024, 2, 3, 2, 5, 6, tzinfo=UTC)
EVERY_CHANGE: dict[str, Any] = {
    "name": "new", "year": -5, "score": 2.0, "live": False, "tags": [], "seen": MOMENT,
}  # fmt: skip
NESTED: dict[str, Any] = {"a": {"b": {"c": 1, "d": 2}, "e": None, "x.y": 1}, "flat": 5}
PQ = ["p", "q"]
TWICE = [
    {"id": id, "embedding": [1.0, n, 0, 0], "year": n} for n, id in enumerate([*"abacba"], start=1)
]

Write = Callable[[Any], Any]


def _insert(rows: Any, **options: Any) -> Write:
    return lambda store: store.insert("notes", rows, **options)


def _upsert(rows: Any) -> Write:
    return lambda store: store.upsert("notes", rows)


def _update(fields: dict[str, Any], ids: Any = None, where: Any = None) -> Write:
    return lambda store: store.update("notes", fields, ids=ids, where=where)


def _delete(ids: Any = None, where: Any = None) -> Write:
    return lambda store: store.delete("notes", ids, where=where)


def _row(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "embedding": GOOD, **fields}


# Successive calls on ten rows of ``EVERY_KIND``, with the result or the error of each.
WRITES: list[tuple[Write, Any]] = [
    (_insert([_row("new"), _row("r0008"), _row("r0009")]), DuplicateIdError),
    (_insert([_row("new"), _row("newer"), _row("new")]), DuplicateIdError),
    (_insert([_row("new"), _row("r0008")], on_conflict="fail"), DuplicateIdError),
    (_insert([_row("r0008", name="no"), _row("r0010")], on_conflict="skip"), 1),
    (_insert([_row("r0008", name="no"), _row("r0010")], on_conflict="skip"), 0),
    (_insert([_row("r0008", name="yes"), _row("r0011")], on_conflict="replace"), 2),
    (_insert(TWICE), DuplicateIdError),
    (_insert(TWICE, on_conflict="skip"), 3),
    (_insert(TWICE, on_conflict="replace"), 3),
    (_insert([{"id": "a", "embedding": None}], on_conflict="skip"), InvalidVectorError),
    # A row is replaced completely, and the last row with an id is used.
    (_upsert([_row("r0001", score=1.5, only="new"), _row("fresh", name="fresh")]), 2),
    (_upsert([_row("r0001", name=str(n)) for n in range(3)]), 1),
    (_upsert([{**_row("r0002"), "embedding": [-1.0, n, 0, 0]} for n in range(2)]), 1),
    (_update(EVERY_CHANGE, ["r0002", "r0003", "absent"]), 2),
    (_update(dict.fromkeys(EVERY_KIND.fields), "r0004"), 1),
    (_update({"name": "b"}, where=F.year >= 2006), 2),
    (_update({"name": "c"}, ["r0005", "r0007", "r0007", "absent"], F.year > 2005), 1),
    (_update({"name": "d"}, where=F.year > 9_000), 0),
    (_update({"name": "e"}, ["absent"]), 0),
    # Keys of the payload, and parts of it.
    (_update({"a": 1, "b": {"deep": [1]}}, "r0001"), 1),
    (_update({"a": None, "a.b": 2, "\"$[0]'": 3, "name": "x"}, "r0001"), 1),
    (_update({"b": {"other": 1.0}, "big": 2**63 - 1}, "r0001"), 1),
    (_upsert([_row("p", **NESTED, list=[1]), _row("q", year=1)]), 2),
    (_update({"payload.a.b.c": 9, "name": "n"}, PQ), 2),
    (_update({"payload.a.b": REMOVE, "payload.flat": 6, 'payload.a."x.y"': {"z": [None]}}, PQ), 2),
    (_update({"payload.a.e.f": True, "list": REMOVE, "payload.absent.b": REMOVE}, PQ), 2),
    (_update({"payload.flat.b": REMOVE, "dotted.key": 1}, PQ), 2),
    (_update({"payload.flat.b": 1}, PQ), InvalidRowError),
    (_update({"name": "no", "payload.flat.b": 7}, where=ALL), InvalidRowError),
    (_update({'payload."dotted.key"': REMOVE, "a": REMOVE, "flat": REMOVE}, PQ), 2),
    (_update({"all": True}, where=ALL), 18),
    (lambda store: store.set_vectors("notes", ["r0001", "no", "p", "r0001"], vectors(4)), 2),
    (lambda store: store.set_vectors("notes", ["no", "", "a\0", "ü" * 257], vectors(4)), 0),
    (lambda store: store.set_vectors("notes", [], []), 0),
    (_delete("r0000"), 1),
    (_delete("r0000"), 0),
    (_delete(["r0000", "r0001", "r0001", "absent", ""]), 1),
    (_delete(where=F.year.between(2003, 2006)), 2),
    (_delete(where=F.id.in_(["r0002", "no"])), 1),
    (_insert([_row("r0001", name="again")]), 1),  # the id is free after its row was deleted
    (_delete(where=ALL), 14),
    (_insert([_row("r0001", name="and again")]), 1),
]  # fmt: skip


async def outcomes_of(call: Write, store: VectorStore, oracle: Oracle) -> tuple[Any, Any]:
    """Return what a call returns or raises, for the store and for the oracle."""
    try:
        modelled = call(oracle)
    except AiovecError as error:
        modelled = error
    try:
        return await call(store), modelled
    except AiovecError as error:
        return error, modelled


class WritingContract(ContractBase):
    """``insert``, ``upsert``, ``update`` and ``delete``."""

    @pytest.mark.core
    async def test_insert_counts_and_keeps_every_value(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        rows = rows_of_every_kind(40)
        assert await store.insert("notes", rows) == 40
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, EVERY_KIND)
        assert await store.count("notes") == 40

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_single_rows_and_tables_written_at_once_are_all_stored(
        self, store: VectorStore
    ) -> None:
        """Rows reach a backend as Python values, tables as Arrow; both may share a commit."""
        await store.create_table("notes", EVERY_KIND)
        rows = rows_of_every_kind(30)
        table = arrow_table(rows, EVERY_KIND)
        for alone, together in ((rows[:20], table.slice(20)), (rows[20:], table.slice(0, 20))):
            await asyncio.gather(
                store.upsert("notes", together), *(store.upsert("notes", [row]) for row in alone)
            )
            assert await store.count("notes") == 30
            assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, EVERY_KIND)

    @pytest.mark.core
    async def test_rows_survive_reopening(self, tmp_path: Path) -> None:
        self.need_persistence()
        rows = rows_of_every_kind(30)
        async with self.connect(tmp_path) as store:
            await store.create_table("notes", EVERY_KIND)
            await store.insert("notes", rows)
            await store.delete("notes", "r0000")
            await store.update("notes", {"name": "changed", "kind": 5}, ids="r0001")
        rows = rows[1:]
        rows[0] |= {"name": "changed", "kind": 5}
        async with self.connect(tmp_path) as store:
            assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, EVERY_KIND)
            assert await store.count("notes") == 29
            hits = await store.search("notes", rows[5]["embedding"], limit=1)
            assert ids_of(hits) == [rows[5]["id"]]

    @pytest.mark.core
    async def test_another_store_sees_a_write_when_it_returned(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with self.connect(tmp_path) as first, self.connect(tmp_path) as second:
            await first.create_table("notes", SMALL)
            for number, row in enumerate(small_rows(10)):
                await (first if number % 2 else second).insert("notes", [row])
                reader = second if number % 2 else first
                assert await reader.count("notes") == number + 1
                hits = await reader.search("notes", row["embedding"], limit=1)
                assert ids_of(hits) == [row["id"]]
            await first.delete("notes", "r0000")
            assert await second.get("notes", "r0000") == []

    @pytest.mark.core
    async def test_each_write_changes_its_rows_alone(self, store: VectorStore) -> None:
        """Each write returns the number of rows, or fails and changes none."""
        rows = rows_of_every_kind(10)
        oracle = Oracle()
        oracle.create_table("notes", EVERY_KIND)
        await store.create_table("notes", EVERY_KIND)
        for number, (call, expected) in enumerate(((_insert(rows), 10), *WRITES)):
            outcome, modelled = await outcomes_of(call, store, oracle)
            assert expected in (outcome, type(outcome)), f"write {number}: {outcome!r}"
            assert_same_outcome(outcome, modelled)
            left = oracle.rows("notes")
            assert_same_records(await store.get("notes", [*left]), [*left.values()])
            assert await store.count("notes") == len(left)
            hits = await store.search("notes", GOOD, limit=30)
            assert_same_hits(hits, oracle.search("notes", GOOD, limit=30))

    # Ids

    @pytest.mark.core
    async def test_ids_are_kept_exactly(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        rows = [
            {"id": id, "embedding": vector, "name": id, "year": n}
            for n, (id, vector) in enumerate(
                zip(HOSTILE_IDS, vectors(len(HOSTILE_IDS)), strict=True)
            )
        ]
        assert await store.insert("notes", rows) == len(HOSTILE_IDS)
        for row in rows:
            (record,) = await store.get("notes", row["id"])
            assert (record.id, record["name"], record["year"]) == (
                row["id"], row["id"], row["year"],
            )  # fmt: skip
        assert ids_of(await store.find("notes")) == sorted(HOSTILE_IDS)
        assert await store.delete("notes", HOSTILE_IDS[::2]) == len(HOSTILE_IDS[::2])
        assert ids_of(await store.find("notes")) == sorted(HOSTILE_IDS[1::2])

    @needs_recent_sqlite
    async def test_texts_are_kept_exactly(self, store: VectorStore) -> None:
        fields: dict[str, Any] = {
            "text": str, "indexed": Field(str, index="btree"), "part": Field(str, partition=True),
            "list": list[str],
        }  # fmt: skip
        schema = Schema(DIM, fields=fields)
        rows = [
            {
                "id": f"r{n:03}", "embedding": vector, "text": text, "indexed": text, "part": text,
                "list": [text, "other", text], "extra": text, f"key {text}": {text: [text]},
            }
            for n, (text, vector) in enumerate(
                zip(HOSTILE_TEXTS, vectors(len(HOSTILE_TEXTS)), strict=True)
            )
        ]  # fmt: skip
        await filled(store, schema, rows)
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, schema)
        for row in rows:
            text = row["text"]
            for field in (F.text, F.indexed, F.part, F.payload["extra"]):
                with case(f"{field} = {text!r:.40}"):
                    assert ids_of(await store.find("notes", field == text)) == [row["id"]]
            assert ids_of(await store.find("notes", F.list.contains(text))) == [row["id"]]
            hits = await store.search("notes", row["embedding"], where=F.part == text)
            assert ids_of(hits) == [row["id"]]

    # Payload

    @pytest.mark.core
    async def test_a_payload_comes_back_as_it_went_in(self, notes: VectorStore) -> None:
        payload: dict[str, Any] = {
            "null": None, "true": True, "false": False, "int": 1, "float": 1.0, "big": 2**63 - 1,
            "least": -(2**63), "small": 5e-324, "large": 1.7976931348623157e308, "third": 1 / 3,
            "text": "ä\0'\"\\", "list": [1, 1.0, True, None, "x", [[]], {}], "empty": {},
            "nested": {"a": {"b": {"c": [{"d": None}]}}}, "a.b": 1, "": 2, "$": 3, '"': 4,
            "a[0]": 5, "#": 6, "payload": {"payload": 7}, "select": 8, "ключ": 9, "\0": 10,
        }  # fmt: skip
        row = {"id": "p", "embedding": GOOD, **payload}
        await notes.insert("notes", [row])
        (record,) = await notes.get("notes", "p")
        assert_same_fields(record.fields, flat(row, SMALL))
        await notes.update("notes", {"name": "other"}, ids="p")
        (record,) = await notes.get("notes", "p")
        assert_same_fields(record.fields, flat(row, SMALL) | {"name": "other"})

    async def test_a_payload_keeps_the_order_of_its_keys(self, notes: VectorStore) -> None:
        payload = {"b": 1, "a": {"d": 2, "c": 3}, "aa": 4, "": 5}
        await notes.insert("notes", [{"id": "p", "embedding": GOOD, **payload}])
        (record,) = await notes.get("notes", "p")
        assert [key for key in record.fields if key in payload] == list(payload)
        assert list(record.fields["a"]) == ["d", "c"]

    async def test_infinities_are_stored(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"x": float, "many": list[float]})
        await filled(store, schema, [{"id": "a", "embedding": GOOD}])
        for number in (float("inf"), float("-inf")):
            assert await store.update("notes", {"x": number, "many": [1.0, number]}, ids="a") == 1
            (record,) = await store.get("notes", "a")
            assert (record["x"], record["many"]) == (number, [1.0, number])

    async def test_update_moves_a_row_between_partitions(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"part": Field(str, partition=True), "n": int})
        rows = [
            {"id": f"r{n}", "embedding": vector, "part": "ab"[n % 2], "n": n}
            for n, vector in enumerate(vectors(8))
        ]
        await filled(store, schema, rows)
        assert await store.update("notes", {"part": "c"}, where="n < 4") == 4
        for row in rows[:4]:
            row["part"] = "c"
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, schema)
        for part, ids in (
            ("a", ["r4", "r6"]),
            ("b", ["r5", "r7"]),
            ("c", ["r0", "r1", "r2", "r3"]),
        ):
            hits = await store.search("notes", GOOD, where=F.part == part)
            assert sorted(ids_of(hits)) == ids

    async def test_no_upsert_moves_a_row_between_partitions(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={
            "tenant": Field(str, partition=True), "Shard": Field(int, partition=True), "n": int,
        })  # fmt: skip

        def row(id: str, tenant: str | None, shard: int | None = 1, n: int = 0) -> dict[str, Any]:
            return {"id": id, "embedding": GOOD, "tenant": tenant, "Shard": shard, "n": n}

        rows = [row("a", "acme"), row("b", None), row("c", "acme", None)]
        await filled(store, schema, rows)
        for id, tenant, shard, field, values in (
            ("a", "globex", 1, "tenant", ("acme", "globex")),
            ("a", "acme", 2, "Shard", ("1", "2")),
            ("b", "acme", 1, "tenant", ("None", "acme")),
            ("c", "acme", 1, "Shard", ("None", "1")),
        ):  # fmt: skip
            taken = row(id, tenant, shard, n=1)
            for many in ([taken], [row("new", "x", n=1), row("a", "acme", n=1), taken],
                         [*(row(f"new{n}", "x", n=1) for n in range(200)), taken]):  # fmt: skip
                with pytest.raises(InvalidRowError) as caught:
                    await store.upsert("notes", many)
                assert (caught.value.id, caught.value.field) == (id, field)
                existing, given = values
                assert given in str(caught.value)
                assert existing not in str(caught.value)
        assert_same_rows(await store.get("notes", ["a", "b", "c"]), rows, schema)
        assert await store.count("notes") == 3
        # In groups: the calls of many tasks, which share a commit.
        calls = [row(f"t{n % 4}", "ab"[n % 3 == 0], n=n) for n in range(24)]
        outcomes = await asyncio.gather(
            *(store.upsert("notes", [call]) for call in calls), return_exceptions=True
        )
        for id in {call["id"] for call in calls}:
            (record,) = await store.get("notes", id)
            for call, outcome in zip(calls, outcomes, strict=True):
                if call["id"] == id and call["tenant"] == record["tenant"]:
                    assert outcome == 1
                elif call["id"] == id:
                    assert isinstance(outcome, InvalidRowError)
        # An upsert replaces rows in their partition, and an update can move them.
        rows = [row("a", "acme", n=7), row("b", None, n=7), row("c", "acme", None, n=7)]
        assert await store.upsert("notes", rows) == 3
        assert await store.update("notes", {"tenant": "globex"}, ids="a") == 1
        assert await store.upsert("notes", [row("a", "globex", n=8)]) == 1
        await store.delete("notes", "b")
        assert await store.insert("notes", [row("b", "x", n=8)], on_conflict="replace") == 1
        rows = [row("a", "globex", n=8), row("b", "x", n=8), rows[2]]
        assert_same_rows(await store.get("notes", ["a", "b", "c"]), rows, schema)

    @pytest.mark.arrow
    async def test_upsert_of_migration_moves_rows(self, store: VectorStore, tmp_path: Path) -> None:
        self.need_persistence()
        schema = Schema(DIM, fields={"part": Field(str, partition=True)})
        rows = [{"id": id, "embedding": GOOD, "part": "a"} for id in "ab"]
        await filled(store, schema, rows)
        await store.close()
        moved = [{**row, "part": "b"} for row in rows]
        async with self.opened_backend(tmp_path) as backend:
            handle = await backend.open_table("notes")
            batch = Batch.of_table(arrow_table(moved, schema), schema)
            await backend.write(handle, Upsert(batch, moves=True))
        async with self.connect(tmp_path) as again:
            assert_same_rows(await again.get("notes", ["a", "b"]), moved, schema)
            assert await again.count("notes") == 2
