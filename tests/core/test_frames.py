"""Frames of pandas and Polars, in and out, with the real libraries."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import case

from aiovec import InvalidRowError, Record, Schema, VectorStore

pytestmark = pytest.mark.slow

pd: Any
pl: Any

DIM = 2
SCHEMA = Schema(
    DIM,
    fields={
        "name": str, "year": int, "score": float, "live": bool, "seen": datetime, "tags": list[str]
    },
)  # fmt: skip
MOMENT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
VECTORS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
IDS = ["a", "b", "c"]


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    """Load them for these tests alone: it takes as long as many tests of others."""
    global pd, pl
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")


@pytest.fixture
async def notes(store: VectorStore) -> VectorStore:
    await store.create_table("t", SCHEMA)
    return store


# Both kinds of frames have these columns, and hold the gaps in their own ways.
COLUMNS: dict[str, list[Any]] = {
    "name": ["x", None, "größer als zwölf Bytes"], "year": [1, None, 3], "score": [0.5, None, 1.5],
    "live": [True, None, False], "seen": [MOMENT, None, MOMENT], "tags": [["p", "q"], None, []],
    "extra": [1, None, 3],
}  # fmt: skip


def a_polars_frame() -> Any:
    return pl.DataFrame(
        {
            "id": IDS, **COLUMNS,
            "embedding": pl.Series(VECTORS, dtype=pl.Array(pl.Float32, DIM)),
            "year": pl.Series(COLUMNS["year"], dtype=pl.UInt16),
            "score": pl.Series(COLUMNS["score"], dtype=pl.Float32),
            "seen": pl.Series(COLUMNS["seen"], dtype=pl.Datetime("ns", "UTC")),
        }
    )  # fmt: skip


def a_pandas_frame() -> Any:
    return pd.DataFrame(
        {
            "id": IDS, "embedding": VECTORS, **COLUMNS,
            "year": [1.0, np.nan, 3.0], "score": [0.5, np.nan, 1.5],
            "seen": pd.to_datetime(COLUMNS["seen"]), "extra": pd.array([1, None, 3], dtype="Int64"),
        }
    )  # fmt: skip


EXPECTED = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]

FRAMES: dict[str, Callable[[], Any]] = {
    "polars": a_polars_frame,
    "polars in chunks": lambda: pl.concat(
        [a_polars_frame()[:1], a_polars_frame()[1:]], rechunk=False
    ),
    "polars with a categorical": lambda: a_polars_frame().with_columns(
        pl.col("name").cast(pl.Categorical)
    ),
    "polars with an enum": lambda: a_polars_frame().with_columns(
        pl.col("name").cast(pl.Enum(["x", "größer als zwölf Bytes"]))
    ),
    "polars with lists as vectors": lambda: a_polars_frame().with_columns(
        pl.col("embedding").cast(pl.List(pl.Float64))
    ),
    "a mapping of polars series": lambda: dict(
        zip(a_polars_frame().columns, a_polars_frame().get_columns(), strict=True)
    ),
    "several polars frames": lambda: iter([a_polars_frame()[:2], a_polars_frame()[2:]]),
    "pandas": a_pandas_frame,
    "pandas, filtered": lambda: pd.concat([a_pandas_frame()] * 2, ignore_index=True)[3:],
    "pandas with nullable dtypes": lambda: a_pandas_frame().convert_dtypes(),
    "pandas with Arrow's dtypes": lambda: a_pandas_frame().convert_dtypes(
        dtype_backend="pyarrow"
    ),
    "pandas with ndarrays": lambda: a_pandas_frame().assign(
        embedding=[np.array(v, dtype=np.float16) for v in VECTORS]
    ),
    "pandas with arrays of text, as from Parquet": lambda: a_pandas_frame().assign(
        tags=[np.array(["p", "q"]), None, np.array([], object)]
    ),
    "pandas in another zone and unit": lambda: a_pandas_frame().assign(
        seen=pd.to_datetime([MOMENT, None, MOMENT]).tz_convert("Asia/Kolkata").as_unit("ns")
    ),
    "a table made by pandas": lambda: pa.Table.from_pandas(a_pandas_frame()),
}  # fmt: skip


async def stored(store: VectorStore) -> list[dict[str, Any]]:
    records = await store.get("t", IDS)
    for record, vector in zip(records, VECTORS, strict=True):
        assert record.vector is not None
        assert record.vector.tolist() == vector
    return [dict(record.fields) for record in records]


async def test_frames_of_every_dtype_store_the_same_rows(notes: VectorStore) -> None:
    """Polars' lists and categoricals, pandas' gaps: each frame stores the same rows."""
    for name, make in FRAMES.items():
        with case(name):
            assert await notes.insert("t", make()) == 3
            assert await stored(notes) == EXPECTED
            await notes.delete("t", IDS)


async def test_columns_that_do_not_fit_name_the_row(notes: VectorStore) -> None:
    naive = datetime(2024, 1, 1)  # noqa: DTZ001 - what is tried
    large = pl.Series([1, 2, 2**64 - 1], dtype=pl.UInt64)
    for make, column, values, row, words in (
        (pl.DataFrame, "year", [1.0, 3.5, 3.0], 1, "whole number"),
        (pl.DataFrame, "year", large, 2, "64 bits"),
        (pl.DataFrame, "score", [decimal.Decimal("1.5")] * 3, 0, "must be a number"),
        (pl.DataFrame, "seen", [None, naive, naive], 1, r"pl\.col\('seen'\)\.dt\.replace_time"),
        (pl.DataFrame, "name", [1, 2, 3], 0, "must be text"),
        (pl.DataFrame, "tags", ["a", "b", "c"], 0, "must be a list"),
        (pd.DataFrame, "year", [1.0, np.nan, 3.5], 2, "whole number"),
        (pd.DataFrame, "seen", pd.to_datetime(["2024-01-01"] * 3), 0, "no time zone"),
        (pd.DataFrame, "extra", pd.to_datetime(["2024-01-01"] * 3), 0,
         r"^field 'extra' of row 0 \(id 'a'\): its .*df\['extra'\]\.dt\.tz_localize\('UTC'\)"),
        (pd.DataFrame, "score", [1.0, {}, 2.0], 1, "a number"),
        (pd.DataFrame, "extra", pd.period_range("2024-01", periods=3, freq="M"), None, "convert"),
    ):  # fmt: skip
        frame = make({"id": IDS, "embedding": VECTORS, column: values})
        with case((make, column)):
            with pytest.raises(InvalidRowError, match=words) as caught:
                await notes.insert("t", frame)
            assert caught.value.field == column
            assert row is None or caught.value.row == row


async def test_columns_of_times_as_text_are_read(notes: VectorStore) -> None:
    """A frame read from CSV or JSON has them so; each row may, and so may each column."""
    texts = ["2024-05-06T07:08:09Z", None, "2024-05-06t09:08:09+02:00"]
    for make in (pl.DataFrame, pd.DataFrame, pa.table):
        await notes.upsert("t", make({"id": IDS, "embedding": VECTORS, "seen": texts}))
        seen = [record["seen"] for record in await notes.get("t", IDS)]
        assert seen == [datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC), None, seen[0]]
        bad = make({"id": ["x"], "embedding": VECTORS[:1], "seen": ["2024-05-06T07:08:09"]})
        with pytest.raises(InvalidRowError, match=r"time zone.*\.replace\(tzinfo=UTC\)"):
            await notes.insert("t", bad)


async def test_columns_of_frames_are_queries_and_ids(notes: VectorStore) -> None:
    await notes.insert("t", a_polars_frame())
    frame, other = a_polars_frame(), a_pandas_frame()
    for query in (
        frame["embedding"][1], frame["embedding"].to_arrow()[1], np.array(VECTORS[1], np.float16),
        pd.Series(VECTORS[1]), pa.array(VECTORS[1]), other["embedding"][1],
    ):  # fmt: skip
        assert (await notes.search("t", query, limit=1))[0].id == "b"
    for queries in (frame["embedding"], other["embedding"], frame["embedding"].to_arrow()):
        results = await notes.search_many("t", queries, limit=1)
        assert [hits[0].id for hits in results] == IDS
    for ids in (
        frame["id"], other["id"], np.array(IDS), pa.array(IDS), pa.array(IDS, "string_view"),
    ):  # fmt: skip
        assert [record.id for record in await notes.get("t", ids)] == IDS


async def test_hits_and_records_become_frames(notes: VectorStore) -> None:
    await notes.insert("t", a_polars_frame().drop("extra"))
    names = ["id", *SCHEMA.fields]
    for rows in (await notes.find("t"), await notes.search("t", VECTORS[0])):
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
    frame = pl.DataFrame([record.to_dict() for record in await notes.get("t", IDS)])
    await notes.delete("t", where="TRUE")
    await notes.insert("t", frame)  # and back
    assert await notes.count("t") == 3
