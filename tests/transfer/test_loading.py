"""What can be taken is taken, what cannot is told; with strict it is all or nothing."""

from __future__ import annotations

import asyncio
import csv
import errno
import io
import json
import os
import stat
import threading
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import aiovec
from aiovec import (
    AiovecError,
    ConfigError,
    DimensionMismatchError,
    F,
    InvalidRowError,
    ModelMismatchError,
    Schema,
    SchemaMismatchError,
    TableExistsError,
    VectorStore,
)
from aiovec._transfer import Loaded, save
from aiovec._transfer import loading as loading_module
from aiovec._transfer import sifting as sifting_module
from aiovec._transfer.jsonlines import objects_in
from aiovec._transfer.parts import PartFile
from aiovec._transfer.sifting import sift
from aiovec.backend import Chunk, Hints, Reject

from .support import bring, bring_into, rejected

Row = dict[str, Any]


def lines(path: Path, rows: list[Row | str]) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def good(*ids: str) -> list[Row | str]:
    return [{"id": id, "embedding": [1.0, float(n)]} for n, id in enumerate(ids)]


def names_in(folder: Path) -> list[str]:
    """What lies beside the store."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("store.db"))


# Rejects


async def test_each_bad_line_is_told_and_the_rest_goes_on(
    store: VectorStore, tmp_path: Path
) -> None:
    path = lines(
        tmp_path / "notes.jsonl",
        [
            {"id": "a", "embedding": [1, 0]},
            "{broken",
            "[1, 2]",
            "",
            {"id": "short", "embedding": [1]},
            {"id": "none", "embedding": None},
            {"id": "absent"},
            {"id": "nan", "embedding": [1, float("nan")]},
            {"id": "huge", "embedding": [1, 1e39]},
            {"id": "zero", "embedding": [0, 0]},
            {"embedding": [1, 0]},
            {"id": 7, "embedding": [0, 1], "year": 1},
            {"id": "a", "embedding": [1, 1]},
            {"id": "deep", "embedding": [1, 1], "inf": float("inf")},
            {"id": "", "embedding": [1, 1]},
            {"id": "text", "embedding": "[1, 1]"},
            '{"id": "surrogate", "embedding": [1, 1], "t": "\\ud800"}',
        ],
    )
    done = await bring(store, path)
    assert (done.created, done.rows, done.rejected) == (True, 2, 14)
    assert [(r.id, dict(r.fields)) for r in await store.find("notes")] == [
        ("7", {"year": 1}), ("a", {}),
    ]  # fmt: skip
    found = rejected(tmp_path)
    assert found.pop(2)[1].startswith("not valid JSON: ")
    assert found.pop(16)[1] == "the vector is str, not a sequence of numbers"
    assert found == {
        3: (None, "not a JSON object"),
        5: ("short", "the vector has 1 dimensions, not 2"),
        6: ("none", "the vector is missing (key 'embedding')"),
        7: ("absent", "the vector is missing (key 'embedding')"),
        8: ("nan", "the vector has nan in it"),
        9: ("huge", "the vector has 1e+39 in it, too large for float32"),
        10: ("zero", "the vector is zero, so it has no cosine"),
        11: (None, "field 'id': every row needs an id"),
        13: ("a", "the id came before in the same source"),
        14: ("deep", "field 'inf': NaN and infinity are not JSON"),
        15: ("", "field 'id': an id is text of 1 to 512 bytes without NUL"),
        17: ("surrogate", "field 't': the text is not valid Unicode (a lone surrogate)"),
    }


async def test_bad_rows_of_parquet(store: VectorStore, tmp_path: Path) -> None:
    ids = ["a", "b", None, "d", "e", "f", "g", "h", "i"]
    vectors = [[1, 0], None, [1, 1], [1], [1, None], [float("inf"), 1], [0, 0], [2, 2], [3, 3]]
    table = pa.table(
        {
            "id": ids,
            "vector": pa.array(vectors, pa.list_(pa.float64())),
            "score": pa.array([1.0] * 7 + [float("nan"), 1.0]),
        }
    )
    pq.write_table(table, tmp_path / "notes.parquet")
    done = await bring(store, tmp_path / "notes.parquet")
    assert done.rows == 2
    assert [r.id for r in await store.find("notes")] == ["a", "i"]
    assert rejected(tmp_path) == {
        1: ("b", "the vector is missing"),
        2: (None, "field 'id': every row needs an id"),
        3: ("d", "the vector has 1 dimensions, not 2"),
        4: ("e", "the vector has a null in it"),
        5: ("f", "the vector has inf in it"),
        6: ("g", "the vector is zero, so it has no cosine"),
        7: ("h", "field 'score': NaN is no value; use None"),
    }


async def test_ids_that_come_twice_in_different_batches(store: VectorStore, tmp_path: Path) -> None:
    path = lines(tmp_path / "notes.jsonl", good("a", "b", "c", "a", "d", "c", "c"))
    done = await bring(store, path, rows_at_once=2)
    assert done.rows == 4
    reason = "the id came before in the same source"
    assert rejected(tmp_path) == {4: ("a", reason), 6: ("c", reason), 7: ("c", reason)}
    await store.drop_table("notes")
    done = await bring(store, path, upsert=True, rows_at_once=2)
    assert (done.rows, done.replaced, done.rejected) == (7, 3, 0)
    (record,) = await store.get("notes", "c")
    assert record.vector.tolist() == [1, 6]  # the last one counts


async def test_a_file_of_which_nothing_fits_leaves_no_table(
    store: VectorStore, tmp_path: Path
) -> None:
    path = lines(tmp_path / "notes.jsonl", [{"id": "a", "vec": [1, 2]}, {"id": "b", "vec": [1]}])
    with pytest.raises(
        InvalidRowError, match="not one of 2 could be imported; the first: the vector"
    ):
        await bring(store, path, schema=Schema(2))
    assert await store.tables() == []


async def test_a_list_of_rejects_that_no_longer_holds_goes(
    store: VectorStore, tmp_path: Path
) -> None:
    path = lines(tmp_path / "n.jsonl", [*good("a"), {"id": "b", "embedding": [0, 0]}])
    assert (await bring(store, path)).rejected == 1
    assert len(rejected(tmp_path)) == 1
    lines(path, good("a", "b"))
    with pytest.raises(SchemaMismatchError):
        await bring(store, path, schema=Schema(3), upsert=True)
    assert len(rejected(tmp_path)) == 1  # nothing was imported since
    assert (await bring(store, path, "other")).rows == 2
    assert len(rejected(tmp_path)) == 1  # it is of another table
    assert (await bring(store, path, upsert=True)).rows == 2
    assert names_in(tmp_path) == ["n.jsonl"]


async def test_an_export_under_a_name_that_is_too_long(store: VectorStore, tmp_path: Path) -> None:
    """For its schema alone, so that the name itself is a legal one."""
    await store.create_table("notes", Schema(2))
    for name in (f"{'x' * 250}.csv", f"{'x' * 300}.csv", f"{'x' * 300}.parquet"):
        with pytest.raises(AiovecError, match="too long"):
            await save(store, "notes", tmp_path / name)
    assert names_in(tmp_path) == []


async def test_the_rejects_are_listed_only_where_there_are_some(
    store: VectorStore, tmp_path: Path
) -> None:
    await bring(store, lines(tmp_path / "notes.jsonl", good("a")))
    assert names_in(tmp_path) == ["notes.jsonl"]


def test_thousands_of_bad_vectors_are_found_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Schema(4, fields={"year": int})
    vectors = np.random.default_rng(2).normal(size=(8000, 4)).astype(np.float32)
    vectors[::2] = np.nan
    flat = pa.array(vectors.reshape(-1))
    arrow = pa.table(
        {
            "id": [str(i) for i in range(8000)],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, 4),
            "year": pa.array(range(8000)),
        }
    )
    columns = {"id": [str(i) for i in range(8000)], "embedding": vectors}
    mappings = [{"id": str(i), "embedding": vector} for i, vector in enumerate(vectors)]
    checks = 0
    door = sifting_module.to_table

    def counted(rows: Any, schema: Schema) -> pa.Table:
        nonlocal checks
        checks += 1
        return door(rows, schema)

    monkeypatch.setattr(sifting_module, "to_table", counted)
    for rows in (arrow, columns, mappings):
        checks = 0
        sifted = sift(Chunk(rows, range(8000)), schema, last_counts=False)
        assert (sifted.rows.num_rows, len(sifted.rejects)) == (4000, 4000)
        assert list(sifted.places) == list(range(1, 8000, 2))
        assert checks <= 3


# Strict


async def test_strict_keeps_nothing_of_a_new_table(store: VectorStore, tmp_path: Path) -> None:
    path = lines(tmp_path / "notes.jsonl", [*good("a", "b"), "broken", *good("b")])
    with pytest.raises(InvalidRowError, match="2 of them cannot be imported, so nothing was kept"):
        await bring(store, path, strict=True)
    assert await store.tables() == []
    assert set(rejected(tmp_path)) == {3, 4}
    done = await bring(store, lines(path, good("a", "b")), strict=True)
    assert (done.rows, await store.count("notes")) == (2, 2)
    assert rejected(tmp_path) == rejected(tmp_path)


@pytest.mark.parametrize("ending", ["none", "strict", "cancelled"])
async def test_rows_of_others_in_the_new_table_stay(
    store: VectorStore, tmp_path: Path, ending: str
) -> None:
    """The import had made the table, and dropped it with all that was in it."""
    path = lines(tmp_path / "n.jsonl", [{"id": f"{n}", "embedding": [0, 0]} for n in range(400)])
    schema = Schema(2)
    reached, written = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(chunk: Chunk, *given: Any, **how: Any) -> Any:
        if 200 in chunk.places:
            loop.call_soon_threadsafe(reached.set)
            assert written.wait(60)
        return sift(chunk, *given, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading_module, "sift", hold)
        task = asyncio.ensure_future(
            bring(store, path, schema=schema, strict=ending == "strict", rows_at_once=64)
        )
        await reached.wait()
        await store.create_table("notes", schema, exist_ok=True)
        await store.insert("notes", [{"id": "theirs", "embedding": [1, 2]}])
        if ending == "cancelled":
            task.cancel()
        written.set()
        with pytest.raises(asyncio.CancelledError if ending == "cancelled" else InvalidRowError):
            await task
    assert await store.tables() == ["notes"]
    assert [row.id for row in await store.find("notes")] == ["theirs"]


async def test_strict_imports_of_one_new_table_at_once(store: VectorStore, tmp_path: Path) -> None:
    """One of them gives it its rows, the others leave nothing."""
    paths = []
    for n in range(4):
        (tmp_path / f"{n}").mkdir()
        rows = [{"id": f"{n}-{i}", "embedding": [1, i]} for i in range(500)]
        paths.append(lines(tmp_path / f"{n}" / "n.jsonl", rows))
    calls = [bring(store, path, strict=True, rows_at_once=64) for path in paths]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    failed = [one for one in outcomes if isinstance(one, TableExistsError)]
    whole = [one for one in outcomes if isinstance(one, Loaded)]
    assert len(whole) + len(failed) == 4
    assert whole
    assert await store.tables() == ["notes"]
    assert await store.count("notes") == 500 * len(whole)


async def test_an_import_whose_table_appears_meanwhile(store: VectorStore, tmp_path: Path) -> None:
    path = lines(tmp_path / "n.jsonl", good("a", "b"))

    async def create(self: VectorStore, table: str, schema: Schema, **options: Any) -> None:
        patch.undo()
        await store.create_table("notes", Schema(2))
        await store.insert("notes", [{"id": "b", "embedding": [1, 2]}])
        await store.create_table(table, schema, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorStore, "create_table", create)
        done = await bring(store, path)
    assert (done.rows, done.rejected) == (1, 1)
    assert sorted(row.id for row in await store.find("notes")) == ["a", "b"]


async def test_strict_tells_of_the_tables_that_were_done(
    store: VectorStore, tmp_path: Path
) -> None:
    """One of two tables was made by somebody else meanwhile."""
    rename = VectorStore.rename_table

    async def renamed(self: VectorStore, old: str, new: str) -> None:
        if new == "two":
            await store.create_table("two", Schema(2))
        await rename(self, old, new)

    path = lines(tmp_path / "n.jsonl", good("a", "b"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorStore, "rename_table", renamed)
        with pytest.raises(TableExistsError) as caught:
            await bring_into(store, path, ["one", "two"], strict=True)
    assert caught.value.__notes__ == [
        "somebody made it meanwhile, and it was left alone; import again",
        "kept before that: 2 rows of 'one'; with --upsert the import goes on",
    ]
    assert [(name, await store.count(name)) for name in await store.tables()] == [
        ("one", 2), ("two", 0),
    ]  # fmt: skip


async def test_a_list_of_rejects_without_room(store: VectorStore, tmp_path: Path) -> None:
    """It said that nothing was kept, and left what it had written."""
    path = lines(tmp_path / "n.jsonl", [*good("a", "b"), "broken"])
    finish = PartFile.finish

    def full(part: PartFile) -> None:
        if "rejects" in part.path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        finish(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "finish", full)
        with pytest.raises(AiovecError) as caught:
            await bring(store, path)
    assert str(caught.value).startswith("there is no room for the list of rejects")
    assert caught.value.__notes__ == [
        "kept before that: 2 rows of 'notes'; with --upsert the import goes on"
    ]
    assert names_in(tmp_path) == ["n.jsonl"]
    lines(path, ["broken", {"id": "a", "embedding": [1, 2, 3]}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "finish", full)
        with pytest.raises(InvalidRowError) as failed:
            await bring(store, path, "other", schema=Schema(2))
    assert failed.match("not one of 2 could be imported")
    assert failed.value.__notes__[0].startswith("there is no room for the list of rejects")
    assert names_in(tmp_path) == ["n.jsonl"]


async def test_a_table_without_a_row_is_not_told_as_made(
    store: VectorStore, tmp_path: Path
) -> None:
    path = lines(tmp_path / "n.jsonl", [{"id": "a", "embedding": [1, 2], "year": "x"}])
    schemas = [Schema(2), Schema(2, fields={"year": int})]
    one, other = await bring_into(store, path, ["one", "two"], schemas=schemas)
    assert (one.created, one.rows) == (True, 1)
    assert (other.created, other.rows, other.rejected) == (False, 0, 1)
    assert await store.tables() == ["one"]


@pytest.mark.parametrize("upsert", [False, True])
async def test_strict_and_a_table_that_is_there(
    store: VectorStore, tmp_path: Path, upsert: bool
) -> None:
    await store.create_table("notes", Schema(2))
    await store.insert("notes", [{"id": "a", "embedding": [5, 5]}])
    path = lines(tmp_path / "notes.jsonl", [*good("x", "y"), "broken"])
    with pytest.raises(InvalidRowError, match="nothing was kept"):
        await bring(store, path, strict=True, upsert=upsert)
    assert await store.tables() == ["notes"]
    assert await store.count("notes") == 1
    lines(path, good("x", "a", "y"))
    if upsert:
        assert (await bring(store, path, strict=True, upsert=True)).rows == 3
    else:
        with pytest.raises(InvalidRowError, match="nothing was kept"):
            await bring(store, path, strict=True)
        assert rejected(tmp_path) == {None: ("a", "the id already exists")}
        assert await store.count("notes") == 1
        assert (await bring(store, lines(path, good("x", "y")), strict=True)).rows == 2
    assert await store.tables() == ["notes"]
    assert await store.count("notes") == 3
    (record,) = await store.get("notes", "a")
    assert record.vector.tolist() == ([1, 1] if upsert else [5, 5])


@pytest.mark.parametrize("upsert", [False, True])
async def test_strict_and_a_move_that_fails(
    store: VectorStore, tmp_path: Path, upsert: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create_table("notes", Schema(2))
    path = lines(tmp_path / "notes.jsonl", good(*map(str, range(5000))))
    name = "upsert" if upsert else "insert"
    write = getattr(VectorStore, name)
    moves = 0

    async def failing(self: VectorStore, table: str, rows: Any) -> Any:
        nonlocal moves
        moves += table == "notes"
        if moves == 2:
            raise AiovecError("stopped")
        return await write(self, table, rows)

    monkeypatch.setattr(VectorStore, name, failing)
    with pytest.raises(AiovecError, match="stopped"):
        await bring(store, path, strict=True, upsert=upsert)
    assert await store.tables() == ["notes"]
    assert await store.count("notes") == (4000 if upsert else 0)


@pytest.mark.parametrize("strict", [False, True])
async def test_into_lancedb_and_back(tmp_path: Path, strict: bool) -> None:
    schema = Schema(2, model="m", metric="l2", fields={"year": int, "tags": list[str]})
    rows = [
        {"id": str(i), "embedding": [i, 1], "year": i, "tags": ["x"], "k": {"n": i}}
        for i in range(50)
    ]
    async with aiovec.connect(f"lancedb://{tmp_path}/lance") as lance:
        await lance.create_table("before", schema)
        await lance.insert("before", rows)
        await save(lance, "before", tmp_path / "notes.parquet")
        done = await bring(lance, tmp_path / "notes.parquet", strict=strict)
        assert (done.created, done.rows) == (True, 50)
        assert await lance.schema("notes") == schema
        again = await bring(lance, tmp_path / "notes.parquet", strict=strict, upsert=True)
        assert (again.created, again.rows) == (False, 50)
        assert await lance.find("notes") == await lance.find("before")
        assert await lance.tables() == ["before", "notes"]


# The table it goes to


async def test_rows_for_a_table_that_is_there(store: VectorStore, tmp_path: Path) -> None:
    await store.create_table("notes", Schema(2, model="m", vector="v", fields={"year": int}))
    await store.insert("notes", [{"id": "a", "v": [5, 5]}])
    rows = [{"id": id, "embedding": [1, 2], "year": 3, "k": "x"} for id in ("a", "b")]
    done = await bring(store, lines(tmp_path / "notes.jsonl", rows))  # type: ignore[arg-type]
    assert (done.created, done.rows) == (False, 1)
    assert rejected(tmp_path) == {1: ("a", "the id already exists")}
    (record,) = await store.get("notes", "b")
    assert record.fields == {"year": 3, "k": "x"}
    assert (await bring(store, tmp_path / "notes.jsonl", upsert=True)).rows == 2
    with pytest.raises(ModelMismatchError):
        await bring(store, tmp_path / "notes.jsonl", model="other")
    with pytest.raises(ConfigError, match="metric 'cosine'"):
        await bring(store, tmp_path / "notes.jsonl", metric="dot")
    with pytest.raises(SchemaMismatchError):
        await bring(store, tmp_path / "notes.jsonl", schema=Schema(2, vector="embedding"))
    with pytest.raises(DimensionMismatchError):
        await bring(store, lines(tmp_path / "long.jsonl", [{"id": "c", "embedding": [1, 2, 3]}]))


async def test_what_the_user_says_of_a_new_table(store: VectorStore, tmp_path: Path) -> None:
    path = lines(tmp_path / "notes.jsonl", [{"id": "a", "vec": [0, 0], "year": 3}])
    await bring(store, path, hints=Hints(vector_column="vec"), metric="l2", model="m")
    assert await store.schema("notes") == Schema(2, metric="l2", model="m", vector="vec")
    schema = Schema(2, metric="dot", fields={"year": int})
    await bring(store, path, "typed", hints=Hints(vector_column="vec"), schema=schema)
    assert await store.schema("typed") == schema
    assert await store.count("typed", "year = 3") == 1


async def test_no_other_key_is_taken_for_a_named_one_that_is_absent(
    store: VectorStore, tmp_path: Path
) -> None:
    rows: list[Row | str] = [
        {"uuid": "u1", "id": "own", "vec": [1, 0], "embedding": [9, 9]},
        {"id": "chunk-2", "vec": [0, 1]},
        {"uuid": "u3", "embedding": [1, 1]},
    ]
    hints = Hints(id_column="uuid", vector_column="vec")
    await store.create_table("notes", Schema(2))  # its vectors are called embedding
    done = await bring(store, lines(tmp_path / "notes.jsonl", rows), hints=hints)
    assert (done.rows, done.rejected) == (1, 2)
    (record,) = await store.find("notes")
    assert (record.id, record.fields) == ("u1", {"_id": "own", "_embedding": [9, 9]})
    assert rejected(tmp_path) == {
        2: (None, "field 'id': every row needs an id"),
        3: ("u3", "the vector is missing (key 'embedding')"),
    }
    np.save(tmp_path / "pair.npy", np.eye(2, dtype="f4"))
    lines(tmp_path / "pair.jsonl", rows[:2])
    done = await bring(store, tmp_path / "pair.npy", "notes", hints=hints, upsert=True)
    assert (done.rows, rejected(tmp_path)) == (1, {1: (None, "field 'id': every row needs an id")})


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": "a", "scores": [1, 2, 3]}, {"id": "b", "embedding": [1, 2], "scores": [4, 5, 6]}],
        [{"id": "a", "embedding": None, "scores": [1, 2]}, {"id": "b", "embedding": [1, 2]}],
        [{"id": "a", "scores": [1, 2]}, {"id": "b", "tags": [5]}, {"id": "c", "vector": [1, 2]}],
    ],
)
async def test_a_vector_with_its_usual_name_wins_over_lists_before_it(
    store: VectorStore, tmp_path: Path, rows: list[Row]
) -> None:
    """The first list of numbers was the vector, and the embeddings went to the payload."""
    name = "vector" if "vector" in rows[-1] else "embedding"
    done = await bring(store, lines(tmp_path / "n.jsonl", list(rows)))
    assert (done.rows, done.rejected, done.schema.vector, done.schema.dim) == (
        1, len(rows) - 1, name, 2,
    )  # fmt: skip
    names = list(dict.fromkeys(name for row in rows for name in row))
    path = tmp_path / "n.csv"
    cells = [[json.dumps(row.get(name)) if row.get(name) else "" for name in names] for row in rows]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *cells])
    done = await bring(store, path, "other")
    assert (done.rows, done.schema.vector, done.schema.dim) == (1, name, 2)


async def test_lists_of_which_any_may_be_the_vector(store: VectorStore, tmp_path: Path) -> None:
    lists: Row = {"id": "a", "left": [1, 2], "right": [3, 4]}
    for rows in (
        [lists], [{"id": "a", "left": [1, 2]}, {"id": "b", "right": [3, 4]}],
        [{"id": "a", "left": [1, 2], "vector": None}],
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"'left'.* say by --vector-column"):
            await bring(store, lines(tmp_path / "n.jsonl", list(rows)))
    hints = Hints(vector_column="right")
    done = await bring(store, lines(tmp_path / "n.jsonl", [lists]), hints=hints)
    assert (done.rows, done.schema.vector) == (1, "right")


async def test_a_vector_that_a_later_line_has_elsewhere(store: VectorStore, tmp_path: Path) -> None:
    few: list[Row | str] = [{"id": f"{n}", "emb": [1, n]} for n in range(100)]
    later: list[Row | str] = [
        {"id": "x", "emb": [1, 2], "vector": [3, 4]},
        {"id": "y", "emb": [1, 2]},
    ]
    done = await bring(store, lines(tmp_path / "n.jsonl", [*few, *later]))
    assert (done.rows, done.schema.vector) == (101, "emb")
    (why,) = rejected(tmp_path).values()
    assert why[0] == "x"
    assert "has a vector in 'vector', not in 'emb'" in why[1]
    schema = Schema(2, vector_nullable=True)
    path = lines(tmp_path / "m.jsonl", [{"id": "a", "vector": [1, 2]}, {"id": "b", "k": 1}])
    done = await bring(store, path, "nullable", schema=schema)
    assert (done.rows, done.rejected) == (1, 1)
    await store.create_table("own", Schema(2, vector="dense", vector_nullable=True))
    rows = [{"id": "a", "dense": [1, 0]}, {"id": "b", "dense": None, "vector": [1.5, 2]}]
    await store.insert("own", rows)
    for name in ("own.jsonl", "mine.csv"):  # what we wrote ourselves says where its vectors are
        await save(store, "own", tmp_path / name)
        assert (await bring(store, tmp_path / name, name.replace(".", "-"))).rows == 2
    path = tmp_path / "m.csv"
    path.write_text('id,vector\na,"[1, 2]"\nb,\n')
    done = await bring(store, path, "from-csv", schema=schema)
    assert (done.rows, done.rejected) == (1, 1)


def _file_of(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".jsonl":
        return lines(path, list(rows))
    if path.suffix == ".csv":
        cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([list(rows[0]), *cells])
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["n.jsonl", "n.csv", "n.parquet"])
@pytest.mark.parametrize("given", ["[0.1 0.2]", "AACAPwAAAEA=", {"values": [0.5, 1.5]}, [[0.5]]])
async def test_a_list_beside_a_vector_that_cannot_be_read(
    store: VectorStore, tmp_path: Path, name: str, given: Any
) -> None:
    """The list was the vector, and the vectors went to the payload."""
    rows = [{"id": "a", "embedding": given, "place": [52.5, 13.4]}]
    path = await asyncio.to_thread(_file_of, tmp_path / name, rows)
    with pytest.raises(ConfigError, match=r"'place'.* say by --vector-column"):
        await bring(store, path)
    done = await bring(store, path, hints=Hints(vector_column="place"))
    assert (done.rows, done.schema.vector, done.rejected) == (1, "place", 0)


@pytest.mark.parametrize("name", ["n.jsonl", "n.csv", "n.parquet"])
async def test_lists_for_a_table_whose_rows_need_no_vector(
    store: VectorStore, tmp_path: Path, name: str
) -> None:
    """A list of a payload became the vector, or was told to have the wrong length."""
    there = Schema(2, vector="emb", vector_nullable=True)
    await store.create_table("notes", there)
    path = tmp_path / name
    for id, row in (("a", {"pages": [1.5, 2.5, 3.5]}), ("b", {"pages": [1.5], "emb": [0.5, 1.5]})):
        await asyncio.to_thread(_file_of, path, [{"id": id, **row}])
        assert (await bring(store, path, there=there)).rows == 1
    first, second = await store.get("notes", ["a", "b"])
    pages = [record["pages"] for record in (first, second)]
    assert pages == (["[1.5, 2.5, 3.5]", "[1.5]"] if name == "n.csv" else [[1.5, 2.5, 3.5], [1.5]])
    assert (first.vector, second.vector.tolist()) == (None, [0.5, 1.5])
    await asyncio.to_thread(_file_of, path, [{"id": "c", "pages": [1.5, 2.5]}])
    with pytest.raises(ConfigError, match=r"'pages'.* say by --vector-column"):
        await bring(store, path, there=there)
    assert (await bring(store, path, hints=Hints(vector_column="pages"))).rows == 1
    assert [record.id for record in await store.find("notes")] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["n.jsonl", "n.csv", "n.parquet"])
@pytest.mark.parametrize("nullable", [False, True])
async def test_the_table_says_which_list_is_its_vector(
    store: VectorStore, tmp_path: Path, name: str, nullable: bool
) -> None:
    """A list with a usual name was taken, and its own vector went to the payload."""
    there = Schema(2, vector="emb", vector_nullable=nullable)
    await store.create_table("notes", there)
    rows = [{"id": id, "embedding": [9.5, 9.5], "emb": [0.5, 1.5]} for id in "ab"]
    path = await asyncio.to_thread(_file_of, tmp_path / name, rows)
    assert (await bring(store, path, there=there)).rows == 2
    for record in await store.get("notes", ["a", "b"]):
        assert record.vector.tolist() == [0.5, 1.5]
        assert record["embedding"] in ([9.5, 9.5], "[9.5, 9.5]")


async def test_why_no_vector_was_found(store: VectorStore, tmp_path: Path) -> None:
    utf16 = json.dumps({"id": "a", "embedding": [1, 2]}).encode("utf-16")
    for given, why in (
        (b"{'id': 'a', 'embedding': [1, 2]}\n", "line 1 not valid JSON: "),
        (utf16, "line 1 not valid JSON: "),
        (b'{"id": "a", "embedding": [1, 2], "x": 1e400}\n', "line 1 .* beyond those of float64"),
    ):
        await asyncio.to_thread((tmp_path / "n.jsonl").write_bytes, given)
        with pytest.raises(ConfigError, match=f"no vector was found .*; {why}"):
            await bring(store, tmp_path / "n.jsonl")


_MIDSUMMER = datetime(2024, 6, 21, 22, tzinfo=UTC)


async def test_somebody_elses_parquet(store: VectorStore, tmp_path: Path) -> None:
    table = pa.table(
        {
            "doc": pa.array([1, 2], pa.int64()),
            "emb": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64())),
            "year": pa.array([1, None], pa.int16()),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "seen": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * 2),
            "naive": pa.array([datetime(2024, 1, 1)] * 2),  # noqa: DTZ001 - that is its point
            "day": pa.array([date(2024, 1, 2)] * 2),
            "price": pa.array([Decimal("1.50")] * 2),
            "parts": pa.array([{"a": [1]}, {"a": None}]),
            "raw": pa.array([b"x", b"y"]),
            "odd name": pa.array(["p", "q"]),
            "at night": pa.array([_MIDSUMMER, None], pa.timestamp("ns", "Europe/Berlin")),
        }
    )
    for name, write in (
        ("notes.parquet", pq.write_table),
        ("notes.feather", feather.write_feather),
    ):
        write(table, tmp_path / name)
        done = await bring(store, tmp_path / name, hints=Hints(id_column="doc"))
        (kept,) = done.notes
        assert kept.endswith(
            "their name or type suits no field: naive, day, price, parts, odd name, at night"
        )
        assert done.omitted == ("the column raw (binary)",)
        assert await store.schema("notes") == Schema(
            2, vector="emb", fields={"year": int, "kind": str, "seen": datetime}
        )
        (record,) = await store.get("notes", "1")
        assert record.fields == {
            "year": 1, "kind": "x", "seen": datetime(2024, 1, 1, tzinfo=UTC),
            "naive": "2024-01-01T00:00:00.000000", "day": "2024-01-02", "price": "1.50",
            "parts": {"a": [1]}, "odd name": "p", "at night": "2024-06-21T22:00:00.000000Z",
        }  # fmt: skip
        # As ``insert`` takes them: filters compare such text as moments.
        assert await store.count("notes", F.payload["at night"] == _MIDSUMMER) == 1
        await store.drop_table("notes")


async def test_columns_that_do_not_fit_are_refused_as_a_whole(
    store: VectorStore, tmp_path: Path
) -> None:
    await store.create_table("notes", Schema(2, fields={"year": int}))
    table = pa.table({"id": ["a"], "embedding": [[1.0, 2.0]], "year": ["text"]})
    pq.write_table(table, tmp_path / "notes.parquet")
    with pytest.raises(InvalidRowError, match="the column is string, the field int"):
        await bring(store, tmp_path / "notes.parquet")
    pq.write_table(table.drop(["id"]), tmp_path / "no.parquet")
    with pytest.raises(ConfigError, match="no column 'id'"):
        await bring(store, tmp_path / "no.parquet")


async def test_numpy_of_other_types_and_records_that_cannot_be_taken(
    store: VectorStore, tmp_path: Path
) -> None:
    np.save(tmp_path / "notes.npy", np.eye(4, dtype=">f8")[1:, ::-1])
    with pytest.raises(ConfigError, match="must hold a line of JSON"):
        await bring(store, tmp_path / "notes.npy")
    lines(tmp_path / "notes.jsonl", [{"id": "a"}, "broken", "", {"id": "c", "k": 1}])
    done = await bring(store, tmp_path / "notes.npy")
    assert done.rows == 2
    ((place, (_, reason)),) = rejected(tmp_path).items()
    assert (place, reason[:22]) == (1, "not valid JSON: Expect")
    (record,) = await store.get("notes", "c")
    assert (record.vector.tolist(), record.fields) == ([1, 0, 0, 0], {"k": 1})


@pytest.mark.parametrize("count", [0, 2, 4])
async def test_numpy_with_another_number_of_records_is_refused(
    store: VectorStore, tmp_path: Path, count: int
) -> None:
    """A record that was missing gave each later row the vector of its neighbour."""
    np.save(tmp_path / "notes.npy", np.eye(3, dtype="f4"))
    lines(tmp_path / "notes.jsonl", [{"id": str(i)} for i in range(count)])
    with pytest.raises(ConfigError, match=f"has {count} records and notes.npy has 3 vectors"):
        await bring(store, tmp_path / "notes.npy")
    assert await store.tables() == []


async def test_a_key_of_a_numpy_record_is_not_lost_to_the_vector(
    store: VectorStore, tmp_path: Path
) -> None:
    np.save(tmp_path / "notes.npy", np.eye(1, dtype="f4"))
    lines(tmp_path / "notes.jsonl", [{"id": "a", "embedding": "by hand"}])
    await bring(store, tmp_path / "notes.npy")
    (record,) = await store.get("notes", "a")
    assert (record.vector.tolist(), record.fields) == ([1], {"_embedding": "by hand"})


async def test_files_that_cannot_be_read_are_named(store: VectorStore, tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow", "a.arrows", "a.npy"):
        (tmp_path / name).write_bytes(b"nonsense" * 10)
        (tmp_path / "a.jsonl").write_text("")
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            await bring(store, tmp_path / name)
    with pytest.raises(ConfigError, match="no vector was found"):
        await bring(store, tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="there is no file"):
        await bring(store, tmp_path / "absent.parquet")
    (tmp_path / "a.what").write_text("x")
    with pytest.raises(ConfigError, match="--format"):
        await bring(store, tmp_path / "a.what")
    assert await store.tables() == []


# Partial output, cancelling, memory


async def test_an_export_that_fails_or_is_cancelled_leaves_no_file(
    store: VectorStore, tmp_path: Path
) -> None:
    await store.create_table("notes", Schema(2))
    await store.insert("notes", [{"id": str(i), "embedding": [1, i]} for i in range(9000)])
    folder = tmp_path / "out"
    folder.mkdir()

    def fail(rows: int) -> None:
        raise AiovecError("stopped")

    for name in ("a.parquet", "a.arrow", "a.arrows", "a.jsonl", "a.npy"):
        with pytest.raises(AiovecError, match="stopped"):
            await save(store, "notes", folder / name, seen=fail)
        began = asyncio.Event()
        task = asyncio.create_task(
            save(store, "notes", folder / name, seen=lambda rows, began=began: began.set())
        )
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert names_in(folder) == []


async def test_an_export_replaces_only_when_told(store: VectorStore, tmp_path: Path) -> None:
    await store.create_table("notes", Schema(2))
    path = tmp_path / "notes.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        await save(store, "notes", path)
    assert path.read_text() == "mine"
    await save(store, "notes", path, overwrite=True)
    assert path.read_text() == ""
    with pytest.raises(ConfigError, match="no folder"):
        await save(store, "notes", tmp_path / "absent" / "notes.jsonl")


@pytest.mark.parametrize("name", ["notes.jsonl", "notes.npy"])
@pytest.mark.parametrize("renamed", range(3))
async def test_an_export_that_is_killed_leaves_no_new_file_beside_an_old_one(
    store: VectorStore, tmp_path: Path, name: str, renamed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    for table, id in (("notes", "old"), ("others", "new")):
        await store.create_table(table, Schema(2, model=id))
        await store.insert(table, [{"id": id, "embedding": [1, 1]}])
    await save(store, "notes", path)
    finish = PartFile.finish
    done: list[Path] = []

    def killed(part: PartFile) -> None:
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(part.path)
        finish(part)

    monkeypatch.setattr(PartFile, "finish", killed)
    if len(names_in(tmp_path)) > renamed:
        with pytest.raises(KeyboardInterrupt):
            await save(store, "others", path, overwrite=True)
        assert path not in done
        with pytest.raises(ConfigError, match="there is no file"):
            await bring(store, path, "back")
    monkeypatch.undo()
    await save(store, "others", path, overwrite=True)
    await bring(store, path, "back")
    assert (await store.schema("back")).model == "new"
    assert [record.id for record in await store.find("back")] == ["new"]


@pytest.mark.parametrize("form", ["parquet", "jsonl", "numpy"])
async def test_an_export_replaces_no_file_that_came_meanwhile(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Whatever it was, another export or a note, it was gone."""
    await store.create_table("notes", Schema(2))
    await store.insert("notes", [{"id": "a", "embedding": [1, 0]}])
    path = tmp_path / f"n.{'npy' if form == 'numpy' else form}"
    beside = names_in(tmp_path)
    names = {
        "parquet": [path.name], "jsonl": [path.name, "n.schema.json"],
        "numpy": [path.name, "n.jsonl", "n.schema.json"],
    }[form]  # fmt: skip
    flush = PartFile.flush
    for name in names:

        def come(part: PartFile, other: Path = tmp_path / name) -> None:
            other.write_text("precious")
            flush(part)

        monkeypatch.setattr(PartFile, "flush", come)
        with pytest.raises(ConfigError, match="already exists; pass --overwrite"):
            await save(store, "notes", path, form=form)
        assert names_in(tmp_path) == sorted([*beside, name])
        assert await asyncio.to_thread((tmp_path / name).read_text) == "precious"
        await asyncio.to_thread((tmp_path / name).unlink)
    monkeypatch.undo()
    outcomes = await asyncio.gather(
        *(save(store, "notes", path, form=form) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(one, ConfigError) for one in outcomes) == 4
    assert names_in(tmp_path) == sorted([*beside, *names])


def _modes(folder: Path, new: int | None = None) -> set[int]:
    """The permissions of exported files, and then new ones."""
    files = [file for file in folder.iterdir() if file.name.startswith("n")]
    modes = {stat.S_IMODE(file.stat().st_mode) for file in files}
    for file in files if new is not None else ():
        file.chmod(new)
    return modes


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_what_an_export_replaces_keeps_its_permissions(
    store: VectorStore, tmp_path: Path
) -> None:
    await store.create_table("notes", Schema(2))
    await store.insert("notes", [{"id": "a", "embedding": [1, 0]}])
    for name in ("n.csv", "n.parquet", "n-2.npy"):
        await save(store, "notes", tmp_path / name)
        await asyncio.to_thread(_modes, tmp_path, 0o640)
        await save(store, "notes", tmp_path / name, overwrite=True)
        assert await asyncio.to_thread(_modes, tmp_path) == {0o640}


@pytest.mark.parametrize("overwrite", [False, True])
async def test_an_export_leaves_the_schema_of_another_file_alone(
    store: VectorStore, tmp_path: Path, overwrite: bool
) -> None:
    """The rows of one table were imported with the model and the metric of the other."""
    for table in ("notes", "others"):
        await store.create_table(table, Schema(2, model=table))
        await store.insert(table, [{"id": table, "embedding": [1, 2]}])
    await save(store, "notes", tmp_path / "n.npy")
    await save(store, "notes", tmp_path / "m.jsonl")
    await asyncio.to_thread((tmp_path / "own.schema.json").write_text, '{"type": "object"}')
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    for name, select, why in (
        ("n.jsonl", None, "belongs too; export to another name than 'n'"),
        ("m.csv", None, "belongs too; export to another name than 'm'"),
        ("m.csv", ["id"], "belongs too; export to another name than 'm'"),
        ("own.csv", None, "holds no schema.*, so it is not replaced; name another file"),
        ("own.csv", ["id"], "holds no schema.*, so it is not replaced; name another file"),
    ):
        with pytest.raises(ConfigError, match=why):
            await save(store, "others", tmp_path / name, select=select, overwrite=overwrite)
        assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before
    assert (await bring(store, tmp_path / "m.jsonl", "back")).schema.model == "notes"


async def test_an_export_without_vectors_leaves_no_schema_of_an_older_one(
    store: VectorStore, tmp_path: Path
) -> None:
    await store.create_table("notes", Schema(2, fields={"year": int}))
    path = tmp_path / "notes.jsonl"
    await save(store, "notes", path)
    assert names_in(tmp_path) == ["notes.jsonl", "notes.schema.json"]
    await save(store, "notes", path, select=["year"], overwrite=True)
    assert names_in(tmp_path) == ["notes.jsonl"]


@pytest.mark.parametrize("name", ["notes.jsonl", "notes.JSONL"])
async def test_numpy_vectors_do_not_replace_their_records(
    store: VectorStore, tmp_path: Path, name: str
) -> None:
    await store.create_table("notes", Schema(2))
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(ConfigError, match="written twice"):
        await save(store, "notes", path, form="numpy", overwrite=True)
    assert (path.read_text(), names_in(tmp_path)) == ("mine", [name])


async def test_a_cancelled_import_leaves_whole_batches_and_a_usable_store(
    store: VectorStore, tmp_path: Path
) -> None:
    path = lines(tmp_path / "notes.jsonl", good(*map(str, range(5000))))
    began = asyncio.Event()
    task = asyncio.create_task(
        bring(store, path, rows_at_once=100, seen=lambda one, rows: began.set())
    )
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.count("notes") % 100 == 0
    done = await bring(store, path, rows_at_once=100, upsert=True)
    assert await store.count("notes") == 5000
    assert done.rejected == 0
    assert names_in(tmp_path) == ["notes.jsonl"]


async def test_a_table_is_never_held_as_a_whole(store: VectorStore, tmp_path: Path) -> None:
    count, dim = 40_000, 64
    await store.create_table("notes", Schema(dim, metric="l2"))
    for start in range(0, count, 10_000):
        ids = [str(i) for i in range(start, start + 10_000)]
        vectors = np.random.default_rng(1).random((10_000, dim), dtype=np.float32)
        await store.insert("notes", {"id": ids, "embedding": vectors})
    before = pa.total_allocated_bytes()
    held: list[int] = []

    def look(*_: object) -> None:
        held.append(pa.total_allocated_bytes() - before)

    for name in ("notes.arrow", "notes.arrows"):
        await save(store, "notes", tmp_path / name, seen=look)
        await bring(store, tmp_path / name, name.replace(".", "-"), seen=look)
        assert len(held) > 4
    assert max(held) < count * dim * 4 / 2


def test_a_line_with_a_key_twice_is_rejected() -> None:
    text = b'{"id":"a","id":"b"}\n{"id":"c","more":{"x":1,"x":2}}\n{"id":"d"}\n'
    first, second, third = (line.value for line in objects_in(io.BytesIO(text)))
    assert isinstance(first, Reject)
    assert first.reason == "the key 'id' occurs twice in an object"
    assert isinstance(second, Reject)
    assert "'x'" in second.reason
    assert third == {"id": "d"}


async def test_numbers_beyond_float64_are_rejected(store: VectorStore, tmp_path: Path) -> None:
    """They became infinities."""
    schema = Schema(2, fields={"f": float, "lf": list[float]})
    good: list[Row | str] = [
        {"id": "inf", "embedding": [1, 0], "f": float("inf"), "lf": [1.0, float("-inf")]},
        {"id": "most", "embedding": [1, 0], "f": 1.7976931348623157e308},
    ]
    bad: list[Row | str] = [
        f'{{"id": "{n}", "embedding": [1, 0], {held}}}'
        for n, held in enumerate(('"f": 1e400', '"f": -1e999', '"lf": [1, 1e400]', '"p": 1e400'))
    ]
    done = await bring(store, lines(tmp_path / "n.jsonl", [*good, *bad]), schema=schema)
    assert (done.rows, done.rejected) == (2, 4)
    assert all("e4" in why or "e999" in why for _, why in rejected(tmp_path).values())
    record = (await store.get("notes", ["inf"]))[0]
    assert (record["f"], record["lf"]) == (float("inf"), [1.0, float("-inf")])
    cells = ["inf,", "-Infinity,", "1e400,", "-1e999,", '1,"[1, 1e400]"', '1,"[-Infinity]"']
    rows = [f'c{n},"[1, 0]",{cell}' for n, cell in enumerate(cells)]
    path = tmp_path / "n.csv"
    path.write_text("\n".join(["id,embedding,f,lf", *rows]) + "\n")
    done = await bring(store, path, schema=schema)
    assert (done.rows, done.rejected) == (3, 3)
    assert await store.count("notes", "id LIKE 'c%'") == 3


def test_a_repeated_key_among_many_is_found_in_one_pass() -> None:
    keys = ", ".join(f'"k{i}": 0' for i in range(100_000))
    line = f'{{{keys}, "k99999": 1}}\n'.encode()
    began = time.process_time()
    (found,) = objects_in(io.BytesIO(line))
    assert isinstance(found.value, Reject)
    assert "'k99999' occurs twice" in found.value.reason
    assert time.process_time() - began < 10  # a comparison of each with each takes a minute
