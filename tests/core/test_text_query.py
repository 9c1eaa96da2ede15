"""What a user types, parsed to clauses."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.text import QUERIES, fuzzed, noise
from tests.harness.loop_time import watched_loop

from aiovec import Field, InvalidArgumentError, Schema
from aiovec._text.query import parse, parse_off_loop, text_fields
from aiovec.backend import TextClause

SCHEMA = Schema(
    3,
    fields={"title": Field(str, text=True), "body": Field(str, text=True), "year": int},
)
GRAMS = Schema(3, fields=SCHEMA.fields, analyzer="ngram")
MOST = 100_000


def shown(clause: TextClause) -> str:
    """A clause as this page writes it: ``-title=words*``."""
    field = "" if clause.field is None else f"{clause.field}="
    return f"{'-' * clause.excluded}{field}{clause.text}{'*' * clause.prefix}"


# On a table with the analyzer "plain", and with "ngram" where it differs.
CASES: dict[str, tuple[list[str], list[str] | None]] = {
    "wool": (["wool"], None),
    "wool  hat\twool": (["wool", "hat"], None),
    '"wool   hat" "a"': (["wool hat", "a"], None),
    "-wool --hat": (["-wool", "--hat"], None),
    "- wool": (["wool"], None),
    "wool-hat don't": (["wool-hat", "don't"], None),
    'wool"big hat"cap': (["wool", "big hat", "cap"], None),
    '-"big hat"': (["-big hat"], None),
    'title:wool -title:"big hat"': (["title=wool", "-title=big hat"], None),
    "year:2024 absent:x": (["year:2024", "absent:x"], None),
    'absent:"big hat"': (["absent:big hat"], None),
    "Title:wool": (["Title:wool"], None),
    "title: wool": (["title:", "wool"], None),
    "title::wool title:-wool": (["title=:wool", "title=-wool"], None),
    "title:title:wool": (["title=title:wool"], None),
    "http://x.y": (["http://x.y"], None),
    "woo* -woo* title:woo*": (["woo*", "-woo*", "title=woo*"], ["woo", "-woo", "title=woo"]),
    "wo** w*l c++*": (["wo*", "w*l", "c++"], ["wo", "w*l", "c++"]),
    '"woo*" *': (["woo*"], None),
    "c++ + # -!": (["c++"], ["c++", "+", "#", "-!"]),
    '"': ([], None),
    '"wool hat': (["wool", "hat"], None),
    'wool" hat': (["wool", "hat"], None),
    '-"wool hat': (["wool", "hat"], None),
    'title:"wool hat': (["title:", "wool", "hat"], None),
    '"a""b"': (["a", "b"], None),
    "": ([], None),
    " \u3000\u00a0\n": ([], None),
    "-*:\"'-": ([], ["'-"]),
    "\0a\0b\0": (["a", "b"], None),
    '"a\0b"': (["a b"], None),
    "\ud800a\udfff": (["a"], None),
    "\u200f-a\u200e \ufeffb*\u202c": (["-a", "b*"], ["-a", "b"]),
    "a\u200cb": (["a\u200cb"], None),
    "😀 ٣ ² 日本": (["٣", "²", "日本"], ["😀", "٣", "²", "日本"]),
}


@pytest.mark.parametrize("query", CASES)
def test_clauses(query: str) -> None:
    plain, grams = CASES[query]
    assert [shown(clause) for clause in parse(query, SCHEMA)] == plain
    if grams is None:
        grams = plain
    assert [shown(clause) for clause in parse(query, GRAMS)] == grams


def test_a_table_without_such_fields_has_none() -> None:
    bare = Schema(3, fields={"title": str})
    assert text_fields(bare) == []
    assert [c.text for c in parse("title:wool", bare)] == ["title:wool"]
    assert text_fields(SCHEMA) == ["title", "body"]


def well_formed(query: str, schema: Schema) -> None:
    clauses = parse(query, schema)
    assert len(set(clauses)) == len(clauses)
    for clause in clauses:
        assert clause.text.strip() == clause.text != ""
        assert clause.text.encode().count(b"\0") == 0
        assert '"' not in clause.text
        assert clause.field in (None, "title", "body")
        if schema.analyzer == "ngram":
            assert not clause.prefix
        else:
            assert any(map(str.isalnum, clause.text))
        if clause.prefix:
            assert clause.text[-1].isalnum()
        # Each clause, typed by itself as a phrase, is that clause.
        if clause.field is None and not clause.prefix and not clause.excluded:
            assert parse(f'"{clause.text}"', schema) == (clause,)
    # Words beside it are found whatever it is, unless it leaves a quote open.
    if query.count('"') % 2 == 0:
        spaced = parse(f"{query} nevertheless", schema)
        assert spaced == (*[c for c in clauses if c.text != "nevertheless"], spaced[-1])
        assert spaced[-1] == TextClause("nevertheless")


@pytest.mark.slow
@pytest.mark.parametrize("schema", [SCHEMA, GRAMS], ids=["plain", "ngram"])
def test_ten_thousand_fuzzed_queries(schema: Schema) -> None:
    for query in [*QUERIES, *fuzzed(10_000, 5), *noise(10_000, 6)]:
        well_formed(query, schema)


@given(st.text())
def test_any_text_is_a_query(query: str) -> None:
    well_formed(query, SCHEMA)
    well_formed(query, GRAMS)


@pytest.mark.parametrize(
    "piece",
    ['"', '""', "-", '-"', "a", "a ", "a:", 'title:"', "title:", "*", "-title:", "\0", "\ud800",
     "(", " ", '" ', "a_", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:", "日", "\u200f-"],
)  # fmt: skip
def test_a_long_query_takes_time_in_proportion(piece: str) -> None:
    """No part of the text is looked at over and over."""
    text = (piece * MOST)[:MOST]
    for schema in (SCHEMA, GRAMS):
        began = time.process_time()
        assert len(parse(text, schema)) <= 3
        assert time.process_time() - began < 1.5


async def test_a_long_query_does_not_hold_the_loop() -> None:
    chance = random.Random(4)
    alphabet = [chr(97 + n) for n in range(26)]
    queries = [
        "!" * MOST, "a " * (MOST // 2), '"' * MOST, "x" * MOST,
        " ".join(chance.choices(alphabet, k=MOST // 2)), "title:a " * (MOST // 8),
    ]  # fmt: skip
    with watched_loop() as found:
        for query in queries:
            for length in (400, 2_000, MOST):
                await parse_off_loop(query[:length], SCHEMA)
                await asyncio.sleep(0)
        for megabytes in (1, 5):
            with pytest.raises(InvalidArgumentError):
                await parse_off_loop("long text " * (megabytes * MOST), SCHEMA)
    found.check()


def test_queries_beyond_the_limits_are_refused() -> None:
    words = " ".join(f"w{n}" for n in range(1_001))
    with pytest.raises(InvalidArgumentError, match="1,000 different words") as caught:
        parse(words, SCHEMA)
    assert caught.value.argument == "query"
    assert len(str(caught.value)) < 300
    assert len(parse(words.replace("w1000", "w1"), SCHEMA)) == 1_000
    with pytest.raises(InvalidArgumentError, match="100,000 characters") as caught:
        parse("x" * (MOST + 1), SCHEMA)
    assert len(str(caught.value)) < 300
    assert parse("x" * MOST, SCHEMA) == (TextClause("x" * MOST),)


def test_clauses_that_differ_in_anything_are_different() -> None:
    one = TextClause("wool")
    others = [
        replace(one, field="title"), replace(one, prefix=True), replace(one, excluded=True),
    ]  # fmt: skip
    assert parse("wool title:wool wool* -wool wool", SCHEMA) == (one, *others)
