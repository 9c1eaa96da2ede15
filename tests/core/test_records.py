"""Records and hits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aiovec import Hit, Record


def test_a_record() -> None:
    record = Record("a", np.array([1, 2], dtype=np.float32), {"year": 1, "x": None}, "vec")
    assert record["year"] == 1
    with pytest.raises(KeyError):
        record["absent"]
    assert record.to_dict() == {"id": "a", "vec": [1.0, 2.0], "year": 1, "x": None}
    assert json.loads(json.dumps(record.to_dict())) == record.to_dict()
    assert Record("a").to_dict() == {"id": "a"}


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


def test_a_hit() -> None:
    hit = Hit("a", 0.5, 0.5, {"year": 1})
    assert (hit["year"], "year" in hit, "absent" in hit, list(hit)) == (1, True, False, ["year"])
    with pytest.raises(KeyError):
        hit["absent"]
    assert hit.to_dict() == {"id": "a", "score": 0.5, "distance": 0.5, "fields": {"year": 1}}
    full = Hit(
        "a", 0.5, None, {}, np.array([1], dtype=np.float32), {"text": 1}, {"body": "<b>x</b>"}
    )
    assert full.to_dict() == {
        "id": "a", "score": 0.5, "distance": None, "fields": {}, "vector": [1.0],
        "ranks": {"text": 1}, "highlights": {"body": "<b>x</b>"},
    }  # fmt: skip
    assert json.loads(json.dumps(full.to_dict())) == full.to_dict()


def test_hits_compare_by_value() -> None:
    hit = Hit("a", 0.5, 0.5, {"year": 1})
    assert hit == Hit("a", 0.5, 0.5, {"year": 1})
    assert hit != Hit("a", 0.5, 0.25, {"year": 1})
    assert hit != Hit("a", 0.5, 0.5, {"year": 2})
    assert hash(hit) == hash(Hit("a", 0.5, 0.5, {"year": 1}))


def test_neither_can_be_changed() -> None:
    for thing in (Record("a"), Hit("a", 1.0, 0.0)):
        with pytest.raises(AttributeError):
            thing.id = "b"  # type: ignore[misc]
