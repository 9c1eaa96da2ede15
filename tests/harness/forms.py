"""Rows, vectors, ids and values in every form that users have, each with the value that the store
returns, and the values that it rejects."""

from __future__ import annotations

import array
import enum
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pydantic
from tests.harness.oracle import arrow_table
from tests.harness.values import DIM, EVERY_KIND, rows_of_every_kind, small_rows

from aiovec import Field, Hit, Record, Schema
from aiovec.errors import DimensionMismatchError, InvalidVectorError

Rows = list[dict[str, Any]]
GOOD = [1.0, 2.0, 3.0, 4.0]
NAN = float("nan")


class Stream:
    """A table of another library, which only offers Arrow's C stream."""

    def __init__(self, table: pa.Table, *, once: bool = False) -> None:
        self._table, self._once = table, once

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        table = self._table
        if self._once:  # like the result of a query
            self._table = table.slice(0, 0)
        return table.__arrow_c_stream__(requested_schema)


class Cursor:
    """An iterable that is not an iterator and can be read only once, like a database cursor."""

    def __init__(self, rows: Rows) -> None:
        self._left = iter(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._left


class Tensor:
    """A tensor that its library does not convert to NumPy, such as one with a gradient."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Any:
        raise self._error

    def __len__(self) -> int:
        return DIM


class _Inner(pydantic.BaseModel):
    number: int
    list: Any


class Model(pydantic.BaseModel):
    """A row with an alias, a nested model, and a field that is not exported."""

    model_config = pydantic.ConfigDict(
        populate_by_name=True, serialize_by_alias=True, arbitrary_types_allowed=True, extra="allow"
    )

    id: str = pydantic.Field(alias="ID")
    embedding: Any
    name: str | None = pydantic.Field(alias="called")
    nested: _Inner
    secret: str = pydantic.Field(default="hidden", exclude=True)


@dataclass(frozen=True, slots=True)
class _DataInner:
    number: int
    list: Any


_NAMES = [*rows_of_every_kind(1)[0]]
Data: Any = make_dataclass("Data", _NAMES)
Line: Any = NamedTuple("Line", [(name, Any) for name in _NAMES])  # type: ignore[misc]


def columns_of(rows: Rows) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _arrow(rows: Rows) -> pa.Table:
    return arrow_table(rows, EVERY_KIND)


def _batches(rows: Rows) -> list[pa.RecordBatch]:
    batches: list[pa.RecordBatch] = _arrow(rows).to_batches(max_chunksize=7)
    return batches


def _record(row: Mapping[str, Any]) -> Record:
    fields = {name: value for name, value in row.items() if name not in ("id", "embedding")}
    return Record(row["id"], row["embedding"], fields)


def _hit(row: Mapping[str, Any]) -> Hit:
    record = _record(row)
    return Hit(record.id, 0.5, 0.5, record.fields, record.vector, vector_name="other")


async def _one_by_one(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


# Forms of rows of ``EVERY_KIND``. The forms in ``READ_ONCE`` can be read only once.
ROWS: dict[str, Callable[[Rows], Any]] = {
    "list": lambda rows: rows,
    "tuple": tuple,
    "other mappings": lambda rows: [
        (MappingProxyType, OrderedDict)[n % 2](row) for n, row in enumerate(rows)
    ],
    "view of a dict": lambda rows: {row["id"]: row for row in rows}.values(),
    "records": lambda rows: list(map(_record, rows)),
    "hits": lambda rows: list(map(_hit, rows)),
    "models": lambda rows: [Model(**row) for row in rows],
    "dataclasses": lambda rows: [
        Data(**{**row, "nested": _DataInner(**row["nested"])}) for row in rows
    ],
    "named tuples": lambda rows: [Line(**row) for row in rows],
    "columns": columns_of,
    "columns with an array": lambda rows: (
        columns_of(rows) | {"embedding": np.stack([row["embedding"] for row in rows])}
    ),
    "columns of Arrow": lambda rows: (
        columns_of(rows)
        | {name: _arrow(rows).column(name) for name in ("id", "embedding", *EVERY_KIND.fields)}
    ),
    "table": _arrow,
    "batch": lambda rows: _arrow(rows).combine_chunks().to_batches()[0],
    "table in chunks": lambda rows: pa.Table.from_batches(_batches(rows)),
    "slice of a table": lambda rows: pa.concat_tables([_arrow(rows)] * 2).slice(
        len(rows) // 2, len(rows)
    ),
    "batches": _batches,
    "tables": lambda rows: [pa.Table.from_batches([batch]) for batch in _batches(rows)],
    "stream": lambda rows: Stream(_arrow(rows)),
}
READ_ONCE: dict[str, Callable[[Rows], Any]] = {
    "iterator": iter,
    "async iterator": _one_by_one,
    "iterator of records": lambda rows: map(_record, rows),
    "async iterator of records": lambda rows: _one_by_one(map(_record, rows)),
    "iterator of batches": lambda rows: iter(_batches(rows)),
    "async iterator of batches": lambda rows: _one_by_one(_batches(rows)),
    "reader": lambda rows: _arrow(rows).to_reader(max_chunksize=7),
    "cursor": Cursor,
    "stream": lambda rows: Stream(_arrow(rows), once=True),
    "iterator of streams": lambda rows: iter([Stream(_arrow(rows), once=True)]),
    "columns of iterators": lambda rows: {n: iter(c) for n, c in columns_of(rows).items()},
}
_ROW = small_rows(1, start=50)[0]
_MODEL = Model(**rows_of_every_kind(1)[0])
NO_ROWS: tuple[Any, ...] = (
    None, 7, "rows", b"rows", _ROW, _record(_ROW), _MODEL, Data(*_NAMES), Line(*_NAMES), [Model],
    [Data], [_ROW, "x"], [_ROW, None], [_ROW, object()], [_ROW, ("a", GOOD)], [_ROW.items()],
    [pydantic.RootModel[list[int]]([1])], [_arrow(rows_of_every_kind(2)), _ROW], {"id": ["x"]},
    {"id": ["x", "y"], "embedding": [GOOD]}, {"id": "x", "embedding": [GOOD]},
    {"id": ["x"], "embedding": [GOOD], "name": ["a", "b"]}, pa.table({"id": ["x"]}),
    np.array(1), {"id": np.array(1), "embedding": [GOOD]},
)  # fmt: skip

# Forms of a vector, made from an array of four whole numbers.
VECTORS: dict[str, Callable[[Any], Any]] = {
    "list": lambda v: v.tolist(),
    "tuple": lambda v: tuple(v.tolist()),
    "list of NumPy numbers": list,
    "float32": lambda v: v,
    "float64": lambda v: v.astype(np.float64),
    "float16": lambda v: v.astype(np.float16),
    "int32": lambda v: v.astype(np.int32),
    "uint8": lambda v: np.abs(v).astype(np.uint8),
    "big-endian": lambda v: v.astype(">f4"),
    "every second": lambda v: np.repeat(v, 2)[::2],
    "backwards": lambda v: v[::-1],
    "read-only": lambda v: np.frombuffer(v.tobytes(), dtype=np.float32),
    "masked nowhere": np.ma.masked_array,
    "array": lambda v: array.array("f", v.tolist()),
    "array of doubles": lambda v: array.array("d", v.tolist()),
    "memoryview": lambda v: memoryview(array.array("f", v.tolist())),
    "range": lambda v: range(1, 1 + len(v)),
    "Arrow array": lambda v: pa.array(v),
}
MATRICES: dict[str, Callable[[Any], Any]] = {
    "array": lambda pair: pair,
    "float64": lambda pair: pair.astype(float),
    "lists": lambda pair: pair.tolist(),
    "generator": iter,
    "Arrow lists": lambda pair: pa.array(pair.tolist()),
    "Arrow": lambda pair: pa.FixedSizeListArray.from_arrays(pa.array(pair.reshape(-1)), DIM),
}
_RELEASED = memoryview(array.array("f", GOOD))
_RELEASED.release()
# Vectors that a table with the metric "cosine" rejects, with the error and a part of its text.
BAD_VECTORS: dict[str, tuple[Any, type[Exception], str]] = {
    "too short": ([1.0], DimensionMismatchError, ""),
    "too long": ([1.0] * 5, DimensionMismatchError, ""),
    "NaN": ([1.0, NAN, 0, 0], InvalidVectorError, ""),
    "infinity": ([1.0, float("-inf"), 0, 0], InvalidVectorError, ""),
    "beyond float32": ([1e39, 0, 0, 0], InvalidVectorError, ""),
    "beyond 1e15": ([1.0, -2e15, 0, 0], InvalidVectorError, ""),
    "none that reaches 1e-15": ([1e-16, -1e-16, 0, 1e-300], InvalidVectorError, ""),
    "zero": ([0.0] * DIM, InvalidVectorError, ""),
    "text": ("abcd", InvalidVectorError, ""),
    "list of text": (["a"] * DIM, InvalidVectorError, ""),
    "null within": ([1.0, None, 0, 0], InvalidVectorError, ""),
    "null": (None, InvalidVectorError, ""),
    "booleans": ([True, False, True, True], InvalidVectorError, ""),
    "array of booleans": (np.array([True] * DIM), InvalidVectorError, ""),
    "nested": ([GOOD], InvalidVectorError, ""),
    "number": (1.0, InvalidVectorError, ""),
    "array of no dimension": (np.array(1.0), InvalidVectorError, ""),
    "masked": (np.ma.masked_array(GOOD, mask=[False, True, False, False]), InvalidVectorError,
               "masked"),
    # The library's own error is the cause, and its text says what to do.
    "with a gradient": (Tensor(RuntimeError("use detach()")), InvalidVectorError, r"detach\(\)"),
    "of bfloat16": (Tensor(TypeError("use cpu()")), InvalidVectorError, r"cpu\(\)"),
    "other tensor": (Tensor(KeyError("use float()")), InvalidVectorError, r"float\(\)"),
    "list of tensors": ([Tensor(RuntimeError("use detach()"))] * DIM, InvalidVectorError,
                        r"detach\(\)"),
    "released": (_RELEASED, InvalidVectorError, "not a flat sequence"),
}  # fmt: skip

_UUID = uuid.UUID("0190A8F0-0000-7000-8000-0000000000AB")
# NumPy treats a duration as an integer.
SPANS: list[Any] = [np.timedelta64(3, unit) for unit in ("ns", "us", "h", "D")]
# Ids, and the texts that the store returns for them.
IDS: dict[Any, str] = {
    7: "7", -3: "-3", _UUID: str(_UUID), np.int64(12): "12", 2**70: str(2**70), "text": "text",
    np.int8(8): "8",
}  # fmt: skip
# Ids that every call rejects, and ids that only writes reject, because no row can have them.
BAD_IDS: list[Any] = [True, np.True_, 7.0, None, b"1", [1], 10**6_000, "\ud800"]
NO_NEW_IDS: list[Any] = [
    *(id for id in BAD_IDS if id is not None),
    "",
    "x" * 513,
    "é" * 257,
    "a\0b",
    *SPANS,
]


class _Color(enum.Enum):
    RED = "red"


class _Level(enum.IntEnum):
    HIGH = 3


class _Odd(enum.Enum):
    LIST = frozenset((1,))
    SURROGATE = "\ud800"


_NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - the missing zone is the fault
MOMENT = datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
MOST = 2**53
# Schemas, each with the values of a valid row besides its id and its vector.
TABLES: dict[str, tuple[Schema, dict[str, Any]]] = {
    "every": (
        Schema(DIM, fields={**EVERY_KIND.fields, "nums": list[int], "weights": list[float]}),
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


def _same(*values: Any) -> list[tuple[Any, Any]]:
    return [(value, value) for value in values]


# Values by field, or by ``key`` of the payload, each with the value that the store returns.
VALUES: dict[str, list[tuple[Any, Any]]] = {
    "name": [*_same("a", None), (np.str_("x"), "x")],
    "year": [*_same(2**63 - 1, -(2**63)), (np.uint64(3), 3), (_Level.HIGH, 3)],
    # Whole numbers are exact up to 2**53; beyond that, a float may round them.
    "score": [
        *_same(0.1, None, -7.0), (0, 0.0), (MOST, float(MOST)), (np.int64(-MOST), -float(MOST)),
        (np.uint8(255), 255.0), (np.float32(0.5), 0.5),
    ],
    "live": [*_same(True, False), (np.True_, True)],
    "seen": [
        (MOMENT, MOMENT.astimezone(UTC)), ("2024-05-06T07:08:09Z", datetime(2024, 5, 6, 7, 8, 9,
                                                                            tzinfo=UTC)),
    ],
    "tags": [*_same(["a"], []), (("a", "b"), ["a", "b"]), (np.array(["a"], object), ["a"])],
    "nums": [
        *_same([1, -(2**63)], [], None, [2**63 - 1] * 3), ((7, 8), [7, 8]),
        (np.array([2**53 + 1]), [2**53 + 1]), ([np.longlong(5)], [5]),
        (np.array([], np.int64), []),
    ],
    "weights": [
        *_same([0.1, 1e300], [float("inf"), float("-inf")], [5e-324]), ([1, 2], [1.0, 2.0]),
        (np.array([1.0, 3.0]), [1.0, 3.0]), ([np.int64(-MOST)], [-float(MOST)]),
    ],
    "key": [
        (MOMENT, "2024-01-01T00:00:00.000000Z"), (date(2024, 1, 31), "2024-01-31"),
        (_UUID, str(_UUID)), (_Color.RED, "red"), (_Level.HIGH, 3), (np.int16(4), 4),
        (np.uintp(6), 6), (np.float32(0.5), 0.5), (np.float64(0.25), 0.25), (np.True_, True),
        (np.str_("x"), "x"), ((1, ("a", _Color.RED)), [1, ["a", "red"]]),
        (np.array(["a", "b"], object), ["a", "b"]), (np.array([[1], [2]]), [[1], [2]]),
        ({"a": [{"b": (np.int64(1), _UUID)}]}, {"a": [{"b": [1, str(_UUID)]}]}),
        # Parsers of YAML and XML return their own classes of dicts and lists.
        (OrderedDict(b=1, a=OrderedDict(c=[OrderedDict(d=2)])), {"b": 1, "a": {"c": [{"d": 2}]}}),
        (defaultdict(list, a=[1]), {"a": [1]}), (Counter("aab"), {"a": 2, "b": 1}),
        ([MOMENT], ["2024-01-01T00:00:00.000000Z"]),
    ],
}  # fmt: skip
# Rejected values by table and by field, payload key or ``id``. ``...`` means that it is missing.
BAD_VALUES: dict[str, dict[str, list[Any]]] = {
    "every": {
        "id": NO_NEW_IDS,
        "name": [1, "\ud800"],
        "year": ["1", 1.5, True, 2**63, *SPANS],
        "score": [NAN, MOST + 1, np.int64(MOST + 1), 10**22, 10**400, np.int64(-MOST - 1),
                  np.uint64(2**64 - 1), "1.5", *SPANS],
        "live": [1],
        "seen": [_NAIVE, "yesterday"],
        "tags": ["ab", [1], ["a", None]],
        "nums": [[1.5], ["1"], [None], [True], [2**63], 1, "1", [[1]], {1}, np.ones((1, 1)),
                 np.array(1), np.array([True]), *([span] for span in SPANS)],
        "weights": [[NAN], np.array([1.0, NAN]), ["1"], [None, 1.0], [10**400], [True], 0.5,
                    [0.5, np.uint64(2**64 - 1)], [1.5, MOST + 1]],
        "key": [
            b"x", [NAN], {1}, 2**64, {1: 1}, Decimal("1.5"), object(), time(1), np.array([b"x"]),
            _NAIVE, np.array(["2024-01-01"], "datetime64[ns]"), np.float64("nan"), timedelta(1),
            [np.datetime64("2024-01-01")], _Odd.LIST, 1j, {_Color.RED: 1}, uuid.UUID,
            np.uint64(2**64 - 1), "\ud800", _Odd.SURROGATE, {"q": {"\ud800": ["\ud800"]}}, *SPANS,
        ],
        "\ud800": [1],
    },
    "plain": {"b": [1]},
    "whole": {"a": [None, ...], "tags": [None, ...], "part": [None, ...]},
}  # fmt: skip

_FAR = 2**62
# Columns of two values in Arrow types close to the field's type, and the values that are returned.
COLUMNS: dict[str, list[tuple[pa.Array, list[Any]]]] = {
    "id": [(pa.array(["a", "b"], pa.large_string()), ["a", "b"])],
    "embedding": [(pa.array([GOOD] * 2, pa.list_(pa.float64())), [GOOD] * 2)],
    "name": [(pa.array(["n", "n"]).dictionary_encode(), ["n", "n"])],
    "year": [(pa.array([7, None], pa.uint8()), [7, None])],
    "score": [(pa.array([1, 2], pa.int16()), [1.0, 2.0])],
    "live": [(pa.nulls(2), [None, None])],
    "seen": [(pa.array([MOMENT, None], pa.timestamp("s", tz="Europe/Berlin")), [MOMENT, None])],
    "tags": [(pa.array([["a"], []], pa.large_list(pa.large_string())), [["a"], []])],
    "nums": [(pa.array([[1.0, 2.0], None], pa.list_(pa.float64())), [[1, 2], None])],
    "weights": [(pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), [[1.0, 2.0], [3.0, 4.0]])],
    "extra": [(pa.array([{"x": 1}, None]), [{"x": 1}, None])],
    "uid": [(pa.array([_UUID.bytes, None], pa.uuid()), [str(_UUID), None])],
}
# Columns in which no value fits the field, or the second value does not.
BAD_COLUMNS: dict[str, list[pa.Array]] = {
    "name": [pa.array(["a", "b"]).cast(pa.binary()), pa.array([1, 2])],
    "year": [pa.array([1, 1.5])],
    "score": [pa.array(["1", "1"])],
    "live": [pa.array([1, 1])],
    "seen": [
        pa.array([None, 0], pa.timestamp("us")),
        pa.array([None, _FAR], pa.timestamp("us", tz="UTC")),  # out of range for Python
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
