"""Contract tests for a migration's mark: it locks schemas, pauses writers and redirects users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.contract.base import ContractBase, case
from tests.contract.tables import CALLS
from tests.harness.marks import (
    begin_move,
    end_move,
    fill,
    forget_move,
    pause_writers,
    reenter,
    resume_writers,
    set_moved,
)
from tests.harness.oracle import arrow_table

from aiovec import Schema, VectorStore
from aiovec.backend.changes import Delete, Upsert
from aiovec.backend.contract import Backend
from aiovec.backend.marks import MoveMark, MoveRecord
from aiovec.backend.rows import Batch
from aiovec.errors import MigrationError, StoreMovedError, TableExistsError, TableNotFoundError

# The calls in ``CALLS`` that change the schema, and those that write rows.
ALTERS = {"add_field", "create_field_index", "drop_table"}
WRITES = {"insert", "upsert", "update", "delete", "delete_where"}
SCHEMA = Schema(4, fields={"year": int})
PLACE = MoveMark(
    "r1", moved_to="lancedb:///x", backend="lancedb", config="/c.toml", target="/x", source="/a",
)  # fmt: skip


def row(id: str, n: int = 0) -> dict[str, Any]:
    return {"id": id, "embedding": [float(n + 1)] * 4, "year": n}


async def write(backend: Backend, ids: list[str]) -> None:
    """Write rows like a migration, without the checks of a store."""
    handle = await backend.open_table("notes")
    rows = arrow_table([row(id) for id in ids], handle.schema)
    await backend.write(handle, Upsert(Batch.of_table(rows, handle.schema)))


class MovingContract(ContractBase):
    """The marks of a migration, if the backend supports them."""

    @pytest_asyncio.fixture
    async def one_row(self, store: VectorStore) -> VectorStore:
        self.need(store, "moves")
        self.need_persistence()
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [row("a")])
        return store

    @pytest_asyncio.fixture
    async def moves(self, one_row: VectorStore, tmp_path: Path) -> AsyncIterator[Any]:
        """Return the backend, as a migration uses it."""
        async with self.opened_backend(tmp_path) as backend:
            yield backend

    @pytest.mark.core
    async def test_a_mark_is_kept_from_begin_to_end(self, moves: Any) -> None:
        assert await moves.move_record() == MoveRecord()
        await begin_move(moves, "r1")
        await begin_move(moves, "r1", PLACE)
        mark = await moves.move_mark()
        assert (mark.run, mark.state, mark.generation) == ("r1", "open", 0)
        places = (mark.moved_to, mark.backend, mark.config, mark.target, mark.source)
        assert places == ("lancedb:///x", "lancedb", "/c.toml", "/x", "/a")
        await end_move(moves, "r1")
        assert await moves.move_mark() is None
        await end_move(moves, "r1")

    async def test_another_run_is_refused_by_name(self, moves: Any, tmp_path: Path) -> None:
        await begin_move(moves, "r1")
        async with self.opened_backend(tmp_path) as other:
            for act in (
                begin_move(other, "r2"),
                end_move(other, "r2"),
                pause_writers(other, "r2", 1.0),
                set_moved(other, "r2", 1),
                reenter(other, "r2", "/a"),
            ):
                with pytest.raises(MigrationError, match="r1"):
                    await act
            assert (await other.move_mark()).run == "r1"
        await end_move(moves, "r1")
        with pytest.raises(MigrationError, match="r1"):
            await pause_writers(moves, "r1", 1.0)

    async def test_an_open_mark_keeps_schemas_and_lets_rows_change(
        self, one_row: VectorStore, moves: Any
    ) -> None:
        """Calls that would change a schema fail; calls that change nothing succeed."""
        await begin_move(moves, "r1")
        for name, call in CALLS.items():
            if name in ALTERS:
                with case(name), pytest.raises(MigrationError, match="r1"):
                    await call(one_row, "notes")
        for change in (
            one_row.create_table("more", SCHEMA), one_row.rename_table("notes", "b"),
            one_row.rename_field("notes", "year", "m"), one_row.drop_field("notes", "year"),
        ):  # fmt: skip
            with pytest.raises(MigrationError, match="r1"):
                await change
        await one_row.create_table("notes", SCHEMA, exist_ok=True)
        await one_row.drop_table("none", missing_ok=True)
        with pytest.raises(TableExistsError):
            await one_row.create_table("notes", SCHEMA)
        with pytest.raises(TableNotFoundError):
            await one_row.drop_table("none")
        assert await one_row.tables() == ["notes"]
        await one_row.upsert("notes", [row("b", 3)])
        assert await one_row.delete("notes", "a") == 1
        await end_move(moves, "r1")
        await one_row.create_table("more", SCHEMA)

    async def test_only_the_run_writes_into_a_store_that_it_fills(
        self, one_row: VectorStore, moves: Any, tmp_path: Path
    ) -> None:
        """Other writes would be lost when the run ends, is repaired or is aborted."""
        await one_row.upsert("notes", [row("b")])
        await fill(moves, "r1", "/a", 3, fresh=True)
        await fill(moves, "r1", "/a", 5)
        mark = await moves.move_mark()
        assert (mark.run, mark.state, mark.source, mark.fresh) == ("r1", "filling", "/a", True)
        filled = r"run r1\) copies the rows of /a .* abort` ends it"
        for name, call in CALLS.items():
            if name in WRITES or name in ALTERS:
                with case(name), pytest.raises(MigrationError, match=filled):
                    await call(one_row, "notes")
        with pytest.raises(MigrationError, match=filled):
            await one_row.create_table("more", SCHEMA)
        assert await one_row.count("notes", "year = 0") == 2
        assert [hit.id for hit in await one_row.search("notes", row("a")["embedding"])]
        async with self.opened_backend(tmp_path) as other:
            for act in (
                begin_move(other, "r2"),
                fill(other, "r2", "/b"),
                reenter(other, "r2", "/b"),
            ):
                with pytest.raises(MigrationError, match="r1"):
                    await act
        handle = await moves.open_table("notes")
        assert await moves.write(handle, Delete(["b"])) == 1
        await moves.arrive("r1", 3)  # from a user who follows an older cut-over of the same stores
        assert (await moves.move_mark()).filling
        await moves.arrive("r1", 4)
        assert await moves.move_record() == MoveRecord(None, 4)
        await one_row.insert("notes", [row("c")])
        await fill(moves, "r2", "/a")
        await end_move(moves, "r2", ["notes"])
        assert await moves.move_record() == MoveRecord(None, 4, "r2", ("notes",))
        assert await one_row.delete("notes", "c") == 1

    @pytest.mark.core
    async def test_writers_wait_for_end_of_pause(self, one_row: VectorStore, moves: Any) -> None:
        await begin_move(moves, "r1")
        await pause_writers(moves, "r1", 60.0)
        writes = [
            asyncio.ensure_future(one_row.upsert("notes", [row(f"w{n}", n)])) for n in range(6)
        ]
        writes.append(asyncio.ensure_future(one_row.delete("notes", "a")))
        await asyncio.wait(writes, timeout=0.5)
        assert not any(write.done() for write in writes)
        assert await one_row.count("notes") == 1  # reads are not paused
        assert await resume_writers(moves, "r1")
        assert await asyncio.gather(*writes) == [1] * 7
        assert await one_row.count("notes") == 6
        assert not await resume_writers(moves, "r1")

    @pytest.mark.arrow
    async def test_a_pause_that_lasts_too_long_is_ended_by_a_waiting_writer(
        self, one_row: VectorStore, moves: Any
    ) -> None:
        await begin_move(moves, "r1")
        await pause_writers(moves, "r1", 0.3)
        await write(moves, ["z"])  # the run itself can write during its pause
        assert await one_row.upsert("notes", [row("b")]) == 1
        # Another writer has written, so the run must not move the store.
        assert not await set_moved(moves, "r1", 1)
        assert not await resume_writers(moves, "r1")
        assert (await moves.move_mark()).state == "open"

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_after_the_move_every_call_tells_the_new_place(
        self, one_row: VectorStore, moves: Any, tmp_path: Path
    ) -> None:
        for _ in range(3):  # load all caches
            await one_row.search("notes", [1, 1, 1, 1])
        await begin_move(moves, "r1", PLACE)
        await one_row.search("notes", [1, 1, 1, 1])
        await pause_writers(moves, "r1", 60.0)
        await one_row.search("notes", [1, 1, 1, 1])
        waiting = asyncio.ensure_future(one_row.upsert("notes", [row("b")]))
        await asyncio.sleep(0.3)
        assert await set_moved(moves, "r1", 5)
        assert await set_moved(moves, "r1", 5)
        calls: dict[str, Awaitable[Any]] = {
            **{name: call(one_row, "notes") for name, call in CALLS.items()},
            "a write that waits": waiting,
            "ping": one_row.ping(),
            "tables": one_row.tables(),
            "create_table": one_row.create_table("more", SCHEMA),
            "create_table, exist_ok": one_row.create_table("notes", SCHEMA, exist_ok=True),
        }
        for name, call in calls.items():
            with case(name):
                with pytest.raises(StoreMovedError, match="lancedb:///x") as caught:
                    await call
                error = caught.value
                assert (error.backend, error.config, error.generation) == ("lancedb", "/c.toml", 5)
        later = await self.connect(tmp_path)
        with pytest.raises(StoreMovedError):
            await later.count("notes")
        await later.close()
        # The run itself can still write, and bring rows back.
        await write(moves, ["z"])
        await moves.arrive("r1", 6)
        assert [matches.id for matches in await one_row.find("notes")] == ["a", "z"]
        assert len(await one_row.search("notes", [1, 1, 1, 1])) == 2
        assert await moves.move_record() == MoveRecord(None, 6)

    async def test_a_new_process_can_act_for_the_run(self, moves: Any, tmp_path: Path) -> None:
        await begin_move(moves, "r1")
        await pause_writers(moves, "r1", 60.0)
        async with self.opened_backend(tmp_path) as resumed:
            await begin_move(resumed, "r1")
            assert (await resumed.move_mark()).state == "paused"
            assert await set_moved(resumed, "r1", 1)
            await begin_move(resumed, "r1")
            assert await resumed.tables() == ["notes"]
            with pytest.raises(MigrationError, match="r1"):
                await pause_writers(resumed, "r1", 1.0)

    async def test_only_a_newer_cut_over_of_the_same_run_puts_it_into_use_again(
        self, one_row: VectorStore, moves: Any
    ) -> None:
        """Calls from an older cut-over, or from another migration, change nothing."""
        await begin_move(moves, "r1", PLACE)
        await pause_writers(moves, "r1", 60.0)
        assert await set_moved(moves, "r1", 3)
        for run, generation in [("r1", 2), ("r1", 3), ("r2", 9)]:
            await moves.arrive(run, generation)
            with pytest.raises(StoreMovedError):
                await one_row.count("notes")
        await moves.arrive("r1", 4)
        assert await one_row.count("notes") == 1
        await moves.arrive("r1", 3)
        assert await moves.move_record() == MoveRecord(None, 4)

    async def test_a_store_that_was_left_keeps_its_mark_until_it_is_forgotten(
        self, one_row: VectorStore, moves: Any, tmp_path: Path
    ) -> None:
        await begin_move(moves, "r1", PLACE)
        with pytest.raises(MigrationError, match="not over"):
            await forget_move(moves)
        await pause_writers(moves, "r1", 60.0)
        assert await set_moved(moves, "r1", 1)
        await end_move(moves, "r1")
        assert (await moves.move_mark()).left
        async with self.opened_backend(tmp_path) as other:
            with pytest.raises(MigrationError, match="migrate forget"):
                await begin_move(other, "r2")
            with pytest.raises(MigrationError, match="migrate forget"):
                await reenter(other, "r2", "/elsewhere")
            for call in (one_row.count("notes"), one_row.insert("notes", [row("b")])):
                with pytest.raises(StoreMovedError, match="lancedb:///x"):
                    await call
            await forget_move(other)
        assert await one_row.count("notes") == 1
        assert await moves.move_record() == MoveRecord(None, 1)

    @pytest.mark.arrow
    async def test_a_later_run_leads_back_into_a_store_that_an_earlier_run_left(
        self, one_row: VectorStore, moves: Any, tmp_path: Path
    ) -> None:
        await begin_move(moves, "r1", PLACE)
        await pause_writers(moves, "r1", 60.0)
        assert await set_moved(moves, "r1", 1)
        async with self.opened_backend(tmp_path) as other:
            await reenter(other, "r2", "/x")
            await write(other, ["z"])
            with pytest.raises(StoreMovedError):
                await one_row.count("notes")
            await other.arrive("r2", 2)
            assert await one_row.count("notes") == 2
