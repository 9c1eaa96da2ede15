"""Spans: one for each call, with what the conventions ask for and nothing that is a user's."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from tests.telemetry.able_backend import AbleBackend
from tests.telemetry.conftest import Metrics, Spans
from tests.waiting import until

import aiovec
import aiovec.sync
from aiovec import (
    DuplicateIdError,
    F,
    Field,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    Schema,
    StoreBusyError,
    StoreClosedError,
    TableNotFoundError,
    VectorStore,
)
from aiovec.backend import RetrievalSettings

ROWS: list[dict[str, Any]] = [
    {"id": f"r{number}", "embedding": [number + 1, 1, 0], "year": 2020 + number}
    for number in range(5)
]
VECTOR = [1.0, 0.0, 0.0]
PLACE = {"db.system.name": "toy", "db.namespace": "toy://***@host/path?***"}
HERE = trace.get_tracer("a test")

Call = Callable[[VectorStore], Awaitable[Any]]


@pytest.fixture
async def able(spans: Spans) -> AsyncIterator[VectorStore]:
    """A store with every ability and five rows in the table ``notes``."""
    async with VectorStore(AbleBackend(), RetrievalSettings()) as opened:
        await opened.create_table(
            "notes", Schema(3, fields={"year": int, "body": Field(str, text=True)})
        )
        await opened.insert("notes", ROWS)
        spans.forget()
        yield opened


async def exported(store: VectorStore, **options: Any) -> list[Any]:
    return [batch async for batch in store.export("notes", batch_size=2, **options)]


# The call, and the attributes of its span beside place, operation and table.
CALLS: dict[str, tuple[Call, dict[str, Any]]] = {
    "ping": (lambda s: s.ping(), {}),
    "create_table": (lambda s: s.create_table("notes", exist_ok=False), {}),
    "add_field": (lambda s: s.add_field("notes", "kind", str), {}),
    "create_field_index": (lambda s: s.create_field_index("notes", "year", "btree"), {}),
    "drop_field_index": (lambda s: s.drop_field_index("notes", "year"), {}),
    "drop_field": (lambda s: s.drop_field("notes", "year"), {}),
    "rename_field": (lambda s: s.rename_field("notes", "year", "SECRET"), {}),
    "rename_table": (lambda s: s.rename_table("notes", "other"), {}),
    "drop_table": (lambda s: s.drop_table("notes"), {}),
    "tables": (lambda s: s.tables(), {}),
    "schema": (lambda s: s.schema("notes"), {}),
    "insert": (
        lambda s: s.insert("notes", [{"id": n, "embedding": VECTOR} for n in "xyz"]),
        {"db.operation.batch.size": 3, "aiovec.affected_rows": 3},
    ),
    "upsert": (
        lambda s: s.upsert("notes", [{"id": "r1", "embedding": VECTOR}]),
        {"aiovec.affected_rows": 1},
    ),
    "update": (
        lambda s: s.update("notes", {"year": 1}, ids=["r1", "r2", "x"], where=F.year > 2021),
        {"db.operation.batch.size": 3, "aiovec.affected_rows": 1, "aiovec.filtered": True},
    ),
    "set_vectors": (
        lambda s: s.set_vectors("notes", ["r1", "r2", "x"], [VECTOR] * 3),
        {"db.operation.batch.size": 3, "aiovec.affected_rows": 2},
    ),
    "delete": (
        lambda s: s.delete("notes", ["r1", "x"]),
        {"db.operation.batch.size": 2, "aiovec.affected_rows": 1},
    ),
    "delete_where": (
        lambda s: s.delete_where("notes", "year > 2022"),
        {"aiovec.affected_rows": 2, "aiovec.filtered": True},
    ),
    "exists": (
        lambda s: s.exists("notes", ["r1", "r2", "x"]),
        {"db.operation.batch.size": 3, "db.response.returned_rows": 2},
    ),
    "get": (
        lambda s: s.get("notes", ["r1", "r2", "x"]),
        {"db.operation.batch.size": 3, "db.response.returned_rows": 2},
    ),
    "find": (
        lambda s: s.find("notes", limit=3),
        {"aiovec.limit": 3, "aiovec.filtered": False, "db.response.returned_rows": 3},
    ),
    "count": (lambda s: s.count("notes"), {"aiovec.filtered": False}),
    "distinct": (
        lambda s: s.distinct("notes", "year", limit=2),
        {"aiovec.limit": 2, "aiovec.filtered": False, "db.response.returned_rows": 2},
    ),
    "bounds": (lambda s: s.bounds("notes", "year"), {"aiovec.filtered": False}),
    "export": (exported, {"aiovec.filtered": False, "db.response.returned_rows": 5}),
    "search": (
        lambda s: s.search("notes", VECTOR, limit=2, where="year > 2020", exact=True),
        {
            "aiovec.limit": 2, "aiovec.filtered": True, "aiovec.exact": True,
            "db.response.returned_rows": 2,
        },
    ),
    "search_many": (
        lambda s: s.search_many("notes", [VECTOR, VECTOR, VECTOR], limit=2),
        {
            "aiovec.limit": 2, "aiovec.filtered": False, "aiovec.exact": False,
            "db.response.returned_rows": 6, "db.operation.batch.size": 3,
        },
    ),
    "search_like": (
        lambda s: s.search_like("notes", "r1", limit=2, exact=True),
        {
            "aiovec.limit": 2, "aiovec.filtered": False, "aiovec.exact": True,
            "db.response.returned_rows": 2,
        },
    ),
    "search_text": (
        lambda s: s.search_text("notes", "word", limit=4),
        {"aiovec.limit": 4, "aiovec.filtered": False, "db.response.returned_rows": 4},
    ),
    "search_hybrid": (
        lambda s: s.search_hybrid("notes", "word", VECTOR, limit=4),
        {
            "aiovec.limit": 4, "aiovec.filtered": False, "aiovec.exact": False,
            "db.response.returned_rows": 4,
        },
    ),
    "stats": (lambda s: s.stats("notes"), {}),
    "optimize": (lambda s: s.optimize("notes"), {}),
    "create_index": (lambda s: s.create_index("notes"), {}),
    "indexes": (lambda s: s.indexes("notes"), {}),
    "drop_index": (lambda s: s.drop_index("notes", "SECRET-index"), {}),
    "versions": (lambda s: s.versions("notes"), {}),
    "restore": (lambda s: s.restore("notes", 1), {}),
    "backup": (lambda s: s.backup("SECRET-path.db"), {}),
}  # fmt: skip
# They reach no backend, or, as ``close``, none that could be asked.
SILENT = {"close", "supports", "table"}
OF_THE_STORE = {"ping", "tables", "backup"}


def test_every_public_call_stands_here() -> None:
    public = {
        name
        for name, member in vars(VectorStore).items()
        if not name.startswith("_") and inspect.isfunction(member)
    }
    assert public == CALLS.keys() | SILENT


@pytest.mark.parametrize("name", CALLS)
async def test_each_call_makes_its_span(able: VectorStore, spans: Spans, name: str) -> None:
    call, facts = CALLS[name]
    if name == "create_table":
        await able.drop_table("notes")
        spans.forget()
    with HERE.start_as_current_span("caller") as caller:
        await call(able)
        assert trace.get_current_span() is caller
    *inner, span = spans.ours()
    expected = {**PLACE, "db.operation.name": name, **facts}
    if name not in OF_THE_STORE:
        expected["db.collection.name"] = "notes"
    assert dict(span.attributes or {}) == expected
    assert span.name == (name if name in OF_THE_STORE else f"{name} notes")
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent == caller.get_span_context()
    assert not span.events
    # A hybrid search makes two searches; no other call makes another.
    assert {one.name for one in inner} == (
        {"search notes", "search_text notes"} if name == "search_hybrid" else set()
    )
    assert all(one.parent == span.context for one in inner)


async def test_what_a_backend_does_is_within_the_span(able: VectorStore, spans: Spans) -> None:
    backend = able._follower.engine.backend
    ping = backend.ping

    async def observed() -> None:
        with HERE.start_as_current_span("driver"):
            await ping()

    backend.ping = observed  # type: ignore[method-assign]
    await able.ping()
    driver, span = spans.all()
    assert (driver.name, driver.parent) == ("driver", span.context)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.insert("notes", ROWS), DuplicateIdError),
        (lambda s: s.count("absent"), TableNotFoundError),
        (lambda s: s.count("notes", "nothing = 'SECRET'"), FilterError),
        (lambda s: exported(s, where="year ~ 'SECRET'"), FilterError),
    ],
)
async def test_a_failure_tells_its_class_alone(
    able: VectorStore, spans: Spans, call: Call, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await call(able)
    span = spans.only()
    assert span.attributes is not None
    assert span.attributes["error.type"] == error.__name__
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert not span.events


async def test_an_error_that_was_expected_is_none(able: VectorStore, spans: Spans) -> None:
    await able.drop_table("absent", missing_ok=True)
    await able.create_table(
        "notes", Schema(3, fields={"year": int, "body": Field(str, text=True)}), exist_ok=True
    )
    assert [span.status.status_code for span in spans.ours()] == [StatusCode.UNSET] * 2


async def test_calls_that_reach_no_backend_make_no_span(able: VectorStore, spans: Spans) -> None:
    with pytest.raises(InvalidNameError):
        await able.count("SECRET name")
    with pytest.raises(InvalidNameError):
        await able.search_hybrid("SECRET name", "word", VECTOR)
    with pytest.raises(InvalidNameError):
        await anext(able.export("SECRET name"))
    with pytest.raises(InvalidArgumentError):
        await able.search("notes", VECTOR, limit=0)
    await able.close()
    for call in (able.ping(), able.search_hybrid("notes", "word", VECTOR), exported(able)):
        with pytest.raises(StoreClosedError):
            await call
    assert spans.ours() == []


@pytest.mark.parametrize("outcome", ["found", StoreBusyError, asyncio.CancelledError])
async def test_what_a_search_waits_for_its_turn_is_told(
    able: VectorStore, spans: Spans, measured: Metrics, monkeypatch: pytest.MonkeyPatch,
    outcome: Any,
) -> None:  # fmt: skip
    """Of one that is refused there too, which has reached no backend."""
    if outcome is StoreBusyError:
        monkeypatch.setattr(AbleBackend, "busy_timeout", 0.3)

    def told() -> float:
        points = measured.points("db.client.operation.duration", db__operation__name="search")
        return sum(point.sum for point in points)

    before = told()
    monkeypatch.setattr(AbleBackend, "searches_at_once", 1)
    able._searches.by_vectors.calls = 1
    first = await able._searches.by_vectors.share().take()
    waiting = asyncio.ensure_future(able.search("notes", VECTOR))
    await until(lambda: able._searches.by_vectors.waiting)
    await asyncio.sleep(0.3)
    if outcome == "found":
        first.give_back()
    elif outcome is asyncio.CancelledError:
        waiting.cancel()
    (found,) = await asyncio.gather(waiting, return_exceptions=True)
    assert outcome == "found" or isinstance(found, outcome)
    span = spans.only()
    assert span.attributes is not None
    assert span.attributes["db.collection.name"] == "notes"
    assert span.attributes["aiovec.limit"] == 10
    error = outcome.__name__ if outcome is StoreBusyError else None
    assert span.attributes.get("error.type") == error
    assert span.attributes.get("aiovec.cancelled", False) is (outcome is asyncio.CancelledError)
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time >= 0.29e9
    assert told() - before >= 0.29
    with pytest.raises(InvalidNameError):  # such a name is told to nobody
        await able.search("SECRET name", VECTOR)
    assert spans.only() is span


async def test_a_cancelled_call_ends_its_span_and_is_no_error(
    able: VectorStore, spans: Spans, measured: Metrics
) -> None:
    able._follower.engine.backend.hangs = True  # type: ignore[attr-defined]
    task = asyncio.ensure_future(able.search("notes", VECTOR))
    await asyncio.sleep(0.01)
    assert spans.ours() == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    span = spans.only()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["aiovec.cancelled"] is True
    assert "error.type" not in span.attributes
    assert measured.points("db.client.operation.duration", aiovec__cancelled=True, **{
        "db.operation.name": "search", **PLACE,
    })  # fmt: skip


async def test_calls_at_once_are_all_children_of_their_callers(
    able: VectorStore, spans: Spans
) -> None:
    async def caller(number: int) -> None:
        with HERE.start_as_current_span(f"caller {number}"):
            await asyncio.gather(*(able.count("notes") for _ in range(number)))

    await asyncio.gather(*(caller(number) for number in range(1, 5)))
    callers = {
        span.context.span_id: span.name for span in spans.all() if span.name.startswith("caller")
    }
    parents = [callers[span.parent.span_id] for span in spans.ours() if span.parent is not None]
    assert {name: parents.count(name) for name in parents} == {
        f"caller {number}": number for number in range(1, 5)
    }


async def test_a_limit_of_any_size_fits_into_a_span(able: VectorStore, spans: Spans) -> None:
    await able.find("notes", limit=10**30)
    attributes = spans.only().attributes or {}
    assert attributes["aiovec.limit"] == 2**63 - 1


# Exports


async def test_an_export_lasts_as_long_as_its_iteration(able: VectorStore, spans: Spans) -> None:
    with HERE.start_as_current_span("caller") as caller:
        batches = able.export("notes", batch_size=2)
        for _ in range(3):
            await anext(batches)
            assert trace.get_current_span() is caller
            await asyncio.sleep(0.01)
            assert spans.ours() == []
        with pytest.raises(StopAsyncIteration):
            await anext(batches)
        assert trace.get_current_span() is caller
    span = spans.only()
    assert span.parent == caller.get_span_context()
    assert span.start_time is not None
    assert span.end_time is not None
    # uvloop counts its sleeps in milliseconds, and may end each one a little early.
    assert span.end_time - span.start_time >= 0.02 * 1e9


async def test_an_export_that_is_left_early_ends_its_span(able: VectorStore, spans: Spans) -> None:
    async with contextlib.aclosing(able.export("notes", batch_size=2)) as batches:  # type: ignore[type-var]
        await anext(batches)
    span = spans.only()
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["db.response.returned_rows"] == 2
    assert "aiovec.cancelled" not in (span.attributes or {})


async def test_an_export_may_go_on_in_another_task(
    able: VectorStore, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry would log an error where a context is left in which it was not entered."""
    batches = able.export("notes", batch_size=2)

    async def one() -> Any:
        with HERE.start_as_current_span("another"):
            return await anext(batches, None)

    while await asyncio.create_task(one()) is not None:
        assert not trace.get_current_span().is_recording()
    assert (spans.only().attributes or {})["db.response.returned_rows"] == 5
    assert caplog.records == []


