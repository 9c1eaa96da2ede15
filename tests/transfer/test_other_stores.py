"""Folders of LanceDB, broken importers and rows without ids; tests/imports has other stores."""

from __future__ import annotations

import re
import shutil
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.harness.cases import case
from tests.harness.command import run
from tests.harness.packages import install

from aiovec import Record, Schema

from .support import assert_rejects, bring, error_of, jsonl, made, rows_of, schema_of

lancedb = pytest.importorskip("lancedb")

COUNT, DIM = 2_500, 8
VECTORS = np.random.default_rng(3).normal(size=(COUNT, DIM)).astype(np.float32)


def vectors(matrix: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def lance(folder: Path, columns: dict[str, Any], name: str = "notes") -> Any:
    return lancedb.connect(folder).create_table(name, pa.table(columns))


def in_order(rows: dict[str, Record]) -> list[Record]:
    return sorted(rows.values(), key=lambda row: row["n"])


def test_a_lancedb_folder_keeps_rows_vectors_and_types(folder: Path, store: Path) -> None:
    at = datetime(2024, 2, 29, 12, tzinfo=UTC)
    other = folder / "other"
    table = lance(
        other,
        {
            "id": [f"n{i}" for i in range(COUNT)],
            "vector": vectors(VECTORS),
            "n": pa.array(range(COUNT), pa.int32()),
            "at": pa.array([at] * COUNT, pa.timestamp("ms", "UTC")),
            "naive": pa.array([at.replace(tzinfo=None)] * COUNT, pa.timestamp("us")),
            "tags": [["a", f"t{i}"] for i in range(COUNT)],
            "deep": [{"x": i} for i in range(COUNT)],
            "price": pa.array([Decimal("1.50")] * COUNT, pa.decimal128(9, 2)),
            "raw": [b"1"] * COUNT,
            "title": vectors(VECTORS[:, :2].astype(np.float16)),
            "tokens": pa.array([[[1.0, 2.0]]] * COUNT, pa.list_(pa.list_(pa.float32(), 2))),
        },
    )
    table.create_index(
        "vector", config=lancedb.index.IvfFlat(distance_type="cosine", num_partitions=1)
    )
    done = bring(other, store, code=1)
    assert (done["rows"], done["rejected"], done["missing"]) == (COUNT, 0, 0)
    assert done["omitted"] == [
        "the vectors title (dense)",
        "the vectors tokens (several for each row)",
        "the column raw (binary)",
    ]
    schema, rows = schema_of(store), rows_of(store)
    assert (schema.metric, schema.vector) == ("cosine", "vector")
    assert {name: field.kind for name, field in schema.fields.items()} == {
        "n": "int", "at": "datetime", "tags": "list[text]",
    }  # fmt: skip
    for i in range(COUNT):
        row = rows[f"n{i}"]
        np.testing.assert_array_equal(row.vector, VECTORS[i])
        assert dict(row.fields) == {
            "n": i, "at": at, "naive": "2024-02-29T12:00:00", "tags": ["a", f"t{i}"],
            "deep": {"x": i}, "price": 1.5,
        }  # fmt: skip
    assert done["notes"] == []
    titles = bring(other, folder / "t.db", "--vector-column", "title", "--allow-rejects")
    assert (titles["dim"], titles["rows"]) == (2, COUNT)


def test_rows_of_a_lancedb_folder_without_a_vector_are_rejected(folder: Path, store: Path) -> None:
    other, kind = folder / "other", pa.list_(pa.float32(), 2)
    table = lance(other, {"id": ["a"], "vector": pa.array([[1.0, 2.0]], kind)})
    table.add(pa.table({"id": ["b", "c"], "vector": pa.array([None, None], kind)}))
    assert bring(other, store, code=1)["rows"] == 1
    assert_rejects(other, {2: "the vector is", 3: "the vector is"})


def test_an_id_that_comes_twice_in_a_lancedb_folder_is_rejected(folder: Path, store: Path) -> None:
    other = folder / "other"
    lance(other, {"id": ["a", "b", "a"], "vector": vectors(VECTORS[:3]), "n": [0, 1, 2]})
    assert bring(other, store, code=1)["rows"] == 2
    assert_rejects(other, {3: ("a", "an earlier row of the source has this id")})
    assert {id: row["n"] for id, row in rows_of(store).items()} == {"a": 0, "b": 1}


def test_a_lancedb_folder_without_an_index_has_the_metric_that_is_given(folder: Path) -> None:
    other = lance(folder / "bare", {"vector": vectors(VECTORS[:9]), "n": list(range(9))})
    for options, metric, notes in (
        ((), "l2", ["nothing names the metric; the table gets l2 unless you pass --metric"]),
        (("dot",), "dot", []),
    ):  # fmt: skip
        given = ("--metric", *options) if options else ()
        done = bring(folder / "bare", folder / f"{metric}.db", *given)
        assert (done["rows"], done["metric"], done["notes"]) == (9, metric, notes)
    assert other.count_rows() == 9


def test_each_table_of_a_lancedb_folder_is_imported_or_named(folder: Path, store: Path) -> None:
    other = folder / "other"
    lance(other, {"vector": vectors(VECTORS[:2])}, "One")
    lance(other, {"vector": vectors(VECTORS[:3])}, "two")
    lance(other, {"n": [1]}, "numbers")
    done = run("import", other, "-s", store)
    assert done.code == 0, done.err
    assert "left out, without dense vectors: numbers" in done.err
    assert len(rows_of(store, "two")) == 3
    done = run(
        "import", f"lancedb:{other}#One", "-s", folder / "one.db", "--table", "one", "--json"
    )
    assert (done.code, done.json["tables"][0]["rows"]) == (0, 2)
    for name, why in (
        ("three", "there are: One, numbers, two"),
        ("numbers", "numbers has no dense vectors; it has: none"),
    ):
        assert why in error_of("import", f"lancedb:{other}#{name}", "-s", folder / "none.db")
    assert not (folder / "none.db").exists()


# A column's value and type, and its value in the table, or the word for its omission.
_DAY = datetime(2024, 2, 29, tzinfo=UTC).replace(tzinfo=None)
ODD_COLUMNS: dict[str, tuple[Any, pa.DataType | None, Any]] = {
    "length": (timedelta(1), pa.duration("s"), "durations"),
    "raw": (b"x", None, "binary"),
    "fixed": (b"xy", pa.binary(2), "binary"),
    "raw_inside": ({"a": b"x", "b": 1}, None, "binary"),
    "raw_listed": ([b"x"], None, "binary"),
    "length_inside": ({"a": [timedelta(1)]}, None, "durations"),
    "time": (_DAY.time(), None, ...),
    "time_inside": ({"a": _DAY.time()}, None, ...),
    "naive_inside": ({"a": _DAY}, None, ...),
    "naive_listed": ([_DAY], None, ...),
    "price_inside": ({"a": Decimal("1.5")}, None, ...),
    "Year": (1, None, 1),
    "year": (2, None, 2),  # differs from a field in case alone, so it is a key of the payload
    "VECTOR": (3, None, 3),
}


@pytest.mark.parametrize("kind", ["lancedb", "parquet"])
def test_a_column_that_cannot_be_imported_is_named(folder: Path, store: Path, kind: str) -> None:
    columns = {
        name: pa.array([value] * 2, made_as) for name, (value, made_as, _) in ODD_COLUMNS.items()
    }
    columns |= {"id": pa.array(["a", "b"]), "vector": vectors(VECTORS[:2])}
    if kind == "lancedb":
        lance(folder / "notes", columns)
    else:
        pq.write_table(pa.table(columns), folder / "notes")
    more = ["--format", "parquet"] if kind == "parquet" else []
    done = bring(folder / "notes", store, *more, code=1)
    assert (done["rows"], done["rejected"]) == (2, 0)
    words = {name: word for name, (_, _, word) in ODD_COLUMNS.items() if isinstance(word, str)}
    assert done["omitted"] == [f"the column {name} ({word})" for name, word in words.items()]
    row = rows_of(store)["a"]
    assert set(row.fields) == set(ODD_COLUMNS) - set(words)
    for name, (_, _, wanted) in ODD_COLUMNS.items():
        if name not in words and wanted is not ...:
            assert row[name] == wanted
    assert set(schema_of(store).fields) == {"Year"}


def test_a_table_that_cannot_be_imported_is_named(folder: Path, store: Path) -> None:
    other = folder / "other"
    for name in ("bad", "good", "lost"):
        lance(other, {"vector": vectors(VECTORS[:2]), "n": [0, 1]}, name)
    shutil.rmtree(other / "bad.lance" / "_versions")
    (other / "bad.lance" / "_versions").mkdir()
    shutil.rmtree(other / "lost.lance" / "data")
    done = run("import", other, "-s", store, "--json", "--allow-rejects")
    assert done.code == 1
    assert [(facts["name"], facts["rows"]) for facts in done.json["tables"]] == [
        ("good", 2),
        ("lost", 0),
    ]
    assert set(done.json["failed"]) == {"bad", "lost"}
    assert "lost: cannot be imported: " in run("import", other, "-s", folder / "b.db").err
    assert "cannot be read" in error_of("import", f"{other}#lost", "-s", folder / "none.db")
    shutil.rmtree(other / "good.lance")
    error = error_of("import", other, "-s", folder / "none.db")
    assert re.search("no table can be imported: lost: .*; bad: ", error)
    assert not (folder / "none.db").exists()


BROKEN = {"gone": "import no_such_module_at_all", "none": "Kind = 3", "half": "def ("}


def test_a_broken_importer_stops_no_other(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder / "site")
    for name, code in BROKEN.items():
        module, source = f"{name}_source", f"open('asked', 'w').close()\n{code}"
        entry = f"[aiovec.sources]\na-{name} = {module}:Kind"
        install(folder / "site", module, entry, **{module: source})
    lines = jsonl(folder / "notes.jsonl", [{"id": "a", "embedding": [1, 2]}])
    assert bring(lines, store)["rows"] == 1
    assert not (folder / "asked").exists()  # the suffix says what it is
    lance(folder / "other", {"id": ["a"], "vector": vectors(VECTORS[:1])})
    assert bring(folder / "other", folder / "b.db")["rows"] == 1
    plain = lines.rename(folder / "plain.dat")
    assert bring(plain, folder / "c.db", "--format", "jsonl")["rows"] == 1
    (folder / "empty").mkdir()
    for source in ("plain.dat", "empty"):
        refused = run("import", source, "-s", folder / "d.db")
        assert refused.code == 1
        for name in BROKEN:
            assert f"the source 'a-{name}' ({name}_source:Kind) is unusable" in refused.err
    assert "No module named 'no_such_module_at_all'" in error_of(
        "import", "a-gone:here", "-s", folder / "d.db"
    )


def test_a_client_that_cannot_open_a_store_says_what_it_missed(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
from aiovec_import.stores.common import CollectionSource
class Kind(CollectionSource):
    layout, names, collection, points = "torn store", None, None, None
    recognise = classmethod(lambda kind, path: True)
    def open(self, place):
        raise FileNotFoundError(2, "No such file", "segments/7/vectors.bin")
"""
    install(folder / "site", "torn", "[aiovec.sources]\ntorn = torn:Kind", torn=code)
    monkeypatch.syspath_prepend(folder / "site")
    error = error_of("import", "torn:here", "-s", store)
    assert "the store cannot be read" in error
    assert "segments/7/vectors.bin" in error


def test_a_place_without_a_source_is_refused(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(f"lancedb://{folder}/ours", Schema(2), [{"id": "a", "embedding": [1, 2]}])
    for name in ("empty", "old"):
        (folder / name).mkdir()
    (folder / "old" / "chroma.sqlite3").touch()
    monkeypatch.setitem(sys.modules, "chromadb", None)
    for source, why in {
        "ours": "is an aiovec store",
        "empty": "is not a store of a kind that import knows: chroma, faiss",
        "chroma:empty": "there is no Chroma collection at empty",
        "chroma:old": "pip install chromadb",
        "qdrant:nowhere#docs": "there is no Qdrant collection at nowhere",
        "pinecone:docs": "there is no file",
        "none.db#docs": "there is no file none.db",
        "sqlite:///none.db#docs": "if you mean that, write none.db",
        "sqlite+aiosqlite:///none.db": "if you mean that, write none.db",
        "mysql://me:secret@host/db#docs": "import does not read mysql:// addresses; it reads files",
        "host=db password=secret": "there is no file host=db password=***",
        "https://example.com/docs.csv": "Download the file, or export",
        "https://example.com/guide.md": "import does not read https:// addresses",
    }.items():
        with case(source):
            error = error_of("import", source, "-s", store)
            assert why in error
            assert "secret" not in error
    assert list((folder / "empty").iterdir()) == []
    assert not store.exists()
    watch = error_of("watch", "postgresql://me:secret@host/db#docs", "-s", store)
    assert "cannot be watched without embed" in watch
    assert "secret" not in watch


@pytest.mark.parametrize("kind", ["lancedb", "parquet", "jsonl", "csv"])
def test_rows_without_ids_get_new_ones_in_their_order(folder: Path, store: Path, kind: str) -> None:
    columns = {"n": list(range(COUNT)), "emb": vectors(VECTORS), "id": ["same"] * COUNT}
    path, table = folder / f"notes.{kind}", pa.table(columns)
    if kind == "lancedb":
        path = folder / "notes"
        lance(path, columns)
    elif kind == "parquet":
        pq.write_table(table, path)
    elif kind == "jsonl":
        jsonl(path, table.to_pylist())
    else:
        lines = [f'{row["n"]},"{row["emb"]}",same' for row in table.to_pylist()]
        path.write_text("\n".join(["n,emb,id", *lines]))
    assert bring(path, store, "--id-column", "none")["rows"] == COUNT
    rows = rows_of(store)
    assert [row.id for row in in_order(rows)] == sorted(rows)
    for row, vector in zip(in_order(rows), VECTORS, strict=True):
        np.testing.assert_array_equal(row.vector, vector)
        assert row["id_"] == "same"
    if kind == "parquet":
        assert "pass --id-column none for new ids" in error_of(
            "import", path, "-s", folder / "x.db", "--id-column", "key"
        )
