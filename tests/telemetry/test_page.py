"""The page about telemetry: its example runs, and its tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.blocks import ROOT, blocks
from tests.telemetry.test_spans import CALLS, PLACE

PAGE = "docs/TELEMETRY.md"


def listed(heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    part = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", part, re.MULTILINE))


@pytest.mark.slow
def test_the_example_shows_spans_and_every_metric(tmp_path: Path) -> None:
    (example,) = blocks(PAGE, "python")
    # One search is answered from the file; another round finds the table in memory.
    twice = example.replace(
        'await store.search("notes", [1, 0])',
        'while (await store.stats("notes")).details["searched"] != "in memory":\n'
        '            await store.search("notes", [1, 0])\n'
        '        await store.search("notes", [1, 0])\n'
        "        schema = aiovec.Schema(\n"
        "            dim=256, fields={'body': str}, embed=aiovec.Embed('body')\n"
        "        )\n"
        "        embedders = {'default': {'kind': 'demo'}}\n"
        "        async with aiovec.connect('texts.db', embedders=embedders) as texts:\n"
        "            await texts.create_table('lines', schema)\n"
        "            await texts.insert('lines', [{'id': '1', 'body': 'words'}])\n"
        "        metrics.get_meter_provider().force_flush()",
    )
    assert twice != example
    for code in (example, twice):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert '"name": "search notes"' in done.stdout
        assert '"name": "db.client.operation.duration"' in done.stdout
    shown = set(re.findall(r'"name": "((?:db\.client|aiovec)\.[\w.]+)"', done.stdout))
    assert shown == listed("Metrics")


def test_every_attribute_stands_in_the_table() -> None:
    told = {name for _, facts in CALLS.values() for name in facts} | PLACE.keys()
    told |= {"db.operation.name", "db.collection.name", "error.type", "aiovec.cancelled"}
    told |= {f"aiovec.embedding.{fact}" for fact in ("name", "kind", "texts")}
    assert listed("Spans") == told
