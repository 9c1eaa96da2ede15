"""CSV: what each cell means, what is refused and where, and pieces that end anywhere."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness.values import EVERY_KIND, rows_of_every_kind

import aiovec
from aiovec import AiovecError, ConfigError, Field, Schema
from aiovec._transfer import csv_files, save
from aiovec.backend import Hints

from .support import bring, rejected

SCHEMA = Schema(
    2,
    fields={
        "title": str, "year": int, "score": float, "open": bool, "seen": datetime,
        "tags": list[str],
    },
)  # fmt: skip


def cells_of(data: bytes) -> list[list[bytes | None] | str]:
    return [record.cells for record in csv_files.Records(io.BytesIO(data))]


async def brought(
    path: Path, data: bytes | str, schema: Schema | None = SCHEMA, hints: Hints | None = None
) -> dict[str, dict[str, object]]:
    """Import a file; the fields of each row."""
    path = path / "notes.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    async with aiovec.connect(":memory:") as store:
        await bring(store, path, schema=schema, hints=hints)
        return {record.id: dict(record.fields) for record in await store.find("notes")}


async def test_cells_have_the_types_of_the_schema(tmp_path: Path) -> None:
    found = await brought(
        tmp_path,
        "id,embedding,title,year,score,open,seen,tags,extra,payload\r\n"
        '1,"[1, 0]",plain,2020,1.5,TRUE,2024-02-03T04:05:06Z,'
        '"[""a"", ""b""]",007,"{""k"": [1]}"\r\n'
        '"2","[0,1]","a ""quote"",\r\nand more",+7.0,-1e3,0,,[],"",\r\n'
        '3,"[1,1]",,,,,,,,\r\n'
        '4,"[1,1]","",-3,2,false,2024-02-03 04:05:06+02:00,,5" disk,{}',
    )
    moment = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert found["1"] == {
        "title": "plain", "year": 2020, "score": 1.5, "open": True, "seen": moment,
        "tags": ["a", "b"], "extra": "007", "k": [1],
    }  # fmt: skip
    assert found["2"]["title"] == 'a "quote",\r\nand more'
    assert (found["2"]["year"], found["2"]["score"], found["2"]["open"]) == (7, -1000.0, False)
    assert (found["2"]["tags"], found["2"]["extra"]) == ([], "")
    assert set(found["3"].values()) == {None}
    assert "extra" not in found["3"]
    assert found["4"]["title"] == ""
    assert found["4"]["extra"] == '5" disk'
    assert found["4"]["seen"] == datetime(2024, 2, 3, 2, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'b,"[1,0]"', "it has 2 cells, and the first line names 3 columns"),
        (b'b,"[1,0]",1,', "it has 4 cells, and the first line names 3 columns"),
        (b"b,[1,0],1", "it has 4 cells, and the first line names 3 columns"),
        (b'b,"[1,0]"x,1', "there is text behind the quote that ends a cell"),
        (b'b,"[1,0]",1.5', "column 'year': must be a whole number, not '1.5'"),
        (b'b,"[1,0]",1_000', "column 'year': must be a whole number, not '1_000'"),
        (b'b,"[1,0]","\xc2\xb2"', "column 'year': must be a whole number, not '\xb2'"),
        (b'b,"[1,0]",\xff', "column 'year': is no UTF-8"),
        (b'b,"[1 0]",1', "column 'embedding': must be a vector, a list of numbers in JSON"),
        (b'b,"[1,0,0]",1', "the vector has 3 dimensions, not 2"),
        (b"b,,1", "the vector"),
        (b'b,"[NaN,0]",1', "the vector has nan in it"),
        (b'b,"[1,0]",' + b"9" * 30, "field 'year'"),
        (b'b,"[1,0]","1\n2"', "column 'year': must be a whole number, not '1\\n2'"),
    ],
)
async def test_a_bad_row_is_listed_and_the_others_are_taken(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    schema = Schema(2, fields={"year": int})
    data = b'id,embedding,year\na,"[1,0]",1\n\n' + line + b'\nc,"[0,1]",\n'
    assert set(await brought(tmp_path, data, schema)) == {"a", "c"}
    ((place, (_, found)),) = rejected(tmp_path).items()
    assert place == 4
    assert found.startswith(reason)


async def test_payloads_that_are_none(tmp_path: Path) -> None:
    data = (
        'id,embedding,payload,other\na,"[1,0]",[],x\nb,"[1,0]",nothing,x\n'
        'c,"[1,0]","{""other"": 1}",x\nd,"[1,0]","{""k"": 1, ""k"": 2}",x\n'
        f'e,"[1,0]","{"[" * 100_000}",x\nf,"[1,0]","{{""k"": 1}}",x\n'
    )
    assert await brought(tmp_path, data) == {
        "f": {"k": 1, "other": "x", **dict.fromkeys(SCHEMA.fields)}
    }
    reasons = dict(rejected(tmp_path).values())
    assert set(reasons) == set("abcde")
    assert "an object in JSON" in reasons["a"]
    assert "which is a column too" in reasons["c"]
    assert "occurs twice" in reasons["d"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"id;embedding;year\na;[1,0];1\n", "separated by semicolons"),
        (b"id\tembedding\n", "separated by tabs"),
        (b"id,embedding,id\n", "several columns of one name ('id')"),
        (b"id,,embedding\n", "column 2 of"),
        (b'id,"",embedding\n', "column 2 of"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "no UTF-8"),
        ("id,embedding\na,b\n".encode("utf-16"), "in UTF-8"),
        (b"\x7fELF\0\0\0", "NUL bytes"),
        (b'"id,embedding\na,b\n', "never closed"),
        (b'id,name\na,"[]"\n', "no vector was found in the first lines"),
        (b"id,embedding", "no vector was found"),
    ],
)
async def test_files_that_are_no_csv(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await brought(tmp_path, data, None)
    assert reason in str(caught.value)


async def test_columns_by_hints(tmp_path: Path) -> None:
    data = 'key,id,v,w\na,1,"[1,0]","[1,2,3]"\n'
    with pytest.raises(ConfigError, match="no vector was found"):
        await brought(tmp_path, data, None)
    hints = Hints(id_column="key", vector_column="v")
    assert await brought(tmp_path, data, None, hints) == {"a": {"_id": "1", "w": "[1,2,3]"}}
    for wrong in (Hints(id_column="none"), Hints(vector_column="none")):
        with pytest.raises(ConfigError, match="has no column 'none'; its columns: key, id, v, w"):
            await brought(tmp_path, data, None, wrong)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_ends_of_lines_and_a_mark_at_the_beginning(tmp_path: Path, end: str) -> None:
    lines = ["\ufeffid,embedding,t", 'a,"[1,0]",x\0y', "", 'b,"[0,1]","1\r2\n3\r\n4"', "c,,", ""]
    assert await brought(tmp_path, end.join(lines), None) == {
        "a": {"t": "x\0y"}, "b": {"t": "1\r2\n3\r\n4"},
    }  # fmt: skip
    # The line break in the cell of "b" counts as three.
    assert list(rejected(tmp_path)) == [8]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_end_anywhere(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'a,"b""c",\r\n"",x"y,"1\r\n2"\r"",\n\n"z"z,1\r\n,\n"""",",","\n"'
    whole = cells_of(data)
    assert whole == [
        [b"a", b'b"c', None], [b"", b'x"y', b"1\r\n2"], [b"", None],
        "there is text behind the quote that ends a cell", [None, None], [b'"', b",", b"\n"],
    ]  # fmt: skip
    lines = [record.number for record in csv_files.Records(io.BytesIO(data))]
    assert lines == [1, 2, 4, 6, 7, 8]
    monkeypatch.setattr(csv_files, "_READ_BYTES", size)
    assert cells_of(data) == whole
    assert [record.number for record in csv_files.Records(io.BytesIO(data))] == lines


