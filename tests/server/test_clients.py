"""The endpoints called by curl, with the commands of the docs, and by Node.js."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def answers(page: str, url: str) -> list[dict[str, Any]]:
    """Run the curl commands of a page; return what the server answers."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (script,) = re.findall(r"```sh\n(URL=.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    script = script.replace("URL=http://127.0.0.1:4002", f"URL={url}")
    script = script.replace("curl -sS", "echo; curl -sS --fail-with-body")
    said = run("sh", "-e", "-c", script)
    return [json.loads(line) for line in said.splitlines() if line.strip()]


def test_the_curl_commands_of_the_guide_make_vectors(tmp_path: Path) -> None:
    pytest.importorskip("wordllama")
    page = "docs/how-to/other-languages.md"
    (settings,) = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    path = tmp_path / "notes.db"
    (tmp_path / "aiovec.toml").write_text(settings.replace("notes.db", path.as_posix()), "utf-8")
    with serving("--config", tmp_path / "aiovec.toml") as served:
        made, written, search = answers(page, served.url)
    assert made["schema"]["embed"]["recipe"] == {"kind": "local"}
    assert written == {"count": 1}
    assert [hit["id"] for hit in search["hits"]] == ["loop"]


def test_the_curl_commands_of_the_reference_work(served: Served) -> None:
    made, written, search, count, *records, deleted = answers("docs/reference/http.md", served.url)
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
