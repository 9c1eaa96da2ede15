"""Hypothesis strategies for schemas, for valid and invalid rows, and for filters of a schema."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from tests.harness.values import EPOCH, HOSTILE_TEXTS

from aiovec import F, Field, Schema
from aiovec.backend import Expr, Kind, Metric

Strategy = st.SearchStrategy

# Few ids, so that calls often use the same rows.
IDS = ("a", "b", "A", "a ", "10", "9", "é", "😀", "'; --", "%", "x" * 512, '"', "..", "NULL")
TABLES = ("notes", "select", "a-b_c")
FIELD_NAMES = ("name", "year", "order", "rowid", "distance", "Rank", "k", "select")
PAYLOAD_KEYS = ("kind", "n", "a.b", "", '"', "order", "late", "ключ", "$")
_EXTREME_INTS = (-(2**63), -(2**53) - 1, -1, 0, 1, 2, 2**53 + 1, 2**63 - 1)
_EXTREME_FLOATS = (-1e300, -1.5, -0.5, 0.0, 5e-324, 0.5, 1.0, 2.0, 2.0**53, 1e300)
_SHORT_TEXTS = tuple(text for text in HOSTILE_TEXTS if len(text) < 100)

# The strategy takes bounds without a time zone, and draws values with one.
_FIRST_DAY = datetime(1600, 1, 1)  # noqa: DTZ001
_LAST_DAY = datetime(2500, 1, 1)  # noqa: DTZ001

texts: Strategy[str] = st.one_of(
    st.sampled_from(("a", "b", "ab", "a%", "A", "")),
    st.sampled_from(_SHORT_TEXTS),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
ints: Strategy[int] = st.one_of(
    st.integers(-3, 3), st.sampled_from(_EXTREME_INTS), st.integers(-(2**63), 2**63 - 1)
)
floats: Strategy[float] = st.one_of(
    st.sampled_from(_EXTREME_FLOATS), st.floats(allow_nan=False, allow_infinity=False)
)
datetimes: Strategy[datetime] = st.one_of(
    st.sampled_from([EPOCH, EPOCH + timedelta(microseconds=1), EPOCH - timedelta(microseconds=1)]),
    st.datetimes(_FIRST_DAY, _LAST_DAY, timezones=st.just(UTC)),
)
_INDEXES: tuple[Any, ...] = (None, "btree", "bitmap")
_BY_KIND: dict[Kind, Strategy[Any]] = {
    "text": texts,
    "int": ints,
    "float": floats,
    "bool": st.booleans(),
    "datetime": datetimes,
    "list[text]": st.lists(texts, max_size=3),
    "list[int]": st.lists(ints, max_size=3),
    "list[float]": st.lists(floats, max_size=3),
}
json_values: Strategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), ints, floats, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(PAYLOAD_KEYS), inner, max_size=2),
    ),
    max_leaves=4,
)


def values(field: Field) -> Strategy[Any]:
    """Draw a valid value of the field, including null if it is nullable."""
    fitting = _BY_KIND[field.kind]
    return st.one_of(fitting, fitting, st.none()) if field.nullable else fitting


@st.composite
def fields(draw: st.DrawFn, *, added: bool = False) -> Field:
    """Draw a field with options that its kind allows."""
    kind = draw(st.sampled_from(tuple(_BY_KIND)))
    index = None if kind.startswith("list[") else draw(st.sampled_from(_INDEXES))
    text = kind == "text" and draw(st.booleans())
    if added:
        return Field(kind, index=index, text=text)
    partition = kind in ("text", "int") and draw(st.integers(0, 3)) == 0
    nullable = draw(st.integers(0, 3)) > 0
    return Field(kind, index=index, text=text, partition=partition, nullable=nullable)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    metrics: tuple[Metric, ...] = ("cosine", "l2", "dot")
    names = draw(st.lists(st.sampled_from(FIELD_NAMES), max_size=5, unique_by=str.lower))
    chosen = {name: draw(fields()) for name in names}
    if sum(field.partition for field in chosen.values()) > 4:
        chosen = {name: Field(field.kind) for name, field in chosen.items()}
    return Schema(
        draw(st.integers(1, 4)),
        metric=draw(st.sampled_from(metrics)),
        model=draw(st.sampled_from((None, None, "m"))),
        vector=draw(st.sampled_from(("embedding", "vector", "E"))),
        fields=chosen,
        payload=draw(st.integers(0, 3)) > 0,
        vector_nullable=draw(st.integers(0, 3)) == 3,
    )


def vectors(schema: Schema) -> Strategy[list[float]]:
    """Draw vectors from few numbers, so that many distances are equal; some vectors are zero."""
    number = st.integers(-6, 6).map(lambda n: n / 2)
    drawn = st.lists(number, min_size=schema.dim, max_size=schema.dim)
    if schema.metric == "cosine":
        return drawn.filter(any)
    return drawn


@st.composite
def good_rows(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    row: dict[str, Any] = {"id": draw(st.sampled_from(IDS)), schema.vector: draw(vectors(schema))}
    if schema.vector_nullable and not draw(st.integers(0, 2)):
        row[schema.vector] = None
    for name, field in schema.fields.items():
        if not field.nullable or draw(st.integers(0, 4)):
            row[name] = draw(values(field))
    if schema.payload:
        keys = st.sampled_from([key for key in PAYLOAD_KEYS if key not in schema.fields])
        row |= draw(st.dictionaries(keys, st.one_of(json_values, st.booleans()), max_size=2))
    return row


@st.composite
def bad_rows(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    """Draw a row with one fault."""
    row = draw(good_rows(schema))
    nan, dim = float("nan"), schema.dim
    faults: list[dict[str, Any]] = [
        {"id": ""},
        {"id": "x" * 513},
        {"id": "a\0"},
        {"id": None},
        {schema.vector: [1.0] * (dim + 1)},
        {schema.vector: [nan] * dim},
        {schema.vector: [float("inf")] * dim},
        {schema.vector: [1e39] * dim},
    ]
    if not schema.vector_nullable:
        faults.append({schema.vector: None})
    if schema.metric == "cosine":
        faults.append({schema.vector: [0.0] * dim})
    if not schema.payload:
        faults.append({"undeclared": 1})
    wrong: dict[Kind, Any] = {
        "text": 1, "int": "1", "float": nan, "bool": 1, "list[text]": [None],
        "list[int]": [1.5], "list[float]": [nan],
        "datetime": datetime(2024, 1, 1),  # noqa: DTZ001 - its missing zone is the fault
    }  # fmt: skip
    for name, field in schema.fields.items():
        faults.append({name: wrong[field.kind]})
        if not field.nullable:
            faults.append({name: None})
    row |= draw(st.sampled_from(faults))
    return row


# Filters. They are drawn step by step, because one strategy per condition would mean thousands.


def _literals(kind: Kind) -> Strategy[Any]:
    # Int fields are also compared with floats, and float fields with ints.
    return st.one_of(ints, floats) if kind in ("int", "float") else _BY_KIND[kind]


_PATTERNS: Strategy[str] = st.one_of(
    st.sampled_from(("%", "_", "a%", "%a", "%a%", "_b", "")), texts
)
# Patterns without an escape character, or with one that precedes only characters it can escape.
_ESCAPED: Strategy[tuple[Any, ...]] = st.one_of(
    st.tuples(_PATTERNS, st.none()),
    st.tuples(_PATTERNS, st.sampled_from("!aA%_")).map(
        lambda drawn: (drawn[0].replace(drawn[1], drawn[1] * 2) + f"{drawn[1]}%", drawn[1])
    ),
)
_SCALARS: Strategy[Any] = st.one_of(ints, floats, texts)
_ITEMS: Strategy[Any] = st.one_of(_SCALARS, st.booleans())


def _condition_by(draw: st.DrawFn, ref: Any, form: str, literal: Strategy[Any]) -> Expr:
    made: Expr
    match form:
        case "null":
            made = ref.is_null()
        case "in":
            made = ref.in_(draw(st.lists(literal, max_size=3)))
        case "between":
            made = ref.between(draw(literal), draw(literal))
        case "like":
            pattern, escape = draw(_ESCAPED)
            made = ref.like(pattern, escape=escape)
        case "ilike":
            pattern, escape = draw(_ESCAPED)
            made = ref.ilike(pattern, escape=escape)
        case "contains_text":
            made = ref.contains_text(draw(texts))
        case "list":
            made = ref == draw(st.lists(literal, max_size=3))
        case "empty":
            made = ref.is_empty()
        case "startswith":
            made = ref.startswith(draw(texts))
        case "contains":
            made = ref.contains(draw(literal))
        case _:
            compare: Callable[[Any, Any], Any] = getattr(operator, form)
            made = compare(ref, draw(literal))
    return made


_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge", "between", "in", "null")
_ON_TEXT = (*_COMPARE, "like", "ilike", "contains_text", "startswith")
_ON_LISTS = ("contains", "list", "empty", "null")
_FORMS: dict[Kind, tuple[str, ...]] = {
    "text": _ON_TEXT,
    "int": _COMPARE,
    "float": _COMPARE,
    "datetime": _COMPARE,
    "bool": ("eq", "ne", "in", "null"),
    "list[text]": _ON_LISTS,
    "list[int]": _ON_LISTS,
    "list[float]": _ON_LISTS,
}


@st.composite
def conditions(draw: st.DrawFn, schema: Schema) -> Expr:
    """Draw one condition on a field, the id, or a key of the payload."""
    name = draw(st.sampled_from(("id", *schema.fields, *(("payload",) if schema.payload else ()))))
    if name == "payload":
        ref = F.payload[draw(st.sampled_from(PAYLOAD_KEYS))]
        if not draw(st.integers(0, 3)):
            ref = ref[draw(st.sampled_from(PAYLOAD_KEYS))]
        form = draw(st.sampled_from((*_ON_TEXT, *_ON_LISTS, "flag")))
        if form == "flag":
            return _condition_by(draw, ref, draw(st.sampled_from(("eq", "ne"))), st.booleans())
        return _condition_by(
            draw, ref, form, _ITEMS if form in ("contains", "in", "list") else _SCALARS
        )
    if name == "id":
        ids = st.one_of(st.sampled_from(IDS), texts)
        return _condition_by(draw, F.id, draw(st.sampled_from(_ON_TEXT)), ids)
    kind = schema.fields[name].kind
    literal = _literals(schema.fields[name].item_kind)
    return _condition_by(draw, F[name], draw(st.sampled_from(_FORMS[kind])), literal)


@st.composite
def _twice(draw: st.DrawFn, schema: Schema) -> Expr:
    """Draw a filter with the same condition twice, perhaps negated; often it is on a boolean."""
    flags = [F.payload[key] for key in PAYLOAD_KEYS] if schema.payload else []
    flags += [F[name] for name, field in schema.fields.items() if field.kind == "bool"]
    if flags and draw(st.integers(0, 3)):
        once = draw(st.sampled_from(flags)) == draw(st.booleans())
    else:
        once = draw(conditions(schema))
    return draw(st.sampled_from((once | once, once & once, ~once & ~once, ~once | ~once)))


@st.composite
def filters(draw: st.DrawFn, schema: Schema, *, depth: int = 3) -> Expr:
    """Draw a valid filter of the schema: conditions on every kind of field, and trees of them.

    Some filters have a comparison twice, as joined filters often do.
    """
    match draw(st.integers(0, 8)) if depth else 0:
        case 3:
            return draw(filters(schema, depth=depth - 1)) & draw(filters(schema, depth=depth - 1))
        case 4:
            return draw(filters(schema, depth=depth - 1)) | draw(filters(schema, depth=depth - 1))
        case 5:
            return ~draw(filters(schema, depth=depth - 1))
        case 6:
            return draw(filters(schema, depth=depth - 1)).is_true()
        case 7:
            return draw(_twice(schema)) & draw(filters(schema, depth=depth - 1))
        case 8:
            return draw(_twice(schema)) | draw(filters(schema, depth=depth - 1))
        case _:
            return draw(conditions(schema))


@st.composite
def wheres(draw: st.DrawFn, schema: Schema) -> tuple[Expr | None, Expr | str | None]:
    """Draw a filter or None, and the same filter as an argument ``where``: as a tree or as text."""
    if draw(st.integers(0, 4)) == 0:
        return None, None
    tree = draw(filters(schema))
    return tree, str(tree) if draw(st.booleans()) else tree
