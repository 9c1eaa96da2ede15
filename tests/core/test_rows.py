"""Rows on their way in: the layout that comes about, what is copied, and whom an error blames."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import strategies
from tests.harness.oracle import Oracle, arrow_table
from tests.harness.values import python_rows

from aiovec import (
    DimensionMismatchError,
    Field,
    InvalidArgumentError,
    InvalidRowError,
    InvalidVectorError,
    Schema,
)
from aiovec._input.columns import text_array
from aiovec._input.rows import CheckedRows, check_ids, repeated_ids, taken_by, to_table
from aiovec.backend import last_of_each_id

SCHEMA = Schema(3, fields={"name": str, "year": int, "seen": datetime, "tags": list[str]})


def address(table: pa.Table) -> int:
    chunk = table.column(SCHEMA.vector).chunk(0)
    return int(chunk.flatten().to_numpy(zero_copy_only=True).__array_interface__["data"][0])


def test_a_right_array_is_not_copied() -> None:
    matrix = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    table = to_table({"id": list("abcd"), "embedding": matrix}, SCHEMA)
    assert address(table) == matrix.__array_interface__["data"][0]


def test_a_right_arrow_column_is_not_copied() -> None:
    rows = [{"id": id, "embedding": [1.0, 2, 3]} for id in "abcd"]
    given_table = arrow_table(rows, SCHEMA)
    assert address(to_table(given_table, SCHEMA)) == address(given_table)


@pytest.mark.parametrize("dtype", ["f8", "f2", ">f4", "i4"])
def test_other_arrays_are_converted(dtype: str) -> None:
    matrix = np.arange(1, 13).reshape(4, 3).astype(dtype)
    table = to_table({"id": list("abcd"), "embedding": matrix}, SCHEMA)
    flat = table.column("embedding").chunk(0).flatten()
    assert flat.type == pa.float32()
    assert flat.to_pylist() == [float(n) for n in range(1, 13)]


def test_the_layout_is_the_schemas() -> None:
    row = {"id": "a", "embedding": [1, 2, 3], "year": 5, "more": {"x": [1]}}
    for rows in ([row], [{**row, "name": None}], (row,), {k: [v] for k, v in row.items()}):
        table = to_table(rows, SCHEMA)
        table.validate(full=True)
        assert table.schema.equals(SCHEMA.to_arrow(), check_metadata=True)
        assert python_rows(table) == [
            {
                "id": "a", "embedding": [1.0, 2.0, 3.0], "name": None, "year": 5, "seen": None,
                "tags": None, "payload": '{"more":{"x":[1]}}',
            }
        ]  # fmt: skip
    nothing: Any
    for nothing in ([], (), {"id": [], "embedding": []}, SCHEMA.to_arrow().empty_table()):
        table = to_table(nothing, SCHEMA)
        assert table.num_rows == 0
        assert table.schema.equals(SCHEMA.to_arrow())


@given(st.data())
def test_every_form_gives_what_the_oracle_has(data: st.DataObject) -> None:
    schema = data.draw(strategies.schemas())
    rows = data.draw(
        st.lists(strategies.good_rows(schema), max_size=5, unique_by=lambda row: row["id"])
    )
    oracle = Oracle()
    oracle.create_table("t", schema)
    oracle.insert("t", rows)
    expected = python_rows(arrow_table(rows, schema))
    for row in expected:
        (kept,) = oracle.get("t", row["id"])
        assert row[schema.vector] == (None if kept.vector is None else kept.vector.tolist())
    for given_rows in (rows, arrow_table(rows, schema), arrow_table(rows, schema).to_batches()):
        found = python_rows(to_table(given_rows, schema)) if given_rows else []
        assert _read(found) == _read(expected)


def _read(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: json.loads(v) if k == "payload" and v is not None else v for k, v in row.items()}
        for row in rows
    ]


@given(st.data())
def test_a_bad_row_is_blamed_as_the_oracle_does(data: st.DataObject) -> None:
    schema = data.draw(strategies.schemas())
    rows = data.draw(st.lists(strategies.good_rows(schema), max_size=4))
    place = data.draw(st.integers(0, len(rows)))
    rows.insert(place, data.draw(strategies.bad_rows(schema)))
    oracle = Oracle()
    oracle.create_table("t", schema)
    kinds = (InvalidRowError, InvalidVectorError, DimensionMismatchError)
    with pytest.raises(kinds) as expected:
        oracle.upsert("t", rows)
    with pytest.raises(kinds) as caught:
        to_table(rows, schema)
    assert type(caught.value) is type(expected.value)
    for fact in ("row", "id", "field"):
        assert getattr(caught.value, fact, None) == getattr(expected.value, fact, None)


def test_columns_and_batches_are_blamed_too() -> None:
    with pytest.raises(InvalidVectorError) as caught:
        to_table({"id": ["a", "b"], "embedding": np.array([[1, 2, 3], [1, np.nan, 3.0]])}, SCHEMA)
    assert (caught.value.row, caught.value.id) == (1, "b")
    bad = arrow_table([{"id": "x", "embedding": [0.0, 0, 0]}], SCHEMA)
    good = arrow_table([{"id": id, "embedding": [1.0, 0, 0]} for id in "ab"], SCHEMA)
    with pytest.raises(InvalidVectorError) as caught:
        to_table([good, bad], SCHEMA)
    assert (caught.value.row, caught.value.id) == (2, "x")
    with pytest.raises(InvalidRowError) as row_error:
        to_table({"id": ["a", "b"], "embedding": [[1, 2, 3]] * 2, "year": [1, "x"]}, SCHEMA)
    assert (row_error.value.row, row_error.value.id, row_error.value.field) == (1, "b", "year")


def test_the_last_of_each_id() -> None:
    rows = [{"id": id, "embedding": [n + 1, 0, 0], "year": n} for n, id in enumerate("abacb")]
    table = to_table(rows, SCHEMA)
    assert sorted(repeated_ids(table)) == ["a", "b"]
    last = last_of_each_id(table)
    assert {row["id"]: row["year"] for row in python_rows(last)} == {"a": 2, "c": 3, "b": 4}
    assert repeated_ids(last) == []
    assert last_of_each_id(last) is last


def test_ids_to_look_for() -> None:
    assert check_ids("abc") == ["abc"]
    assert check_ids(iter(["b", "a", "b"])) == ["b", "a", "b"]
    assert check_ids([]) == []
    wrong: Any
    for wrong in (None, 5.0, True, b"x", {"a": 1}, ["a", None], [b"a"], ["\ud800"]):
        with pytest.raises(InvalidArgumentError):
            check_ids(wrong)


def test_datetimes_become_utc_microseconds() -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    text = "2024-05-06T09:08:09.123456+02:00"
    for value in (moment, text, "2024-05-06T07:08:09.123456Z"):
        table = to_table([{"id": "a", "embedding": [1, 0, 0], "seen": value}], SCHEMA)
        assert python_rows(table)[0]["seen"] == moment


def test_booleans_are_no_numbers_of_a_vector() -> None:
    """Beside rows of whole numbers NumPy takes them for 1 and 0."""
    wrong: Any
    for wrong in (
        [True, False, True], [1, 0, True], [0.5, True, 1], np.array([True, False, True]),
        [np.bool_(True), 0, 1], pa.array([True, False, True]),
    ):  # fmt: skip
        for good in ([1, 0, 1], [0.5, 1, 0]):
            for rows in (
                [{"id": "a", "embedding": good}, {"id": "b", "embedding": wrong}],
                {"id": ["a", "b"], "embedding": [good, wrong]},
            ):
                with pytest.raises(InvalidVectorError) as caught:
                    to_table(rows, SCHEMA)
                assert (caught.value.row, caught.value.id) == (1, "b")
    whole = {"id": ["a"], "embedding": np.array([[True, False, True]])}
    with pytest.raises(InvalidVectorError):
        to_table(whole, SCHEMA)


def test_what_pandas_keeps_as_periods_and_intervals_is_refused() -> None:
    pandas = pytest.importorskip("pandas")
    columns = {
        "period": pandas.Series(pandas.period_range("2024-01", periods=2, freq="M")),
        "interval": pandas.Series(pandas.interval_range(0, 2)),
    }
    for name, column in columns.items():
        frame = pandas.DataFrame({"id": ["a", "b"], "embedding": [[1.0, 2.0]] * 2, name: column})
        with pytest.raises(InvalidRowError, match="convert it") as caught:
            to_table(frame, Schema(2))
        assert caught.value.field == name


def test_checked_rows_are_taken_as_they_are_for_their_schema_alone() -> None:
    table = to_table([{"id": "a", "embedding": [1, 2, 3], "year": 5}], SCHEMA)
    same = Schema.from_json(SCHEMA.to_json())
    assert to_table(CheckedRows(table, SCHEMA), same) is table

    altered = SCHEMA.with_field("page", Field(int))
    again = to_table(CheckedRows(table, SCHEMA), altered)
    assert again.schema.equals(altered.to_arrow(), check_metadata=True)
    (row,) = python_rows(again)
    assert (row["id"], row["year"], row["page"]) == ("a", 5, None)

    with pytest.raises(DimensionMismatchError):
        to_table(CheckedRows(table, SCHEMA), Schema(4))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17])
def test_few_texts_are_the_same_column_as_many(count: int) -> None:
    values = [[None, "", "grün", "\0", "x" * 300, "日本"][row % 6] for row in range(count)]
    column = text_array("name", values, lambda row: (row, None))
    column.validate(full=True)
    assert column.to_pylist() == values
    assert column.equals(pa.array(values, pa.utf8()))
    assert column.null_count == values.count(None)


@pytest.mark.parametrize("count", [1, 20])
def test_text_that_is_no_unicode_is_named_among_few_and_many(count: int) -> None:
    rows = [{"id": f"{n}", "embedding": [1.0, 2, 3], "name": "right"} for n in range(count)]
    rows[-1]["name"] = "\ud800"
    with pytest.raises(InvalidRowError) as caught:
        to_table(rows, SCHEMA)
    assert (caught.value.row, caught.value.field) == (count - 1, "name")


def test_a_little_part_of_a_large_table_counts_as_such() -> None:
    large = pa.table({"id": pa.array([f"{n:09}" for n in range(200_000)])})
    assert taken_by(large) >= 200_000 * 9
    assert taken_by(large.slice(5, 2)) < 1000
