"""LanceDB's SQL and the evaluation over Arrow say the same of every filter and every row."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.filters import cases
from tests.filters.cases import SCHEMA, arrow_table
from tests.harness.evaluate import evaluate

from aiovec import F
from aiovec._filters.tree import MAX_DEPTH, all_of, any_of, negated
from aiovec.backend import Expr, Like, Ref, bind

from .filter_rows import LancedbRows

FEW = settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SOME = settings(FEW, max_examples=30)
MANY = settings(FEW, max_examples=2_000)  # of filters of any depth, so of each condition, too


@pytest.fixture(scope="module")
def held() -> Iterator[LancedbRows]:
    rows = LancedbRows()
    yield rows
    rows.close()


def check(held: LancedbRows, rows: list[dict[str, Any]], exprs: list[Expr]) -> None:
    table = arrow_table(rows)
    held.hold(rows)
    for expr in exprs:
        bound = bind(expr, SCHEMA)
        assert bound is not None
        expected = evaluate(bound, table, SCHEMA).to_pylist()
        assert held.truths(bound) == expected, bound
        assert held.selected(bound) == [i for i, t in enumerate(expected) if t], bound


@pytest.mark.parametrize("kind", cases.CONDITIONS)
@FEW
@given(rows=cases.rows(), data=st.data())
def test_each_condition_means_the_same_in_sql_and_over_arrow(
    held: LancedbRows, kind: str, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    exprs = data.draw(st.lists(cases.conditions(rows)[kind], min_size=1, max_size=8))
    check(held, rows, [*exprs, *map(negated, exprs)])


@SOME
@given(rows=cases.rows(), data=st.data())
def test_each_filter_means_the_same_in_sql_and_over_arrow(
    held: LancedbRows, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    check(held, rows, data.draw(st.lists(cases.filters(rows), min_size=1, max_size=3)))


@pytest.mark.soak
@MANY
@given(rows=cases.rows(), data=st.data())
def test_many_filters_mean_the_same_in_sql_and_over_arrow(
    held: LancedbRows, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    check(held, rows, data.draw(st.lists(cases.filters(rows), min_size=1, max_size=3)))


@SOME
@given(
    texts=st.lists(cases.texts, min_size=1, max_size=8),
    found=st.lists(cases.patterns, min_size=1, max_size=8),
)
def test_like_agrees_on_columns_and_payloads(
    held: LancedbRows, texts: list[str], found: list[str]
) -> None:
    rows = [
        {"id": str(i), **dict.fromkeys(SCHEMA.fields), "select": text, "payload": {"a": text}}
        for i, text in enumerate(texts)
    ]
    refs = (Ref("select"), Ref("payload", ("a",)))
    check(held, rows, [Like(ref, pattern) for ref in refs for pattern in found])


LEAVES: list[Expr] = [
    F.year > 3,
    F["select"] == "x",
    F.payload["a"]["b"] == "x",
    F.payload["a"]["0"] > 1.5,
    F.payload["a"].contains("x"),
    F.payload["a"].in_(["x", 1, True]),
    ~F.payload["a"].like("%x%"),
]


def deep(chance: random.Random, depth: int) -> Expr:
    """AND and OR by turns, with some terms on each level, some of them deep too."""
    if not depth:
        return chance.choice(LEAVES)
    terms = [deep(chance, depth - 1)]
    terms += [deep(chance, chance.choice([0, 0, min(2, depth - 1)])) for _ in range(2)]
    chance.shuffle(terms)
    joined = all_of(terms) if depth % 2 else any_of(terms)
    return negated(joined) if chance.random() < 0.2 else joined


@pytest.mark.slow
@pytest.mark.parametrize("depth", [10, 40])
def test_the_deepest_filters_are_answered(held: LancedbRows, depth: int) -> None:
    """Lance's parser takes exponential time for some nesting, and refuses 50 parentheses."""
    rows = [
        {"id": str(n), **dict.fromkeys(SCHEMA.fields), "year": n, "payload": payload}
        for n, payload in enumerate([{}, {"a": {"b": "x", "0": 2}}, {"a": ["x"]}, {"a": "x"}])
    ]
    for seed in range(2):
        expr = deep(random.Random(seed), depth)
        assert depth <= expr.depth <= MAX_DEPTH
        check(held, rows, [expr])
