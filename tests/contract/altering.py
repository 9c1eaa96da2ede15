"""Contract tests for altering tables: adding, dropping, renaming and indexing fields."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.contract.tables import SCHEMAS
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    ids_of,
    small_rows,
    vectors,
)

import aiovec
from aiovec import (
    Factor,
    Field,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    Schema,
    VectorStore,
)
from aiovec.backend import FieldIndex

INDEXES: tuple[FieldIndex, ...] = ("btree", "bitmap")
"""The kinds of index that a field of any type except lists may have."""

# A field to add, one of its values, and a filter that selects it.
ADDED: dict[str, tuple[Field, Any, str]] = {
    "text": (Field(str), "x", "{} = 'x'"),
    "btree": (Field(str, index="btree"), "x", "{} LIKE 'x%'"),
    "bitmap": (Field(str, index="bitmap"), "x", "{} IN ('x')"),
    "int": (Field(int, index="btree"), 7, "{} > 6"),
    "float": (Field(float), 0.5, "{} <= 0.5"),
    "bool": (Field(bool, index="bitmap"), True, "{}"),
    "datetime": (
        Field(datetime, index="btree"),
        datetime.fromisoformat("2024-05-06T07:08:09.123456+00:00"),
        "{} > TIMESTAMP '2024-01-01T00:00:00Z'",
    ),
    "list": (Field(list[str]), ["x", "y"], "{} CONTAINS 'y'"),
}


class AlteringContract(ContractBase):
    """``add_field``, ``drop_field``, ``rename_field`` and indexes on fields."""

    @pytest.mark.core
    async def test_an_added_field_is_null_and_can_be_written_and_filtered(
        self, notes: VectorStore
    ) -> None:
        query = vectors(1)[0]
        fields = dict(SMALL.fields)
        for kind, (field, value, condition) in ADDED.items():
            name = f"added_{kind}"
            where = condition.format(name)
            with case(kind):
                await notes.add_field("notes", name, field)
                fields[name] = field
                assert dict((await notes.schema("notes")).fields) == fields
                assert await notes.count("notes", f"{name} IS NULL") == 10
                await notes.update("notes", {name: value}, ids="r0003")
                await notes.insert("notes", [{"id": "new", "embedding": query, name: value}])
                assert ids_of(await notes.find("notes", where)) == ["new", "r0003"]
                hits = await notes.search("notes", query, where=where, limit=5)
                assert sorted(ids_of(hits)) == ["new", "r0003"]
                assert all(hit[name] == value for hit in hits)
                await notes.delete("notes", "new")

    async def test_an_added_field_hides_a_payload_key_of_its_name(self, notes: VectorStore) -> None:
        query = vectors(1)[0]
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
        await notes.update("notes", {"payload.rank": 1}, ids="r0007")
        await notes.add_field("notes", "rank", Field(int))
        boosts: dict[str, Any] = {
            "rerank": Factor("payload.rank", weight=1),
            "select": ["payload.rank"],
        }
        hit, *_ = await notes.search("notes", query, **boosts)
        assert (hit.id, hit.fields) == ("r0007", {"rank": 1})
        groups = await notes.search("notes", query, group_by="payload.added", select=[])
        assert len(groups) == 2
        assert "r0001" in ids_of(groups)
        await notes.drop_field("notes", "added")
        (record,) = await notes.get("notes", "r0001")
        assert record["added"] == "payload"

    async def test_a_search_reads_a_field_and_the_payload_key_that_it_hides(
        self, notes: VectorStore
    ) -> None:
        await notes.update("notes", {"payload.rank": 1}, ids="r0007")
        await notes.add_field("notes", "rank", Field(int))
        both = [Factor("payload.rank", weight=0.9), Factor("rank", weight=0.1)]
        found = await notes.search("notes", vectors(1)[0], rerank=both, select=["payload.rank"])
        assert (found[0].id, found[0].fields) == ("r0007", {"rank": 1})

    async def test_one_of_concurrent_adders_wins(self, notes: VectorStore) -> None:
        tries = (notes.add_field("notes", "added", Field(str)) for _ in range(5))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sorted(type(o).__name__ for o in outcomes) == ["InvalidNameError"] * 4 + ["NoneType"]
        assert list((await notes.schema("notes")).fields) == ["name", "year", "added"]

    @pytest.mark.core
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
        await filled(store, schema, rows)
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
        matches = await store.get("notes", [*(row["id"] for row in rows), "new"])
        assert_same_rows(matches, [*kept, new], await store.schema("notes"))
        assert len(await store.search("notes", vectors(1)[0], where="c = 0.5", limit=30)) == 20
        await store.add_field("notes", "a", Field(int, index="btree"))
        assert [r["a"] for r in await store.find("notes", limit=3)] == [None] * 3
        await store.update("notes", {"a": 7}, ids="r3")
        assert ids_of(await store.find("notes", "a = 7")) == ["r3"]

    async def test_a_renamed_field_keeps_values_and_place(self, store: VectorStore) -> None:
        await store.create_table("notes", SCHEMAS["options"])
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
            await store.rename_field("notes", new, new.lower())  # the names differ only in case
            fields = {new.lower() if n == new else n: field for n, field in fields.items()}
            if old not in ("tenant", "year", "tags"):
                await store.update("notes", {new.lower(): values.get(old)}, where="TRUE")
        assert list((await store.schema("notes")).fields) == list(fields)
        await store.add_field("notes", "lang", Field(str, index="bitmap"))
        assert await store.count("notes", "lang_new = 'de' AND lang IS NULL") == 1
        hits = await store.search("notes", vectors(1)[0], where="tenant_new = 't'")
        assert [hit["shard_new"] for hit in hits] == [1]

    async def test_keyword_search_follows_dropped_and_renamed_fields(
        self, store: VectorStore
    ) -> None:
        self.need(store, "text")
        text = Field(str, text=True)
        await store.create_table("notes", Schema(DIM, fields={"a": text, "b": text, "c": str}))
        rows = [
            {"id": f"r{n}", "embedding": v, "a": f"apple {n}", "b": f"pear {n}", "c": f"plum {n}"}
            for n, v in enumerate(vectors(30))
        ]
        await store.insert("notes", rows)

        async def matches(query: str, table: str = "notes") -> int:
            return len(await store.search_text(table, query, limit=50, match="all"))

        assert (await matches("apple"), await matches("pear")) == (30, 30)
        await store.rename_field("notes", "a", "fruit")
        assert (await matches("apple"), await matches("fruit:apple 7"), await matches("pear")) == (
            30, 1, 30,
        )  # fmt: skip
        await store.update("notes", {"fruit": "cherry"}, ids="r0")
        assert (await matches("cherry"), await matches("apple")) == (1, 29)
        await store.rename_field("notes", "c", "a")
        await store.create_field_index("notes", "a", "text")
        assert (await matches("plum"), await matches("a:plum 3"), await matches("fruit:plum")) == (
            30, 1, 0,
        )  # fmt: skip
        await store.drop_field("notes", "fruit")
        assert (await matches("cherry"), await matches("pear"), await matches("plum")) == (
            0,
            30,
            30,
        )
        await store.insert("notes", [{"id": "new", "embedding": vectors(1)[0], "b": "pear"}])
        await store.optimize("notes")
        assert await matches("pear") == 31
        if self.renames_tables:
            await store.rename_table("notes", "other")
            assert (await matches("pear", "other"), await matches("plum", "other")) == (31, 30)
            await store.create_table("notes", Schema(DIM, fields={"b": text}))
            await store.insert("notes", [{"id": "x", "embedding": vectors(1)[0], "b": "pear"}])
            assert (await matches("pear"), await matches("pear", "other")) == (1, 31)
            await store.delete("other", "new")
            await store.drop_table("notes")
            assert await matches("pear", "other") == 30

    @pytest.mark.arrow
    async def test_an_export_goes_on_while_a_field_is_dropped(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(200))
        batches = store.export("notes", batch_size=10)
        read = [await anext(batches)]
        await store.rename_field("notes", "year", "when")
        await store.drop_field("notes", "name")
        read += [batch async for batch in batches]
        years = [year for batch in read for year in batch.column("year").to_pylist()]
        assert sorted(years) == list(range(200))
        assert await store.count("notes", "when >= 0") == 200

    @pytest.mark.core
    async def test_an_index_over_a_field_comes_and_goes(self, notes: VectorStore) -> None:
        kinds: tuple[FieldIndex, ...] = ("btree", "bitmap", "bitmap", "btree")
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

    async def test_an_index_over_every_kind_of_field(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        for name, field in EVERY_KIND.fields.items():
            if not field.is_list:
                for kind in INDEXES:
                    await store.create_field_index("notes", name, kind)
        fields = (await store.schema("notes")).fields
        assert {field.index for field in fields.values()} == {None, INDEXES[-1]}
        with pytest.raises(aiovec.SchemaMismatchError):
            await store.create_table("notes", EVERY_KIND, exist_ok=True)
        for name, field in EVERY_KIND.fields.items():
            if not field.is_list:
                await store.drop_field_index("notes", name, INDEXES[0])  # its index is another kind
                assert await store.schema("notes") != EVERY_KIND
                await store.drop_field_index("notes", name, INDEXES[-1])
        await store.create_table("notes", EVERY_KIND, exist_ok=True)

    @pytest.mark.core
    async def test_an_index_over_a_payload_key_comes_and_goes(self, notes: VectorStore) -> None:
        first = {"id": "first", "embedding": vectors(1)[0], "user": "a", "of": {"b-c": 1}}
        await notes.insert("notes", [first])
        keys = ["payload.user", "payload.USER", "payload.of.b-c"]
        if not notes.supports("payload-indexes"):
            for call in (
                notes.create_field_index("notes", "payload.user", "btree"),
                notes.drop_field_index("notes", "payload.user"),
                notes.create_table("other", replace(SMALL, payload_indexes=keys)),
            ):
                with pytest.raises(aiovec.UnsupportedError, match="add_field"):
                    await call
            return
        for key in [*keys, keys[0]]:
            await notes.create_field_index("notes", key, "btree")
        indexed = replace(SMALL, payload_indexes=keys)
        assert await notes.schema("notes") == indexed
        await notes.insert("notes", [{**first, "id": "later", "USER": "a"}])
        await notes.update("notes", {"user": "b"}, ids="r0003")
        for where, ids in {
            "payload.user = 'a'": ["first", "later"], "payload.user IN ('b', 'c', 'd')": ["r0003"],
            "payload.USER STARTSWITH 'a'": ["later"], 'payload.of."b-c" < 2': ["first", "later"],
        }.items():  # fmt: skip
            with case(where):
                assert ids_of(await notes.find("notes", where)) == ids
                hits = await notes.search("notes", vectors(1)[0], where=where)
                assert sorted(ids_of(hits)) == ids
                assert await notes.delete("notes", ids="none", where=where) == 0
        await notes.rename_field("notes", "name", "user")
        assert await notes.count("notes", "payload.user = 'a'") == 2
        await notes.drop_field("notes", "user")
        for key in [*keys, keys[0]]:
            await notes.drop_field_index("notes", key)
        assert (await notes.schema("notes")).payload_indexes == ()
        assert await notes.count("notes", "payload.user = 'a'") == 2
        await notes.create_table("other", indexed)
        await notes.create_table("other", indexed, exist_ok=True)
        assert (await notes.schema("other")).payload_indexes == tuple(sorted(keys))
        bad: dict[str, FieldIndex] = {
            "payload.user": "text", "payload": "btree", "payload.": "btree", "payload.a b": "btree",
            "payload.a'": "btree", "payload.ключ": "btree", "payload" + ".a" * 9: "btree",
        }  # fmt: skip
        for key, kind in bad.items():
            with case(key), pytest.raises((InvalidArgumentError, InvalidNameError)):
                await notes.create_field_index("notes", key, kind)
        await notes.create_table("bare", Schema(DIM, payload=False))
        with pytest.raises(InvalidArgumentError):
            await notes.create_field_index("bare", "payload.user", "btree")

    async def test_fields_and_indexes_change_while_rows_come_and_are_read(
        self, store: VectorStore
    ) -> None:
        schema = Schema(DIM, fields={"name": str, "year": int})
        await store.create_table("notes", schema)
        await store.insert("notes", small_rows(2000))
        ended = asyncio.Event()

        async def write() -> int:
            done = 0
            while not ended.is_set():
                row = {"id": f"new{done}", "embedding": vectors(1)[0], "year": 5000}
                done += await store.insert("notes", [row])
                await store.update("notes", {"year": 1}, ids=row["id"])
                await asyncio.sleep(0)  # calls that never wait would let no other task run
            return done

        async def read() -> None:
            while not ended.is_set():
                assert len(await store.find("notes", "year = 7")) >= 1
                assert len(await store.search("notes", vectors(1)[0], where="year < 100")) == 10
                await asyncio.sleep(0)

        writing, reading = asyncio.ensure_future(write()), asyncio.ensure_future(read())
        try:
            for kind in INDEXES:
                await asyncio.gather(
                    store.create_field_index("notes", "year", kind),
                    store.create_field_index("notes", "name", kind),
                )
                await store.drop_field_index("notes", "year")
                await store.rename_field("notes", "name", "called")
                await store.add_field("notes", "more", Field(str, index="btree"))
                await store.rename_field("notes", "called", "name")
                await store.drop_field("notes", "more")
            await store.create_field_index("notes", "year", "btree")
        finally:
            ended.set()
            written, _ = await asyncio.gather(writing, reading)
        assert written > 0
        assert await store.count("notes", "year = 1") == written + 1
        assert await store.count("notes") == 2000 + written

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_calls_are_let_through_by_those_who_alter_without_a_pause(
        self, store: VectorStore
    ) -> None:
        """Even a call that takes longer than the pause between two alterations succeeds."""
        await store.create_table("notes", Schema(DIM, fields={"year": int}))
        many = [
            {"id": f"m{n}", "embedding": vector, "year": -1}
            for n, vector in enumerate(vectors(3000))
        ]
        ended = asyncio.Event()

        async def alter(name: str) -> None:
            while not ended.is_set():
                await store.add_field("notes", name, Field(str))
                await store.drop_field("notes", name)

        altering = [asyncio.ensure_future(alter(f"field{n}")) for n in range(2)]
        try:
            assert await store.insert("notes", many) == 3000
            assert await store.delete("notes", where="year = -1") == 3000
            for n in range(10):
                row = {"id": f"r{n}", "embedding": vectors(1)[0], "year": n}
                assert await store.insert("notes", [row]) == 1
                assert len(await store.find("notes", f"year = {n}")) == 1
                assert len([batch async for batch in store.export("notes")]) == 1
        finally:
            ended.set()
            await asyncio.gather(*altering)
        assert dict((await store.schema("notes")).fields) == {"year": Field(int)}

    @pytest.mark.core
    async def test_a_cancelled_call_that_was_overtaken_holds_up_no_alteration(
        self, tmp_path: Path
    ) -> None:
        self.need_persistence()
        many = [{"id": f"m{n}", "embedding": vector} for n, vector in enumerate(vectors(3000))]
        async with self.connect(tmp_path) as first, self.connect(tmp_path) as second:
            await first.create_table("notes", Schema(DIM))
            for n, wait in enumerate((0.01, 0.03, 0.1)):
                await second.count("notes")  # knows the table as it is now
                await first.add_field("notes", f"field{n}", Field(str))
                writing = asyncio.ensure_future(second.upsert("notes", many))
                await asyncio.sleep(wait)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                async with asyncio.timeout(20):  # busy_timeout is longer
                    await second.drop_field("notes", f"field{n}")

    @pytest.mark.core
    async def test_another_store_sees_altered_tables(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with self.connect(tmp_path) as first, self.connect(tmp_path) as second:
            await first.create_table("notes", SMALL)
            assert await second.insert("notes", small_rows(2)) == 2
            await first.add_field("notes", "added", Field(str))
            assert await second.update("notes", {"added": "x"}, ids="r0000") == 1
            assert await first.count("notes", "added = 'x'") == 1
            assert (await second.schema("notes")).fields["added"] == Field(str)
            await first.create_field_index("notes", "added", "btree")
            text = second.supports("text")
            if text:  # its first call after the change, which must not remove the other index
                await second.create_field_index("notes", "added", "text")
            assert await second.count("notes", "added = 'x'") == 1
            field = Field(str, index="btree", text=text)
            assert (await second.schema("notes")).fields["added"] == field
            await second.drop_field_index("notes", "added")
            assert await first.update("notes", {"added": "y"}, ids="r0001") == 1
            assert (await first.schema("notes")).fields["added"] == Field(str)
            await first.drop_table("notes")
            with pytest.raises(aiovec.TableNotFoundError):
                await second.count("notes")
            await first.create_table("notes", Schema(2))
            assert await second.insert("notes", [{"id": "x", "embedding": [1, 2]}]) == 1
            assert ids_of(await first.search("notes", [1, 2])) == ["x"]

    @pytest.mark.arrow
    async def test_an_export_that_began_anew_holds_up_no_alteration(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with self.connect(tmp_path) as first, self.connect(tmp_path) as second:
            await first.create_table("notes", SMALL)
            assert await second.insert("notes", small_rows(2)) == 2
            await first.add_field("notes", "added", Field(str))
            async with aclosing(second.export("notes", batch_size=1)) as batches:
                assert (await anext(batches)).num_rows == 1
                async with asyncio.timeout(20):  # busy_timeout is longer
                    await second.add_field("notes", "more", Field(str))
                assert [batch.num_rows async for batch in batches] == [1]

    @pytest.mark.arrow
    async def test_a_store_that_was_idle_refuses_nothing_by_an_earlier_schema(
        self, tmp_path: Path
    ) -> None:
        """Each read is the first call after the change, so no write has shown it to the store."""
        self.need_persistence()
        async with self.connect(tmp_path) as store, self.connect(tmp_path) as idle:
            await store.create_table("notes", SMALL)
            assert await store.insert("notes", small_rows(2)) == 2

            async def matches(name: str) -> int:
                return len(await idle.find("notes", f"{name} IS NULL"))

            async def selected(name: str) -> int:
                return len(await idle.find("notes", select=[name]))

            async def nearest(name: str) -> int:
                return len(await idle.search("notes", vectors(1)[0], where=f"{name} IS NULL"))

            async def exported(name: str) -> int:
                batches = idle.export("notes", where=f"{name} IS NULL")
                return sum([batch.num_rows async for batch in batches])

            for n, rows in enumerate((matches, selected, nearest, exported)):
                assert await idle.count("notes") == 2
                await store.add_field("notes", f"added{n}", Field(int))
                assert await rows(f"added{n}") == 2
            await store.drop_field("notes", "added0")
            with pytest.raises(FilterError, match="added0"):
                await idle.find("notes", "added0 IS NULL")
            if store.supports("text"):
                await store.create_field_index("notes", "name", "text")
                assert await idle.search_text("notes", "nosuchword") == []
