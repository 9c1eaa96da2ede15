"""Loads by a cluster's workers add all rows once or none, whatever fails or is killed."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.lancedb.buckets import Bucket, s3_server

import aiovec
from aiovec import StoreBusyError, sync

from .cluster import Cluster, suppressed_end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DIM, FILES, ROWS = 384, 8, 2500
ALL = FILES * ROWS
LOAD = ("import", "--table", "docs")
LOADED = f"imported {ALL:,} rows from 8 files (parquet) into the new table docs"
LOADED_BEFORE = "imported 0 rows from 8 files (parquet) into docs"


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of files with 20,000 rows: ``r0`` to ``r19999``, with ``n`` 0 to 19999."""
    folder = tmp_path_factory.mktemp("parts")
    for number in range(FILES):
        write(folder / f"p{number}.parquet", number * ROWS, ROWS)
    return folder


def write(path: Path, start: int, count: int) -> None:
    vectors = np.random.default_rng(start).normal(size=(count, DIM)).astype(np.float32)
    numbers = list(range(start, start + count))
    table = pa.table(
        {
            "id": [f"r{n}" for n in numbers],
            "embedding": pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), DIM),
            "n": numbers,
            "note": ["x"] * count,
        }
    )
    pq.write_table(table, path)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with s3_server() as server:
        yield server


def check_all(target: str) -> None:
    """Check that each row exists once."""
    with sync.connect(target) as store:
        batches = list(store.export("docs", select=["n"]))
        ids = [id for batch in batches for id in batch.column("id").to_pylist()]
        assert len(ids) == len(set(ids)) == ALL
        assert store.count("docs", "n >= 0 AND note = 'x'") == ALL


def data_files(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("docs.lance/data/*.lance")]


def test_a_repeated_load_adds_nothing(cluster: Cluster, parts: Path, tmp_path: Path) -> None:
    target = f"lancedb://{tmp_path / 's'}"
    load = (*LOAD, parts / "*.parquet", "-s", target)
    code, said = cluster.run(*load)
    assert (code, said.splitlines()[0]) == (0, LOADED)
    check_all(target)
    code, said = cluster.run(*load)
    assert (code, said.splitlines()[0]) == (0, LOADED_BEFORE)
    assert "docs: skipped 8 files, because this load was complete" in said
    check_all(target)
    with sync.connect(target) as store:  # others write again, and the change feed knows the rows
        assert store.insert("docs", [{"id": "new", "embedding": [1.0] * DIM}]) == 1
        assert store.count("docs") == ALL + 1


def test_a_corrected_file_of_equal_length_is_another_load(cluster: Cluster, tmp_path: Path) -> None:
    """The load fails while the old rows exist."""
    target, path = f"lancedb://{tmp_path / 's'}", tmp_path / "a.jsonl"
    lines = "".join(f'{{"id": "r{n}", "embedding": [1, 0], "n": {100 + n}}}\n' for n in range(5))
    path.write_text(lines)
    load = (*LOAD, path, "-s", target)
    assert cluster.run(*load)[0] == 0
    path.write_text(lines.replace("r3", "q3").replace("104", "204"))
    code, said = cluster.run(*load)
    assert (code, "these ids already exist in the table 'docs': 'r0'" in said) == (1, True), said
    with sync.connect(target) as store:
        store.delete("docs", where="TRUE")
    code, said = cluster.run(*load)
    assert (code, said.split(" from ")[0]) == (0, "imported 5 rows"), said
    with sync.connect(target) as store:
        rows = {row.id: row["n"] for row in store.find("docs")}
    assert rows == {"r0": 100, "r1": 101, "r2": 102, "q3": 103, "r4": 204}


