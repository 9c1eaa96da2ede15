"""Opens mutated SQLite stores and calls everything: ``store_mutants.py <whole> <first> <count>``.

Each mutant's number is printed before it is opened, and behind it whatever came out that is neither
an answer nor an ``AiovecError``.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tests.sqlite.support import all_changes, opened, whole_table

from aiovec import AiovecError, Field, Schema, VectorStore
from aiovec.backend import Finding
from aiovec_sqlite.doctor import findings
from aiovec_sqlite.driver import connect

DIM = 8
SCHEMA = Schema(
    DIM,
    fields={
        "name": str, "year": int, "score": float, "seen": datetime, "live": bool,
        "tags": list[str], "part": Field(str, partition=True), "n": Field(int, index="btree"),
    },
    quantized="bit",
)  # fmt: skip
# A call that takes longer hangs.
PATIENCE = 30.0


async def make(path: Path) -> None:
    """A store with two tables, deletes, and a WAL that holds the last writes."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"r{n:03}", "embedding": rng.standard_normal(DIM, dtype=np.float32),
            "name": f"name {n}", "year": n, "score": n / 3, "live": n % 2 == 0,
            "seen": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=n),
            "tags": ["a", f"t{n % 3}"], "part": "pq"[n % 2], "n": n, "kind": {"deep": [n, "x"]},
        }
        for n in range(150)
    ]  # fmt: skip
    async with opened(path) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows)
        await store.create_table("plain", Schema(DIM, metric="l2"))
        await store.insert("plain", {"id": ["a", "b"], "embedding": [[1.0] * DIM, [2.0] * DIM]})
        await store.delete("t", [f"r{n:03}" for n in range(0, 20, 3)])
    async with opened(path) as store:
        await store.upsert("t", rows[30:40])
        await store.delete("t", "r031")
        for suffix in ("", "-wal"):  # closing the store empties the WAL
            shutil.copyfile(f"{path}{suffix}", f"{path}.whole{suffix}")


# Values that no write of ours would leave, in each place that is read back

_TEXTS = [
    "", "[", "null", "5", '"x"', "[1]", '[["a"]]', '{"a": 1}', "[null]", "[" * 5_000, "nan",
    "[1e999]", '{"a": NaN}', '{"a": ' * 3_000 + "1" + "}" * 3_000, '["\\ud800"]', "x\0y", "\ufffe",
    '{"run": 5}', '{"run": "r", "state": "paused", "limit": 1e999}', "[" + "9" * 5_000 + "]",
    '{"run": "r", "state": "paused", "limit": "x", "pause": []}',
    '{"run": "r", "state": "paused", "limit": -1}',
    '{"run": "r", "state": "paused", "limit": NaN, "pause": "p"}',
    '{"run": "r", "state": "moved", "moved_to": 7}', '{"run": "r", "state": "strange"}',
    '{"dim": -1}', '{"dim": 1e9, "fields": []}',
]  # fmt: skip
_NUMBERS = [0, -1, 2**63 - 1, -(2**63), 2**53 + 1, 10**12, 7]
_BLOBS = [b"", b"\xff", b"\0" * 31, bytes(range(256))]


def _value(rng: random.Random) -> tuple[str, Any]:
    """SQL for a value, and what it binds."""
    kind = rng.randrange(6)
    if kind == 0:
        return "CAST(? AS TEXT)", rng.choice([b"\xff\xfe", b"a\xc3", b"\xed\xa0\x80"])
    if kind == 1:
        return "?", rng.choice(_BLOBS)
    if kind == 2:
        return "?", rng.choice(_NUMBERS)
    if kind == 3:
        return "?", rng.choice([1e999, -1e999, 1.5, None])
    return "?", rng.choice(_TEXTS)


_PLACES = [
    ("aiovec_state", "value"), ("aiovec_state", "key"), ("aiovec_tables", "schema"),
    ("aiovec_tables", "epoch"), ("aiovec_tables", "floor"), ("aiovec_tables", "extreme"),
    ("aiovec_tables", "created"), ("aiovec_tables", "optimized"), ("aiovec_tables", "name"),
    ("aiovec_deleted", "seq"), ("aiovec_deleted", "id"), ("aiovec_deleted", "row"),
    *(("t.rows", name) for name in ("id", "payload", "_seq", "_rowid", *SCHEMA.fields)),
    *(("t.rows", name) for name in ("payload", "tags", "seen", "live")),
    ("t.vec_rowids", "chunk_id"), ("t.vec_rowids", "chunk_offset"), ("t.vec_rowids", "rowid"),
    ("t.vec_chunks", "validity"), ("t.vec_chunks", "rowids"), ("t.vec_chunks", "size"),
    ("t.vec_chunks", "partition00"), ("t.vec_vector_chunks00", "vectors"),
    ("t.vec_vector_chunks01", "vectors"), ("t.vec_info", "value"),
]  # fmt: skip


def _change_a_value(path: Path, rng: random.Random) -> str:
    table, column = rng.choice(_PLACES)
    sql, value = _value(rng)
    told = f"{table}.{column} = {value!r:.60}"
    with closing(connect(str(path))) as db, suppress(Exception):
        if (table, column) == ("aiovec_state", "value") and rng.random() < 0.6:
            db.execute(f"INSERT INTO aiovec_state VALUES ('move', {sql})", (value,))
            return f"move mark: {told}"
        if rng.random() < 0.5:
            # What a strict table would refuse comes as damage comes: below SQLite's checks.
            db.execute("PRAGMA writable_schema = ON")
            db.execute(
                "UPDATE sqlite_master SET sql = replace(replace(sql, ') STRICT', ')'), "
                "'NOT NULL', '') WHERE name = ?", (table,)
            )  # fmt: skip
            db.execute("PRAGMA writable_schema = RESET")
        where = "" if rng.random() < 0.3 else 'WHERE rowid IN (SELECT max(rowid) FROM "{}")'
        db.execute(f'UPDATE "{table}" SET "{column}" = {sql} {where.format(table)}', (value,))
    return told


