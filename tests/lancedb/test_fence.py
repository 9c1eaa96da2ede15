"""A write that stands still between its look at a migration's mark and its commit, for longer than
its lock lasts, is not committed behind the mark: C4."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiovec import Schema, UnsupportedError
from aiovec._input.rows import to_table
from aiovec.backend import Columns, Destination, Order, Ref
from aiovec.errors import AiovecError, CorruptStoreError, StoreBusyError, StoreMovedError
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.locks.local import FOLDER
from aiovec_lancedb.settings import LancedbSettings

from .buckets import s3_server
from .support import ROOT

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here"
)

SCHEMA = Schema(2, fields={"n": int})
PLACE = Destination("elsewhere")
# It stops itself right after its look at the mark, or right after it has opened the table, as a
# drop does by itself, and says what became of its write when it goes on.
WRITER = """
import asyncio, json, os, signal, sys
import lancedb
from aiovec.errors import AiovecError
from aiovec_lancedb.settings import LancedbSettings
from aiovec_lancedb import LancedbBackend, writer, writes
from aiovec_lancedb.locks import bucket
from aiovec._input.rows import to_table
from tests.lancedb.test_fence import SCHEMA

url, options, moment, act = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
plain = bucket.LeasedLock
bucket.LeasedLock = lambda *given: plain(*given, term=1.0)
stopped = False

def stop():
    global stopped
    if not stopped:
        stopped = True
        print("stops", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

opened, found = writer.TableWriter._done, writes.existing_ids

async def done(self, works):
    if moment == "looked":
        stop()
    return await opened(self, works)

async def existing(*given):
    there = await found(*given)
    if moment == "opened":
        stop()
    return there

writer.TableWriter._done, writes.existing_ids = done, existing

open_table = lancedb.AsyncConnection.open_table

async def open_it(*given, **options):
    table = await open_table(*given, **options)
    if moment == "found":
        stop()
    return table

lancedb.AsyncConnection.open_table = open_it

async def main():
    backend = LancedbBackend(url, LancedbSettings(storage_options=options))
    await backend.open()
    try:
        if act == "drop":
            await backend.drop_table("notes")
        elif act == "create":
            await backend.create_table("more", SCHEMA)
        else:
            rows = to_table([{"id": "late", "embedding": [1, 1], "n": 1}], SCHEMA)
            await backend.insert(await backend.open_table("notes"), rows)
        print("done", flush=True)
    except AiovecError as exc:
        print(type(exc).__name__, flush=True)
    await backend.close()

asyncio.run(main())
"""


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if request.param == "folder":
        yield str(tmp_path / "store"), {}
        return
    with s3_server() as bucket:
        yield bucket.new_url(), bucket.options


@asynccontextmanager
async def backends(place: tuple[str, dict[str, str]], count: int) -> AsyncIterator[list[Any]]:
    """As many processes have them: the migrator's, then the app's."""
    url, options = place
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            backend = LancedbBackend(url, LancedbSettings(storage_options=options))
            stack.push_async_callback(backend.close)
            await backend.open()
            made.append(backend)
        yield made


@asynccontextmanager
async def stopped(
    place: tuple[str, dict[str, str]], moment: str, act: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has stopped itself within its write."""
    url, options = place
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, json.dumps(options), moment, act,
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"stops\n"
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def outcome(process: asyncio.subprocess.Process) -> str:
    """Let it go on: what became of its write."""
    assert process.stdout is not None
    process.send_signal(signal.SIGCONT)
    return (await process.stdout.readline()).decode().strip()


async def write(backend: LancedbBackend, *ids: str) -> None:
    rows = to_table([{"id": id, "embedding": [1, 1], "n": 1} for id in ids], SCHEMA)
    await backend.upsert(await backend.open_table("notes"), rows)


async def changed(moves: Any, since: int) -> tuple[list[str], int]:
    changes = await moves.changes(await moves.open_table("notes"), since)
    assert changes.complete
    return changes.upserted.column("id").to_pylist(), changes.number


async def ids_in(backend: LancedbBackend) -> list[str]:
    handle = await backend.open_table("notes")
    found = await backend.find(
        handle, where=None, order_by=[Order(Ref("id"))], limit=100, offset=0,
        columns=Columns(()),
    )  # fmt: skip
    return list(found.ids)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["looked", "opened"])
async def test_a_write_that_stands_still_is_not_committed_behind_the_mark(
    place: tuple[str, dict[str, str]], moment: str
) -> None:
    """On a folder its lock lasts as long as its process, so the migration calls off the pause; in a
    bucket the lock is taken over, and the write fenced off."""
    url, options = place
    backend: Any = LancedbBackend(url, LancedbSettings(storage_options=options))
    await backend.open()
    await backend.create_table("notes", SCHEMA)
    handle = await backend.open_table("notes")
    await backend.insert(handle, to_table([{"id": "a", "embedding": [1, 0], "n": 1}], SCHEMA))
    await backend.begin_move("r1", PLACE)
    try:
        async with stopped(place, moment, "insert") as writer:
            if options:
                await backend.pause_writers("r1", 60.0)
            else:
                with pytest.raises(StoreBusyError):
                    await backend.pause_writers("r1", 1.0)
                await backend.resume_writers("r1")
            start = await ids_in(backend)
            assert start == ["a"]
            if not options:
                # It goes on, and is in the changes.
                assert await outcome(writer) == "done"
                changes = await backend.changes(handle, 0)
                assert changes.upserted.column("id").to_pylist() == ["late"]
                return
            assert await backend.set_moved("r1", 1)
            assert await outcome(writer) == "StoreMovedError"
            assert await ids_in(backend) == ["a"]
    finally:
        await backend.close()


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
async def test_a_drop_that_stands_still_spares_the_table_of_another(
    place: tuple[str, dict[str, str]],
) -> None:
    """It was made, and written to, while the drop did not have the lock any more."""
    async with backends(place, 1) as (backend,):
        await backend.create_table("notes", SCHEMA)
        async with stopped(place, "found", "drop") as process:
            await backend.drop_table("notes")
            await backend.create_table("notes", SCHEMA)
            await write(backend, "new")
            assert await outcome(process) == "TableNotFoundError"
        assert await ids_in(backend) == ["new"]


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
async def test_a_creation_that_stands_still_is_not_done_behind_the_mark(
    place: tuple[str, dict[str, str]],
) -> None:
    async with backends(place, 1) as (backend,):
        await backend.create_table("notes", SCHEMA)
        async with stopped(place, "looked", "create") as process:
            await backend.begin_move("r1", PLACE)
            assert await outcome(process) == "MigrationError"
        assert await backend.tables() == ["notes"]


