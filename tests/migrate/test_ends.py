"""Every state in which a migrator can stop has one command that ends it. The journal names that
command, and without the journal the marks are enough."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import State, backend_of

import aiovec
import aiovec_migrate
from aiovec import CorruptStoreError, MigrationError, StoreMovedError, UnsupportedError
from aiovec.backend import MoveRecord, moves_of
from aiovec_lancedb.store import LancedbBackend
from aiovec_migrate import Options
from aiovec_sqlite.store import SqliteBackend

from .support import (
    FILES,
    Contents,
    contents_at,
    differences,
    fill,
    migrated,
    rolled_back,
    row,
    some_rows,
    write_toml,
)
from .test_resume import Stop, StoppedError

SWITCH = Options(switch=True, batch_size=50, index=False)
WAYS = {"there": ("sqlite", "lancedb"), "back": ("lancedb", "sqlite")}
STEPS = {
    "run": [
        "planned", "marked", "table:noted", "table:created", "copy:written", "copy:journalled",
        "indexed", "verify:compared", "phase:cutting-over", "cut-over:ready", "cut-over:paused",
        "cut-over:checked", "cut-over:moved", "cut-over:arrived", "phase:moved",
        "cut-over:flipped", "phase:done",
    ],
    "rollback": [
        "phase:rolling-back", "rollback:marked", "verify:compared", "cut-over:paused",
        "cut-over:moved", "cut-over:arrived", "cut-over:flipped", "rollback:released",
        "phase:rolled-back",
    ],
    "finish": ["finish:released"],
    "abort": ["phase:aborting", "abort:released", "abort:dropped"],
}  # fmt: skip
CASES = [(command, step) for command, steps in STEPS.items() for step in steps]


_IN_EACH_RUN = (
    "planned", "copy:written", "indexed", "cut-over:paused", "cut-over:moved", "cut-over:flipped",
    "phase:done", "rollback:marked", "phase:rolled-back",
)  # fmt: skip


def cases() -> list[Any]:
    """Each step in one of the directions; all others with the long tests.

    Of a run and a rollback, test_resume.py and test_cutover.py stop at the other steps.
    """
    found = []
    for number, (command, step) in enumerate(CASES):
        elsewhere = command in ("run", "rollback") and step not in _IN_EACH_RUN
        for turn, way in enumerate(WAYS):
            marks = [] if number % 2 == turn and not elsewhere else [pytest.mark.soak]
            found.append(pytest.param(way, command, step, marks=marks, id=f"{way}-{step}"))
    return found


async def a_store(folder: Path, backend: str) -> Path:
    config = await asyncio.to_thread(write_toml, folder, backend)
    async with aiovec.connect(config=config) as store:
        await fill(store, {"notes": 60})
    return config


async def stopped_at(
    folder: Path, way: str, step: str, options: Options = SWITCH
) -> tuple[Path, Contents]:
    """The TOML of a run that stopped there, and what the store held before it."""
    source, target = WAYS[way]
    config = await a_store(folder, source)
    wanted = await contents_at(config=config)
    with pytest.raises(StoppedError):
        await migrated(None, target, config=config, options=options, step=Stop(step))
    return config, wanted


async def cancelled_twice_at(
    step: str, begin: Callable[[Callable[[str], Awaitable[None]]], Coroutine[Any, Any, Any]]
) -> None:
    """Begin what stands still at the step, and cancel it there."""
    reached = asyncio.Event()

    async def stand_still(name: str) -> None:
        if name == step:
            reached.set()
            await asyncio.sleep(3600)

    running = asyncio.ensure_future(begin(stand_still))
    await reached.wait()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def call(command: str, config: Path, **more: Any) -> Any:
    if command == "run":
        return await migrated(config=config, options=SWITCH, **more)
    return await getattr(aiovec_migrate, command)(config=config, **more)


def place_of(config: Path, backend: str) -> str:
    if backend == "sqlite":
        return str(config.with_name("notes.db"))
    return f"lancedb://{config.with_name('notes.lance')}"


async def check_use(config: Path, used: str, wanted: Any) -> None:
    """One store is in use, with all rows, and the other one sends everybody there."""
    assert differences(wanted, await contents_at(config=config)) == []
    async with aiovec.connect(config=config) as store:
        await store.upsert("notes", [row("last", State(1, 1), "app")])
        assert store.backend_name == used


@pytest.mark.slow
@pytest.mark.parametrize(("way", "command", "step"), cases())
async def test_the_named_command_ends_it(tmp_path: Path, way: str, command: str, step: str) -> None:
    """C6, C9: also where rows came meanwhile, which a resume has to carry."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    if command != "run":
        await migrated(None, target, config=config, options=SWITCH)
    if command == "abort":
        await rolled_back(config=config)
    first = {"target": target} if command == "run" else {}
    with pytest.raises(StoppedError):
        await call(command, config, step=Stop(step), **first)
    async with aiovec.connect(config=config) as store:
        # Nobody waits for the migrator, and what is written now counts.
        async with asyncio.timeout(SWITCH.pause_limit * 4):
            await store.insert("notes", some_rows("between", 3, "notes"))
        wanted = await contents_at(config=config)
        state = await aiovec_migrate.status(config=config)
        assert state is not None
        await call(state.next_command, config)
        assert await store.count("notes") == len(wanted["notes"][1])
    used = {"run": target, "rollback": source, "finish": target, "abort": source}[command]
    await check_use(config, used, wanted)


