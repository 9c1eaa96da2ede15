"""One span and one measurement for each call, without a user's data."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from tests.contract.base import case
from tests.docs.blocks import ROOT
from tests.telemetry.conftest import Metrics, Spans

import aiovec
import aiovec.sync
from aiovec import Embed, EmbeddingError, F, Field, FilterError, Schema, VectorStore

SCHEMA = Schema(3, fields={"year": int, "body": Field(str, text=True)})
ROWS: list[dict[str, Any]] = [
    {"id": f"r{number}", "embedding": [number + 1, 1, 0], "year": 2020 + number, "body": "word"}
    for number in range(5)
]
VECTOR = [1.0, 0.0, 0.0]
HERE = trace.get_tracer("a test")

Call = Callable[[VectorStore], Awaitable[Any]]


async def exported(store: VectorStore, **options: Any) -> list[Any]:
    return [batch async for batch in store.export("notes", batch_size=2, **options)]


# Calls, each with the number of its rows, or None.
CALLS: dict[str, tuple[Call, int | None]] = {
    "tables": (lambda s: s.tables(), None),
    "backup": (lambda s: s.backup("SECRET-path.db"), None),
    "add_field": (lambda s: s.add_field("notes", "kind", str), None),
    "rename_table": (lambda s: s.rename_table("notes", "other"), None),
    "insert": (lambda s: s.insert("notes", [{"id": n, "embedding": VECTOR} for n in "xyz"]), 3),
    "update": (lambda s: s.update("notes", {"year": 1}, where=F.year > 2021), 3),
    "delete": (lambda s: s.delete("notes", ["r1", "x"]), 1),
    "get": (lambda s: s.get("notes", ["r1", "r2", "x"]), 2),
    "count": (lambda s: s.count("notes"), None),
    "distinct": (lambda s: s.distinct("notes", "year", limit=2), 2),
    "export": (exported, 5),
    "search": (lambda s: s.search("notes", VECTOR, limit=2, where="year > 2020"), 2),
    "search_many": (lambda s: s.search_many("notes", [VECTOR] * 3, limit=2), 6),
    "search_hybrid": (lambda s: s.search_hybrid("notes", "word", VECTOR, limit=4), 4),
    "create_index": (lambda s: s.create_index("notes"), None),
}


@pytest.fixture
async def notes(tmp_path: Path, spans: Spans) -> AsyncIterator[VectorStore]:
    """Yield a store with five rows in the table ``notes``."""
    async with aiovec.connect(tmp_path / "store.db") as opened:
        await opened.create_table("notes", SCHEMA)
        await opened.insert("notes", ROWS)
        spans.forget()
        yield opened


def place(store: VectorStore) -> dict[str, str]:
    return {"db.system.name": "sqlite", "db.namespace": store.target}


def test_the_docs_list_every_attribute() -> None:
    page = (ROOT / "docs/how-to/telemetry.md").read_text(encoding="utf-8")
    part = page.partition("\n## Spans\n")[2].partition("\n## ")[0]
    known = {f"db.{fact}" for fact in ("system.name", "namespace", "operation.name")}
    known |= {"db.collection.name", "aiovec.rows", "error.type", "aiovec.cancelled"}
    assert set(re.findall(r"^\| `([\w.]+)` \|", part, re.MULTILINE)) == known


async def test_each_call_makes_its_span_and_is_timed(
    tmp_path: Path, spans: Spans, measured: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (call, rows) in CALLS.items():
        with case(name):
            async with aiovec.connect(tmp_path / f"{name}.db") as store:
                await store.create_table("notes", SCHEMA)
                await store.insert("notes", ROWS)
                spans.forget()
                with HERE.start_as_current_span("caller") as caller:
                    with contextlib.suppress(aiovec.UnsupportedError):
                        await call(store)
                    assert trace.get_current_span() is caller
                (span,) = spans.from_aiovec()
                expected: dict[str, Any] = {**place(store), "db.operation.name": name}
                labels = dict(expected)
                if rows is not None:
                    expected["aiovec.rows"] = rows
                if name not in ("tables", "backup"):
                    expected["db.collection.name"] = "notes"
                if name == "create_index":
                    expected["error.type"] = "UnsupportedError"
                assert dict(span.attributes or {}) == expected
                assert span.name == (f"{name} notes" if "db.collection.name" in expected else name)
                assert span.kind is SpanKind.CLIENT
                assert span.parent == caller.get_span_context()
                assert not span.events
                (duration,) = measured.points("db.client.operation.duration", **labels)
                assert duration.count == 1 + (name == "insert")
                filled = len(ROWS) if name == "insert" else 0  # by the fixture
                points = measured.points("aiovec.rows", **labels)
                assert [point.sum for point in points] == [] if rows is None else [rows + filled]


async def test_a_failed_call_records_only_the_class_of_its_error(
    notes: VectorStore, spans: Spans, measured: Metrics
) -> None:
    calls: list[tuple[Call, type[Exception]]] = [
        (lambda s: s.insert("notes", ROWS), aiovec.DuplicateIdError),
        (lambda s: s.count("absent"), aiovec.TableNotFoundError),
        (lambda s: s.count("notes", "nothing = 'SECRET'"), FilterError),
        (lambda s: exported(s, where="year ~ 'SECRET'"), FilterError),
    ]
    for call, error in calls:
        spans.forget()
        with case(error), pytest.raises(error):
            await call(notes)
        span = spans.only()
        assert (span.attributes or {})["error.type"] == error.__name__
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert not span.events
        assert measured.points(
            "db.client.operation.duration", **{**place(notes), "error.type": error.__name__}
        )
    spans.forget()
    await notes.drop_table("absent", missing_ok=True)  # an expected error inside the call
    assert spans.only().status.status_code is StatusCode.UNSET


async def test_calls_that_reach_no_backend_make_no_span(notes: VectorStore, spans: Spans) -> None:
    with pytest.raises(aiovec.InvalidNameError):
        await notes.search_hybrid("SECRET name", "word", VECTOR)
    with pytest.raises(aiovec.InvalidNameError):
        await anext(notes.export("SECRET name"))
    with pytest.raises(aiovec.InvalidArgumentError):
        await notes.search("notes", VECTOR, limit=0)
    await notes.close()
    for call in (notes.ping(), notes.search_hybrid("notes", "word", VECTOR), exported(notes)):
        with pytest.raises(aiovec.StoreClosedError):
            await call
    assert spans.from_aiovec() == []


def test_calls_without_await_are_children_of_their_caller(tmp_path: Path, spans: Spans) -> None:
    with aiovec.sync.connect(tmp_path / "store.db") as store:
        store.create_table("notes", Schema(3))
        with HERE.start_as_current_span("caller") as caller:
            store.search("notes", VECTOR)
    parents = {span.name: span.parent for span in spans.from_aiovec()}
    assert parents["search notes"] == caller.get_span_context()


async def test_an_export_lasts_as_long_as_its_iteration(
    notes: VectorStore, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """This holds even if the iteration ends early."""
    with HERE.start_as_current_span("caller") as caller:
        batches = notes.export("notes", batch_size=2)
        for _ in range(3):
            await anext(batches)
            assert trace.get_current_span() is caller
            assert spans.from_aiovec() == []
        assert await anext(batches, None) is None
    assert spans.only().parent == caller.get_span_context()
    spans.forget()
    async with contextlib.aclosing(notes.export("notes", batch_size=2)) as batches:  # type: ignore[type-var]
        await anext(batches)
    attributes = spans.only().attributes or {}
    assert attributes["aiovec.rows"] == 2
    assert "aiovec.cancelled" not in attributes
    assert caplog.records == []


# Embedding


class Letters:
    """An embedder of a text's length, which hangs on the text ``wait`` and fails on ``bad``."""

    model, dim = "a-model", 2

    def __init__(self) -> None:
        self.waiting = asyncio.Event()

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        if "wait" in texts:
            self.waiting.set()
            await asyncio.sleep(3600)
        if "bad" in texts:
            raise ValueError("a secret text")
        return [[1.0 + len(text), 1.0] for text in texts]


