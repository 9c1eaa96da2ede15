"""Writing: insert, upsert, update and delete, each wholly done or not at all."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case
from tests.harness.loop_time import own_work
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
from aiovec.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    InvalidArgumentError,
    InvalidRowError,
    InvalidVectorError,
)


class UserItems(list[Any]):
    """A list of a class of its own."""


GOOD = [1.0, 2.0, 3.0, 4.0]

# A row that must not get in, and the error that says why.
BAD_ROWS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "too short": ({"id": "bad", "embedding": [1.0, 2.0]}, DimensionMismatchError),
    "too long": ({"id": "bad", "embedding": [1.0] * 5}, DimensionMismatchError),
    "NaN": ({"id": "bad", "embedding": [1.0, float("nan"), 0, 0]}, InvalidVectorError),
    "infinity": ({"id": "bad", "embedding": [1.0, float("inf"), 0, 0]}, InvalidVectorError),
    "beyond float32": ({"id": "bad", "embedding": [1e39, 0, 0, 0]}, InvalidVectorError),
    "zero under cosine": ({"id": "bad", "embedding": [0.0] * DIM}, InvalidVectorError),
    "no vector": ({"id": "bad"}, InvalidVectorError),
    "vector is null": ({"id": "bad", "embedding": None}, InvalidVectorError),
    "vector is text": ({"id": "bad", "embedding": "1234"}, InvalidVectorError),
    "vector of text": ({"id": "bad", "embedding": ["a", "b", "c", "d"]}, InvalidVectorError),
    "vector with null": ({"id": "bad", "embedding": [1.0, None, 0, 0]}, InvalidVectorError),
    "id is a fraction": ({"id": 7.0, "embedding": GOOD}, InvalidRowError),
    "id is a flag": ({"id": True, "embedding": GOOD}, InvalidRowError),
    "id is null": ({"id": None, "embedding": GOOD}, InvalidRowError),
    "id is empty": ({"id": "", "embedding": GOOD}, InvalidRowError),
    "id of 513 bytes": ({"id": "x" * 513, "embedding": GOOD}, InvalidRowError),
    "id of 257 letters of 2 bytes": ({"id": "é" * 257, "embedding": GOOD}, InvalidRowError),
    "id with NUL": ({"id": "a\0b", "embedding": GOOD}, InvalidRowError),
    "id with a lone surrogate": ({"id": "\ud800", "embedding": GOOD}, InvalidRowError),
    "int for text": ({"id": "bad", "embedding": GOOD, "name": 1}, InvalidRowError),
    "text for int": ({"id": "bad", "embedding": GOOD, "year": "1"}, InvalidRowError),
    "float for int": ({"id": "bad", "embedding": GOOD, "year": 1.5}, InvalidRowError),
    "bool for int": ({"id": "bad", "embedding": GOOD, "year": True}, InvalidRowError),
    "int beyond 64 bits": ({"id": "bad", "embedding": GOOD, "year": 2**63}, InvalidRowError),
    "NaN for float": ({"id": "bad", "embedding": GOOD, "score": float("nan")}, InvalidRowError),
    "int that no float is": (
        {"id": "bad", "embedding": GOOD, "score": 2**53 + 1},
        InvalidRowError,
    ),
    "NumPy's int that no float is": (
        {"id": "bad", "embedding": GOOD, "score": np.int64(-(2**53) - 1)},
        InvalidRowError,
    ),
    "int beyond floats": ({"id": "bad", "embedding": GOOD, "score": 10**400}, InvalidRowError),
    "text for float": ({"id": "bad", "embedding": GOOD, "score": "1.5"}, InvalidRowError),
    "int for bool": ({"id": "bad", "embedding": GOOD, "live": 1}, InvalidRowError),
    "a datetime without zone": (
        {"id": "bad", "embedding": GOOD, "seen": datetime(2024, 1, 1)},  # noqa: DTZ001 - the missing zone is the fault
        InvalidRowError,
    ),
    "text for datetime": ({"id": "bad", "embedding": GOOD, "seen": "yesterday"}, InvalidRowError),
    "text for a list": ({"id": "bad", "embedding": GOOD, "tags": "ab"}, InvalidRowError),
    "a list of numbers": ({"id": "bad", "embedding": GOOD, "tags": [1]}, InvalidRowError),
    "a list with null": ({"id": "bad", "embedding": GOOD, "tags": ["a", None]}, InvalidRowError),
    "a lone surrogate": ({"id": "bad", "embedding": GOOD, "name": "\ud800"}, InvalidRowError),
    "payload with bytes": ({"id": "bad", "embedding": GOOD, "extra": b"x"}, InvalidRowError),
    "payload with NaN": ({"id": "bad", "embedding": GOOD, "x": [float("nan")]}, InvalidRowError),
    "payload with a set": ({"id": "bad", "embedding": GOOD, "extra": {1}}, InvalidRowError),
    "payload beyond 64 bits": ({"id": "bad", "embedding": GOOD, "x": 2**64}, InvalidRowError),
    "payload of number keys": ({"id": "bad", "embedding": GOOD, "x": {1: 1}}, InvalidRowError),
}


class WritingContract(ContractBase):
    """``insert``, ``upsert``, ``update``, ``delete`` and ``delete_where``."""

    async def test_insert_counts_and_keeps_every_value(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        rows = rows_of_every_kind(40)
        assert await store.insert("notes", rows) == 40
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, EVERY_KIND)
        assert await store.count("notes") == 40

    async def test_writes_of_nothing(self, notes: VectorStore) -> None:
        assert await notes.insert("notes", []) == 0
        assert await notes.upsert("notes", iter([])) == 0
        assert await notes.delete("notes", []) == 0
        assert await notes.update("notes", {"year": 1}, ids=[]) == 0
        assert await notes.count("notes") == 10

    async def test_a_call_of_many_rows(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        assert await store.insert("notes", small_rows(3_000)) == 3_000
        assert await store.count("notes") == 3_000
        assert await store.count("notes", "year >= 1500") == 1_500

    async def test_rows_survive_reopening(self, tmp_path: Path) -> None:
        self.need_persistence()
        rows = rows_of_every_kind(30)
        async with await self.open(tmp_path) as store:
            await store.create_table("notes", EVERY_KIND)
            await store.insert("notes", rows)
            await store.delete("notes", "r0000")
            await store.update("notes", {"name": "changed", "kind": 5}, ids="r0001")
        rows = rows[1:]
        rows[0] |= {"name": "changed", "kind": 5}
        async with await self.open(tmp_path) as store:
            assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, EVERY_KIND)
            assert await store.count("notes") == 29
            hits = await store.search("notes", rows[5]["embedding"], limit=1)
            assert ids_of(hits) == [rows[5]["id"]]

    async def test_another_store_sees_a_write_when_it_returned(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with await self.open(tmp_path) as one, await self.open(tmp_path) as two:
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
        schema = Schema(
            DIM,
            fields={
                "text": str,
                "indexed": Field(str, index="btree"),
                "part": Field(str, partition=True),
                "list": list[str],
            },
        )
        await store.create_table("notes", schema)
        rows = [
            {
                "id": f"r{n:03}",
                "embedding": vector,
                "text": text,
                "indexed": text,
                "part": text,
                "list": [text, "x", text],
                "extra": text,
                f"key {text}": {text: [text]},
            }
            for n, (text, vector) in enumerate(
                zip(HOSTILE_TEXTS, vectors(len(HOSTILE_TEXTS)), strict=True)
            )
        ]
        assert await store.insert("notes", rows) == len(rows)
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, schema)
        for row in rows:
            for name in ("text", "indexed", "part"):
                found = await store.find("notes", F[name] == row["text"])
                assert ids_of(found) == [row["id"]], f"{name} = {row['text']!r:.40}"
            assert ids_of(await store.find("notes", F.list.contains(row["text"]))) == (
                [row["id"]] if row["text"] != "x" else [r["id"] for r in rows]
            )
            assert ids_of(await store.find("notes", F.payload["extra"] == row["text"])) == [
                row["id"]
            ]
            hits = await store.search("notes", row["embedding"], where=F.part == row["text"])
            assert ids_of(hits) == [row["id"]]

    # Payload

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

    async def test_without_payload_other_keys_are_refused(self, store: VectorStore) -> None:
        await store.create_table("notes", Schema(DIM, fields={"a": str}, payload=False))
        await store.insert("notes", [{"id": "x", "embedding": GOOD, "a": "y"}])
        with pytest.raises(InvalidRowError) as caught:
            await store.insert("notes", [{"id": "z", "embedding": GOOD, "b": 1}])
        assert (caught.value.row, caught.value.id, caught.value.field) == (0, "z", "b")
        with pytest.raises(InvalidRowError) as caught:
            await store.update("notes", {"b": 1}, where="TRUE")
        assert caught.value.field == "b"
        assert ids_of(await store.find("notes")) == ["x"]

    # Bad rows

    async def test_a_bad_row_in_the_middle_keeps_nothing(self, store: VectorStore) -> None:
        await self.table(store, EVERY_KIND, small_rows(3))
        before = await store.find("notes", select=["embedding", "name", "year"])
        for name, (row, error) in BAD_ROWS.items():
            rows = [*small_rows(5, start=10), row, *small_rows(5, start=20)]
            replacing = [*small_rows(2, name="replaced"), row]
            with case(name):
                for write, given in ((store.insert, rows), (store.upsert, replacing)):
                    with pytest.raises(error) as caught:
                        await write("notes", given)
                    self._check_told(caught.value, row, given.index(row))
                after = await store.find("notes", select=["embedding", "name", "year"])
                assert after == before

    async def test_whole_numbers_in_fields_of_floats(self, store: VectorStore) -> None:
        """They are kept as they are, or refused: a float would round them."""
        schema = Schema(DIM, fields={"score": float, "scores": list[float]})
        await store.create_table("notes", schema)
        kept = [0, -7, 2**53, 10**22, -(2**1023), np.int64(2**62), np.uint8(255), 0.1, None]
        rows = [
            {
                "id": f"{n}",
                "embedding": GOOD,
                "score": value,
                "scores": None if value is None else [value],
            }
            for n, value in enumerate(kept)
        ]
        await store.insert("notes", rows)
        found = await store.find("notes", order_by="id")
        assert [row["score"] for row in found] == kept
        assert [row["scores"] for row in found] == [None if v is None else [v] for v in kept]
        before = await store.find("notes")
        for number in (2**53 + 1, np.int64(2**53 + 1), 10**23 + 1, 10**400):
            changes: list[dict[str, Any]] = [{"score": number}, {"scores": [1.5, number]}]
            for change in changes:
                with case(change), pytest.raises(InvalidRowError) as caught:
                    await store.update("notes", change, ids="1")
                assert caught.value.field in change
        assert await store.find("notes") == before

    @staticmethod
    def _check_told(error: Exception, row: dict[str, Any], place: int) -> None:
        """The error names the row, its id where there is one, and the field that is wrong."""
        assert isinstance(error, ValueError)
        facts = vars(error)
        assert facts["row"] == place
        if isinstance(row.get("id"), str):
            assert facts["id"] == row["id"]
        if isinstance(error, InvalidRowError):
            others = [name for name in row if name not in ("id", "embedding")]
            assert facts["field"] == (others[0] if others else "id")

    async def test_wrong_lengths_are_told(self, notes: VectorStore) -> None:
        with pytest.raises(DimensionMismatchError) as caught:
            await notes.insert("notes", [{"id": "x", "embedding": [1.0] * 7}])
        assert (caught.value.expected, caught.value.given) == (DIM, 7)
        columns = {"id": ["x", "y"], "embedding": np.ones((2, 3), dtype=np.float32)}
        with pytest.raises(DimensionMismatchError) as caught:
            await notes.insert("notes", columns)
        assert (caught.value.expected, caught.value.given) == (DIM, 3)

    @pytest.mark.parametrize("metric", ["l2", "dot"])
    async def test_a_zero_vector_is_fine_without_cosine(
        self, store: VectorStore, metric: Any
    ) -> None:
        await store.create_table("notes", Schema(DIM, metric=metric))
        await store.insert("notes", [{"id": "zero", "embedding": [0.0] * DIM}])
        hits = await store.search("notes", [0.0] * DIM)
        assert [(hit.id, hit.distance) for hit in hits] == [("zero", 0.0)]

    async def test_fields_that_must_not_be_null(self, store: VectorStore) -> None:
        schema = Schema(
            DIM,
            fields={
                "a": Field(str, nullable=False),
                "tags": Field(list[str], nullable=False),
                "part": Field(int, partition=True, nullable=False),
            },
        )
        good = {"id": "good", "embedding": GOOD, "a": "", "tags": [], "part": 0}
        await self.table(store, schema, [good])
        for name in schema.fields:
            for row in ({**good, "id": "x", name: None}, {**good, "id": "x"}):
                if row[name] is not None:
                    del row[name]
                with pytest.raises(InvalidRowError) as caught:
                    await store.insert("notes", [{**good, "id": "w"}, row])
                assert (caught.value.row, caught.value.id, caught.value.field) == (1, "x", name)
            with pytest.raises(InvalidRowError) as caught:
                await store.update("notes", {name: None}, where="TRUE")
            assert caught.value.field == name
        assert_same_rows(await store.get("notes", ["good", "w", "x"]), [good], schema)

    # Duplicates

    async def test_insert_refuses_an_id_that_exists(self, notes: VectorStore) -> None:
        rows = small_rows(5, start=8)  # r0008 and r0009 are there
        with pytest.raises(DuplicateIdError) as caught:
            await notes.insert("notes", rows)
        assert caught.value.table == "notes"
        assert caught.value.ids
        assert set(caught.value.ids) <= {"r0008", "r0009"}
        assert not caught.value.within_call
        assert await notes.count("notes") == 10

    async def test_insert_refuses_an_id_twice_in_a_call(self, notes: VectorStore) -> None:
        rows = [*small_rows(3, start=20), *small_rows(1, start=21)]
        with pytest.raises(DuplicateIdError) as caught:
            await notes.insert("notes", rows)
        assert caught.value.ids == ["r0021"]
        assert caught.value.within_call
        assert await notes.count("notes") == 10

    async def test_an_id_can_come_back_after_its_row_was_deleted(self, notes: VectorStore) -> None:
        for turn in range(3):
            assert await notes.delete("notes", "r0003") == 1
            row = {"id": "r0003", "embedding": GOOD, "name": f"turn {turn}"}
            assert await notes.insert("notes", [row]) == 1
            assert_same_rows(await notes.get("notes", "r0003"), [row], SMALL)
        assert ids_of(await notes.search("notes", GOOD, limit=1)) == ["r0003"]

    # Upsert

    async def test_upsert_replaces_whole_rows(self, store: VectorStore) -> None:
        await self.table(store, EVERY_KIND, rows_of_every_kind(6))
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

    async def test_upsert_moves_a_row_between_partitions(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"part": Field(str, partition=True)})
        row = {"id": "x", "embedding": GOOD, "part": "a"}
        await self.table(store, schema, [row])
        for part in ("b", None, "", "a"):
            await store.upsert("notes", [{**row, "part": part}])
            where = F.part.is_null() if part is None else F.part == part
            assert ids_of(await store.search("notes", GOOD, where=where)) == ["x"]
            assert ids_of(await store.search("notes", GOOD, where=~where)) == []
            assert await store.count("notes") == 1

    # Update

    async def test_update_sets_fields_and_keeps_the_rest(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(10)
        await self.table(store, EVERY_KIND, rows)
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

    async def test_every_row_is_meant_only_where_that_is_said(self, notes: VectorStore) -> None:
        """B23: a forgotten ``where`` changes nothing."""
        before = await notes.find("notes")
        everything: Any = None
        with pytest.raises(InvalidArgumentError, match="'TRUE'"):
            await notes.update("notes", {"name": "x"})
        with pytest.raises(InvalidArgumentError, match="'TRUE'"):
            await notes.table("notes").update({"name": "x"}, ids=None, where=None)
        with pytest.raises(InvalidArgumentError, match="'TRUE'"):
            await notes.delete_where("notes", everything)
        assert await notes.update("notes", {"name": "x"}, ids=[]) == 0
        assert await notes.find("notes") == before

    async def test_update_reads_its_filter_before_it_writes(self, notes: VectorStore) -> None:
        assert await notes.update("notes", {"year": 100}, where="year < 5") == 5
        assert await notes.count("notes", "year = 100") == 5
        assert await notes.update("notes", {"year": 3}, where="year = 100") == 5

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
        await self.table(store, schema, [{"id": "a", "embedding": GOOD}])
        for number in (float("inf"), float("-inf")):
            assert await store.update("notes", {"x": number, "many": [1.0, number]}, ids="a") == 1
            (record,) = await store.get("notes", "a")
            assert (record["x"], record["many"]) == (number, [1.0, number])

    async def test_payloads_of_other_libraries(self, store: VectorStore) -> None:
        """Readers of YAML and XML give dicts and lists of classes of their own."""
        made = [datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)]
        payload: dict[str, Any] = {
            "ordered": OrderedDict(b=1, a=OrderedDict(c=UserItems([OrderedDict(d=2)]))),
            "default": defaultdict(list, a=[1]),
            "count": Counter("aab"),
            "made": made,
        }
        await store.create_table("notes", SMALL)
        row = {"id": "a", "embedding": GOOD}
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
            assert ids_of(await store.search("notes", GOOD, limit=one)) == ["a"]
        for one in (np.bool_(True), np.float64(1)):
            with pytest.raises(InvalidArgumentError, match="a whole number"):
                await store.find("notes", limit=one)

    async def test_update_moves_a_row_between_partitions(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"part": Field(str, partition=True), "n": int})
        rows = [
            {"id": f"r{n}", "embedding": vector, "part": "ab"[n % 2], "n": n}
            for n, vector in enumerate(vectors(8))
        ]
        await self.table(store, schema, rows)
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

    async def test_update_keeps_vectors(self, notes: VectorStore) -> None:
        vector = small_rows(10)[4]["embedding"]
        await notes.update("notes", {"name": "x", "year": None, "p": 1}, where="TRUE")
        (hit,) = await notes.search("notes", vector, limit=1, include_vector=True)
        assert hit.id == "r0004"
        assert hit.vector is not None
        assert np.array_equal(hit.vector, vector)

    async def test_a_bad_update_changes_nothing(self, notes: VectorStore) -> None:
        before = await notes.find("notes")
        changes: list[tuple[dict[str, Any], str]] = [
            ({"name": "ok", "year": "x"}, "year"),
            ({"name": 5}, "name"),
            ({"name": "ok", "extra": object()}, "extra"),
            ({"id": "other"}, "id"),
            ({"embedding": GOOD}, "embedding"),
        ]
        for change, field in changes:
            with pytest.raises(InvalidRowError) as caught:
                await notes.update("notes", change, where="TRUE")
            assert caught.value.field == field
            assert ("set_vectors" in str(caught.value)) == (field == "embedding")
        wrong: Any
        for wrong in ({}, None, [("name", "x")]):
            with pytest.raises(InvalidArgumentError):
                await notes.update("notes", wrong, where="TRUE")
        assert await notes.find("notes") == before

    # Delete

    async def test_delete_counts_the_rows_that_were_there(self, notes: VectorStore) -> None:
        assert await notes.delete("notes", "r0000") == 1
        assert await notes.delete("notes", "r0000") == 0
        assert await notes.delete("notes", ["r0000", "r0001", "r0001", "absent", ""]) == 1
        assert await notes.delete("notes", (f"r000{n}" for n in range(5))) == 3
        assert ids_of(await notes.find("notes")) == [f"r000{n}" for n in range(5, 10)]
        assert len(await notes.search("notes", GOOD, limit=50)) == 5

    async def test_delete_of_many_ids(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(2_500))
        with own_work():
            ids = [f"r{n:04}" for n in range(0, 40_000, 2)]
        assert await store.delete("notes", ids) == 1_250
        assert await store.count("notes") == 1_250

    async def test_delete_where(self, notes: VectorStore) -> None:
        assert await notes.delete_where("notes", "year BETWEEN 2 AND 4") == 3
        assert await notes.delete_where("notes", F.year == 3) == 0
        assert await notes.delete_where("notes", F.id.in_(["r0000", "r0002"])) == 1
        assert ids_of(await notes.find("notes")) == ["r0001"] + [f"r000{n}" for n in range(5, 10)]
        assert await notes.delete_where("notes", "TRUE") == 6
        assert await notes.search("notes", GOOD) == []

    async def test_delete_where_wants_a_filter(self, notes: VectorStore) -> None:
        wrong: Any = None
        with pytest.raises(InvalidArgumentError):
            await notes.delete_where("notes", wrong)
        assert await notes.count("notes") == 10

    async def test_what_is_no_id_is_refused(self, notes: VectorStore) -> None:
        wrong: Any
        for wrong in (1.5, True, [1.5], [True], [None], {"r0001": 1}, b"r0001", None):
            with pytest.raises(InvalidArgumentError):
                await notes.delete("notes", wrong)
            with pytest.raises(InvalidArgumentError):
                await notes.get("notes", wrong)
        assert await notes.count("notes") == 10

    # Iterables

    async def test_an_iterable_is_read_to_its_end_before_the_write(
        self, notes: VectorStore
    ) -> None:
        seen = []

        async def rows() -> AsyncIterator[dict[str, Any]]:
            for row in small_rows(300, start=100):
                if row["year"] % 50 == 0:
                    seen.append(await notes.count("notes"))
                yield row

        assert await notes.insert("notes", rows()) == 300
        assert seen == [10] * len(seen)
        assert await notes.count("notes") == 310

    async def test_an_iterable_that_fails_writes_nothing(self, notes: VectorStore) -> None:
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
