"""Rows, updates and vectors that are refused whole, with row and field."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Awaitable, Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import case, filled
from tests.harness.oracle import arrow_table
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    rows_of_every_kind,
    small_rows,
    vectors,
)

from aiovec import REMOVE, F, Field, Record, Schema, VectorStore
from aiovec.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    InvalidVectorError,
    ModelMismatchError,
    TableNotFoundError,
)

GOOD = [1.0, 2.0, 3.0, 4.0]

BAD_VECTORS: dict[str, tuple[Any, type[Exception]]] = {
    "too short": ([1.0], DimensionMismatchError),
    "too long": ([1.0] * 5, DimensionMismatchError),
    "NaN": ([1.0, float("nan"), 0, 0], InvalidVectorError),
    "infinity": ([1.0, float("-inf"), 0, 0], InvalidVectorError),
    "beyond float32": ([1e39, 0, 0, 0], InvalidVectorError),
    "zero under cosine": ([0.0] * DIM, InvalidVectorError),
    "text": ("abcd", InvalidVectorError),
    "list of text": (["a"] * DIM, InvalidVectorError),
    "a null within": ([1.0, None, 0, 0], InvalidVectorError),
    "null": (None, InvalidVectorError),
    "booleans": ([True, False, True, True], InvalidVectorError),
    "an array of booleans": (np.array([True] * DIM), InvalidVectorError),
    "nested": ([[1.0, 2, 3, 4]], InvalidVectorError),
    "a number": (1.0, InvalidVectorError),
    "an array of no dimension": (np.array(1.0), InvalidVectorError),
}


class _Color(enum.Enum):
    RED = "red"


class _Level(enum.IntEnum):
    HIGH = 3


class _Odd(enum.Enum):
    LIST = frozenset((1,))
    SURROGATE = "\ud800"


# Tables, with what a good row has beside its id and its vector.
TABLES: dict[str, tuple[Schema, dict[str, Any]]] = {
    "every": (
        Schema(
            DIM, fields={**EVERY_KIND.fields, "nums": list[int], "weights": list[float]},
        ),
        {"year": 1},
    ),
    "plain": (Schema(DIM, fields={"a": str}, payload=False), {"a": "y"}),
    "whole": (
        Schema(
            DIM,
            fields={
                "a": Field(str, nullable=False), "tags": Field(list[str], nullable=False),
                "part": Field(int, partition=True, nullable=False),
            },
        ),
        {"a": "", "tags": [], "part": 0},
    ),
}  # fmt: skip
NAN = float("nan")
# A duration counts as an integer for NumPy.
_SPANS: list[Any] = [np.timedelta64(3, unit) for unit in ("ns", "us", "h", "D")]
# Values of a field, of the payload's key ``key``, or of the id, that no good row can have.
BAD_VALUES: dict[str, dict[str, list[Any]]] = {
    "every": {
        "id": [7.0, True, None, "", "x" * 513, "é" * 257, "a\0b", "\ud800", *_SPANS],
        "name": [1, "\ud800"],
        "year": ["1", 1.5, True, 2**63, *_SPANS],
        "score": [NAN, 2**53 + 1, 10**400, np.int64(-(2**53) - 1), np.uint64(2**64 - 1), "1.5",
                  *_SPANS],
        "live": [1],
        "seen": [datetime(2024, 1, 1), "yesterday"],  # noqa: DTZ001 - the missing zone is the fault
        "tags": ["ab", [1], ["a", None]],
        "nums": [[1.5], ["1"], [None], [True], [2**63], 1, "1", [[1]], {1}, np.ones((1, 1)),
                 np.array(1), np.array([True]), *([span] for span in _SPANS)],
        "weights": [[NAN], np.array([1.0, NAN]), ["1"], [None, 1.0], [10**400], [True], 0.5,
                    [0.5, np.uint64(2**64 - 1)]],
        "key": [
            b"x", [NAN], {1}, 2**64, {1: 1}, Decimal("1.5"), object(), time(1), np.array([b"x"]),
            datetime(2024, 1, 1),  # noqa: DTZ001 - the missing zone is the fault
            np.array(["2024-01-01"], "datetime64[ns]"), np.float64("nan"), timedelta(1),
            [np.datetime64("2024-01-01")], _Odd.LIST, 1j, {_Color.RED: 1}, uuid.UUID,
            np.uint64(2**64 - 1), "\ud800", _Odd.SURROGATE, {"q": {"\ud800": ["\ud800"]}}, *_SPANS,
        ],
        "\ud800": [1],
    },
    "plain": {"b": [1]},
    "whole": {"a": [None, ...], "tags": [None, ...], "part": [None, ...]},
}  # fmt: skip


def _changed(good: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A row with this value; without the name where it is ``...``."""
    return {key: one for key, one in {**good, name: value}.items() if one is not ...}


