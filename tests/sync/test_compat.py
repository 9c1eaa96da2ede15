"""Tests of the older interface, with collections of points."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.cases import case

import aiovec
from aiovec import DimensionMismatchError, ModelMismatchError, Schema, SchemaMismatchError
from aiovec.compat import FieldCondition, Filter, VectorFilter, VectorStore, to_uuid
from aiovec.sync import connect


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    with VectorStore(tmp_path / "points.db") as opened:
        opened.ensure_collection("notes", 3)
        yield opened


def only(**fields: Any) -> VectorFilter:
    return VectorFilter(must=[FieldCondition(key=k, value=v) for k, v in fields.items()])


def ids(store: VectorStore, filter_: VectorFilter | None) -> list[str]:
    return [hit["id"] for hit in store.search("notes", [1, 0, 0], limit=100, filter_=filter_)]


def test_points_come_back_with_payload_and_score(store: VectorStore) -> None:
    store.upsert("notes", id="a", vector=[1, 0, 0], payload={"kind": "x", "n": 1})
    points = (
        {"id": "b", "vector": [0, 1, 0], "payload": {"kind": "y"}},
        {"id": "c", "vector": [1, 1, 0]},
        {"id": "d", "vector": [0, 0, 1], "payload": None},
    )
    assert store.upsert_batch("notes", (point for point in points)) == 3
    assert store.search("notes", [1, 0, 0], limit=2) == [
        {"id": "a", "score": pytest.approx(1.0), "payload": {"kind": "x", "n": 1}},
        {"id": "c", "score": pytest.approx(0.5**0.5), "payload": {}},
    ]
    store.upsert("notes", id="a", vector=[0, 0, 1])
    assert {hit["id"]: hit["payload"] for hit in store.search("notes", [0, 0, 1])}["a"] == {}
    assert store.delete("notes", ["a", "nosuch"]) == 1
    assert store.delete("notes", "b") == 1
    assert store.count("notes") == 2
    store.upsert_batch("notes", [{"id": str(n), "vector": [1, n, 0]} for n in range(9)])
    hits = store.search("notes", [1, 0, 0])  # five by default
    assert [hit["id"] for hit in hits] == ["0", "1", "c", "2", "3"]


def test_a_collection_keeps_its_length_and_model(store: VectorStore) -> None:
    assert store.count("nosuch") == 0
    for call in (
        lambda: store.search("nosuch", [1, 0, 0]),
        lambda: store.upsert("nosuch", id="a", vector=[1, 0, 0]),
        lambda: store.delete("nosuch", ["a"]),
    ):
        with pytest.raises(aiovec.TableNotFoundError):
            call()
    store.ensure_collection("notes", 3)
    for model in ("m", "m", None):
        store.ensure_collection("named", 3, model=model)
    for arguments, model, error in (
        (("notes", 4), None, SchemaMismatchError),
        (("notes", 3), "m", ModelMismatchError),
        (("named", 3), "other", ModelMismatchError),
        (("named", 4), "other", SchemaMismatchError),
        (("Notes!", 3), None, aiovec.InvalidNameError),
        (("notes", 0), None, aiovec.InvalidArgumentError),
    ):
        with pytest.raises(error):
            store.ensure_collection(*arguments, model=model)
    store.upsert("named", id="a", vector=[1, 0, 0], model="m")
    store.upsert("named", id="b", vector=[1, 0, 0])
    for call in (
        lambda: store.upsert("named", id="c", vector=[1, 0, 0], model="other"),
        lambda: store.upsert_batch("named", [{"id": "c", "vector": [1, 0, 0]}], model="other"),
        lambda: store.search("named", [1, 0, 0], model="other"),
    ):
        with pytest.raises(ModelMismatchError):
            call()
    assert store.count("named") == 2


def test_collections_are_tables_of_the_other_faces(tmp_path: Path) -> None:
    with connect(tmp_path / "points.db") as other:
        other.create_table("ours", Schema(3, vector="vector", fields={"kind": str, "year": int}))
        other.create_table("theirs", Schema(3, vector="embedding"))
    with VectorStore(tmp_path / "points.db") as store:
        store.ensure_collection("ours", 3)
        store.upsert("ours", id="a", vector=[1, 0, 0], payload={"kind": "x", "free": [1]})
        (hit,) = store.search("ours", [1, 0, 0])
        assert hit["payload"] == {"kind": "x", "year": None, "free": [1]}
        assert store.search("ours", [1, 0, 0], filter_=only(kind="x", year=None))
        assert store.search("ours", [1, 0, 0], filter_=only(kind="x", free=None)) == []
        with pytest.raises(SchemaMismatchError):
            store.ensure_collection("theirs", 3)
        store.ensure_collection("notes", 3, model="m")
        store.upsert("notes", id="a", vector=[1, 0, 0], payload={"kind": "x", "at": {"n": 1}})
    with connect(tmp_path / "points.db") as other:
        assert other.schema("notes") == Schema(3, model="m", vector="vector")
        (record,) = other.find("notes", "payload.kind = 'x' AND payload.at.n = 1")
        assert dict(record.fields) == {"kind": "x", "at": {"n": 1}}


NO_POINTS: list[Any] = [
    [{"id": "a"}],
    [{"vector": [1, 0, 0]}],
    [{"id": "a", "vector": [1, 0, 0], "payloads": {}}],
    [{"id": "a", "vector": [1, 0, 0], "payload": "text"}],
    [{"id": "a", "vector": [1, 0, 0], "payload": {1: "text"}}],
    [{"id": "a", "vector": [1, 0, 0], "payload": {"x": float("nan")}}],
    [{"id": 1.5, "vector": [1, 0, 0]}],
    ["a"],
]


def test_points_with_wrong_keys_or_vectors_are_refused(store: VectorStore) -> None:
    good = {"id": "good", "vector": [1, 0, 0]}
    whole: list[Any] = [5, None, np.array(5), good]
    for points in (*([good, *points] for points in NO_POINTS), *whole):
        with pytest.raises(aiovec.InvalidRowError):
            store.upsert_batch("notes", points)
    with pytest.raises(DimensionMismatchError):
        store.upsert("notes", id="a", vector=[1, 0])
    with pytest.raises(DimensionMismatchError):
        store.search("notes", [1, 0])
    vectors: list[Any] = [[0, 0, 0], [1, 0, float("nan")], None]
    for vector in vectors:
        with pytest.raises(aiovec.InvalidVectorError):
            store.upsert("notes", id="a", vector=vector)
    assert store.count("notes") == 0


# Payloads and filters


RESERVED = ["id", "vector", "_id", "__id", "_vector", "payload", "_payload", "Id", "embedding"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.dictionaries(st.sampled_from(RESERVED) | TEXT, JSON, max_size=6))
def test_payloads_come_back_as_they_went_in(payload: dict[str, Any], store: VectorStore) -> None:
    store.upsert("notes", id="a", vector=[1, 0, 0], payload=payload)
    (hit,) = store.search("notes", [1, 0, 0])
    assert (hit["id"], hit["payload"]) == ("a", payload)
    assert repr(hit["payload"]) == repr(payload), "types, and the order of the keys"


def test_keys_with_reserved_names_are_stored_and_filtered(store: VectorStore) -> None:
    for key in RESERVED:
        with case(key):
            for n, payload in enumerate(({key: "x", "other": "x"}, {key: "y", "other": "x"}, {})):
                store.upsert("notes", id=f"row{n}", vector=[1, 0, 0], payload=payload)
            assert ids(store, only(**{key: "x"})) == ["row0"]
            assert ids(store, only(**{key: "row0"})) == []
            assert ids(store, only(**{key: None})) == ["row2"]


POINTS: dict[str, dict[str, Any]] = {
    "text": {"v": "1", "at": {"deep": {"er": "x"}}},
    "int": {"v": 1, "at": {"deep": {"er": 5}}},
    "true": {"v": True},
    "null": {"v": None, "at": 3},
    "none": {},
    "odd": {"a key with 'quotes' and \"more\"": 1, "": 2, "käse": "ü", "a.b": 1},
}
CONDITIONS: list[tuple[dict[str, Any], set[str]]] = [
    ({"v": "1"}, {"text"}),
    ({"v": 1}, {"int"}),
    ({"v": True}, {"true"}),
    ({"v": None}, {"null", "none", "odd"}),
    ({"at.deep.er": "x"}, {"text"}),
    ({"at.deep.er": 5, "v": 1}, {"int"}),
    ({'"a key with \'quotes\' and ""more"""': 1}, {"odd"}),
    ({"a.b": 1}, set()),
    ({'"a.b"': 1}, {"odd"}),
    ({}, set(POINTS)),
]


