"""The SQL of filters: what stands in it, what an index serves, what is huge."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from tests.harness.evaluate import evaluate

from aiovec import F, Field, FilterError, Schema
from aiovec._filters.patterns import marked
from aiovec._filters.tree import MAX_DEPTH, MAX_NAMES, all_of, any_of, negated
from aiovec.backend import Expr, bind
from aiovec_sqlite.sql.filters import MAX_PARAMETERS, fixed_values, to_sql
from aiovec_sqlite.sql.like import matches as matches_marked

from .cases import SCHEMA, arrow_table
from .sqlite_rows import open_with, selected, truths


def matches(text: str, pattern: str) -> bool:
    return matches_marked(text, marked(pattern))


def row(number: int, **values: Any) -> dict[str, Any]:
    return {"id": str(number), **dict.fromkeys(SCHEMA.fields), "payload": None, **values}


def bound(where: Any) -> Expr:
    expr = bind(where, SCHEMA)
    assert expr is not None
    return expr


def check(rows: list[dict[str, Any]], where: Any) -> list[bool | None]:
    """What SQLite says, after Arrow said the same."""
    expr = bound(where)
    expected: list[bool | None] = evaluate(expr, arrow_table(rows), SCHEMA).to_pylist()
    with closing(open_with(rows)) as connection:
        assert truths(connection, expr) == expected
        assert selected(connection, expr) == [i for i, t in enumerate(expected) if t]
    return expected


HOSTILE = "x' OR 1=1; -- \" ) ? $? \0"


def test_nothing_that_users_write_stands_in_the_sql() -> None:
    where = (F.body == HOSTILE) | F.payload[HOSTILE][HOSTILE].in_([HOSTILE, 5])
    where = where | F.body.like(f"_{HOSTILE}") | F.tags.contains(HOSTILE)
    sql, parameters = to_sql(bound(where), SCHEMA)
    assert "OR 1=1" not in sql
    assert sql.count("?") == len(parameters)
    assert check([row(0, body=HOSTILE), row(1, body="x")], where) == [True, None]


def test_a_condition_can_stand_beside_and() -> None:
    sql, parameters = to_sql(bound(F.year.is_null() | (F.year == 1)), SCHEMA)
    with closing(open_with([row(0), row(1, year=1), row(2, year=2)])) as connection:
        found = connection.execute(f'SELECT id FROM "t.rows" AS r WHERE {sql} AND 0', parameters)
        assert found.fetchall() == []


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ("\"select\" = 'a'", "t.select"),
        ("\"select\" LIKE 'a%'", "t.select"),
        ("\"select\" LIKE 'a%b_c'", "t.select"),
        ("startswith(\"select\", 'a')", "t.select"),
        ("\"select\" IN ('a', 'b')", "t.select"),
        ("\"select\" = 'a' OR \"select\" = 'b'", "t.select"),
        ("NOT order >= 5", "t.order"),
        ("\"like\" BETWEEN 1 AND 2 AND body LIKE '%a'", "t.like"),
        ("id = 'a'", "sqlite_autoindex"),
    ],
)
def test_an_index_serves(where: str, index: str) -> None:
    sql, parameters = to_sql(bound(where), SCHEMA)
    with closing(open_with([])) as connection:
        plan = connection.execute(
            f'EXPLAIN QUERY PLAN SELECT _rowid FROM "t.rows" AS r WHERE {sql}', parameters
        ).fetchall()
    assert any("SEARCH" in step[3] and index in step[3] for step in plan), plan


def test_payload_types_do_not_mix() -> None:
    values = [1, 1.0, "1", True, None, [1], {"a": 1}, 2**53 + 1, "true"]
    rows = [row(i, payload={"a": value}) for i, value in enumerate(values)]
    rows += [row(9, payload={}), row(10)]
    none = [None] * 11
    assert check(rows, "payload.a = 1") == [True, True, *none[:5], False, *none[:3]]
    assert check(rows, "payload.a != '1'") == [None, None, False, *none[:5], True, None, None]
    assert check(rows, "payload.a = TRUE") == [*none[:3], True, *none[:7]]
    assert check(rows, f"payload.a > {float(2**53)!r}")[7] is True
    assert check(rows, "payload.a IS NULL") == [i in (4, 9, 10) for i in range(11)]
    assert check(rows, "payload.a CONTAINS 1") == [*none[:5], True, *none[:5]]
    assert check(rows, "payload.a.a = 1") == [*none[:6], True, *none[:4]]
    assert check(rows, "payload.a IN (1, 'x')")[:5] == [True, True, None, None, None]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("NOT year >= 1", [True, False, None]),
        ("NOT year > 1", [True, True, None]),
        ("NOT (year = 0 OR body = 'b')", [False, False, None]),
        ("year != 0 OR year != 5", [True, True, None]),
        ("year = 0 AND year = 1", [False, False, None]),
        ("year != 0 AND year != 1", [False, False, None]),
        ("NOT (year != 0 AND year != 1)", [True, True, None]),
        ("payload.a = 1 OR payload.a = 2 OR payload.a = 'x'", [True, True, None]),
        ("payload.a != 1 AND payload.a != 'x'", [False, False, None]),
        ("payload.a != 2 AND payload.a != 'y'", [None, None, None]),
        ("payload.a IN (1, 'x')", [True, True, None]),
        ("payload.a.b = 1", [None, None, None]),
        ('payload.a."é"."" IS NULL', [True, True, True]),
    ],
)
def test_negation_and_merging_keep_the_meaning(where: str, expected: list[bool | None]) -> None:
    rows = [row(0, year=0, body="b", payload={"a": 1}), row(1, year=1, body="b")]
    rows[1]["payload"] = {"a": "x"}
    rows.append(row(2))
    assert check(rows, where) == expected


@pytest.mark.parametrize("key", ['q"k', "back\\slash", "\0k", "a\0b", "\n", "é", "😀", "", "$.a"])
def test_any_payload_key_is_found_and_no_other(key: str) -> None:
    rows = [row(0, payload={key: "v"}), row(1, payload={"a": {key: "v"}}), row(2)]
    assert check(rows, F.payload[key] == "v") == [True, None, None]
    assert check(rows, F.payload["a"][key] == "v") == [None, True, None]
    for other in ("", "a", "k", key + "\0"):
        if other != key:
            assert check([row(0, payload={key: 5})], F.payload[other] == 5) == [None]


@pytest.mark.parametrize("name", ["tags", "value", "Key"])
def test_lists_whatever_their_name(name: str) -> None:
    rows = [row(0, **{name: ["a", "b\0c"]}), row(1, **{name: []}), row(2)]
    assert check(rows, F[name].contains("a")) == [True, False, None]
    assert check(rows, F[name].contains("b\0c")) == [True, False, None]
    assert check(rows, F[name].contains("b")) == [False, False, None]
    assert check(rows, ~F[name].contains("a")) == [False, True, None]


@pytest.mark.parametrize(
    ("pattern", "text", "matching"),
    [
        ("a%c", "abc", True), ("a%c", "ABC", False), ("a_c", "a😀c", True), ("a_c", "ac", False),
        ("a_c", "a\nc", True), ("a%c", "a\0\0c", True), ("_", "\0", True), ("_", "\0a", False),
        ("%\0", "", False), ("%\0", "a\0", True), ("%*", "a*", True), ("%*", "ab", False),
        ("_[a]", "x[a]", True), ("_[a]", "xa", False), ("_?", "ab", False), ("%]%", "a]b", True),
        ("\ud7ff%", "\ue000", False), ("\ud7ff%", "\ud7ffa", True), ("\U0010ffff%", "a", False),
        ("a\U0010ffff%", "a\U0010ffffb", True), ("%ab%ab", "ab", False), ("%ab%ab", "abab", True),
        ("%aa%a", "aa", False), ("", "", True), ("", "a", False), ("%_", "", False),
        ("%\\_", "a\\b", True), ("%é", "\u0065\u0301", False),
    ],
)  # fmt: skip
def test_like(pattern: str, text: str, matching: bool) -> None:
    assert matches(text, pattern) is matching
    rows = [row(0, body=text, payload={"a": text}), row(1)]
    assert check(rows, F.body.like(pattern)) == [matching, None]
    assert check(rows, F["payload.a"].like(pattern)) == [matching, None]
    assert check(rows, ~F.body.like(pattern)) == [not matching, None]


def test_like_with_very_many_wildcards() -> None:
    rows = [row(0, body="a" * 10_000), row(1, body="a" * 10_000 + "b")]
    assert check(rows, F.body.like("%a" * 500 + "b")) == [False, True]
    assert matches("a" * 10_000, "%a" * 2_000 + "b") is False
    assert matches("a" * 10_000 + "b", "%a" * 2_000 + "b") is True


TEN_THOUSAND = range(10_000)


# Made when they are asked for: to make them all takes seconds.
@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: F.year.in_(range(30_000)),
        lambda: any_of(F.year == i for i in TEN_THOUSAND),
        lambda: all_of(F.year != -i for i in TEN_THOUSAND),
        lambda: any_of(F.year > i for i in TEN_THOUSAND),
        lambda: any_of(F.body.startswith(f"s{i}") for i in TEN_THOUSAND),
        lambda: any_of(F.payload[f"k{i}"] > i for i in TEN_THOUSAND),
        lambda: any_of(F.tags.contains(f"t{i}") for i in TEN_THOUSAND),
        lambda: any_of(F.year.in_([i, i + 1]) & (F.score > i) for i in TEN_THOUSAND),
        lambda: all_of(F.year.is_not_null() for _ in range(30_000)),
    ],
    ids=range(9),
)
def test_huge_filters(make: Callable[[], Expr]) -> None:
    rows = [row(0, year=3, score=3.5, body="s77", payload={"k7": 8}, tags=["t9"]), row(1)]
    assert check(rows, make())[0] is True


def deep(levels: int) -> Expr:
    expr = F.payload["x"]['q"'].contains(1) | F.payload["y"].like("a_%b")
    while expr.depth < levels - 1:
        some = [F.year >= i for i in range(300)]
        expr = all_of([*some, negated(expr)])
    return expr


def test_a_filter_as_deep_and_wide_as_can_be() -> None:
    where = deep(MAX_DEPTH)
    assert where.depth >= MAX_DEPTH - 1
    check([row(0, year=1_000, payload={"x": {'q"': [1]}}), row(1, year=5), row(2)], where)


@pytest.mark.parametrize("condition", ["= 1", "IN (1, 'a')", "LIKE 'a_'", "CONTAINS 1", "IS NULL"])
def test_a_payload_key_of_as_many_names_as_can_be(condition: str) -> None:
    value: Any = {"CONTAINS 1": [1], "LIKE 'a_'": "ab"}.get(condition, 1)
    for _ in range(MAX_NAMES - 1):
        value = {"k": value}
    rows = [row(0, payload={"k": value}), row(1)]
    assert any(check(rows, f"payload{'.k' * MAX_NAMES} {condition}"))


def test_more_parameters_than_sqlite_takes_are_a_filter_error() -> None:
    where = bound(any_of(F.payload["a"]["b"] > i for i in range(MAX_PARAMETERS // 3 + 1)))
    with pytest.raises(FilterError, match="parameters"):
        to_sql(where, SCHEMA)


PARTITIONED = Schema(
    dim=8,
    fields={"tenant": Field(str, partition=True), "year": Field(int, partition=True), "x": int},
)


@pytest.mark.parametrize(
    ("where", "fixed"),
    [
        ("tenant = 'a'", {"tenant": "a"}),
        ("tenant IN ('a') AND year = 5.0 AND x = 1", {"tenant": "a", "year": 5}),
        ("tenant LIKE 'a'", {"tenant": "a"}),
        ("tenant = 'a' AND tenant = 'b'", {"tenant": "a"}),
        ("tenant = 'a' OR year = 5", {}),
        ("NOT tenant = 'a'", {}),
        ("tenant != 'a' AND year > 5", {}),
        ("tenant IN ('a', 'b') AND x = 1", {}),
        ("payload.tenant = 'a'", {}),
        (None, {}),
    ],
)
def test_the_partitions_that_a_filter_fixes(where: str | None, fixed: dict[str, Any]) -> None:
    assert fixed_values(bind(where, PARTITIONED), PARTITIONED) == fixed
