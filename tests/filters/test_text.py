"""Filter text: what it means, what is refused and how, and that filters print as such text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.filtering import SCHEMA as NOTES
from tests.harness.cases import case
from tests.harness.strategies import filters, floats, ints, texts
from tests.harness.values import DIM

from aiovec import F, FilterError, Schema, VectorStore, where
from aiovec.backend import Compare, Expr, Ref, bind

from . import cases

MOMENT = datetime(2024, 1, 31, 12, 30, tzinfo=UTC)
WORDS = Schema(
    dim=8,
    fields={
        **dict.fromkeys(["year", "a", "b", "c", "order", "in", "contains", "startswith"], int),
        "x": float, "name": str, "lang": str, "seen": datetime, "timestamp": datetime,
        "live": bool, "tags": list[str],
    },
)  # fmt: skip

# Beside those of the contract suite, which runs each in both forms.
SAME: list[tuple[str, Any]] = [
    ("year <> 5", F.year != 5),
    ("2024 > year", F.year < 2024),
    ("'a' = name", F.name == "a"),
    ("year = -5", F.year == -5),
    ("x >= +1.5e-3", F.x >= 0.0015),
    ("name = 'a\n\0%_'", F.name == "a\n\0%_"),
    ("seen >= timestamp '2024-01-31T12:30:00Z'", F.seen >= MOMENT),
    ("seen >= TIMESTAMP'2024-01-31 14:30:00.000000+02:00'", F.seen >= MOMENT),
    ("timestamp < TIMESTAMP '2024-01-31T12:30:00Z'", F.timestamp < MOMENT),
    ("year IN ()", F.year.in_([])),
    ("tags NOT CONTAINS 'ai'", ~F.tags.contains("ai")),
    ("lang STARTSWITH 'e'", F.lang.startswith("e")),
    ("payload.a NOT STARTSWITH 'e'", ~F["payload.a"].startswith("e")),
    ("NOT a = 1 AND b = 2", ~(F.a == 1) & (F.b == 2)),
    ("NOT NOT a = 1", F.a == 1),
    ('"order" = 1', F.order == 1),
    ('"in" = 1 AND payload."a""b" = 2', (F["in"] == 1) & (F.payload['a"b'] == 2)),
    ('payload.in."odd key".b = 1', F.payload["in"]["odd key"]["b"] == 1),
    ("payload.größe = 1", F["payload.größe"] == 1),
    ("contains = 1 AND startswith = 2", (F.contains == 1) & (F.startswith == 2)),
]


def test_text_and_python_mean_the_same() -> None:
    for text, expr in SAME:
        with case(text):
            bound = bind(text, WORDS)
            assert bound == bind(expr, WORDS)
            assert hash(bound) == hash(bind(expr, WORDS))
            assert bind(str(expr), WORDS) == bound
    assert bind(None, WORDS) is None


SCHEMA = Schema(
    dim=8,
    fields={
        "source_id": str, "year": int, "score": float, "seen": datetime, "live": bool,
        "tags": list[str], "lang": str,
    },
)  # fmt: skip
NAMES = "one of id, source_id, year, score, seen, live, tags, lang, payload.<key>"


def deep_key(names: int) -> str:
    return ".".join(["payload", *["k"] * names])


FAULTS = [
    ("", 0, "empty", "a field"),
    ("year >", 6, "ends too early", "a number"),
    ("year > > 1", 7, "'>'", "a number"),
    ("year >= 1 year", 10, "'year'", "AND, OR or the end"),
    ("(year >= 1", 10, "ends too early", "')'"),
    ("year >= 1)", 9, r"'\)'", "the end"),
    ("live AND OR live", 9, "'OR'", "a field"),
    ("NOT", 3, "ends too early", "a field"),
    ("year = NULL", 7, "IS NULL", "a number"),
    ("year IN (1, NULL)", 12, "IS NULL", "a number"),
    ("year IN 1", 8, "'1'", r"'\('"),
    ("year IN (1,)", 11, r"'\)'", "a number"),
    ("year BETWEEN 1 OR 2", 15, "'OR'", "AND"),
    ("year IS 5", 8, "'5'", "NULL"),
    ("year NOT 5", 9, "'5'", "IN, BETWEEN"),
    ('lang = "en"', 7, "single quotes", "'text'"),
    ("year = other", 7, "literal only", "a number"),
    ("lang LIKE 5", 10, "'5'", "'text'"),
    ("1 = 1", 4, "'1'", "a field"),
    ("lang = 'abc", 7, "does not end", "closing '"),
    ('"lang = 1', 0, "does not end", 'closing "'),
    ("lang = 'é😀' § 1", 12, "'§'", "an operator"),
    ("year = 12ab", 9, "ends in a letter", "a space"),
    ("year IN (12a)", 11, "ends in a letter", "a space"),
    ("year = 9223372036854775808", 7, "64 bits", "a number"),
    ("year = 1e999", 7, "finite", "a number"),
    ("seen > TIMESTAMP '2024-01-31'", 7, "not a timestamp", "TIMESTAMP"),
    ("seen > TIMESTAMP '0001-01-01T00:00:00+14:00'", 7, "out of range", "TIMESTAMP"),
    ("payload. = 1", 9, "'='", "a key"),
    ("lang = '\ud800'", 7, "surrogate", "'text'"),
    ("live AND yeer = 1", 9, r"no field 'yeer' \(did you mean 'year'\?\)", NAMES),
    ("Year = 1", 0, "no field 'Year'", NAMES),
    ("live AND nope STARTSWITH 'a'", 9, "no field 'nope'", NAMES),
    ("zzz.deep = 1", 0, r"no field 'zzz' \(did you mean payload\.zzz\.deep\?\)", NAMES),
    ("year.a = 1", 0, "no keys within", NAMES),
    ("embedding = 1", 0, "the vector", f"embedding IS NULL, or {NAMES}"),
    ("payload = 1", 0, "as a whole", "payload.<key>"),
    ("year = 'x'", 7, "year is int", "a number"),
    ("year IN (1, 'x')", 12, "year is int", "a number"),
    ("year", 0, "year is int", "year IS NOT NULL"),
    ("live = 1", 7, "live is bool", "TRUE or FALSE"),
    ("payload.a > FALSE", 12, "no order", "= or !="),
    ("seen > '2024-01-01'", 7, "seen is datetime", "TIMESTAMP"),
    ("year LIKE '2%'", 0, "LIKE applies to text", "a field of text"),
    ("tags = 'a'", 0, "a list", "CONTAINS or IS NULL"),
    ("tags CONTAINS 5", 14, "lists of text", "text"),
    ("lang CONTAINS 'a'", 0, "CONTAINS applies to lists", "a field of lists"),
    (f"live AND {deep_key(65)} = 1", 9, "key of 65 names", "at most 64 names"),
    (f"{deep_key(4_000)} IS NULL", 0, "key of 4,000 names", "at most 64 names"),
]


def test_an_error_points_at_the_fault_and_names_what_fits() -> None:
    for text, position, message, expected in FAULTS:
        with case(text):
            with pytest.raises(FilterError, match=message) as caught:
                bind(text, SCHEMA)
            assert (caught.value.text, caught.value.position) == (text, position)
            assert expected.replace("\\", "") in (caught.value.expected or "")
            joined: Any
            for joined in (
                lambda text=text: (F.lang == "de") & where(text),
                lambda text=text: where("live OR year = 2") & ~(where(text) | (F.year == 1)),
                lambda text=text: [{"lang": "de"}, where(text)],
            ):
                with pytest.raises(FilterError, match=message) as caught:
                    bind(joined(), SCHEMA)
                assert (caught.value.text, caught.value.position) == (text, position)
    with pytest.raises(FilterError, match="no field 'yeer'") as caught:
        bind(F.yeer == 1, SCHEMA)
    assert (caught.value.text, caught.value.position) == (None, None)
    assert caught.value.expected == NAMES
    with pytest.raises(FilterError, match="no field 'payload'") as caught:
        bind("payload.kind = 'x'", Schema(dim=8, fields={"year": int}, payload=False))
    assert caught.value.expected == "one of id, year"


# Beside those above, each wrong in a way of its own.
BAD = (
    "   ", "= 1", "year = 1 AND", "year = TRUE", "name = 1", "live > TRUE", "live = 'x'",
    "seen = '2024-01-01T00:00:00Z'", "seen > 5", "year = TIMESTAMP '2024-01-01T00:00:00Z'",
    "seen > TIMESTAMP '2024-01-01T00:00:00'", "seen > TIMESTAMP 'x'", "year STARTSWITH '1'",
    "embedding IS EMPTY", "year BETWEEN 1", "year = 1;", "year = 1 -- x", "year = nan",
    "payload.x CONTAINS NULL", "id > 1", "id = 1.5", "id = TRUE", "year LIKE", "'a' = 'a'",
    "year = year", "year + 1 = 2", "name.x = 1", "\0", "year = 1\0", "SELECT 1", "year = ?",
    "year = :x", "1; DROP TABLE notes", "name = 'a' OR '1'='1", "tags = [", "tags = ['a'",
    "tags = ['a',]", "tags = [1]", "tags = [NULL]", "tags > ['a']", "name = ['a']",
    "tags IN (['a'])", "name IS EMPTY", "payload.x = [[1]]", "['a'] = tags",
    "year IS TRUE", "name IS NOT FALSE", "tags IS TRUE", "(live) IS", "(live) IS NULL",
    "(live) IS NOT", "(live) IS NOT EMPTY", "(live) IS TRUE FALSE", "year = 1 IS TRUE",
    "name LIKE 'a' ESCAPE", "name LIKE 'a' ESCAPE ''", "name LIKE 'a!' ESCAPE '!'",
    "name LIKE 'a!!!' ESCAPE '!'", "name LIKE 'a' ESCAPE 5", "name STARTSWITH 'a' ESCAPE '!'",
    "year ILIKE '1%'", "name ILIKE 5", "name CONTAINS_TEXT 5", "tags CONTAINS_TEXT 'x'",
    "year CONTAINS_TEXT '1'", "name NOT IS TRUE", "nums CONTAINS '1'", "nums = ['a']",
    "weights CONTAINS TRUE", "nums = 1", "nums = [TRUE]", "weights = [1e999]", "weights IS TRUE",
)  # fmt: skip
WHERE_AN_ESCAPE_IS_WRONG = {
    "name LIKE 'a' ESCAPE '!!'": 21, "live IS NULL OR name LIKE 'a!' ESCAPE '!'": 26,
    "name ILIKE 'a' ESCAPE ''": 22, "name ILIKE '" + "a" * 1_001 + "'": 11,
    "(year = 1) IS NOT NULL": 18, "year = 1 AND year = ['a']": 13,
}  # fmt: skip
NO_FILTERS: tuple[Any, ...] = (
    1, [["year = 1"]], [1], {1: 1}, b"year = 1", True, F, F["payload.x"] == list(range(1_001)),
)  # fmt: skip


def test_bad_filters_are_refused_at_their_fault() -> None:
    for text in (*BAD, *WHERE_AN_ESCAPE_IS_WRONG):
        with case(text):
            with pytest.raises(FilterError) as caught:
                bind(text, NOTES)
            assert isinstance(caught.value, ValueError)
            position = caught.value.position
            assert position is None or 0 <= position <= len(text)
            assert position == WHERE_AN_ESCAPE_IS_WRONG.get(text, position)
    for wrong in NO_FILTERS:
        with case(wrong), pytest.raises(FilterError):
            bind(wrong, NOTES)


async def test_a_bad_filter_writes_nothing(store: VectorStore) -> None:
    """Every method that takes one refuses it."""
    await store.create_table("notes", NOTES)
    await store.insert("notes", [{"id": "a", "embedding": [1.0] * DIM}])
    before = await store.find("notes")
    for bad in ("absent = 1", F.year == "x", "year = "):
        for call in (
            store.delete("notes", where=bad), store.update("notes", {"year": 0}, where=bad),
            store.search("notes", [1.0] * DIM, where=bad), store.find("notes", bad),
            anext(store.export("notes", where=bad)),
        ):  # fmt: skip
            with case((bad, call)), pytest.raises(FilterError):
                await call
    assert await store.find("notes") == before


@pytest.mark.parametrize(
    ("where", "fix"),
    [
        ({"n": {"$gte": 500}}, "'\\$gte': 500}} has the filter syntax of MongoDB; write"),
        ({"$or": [{"n": 1}, {"n": 2}]}, "'\\$or' has the filter syntax of MongoDB; write text"),
        ({"n": {}}, "write text such as"),
    ],
)
def test_a_filter_in_the_syntax_of_mongodb_is_refused_with_the_fix(where: Any, fix: str) -> None:
    with pytest.raises(FilterError, match=fix):
        bind(where, SCHEMA)
    with pytest.raises(FilterError, match=fix):
        bind(["live", where], SCHEMA)


# Printing


@settings(max_examples=6, deadline=None)
@given(expr=filters(cases.SCHEMA))
def test_a_filter_prints_as_text_that_means_it(expr: Expr) -> None:
    bound = bind(expr, cases.SCHEMA)
    assert bind(str(expr), cases.SCHEMA) == bound
    assert bind(bound, cases.SCHEMA) == bound


@settings(max_examples=50, deadline=None)
@given(
    path=st.lists(texts, min_size=1, max_size=3),
    value=st.one_of(st.booleans(), ints, floats, texts),
)
def test_any_key_and_literal_can_be_written(path: list[str], value: Any) -> None:
    expr = Compare(Ref("payload", tuple(path)), "=", value)
    assert bind(str(expr), SCHEMA) == bind(expr, SCHEMA)
    assert bind(f"NOT({expr})OR({expr})", SCHEMA) == bind(~expr | expr, SCHEMA)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([
    "year", "=", "1", "'x'", "(", ")", "AND", "OR", "NOT", "IN", ",", "IS", "NULL", "LIKE", ".",
    "BETWEEN", "TIMESTAMP", "STARTSWITH", "CONTAINS", '"q"', "-", "#", "TRUE", "\0", "'", "1e5",
]), max_size=12))  # fmt: skip
def test_any_text_is_a_filter_or_a_filter_error(words: list[str]) -> None:
    text = " ".join(words)
    try:
        bind(text, SCHEMA)
    except FilterError as exc:
        error = exc
    else:
        return
    assert error.position is not None
    assert 0 <= error.position <= len(text)
    assert error.expected


# Limits

HUGE = {
    "open parentheses": "(" * 200_000,
    "spaces": " " * 200_000,
    "one long number": "1" * 200_000 + " = year",
    "an open quote": "'" + "a''" * 66_666,
    "quotes": "'" * 200_001,
    "literals": "year IN (" + ",".join(map(str, range(65_537))) + ")",
    "terms": " OR ".join(["lang IS NULL"] * 66_000),
    "deep": "live AND (live OR (" * 2_500 + "live" + "))" * 2_500,
    "deep NOT": "NOT (live AND " * 5_000 + "live" + ")" * 5_000,
    "words": "timestamp " * 20_000,
    "comparisons": "a=" * 100_000,
}


@pytest.mark.slow
def test_a_huge_text_is_a_filter_error() -> None:
    for name, text in HUGE.items():
        with case(name), pytest.raises(FilterError) as caught:
            bind(text, SCHEMA)
        assert len(str(caught.value)) < 1_000


@pytest.mark.slow
def test_thousands_of_terms_can_be_joined_one_by_one() -> None:
    expr: Expr = F.year == 0
    for number in range(1, 3_000):
        expr = expr | (F.year == number)
    assert bind(str(expr), SCHEMA) == bind(expr, SCHEMA)
    assert len(repr(expr)) < 2_000


def test_a_filter_cannot_be_deeper_or_larger_than_the_limits() -> None:
    def deep(levels: int) -> Expr:
        expr: Expr = F.year == 0
        for _ in range(levels):
            expr = ~(expr & F.live)
        return expr

    assert deep(20).depth == 41
    with pytest.raises(FilterError, match="levels"):
        deep(1_000)
    with pytest.raises(FilterError, match="literals"):
        F.year.in_(range(1_000_000))


MOST = 1024 * 1024
CONDITIONS: list[Callable[[str], Any]] = [
    lambda text: F.name == text,
    lambda text: F.name.in_(["a", text]),
    lambda text: F.name.like(text),
    lambda text: F.tags == [text],
    *(lambda text, condition=condition: condition.format(text) for condition in (  # type: ignore[misc]
        "name = '{}'", "name IN ('a', '{}')", "name CONTAINS_TEXT '{}'", "name STARTSWITH '{}'",
        "name LIKE '{}'", "tags CONTAINS '{}'", "payload.x = '{}'",
    )),
]  # fmt: skip


def test_a_text_of_more_than_a_million_characters_is_refused() -> None:
    for number, condition in enumerate(CONDITIONS):
        for text in ("x" * (MOST + 1), "é" * (5 * MOST)):
            with case((number, text[0])):
                with pytest.raises(FilterError, match="at most 1,048,576") as caught:
                    bind(condition(text), NOTES)
                assert len(str(caught.value)) < 1000


async def test_a_text_of_a_million_characters_is_taken(store: VectorStore) -> None:
    await store.create_table("notes", NOTES)
    quoted = "''" * MOST  # as many quotes
    for long in (F.name == "x" * MOST, F.name == "é" * MOST, f"name = '{quoted}'"):
        assert await store.count("notes", long) == 0