def test_a_second_load_adds_only_new_ids_in_one_commit(
    cluster: Cluster, parts: Path, tmp_path: Path
) -> None:
    """Existing ids are refused; the table has rows and indexes."""
    target = f"lancedb://{tmp_path / 's'}"
    schema = aiovec.Schema(
        DIM, fields={"n": aiovec.Field(int, index="btree"), "note": aiovec.Field(str, text=True)}
    )
    with sync.connect(target) as store:
        store.create_table("docs", schema)
    first, rest = parts / "p0.parquet", [parts / f"p{n}.parquet" for n in range(1, FILES)]
    assert cluster.run(*LOAD, first, "-s", target)[0] == 0
    code, said = cluster.run("index", "docs", "-s", target)
    assert code == 0, said
    with sync.connect(target) as store:
        store.delete("docs", ["r0"])
        versions = len(store.versions("docs"))
        rows = store.find("docs", limit=ROWS)
    write(tmp_path / "some.parquet", ROWS - 3, 5)
    code, said = cluster.run(*LOAD, tmp_path / "some.parquet", "-s", target)
    assert code == 1
    assert "these ids already exist in the table 'docs': 'r2497', 'r2498', 'r2499'" in said
    with sync.connect(target) as store:
        assert store.find("docs", limit=2 * ROWS) == rows
        assert store.insert("docs", [{"id": "other", "embedding": [1.0] * DIM}]) == 1
        assert len(store.versions("docs")) >= versions
    write(tmp_path / "r0.parquet", 0, 1)  # the row that was deleted
    load = (*LOAD, *rest, tmp_path / "r0.parquet", "-s", target)
    code, said = cluster.run(*load)
    assert code == 0, said
    code, said = cluster.run(*load)
    assert (code, said.splitlines()[0].split(" from ")[0]) == (0, "imported 0 rows"), said
    with sync.connect(target) as store:
        assert store.delete("docs", ["other"]) == 1
        assert len(store.search_text("docs", "x", limit=100_000)) == ALL
    check_all(target)
    code, said = cluster.run("optimize", "docs", "-s", target)
    assert code == 0, said
    check_all(target)


WORDS = aiovec.Field(str, text=True)


def test_workers_build_keyword_indexes_as_one_process(cluster: Cluster, tmp_path: Path) -> None:
    """Searches in their indexes return the same rows as searches in LanceDB's own index."""
    long = "w" * 60
    texts = [f"the word{n % 7} of résumés {long if n == 5 else ''} number {n}" for n in range(4000)]
    questions: list[tuple[str, dict[str, object]]] = [
        ("word3", {}), ('"number 17"', {}), (long, {}), ("resumes", {}), ("numb*", {}), ("ord", {}),
        ("the of 100", {}), ("word1 3999", {"match": "any"}),
    ]  # fmt: skip
    for analyzer in ("plain", "english", "ngram"):
        answers = []
        for by in ("ray", "here"):
            target = f"lancedb://{tmp_path / f'{analyzer}-{by}'}"
            with sync.connect(target) as store:
                schema = aiovec.Schema(2, fields={"body": WORDS}, analyzer=analyzer)
                store.create_table("docs", schema)
                for first in (0, 2000):
                    store.insert("docs", [
                        {"id": f"r{n}", "embedding": [1, n], "body": texts[n]}
                        for n in range(first, first + 2000)
                    ])  # fmt: skip
                if by == "here":
                    store.optimize("docs")
            if by == "ray":
                code, said = cluster.run("index", "docs", "-s", target, "--kind", "ivf_flat")
                assert code == 0, said
            with sync.connect(target) as store:
                (index,) = [near for near in store.indexes("docs") if near.kind == "text"]
                assert index.rows_unindexed == 0
                answers.append([
                    sorted(hit.id for hit in store.search_text("docs", text, limit=5000, **options))
                    for text, options in questions
                ])  # fmt: skip
        assert answers[0] == answers[1], analyzer
        assert all(answers[0][:3]), analyzer


def test_workers_build_an_index_for_upkeep(cluster: Cluster, parts: Path, tmp_path: Path) -> None:
    target = f"lancedb://{tmp_path / 's'}"
    assert cluster.run(*LOAD, parts / "*.parquet", "-s", target)[0] == 0
    code, said = cluster.run("index", "docs", "-s", target)
    assert code == 0, said
    assert "ivf_rq on embedding (20,000 rows, recall 0.9" in said
    questions = np.random.default_rng(9).normal(size=(20, DIM))
    with sync.connect(target) as store:
        approximate = [{hit.id for hit in hits} for hits in store.search_many("docs", questions)]
        exact = [
            {hit.id for hit in hits} for hits in store.search_many("docs", questions, exact=True)
        ]
        shared = sum(len(near & other) for near, other in zip(approximate, exact, strict=True))
        assert shared / 200 > 0.8
        vector = [50.0, *[0.0] * (DIM - 1)]
        store.insert("docs", [{"id": "new", "embedding": vector}])
        assert store.search("docs", vector, limit=1)[0].id == "new"
        store.optimize("docs")  # this process maintains the index
        (index,) = store.indexes("docs")
        assert (index.kind, index.rows_unindexed) == ("ivf_rq", 0)
        assert store.stats("docs").details["unindexed_ids"] == 0
    code, said = cluster.run("optimize", "docs", "-s", target)
    assert code == 0, said
    with sync.connect(target) as store:
        assert store.count("docs") == ALL + 1


