"""Without OpenTelemetry, or without its SDK, everything works; nothing is imported too early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOUR = """
import asyncio, sys, threading
import aiovec

async def tour(path):
    async with aiovec.connect(path) as store:
        await store.create_table("notes", aiovec.Schema(3))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0, 0]}])
        async with asyncio.timeout(60):
            while (await store.stats("notes")).details["searched"] != "in memory":
                (hit,) = await store.search("notes", [1, 0, 0])
        (hit,) = await store.search("notes", [1, 0, 0])
        assert hit.id == "a"
        assert [batch.num_rows async for batch in store.export("notes")] == [1]
        return (await store.stats("notes")).details["searches"]["searches"]
"""


def run(program: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(path / "store.db")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_everything_works_without_the_package(tmp_path: Path) -> None:
    hidden = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
    end = """
print(asyncio.run(tour(sys.argv[1])) > 0)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
from aiovec._telemetry.events import NOTHING, Operation, Place, watch, watch_searches
assert watch(Operation("count"), Place("sqlite", "x")) is NOTHING
assert watch_searches(Place("sqlite", "x"), "notes") is None
"""
    assert run(hidden + TOUR + end, tmp_path) == "True\n"


@pytest.mark.slow
def test_an_api_that_is_too_old_counts_as_none(tmp_path: Path) -> None:
    """It has neither hints for buckets nor what came after those."""
    old = """
from opentelemetry import metrics
from opentelemetry.metrics import _internal

def create_histogram(self, name, unit="", description=""):
    raise LookupError("what is too old is not used")

_internal._ProxyMeter.create_histogram = create_histogram
"""
    end = """
print(asyncio.run(tour(sys.argv[1])) > 0)
"""
    assert run(old + TOUR + end, tmp_path) == "True\n"


def test_it_is_imported_by_connect_in_a_thread(tmp_path: Path) -> None:
    begin = """
import sys, threading

importing = set()

class Watching:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            importing.add(threading.current_thread())

sys.meta_path.insert(0, Watching())
"""
    end = """
assert not importing
asyncio.run(tour(sys.argv[1]))
print(len(importing), threading.main_thread() in importing)
"""
    assert run(begin + TOUR + end, tmp_path) == "1 False\n"


@pytest.mark.slow
def test_providers_may_be_set_after_the_first_calls(tmp_path: Path) -> None:
    end = """
async def main(path):
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    await tour(path)
    async with aiovec.connect(path) as store:
        async with asyncio.timeout(60):
            while (await store.stats("notes")).details["searched"] != "in memory":
                await store.search("notes", [1, 0, 0])
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(MeterProvider([reader]))
        await store.search("notes", [1, 0, 0])
        print([span.name for span in exporter.get_finished_spans()])
        (resource,) = reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        for name in sorted(metric.name for metric in scope.metrics):
            print(name)

asyncio.run(main(sys.argv[1]))
"""
    assert run(TOUR + end, tmp_path).splitlines() == [
        "['search notes']",
        "aiovec.search.batch.size",
        "aiovec.search.candidates",
        "aiovec.search.memory.usage",
        "aiovec.search.stage.duration",
        "db.client.operation.duration",
        "db.client.response.returned_rows",
    ]
