"""F, and the conditions that it makes."""

from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime, time, timedelta, timezone
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tests.contract.base import case
from tests.harness.forms import SPANS
from tests.harness.strategies import filters

from aiovec import F, FilterError, where
from aiovec.backend import Compare, Const, Expr, Ref

from .cases import SCHEMA


def test_a_field_is_named_by_attribute_or_key() -> None:
    assert (F.year == 1) == (F["year"] == 1) == Compare(Ref("year"), "=", 1)
    assert F["payload.a.b"].is_null() == F.payload["a"]["b"].is_null()
    assert F.payload["a.b"].is_null() != F["payload.a.b"].is_null()
    assert (repr(F), repr(F.year), str(F["payload.a b"])) == ("F", "<field year>", 'payload."a b"')
    assert repr(F.year == 1) == "<filter year = 1>"
    assert len(repr(F.name == "x" * 10_000)) < 2_000
    for thing in (F, F.tags):
        with pytest.raises(TypeError, match="not iterable"):
            iter(thing)  # type: ignore[call-overload]  # which mypy knows too
    with pytest.raises(AttributeError, match=r'F\["payload.kind"\]'):
        F.payload.kind  # type: ignore[attr-defined]  # noqa: B018


def test_f_survives_copying_pickling_and_inspection() -> None:
    for name in ("__deepcopy__", "__wrapped__", "_repr_html_", "__len__"):
        assert not hasattr(F, name)
        assert not hasattr(F.year, name)
    assert copy.copy(F) is copy.deepcopy(F) is pickle.loads(pickle.dumps(F)) is F
    assert inspect.unwrap(F) is F
    assert repr(pickle.loads(pickle.dumps(F.year))) == repr(copy.deepcopy(F.year)) == repr(F.year)


@settings(max_examples=8, deadline=None)
@given(expr=filters(SCHEMA))
def test_filters_can_be_pickled_hashed_and_compared(expr: Expr) -> None:
    for other in (pickle.loads(pickle.dumps(expr)), copy.deepcopy(expr)):
        assert other == expr
        assert hash(other) == hash(expr)


def test_filters_are_equal_by_type_and_structure() -> None:
    literals = {F.x == 1, F.x == 1.0, F.x == True, F.x == "1"}  # noqa: E712
    assert len(literals) == 4
    assert F.x.in_([1, 2]) != F.x.in_([1, 2.0])
    assert F.x.contains(1) != F.x.contains(True)
    a, b, c = F.a == 1, F.b == 2, F.c == 3
    assert (a & b) & c == a & (b & c)
    assert (a | b) | c == a | (b | c)
    assert ~~a == a
    assert F.a.is_not_null() == ~F.a.is_null()
    assert ~Const(True) == Const(False)
    assert (F.live | (F.year == 1)) == ((F.live == True) | (F.year == 1))  # noqa: E712
    assert ~F.live == ~(F.live == True)  # noqa: E712


class Color(str, Enum):  # noqa: UP042 - the older way is what makes str() tell another text
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Moment(datetime):
    """A class of its own, as pandas has one."""


LITERALS: list[tuple[Any, Any]] = [
    (np.int64(5), 5), (np.float32(0.5), 0.5), (np.float64(2.0), 2.0), (np.bool_(True), True),
    (np.str_("a"), "a"), (Color.RED, "red"), (Level.LOW, 1),
    (datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
     datetime(2024, 1, 1, tzinfo=UTC)),
    (Moment(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),
]  # fmt: skip


def test_a_literal_becomes_a_plain_value() -> None:
    for value, kept in LITERALS:
        with case(value):
            expr = F.x == value
            assert expr == Compare(Ref("x"), "=", kept)
            assert isinstance(expr, Compare)
            assert type(expr.value) is type(kept)


UNTYPED: Any = F  # mypy finds most of these mistakes too

MISTAKES: list[tuple[Any, str]] = [
    (lambda: F.x == float("nan"), "finite"),
    (lambda: F.x < float("inf"), "finite"),
    (lambda: F.x == 2**63, "64 bits"),
    (lambda: UNTYPED.x < None, "is_null"),
    (lambda: UNTYPED.x.in_([None]), "is_null"),
    (lambda: F.x == datetime(2024, 1, 1), "time zone"),  # noqa: DTZ001
    (lambda: UNTYPED.x == time(1), "cannot be a literal"),
    (lambda: F.x == [[1]], "cannot be a literal"),
    (lambda: F.x == [None], "is_null"),
    (lambda: F.x < [1], "cannot be a literal"),
    (lambda: F.x == [float("nan")], "finite"),
    (lambda: F.x == [2**63], "64 bits"),
    (lambda: F.x == b"a", "cannot be a literal"),
    (lambda: F.x == np.zeros(2), "cannot be a literal"),
    (lambda: F.x == "\ud800", "surrogate"),
    (lambda: F.x.in_(["a", "\ud800"]), "surrogate"),
    (lambda: F.x.like("\ud800%"), "surrogate"),
    (lambda: F.payload["\ud800"] == 1, "surrogate"),
    *((lambda v=span: F.x < v, "cannot be a literal") for span in SPANS),
    (lambda: F.x == F.y, "another field"),
    (lambda: F.x == (F.y == 1), "another field"),
    (lambda: F.x.in_("abc"), "a list"),
    (lambda: UNTYPED.x.in_(5), "a list"),
    (lambda: UNTYPED.x.like(5), "not text"),
    (lambda: UNTYPED.x.startswith(None), "not text"),
    (lambda: F.year >= 2024 & UNTYPED.x, "put each comparison in parentheses"),
    (lambda: (F.x == 1) & True, "not a condition"),
    (lambda: (F.x == 1) & "y = 2", "aiovec.where"),
    (lambda: "y = 2" | (F.x == 1), "aiovec.where"),
    (lambda: where("x = 1) OR (y = 2"), "the end"),
    (lambda: where(""), "empty"),
    (lambda: where(5), "a filter must be text"),
    (lambda: 1 < F.x < 3, "between"),
    (lambda: (F.x == 1) and (F.y == 2), "no truth value"),
    (lambda: not F.live, "no truth value"),
    (lambda: "ai" in F.tags, "contains"),
    (lambda: F.x.like("a", escape=""), "single character"),
    (lambda: F.x.like("a", escape="ab"), "single character"),
    (lambda: UNTYPED.x.like("a", escape=5), "not text"),
    (lambda: F.x.like("a", escape="\ud800"), "surrogate"),
    (lambda: F.x.ilike("a\\", escape="\\"), "escape"),
]


def test_a_mistake_in_python_says_what_to_write() -> None:
    for number, (build, message) in enumerate(MISTAKES):
        with case((number, message)), pytest.raises(FilterError, match=message):
            build()
