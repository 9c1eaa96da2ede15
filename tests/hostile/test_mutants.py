"""Arrow batches with randomly changed buffers are refused, or stored as Arrow reads them."""

from __future__ import annotations

import io
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from tests.harness.cases import Seeds

import aiovec

ROWS, DIM = 12, 4
SCHEMA = aiovec.Schema(DIM, metric="l2", fields={"name": str, "year": int, "tags": list[str]})
TEXTS = ["", "short", "longer than the twelve bytes of a view", "größer", None, "日本語のテキスト"]


def as_text(values: list[Any], chance: random.Random) -> pa.Array:
    """Return text in a random layout of Arrow."""
    plain = pa.array(values, pa.utf8())
    layouts = [
        lambda: plain, lambda: plain, lambda: pa.array(values, pa.large_utf8()),
        lambda: pa.array(values, pa.string_view()), plain.dictionary_encode,
        lambda: pa.compute.run_end_encode(plain),
    ]  # fmt: skip
    return chance.choice(layouts)()


def columns(rows: int, chance: random.Random) -> dict[str, pa.Array]:
    """Return good columns for ``SCHEMA``, each in a random layout."""
    maybe = [None if chance.random() < 0.3 else n for n in range(rows)]
    tags = [None if n is None else ["a", "a tag longer than a view"][: n % 3] for n in maybe]
    lists = [pa.list_(pa.utf8()), pa.large_list(pa.utf8()), pa.list_view(pa.utf8())]
    return {
        "id": as_text([f"row-{n:02}" for n in range(rows)], chance),
        "embedding": vectors(rows, chance),
        "name": as_text([chance.choice(TEXTS) for _ in range(rows)], chance),
        "year": pa.array(maybe, chance.choice([pa.int64(), pa.uint8(), pa.float16()])),
        "tags": pa.array(tags, chance.choice(lists)),
        "extra": pa.array(
            [None if n is None else {"a": "t" * n, "b": [n, None]} for n in maybe],
            pa.struct([("a", pa.utf8()), ("b", pa.list_(pa.int64()))]),
        ),
    }


def vectors(rows: int, chance: random.Random) -> pa.Array:
    numbers = pa.array(np.arange(1, rows * DIM + 1, dtype=np.float32))
    fixed = pa.FixedSizeListArray.from_arrays(numbers, DIM)
    return fixed if chance.random() < 0.6 else fixed.cast(pa.list_(pa.float32()))


def sample(chance: random.Random) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pydict(columns(ROWS, chance))
    return batch.slice(chance.randrange(3)) if chance.random() < 0.3 else batch


def changed(part: bytearray, chance: random.Random) -> None:
    """Change a bit, a byte, or a number that may be an offset or a length."""
    place = chance.randrange(len(part) - 7)
    kind = chance.randrange(3)
    if kind == 0:
        part[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        part[place] = chance.choice([0xFF, 0x80, 0xC3, 0xED, 0])
    else:
        length = chance.choice([4, 8])
        number = chance.choice([-1, 1, 7, 255, 2**20, 2**31 - 1, -(2**31)])
        place -= place % length
        part[place : place + length] = number.to_bytes(length, "little", signed=True)


def mutant(chance: random.Random) -> pa.RecordBatch:
    """Return a batch whose buffers were changed after Arrow had read it."""
    sink = io.BytesIO()
    batch = sample(chance)
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    memory = np.frombuffer(bytearray(sink.getvalue()), dtype=np.uint8)
    loaded = ipc.open_stream(pa.py_buffer(memory)).read_next_batch()
    buffers = [
        buffer for column in loaded.columns for buffer in column.buffers() if buffer and buffer.size
    ]
    base = memory.__array_interface__["data"][0]
    for _ in range(chance.choice([1, 1, 2, 3])):
        buffer = chance.choice(buffers)
        start = buffer.address - base
        part = bytearray(memory[start : start + max(buffer.size, 16)].tobytes())
        changed(part, chance)
        memory[start : start + buffer.size] = np.frombuffer(part, np.uint8)[: buffer.size]
    return loaded


async def write(store: aiovec.VectorStore, batch: pa.RecordBatch) -> str:
    """Insert the batch: it is refused as a whole, or stored as Arrow itself says."""
    try:
        count = await store.insert("t", batch)
    except aiovec.AiovecError:
        assert await store.count("t") == 0, "rows of a refused call were kept"
        return "refused"
    batch.validate(full=True)
    wanted = batch.to_pylist()
    records = await store.get("t", [row["id"] for row in wanted])
    assert count == len(wanted) == len(records)
    for row, record in zip(wanted, records, strict=True):
        assert record.vector is not None
        assert record.vector.tolist() == row["embedding"]
        assert [record[name] for name in ("name", "year", "tags")] == [
            row[name] for name in ("name", "year", "tags")
        ]
    await store.delete("t", [row["id"] for row in wanted])
    return "stored"


@pytest.mark.soak(minutes=2)
@pytest.mark.timeout(3600)
async def test_ten_thousand_mutants_are_refused_or_stored_as_arrow_reads_them(seeds: Seeds) -> None:
    outcomes: Counter[str] = Counter()
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", SCHEMA)
        for seed in seeds(10_000):
            outcomes[await write(store, mutant(random.Random(seed)))] += 1
    assert len(outcomes) == 2 or outcomes.total() < 100  # a short one may meet one kind only
