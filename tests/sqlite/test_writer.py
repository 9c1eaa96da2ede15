"""The one writer: group commit, the bound of its queue, and other processes' locks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import (
    SCHEMAS,
    LockHolder,
    State,
    backend_of,
    check_file,
    open_store,
    opened,
)

from aiovec import DuplicateIdError, Schema, StoreBusyError, VectorStore
from aiovec_sqlite import writer
from aiovec_sqlite.driver import load_driver
from aiovec_sqlite.errors import CORRUPT


def row(id: str) -> dict[str, object]:
    return State(1, 1).row(id, "me")


async def commits(store: VectorStore) -> list[str]:
    """Each COMMIT of the writing connection from now on."""
    seen: list[str] = []

    def note(statement: str) -> None:
        if statement == "COMMIT":
            seen.append(statement)

    await backend_of(store)._connection.set_trace_callback(note)
    return seen


async def test_calls_at_once_share_commits(tmp_path: Path) -> None:
    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("notes", SCHEMAS["plain"])
        seen = await commits(store)
        await asyncio.gather(*(store.insert("notes", [row(f"a{n}")]) for n in range(100)))
        assert 1 <= len(seen) < 25
        del seen[:]
        for n in range(5):
            await store.insert("notes", [row(f"b{n}")])
        assert len(seen) == 5
        await backend_of(store)._connection.set_trace_callback(None)


@pytest.mark.parametrize("target", ["notes.db", ":memory:"])
async def test_a_bad_call_harms_no_other(tmp_path: Path, target: str) -> None:
    async with opened(target if target == ":memory:" else tmp_path / target) as store:
        await store.create_table("notes", SCHEMAS["partitioned"])
        await store.insert("notes", [row("there")])
        outcomes = await asyncio.gather(
            *(store.insert("notes", [row(f"a{n}"), row(f"b{n}")]) for n in range(50)),
            store.insert("notes", [row("new"), row("there"), row("newer")]),
            *(store.upsert("notes", [row(f"c{n}"), row("shared")]) for n in range(50)),
            *(store.update("notes", {"name": "x"}, ids="there") for n in range(10)),
            store.delete("notes", ["there", "absent"]),
            return_exceptions=True,
        )
        bad = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(bad) == 1
        assert isinstance(bad[0], DuplicateIdError)
        assert bad[0].ids == ["there"]
        assert outcomes[50] is bad[0]
        assert outcomes[-1] == 1
        ids = {record.id for record in await store.find("notes", limit=1000)}
        wanted = {f"{p}{n}" for p in "abc" for n in range(50)} | {"shared"}
        assert ids == wanted


async def test_another_process_that_holds_the_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        async with LockHolder(path) as holder:
            writes = [
                asyncio.ensure_future(store.insert("notes", [row(f"a{n}")])) for n in range(20)
            ]
            # Reads do not wait, and see what was there before.
            assert await store.count("notes") == 0
            assert await store.search("notes", [1.0] * 16) == []
            done, _ = await asyncio.wait(writes, timeout=0.4)
            assert not done
            await holder.free()
        assert await asyncio.gather(*writes) == [1] * 20
    assert await asyncio.to_thread(check_file, path) == {"notes": 20}


async def test_beyond_busy_timeout_a_call_fails_and_tells_how_long_it_waited(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, busy_timeout=1.5) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        async with LockHolder(path):
            began = time.monotonic()
            outcomes = await asyncio.gather(
                *(store.insert("notes", [row(f"a{n}")]) for n in range(5)), return_exceptions=True
            )
            passed = time.monotonic() - began
        for outcome in outcomes:
            assert isinstance(outcome, StoreBusyError), outcome
            assert 1.5 <= outcome.waited <= passed + 0.01
            assert "another process" in str(outcome)
        # Nothing of them is done later.
        assert await store.insert("notes", [row("b")]) == 1
        assert [record.id for record in await store.find("notes")] == ["b"]


async def test_without_patience_a_free_store_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, busy_timeout=0) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        for n in range(20):
            assert await store.insert("notes", [row(f"a{n}")]) == 1
        await asyncio.gather(*(store.insert("notes", [row(f"b{n}")]) for n in range(20)))
        async with LockHolder(path):
            with pytest.raises(StoreBusyError):
                await store.insert("notes", [row("c")])
        assert await store.count("notes") == 40


async def test_callers_beyond_the_queue_wait_for_a_place(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, write_queue=3, busy_timeout=60) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        async with LockHolder(path) as holder:
            writes = [
                asyncio.ensure_future(store.insert("notes", [row(f"a{n}")])) for n in range(30)
            ]
            await asyncio.wait(writes, timeout=0.3)
            writer = backend_of(store)._writer
            assert writer._commits.waiting <= 3
            # One that waits for a place and leaves is not done, and takes no place with it.
            writes[20].cancel()
            await holder.free()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert isinstance(outcomes.pop(20), asyncio.CancelledError)
        assert outcomes == [1] * 29
        assert await store.count("notes") == 29
        assert await store.count("notes", "id = 'a20'") == 0


async def test_no_place_within_busy_timeout(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, write_queue=1, busy_timeout=0.3) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        async with LockHolder(path):
            outcomes = await asyncio.gather(
                *(store.insert("notes", [row(f"a{n}")]) for n in range(6)), return_exceptions=True
            )
        assert all(isinstance(outcome, StoreBusyError) for outcome in outcomes), outcomes
        assert all(outcome.waited >= 0.3 for outcome in outcomes)
        assert any("too many writes" in str(outcome) for outcome in outcomes)
        assert await store.insert("notes", [row("b")]) == 1


async def test_two_stores_in_one_process_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path) as one, opened(path) as other:
        await one.create_table("notes", SCHEMAS["plain"])
        calls = [
            store.insert("notes", [row(f"{name}{n}")])
            for n in range(60)
            for name, store in (("one", one), ("other", other))
        ]
        assert await asyncio.gather(*calls) == [1] * 120
        assert await one.count("notes") == await other.count("notes") == 120
    assert await asyncio.to_thread(check_file, path) == {"notes": 120}


async def test_close_waits_for_the_writes_that_were_accepted(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await open_store(path)
    await store.create_table("notes", SCHEMAS["plain"])
    async with LockHolder(path) as holder:
        assert await store.count("notes") == 0  # the table is known, so each call is accepted soon
        writes = [asyncio.ensure_future(store.insert("notes", [row(f"a{n}")])) for n in range(20)]
        await asyncio.sleep(0.3)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0.1)
        assert not closing.done()
        await holder.free()
    await closing
    assert await asyncio.gather(*writes) == [1] * 20
    assert await asyncio.to_thread(check_file, path) == {"notes": 20}


async def test_a_read_that_fails_for_a_moment_before_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says of it that the file is damaged. Calls that share the commit are tried alone."""
    plain, left = writer.mark_in, [1]

    def fail_once(*args: Any) -> Any:
        if left:
            left.pop()
            error = load_driver().DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = CORRUPT
            raise error
        return plain(*args)

    async with opened(tmp_path / "n.db") as store:
        await store.create_table("notes", Schema(2))
        with monkeypatch.context() as patched:
            patched.setattr(writer, "mark_in", fail_once)
            rows = [[{"id": f"r{n}", "embedding": [1, n]}] for n in range(5)]
            assert await asyncio.gather(*(store.insert("notes", row) for row in rows)) == [1] * 5
        assert not left
        assert await store.count("notes") == 5
