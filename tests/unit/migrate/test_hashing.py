"""Row hashes: equal rows have equal ones, and whatever differs is seen."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness import strategies as drawn
from tests.harness.cases import case
from tests.harness.values import EVERY_KIND, rows_of_every_kind

from aiovec import Schema
from aiovec._input.rows import Collected, to_batch
from aiovec.backend import UInt64Array
from aiovec_migrate.hashes import Hasher

BARE = Schema(1)

FEW = settings(max_examples=25)


def rows_of(rows: Sequence[Mapping[str, Any]], schema: Schema) -> pa.Table:
    return to_batch(Collected(rows), schema).table(schema)


def hashes(schema: Schema, rows: Sequence[Mapping[str, Any]], **options: Any) -> UInt64Array:
    return Hasher(schema, **options).rows(rows_of(list(rows), schema)).rows


def row(**values: Any) -> dict[str, Any]:
    return {"id": "x", "embedding": [1.0], **values}


def values_hash(schema: Schema, **values: Any) -> int:
    return int(hashes(schema, [row(**values)])[0])


def payload_hash(text: str | None) -> int:
    """Of JSON text just as it is, which no store would have made so."""
    table = rows_of([row()], BARE)
    column = pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), pa.array([text], pa.utf8()))
    return int(Hasher(BARE).rows(table.set_column(2, table.schema.field(2), column)).rows[0])


# What is equal


def test_the_place_of_a_row_does_not_change_its_hash() -> None:
    """In one batch or in parts, whole or a slice, in one chunk or in many."""
    rows = rows_of_every_kind(101)
    whole = rows_of(rows, EVERY_KIND).combine_chunks()
    expected = Hasher(EVERY_KIND).rows(whole)
    assert len(set(expected.rows.tolist())) == len(set(expected.ids.tolist())) == 101
    (batch,) = whole.to_batches()
    for start, length in ((0, 101), (1, 100), (3, 8), (9, 1), (50, 51), (100, 1)):
        part = Hasher(EVERY_KIND).rows(batch.slice(start, length))
        assert np.array_equal(part.rows, expected.rows[start : start + length])
        assert np.array_equal(part.ids, expected.ids[start : start + length])
    chunked = pa.concat_tables([whole.slice(n, 7) for n in range(0, 101, 7)])
    assert chunked.column("tags").num_chunks > 1
    assert np.array_equal(Hasher(EVERY_KIND).rows(chunked).rows, expected.rows)
    order = random.Random(1).sample(range(101), 101)
    shuffled = Hasher(EVERY_KIND).rows(whole.take(order))
    assert np.array_equal(shuffled.rows, expected.rows[order])


def test_the_arrow_type_of_text_does_not_change_a_hash() -> None:
    table = rows_of(rows_of_every_kind(30), EVERY_KIND)
    expected = Hasher(EVERY_KIND).rows(table).rows
    kinds: list[tuple[str, pa.DataType]] = [
        ("id", pa.large_utf8()),
        ("name", pa.large_utf8()),
        ("name", pa.dictionary(pa.int32(), pa.utf8())),
        ("tags", pa.list_(pa.large_utf8())),
        ("tags", pa.large_list(pa.utf8())),
    ]
    for name, kind in kinds:
        place = table.schema.get_field_index(name)
        other = table.column(name).combine_chunks()
        other = other.dictionary_encode() if pa.types.is_dictionary(kind) else other.cast(kind)
        changed = table.set_column(place, name, other)
        assert np.array_equal(Hasher(EVERY_KIND).rows(changed).rows, expected), kind


def test_a_value_below_a_null_does_not_change_a_hash() -> None:
    number = pa.array([1, 5], pa.int64()).buffers()[1]
    valid = pa.array([False, True]).buffers()[1]
    items, offsets = pa.array(["a", "b", "c"]), pa.array([0, 2, 3], pa.int32())
    hidden: dict[str, tuple[pa.Array, pa.Array]] = {
        "int": (
            pa.Array.from_buffers(pa.int64(), 2, [valid, number]), pa.array([None, 5], pa.int64()),
        ),
        "list[text]": (
            pa.ListArray.from_arrays(offsets, items, mask=pa.array([True, False])),
            pa.array([None, ["c"]], pa.list_(pa.utf8())),
        ),
    }  # fmt: skip
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1, 2], pa.float32()), 1)
    for kind, columns in hidden.items():
        hasher = Hasher(Schema(1, fields={"x": kind}, payload=False))
        one, other = (
            hasher.rows(pa.table({"id": ["x", "y"], "embedding": vectors, "x": column})).rows
            for column in columns
        )
        assert np.array_equal(one, other), kind


EQUAL: list[tuple[str, str | None]] = [
    ('{"a":1,"b":2}', '{"b":2,"a":1}'), ('{"a":1}', ' { "a" :\n1 } '),
    ('{"a":{"x":1,"y":[{"p":1,"q":2}]}}', '{"a":{"y":[{"q":2,"p":1}],"x":1}}'),
    ('{"é":"ü"}', '{"\\u00e9":"\\u00fc"}'), ('{"a":"/"}', '{"a":"\\/"}'),
    ('{"a":1e2}', '{"a":100.0}'), ('{"a":1e-05}', '{"a":0.00001}'), ('{"a":"{"}', '{"a" : "{"}'),
    ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'), ("{}", None), ("{ }", None),
]  # fmt: skip


def test_two_forms_of_a_json_value_have_one_hash() -> None:
    for one, other in EQUAL:
        with case((one, other)):
            assert payload_hash(one) == payload_hash(other)


def test_different_json_values_have_different_hashes() -> None:
    texts = [
        None,
        '{"a":null}', '{"a":0}', '{"a":0.0}', '{"a":-0.0}', '{"a":false}', '{"a":"0"}', '{"a":""}',
        '{"a":[]}', '{"a":{}}',
        '{"a":1}', '{"a":1.0}', '{"a":true}', '{"a":"1"}', '{"a":[1]}', '{"a":[1.0]}',
        '{"a":{"1":1}}', '{"a":[["b",1]]}', '{"a":{"b":1}}', '{"a":[[]]}', '{"a":[{}]}',
        '{"a":[1,2]}', '{"a":[2,1]}', '{"a":1,"b":2}', '{"a":2,"b":1}', '{"b":1}', '{"":1}',
        '{"a":9007199254740993}', '{"a":9007199254740992}', '{"a":9007199254740992.0}',
        '{"a":9223372036854775807}', '{"a":-9223372036854775808}', '{"a":5e-324}',
        '{"a":"\\u0000"}', '{"a":"\\u0000\\u0000"}', '{"a":"null"}', '{"a":"é"}',
        '{"a":"e\\u0301"}', '{"a"', "5", "not json", "[]", "",
    ]  # fmt: skip
    assert len({payload_hash(text) for text in texts}) == len(texts)


# What differs


def test_a_hash_without_the_vector_covers_all_else() -> None:
    rows = rows_of_every_kind(4)
    table = rows_of(rows, EVERY_KIND)
    moved = rows_of([{**each, "embedding": [1, 2, 3, 4]} for each in rows], EVERY_KIND)
    hasher = Hasher(EVERY_KIND, vector=False)
    expected = hasher.rows(table).rows
    assert np.array_equal(hasher.rows(moved).rows, expected)
    assert np.array_equal(hasher.rows(table.drop_columns(["embedding"])).rows, expected)
    assert not (Hasher(EVERY_KIND).rows(moved).rows == Hasher(EVERY_KIND).rows(table).rows).any()
    changed = rows_of([{**each, "name": "other"} for each in rows], EVERY_KIND)
    assert not (hasher.rows(changed).rows == expected).any()


def test_rows_that_look_alike_have_different_hashes() -> None:
    """Values that are easily confused, and texts across all widths to which they are padded."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    schema = Schema(
        1, fields={"n": int, "f": float, "on": bool, "at": datetime, "m": int, "a": str, "b": str}
    )
    ones: list[dict[str, Any]] = [
        {}, {"n": 0}, {"n": 1}, {"f": 0.0}, {"f": 1.0}, {"on": False}, {"on": True}, {"m": 0},
        {"m": 1}, {"at": epoch}, {"at": epoch.replace(microsecond=1)}, {"n": -(2**63)}, {"n": -1},
        {"n": 2**63 - 1}, {"n": 1, "m": 0}, {"n": 0, "m": 1}, {"f": 1e308}, {"f": -1e308},
        {"at": datetime.min.replace(tzinfo=UTC)}, {"at": datetime.max.replace(tzinfo=UTC)},
    ]  # fmt: skip
    lengths = [*range(1, 70), 95, 96, 97, 1023, 1024, 1025, 65_535, 65_536, 65_537, 131_072]
    ones += [{"a": letter * length} for length in lengths for letter in "a\0"]
    ones += [{"a": "a" * length + "b"} for length in lengths]
    ones += [{"a": "a" * 65_536 + "b" * 65_536}, {"a": "b" * 65_536 + "a" * 65_536}, {"a": ""}]
    # As ids and values count up.
    ones += [{"a": f"{n}"} for n in range(5_000)] + [{"n": n, "f": float(n)} for n in range(5_000)]
    together = hashes(schema, [row(**each) for each in ones])
    assert len(set(together.tolist())) == len(ones)
    for number in range(0, 300, 7):
        assert values_hash(schema, **ones[number]) == together[number]


