"""Results: lists that turn into tables of other libraries and show themselves in notebooks."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pydantic
import pytest

import aiovec
from aiovec import Counts, Hit, Record, Results, ResultsList, Schema, UnsupportedError, VectorStore

SCHEMA = Schema(2, fields={"year": int, "seen": datetime, "tags": list[str], "live": bool})
SEEN = datetime(2024, 1, 2, 3, 4, 5, 6, UTC)
ROWS: list[dict[str, Any]] = [
    {
        "id": "a", "embedding": [1.0, 0.0], "year": 2**53 + 1, "seen": SEEN, "tags": ["x", "y"],
        "live": True, "k": 1, "mixed": "text", "nested": {"deep": [1, {"x": None}]}, "only_a": 2.5,
    },
    {
        "id": "b", "embedding": [1.0, 1.0], "year": None, "seen": None, "tags": None,
        "live": None, "k": None, "mixed": 7, "nested": {},
    },
    {"id": "c", "embedding": [0.0, 1.0], "mixed": [True, "x"], "_score": "stored"},
]  # fmt: skip


def fetch(questions: Callable[[VectorStore], Awaitable[list[Results[Any]]]]) -> list[Results[Any]]:
    """Return the answers of a store with the rows; what converts them belongs on no event loop."""

    async def ask() -> list[Results[Any]]:
        async with aiovec.connect(":memory:") as store:
            await store.create_table("t", SCHEMA)
            await store.insert("t", ROWS)
            return await questions(store)

    return asyncio.run(ask())


async def answers(store: VectorStore) -> list[Results[Any]]:
    """An answer of each method that gives results."""
    return [
        await store.get("t", ["a", "b", "c"]),
        await store.find("t", order_by="id"),
        await store.search("t", [1.0, 0.0], include_vector=True),
        *await store.search_many("t", [[1.0, 0.0], [0.0, 1.0]], diversity=0.1),
        await store.search("t", [1.0, 0.0], rerank=lambda hits: [hit.score for hit in hits]),
        await store.search_like("t", "a"),
    ]


def test_every_answer_is_results() -> None:
    for results in fetch(answers):
        assert type(results) is Results
        assert isinstance(results, list)
        for part in (results[:2], results[::-1], results.copy(), copy.copy(results)):
            assert type(part) is Results
        assert results[0] is results[:1][0]
        again = pickle.loads(pickle.dumps(results))
        assert (type(again), again) == (Results, results)
        assert again.to_arrow() == results.to_arrow()


@pytest.mark.slow
def test_tables_have_the_values_of_the_rows() -> None:
    pytest.importorskip("pandas")
    polars_lib = pytest.importorskip("polars")
    for results in fetch(answers):
        rows = {row["id"]: row.to_dict() for row in results}
        arrow = results.to_arrow()
        pandas, polars = results.to_pandas(), results.to_polars()
        assert list(pandas.columns) == polars.columns == arrow.column_names
        assert arrow.column("id").to_pylist() == list(rows)
        assert polars["id"].to_list() == list(pandas["id"]) == list(rows)
        assert arrow.schema.field("seen").type == pa.timestamp("us", tz="UTC")
        if "embedding" in arrow.column_names:
            assert arrow.schema.field("embedding").type.value_type == pa.float32()
            assert polars.schema["embedding"].inner == polars_lib.Float32
        for values in (arrow.column("year").to_pylist(), polars["year"].to_list()):
            assert values == [row.get("year") for row in rows.values()]
        assert [int(year) for year in pandas["year"] if year is not None] == [
            row["year"] for row in rows.values() if row.get("year") is not None
        ]
        if isinstance(results[0], Hit):
            assert arrow.column_names[:3] == ["id", "_score", "_distance"]
            assert arrow.column("_score").to_pylist() == [hit.score for hit in results]
            assert "stored" in arrow.column("__score").to_pylist()
        mixed = dict(zip(rows, arrow.column("mixed").to_pylist(), strict=True))
        assert mixed["b"] == "7"
        assert mixed["c"] == '[true, "x"]'
        nested = dict(zip(rows, arrow.column("nested").to_pylist(), strict=True))
        assert nested.get("b") == "{}"


KINDS: list[tuple[list[Any], Any]] = [
    ([1.5, True], None), ([True, 1.5], None), ([1, True], None), ([[1.5], [True]], None),
    ([[{"a": 1}], [{"b": 2}]], None), ([[["x"]], [[1]]], None), ([2**53 + 1, 0.5], None),
    ([1, 2.5], pa.float64()), ([True, None], pa.bool_()), ([2**53 + 1, None], pa.int64()),
    ([[1], [2.5, None]], pa.list_(pa.float64())), ([[["x"]], [[], None]], None),
    ([[[1]], [[True]]], None), ([[[1]], [2]], None), ([None, None], None),
]  # fmt: skip


def test_values_of_a_payload_key_stay_what_they_are() -> None:
    """Arrow would take True for 1.0 after a float, and give objects each other's keys."""

    async def columns_of(store: VectorStore) -> list[Results[Any]]:
        every = []
        for values, _ in KINDS:
            rows = [{"id": f"{n}", "embedding": [1, n], "p": p} for n, p in enumerate(values)]
            await store.upsert("t", rows)
            every.append(await store.find("t", "id < 'a'", order_by="id", select=["payload.p"]))
        return every

    for (values, kind), results in zip(KINDS, fetch(columns_of), strict=True):
        column = results.to_arrow().column("p")
        if column.type == pa.utf8():
            assert [json.loads(text) for text in column.to_pylist()] == values
            assert [json.dumps(json.loads(text)) for text in column.to_pylist()] == [
                json.dumps(value) for value in values
            ]
        else:
            assert column.to_pylist() == values
        assert kind is None or column.type == kind


