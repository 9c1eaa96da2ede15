"""A full disk, a write-protected one, and files that were damaged at random."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from tests.faults.test_full import _take_all, small_disk
from tests.sqlite.support import SCHEMAS, State, run_code

import aiovec
from aiovec import AiovecError, StoreFullError, VectorStore

from .support import ids_in, opened

__all__ = ["small_disk"]  # a fixture


def rows(prefix: str, count: int) -> list[dict[str, object]]:
    return [State(1, 1).row(f"{prefix}/{n}", "me") for n in range(count)]


async def fill(store: VectorStore, prefix: str, *, batch: int) -> set[str]:
    """Insert until there is no room; the ids that were acknowledged."""
    kept: set[str] = set()
    for n in range(10_000):
        some = rows(f"{prefix}{n}", batch)
        try:
            await store.insert("notes", some)
        except StoreFullError as exc:
            assert (exc.target, bool(exc.reason)) == (store.target, True)  # noqa: PT017
            return kept
        kept |= {str(row["id"]) for row in some}
    raise AssertionError("the room never ended")


async def check_kept(store: VectorStore, kept: set[str]) -> None:
    ids = await ids_in(store)
    assert len(ids) == len(set(ids))
    assert set(ids) == kept
    assert await store.count("notes") == len(kept)
    for record in await store.get("notes", sorted(kept)[:50]):
        assert State(1, 1).problems(record, "me") == []


async def test_full_disk(small_disk: Path) -> None:
    place = small_disk / "store"
    filler = small_disk / "filler"
    async with opened(place) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await asyncio.to_thread(filler.write_bytes, bytes(13_000_000))
        kept = await fill(store, "fill", batch=1500)
        assert kept
        await check_kept(store, kept)
    # Somebody else takes the last byte; the upkeep that failed above has given back what it took.
    more = small_disk / "more"
    await asyncio.to_thread(_take_all, more)
    async with opened(place) as store:
        for call in (
            lambda: store.insert("notes", rows("none", 1)),
            lambda: store.upsert("notes", rows("none", 400)),
            lambda: store.update("notes", {"name": "x"}, where="owner = 'me'"),
            lambda: store.create_table("others", SCHEMAS["plain"]),
        ):
            with pytest.raises(StoreFullError):
                await call()
        await check_kept(store, kept)
        assert len(await store.search("notes", [1.0] * 16)) == 10
        await asyncio.to_thread(more.unlink)
        kept |= await fill(store, "last", batch=300)
        await asyncio.to_thread(filler.unlink)
        await store.insert("notes", rows("again", 100))
        kept |= {f"again/{n}" for n in range(100)}
        await store.optimize("notes")
        await check_kept(store, kept)
        assert await store.tables() == ["notes"]
    async with opened(place) as store:
        await check_kept(store, kept)


async def test_full_disk_at_opening_and_backup(small_disk: Path) -> None:
    filler = small_disk / "filler"
    await asyncio.to_thread(_take_all, filler)
    with pytest.raises(StoreFullError):
        async with opened(small_disk / "store") as store:
            await store.create_table("notes", SCHEMAS["plain"])
    await asyncio.to_thread(filler.unlink)
    async with opened(small_disk / "store") as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 100))
        await asyncio.to_thread(_take_all, filler)
        with pytest.raises(StoreFullError):
            await store.backup(small_disk / "copy")
        await asyncio.to_thread(filler.unlink)
        await store.backup(small_disk / "copy2")
    async with opened(small_disk / "copy2") as store:
        assert len(await ids_in(store)) == 100


AS_NOBODY = """
import asyncio, os, pathlib, sys
import aiovec
from aiovec._settings.load import RetrievalSettings
from aiovec_lancedb.settings import LancedbSettings
from aiovec._core.store import VectorStore
from aiovec_lancedb import LancedbBackend

async def main(place, other, copy):
    async with aiovec.connect("lancedb://" + other) as store:  # so that all is loaded
        await store.create_table("t", aiovec.Schema(4))
        await store.insert("t", [{"id": "a", "embedding": [1, 2, 3, 4]}])
        await store.search("t", [1, 2, 3, 4])
        [b async for b in store.export("t")]
    os.seteuid(65534)
    backend = LancedbBackend(place, LancedbSettings())
    try:
        await backend.open()
        async with VectorStore(backend, RetrievalSettings()) as store:
            print("count", await store.count("notes"))
            print("hits", len(await store.search("notes", [1.0] * 16)))
            print("found", len(await store.find("notes", order_by="owner")))
            print("got", len(await store.get("notes", ["a/1"])))
            print("exported", sum([len(batch) async for batch in store.export("notes")]))
            print("rows", (await store.stats("notes")).rows)
            print("versions", len(await store.versions("notes")) > 1)
            await store.backup(pathlib.Path(copy))
            for call in (lambda: store.backup(pathlib.Path(place, "copy")),
                         lambda: store.optimize("notes")):
                try:
                    await call()
                except aiovec.AiovecError as exc:
                    print(type(exc).__name__, exc)
            await store.insert("notes", [{"id": "new", "embedding": [1.0] * 16}])
            print("written")
    except aiovec.AiovecError as exc:
        print(type(exc).__name__, exc)

