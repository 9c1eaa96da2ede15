"""Frames of other libraries, and the objects that apps hold rows in, with the real libraries."""

from __future__ import annotations

import decimal
import enum
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest

import aiovec
from aiovec import Hit, InvalidRowError, InvalidVectorError, Record, Schema, VectorStore

DIM = 2
SCHEMA = Schema(
    DIM,
    fields={
        "name": str, "year": int, "score": float, "live": bool, "seen": datetime, "tags": list[str]
    },
)  # fmt: skip
MOMENT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=2))
VECTORS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
IDS = ["a", "b", "c"]


@pytest.fixture(params=["sqlite", "lancedb"])
async def store(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    prefix = "lancedb://" if request.param == "lancedb" else ""
    target = tmp_path / ("n.lance" if prefix else "n.db")
    async with aiovec.connect(f"{prefix}{target}") as opened:
        await opened.create_table("t", SCHEMA)
        yield opened


def a_polars_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": IDS,
            "embedding": pl.Series(VECTORS, dtype=pl.Array(pl.Float32, DIM)),
            "name": ["x", None, "größer als zwölf Bytes"],
            "year": pl.Series([1, None, 3], dtype=pl.UInt16),
            "score": pl.Series([0.5, None, 1.5], dtype=pl.Float32),
            "live": [True, None, False],
            "seen": pl.Series([MOMENT, None, MOMENT], dtype=pl.Datetime("ns", "UTC")),
            "tags": [["p", "q"], None, []],
            "extra": [1, None, 3],
        }
    )


def a_pandas_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": IDS,
            "embedding": VECTORS,
            "name": ["x", None, "größer als zwölf Bytes"],
            "year": [1.0, np.nan, 3.0],
            "score": [0.5, np.nan, 1.5],
            "live": [True, None, False],
            "seen": pd.to_datetime([MOMENT, None, MOMENT]),
            "tags": [["p", "q"], None, []],
            "extra": pd.array([1, None, 3], dtype="Int64"),
        }
    )


EXPECTED = [
    {"name": "x", "year": 1, "score": 0.5, "live": True, "seen": MOMENT, "tags": ["p", "q"],
     "extra": 1},
    {"name": None, "year": None, "score": None, "live": None, "seen": None, "tags": None,
     "extra": None},
    {"name": "größer als zwölf Bytes", "year": 3, "score": 1.5, "live": False, "seen": MOMENT,
     "tags": [], "extra": 3},
]  # fmt: skip

