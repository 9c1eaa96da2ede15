"""The check against a schema: names, types, and the one form of what means the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiovec import F, Field, FilterError, Schema
from aiovec._filters.tree import MAX_NAMES
from aiovec.backend import Compare, Expr, In, Ref, bind

from . import cases

SCHEMA = Schema(
    dim=8,
    fields={
        "source_id": str,
        "year": int,
        "score": float,
        "seen": datetime,
        "live": bool,
        "tags": list[str],
        "lang": Field(str, index="bitmap"),
    },
)
NAMES = "one of id, source_id, year, score, seen, live, tags, lang, payload.<key>"
MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


def deep_key(names: int) -> str:
    return ".".join(["payload", *["k"] * names])


def test_text_and_python_of_the_contract_give_the_same_tree() -> None:
    python = bind(
        (F.year >= 2024)
        & F.source_id.in_(["rss", "web"])
        & ~F.lang.is_null()
        & F.tags.contains("ai")
        | F["payload.kind"].startswith("x"),
        SCHEMA,
    )
    text = bind(
        "year >= 2024 AND source_id IN ('rss','web') AND lang IS NOT NULL "
        "AND tags CONTAINS 'ai' OR payload.kind LIKE 'x%'",
        SCHEMA,
    )
    assert python == text
    assert hash(python) == hash(text)


def test_none_is_no_filter_and_a_bool_field_is_one() -> None:
    assert bind(None, SCHEMA) is None
    assert bind(F.live, SCHEMA) == bind("live", SCHEMA) == (F.live == True)  # noqa: E712
    assert bind(F.id == "a", SCHEMA) == (F.id == "a")


@pytest.mark.parametrize(
    ("text", "position", "message", "expected"),
    [
        ("live AND yeer = 1", 9, "no field 'yeer'", NAMES),
        ("Year = 1", 0, "no field 'Year'", NAMES),
        ("2024 <= yeer", 8, "no field 'yeer'", NAMES),
        ("live AND startswith(nope, 'a')", 20, "no field 'nope'", NAMES),
        ("live OR nope", 8, "no field 'nope'", NAMES),
        ("year.a = 1", 0, "no keys within", NAMES),
        ("embedding IS NULL", 0, "the vector", NAMES),
        ("payload = 1", 0, "as a whole", "payload.<key>"),
        ("year = 'x'", 7, "year is int", "a number"),
        ("year IN (1, 'x')", 12, "year is int", "a number"),
        ("year BETWEEN 1 AND 'x'", 19, "year is int", "a number"),
        ("year = TRUE", 7, "year is int", "a number"),
        ("year", 0, "year is int", "a number"),
        ("NOT (live AND lang)", 14, "lang is text", "text"),
        ("lang = 5", 7, "lang is text", "text"),
        ("live = 1", 7, "live is bool", "TRUE or FALSE"),
        ("live >= TRUE", 8, "no order", "= or !="),
        ("payload.a > FALSE", 12, "no order", "= or !="),
        ("seen > '2024-01-01'", 7, "seen is datetime", "TIMESTAMP"),
        ("year LIKE '2%'", 0, "LIKE applies to text", "a field of text"),
        ("tags STARTSWITH 'a'", 0, "STARTSWITH applies to text", "a field of text"),
        ("tags = 'a'", 0, "a list", "CONTAINS or IS NULL"),
        ("tags IN ('a')", 0, "a list", "CONTAINS or IS NULL"),
        ("tags CONTAINS 5", 14, "lists of text", "text"),
        ("lang CONTAINS 'a'", 0, "CONTAINS applies to lists", "a field of lists"),
        (f"live AND {deep_key(MAX_NAMES + 1)} = 1", 9, "key of 65 names", "at most 64 names"),
        (f"{deep_key(4_000)} IS NULL", 0, "key of 4,000 names", "at most 64 names"),
    ],
)
def test_an_error_points_at_the_name_or_the_literal(
    text: str, position: int, message: str, expected: str
) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        bind(text, SCHEMA)
    assert (caught.value.text, caught.value.position) == (text, position)
    assert caught.value.expected is not None
    assert expected in caught.value.expected


def test_errors_in_python_have_no_position() -> None:
    with pytest.raises(FilterError, match="no field 'yeer'") as caught:
        bind(F.yeer == 1, SCHEMA)
    assert (caught.value.text, caught.value.position) == (None, None)
    assert caught.value.expected == NAMES


def test_without_a_payload_there_are_no_keys() -> None:
    plain = Schema(dim=8, fields={"year": int}, payload=False)
    with pytest.raises(FilterError, match="no field 'payload'") as caught:
        bind("payload.kind = 'x'", plain)
    assert caught.value.expected == "one of id, year"


LEAST = -(2**63)
NEVER = (F.score < 0.0) & (F.score >= 0.0)
ALWAYS = (F.score < 0.0) | (F.score >= 0.0)


@pytest.mark.parametrize(
    ("where", "bound"),
    [
        (F.year >= 2023.5, F.year >= 2024),
        (F.year > 2023.5, F.year > 2023),
        (F.year < 2023.5, F.year < 2024),
        (F.year == 2024.0, F.year == 2024),
        (F.year == 2023.5, F.year < LEAST),
        (F.year != 2023.5, F.year >= LEAST),
        (F.year < 1e300, F.year >= LEAST),
        (F.year <= -1e300, F.year < LEAST),
        (F.year.in_([1.0, 2.5, 3, 3]), F.year.in_([1, 3])),
        (F.year.in_([1.5]), F.year < LEAST),
        (F.score > 1, F.score > 1.0),
        (F.score == 2**53 + 1, NEVER),
        (F.score != 2**53 + 1, ALWAYS),
        (F.score < 2**53 + 1, F.score <= float(2**53)),
        (F.score >= 2**53 + 1, F.score >= float(2**53 + 2)),
        (F.score.in_([2**53 + 1]), NEVER),
        (F.lang.in_(["a"]), F.lang == "a"),
        (F.lang.like("abc"), F.lang == "abc"),
        (F.lang.like("abc%%"), F.lang.startswith("abc")),
        (F.lang.like("%"), F.lang.startswith("")),
        (F.lang.like("a%c"), F.lang.like("a%c")),
        (
            F["payload.a"].in_([1, 1.0, True, "1"]),
            F["payload.a"].in_([1, 1.0]) | (F["payload.a"] == True) | (F["payload.a"] == "1"),  # noqa: E712
        ),
        (F.seen == MOMENT, F.seen == MOMENT),
    ],
)
def test_what_means_the_same_has_one_form(where: Expr, bound: Expr) -> None:
    assert bind(where, SCHEMA) == bound
    assert bind(bound, SCHEMA) == bound


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_binding_twice_changes_nothing(data: st.DataObject) -> None:
    once = bind(data.draw(cases.filters([])), cases.SCHEMA)
    assert bind(once, cases.SCHEMA) == once


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_literals_have_exactly_the_type_of_their_field(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["number", "number in"]))
    bound = bind(data.draw(cases.conditions([])[kind]), cases.SCHEMA)
    leaves: list[Any] = [*getattr(bound, "items", [bound])]
    for leaf in leaves:
        assert isinstance(leaf, (Compare, In))
        values = leaf.values if isinstance(leaf, In) else (leaf.value,)
        assert {type(v) for v in values} == {cases.SCHEMA.fields[leaf.ref.name].type}


def test_a_tree_of_foreign_nodes_is_refused() -> None:
    class Foreign(Expr):
        def _key(self) -> tuple[Any, ...]:
            return ()

        def __str__(self) -> str:
            return "foreign"

    with pytest.raises(FilterError, match="not a condition"):
        bind(Foreign() & (Compare(Ref("year"), "=", 1)), SCHEMA)
