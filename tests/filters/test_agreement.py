"""SQLite's SQL and the evaluation over Arrow say the same of every filter and every row."""

from __future__ import annotations

import math
import operator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness.evaluate import evaluate

from aiovec import Schema
from aiovec._filters.tree import negated
from aiovec.backend import Compare, Expr, In, Like, Ref, bind

from . import cases
from .cases import SCHEMA, arrow_table
from .sqlite_rows import open_with, selected, truths


def check(rows: list[dict[str, Any]], exprs: list[Expr], *, ascii_only: bool) -> None:
    table = arrow_table(rows)
    with closing(open_with(rows, ascii_only=ascii_only)) as connection:
        for expr in exprs:
            bound = bind(expr, SCHEMA)
            assert bound is not None
            expected = evaluate(bound, table, SCHEMA).to_pylist()
            assert truths(connection, bound) == expected, bound
            assert selected(connection, bound) == [i for i, t in enumerate(expected) if t], bound


@pytest.mark.parametrize("kind", cases.CONDITIONS)
@settings(max_examples=5, deadline=None)
@given(rows=cases.rows(), ascii_only=st.booleans(), data=st.data())
def test_each_condition_means_the_same_in_sql_and_over_arrow(
    kind: str, rows: list[dict[str, Any]], ascii_only: bool, data: st.DataObject
) -> None:
    exprs = data.draw(st.lists(cases.conditions(rows)[kind], min_size=1, max_size=8))
    check(rows, [*exprs, *map(negated, exprs)], ascii_only=ascii_only)


@settings(max_examples=50, deadline=None)
@given(rows=cases.rows(), ascii_only=st.booleans(), data=st.data())
def test_each_filter_means_the_same_in_sql_and_over_arrow(
    rows: list[dict[str, Any]], ascii_only: bool, data: st.DataObject
) -> None:
    exprs = data.draw(st.lists(cases.filters(rows), min_size=1, max_size=3))
    check(rows, exprs, ascii_only=ascii_only)


@pytest.mark.soak
@pytest.mark.parametrize("kind", cases.CONDITIONS)
@settings(max_examples=200, deadline=None)
@given(rows=cases.rows(), ascii_only=st.booleans(), data=st.data())
def test_many_of_each_condition_mean_the_same_in_sql_and_over_arrow(
    kind: str, rows: list[dict[str, Any]], ascii_only: bool, data: st.DataObject
) -> None:
    exprs = data.draw(st.lists(cases.conditions(rows)[kind], min_size=1, max_size=8))
    check(rows, [*exprs, *map(negated, exprs)], ascii_only=ascii_only)


@pytest.mark.soak
@settings(max_examples=2_000, deadline=None)
@given(rows=cases.rows(), ascii_only=st.booleans(), data=st.data())
def test_many_filters_mean_the_same_in_sql_and_over_arrow(
    rows: list[dict[str, Any]], ascii_only: bool, data: st.DataObject
) -> None:
    exprs = data.draw(st.lists(cases.filters(rows), min_size=1, max_size=3))
    check(rows, exprs, ascii_only=ascii_only)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(cases.texts, min_size=1, max_size=8),
    found=st.lists(cases.patterns, min_size=1, max_size=8),
)
def test_like_agrees_on_columns_and_payloads(texts: list[str], found: list[str]) -> None:
    rows = [
        {"id": str(i), **dict.fromkeys(SCHEMA.fields), "select": text, "payload": {"a": text}}
        for i, text in enumerate(texts)
    ]
    refs = (Ref("select"), Ref("payload", ("a",)))
    check(rows, [Like(ref, pattern) for ref in refs for pattern in found], ascii_only=False)


_EXACT = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_NUMBERS = Schema(dim=8, fields={"year": int, "score": float})


@pytest.mark.parametrize("op", _EXACT)
@settings(max_examples=40, deadline=None)
@given(value=cases.ints, literal=cases.finite_floats, near=st.booleans())
def test_an_int_field_against_a_fraction_is_exact(
    op: Any, value: int, literal: float, near: bool
) -> None:
    literal = float(value) if near else literal
    bound = bind(Compare(Ref("year"), op, literal), _NUMBERS)
    assert bound is not None
    table = pa.table({"year": pa.array([value, None], pa.int64())})
    assert evaluate(bound, table, _NUMBERS).to_pylist() == [_EXACT[op](value, literal), None]


@pytest.mark.parametrize("op", _EXACT)
@settings(max_examples=40, deadline=None)
@given(value=cases.floats, literal=cases.ints, near=st.booleans())
def test_a_float_field_against_an_int_is_exact(
    op: Any, value: float, literal: int, near: bool
) -> None:
    if near and math.isfinite(value) and abs(value) < 2**62:
        literal = int(value) + 1 if abs(value) > 2**53 else int(value)
    bound = bind(Compare(Ref("score"), op, literal), _NUMBERS)
    assert bound is not None
    table = pa.table({"score": pa.array([value, None], pa.float64())})
    assert evaluate(bound, table, _NUMBERS).to_pylist() == [_EXACT[op](value, literal), None]


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(cases.ints, min_size=1, max_size=4),
    literals=st.lists(cases.ints | cases.finite_floats, min_size=1, max_size=4),
)
def test_numbers_in_a_list_are_exact(values: list[int], literals: list[int | float]) -> None:
    for name, column in (("year", pa.array(values)), ("score", pa.array(map(float, values)))):
        bound = bind(In(Ref(name), tuple(literals)), _NUMBERS)
        assert bound is not None
        found = evaluate(bound, pa.table({name: column}), _NUMBERS).to_pylist()
        assert found == [any(row == x for x in literals) for row in column.to_pylist()]
