"""A1: another process, with an older SQLite, opens and closes the file beside us.

Before 3.51 SQLite deletes the WAL of a store when it closes it last, and it knows from the locks
on the file alone whether somebody else has it open. POSIX drops the locks of a process when that
closes any descriptor of the file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import ROOT, check_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX locks")

_PYTHON = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); {}; db.close()"
_READ = "SELECT count(*) FROM aiovec_state"
_WRITE = "INSERT INTO aiovec_state VALUES ('other', 1) ON CONFLICT DO UPDATE SET value = value + 1"

# What opens the file and closes it: each was, or could be, a way to lose the locks.
TOUCHES = {
    "nothing": "",
    "a second store": "async with aiovec.connect(path) as other: await other.tables()",
    "other settings": (
        "os.environ['AIOVEC_RETRIEVAL__SQLITE__CACHE_MB'] = '9'\n"
        "    async with aiovec.connect(path) as other: await other.count('t')"
    ),
    "without asyncio": (
        "with sync.connect(path) as other: other.count('t')"
    ),
    "doctor": "aiovec_sqlite.doctor.findings(Path(path))",
    "sources": "aiovec._transfer.sources.source_for(Path(path))",
    "a refused import": (
        "for form in (None, 'jsonl', 'parquet', 'numpy'):\n"
        "        try: open_input(Path(path), form=form)\n"
        "        except aiovec.AiovecError: pass"
    ),
    "a backup": "await store.backup(path + '.copy')",
    "an export": "await save(store, 't', Path(path + '.parquet'))",
    "optimize": "await store.optimize('t')",
    "a search": "await store.search('t', [1, 2, 3, 4])",
    "a plan to move": (
        "await aiovec_migrate.plan(path, 'lancedb://' + path + '.lance')"
    ),
}  # fmt: skip

VICTIM = """
import asyncio, os, sys
from pathlib import Path
import aiovec, aiovec._transfer.sources, aiovec_sqlite.doctor, aiovec_migrate
from aiovec import sync
from aiovec._transfer import save
from aiovec._transfer.reading import open_input

async def touch(store, path):
    {touch}
    pass

def rows(start):
    return [{{"id": str(n), "embedding": [n + 1, 2, 3, 4]}} for n in range(start, start + 20)]

async def main():
    path = sys.argv[1]
    store = await aiovec.connect(path)
    await store.create_table("t", aiovec.Schema(4), exist_ok=True)
    await store.insert("t", rows(0))
    await touch(store, path)
    print("ready", flush=True)
    for start in range(20, 10**6, 20):
        if not (await asyncio.to_thread(sys.stdin.readline)):
            break
        await store.insert("t", rows(start))
        print(start + 20, flush=True)

asyncio.run(main())
"""


@contextmanager
def victim(path: Path, touch: str = "", **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that has the store open, and inserts 20 rows for each line that it gets."""
    process = subprocess.Popen(
        [options.pop("python", sys.executable), "-c", VICTIM.format(touch=touch), str(path)],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def insert(process: subprocess.Popen[str]) -> int:
    """Have the process insert rows; how many it has acknowledged."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def other(way: str, path: Path, statement: str) -> None:
    """Another process opens the file, runs a statement, and closes it."""
    if way == "sqlite3 command":
        command = ["sqlite3", str(path), statement]
    else:
        command = [sys.executable, "-c", _PYTHON.format(
            f"db.execute({statement!r}).fetchall(); db.commit()"), str(path)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def ways() -> list[str]:
    return ["Python's module", *(["sqlite3 command"] if shutil.which("sqlite3") else [])]


@pytest.mark.slow
@pytest.mark.parametrize("touch", TOUCHES)
def test_rows_survive_another_library_beside_us(tmp_path: Path, touch: str) -> None:
    """A1: whatever this process does with the file, its locks stay and its WAL stays."""
    path = tmp_path / "notes.db"
    with victim(path, TOUCHES[touch]) as process:
        wal = path.with_name("notes.db-wal").stat().st_ino
        for way in ways():
            for statement in (_READ, _WRITE):
                other(way, path, statement)
                acknowledged = insert(process)
        assert path.with_name("notes.db-wal").stat().st_ino == wal
    assert check_file(path) == {"t": acknowledged}


SYSTEM_PYTHON = "/usr/bin/python3"
_CAN_LOAD = """
import sqlite3, sys
db = sqlite3.connect(":memory:"); db.enable_load_extension(True)
assert sqlite3.sqlite_version_info < (3, 51)
print(*sys.version_info[:2])
"""


def system_python() -> Mapping[str, str] | None:
    """The environment in which aiovec runs on the system's Python and its older SQLite."""
    try:
        done = subprocess.run(
            [SYSTEM_PYTHON, "-c", _CAN_LOAD], capture_output=True, text=True, timeout=60
        )
    except OSError:
        return None
    if done.returncode or tuple(map(int, done.stdout.split())) != sys.version_info[:2]:
        return None
    folders = [ROOT / "src", ROOT / "adapters", ROOT / "migrate", sysconfig.get_path("purelib")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}


TWO_WRITES = """
import asyncio, sys, aiovec
async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        for n in "12":
            await store.insert("t", [{"id": sys.argv[2] + n, "embedding": [1, 2, 3, 4]}])
asyncio.run(main())
"""


@pytest.mark.slow
def test_two_processes_with_an_older_sqlite(tmp_path: Path) -> None:
    """A1: also where both run aiovec on a SQLite that deletes the WAL."""
    environment = system_python()
    if environment is None:
        pytest.skip("there is no second Python of this version whose sqlite3 loads extensions")
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pysqlite3.py").write_text("raise ImportError\n")
    path = tmp_path / "notes.db"
    environment = {**environment, "PYTHONPATH": f"{blocked}:{environment['PYTHONPATH']}"}
    options: dict[str, Any] = {"env": environment, "python": SYSTEM_PYTHON}
    touch = TOUCHES["a second store"]
    with victim(path, touch, **options) as process:
        for turn in range(3):
            subprocess.run(
                [SYSTEM_PYTHON, "-c", TWO_WRITES, str(path), f"other{turn}"],
                check=True, env=environment, cwd=ROOT, timeout=120,
            )  # fmt: skip
            acknowledged = insert(process)
    assert check_file(path) == {"t": acknowledged + 6}
