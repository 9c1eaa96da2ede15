"""Commands that embed texts: by the TOML file, by ``--embedder``, or as the table describes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embed.test_recipes import FIELDS, ROWS, a_table
from tests.harness.command import run

from aiovec import Embed, Schema, sync

CONFIG = """
[retrieval]
sqlite_path = "notes.db"
[retrieval.embedders.small]
kind = "demo"
"""
TEXTS = ["opening a socket", "reading a zip file", "walking through a tree"]
TOML = ("--config", "aiovec.toml")


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("aiovec.toml").write_text(CONFIG)


def written(suffix: str) -> Path:
    """Write rows without vectors; two of the five have no text."""
    rows = pa.table({"id": [f"r{n}" for n in range(5)], "body": [*TEXTS, "", None]})
    path = Path(f"notes.{suffix}")
    if suffix == "parquet":
        pq.write_table(rows, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    return path


def test_an_import_embeds_texts_and_leaves_out_rows_without_one() -> None:
    schema = Schema(256, fields={"body": str}, embed=Embed("body", "small"))
    Path("schema.json").write_text(json.dumps(schema.to_dict()))
    # The first import creates the table by the schema, the second uses the table's own.
    for suffix, options in (("parquet", ("--schema", "schema.json")), ("jsonl", ())):
        done = run("import", written(suffix), *options, *TOML)
        assert "notes: 3 new, 2 empty; wrote 3 rows" in done.out, (suffix, done)
        with sync.connect(config="aiovec.toml") as store:
            (hit,) = store.search("notes", "how do I open sockets?", limit=1)
            assert (hit["body"], store.count("notes")) == (TEXTS[0], 3)
            store.delete("notes", where="TRUE")


def test_rows_without_vectors_go_only_into_a_table_that_allows_them() -> None:
    path = written("jsonl")
    assert "no vector was found" in run("import", path, *TOML).err
    assert not Path("notes.db").exists()
    for nullable, code, rows in ((False, 1, 0), (True, 0, 5)):
        with sync.connect(config="aiovec.toml") as store:
            store.drop_table("notes", missing_ok=True)
            schema = Schema(256, fields={"body": str}, vector_nullable=nullable)
            store.create_table("notes", schema)
            done = run("import", path, *TOML)
            assert (done.code, store.count("notes")) == (code, rows), done.err
            assert ("no vector was found" in done.err) is (code == 1)
    with sync.connect(config="aiovec.toml") as store:
        assert store.get("notes", ["r0"])[0].vector is None


def ids(*arguments: object) -> list[str]:
    hits = run("search", *arguments, "-s", "notes.db", "--json").json["hits"]
    return [hit["id"] for hit in hits]


def test_a_search_by_text_embeds_as_the_table_describes() -> None:
    with sync.connect("notes.db", embedder="demo") as store:
        store.create_table("notes", Schema(fields=FIELDS, embed=Embed("body")))
        store.insert("notes", ROWS)
    for options in ([], ["--by", "vector"], ["--embedder", "demo"]):
        assert ids("notes", "open sockets", *options)[0] == "net"
    Path("more.jsonl").write_text('{"id": "walk", "body": "walking through a tree"}\n')
    assert run("import", "more.jsonl", "--table", "notes", "-s", "notes.db").code == 0
    assert ids("notes", "tree walks")[0] == "walk"


def test_a_new_table_with_an_embedder_needs_the_option_once() -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("schema.json").write_text(Schema(fields=FIELDS, embed=Embed("body")).to_json())
    new = ("import", "rows.jsonl", "--table", "notes", "--schema", "schema.json", "-s", "notes.db")
    done = run(*new)
    assert (done.code, "--embedder KIND" in done.err, "connect(" in done.err) == (1, True, False)
    assert run(*new, "--embedder", "demo").code == 0
    made = ("create", "more", "--text", "body", "--embed", "body", "-s", "notes.db")
    assert run(*made).code == 1
    for incomplete in ("http://127.0.0.1:9/v1", "openai", '{"kind": "openai", "model": "m"}'):
        done = run(*made, "--embedder", incomplete)
        assert (done.code, '"model": "…", "dim": 768' in done.err) == (2, True), done.err
    assert run(*made, "--embedder", "demo", "--json").json["schema"]["dim"] == 256
    assert run("import", "rows.jsonl", "--table", "more", "-s", "notes.db").code == 0
    for table in ("notes", "more"):
        assert ids(table, "open sockets")[0] == "net"


def test_a_command_trusts_only_the_embedder_that_its_user_names() -> None:
    asyncio.run(a_table(Path("notes.db"), {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}))
    done = run("search", "notes", "words", "-s", "notes.db")
    assert done.code == 1
    for words in ("http://127.0.0.1:9/v1", "--embedder KIND", "--config FILE"):
        assert words in done.err
    Path("theirs.py").write_text(
        "def embed(texts):\n    return [[1.0 + len(text)] * 8 for text in texts]\n"
    )
    for given in ("theirs:embed", '{"kind": "theirs:embed"}'):
        assert len(ids("notes", "words", "--embedder", given)) == 2
    for wrong in ("ollama", "{", '{"api_key": "sk-secret-1"}'):
        done = run("search", "notes", "words", "--embedder", wrong, "-s", "notes.db")
        assert done.code != 0
        assert "sk-secret" not in done.err