@pytest.mark.parametrize("size", [1, 5, 2**20])
def test_a_row_that_is_too_long_is_passed_over(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_READ_BYTES", size)
    monkeypatch.setattr(csv_files, "LONGEST_LINE", 20)
    for long in (
        b"x" * 50, b'"' + b'x""\r\n' * 20 + b'"', b"1," * 30, b'1,"' + b"\n," * 30 + b'",2',
        b'"' + b"x" * 10 + b'",' + b'x""' * 30,
    ):  # fmt: skip
        found = list(csv_files.Records(io.BytesIO(b"a,b\n" + long + b"\r\nc,d\n")))
        assert [record.cells for record in found[::2]] == [[b"a", b"b"], [b"c", b"d"]]
        assert str(found[1].cells).startswith("the row is longer")
        assert found[2].number == 3 + long.count(b"\n")


@pytest.mark.parametrize("size", [1, 5, 2**20])
def test_a_row_of_too_many_cells_is_passed_over(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_READ_BYTES", size)
    monkeypatch.setattr(csv_files, "_MOST_CELLS", 5)
    assert cells_of(b"1,2,3,4,5\n") == [[b"1", b"2", b"3", b"4", b"5"]]
    for long in (
        b"," * 5,
        b"," * 30,
        b'"1",' * 30,
        b"1," * 9 + b'"\n,""",' + b',"x\ny"',
        b"1," * 9 + b'2"',
    ):
        found = list(csv_files.Records(io.BytesIO(b"a,b\n" + long + b"\r\nc,d\n")))
        assert [record.cells for record in found[::2]] == [[b"a", b"b"], [b"c", b"d"]]
        assert str(found[1].cells).startswith("the row has more than")
        assert found[2].number == 3 + long.count(b"\n")


def test_random_rows_are_read_as_python_reads_them() -> None:
    import random

    random.seed(3)
    for _ in range(300):
        rows = [
            ["".join(random.choices('a",\r\n;é', k=random.randrange(6))) for _ in range(3)]
            for _ in range(5)
        ]
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
        found = cells_of(text.getvalue().encode())
        assert found == [[cell.encode() for cell in row] for row in rows]


def test_garbage_ends() -> None:
    import random

    random.seed(4)
    for _ in range(2_000):
        data = bytes(random.choices(b'a",\r\n\0\xff', k=random.randrange(40)))
        for record in csv_files.Records(io.BytesIO(data)):
            assert record.number <= 1 + data.count(b"\n") + data.count(b"\r")


async def test_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    schema = Schema(2, fields={"n": int, "f": float, "b": bool, "s": str, "l": list[int]})
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", schema)
        await store.insert(
            "notes",
            [
                {"id": "a", "embedding": [1, 0], "n": 1, "f": 0.5, "b": True, "s": 'q"', "l": [1],
                 "k": {"x": None}},
                {"id": "b", "embedding": [0, 1], "s": ""},
            ],
        )  # fmt: skip
        saved = await save(store, "notes", path, select=["n", "f", "b", "s", "l", "payload"])
        assert saved.files == (path,)
        assert path.read_text("utf-8") == (
            '"id","n","f","b","s","l","payload"\n'
            '"a",1,0.5,true,"q""","[1]","{""k"":{""x"":null}}"\n"b",,,,"",,\n'
        )


async def test_every_kind_on_lancedb(tmp_path: Path) -> None:
    rows = rows_of_every_kind(20)
    async with aiovec.connect(f"lancedb://{tmp_path}/store.lancedb") as store:
        assert store.backend_name == "lancedb"
        await store.create_table("before", EVERY_KIND)
        await store.insert("before", rows)
        await save(store, "before", tmp_path / "rows.csv")
        done = await bring(store, tmp_path / "rows.csv", "after")
        assert (done.rows, done.rejected) == (20, 0)
        assert await store.schema("after") == EVERY_KIND
        ids = [row["id"] for row in rows]
        assert await store.get("after", ids) == await store.get("before", ids)


async def test_files_that_stand_in_the_way(tmp_path: Path) -> None:
    place = tmp_path / "store.lancedb"
    async with aiovec.connect(f"lancedb://{place}") as store:
        await store.create_table("notes", Schema(2, fields={"f": Field(str)}))
        for path in (place / "notes.csv", tmp_path, tmp_path / "none" / "notes.csv"):
            with pytest.raises(AiovecError):
                await save(store, "notes", path, form="csv", overwrite=True)
        path = tmp_path / "notes.csv"
        await save(store, "notes", path)
        with pytest.raises(ConfigError, match="--overwrite"):
            await save(store, "notes", path)
        await save(store, "notes", path, overwrite=True)
        assert json.loads((tmp_path / "notes.schema.json").read_text("utf-8"))["dim"] == 2
