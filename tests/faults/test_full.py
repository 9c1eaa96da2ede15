"""A full disk and a file-size limit: StoreFullError, and what was acknowledged stays."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sqlite.support import (
    SCHEMAS,
    State,
    all_changes,
    check_file,
    names_in,
    opened,
    run_code,
    whole_table,
)

import aiovec
from aiovec import StoreFullError, VectorStore


def rows(prefix: str, count: int) -> list[dict[str, object]]:
    return [State(1, 1).row(f"{prefix}/{n}", "me") for n in range(count)]


def large(id: str, kilobytes: int) -> dict[str, object]:
    return {**State(1, 1).row(id, "me"), "text": "x" * (1024 * kilobytes)}


async def fill(
    store: VectorStore, *, batch: int, most: int = 100_000, prefix: str = "fill"
) -> set[str]:
    """Insert until there is no room; the ids that were acknowledged."""
    kept: set[str] = set()
    for n in range(most):
        some = rows(f"{prefix}{n}", batch)
        try:
            await store.insert("notes", some)
        except StoreFullError as exc:
            assert (exc.target, bool(exc.reason)) == (store.target, True)  # noqa: PT017
            return kept
        kept |= {str(row["id"]) for row in some}
    raise AssertionError("the room never ended")


async def check_kept(store: VectorStore, kept: set[str]) -> None:
    found = await whole_table(store, "notes")
    assert found.keys() == kept
    assert await all_changes(store, "notes") == (found, (await all_changes(store, "notes"))[1])
    some = sorted(kept)[:50]
    for record in await store.get("notes", some):
        assert State(1, 1).problems(record, "me") == []


async def work_under_limit(path: Path, limit: int) -> None:
    """Everything that has to hold, in a process whose files may not grow beyond ``limit``."""
    import resource

    def allow(length: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))

    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("early", 20))
        kept = {f"early/{n}" for n in range(20)}
        allow(limit)
        kept |= await fill(store, batch=400)
        # Reads go on, and so does what needs no room.
        await check_kept(store, kept)
        # Again and again, so that nothing of a failed call piles up.
        for n in range(5):
            with pytest.raises(StoreFullError):
                await store.insert("notes", [large(f"large{n}", limit // 1024)])
        # Many small calls in one commit with a large one: only that one fails.
        allow(limit + 10_000_000)
        outcomes = await asyncio.gather(
            store.insert("notes", rows("before", 1)),
            store.insert("notes", [large("toolarge", limit // 1024 + 20_000)]),
            *(store.insert("notes", rows(f"small{n}", 1)) for n in range(60)),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], StoreFullError), outcomes[1]
        assert [o for o in outcomes if o != 1] == [outcomes[1]], outcomes
        kept |= {"before/0", *(f"small{n}/0" for n in range(60))}
        await check_kept(store, kept)
        allow(resource.RLIM_INFINITY)
        await store.insert("notes", [large("later", 2000)])
        assert await store.delete("notes", "later") == 1
        assert await store.delete("notes", ["early/0"]) == 1
        kept -= {"early/0"}
        await check_kept(store, kept)
    async with opened(path) as store:
        await check_kept(store, kept)
    assert check_file(path) == {"notes": len(kept)}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file-size limit for a process")
def test_file_size_limit(tmp_path: Path) -> None:
    done = run_code(
        "import asyncio, sys; from pathlib import Path\n"
        "from tests.faults.test_full import work_under_limit\n"
        "asyncio.run(work_under_limit(Path(sys.argv[1]), 2_000_000))",
        str(tmp_path / "notes.db"),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file-size limit for a process")
def test_no_room_for_the_store_itself(tmp_path: Path) -> None:
    done = run_code(
        "import asyncio, resource, sys, aiovec, aiovec._core.store, aiovec._input.rows\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try: asyncio.run(aiovec.connect(sys.argv[1])._open())\n"
        "except aiovec.StoreFullError: print('full')",
        str(tmp_path / "notes.db"),
    )
    assert done.stdout == "full\n", done.stderr

    async def reopen() -> None:
        async with opened(tmp_path / "notes.db") as store:
            assert await store.tables() == []

    asyncio.run(reopen())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, where this process may make one."""
    if sys.platform != "linux":
        pytest.skip("only Linux mounts a small file system without more ado")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_full_disk(small_disk: Path) -> None:
    path = small_disk / "notes.db"
    filler = small_disk / "filler"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["partitioned"])
        await asyncio.to_thread(filler.write_bytes, bytes(1_500_000))
        await asyncio.to_thread((small_disk / "more").write_bytes, bytes(6_000_000))
        kept = await fill(store, batch=150)
        assert kept
        await check_kept(store, kept)
        with pytest.raises(StoreFullError):
            await store.insert("notes", [large("large", 17_000)])
        # Room for small calls, not for the large one that they share a commit with.
        await asyncio.to_thread(filler.unlink)
        outcomes = await asyncio.gather(
            store.insert("notes", [large("toolarge", 15_000)]),
            *(store.update("notes", {"note": "s"}, ids=id) for id in sorted(kept)[:12]),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], StoreFullError), outcomes[0]
        assert outcomes[1:] == [1] * 12
        # Somebody else takes the last byte.
        await asyncio.to_thread(_take_all, filler)
        with pytest.raises(StoreFullError):
            await store.insert("notes", [large("none", 16_000)])
        kept |= await fill(store, batch=50, prefix="last")
        assert await store.tables() == ["notes"]
        assert len(await store.search("notes", [1.0] * 16)) == 10
        assert await store.count("notes") == len(kept)
        await asyncio.to_thread(filler.unlink)
        await asyncio.to_thread((small_disk / "more").unlink)
        gone = sorted(kept)[: len(kept) // 2]
        for start in range(0, len(gone), 50):
            await store.delete("notes", gone[start : start + 50])
        kept -= set(gone)
        await store.optimize("notes")
        await store.insert("notes", rows("again", 100))
        kept |= {f"again/{n}" for n in range(100)}
        assert (await whole_table(store, "notes")).keys() == kept
    assert await asyncio.to_thread(check_file, path) == {"notes": len(kept)}


def _take_all(file: Path) -> None:
    with file.open("wb", buffering=0) as filler:
        for size in (65536, 4096, 1):
            try:
                while filler.write(bytes(size)):
                    pass
            except OSError:
                continue


async def test_full_disk_at_opening_and_backup(small_disk: Path) -> None:
    filler = small_disk / "filler"
    await asyncio.to_thread(_take_all, filler)
    with pytest.raises(StoreFullError):
        await aiovec.connect(small_disk / "notes.db")
    await asyncio.to_thread(filler.unlink)
    async with opened(small_disk / "notes.db") as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 100))
        await asyncio.to_thread(_take_all, filler)
        before = await names_in(small_disk)
        with pytest.raises(StoreFullError):
            await store.backup(small_disk / "copy.db")
        assert await names_in(small_disk) == before
        await asyncio.to_thread(filler.unlink)
        await store.backup(small_disk / "copy.db")
    assert await asyncio.to_thread(check_file, small_disk / "copy.db") == {"notes": 100}