async def empty_answers(store: VectorStore) -> list[Results[Any]]:
    return [
        await store.get("t", []),
        await store.get("t", ["none"], select=["year"]),
        await store.find("t", "year = 1"),
        await store.find("t", "year = 1", select=["seen"]),
        await store.search("t", [1.0, 0.0], where="year = 1", select=["live"]),
        (await store.find("t"))[:0],
    ]


def test_no_rows_give_the_columns_that_were_asked_for() -> None:
    fields = list(SCHEMA.fields)
    names = [
        ["id", "embedding", *fields], ["id", "embedding", "year"], ["id", *fields], ["id", "seen"],
        ["id", "_score", "_distance", "live"], ["id", *fields], [],
    ]  # fmt: skip
    empty = [*fetch(empty_answers), Results[Record]()]
    for results, expected in zip(empty, names, strict=True):
        assert results == []
        assert results.to_arrow().column_names == expected
        assert "0 rows" in results._repr_html_()
    assert empty[3].to_arrow().schema.field("seen").type == pa.timestamp("us", tz="UTC")


class Reader(HTMLParser):
    """Keeps what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[Any] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "<script>alert(1)</script>", "</td></table><img src=x onerror=alert(1)>", '" onload="x',
    "<!--", "&lt;script&gt;", "' onclick='x", "\0<svg/onload=x>", "]]><b>", "x" * 100_000,
)  # fmt: skip


def test_a_notebook_runs_nothing_that_rows_hold() -> None:
    rows = [Hit(text[:500], 0.5, None, {text[:500]: text, "l": [text]}) for text in HOSTILE]
    page = Results(rows)._repr_html_()
    reader = Reader()
    reader.feed(page)
    assert reader.tags == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert reader.attributes == []
    assert "<script>alert(1)</script>" in reader.text
    assert len(page) < 50_000


@pytest.mark.slow
def test_a_notebook_shows_the_beginning_of_long_answers() -> None:
    rows = [Record(str(n), None, {f"f{k}": [0.5] * 400 for k in range(40)}) for n in range(500)]
    page = Results(rows)._repr_html_()
    assert page.count("<tr>") == 21
    assert "500 rows, 29 more columns" in page
    assert "400 values" in page


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, package, None)
        convert: Callable[[], object] = getattr(Results([Record("a")]), f"to_{package}")
        with pytest.raises(UnsupportedError, match=f"pip install {package}"):
            convert()


def test_the_results_of_several_queries_are_one_table() -> None:
    async def ask() -> tuple[aiovec.ResultsList, aiovec.ResultsList]:
        async with aiovec.connect(":memory:") as store:
            await store.create_table("t", SCHEMA)
            await store.insert("t", [{**row, "_query": "stored"} for row in ROWS])
            queries = [[1.0, 0.0], [0.0, 1.0]]
            return (
                await store.search_many("t", queries, limit=2),
                await store.search_many("t", queries, each_where=["year > 0", "FALSE"]),
            )

    answers, filtered = asyncio.run(ask())
    assert [len(results) for results in answers] == [2, 2]
    table = answers.to_arrow()
    assert table.column("_query").to_pylist() == [0, 0, 1, 1]
    assert table.column("__query").to_pylist() == ["stored"] * 4
    assert table.column("id").to_pylist() == [hit.id for results in answers for hit in results]
    assert table.column("_score").type == pa.float64()
    assert filtered.to_arrow().column("_query").to_pylist() == [0]
    assert aiovec.ResultsList().to_arrow().column_names == ["_query"]
    pytest.importorskip("pandas")
    assert list(answers.to_pandas().groupby("_query").size()) == [2, 2]


class Answer(pydantic.BaseModel):
    hits: Results[Hit]
    row: Record
    counts: Counts
    anything: Any


def test_pydantic_writes_rows_and_counts() -> None:
    """As FastAPI does, for routes with and without their types."""
    hit = Hit("b", 0.5, 1.0, {"year": 5}, np.ones(2, np.float32))
    row = Record("a", None, {"seen": SEEN})
    counts = Counts([(True, 1), (1, 2), ("x", 3), (1.5, 1), (SEEN, 1), ("1", 4)])
    every = [hit, row, counts, Results([hit]), ResultsList([Results([hit])])]
    answer = Answer(hits=Results([hit]), row=row, counts=counts, anything=every)
    assert (answer.row, answer.hits, answer.counts) == (row, [hit], counts)
    flat_hit = {"id": "b", "_score": 0.5, "_distance": 1.0, "embedding": [1.0, 1.0], "year": 5}
    flat_row = {"id": "a", "seen": "2024-01-02T03:04:05.000006Z"}
    flat = {"true": 1, "1": 6, "x": 3, "1.5": 1, "2024-01-02T03:04:05.000006Z": 1}
    assert counts.to_dict() == flat
    assert json.loads(answer.model_dump_json()) == {
        "hits": [flat_hit], "row": flat_row, "counts": flat,
        "anything": [flat_hit, flat_row, flat, [flat_hit], [[flat_hit]]],
    }  # fmt: skip
    shown = Answer.model_json_schema(mode="serialization")["properties"]
    assert [shown[name]["type"] for name in ("hits", "row", "counts")] == [
        "array", "object", "object",
    ]  # fmt: skip
    with pytest.raises(pydantic.ValidationError):
        Answer(hits=[hit], row=row, counts={}, anything=None)  # type: ignore[arg-type]