@pytest.mark.parametrize("kind", TABLES)
async def test_a_bad_row_in_the_middle_keeps_nothing(store: VectorStore, kind: str) -> None:
    """The error names the row, its id where there is one, and the field that is wrong."""
    schema, values = TABLES[kind]
    good = [{"id": f"r{n}", "embedding": GOOD, **values} for n in range(10)]
    await filled(store, schema, good[:3])
    before = await store.find("notes", include_vector=True)
    faults = [
        ("embedding", vector, error)
        for vector, error in BAD_VECTORS.values() if kind == "every"
    ] + [
        (name, value, InvalidRowError) for name, wrong in BAD_VALUES[kind].items()
        for value in wrong
    ]  # fmt: skip
    for name, value, error in faults:
        row = _changed({"id": "bad", "embedding": GOOD, **values}, name, value)
        with case((name, value)):
            for write in (store.insert, store.upsert):
                with pytest.raises(error) as caught:
                    await write("notes", [*good[3:8], row, *good[8:]])
                assert isinstance(caught.value, ValueError)
                facts = vars(caught.value)
                assert facts["row"] == 5
                assert facts["id"] == row["id"] or not isinstance(row["id"], str)
                if error is InvalidRowError:
                    assert facts["field"] == name
            if name not in ("id", "embedding") and value is not ...:
                with pytest.raises(InvalidRowError) as caught:
                    await store.update("notes", {**values, name: value}, where="TRUE")
                assert caught.value.field == name
            assert await store.find("notes", include_vector=True) == before


async def test_whole_numbers_in_fields_of_floats(store: VectorStore) -> None:
    """They are kept as they are; beyond 2**53, where a float may round them, they are refused."""
    schema = Schema(DIM, fields={"score": float, "scores": list[float]})
    await store.create_table("notes", schema)
    kept = [0, -7, 2**53, np.int64(-(2**53)), np.uint8(255), 0.1, None]
    rows = [
        {
            "id": f"{n}",
            "embedding": GOOD,
            "score": value,
            "scores": None if value is None else [value],
        }
        for n, value in enumerate(kept)
    ]
    await store.insert("notes", rows)
    found = await store.find("notes", order_by="id")
    assert [row["score"] for row in found] == kept
    assert [row["scores"] for row in found] == [None if v is None else [v] for v in kept]
    before = await store.find("notes")
    for number in (2**53 + 1, np.int64(2**53 + 1), 10**22, 10**400):
        changes: list[dict[str, Any]] = [{"score": number}, {"scores": [1.5, number]}]
        for change in changes:
            with case(change), pytest.raises(InvalidRowError) as caught:
                await store.update("notes", change, ids="1")
            assert caught.value.field in change
    assert await store.find("notes") == before


async def test_every_row_is_meant_only_where_that_is_said(notes: VectorStore) -> None:
    """B23: a forgotten ``where`` changes nothing."""
    before = await notes.find("notes")
    everything: Any = None
    with pytest.raises(InvalidArgumentError, match="'TRUE'"):
        await notes.update("notes", {"name": "x"})
    with pytest.raises(InvalidArgumentError, match="'TRUE'"):
        await notes.table("notes").update({"name": "x"}, ids=None, where=None)
    with pytest.raises(InvalidArgumentError, match="'TRUE'"):
        await notes.delete("notes", where=everything)
    assert await notes.update("notes", {"name": "x"}, ids=[]) == 0
    assert await notes.find("notes") == before


