"""Contract tests for creating, dropping and renaming tables, and for their names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.values import DIM, EVERY_KIND, SMALL, small_rows, vectors

import aiovec
from aiovec import Field, Schema, TableExistsError, TableNotFoundError, VectorStore

SCHEMAS = {
    "plain": Schema(DIM),
    "every-kind": EVERY_KIND,
    "l2": Schema(3, metric="l2"),
    "dot": Schema(1, metric="dot"),
    "model": Schema(DIM, model="nomic-embed-text ünï"),
    "vector-name": Schema(DIM, vector="Vector_1"),
    "no-payload": Schema(DIM, payload=False, fields={"a": str}),
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


NAMES_ALLOWED = (
    "a", "z9", "a-b", "a_b", "a--", "a" * 63, "select", "table", "index", "rows", "vec", "main",
    "temp", "sqlite", "sqlite_master", "sqlite_x", "aiovec", "meta", "notes-vec", "notes_rows",
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
    "delete_where": lambda s, t: s.delete(t, where="TRUE"),
    "get": lambda s, t: s.get(t, "r0000"),
    "find": lambda s, t: s.find(t),
    "search": lambda s, t: s.search(t, [1.0] * DIM),
    "search_many": lambda s, t: s.search_many(t, [[1.0] * DIM]),
    "export": _drain,
    "count": lambda s, t: s.count(t),
    "distinct": lambda s, t: s.distinct(t, "year"),
    "fields_info": lambda s, t: s.fields_info(t),
    "bounds": lambda s, t: s.bounds(t, "year"),
    "stats": lambda s, t: s.stats(t),
    "optimize": lambda s, t: s.optimize(t),
}
"""A valid call of every method that takes a table and that every backend has; keep this order."""


class TablesContract(ContractBase):
    """``create_table``, ``drop_table``, ``rename_table``, ``tables`` and ``schema``."""

    @pytest.mark.core
    async def test_schemas_come_back_as_they_were(self, tmp_path: Path) -> None:
        async with self.connect(tmp_path) as store:
            assert await store.tables() == []
            able = {
                name: schema
                for name, schema in SCHEMAS.items()
                if schema.quantized is None or store.supports("quantized")
            }
            for name, schema in sorted(SCHEMAS.items(), reverse=True):
                with case(name):
                    if name not in able:
                        with pytest.raises(aiovec.UnsupportedError) as caught:
                            await store.create_table(name, schema, exist_ok=True)
                        assert caught.value.ability == "quantized"
                        continue
                    await store.create_table(name, schema)
                    assert await store.schema(name) == schema
                    assert await store.count(name) == 0
                    await store.create_table(name, schema, exist_ok=True)
            assert await store.tables() == sorted(able)
        if self.persistent:
            async with self.connect(tmp_path) as store:
                assert await store.tables() == sorted(able)
                for name, schema in able.items():
                    assert await store.schema(name) == schema, name

    async def test_a_table_without_a_schema_has_context_vectors(self, tmp_path: Path) -> None:
        async with self.connect(tmp_path, dim=5) as store:
            await store.create_table("notes")
            assert await store.schema("notes") == Schema.context_vectors(5)

    @pytest.mark.core
    async def test_creating_table_that_exists_needs_same_schema(self, notes: VectorStore) -> None:
        with pytest.raises(TableExistsError) as caught:
            await notes.create_table("notes", SMALL)
        assert caught.value.table == "notes"
        for other in (
            Schema(DIM + 1, fields=SMALL.fields),
            Schema(DIM, metric="l2", fields=SMALL.fields),
            Schema(DIM, fields={**SMALL.fields, "more": str}),
            Schema(DIM, fields={"name": str, "year": float}),
            Schema(DIM, fields=SMALL.fields, payload=False),
        ):
            with pytest.raises(aiovec.SchemaMismatchError) as mismatch:
                await notes.create_table("notes", other, exist_ok=True)
            assert mismatch.value.table == "notes"
            assert mismatch.value.differences
        await asyncio.gather(*(notes.create_table("notes", SMALL, exist_ok=True) for _ in range(8)))
        assert await notes.schema("notes") == SMALL
        assert await notes.count("notes") == 10

    @pytest.mark.core
    async def test_one_of_concurrent_creators_wins(self, store: VectorStore) -> None:
        tries = (store.create_table("notes", SMALL) for _ in range(8))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sorted(type(o).__name__ for o in outcomes) == ["Schema"] + ["TableExistsError"] * 7

    # Dropping

    # Missing tables and names

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_every_method_names_a_missing_table(self, store: VectorStore) -> None:
        await store.create_table("there", SMALL)
        for name, call in CALLS.items():
            with case(name):
                with pytest.raises(TableNotFoundError) as caught:
                    await call(store, "notes")
                assert caught.value.table == "notes"
                assert caught.value.tables == ["there"]

    async def test_allowed_table_names_can_be_created_and_dropped(self, store: VectorStore) -> None:
        for number, name in enumerate(NAMES_ALLOWED):
            await store.create_table(name, SMALL)
            await store.insert(name, small_rows(number + 1))
        assert await store.tables() == sorted(NAMES_ALLOWED)
        for number, name in enumerate(NAMES_ALLOWED):
            with case(number):
                assert await store.count(name) == number + 1
        for name in NAMES_ALLOWED:
            await store.drop_table(name)
        assert await store.tables() == []

    # Renaming tables

    @pytest.mark.core
    async def test_a_renamed_table_keeps_its_rows(self, notes: VectorStore) -> None:
        before = await notes.find("notes")
        if not self.renames_tables:
            with pytest.raises(aiovec.UnsupportedError):
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
            with pytest.raises(aiovec.InvalidNameError):
                await notes.rename_table("other", bad)
            with pytest.raises(aiovec.InvalidNameError):
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
        async with self.connect(tmp_path) as first, self.connect(tmp_path) as second:
            for name, count in (("a", 3), ("b", 5)):
                await first.create_table(name, SMALL)
                await first.insert(name, small_rows(count))
                assert await second.count(name) == count
            for _ in range(3):  # the tables swap their names
                await first.rename_table("a", "c")
                assert await second.count("c") == 3
                await second.rename_table("b", "a")
                assert (await first.count("a"), len(await first.find("a"))) == (5, 5)
                await first.rename_table("a", "b")
                await second.rename_table("c", "a")
                hits = await first.search("a", vectors(1)[0], limit=9)
                assert (len(hits), await second.count("b")) == (3, 5)
            tries = (store.rename_table("a", "new") for store in (first, second, first, second))
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
            assert sorted(type(o).__name__ for o in outcomes) == [
                "NoneType", *["TableNotFoundError"] * 3,
            ]  # fmt: skip
            swaps = (first.rename_table("new", "b"), second.rename_table("b", "new"))
            errors = await asyncio.gather(*swaps, return_exceptions=True)
            assert [type(error) for error in errors] == [TableExistsError] * 2
        async with self.connect(tmp_path) as store:
            assert await store.tables() == ["b", "new"]
            assert (await store.count("new"), await store.count("b")) == (3, 5)

    async def test_notes_follow_their_table(self, tmp_path: Path) -> None:
        self.need_persistence()
        name, text = "shop.db#Äpfel/%", "x" * 9000 + "'\n"
        async with self.connect(tmp_path) as store, self.opened_backend(tmp_path) as backend:
            for table in ("notes", "notes2"):
                await filled(store, SMALL, small_rows(3), name=table)
            handle = await backend.open_table("notes")
            assert await backend.notes(handle) == {}
            assert await backend.notes(handle, {name: text, "b": ""}) == {name: text, "b": ""}
            assert await backend.notes(handle, {"b": None, "c": None}) == {name: text}
            await store.insert("notes", small_rows(1, start=50))
            assert await backend.notes(handle) == {name: text}
            assert await backend.notes(await backend.open_table("notes2")) == {}
            table = "notes"
            if self.renames_tables:
                await store.rename_table("notes", table := "memos")
            if store.supports("backup"):
                await store.backup(tmp_path / "backup")
                await backend.notes(await backend.open_table(table), {name: "later"})
        if store.supports("restore"):
            await aiovec.restore(tmp_path / "backup", self.target(tmp_path), overwrite=True)
        async with self.connect(tmp_path) as store, self.opened_backend(tmp_path) as backend:
            kept = text if store.supports("restore") or not store.supports("backup") else "later"
            assert await backend.notes(await backend.open_table(table)) == {name: kept}
            await store.drop_table(table)
            await filled(store, SMALL, name=table)
            assert await backend.notes(await backend.open_table(table)) == {}
