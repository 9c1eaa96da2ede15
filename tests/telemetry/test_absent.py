"""Without OpenTelemetry everything works; with it, the example of the page shows what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.blocks import blocks

pytestmark = pytest.mark.slow

TOUR = """
import asyncio, sys, threading

class Finder:
    hidden = sys.argv[2] == "hidden"
    importing = set()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            self.importing.add(threading.current_thread())
            if self.hidden:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
import aiovec

async def tour(path):
    async with aiovec.connect(path) as store:
        await store.create_table("notes", aiovec.Schema(3))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0, 0]}])
        (hit,) = await store.search("notes", [1, 0, 0])
        assert [batch.num_rows async for batch in store.export("notes")] == [1]

assert not Finder.importing
asyncio.run(tour(sys.argv[1]))
loaded = any(name.startswith("opentelemetry") for name in sys.modules)
print(len(Finder.importing), threading.main_thread() in Finder.importing, loaded)
"""


def run(code: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_everything_works_without_the_package(tmp_path: Path) -> None:
    """Where it is installed, ``connect`` imports it in a thread."""
    for there, shown in (("hidden", "1 False False\n"), ("there", "1 False True\n")):
        assert run(TOUR, tmp_path / f"{there}.db", there, cwd=tmp_path) == shown


def test_the_example_of_the_page_shows_spans_and_metrics(tmp_path: Path) -> None:
    (example,) = blocks("docs/how-to/telemetry.md", "python")
    shown = run(example, cwd=tmp_path)
    assert '"name": "search notes"' in shown
    assert '"name": "db.client.operation.duration"' in shown