async def test_a_run_that_begins_again_learns_of_every_change(
    place: tuple[str, dict[str, str]],
) -> None:
    """C4: as a rollback does that was called off. The app's processes know of the first notes."""
    async with backends(place, 3) as (moves, one, two):
        await moves.create_table("notes", SCHEMA)
        await moves.begin_move("r1", PLACE)
        await write(two, "t")
        for n in range(4):
            await write(one, f"o{n}")
        await moves.end_move("r1")
        await moves.begin_move("r1", PLACE)
        number = await moves.change_number(await moves.open_table("notes"))
        for backend, id in [(one, "a"), (two, "b"), (one, "c")]:
            await write(backend, id)
            ids, number = await changed(moves, number)
            assert ids == [id]


async def test_the_changes_of_one_large_call_come_in_pages(
    place: tuple[str, dict[str, str]],
) -> None:
    async with backends(place, 2) as (moves, app):
        await moves.create_table("notes", SCHEMA)
        await moves.begin_move("r1", PLACE)
        written = [f"r{n:04}" for n in range(4500)]
        await write(app, *written)
        handle = await moves.open_table("notes")
        page, ids = await moves.changes(handle, 0, limit=100), []
        while True:
            assert page.upserted.num_rows < 1100
            ids += page.upserted.column("id").to_pylist()
            if page.complete:
                break
            page = await moves.changes(handle, page.number, limit=100)
        assert sorted(ids) == written


@pytest.mark.parametrize("limit", ["NaN", "-1", "null", "1" + "0" * 400])
async def test_a_mark_that_cannot_be_read_is_told_and_can_be_removed(
    tmp_path: Path, limit: str
) -> None:
    path = tmp_path / "store" / FOLDER / "_move.json"
    async with backends((str(tmp_path / "store"), {}), 2) as (moves, app):
        await moves.create_table("notes", SCHEMA)
        text = f'{{"mark": {{"run": "r", "state": "paused", "limit": {limit}}}}}'
        await asyncio.to_thread(path.write_text, text)
        for call in (write(app, "a"), app.tables(), moves.begin_move("r1", PLACE)):
            with pytest.raises(CorruptStoreError, match="aiovec migrate forget"):
                await call
        await moves.forget_move()
        await write(app, "a")


async def test_files_that_fail_are_told_as_errors_of_ours(tmp_path: Path) -> None:
    """B8: those of the mark and of the notes."""
    own = tmp_path / "store" / FOLDER
    async with backends((str(tmp_path / "store"), {}), 2) as (moves, app):
        await moves.create_table("notes", SCHEMA)
        await moves.begin_move("r1", PLACE)
        handle = await moves.open_table("notes")
        await asyncio.to_thread((own / "_moves").write_text, "")
        with pytest.raises(AiovecError, match="_moves"):
            await write(app, "a")
        with pytest.raises(AiovecError, match="_moves"):
            await moves.change_number(handle)
        await asyncio.to_thread((own / "_move.json").unlink)
        await asyncio.to_thread((own / "_move.json").mkdir)
        for call in (
            app.tables(),
            app.ping(),
            moves.move_record(),
            moves.begin_move("r1", PLACE),
            moves.forget_move(),
        ):
            with pytest.raises(AiovecError, match=r"_move\.json"):
                await call


async def test_what_ends_late_takes_nothing_from_a_run_that_has_begun_since(
    place: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backends(place, 3) as (late, moves, app):
        await moves.create_table("notes", SCHEMA)
        await late.begin_move("r1", PLACE)
        await write(app, "a")

        async def nothing(**_: Any) -> None: ...

        with monkeypatch.context() as patched:
            patched.setattr(late, "_forget_changes", nothing)
            await late.end_move("r1")
        await moves.begin_move("r1", PLACE)
        await write(app, "b")
        await late._forget_changes(moving=False)
        ids, _ = await changed(moves, 0)
        assert ids == ["b"]
        # The sign by which reads know of the mark.
        await moves.pause_writers("r1", 60.0)
        assert await moves.set_moved("r1", 1)
        with pytest.raises(StoreMovedError):
            await ids_in(app)


async def test_a_place_without_a_lock_for_all_its_writers_cannot_be_left_in_use() -> None:
    backend: Any = LancedbBackend("memory://", LancedbSettings())
    await backend.open()
    try:
        assert not backend.supports("moves")
        with pytest.raises(UnsupportedError, match="lock that all its writers use"):
            await backend.begin_move("r1", PLACE)
        assert await backend.move_mark() is None
    finally:
        await backend.close()
