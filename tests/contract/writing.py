"""Writing: insert, upsert, update and delete, each wholly done or not at all."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.oracle import arrow_table
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

from aiovec import F, Field, Schema, VectorStore
from aiovec.backend.rows import NewRows
from aiovec.errors import DuplicateIdError, InvalidRowError

GOOD = [1.0, 2.0, 3.0, 4.0]


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
    async def test_rows_alone_and_rows_of_a_table_are_written_alike(
        self, store: VectorStore
    ) -> None:
        """Few rows reach a backend as Python values, a table as Arrow; both may share a commit."""
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
        async with self.connect(tmp_path) as one, self.connect(tmp_path) as two:
            await one.create_table("notes", SMALL)
            for number, row in enumerate(small_rows(10)):
                await (one if number % 2 else two).insert("notes", [row])
                reader = two if number % 2 else one
                assert await reader.count("notes") == number + 1
                hits = await reader.search("notes", row["embedding"], limit=1)
                assert ids_of(hits) == [row["id"]]
            await one.delete("notes", "r0000")
            assert await two.get("notes", "r0000") == []

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

    # Calls that are refused

    @pytest.mark.core
    async def test_insert_refuses_an_id_that_exists(self, notes: VectorStore) -> None:
        for start, twice in ((8, []), (20, small_rows(1, start=21))):
            rows = [*small_rows(5, start=start), *twice]
            with pytest.raises(DuplicateIdError) as caught:
                await notes.insert("notes", rows)
            assert caught.value.table == "notes"
            assert caught.value.ids
            assert set(caught.value.ids) <= ({"r0021"} if twice else {"r0008", "r0009"})
            assert caught.value.within_call == bool(twice)
            assert await notes.count("notes") == 10

    async def test_an_id_can_come_back_after_its_row_was_deleted(self, notes: VectorStore) -> None:
        for turn in range(3):
            assert await notes.delete("notes", "r0003") == 1
            row = {"id": "r0003", "embedding": GOOD, "name": f"turn {turn}"}
            assert await notes.insert("notes", [row]) == 1
            assert_same_rows(await notes.get("notes", "r0003"), [row], SMALL)
        assert ids_of(await notes.search("notes", GOOD, limit=1)) == ["r0003"]

    # Upsert

    @pytest.mark.core
    async def test_upsert_replaces_whole_rows(self, store: VectorStore) -> None:
        await filled(store, EVERY_KIND, rows_of_every_kind(6))
        row = {"id": "r0001", "embedding": GOOD, "score": 1.5, "only": "new"}
        fresh = {"id": "new", "embedding": GOOD, "name": "fresh"}
        assert await store.upsert("notes", [row, fresh]) == 2
        assert_same_rows(await store.get("notes", ["r0001", "new"]), [row, fresh], EVERY_KIND)
        assert await store.count("notes") == 7
        hits = await store.search("notes", GOOD, limit=2)
        assert ids_of(hits) == ["new", "r0001"]
        old = rows_of_every_kind(6)[1]["embedding"]
        nearest = await store.search("notes", old, limit=7)
        assert next(hit for hit in nearest if hit.id == "r0001").distance != 0

    async def test_upsert_takes_the_last_row_of_an_id(self, notes: VectorStore) -> None:
        rows = [{**row, "name": str(n)} for n in range(3) for row in small_rows(4, seed=n)]
        assert await notes.upsert("notes", rows) == 4
        expected = rows[8:]
        assert_same_rows(await notes.get("notes", [r["id"] for r in expected]), expected, SMALL)
        assert await notes.count("notes") == 10

    # Update and partitions

    @pytest.mark.core
    async def test_update_sets_fields_and_keeps_the_rest(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(10)
        await filled(store, EVERY_KIND, rows)
        change: dict[str, Any] = {
            "name": "new", "year": -5, "score": 2, "live": False, "tags": [],
            "seen": "2024-02-03T04:05:06+02:00",
        }  # fmt: skip
        assert await store.update("notes", change, ids=["r0002", "r0003", "absent"]) == 2
        moment = datetime(2024, 2, 3, 2, 5, 6, tzinfo=UTC)
        changed = change | {"score": 2.0, "seen": moment}
        for row in rows[2:4]:
            row |= changed
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, EVERY_KIND)
        nulls = dict.fromkeys(EVERY_KIND.fields)
        assert await store.update("notes", nulls, ids="r0004") == 1
        rows[4] |= nulls
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, EVERY_KIND)

    async def test_update_by_ids_and_where(self, notes: VectorStore) -> None:
        async def changed(name: str) -> list[str]:
            return ids_of(await notes.find("notes", F.name == name))

        assert await notes.update("notes", {"name": "a"}, ids="r0001") == 1
        assert await changed("a") == ["r0001"]
        assert await notes.update("notes", {"name": "b"}, where="year >= 8") == 2
        assert await changed("b") == ["r0008", "r0009"]
        ids = ["r0001", "r0008", "r0008", "absent"]
        assert await notes.update("notes", {"name": "c"}, ids=ids, where=F.year >= 8) == 1
        assert await changed("c") == ["r0008"]
        assert await notes.update("notes", {"name": "d"}, where="FALSE") == 0
        assert await notes.update("notes", {"name": "e"}, ids=iter(["absent"])) == 0
        assert await notes.update("notes", {"name": "f"}, where="TRUE") == 10
        assert len(await changed("f")) == 10

    async def test_update_sets_keys_of_the_payload(self, notes: VectorStore) -> None:
        await notes.update("notes", {"a": 1, "b": {"deep": [1]}}, ids="r0001")
        await notes.update("notes", {"a": None, "a.b": 2, "\"$[0]'": 3, "name": "x"}, ids="r0001")
        await notes.update("notes", {"b": {"other": 1.0}, "big": 2**63 - 1}, ids="r0001")
        (record,) = await notes.get("notes", "r0001")
        assert_same_fields(
            record.fields,
            {
                "name": "x", "year": 1, "a": None, "b": {"other": 1.0}, "a.b": 2, '"$[0]\'': 3,
                "big": 2**63 - 1,
            },
        )  # fmt: skip
        assert await notes.update("notes", {"all": True}, where="TRUE") == 10
        assert await notes.count("notes", "payload.all = TRUE") == 10

    async def test_numbers_without_end(self, store: VectorStore) -> None:
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
                theirs, ours = values
                assert ours in str(caught.value)
                assert theirs not in str(caught.value)
        assert_same_rows(await store.get("notes", ["a", "b", "c"]), rows, schema)
        assert await store.count("notes") == 3
        # In groups: those of many tasks that share a commit.
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
        # In their partitions they are replaced, and update may move them.
        rows = [row("a", "acme", n=7), row("b", None, n=7), row("c", "acme", None, n=7)]
        assert await store.upsert("notes", rows) == 3
        assert await store.update("notes", {"tenant": "globex"}, ids="a") == 1
        assert await store.upsert("notes", [row("a", "globex", n=8)]) == 1
        await store.delete("notes", "b")
        assert await store.insert("notes", [row("b", "x", n=8)], on_conflict="replace") == 1
        rows = [row("a", "globex", n=8), row("b", "x", n=8), rows[2]]
        assert_same_rows(await store.get("notes", ["a", "b", "c"]), rows, schema)

    @pytest.mark.arrow
    async def test_the_upsert_of_a_migration_moves_rows(
        self, store: VectorStore, tmp_path: Path
    ) -> None:
        self.need_persistence()
        schema = Schema(DIM, fields={"part": Field(str, partition=True)})
        rows = [{"id": id, "embedding": GOOD, "part": "a"} for id in "ab"]
        await filled(store, schema, rows)
        await store.close()
        moved = [{**row, "part": "b"} for row in rows]
        async with self.opened_backend(tmp_path) as backend:
            handle = await backend.open_table("notes")
            batch = NewRows(schema, arrow_table(moved, schema))
            await backend.upsert(handle, batch, moves=True)
        async with self.connect(tmp_path) as again:
            assert_same_rows(await again.get("notes", ["a", "b"]), moved, schema)
            assert await again.count("notes") == 2

    async def test_update_keeps_vectors(self, notes: VectorStore) -> None:
        vector = small_rows(10)[4]["embedding"]
        await notes.update("notes", {"name": "x", "year": None, "p": 1}, where="TRUE")
        (hit,) = await notes.search("notes", vector, limit=1, include_vector=True)
        assert hit.id == "r0004"
        assert hit.vector is not None
        assert np.array_equal(hit.vector, vector)

    # Delete

    async def test_delete_counts_the_rows_that_were_there(self, notes: VectorStore) -> None:
        assert await notes.delete("notes", "r0000") == 1
        assert await notes.delete("notes", "r0000") == 0
        assert await notes.delete("notes", ["r0000", "r0001", "r0001", "absent", ""]) == 1
        assert await notes.delete("notes", (f"r000{n}" for n in range(5))) == 3
        assert ids_of(await notes.find("notes")) == [f"r000{n}" for n in range(5, 10)]
        assert len(await notes.search("notes", GOOD, limit=50)) == 5

    @pytest.mark.core
    async def test_delete_selected(self, notes: VectorStore) -> None:
        assert await notes.delete("notes", where="year BETWEEN 2 AND 4") == 3
        assert await notes.delete("notes", where=F.year == 3) == 0
        assert await notes.delete("notes", where=F.id.in_(["r0000", "r0002"])) == 1
        assert ids_of(await notes.find("notes")) == ["r0001"] + [f"r000{n}" for n in range(5, 10)]
        assert await notes.delete("notes", where="TRUE") == 6
        assert await notes.search("notes", GOOD) == []
