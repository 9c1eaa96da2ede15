"""LIKE on SQLite: the same as a plain matcher, in a time that no pattern makes long."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiovec import F
from aiovec._filters.patterns import marked
from aiovec.backend import Expr, bind
from aiovec_sqlite.sql.like import matches as matches_marked

from .cases import SCHEMA
from .sqlite_rows import open_with, truths

# Of few characters, so that much matches; NUL, newline, three widths of UTF-8, what GLOB takes for
# special, a letter that is another one without its accent, and three that GLOB takes for the same.
ALPHABET = "ab\0\né日😀*[e\ufffd\ufffe\uffff"
TEXTS = st.text(ALPHABET, max_size=12)
PATTERNS = st.text(ALPHABET + "%%%__", max_size=10)


def matches(text: str, pattern: str) -> bool:
    return matches_marked(text, marked(pattern))


def expected(text: str, pattern: str) -> bool:
    """Where in the text what comes before each character of the pattern may end."""
    ends = {0}
    for character in pattern:
        if character == "%":
            ends = {later for end in ends for later in range(end, len(text) + 1)}
        else:
            ends = {end + 1 for end in ends if end < len(text) and character in ("_", text[end])}
    return len(text) in ends


def bound(where: Any) -> Expr:
    expr = bind(where, SCHEMA)
    assert expr is not None
    return expr


def rows_of(texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"id": str(n), **dict.fromkeys(SCHEMA.fields), "body": text, "payload": {"a": text}}
        for n, text in enumerate(texts)
    ]


@given(text=TEXTS, pattern=PATTERNS)
def test_the_matcher_against_a_plain_one(text: str, pattern: str) -> None:
    """B2"""
    assert matches(text, pattern) is expected(text, pattern)


@given(texts=st.lists(TEXTS, min_size=1, max_size=6), pattern=PATTERNS, long=st.booleans())
@example(texts=["", "a", "ba", "\0a", "a\0"], pattern="%a", long=False)
@example(texts=["", "a", "ba", "\0a", "a\0"], pattern="%a%", long=False)
@example(texts=["a\ufffdb", "a\ufffeb", "a\uffffb"], pattern="_\ufffdb", long=False)
@example(texts=["a\ufffdb", "a\ufffeb", "a\uffffb"], pattern="_\ufffeb", long=False)
@example(texts=["a\ufffdb", "a\ufffeb", "a\uffffb"], pattern="a_b", long=False)
def test_sql_against_a_plain_one(texts: list[str], pattern: str, long: bool) -> None:
    """B2: whichever way SQLite takes for it, on columns and payload keys, and negated."""
    if long:  # longer than what GLOB gets
        texts = [text * 9 for text in texts]
        pattern = pattern * 9
    wanted = [expected(text, pattern) for text in texts]
    with closing(open_with(rows_of(texts))) as connection:
        for field in (F.body, F["payload.a"]):
            assert truths(connection, bound(field.like(pattern))) == wanted
            assert truths(connection, bound(~field.like(pattern))) == [not one for one in wanted]


LONG = "a" * 200_000
HOSTILE = {
    "a literal": "%" + "a" * 3_000 + "b%",
    "a literal at the end": "%" + "a" * 3_000 + "b",
    "every second one": "%" + "a_" * 1_500 + "b%",
    "every second one, which matches": "%" + "a_" * 1_500 + "%",
    "many parts": "%a_b" * 800 + "%",
    "many parts that match": "%a_a%" * 600 + "b",
    "long parts": "%" + ("a" * 20 + "_") * 150 + "b%",
    "many characters": "%" + "".join(chr(0x4E00 + n) + "_" for n in range(1_000)) + "%",
    "as long as GLOB takes": "%" + "a" * 14 + "_" + "a" * 14 + "b",
    "only wildcards": "%_" * 1_500,
    "no wildcard at its ends": "a" + "%a" * 1_000 + "_b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_pattern_takes_long(name: str) -> None:
    """B2: a pattern of 3 KB held the interpreter for 1.8 s on a text of 200 KB."""

    def seconds(connection: Any, pattern: str) -> float:
        taken = []
        for _ in range(3):
            began = time.thread_time()
            truths(connection, bound(F.body.like(pattern)))
            taken.append(time.thread_time() - began)
        return min(taken)

    with closing(open_with(rows_of([LONG]))) as connection:
        harmless = seconds(connection, "%x_y%z_")
        hostile = seconds(connection, HOSTILE[name])
    # 3 KB against 7 bytes.
    assert hostile < 100 * harmless + 0.02


def test_other_threads_go_on() -> None:
    """B2: while the longest of them are matched, another thread runs every few milliseconds."""
    patterns = [bound(F.body.like(pattern)) for pattern in HOSTILE.values()]
    longest, done = 0.0, threading.Event()

    def match() -> None:
        with closing(open_with(rows_of([LONG]))) as connection:
            for pattern in patterns:
                truths(connection, pattern)
        done.set()

    thread = threading.Thread(target=match)
    thread.start()
    while not done.is_set():
        began = time.perf_counter()
        time.sleep(0.001)
        longest = max(longest, time.perf_counter() - began)
    thread.join()
    assert longest < 0.5