async def test_a_bad_update_changes_nothing(notes: VectorStore) -> None:
    before = await notes.find("notes")
    for field, value in {"id": "other", "embedding": GOOD}.items():
        with pytest.raises(InvalidRowError) as caught:
            await notes.update("notes", {"name": "ok", field: value}, where="TRUE")
        assert caught.value.field == field
        assert ("set_vectors" in str(caught.value)) == (field == "embedding")
    wrong: Any
    for wrong in ({}, None, [("name", "x")], dict.fromkeys(map(str, range(10_001)))):
        with pytest.raises(InvalidArgumentError):
            await notes.update("notes", wrong, where="TRUE")
    assert await notes.find("notes") == before


async def test_lone_surrogates_are_refused(notes: VectorStore) -> None:
    """Such text has no UTF-8."""
    bad = "x\ud800"
    before = await notes.find("notes")
    json = {"id": ["new"], "embedding": [[1.0] * DIM], "payload": ['{"a":"\\ud800"}']}
    with pytest.raises(InvalidRowError):
        await notes.upsert("notes", pa.table(json))
    filters: tuple[Callable[[], Any], ...] = (
        lambda: F.name == bad, lambda: F.name.in_(["a", bad]), lambda: F.name.like(f"{bad}%"),
        lambda: F.payload[bad] == 1, lambda: f"name = '{bad}'", lambda: f'payload."{bad}" = 1',
    )  # fmt: skip
    for number, where in enumerate(filters):
        with case(number), pytest.raises(FilterError):
            await notes.delete("notes", where=where())
    calls: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: notes.get("notes", bad), lambda: notes.delete("notes", ["a", bad]),
        lambda: notes.find("notes", order_by=bad), lambda: notes.find("notes", select=[bad]),
        lambda: notes.add_field("notes", bad, Field(str)), lambda: notes.create_table(bad),
    )  # fmt: skip
    for number, call in enumerate(calls):
        with case(number), pytest.raises((InvalidArgumentError, InvalidNameError)):
            await call()
    assert await notes.find("notes") == before


_FAR = 2**62
ARROW: dict[str, list[pa.Array]] = {
    "name": [pa.array(["a", "b"]).cast(pa.binary()), pa.array([1, 2])],
    "year": [pa.array([1, 1.5])],
    "score": [pa.array(["1", "1"])],
    "live": [pa.array([1, 1])],
    "seen": [
        pa.array([None, 0], pa.timestamp("us")),
        pa.array([None, _FAR], pa.timestamp("us", tz="UTC")),  # which Python cannot hold
        pa.array([None, -_FAR], pa.timestamp("us", tz="UTC")),
    ],
    "tags": [pa.array([[1], [1]])],
    "nums": [
        pa.array([[1], [1.5]], pa.list_(pa.float64())), pa.array([["1"], ["1"]]),
        pa.array([[1], [2**64 - 1]], pa.list_(pa.uint64())), pa.array([[True], [True]]),
        pa.array([1, 2]),
    ],
    "weights": [pa.array([[1.0], [NAN]]), pa.array([[1.0], [None]])],
    "payload": [
        pa.array([None, text])
        for text in ("[1]", '{"a": 1, "a": 2}', '{"a": [{"b": 1, "b": 2}]}')
    ],
    "id": [pa.array([1.5, 2.5])],
}  # fmt: skip


async def test_arrow_columns_that_do_not_fit(store: VectorStore) -> None:
    await store.create_table("notes", TABLES["every"][0])
    good = {"id": pa.array(["a", "b"]), "embedding": pa.array([GOOD] * 2)}
    for name, columns in ARROW.items():
        for column in columns:
            with case((name, column)):
                with pytest.raises(InvalidRowError) as caught:
                    await store.insert("notes", pa.table({**good, name: column}))
                assert caught.value.field == name
                if column[0].as_py() is None:
                    assert (caught.value.row, caught.value.id) == (1, "b")
    twice = {**good, "payload": [None, '{"k": 1}'], "k": [1, 2]}
    with pytest.raises(InvalidRowError) as caught:
        await store.insert("notes", pa.table(twice))
    assert (caught.value.field, caught.value.id) == ("k", "b")
    assert await store.count("notes") == 0