FRAMES: dict[str, Callable[[], Any]] = {
    "polars": a_polars_frame,
    "polars in chunks": lambda: pl.concat(
        [a_polars_frame()[:1], a_polars_frame()[1:]], rechunk=False
    ),
    "polars, sliced": lambda: pl.concat([a_polars_frame(), a_polars_frame()])[3:],
    "polars with a categorical": lambda: a_polars_frame().with_columns(
        pl.col("name").cast(pl.Categorical)
    ),
    "polars with an enum": lambda: a_polars_frame().with_columns(
        pl.col("name").cast(pl.Enum(["x", "größer als zwölf Bytes"]))
    ),
    "polars with lists of categoricals": lambda: a_polars_frame().with_columns(
        pl.col("tags").cast(pl.List(pl.Categorical))
    ),
    "polars with lists as vectors": lambda: a_polars_frame().with_columns(
        pl.col("embedding").cast(pl.List(pl.Float64))
    ),
    "polars with whole floats": lambda: a_polars_frame().with_columns(
        pl.col("year").cast(pl.Float64)
    ),
    "polars in another zone": lambda: a_polars_frame().with_columns(
        pl.col("seen").dt.convert_time_zone("Europe/Berlin")
    ),
    "a mapping of polars series": lambda: dict(
        zip(a_polars_frame().columns, a_polars_frame().get_columns(), strict=True)
    ),
    "rows of polars": lambda: a_polars_frame().to_dicts(),
    "several polars frames": lambda: iter([a_polars_frame()[:2], a_polars_frame()[2:]]),
    "pandas": a_pandas_frame,
    "several pandas frames": lambda: iter([a_pandas_frame()[:2], a_pandas_frame()[2:]]),
    "pandas, filtered": lambda: pd.concat([a_pandas_frame()] * 2, ignore_index=True)[3:],
    "pandas with the id as its index": lambda: a_pandas_frame().set_index("id"),
    "pandas with a categorical": lambda: a_pandas_frame().astype({"name": "category"}),
    "pandas with nullable dtypes": lambda: a_pandas_frame().convert_dtypes(),
    "pandas with Arrow's dtypes": lambda: a_pandas_frame().convert_dtypes(
        dtype_backend="pyarrow"
    ),
    "pandas with objects": lambda: a_pandas_frame().astype(object),
    "pandas with ndarrays": lambda: a_pandas_frame().assign(
        embedding=[np.array(v, dtype=np.float16) for v in VECTORS]
    ),
    "pandas in another zone and unit": lambda: a_pandas_frame().assign(
        seen=pd.to_datetime([MOMENT, None, MOMENT]).tz_convert("Asia/Kolkata").as_unit("ns")
    ),
    "a mapping of pandas series": lambda: dict(a_pandas_frame().items()),
    "a table made by pandas": lambda: pa.Table.from_pandas(a_pandas_frame()),
    "NumPy's arrays": lambda: {
        "id": np.array(IDS), "embedding": np.array(VECTORS, dtype=np.float64),
        "name": np.array([row["name"] for row in EXPECTED], dtype=object),
        **{key: [row[key] for row in EXPECTED]
           for key in ("year", "score", "live", "seen", "tags", "extra")},
    },
}  # fmt: skip


async def stored(store: VectorStore) -> list[dict[str, Any]]:
    records = await store.get("t", IDS)
    for record, vector in zip(records, VECTORS, strict=True):
        assert record.vector is not None
        assert record.vector.tolist() == vector
    return [dict(record.fields) for record in records]


async def test_frames_of_every_dtype(store: VectorStore) -> None:
    """B22: Polars' lists and categoricals, pandas' gaps: each frame stores the same rows."""
    for name, make in FRAMES.items():
        frame = make()
        try:
            assert await store.insert("t", frame) == 3
            assert await stored(store) == EXPECTED
        except BaseException as exc:
            exc.add_note(f"in the case {name!r}")
            raise
        await store.delete("t", IDS)


@pytest.mark.parametrize(
    ("column", "values", "row", "words"),
    [
        ("year", [1.0, 3.5, 3.0], 1, "whole number"),
        ("year", pl.Series([1, 2, 2**64 - 1], dtype=pl.UInt64), 2, "18446744073709551615"),
        ("year", [decimal.Decimal(1)] * 3, 0, "decimal"),
        ("score", [decimal.Decimal("1.5")] * 3, 0, "convert decimals"),
        ("seen", [datetime(2024, 1, 1)] * 3, 0, "no time zone"),  # noqa: DTZ001 - what is tried
        ("name", [1, 2, 3], 0, "field text"),
        ("live", [1, 0, 1], 0, "field bool"),
        ("tags", ["a", "b", "c"], 0, "field list"),
    ],
)
async def test_columns_that_do_not_fit_name_the_row(
    store: VectorStore, column: str, values: Any, row: int, words: str
) -> None:
    frame = pl.DataFrame({"id": IDS, "embedding": VECTORS, column: values})
    with pytest.raises(InvalidRowError, match=words) as caught:
        await store.insert("t", frame)
    assert (caught.value.field, caught.value.row, caught.value.id) in {
        (column, row, IDS[row]), (column, row, None)
    }  # fmt: skip


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame, pa.table])
async def test_times_as_text(store: VectorStore, make: Any) -> None:
    """A frame read from CSV or JSON has them so; each row may, and so may each column."""
    texts = ["2024-05-06T07:08:09Z", None, "2024-05-06t09:08:09+02:00"]
    vectors = [list(map(float, vector)) for vector in VECTORS]
    await store.insert("t", make({"id": IDS, "embedding": vectors, "seen": texts}))
    seen = [record["seen"] for record in await store.get("t", IDS)]
    assert seen == [datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC), None, seen[0]]
    bad = make({"id": ["x"], "embedding": vectors[:1], "seen": ["2024-05-06T07:08:09"]})
    with pytest.raises(InvalidRowError, match=r"time zone.*\.replace\(tzinfo=UTC\)"):
        await store.insert("t", bad)