@pytest.mark.parametrize("command", ["run", "rollback", "finish"])
async def test_of_a_run_that_is_being_aborted_no_other_command_is_named(
    tmp_path: Path, command: str
) -> None:
    config, _ = await stopped_at(tmp_path, "there", "copy:written")
    with pytest.raises(StoppedError):
        await aiovec_migrate.abort(config=config, step=Stop("phase:aborting"))
    with pytest.raises(MigrationError) as refused:
        await call(command, config)
    assert set(re.findall("migrate ([a-z]+)", str(refused.value))) == {"abort"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ended", ["killed", "by the marks"])
async def test_a_rollback_carries_what_came_while_it_was_called_off(
    tmp_path: Path, way: str, ended: str
) -> None:
    """C: with its mark off, no change is noted, and what the journal knows of them is too old."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    await migrated(None, target, config=config, options=SWITCH)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("cut-over:ready"))
    if ended == "killed":
        with pytest.raises(StoppedError):
            await aiovec_migrate.abort(config=config, step=Stop("abort:released"))
    else:
        elsewhere = tmp_path / "another.db"
        await aiovec_migrate.abort(place_of(config, target), config=config, journal=elsewhere)
    state = await aiovec_migrate.status(config=config)
    assert state is not None
    assert state.next_command == "rollback"
    async with aiovec.connect(config=config) as store:
        rows = [row(f"r/{n}", State(200 + n, 200 + n), "me") for n in range(1, 30)]
        await store.upsert("notes", rows)  # as many as before
        wanted = await contents_at(config=config)
        await rolled_back(config=config)
    await check_use(config, source, wanted)


@pytest.mark.parametrize("way", WAYS)
async def test_a_table_that_a_rollback_made_in_the_store_that_was_left_is_read_by_nobody(
    tmp_path: Path, way: str
) -> None:
    """C5: its rows are old ones as soon as the rollback is called off."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    await migrated(None, target, config=config, options=SWITCH)
    async with aiovec.connect(config=config) as store:
        await store.drop_table("notes")
        await store.create_table("notes", aiovec.Schema(2))
        await store.insert("notes", [{"id": "a", "embedding": [1, 2]}])
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("cut-over:ready"))
    for end in (aiovec_migrate.abort, aiovec_migrate.finish):
        await end(config=config)
        async with aiovec.connect(place_of(config, source)) as old:
            for call in (old.count, old.find, old.schema):
                with pytest.raises(StoreMovedError):
                    await call("notes")
    await aiovec_migrate.forget(place_of(config, source), config=config)
    async with aiovec.connect(place_of(config, source)) as old:
        await old.upsert("notes", [{"id": "b", "embedding": [1, 2]}])
        assert await old.count("notes") == 2