async def test_what_is_no_rows_is_refused(notes: VectorStore) -> None:
    good = small_rows(1, start=50)[0]
    wrong: Any
    for wrong in (
        None,
        7,
        "rows",
        b"rows",
        good,
        Record("x", vectors(1)[0]),
        [good, "x"],
        [good, None],
        [arrow_table(rows_of_every_kind(2), EVERY_KIND), good],
        {"id": ["x"]},
        {"id": ["x", "y"], "embedding": vectors(1)},
        {"id": ["x"], "embedding": vectors(1), "name": ["a", "b"]},
        {"id": "x", "embedding": vectors(1)},
        pa.table({"id": ["x"]}),
        pa.table({"id": [1.5], "embedding": [[1.0] * DIM]}),
    ):
        with case(wrong), pytest.raises(InvalidRowError):
            await notes.insert("notes", wrong)
    assert await notes.count("notes") == 10


async def test_duplicates_across_batches_are_found(notes: VectorStore) -> None:
    table = arrow_table(small_rows(4, start=50), SMALL)
    with pytest.raises(DuplicateIdError) as caught:
        await notes.insert("notes", [table, table.slice(2, 1)])
    assert caught.value.ids == ["r0052"]
    assert await notes.upsert("notes", [table, table.slice(2, 1)]) == 4


async def test_set_vectors_checks_as_insert_does(store: VectorStore) -> None:
    schema = Schema(DIM, model="m", fields={"year": int})
    await filled(store, schema, [{"id": "a", "embedding": [1.0, 0, 0, 0]}])
    good = [1.0, 2.0, 3.0, 4.0]
    for name, (vector, error) in BAD_VECTORS.items():
        with case(name):
            with pytest.raises(error) as caught:
                await store.set_vectors("notes", ["x", "a"], [good, vector])
            assert (vars(caught.value)["row"], vars(caught.value)["id"]) == (1, "a")
    for given in ([good], [good] * 3, good, 7, "text", {"a": good}):
        with case(given), pytest.raises((InvalidArgumentError, InvalidVectorError)):
            await store.set_vectors("notes", ["x", "a"], given)  # type: ignore[arg-type]  # bad
    for ids in (None, b"ab", {"a": 1}, ["a", None], ["a", b"b"]):
        with case(ids), pytest.raises(InvalidArgumentError):
            await store.set_vectors("notes", ids, [good, good])  # type: ignore[arg-type]  # bad
    with pytest.raises(ModelMismatchError):
        await store.set_vectors("notes", ["a"], [good], model="other")
    with pytest.raises(TableNotFoundError):
        await store.set_vectors("absent", ["a"], [good])
    (record,) = await store.get("notes", "a")
    assert record.vector is not None
    assert record.vector.tolist() == [1.0, 0, 0, 0]
    assert await store.set_vectors("notes", ["a"], [good], model="m") == 1


async def test_bad_parts_of_the_payload(store: VectorStore) -> None:
    await filled(store, SMALL, [{"id": "1", "embedding": [1.0] * DIM, "a": 1}])
    bad: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"payload.": 1}, InvalidNameError),
        ({"payload.a..b": 1}, InvalidNameError),
        ({'payload."a': 1}, InvalidNameError),
        ({'payload.a"b': 1}, InvalidNameError),
        ({"payload.\ud800": 1}, InvalidNameError),
        ({"payload.a": 1, "a": 2}, InvalidRowError),
        ({"payload.a.b": 1, "payload.a": 2}, InvalidRowError),
        ({"payload.a": REMOVE, "payload.a.b.c": 2}, InvalidRowError),
        ({"payload.year": 1}, InvalidRowError),
        ({"payload.id": "x"}, InvalidRowError),
        ({"payload.embedding": [1]}, InvalidRowError),
        ({"year": REMOVE}, InvalidRowError),
        ({"id": REMOVE}, InvalidRowError),
        ({"payload.a": {1}}, InvalidRowError),
        ({"payload.a": float("nan")}, InvalidRowError),
        ({"payload.a": {"b": REMOVE}}, InvalidRowError),
        ({"payload." + ".".join("a" * 150): 1}, InvalidNameError),
    ]
    for change, error in bad:
        with case(change), pytest.raises(error):
            await store.update("notes", change, where="TRUE")
    with pytest.raises(InvalidRowError):
        await store.insert("notes", [{"id": "2", "embedding": [1.0] * DIM, "a": REMOVE}])
    (record,) = await store.find("notes")
    assert record["a"] == 1
    await store.create_table("plain", Schema(DIM, payload=False, fields={"year": int}))
    for change in ({"payload.a": 1}, {"payload.a.b": REMOVE}, {"a": REMOVE}):
        with case(change), pytest.raises(InvalidRowError):
            await store.update("plain", change, where="TRUE")


