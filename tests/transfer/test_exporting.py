"""An exported file appears when it is complete, and replaces others only on request."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.harness.command import run

from aiovec import Schema

from .support import assert_one_error, bring, made, schema_of


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def out(folder: Path) -> Path:
    path = folder / "out"
    path.mkdir()
    return path


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, to simulate a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_an_export_that_fails_leaves_no_file(store: Path, out: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((3_000, 16))
    made(store, Schema(16), [{"id": str(i), "embedding": v} for i, v in enumerate(vectors)])
    for name in ("a.parquet", "a.arrow", "a.arrows", "a.jsonl", "b.csv"):
        (out / name).write_text("mine")
        for path in (out / f"new-{name}", out / name):
            with files_of_at_most(2**16):
                finished = run("export", "-s", store, "notes", path, "--overwrite")
            assert_one_error(finished)
            assert path.name in finished.err
    names = ("a.arrow", "a.arrows", "a.jsonl", "a.parquet", "b.csv")
    assert contents(out) == dict.fromkeys(names, "mine")


def test_an_export_replaces_a_file_only_with_overwrite(store: Path, out: Path) -> None:
    made(store, Schema(2, fields={"year": int}))
    path = out / "notes.jsonl"
    path.write_text("mine")
    finished = run("export", "-s", store, "notes", path)
    assert_one_error(finished)
    assert "--overwrite" in finished.err
    assert contents(out) == {"notes.jsonl": "mine"}
    assert run("export", "-s", store, "notes", path, "--overwrite").code == 0
    assert sorted(contents(out)) == ["notes.jsonl", "notes.jsonl.schema.json"]
    # An export without vectors has no schema, so the schema of the previous file is removed.
    assert run("export", "-s", store, "notes", path, "--select", "year", "--overwrite").code == 0
    assert contents(out) == {"notes.jsonl": ""}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_replaced_file_keeps_its_permissions(store: Path, out: Path) -> None:
    made(store, Schema(2), [{"id": "a", "embedding": [1, 2]}])
    for mode in (0o600, 0o640):
        path = out / f"{mode:o}.parquet"
        path.write_text("mine")
        path.chmod(mode)
        assert run("export", "-s", store, "notes", path, "--overwrite").code == 0
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_each_exported_file_has_its_own_schema(store: Path, out: Path) -> None:
    """Otherwise the rows of one table could be imported with the model of the other."""
    for table, suffix in (("notes", "jsonl"), ("others", "csv")):
        made(store, Schema(2, model=table), [{"id": table, "embedding": [1, 2]}], table)
        assert run("export", "-s", store, table, out / f"m.{suffix}").code == 0
    bring(out / "m.jsonl", store, table="back")
    assert schema_of(store, "back").model == "notes"
    (out / "own.csv.schema.json").write_text("mine")
    finished = run("export", "-s", store, "others", out / "own.csv")
    assert_one_error(finished)
    assert "--overwrite" in finished.err
    assert (out / "own.csv.schema.json").read_text() == "mine"
