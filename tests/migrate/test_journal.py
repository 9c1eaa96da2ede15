"""The journal's file: what is written is read back, and one migrator has it at a time."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from aiovec.errors import CorruptStoreError, MigrationError
from aiovec_migrate import Identity, Options, Phase, RunState, TableState
from aiovec_migrate.host import RealHost
from aiovec_migrate.journal import SqliteJournal

HOLDER = """
import asyncio, sys
from pathlib import Path
from aiovec_migrate.host import RealHost
from aiovec_migrate.journal import SqliteJournal

async def main():
    async with SqliteJournal(Path(sys.argv[1]), RealHost()).locked():
        print("locked", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def a_run() -> RunState:
    return RunState(
        run="r1",
        source=Identity("sqlite", "/a.db"),
        target=Identity("lancedb", "/b"),
        options=Options(batch_size=7, pause_limit=0.5, tables=("notes", "others")),
        phase=Phase.COPYING,
        marked=True,
        started="2024-05-01T00:00:00+00:00",
    )


async def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "sub" / "journal.db", RealHost())
    assert await journal.load() is None
    state = a_run()
    first = TableState("notes", "{}", rows=5, cursor=b"+\x00\xff", since=9, made=True)
    second = TableState("others", "{}", version=3)
    async with journal.locked():
        await journal.save(state, first)
        first.rows = 6
        state.phase = Phase.VERIFYING
        await journal.save(state, second)
        state.tables = {
            "notes": TableState("notes", "{}", rows=5, cursor=b"+\x00\xff", since=9, made=True),
            "others": second,
        }
        # Another terminal asks while it is locked.
        assert await SqliteJournal(journal.file, RealHost()).load() == state
        await journal.remove()
        assert await journal.load() is None


async def test_a_second_migrator_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(file),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"locked" + os.linesep.encode()
    journal = SqliteJournal(file, RealHost())
    with pytest.raises(MigrationError, match=rf"at work .*process {process.pid}\)"):
        await journal.lock()
    process.kill()  # a killed one holds nobody
    await process.wait()
    async with journal.locked():
        with pytest.raises(MigrationError, match=f"process {os.getpid()}"):
            await SqliteJournal(file, RealHost()).lock()
    async with journal.locked():
        pass


async def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    file.write_bytes(b"this is no journal" * 100)
    journal = SqliteJournal(file, RealHost())
    with pytest.raises(CorruptStoreError, match=r"journal\.db"):
        await journal.load()
    with pytest.raises(CorruptStoreError, match=r"journal\.db"):
        await journal.lock()


async def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    state = a_run()
    text = state.to_json().replace('"format": 1', '"format": 999')
    with pytest.raises(MigrationError, match="another version"):
        RunState.from_json(text, {})


async def test_no_journal_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MigrationError, match="no journal can be kept"):
        await SqliteJournal(tmp_path / "file" / "journal.db", RealHost()).lock()
