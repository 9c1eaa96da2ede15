"""A migration can change the embedding model, with an embedder in the TOML file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import Embed, Schema

from . import embedder
from .conftest import Run
from .support import WAYS, contents_at, write_toml

EMBEDDERS = """
[retrieval.embedders.default]
kind = "tests.migrate.embedder:old"
model = "old"
dim = 4
[retrieval.embedders.newer]
kind = "tests.migrate.embedder:new"
model = "new"
dim = 3
[retrieval.embedders.wrong]
kind = "tests.migrate.embedder:wrong"
model = "new"
dim = 3
"""
SCHEMA = Schema(
    4, model="old", fields={"body": str, "n": int}, embed=Embed("body"), vector_nullable=True
)


@pytest.fixture(autouse=True)
def _no_failure() -> None:
    embedder.failing = False
    embedder.seen.clear()


async def a_store(config: Path) -> None:
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": f"r{n}", "body": f"text {n}"} for n in range(99)])
        await store.insert("notes", [{"id": "neither", "embedding": None, "body": None}])
        await store.insert("notes", [{"id": "none", "embedding": [1, 2, 3, 4], "body": None}])


async def delete(config: Path, id: str) -> None:
    async with aiovec.connect(config=config) as store:
        await store.delete("notes", id)


async def use(config: Path, backend: str) -> dict[str, Any]:
    """Write and search texts in the store in use, and return its vectors by id."""
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == backend
        schema = await store.schema("notes")
        assert schema.model == "new"
        assert schema.embed is not None
        assert schema.embed.recipe == {"kind": "tests.migrate.embedder:new"}
        await store.insert("notes", [{"id": "since", "body": "written since"}])
        [hit] = await store.search("notes", "text 7", limit=1, exact=True)
        assert hit["body"] == "text 7"
    return await vectors(config)


async def vectors(config: Path) -> dict[str, Any]:
    """Return the vectors of the store in use by id."""
    async with aiovec.connect(config=config) as store:
        records = await store.find("notes", limit=200, include_vector=True)
    return {row.id: None if row.vector is None else row.vector.tolist() for row in records}


@pytest.mark.parametrize("way", ["there", pytest.param("back", marks=pytest.mark.slow)])
def test_every_vector_is_computed_anew(run: Run, tmp_path: Path, way: str) -> None:
    """One model is used there, and the other on the way back."""
    source, target = WAYS[way]
    config = write_toml(tmp_path, source, more=EMBEDDERS)
    asyncio.run(a_store(config))
    given = ["--config", config, "--to", target, "--switch", "--embedder", "newer"]
    code, out, _ = run("plan", *given)
    assert code == 0
    assert "2 rows of the table 'notes' have no 'body'" in out
    # A row with a vector but no text is not skipped.
    code, _, err = run("run", *given)
    assert code == 1
    assert "'none'" in err
    asyncio.run(delete(config, "none"))
    embedder.seen.clear()
    embedder.failing = True
    code, _, err = run("run", *given)
    assert code == 1
    assert "the service is gone" in err
    embedder.failing = False
    code, _, err = run("run", *given)
    assert code == 0, err
    wanted = {f"r{n}": embedder.vector(f"text {n}") for n in range(99)}
    code, out, err = run("verify", "--config", config)
    assert (code, "100 rows, equal but for the vectors, which are of two models" in out) == (
        0,
        True,
    )
    result = asyncio.run(use(config, target))
    code, out, _ = run("verify", "--config", config)
    assert (code, "is in use and has newer writes" in out) == (0, True)
    assert result == {
        **wanted, "neither": None, "since": pytest.approx(embedder.vector("written since")),
    }  # fmt: skip
    # Back with the old model: only vectors of rows written since are computed.
    code, _, err = run(
        "run", "--config", config, "--to", source, "--switch", "--embedder", "default"
    )
    assert code == 0, err
    back = asyncio.run(vectors(config))
    assert back == {
        **{f"r{n}": embedder.old_vector(f"text {n}") for n in range(99)}, "neither": None,
        "since": embedder.old_vector("written since"),
    }  # fmt: skip


def test_an_embedding_that_would_be_passed_over_is_refused(run: Run, tmp_path: Path) -> None:
    config = write_toml(tmp_path, "sqlite", more=EMBEDDERS)
    given = ["--config", config, "--to", "lancedb", "--switch"]
    embedded = ["--embedder", "newer", "--from-field", "body"]

    async def written() -> None:
        async with aiovec.connect(config=config) as store:
            await store.create_table("notes", Schema(4, model="old", fields={"body": str}))
            rows = [{"id": "a", "embedding": [1, 2, 3, 4], "body": "text"}]
            await store.insert("notes", rows)

    asyncio.run(written())
    for command in ("plan", "run"):
        code, _, err = run(command, *given, "--from-field", "body")
        assert (code, "add --embedder" in err) == (1, True), err
    assert run("run", *given)[0] == 0
    # The apps have switched, with the old vectors.
    for end in ([], ["--from", "sqlite"]):
        code, _, err = run("run", *given, *embedded, *end)
        assert code == 1
        assert "model is 'old', not 'new'" in err
        assert "run in the other direction" in err
    code, out, _ = run("plan", *given, *embedded, "--from", "sqlite")
    assert code == 1
    assert "model is 'old', not 'new'" in out
    back = ["--config", config, "--to", "sqlite", "--switch", *embedded]
    for _ in range(2):  # the repeated command has nothing to do
        code, out, err = run("run", *back)
        assert code == 0, err
        assert "switched: apps use" in out
    assert asyncio.run(vectors(config)) == {"a": embedder.vector("text")}


def test_a_copy_with_new_vectors_is_verified_but_for_them(run: Run, tmp_path: Path) -> None:
    config = write_toml(tmp_path, "sqlite", more=EMBEDDERS)
    asyncio.run(a_store(config))
    asyncio.run(delete(config, "none"))
    ends = ["--config", config, "--from", "sqlite", "--to", "lancedb"]
    assert run("run", *ends, "--embedder", "newer")[0] == 0
    code, out, err = run("verify", *ends)
    assert code == 0, err
    assert "table   notes: 100 rows, equal but for the vectors, which are of two models" in out
    asyncio.run(delete(config, "r7"))
    code, out, _ = run("verify", *ends)
    assert (code, "1 only in the target" in out, "NOT EQUAL" in out) == (1, True, True)
    code, _, err = run("verify", *ends, "--repair")
    assert (code, "run with that --embedder" in err) == (1, True)


def test_a_table_still_describes_its_embedder_after_a_move(run: Run, tmp_path: Path) -> None:
    config = write_toml(tmp_path, "sqlite")

    async def written() -> None:
        async with aiovec.connect(config=config, embedder="demo") as store:
            await store.create_table("notes", Schema(fields={"body": str}, embed=Embed("body")))
            await store.insert("notes", [{"id": t, "body": t} for t in ("zip files", "sockets")])

    async def search() -> tuple[str, str]:
        async with aiovec.connect(config=config) as store:
            (hit,) = await store.search("notes", "open a socket", limit=1)
            return store.backend_name, hit.id

    asyncio.run(written())
    assert run("run", "--config", config, "--to", "lancedb", "--switch")[0] == 0
    assert asyncio.run(search()) == ("lancedb", "sockets")


@pytest.mark.slow
def test_vectors_that_are_none_of_the_model_end_in_one_line(run: Run, tmp_path: Path) -> None:
    config = write_toml(tmp_path, "sqlite", more=EMBEDDERS)
    asyncio.run(a_store(config))
    asyncio.run(delete(config, "none"))
    before = asyncio.run(contents_at(config=config))
    given = ["--config", config, "--to", "lancedb", "--embedder"]
    code, _, err = run("run", *given, "wrong")
    assert code == 1
    assert "2" in err.splitlines()[-1]
    code, _, err = run("run", *given, "absent")
    assert code == 1
    assert "absent" in err
    code, _, err = run("run", *given, "newer", "--from-field", "n")
    assert code == 1
    assert "made from the field 'body'" in err
    assert run("abort", "--config", config)[0] == 0
    assert asyncio.run(contents_at(config=config)) == before