def test_conditions_select_points_by_their_payload(store: VectorStore) -> None:
    points = [{"id": id, "vector": [1, 0, 0], "payload": payload} for id, payload in POINTS.items()]
    store.upsert_batch("notes", points)
    for conditions, expected in CONDITIONS:
        with case(conditions):
            assert set(ids(store, only(**conditions))) == expected
    far = [{"id": f"n{n:03}", "vector": [1, n, 0], "payload": {"far": n > 194}} for n in range(200)]
    store.upsert_batch("notes", far)
    hits = store.search("notes", [1, 0, 0], limit=3, filter_=only(far=True))
    assert [hit["id"] for hit in hits] == ["n195", "n196", "n197"]


def test_wrong_filters_of_collections_are_refused(store: VectorStore) -> None:
    assert Filter is VectorFilter
    assert VectorFilter().must == ()
    assert FieldCondition("a", 1) == FieldCondition(key="a", value=1)
    for wrong in (
        {"must": []}, "v = 1", VectorFilter(must="v"), VectorFilter(must=["v"]),  # type: ignore[list-item]
        VectorFilter(must=[FieldCondition("", 1)]),
    ):  # fmt: skip
        with pytest.raises(aiovec.InvalidArgumentError):
            store.search("notes", [1, 0, 0], filter_=wrong)  # type: ignore[arg-type]
    for value in ([[1]], {"a": 1}, b"x", float("nan"), 2**64):
        with pytest.raises(aiovec.FilterError):
            store.search("notes", [1, 0, 0], filter_=only(v=value))
    place = "https://example.org/a"
    assert to_uuid(place) == str(uuid.uuid5(uuid.NAMESPACE_URL, place)) != to_uuid("b")
