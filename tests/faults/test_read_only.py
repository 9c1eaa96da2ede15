"""B6: stores that are opened for reading only, also where nothing can be written."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # a fixture
from tests.sqlite.support import opened

import aiovec
from aiovec import (
    AiovecError,
    ConfigError,
    Schema,
    StoreReplacedError,
    UnsupportedError,
    VectorStore,
    sync,
)
from aiovec._core.connect import Opening
from aiovec.backend import Origin

BACKENDS = ["sqlite", "lancedb"]
QUERY = [1.0, 2.0, 3.0, 4.0]


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"id": id, "embedding": QUERY, "source_id": f"s{id}"} for id in ids]


def target_in(folder: Path, backend: str) -> str:
    return str(folder / "notes.db") if backend == "sqlite" else f"lancedb://{folder}/notes"


async def fill(folder: Path, backend: str) -> str:
    """A store of two rows that is closed."""
    target = target_in(folder, backend)
    async with aiovec.connect(target) as store:
        await store.create_table("t", Schema(4, fields={"source_id": str}))
        await store.insert("t", rows("a", "b"))
    return target


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a folder one in which not even root can write, until the test ends."""
    mounted: list[Path] = []

    def seal(folder: Path) -> None:
        for command in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", folder]):
            done = subprocess.run(["mount", *command], capture_output=True, check=False)
            if done.returncode:
                pytest.skip("this user cannot mount")
            if folder not in mounted:
                mounted.append(folder)

    if shutil.which("mount") is None:
        pytest.skip("this system has no mount")
    yield seal
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


async def exported(store: VectorStore) -> list[str]:
    return [id for batch in [b async for b in store.export("t")] for id in batch["id"].to_pylist()]


async def check_reads(store: VectorStore, copy: Path) -> None:
    """Every reading call, and a copy of the store."""
    assert store.read_only
    await store.ping()
    assert await store.tables() == ["t"]
    assert (await store.schema("t")).dim == 4
    assert await store.count("t") == 2
    assert [record.id for record in await store.get("t", ["b", "a"])] == ["b", "a"]
    assert [record.id for record in await store.find("t", "source_id = 'sa'")] == ["a"]
    assert [hit.id for hit in await store.search("t", QUERY)] == ["a", "b"]
    assert [hit.id for hit in await store.search("t", QUERY, exact=True, limit=1)] != []
    assert len(await store.search_many("t", [QUERY, QUERY])) == 2
    assert sorted(await exported(store)) == ["a", "b"]
    assert (await store.stats("t")).rows == 2
    await store.create_table("t", Schema(4, fields={"source_id": str}), exist_ok=True)
    await store.backup(copy)


WRITES: dict[str, Callable[[VectorStore], Awaitable[object]]] = {
    "insert": lambda store: store.insert("t", rows("c")),
    "upsert": lambda store: store.upsert("t", rows("a")),
    "set_vectors": lambda store: store.set_vectors("t", ["a"], [[1.0, 0.0]]),
    "update": lambda store: store.update("t", {"source_id": "x"}, ids="a"),
    "delete": lambda store: store.delete("t", "a"),
    "delete_where": lambda store: store.delete_where("t", "source_id = 'sa'"),
    "create_table": lambda store: store.create_table("u", Schema(4)),
    "create_table that may exist": lambda store: store.create_table("u", Schema(4), exist_ok=True),
    "add_field": lambda store: store.add_field("t", "year", int),
    "create_field_index": lambda store: store.create_field_index("t", "source_id", "btree"),
    "drop_field_index": lambda store: store.drop_field_index("t", "source_id"),
    "drop_field": lambda store: store.drop_field("t", "source_id"),
    "rename_field": lambda store: store.rename_field("t", "source_id", "x"),
    "rename_table": lambda store: store.rename_table("t", "x"),
    "drop_table": lambda store: store.drop_table("t"),
    "optimize": lambda store: store.optimize("t"),
    "create_index": lambda store: store.create_index("t"),
    "restore": lambda store: store.restore("t", 1),
}


async def check_refusals(store: VectorStore) -> None:
    for name, call in WRITES.items():
        with pytest.raises(UnsupportedError, match="read_only=True") as caught:
            await call(store)
        assert caught.value.ability in name


