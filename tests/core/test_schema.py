"""Schema and Field: forms in Arrow and JSON, and options that are refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.base import case
from tests.harness import strategies as drawn

from aiovec import Field, InvalidArgumentError, InvalidNameError, Schema

TYPES = (str, int, float, bool, datetime, list[str], list[int], list[float])


@settings(max_examples=30)
@given(drawn.schemas(), st.sampled_from((None, "bit")), st.sampled_from(("ngram", "german")))
def test_a_schema_comes_back_from_arrow_json_and_pickle(
    plain: Schema, quantized: Any, analyzer: Any
) -> None:
    schema = replace(plain, dim=plain.dim * 8, quantized=quantized, analyzer=analyzer)
    arrow = pa.ipc.read_schema(pa.py_buffer(schema.to_arrow().serialize()))
    for again in (
        Schema.from_arrow(arrow), Schema.from_json(schema.to_json()), copy.deepcopy(schema),
        Schema.from_json(json.loads(schema.to_json())), pickle.loads(pickle.dumps(schema)),
    ):  # fmt: skip
        assert again == schema
        assert hash(again) == hash(schema)
        assert list(again.fields) == list(schema.fields)
        assert schema.differences(again) == []


def test_each_kind_has_its_arrow_type() -> None:
    schema = Schema(
        3,
        vector="vec",
        fields={
            "t": str, "i": Field(int, nullable=False), "f": float, "b": bool, "d": datetime,
            "l": list[str],
        },
    ).to_arrow()  # fmt: skip
    assert [(c.name, str(c.type), c.nullable) for c in schema][:-1] == [
        ("id", "string", False),
        ("vec", "fixed_size_list<item: float>[3]", False),
        ("t", "string", True),
        ("i", "int64", False),
        ("f", "double", True),
        ("b", "bool", True),
        ("d", "timestamp[us, tz=UTC]", True),
        ("l", "list<item: string>", True),
    ]
    assert schema.field("payload").type == pa.json_(pa.utf8())
    assert "payload" not in Schema(3, payload=False).to_arrow().names


def test_other_things_than_an_arrow_schema_of_aiovec_are_refused() -> None:
    for nothing in (5, None, "schema", Schema(3), pa.schema({"id": pa.utf8()})):
        with pytest.raises(InvalidArgumentError) as caught:
            Schema.from_arrow(nothing)
        assert caught.value.argument == "an Arrow schema"


def test_the_json_form_is_the_documented_one() -> None:
    schema = Schema(768, fields={"year": int, "body": Field(str, text=True)})
    assert schema.to_dict() == {
        "dim": 768, "metric": "cosine", "model": None, "vector": "embedding", "payload": True,
        "fields": {"year": "int", "body": {"type": "text", "text": True}},
    }  # fmt: skip
    kinds = ("text", "int", "float", "bool", "datetime", "list[text]", "list[int]", "list[float]")
    fields = {f"f{n}": kind for n, kind in enumerate(kinds)}
    read = Schema.from_json({"dim": 3, "fields": fields})
    assert [field.type for field in read.fields.values()] == list(TYPES)
    assert read.to_dict()["fields"] == fields


def test_json_that_is_no_schema_is_refused() -> None:
    wrong: Any
    for wrong in (
        "[" * 100_000, '{"a":' * 100_000, b"\xff", "[" + "1" * 5_000 + "]",
        "", "[]", "{}", "nonsense", '{"dim": "3"}', '{"dim": 3, "more": 1}',
        '{"dim": 3, "fields": []}', '{"dim": 3, "fields": {"a": "string"}}',
        '{"dim": 3, "fields": {"a": {"type": "text", "index": "hash"}}}',
        '{"dim": 3, "fields": {"a": {"type": "text", "more": 1}}}',
        '{"dim": 3, "fields": {"a": {"text": true}}}', '{"dim": 3, "metric": "cos"}',
        '{"dim": 3, "fields": {"a": null}}', '{"dim": 3, "payload": 1}', '{"dim": null}',
    ):  # fmt: skip
        with case(wrong), pytest.raises(InvalidArgumentError):
            Schema.from_json(wrong)


class Endless(dict[str, Any]):
    """Half a million keys, of which a few may be read."""

    def __len__(self) -> int:
        return 500_000

    def __iter__(self) -> Iterator[str]:
        yield "dim"
        yield from map(str, range(20))
        pytest.fail("all keys were read")


def test_a_schema_of_too_many_keys_is_refused_before_they_are_read() -> None:
    many = Endless(dim=3, type="text")
    for form, argument in (
        ({"dim": 3, "fields": many}, "fields"),
        (many, "a schema's keys"),
        ({"dim": 3, "fields": {"a": many}}, "a field's options"),
        ({"dim": 3, "fields": {"a": "text"}, "embed": many}, "embed"),
        ({"dim": 3, "embed": {"field": "a", "recipe": many}}, "recipe"),
    ):
        with case(argument), pytest.raises(InvalidArgumentError) as caught:
            Schema.from_json(form)
        assert caught.value.argument == argument
    with pytest.raises(InvalidArgumentError, match="at most 1,996 fields are allowed, not 500,000"):
        Schema(3, fields=many)


def test_bad_options_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"dim": 0}, "dim"), ({"dim": -1}, "dim"), ({"dim": 8193}, "dim"), ({"dim": 1.5}, "dim"),
        ({"dim": True}, "dim"), ({"dim": "3"}, "dim"), ({"metric": "euclid"}, "metric"),
        ({"model": ""}, "model"), ({"model": 5}, "model"), ({"payload": None}, "payload"),
        ({"model": "x" * 1_001}, "model"),
        ({"analyzer": "klingon"}, "analyzer"), ({"quantized": "int8"}, "quantized"),
        ({"dim": 12, "quantized": "bit"}, "dim"), ({"fields": ["a"]}, "fields"),
        ({"fields": {"a": bytes}}, "a field's type"),
        ({"fields": {"a": np.arange(2)}}, "a field's type"),
        ({"fields": {f"p{n}": Field(str, partition=True) for n in range(5)}}, "partition"),
    ]  # fmt: skip
    for options, argument in cases:
        with case(options), pytest.raises(InvalidArgumentError) as caught:
            Schema(**{"dim": 3, **options})
        assert caught.value.argument == argument


def test_bad_fields_are_refused() -> None:
    cases: list[tuple[Any, dict[str, Any]]] = [
        (bytes, {}), (dict, {}), (None, {}), ("string", {}), (list, {}), (list[bytes], {}),
        ([], {}), (list[int], {"index": "bitmap"}),
        (str, {"index": "hash"}), (str, {"nullable": 1}), (str, {"partition": "yes"}),
        (list[str], {"index": "btree"}), (float, {"partition": True}), (bool, {"partition": True}),
        (int, {"text": True}), (list[str], {"text": True}),
    ]  # fmt: skip
    for kind, options in cases:
        with case((kind, options)), pytest.raises(InvalidArgumentError):
            Field(kind, **options)


def test_a_schema_cannot_be_changed() -> None:
    fields = {"a": str}
    schema: Any = Schema(3, fields=fields)
    fields["b"] = str
    assert list(schema.fields) == ["a"]
    with pytest.raises(AttributeError):
        schema.dim = 4
    with pytest.raises(TypeError):
        schema.fields["b"] = Field(str)
    assert schema.with_field("b", Field(int)) == Schema(3, fields={"a": str, "b": int})
    for taken in ("a", "A", "id", "Payload", "embedding"):
        with pytest.raises(InvalidNameError):
            schema.with_field(taken, Field(int))


def test_differences_name_each_option_and_field() -> None:
    schema = Schema(3, fields={"a": str, "b": int})
    other = Schema(4, metric="l2", model="m", fields={"b": float, "c": str}, payload=False)
    listed = schema.differences(other)
    for word in ("dim", "metric", "model", "payload", "'a'", "'b'", "'c'"):
        assert any(word in difference for difference in listed), word
    assert schema.differences(Schema(3, fields={"b": int, "a": str})) == [
        "the fields are in another order"
    ]


def test_context_vectors_have_the_documented_fields() -> None:
    schema = Schema.context_vectors()
    assert schema.to_arrow().names == [
        "id", "embedding", "source_id", "source_type", "text_chunk", "created_at", "tags",
        "payload",
    ]  # fmt: skip
    assert (schema.dim, schema.metric, schema.vector) == (768, "cosine", "embedding")
    assert all(field == Field(str) for field in schema.fields.values())
