"""``create_table`` of rows: the schema that they suggest, and all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import case
from tests.harness.values import same_value

import aiovec
from aiovec import Embed, Field, Schema, VectorStore

NOW = datetime(2026, 1, 31, tzinfo=UTC)
VECTOR = [1.0, 2.0]


@pytest.fixture
async def store() -> AsyncIterator[VectorStore]:
    async with aiovec.connect(":memory:") as opened:
        yield opened


def columns(**values: list[Any]) -> list[dict[str, Any]]:
    """Rows with these columns, and a vector."""
    (count,) = set(map(len, values.values()))
    return [
        {"embedding": VECTOR, **{name: column[row] for name, column in values.items()}}
        for row in range(count)
    ]


# The values of one column, and the kind of the field; None leaves them in the payload.
KINDS: list[tuple[list[Any], str | None]] = [
    ([1, None], "int"), ([np.int8(1), 2], "int"), ([1, 1.5], "float"),
    ([True, np.bool_(False)], "bool"), (["1", "2026-01-31T00:00:00Z"], "text"),
    ([NOW, None], "datetime"), ([["a"], []], "list[text]"), ([[1, 2], (3,)], "list[int]"),
    ([[1], np.array([1.5])], "list[float]"),
    # A frame that was read from Parquet has its lists as arrays.
    ([np.array(["a", "b"], object), np.array(["c"]), np.array([], object)], "list[text]"),
    ([1, "a"], None), ([True, 1], None), ([None, None], None), ([[], []], None),
    ([["a"], [1]], None), ([{"a": 1}, {}], None), ([["a"], "a"], None),
    ([date(2026, 1, 31), None], None), ([{"deep": np.array(["a"], object)}, None], None),
]  # fmt: skip
# What comes back where it is another value than the first one.
KEPT = {len(KINDS) - 2: "2026-01-31", len(KINDS) - 1: {"deep": ["a"]}}
ARROW = pa.table({
    "id": ["a", "b"],
    "v": pa.array([VECTOR, VECTOR], pa.list_(pa.float32())),
    "n": pa.array([1, None], pa.int16()),
    "kind": pa.array(["x", "y"]).dictionary_encode(),
    "at": pa.array([NOW, None], pa.timestamp("ns", "Europe/Paris")),
    "x": pa.array([["a"], None], pa.large_list(pa.large_string())),
    "h": pa.array([np.float16(1.5)] * 2, pa.float16()),
    "f": pa.array([[1.5], []], pa.list_(pa.float32())),
    "b": pa.array([[True], None]),
    "whole": pa.array([{"a": 1}, None]),
})  # fmt: skip


async def test_the_values_of_a_column_choose_the_kind_of_its_field(store: VectorStore) -> None:
    for number, (values, kind) in enumerate(KINDS):
        rows = columns(x=values)
        for form, given in {
            "rows": rows,
            "columns": {n: [r[n] for r in rows] for n in rows[0]},
        }.items():
            with case((values, form)):
                table = f"{form}-{number}"
                schema = await store.create_table_from(table, given)
                assert schema == await store.schema(table)
                kinds = {name: field.kind for name, field in schema.fields.items()}
                assert kinds == ({} if kind is None else {"x": kind})
                assert await store.count(table) == len(values)
                if kind is None:
                    (row, *_) = await store.find(table)
                    assert same_value(row["x"], KEPT.get(number, values[0]))


async def test_names_that_are_no_fields_stay_in_the_payload(store: VectorStore) -> None:
    rows = [{"id": "a", "embedding": VECTOR, "Release Year": 1, "_x": 2, "y": 3, "Y": 4}]
    schema = await store.create_table_from("t", rows)
    assert list(schema.fields) == ["y"]
    assert (await store.get("t", "a"))[0].fields == {"Release Year": 1, "_x": 2, "y": 3, "Y": 4}


async def test_types_of_arrow_and_of_frames_choose_the_kinds(store: VectorStore) -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frames = ARROW.drop_columns(["h", "whole"])
    fields: Any = {
        "n": int, "kind": str, "at": datetime, "x": list[str], "h": float, "f": list[float],
    }  # fmt: skip
    for number, rows in enumerate((
        ARROW, ARROW.to_batches(), ARROW.to_reader(),
        {name: ARROW.column(name) for name in ARROW.column_names},
        pl.from_arrow(frames), frames.to_pandas(integer_object_nulls=True),
    )):  # fmt: skip
        with case(str(number)):
            own = {name: kind for name, kind in fields.items() if name != "h" or number < 4}
            schema = Schema(2, vector="v", fields=own)
            assert await store.create_table_from(f"t{number}", rows) == schema
            assert await store.count(f"t{number}", {"n": 1, "kind": "x"}) == 1
            assert (await store.get(f"t{number}", "a"))[0]["b"] == [True]
    frame = pd.DataFrame({"id": [1, 2], "n": [1, None], "embedding": [VECTOR] * 2})
    assert (await store.create_table_from("frame", frame)).fields == {"n": Field(float)}
    matrix = {"id": ["a"], "embedding": np.ones((1, 3)), "n": np.array([1], np.int8)}
    assert await store.create_table_from("matrix", matrix) == Schema(3, fields={"n": int})
    batches = [batch async for batch in store.export("matrix")]
    assert await store.create_table_from("again", batches) == await store.schema("matrix")
    records = await store.find("matrix", include_vector=True)
    assert await store.create_table_from("records", records) == await store.schema("matrix")


async def test_options_take_the_place_of_a_schema(store: VectorStore) -> None:
    rows = columns(title=["red", "blue"], year=[1, 2], more=[[1.5, 2, 3], [1, 2, 3]])
    schema = await store.create_table_from(
        "t", rows, vector="more", metric="l2", model="m", text="title", index=["year"]
    )
    assert schema == Schema(
        3, metric="l2", model="m", vector="more",
        fields={
            "embedding": list[float], "title": Field(str, text=True),
            "year": Field(int, index="btree"),
        },
    )  # fmt: skip
    assert [hit["title"] for hit in await store.search_text("t", "red")] == ["red"]
    rows = [{"id": "a", "embedding": VECTOR}, {"id": "b"}, {"id": "c", "embedding": None}]
    arrow = pa.table({"id": ["a", "b", "c"], "embedding": [VECTOR, None, None]})
    for name, given in (("rows", rows), ("arrow", arrow)):
        schema = await store.create_table_from(name, given, vector_nullable=True)
        assert schema == Schema(len(VECTOR), vector_nullable=True)
        assert await store.count(name, "embedding IS NULL") == 2


async def test_refused_rows_leave_no_table(store: VectorStore) -> None:
    wrong = aiovec.InvalidRowError, aiovec.InvalidArgumentError
    lacking = aiovec.InvalidVectorError
    rows, named = columns(x=[1, 2]), columns(title=["a", "b"])
    times = columns(x=[np.array(["2024-01-01"], "datetime64[ns]")] * 2)
    for given, options, error, says in (
        ([{"title": "a"}], {}, wrong, "no vectors were found.*'title'.*vector=.*embed="),
        ([], {}, wrong, "no vectors"),
        ([{"a": VECTOR, "b": VECTOR}], {}, wrong, "'a', 'b'"),
        ([{"embedding": 5}], {}, wrong, "in the column 'embedding', which holds none"),
        ([{"embedding": "[1, 2]"}], {}, wrong, "'embedding', which holds text .parse it"),
        (pa.table({"embedding": ["[1, 2]"]}), {}, wrong, "'embedding', which holds text .parse"),
        ({"id": [], "embedding": []}, {}, wrong, "'embedding', which holds no value .pass a Sch"),
        ({"id": "a", "embedding": VECTOR}, {}, wrong, "a list of one mapping"),
        (5, {}, wrong, "rows must be"),
        (rows, {"vector": "no"}, wrong, "'no'"),
        (rows, {"text": ["x"]}, wrong, "text field"),
        (rows, {"index": ["z"]}, wrong, "index must be the name of a field .x., not 'z'"),
        (named, {"text": ["titel"]}, wrong, "text must be .*not 'titel'; did you mean 'title'"),
        ([*rows, {"x": 3}], {}, lacking, "row 2 .*is missing .*vector_nullable=True"),
        (pa.table({"embedding": [VECTOR, None]}), {}, lacking, "row 1 .*vector_nullable=True"),
        (rows, {"text": 5}, wrong, "text"),
        (None, {}, wrong, "not NoneType"),
        (Schema(2), {}, wrong, "not Schema"),
        ([*rows, {"embedding": [1.0]}], {}, aiovec.DimensionMismatchError, "row 2"),
        ([{"id": "a", "embedding": VECTOR}] * 2, {}, aiovec.DuplicateIdError, "'a'"),
        ([{"embedding": VECTOR, "n": 2**70}], {}, wrong, "64 bits"),
        ([{"embedding": VECTOR, "at": datetime(2026, 1, 31)}], {}, wrong, "time zone"),  # noqa: DTZ001
        (times, {}, wrong, "ndarray is not JSON"),
        ([{"text": "a"}], {"embed": Embed("text")}, aiovec.AiovecError, "embedder"),
    ):  # fmt: skip
        with case(says), pytest.raises(error, match=says):
            await store.create_table_from("t", given, **options)
        assert await store.tables() == []
    await store.create_table_from("t", rows)
    with pytest.raises(aiovec.TableExistsError, match="upsert"):
        await store.create_table_from("t", rows)
    assert await store.count("t") == 2


async def test_a_cancelled_call_makes_the_table_with_its_rows_or_none(store: VectorStore) -> None:
    for steps in range(12):
        name = f"t{steps}"
        call = asyncio.ensure_future(store.create_table_from(name, columns(x=[1, 2])))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert name not in await store.tables() or await store.count(name) == 2


async def test_texts_are_embedded_and_a_failure_makes_no_table() -> None:
    calls = []

    def vectors_of(texts: list[str]) -> list[list[float]]:
        calls.append(texts)
        if "bad" in texts:
            raise ValueError("no")
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(vectors_of, model="m", dim=2)
    async with aiovec.connect(":memory:", embedder=embedder) as store:
        with pytest.raises(aiovec.EmbeddingError):
            await store.create_table_from("t", [{"body": "bad"}], embed=Embed("body"))
        assert await store.tables() == []
        schema = await store.create_table_from(
            "t", [{"body": "a"}, {"body": "bb"}], embed=Embed("body")
        )
        assert (schema.dim, schema.model) == (2, "m")
        assert [hit["body"] for hit in await store.search("t", "cc", limit=1)] == ["bb"]
        calls.clear()
        with pytest.raises(aiovec.TableExistsError):
            await store.create_table_from("t", [{"body": "a"}], embed=Embed("body"))
        assert calls == []