@pytest.mark.parametrize("step", ["rollback:marked", "cut-over:ready"])
async def test_a_rollback_that_was_cancelled_twice_carries_what_came_since(
    tmp_path: Path, step: str
) -> None:
    config = await a_store(tmp_path, "sqlite")
    await migrated(None, "lancedb", config=config, options=SWITCH)
    await cancelled_twice_at(step, lambda still: rolled_back(config=config, step=still))
    async with aiovec.connect(config=config) as store:
        await store.upsert("notes", [row("r/3", State(99, 99), "me")])
        wanted = await contents_at(config=config)
    await rolled_back(config=config)
    await check_use(config, "sqlite", wanted)


async def stopped_without_a_journal(tmp_path: Path, way: str, step: str) -> tuple[Path, Contents]:
    """The TOML, and what the store held, behind a run that stopped and whose journal is gone."""
    config, wanted = await stopped_at(tmp_path, way, step)
    await asyncio.to_thread(shutil.rmtree, tmp_path / ".aiovec")
    return config, wanted


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["table:noted", "cut-over:paused"])
async def test_without_the_journal_the_marks_are_enough_to_abort(
    tmp_path: Path, way: str, step: str
) -> None:
    """C9"""
    source, _ = WAYS[way]
    config, wanted = await stopped_without_a_journal(tmp_path, way, step)
    await aiovec_migrate.abort(config=config)
    async with aiovec.connect(config=config) as store:
        await store.create_table("young", aiovec.Schema(2))
        await store.drop_table("young")
    await check_use(config, source, wanted)
    with pytest.raises(MigrationError, match="no migration mark"):
        await aiovec_migrate.abort(config=config)
    with pytest.raises(MigrationError, match="no migration mark"):
        await aiovec_migrate.abort(place_of(config, source), journal=tmp_path / "none.db")


@pytest.mark.parametrize("command", ["abort", "finish"])
async def test_a_damaged_journal_is_one_to_be_removed(tmp_path: Path, command: str) -> None:
    config = await a_store(tmp_path, "sqlite")
    wanted = await contents_at(config=config)
    step = Stop("table:noted" if command == "abort" else "phase:done")
    with pytest.raises(StoppedError):
        await migrated(None, "lancedb", config=config, options=SWITCH, step=step)
    journal = tmp_path / ".aiovec" / "migration.db"
    await asyncio.to_thread(journal.write_bytes, b"this is no journal" * 100)
    with pytest.raises(CorruptStoreError, match=f"Remove that file.*{command}"):
        await call(command, config)
    await asyncio.to_thread(journal.unlink)
    await call(command, config)
    await check_use(config, "sqlite" if command == "abort" else "lancedb", wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["cut-over:moved", "phase:done"])