asyncio.run(main(*sys.argv[1:]))
"""


def _as_nobody(mode: int) -> str:
    """What a user sees who may do only so much in the store's folder; the folder, and that."""
    # Others may enter this folder, unlike tmp_path.
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)

        async def fill() -> None:
            async with opened(base / "store") as store:
                await store.create_table("notes", SCHEMAS["plain"])
                await store.insert("notes", rows("a", 30))

        asyncio.run(fill())
        for path in (base / "store").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (base / "store").chmod(mode)
        free = base / "free"
        free.mkdir()
        free.chmod(0o777)
        before = _listed(base / "store")
        done = run_code(AS_NOBODY, f"{base}/store", f"{base}/other", f"{free}/copy")
        assert done.returncode == 0, done.stderr[-3000:]
        assert _listed(base / "store") == before
        if mode == 0o755:

            async def copied() -> int:
                async with opened(free / "copy") as store:
                    return await store.count("notes")

            assert asyncio.run(copied()) == 30
        return str(done.stdout)


def _listed(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _only_root() -> bool:
    import os

    return not hasattr(os, "geteuid") or os.geteuid() != 0


@pytest.mark.skipif(_only_root(), reason="only root can become another user")
def test_a_folder_that_may_only_be_read() -> None:
    """B6: reading needs no right to write, and every write tells what is missing."""
    said = _as_nobody(0o755).splitlines()
    assert said[:7] == [
        "count 30", "hits 10", "found 30", "got 1", "exported 30", "rows 30", "versions True",
    ]  # fmt: skip
    assert len(said) == 10
    for refused in said[7:]:
        assert refused.startswith("AiovecError")
        assert "cannot be read or written" in refused


@pytest.mark.skipif(_only_root(), reason="only root can become another user")
def test_a_folder_that_may_not_be_entered() -> None:
    [said] = _as_nobody(0o700).splitlines()
    assert said.startswith("AiovecError")
    assert "cannot be read or written" in said


# Damage at random


async def every_call(store: VectorStore, truth: dict[str, State]) -> int:
    """Read in every way: each answer is right, or an error of ours; how many were errors."""
    errors = 0
    vectors = State(1, 1)

    async def export() -> None:
        check(await ids_in(store))

    def check(ids: list[str]) -> None:
        assert len(ids) == len(set(ids))
        assert sorted(ids) == sorted(truth), "a wrong answer without an error"

    async def get() -> None:
        found = await store.get("notes", sorted(truth))
        check([record.id for record in found])
        for record in found:
            assert vectors.problems(record, "me") == [], "a wrong answer without an error"

    async def search() -> None:
        query = vectors.row("q", "me")["embedding"]
        check([hit.id for hit in await store.search("notes", query, limit=len(truth))])

    async def count() -> None:
        assert await store.count("notes") == len(truth)

    async def find() -> None:
        check([r.id for r in await store.find("notes", "owner = 'me'", limit=1000)])

    for call in (export, get, search, count, find):
        try:
            await asyncio.wait_for(call(), 60)
        except AiovecError:
            errors += 1
    return errors


async def survive_damage(folder: Path, rounds: int, seed: int) -> int:
    chance = random.Random(seed)
    whole = folder / "whole"
    async with opened(whole) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        for part in range(3):
            await store.insert("notes", rows(f"r{part}", 60))
        await store.delete("notes", ["r0/1"])
    truth = {f"r{p}/{n}": State(1, 1) for p in range(3) for n in range(60)}
    del truth["r0/1"]
    told = 0
    for turn in range(rounds):
        place = folder / f"turn{turn}"
        await asyncio.to_thread(shutil.copytree, whole, place)
        harmed = await asyncio.to_thread(_harm, place, chance)
        try:
            async with opened(place) as store:
                told += bool(await every_call(store, truth))
        except AiovecError:
            told += 1
        except BaseException as exc:
            exc.add_note(f"turn {turn} of seed {seed}: {harmed}")
            raise
    return told


def _harm(place: Path, chance: random.Random) -> str:
    files = sorted(
        file
        for file in (place / "notes.lance").rglob("*")
        if file.is_file() and file.stat().st_size
    )
    file = chance.choice(files)
    size = file.stat().st_size
    # Without the manifest of the newest version the one before it is the newest: nobody can tell.
    kind = chance.choice(
        ["cut", "zeros"] if file.suffix == ".manifest" else ["cut", "zeros", "gone"]
    )
    if kind == "cut":
        with file.open("r+b") as opened_file:
            opened_file.truncate(chance.randrange(size))
    elif kind == "zeros":
        with file.open("r+b") as opened_file:
            # From the end backwards: where Lance's files tell what they hold.
            start = chance.choice([0, size // 2, max(0, size - 64)])
            opened_file.seek(start)
            opened_file.write(bytes(size - start))
    else:
        file.unlink()
    return f"{kind} {file.relative_to(place)}"


async def test_damaged_files(tmp_path: Path) -> None:
    assert await survive_damage(tmp_path, rounds=15, seed=5)


@pytest.mark.soak
async def test_many_damaged_files(tmp_path: Path) -> None:
    assert await survive_damage(tmp_path, rounds=400, seed=6)


async def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "below").write_text("x")
    with pytest.raises(AiovecError, match="file"):
        await aiovec.connect(f"lancedb://{tmp_path / 'below'}")
    with pytest.raises(AiovecError, match="below"):
        async with aiovec.connect(f"lancedb://{tmp_path / 'below' / 'store'}") as store:
            await store.create_table("notes", SCHEMAS["plain"])
