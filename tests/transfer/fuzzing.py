"""Reads mutated files of every format, in a process of its own: ``python -m … FOLDER SEED COUNT``.

Whatever is read ends in rows, rejects or an AiovecError. The case under way is written to a file
first, so that a crash or a hang can be told; ``… FOLDER SEED COUNT FIRST`` begins with that one.
"""

from __future__ import annotations

import csv
import faulthandler
import json
import random
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from aiovec import AiovecError, Schema
from aiovec._transfer import open_input
from aiovec._transfer.foreign import reading
from aiovec._transfer.sifting import sift
from aiovec.backend import Hints
from aiovec_sqlite.driver import connect

DIM = 4
ROWS = 40
SECONDS = 20
MEMORY = 3 * 2**30
_NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)


# What is read beside a file, and mutated as well.
_BESIDE = {"matrix.npy": "matrix.jsonl", "typed.csv": "typed.schema.json"}


def table() -> pa.Table:
    vectors = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype("f4")
    return pa.table(
        {
            "id": [f"i{i}" for i in range(ROWS)],
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
            "lang": pa.array(["de", "en"] * (ROWS // 2)).dictionary_encode(),
            "tags": [["a", "ä"], [], None, ["x"]] * (ROWS // 4),
            "about": [{"a": 1, "b": [None, "x"]}] * ROWS,
            "year": pa.array(range(ROWS), pa.int16()),
        }
    )


def corpora(folder: Path) -> dict[str, bytes]:
    """A sound file of each format."""
    rows = table()
    pq.write_table(rows, folder / "plain.parquet", compression="none")
    pq.write_table(rows, folder / "zstd.parquet", compression="zstd", row_group_size=16)
    feather.write_feather(rows, folder / "lz4.feather", compression="lz4")
    with ipc.new_file(folder / "file.arrow", rows.schema) as file:
        file.write_table(rows, max_chunksize=16)
    with ipc.new_stream(folder / "stream.arrows", rows.schema) as stream:
        stream.write_table(rows, max_chunksize=16)
    lines = [json.dumps(row) for row in rows.to_pylist()]
    (folder / "lines.jsonl").write_text("\n".join(lines), "utf-8")
    np.save(folder / "matrix.npy", np.ones((ROWS, DIM), "f4"))
    (folder / "matrix.jsonl").write_text("\n".join(lines), "utf-8")
    np.savez(folder / "archive.npz", a=np.ones((ROWS, DIM), "f4"))
    _comma_separated(rows, folder)
    _databases(folder)
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir())
        if path.name not in _BESIDE.values()
    }  # fmt: skip


def _comma_separated(rows: pa.Table, folder: Path) -> None:
    """A file whose columns are texts, and one whose columns a schema names."""
    schema = Schema(DIM, fields={"lang": str, "tags": list[str], "year": int})
    (folder / "typed.schema.json").write_text(schema.to_json(), "utf-8")
    for name in ("plain.csv", "typed.csv"):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_MINIMAL)
            writer.writerow(rows.column_names)
            for row in rows.to_pylist():
                writer.writerow(
                    json.dumps(value) if isinstance(value, (list, dict)) else value
                    for value in row.values()
                )


