"""The command line with the embedders of the TOML file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from typer.testing import CliRunner

import aiovec
from aiovec import Embed, Schema
from aiovec._cli.app import app
from aiovec._demo import HashingEmbedder

CONFIG = """
[retrieval]
sqlite_path = "notes.db"
[retrieval.embedders.small]
kind = "demo"
"""
TEXTS = ["opening a socket", "reading a zip file", "walking through a tree"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    Path("aiovec.toml").write_text(CONFIG)


def run(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == code, found.output + repr(found.exception)
    return found.output


def test_import_makes_vectors_and_rejects_rows_without_a_text() -> None:
    rows = [{"id": f"r{n}", "body": text} for n, text in enumerate([*TEXTS, "", None])]
    Path("notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema = {"dim": 256, "fields": {"body": "text"}, "embed": {"field": "body", "using": "small"}}
    Path("schema.json").write_text(json.dumps(schema))
    found = CliRunner().invoke(
        app, ["import", "notes.jsonl", "--schema", "schema.json", "--config", "aiovec.toml"]
    )
    assert "3 rows" in found.output, found.output

    async def look() -> None:
        async with aiovec.connect(config="aiovec.toml") as store:
            assert await store.count("notes") == 3
            (hit,) = await store.search("notes", "how do I open sockets?", limit=1)
            assert hit["body"] == TEXTS[0]

    asyncio.run(look())
    rejects = "".join(path.read_text() for path in Path().glob("*reject*"))
    assert rejects.count("no text in 'body'") == 2


def test_a_migration_reembeds_by_an_embedder_of_the_file() -> None:
    async def fill() -> None:
        async with aiovec.connect("old.db") as store:
            await store.create_table("notes", Schema(2, model="old", fields={"body": str}))
            await store.insert(
                "notes", [{"id": t, "body": t, "embedding": [1.0, n]} for n, t in enumerate(TEXTS)]
            )

    asyncio.run(fill())
    command = ["migrate", "run", "--from", "old.db", "--to", "new.db", "--from-field", "body"]
    where = ["--config", "aiovec.toml"]
    assert "it has: small" in run(*command, "--reembed", "none", *where, code=1)
    run(*command, "--reembed", "small", "--model", "other", *where, code=2)
    run(*command, "--reembed", "small", *where)

    async def look() -> None:
        async with aiovec.connect("new.db", config="aiovec.toml") as store:
            schema = await store.schema("notes")
            assert (schema.model, schema.dim) == (HashingEmbedder.model, HashingEmbedder.dim)
            (hit,) = await store.search(
                "notes", HashingEmbedder().embed("how do I open sockets?"), limit=1
            )
            assert hit.id == TEXTS[0]

    asyncio.run(look())


def test_the_schema_of_a_table_travels_with_its_file() -> None:
    async def fill() -> None:
        async with aiovec.connect(config="aiovec.toml") as store:
            schema = Schema(256, fields={"body": str}, embed=Embed("body", using="small"))
            await store.create_table("notes", schema)
            await store.insert("notes", [{"id": t, "body": t} for t in TEXTS])

    asyncio.run(fill())
    run("export", "notes", "notes.parquet", "--config", "aiovec.toml")
    run("import", "notes.parquet", "copy.db")

    async def look() -> None:
        async with aiovec.connect("copy.db") as store:  # without the embedder
            assert (await store.schema("notes")).embed == Embed("body", using="small")
            assert await store.count("notes") == 3

    asyncio.run(look())


@pytest.mark.parametrize("form", ["parquet", "arrow", "csv", "jsonl"])
@pytest.mark.parametrize("given", ["schema", "table", "schema table"])
@pytest.mark.parametrize("embeds", [False, True])
def test_files_without_a_vector_column(form: str, given: str, embeds: bool) -> None:
    """With an embedder, or where rows need no vector, whether the table or a schema says so."""
    bodies = [*TEXTS, "", None]
    rows = pa.table({"id": [f"r{n}" for n in range(5)], "body": bodies, "year": [*range(5)]})
    path = Path(f"notes.{form}")
    if form == "parquet":
        pq.write_table(rows, path)
    elif form == "arrow":
        with pa.ipc.new_file(str(path), rows.schema) as writer:
            writer.write_table(rows)
    elif form == "csv":
        csv.write_csv(rows, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    schema = Schema(
        256, fields={"body": str, "year": int}, vector_nullable=not embeds,
        embed=Embed("body", "small") if embeds else None,
    )  # fmt: skip
    Path("schema.json").write_text(json.dumps(schema.to_dict()))

    async def make() -> None:
        async with aiovec.connect(config="aiovec.toml") as store:
            await store.create_table("notes", schema)

    async def look() -> None:
        async with aiovec.connect(config="aiovec.toml") as store:
            assert await store.count("notes") == (3 if embeds else 5)
            found = await store.get("notes", ["r0", "r1"])
            assert [(r["body"], r["year"]) for r in found] == [(TEXTS[0], 0), (TEXTS[1], 1)]
            assert [r.vector is not None for r in found] == [embeds] * 2

    words = ["import", str(path), "--config", "aiovec.toml"]
    if "schema" in given:
        words += ["--schema", "schema.json"]
    if "table" in given:
        asyncio.run(make())
    found = CliRunner().invoke(app, words)
    assert f"{3 if embeds else 5} rows" in found.output, found.output
    asyncio.run(look())


def test_rows_without_vectors_for_a_table_that_needs_them() -> None:
    """They are refused as for a new one, and no store is made."""
    Path("notes.jsonl").write_text('{"id": "a", "body": "x"}\n')
    words = ["import", "notes.jsonl", "--config", "aiovec.toml"]
    assert "no vector was found" in run(*words, code=1)
    assert not Path("notes.db").exists()

    async def make() -> None:
        async with aiovec.connect(config="aiovec.toml") as store:
            await store.create_table("notes", Schema(256, fields={"body": str}))

    asyncio.run(make())
    assert "no vector was found" in run(*words, code=1)
    assert "no vector was found" in run(*words, "--table", "others", code=1)