@pytest.mark.parametrize(
    ("column", "values", "row", "words"),
    [
        ("year", [1.0, np.nan, 3.5], 2, "whole number"),
        ("year", ["1", "2", "3"], 0, "the field int"),
        ("seen", pd.to_datetime(["2024-01-01"] * 3), 0, "no time zone"),
        ("extra", pd.to_datetime(["2024-01-01"] * 3), 0, "not JSON"),
        ("extra", [decimal.Decimal(1)] * 3, 0, "not JSON"),
        ("score", [1.0, {}, 2.0], 1, "a number"),
    ],
)
async def test_pandas_columns_that_do_not_fit(
    store: VectorStore, column: str, values: Any, row: int | None, words: str
) -> None:
    frame = pd.DataFrame({"id": IDS, "embedding": VECTORS, column: values})
    with pytest.raises(InvalidRowError, match=words) as caught:
        await store.insert("t", frame)
    assert caught.value.field == column
    assert caught.value.row == row


async def test_odd_frames_are_refused(store: VectorStore) -> None:
    frame = a_pandas_frame()
    doubled = pd.concat([frame, frame[["name"]]], axis=1)
    wrong: Any
    for wrong in (
        doubled,
        frame.rename(columns={"name": 5}),
        frame.assign(id=[1.5, 2.5, 3.5]),
        a_polars_frame().drop("embedding"),
        a_polars_frame().lazy(),
        frame["name"],
        pl.DataFrame(),
        pd.DataFrame(),
    ):
        with pytest.raises(InvalidRowError):
            await store.insert("t", wrong)
    with pytest.raises(InvalidVectorError) as caught:
        await store.insert("t", frame.assign(embedding=[VECTORS[0], None, VECTORS[1]]))
    assert (caught.value.row, caught.value.id) == (1, "b")
    assert await store.count("t") == 0
    assert await store.insert("t", a_polars_frame()[:0]) == 0


async def test_queries_and_ids_of_other_libraries(store: VectorStore) -> None:
    await store.insert("t", a_polars_frame())
    frame, other = a_polars_frame(), a_pandas_frame()
    for query in (
        frame["embedding"][1], frame["embedding"].to_arrow()[1], np.array(VECTORS[1], np.float16),
        pd.Series(VECTORS[1]), pa.array(VECTORS[1]), other["embedding"][1],
    ):  # fmt: skip
        assert (await store.search("t", query, limit=1))[0].id == "b"
    for queries in (frame["embedding"], other["embedding"], frame["embedding"].to_arrow()):
        found = await store.search_many("t", queries, limit=1)
        assert [hits[0].id for hits in found] == IDS
    for ids in (
        frame["id"],
        other["id"],
        np.array(IDS),
        pa.array(IDS),
        pa.array(IDS, "string_view"),
    ):
        assert [record.id for record in await store.get("t", ids)] == IDS


# Objects that apps hold rows in


class Kind(enum.StrEnum):
    NOTE = "note"


class Inner(pydantic.BaseModel):
    x: int


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = pydantic.Field(alias="ID")
    embedding: list[float]
    year: int | None = pydantic.Field(default=None, alias="publishedIn")
    seen: datetime | None = None
    tags: list[str] = pydantic.Field(default_factory=list)
    inner: Inner | None = None
    secret: str = pydantic.Field(default="hidden", exclude=True)


class WithArray(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="allow")

    id: str
    embedding: np.ndarray


@dataclass(frozen=True, slots=True)
class DataInner:
    x: int


@dataclass
class Data:
    id: str
    embedding: Any
    year: int | None = None
    seen: datetime | None = None
    tags: list[str] = field(default_factory=list)
    inner: DataInner | None = None


