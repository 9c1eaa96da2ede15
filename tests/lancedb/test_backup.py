"""A backup is a snapshot, and leaves nothing behind if it does not finish."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.contract.base import case
from tests.harness.marks import begin_move
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import AiovecError, InvalidArgumentError, Schema, UnsupportedError, VectorStore

from .buckets import s3_server
from .indexed import DIM, FEW, QUESTIONS, filled, rows
from .support import backend_on, listed, opened

TEXTS = Schema(DIM, fields={"number": int, "kind": str, "body": aiovec.Field(str, text=True)})


async def indexed(store: VectorStore) -> None:
    """Create a table with rows of several commits, deleted rows, and indexes of three kinds."""
    await store.create_table("notes", TEXTS)
    for first in (0, 500):
        columns = rows(first, first + 500)
        bodies = [f"some words of {number}" for number in columns["number"]]
        await store.insert("notes", {**columns, "body": bodies})
    await store.create_field_index("notes", "number", "btree")
    await store.create_index("notes", "hnsw_sq", recall=0.97, **FEW)
    await store.optimize("notes")
    await store.upsert("notes", [{"id": "late", "embedding": QUESTIONS[0], "body": "came late"}])
    await store.delete("notes", where="number < 100")


async def facts(store: VectorStore) -> object:
    """Return the table's indexes, and the results of searches that use them."""
    infos = [(info.name, info.kind, info.recall) for info in await store.indexes("notes")]
    words = [hit.id for hit in await store.search_text("notes", "words 700")]
    late = [hit.id for hit in await store.search_text("notes", "late")]
    near = [[hit.id for hit in await store.search("notes", question)] for question in QUESTIONS[:5]]
    target = (await store.stats("notes")).details["recall_target"]
    return infos, words, late, near, target, await store.count("notes", "number < 200")


@pytest.mark.parametrize("place", ["folder", pytest.param("bucket", marks=pytest.mark.slow)])
async def test_a_copy_has_the_indexes_of_the_store(tmp_path: Path, place: str) -> None:
    """This includes a read-only copy, in which maintenance cannot build them."""
    with s3_server() if place == "bucket" else nullcontext() as bucket:
        target = tmp_path / "store" if bucket is None else bucket.new_url()
        options = {} if bucket is None else {"storage_options": bucket.options}
        async with opened(target, index="none", **options) as store:
            await indexed(store)
            expected = await facts(store)
            await store.backup(tmp_path / "copy")
            await store.delete("notes", where="TRUE")
    async with aiovec.connect(f"lancedb://{tmp_path / 'copy'}", read_only=True) as copy:
        assert await facts(copy) == expected
        assert len(await copy.versions("notes")) == 1
    await aiovec.restore(tmp_path / "copy", f"lancedb://{tmp_path / 'store'}")
    async with opened(tmp_path / "store", index="none") as store:
        assert await facts(store) == expected
        await store.insert(
            "notes", [{"id": "new", "embedding": QUESTIONS[1], "body": "a newcomer"}]
        )
        await store.optimize("notes")
        assert [hit.id for hit in await store.search_text("notes", "newcomer")] == ["new"]
        assert (await store.search("notes", QUESTIONS[1], limit=1))[0].id == "new"
        kinds = {info.kind for info in await store.indexes("notes")}
        assert kinds == {"btree", "text", "hnsw_sq"}


async def test_a_damaged_index_is_no_part_of_a_copy(tmp_path: Path) -> None:
    """The rows matter, and maintenance rebuilds the index."""
    async with opened(tmp_path / "store", index="none") as store:
        await filled(store, 1000)
        await store.create_index("notes", "ivf_flat", **FEW)
    for index in (tmp_path / "store/notes.lance/_indices").glob("*/*"):
        index.unlink()
    async with opened(tmp_path / "store", index="none") as store:
        await store.backup(tmp_path / "copy")
    async with opened(tmp_path / "copy", index="none") as copy:
        assert await copy.count("notes") == 1000
        assert await copy.indexes("notes") == []
        assert len(await copy.search("notes", QUESTIONS[0])) == 10