@pytest.mark.parametrize("backend", BACKENDS)
async def test_where_it_could_be_written(tmp_path: Path, backend: str) -> None:
    """B6: reads work, writes are refused, and the store's own files stay as they were."""
    if backend == "lancedb":
        pytest.importorskip("lancedb")
    target = await fill(tmp_path, backend)
    before = await to_thread(contents, tmp_path)
    async with aiovec.connect(target, read_only=True) as store:
        assert store.supports("read-only")
        await check_reads(store, tmp_path / "copy")
        await check_refusals(store)
    after = await to_thread(contents, tmp_path)
    # What SQLite itself needs to read while others may write.
    assert {n: h for n, h in after.items() if n in before} == before
    others = {n for n in after.keys() - before.keys() if not n.startswith("copy")}
    assert others <= {"notes.db-shm", "notes.db-wal"}
    async with aiovec.connect(target) as store:
        assert not store.read_only
        assert await store.count("t") == 2


@pytest.mark.parametrize("backend", BACKENDS)
async def test_where_nothing_can_be_written(
    tmp_path: Path, backend: str, sealed: Callable[[Path], None]
) -> None:
    """B6."""
    if backend == "lancedb":
        pytest.importorskip("lancedb")
    folder = tmp_path / "medium"
    await to_thread(folder.mkdir)
    target = await fill(folder, backend)
    await to_thread(sealed, folder)
    before = await to_thread(contents, folder)
    async with aiovec.connect(target, read_only=True) as store:
        await check_reads(store, tmp_path / "copy")
        await check_refusals(store)
    assert await to_thread(contents, folder) == before
    copy = tmp_path / "copy"
    async with aiovec.connect(str(copy) if backend == "sqlite" else f"lancedb://{copy}") as saved:
        assert await saved.count("t") == 2


async def test_the_error_without_it_says_what_to_pass(
    tmp_path: Path, sealed: Callable[[Path], None]
) -> None:
    """B6."""
    folder = tmp_path / "medium"
    await to_thread(folder.mkdir)
    target = await fill(folder, "sqlite")
    await to_thread(sealed, folder)
    with pytest.raises(AiovecError, match="read_only=True"):
        await aiovec.connect(target)


@pytest.mark.parametrize("with_lock_file", [True, False])
async def test_a_wal_on_such_a_medium(
    tmp_path: Path, sealed: Callable[[Path], None], with_lock_file: bool
) -> None:
    """B6: the rows that are in the WAL alone are read, or the store is refused."""
    folder = tmp_path / "medium"
    await to_thread(folder.mkdir)
    source = await fill(tmp_path, "sqlite")
    async with opened(source) as store:
        await store.insert("t", rows("c"))
        for end in ("", "-wal", *(["-shm"] if with_lock_file else [])):
            await to_thread(shutil.copy, f"{source}{end}", folder)
    await to_thread(sealed, folder)
    target = folder / "notes.db"
    if not with_lock_file:
        with pytest.raises(AiovecError, match="which can only be read in a writable folder"):
            await aiovec.connect(target, read_only=True)
        return
    async with aiovec.connect(target, read_only=True) as store:
        assert await store.count("t") == 3


async def test_beside_a_writer(tmp_path: Path) -> None:
    """B6: it sees each acknowledged write of others, and holds none of them up."""
    target = await fill(tmp_path, "sqlite")
    async with aiovec.connect(target, read_only=True) as reader, aiovec.connect(target) as store:
        for n in range(20):
            await store.insert("t", rows(f"n{n}"))
            assert await reader.count("t") == n + 3
            assert len(await reader.search("t", QUERY, limit=100)) == n + 3


async def test_one_who_writes_where_we_can_only_read(
    tmp_path: Path, sealed: Callable[[Path], None]
) -> None:
    """B6: the file is read as one that nobody changes; when somebody does, no answer is wrong."""
    folder, medium = tmp_path / "folder", tmp_path / "medium"
    await to_thread(folder.mkdir)
    await to_thread(medium.mkdir)
    source = await fill(folder, "sqlite")
    done = await to_thread(
        subprocess.run, ["mount", "--bind", str(folder), str(medium)], capture_output=True
    )
    if done.returncode:
        pytest.skip("this user cannot mount")
    try:
        await to_thread(subprocess.run, ["mount", "-o", "remount,ro,bind", str(medium)], check=True)
        async with aiovec.connect(medium / "notes.db", read_only=True) as reader:
            assert await reader.count("t") == 2
            async with aiovec.connect(source) as store:
                await store.insert("t", rows("c"))
                with pytest.raises(StoreReplacedError, match="another process writes to it"):
                    await reader.count("t")
        async with aiovec.connect(medium / "notes.db", read_only=True) as reader:
            assert await reader.count("t") == 3
    finally:
        await to_thread(subprocess.run, ["umount", "-l", str(medium)], check=True)