def _edit_schema(path: Path, rng: random.Random) -> str:
    with closing(connect(str(path))) as db:
        (text,) = db.execute("SELECT schema FROM aiovec_tables WHERE name = 't'").fetchone()
        document = json.loads(text)
        key = rng.choice(list(document))
        document[key] = rng.choice([None, 5, -1, "x", [], {}, {"a": []}, 10**30, True, [[1]]])
        changed = json.dumps(document)
        if rng.random() < 0.4:
            place = rng.randrange(len(text))
            changed = text[:place] + rng.choice('{}[],"0x ') + text[place + 1 :]
        db.execute("UPDATE aiovec_tables SET schema = ? WHERE name = 't'", (changed,))
    return f"schema: {changed:.200}"


def _change_bytes(path: Path, rng: random.Random) -> str:
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        kind = rng.randrange(4)
        place = rng.randrange(max(1, size))
        if kind == 0:
            file.truncate(place)
            return f"{path.name} cut at {place}"
        if kind == 1:
            page = place // 4096 * 4096
            file.seek(page)
            file.write(bytes(min(4096, size - page)))
            return f"{path.name}: page at {page} zeroed"
        if kind == 2:
            file.seek(place)
            file.write(rng.randbytes(min(rng.choice([16, 200, 4096]), size - place)))
            return f"{path.name}: garbage at {place}"
        for _ in range(rng.randrange(1, 9)):
            place = rng.randrange(size)
            file.seek(place)
            old = file.read(1)
            file.seek(place)
            file.write(bytes([old[0] ^ 1 << rng.randrange(8)]))
        return f"{path.name}: bits"


def mutate(path: Path, rng: random.Random) -> str:
    kind = rng.randrange(10)
    if kind < 4:
        return _change_bytes(path, rng)
    if kind == 4:
        return _change_bytes(path.with_name(f"{path.name}-wal"), rng)
    if kind == 5:
        return _edit_schema(path, rng)
    told = _change_a_value(path, rng)
    return told if rng.random() < 0.7 else f"{told}; {_change_a_value(path, rng)}"


# What is called

Call = Callable[[VectorStore], Awaitable[Any]]
POINT = [0.5] * DIM


def calls(table: str) -> list[Call]:
    rows = [{"id": "new", "embedding": [1.0] * DIM}, {"id": "r031", "embedding": [2.0] * DIM}]
    return [
        lambda store: store.tables(),
        lambda store: store.search(table, POINT, limit=200, include_vector=True),
        lambda store: store.search(table, POINT, where="n > 3 AND tags CONTAINS 'a'"),
        lambda store: store.search(table, POINT, where="payload.kind.deep CONTAINS 'x'"),
        lambda store: store.get(table, [f"r{n:03}" for n in range(150)]),
        lambda store: store.find(table, "name LIKE '%a_e%' OR seen IS NULL", order_by="n"),
        lambda store: store.count(table, "live AND score >= 1"),
        lambda store: whole_table(store, table),
        lambda store: all_changes(store, table),
        lambda store: store.stats(table),
        lambda store: store.upsert(table, rows),
        lambda store: store.update(table, {"year": 5, "extra": [1]}, where="n < 9"),
        lambda store: store.delete(table, "r040"),
        lambda store: store.optimize(table),
        lambda store: store.search(table, POINT, limit=200),
    ]


@asynccontextmanager
async def limited() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except TimeoutError:
        raise RuntimeError("it hangs") from None


async def try_all(path: Path, scan: str) -> list[str]:
    raw = []

    async def attempt(name: str, work: Callable[[], Awaitable[Any]]) -> bool:
        try:
            async with limited():
                await work()
        except AiovecError:
            return False
        except Exception:  # noqa: BLE001 - this is what is looked for
            raw.append(f"{name}: {traceback.format_exc()}")
            return False
        return True

    async def inspect() -> list[Finding]:
        return await asyncio.to_thread(findings, path)

    await attempt("doctor", inspect)
    stores: list[VectorStore] = []

    async def open_it() -> None:
        async with opened(path, scan=scan, busy_timeout=0.5, durability="normal") as store:
            stores.append(store)
            for table in ("t", "plain"):
                for number, call in enumerate(calls(table)):
                    await attempt(f"call {number} of {table}", lambda call=call: call(store))

    await attempt("open", open_it)
    await attempt("doctor afterwards", inspect)
    return raw


def say(line: str) -> None:
    sys.stdout.write(line.encode("utf-8", "replace").decode() + "\n")
    sys.stdout.flush()


def main(whole: Path, first: int, count: int) -> None:
    warnings.simplefilter("error")
    for number in range(first, first + count):
        say(f"mutant {number}")
        rng = random.Random(number)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "s.db")
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{whole}{suffix}", f"{path}{suffix}")
            told = mutate(path, rng)
            raw = asyncio.run(try_all(path, rng.choice(["disk", "auto", "bit"])))
        for one in raw:
            say(f"RAW {number} ({told}) {one}")
    say("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