class Tuple(NamedTuple):
    id: str
    embedding: Any
    year: int | None = None


OBJECTS: dict[str, Callable[[], list[Any]]] = {
    "pydantic": lambda: [
        Model(id="a", embedding=[1, 2], year=5, seen=MOMENT.astimezone(BERLIN), tags=["t"],
              inner=Inner(x=1)),
        Model.model_validate({"ID": "b", "embedding": [3, 4]}),
    ],
    "dataclasses": lambda: [
        Data("a", np.array([1, 2.0]), 5, MOMENT, ["t"], DataInner(1)), Data("b", [3, 4]),
    ],
}  # fmt: skip


async def test_models_and_dataclasses_are_rows(store: VectorStore) -> None:
    """B22."""
    for name, make in OBJECTS.items():
        for rows in (make(), iter(make()), tuple(make())):
            assert await store.insert("t", rows) == 2, name
            first, second = await store.get("t", ["a", "b"])
            assert first.fields == {
                "name": None, "year": 5, "score": None, "live": None, "seen": MOMENT,
                "tags": ["t"], "inner": {"x": 1},
            }  # fmt: skip
            assert (second["year"], second["tags"], second["inner"]) == (None, [], None)
            assert "secret" not in first
            await store.delete("t", ["a", "b"])


async def test_other_objects_that_are_rows(store: VectorStore) -> None:
    plain = namedtuple("plain", "id embedding year")
    frame = a_pandas_frame()
    for rows in (
        [Tuple("a", [1, 2], 5), Tuple("b", VECTORS[1])],
        [plain("a", [1, 2], 5), plain("b", (3, 4), None)],
        frame[["id", "embedding"]].itertuples(index=False),
        [WithArray(id="a", embedding=np.ones(2), note="kept")],
        [Hit("a", 0.5, 0.5, {"year": 5}, np.ones(2, np.float32), vector_name="other")],
        [Record("a", np.ones(2, np.float32), {"year": 5})],
    ):
        await store.upsert("t", rows)
        assert "a" in {record.id for record in await store.find("t")}
        await store.delete_where("t", "TRUE")


async def test_objects_that_are_no_rows(store: VectorStore) -> None:
    good = Model(id="a", embedding=[1, 2])

    class Root(pydantic.RootModel[list[int]]):
        pass

    wrong: Any
    for wrong in (
        good, Data("a", [1, 2]), Tuple("a", [1, 2]), [Model], [Data], [good, object()],
        [Root([1])], [good, ("a", [1, 2])], [{"id": "a"}.items()],
    ):  # fmt: skip
        with pytest.raises(InvalidRowError):
            await store.insert("t", wrong)
    for bad in (Model(id="", embedding=[1, 2]), Data(id="b", embedding=[1, 2], year=True)):
        with pytest.raises(InvalidRowError) as caught:
            await store.insert("t", [good, bad])
        assert caught.value.row == 1
    assert await store.count("t") == 0


# What comes out


async def test_hits_and_records_become_frames(store: VectorStore) -> None:
    """B22: a frame of hits showed the names of their fields."""
    await store.insert("t", a_polars_frame().drop("extra"))
    names = ["id", *SCHEMA.fields]
    for rows in (await store.find("t"), await store.search("t", VECTORS[0])):
        ids = [row.id for row in rows]
        for frame in (pd.DataFrame(rows), pl.DataFrame(rows)):
            assert list(frame.columns) == names
            assert list(frame["id"]) == ids
            tags = [None if tags is None else list(tags) for tags in frame["tags"]]
            assert tags == [row["tags"] for row in rows]
        flat = [row.to_dict() for row in rows]
        scored = names if isinstance(rows[0], Record) else ["id", "_score", "_distance", *names[1:]]
        for frame in (pd.DataFrame(flat), pl.DataFrame(flat)):
            assert list(frame.columns) == scored
    frame = pl.DataFrame([record.to_dict() for record in await store.get("t", IDS)])
    await store.delete_where("t", "TRUE")
    await store.insert("t", frame)  # and back
    assert await store.count("t") == 3
