"""Filter text: what it means, where its errors point, and that trees print as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiovec import F, FilterError
from aiovec._filters import parse
from aiovec._filters.tree import MAX_DEPTH, MAX_LITERALS, all_of, any_of, negated
from aiovec.backend import And, Compare, Const, Expr, Ref, bind

from . import cases
from .cases import SCHEMA

MOMENT = datetime(2024, 1, 31, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expr"),
    [
        ("year = 5", F.year == 5),
        ("year == 5", F.year == 5),
        ("year <> 5", F.year != 5),
        ("2024 <= year", F.year >= 2024),
        ("2024 > year", F.year < 2024),
        ("'a' = name", F.name == "a"),
        ("year = -5", F.year == -5),
        ("x >= +1.5e-3", F.x >= 0.0015),
        ("x < .5", F.x < 0.5),
        ("x = 5.", F.x == 5.0),
        ("name = 'it''s'", F.name == "it's"),
        ("name = ''", F.name == ""),
        ("name = 'a\n\0%_'", F.name == "a\n\0%_"),
        ("seen >= timestamp '2024-01-31T12:30:00Z'", F.seen >= MOMENT),
        ("seen >= TIMESTAMP'2024-01-31 14:30:00.000000+02:00'", F.seen >= MOMENT),
        ("timestamp < TIMESTAMP '2024-01-31T12:30:00Z'", F.timestamp < MOMENT),
        ("live", F.live == True),  # noqa: E712
        ("NOT live", ~F.live),
        ("live = false", F.live == False),  # noqa: E712
        ("TRUE", Const(True)),
        ("NOT TRUE", Const(False)),
        ("year IN (1, 2)", F.year.in_([1, 2])),
        ("year not in (1,2)", F.year.not_in([1, 2])),
        ("year IN ()", F.year.in_([])),
        ("year BETWEEN 1 AND 2 AND live", F.year.between(1, 2) & F.live),
        ("year NOT BETWEEN 1 AND 2", ~F.year.between(1, 2)),
        ("lang IS NULL", F.lang == None),  # noqa: E711
        ("lang is not null", F.lang != None),  # noqa: E711
        ("lang IS NOT NULL", ~F.lang.is_null()),
        ("lang LIKE 'a%'", F.lang.like("a%")),
        ("lang NOT LIKE 'a%'", ~F.lang.like("a%")),
        ("tags CONTAINS 'ai'", F.tags.contains("ai")),
        ("tags NOT CONTAINS 'ai'", ~F.tags.contains("ai")),
        ("lang STARTSWITH 'e'", F.lang.startswith("e")),
        ("startswith(lang, 'e')", F.lang.startswith("e")),
        ("NOT startswith(payload.a, 'e')", ~F["payload.a"].startswith("e")),
        ("a = 1 OR b = 2 AND c = 3", (F.a == 1) | ((F.b == 2) & (F.c == 3))),
        ("(a = 1 OR b = 2) AND c = 3", ((F.a == 1) | (F.b == 2)) & (F.c == 3)),
        ("NOT a = 1 AND b = 2", ~(F.a == 1) & (F.b == 2)),
        ("NOT (a = 1 AND b = 2)", ~((F.a == 1) & (F.b == 2))),
        ("NOT NOT a = 1", F.a == 1),
        ("a = 1 AND (b = 2 AND c = 3)", (F.a == 1) & (F.b == 2) & (F.c == 3)),
        ('"order" = 1', F.order == 1),
        ('"in" = 1 AND "a""b" = 2', (F["in"] == 1) & (F['a"b'] == 2)),
        ('payload.in."odd key".b = 1', F.payload["in"]["odd key"]["b"] == 1),
        ('payload."a.b" = 1', F.payload["a.b"] == 1),
        ("payload.größe = 1", F["payload.größe"] == 1),
        ("contains = 1 AND startswith = 2", (F.contains == 1) & (F.startswith == 2)),
    ],
)
def test_text_and_operators_give_the_same_tree(text: str, expr: Expr) -> None:
    assert parse(text) == expr
    assert hash(parse(text)) == hash(expr)
    assert parse(str(expr)) == expr


@pytest.mark.parametrize(
    ("text", "position", "message", "expected"),
    [
        ("", 0, "empty", "a field"),
        (" \n", 0, "empty", "a field"),
        ("year >", 6, "ends too early", "a number"),
        ("year > > 1", 7, "'>'", "a number"),
        ("year >= 1 year", 10, "'year'", "AND, OR or the end"),
        ("(year >= 1", 10, "ends too early", "')'"),
        ("year >= 1)", 9, r"'\)'", "the end"),
        ("live AND", 8, "ends too early", "a field"),
        ("live AND OR live", 9, "'OR'", "a field"),
        ("NOT", 3, "ends too early", "a field"),
        ("()", 1, r"'\)'", "a field"),
        ("year = NULL", 7, "IS NULL", "a number"),
        ("year IN (1, NULL)", 12, "IS NULL", "a number"),
        ("year IN 1", 8, "'1'", r"'\('"),
        ("year IN (1 2)", 11, "'2'", "','"),
        ("year IN (1,)", 11, r"'\)'", "a number"),
        ("year BETWEEN 1 OR 2", 15, "'OR'", "AND"),
        ("year IS 5", 8, "'5'", "NULL"),
        ("year IS NOT 5", 12, "'5'", "NULL"),
        ("year NOT 5", 9, "'5'", "IN, BETWEEN"),
        ('lang = "en"', 7, "single quotes", "'text'"),
        ("year = other", 7, "literal only", "a number"),
        ("lang LIKE 5", 10, "'5'", "'text'"),
        ("1 = 1", 4, "'1'", "a field"),
        ("'a' LIKE 'a'", 4, "'LIKE'", "one of"),
        ("lang = 'abc", 7, "does not end", "closing '"),
        ('"lang = 1', 0, "does not end", 'closing "'),
        ("year # 3", 5, "'#'", "an operator"),
        ("lang = 'é😀' § 1", 12, "'§'", "an operator"),
        ("year = 12ab", 9, "ends in a letter", "a space"),
        ("year = 9223372036854775808", 7, "64 bits", "a number"),
        ("year = 1e999", 7, "finite", "a number"),
        ("seen > TIMESTAMP '2024-01-31'", 7, "not a timestamp", "TIMESTAMP"),
        ("seen > TIMESTAMP '2024-02-30T00:00:00Z'", 7, "not a timestamp", "TIMESTAMP"),
        ("seen > TIMESTAMP '0001-01-01T00:00:00+14:00'", 7, "out of range", "TIMESTAMP"),
        ("seen > '2024' AND TIMESTAMP 'x' < y", 18, "not a timestamp", "TIMESTAMP"),
        ("payload. = 1", 9, "'='", "a key"),
        ("lang = '\ud800'", 7, "surrogate", "'text'"),
    ],
)
def test_an_error_points_at_the_fault(
    text: str, position: int, message: str, expected: str
) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        parse(text)
    assert (caught.value.text, caught.value.position) == (text, position)
    assert caught.value.expected is not None
    assert expected.replace("\\", "") in caught.value.expected


@pytest.mark.parametrize("where", [5, b"year = 1", ["year = 1"], object(), True])
def test_what_is_no_filter_is_refused(where: Any) -> None:
    with pytest.raises(FilterError, match="a filter is text or an expression of F"):
        bind(where, SCHEMA)


names = st.one_of(
    cases.texts,
    st.sampled_from(["in", "NOT", "true", "timestamp", "contains", "_a", "\u017ftartswith", "0"]),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=cases.rows())
def test_a_tree_prints_as_text_that_parses_to_it(data: st.DataObject, rows: Any) -> None:
    _check_text_of_a_tree(data, rows)


@pytest.mark.soak
@settings(max_examples=2_000, deadline=None)
@given(data=st.data(), rows=cases.rows())
def test_many_trees_print_as_text_that_parses_to_them(data: st.DataObject, rows: Any) -> None:
    _check_text_of_a_tree(data, rows)


def _check_text_of_a_tree(data: st.DataObject, rows: Any) -> None:
    expr = data.draw(cases.filters(rows))
    assert parse(str(expr)) == expr
    assert bind(str(expr), SCHEMA) == bind(expr, SCHEMA)


@settings(max_examples=120, deadline=None)
@given(name=names, path=st.lists(names, max_size=3), value=cases.scalars)
def test_any_name_and_literal_can_be_written(name: str, path: list[str], value: Any) -> None:
    expr = Compare(Ref(name, tuple(path)), "=", "x" if value is None else value)
    assert parse(str(expr)) == expr
    assert parse(f"NOT({expr})OR({expr})") == any_of([negated(expr), expr])


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from([
    "year", "=", "1", "'x'", "(", ")", "AND", "OR", "NOT", "IN", ",", "IS", "NULL", "LIKE", ".",
    "BETWEEN", "TIMESTAMP", "STARTSWITH", "CONTAINS", '"q"', "-", "#", "TRUE", "\0", "'", "1e5",
]), max_size=12))  # fmt: skip
def test_any_text_is_a_filter_or_a_filter_error(words: list[str]) -> None:
    text = " ".join(words)
    try:
        parse(text)
    except FilterError as exc:
        error = exc
    else:
        return
    assert error.position is not None
    assert 0 <= error.position <= len(text)
    assert error.expected


HUGE = {
    "open parentheses": "(" * 1_000_000,
    "spaces": " " * 1_000_000,
    "one long number": "1" * 1_000_000 + " = year",
    "an open quote": "'" + "a''" * 333_333,
    "quotes": "'" * 1_000_001,
    "too many literals": "year IN (" + ",".join(map(str, range(MAX_LITERALS + 1))) + ")",
    "too many terms": " OR ".join(["lang IS NULL"] * 66_000),
    "deep": "live AND (live OR (" * 2_500 + "live" + "))" * 2_500,
    "deep NOT": "NOT (live AND " * 5_000 + "live" + ")" * 5_000,
    "words": "timestamp " * 100_000,
    "comparisons": "a=" * 500_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_text_that_cannot_be_a_filter_is_a_filter_error(name: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(HUGE[name])
    assert len(str(caught.value)) < 1_000


def test_huge_texts_that_are_filters() -> None:
    live = parse("live")
    assert parse("(" * 5_000 + "live" + ")" * 5_000) == live
    assert parse("NOT " * 200_000 + "live") == live
    assert parse("live AND (" * 5_000 + "live" + ")" * 5_000).depth == 2
    assert parse("(" * 5_000 + "live" + " OR live)" * 5_000).depth == 2
    values = ", ".join(map(str, range(10_000)))
    assert parse(f"year IN ({values})") == F.year.in_(range(10_000))
    text = "it''s " * 200_000
    assert parse(f"lang = '{text}'") == (F.lang == text.replace("''", "'"))


def test_ten_thousand_terms_one_by_one() -> None:
    expr: Expr = F.year == 0
    for number in range(1, 10_000):
        expr = expr | (F.year == number)
    assert (expr.depth, expr.literals) == (2, 10_000)
    assert parse(str(expr)) == expr
    assert len(repr(expr)) < 2_000


def test_a_tree_cannot_be_deeper_or_larger_than_the_limits() -> None:
    expr: Expr = F.year == 0
    for _ in range((MAX_DEPTH - 1) // 2):
        expr = ~(expr & F.live)
    assert expr.depth == MAX_DEPTH - 1
    expr = expr & F.live
    with pytest.raises(FilterError, match=f"{MAX_DEPTH} levels"):
        negated(expr)
    with pytest.raises(FilterError, match="literals"):
        F.year.in_(range(MAX_LITERALS + 1))
    many = all_of([F.year.is_null()] * MAX_LITERALS)
    assert isinstance(many, And)
    with pytest.raises(FilterError, match="literals"):
        many & F.live
