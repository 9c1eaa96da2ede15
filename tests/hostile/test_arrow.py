"""Arrow data that is damaged, or made to do damage, is refused and never ends the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from tests.transfer.support import bring, rejected

import aiovec
from aiovec import InvalidRowError, Schema, VectorStore
from aiovec._arrow import check_array, damaged_rows, take_sound
from aiovec._input.rows import bytes_of, to_table
from aiovec.backend import effort_of

MUTANTS = Path(__file__).with_name("arrow_mutants.py")
SCHEMA = Schema(2, fields={"name": str, "tags": list[str], "year": int})


def run_mutants(first: int, count: int, folder: Path, timeout: float) -> str:
    """What becomes of so many mutants, some of which must be refused, in a process of their own."""
    done = subprocess.run(
        [sys.executable, str(MUTANTS), str(first), str(count), str(folder)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-60:]}\n{done.stderr[-4000:]}"
    assert "'refused'" in done.stdout
    return done.stdout


def test_hundreds_of_mutants(tmp_path: Path) -> None:
    """A6: no crash, no hang, nothing kept of what is refused, and no value but Arrow's own."""
    assert "'stored'" in run_mutants(0, 400, tmp_path, 250)


def test_a_mutant_that_ended_the_process(tmp_path: Path) -> None:
    """A6: Arrow aborts where the child of a struct is asked for that tells a negative length."""
    run_mutants(105_195, 1, tmp_path, 60)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_mutants(tmp_path: Path, part: int) -> None:
    """A6, long."""
    assert "'stored'" in run_mutants(100_000 + 1000 * part, 1000, tmp_path, 3000)


def damaged_text(offsets: list[int], data: bytes, valid: bytes | None = None) -> pa.Array:
    """Text of any offsets: they are changed behind Arrow's back, as a file may hold them."""
    memory = np.zeros(len(offsets), np.int32)
    memory[-1] = len(data)
    array = pa.Array.from_buffers(
        pa.utf8(), len(offsets) - 1,
        [valid and pa.py_buffer(valid), pa.py_buffer(memory), pa.py_buffer(data)],
    )  # fmt: skip
    memory[:] = offsets
    return array


def latin(rows: int, bad: int) -> pa.Array:
    texts = [b"caf\xe9" if row == bad else b"cafe" for row in range(rows)]
    return pa.Array.from_buffers(
        pa.utf8(), rows,
        [None, pa.array(range(0, 4 * rows + 4, 4), pa.int32()).buffers()[1],
         pa.py_buffer(b"".join(texts))],
    )  # fmt: skip


def columns(rows: int, **more: Any) -> dict[str, Any]:
    vectors = np.ones((rows, 2), dtype=np.float32)
    return {"id": pa.array([f"r{n}" for n in range(rows)]), "embedding": pa.FixedSizeListArray
            .from_arrays(pa.array(vectors.reshape(-1)), 2), **more}  # fmt: skip


def listed(items: pa.Array, rows: int) -> pa.Array:
    each = len(items) // rows
    return pa.ListArray.from_arrays(pa.array(range(0, len(items) + 1, each), pa.int32()), items)


def indices_out_of_range() -> pa.Array:
    memory = np.zeros(6, np.int32)
    array = pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), 6, [None, pa.py_buffer(memory)]), pa.array(["x", "y"])
    )
    memory[4] = 2_000_000
    return array


