"""Loads by an engine, here one that adds the rows itself; tests/ray has Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.harness.command import run
from tests.harness.packages import install

from .support import error_of, jsonl, numbered, rows_of

ENGINE = """
import pickle
from aiovec.backend.changes import Upsert
from aiovec.backend.engine import Loaded
from aiovec.backend.rows import Batch
from aiovec.backend.threads import in_thread

runs = set()

class Own:
    def close(self): ...
    async def index(self, backend, table, kind, options): ...
    async def optimize(self, backend, table): ...
    async def load(self, backend, table, run, sources, read, seen):
        if run in runs:
            return Loaded(0, 1)
        count = 0
        read = pickle.loads(pickle.dumps(read))  # as for a worker on another machine
        for source in sources:
            for rows in await in_thread(lambda: list(read(source, table.schema))):
                await backend.write(table, Upsert(Batch.of_table(rows, table.schema)))
                count += len(rows)
        runs.add(run)
        return Loaded(count)

connect = lambda address, place: Own()
"""


@pytest.fixture(autouse=True)
def _engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = "[aiovec.engines]\nown = adding_engine:connect"
    monkeypatch.syspath_prepend(install(folder / "site", "own", entry, adding_engine=ENGINE))


LOAD = ("import", "a.*", "b.*", "--table", "notes", "--engine", "own", "-s")


def test_an_engine_gets_the_checked_rows_of_all_files(folder: Path, store: Path) -> None:
    jsonl(folder / "a.jsonl", [*numbered("a"), {"id": "bad", "embedding": [1]}])
    (folder / "b.csv").write_text('id,embedding\nb,"[1,0]"\nc,"[0,1]"\n')
    assert "a.jsonl, line 2: the vector has 1 dim" in error_of(*LOAD, store)
    jsonl(folder / "a.jsonl", numbered("a"))
    done = run(*LOAD, store)
    assert done.out.startswith("imported 3 rows from 2 files "), done.err
    assert sorted(rows_of(store)) == ["a", "b", "c"]


def test_a_corrected_file_of_equal_length_is_loaded_again(folder: Path, store: Path) -> None:
    first, other = (jsonl(folder / f"{name}.jsonl", numbered(name)) for name in "ab")
    done = run(*LOAD, store)
    assert (done.code, done.out.split(" from ")[0]) == (0, "imported 2 rows"), done.err
    done = run(*LOAD, store)
    assert (done.code, done.out.split(" from ")[0]) == (0, "imported 0 rows"), done.err
    assert "notes: skipped 2 files" in done.err
    assert f"(size, modification time): {first}, {other}" in done.err
    assert run(*LOAD, store, "--json").json["tables"][0]["skipped"] == [str(first), str(other)]
    size = os.path.getsize(first)
    jsonl(first, numbered("c"))
    assert os.path.getsize(first) == size
    done = run(*LOAD, store)
    assert (done.code, done.out.split(" from ")[0], done.err) == (0, "imported 2 rows", "")
    assert sorted(rows_of(store)) == ["a", "b", "c"]


def test_an_engine_gets_a_file_of_the_users_folder(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home").mkdir()
    jsonl(folder / "home" / "a.jsonl", numbered("a"))
    done = run("import", "~/a.jsonl", "--table", "notes", "--engine", "own", "-s", store)
    assert (done.code, done.out.split(" from ")[0]) == (0, "imported 1 row"), done.err
