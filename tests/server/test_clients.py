"""The endpoints called by curl, with the commands of the docs, and by Node.js."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.process import Served, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving("-s", tmp_path_factory.mktemp("store") / "notes.db") as made:
        yield made


def run(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_of_the_docs_work(served: Served) -> None:
    page = (ROOT / "docs/reference/http.md").read_text("utf-8")
    (script,) = (
        block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "curl" in block
    )
    script = script.replace("URL=http://127.0.0.1:4002", f"URL={served.url}")
    script = script.replace("curl -sS", "echo; curl -sS --fail-with-body")
    answers = [
        json.loads(line) for line in run("sh", "-e", "-c", script).splitlines() if line.strip()
    ]
    made, written, search, count, *records, deleted = answers
    assert (made["name"], made["rows"]) == ("notes", 0)
    assert written == {"count": 2}
    assert [hit["id"] for hit in search["hits"]] == ["walk", "a/b"]
    assert set(search["hits"][0]) == {"id", "_score", "_distance", "year", "body"}
    assert count == {"count": 1}
    records.sort(key=lambda record: str(record["id"]))
    assert [record["id"] for record in records] == ["a/b", "walk"]
    assert records[1]["body"] == "A walk by the sea"
    assert deleted == {"deleted": 1}
    url = f"{served.url}/tables/notes"
    assert "confirm" in run("curl", "-sS", "-X", "DELETE", url)
    status = run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE",
                 f"{url}?confirm=notes")  # fmt: skip
    assert status == "204"


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_node_client_reads_and_writes(served: Served) -> None:
    said = run("node", str(ROOT / "examples/node_client/demo.mjs"), served.url)
    assert "status: 'ok'" in said
    for line in (
        "written: 3", "hit: walk 1.000 A walk by the sea", "hit: a/b 0.480 Rain",
        "refused: DimensionMismatchError 422 3", "count: 3 1", "record: .. 3", "deleted: 2",
        "tables: 0",
    ):  # fmt: skip
        assert line in said.splitlines(), said