DAMAGED: dict[str, tuple[str, Callable[[], pa.Array], int]] = {
    "an offset that points far away": (
        "name", lambda: damaged_text([0, 1, 2, 3, 2**30, 5, 6], b"abcdef"), 3,
    ),
    "an offset that goes back": (
        "name", lambda: damaged_text([0, 1, 2, -9, 4, 5, 6], b"abcdef"), 2,
    ),
    "text that is not UTF-8": ("name", lambda: latin(6, 4), 4),
    "the same in a dictionary": (
        "name", lambda: pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 0, 5, 5, 1], pa.int8()), latin(6, 5)), 3,
    ),
    "an index of no dictionary's": ("name", indices_out_of_range, 4),
    "the same in a list": ("tags", lambda: listed(latin(12, 9), 6), 4),
    "the same in a list of fixed size": (
        "tags", lambda: pa.FixedSizeListArray.from_arrays(latin(12, 9), 2), 4,
    ),
    "the same in a struct of the payload": (
        "extra", lambda: pa.StructArray.from_arrays([latin(6, 5)], ["x"]), 5,
    ),
    "an id": ("id", lambda: latin(6, 1), 1),
}  # fmt: skip


@pytest.fixture(params=["sqlite", "lancedb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    target = {"sqlite": "notes.db", "lancedb": "notes.lance"}[request.param]
    prefix = "lancedb://" if request.param == "lancedb" else ""
    async with aiovec.connect(f"{prefix}{tmp_path / target}") as opened:
        await opened.create_table("t", SCHEMA)
        yield opened


@pytest.mark.parametrize("fault", DAMAGED)
async def test_the_row_and_the_field_are_named(store: VectorStore, fault: str) -> None:
    """A6: before, some of these ended the interpreter, and others were stored."""
    field, make, row = DAMAGED[fault]
    batch = pa.RecordBatch.from_pydict({**columns(6), field: make()})
    table = pa.Table.from_batches([batch])
    good = pa.RecordBatch.from_pydict(columns(3, id=pa.array(["x", "y", "z"])))
    forms: list[tuple[Any, int]] = [
        (batch, row), (table, row), ([batch], row), (table.to_reader(), row),
        ([good, batch], 3 + row), ({**columns(6), field: make()}, row),
    ]  # fmt: skip
    for rows, expected in forms:
        with pytest.raises(InvalidRowError) as caught:
            await store.upsert("t", rows)
        assert caught.value.field == field
        assert caught.value.row == expected
        if field != "id" and not isinstance(rows, dict):
            assert caught.value.id == f"r{row}"
    assert await store.count("t") == 0


async def test_bytes_below_a_null_are_not_stored(store: VectorStore) -> None:
    """A6: Arrow lets a null cover any bytes. LanceDB does not, and nobody else should see them."""
    name = damaged_text([0, 2, 3], b"\xe9\xffz", valid=b"\x02")
    batch = pa.RecordBatch.from_pydict(columns(2, name=name))
    assert await store.insert("t", batch) == 2
    assert [record["name"] for record in await store.find("t")] == [None, "z"]
    async for found in store.export("t"):
        found.validate(full=True)
    (column,) = to_table(batch, SCHEMA).column("name").chunks
    assert b"\xe9" not in column.buffers()[2].to_pybytes()


def test_a_count_of_nulls_that_is_a_lie() -> None:
    """A6: Arrow believes that an array has no nulls, whatever its bits say."""
    struct = (ctypes.c_int64 * 10)()  # an ArrowArray of the C data interface
    pa.array([1, None, 3])._export_to_c(ctypes.addressof(struct))
    struct[1] = 0  # its null_count
    year = pa.Array._import_from_c(ctypes.addressof(struct), pa.int64())
    with pytest.raises(InvalidRowError, match="null_count") as caught:
        to_table(pa.RecordBatch.from_pydict(columns(3, year=year)), SCHEMA)
    assert (caught.value.field, caught.value.row) == ("year", 1)


BOMBS: dict[str, Callable[[], pa.Array]] = {
    "a list of a billion nulls": lambda: pa.ListArray.from_arrays(
        pa.array([0, 2**30], pa.int32()), pa.nulls(2**30)),
    "a megabyte ten thousand times": lambda: pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(10_000, np.int32)), pa.array(["x" * 2**20])),
    "lists that overlap": lambda: pa.ListViewArray.from_arrays(
        pa.array(np.zeros(10_000, np.int32)), pa.array(np.full(10_000, 10**6, np.int32)),
        pa.array(np.zeros(10**6, np.int8))),
    "a run of ten thousand megabytes": lambda: pa.RunEndEncodedArray.from_arrays(
        pa.array([10_000], pa.int32()), pa.array(["x" * 2**20])),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_few_bytes_that_unpack_to_gigabytes_are_refused(bomb: str) -> None:
    column = BOMBS[bomb]()
    for name in ("payload_key", "name", "tags"):
        with pytest.raises(InvalidRowError) as caught:
            to_table(pa.RecordBatch.from_pydict({**columns(len(column)), name: column}), SCHEMA)
        assert caught.value.field == name


def test_rows_without_number_that_share_an_id_are_refused(tmp_path: Path) -> None:
    """Two thousand million rows in the bytes of one."""
    count = 2**31 - 1
    vector = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    runs = {
        name: pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), values)
        for name, values in (("id", pa.array(["a"])), ("embedding", vector))
    }
    batch = pa.RecordBatch.from_arrays(list(runs.values()), names=list(runs))
    with pytest.raises(InvalidRowError, match="2,147,483,647 values") as caught:
        to_table(batch, SCHEMA)
    assert caught.value.field == "id"


