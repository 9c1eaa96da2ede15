"""What LanceDB raises without a type comes out as the error that it is."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lancedb.db import AsyncConnection
from lancedb.table import AsyncTable
from tests.sqlite.support import run_code

import aiovec
from aiovec import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    Field,
    FilterError,
    Schema,
    StoreClosedError,
    TableExistsError,
    TableNotFoundError,
    VectorStore,
)
from aiovec_lancedb import session
from aiovec_lancedb.driver import lancedb
from aiovec_lancedb.errors import translated

from .support import SMALL, numbered, opened


async def _export(store: VectorStore) -> list[Any]:
    return [batch async for batch in store.export("notes")]


READS: dict[str, Callable[[VectorStore], Awaitable[Any]]] = {
    "get": lambda store: store.get("notes", ["r00001"]),
    "find": lambda store: store.find("notes"),
    "search": lambda store: store.search("notes", [1, 2, 3, 4]),
    "export": _export,
    "insert": lambda store: store.insert("notes", numbered(1, start=900)),
    "update": lambda store: store.update("notes", {"key": 1}, ids="r00001"),
}


async def _filled(path: Path) -> None:
    async with opened(path) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(300))


def _files(path: Path, pattern: str) -> list[Path]:
    found = sorted((path / "notes.lance").glob(pattern))
    assert found
    return found


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _garble(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("call", READS.values(), ids=READS)
@pytest.mark.parametrize("harm", [_cut, _garble, Path.unlink], ids=["cut", "garbled", "gone"])
async def test_a_damaged_data_file(
    tmp_path: Path, harm: Callable[[Path], None], call: Callable[[VectorStore], Awaitable[Any]]
) -> None:
    await _filled(tmp_path / "s")
    for file in _files(tmp_path / "s", "data/*"):
        harm(file)
    async with opened(tmp_path / "s") as store:
        assert await store.tables() == ["notes"]
        with pytest.raises(CorruptStoreError) as caught:
            await call(store)
    assert caught.value.target == str(tmp_path / "s")
    assert ".rs:" not in str(caught.value)


@pytest.mark.parametrize("harm", [_cut, _garble, Path.unlink], ids=["cut", "garbled", "gone"])
async def test_damaged_versions(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    await _filled(tmp_path / "s")
    for file in _files(tmp_path / "s", "_versions/*.manifest"):
        harm(file)
    async with opened(tmp_path / "s") as store:
        for call in (lambda: store.count("notes"), lambda: store.insert("notes", numbered(1))):
            with pytest.raises(CorruptStoreError):
                await call()


async def test_tables_of_others_are_told(tmp_path: Path) -> None:
    database = await lancedb.connect_async(tmp_path / "s")
    await database.create_table("foreign", pa.table({"a": [1, 2]}))
    await database.create_table("No.Name-of-ours", pa.table({"a": [1, 2]}))
    database.close()  # type: ignore[no-untyped-call]
    async with opened(tmp_path / "s") as store:
        assert await store.tables() == ["foreign"]
        with pytest.raises(
            CorruptStoreError, match="'foreign' cannot be used: it has no aiovec schema"
        ):
            await store.count("foreign")
        with pytest.raises(TableExistsError):
            await store.create_table("foreign", SMALL)


async def test_a_table_that_vanishes(tmp_path: Path) -> None:
    await _filled(tmp_path / "s")
    async with opened(tmp_path / "s") as store:
        assert await store.count("notes") == 300
        await asyncio.to_thread(shutil.rmtree, tmp_path / "s" / "notes.lance")
        for call in READS.values():
            with pytest.raises(TableNotFoundError) as caught:
                await call(store)
            assert caught.value.table == "notes"
        await store.create_table("notes", SMALL)
        assert await store.insert("notes", numbered(3)) == 3


async def test_a_table_dropped_by_another_store_while_it_is_read(tmp_path: Path) -> None:
    """Its files vanish under the reader, which is no damage."""
    async with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        for _ in range(6):
            await store.create_table("notes", SMALL)
            await store.insert("notes", numbered(400))
            calls = [call(other) for name, call in READS.items() for _ in range(3)]
            drop = asyncio.ensure_future(store.drop_table("notes"))
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    assert isinstance(outcome, (TableNotFoundError, aiovec.DuplicateIdError)), repr(
                        outcome
                    )
            await drop


@pytest.mark.parametrize("first", ["_versions", "data"])
@pytest.mark.parametrize("known", [True, False])
async def test_a_table_whose_files_go_one_after_another(
    tmp_path: Path, known: bool, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a table that is being dropped: whichever go first, it is not told as damage."""
    # A busy machine may take longer to drop one.
    monkeypatch.setattr(session, "_LOOKS_FOR_DROPPED", (*session._LOOKS_FOR_DROPPED, 1.0, 10.0))
    await _filled(tmp_path / "s")
    folder = tmp_path / "s" / "notes.lance"

    gone, loop = asyncio.Event(), asyncio.get_running_loop()

    def drop_slowly() -> None:
        for path in list((folder / first).iterdir()):
            path.unlink()
        loop.call_soon_threadsafe(gone.set)
        time.sleep(0.1)
        shutil.rmtree(folder)

    async with opened(tmp_path / "s") as store:
        if known:
            assert await store.count("notes") == 300
        dropping = asyncio.ensure_future(asyncio.to_thread(drop_slowly))
        await gone.wait()
        with pytest.raises(TableNotFoundError):
            await store.get("notes", ["r00001"])
        await dropping