def _databases(folder: Path) -> None:
    blobs = np.random.default_rng(2).normal(size=(ROWS, DIM)).astype("f4")
    db = connect(str(folder / "blobs.db"))
    db.execute("PRAGMA page_size = 1024")
    db.execute("CREATE TABLE docs (id TEXT PRIMARY KEY, model TEXT, metadata TEXT, v BLOB)")
    for i, vector in enumerate(blobs):
        db.execute("INSERT INTO docs VALUES (?, 'm', ?, ?)", (i, '{"a": [1]}', vector.tobytes()))
    db.close()
    db = connect(str(folder / "vec0.db"))
    db.execute("PRAGMA page_size = 1024")
    db.execute("CREATE VIRTUAL TABLE items USING vec0(e float[4], tenant TEXT, +body TEXT)")
    db.execute("CREATE TABLE _collection_meta (name TEXT PRIMARY KEY, dim INT, model TEXT)")
    db.execute("INSERT INTO _collection_meta VALUES ('n', 4, 'm')")
    db.execute("CREATE VIRTUAL TABLE vec_n USING vec0(embedding float[4])")
    db.execute(
        "CREATE TABLE payload_n (rowid INTEGER PRIMARY KEY, orig_id TEXT, payload_json TEXT)"
    )
    for i, vector in enumerate(blobs):
        db.execute(
            "INSERT INTO items (rowid, e, tenant, body) VALUES (?, ?, 't', 'b')", (i, vector)
        )
        db.execute("INSERT INTO vec_n (rowid, embedding) VALUES (?, ?)", (i, vector))
        db.execute("INSERT INTO payload_n VALUES (?, ?, '{}')", (i, f"n{i}"))
    db.close()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four faults."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_FAULTS)(found, rng)
    return bytes(found)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _number(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data) - size))
    value = rng.choice(_NUMBERS) & (2 ** (8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _cut(data: bytearray, rng: random.Random) -> None:
    if data:
        del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randrange(1, 64)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randrange(1, 64)] * rng.choice((1, 2, 50))


def _move(data: bytearray, rng: random.Random) -> None:
    one, other, size = (
        rng.randrange(len(data) + 1),
        rng.randrange(len(data) + 1),
        rng.randrange(256),
    )
    data[one : one + size] = data[other : other + size]


def _noise(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    size = rng.randrange(1, 32)
    data[at : at + size] = rng.randbytes(size)


# There Parquet and Arrow (at the end), SQLite and NumPy (at the beginning) say what the rest means.
def _edge(data: bytearray, rng: random.Random) -> None:
    at = rng.choice((0, max(0, len(data) - 400)))
    for _ in range(rng.randrange(1, 4)):
        here = at + rng.randrange(400)
        if here < len(data):
            data[here] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


_FAULTS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _number, _number, _cut, _remove, _repeat, _move, _noise, _edge, _edge,
)  # fmt: skip


def read(path: Path) -> tuple[int, int]:
    """Rows and rejects of a file, as an import reads them."""
    rows = rejects = 0
    source = open_input(path, hints=Hints())
    try:
        for found in source.tables():
            for chunk in source.chunks(found, found.schema, 64):
                with reading(path):  # as the importer does
                    part = sift(chunk, found.schema, last_counts=False)
                rows += part.rows.num_rows
                rejects += len(part.rejects)
    finally:
        source.close()
    return rows, rejects


def hostile(folder: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Small files that ask for much: what reads them has to notice it."""
    big = "x" * (20 * 2**20)
    ids = [str(i) for i in range(3000)]
    vectors = pa.array([[1.0, 2.0]] * 3000, pa.list_(pa.float32()))
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([big]))
    texts = pa.table({"id": ids, "v": vectors, "t": repeated})
    yield "text.parquet", lambda path: pq.write_table(texts, path, compression="zstd")
    lists = pa.ListArray.from_arrays(pa.array(range(3001), pa.int32()), repeated)
    nested = pa.table({"id": ids, "v": vectors, "t": lists})
    yield "nested.parquet", lambda path: pq.write_table(nested, path, compression="zstd")
    wide = pa.table({"id": ["a"], "v": pa.array([np.zeros(20 * 2**20, "f4")])})
    yield "wide.parquet", lambda path: pq.write_table(wide, path, compression="zstd")
    none = pa.table(
        {"id": pa.nulls(20_000_000, pa.utf8()), "v": pa.nulls(20_000_000, pa.list_(pa.float32()))}
    )
    yield "rows.parquet", lambda path: pq.write_table(none, path)
    yield "line.jsonl", lambda path: path.write_bytes(b'{"id": "' + b"x" * (20 * 2**20))
    yield "deep.jsonl", lambda path: path.write_bytes(b'{"a":' + b"[" * 10**6)
    yield "list.jsonl", lambda path: path.write_bytes(b'{"id": [' + b"1," * 10**7)
    deep = {b"aiovec.schema": b"[" * 100_000}
    schema = table().schema.with_metadata(deep)
    yield "deep.parquet", lambda path: pq.write_table(table().cast(schema), path)
    yield "cell.csv", lambda path: path.write_bytes(b'id,embedding\n"' + b"x" * (20 * 2**20))
    yield "header.csv", lambda path: path.write_bytes(b"," * (20 * 2**20))
    yield "columns.csv", lambda path: path.write_bytes(b"id,embedding" + b",a" * 10**6 + b"\n")
    yield "deep.csv", lambda path: path.write_bytes(b"id,embedding\na," + b"[" * 10**6 + b"\n")
    yield "shape.npy", lambda path: _npy(path, "(9223372036854775807, 4)")
    yield "negative.npy", lambda path: _npy(path, "(-1, 4)")
    yield "nested.npy", lambda path: _npy(path, "(" * 4000 + ")" * 4000)


def _npy(path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    path.with_suffix(".jsonl").write_text('{"id": "a"}\n', "utf-8")


def attempt(path: Path, name: str) -> str:
    """What came of reading a file; a failure of ours is told and ends the process."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        rows, _ = read(path)
        return "rows" if rows else "none"
    except AiovecError as exc:
        if not str(exc).strip():
            raise
        return "refused"
    except BaseException:  # noqa: BLE001 - that is what is looked for
        sys.stdout.write(f"FAILED {name}\n{traceback.format_exc()}")
        sys.exit(3)
    finally:
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    sound = folder / "sound"
    sound.mkdir()
    originals = corpora(sound)
    for name in originals:
        expected = "refused" if name.endswith(".npz") else "rows"
        assert attempt(sound / name, name) == expected, name
    if count == 0:
        for name, make in hostile(folder):
            make(folder / name)
            (folder / "case").write_text(name, "utf-8")
            _limit_memory()
            sys.stdout.write(f"{name} {attempt(folder / name, name)}\n")
        return
    _limit_memory()
    outcomes: dict[str, int] = {}
    names = list(originals)
    for case in range(first, first + count):
        rng = random.Random(f"{seed} {case}")
        name = names[case % len(names)]
        path = folder / f"case-{name}"
        path.write_bytes(mutated(originals[name], rng))
        if beside := _BESIDE.get(name):
            data = (sound / beside).read_bytes()
            # A schema that cannot be read would keep the rows from being looked at.
            spoilt = name.endswith(".npy") or rng.random() < 0.2
            (folder / f"case-{beside}").write_bytes(mutated(data, rng) if spoilt else data)
        (folder / "case").write_text(f"{seed} {case} {name}", "utf-8")
        outcome = attempt(path, f"{seed} {case} {name}")
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    sys.stdout.write(json.dumps(outcomes) + "\n")


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