def test_a_refused_load_leaves_no_rows_and_no_files(
    cluster: Cluster, parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    target = f"lancedb://{folder}"
    shutil.copy(parts / "p3.parquet", tmp_path / "again.parquet")
    code, said = cluster.run(*LOAD, parts / "*.parquet", tmp_path / "again.parquet", "-s", target)
    assert code == 1
    assert "these ids occur more than once" in said
    assert "r7" in said
    (tmp_path / "bad.jsonl").write_text('{"id": "b", "embedding": [1, 2]}\n')
    code, said = cluster.run(*LOAD, parts / "*.parquet", tmp_path / "bad.jsonl", "-s", target)
    assert code == 1
    assert "bad.jsonl" in said
    with sync.connect(target) as store:
        assert store.count("docs") == 0
        assert data_files(folder) == []
        assert store.insert("docs", [{"id": "a", "embedding": [1.0] * DIM}]) == 1
    code, said = cluster.run(*LOAD, "x.parquet", "-s", f"lancedb://{tmp_path / 'absent'}")
    assert (code, "there is no file" in said) == (1, True)
    assert not (tmp_path / "absent").exists()
    for command in ((*LOAD, parts / "p0.parquet"), ("index", "docs"), ("optimize", "docs")):
        code, said = cluster.run(*command, "-s", tmp_path / "notes.db")
        assert (code, "tables of LanceDB; name a folder lancedb:///PATH" in said) == (1, True)
    assert not (tmp_path / "notes.db").exists()


def kill_amid(cluster: Cluster, folder: Path, load: tuple[object, ...], role: str, at: int) -> str:
    """Kill the driver or a worker once this many files exist; return the driver's output."""
    driver = cluster.start_command(*load)
    while len(data_files(folder)) < at and driver.poll() is None:
        time.sleep(0.001)
    if role == "driver":
        driver.kill()
    else:
        for worker in cluster.workers()[:1]:
            with suppressed_end():
                worker.kill()
    out, err = driver.communicate(timeout=250)
    return out + err


def check_kills(cluster: Cluster, parts: Path, tmp_path: Path, role: str, rounds: int) -> None:
    chance = random.Random(rounds)
    for number in range(rounds):
        folder = tmp_path / f"s{number}"
        target = f"lancedb://{folder}"
        load = (*LOAD, parts / "*.parquet", "-s", target)
        said = kill_amid(cluster, folder, load, role, chance.randrange(1, FILES + 1))
        with sync.connect(target) as store:
            rows = store.count("docs")
            assert rows in (0, ALL), (said, rows)
            if role == "driver" and not rows:
                with pytest.raises(StoreBusyError, match="run the same command again"):
                    store.insert("docs", [{"id": "x", "embedding": [1.0] * DIM}])
        code, said = cluster.run(*load)
        assert code == 0, said
        check_all(target)
        # The files of the killed loads are gone; only one load's files are left.
        assert len(data_files(folder)) == FILES, (role, number)
        shutil.rmtree(folder)


@pytest.mark.parametrize("role", ["worker", "driver"])
def test_a_killed_load_adds_all_rows_or_none(
    cluster: Cluster, parts: Path, tmp_path: Path, role: str
) -> None:
    check_kills(cluster, parts, tmp_path, role, rounds=2)


@pytest.mark.soak(minutes=30)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("role", ["worker", "driver"])
def test_many_killed_loads_add_all_rows_or_none(
    cluster: Cluster, parts: Path, tmp_path: Path, role: str
) -> None:
    check_kills(cluster, parts, tmp_path, role, rounds=10)


def test_a_killed_load_can_be_abandoned_by_dropping_the_table(
    cluster: Cluster, parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    target = f"lancedb://{folder}"
    kill_amid(cluster, folder, (*LOAD, parts / "*.parquet", "-s", target), "driver", 1)
    code, said = cluster.run(*LOAD, parts / "p0.parquet", "-s", target)
    assert (code, "another load" in said) == (1, True)
    with sync.connect(target) as store:
        with pytest.raises(StoreBusyError):
            store.add_field("docs", "extra", aiovec.Field(str))
        store.drop_table("docs")
    assert cluster.run(*LOAD, parts / "p0.parquet", "-s", target)[0] == 0
    with sync.connect(target) as store:
        assert store.count("docs") == ROWS
