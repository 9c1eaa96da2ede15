"""The journal's file: what is written is read back, and one migrator has it at a time."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import aiovec
import aiovec_migrate
from aiovec.errors import CorruptStoreError, MigrationError
from aiovec_migrate import Identity, Options, Phase, RunState, TableState
from aiovec_migrate.host import RealHost
from aiovec_migrate.journal import FileJournal
from aiovec_migrate.state import PHASES

from .support import as_nobody

HOLDER = """
import asyncio, sys
from pathlib import Path
from aiovec_migrate.host import RealHost
from aiovec_migrate.journal import FileJournal
from aiovec_migrate.state import PHASES

async def main():
    async with FileJournal(Path(sys.argv[1]), RealHost()).locked():
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
    journal = FileJournal(tmp_path / "sub" / "journal.db", RealHost())
    assert await journal.load() is None
    state = a_run()
    first = TableState("notes", "{}", rows=5, cursor=b"+\x00\xff", since=9, made=True)
    second = TableState("others", "{}", since=3, copied=True)
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
        assert await FileJournal(journal.file, RealHost()).load() == state
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
    journal = FileJournal(file, RealHost())
    with pytest.raises(MigrationError, match=rf"at work .*process {process.pid}\)"):
        await journal.lock()
    process.kill()  # a killed one holds nobody
    await process.wait()
    async with journal.locked():
        with pytest.raises(MigrationError, match=f"process {os.getpid()}"):
            await FileJournal(file, RealHost()).lock()
    async with journal.locked():
        pass


async def test_one_of_two_at_once_gets_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C16: another that is halfway to the lock, and gives up, keeps nobody from it."""
    # A busy machine may take longer to give up.
    monkeypatch.setattr("aiovec_migrate.journal._TURN", 30.0)
    file = tmp_path / "journal.db"
    async with FileJournal(file, RealHost()).locked():
        pass
    halfway = sqlite3.connect(f"{file}.lock", isolation_level=None, check_same_thread=False)
    try:
        halfway.execute("BEGIN")
        halfway.execute("SELECT count(*) FROM sqlite_master").fetchone()
        given_up = asyncio.get_running_loop().run_in_executor(None, _gives_up, halfway)
        async with FileJournal(file, RealHost()).locked():
            await given_up
    finally:
        halfway.close()


def _gives_up(lock: sqlite3.Connection) -> None:
    time.sleep(0.2)
    lock.execute("ROLLBACK")


async def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    file.write_bytes(b"this is no journal" * 100)
    journal = FileJournal(file, RealHost())
    with pytest.raises(CorruptStoreError, match=r"journal\.db"):
        await journal.load()
    with pytest.raises(CorruptStoreError, match=r"journal\.db.*If it is not a journal, name ano"):
        await journal.lock()


async def test_a_database_of_somebody_else_is_no_journal(tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    async with aiovec.connect(file) as store:
        await store.create_table("notes", aiovec.Schema(2))
    before = await asyncio.to_thread(file.read_bytes)
    journal = FileJournal(file, RealHost())
    for call in (journal.load, journal.lock, journal.remove):
        with pytest.raises(MigrationError, match=r"not a journal.*--journal"):
            await call()
    assert await asyncio.to_thread(file.read_bytes) == before
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["app.db"]


OTHERWISE = [
    ("tables", "[]"), ("tables", "7"), ("tables", '{"name": "notes"}'),
    ("tables", '{"name": "notes", "schema": "{}", "rows": "many"}'),
    ("tables", '{"name": "notes", "schema": "{}", "cursor": 5}'),
    ("tables", '{"name": "notes", "schema": "{}", "since": [1]}'),
    ("tables", "[" * 100_000), ("run", "[]"), ("run", "null"), ("run", '"options"'),
]  # fmt: skip
FIELDS = [
    ("options", []), ("options", {"batch_size": "x"}), ("options", {"batch_size": 0}),
    ("options", {"tables": 5}), ("options", {"verify": "no"}), ("source", "x"), ("source", {}),
    ("source", {"backend": 1, "target": "x"}), ("phase", "asleep"), ("run", 5), ("marked", "yes"),
    ("longest_pause", "x"), ("generation", "x"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "text"),
    OTHERWISE + [("run", json.dumps({**json.loads(a_run().to_json()), k: v})) for k, v in FIELDS],
)
async def test_a_journal_of_other_values_is_told(tmp_path: Path, table: str, text: str) -> None:
    journal = FileJournal(tmp_path / "journal.db", RealHost())
    async with journal.locked():
        await journal.save(a_run(), TableState("notes", "{}"))
    assert await journal.load() is not None

    def damage() -> None:
        with closing(sqlite3.connect(journal.file)) as db, db:
            db.execute(f"UPDATE {table} SET state = ?", (text,))

    await asyncio.to_thread(damage)
    with pytest.raises(CorruptStoreError, match=r"cannot be read.*Remove that file.*abort.*finish"):
        await journal.load()


async def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    state = a_run()
    text = state.to_json().replace('"format": 1', '"format": 999')
    with pytest.raises(MigrationError, match="another version"):
        RunState.from_json(text, {})


async def test_no_journal_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MigrationError, match="the journal cannot be written"):
        await FileJournal(tmp_path / "file" / "journal.db", RealHost()).lock()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
async def test_a_journal_in_a_folder_of_somebody_else_is_told(tmp_path: Path) -> None:
    journal = tmp_path / "theirs" / "migration.db"
    journal.parent.mkdir(mode=0o700)
    with as_nobody(), pytest.raises(MigrationError, match="cannot be used: Permission denied"):
        await aiovec_migrate.status(journal=journal)


def test_every_phase_has_its_command_and_leads_to_an_end() -> None:
    assert set(PHASES) == set(Phase)
    ends = {Phase.DONE, Phase.ROLLED_BACK, Phase.ABORTING}
    for phase in Phase:
        assert phase.command in ("run", "rollback", "finish", "abort")
        assert phase.over == (phase.command == "finish")
        reached = {phase}
        for _ in Phase:
            reached |= {after for each in reached for after in each.following}
        assert reached & ends


def test_a_phase_that_cannot_follow_is_refused() -> None:
    state = a_run()
    state.phase = Phase.DONE
    with pytest.raises(MigrationError, match="is done, so it cannot be copying next"):
        state.enter(Phase.COPYING)
    assert state.phase is Phase.DONE