CHURN = """
import asyncio, sys, time
import aiovec

async def main(target):
    async with aiovec.connect(target) as store:
        print("ready", flush=True)
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            await store.create_table("t", aiovec.Schema(4), exist_ok=True)
            await store.insert("t", [{"id": "a", "embedding": [1, 2, 3, 4]}])
            await store.drop_table("t")

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
async def test_a_table_that_another_process_makes_anew_again_and_again(tmp_path: Path) -> None:
    """It was told as damage: gone when it was opened, and there again when it was looked for."""
    churning = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHURN, f"lancedb://{tmp_path / 's'}", stdout=asyncio.subprocess.PIPE
    )
    assert churning.stdout is not None
    assert await churning.stdout.readline() == b"ready\n"
    seen = set()
    async with opened(tmp_path / "s") as store:
        while churning.returncode is None:
            try:
                seen.add(await store.count("t"))
            except TableNotFoundError:
                seen.add(-1)
    assert await churning.wait() == 0
    assert seen == {-1, 0, 1}


async def test_what_drops_leave_is_removed_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "s"
    await _filled(place)
    left = place / f".notes.{'0123456789abcdef' * 2}.dropped"
    mine = [place / ".photos.dropped", place / f".Photos.{'0' * 32}.dropped", place / "0.dropped"]
    for folder in (left, *mine, tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "file").write_text("x")
    if os.name != "nt":  # links need a privilege there
        link = place / f".link.{'f' * 32}.dropped"
        link.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    async with opened(place) as store:
        assert await store.tables() == ["notes"]
        assert await store.count("notes") == 300
    assert not left.exists()
    for folder in (*mine, tmp_path / "elsewhere"):
        assert (folder / "file").read_text() == "x"


async def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", "s3://", "az://container/path"):
        with pytest.raises(ConfigError):
            async with opened(place):
                pass


async def test_a_filter_that_nests_too_deeply(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(20))
        text = "year >= 4"
        for n in range(5, 35):
            text = f"({text} OR year = 0) AND year != {n}"
        assert await store.count("notes", text) == 2
        text = "year >= 4"
        for n in range(5, 25):
            text = f"year != {n} AND (year = 0 OR ({text}) AND (year > 1 OR payload.a = 'b'))"
        assert await store.count("notes", text) == 2
        key = "payload." + ".".join(["k"] * 60)
        with pytest.raises(FilterError, match="LanceDB"):
            await store.count("notes", f"{key} = 1")


async def test_a_write_protected_folder(tmp_path: Path) -> None:
    if sys.platform == "win32" or os.geteuid() == 0:
        pytest.skip("this user may write everywhere")
    await _filled(tmp_path / "s")
    (tmp_path / "s" / "notes.lance" / "data").chmod(0o500)
    async with opened(tmp_path / "s") as store:
        with pytest.raises(AiovecError, match="cannot be read or written"):
            await store.insert("notes", numbered(1, start=900))


async def test_a_closed_connection_is_a_closed_store(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
    with pytest.raises(StoreClosedError):
        await store.count("notes")


@pytest.mark.parametrize("call", READS.values(), ids=READS)
async def test_a_panic_on_a_damaged_manifest_is_translated(
    tmp_path: Path, call: Callable[[VectorStore], Awaitable[Any]]
) -> None:
    """B19: the engine's threads panic, which lancedb raises as a class of its own."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(10))
        for file in _files(tmp_path / "s", "_versions/*.manifest"):
            file.write_bytes(file.read_bytes().replace(b"fixed_size_list", b"fixed_size_lzst"))
    async with opened(tmp_path / "s") as store:
        with pytest.raises(AiovecError) as caught:
            await call(store)
    assert type(caught.value.__cause__).__name__ == "RustPanic"
    assert "crashed" in str(caught.value)


def test_a_panic_is_told() -> None:
    class PanicException(BaseException):
        """As pyo3 makes it: no Exception, and of no module that can be imported."""

    with pytest.raises(AiovecError, match="crashed") as caught, translated("here"):
        raise PanicException("index out of bounds")
    assert isinstance(caught.value.__cause__, PanicException)


FULL = """
import asyncio, resource, signal, sys
from tests.lancedb.support import SMALL, numbered, opened
from aiovec import StoreFullError

async def main(path):
    async with opened(path) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(10))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        for write, rows in ((store.insert, numbered(20_000, start=100)),
                            (store.upsert, numbered(20_000))):
            try:
                await write("notes", rows)
            except StoreFullError as error:
                assert error.target == path, error.target
            else:
                raise SystemExit("it fitted")
        assert await store.count("notes") == 10
        many = [store.insert("notes", numbered(1, start=100 + n)) for n in range(20)]
        assert await asyncio.gather(*many) == [1] * 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await store.insert("notes", numbered(20_000, start=1_000))
        assert await store.count("notes") == 20_030

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_no_room(tmp_path: Path) -> None:
    """A limit on the size of files plays the full disk."""
    done = run_code(FULL, str(tmp_path / "s"))
    assert done.returncode == 0, done.stderr[-3000:]


FORK = """
import asyncio, os, sys, time
import aiovec

