"""Calls without OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOUR = """
import asyncio, sys

class Finder:
    importing = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            self.importing.append(name)

sys.meta_path.insert(0, Finder())
import aiovec

async def tour(path):
    async with aiovec.connect(path) as store:
        await store.create_table("notes", aiovec.Schema(3))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0, 0]}])
        (hit,) = await store.search("notes", [1, 0, 0])
        assert [batch.num_rows async for batch in store.export("notes")] == [1]
        assert not Finder.importing

        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter = InMemorySpanExporter()
        trace.set_tracer_provider(TracerProvider())
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
        assert await store.count("notes") == 1
        print(*(span.name for span in exporter.get_finished_spans()))

asyncio.run(tour(sys.argv[1]))
"""


def run(code: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_an_app_sets_telemetry_up_after_it_opened_a_store(tmp_path: Path) -> None:
    """Until then, no part of OpenTelemetry is imported."""
    assert run(TOUR, tmp_path / "notes.db", cwd=tmp_path) == "count notes\n"
