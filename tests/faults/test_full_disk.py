"""A full disk causes StoreFullError, and acknowledged rows are kept."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from asyncio import to_thread
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command import run
from tests.harness.disk import small_disk, take_all
from tests.harness.marks import begin_move, pause_writers
from tests.harness.scripts import DIM, KINDS, SCHEMA, TABLE, path_of, row, target_in
from tests.lancedb.support import opened

import aiovec
from aiovec import StoreFullError, VectorStore
from aiovec.backend.place import find_place

__all__ = ["small_disk"]  # a fixture


def large(id: str, megabytes: int) -> dict[str, Any]:
    return {**row(id, 1), "text": text_of(id, megabytes)}


def text_of(id: str, megabytes: int) -> str:
    """Return a text that hardly compresses."""
    return b64encode(random.Random(id).randbytes(megabytes * (3 << 18))).decode()


async def check_kept(store: VectorStore, kept: set[str]) -> None:
    ids = [id async for batch in store.export(TABLE) for id in batch.column("id").to_pylist()]
    assert len(ids) == len(set(ids))
    assert set(ids) == kept
    hits = await store.search(TABLE, [1.0] * DIM, limit=len(kept) + 1, exact=True)
    assert {hit.id for hit in hits} == kept


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "sqlite" else pytest.mark.slow) for kind in KINDS],
)
async def test_a_full_disk_gives_an_error_and_loses_no_acknowledged_row(
    small_disk: Path, kind: str
) -> None:
    target = target_in(small_disk, kind)
    filler = small_disk / "filler"
    kept: set[str] = set()
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA)
        await to_thread(filler.write_bytes, bytes(9 << 20))
        for n in range(100):  # until the disk is full
            try:
                await store.insert(TABLE, [large(f"r{n}", 1)])
            except StoreFullError:
                break
            kept.add(f"r{n}")
        assert 0 < len(kept) < 100
        await check_kept(store, kept)
        await to_thread(take_all, small_disk / "last")
        for call in (
            store.insert(TABLE, [large("none", 1)]), store.upsert(TABLE, [large("r0", 2)]),
            store.update(TABLE, {"name": text_of("x", 1)}, where="TRUE"),
        ):  # fmt: skip
            with pytest.raises(StoreFullError) as caught:
                await call
            assert caught.value.target == store.target
            assert caught.value.reason
        await check_kept(store, kept)
        # A call that needs too much space does not affect others that share its commit.
        await to_thread((small_disk / "last").unlink)
        await to_thread(os.truncate, filler, 5 << 20)
        outcomes = await asyncio.gather(
            store.insert(TABLE, [large("large", 16)]),
            *(store.insert(TABLE, [row(f"small{n}", n)]) for n in range(10)),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], StoreFullError), outcomes[0]
        assert outcomes[1:] == [1] * 10
        kept |= {f"small{n}" for n in range(10)}
        await check_kept(store, kept)
    await to_thread(filler.unlink)
    async with aiovec.connect(target) as store:
        await check_kept(store, kept)
        await store.optimize(TABLE)
        await store.insert(TABLE, [large("again", 1)])
        await check_kept(store, kept | {"again"})


@pytest.mark.parametrize("kind", KINDS)
async def test_no_room_for_a_store_or_a_copy(small_disk: Path, tmp_path: Path, kind: str) -> None:
    """The error names the full place, and no files are left there."""
    source, target = target_in(tmp_path, kind), target_in(small_disk, kind)
    filler = small_disk / "filler"
    async with aiovec.connect(source) as store:
        await store.create_table(TABLE, SCHEMA)
        await store.insert(TABLE, [row(f"r{n}", n) for n in range(100)])
        saved = tmp_path / "saved"
        await store.backup(saved)
        await to_thread(take_all, filler)
        with pytest.raises(StoreFullError) as caught:
            await store.backup(small_disk / "copy")
        assert caught.value.target.startswith(str(small_disk / "copy"))
        with pytest.raises(StoreFullError) as caught:
            await aiovec.restore(saved, target)
        assert caught.value.target == str(path_of(target))
        assert await to_thread(os.listdir, small_disk) == ["filler"]
        await store.insert(TABLE, [row("more", 1)])
    with pytest.raises(StoreFullError):
        async with aiovec.connect(target) as store:
            await store.create_table(TABLE, SCHEMA)
    await to_thread(filler.unlink)
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA, exist_ok=True)
        await store.insert(TABLE, [row("a", 1)])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_full_disk_makes_no_write_wait_for_a_migration_for_ever(
    small_disk: Path, kind: str
) -> None:
    """The migration's pause is over, but there is no space to record its end."""
    target, full = target_in(small_disk, kind), small_disk / "full"
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA)
        migrator = await to_thread((await to_thread(find_place, target)).create)
        await migrator.open()
        await begin_move(migrator, "r1")
        await pause_writers(migrator, "r1", 0.1)
        await migrator.close()
        await to_thread(take_all, full)
        with pytest.raises(StoreFullError):
            async with asyncio.timeout(30):
                await store.insert(TABLE, [row("a", 1)])
        await to_thread(full.unlink)
        assert await store.insert(TABLE, [row("a", 1)]) == 1


@pytest.mark.slow
async def test_old_versions_go_once_a_full_disk_has_room_again(small_disk: Path) -> None:
    settings = {"keep_versions": "0 seconds", "max_versions": 2, "upkeep": "elsewhere"}
    async with opened(small_disk / "s", **settings) as store:
        await store.create_table(TABLE, SCHEMA)
        for n in range(12):
            await store.upsert(TABLE, [row(f"r{n}", n)])
        await to_thread(take_all, small_disk / "last")
        with pytest.raises(StoreFullError):
            await store.delete(TABLE, "r3")
        await check_kept(store, {f"r{n}" for n in range(12)})
        await to_thread((small_disk / "last").unlink)
        await store.optimize(TABLE)
        assert len(await store.versions(TABLE)) < 6
        assert await store.delete(TABLE, "r3") == 1
        await check_kept(store, {f"r{n}" for n in range(12)} - {"r3"})


@pytest.mark.slow
async def test_an_import_onto_a_full_disk_says_how_many_rows_it_kept(
    small_disk: Path, tmp_path: Path
) -> None:
    rows = 30_000
    file = tmp_path / "rows.jsonl"

    def write() -> None:
        with file.open("w") as lines:
            for n in range(rows):
                lines.write(json.dumps({"id": f"r{n}", "embedding": [1, n], "t": "x" * 700}) + "\n")

    await to_thread(write)
    target = small_disk / "n.db"
    finished = await to_thread(run, "import", file, "-s", target, "--table", "t")
    assert finished.code == 1
    assert "no space left to write" in finished.err
    (kept,) = re.findall(r"kept before that: ([0-9,]+) rows of 't'", finished.err)
    count = int(kept.replace(",", ""))
    assert 0 < count < rows
    async with aiovec.connect(target) as store:
        ids = [id async for batch in store.export("t") for id in batch.column("id").to_pylist()]
    assert sorted(ids) == sorted(f"r{n}" for n in range(count))