def test_a_column_of_nulls_may_say_any_length() -> None:
    """Arrow keeps no byte of it."""
    many = pa.Array.from_buffers(pa.null(), 2**40, [None])
    for rows in (
        pa.table({"id": many, "embedding": many}),
        {"id": many, "embedding": many},
        {"id": ["a"], "embedding": many},
        {"id": ["a"], "embedding": [[1.0, 2.0]], "name": many},
        {"id": ["a"], "embedding": [[1.0, 2.0]], "extra": many},
    ):
        with pytest.raises(InvalidRowError):
            to_table(rows, SCHEMA)
        effort_of(rows), bytes_of(rows, SCHEMA)


def test_names_that_are_not_text() -> None:
    batch = pa.RecordBatch.from_pydict(columns(2, nameQ=pa.array([1, 2])))
    data = ipc_bytes(batch).replace(b"nameQ", b"name\xff")
    with pytest.raises(InvalidRowError, match="UTF-8"):
        to_table(ipc.open_stream(data).read_all(), SCHEMA)


def ipc_bytes(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize("fault", DAMAGED)
def test_the_sound_rows_are_taken_out(fault: str) -> None:
    """A6: also where Arrow's own functions would follow what is wrong beside them."""
    _, make, _ = DAMAGED[fault]
    array = make()
    bad = damaged_rows(pa.RecordBatch.from_pydict({"x": array}))
    for keep in (range(6), range(3), range(3, 6), [0, 2, 4], [5], []):
        rows = [row for row in keep if row not in bad]
        taken = take_sound(array, rows)
        check_array(taken, "x")
        assert taken.to_pylist() == [array[row].as_py() for row in rows]


async def test_an_import_takes_the_sound_rows(store: VectorStore, tmp_path: Path) -> None:
    """A6: a column of another encoding costs its rows, and the rejects name them."""
    names = latin(6, 4)
    tags = listed(latin(12, 2), 6)
    batch = pa.RecordBatch.from_pydict(columns(6, name=names, tags=tags))
    for form in ("parquet", "arrow"):
        path = tmp_path / f"rows.{form}"
        if form == "parquet":
            pq.write_table(pa.Table.from_batches([batch]), path)
        else:
            with ipc.new_file(path, batch.schema) as file:
                file.write_batch(batch)
        loaded = await bring(store, path)
        assert (loaded.rows, loaded.rejected) == (4, 2)
        records = await store.find("notes")
        assert [record.id for record in records] == ["r0", "r2", "r3", "r5"]
        told = rejected(tmp_path)
        assert {row: id for row, (id, _) in told.items()} == {1: "r1", 4: "r4"}
        assert all("UTF-8" in reason for _, reason in told.values())
        await store.drop_table("notes")
