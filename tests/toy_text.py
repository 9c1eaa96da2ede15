"""Keyword search for the toy backend: matches by looking at every text, scored by BM25."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.harness.text_oracle import folded

from aiovec import Schema
from aiovec.backend import TextClause, TextQuery

Span = tuple[int, int]

_WORD = re.compile("(?:[^\\W_]|[\u0300-\u036f])+")
_ENDING = re.compile(r"(?<=[a-z]{3})(ions|ion|ings|ing|ed|es|s|e)$")
_DOUBLED = re.compile(r"([b-df-hj-np-tv-z])\1$")
_K1, _B = 1.2, 0.75


def best(
    rows: Sequence[Mapping[str, Any]], selected: set[str], schema: Schema, query: TextQuery
) -> tuple[list[int], list[float], list[dict[str, str]] | None]:
    """Return the places of the best of the selected rows, their scores, and their highlights."""
    names = [name for name, field in schema.fields.items() if field.text]
    positive = [clause for clause in query.clauses if not clause.excluded]
    excluded = [clause for clause in query.clauses if clause.excluded]
    lengths = [sum(len(row[name] or "") for name in names) for row in rows]
    average = (sum(lengths) / len(rows) if rows else 0) or 1
    held = [
        [_spans_of(clause, row, names, schema.analyzer) for row in rows]
        for clause in positive
        if schema.analyzer == "ngram" or _WORD.search(clause.text)
    ]
    found: dict[int, float] = {}
    for n, row in enumerate(rows):
        hits = [bool(spans[n]) for spans in held]
        if row["id"] not in selected or not (any(hits) if query.any else hits and all(hits)):
            continue
        if not any(_spans_of(clause, row, names, schema.analyzer) for clause in excluded):
            found[n] = 0.0
    for spans in held:
        matching = sum(map(bool, spans))
        worth = math.log(1 + (len(rows) - matching + 0.5) / (matching + 0.5))
        for n in found:
            often = sum(map(len, spans[n].values()))
            norm = often + _K1 * (1 - _B + _B * lengths[n] / average)
            found[n] += worth * often * (_K1 + 1) / norm
    order = sorted(found, key=lambda n: (-found[n], rows[n]["id"]))[: query.limit]
    marks = query.highlight
    shown = None if marks is None else [
        _highlights(rows[n], [spans[n] for spans in held], marks) for n in order
    ]  # fmt: skip
    return order, [found[n] for n in order], shown


def _words(text: str, analyzer: str) -> list[tuple[int, int, str]]:
    words = ((m.start(), m.end(), folded(m.group())) for m in _WORD.finditer(text))
    return [(a, b, _stem(word) if analyzer == "english" else word) for a, b, word in words]


def _stem(word: str) -> str:
    return _DOUBLED.sub(r"\1", _ENDING.sub("", word)) if word.isascii() else word


def _spans_of(
    clause: TextClause, row: Mapping[str, Any], names: Sequence[str], analyzer: str
) -> dict[str, list[Span]]:
    """Return where a clause matches, for each field in which it does."""
    searched = names if clause.field is None else [clause.field]
    spans = {name: _spans(clause, row[name] or "", analyzer) for name in searched}
    return {name: places for name, places in spans.items() if places}


def _spans(clause: TextClause, text: str, analyzer: str) -> list[Span]:
    if analyzer == "ngram":
        chars = [folded(char) for char in text]
        places = [n for n, char in enumerate(chars) for _ in char]
        return [
            (places[m.start()], places[m.end() - 1] + 1)
            for m in re.finditer(re.escape(folded(clause.text)), "".join(chars))
        ]
    wanted = [word for _, _, word in _words(clause.text, analyzer)]
    words = _words(text, analyzer)
    found = []
    for start in range(len(words) - len(wanted) + 1) if wanted else ():
        part = words[start : start + len(wanted)]
        *first, last = [word for _, _, word in part]
        if first == wanted[:-1] and (
            last.startswith(wanted[-1]) if clause.prefix else last == wanted[-1]
        ):
            found.append((part[0][0], part[-1][1]))
    return found


def _highlights(
    row: Mapping[str, Any], found: Sequence[Mapping[str, Sequence[Span]]], marks: tuple[str, str]
) -> dict[str, str]:
    places: dict[str, list[Span]] = {}
    for spans in found:
        for name, of_field in spans.items():
            places.setdefault(name, []).extend(of_field)
    return {name: _snippet(row[name], sorted(spans), marks) for name, spans in places.items()}


def _snippet(text: str, spans: Sequence[Span], marks: tuple[str, str]) -> str:
    begin = max(0, spans[0][0] - 100)
    shown, place = [], begin
    for start, end in spans:
        if start >= place and end <= begin + 300:
            shown += [text[place:start], marks[0], text[start:end], marks[1]]
            place = end
    shown.append(text[place : begin + 300])
    return "".join(shown)
