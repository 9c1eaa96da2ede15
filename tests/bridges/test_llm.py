"""``llm aiovec similar`` answers as ``llm similar`` does after any change of the collection."""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llm", reason="needs llm")

import llm
import llm_aiovec
import numpy as np
import sqlite_utils
from click.testing import CliRunner
from llm.cli import cli
from llm.plugins import pm
from tests.docs.blocks import blocks
from tests.harness.cases import case

import aiovec
from aiovec import sync

pytestmark = pytest.mark.slow


class Model(llm.EmbeddingModel):
    """A model with meaningless vectors: each text has a different one, and "zero" a zero vector."""

    def __init__(self, dim: int, model_id: str = "") -> None:
        self.model_id, self.dim = model_id or f"test-{dim}", dim

    def embed_batch(self, items: Iterator[str]) -> Iterator[list[float]]:
        for text in items:
            random = np.random.default_rng(list(sha256(text.encode()).digest()))
            yield [0.0] * self.dim if text == "zero" else random.normal(size=self.dim).tolist()


class Models:
    @llm.hookimpl
    def register_embedding_models(self, register) -> None:  # type: ignore[no-untyped-def]
        register(Model(8))
        register(Model(5))
        register(Model(384, "sentence-transformers/all-MiniLM-L6-v2"))  # the docs use it


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a user of llm with the plug-in and two models."""
    if "aiovec" not in cli.commands:  # the plug-in is not installed
        llm_aiovec.register_commands(cli)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.delenv("LLM_EMBEDDINGS_DB", raising=False)
    pm.register(Models(), "test-models")
    yield tmp_path
    pm.unregister(name="test-models")


def run(*arguments: str, status: int = 0, stdin: str | None = None) -> str:
    done = CliRunner().invoke(cli, arguments, input=stdin, catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.output


def embed(collection: str, *rows: str, model: str = "test-8", store: bool = True) -> None:
    """Embed texts that are also their ids."""
    entries = json.dumps([{"id": row, "text": row} for row in rows])
    options = ["--store"] * store
    run("embed-multi", collection, "-", "-m", model, *options, stdin=entries)


def answers(*question: str) -> list[str]:
    """Check that the answer is the same as that of ``llm similar``, and return its ids."""
    theirs, ours = run("similar", *question), run("aiovec", "similar", *question)
    assert ours == theirs
    return [json.loads(line)["id"] for line in ours.splitlines()]


def sql(user: Path, statement: str) -> None:
    with closing(sqlite3.connect(user / "embeddings.db", isolation_level=None)) as connection:
        connection.execute(statement)


def test_an_answer_equals_that_of_llm_similar(user: Path) -> None:
    embed("notes", *(f"Notes_{number}" for number in range(1500)))
    embed("notes", *(f"pages/{number}" for number in range(30)), store=False)
    run("embed", "notes", "red", "-c", "a red hat", "--store", "--metadata", '{"year": 2024}')
    (user / "question.txt").write_text("a red hat")
    with case("content"):
        assert answers("notes", "-c", "a red hat")[0] == "red"
        assert len(answers("notes", "-c", "another")) == 10
    with case("file"):
        assert answers("notes", "-i", str(user / "question.txt"), "-n", "3")[0] == "red"
    with case("id"):
        assert "Notes_7" not in answers("notes", "Notes_7", "-n", "2000")
    with case("number"):
        assert len(answers("notes", "-c", "x", "-n", "2000")) == 1531
    with case("prefix, whose case llm ignores"):
        assert len(answers("notes", "-c", "x", "--prefix", "PAGES/", "-n", "50")) == 30
        assert len(answers("notes", "-c", "x", "--prefix", "s_1", "-n", "50")) == 0
        assert len(answers("notes", "pages/1", "--prefix", "pages/", "-n", "50")) == 29
    with case("plain"):
        question = ("similar", "notes", "-c", "a red hat", "--plain", "-n", "2")
        assert run("aiovec", *question) == run(*question)
        assert run("aiovec", *question).startswith("red (")
    with case("another database"):
        other = str(user / "other.db")
        run("embed", "notes", "blue", "-c", "blue", "-d", other, "-m", "test-5")
        assert answers("notes", "-c", "x", "-d", other) == ["blue"]
        assert (user / "other.aiovec.db").exists()


def test_an_answer_follows_every_change_that_llm_makes(user: Path) -> None:
    embed("notes", "a", "b", "c")
    embed("other", "x", "y", model="test-5")
    assert sorted(answers("notes", "-c", "q")) == ["a", "b", "c"]
    with case("added and replaced"):
        embed("notes", "d")
        run("embed", "notes", "a", "-c", "another text", "--store")
        assert answers("notes", "-c", "another text", "-n", "1") == ["a"]
        assert sorted(answers("notes", "-c", "q")) == ["a", "b", "c", "d"]
    with case("deleted, and one deleted for one added"):
        sql(user, "DELETE FROM embeddings WHERE id = 'b'")
        assert sorted(answers("notes", "-c", "q")) == ["a", "c", "d"]
        sql(user, "DELETE FROM embeddings WHERE id = 'a'")  # the newest, whose rowid is free again
        embed("notes", "e")
        assert sorted(answers("notes", "-c", "q")) == ["c", "d", "e"]
    with case("the rowids are new, the rows are not"):
        sql(user, "DELETE FROM embeddings WHERE id = 'c'")
        sql(user, "VACUUM")
        embed("notes", "f")
        assert sorted(answers("notes", "-c", "q")) == ["d", "e", "f"]
    with case("made again, with another model and the same rows"):
        run("collections", "delete", "notes")
        embed("notes", "d", "e", "f", model="test-5")
        assert sorted(answers("notes", "-c", "q")) == ["d", "e", "f"]
    with case("a collection that is deleted leaves nothing behind"):
        assert sorted(answers("other", "-c", "q")) == ["x", "y"]
        run("collections", "delete", "notes")
        assert sorted(answers("other", "-c", "q")) == ["x", "y"]
        with sync.connect(user / "embeddings.aiovec.db") as store:
            (table,) = store.tables()
            assert store.count(table) == 2
    with case("without rows"):
        sql(user, "DELETE FROM embeddings")
        assert answers("other", "-c", "q") == []
    with case("a copy that is incomplete, or gone"):
        embed("other", "x", "y", "z", model="test-5")
        assert len(answers("other", "-c", "q")) == 3
        with sync.connect(user / "embeddings.aiovec.db") as store:
            store.delete(*store.tables(), ["x"])
        assert len(answers("other", "-c", "q")) == 3
        for file in user.glob("embeddings.aiovec.db*"):
            file.unlink()
        assert len(answers("other", "-c", "q")) == 3


def test_words_of_the_stored_content_rank_with_the_vectors(user: Path) -> None:
    embed("notes", *(f"text {number}" for number in range(200)), "wool hats", "zero")

    def ids(*question: str) -> list[str]:
        lines = run("aiovec", "similar", "notes", *question).splitlines()
        scores = [json.loads(line)["score"] for line in lines]
        assert scores == sorted(scores, reverse=True)
        return [json.loads(line)["id"] for line in lines]

    near = ids("-c", "question", "-n", "1")
    assert near != ["wool hats"]
    assert set(ids("-c", "question", "-w", "hats", "-n", "2")) == {"wool hats", *near}
    assert ids("--words", "wool hats", "-n", "1") == ["wool hats"]
    assert "wool hats" in ids("text 3", "--words", "hats", "-n", "2")
    assert "zero" in ids("-c", "question", "-w", "zero")  # it has no cosine
    assert "zero" not in ids("-c", "question", "-n", "1000")


def test_each_error_is_one_sentence(user: Path) -> None:
    def error(*arguments: str) -> str:
        return run("aiovec", "similar", *arguments, status=1)

    assert error("notes", "-c", "x") == "Error: No embeddings table found in database\n"
    embed("notes", "a", store=False)
    embed("gone", "a")
    sql(user, "UPDATE collections SET model = 'gone' WHERE name = 'gone'")
    assert error("nosuch", "-c", "x") == "Error: Collection 'nosuch' does not exist\n"
    assert error("notes", "nosuch") == "Error: ID not found\n"
    assert error("notes") == "Error: Must provide content or an ID for the comparison\n"
    assert error("gone", "-c", "x") == "Error: Unknown model: gone\n"
    assert "no row of the collection 'notes' has stored content" in error("notes", "-w", "x")
    assert "zero" in error("notes", "-c", "zero")
    assert "limit" in error("notes", "-c", "x", "-n", "0")
    (user / "embeddings.aiovec.db").write_bytes(b"the file of another program " * 99)
    assert "embeddings.aiovec.db" in error("notes", "-c", "x")


def test_a_program_searches_an_indexed_collection(user: Path) -> None:
    db = sqlite_utils.Database(user / "embeddings.db")
    notes = llm_aiovec.IndexedCollection("notes", db, model_id="test-8")
    notes.embed_multi([("a", "wool"), ("b", "hats")], store=True)
    assert notes.similar("hats", 1) == llm.Collection("notes", db).similar("hats", 1)
    notes.words = "wool"
    assert {entry.id for entry in notes.similar("hats")} == {"a", "b"}
    db.conn.close()


def test_a_collection_in_memory_is_searched_by_llm() -> None:
    memory = llm_aiovec.IndexedCollection("notes", model_id="test-8")
    memory.embed_multi([("a", "wool"), ("b", "hats")], store=True)
    assert [entry.id for entry in memory.similar("hats", 1)] == ["b"]
    assert [entry.id for entry in memory.similar_by_id("a", prefix="b")] == ["b"]
    memory.words = "wool"
    with pytest.raises(aiovec.InvalidArgumentError, match="words must be None for a collection in"):
        memory.similar("hats")
    memory.db.conn.close()


def test_the_code_of_its_page_runs(user: Path) -> None:
    page = "distributions/llm-aiovec/README.md"
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    commands = [shlex.split(line.removeprefix("$ llm ")) for line in lines]
    assert commands[0] == ["install", "llm-aiovec"]
    answers = [run(*command).splitlines() for command in commands[1:]]
    assert list(map(len, answers)) == [0, 0, 1, 1, 2, 2]
    names: dict[str, Any] = {}
    (program,) = blocks(page, "python")
    exec(program, names)
    assert set(names["ids"]) == {"loop", "store"}
    names["db"].conn.close()