@pytest.mark.parametrize("target", ["absent.db", "absent/notes.db", "folder", "lancedb://absent"])
async def test_a_store_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """B6: an error, and nothing is made."""
    if target.startswith("lancedb"):
        pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no store at"):
        await aiovec.connect(target, read_only=True)
    assert await to_thread(os.listdir, tmp_path) == []


@pytest.mark.parametrize("target", [":memory:", "memory://"])
async def test_a_store_in_memory(target: str) -> None:
    if target.startswith("memory"):
        pytest.importorskip("lancedb")
    with pytest.raises(ConfigError):
        await aiovec.connect(target, read_only=True)


@pytest.mark.parametrize("target", ["file:x.db?mode=ro", "file:x.db", "FILE:///tmp/x.db"])
async def test_uris_of_sqlite_are_no_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """B6: they made a file of that odd name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="read_only=True"):
        await aiovec.connect(target)
    assert await to_thread(os.listdir, tmp_path) == []


def test_a_backend_that_cannot_promise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """B6: it is refused, rather than trusted to write nothing."""
    from tests.toy_backend import ToyBackend

    from aiovec import _plugins as plugins
    from aiovec.backend import BackendPlugin, Location, RetrievalSettings

    class ToyPlugin(BackendPlugin):
        name = "toy"

        def create(self, address: str, settings: Any) -> ToyBackend:
            return ToyBackend()

    class Entry:
        name = value = "toy"
        dist = None

        def load(self) -> Any:
            return ToyPlugin

    monkeypatch.setattr(plugins, "installed", lambda _: {"toy": Entry()})
    location = Location("toy", "x")
    plugins.create_backend(location, RetrievalSettings())
    with pytest.raises(UnsupportedError, match="read-only"):
        plugins.create_backend(location, RetrievalSettings(), read_only=True)


def test_without_asyncio(tmp_path: Path) -> None:
    target = asyncio.run(fill(tmp_path, "sqlite"))
    with sync.connect(target, read_only=True) as store:
        assert store.count("t") == 2
        with pytest.raises(UnsupportedError, match="read_only=True"):
            store.insert("t", rows("c"))


async def test_in_a_web_app(tmp_path: Path) -> None:
    from aiovec.asgi import lifespan

    target = await fill(tmp_path, "sqlite")
    async with lifespan(target, read_only=True)(object()) as state:
        assert state["aiovec_store"].read_only


async def test_from_the_toml(tmp_path: Path) -> None:
    await fill(tmp_path, "sqlite")
    config = tmp_path / "aiovec.toml"
    await to_thread(config.write_text, '[retrieval]\nsqlite_path = "notes.db"\n')
    async with Opening(Origin(None, config, read_only=True)) as store:
        assert await store.count("t") == 2
        with pytest.raises(UnsupportedError):
            await store.insert("t", rows("c"))


def test_commands_that_read(tmp_path: Path, sealed: Callable[[Path], None], run: Run) -> None:
    """B6: they need no option for it."""
    folder = tmp_path / "medium"
    folder.mkdir()
    target = asyncio.run(fill(folder, "sqlite"))
    sealed(folder)
    for command in (
        ["info", target], ["tables", target], ["search", target, "t", "--vector", "[1, 2, 3, 4]"],
        ["export", target, "t", str(tmp_path / "t.parquet")],
        ["backup", target, str(tmp_path / "copy.db")], ["doctor", target],
    ):  # fmt: skip
        done = run(*command)
        wanted = 1 if command[0] == "doctor" else 0  # it says that this user cannot write there
        assert done.code == wanted, (command, done)
    done = run("optimize", target)
    assert done.code == 1
    assert "read_only" in done.err
