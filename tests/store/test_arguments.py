"""Names, options and other arguments that are refused before a backend is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case, filled
from tests.contract.tables import CALLS
from tests.harness.values import DIM, SMALL, ids_of, small_rows, vectors

from aiovec import Embed, Field, Schema, Tuning, VectorStore
from aiovec.errors import (
    AiovecError,
    DimensionMismatchError,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    InvalidVectorError,
    ModelMismatchError,
    TableNotFoundError,
)

REFUSED = (
    "", "1a", "_a", "a b", "a.b", "a-b", "a\0", 'a"', "a'", "é", "a" * 64, "a;", "*", "id", "ID",
    "payload", "Payload", "embedding", "Embedding", None, 1,
    "_rowid", "_rowid_", "_rowaddr", "_distance", "_score", "_relevance_score", "_seq",
)  # fmt: skip

NAMES_REFUSED = (
    "", "A", "1a", "_a", "-a", "a" * 64, "a b", "a.b", "a/b", "..", "é", "a\n", "a\0", "a;", 'a"',
    "a'", None, 1, b"a",
)  # fmt: skip


async def test_table_names_that_are_refused(store: VectorStore) -> None:
    for name in NAMES_REFUSED:
        with case(name):
            wrong: Any = name
            with pytest.raises(InvalidNameError):
                await store.create_table(wrong, SMALL)
            with pytest.raises(InvalidNameError):
                store.table(wrong)
    assert await store.tables() == []


async def test_every_method_refuses_a_bad_table_name(store: VectorStore) -> None:
    for name, call in CALLS.items():
        with case(name):
            with pytest.raises(InvalidNameError) as caught:
                await call(store, "No Table")
            assert (caught.value.name, caught.value.kind) == ("No Table", "table")


async def test_an_added_field_must_be_nullable_and_no_partition(notes: VectorStore) -> None:
    for field in (Field(str, nullable=False), Field(str, partition=True)):
        with pytest.raises(InvalidArgumentError):
            await notes.add_field("notes", "added", field)
    assert await notes.schema("notes") == SMALL


async def test_an_added_fields_name_is_checked(notes: VectorStore) -> None:
    for name in ("id", "ID", "payload", "embedding", "Embedding", "name", "NAME", "1x", "a b"):
        with pytest.raises(InvalidNameError) as caught:
            await notes.add_field("notes", name, Field(str))
        assert caught.value.name == name
    assert await notes.schema("notes") == SMALL


async def test_the_embedded_field_is_renamed_and_stays(store: VectorStore) -> None:
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


async def test_what_no_field_can_become_is_refused(store: VectorStore) -> None:
    schema = Schema(DIM, fields={"name": str, "year": int, "part": Field(str, partition=True)})
    await filled(store, schema, small_rows(3))
    refused: list[Any] = [
        "id", "payload", "embedding", "YEAR", "year", "1x", "a b", "", None, 5, "x" * 64, 'a"b',
    ]  # fmt: skip
    for new in refused:
        with pytest.raises(InvalidNameError):
            await store.rename_field("notes", "name", new)
    unknown: list[Any] = [
        "none", "id", "embedding", "payload", "payload.x", "Name", None, 5, [],
    ]  # fmt: skip
    for old in unknown:
        with pytest.raises(InvalidArgumentError):
            await store.rename_field("notes", old, "new")
        with pytest.raises(InvalidArgumentError):
            await store.drop_field("notes", old)
    with pytest.raises(InvalidArgumentError):
        await store.drop_field("notes", "part")
    assert await store.schema("notes") == schema


async def test_an_index_that_no_field_can_have_is_refused(store: VectorStore) -> None:
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
    assert await store.schema("notes") == schema


async def test_a_table_handle_is_the_store_with_the_name_filled_in(store: VectorStore) -> None:
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
    assert await table.delete(where="TRUE") == 3
    await table.drop()
    await table.create(Schema(2))
    assert await table.count() == 0


async def test_arguments_of_any_other_type_are_refused(notes: VectorStore, tmp_path: Path) -> None:
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


async def test_another_model_is_refused(store: VectorStore) -> None:
    await store.create_table("notes", Schema(DIM, model="one"))
    await store.insert("notes", small_rows(2), model="one")
    query = vectors(1)[0]
    for call in (
        lambda: store.insert("notes", small_rows(2, start=5), model="two"),
        lambda: store.upsert("notes", small_rows(2, start=5), model="two"),
        lambda: store.insert("notes", [], model="two"),
        lambda: store.search("notes", query, model="two"),
        lambda: store.search_many("notes", [query], model="two"),
    ):
        with pytest.raises(ModelMismatchError) as caught:
            await call()
        assert isinstance(caught.value, ValueError)
        assert (caught.value.table, caught.value.expected, caught.value.given) == (
            "notes", "one", "two",
        )  # fmt: skip
    assert await store.count("notes") == 2


async def test_a_table_without_a_model_takes_any(store: VectorStore) -> None:
    await store.create_table("notes", Schema(DIM))
    await store.insert("notes", small_rows(2), model="one")
    await store.upsert("notes", small_rows(3), model="two")
    assert len(await store.search("notes", vectors(1)[0], model="three")) == 3


QUERY = [1.0] * DIM
DEEP = "payload" + ".k" * 32
NOT_POSITIVE = (0, -1, 1.5, "3", True)
NO_IDS = (1.5, True, [1.5], [True], [None], {"r0001": 1}, b"r0001")
NO_SUMMARIES = (
    "none", "embedding", "payload", "payload.", "NAME", "", "-name", None, 1, ["name"], "name; --",
    'payload."', "payload." + "x" * 10_000, "payload" + ".x" * 100, "payload.\ud800",
)  # fmt: skip
NO_BOUNDS = ("1", float("nan"), float("inf"), True, [1], 10**400)


def _exported(store: VectorStore, **options: Any) -> Awaitable[Any]:
    return anext(store.export("notes", **options))


def _hybrid(name: str) -> Callable[[VectorStore, Any], Awaitable[Any]]:
    return lambda store, value: store.search_hybrid("notes", "wool", QUERY, **{name: value})


# An argument, a call that takes it, and values that it refuses.
VALUES_REFUSED: list[tuple[str, Callable[[VectorStore, Any], Awaitable[Any]], Sequence[Any]]] = [
    ("limit", lambda s, v: s.find("notes", limit=v), NOT_POSITIVE),
    ("limit", lambda s, v: s.search("notes", QUERY, limit=v), (*NOT_POSITIVE, None)),
    ("limit", lambda s, v: s.distinct("notes", "name", limit=v), NOT_POSITIVE),
    ("offset", lambda s, v: s.find("notes", offset=v), (-1, 1.5, "3", None)),
    ("order_by", lambda s, v: s.find("notes", order_by=v), (
        "tags", "embedding", "payload", "payload.", "absent", "NAME", "", "-", "--id", "-tags",
        f"{DEEP}.k", "payload." + "k" * 5_000, ["id"] * 33, [1], 5, [["id"]], {1},
    )),
    ("order_by", lambda s, v: s.find("plain", order_by=v), ("payload.k",)),
    ("field", lambda s, v: s.distinct("notes", v), NO_SUMMARIES),
    ("field", lambda s, v: s.bounds("notes", v), (*NO_SUMMARIES, "tags")),
    ("min_score", lambda s, v: s.search("notes", QUERY, min_score=v), NO_BOUNDS),
    ("min_score", lambda s, v: s.search_many("notes", [QUERY], min_score=v), NO_BOUNDS),
    ("max_distance", lambda s, v: s.search("notes", QUERY, max_distance=v), NO_BOUNDS),
    ("max_distance", lambda s, v: s.search_many("notes", [QUERY], max_distance=v), NO_BOUNDS),
    ("ids", lambda s, v: s.search_like("notes", v), (
        "absent", "", "a\0b", "x" * 5_000, 5, None, [], ["r0001", "no"],
    )),
    ("not_like", lambda s, v: s.search_like("notes", "r0001", not_like=v), ("absent",)),
    ("group_by", lambda s, v: s.search("notes", QUERY, group_by=v), (
        "absent", "tags", "id", "embedding", "payload", "payload.", 5, "", "x" * 9_999,
    )),
    ("per_group", lambda s, v: s.search("notes", QUERY, group_by="name", per_group=v),
     (0, -1, 1.5, "2", None)),
    ("diversity", lambda s, v: s.search("notes", QUERY, group_by="name", diversity=v), (0.5,)),
    ("tuning.measure", lambda s, v: s.search("notes", QUERY, tuning=Tuning(measure=v)),
     (0, "no")),
    ("tuning.oversample", lambda s, v: s.search("notes", QUERY, tuning=Tuning(oversample=v)),
     (0.5, True, "2", float("inf"))),
    ("batch_size", lambda s, v: _exported(s, batch_size=v), (0, "3")),
    ("after", lambda s, v: _exported(s, after=v), ("text", 5)),
    *((name, _hybrid(name), (value,)) for name, value in {
        "fusion": "rrf", "limit": 0, "diversity": -1, "rerank": 5, "highlight": 5, "fetch_k": 3,
        "tuning": 5,
    }.items()),
    ("query", lambda s, v: s.search_hybrid("notes", v, QUERY), (b"wool",)),
    ("ids", lambda s, v: s.delete("notes", v), NO_IDS),
    ("ids or where", lambda s, v: s.delete("notes", v), (None,)),
    ("ids", lambda s, v: s.get("notes", v), (*NO_IDS, None)),
]  # fmt: skip
OTHER_ERRORS: list[tuple[type[Exception], Callable[[VectorStore], Awaitable[Any]]]] = [
    (FilterError, lambda s: s.distinct("notes", "name", "absent = 1")),
    (FilterError, lambda s: s.bounds("notes", "name", "absent = 1")),
    (FilterError, lambda s: s.search_like("notes", "r0001", where="absent = 1")),
    (FilterError, lambda s: s.search_hybrid("notes", "wool", QUERY, where="absent = 1")),
    (TableNotFoundError, lambda s: s.search_like("absent", "r0001")),
    (TableNotFoundError, lambda s: s.search_hybrid("absent", "wool", QUERY)),
    (DimensionMismatchError, lambda s: s.search_hybrid("notes", "wool", [1.0])),
    (InvalidVectorError, lambda s: s.search_hybrid("notes", "wool", [0.0] * DIM)),
    (InvalidVectorError, lambda s: s.search_hybrid("notes", "wool")),
    (ModelMismatchError, lambda s: s.search_hybrid("notes", "wool", QUERY, model="other")),
    (InvalidNameError, lambda s: s.search_hybrid("notes", "wool", QUERY, select=["absent"])),
]


async def test_each_argument_refuses_what_it_cannot_be(store: VectorStore) -> None:
    text = Field(str, text=True)
    fields: dict[str, Any] = {"body": text, **SMALL.fields, "tags": list[str]}
    rows = [{**row, "body": "wool"} for row in small_rows(10)]
    await filled(store, Schema(DIM, model="m", fields=fields), rows)
    await store.create_table("plain", Schema(DIM, payload=False))
    for argument, call, values in VALUES_REFUSED:
        for value in values:
            with case((argument, value)):
                with pytest.raises(InvalidArgumentError) as caught:
                    await call(store, value)
                assert caught.value.argument == argument
    for error, other in OTHER_ERRORS:
        with case(error), pytest.raises(error):
            await other(store)
    with pytest.raises(InvalidVectorError, match=r"missing.*no embedder.*Embed\('body'\)"):
        await store.search_hybrid("notes", "wool")
    too_large = (b"9" * 19, b"9223372036854775808")
    for garbage in (b"", b"garbage", b"\xff" * 40, *too_large):
        with suppress(AiovecError):  # and no other error
            await _exported(store, after=garbage)
    number: Any = np.float32(-2)
    assert len(await store.search("notes", QUERY, min_score=number)) == 10
    assert len(await store.find("notes", order_by=[DEEP, "-id"])) == 10
    assert len(await store.find("notes", order_by=[f"payload.k{n}" for n in range(32)])) == 10
    hits = await store.search_hybrid("notes", "wool", QUERY, model="m", exact=True)
    assert len(hits) == 10
    liked = await store.search_like("notes", "r0001")
    assert ids_of(await store.table("notes").search_like("r0001")) == ids_of(liked)


async def test_a_records_vector_is_the_callers(notes: VectorStore) -> None:
    (record,) = await notes.get("notes", "r0001")
    assert record.vector is not None
    before = record.vector.copy()
    kept = np.array(record.vector)
    kept[:] = 7
    if record.vector.flags.writeable:
        record.vector[:] = 7
    (again,) = await notes.get("notes", "r0001")
    assert again.vector is not None
    assert np.array_equal(again.vector, before)


async def test_names_that_differ_in_case_only_where_they_may(store: VectorStore) -> None:
    with pytest.raises(InvalidNameError):
        Schema(DIM, fields={"year": int, "Year": int})
    schema = Schema(DIM, fields={"Year": int})
    await filled(store, schema, [{"id": "x", "embedding": [1] * DIM, "Year": 1, "year": 2}])
    (record,) = await store.get("notes", "x")
    assert record.fields == {"Year": 1, "year": 2}  # the other case is a key of the payload
    assert await store.count("notes", "Year = 1 AND payload.year = 2") == 1


def test_field_names_that_are_refused() -> None:
    wrong: Any
    for wrong in REFUSED:
        with case(wrong):
            with pytest.raises(InvalidNameError) as caught:
                Schema(DIM, fields={wrong: str})
            assert caught.value.name == wrong
    for wrong in ("id", "payload", "1", "", "a b", None):
        with case(wrong), pytest.raises((InvalidNameError, InvalidArgumentError)):
            Schema(DIM, vector=wrong)