texts = st.text(st.sampled_from("a\0é"), max_size=2)
few, items = st.none() | texts, st.lists(texts, max_size=3).map(tuple)
FEW_LETTERS = Schema(1, fields={"a": str, "tags": list[str], "b": str}, payload=False)


@FEW
@given(st.sets(st.tuples(few, st.none() | items, few), min_size=1))
def test_rows_with_texts_of_few_letters_have_different_hashes(made: set[tuple[Any, ...]]) -> None:
    """Nulls and empty values, and texts that moved to the next column or item."""
    rows = [row(a=a, tags=tags, b=b) for a, tags, b in made]
    assert len(set(hashes(FEW_LETTERS, rows).tolist())) == len(rows)


@FEW
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_each_flipped_bit_of_a_vector_changes_the_hash(dim: int, seed: int) -> None:
    """One bit at each place, and the signs of any two numbers, of which all differ."""
    rng = np.random.default_rng(seed)
    bits = rng.standard_normal(dim).astype(np.float32).view(np.uint32)
    one, other = np.tril_indices(dim)
    flips = np.zeros((len(one) + 33, dim), np.uint32)
    flips[np.arange(len(one)), one] = 2**31
    flips[np.arange(len(one)), other] = 2**31
    flips[len(one) + np.arange(32), rng.integers(dim, size=32)] = 1 << np.arange(32)
    variants = np.unique(np.vstack([flips ^ bits, bits ^ np.uint32(2**31)]), axis=0)
    flat = pa.array(variants.reshape(-1).view(np.float32))
    vectors = pa.FixedSizeListArray.from_arrays(flat, dim)
    table = pa.table({"id": ["x"] * len(variants), "embedding": vectors})
    hashed = Hasher(Schema(dim, payload=False)).rows(table).rows
    assert len(set(hashed.tolist())) == len(variants)


@FEW
@given(st.data())
def test_rows_are_the_same_exactly_where_their_hashes_are(data: st.DataObject) -> None:
    """Any schema, any two rows; one of them may have the keys of its payload in another order."""
    schema = data.draw(drawn.schemas())
    one = data.draw(drawn.good_rows(schema))
    other = data.draw(st.one_of(drawn.good_rows(schema), st.just(dict(reversed(one.items())))))
    tables = [rows_of([each], schema) for each in (one, other)]
    hashed = [int(Hasher(schema).rows(table).rows[0]) for table in tables]
    assert (hashed[0] == hashed[1]) == (_plain(tables[0]) == _plain(tables[1]))


def _plain(table: pa.Table) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        whole = column.combine_chunks()
        if pa.types.is_fixed_size_list(whole.type):
            values[name] = whole.flatten().to_numpy().tobytes()
        elif pa.types.is_timestamp(whole.type):
            values[name] = whole.cast(pa.int64()).to_pylist()
        elif name == "payload" and not whole.null_count:
            # With the type of each number, and the sign of each zero.
            values[name] = json.dumps(json.loads(whole.to_pylist()[0]), sort_keys=True)
        else:
            values[name] = whole.to_pylist()
    return values