async def child(store):
    for call in (store.count("notes"), store.insert("notes", []), store.tables(), store.ping()):
        try:
            await call
        except aiovec.StoreClosedError as error:
            assert "fork" in str(error), error
        else:
            return 3
    return 0

async def main(path):
    store = await aiovec.connect("lancedb://" + path)
    await store.create_table("notes", aiovec.Schema(4))
    return store

runner = asyncio.Runner()
store = runner.run(main(sys.argv[1]))
process = os.fork()
if not process:
    os._exit(asyncio.new_event_loop().run_until_complete(child(store)))
until = time.monotonic() + 60
while True:
    done, status = os.waitpid(process, os.WNOHANG)
    if done:
        break
    if time.monotonic() > until:
        os.kill(process, 9)
        raise SystemExit("the forked process hangs")
    time.sleep(0.02)
assert os.waitstatus_to_exitcode(status) == 0, status
runner.run(store.insert("notes", [{"id": "a", "embedding": [1, 2, 3, 4]}]))
runner.run(store.close())
runner.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_after_opening(tmp_path: Path) -> None:
    done = run_code(FORK, str(tmp_path / "s"))
    assert done.returncode == 0, done.stderr[-3000:]


LOGS = """
import asyncio, os, sys
import aiovec

async def main(path):
    async with aiovec.connect("lancedb://" + path) as store:
        await store.create_table("notes", aiovec.Schema(4))
        await store.insert("notes", [{"id": "a", "embedding": [1, 2, 3, 4]}])
        await store.search("notes", [1, 2, 3, 4])
    print(os.environ.get("LANCEDB_LOG"))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", [None, "debug"])
def test_lances_logs_are_held_unless_the_user_set_them(tmp_path: Path, level: str | None) -> None:
    done = run_code(LOGS, str(tmp_path / "s"), env={"LANCEDB_LOG": level} if level else None)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == str(level)
    assert bool(done.stderr) is bool(level), done.stderr[-3000:]


def failing_behind(plain: Any) -> Any:
    """A call of Lance's that is done, and then fails, as a read behind its commit may."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        await plain(*args, **kwargs)
        raise RuntimeError("lance error: LanceError(IO): Generic LocalFileSystem error")

    return call


async def test_a_change_of_a_table_that_fails_behind_its_commit_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told as a failure, and so as if nothing were there."""
    async with opened(tmp_path / "s") as store:
        with monkeypatch.context() as patched:
            patched.setattr(
                AsyncConnection, "create_table", failing_behind(AsyncConnection.create_table)
            )
            await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(3))
        with monkeypatch.context() as patched:
            patched.setattr(AsyncTable, "add_columns", failing_behind(AsyncTable.add_columns))
            await store.add_field("notes", "more", int)
        assert "more" in (await store.schema("notes")).fields
        version = (await store.versions("notes"))[-1]["version"]
        await store.delete("notes", "r00000")
        with monkeypatch.context() as patched:
            patched.setattr(AsyncTable, "restore", failing_behind(AsyncTable.restore))
            await store.restore("notes", version)
        assert await store.count("notes") == 3


async def test_a_change_of_a_table_that_fails_before_its_commit_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("lance error: LanceError(IO): Generic LocalFileSystem error")

    async with opened(tmp_path / "s") as store:
        with monkeypatch.context() as patched:
            patched.setattr(AsyncConnection, "create_table", fail)
            with pytest.raises(AiovecError):
                await store.create_table("notes", SMALL)
        assert await store.tables() == []
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(3))
        version = (await store.versions("notes"))[-1]["version"]
        await store.delete("notes", "r00000")
        with monkeypatch.context() as patched:
            patched.setattr(AsyncTable, "add_columns", fail)
            patched.setattr(AsyncTable, "restore", fail)
            with pytest.raises(AiovecError):
                await store.add_field("notes", "more", int)
            with pytest.raises(AiovecError):
                await store.restore("notes", version)
        assert "more" not in (await store.schema("notes")).fields
        assert await store.count("notes") == 2


async def test_an_index_that_cannot_be_made_fails_no_new_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upkeep makes it later."""

    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("lance error: LanceError(IO): Generic LocalFileSystem error")

    async with opened(tmp_path / "s") as store:
        with monkeypatch.context() as patched:
            patched.setattr(AsyncTable, "create_index", fail)
            await store.create_table("notes", Schema(2, fields={"n": Field(int, index="btree")}))
            await store.add_field("notes", "m", Field(int, index="btree"))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0], "n": 1, "m": 2}])
        await store.optimize("notes")
    table = await (await lancedb.connect_async(str(tmp_path / "s"))).open_table("notes")
    indexed = {column for index in await table.list_indices() for column in index.columns}
    assert {"n", "m"} <= indexed
