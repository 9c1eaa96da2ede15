"""Keys of writes beside Lance's tables, and the one moment in which a kill leaves them open."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiovec
from aiovec import Schema, StoreBusyError, VectorStore
from aiovec.backend import Conditions, WriteKey, under
from aiovec_lancedb.once import FILE

from .support import opened

SCHEMA = Schema(4, fields={"n": int})


def keyed(name: str, digest: bytes = b"d") -> AbstractContextManager[None]:
    return under(Conditions(key=WriteKey(name, digest)))


def rows(*ids: str) -> list[dict[str, Any]]:
    return [
        {"id": id, "embedding": np.full(4, n + 1, np.float32), "n": n} for n, id in enumerate(ids)
    ]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[VectorStore]:
    async with aiovec.connect(f"lancedb://{tmp_path}/a") as store:
        await store.create_table("notes", SCHEMA)
        yield store


async def test_without_a_key_nothing_is_made(store: VectorStore, tmp_path: Path) -> None:
    await store.insert("notes", rows("a"))
    await store.delete("notes", ["a"])
    file = tmp_path / "a" / ".aiovec" / FILE
    assert not file.exists()
    with keyed("k"):
        await store.insert("notes", rows("a"))
    assert file.exists()


async def test_a_damaged_file_of_keys_is_told(store: VectorStore, tmp_path: Path) -> None:
    file = tmp_path / "a" / ".aiovec" / FILE
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"no database, but long enough to be read as one" * 30)
    with keyed("k"), pytest.raises(aiovec.CorruptStoreError, match="remove it"):
        await store.insert("notes", rows("a"))
    assert await store.insert("notes", rows("a")) == 1


_VICTIM = """
    import asyncio, os, sys
    import numpy as np
    import aiovec
    from aiovec.backend import Conditions, WriteKey, under
    from aiovec_lancedb.once import Keys

    Keys.end = lambda *_: os._exit(9)  # as a kill right behind the commit

    async def main():
        async with aiovec.connect(sys.argv[1]) as store:
            call = getattr(store, sys.argv[2])
            args = eval(sys.argv[3], {"np": np, "aiovec": aiovec})
            with under(Conditions(key=WriteKey("k", b"d"))):
                await call(*args)

    asyncio.run(main())
"""

_ROW = "{'id': 'new', 'embedding': np.full(4, 7, np.float32), 'n': 7, 'more': {'b': 1, 'a': 2}}"
_CALLS = {
    "insert": (f"('notes', [{_ROW}])", 1),
    "upsert": (f"('notes', [{_ROW}])", 1),
    "set_vectors": ("('notes', ['a'], [[9.0] * 4])", 1),
    "create_table": ("('more', aiovec.Schema(4, fields={'n': int}))", None),
    "drop_table": ("('notes',)", None),
    "add_field": ("('notes', 'lang', str)", None),
    "drop_field": ("('notes', 'n')", None),
    "rename_field": ("('notes', 'n', 'm')", None),
    "rename_table": ("('notes', 'others')", None),
}


# Rows, a table, a field: the others of a kind note their key in the same way.
_ORDINARY = ("insert", "create_table", "drop_table", "add_field")


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [pytest.param(call, marks=[] if call in _ORDINARY else [pytest.mark.soak]) for call in _CALLS],
)
async def test_a_write_whose_process_was_killed_behind_the_commit(
    tmp_path: Path, call: str
) -> None:
    target = f"lancedb://{tmp_path}/a"
    async with aiovec.connect(target) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", rows("a", "b"))
    arguments, outcome = _CALLS[call]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", textwrap.dedent(_VICTIM), target, call, arguments],
        env=os.environ,
        timeout=120,
        capture_output=True,
    )
    assert done.returncode == 9, done.stderr
    async with aiovec.connect(target) as store:
        names = await store.tables()
        for _ in range(2):
            with keyed("k"):
                args = eval(arguments, {"np": np, "aiovec": aiovec})
                assert await getattr(store, call)(*args) == outcome
        assert await store.tables() == names
        if call in ("insert", "upsert"):
            assert await store.count("notes") == 3


async def test_a_program_that_locks_the_file_of_keys_holds_up_no_longer_than_others(
    tmp_path: Path,
) -> None:
    """B3: a keyed write waited ten seconds for it, and all writers of the table behind it."""
    async with opened(tmp_path / "s", busy_timeout=0.2) as store:
        await store.create_table("notes", SCHEMA)
        with keyed("first"):
            await store.insert("notes", rows("a"))

        def lock() -> sqlite3.Connection:
            other = sqlite3.connect(
                tmp_path / "s" / ".aiovec" / FILE, isolation_level=None, check_same_thread=False
            )
            other.execute("BEGIN EXCLUSIVE")
            return other

        other = await asyncio.to_thread(lock)
        with keyed("second"), pytest.raises(StoreBusyError, match=FILE) as told:
            await store.insert("notes", rows("b"))
        assert told.value.waited < 1
        assert await store.insert("notes", rows("c")) == 1  # it asks for no key
        await asyncio.to_thread(other.close)
        for _ in range(2):
            with keyed("second"):
                assert await store.insert("notes", rows("b")) == 1
        assert await store.count("notes") == 3


async def test_keyed_writes_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    """With ``busy_timeout=0`` too: every call waits a moment for those of its own process."""
    async with opened(tmp_path / "s", busy_timeout=0) as store:
        tables = [f"t{n}" for n in range(6)]
        for name in tables:
            await store.create_table(name, SCHEMA)

        async def write(name: str, turn: int) -> int:
            with keyed(f"{name}-{turn}"):
                return await store.insert(name, rows(f"r{turn}"))

        for turn in range(8):
            assert await asyncio.gather(*(write(name, turn) for name in tables)) == [1] * 6


async def test_a_version_is_restored_once(store: VectorStore) -> None:
    await store.insert("notes", rows("a"))
    version = (await store.versions("notes"))[-1]["version"]
    await store.insert("notes", rows("b"))
    with keyed("k"):
        await store.restore("notes", version)
    assert await store.count("notes") == 1
    await store.insert("notes", rows("c"))
    with keyed("k"):
        await store.restore("notes", version)
    assert await store.count("notes") == 2


async def test_an_index_is_dropped_once(store: VectorStore) -> None:
    await store.insert("notes", rows(*(f"r{n}" for n in range(300))))
    for _ in range(2):
        with keyed("create"):
            await store.create_index("notes", "ivf_flat")
    ((name,),) = [[index.name for index in await store.indexes("notes") if index.column != "id"]]
    for _ in range(2):
        with keyed("drop"):
            await store.drop_index("notes", name)
