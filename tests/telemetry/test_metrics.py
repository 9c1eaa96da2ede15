"""Metrics: of each call by the conventions, and of what a search is made of."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace
from tests.telemetry.conftest import Metrics, Spans

import aiovec
from aiovec import Schema, TableNotFoundError, VectorStore

STAGES = {"queue", "fresh", "filter", "scan", "rescore", "fetch"}
ROWS = 300


async def fill(store: VectorStore) -> None:
    generator = np.random.default_rng(3)
    await store.create_table("notes", Schema(8, fields={"year": int}))
    await store.insert(
        "notes",
        [
            {"id": str(number), "embedding": generator.normal(size=8), "year": number}
            for number in range(ROWS)
        ],
    )


async def search_in_memory(store: VectorStore, searches: int) -> None:
    """Search until the table is in memory, then as often at once."""
    async with asyncio.timeout(60):
        while True:
            await store.search("notes", [1.0] * 8)
            if (await store.stats("notes")).details["searched"] == "in memory":
                break
    await asyncio.gather(
        *(store.search("notes", [1.0] * 8, where="year > 20") for _ in range(searches))
    )


async def test_calls_are_timed_and_counted_as_their_spans_say(
    store: VectorStore, spans: Spans, measured: Metrics
) -> None:
    await fill(store)
    for limit in (3, 4):
        await store.find("notes", limit=limit)
    with pytest.raises(TableNotFoundError):
        await store.find("absent")
    place = {"db__system__name": "sqlite", "db__namespace": store.target}
    found = {"db__operation__name": "find", "db__collection__name": "notes", **place}
    (duration,) = measured.points("db.client.operation.duration", **found)
    assert duration.count == 2
    assert duration.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    ended = [span for span in spans.ours() if span.name == "find notes"]
    took = sum((span.end_time or 0) - (span.start_time or 0) for span in ended) / 1e9
    assert 0 < duration.sum <= took
    (rows,) = measured.points("db.client.response.returned_rows", **found)
    assert (rows.count, rows.sum) == (2, 7)
    (failed,) = measured.points(
        "db.client.operation.duration", error__type="TableNotFoundError", **place
    )
    assert failed.count == 1
    assert set(failed.attributes) == {
        "db.system.name", "db.namespace", "db.operation.name", "db.collection.name", "error.type",
    }  # fmt: skip


async def test_searches_tell_their_stages(store: VectorStore, measured: Metrics) -> None:
    await fill(store)
    await search_in_memory(store, 50)
    mine: dict[str, Any] = {"db__namespace": store.target, "db__collection__name": "notes"}
    searches = (await store.stats("notes")).details["searches"]
    stages = {
        point.attributes["aiovec.search.stage"]: point
        for point in measured.points("aiovec.search.stage.duration", **mine)
    }
    assert stages.keys() == STAGES
    assert stages["queue"].count == searches["searches"]
    for name, point in stages.items():
        told = searches[f"{name}_ms"] * searches["searches"] / 1000
        assert point.sum == pytest.approx(told)
        assert point.attributes["db.system.name"] == "sqlite"
    (batches,) = measured.points("aiovec.search.batch.size", **mine)
    assert batches.sum == searches["searches"]
    assert batches.max == searches["largest_batch"]
    assert stages["scan"].count == batches.count
    (candidates,) = measured.points("aiovec.search.candidates", **mine)
    assert candidates.count == batches.count
    assert candidates.sum > 0


async def test_stages_are_linked_to_no_caller(store: VectorStore, measured: Metrics) -> None:
    """A batch has several; a call's own time is linked to its span."""
    await fill(store)
    with trace.get_tracer("a test").start_as_current_span("caller"):
        await search_in_memory(store, 20)
    mine: dict[str, Any] = {"db.namespace": store.target}
    linked: dict[str, bool] = {}
    for metric in measured.all():  # once: what is linked is told once
        points = [p for p in metric.data.data_points if mine.items() <= p.attributes.items()]
        linked[metric.name] = any(e.span_id for p in points for e in p.exemplars)
    assert linked["db.client.operation.duration"]
    assert not linked["aiovec.search.stage.duration"]
    assert not linked["aiovec.search.batch.size"]
    assert not linked["aiovec.search.candidates"]


async def test_memory_is_told_for_as_long_as_it_is_used(
    tmp_path: Path, measured: Metrics, spans: Spans
) -> None:
    async with aiovec.connect(tmp_path / "store.db") as store:
        await fill(store)
        mine: dict[str, Any] = {"db__namespace": store.target}
        assert measured.points("aiovec.search.memory.usage", **mine) == []
        await search_in_memory(store, 1)
        (point,) = measured.points("aiovec.search.memory.usage", **mine)
        assert point.value == (await store.stats("notes")).scan_memory > 0
        assert point.attributes["db.collection.name"] == "notes"
    assert measured.points("aiovec.search.memory.usage", **mine) == []
