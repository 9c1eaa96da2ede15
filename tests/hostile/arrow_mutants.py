"""Writes and imports Arrow data that was changed at random. A process of its own, for it may die.

``python arrow_mutants.py FIRST COUNT FOLDER`` runs the mutants with these numbers and prints each
number before it begins, so that the last one printed is the one that ended the interpreter.
"""

from __future__ import annotations

import asyncio
import faulthandler
import io
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

import aiovec
from aiovec._transfer.loading import Load, Loading, load
from aiovec._transfer.reading import open_input
from aiovec._transfer.rejects import RejectsFile

ROWS = 12
DIM = 4
SCHEMA = aiovec.Schema(
    DIM,
    metric="l2",
    fields={"name": str, "year": int, "score": float, "live": bool, "seen": datetime,
            "tags": list[str]},
)  # fmt: skip

TEXTS = ["", "short", "longer than the twelve bytes of a view", "größer", None, "日本語のテキスト"]
MOMENT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def texts(chance: random.Random) -> list[str | None]:
    return [chance.choice(TEXTS) for _ in range(ROWS)]


def as_text(values: list[Any], chance: random.Random) -> pa.Array:
    """Text in one of the layouts that Arrow has for it."""
    plain = pa.array(values, pa.utf8())
    match chance.randrange(6):
        case 0:
            return pa.array(values, pa.large_utf8())
        case 1:
            return pa.array(values, pa.string_view())
        case 2:
            return plain.dictionary_encode()
        case 3:
            return pa.DictionaryArray.from_arrays(
                plain.dictionary_encode().indices,
                plain.dictionary_encode().dictionary.cast(pa.string_view()),
            )
        case 4:
            return pa.compute.run_end_encode(plain)
    return plain


def as_lists(values: list[Any], item: pa.DataType, chance: random.Random) -> pa.Array:
    kinds = [pa.list_(item), pa.large_list(item), pa.list_view(item), pa.large_list_view(item)]
    return pa.array(values, chance.choice(kinds))


def sample(chance: random.Random) -> pa.RecordBatch:
    """A good batch, its columns in layouts chosen at random."""
    vectors = np.arange(1, ROWS * DIM + 1, dtype=np.float32).reshape(ROWS, DIM)
    ids = [f"row-{n:02}-{'x' * chance.randrange(12)}" for n in range(ROWS)]
    maybe = [None if chance.random() < 0.3 else n for n in range(ROWS)]
    tags = [None if n is None else ["a", "tag that is longer than a view"][: n % 3] for n in maybe]
    text = chance.choice([pa.utf8(), pa.large_utf8(), pa.string_view()])
    vector = (
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        if chance.random() < 0.6
        else as_lists(vectors.tolist(), chance.choice([pa.float32(), pa.float64()]), chance)
    )
    columns = {
        "id": as_text(ids, random.Random(chance.randrange(4) and 5)),
        "embedding": vector,
        "name": as_text(texts(chance), chance),
        "year": pa.array(maybe, chance.choice([pa.int64(), pa.uint8(), pa.float64()])),
        "score": pa.array(maybe, chance.choice([pa.float64(), pa.float32(), pa.int32()])),
        "live": pa.array([None if n is None else n % 2 == 0 for n in maybe]),
        "seen": pa.array([None if n is None else MOMENT for n in maybe], pa.timestamp("ms", "UTC")),
        "tags": as_lists(tags, text, chance),
    }
    if chance.random() < 0.5:
        columns["extra"] = pa.array(
            [None if n is None else {"a": "t" * n, "b": [n, None]} for n in maybe],
            pa.struct([("a", text), ("b", pa.list_(pa.int64()))]),
        )
    if chance.random() < 0.5:
        columns["payload"] = pa.array([None if n is None else f'{{"k":{n}}}' for n in maybe])
    batch = pa.RecordBatch.from_pydict(columns)
    if chance.random() < 0.3:
        low = chance.randrange(ROWS // 2)
        batch = batch.slice(low, ROWS - low - chance.randrange(3))
    return batch


def change(data: bytearray, chance: random.Random, start: int = 0) -> None:
    """Damage some bytes: a bit, a number that may be an offset or a length, or a run of them."""
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        place = chance.randrange(start, len(data) - 8)
        match chance.randrange(5):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place] = chance.choice([0xFF, 0x80, 0xC3, 0xED, 0])
            case 2:
                place -= place % 4
                number = chance.choice([-1, 1, 7, 255, 2**20, 2**31 - 1, -(2**31), 0])
                data[place : place + 4] = number.to_bytes(4, "little", signed=True)
            case 3:
                place -= place % 8
                number = chance.choice([-1, 2**33, 2**63 - 1, -(2**63), 3])
                data[place : place + 8] = number.to_bytes(8, "little", signed=True)
            case 4:
                data[place : place + 4] = data[start : start + 4]


