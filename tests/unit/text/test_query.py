"""What a user types, parsed to clauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.base import case

from aiovec import Field, InvalidArgumentError, Schema
from aiovec._text.query import parse, text_fields
from aiovec.backend import TextClause

SCHEMA = Schema(
    3,
    fields={"title": Field(str, text=True), "body": Field(str, text=True), "year": int},
)
GRAMS = Schema(3, fields=SCHEMA.fields, analyzer="ngram")


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
    "12:30 absent:x c:y C: tit:x": (["12:30", "absent:x", "c:y", "C:", "tit:x"], None),
    'note:"x" "titel:x"': (["note:x", "titel:x"], None),
    "year://x titel://x": (["year://x", "titel://x"], None),
    'absent:"big hat"': (["absent:big hat"], None),
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


def test_clauses() -> None:
    for query, (plain, grams) in CASES.items():
        with case(query):
            assert [shown(clause) for clause in parse(query, SCHEMA)] == plain
            wanted = plain if grams is None else grams
            assert [shown(clause) for clause in parse(query, GRAMS)] == wanted


def test_a_table_without_such_fields_has_none() -> None:
    bare = Schema(3, fields={"year": int})
    assert text_fields(bare) == []
    assert [clause.text for clause in parse("title:wool", bare)] == ["title:wool"]
    assert text_fields(SCHEMA) == ["title", "body"]


def well_formed(query: str, schema: Schema) -> None:
    clauses = parse(query, schema)
    assert len(set(clauses)) == len(clauses)
    for clause in clauses:
        assert clause.text.strip() == clause.text != ""
        assert "\0" not in clause.text
        assert '"' not in clause.text
        assert clause.field in (None, "title", "body")
        assert any(map(str.isalnum, clause.text)) or schema.analyzer == "ngram"
        assert not clause.prefix or (clause.text[-1].isalnum() and schema.analyzer != "ngram")
        # Each clause, typed by itself as a phrase, is that clause.
        if clause.field is None and not clause.prefix and not clause.excluded:
            assert parse(f'"{clause.text}"', schema) == (clause,)
    # Words beside it are found whatever it is, unless it leaves a quote open.
    if query.count('"') % 2 == 0:
        spaced = parse(f"{query} nevertheless", schema)
        assert spaced == (*[c for c in clauses if c.text != "nevertheless"], spaced[-1])
        assert spaced[-1] == TextClause("nevertheless")


@given(st.text())
def test_any_text_is_a_query(query: str) -> None:
    well_formed(query, SCHEMA)
    well_formed(query, GRAMS)


def test_queries_beyond_the_limits_are_refused() -> None:
    words = " ".join(f"w{n}" for n in range(1_001))
    with pytest.raises(InvalidArgumentError, match="1,000 different words") as caught:
        parse(words, SCHEMA)
    assert caught.value.argument == "query"
    assert len(str(caught.value)) < 300
    assert len(parse(words.replace("w1000", "w1"), SCHEMA)) == 1_000
    with pytest.raises(InvalidArgumentError, match="100,000 characters") as caught:
        parse("x" * 100_001, SCHEMA)
    assert len(str(caught.value)) < 300
    for piece in ('"', "a ", 'title:"', "-", "日", "a", "\u200f-"):  # none of them hangs
        assert len(parse((piece * 100_000)[:100_000], SCHEMA)) <= 3


def test_clauses_that_differ_in_anything_are_different() -> None:
    found = parse("wool title:wool wool* -wool wool", SCHEMA)
    assert [shown(clause) for clause in found] == ["wool", "title=wool", "wool*", "-wool"]