@pytest.mark.parametrize("backend", ["sqlite", "lancedb"])
async def test_a_copy_that_finds_no_room_names_its_own_place(
    small_disk: Path, tmp_path: Path, backend: str
) -> None:
    """Not the store, whose disk has room."""
    target = str(tmp_path / "notes.db") if backend == "sqlite" else f"lancedb://{tmp_path}/notes"
    saved, copy, filler = tmp_path / "saved", small_disk / "copy", small_disk / "filler"
    async with aiovec.connect(target) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 100))
        await store.backup(saved.with_suffix(".db") if backend == "sqlite" else saved)
        await asyncio.to_thread(_take_all, filler)
        before = await names_in(small_disk)
        with pytest.raises(StoreFullError) as caught:
            await store.backup(copy.with_suffix(".db") if backend == "sqlite" else copy)
        assert caught.value.target.startswith(str(copy))
        assert await names_in(small_disk) == before
        backup, other = saved, f"lancedb://{small_disk}/other"
        if backend == "sqlite":
            backup, other = saved.with_suffix(".db"), str(small_disk / "other.db")
        with pytest.raises(StoreFullError) as caught:
            await aiovec.restore(backup, other)
        assert caught.value.target == other.removeprefix("lancedb://")
        assert "[(" not in str(caught.value)  # the list of all files that found no room
        assert await names_in(small_disk) == before
        assert await store.insert("notes", rows("b", 1)) == 1
