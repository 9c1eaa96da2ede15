"""Names, options and other arguments that are refused before a backend is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from inspect import isawaitable
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case, filled
from tests.contract.tables import CALLS
from tests.harness.values import DIM, SMALL, small_rows, vectors

import aiovec
from aiovec import Embed, Field, FilterError, InvalidNameError, Schema, Tuning, VectorStore

FIELD_NAMES = (
    "", "1a", "_a", "a b", "a.b", "a-b", "a\0", 'a"', "a'", "é", "a" * 64, "a;", "*", "id", "ID",
    "payload", "Payload", "embedding", "Embedding", None, 1, "\ud800",
    "_rowid", "_rowid_", "_rowaddr", "_distance", "_score", "_relevance_score", "_seq",
)  # fmt: skip
TABLE_NAMES = (
    "", "A", "1a", "_a", "-a", "a" * 64, "a b", "a.b", "a/b", "..", "é", "a\n", "a\0", "a;", 'a"',
    "a'", None, 1, b"a", "\ud800",
)  # fmt: skip


async def test_every_method_refuses_a_bad_table_name(store: VectorStore) -> None:
    for name, call in CALLS.items():
        with case(name):
            with pytest.raises(InvalidNameError) as caught:
                await call(store, "No Table")
            assert (caught.value.name, caught.value.kind) == ("No Table", "table")


async def test_the_embedded_field_is_renamed_and_stays(store: VectorStore) -> None:
    embed = Embed("body", using="mine")
    await store.create_table("notes", Schema(DIM, fields={"body": str, "a": str}, embed=embed))
    for new in ("text_1", "Text_1", "words"):
        (old,) = [name for name in (await store.schema("notes")).fields if name != "a"]
        await store.rename_field("notes", old, new)
        schema = await store.schema("notes")
        assert (schema.embed, list(schema.fields)) == (replace(embed, field=new), [new, "a"])
    await store.add_field("notes", "body", str)
    with pytest.raises(aiovec.InvalidArgumentError):
        await store.drop_field("notes", "words")
    await store.rename_field("notes", "body", "other")
    assert (await store.schema("notes")).embed == replace(embed, field="words")


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
        with pytest.raises(aiovec.ModelMismatchError) as caught:
            await call()
        assert isinstance(caught.value, ValueError)
        assert (caught.value.table, caught.value.expected, caught.value.given) == (
            "notes", "one", "two",
        )  # fmt: skip
    assert await store.count("notes") == 2
    with pytest.raises(TypeError, match="model"):  # it has no vector of the caller's
        await store.search_like("notes", small_rows(1)[0]["id"], model="one")  # type: ignore[call-arg]


QUERY = [1.0] * DIM
DEEP = "payload" + ".k" * 32
# Values of other libraries and types, whatever the argument.
ODD: tuple[Any, ...] = (np.array(1), np.array([1, 2]))
NOT_POSITIVE = (0, -1, 1.5, "3", True, np.bool_(True), np.float64(1))
NO_IDS = (1.5, True, [1.5], [True], [None], {"r0001": 1}, b"r0001", "\ud800", np.array(1))
NO_SUMMARIES = (
    "none", "embedding", "payload", "payload.", "NAME", "", "-name", None, 1, ["name"], "name; --",
    'payload."', "payload." + "x" * 10_000, "payload" + ".x" * 100, "payload.\ud800",
)  # fmt: skip
NO_BOUNDS = ("1", float("nan"), float("inf"), True, [1], 10**400)
NO_FIELDS = ("none", "id", "embedding", "payload", "payload.x", "Name", None, 5, [])
NO_INDEXES: tuple[tuple[Any, Any], ...] = (
    ("tags", "btree"), ("none", "btree"), ("id", "btree"), ("embedding", "btree"),
    ("payload.x", "bitmap"), ("YEAR", "btree"), (None, "btree"), (["year"], "btree"),
    ("year", "hash"), ("year", []),
)  # fmt: skip

Call = Callable[[VectorStore, Any], Any]


def _exported(store: VectorStore, **options: Any) -> Awaitable[Any]:
    return anext(store.export("notes", **options))


def _hybrid(name: str) -> Call:
    return lambda store, value: store.search_hybrid("notes", "wool", QUERY, **{name: value})


# An argument, a call that takes it, and values that it refuses.
VALUES_REFUSED: list[tuple[str | None, Call, Sequence[Any]]] = [
    ("limit", lambda s, v: s.find("notes", limit=v), NOT_POSITIVE),
    ("limit", lambda s, v: s.search("notes", QUERY, limit=v), (*NOT_POSITIVE, None)),
    ("limit", lambda s, v: s.distinct("notes", "name", limit=v), NOT_POSITIVE),
    ("offset", lambda s, v: s.find("notes", offset=v), (-1, 1.5, "3", None)),
    ("order_by", lambda s, v: s.find("notes", order_by=v), (
        "tags", "embedding", "payload", "payload.", "absent", "NAME", "", "-", "--id", "-tags",
        f"{DEEP}.k", "payload." + "k" * 5_000, ["id"] * 33, [1], 5, [["id"]], {1}, "\ud800", *ODD,
    )),
    ("order_by", lambda s, v: s.find("plain", order_by=v), ("payload.k",)),
    ("descending", lambda s, v: s.find("notes", descending=v), ODD[1:]),
    ("exact", lambda s, v: s.search("notes", QUERY, exact=v), ODD[1:]),
    ("include_vector", lambda s, v: s.search("notes", QUERY, include_vector=v), ODD[1:]),
    ("select", lambda s, v: s.find("notes", select=v), ODD[:1]),
    ("select", lambda s, v: s.search("notes", QUERY, select=v), ODD[:1]),
    ("select", lambda s, v: _exported(s, select=v), ODD[:1]),
    (None, lambda s, v: s.search_many("notes", v), ODD[:1]),
    (None, lambda s, v: s.add_field("notes", "odd", v), ODD[1:]),
    (None, lambda s, v: s.add_field("notes", "odd", v),
     (Field(str, nullable=False), Field(str, partition=True))),
    (None, lambda s, v: s.backup(v), (None, 5, b"x", "a\0b", "x" * 300, "~nosuch/x.db")),
    (None, lambda s, v: s.supports(v), ([],)),
    (None, lambda s, v: s.rename_field("notes", v, "new"), NO_FIELDS),
    (None, lambda s, v: s.drop_field("notes", v), (*NO_FIELDS, "part")),
    (None, lambda s, v: s.create_field_index("notes", *v),
     (*NO_INDEXES, ("tags", "text"), ("year", "text"), ("year", None))),
    (None, lambda s, v: s.drop_field_index("notes", *v), NO_INDEXES),
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
    ("diversity", lambda s, v: s.search("notes", QUERY, diversity=v),
     ("x", [], b"x", Decimal(1), *ODD[1:])),
    ("tuning.measure", lambda s, v: s.search("notes", QUERY, tuning=Tuning(measure=v)),
     (0, "no")),
    ("tuning.oversample", lambda s, v: s.search("notes", QUERY, tuning=Tuning(oversample=v)),
     (0.5, True, "2", float("inf"))),
    ("batch_size", lambda s, v: _exported(s, batch_size=v), (0, "3")),
    ("after", lambda s, v: _exported(s, after=v), ("text", 5)),
    *((name, _hybrid(name), (value,)) for name, value in {
        "fusion": "rrf", "limit": 0, "diversity": -1, "rerank": 5, "highlight": 5, "fetch_k": 0,
        "tuning": 5,
    }.items()),
    ("query", lambda s, v: s.search_hybrid("notes", v, QUERY), (b"wool",)),
    ("ids", lambda s, v: s.update("notes", {"year": 1}, ids=v), ODD[:1]),
    ("ids", lambda s, v: s.delete("notes", v), NO_IDS),
    ("ids or where", lambda s, v: s.delete("notes", v), (None,)),
    ("ids", lambda s, v: s.get("notes", v), (*NO_IDS, None)),
]  # fmt: skip
# A call that takes a new name, and names that it refuses.
NAMES_REFUSED: list[tuple[Call, Sequence[Any]]] = [
    (lambda s, v: s.create_table(v, SMALL), TABLE_NAMES),
    (lambda s, v: s.table(v), TABLE_NAMES),
    (lambda s, v: Schema(DIM, fields={v: str}), FIELD_NAMES),
    (lambda s, v: s.add_field("notes", v, Field(str)), (*FIELD_NAMES, "name", "NAME")),
    (lambda s, v: s.rename_field("notes", "name", v), (*FIELD_NAMES, "YEAR", "year")),
    (lambda s, v: s.find("notes", select=[v]), ("absent", "\ud800")),
    (lambda s, v: s.search_hybrid("notes", "wool", QUERY, select=[v]), ("absent",)),
]
OTHER_ERRORS: list[tuple[type[Exception], Callable[[VectorStore], Awaitable[Any]]]] = [
    (FilterError, lambda s: s.distinct("notes", "name", "absent = 1")),
    (FilterError, lambda s: s.bounds("notes", "name", "absent = 1")),
    (FilterError, lambda s: s.search_like("notes", "r0001", where="absent = 1")),
    (FilterError, lambda s: s.search_hybrid("notes", "wool", QUERY, where="absent = 1")),
    (aiovec.TableNotFoundError, lambda s: s.search_like("absent", "r0001")),
    (aiovec.TableNotFoundError, lambda s: s.search_hybrid("absent", "wool", QUERY)),
    (aiovec.DimensionMismatchError, lambda s: s.search_hybrid("notes", "wool", [1.0])),
    (aiovec.InvalidVectorError, lambda s: s.search_hybrid("notes", "wool", [0.0] * DIM)),
    (aiovec.ModelMismatchError, lambda s: s.search_hybrid("notes", "wool", QUERY, model="other")),
]


async def _waited(answer: Any) -> None:
    if isawaitable(answer):
        await answer


async def test_each_argument_refuses_what_it_cannot_be(store: VectorStore) -> None:
    fields: dict[str, Any] = {
        "body": Field(str, text=True), **SMALL.fields, "tags": list[str],
        "part": Field(str, partition=True),
    }  # fmt: skip
    schema = Schema(DIM, model="m", fields=fields)
    await filled(store, schema, [{**row, "body": "wool"} for row in small_rows(10)])
    await store.create_table("plain", Schema(DIM, payload=False))
    before = await store.find("notes", include_vector=True)
    for argument, call, values in VALUES_REFUSED:
        for value in values:
            with case((argument, value)):
                with pytest.raises(aiovec.InvalidArgumentError) as caught:
                    await _waited(call(store, value))
                assert argument in (None, caught.value.argument)
    for name_of, names in NAMES_REFUSED:
        for name in names:
            with case(name):
                with pytest.raises(InvalidNameError) as refused:
                    await _waited(name_of(store, name))
                assert str(refused.value.name).lower() == str(name).lower()
    for error, other in OTHER_ERRORS:
        with case(error), pytest.raises(error):
            await other(store)
    with pytest.raises(aiovec.InvalidVectorError, match=r"missing.*no embedder.*Embed\('body'\)"):
        await store.search_hybrid("notes", "wool")
    for garbage in (b"", b"garbage", b"\xff" * 40, b"9" * 19, b"9223372036854775808"):
        with suppress(aiovec.AiovecError):  # and no other error
            await _exported(store, after=garbage)
    wrong: Any
    for wrong in ("id", "payload", "1", "", "a b", None):
        with case(wrong), pytest.raises((InvalidNameError, aiovec.InvalidArgumentError)):
            Schema(DIM, vector=wrong)
    assert await store.find("notes", include_vector=True) == before
    assert (await store.tables(), await store.schema("notes")) == (["notes", "plain"], schema)


async def test_arguments_take_the_most_and_the_numbers_of_numpy(notes: VectorStore) -> None:
    integer: Any = np.int64(1)
    number: Any = np.float32(-2)
    assert len(await notes.find("notes", limit=integer, offset=integer)) == 1
    assert len(await notes.search("notes", QUERY, min_score=number)) == 10
    assert len(await notes.find("notes", order_by=[DEEP, "-id"])) == 10
    assert len(await notes.find("notes", order_by=[f"payload.k{n}" for n in range(32)])) == 10


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


async def test_fields_may_not_differ_by_case_alone(store: VectorStore) -> None:
    with pytest.raises(InvalidNameError):
        Schema(DIM, fields={"year": int, "Year": int})
    schema = Schema(DIM, fields={"Year": int})
    await filled(store, schema, [{"id": "x", "embedding": [1] * DIM, "Year": 1, "year": 2}])
    (record,) = await store.get("notes", "x")
    assert record.fields == {"Year": 1, "year": 2}  # the other case is a key of the payload
    assert await store.count("notes", "Year = 1 AND payload.year = 2") == 1