async def test_a_cancelled_export_is_no_error(able: VectorStore, spans: Spans) -> None:
    backend = able._follower.engine.backend
    opened = backend.open_table

    async def slowly(name: str) -> Any:
        await asyncio.sleep(3600)
        return await opened(name)

    able._follower.engine.forget_all()
    backend.open_table = slowly  # type: ignore[method-assign]
    task = asyncio.ensure_future(exported(able))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    span = spans.only()
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["aiovec.cancelled"] is True


# Where calls go


def test_calls_without_await_are_children_of_their_caller(tmp_path: Path, spans: Spans) -> None:
    with aiovec.sync.connect(tmp_path / "store.db") as store:
        store.create_table("notes", Schema(3))
        with HERE.start_as_current_span("caller") as caller:
            store.insert("notes", [{"id": "a", "embedding": VECTOR}])
            store.search("notes", VECTOR)
    parents = {span.name: span.parent for span in spans.ours()}
    assert parents["insert notes"] == parents["search notes"] == caller.get_span_context()


async def test_a_span_names_where_its_call_went(
    tmp_path: Path, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of the very call which follows a switched TOML."""
    toml = tmp_path / "aiovec.toml"
    places = {}
    for name in ("one", "two"):
        places[name] = str(tmp_path / f"{name}.db")
        async with aiovec.connect(places[name]) as store:
            await store.create_table(name, Schema(3))
    toml.write_text('[retrieval]\nsqlite_path = "one.db"\n', "utf-8")
    async with aiovec.connect(config=toml) as store:
        spans.forget()
        assert await store.tables() == ["one"]
        toml.write_text('[retrieval]\nsqlite_path = "two.db"  # another\n', "utf-8")
        found = ["one"]
        async with asyncio.timeout(60):
            while found == ["one"]:
                await asyncio.sleep(0.05)
                spans.forget()
                found = await store.tables()
        assert found == ["two"]
        attributes = spans.only().attributes or {}
        assert attributes["db.namespace"] == places["two"]


# What is never told


async def test_nothing_of_a_user_is_told(tmp_path: Path, spans: Spans, measured: Metrics) -> None:
    """Rows, ids, vectors, filters, models: in no span and in no metric, whatever fails."""
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
        await store.get("notes", ["SECRETid", "SECRETabsent"])
        await store.find("notes", where, select=["title", "payload.SECRETkey"])
        await store.update("notes", {"title": "SECRETtitle"}, ids="SECRETid")
        async with asyncio.timeout(60):  # from the file at first, then from memory
            while (await store.stats("notes")).details["searched"] != "in memory":
                await store.search("notes", vector, where=where, model="SECRETmodel")
        for _ in range(20):
            await store.search("notes", vector, where=where, model="SECRETmodel")
        await store.search_many("notes", [vector], where=F.title == "SECRETtitle")
        _ = [batch async for batch in store.export("notes", where=where)]
        for failing in (
            store.insert("notes", rows),
            store.count("notes", "SECRETfield = 1"),
            store.count("notes", "title = 'SECRET"),
            store.search("notes", vector, model="SECRETwrong"),
            store.search("notes", [number]),
            store.find("notes", order_by="SECRETorder"),
            store.update("notes", {"SECRETfield": object()}, where="TRUE"),
            store.drop_index("notes", "SECRETindex"),
            store.backup(tmp_path / "store.db"),
            store.upsert("notes", [{"id": "SECRETid", "embedding": "SECRETvector"}]),
        ):
            with pytest.raises(aiovec.AiovecError):
                await failing
        await store.delete("notes", "SECRETid")
        await store.delete_where("notes", "title = 'SECRETtwo'")
        told = [span.to_json() for span in spans.all()]
        told += [metric.to_json() for metric in measured.all()]
    assert len(spans.ours()) >= 30
    assert any("aiovec.search.stage.duration" in text for text in told)
    for text in told:
        assert "SECRET" not in text
        assert "73571357" not in text
