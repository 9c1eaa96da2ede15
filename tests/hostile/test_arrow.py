"""Damaged or malicious Arrow data is refused and never ends the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.harness.cases import case
from tests.harness.scripts import KINDS, target_in

import aiovec
from aiovec import InvalidRowError, Schema

SCHEMA = Schema(2, fields={"name": str, "tags": list[str], "year": int})


def damaged_text(offsets: list[int], data: bytes, valid: bytes | None = None) -> pa.Array:
    """Return text with any offsets, valid or not, as a file may hold them."""
    memory = np.zeros(len(offsets), np.int32)
    memory[-1] = len(data)
    array = pa.Array.from_buffers(
        pa.utf8(), len(offsets) - 1,
        [valid and pa.py_buffer(valid), pa.py_buffer(memory), pa.py_buffer(data)],
    )  # fmt: skip
    memory[:] = offsets
    return array


def latin(rows: int, bad: int) -> pa.Array:
    """Return texts, one of which is not UTF-8."""
    data = b"".join(b"caf\xe9" if row == bad else b"cafe" for row in range(rows))
    return damaged_text(list(range(0, 4 * rows + 4, 4)), data)


def columns(rows: int, **more: Any) -> dict[str, Any]:
    ones = pa.array(np.ones(rows * 2, dtype=np.float32))
    ids = pa.array([f"r{n}" for n in range(rows)])
    return {"id": ids, "embedding": pa.FixedSizeListArray.from_arrays(ones, 2), **more}


def indices_out_of_range() -> pa.Array:
    memory = np.zeros(6, np.int32)
    indices = pa.Array.from_buffers(pa.int32(), 6, [None, pa.py_buffer(memory)])
    array = pa.DictionaryArray.from_arrays(indices, pa.array(["x", "y"]))
    memory[4] = 2_000_000
    return array


# The field, and what is damaged in it.
DAMAGED: dict[str, tuple[str, Callable[[], pa.Array]]] = {
    "an offset that points far away": (
        "name", lambda: damaged_text([0, 1, 2, 3, 2**30, 5, 6], b"abcdef")),
    "an offset that goes back": (
        "name", lambda: damaged_text([0, 1, 2, -9, 4, 5, 6], b"abcdef")),
    "text that is not UTF-8": ("name", lambda: latin(6, 4)),
    "the same in a dictionary": (
        "name", lambda: pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 0, 5, 5, 1], pa.int8()), latin(6, 5))),
    "an index of no dictionary's": ("name", indices_out_of_range),
    "the same in a list": (
        "tags", lambda: pa.FixedSizeListArray.from_arrays(latin(12, 9), 2)),
    "the same in a struct of the payload": (
        "extra", lambda: pa.StructArray.from_arrays([latin(6, 5)], ["x"])),
    "an id": ("id", lambda: latin(6, 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_damaged_arrow_is_refused_and_the_field_named(tmp_path: Path, kind: str) -> None:
    async with aiovec.connect(target_in(tmp_path, kind)) as store:
        await store.create_table("t", SCHEMA)
        good = pa.RecordBatch.from_pydict(columns(3, id=pa.array(["x", "y", "z"])))
        for fault, (field, make) in DAMAGED.items():
            batch = pa.RecordBatch.from_pydict({**columns(6), field: make()})
            table = pa.Table.from_batches([batch])
            for rows in (batch, table.to_reader(), [good, batch], {**columns(6), field: make()}):
                with case(fault):
                    with pytest.raises(InvalidRowError) as caught:
                        await store.upsert("t", rows)
                    assert caught.value.field == field
        assert await store.count("t") == 0
        # Arrow lets a null cover any bytes; nobody else should see them.
        name = damaged_text([0, 2, 3], b"\xe9\xffz", valid=b"\x02")
        assert await store.insert("t", pa.RecordBatch.from_pydict(columns(2, name=name))) == 2
        assert [record["name"] for record in await store.find("t")] == [None, "z"]
        async for exported in store.export("t"):
            exported.validate(full=True)


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


async def test_few_bytes_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "notes.db") as store:
        await store.create_table("t", SCHEMA)
        for bomb, make in BOMBS.items():
            column = make()
            for name in ("a_key", "name", "tags"):
                with case((bomb, name)):
                    rows = pa.RecordBatch.from_pydict({**columns(len(column)), name: column})
                    with pytest.raises(InvalidRowError) as caught:
                        await store.insert("t", rows)
                    assert caught.value.field == name
        endless = pa.Array.from_buffers(pa.null(), 2**40, [None])  # Arrow keeps no byte of it
        for wrong in (
            pa.table({"id": endless, "embedding": endless}), {"id": endless, "embedding": endless},
            {"id": ["a"], "embedding": [[1.0, 2.0]], "name": endless},
        ):  # fmt: skip
            with case(wrong), pytest.raises(InvalidRowError):
                await store.insert("t", wrong)
        assert await store.count("t") == 0
