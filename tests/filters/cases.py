"""Schemas, rows and filters for the property tests, hostile wherever they may be."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from aiovec import Field, Schema
from aiovec.backend import (
    Compare,
    Const,
    Contains,
    EqualsList,
    Expr,
    In,
    IsNull,
    Like,
    Ref,
    StartsWith,
)
from aiovec.errors import FilterError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

SCHEMA = Schema(
    dim=8,
    fields={
        "body": str,
        "select": Field(str, index="btree"),
        "tenant": Field(str, partition=True),
        "year": int,
        "order": Field(int, index="btree"),
        "score": float,
        "like": Field(float, index="btree"),
        "timestamp": datetime,
        "live": bool,
        "tags": list[str],
        "numbers": list[int],
        "weights": list[float],
        # The names of columns of SQLite's json_each.
        "value": list[str],
        "Key": list[str],
        "type": bool,
        "json": str,
    },
)


def all_of(conditions: list[Expr]) -> Expr:
    return reduce(operator.and_, conditions)


def any_of(conditions: list[Expr]) -> Expr:
    return reduce(operator.or_, conditions)


# Letters that several others fold to, or that engines fold in different ways.
_LETTERS = "éÉßẞs\u017fS\u03c3\u03c2\u03a3\u0130\u0131iIKk\u212a"
_SPECIAL = "aAbBzZ019%_*?[]^-!'\"\\/\0\n\r\t .中😀" + _LETTERS
_SPECIAL += "\ud7ff\ue000\ufffd\ufffe\uffff\U00010000\U0010ffff"
texts = st.one_of(
    st.text(st.sampled_from(_SPECIAL), max_size=5),
    st.sampled_from(["", "a", "ab", "a%", "a_b", "[a]", "a*", "NULL", "1", "true", "a\0b", "😀x"]),
    st.text(max_size=3),
)
patterns = st.one_of(texts, st.text(st.sampled_from("ab%_%_*?[]\0\n😀"), max_size=8))
ints = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63 - 1024]),
    st.integers(-(2**63), 2**63 - 1),
)
finite_floats = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.5, 1e300, 5e-324, float(2**53), float(2**63), 0.1]),
    st.integers(-3, 3).map(float),
    st.floats(allow_nan=False, allow_infinity=False),
)
floats = st.one_of(finite_floats, st.sampled_from([math.inf, -math.inf]))
datetimes = st.one_of(
    st.sampled_from([EPOCH, EPOCH - timedelta(microseconds=1), EPOCH + timedelta(days=20_000)]),
    st.datetimes(min_value=datetime(1, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001
)
keys = st.sampled_from(
    ["a", "b", "a.b", "", 'q"k', "back\\slash", "'", "\0k", "\n", "é", "😀", "0", "$", "a[0]", "A"]
)
scalars = st.one_of(st.none(), st.booleans(), ints, finite_floats, texts)
payloads = st.dictionaries(
    keys,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=4,
    ),
    max_size=4,
)
_values: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "int": ints,
    "float": floats,
    "bool": st.booleans(),
    "datetime": datetimes,
    "list[text]": st.lists(texts, max_size=3),
    "list[int]": st.lists(ints, max_size=3),
    "list[float]": st.lists(finite_floats, max_size=3),
}


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.integers(1, 8))):
        row: dict[str, Any] = {"id": f"{number}{draw(texts)}".replace("\0", "")}
        for name, field in SCHEMA.fields.items():
            row[name] = draw(st.one_of(st.none(), _values[field.kind], _values[field.kind]))
        row["payload"] = draw(st.one_of(st.none(), payloads, payloads, payloads))
        found.append(row)
    return found


def arrow_table(of: list[dict[str, Any]]) -> pa.Table:
    """The rows as ``Schema.to_arrow`` lays them out, without the vector."""
    layout = SCHEMA.to_arrow()
    layout = layout.remove(layout.get_field_index(SCHEMA.vector))
    columns = []
    for column in layout:
        if column.name == "payload":
            texts_of = [None if r["payload"] is None else json.dumps(r["payload"]) for r in of]
            columns.append(
                pa.ExtensionArray.from_storage(column.type, pa.array(texts_of, pa.utf8()))
            )
        else:
            columns.append(pa.array([row[column.name] for row in of], column.type))
    return pa.Table.from_arrays(columns, schema=layout)


def _walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in a payload with its path; items of a list with the path of the list."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, (*path, key))
    if isinstance(value, list):
        for inner in value:
            yield path, inner


def _near(used: list[Any], others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly the values that the rows hold, so that conditions are often true."""
    return st.one_of(st.sampled_from(used), st.sampled_from(used), others) if used else others


@st.composite
def _patterns_for(draw: st.DrawFn, used: list[str]) -> str:
    text = draw(_near(used, texts))
    return "".join(draw(st.sampled_from([c, c, c, "_", "%", c + "%"])) for c in text)


