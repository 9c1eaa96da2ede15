"""Good rows are imported, others rejected with their place; ``--strict`` is all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from tests.harness.command import run, run_process

from aiovec import F, Schema, sync

from .support import (
    Row,
    assert_one_error,
    assert_rejects,
    bring,
    jsonl,
    made,
    numbered,
    refused,
    rejected,
    rows_of,
    schema_of,
)  # fmt: skip

EXISTS = "the id already exists in the table"

# Rows, and the beginning of the reason for which each is rejected; "" for a good row.

LINES: list[tuple[Row | str, str]] = [
    ({"id": "a", "embedding": [1, 0]}, ""),
    ("{broken", "not valid JSON: "),
    ("[1, 2]", "not a JSON object"),
    ("", ""),
    ({"id": "short", "embedding": [1]}, "the vector has 1 dimensions, not 2"),
    ({"id": "none", "embedding": None}, "the vector is missing"),
    ({"id": "absent"}, "the vector is missing"),
    ({"id": "nan", "embedding": [1, float("nan")]}, "the vector has nan in it"),
    ({"id": "huge", "embedding": [1, 1e39]}, "the vector has 1e+39 in it"),
    ({"id": "zero", "embedding": [0, 0]}, "the vector is zero, so it has no cosine"),
    ({"embedding": [1, 0]}, "field 'id': every row needs an id"),
    ({"id": 7, "embedding": [0, 1], "year": 1}, ""),
    ({"id": "a", "embedding": [1, 1]}, "an earlier row of the source has this id"),
    ({"id": "deep", "embedding": [1, 1], "inf": float("inf")}, ""),
    ({"id": "", "embedding": [1, 1]}, "field 'id': an id must be text of 1 to 512 bytes without"),
    ({"id": "text", "embedding": "[1, 1]"}, "the vector is str, not a sequence of numbers"),
    ('{"id": "bad", "embedding": [1, 1], "t": "\\ud800"}', "field 't': the text is not valid"),
    ('{"id": "twice", "embedding": [1, 1], "id": "twice"}', "the key 'id' occurs twice in an"),
    ('{"id": "x", "embedding": [1, 1], "m": {"x": 1, "x": 2}}', "the key 'x' occurs twice in an"),
    ('{"id": "large", "embedding": [1, 1], "m": 1e400}', "the number 1e400 is beyond"),
]
COLUMNS: list[tuple[tuple[Any, Any, float], str]] = [
    (("a", [1, 0], 1), ""),
    (("b", None, 1), "the vector is missing"),
    ((None, [1, 1], 1), "field 'id': every row needs an id"),
    (("d", [1], 1), "the vector has 1 dimensions, not 2"),
    (("e", [1, None], 1), "the vector"),
    (("f", [float("inf"), 1], 1), "the vector has inf in it; its numbers must be finite and at"),
    (("g", [0, 0], 1), "the vector is zero, so it has no cosine"),
    (("h", [2, 2], float("nan")), "field 'score': NaN cannot be stored; use None"),
    (("i", [3, 3], 1), ""),
]
CELLS: list[tuple[str, str]] = [
    ('a,"[1,0]",1', ""),
    ('b,"[1,0]"', "it has 2 cells, and the first line names 3 columns"),
    ("b,[1,0],1", "it has 4 cells, and the first line names 3 columns"),
    ('b,"[1,0]",1.5', "field 'year': must be a whole number of up to 64 bits, not 1.5"),
    ('b,"[1,0]",1_000', "field 'year': must be a whole number"),
    ('b,"[1 0]",1', "the vector is str, not a sequence of numbers"),
    ('b,"[1,0,0]",1', "the vector has 3 dimensions, not 2"),
    ("b,,1", "the vector"),
    ('b,"[NaN,0]",1', "the vector has nan in it"),
    ('b,"[1,0]",' + "9" * 30, "field 'year'"),
    # A vector must be valid JSON.
    *((f'd,"{cell}",1', "the vector") for cell in ("[.5,1]", "[+1,1]", "[01,1]", "[1.,1]", "[]")),
    ('c,"[0,1]",', ""),
]


def in_parquet(path: Path) -> None:
    ids, vectors, scores = zip(*(row for row, _ in COLUMNS), strict=True)
    embedding = pa.array(vectors, pa.list_(pa.float64()))
    pq.write_table(pa.table({"id": ids, "embedding": embedding, "score": scores}), path)


def in_csv(path: Path) -> None:
    (path.parent / "schema.json").write_text('{"dim": 2, "fields": {"year": "int"}}')
    path.write_text("\n".join(["id,embedding,year", *(row for row, _ in CELLS)]))


BAD_ROWS: dict[str, tuple[Callable[[Path], Any], list[Any], int, tuple[str, ...], str]] = {
    # The writer of the file, its rows, the place of the first, options, and the good ids.
    "notes.jsonl": (lambda path: jsonl(path, [row for row, _ in LINES]), LINES, 1, (), "7 a deep"),
    "notes.parquet": (in_parquet, COLUMNS, 0, (), "a i"),
    "notes.csv": (in_csv, CELLS, 2, ("--schema", "schema.json"), "a c"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_each_bad_row_is_rejected_by_its_place_and_the_others_are_imported(
    folder: Path, store: Path, name: str
) -> None:
    write, rows, first, options, ids = BAD_ROWS[name]
    write(folder / name)
    done = bring(folder / name, store, *options, code=1)
    assert sorted(rows_of(store)) == ids.split()
    reasons = {place: reason for place, (_, reason) in enumerate(rows, first) if reason}
    assert (done["created"], done["rejected"]) == (True, len(reasons))
    assert_rejects(folder / name, reasons)


def test_cells_get_the_types_of_the_schema(folder: Path, store: Path) -> None:
    fields = {
        "title": str, "year": int, "score": float, "open": bool, "seen": datetime,
        "tags": list[str],
    }  # fmt: skip
    made(store, Schema(2, fields=fields))
    path = folder / "notes.csv"
    path.write_bytes(
        b"\xef\xbb\xbfid,embedding,title,year,score,open,seen,tags,extra,payload\r\n"
        b'1,"[1, 0]",plain,2020,1.5,TRUE,2024-02-03T04:05:06Z,'
        b'"[""a"", ""b""]",007,"{""k"": [1]}"\r\n'
        b'"2","[0,1]","a ""quote"",\r\nand more",-7,-1e3,false,,[],"",\r\n'
        b'3,"[1,1]",,,,,,,,\r\n'
        b'4,"[1,1]","",inf,1e400,,,,,\r\n'
    )
    assert bring(path, store, code=1)["rejected"] == 1  # "inf" is no int, and 1e400 no float
    stored = {id: dict(row.fields) for id, row in rows_of(store).items()}
    assert stored["1"] == {
        "title": "plain", "year": 2020, "score": 1.5, "open": True, "tags": ["a", "b"],
        "seen": datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC), "extra": "007", "k": [1],
    }  # fmt: skip
    assert stored["2"]["title"] == 'a "quote",\r\nand more'
    assert (stored["2"]["year"], stored["2"]["score"], stored["2"]["open"]) == (-7, -1000.0, False)
    assert (stored["2"]["tags"], stored["2"]["extra"]) == ([], "")
    assert set(stored["3"].values()) == {None}
    assert set(stored) == {"1", "2", "3"}


def test_a_payload_key_that_is_also_a_column_is_rejected(folder: Path, store: Path) -> None:
    """Neither value is lost silently; a declared field wins, as everywhere."""
    made(store, Schema(2, fields={"year": int}))
    path = folder / "notes.csv"
    path.write_text(
        "id,embedding,year,extra,payload\n"
        'a,"[1,0]",1,x,"{""extra"": 2}"\n'
        'b,"[1,0]",1,,"{""extra"": 2}"\n'
        'c,"[1,0]",1,x,"{""id"": ""d""}"\n'
        'e,"[1,0]",1,x,"{""year"": 2, ""k"": 3}"\n'
        'f,"[1,0]",1,x,[1]\n'
    )
    assert bring(path, store, code=1)["rejected"] == 3
    assert {id: dict(row.fields) for id, row in rows_of(store).items()} == {
        "b": {"year": 1, "extra": 2}, "e": {"year": 1, "extra": "x", "k": 3},
    }  # fmt: skip
    assert rejected(path) == {
        2: ("a", "column 'payload': has the key 'extra', which is a column too"),
        4: ("c", "column 'payload': has the key 'id', which is a column too"),
        6: ("f", "column 'payload': must be an object in JSON"),
    }


def test_a_vector_in_a_cell_keeps_each_bit(folder: Path, store: Path) -> None:
    cells = {"a": "[0.1, -2e-3]", "b": "[1,0]", "c": "[16777217,0.30000001192092896]"}
    path = folder / "notes.csv"
    path.write_text("id,embedding\n" + "".join(f'{id},"{cell}"\n' for id, cell in cells.items()))
    bring(path, store)
    for id, row in rows_of(store).items():
        assert row.vector is not None
        assert row.vector.tobytes() == np.float32(json.loads(cells[id])).tobytes()


def test_a_line_that_is_too_long_stops_the_import(folder: Path, store: Path) -> None:
    path = jsonl(folder / "notes.jsonl", numbered(*map(str, range(10_002))))
    with path.open("a") as file:
        file.write('{"id": "long", "text": "' + "x" * 2**24 + '"}\n')
    error = refused(path, store)
    assert "line 10003 is longer than 16,777,216 bytes" in error
    made(store, Schema(2))  # with a schema, no types are inferred first
    error = refused(path, store)
    assert "line 10003 is longer than 16,777,216 bytes" in error
    assert "kept before that: 10,000 rows of 'notes'" in error
    assert len(rows_of(store)) == 10_000


def test_a_repeated_id_is_rejected_or_replaces_with_upsert(folder: Path, store: Path) -> None:
    many = [f"n{n}" for n in range(10_000)]  # more than one write takes
    path = jsonl(folder / "notes.jsonl", numbered("a", "b", "c", "a", *many, "c", "c"))
    assert bring(path, store, code=1)["rows"] == 10_003
    reason = "an earlier row of the source has this id"
    # The earlier row of "c" was in another write.
    assert rejected(path) == {4: ("a", reason), 10_005: ("c", EXISTS), 10_006: ("c", reason)}
    done = bring(path, folder / "other.db", "--upsert")
    assert (done["rows"], done["rejected"]) == (10_006, 0)
    vector = rows_of(folder / "other.db")["c"].vector
    assert vector is not None
    assert vector.tolist() == [1, 10_005]  # the last one counts


def test_two_processes_import_each_row_of_a_new_table_once(folder: Path, store: Path) -> None:
    with sync.connect(store):
        pass
    paths = [folder / name / "notes.jsonl" for name in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        jsonl(path, numbered(*(f"n{n}" for n in range(3_000))))

    def imported(path: Path) -> Any:
        finished = run_process(
            "import", path, "-s", store, "--table", "notes", "--json", "--allow-rejects"
        )
        # An import fails if all its rows exist already.
        assert finished.code == 0 or f"the first: {EXISTS}" in finished.err, finished.err
        return finished.json["tables"][0] if finished.code == 0 else {"created": False, "rows": 0}

    with ThreadPoolExecutor() as pool:
        facts = list(pool.map(imported, paths))
    assert sum(table["rows"] for table in facts) == len(rows_of(store)) == 3_000
    # The process that creates the table fails if the other process has imported every row.
    created = sum(table["created"] for table in facts)
    assert created == 1 or (created == 0 and {table["rows"] for table in facts} == {0, 3_000})
    listed = [path for path in paths if path.with_name(f"{path.name}.rejects.jsonl").exists()]
    reasons = {reason for path in listed for _, reason in rejected(path).values()}
    assert reasons == {EXISTS}


# All or nothing


def test_strict_imports_nothing_if_a_row_is_bad(folder: Path, store: Path) -> None:
    path = jsonl(folder / "notes.jsonl", [*numbered("a", "b"), "broken", *numbered("b")])
    assert "2 rows cannot be imported, so none was" in refused(path, store, "--strict")
    assert not store.exists()
    assert set(rejected(path)) == {3, 4}
    made(store, Schema(2), numbered("a"))
    before = rows_of(store)
    bad: list[list[Row | str]] = [[*numbered("x", "y"), "broken"], [*numbered("x", "a", "y")]]
    for rows in bad:
        assert "1 row cannot be imported, so none was" in refused(
            jsonl(path, rows), store, "--strict"
        )
        assert [line[0] for line in run("tables", "-s", store).lines[1:]] == ["notes"]
        assert rows_of(store) == before
    assert rejected(path).popitem()[1] == ("a", EXISTS)
    assert bring(path, store, "--strict", "--upsert")["rows"] == 3
    assert sorted(rows_of(store)) == ["a", "x", "y"]
    new = bring(jsonl(path, numbered("a", "b")), store, "--strict", table="new")
    assert (new["created"], new["rows"]) == (True, 2)


def test_strict_creates_no_table_whose_embedder_gives_the_length(folder: Path, store: Path) -> None:
    (folder / "schema.json").write_text(
        '{"dim": 0, "fields": {"text": "text"}, "embed": {"field": "text"}}'
    )
    path = jsonl(folder / "notes.jsonl", [{"id": "a", "text": "x"}, "broken"])
    options = ("--schema", str(folder / "schema.json"), "--embedder", "demo", "--strict")
    assert "1 row cannot be imported, so none was" in refused(path, store, *options)
    assert [line[0] for line in run("tables", "-s", store).lines[1:]] == []


def test_a_file_without_a_good_row_creates_no_store(folder: Path, store: Path) -> None:
    (folder / "schema.json").write_text('{"dim": 3}')
    path = jsonl(folder / "notes.jsonl", numbered("a", "b"))
    error = refused(path, store, "--schema", "schema.json")
    assert "not one of 2 rows could be imported; the first: the vector" in error
    assert set(rejected(path)) == {1, 2}
    assert not store.exists()
    good = jsonl(folder / "notes.jsonl", numbered("a", "b"))
    assert bring(good, store)["rows"] == 2
    assert not (folder / "notes.jsonl.rejects.jsonl").exists()
    error = refused(good, store)
    assert f"not one of 2 rows could be imported; the first: {EXISTS}" in error
    assert "--upsert replaces the rows that exist" in error


# The target table


def test_rows_are_added_to_an_existing_table_by_its_schema(folder: Path, store: Path) -> None:
    made(store, Schema(2, model="m", vector="v", fields={"year": int}), [{"id": "a", "v": [5, 5]}])
    rows: list[Row] = [{"id": id, "embedding": [1, 2], "year": 3, "k": "x"} for id in ("a", "b")]
    path = jsonl(folder / "notes.jsonl", rows)
    done = bring(path, store, code=1)
    assert (done["created"], done["rows"]) == (False, 1)
    assert rejected(path) == {1: ("a", EXISTS)}
    assert rows_of(store)["b"].fields == {"year": 3, "k": "x"}
    assert bring(path, store, "--upsert")["rows"] == 2
    (folder / "schema.json").write_text('{"dim": 2, "vector": "embedding"}')
    for options, why in (
        (["--model", "other"], "the model"),
        (["--metric", "dot"], "metric 'cosine'"),
        (["--schema", "schema.json"], "notes"),
    ):
        assert why in refused(path, store, *options)
    long = jsonl(folder / "long.jsonl", [{"id": "c", "embedding": [1, 2, 3]}])
    assert "dimensions" in refused(long, store)
    assert sorted(rows_of(store)) == ["a", "b"]


def test_options_name_the_columns_and_the_metric_of_a_new_table(folder: Path, store: Path) -> None:
    rows: list[Row] = [
        {"uuid": "u1", "id": "own", "vec": [1, 0], "embedding": [9, 9], "year": 3},
        {"id": "chunk-2", "vec": [0, 1]},
        {"uuid": "u3", "embedding": [1, 1]},
    ]
    path = jsonl(folder / "notes.jsonl", rows)
    named = ("--id-column", "uuid", "--vector-column", "vec", "--metric", "l2", "--model", "m")
    done = bring(path, store, *named, code=1)
    assert (done["rows"], done["rejected"]) == (1, 2)
    fields = {"embedding": list[int], "year": int}
    assert schema_of(store) == Schema(2, metric="l2", model="m", vector="vec", fields=fields)
    assert rows_of(store)["u1"].fields == {"id_": "own", "embedding": [9, 9], "year": 3}
    rejects = rejected(path)  # another key does not replace a named one
    assert rejects.pop(2) == (None, "field 'id': every row needs an id")
    ((id, reason),) = rejects.values()
    assert id == "u3"
    assert reason.startswith("the vector is missing (key 'vec')")
    assert "no vector was found" in refused(path, store, "--vector-column", "none", table="no")


def as_jsonl(path: Path, rows: list[Row]) -> Path:
    return jsonl(path.with_suffix(".jsonl"), rows)


def as_parquet(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("written", [as_jsonl, as_parquet])
def test_an_ambiguous_vector_column_has_to_be_named(
    folder: Path, store: Path, written: Callable[[Path, list[Row]], Path]
) -> None:
    usual: list[Row] = [
        {"id": "a", "scores": [1.0, 2.0, 3.0]},
        {"id": "b", "scores": [4.0, 5.0, 6.0], "embedding": [1.0, 2.0]},
    ]
    if written is as_jsonl:  # the usual name wins over lists in earlier lines
        done = bring(written(folder / "usual", usual), store, code=1, table="notes")
        assert (done["rows"], done["rejected"], done["dim"]) == (1, 1, 2)
    for rows in (
        [{"id": "a", "left": [1.0, 2.0], "right": [3.0, 4.0]}],  # either may be the vector
        [{"id": "a", "embedding": "[0.1 0.2]", "left": [52.5, 13.4]}],  # it cannot be read
    ):
        path = written(folder / "lists", rows)
        assert "with --vector-column" in refused(path, store, table="lists")
    assert bring(path, store, "--vector-column", "left", table="lists")["rows"] == 1
    # The table's schema names the vector, even if another list has a usual name.
    made(store, Schema(2, vector="emb"), table="own")
    rows = [{"id": id, "embedding": [9.5, 9.5], "emb": [0.5, 1.5]} for id in "ab"]
    assert bring(written(folder / "own", rows), store, table="own")["rows"] == 2
    for record in rows_of(store, "own").values():
        assert record.vector is not None
        assert (record.vector.tolist(), record["embedding"]) == ([0.5, 1.5], [9.5, 9.5])


def test_columns_of_any_type_become_fields_or_payload(folder: Path, store: Path) -> None:
    midsummer = datetime(2024, 6, 21, 22, tzinfo=UTC)
    table = pa.table(
        {
            "doc": pa.array([1, 2], pa.int64()),
            "emb": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64())),
            "year": pa.array([1, None], pa.int16()),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "seen": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * 2),
            "day": pa.array([date(2024, 1, 2)] * 2),
            "price": pa.array([Decimal("1.50")] * 2),
            "parts": pa.array([{"a": [1]}, {"a": None}]),
            "raw": pa.array([b"x", b"y"]),
            "odd name": pa.array(["p", "q"]),
            "at night": pa.array([midsummer, None], pa.timestamp("ns", "Europe/Berlin")),
        }
    )
    pq.write_table(table, folder / "notes.parquet")
    feather.write_feather(table, folder / "notes.feather")
    for name, to in (("notes.parquet", "one"), ("notes.feather", "two")):
        done = bring(folder / name, store, "--id-column", "doc", table=to, code=1)
        assert done["omitted"] == ["the column raw (binary)"]
        assert schema_of(store, to) == Schema(
            2, vector="emb", fields={"year": int, "kind": str, "seen": datetime}
        )
        assert rows_of(store, to)["1"].fields == {
            "year": 1, "kind": "x", "seen": datetime(2024, 1, 1, tzinfo=UTC), "day": "2024-01-02",
            "price": "1.50", "parts": {"a": [1]}, "odd name": "p",
            "at night": "2024-06-21T22:00:00.000000Z",
        }  # fmt: skip
        with sync.connect(store) as opened:  # filters compare text in this form as datetimes
            assert opened.count(to, F.payload["at night"] == midsummer) == 1


def test_texts_without_vectors_are_embedded_during_the_import(folder: Path, store: Path) -> None:
    path = folder / "notes.csv"
    path.write_text("id,n,body\na,1,open a socket\nb,2,read a zip file\nc,3,\n")
    for options in ((), ("--embedder", "demo")):
        assert "compute vectors from a text with --embed FIELD" in refused(path, store, *options)
    for field in ("n", "absent"):
        error = refused(path, store, "--embedder", "demo", "--embed", field)
        assert f"--embed {field}: name a text field" in error
        assert "body" in error
    assert not store.exists()
    embedded = ("--embedder", "demo", "--embed", "body", "--text", "body")
    done = bring(path, store, *embedded)
    assert (done["created"], done["rows"], done["model"]) == (True, 2, "aiovec-demo-hash-256")
    assert (done["new"], done["empty"]) == (2, 1)
    assert bring(path, store, *embedded)["unchanged"] == 2
    with sync.connect(store) as opened:
        (hit,) = opened.search("notes", "open sockets", limit=1)
        assert (hit.id, hit["n"]) == ("a", 1)
        opened.create_table("bare", Schema(2, fields={"body": str}, vector_nullable=True))
    error = refused(path, store, "--embed", "body", table="bare")
    assert "the table 'bare' exists, and --text, --index and --embed are for new tables" in error
    for option in ("--text", "--index"):
        error = refused(path, store, "--embed", "body", option, "absent", table="new")
        assert f"{option} absent: there is no such field; the fields: n, body" in error


# Files that cannot be read


def test_a_file_that_cannot_be_read_is_named_with_the_reason(folder: Path, store: Path) -> None:
    made(store, Schema(2, fields={"year": int}))
    columns = {"id": ["a"], "embedding": [[1.0, 2.0]], "year": ["text"]}
    table = pa.table(columns)
    pq.write_table(table, folder / "type.parquet")
    pq.write_table(table.drop(["id"]), folder / "no-id.parquet")
    pq.write_table(table, folder / "cut.parquet")
    (folder / "cut.parquet").write_bytes((folder / "type.parquet").read_bytes()[:-5])
    column = pa.array([[1.0, 2.0]])
    twice = pa.Table.from_arrays([pa.array(["a"]), column, column], ["id", "v", "v"])
    pq.write_table(twice, folder / "twice.parquet")
    deep = table.schema.with_metadata({b"aiovec.schema": b"[" * 100_000})
    pq.write_table(table.cast(deep), folder / "deep.parquet")
    files: dict[str, tuple[bytes | None, str]] = {
        "type.parquet": (None, "must be a whole number"),
        "no-id.parquet": (None, "no column 'id'"),
        "twice.parquet": (None, "several columns with one name ('v')"),
        "deep.parquet": (None, "nested too deeply"),
        "cut.parquet": (None, "cut.parquet cannot be read"),
        "a.parquet": (b"nonsense" * 10, "a.parquet cannot be read"),
        "a.arrow": (b"nonsense" * 10, "a.arrow cannot be read"),
        "a.arrows": (b"nonsense" * 10, "a.arrows cannot be read"),
        "empty.jsonl": (b"", "has no rows to make a table from"),
        "utf16.jsonl": (json.dumps(numbered("a")[0]).encode("utf-16"), "not valid JSON: "),
        "long.jsonl": (b'{"id": "' + b"x" * (20 * 2**20), "long.jsonl"),
        "deep.jsonl": (b'{"a":' + b"[" * 10**6, "deep.jsonl"),
        "empty.csv": (b"", "is empty"),
        "semicolons.csv": (b"id;embedding;year\na;[1,0];1\n", "separated by ';'"),
        "tabs.csv": (b"id\tembedding\n", r"separated by '\t'"),
        "packed.csv": (b"\x1f\x8b\x08\x00\n", "compressed by gzip"),
        "parquet.csv": (b"PAR1\x15\n", "pass --format parquet"),
        "twice.csv": (b"id,embedding,id\n", "several columns with one name ('id')"),
        "utf16.csv": ("id,embedding\na,b\n".encode("utf-16"), "UTF-8"),
        "quote.csv": (b'"id,embedding\na,b\n', "its first line is wrong"),
        "open.csv": (b'id,embedding,t\na,"[1,0]",x\nb,"[1,0]","open\nc,,x\n', "a quote is opened"),
        "first.csv": (b'id,embedding,t\na,"[1,0]","open\nb,,x\n', "a quote is opened"),
        "long.csv": (b'id,embedding,t\na,"[1,0]",' + b"x" * (40 * 2**20), "longer than 16 MiB"),
        "latin1.csv": (b'id,embedding,t\na,"[1,0]",\xe9\n', "can't decode byte 0xe9"),
        "width.csv": (b'id,embedding,t\na,"[1,0]",x\n\xe9\n', "can't decode byte 0xe9"),
        "none.csv": (b'id,name\na,"[]"\n', "no vector was found"),
        "cell.csv": (b'id,embedding\n"' + b"x" * (20 * 2**20), "cell.csv"),
        "a.what": (b"x", "--format"),
    }
    for name, (content, why) in files.items():
        path = folder / name
        if content is not None:
            path.write_bytes(content)
        assert why in refused(path, store), name
    assert rows_of(store) == {}


def test_quotes_within_unquoted_cells_are_text(folder: Path, store: Path) -> None:
    path = folder / "notes.csv"
    lines = ['1,"[1,0]",19" monitor', '2,"[0,1]",plain', '3,"[1,1]","two\nlines"']
    path.write_text("id,embedding,t\n" + "\n".join(lines))
    for table, options in (("notes", ()), ("declared", ("--schema", folder / "schema.json"))):
        (folder / "schema.json").write_text('{"dim": 2, "fields": {"t": "text"}}')
        assert bring(path, store, *options, table=table)["rows"] == 3
        texts = {id: row["t"] for id, row in rows_of(store, table).items()}
        assert texts == {"1": '19" monitor', "2": "plain", "3": "two\nlines"}
    # An unclosed quote at the beginning of a cell swallows the rest, even after other quotes.
    for end in ('4,"[1,0]","open\n5,,x\n', '4,"[1,0],open\n5,[1,0]\n', '4,"[1,0]","'):
        path.write_text("id,embedding,t\n" + "\n".join([*lines, end]))
        assert "a quote is opened and never closed" in refused(path, store, table="open")


def test_the_type_of_a_column_comes_from_all_its_rows(folder: Path, store: Path) -> None:
    csv = folder / "notes.csv"
    late = "\n".join(f"{n},,1,1,,,1,1,1," for n in range(3, 2_000))
    csv.write_text(
        "id,embedding,whole,number,flag,at,code,mixed,big,empty\n"
        '1,"[1,0]",-1,1,true,2026-01-31T12:00:00Z,007,1,9223372036854775807,\n'
        f'2,"[0,1]",,2.5e3,False,,8,2,1,\n{late}\n'
        '3000,"[1,1]",2,1,,,9,last,9223372036854775808,\n'
    )
    done = bring(csv, store, "--text", "code", "--index", "whole", "--allow-rejects")
    assert done["fields"] == {
        "whole": {"type": "int", "index": "btree"}, "number": "float", "flag": "bool",
        "at": "datetime", "code": {"type": "text", "text": True}, "mixed": "text", "big": "text",
    }  # fmt: skip
    assert dict(rows_of(store)["1"].fields) == {
        "whole": -1, "number": 1.0, "flag": True, "at": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "code": "007", "mixed": "1", "big": "9223372036854775807",
    }  # fmt: skip
    lines = jsonl(folder / "lines.jsonl", [
        {"id": "a", "embedding": [1, 0], "n": 1, "at": "2026-01-31T12:00:00Z", "tags": ["x"]},
        {"id": "b", "embedding": [1, 0], "n": 1.5, "at": None, "tags": [], "mixed": 1},
        {"id": "c", "embedding": [1, 0], "mixed": "one", "nested": {"a": 1}},
    ])  # fmt: skip
    other = folder / "other.db"
    assert bring(lines, other)["fields"] == {"n": "float", "at": "datetime", "tags": "list[text]"}
    assert dict(rows_of(other)["c"].fields)["nested"] == {"a": 1}
    assert "text must be a text field" in refused(lines, other, "--text", "n", table="new")
    assert "are for new tables" in refused(lines, other, "--index", "n")


def test_update_sets_the_columns_of_a_file_in_existing_rows(folder: Path, store: Path) -> None:
    schema = Schema(2, fields={"label": str, "score": float})
    made(store, schema, [row | {"label": "old", "kind": "x"} for row in numbered("a", "b", "c")])
    labels = folder / "labels.csv"
    labels.write_text("id,label,score,seen\na,new,0.5,true\nb,,1.5,\nz,new,1,\nc,,,\n", "utf-8")
    before = rows_of(store)
    command = ["update", "notes", labels, "-s", store]
    assert_one_error(run(*command, "--strict"))
    assert rows_of(store) == before
    done = run(*command, "--json")
    assert done.code == 0, done.err
    assert [done.json[name] for name in ("table", "updated", "absent")] == ["notes", 2, 1]
    after = rows_of(store)
    assert after["a"].fields == {"label": "new", "score": 0.5, "kind": "x", "seen": "true"}
    assert after["b"].fields == {"label": "old", "score": 1.5, "kind": "x"}
    assert after["c"] == before["c"]
    assert np.array_equal(after["a"].vector, [1.0, 0.0])
    columns = {"id": ["a", "b"], "label": ["p", None], "embedding": [[0.0, 1.0]] * 2}
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    command[1:3] = [folder / "labels.parquet"]  # leave out the table: there is only one
    assert "updated 2 rows of notes" in run(*command).out
    after = rows_of(store)
    assert [after[id]["label"] for id in "ab"] == ["p", None]
    assert np.array_equal(after["b"].vector, [0.0, 1.0])
    labels.write_text("id,score\na,1\nb,much\n", "utf-8")
    assert_one_error(run("update", labels, "-s", store))
    assert_one_error(run("update", "other", labels, "-s", store))
    assert_one_error(run("update", labels, "-s", folder / "none.db"))
    assert not (folder / "none.db").exists()
    assert rows_of(store) == after