async def test_values_of_the_payload_that_stand_for_others(store: VectorStore) -> None:
    await store.create_table("notes", SMALL)
    one = uuid.UUID(int=5)
    zone = timezone(timedelta(hours=2))
    values: dict[str, tuple[Any, Any]] = {
        "moment": (datetime(2024, 1, 1, 2, tzinfo=zone), "2024-01-01T00:00:00.000000Z"),
        "day": (date(2024, 1, 31), "2024-01-31"),
        "uuid": (one, str(one)),
        "enum": (_Color.RED, "red"),
        "int enum": (_Level.HIGH, 3),
        "int": (np.int16(4), 4),
        "float": (np.float32(0.5), 0.5),
        "float64": (np.float64(0.25), 0.25),
        "flag": (np.True_, True),
        "text": (np.str_("x"), "x"),
        "tuple": ((1, ("a", _Color.RED)), [1, ["a", "red"]]),
        "array": (np.array(["a", "b"], object), ["a", "b"]),
        "matrix": (np.array([[1], [2]]), [[1], [2]]),
        "nested": ({"a": [{"b": (np.int64(1), one)}]}, {"a": [{"b": [1, str(one)]}]}),
    }
    row: dict[str, Any] = {key: given for key, (given, _) in values.items()}
    await store.insert("notes", [{"id": "1", "embedding": [1.0] * DIM, **row}])
    await store.insert("notes", [{"id": "2", "embedding": [1.0] * DIM}])
    await store.update("notes", row, ids="2")
    for record in await store.get("notes", ["1", "2"]):
        for key, (_, kept) in values.items():
            assert record[key] == kept, key
            assert type(record[key]) is type(kept), key
    for key in ("moment", "day", "uuid", "enum", "int enum", "int", "float", "flag", "text"):
        with case(key):
            assert await store.count("notes", F.payload[key] == row[key]) == 2
            assert await store.count("notes", F.payload[key].in_([row[key]])) == 2
            assert await store.count("notes", F.payload[key] != row[key]) == 0
    moment_of = F.payload["moment"]
    second = timedelta(microseconds=1)
    for later in (second, 500_000 * second, timedelta(days=400)):
        moment = row["moment"]
        assert await store.count("notes", moment_of < moment + later) == 2
        assert await store.count("notes", moment_of > moment - later) == 2
        assert await store.count("notes", moment_of >= moment + later) == 0


async def test_bad_queries_are_refused(notes: VectorStore) -> None:
    for name, (vector, error) in BAD_VECTORS.items():
        with case(name):
            with pytest.raises(error) as one:
                await notes.search("notes", vector)
            with pytest.raises(error) as many:
                await notes.search_many("notes", [vectors(1)[0], vector])
            for caught in (one.value, many.value):
                assert isinstance(caught, ValueError)
                if isinstance(caught, DimensionMismatchError):
                    assert (caught.expected, caught.given) == (DIM, len(vector))


async def test_rows_whose_id_has_another_name_are_refused(store: VectorStore) -> None:
    """Otherwise each upsert of the same rows would add them again."""
    await store.create_table("notes", Schema(DIM))
    values = {"embedding": [1.0] * DIM, "year": 2024}
    columns: dict[str, Any] = {name: [value] for name, value in values.items()}
    for name in ("ID", "_id", "Id"):
        forms: dict[str, Any] = {
            "row": [{name: "a", **values}],
            "second row": [{"id": "x", **values}, {name: "a", **values}],
            "columns": {name: ["a"], **columns},
            "arrow": pa.table({name: ["a"], **columns}),
        }
        for form, rows in forms.items():
            for call in (store.insert, store.upsert, store.create_table):
                table = "new" if call == store.create_table else "notes"
                with case((name, form)):
                    with pytest.raises(InvalidRowError, match="rename it") as caught:
                        await call(table, rows)
                    assert caught.value.field == name
        assert await store.tables() == ["notes"]
        # Beside an id it is a key as any other.
        assert await store.upsert("notes", [{"id": name, name: 5, **values}]) == 1
        assert (await store.get("notes", name))[0][name] == 5
    assert await store.count("notes") == 3
    assert await store.upsert("notes", [{"uid": 5, **values}]) == 1