def _escaped_like(ref: Ref, pattern: str, ignore_case: bool) -> Like:
    """With an escape that may stand anywhere in the pattern, but at its end."""
    escape = pattern[len(pattern) // 2] if pattern else "\\"
    body = pattern if (len(pattern) - len(pattern.rstrip(escape))) % 2 == 0 else pattern + "%"
    try:
        made = Like(ref, body, escape, ignore_case)
        assert made.marked is not None
    except FilterError:
        made = Like(ref, body + body[-1], escape, ignore_case)
    return made


def _ilike(ref: Ref, pattern: str, swap: bool) -> Like:
    return Like(ref, pattern.swapcase() if swap else pattern, None, True)


def conditions(rows: list[dict[str, Any]]) -> dict[str, st.SearchStrategy[Expr]]:
    """Conditions of each kind that go well with the rows."""
    used: list[Any] = [value for row in rows for name, value in row.items() if name != "payload"]
    used += [item for value in used if isinstance(value, list) for item in value]
    in_payloads = [found for row in rows for found in _walk(row["payload"])]
    used += [value for _, value in in_payloads]

    text = _near([v for v in used if isinstance(v, str)], texts)
    prefix = st.builds(lambda value, end: value[:end], text, st.integers(0, 3))
    pattern = _patterns_for([v for v in used if isinstance(v, str)]) | patterns
    number = _near(
        [v for v in used if type(v) in (int, float) and math.isfinite(v)], ints | finite_floats
    )
    time = _near([v for v in used if isinstance(v, datetime)], datetimes)
    path = _near([path for path, _ in in_payloads], st.lists(keys, min_size=1, max_size=2)).map(
        lambda path: Ref("payload", tuple(path))
    )
    field = {
        kind: st.sampled_from([n for n, f in SCHEMA.fields.items() if f.kind == kind]).map(Ref)
        for kind in _values
    }
    text_field = field["text"] | st.just(Ref("id"))
    number_field = field["int"] | field["float"]
    order = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
    equality = st.sampled_from(["=", "!="])

    def several(of: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
        return st.lists(of, min_size=1, max_size=4).map(tuple)

    def items(of: st.SearchStrategy[Any], *types: type) -> st.SearchStrategy[tuple[Any, ...]]:
        there = [
            tuple(value)
            for value in used
            if isinstance(value, list) and all(type(item) in types for item in value)
        ]
        return _near(there, st.lists(of, max_size=3).map(tuple))

    return {
        "constant": st.booleans().map(Const),
        "text": st.builds(Compare, text_field, order, text),
        "number": st.builds(Compare, number_field, order, number),
        "time": st.builds(Compare, field["datetime"], order, time),
        "bool": st.builds(Compare, field["bool"], equality, st.booleans()),
        "payload": st.builds(Compare, path, order, text | number),
        "payload bool": st.builds(Compare, path, equality, st.booleans()),
        "text in": st.builds(In, text_field, several(text)),
        "number in": st.builds(In, number_field, several(number)),
        "time in": st.builds(In, field["datetime"], several(time)),
        "bool in": st.builds(In, field["bool"], several(st.booleans())),
        "payload in": st.builds(In, path, several(text | number | st.booleans())),
        "null": st.builds(IsNull, text_field | st.one_of(*field.values())),
        "payload null": st.builds(IsNull, path),
        "like": st.builds(Like, text_field, pattern),
        "payload like": st.builds(Like, path, pattern),
        "escaped like": st.builds(_escaped_like, text_field | path, pattern, st.booleans()),
        "ilike": st.builds(_ilike, text_field | path, pattern, st.booleans()),
        "startswith": st.builds(StartsWith, text_field, prefix),
        "payload startswith": st.builds(StartsWith, path, prefix),
        "contains": st.builds(Contains, field["list[text]"], text),
        "payload contains": st.builds(Contains, path, text | number | st.booleans()),
        "list": st.builds(EqualsList, field["list[text]"], items(text, str)),
        "numbers": st.builds(
            EqualsList, field["list[int]"] | field["list[float]"], items(number, int, float)
        ),
        "contains number": st.builds(Contains, field["list[int]"] | field["list[float]"], number),
        "payload list": st.builds(
            EqualsList, path, items(text | number | st.booleans(), str, int, float, bool)
        ),
        "is true": st.builds(Compare, number_field, order, number).map(Expr.is_true),
        "payload is true": st.builds(Compare, path, order, text | number).map(Expr.is_true),
    }


CONDITIONS = tuple(conditions([]))


def filters(rows: list[dict[str, Any]]) -> st.SearchStrategy[Expr]:
    """Filters of any shape that go well with the rows."""
    return st.recursive(
        st.one_of(*conditions(rows).values()),
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=4).map(all_of),
            st.lists(inner, min_size=2, max_size=4).map(any_of),
            inner.map(operator.invert),
            inner.map(Expr.is_true),
        ),
        max_leaves=12,
    )
