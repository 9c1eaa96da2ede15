"""If another program has removed rows or damaged tables, calls fail or return right answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.processes import output_of
from tests.harness.waiting import until
from tests.sqlite.support import open_store, opened, ready, sql, whole_table

import aiovec
from aiovec import CorruptStoreError, Decay, Factor, Field, Schema, VectorStore

DIM, ROWS = 16, 2_400
VECTORS = np.random.default_rng(1).standard_normal((ROWS, DIM), dtype=np.float32)


async def filled(path: Path) -> None:
    fields = {"tenant": Field(str, partition=True), "n": int}
    async with aiovec.connect(path) as store:
        await store.create_table("t", Schema(DIM, fields=fields))
        numbers = range(ROWS)
        rows = {
            "id": [f"r{n:04}" for n in numbers], "embedding": VECTORS,
            "tenant": ["abcd"[n % 4] for n in numbers], "n": list(numbers),
        }  # fmt: skip
        await store.insert("t", rows)


def remove(path: Path, table: str, number: int) -> None:
    with sql(path) as db:
        id = f"r{number:04}"
        (rowid,) = db.execute('SELECT _rowid FROM "t.rows" WHERE id = ?', (id,)).fetchone()
        key = "_rowid" if table == "rows" else "rowid"
        db.execute(f'DELETE FROM "t.{table}" WHERE {key} = ?', (rowid,))


@pytest.mark.parametrize(("table", "scan"), [("rows", "auto"), ("vec", "disk")])
async def test_a_row_with_one_half_gone_is_never_mistaken_for_another(
    tmp_path: Path, table: str, scan: str
) -> None:
    """No search returns another row or its distance; a search that would find the row fails."""
    path = tmp_path / "a.db"
    await filled(path)
    refused = 0

    async def check(store: VectorStore, number: int, limit: int, where: str | None) -> None:
        nonlocal refused
        try:
            hits = await store.search("t", VECTORS[number], limit=limit, where=where)
        except CorruptStoreError as exc:
            refused += 1
            assert "'t'" in exc.reason  # noqa: PT017 - either outcome is right
            return
        for hit in hits:
            assert hit.id == f"r{hit['n']:04}"
            assert where is None or hit["tenant"] == where[-2]
            vector, query = VECTORS[hit["n"]].astype(float), VECTORS[number].astype(float)
            wanted = 1 - vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)
            assert hit.distance == pytest.approx(wanted, abs=1e-6)

    async with opened(path, scan=scan) as store:
        if scan == "auto":
            await ready(store, "t")
        remove(path, table, 5)  # a row of the tenant "b"
        for limit in (1, 7, ROWS):
            for where in (None, "tenant = 'a'", "tenant = 'b'"):
                await asyncio.gather(*(check(store, n, limit, where) for n in (4, 5, 6)))
        assert refused
        reads: dict[str, Callable[[VectorStore], Awaitable[object]]] = {
            "get": lambda store: store.get("t", ["r0004", "r0005"]),
            "find": lambda store: store.find("t", "n < 9", select=["embedding"]),
            "export": lambda store: whole_table(store, "t"),
        }
        for name, read in reads.items():
            with case(name):
                if table == "vec":
                    with pytest.raises(CorruptStoreError, match="'t'"):
                        await read(store)
                else:
                    await read(store)
    async with opened(path, scan=scan) as store:
        with pytest.raises(CorruptStoreError, match="'t'"):
            await store.search("t", VECTORS[5], limit=3)


async def test_a_vector_without_a_length_hides_no_other_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its codes would spoil the bound for all rows, so searches read the file."""
    path = tmp_path / "a.db"
    await filled(path)
    with sql(path) as db:
        (rowid,) = db.execute("SELECT _rowid FROM \"t.rows\" WHERE id = 'r0005'").fetchone()
        blob = np.full(DIM, np.nan, np.float32).tobytes()
        db.execute('UPDATE "t.vec" SET vector = ? WHERE rowid = ?', (blob, rowid))
    async with aiovec.connect(path) as store:

        async def refused() -> bool:
            for number in (4, 6):
                hits = await store.search("t", VECTORS[number], limit=ROWS)
                assert (len(hits), hits[0].id) == (ROWS, f"r{number:04}")
            return "not finite" in caplog.text

        await until(refused)


# This runs in a separate process, because a failure would crash the process.
CALLS = """
import asyncio, sys
import aiovec

async def main(path):
    rows = [{"id": "7", "embedding": [1.0] * 8, "n": "a"}]
    for name, call in {
        "get": lambda store: store.get("t", ["7"]),
        "search": lambda store: store.search("t", [1.0] * 8, exact=True),
        "find": lambda store: store.find("t", limit=300, select=["embedding"]),
        "upsert": lambda store: store.upsert("t", rows),
        "update": lambda store: store.update("t", {"n": "b"}, ids=["7"]),
        "delete": lambda store: store.delete("t", ["7"]),
        "insert": lambda store: store.insert("t", [{**rows[0], "id": "new"}]),
    }.items():
        async with await aiovec.connect(path) as store:  # each on a store that knows nothing yet
            try:
                await call(store)
            except aiovec.CorruptStoreError as exc:
                print(name, "told:", exc, flush=True)

for path in sys.argv[1:]:
    asyncio.run(main(path))
"""

DAMAGES = (
    'DROP TABLE "t.vec_rowids"',
    'ALTER TABLE "t.vec_rowids" RENAME COLUMN chunk_id TO chunk',
)


@pytest.mark.slow
async def test_a_table_in_which_vec0_finds_no_row(tmp_path: Path) -> None:
    """sqlite-vec would crash, and so would the process."""
    paths = [tmp_path / f"{number}.db" for number, _ in enumerate(DAMAGES)]
    for path, damage in zip(paths, DAMAGES, strict=True):
        store = await open_store(path)
        await store.create_table("t", Schema(8, fields={"n": Field(str, partition=True)}))
        rows = [{"id": str(n), "embedding": [float(n)] * 8, "n": "a"} for n in range(1, 400)]
        await store.insert("t", rows)
        await store.close()
        with sql(path) as db:
            db.execute(damage)
    printed = await asyncio.to_thread(output_of, "-c", CALLS, *paths)
    for line in printed.splitlines():
        assert re.match(r"\w+ told: .*the file is damaged", line), line
    assert printed.count("\n") == 7 * len(DAMAGES)


async def test_a_damaged_payload_fails_the_searches_that_read_it(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with aiovec.connect(path) as store:
        await store.create_table("t", Schema(2))
        await store.insert("t", [{"id": id, "embedding": [1, 0], "at": "x"} for id in "ab"])
    with sql(path) as db:
        db.execute("UPDATE \"t.rows\" SET payload = '[' WHERE id = 'b'")
    async with aiovec.connect(path) as store:
        steps: dict[str, Any]
        for steps in (
            {}, {"rerank": Decay("payload.at", "1d")}, {"rerank": Factor("payload.at")},
            {"group_by": "payload.at"}, {"group_by": "payload.at", "select": []},
        ):  # fmt: skip
            with case(steps), pytest.raises(CorruptStoreError, match=r"row 'b'.*payload"):
                await store.search("t", [1, 0], **steps)
        assert len(await store.search("t", [1, 0], select=[])) == 2
