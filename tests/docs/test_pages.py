"""The pages' examples run, and their tables are complete."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

import aiovec
import aiovec.sync
from aiovec import Schema
from aiovec_server import create_app

from .blocks import ROOT, blocks, commands, run_page

OWN_TEST = {
    "how-to/build-on-it.md",
    "how-to/crewai.md",  # CrewAI prints panels
    "how-to/from-other-stores.md",
    "how-to/mem0.md",
    "how-to/move-to-lancedb.md",
    "how-to/test-your-app.md",
}
NEEDS_MORE = {"reference/http.md", "reference/commands.md"}
BUILDS_INDEXES = {"docs/reference/lancedb.md"}
LIBRARIES = {
    "docs/reference/documents.md": "semantic_text_splitter",
    "docs/tutorial/answer-questions.md": "openai semantic_text_splitter wordllama",
    "docs/tutorial/search-your-files.md": "python_multipart semantic_text_splitter wordllama",
    "docs/tutorial/search-your-database.md": "aiosqlite greenlet sqlalchemy",
    "docs/how-to/adk.md": "google.adk wordllama",
    "docs/how-to/files-and-frames.md": "pandas",
    "docs/how-to/haystack.md": "haystack",
    "docs/how-to/images.md": "PIL",
    "docs/how-to/langchain.md": "langchain_core",
    "docs/how-to/langgraph.md": "langgraph",
    "docs/how-to/llamaindex.md": "llama_index.core",
    "docs/how-to/agent-memory.md": "pydantic_ai wordllama",
    "docs/reference/plot.md": "matplotlib",
}

EXISTING = {
    "docs/how-to/backup.md": ("notes.db", Schema(2), {"id": "1", "embedding": [1, 0]}),
    "docs/how-to/change-model.md": (
        "old.db",
        Schema(2, model="older", fields={"body": str}),
        {"id": "1", "embedding": [1, 0], "body": "A text"},
    ),
    "docs/how-to/upgrade.md": ("notes.db", Schema(2), {"id": "1", "embedding": [1, 0]}),
    "docs/reference/plot.md": (
        "notes.db",
        Schema(2, fields={"kind": str}),
        {"id": "1", "embedding": [1, 0], "kind": "a"},
    ),
}
"""The file, schema and row of the table ``docs`` that a page begins with."""


def user_pages() -> list[str]:
    docs = ROOT / "docs"
    parts = ("tutorial", "how-to", "reference", "explanation")
    return sorted(
        page.relative_to(docs).as_posix() for part in parts for page in docs.glob(f"{part}/*.md")
    )


def run_pages() -> list[str]:
    pages = set(user_pages())
    assert pages > OWN_TEST | NEEDS_MORE
    return ["README.md", *(f"docs/{page}" for page in sorted(pages - OWN_TEST - NEEDS_MORE))]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("AIOVEC_CONFIG", "AIOVEC_RETRIEVAL__BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in BUILDS_INDEXES else ())
        for page in run_pages()
    ],
)
def test_every_block_runs_and_prints_what_the_page_shows(page: str, folder: Path) -> None:
    for library in LIBRARIES.get(page, "").split():
        pytest.importorskip(library)
    if page in EXISTING:
        path, schema, row = EXISTING[page]
        with aiovec.sync.connect(path) as store:
            store.create_table("docs", schema)
            store.insert("docs", [row])
    run_page(page, folder)


def test_the_app_of_the_tutorial_takes_uploads(folder: Path) -> None:
    page = "docs/tutorial/search-your-files.md"
    for library in LIBRARIES[page].split():
        pytest.importorskip(library)
    names = run_page(page, folder)
    with TestClient(names["app"]) as client:
        sent = client.post("/documents", files={"file": ("keys.md", names["page"].read_bytes())})
        assert sent.json() == {"passages": 2}
        (hit,) = client.get("/search", params={"q": "revoke a key"}).json()
        assert (hit["source"], hit["start"], hit["title"]) == ("keys.md", 5, "Keys > Rotation")
        refused = client.post("/documents", files={"file": ("a.pdf", b"no PDF")})
        assert (refused.status_code, refused.json()["error"]) == (422, "DocumentError")


@pytest.mark.slow
def test_the_tests_of_the_guide_pass(folder: Path) -> None:
    pytest.importorskip("lancedb")
    code = "\n\n".join(blocks("docs/how-to/test-your-app.md", "python"))
    (folder / "test_notes.py").write_text(code, "utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-W", "error::ResourceWarning"]
    command = [sys.executable, "-m", "pytest", *options, "test_notes.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1][:8]) == (0, "4 passed"), done.stdout


async def test_the_first_program_is_short_and_its_file_is_searched_by_text(folder: Path) -> None:
    (program,) = (code for code in blocks("README.md", "python") if "asyncio.run" in code)
    lines = [line for line in program.splitlines() if line.strip() and line.strip()[0] != "#"]
    assert len(lines) <= 18
    assert max(map(len, program.splitlines())) <= 72  # the site shows it without a scrollbar
    await asyncio.to_thread(exec, program, {})
    search = ["search", "notes", "blocking an async loop", "-s", "notes.db"]
    assert search in [part for block in blocks("README.md", "console") for part in commands(block)]
    async with aiovec.connect("notes.db", read_only=True) as store:
        transport = httpx.ASGITransport(create_app(store=store))
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4002")
        facts = (await client.get("/page/tables/notes")).json()
        assert facts["can"]["meaning"]
        body = {"text": "blocking an async loop", "topK": 1}
        (hit,) = (await client.post("/tables/notes/search", json=body)).json()["hits"]
        assert hit["id"] == "loop"


def test_the_filters_of_the_reference_are_ones_of_its_schema(folder: Path) -> None:
    schema = run_page("docs/reference/schema.md", folder)["schema"]
    filters = run_page("docs/reference/filters.md", folder)
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_arrow(pa.schema(schema.to_arrow())) == schema
    (shown,) = blocks("docs/reference/schema.md", "json")
    assert Schema.from_json(shown).fields["body"].text
    with aiovec.sync.connect("filters.db") as store:
        store.create_table("t", schema)
        for name in ("by_code", "by_text"):
            assert store.count("t", filters[name]) == 0


def test_the_reference_has_every_method_and_every_option() -> None:
    text = "\n".join(
        (ROOT / f"docs/reference/{page}.md").read_text(encoding="utf-8").partition("\n::: ")[0]
        for page in ("store", "searches")
    )
    first = "\n".join(re.findall(r"^\| (.+?) \|", text, re.MULTILINE))
    public = {name for name in vars(aiovec.VectorStore) if not name.startswith("_")}
    assert public <= set(re.findall(r"`(\w+)[(`]", first))
    for name, given in re.findall(r"`(\w+)\((.*?)\)`", first):
        if name not in public:
            continue
        taken = inspect.signature(getattr(aiovec.VectorStore, name)).parameters
        arguments = {part.split("=")[0].strip() for part in given.split(",")} - {"", "…"}
        options = name in ("create_index",)  # the backend's own
        assert options or arguments <= set(taken), name
    for search in ("search", "search_many", "search_like", "search_text", "search_hybrid"):
        options = inspect.signature(getattr(aiovec.VectorStore, search)).parameters.values()
        names = {option.name for option in options if option.kind is option.KEYWORD_ONLY}
        assert names <= set(re.findall(r"`(\w+)[(`=]", first)), search


def test_the_reference_has_every_error() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    table = page.partition("\n## Over HTTP\n")[0]
    listed = re.findall(r"^\| `(\w+)`( \\\*)? \| .* \| \d.* \|$", table, re.MULTILINE)
    defined = re.findall(r"^class (\w+Error)", inspect.getsource(aiovec.errors), re.MULTILINE)
    assert [name for name, _ in listed] == defined
    for name, star in listed:
        kind = getattr(aiovec.errors, name)
        assert bool(star) == issubclass(kind, ValueError), name
        own = {field.name for field in dataclasses.fields(kind)}
        assert own <= set(re.findall(r"`(\w+)`", kind.__doc__)), name


def test_the_variables_that_the_pages_name_are_settings() -> None:
    sample = tomllib.loads((ROOT / "config/aiovec.toml").read_text(encoding="utf-8"))["retrieval"]
    for page in ["README.md", *(f"docs/{page}" for page in user_pages())]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for variable in re.findall(r"AIOVEC_RETRIEVAL__(\w+)", text):
            setting: Any = sample
            for key in variable.lower().split("__"):
                assert key in setting, (page, variable)
                setting = setting[key]