async def test_embedding_gets_a_span(tmp_path: Path, spans: Spans, measured: Metrics) -> None:
    letters = Letters()
    async with aiovec.connect(tmp_path / "n.db", embedders={"letters": letters}) as store:
        schema = Schema(2, fields={"body": str}, embed=Embed("body", using="letters"))
        await store.create_table("notes", schema)
        for call, texts in (
            (store.insert("notes", [{"id": id, "body": f"of {id}"} for id in "abc"]), 3),
            (store.search_many("notes", ["one", [1.0, 2.0], "two"]), 2),
        ):
            spans.forget()
            await call
            made, around = spans.from_aiovec()
            assert made.name == "embed notes"
            assert made.parent is not None
            assert made.parent.span_id == around.context.span_id
            assert dict(made.attributes or {}) == {
                **place(store), "db.operation.name": "embed", "db.collection.name": "notes",
                "aiovec.rows": texts,
            }  # fmt: skip
        own = {"db.namespace": store.target, "db.operation.name": "embed"}
        (took,) = measured.points("db.client.operation.duration", **own)
        assert took.count == 2
        spans.forget()
        await store.search("notes", [1.0, 2.0])  # a vector is not embedded
        assert spans.only().name == "search notes"
        spans.forget()
        with pytest.raises(EmbeddingError, match="a secret text"):
            await store.search("notes", "bad")
        for span in spans.from_aiovec():
            assert (span.attributes or {})["error.type"] == "EmbeddingError"
            assert span.status.description is None
            assert "secret" not in span.to_json()
        spans.forget()
        waiting = asyncio.ensure_future(store.search("notes", "wait"))
        await letters.waiting.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(spans.from_aiovec()) == 2
        for span in spans.from_aiovec():  # a cancelled call ends its span, and is no error
            assert (span.attributes or {})["aiovec.cancelled"] is True
            assert span.status.status_code is StatusCode.UNSET


