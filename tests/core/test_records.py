"""Records and hits: mappings that compare, copy and show themselves."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from aiovec import Hit, Record


def test_to_dict_has_every_fact_and_json_takes_it() -> None:
    vector = np.array([1, 2], dtype=np.float32)
    full = Hit("a", 0.5, None, {}, vector, {"text": 1}, {"body": "<b>x</b>"}, "vec")
    shown: tuple[tuple[Record | Hit, dict[str, Any]], ...] = (
        (Record("a"), {"id": "a"}),
        (Record("a", vector, {"year": 1, "x": None}, "vec"),
         {"id": "a", "vec": [1.0, 2.0], "year": 1, "x": None}),
        (Hit("a", 0.5, 0.5, {"year": 1}), {"id": "a", "_score": 0.5, "_distance": 0.5, "year": 1}),
        (full, {"id": "a", "_score": 0.5, "_distance": None, "vec": [1.0, 2.0],
                "_ranks": {"text": 1}, "_highlights": {"body": "<b>x</b>"}}),
    )  # fmt: skip
    for row, expected in shown:
        assert row.to_dict() == expected == json.loads(json.dumps(row.to_dict()))
        with pytest.raises(KeyError):
            row["absent"]


def test_records_compare_by_value() -> None:
    vector = np.array([1, 2], dtype=np.float32)
    record = Record("a", vector, {"x": 1})
    assert record == Record("a", vector.copy(), {"x": 1})
    assert hash(record) == hash(Record("a", vector.copy(), {"x": 1}))
    for other in (
        Record("b", vector, {"x": 1}),
        Record("a", vector + 1, {"x": 1}),
        Record("a", None, {"x": 1}),
        Record("a", vector, {"x": 2}),
    ):
        assert record != other
    assert record != "a"
    hit = Hit("a", 0.5, 0.5, {"year": 1})
    assert hit == Hit("a", 0.5, 0.5, {"year": 1})
    assert hash(hit) == hash(Hit("a", 0.5, 0.5, {"year": 1}))
    assert hit not in (Hit("a", 0.5, 0.25, {"year": 1}), Hit("a", 0.5, 0.5, {"year": 2}))


@pytest.mark.parametrize("row", [Record("a", None, {"year": 1}), Hit("a", 0.5, 0.5, {"year": 1})])
def test_records_and_hits_are_mappings_of_the_id_and_the_fields(row: Record | Hit) -> None:
    assert isinstance(row, Mapping)
    assert ("year" in row, "id" in row, "absent" in row, 0 in row) == (True, True, False, False)
    assert (list(row), len(row)) == (["id", "year"], 2)
    assert dict(row) == {**row} == {"id": "a", "year": 1}
    assert (row["id"], row.get("year"), row.get("no"), row.get("no", 5)) == ("a", 1, None, 5)
    assert list(row.items()) == [("id", "a"), ("year", 1)]
    assert (list(row.keys()), list(row.values())) == (["id", "year"], ["a", 1])
    assert "%(id)s of %(year)s" % row == "a of 1"  # noqa: UP031 - it takes a mapping

    def call(*, id: str, year: int) -> tuple[str, int]:
        return id, year

    assert call(**row) == ("a", 1)
    match row:
        case {"id": id, "year": year}:
            assert (id, year) == ("a", 1)
        case _:
            pytest.fail("it is no mapping to match")


def test_stored_keys_named_like_a_hits_own_facts_are_kept() -> None:
    fields = {"_score": 1, "__score": 2, "_distance": 3, "_ranks": 4, "_scores": 5, "score": 6}
    hit = Hit("a", 0.5, 0.25, fields)
    assert dict(hit) == {"id": "a", **fields}
    assert hit.to_dict() == {
        "id": "a", "_score": 0.5, "_distance": 0.25, "__score": 1, "___score": 2, "__distance": 3,
        "__ranks": 4, "_scores": 5, "score": 6,
    }  # fmt: skip


VECTOR = np.array([1, 2, 3], dtype=np.float32)


@pytest.mark.parametrize(
    "row",
    [Record("a"), Record("a", VECTOR, {"x": [1]}, "vec"), Hit("a", 0.5, None),
     Hit("a", 0.5, 0.5, MappingProxyType({"x": 1}), VECTOR, {"text": 1}, {"b": "c"}, "vec")],
)  # fmt: skip
def test_copies_and_pickles_are_equal(row: Record | Hit) -> None:
    for copied in (copy.copy(row), copy.deepcopy(row), pickle.loads(pickle.dumps(row))):
        assert copied == row
        assert type(copied) is type(row)
        assert copied.to_dict() == row.to_dict()
        assert hash(copied) == hash(row)


def test_records_and_hits_have_a_short_repr() -> None:
    fields = {f"f{n}": "x" * 500 for n in range(30)}
    for row in (Record("a", VECTOR, fields), Hit("a", 1 / 3, 2 / 3, fields, VECTOR)):
        assert len(repr(row)) < 500
        assert "24 more fields" in repr(row)
    assert repr(Hit("a", 0.5, 0.5, {"year": 1})) == "Hit('a', score=0.5, distance=0.5, year=1)"
    assert repr(Record("a", VECTOR, {"x": None})) == "Record('a', x=None, embedding=<3 numbers>)"


def test_records_and_hits_cannot_be_changed() -> None:
    for thing in (Record("a"), Hit("a", 1.0, 0.0)):
        with pytest.raises(AttributeError):
            thing.id = "b"  # type: ignore[misc]