def in_memory(chance: random.Random) -> pa.RecordBatch:
    """A batch whose buffers were changed after Arrow had read it."""
    sink = io.BytesIO()
    with ipc.new_stream(sink, (batch := sample(chance)).schema) as writer:
        writer.write_batch(batch)
    memory = np.frombuffer(bytearray(sink.getvalue()), dtype=np.uint8)
    found = ipc.open_stream(pa.py_buffer(memory)).read_next_batch()
    # The message's own buffers, one after the other.
    buffers = [
        buffer for column in found.columns for buffer in _buffers(column)
        if buffer is not None and buffer.size
    ]  # fmt: skip
    base = memory.__array_interface__["data"][0]
    for _ in range(chance.choice([1, 1, 2, 3])):
        buffer = chance.choice(buffers)
        start = buffer.address - base
        part = bytearray(memory[start : start + max(buffer.size, 16)].tobytes())
        change(part, chance)
        memory[start : start + buffer.size] = np.frombuffer(part, np.uint8)[: buffer.size]
    return found


def _buffers(array: pa.Array) -> list[Any]:
    found: list[Any] = list(array.buffers())
    if pa.types.is_dictionary(array.type):
        found += array.dictionary.buffers()
    return found


class Stream:
    """Offers Arrow's C stream and nothing else."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.Table.from_batches([self._batch]).__arrow_c_stream__(requested_schema)


def expected(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """What a batch that was accepted says, by Arrow itself; it has validated it."""
    batch.validate(full=True)
    return [
        {
            "id": row["id"], "name": row["name"], "live": row["live"], "tags": row["tags"],
            "embedding": [float(np.float32(v)) for v in row["embedding"]],
        }
        for row in batch.to_pylist()
    ]  # fmt: skip


async def write(store: aiovec.VectorStore, chance: random.Random) -> str:
    batch = in_memory(chance)
    rows: Any = chance.choice(
        [batch, pa.Table.from_batches([batch]), [batch], Stream(batch),
         pa.RecordBatchReader.from_batches(batch.schema, [batch])]
    )  # fmt: skip
    try:
        count = await store.insert("t", rows)
    except aiovec.AiovecError:
        if await store.count("t"):
            raise AssertionError("rows of a refused call were kept") from None
        return "refused"
    wanted = expected(batch)
    ids = [row["id"] for row in wanted]
    found = await store.get("t", ids)
    if count != len(wanted) or len(found) != len(wanted):
        raise AssertionError(f"{count} rows of {len(wanted)}, {len(found)} found")
    for row, record in zip(wanted, found, strict=True):
        stored = {"id": record.id, "name": record["name"], "live": record["live"],
                  "tags": record["tags"], "embedding": record.vector.tolist()}  # fmt: skip
        if stored != row:
            raise AssertionError(f"{stored} was stored for {row}")
    await store.delete("t", ids)
    return "stored"


async def read_file(store: aiovec.VectorStore, chance: random.Random, folder: Path) -> str:
    form = chance.choice(["parquet", "arrow", "arrows", "feather"])
    path = folder / f"mutant.{'arrow' if form == 'feather' else form}"
    batch = sample(chance)
    table = pa.Table.from_batches([batch])
    try:
        match form:
            case "parquet":
                pq.write_table(table, path, row_group_size=5, compression="none")
            case "feather":
                feather.write_feather(table, path, compression=chance.choice(["lz4", None]))
            case "arrow":
                with ipc.new_file(path, table.schema) as file:
                    file.write_table(table)
            case _:
                with ipc.new_stream(path, table.schema) as stream:
                    stream.write_table(table)
    except (pa.ArrowException, ValueError):
        return "unwritable"  # Parquet knows fewer types
    data = bytearray(path.read_bytes())
    change(data, chance)
    if chance.random() < 0.2:
        del data[chance.randrange(len(data)) :]
    path.write_bytes(bytes(data))
    try:
        source = await asyncio.to_thread(open_input, path)
    except aiovec.AiovecError:
        return "refused"
    rejects = RejectsFile(folder / "rejects.jsonl")
    try:
        (table_in,) = source.tables()
        loads = [Load(table_in, "f")]
        await load(store, source, loads, rejects, Loading())
    except aiovec.AiovecError:
        return "refused"
    finally:
        source.close()
    async for found in store.export("f"):
        found.validate(full=True)
    await store.drop_table("f")
    return "stored"


async def main(first: int, count: int, folder: Path) -> None:
    told: dict[str, int] = {}
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", SCHEMA)
        for number in range(first, first + count):
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            faulthandler.dump_traceback_later(60, exit=True)
            chance = random.Random(number)
            if number % 3:
                outcome = await write(store, chance)
            else:
                outcome = await read_file(store, chance, folder)
                if "f" in await store.tables():
                    await store.drop_table("f")
            faulthandler.cancel_dump_traceback_later()
            told[outcome] = told.get(outcome, 0) + 1
    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    faulthandler.enable()
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