# Data of users


async def test_no_span_and_no_metric_holds_a_users_data(
    tmp_path: Path, spans: Spans, measured: Metrics
) -> None:
    """They never contain a row, id, vector, filter or model, even if a call fails."""
    number = 73571357.0
    path = tmp_path / "store.db"
    async with aiovec.connect(path) as store:
        schema = Schema(
            3, model="SECRETmodel", fields={"title": str, "year": int}, metric="l2"
        )  # fmt: skip
        await store.create_table("notes", schema)
        rows = [
            {"id": "SECRETid", "embedding": [number, 0, 1], "title": "SECRETtitle",
             "SECRETkey": "SECRETvalue"},
            {"id": "SECRETother", "embedding": [number, 1, 1], "title": "SECRETtwo"},
        ]  # fmt: skip
        vector = [number, 0.0, 0.0]
        where = "title = 'SECRETtitle' AND year IS NULL"
        await store.insert("notes", rows)
        await store.upsert("notes", rows)
        await store.find("notes", where, select=["title", "payload.SECRETkey"])
        await store.search("notes", vector, where=where, model="SECRETmodel")
        _ = [batch async for batch in store.export("notes", where=where)]
        for failing in (
            store.insert("notes", rows),
            store.count("notes", "SECRETfield = 1"),
            store.count("notes", "title = 'SECRET"),
            store.search("notes", vector, model="SECRETwrong"),
            store.find("notes", order_by="SECRETorder"),
            store.update("notes", {"SECRETfield": object()}, where="TRUE"),
            store.drop_index("notes", "SECRETindex"),
            store.backup(tmp_path / "store.db"),
            store.upsert("notes", [{"id": "SECRETid", "embedding": "SECRETvector"}]),
        ):
            with pytest.raises(aiovec.AiovecError):
                await failing
        texts = [span.to_json() for span in spans.all()]
        texts += [metric.to_json() for metric in measured.all()]
    assert len(spans.from_aiovec()) >= 12
    for text in texts:
        assert "SECRET" not in text
        assert "73571357" not in text