async def test_without_the_journal_the_marks_are_enough_to_finish(
    tmp_path: Path, way: str, step: str
) -> None:
    """C9, behind the switch; C11: and who opens the old store is told the new place."""
    source, target = WAYS[way]
    config, wanted = await stopped_without_a_journal(tmp_path, way, step)
    with pytest.raises(MigrationError, match=r"too late .* `aiovec migrate finish`"):
        await aiovec_migrate.abort(config=config)
    await aiovec_migrate.finish(config=config)
    await check_use(config, target, wanted)
    async with aiovec.connect(place_of(config, source)) as old:
        with pytest.raises(StoreMovedError):
            await old.insert("notes", some_rows("stray", 1, "notes"))
    await aiovec_migrate.forget(place_of(config, source))
    async with aiovec.connect(place_of(config, source)) as old:
        assert await old.count("notes") == len(wanted["notes"][1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", ["run", "rollback"])
@pytest.mark.parametrize("killed_behind", [1, 2, 3])
async def test_a_finish_by_the_marks_that_was_killed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, command: str, killed_behind: int
) -> None:
    """The old store knew that the run was over, and the new one was still being filled; or each of
    both said that it was left, for the other."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    wanted = await contents_at(config=config)
    first = {"target": target} if command == "run" else {}
    if command == "rollback":
        await migrated(None, target, config=config, options=SWITCH)
    with pytest.raises(StoppedError):
        await call(command, config, step=Stop("cut-over:moved"), **first)
    await asyncio.to_thread(shutil.rmtree, tmp_path / ".aiovec")
    changes = 0
    for backend in (SqliteBackend, LancedbBackend):

        async def killed(self: Any, change: Any, plain: Any = backend.change_move) -> Any:
            nonlocal changes
            changes += 1
            if changes > killed_behind:
                raise StoppedError
            return await plain(self, change)

        monkeypatch.setattr(backend, "change_move", killed)
    with suppress(StoppedError):
        await aiovec_migrate.finish(config=config)
    monkeypatch.undo()
    with suppress(MigrationError):  # it was over
        await aiovec_migrate.finish(config=config)
    used = target if command == "run" else source
    async with aiovec.connect(place_of(config, used)) as store:  # an app may lead itself there
        assert await store.upsert("notes", [row("last", State(1, 1), "app")]) is not None
        assert await store.delete("notes", ["last"]) == 1
    await check_use(config, used, wanted)
    with pytest.raises(MigrationError, match="no migration mark"):
        await aiovec_migrate.finish(config=config)


@pytest.mark.parametrize("way", WAYS)
async def test_a_store_that_was_out_of_reach_at_the_finish_is_opened_by_another_one(
    tmp_path: Path, way: str
) -> None:
    """It was still being filled, and neither `finish` nor `abort` knew of a run."""
    source, target = WAYS[way]
    config, wanted = await stopped_without_a_journal(tmp_path, way, "cut-over:moved")
    name = FILES[target]
    await asyncio.to_thread(shutil.move, tmp_path / name, tmp_path / "away")
    await aiovec_migrate.finish(place_of(config, source))
    await asyncio.to_thread(shutil.move, tmp_path / "away", tmp_path / name)
    with pytest.raises(MigrationError, match=r"too late .* `aiovec migrate finish` ends it"):
        await aiovec_migrate.abort(place_of(config, target))
    await aiovec_migrate.finish(place_of(config, target))
    await check_use(config, target, wanted)


@pytest.mark.skipif(os.name == "nt", reason="there, links need a right of their own")
@pytest.mark.parametrize("step", ["indexed", "cut-over:moved"])
async def test_a_run_is_ended_by_another_name_of_its_folder(tmp_path: Path, step: str) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    config, wanted = await stopped_without_a_journal(link, "there", step)
    command = aiovec_migrate.abort if step == "indexed" else aiovec_migrate.finish
    await command(real / "notes.db")
    async with aiovec.connect(place_of(config, "lancedb")) as store:
        await fill(store, {"others": 0})
        await store.drop_table("others")
    await check_use(config, "sqlite" if step == "indexed" else "lancedb", wanted)


@pytest.mark.parametrize("way", WAYS)
async def test_a_finish_by_the_marks_calls_off_a_rollback(tmp_path: Path, way: str) -> None:
    """The store in use stayed marked, and its tables could not be altered."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    await migrated(None, target, config=config, options=SWITCH)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("rollback:marked"))
    await asyncio.to_thread(shutil.rmtree, tmp_path / ".aiovec")
    await aiovec_migrate.finish(config=config)
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == target
        await fill(store, {"others": 2})


@pytest.mark.parametrize("way", WAYS)
async def test_a_copy_that_is_done_but_for_its_journal_gets_no_switch(
    tmp_path: Path, way: str
) -> None:
    source, _ = WAYS[way]
    config, wanted = await stopped_at(tmp_path, way, "released", Options())
    with pytest.raises(MigrationError, match=r"ended without a switch.* migrate finish"):
        await migrated(config=config, options=SWITCH)
    state = await aiovec_migrate.status(config=config)
    assert state is not None
    assert state.next_command == "finish"
    await aiovec_migrate.finish(config=config)
    await check_use(config, source, wanted)


@pytest.mark.slow
async def test_there_and_back_and_there_again_with_one_store_open(tmp_path: Path) -> None:
    """Reads see what was written before, whichever store is in use (C14), and tables that come and
    go do so in both (C5)."""
    config = await a_store(tmp_path, "sqlite")
    async with aiovec.connect(config=config) as store:
        written: set[str] = set()
        paused = False

        async def write(step: str) -> None:
            nonlocal paused
            paused = step == "cut-over:paused" or (paused and step != "cut-over:moved")
            if paused:
                return  # it would wait for the end of the pause, which waits for this
            id = f"at {len(written)}"
            await store.insert("notes", [row(id, State(1, 1), "app")])
            written.add(id)
            found = {record.id for record in await store.get("notes", sorted(written))}
            assert found == written, f"at {step} misses {written - found}"

        for number in range(2):
            await migrated(None, "lancedb", config=config, options=SWITCH, step=write)
            assert store.backend_name == "lancedb"
            await store.create_table(f"young{number}", aiovec.Schema(2))
            await rolled_back(config=config, step=write)
            assert store.backend_name == "sqlite"
            assert f"young{number}" in await store.tables()
            await aiovec_migrate.abort(config=config, step=write)
        await migrated(None, "lancedb", config=config, options=SWITCH, step=write)
        await store.drop_table("young0")
        await rolled_back(config=config, step=write)
        assert await store.tables() == ["notes", "young1"]
        await aiovec_migrate.finish(config=config, step=write)
        assert {record.id for record in await store.get("notes", sorted(written))} == written
    async with aiovec.connect(place_of(config, "lancedb")) as left:
        with pytest.raises(StoreMovedError, match=r"notes\.db"):
            await left.count("notes")
    with pytest.raises(MigrationError, match="migrate forget"):
        await migrated(
            place_of(config, "lancedb"), str(tmp_path / "c.db"), journal=tmp_path / "j.db"
        )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["cut-over:moved", "phase:done"])
