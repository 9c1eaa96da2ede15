"""Tables: creating, altering, dropping them, and their names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    ids_of,
    small_rows,
    vectors,
)

from aiovec import Embed, Field, Schema, VectorStore
from aiovec._core.schema import Index
from aiovec.errors import (
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    ModelMismatchError,
    SchemaMismatchError,
    TableExistsError,
    TableNotFoundError,
    UnsupportedError,
)

SCHEMAS = {
    "plain": Schema(DIM),
    "every kind": EVERY_KIND,
    "l2": Schema(3, metric="l2"),
    "dot": Schema(1, metric="dot"),
    "model": Schema(DIM, model="nomic-embed-text ünï"),
    "vector's name": Schema(DIM, vector="Vector_1"),
    "no payload": Schema(DIM, payload=False, fields={"a": str}),
    "analyzer": Schema(DIM, analyzer="ngram", fields={"body": Field(str, text=True)}),
    "quantized": Schema(16, quantized="bit"),
    "options": Schema(
        DIM,
        fields={
            "tenant": Field(str, partition=True, nullable=False),
            "shard": Field(int, partition=True),
            "p3": Field(str, partition=True),
            "p4": Field(int, partition=True, index="btree"),
            "lang": Field(str, index="bitmap"),
            "year": Field(int, index="btree", nullable=False),
            "seen": Field(datetime, index="btree"),
            "live": Field(bool, index="bitmap"),
            "score": Field(float, index="btree"),
            "body": Field(str, text=True, index="btree"),
            "tags": Field(list[str], nullable=False),
        },
    ),
    "context": Schema.context_vectors(12),
}

INDEXES: tuple[Index, ...] = ("btree", "bitmap")
"""The kinds that a field of any type but lists may have."""

NAMES_ALLOWED = (
    "a", "z9", "a-b", "a_b", "a--", "a" * 63, "select", "table", "index", "rows", "vec", "main",
    "temp", "sqlite", "sqlite_master", "sqlite_x", "aiovec", "meta", "notes-vec", "notes_rows",
)  # fmt: skip
NAMES_REFUSED = (
    "", "A", "1a", "_a", "-a", "a" * 64, "a b", "a.b", "a/b", "..", "é", "a\n", "a\0", "a;", 'a"',
    "a'", None, 1, b"a",
)  # fmt: skip

On = Callable[[VectorStore, str], Awaitable[Any]]


async def _drain(store: VectorStore, table: str) -> None:
    async for _ in store.export(table):
        pass


CALLS: dict[str, On] = {
    "schema": lambda s, t: s.schema(t),
    "add_field": lambda s, t: s.add_field(t, "extra", Field(str)),
    "create_field_index": lambda s, t: s.create_field_index(t, "year", "btree"),
    "drop_field_index": lambda s, t: s.drop_field_index(t, "year"),
    "rename_field": lambda s, t: s.rename_field(t, "extra", "more"),
    "drop_field": lambda s, t: s.drop_field(t, "more"),
    "drop_table": lambda s, t: s.drop_table(t),
    "insert": lambda s, t: s.insert(t, small_rows(1)),
    "insert nothing": lambda s, t: s.insert(t, []),
    "upsert": lambda s, t: s.upsert(t, small_rows(1)),
    "update": lambda s, t: s.update(t, {"year": 1}, where="TRUE"),
    "delete": lambda s, t: s.delete(t, "r0000"),
    "delete nothing": lambda s, t: s.delete(t, []),
    "delete_where": lambda s, t: s.delete_where(t, "TRUE"),
    "get": lambda s, t: s.get(t, "r0000"),
    "find": lambda s, t: s.find(t),
    "search": lambda s, t: s.search(t, [1.0] * DIM),
    "search_many": lambda s, t: s.search_many(t, [[1.0] * DIM]),
    "export": _drain,
    "count": lambda s, t: s.count(t),
    "distinct": lambda s, t: s.distinct(t, "year"),
    "bounds": lambda s, t: s.bounds(t, "year"),
    "stats": lambda s, t: s.stats(t),
    "optimize": lambda s, t: s.optimize(t),
}
"""A good call of every method that takes a table and that every backend has, good in this order."""


class TablesContract(ContractBase):
    """Creating, altering and dropping tables and fields, ``tables``, ``schema`` and ``table``."""

    async def test_a_new_store_has_no_tables(self, store: VectorStore) -> None:
        assert await store.tables() == []

    async def test_tables_are_listed_sorted(self, store: VectorStore) -> None:
        for name in ("b", "a", "c-1", "c"):
            await store.create_table(name, SMALL)
        assert await store.tables() == ["a", "b", "c", "c-1"]

    @pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
    async def test_a_schema_comes_back_as_it_was(self, store: VectorStore, schema: Schema) -> None:
        if self.refuses(store, schema):
            for exist_ok in (False, True):
                with pytest.raises(UnsupportedError) as caught:
                    await store.create_table("notes", schema, exist_ok=exist_ok)
                assert caught.value.ability == "quantized"
            assert await store.tables() == []
        await self.create(store, "notes", schema)
        assert await store.schema("notes") == schema
        assert await store.count("notes") == 0
        await store.create_table("notes", schema, exist_ok=True)

    async def test_schemas_survive_reopening(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with await self.open(tmp_path) as store:
            for number, schema in enumerate(SCHEMAS.values()):
                await self.create(store, f"t{number}", schema)
        async with await self.open(tmp_path) as store:
            for number, schema in enumerate(SCHEMAS.values()):
                assert await store.schema(f"t{number}") == schema

    async def test_without_a_schema_it_is_context_vectors(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path, dim=5) as store:
            await store.create_table("notes")
            assert await store.schema("notes") == Schema.context_vectors(5)

    async def test_a_schema_is_a_schema(self, store: VectorStore) -> None:
        wrong: Any = {"dim": 4}
        with pytest.raises(InvalidArgumentError):
            await store.create_table("notes", wrong)
        assert await store.tables() == []

    async def test_a_table_that_exists_is_refused(self, notes: VectorStore) -> None:
        with pytest.raises(TableExistsError) as caught:
            await notes.create_table("notes", SMALL)
        assert caught.value.table == "notes"
        assert await notes.count("notes") == 10

    async def test_exist_ok_keeps_the_table(self, notes: VectorStore) -> None:
        await notes.create_table("notes", SMALL, exist_ok=True)
        assert await notes.count("notes") == 10

    async def test_exist_ok_refuses_another_schema(self, notes: VectorStore) -> None:
        for other in (
            Schema(DIM + 1, fields=SMALL.fields),
            Schema(DIM, metric="l2", fields=SMALL.fields),
            Schema(DIM, fields={**SMALL.fields, "more": str}),
            Schema(DIM, fields={"name": str}),
            Schema(DIM, fields={"name": str, "year": float}),
            Schema(DIM, fields=SMALL.fields, vector="v"),
            Schema(DIM, fields=SMALL.fields, payload=False),
        ):
            with pytest.raises(SchemaMismatchError) as caught:
                await notes.create_table("notes", other, exist_ok=True)
            assert caught.value.table == "notes"
            assert caught.value.differences
        assert await notes.schema("notes") == SMALL

    async def test_exist_ok_refuses_another_model(self, store: VectorStore) -> None:
        await store.create_table("notes", Schema(DIM, model="one"))
        with pytest.raises(ModelMismatchError) as caught:
            await store.create_table("notes", Schema(DIM, model="two"), exist_ok=True)
        assert (caught.value.table, caught.value.expected, caught.value.given) == (
            "notes", "one", "two",
        )  # fmt: skip

    async def test_of_creators_at_once_one_wins(self, store: VectorStore) -> None:
        tries = (store.create_table("notes", SMALL) for _ in range(8))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sorted(type(o).__name__ for o in outcomes) == ["NoneType"] + ["TableExistsError"] * 7

    async def test_creators_at_once_with_exist_ok_all_succeed(self, store: VectorStore) -> None:
        await asyncio.gather(*(store.create_table("notes", SMALL, exist_ok=True) for _ in range(8)))
        assert await store.tables() == ["notes"]

    # Dropping

    async def test_a_dropped_table_is_gone(self, notes: VectorStore) -> None:
        await notes.create_table("other", SMALL)
        await notes.drop_table("notes")
        assert await notes.tables() == ["other"]
        with pytest.raises(TableNotFoundError):
            await notes.count("notes")

    async def test_dropping_a_missing_table(self, store: VectorStore) -> None:
        with pytest.raises(TableNotFoundError):
            await store.drop_table("notes")
        await store.drop_table("notes", missing_ok=True)

    async def test_a_table_made_anew_is_empty_and_may_differ(self, notes: VectorStore) -> None:
        await notes.drop_table("notes")
        other = Schema(3, metric="l2", fields={"name": int})
        await notes.create_table("notes", other)
        assert await notes.schema("notes") == other
        assert await notes.find("notes") == []
        row = {"id": "r0000", "embedding": [1, 2, 3], "name": 7}
        await notes.insert("notes", [row])
        assert_same_rows(await notes.get("notes", "r0000"), [row], other)

    # Missing tables and names

    async def test_every_method_tells_a_missing_table(self, store: VectorStore) -> None:
        await store.create_table("there", SMALL)
        for name, call in CALLS.items():
            with case(name):
                with pytest.raises(TableNotFoundError) as caught:
                    await call(store, "notes")
                assert caught.value.table == "notes"
                assert caught.value.tables == ["there"]

    async def test_every_method_refuses_a_bad_table_name(self, store: VectorStore) -> None:
        for name, call in CALLS.items():
            with case(name):
                with pytest.raises(InvalidNameError) as caught:
                    await call(store, "No Table")
                assert (caught.value.name, caught.value.kind) == ("No Table", "table")

    async def test_table_names_that_are_allowed(self, store: VectorStore) -> None:
        for number, name in enumerate(NAMES_ALLOWED):
            await store.create_table(name, SMALL)
            await store.insert(name, small_rows(number + 1))
        assert await store.tables() == sorted(NAMES_ALLOWED)
        for number, name in enumerate(NAMES_ALLOWED):
            assert await store.count(name) == number + 1
        for name in NAMES_ALLOWED:
            await store.drop_table(name)
        assert await store.tables() == []

    async def test_table_names_that_are_refused(self, store: VectorStore) -> None:
        for name in NAMES_REFUSED:
            wrong: Any = name
            with pytest.raises(InvalidNameError):
                await store.create_table(wrong, SMALL)
            with pytest.raises(InvalidNameError):
                store.table(wrong)
        assert await store.tables() == []

    # Adding fields

    @pytest.mark.parametrize(
        ("field", "value", "where"),
        [
            (Field(str), "x", "added = 'x'"),
            (Field(str, index="btree"), "x", "added LIKE 'x%'"),
            (Field(str, index="bitmap"), "x", "added IN ('x')"),
            (Field(int, index="btree"), 7, "added > 6"),
            (Field(float), 0.5, "added <= 0.5"),
            (Field(bool, index="bitmap"), True, "added"),
            (
                Field(datetime, index="btree"),
                datetime.fromisoformat("2024-05-06T07:08:09.123456+00:00"),
                "added > TIMESTAMP '2024-01-01T00:00:00Z'",
            ),
            (Field(list[str]), ["x", "y"], "added CONTAINS 'y'"),
        ],
        ids=lambda part: repr(part) if isinstance(part, Field) else "",
    )
    async def test_an_added_field(
        self, notes: VectorStore, field: Field, value: Any, where: str
    ) -> None:
        await notes.add_field("notes", "added", field)
        assert (await notes.schema("notes")).fields == {**SMALL.fields, "added": field}
        assert await notes.count("notes", "added IS NULL") == 10
        assert [r["added"] for r in await notes.find("notes")] == [None] * 10
        await notes.update("notes", {"added": value}, ids="r0003")
        row = {"id": "new", "embedding": vectors(1)[0], "added": value}
        await notes.insert("notes", [row])
        assert ids_of(await notes.find("notes", where)) == ["new", "r0003"]
        hits = await notes.search("notes", vectors(1)[0], where=where, limit=5)
        assert sorted(ids_of(hits)) == ["new", "r0003"]
        assert all(hit["added"] == value for hit in hits)

    async def test_a_field_can_be_given_as_a_type(self, notes: VectorStore) -> None:
        await notes.add_field("notes", "added", int)
        assert (await notes.schema("notes")).fields["added"] == Field(int)

    async def test_an_added_field_must_be_nullable_and_no_partition(
        self, notes: VectorStore
    ) -> None:
        for field in (Field(str, nullable=False), Field(str, partition=True)):
            with pytest.raises(InvalidArgumentError):
                await notes.add_field("notes", "added", field)
        assert await notes.schema("notes") == SMALL

    async def test_an_added_fields_name_is_checked(self, notes: VectorStore) -> None:
        for name in ("id", "ID", "payload", "embedding", "Embedding", "name", "NAME", "1x", "a b"):
            with pytest.raises(InvalidNameError) as caught:
                await notes.add_field("notes", name, Field(str))
            assert caught.value.name == name
        assert await notes.schema("notes") == SMALL

    async def test_an_added_field_hides_a_payload_key_of_its_name(self, notes: VectorStore) -> None:
        await notes.update("notes", {"added": "payload", "kept": 1}, ids="r0001")
        await notes.add_field("notes", "added", Field(str))
        (record,) = await notes.get("notes", "r0001")
        assert (record["added"], record["kept"]) == (None, 1)
        assert await notes.count("notes", "added IS NULL") == 10
        for select in (["payload"], ["payload", "year"]):
            (record,) = await notes.find("notes", "id = 'r0001'", select=select)
            assert (record.get("added", "hidden"), record["kept"]) == ("hidden", 1)
        (record,) = await notes.get("notes", "r0001", select=["payload", "payload.added"])
        assert (record["added"], record["kept"]) == ("payload", 1)
        (record,) = await notes.get("notes", "r0001", select=["payload.added"])
        assert record.fields == {"added": "payload"}
        await notes.drop_field("notes", "added")
        (record,) = await notes.get("notes", "r0001")
        assert record["added"] == "payload"

    async def test_of_adders_at_once_one_wins(self, notes: VectorStore) -> None:
        tries = (notes.add_field("notes", "added", Field(str)) for _ in range(5))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sorted(type(o).__name__ for o in outcomes) == ["InvalidNameError"] * 4 + ["NoneType"]
        assert list((await notes.schema("notes")).fields) == ["name", "year", "added"]

    # Dropping and renaming fields

    async def test_a_dropped_field_is_gone(self, store: VectorStore) -> None:
        schema = Schema(
            DIM,
            fields={
                "a": Field(str, index="btree"), "b": Field(int, nullable=False), "tags": list[str],
                "c": Field(float, index="bitmap"),
            },
        )  # fmt: skip
        rows = [
            {"id": f"r{n}", "embedding": v, "a": "x", "b": n, "tags": ["t"], "c": 0.5}
            for n, v in enumerate(vectors(20))
        ]
        await self.table(store, schema, rows)
        for name in ("b", "a", "tags"):
            await store.drop_field("notes", name)
            assert name not in (await store.schema("notes")).fields
            with pytest.raises(FilterError):
                await store.count("notes", f"{name} IS NULL")
            with pytest.raises(InvalidArgumentError):
                await store.drop_field("notes", name)
        assert await store.schema("notes") == Schema(
            DIM, fields={"c": Field(float, index="bitmap")}
        )
        kept = [{name: row[name] for name in ("id", "embedding", "c")} for row in rows]
        new = {"id": "new", "embedding": vectors(1)[0], "c": 1.5, "b": "in the payload"}
        await store.insert("notes", [new])
        await store.optimize("notes")
        found = await store.get("notes", [*(row["id"] for row in rows), "new"])
        assert_same_rows(found, [*kept, new], await store.schema("notes"))
        assert len(await store.search("notes", vectors(1)[0], where="c = 0.5", limit=30)) == 20
        await store.add_field("notes", "a", Field(int, index="btree"))
        assert [r["a"] for r in await store.find("notes", limit=3)] == [None] * 3
        await store.update("notes", {"a": 7}, ids="r3")
        assert ids_of(await store.find("notes", "a = 7")) == ["r3"]

    async def test_a_renamed_field_keeps_values_and_place(self, store: VectorStore) -> None:
        await self.create(store, "notes", SCHEMAS["options"])
        fields = dict((await store.schema("notes")).fields)
        values: dict[str, Any] = {
            "tenant": "t", "shard": 1, "lang": "de", "year": 3, "live": True, "score": 0.5,
            "body": "text", "tags": ["x"], "seen": datetime.fromisoformat("2024-05-06T07:08:09Z"),
        }  # fmt: skip
        await store.insert("notes", [{"id": "r", "embedding": vectors(1)[0], **values}])
        for old in list(fields):
            new = f"{old.upper()}_new"
            await store.rename_field("notes", old, new)
            fields = {new if name == old else name: field for name, field in fields.items()}
            schema = await store.schema("notes")
            assert list(schema.fields.items()) == list(fields.items())
            (record,) = await store.find("notes", f"{new} IS NOT NULL" if old in values else None)
            assert record.get(new) == values.get(old)
            await store.rename_field("notes", new, new.lower())  # in which case alone differs
            fields = {new.lower() if n == new else n: field for n, field in fields.items()}
            if old not in ("tenant", "year", "tags"):
                await store.update("notes", {new.lower(): values.get(old)}, where="TRUE")
        assert list((await store.schema("notes")).fields) == list(fields)
        await store.add_field("notes", "lang", Field(str, index="bitmap"))
        assert await store.count("notes", "lang_new = 'de' AND lang IS NULL") == 1
        hits = await store.search("notes", vectors(1)[0], where="tenant_new = 't'")
        assert [hit["shard_new"] for hit in hits] == [1]

    async def test_the_embedded_field_is_renamed_and_stays(self, store: VectorStore) -> None:
        embed = Embed("body", using="mine")
        await store.create_table("notes", Schema(DIM, fields={"body": str, "a": str}, embed=embed))
        for new in ("text_1", "Text_1", "words"):
            (old,) = [name for name in (await store.schema("notes")).fields if name != "a"]
            await store.rename_field("notes", old, new)
            schema = await store.schema("notes")
            assert (schema.embed, list(schema.fields)) == (replace(embed, field=new), [new, "a"])
        await store.add_field("notes", "body", str)
        with pytest.raises(InvalidArgumentError):
            await store.drop_field("notes", "words")
        await store.rename_field("notes", "body", "other")
        assert (await store.schema("notes")).embed == replace(embed, field="words")

    async def test_keyword_search_follows_dropped_and_renamed_fields(
        self, store: VectorStore
    ) -> None:
        if not store.supports("text"):
            pytest.skip(f"the {store.backend_name} backend does not support 'text'")
        text = Field(str, text=True)
        await store.create_table("notes", Schema(DIM, fields={"a": text, "b": text, "c": str}))
        rows = [
            {"id": f"r{n}", "embedding": v, "a": f"apple {n}", "b": f"pear {n}", "c": f"plum {n}"}
            for n, v in enumerate(vectors(30))
        ]
        await store.insert("notes", rows)

        async def found(query: str, table: str = "notes") -> int:
            return len(await store.search_text(table, query, limit=50))

        assert (await found("apple"), await found("pear")) == (30, 30)
        await store.rename_field("notes", "a", "fruit")
        assert (await found("apple"), await found("fruit:apple 7"), await found("pear")) == (
            30, 1, 30,
        )  # fmt: skip
        await store.update("notes", {"fruit": "cherry"}, ids="r0")
        assert (await found("cherry"), await found("apple")) == (1, 29)
        await store.rename_field("notes", "c", "a")
        await store.create_field_index("notes", "a", "text")
        assert (await found("plum"), await found("a:plum 3"), await found("fruit:plum")) == (
            30, 1, 0,
        )  # fmt: skip
        await store.drop_field("notes", "fruit")
        assert (await found("cherry"), await found("pear"), await found("plum")) == (0, 30, 30)
        await store.insert("notes", [{"id": "new", "embedding": vectors(1)[0], "b": "pear"}])
        await store.optimize("notes")
        assert await found("pear") == 31
        if self.renames_tables:
            await store.rename_table("notes", "other")
            assert (await found("pear", "other"), await found("plum", "other")) == (31, 30)
            await store.create_table("notes", Schema(DIM, fields={"b": text}))
            await store.insert("notes", [{"id": "x", "embedding": vectors(1)[0], "b": "pear"}])
            assert (await found("pear"), await found("pear", "other")) == (1, 31)
            await store.delete("other", "new")
            await store.drop_table("notes")
            assert await found("pear", "other") == 30

    async def test_what_no_field_can_become_is_refused(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"name": str, "year": int, "part": Field(str, partition=True)})
        await self.table(store, schema, small_rows(3))
        refused: list[Any] = [
            "id", "payload", "embedding", "YEAR", "year", "1x", "a b", "", None, 5, "x" * 64, 'a"b',
        ]  # fmt: skip
        for new in refused:
            with pytest.raises(InvalidNameError):
                await store.rename_field("notes", "name", new)
        unknown: list[Any] = [
            "none",
            "id",
            "embedding",
            "payload",
            "payload.x",
            "Name",
            None,
            5,
            [],
        ]
        for old in unknown:
            with pytest.raises(InvalidArgumentError):
                await store.rename_field("notes", old, "new")
            with pytest.raises(InvalidArgumentError):
                await store.drop_field("notes", old)
        with pytest.raises(InvalidArgumentError):
            await store.drop_field("notes", "part")
        assert await store.schema("notes") == schema

    async def test_an_export_goes_on_while_a_field_is_dropped(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(200))
        batches = store.export("notes", batch_size=10)
        read = [await anext(batches)]
        await store.rename_field("notes", "year", "when")
        await store.drop_field("notes", "name")
        read += [batch async for batch in batches]
        years = [year for batch in read for year in batch.column("year").to_pylist()]
        assert sorted(years) == list(range(200))
        assert await store.count("notes", "when >= 0") == 200

    async def test_fields_change_while_rows_come_and_are_read(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(300))
        ended = asyncio.Event()

        async def write() -> int:
            done = 0
            while not ended.is_set():
                row = {"id": f"new{done}", "embedding": vectors(1)[0], "name": "w"}
                done += await store.insert("notes", [row])
            return done

        async def read() -> None:
            while not ended.is_set():
                assert len(await store.search("notes", vectors(1)[0], where="name = 'n'")) == 10
                assert len(await store.find("notes", "name = 'n'", limit=7)) == 7

        tasks = [asyncio.ensure_future(write()), asyncio.ensure_future(read())]
        try:
            for number in range(4):
                await store.rename_field("notes", "year", "when")
                await store.add_field("notes", f"more{number}", Field(str, index="btree"))
                await store.rename_field("notes", "when", "year")
                await store.drop_field("notes", f"more{number}")
        finally:
            ended.set()
            written, _ = await asyncio.gather(*tasks)
        assert await store.schema("notes") == SMALL
        assert await store.count("notes") == 300 + (written or 0)

    # Renaming tables

    async def test_a_renamed_table_keeps_its_rows(self, notes: VectorStore) -> None:
        before = await notes.find("notes")
        if not self.renames_tables:
            with pytest.raises(UnsupportedError):
                await notes.rename_table("notes", "other")
            assert await notes.find("notes") == before
            return
        await notes.create_field_index("notes", "year", "btree")
        await notes.rename_table("notes", "other")
        assert await notes.tables() == ["other"]
        with pytest.raises(TableNotFoundError):
            await notes.count("notes")
        assert await notes.find("other") == before
        assert len(await notes.search("other", vectors(1)[0], limit=30)) == 10
        await notes.create_table("notes", SMALL)
        await notes.insert("notes", small_rows(3))
        await notes.create_field_index("notes", "year", "btree")
        assert await notes.delete("other", ["r0000", "r0001"]) == 2
        assert (await notes.count("notes"), await notes.count("other")) == (3, 8)
        await notes.optimize("other")
        for wrong in ("notes", "other"):
            with pytest.raises(TableExistsError) as caught:
                await notes.rename_table("other", wrong)
            assert caught.value.table == wrong
        with pytest.raises(TableNotFoundError):
            await notes.rename_table("none", "new")
        bad: Any
        for bad in ("No Table", "", None, "a.b"):
            with pytest.raises(InvalidNameError):
                await notes.rename_table("other", bad)
            with pytest.raises(InvalidNameError):
                await notes.rename_table(bad, "new")
        await notes.drop_table("notes")
        await notes.rename_table("other", "notes")
        await notes.create_table("other", SMALL)
        assert (await notes.count("notes"), await notes.count("other")) == (8, 0)
        await notes.drop_table("notes")
        assert await notes.tables() == ["other"]

    async def test_tables_change_names_for_many_stores(self, tmp_path: Path) -> None:
        self.need_persistence()
        if not self.renames_tables:
            pytest.skip("no table can be renamed here")
        async with await self.open(tmp_path) as one, await self.open(tmp_path) as two:
            for name, count in (("a", 3), ("b", 5)):
                await one.create_table(name, SMALL)
                await one.insert(name, small_rows(count))
                assert await two.count(name) == count
            for _ in range(3):  # each name has been that of the other table
                await one.rename_table("a", "c")
                assert await two.count("c") == 3
                await two.rename_table("b", "a")
                assert (await one.count("a"), len(await one.find("a"))) == (5, 5)
                await one.rename_table("a", "b")
                await two.rename_table("c", "a")
                hits = await one.search("a", vectors(1)[0], limit=9)
                assert (len(hits), await two.count("b")) == (3, 5)
            tries = (store.rename_table("a", "new") for store in (one, two, one, two))
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
            assert sorted(type(o).__name__ for o in outcomes) == [
                "NoneType", *["TableNotFoundError"] * 3,
            ]  # fmt: skip
            swaps = (one.rename_table("new", "b"), two.rename_table("b", "new"))
            errors = await asyncio.gather(*swaps, return_exceptions=True)
            assert [type(error) for error in errors] == [TableExistsError] * 2
        async with await self.open(tmp_path) as store:
            assert await store.tables() == ["b", "new"]
            assert (await store.count("new"), await store.count("b")) == (3, 5)

    # Indexes over fields

    async def test_an_index_over_a_field_comes_and_goes(self, notes: VectorStore) -> None:
        kinds: tuple[Index, ...] = ("btree", "bitmap", "bitmap", "btree")
        for kind in kinds:
            await notes.create_field_index("notes", "year", kind)
            assert (await notes.schema("notes")).fields["year"] == Field(int, index=kind)
            assert await notes.count("notes", "year = 3") == 1
        await notes.insert("notes", [{"id": "new", "embedding": vectors(1)[0], "year": 3}])
        assert ids_of(await notes.find("notes", "year = 3")) == ["new", "r0003"]
        await notes.optimize("notes")
        for _ in range(2):
            await notes.drop_field_index("notes", "year")
            assert await notes.schema("notes") == SMALL
        await notes.optimize("notes")
        assert ids_of(await notes.find("notes", "year = 3")) == ["new", "r0003"]
        await notes.create_field_index("notes", "year", "btree")
        assert await notes.count("notes", "year >= 3") == 8

    async def test_an_index_over_a_field_survives_reopening(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with await self.open(tmp_path) as store:
            await store.create_table("notes", SMALL)
            await store.insert("notes", small_rows(5))
            await store.create_field_index("notes", "name", "bitmap")
        async with await self.open(tmp_path) as store:
            fields = (await store.schema("notes")).fields
            assert fields == {**SMALL.fields, "name": Field(str, index="bitmap")}

    async def test_an_index_over_every_kind_of_field(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        for name, field in EVERY_KIND.fields.items():
            if not field.is_list:
                for kind in INDEXES:
                    await store.create_field_index("notes", name, kind)
        fields = (await store.schema("notes")).fields
        assert {field.index for field in fields.values()} == {None, INDEXES[-1]}
        with pytest.raises(SchemaMismatchError):
            await store.create_table("notes", EVERY_KIND, exist_ok=True)
        for name, field in EVERY_KIND.fields.items():
            if not field.is_list:
                await store.drop_field_index("notes", name, INDEXES[0])  # it has another
                assert await store.schema("notes") != EVERY_KIND
                await store.drop_field_index("notes", name, INDEXES[-1])
        await store.create_table("notes", EVERY_KIND, exist_ok=True)

    async def test_an_index_that_no_field_can_have_is_refused(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"tags": list[str], "year": int})
        await store.create_table("notes", schema)
        wrong: list[tuple[Any, Any]] = [
            ("tags", "btree"), ("tags", "text"), ("year", "text"), ("none", "btree"),
            ("id", "btree"), ("embedding", "btree"), ("payload.x", "btree"), ("YEAR", "btree"),
            (None, "btree"), (["year"], "btree"), ("year", "hash"), ("year", None), ("year", []),
        ]  # fmt: skip
        for field, kind in wrong:
            with pytest.raises(InvalidArgumentError):
                await store.create_field_index("notes", field, kind)
            if kind != "text" and kind is not None:
                with pytest.raises(InvalidArgumentError):
                    await store.drop_field_index("notes", field, kind)
        if not store.supports("text"):
            with pytest.raises((UnsupportedError, InvalidArgumentError)):
                await store.create_field_index("notes", "year", "text")
        assert await store.schema("notes") == schema

    async def test_indexes_over_fields_while_rows_come_and_are_read(
        self, store: VectorStore
    ) -> None:
        schema = Schema(DIM, fields={"name": str, "year": int})
        await store.create_table("notes", schema)
        await store.insert("notes", small_rows(2000))
        ended = asyncio.Event()

        async def write() -> int:
            done = 0
            while not ended.is_set():
                row = {"id": f"new{done}", "embedding": vectors(1)[0], "year": 1}
                done += await store.insert("notes", [row])
                await asyncio.sleep(0)  # what needs no waiting would leave no turn to the others
            return done

        async def read() -> None:
            while not ended.is_set():
                assert len(await store.find("notes", "year = 7")) >= 1
                await asyncio.sleep(0)

        writing, reading = asyncio.ensure_future(write()), asyncio.ensure_future(read())
        try:
            for kind in (*INDEXES, *INDEXES):
                await asyncio.gather(
                    store.create_field_index("notes", "year", kind),
                    store.create_field_index("notes", "name", kind),
                )
                await store.drop_field_index("notes", "year")
            await store.create_field_index("notes", "year", "btree")
        finally:
            ended.set()
            written, _ = await asyncio.gather(writing, reading)
        assert written > 0
        assert await store.count("notes", "year = 1") == written + 1
        assert await store.count("notes") == 2000 + written

    async def test_of_indexers_at_once_all_succeed(self, notes: VectorStore) -> None:
        await asyncio.gather(
            *(notes.create_field_index("notes", "year", "btree") for _ in range(4)),
            *(notes.insert("notes", [{**small_rows(1)[0], "id": f"n{n}"}]) for n in range(4)),
        )
        assert (await notes.schema("notes")).fields["year"] == Field(int, index="btree")
        assert await notes.count("notes") == 14

    async def test_another_store_sees_altered_tables(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with await self.open(tmp_path) as one, await self.open(tmp_path) as two:
            await one.create_table("notes", SMALL)
            assert await two.insert("notes", small_rows(2)) == 2
            await one.add_field("notes", "added", Field(str))
            assert await two.update("notes", {"added": "x"}, ids="r0000") == 1
            assert await one.count("notes", "added = 'x'") == 1
            assert (await two.schema("notes")).fields["added"] == Field(str)
            await one.create_field_index("notes", "added", "btree")
            assert await two.count("notes", "added = 'x'") == 1
            assert (await two.schema("notes")).fields["added"] == Field(str, index="btree")
            await two.drop_field_index("notes", "added")
            assert await one.update("notes", {"added": "y"}, ids="r0001") == 1
            assert (await one.schema("notes")).fields["added"] == Field(str)
            await one.drop_table("notes")
            with pytest.raises(TableNotFoundError):
                await two.count("notes")
            await one.create_table("notes", Schema(2))
            assert await two.insert("notes", [{"id": "x", "embedding": [1, 2]}]) == 1
            assert ids_of(await one.search("notes", [1, 2])) == ["x"]

    async def test_a_store_that_was_idle_refuses_nothing_by_an_earlier_schema(
        self, tmp_path: Path
    ) -> None:
        """Each read is the first call behind the change, so no write tells the store of it."""
        self.need_persistence()
        async with await self.open(tmp_path) as one, await self.open(tmp_path) as idle:
            await one.create_table("notes", SMALL)
            assert await one.insert("notes", small_rows(2)) == 2

            async def found(name: str) -> int:
                return len(await idle.find("notes", f"{name} IS NULL"))

            async def selected(name: str) -> int:
                return len(await idle.find("notes", select=[name]))

            async def nearest(name: str) -> int:
                return len(await idle.search("notes", vectors(1)[0], where=f"{name} IS NULL"))

            async def exported(name: str) -> int:
                batches = idle.export("notes", where=f"{name} IS NULL")
                return sum([batch.num_rows async for batch in batches])

            for n, rows in enumerate((found, selected, nearest, exported)):
                assert await idle.count("notes") == 2
                await one.add_field("notes", f"added{n}", Field(int))
                assert await rows(f"added{n}") == 2
            await one.drop_field("notes", "added0")
            with pytest.raises(FilterError, match="added0"):
                await idle.find("notes", "added0 IS NULL")
            if one.supports("text"):
                await one.create_field_index("notes", "name", "text")
                assert await idle.search_text("notes", "nosuchword") == []

    # The handle

    async def test_a_table_handle_is_the_store_with_the_name_filled_in(
        self, store: VectorStore
    ) -> None:
        table = store.table("notes")
        assert (table.name, table.store) == ("notes", store)
        assert "notes" in repr(table)
        await table.create(SMALL)
        assert await table.insert(small_rows(3)) == 3
        assert await table.upsert(small_rows(4)) == 4
        assert await table.update({"year": 9}, ids="r0000") == 1
        assert await table.delete("r0003") == 1
        assert await table.count("year = 9") == 1
        assert ids_of(await table.get(["r0001"])) == ["r0001"]
        assert ids_of(await table.find(limit=1)) == ["r0000"]
        assert len(await table.search(vectors(1)[0], limit=2)) == 2
        assert len((await table.search_many(vectors(2)))[1]) == 3
        assert sum([batch.num_rows async for batch in table.export(batch_size=2)]) == 3
        await table.add_field("more", str)
        assert list((await table.schema()).fields) == ["name", "year", "more"]
        assert (await table.stats()).rows == 3
        await table.optimize()
        assert await table.delete_where("TRUE") == 3
        await table.drop()
        await table.create(Schema(2))
        assert await table.count() == 0

    async def test_arguments_of_any_other_type_are_refused(
        self, notes: VectorStore, tmp_path: Path
    ) -> None:
        """For any argument, the error is one of this package."""
        one: Any = np.array(1)
        two: Any = np.array([1, 2])
        query = [1.0] * DIM
        odd: Any
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "get": lambda: notes.get("notes", one),
            "delete": lambda: notes.delete("notes", one),
            "update": lambda: notes.update("notes", {"year": 1}, ids=one),
            "insert": lambda: notes.insert("notes", one),
            "a column": lambda: notes.insert("notes", {"id": one, "embedding": [query]}),
            "search_many": lambda: notes.search_many("notes", one),
            "select": lambda: notes.find("notes", select=one),
            "select of search": lambda: notes.search("notes", query, select=one),
            "select of export": lambda: anext(notes.export("notes", select=one)),
            "order_by": lambda: notes.find("notes", order_by=two),
            "descending": lambda: notes.find("notes", descending=two),
            "exact": lambda: notes.search("notes", query, exact=two),
            "include_vector": lambda: notes.search("notes", query, include_vector=two),
            "a field": lambda: notes.add_field("notes", "odd", two),
        }
        for odd in ("x", [], b"x", Decimal(1), two):
            calls[f"diversity {odd!r}"] = lambda odd=odd: notes.search(  # type: ignore[misc]  # the loop's value
                "notes", query, diversity=odd
            )
        if notes.supports("backup"):
            for odd in (None, 5, b"x", "a\0b", "x" * 300, "~nosuch/x.db"):
                calls[f"backup {odd!r:.20}"] = lambda odd=odd: notes.backup(odd)  # type: ignore[misc]  # the loop's value
        for name, call in calls.items():
            with case(name), pytest.raises((InvalidArgumentError, InvalidRowError)):
                await call()
        wrong: Any = []
        with pytest.raises(InvalidArgumentError):
            notes.supports(wrong)
        batches = [batch async for batch in notes.export("notes", batch_size=2**63)]
        assert sum(batch.num_rows for batch in batches) == 10