async def test_a_cursor_of_what_came_behind_a_backup_is_refused(tmp_path: Path) -> None:
    """The copy has versions with the same numbers but other rows."""
    target = f"lancedb://{tmp_path / 'store'}"
    async with opened(tmp_path / "store") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(10))
        await store.backup(tmp_path / "copy")
        await store.insert("notes", small_rows(10, start=10))
        async for batch in store.export("notes", batch_size=15):
            cursor = batch.schema.metadata[b"aiovec.cursor"]
            break
    await aiovec.restore(tmp_path / "copy", target, overwrite=True)
    async with opened(tmp_path / "store") as store:
        for start in range(20, 30):
            await store.insert("notes", small_rows(1, start=start))
            with pytest.raises(InvalidArgumentError, match="cursor"):
                await anext(store.export("notes", after=cursor))


async def test_a_store_in_memory_has_no_files_to_copy(tmp_path: Path) -> None:
    async with aiovec.connect("memory://") as store:
        assert not store.supports("backup")
        with pytest.raises(UnsupportedError, match="export its tables"):
            await store.backup(tmp_path / "copy")


async def test_a_cancelled_backup_is_whole_or_leaves_nothing(tmp_path: Path) -> None:
    """It exists or not when the call returns, and never appears later."""
    async with opened(tmp_path / "s") as store:
        for name in ("notes", "other"):
            await store.create_table(name, SMALL)
            await store.insert(name, small_rows(1000))
        for n in range(8):
            with case(n):
                task = asyncio.ensure_future(store.backup(tmp_path / "copy"))
                await asyncio.sleep(0.004 * n)
                task.cancel()
                if n % 2:
                    await asyncio.sleep(0)
                    task.cancel()
                await asyncio.wait({task})
                names = await listed(tmp_path)
                assert names in (["s"], ["copy", "s"])
                if "copy" in names:
                    break
        else:
            await store.backup(tmp_path / "copy")
    async with opened(tmp_path / "copy") as copy:
        assert await copy.tables() == ["notes", "other"]
        assert await copy.count("notes") == 1000


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(100))
        (tmp_path / "file").write_text("x")
        for path in (tmp_path / "file" / "copy", tmp_path / "file", tmp_path / "s"):
            with pytest.raises(
                AiovecError, match=r"[Nn]ot a directory|a path that does not exist yet"
            ):
                await store.backup(path)
    [data] = (tmp_path / "s").glob("notes.lance/data/*")
    data.unlink()
    async with opened(tmp_path / "s") as store:
        with pytest.raises(AiovecError):
            await store.backup(tmp_path / "copy")
    assert await listed(tmp_path) == ["file", "s"]
    assert (tmp_path / "file").read_text() == "x"


async def test_a_backup_survives_tables_that_are_renamed_or_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        for name in ("a", "b", "c"):
            await store.create_table(name, SMALL)
            await store.insert(name, small_rows(1000))
        for number, (old, new) in enumerate([("c", "x"), ("x", "y"), ("y", None)]):
            with case((old, new)):
                before = await store.tables()
                backup = asyncio.ensure_future(store.backup(tmp_path / f"copy{number}"))
                await asyncio.sleep(0.005 * number)
                await (store.drop_table(old) if new is None else store.rename_table(old, new))
                await backup
                async with opened(tmp_path / f"copy{number}") as copy:
                    assert await copy.tables() in (before, await store.tables())
                    for name in await copy.tables():
                        assert await copy.count(name) == 1000


async def test_a_backup_during_a_migration_is_a_store_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as moving:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(10))
        await begin_move(moving, "run")
        await store.backup(tmp_path / "copy")
    async with backend_on(tmp_path / "copy") as copied:
        assert await copied.move_mark() is None
    async with aiovec.connect(f"lancedb://{tmp_path / 'copy'}") as store:
        assert await store.insert("notes", small_rows(1, start=10)) == 1
        assert await store.count("notes") == 11