async def test_a_read_only_store_follows_and_leaves_no_mark(
    tmp_path: Path, way: str, step: str
) -> None:
    """Also where the migrator died before it could put the new store into use: what a store that
    writes would do then is left to one, and reads go on."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    wanted = await contents_at(config=config)
    async with (
        aiovec.connect(config=config, read_only=True) as store,
        aiovec.connect(place_of(config, source), read_only=True) as by_path,
    ):
        assert await store.count("notes") == await by_path.count("notes")
        with pytest.raises(StoppedError):
            await migrated(None, target, config=config, options=SWITCH, step=Stop(step))
        before = await record_at(place_of(config, target))
        assert await store.count("notes") == len(wanted["notes"][1])
        assert store.backend_name == target
        assert store.read_only
        with pytest.raises(UnsupportedError, match="read_only=True"):
            await store.delete("notes", "r/1")
        for call in (by_path.count("notes"), by_path.get("notes", ["r/1"]), by_path.tables()):
            with pytest.raises(StoreMovedError):
                await call
        assert await record_at(place_of(config, target)) == before
    await migrated(None, target, config=config, options=SWITCH)
    await check_use(config, target, wanted)


async def record_at(place: str) -> MoveRecord:
    """What is on the disk about migrations."""
    async with aiovec.connect(place, read_only=True) as store:
        moves = moves_of(backend_of(store))
        assert moves is not None
        return await moves.move_record()
