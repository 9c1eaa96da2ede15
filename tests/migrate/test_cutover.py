"""Tests of the switch: which calls wait and how long, which apps follow, and what cancels it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lancedb
import pytest
from tests.harness.cases import case

import aiovec
import aiovec_migrate
from aiovec import AiovecError, MigrationError, Schema, StoreMovedError, TableExistsError
from aiovec.backend.contract import Backend
from aiovec.backend.marks import MoveRecord
from aiovec.backend.place import find_place
from aiovec_migrate import Event, Options

from .support import (
    FILES,
    WAYS,
    At,
    a_store,
    assert_same,
    contents_at,
    named,
    place_of,
    rows,
    stopped_at,
    switched,
)


@pytest.mark.parametrize("way", WAYS)
async def test_writers_wait_and_are_led_to_the_new_store(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes before the pause are copied. A write that waits through the pause is done in the new
    store or, if its store was opened by path, fails: nothing commits in the old store. Apps that
    cannot follow, because of a path, another TOML file or a variable, get the new place in an
    error.
    """
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    other = tmp_path / "other.toml"
    await asyncio.to_thread(shutil.copy, config, other)
    key = {"sqlite": "SQLITE_PATH", "lancedb": "LANCEDB_URL"}[target]
    variable = (f"AIOVEC_RETRIEVAL__{key}", str(tmp_path / "own.store"))
    with monkeypatch.context() as patched:
        patched.setenv(*variable)
        by_variable = await aiovec.connect(config=config)
    async with (
        by_variable,
        aiovec.connect(config=other) as by_file,
        aiovec.connect(config=config) as app,
        aiovec.connect(config=config, read_only=True) as reader,
        aiovec.connect(place_of(config, source)) as by_path,
        aiovec.connect(place_of(config, target)) as idle,
    ):
        for store in (app, by_path, reader, by_file, by_variable):
            assert await store.count("notes") == 38
        waiting: list[asyncio.Task[int]] = []

        async def write(step: str) -> None:
            if step == "cut-over:ready":
                await app.insert("notes", rows("last", 3))
                await by_path.delete("notes", ["r/20"])
            if step == "cut-over:paused":
                waiting.append(asyncio.ensure_future(app.insert("notes", rows("waited", 3))))
                waiting.append(asyncio.ensure_future(by_path.insert("notes", rows("stray", 3))))
                await asyncio.sleep(0.1)
                assert not any(task.done() for task in waiting)
                assert await app.count("notes") == 40  # reads do not wait

        now = asyncio.get_running_loop().time
        began = now()
        report = await switched(config, target, step=write)
        assert report.switched
        assert report.equal
        assert 0.1 <= report.pause < now() - began
        assert await waiting[0] == 3
        with pytest.raises(StoreMovedError):
            await waiting[1]
        assert app.backend_name == target
        # All stores follow, even if they were idle or read-only, or had the target open.
        assert await reader.count("notes") == await idle.count("notes") == 43
        assert reader.backend_name == target
        with pytest.raises(aiovec.UnsupportedError, match="read_only=True"):
            await reader.delete("notes", "r/1")
        await idle.insert("notes", rows("idle", 1))
        for name, held in {"path": by_path, "file": by_file, "variable": by_variable}.items():
            for call in (
                held.count("notes"), held.upsert("notes", rows("stray", 1)),
                held.backup(tmp_path / "backup"),
            ):  # fmt: skip
                with monkeypatch.context() as patched, case((name, call)):
                    if held is by_variable:
                        patched.setenv(*variable)
                    with pytest.raises(StoreMovedError, match=FILES[target]):
                        await call
    assert not (tmp_path / "own.store").exists()
    ids = (await contents_at(config=config))["notes"][1].keys()
    assert len([id for id in ids if id.startswith(("last/", "waited/", "idle/"))]) == 7
    assert not [id for id in ids if id.startswith("stray/") or id == "r/20"]
    # The mark stays until it is forgotten; then the old rows can be read.
    status = await aiovec_migrate.status(config=config)
    assert status is not None
    assert (status.state, status.is_open, status.tables) == ("moved", False, {"notes": (40, 44)})
    async with aiovec.connect(place_of(config, source)) as left:
        with pytest.raises(StoreMovedError):
            await left.count("notes")
    await aiovec_migrate.forget(source, config=config)
    async with aiovec.connect(place_of(config, source)) as left:
        assert await left.count("notes") == 40
        await left.insert("notes", rows("free", 1))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_a_reader_follows_though_the_migrator_died_behind_the_mark(
    tmp_path: Path, way: str
) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    async with aiovec.connect(config=config, read_only=True) as reader:
        assert await reader.count("notes") == 38
        await stopped_at("cut-over:moved", lambda at: switched(config, target, step=at))
        assert await reader.count("notes") == 38
        assert reader.backend_name == target
    stores, other = (place_of(config, source), place_of(config, target)), tmp_path / "other.toml"
    await asyncio.to_thread(shutil.copy, config, other)
    for more in ({}, {"config": other}):
        with pytest.raises(
            MigrationError, match=f"still names the old store; add --config {config}"
        ):
            await aiovec_migrate.run(*stores, **more)
    # The switch was decided, so a run completes it even without the option.
    await aiovec_migrate.run(None, target, config=config)
    assert named(config) == target


@pytest.mark.slow
async def test_a_pause_that_lasts_too_long_is_called_off(tmp_path: Path) -> None:
    """Writers continue, and the run tries again; after the last attempt, the command fails."""
    config = await a_store(tmp_path, "sqlite")
    wanted = await contents_at(config=config)
    stuck, pauses, again = True, 0, asyncio.Event()

    async def dawdle(step: str) -> None:
        nonlocal pauses
        if step == "cut-over:paused":
            pauses += 1
            if pauses == 3:
                again.set()
            if stuck:
                await asyncio.Event().wait()

    events: list[str] = []

    def begin(pause_limit: float) -> asyncio.Future[object]:
        options = Options(switch=True, pause_limit=pause_limit, attempts=2)
        return asyncio.ensure_future(
            switched(config, "lancedb", options=options, step=dawdle,
                     listener=lambda event: events.append(event.text))
        )  # fmt: skip

    async with aiovec.connect(config=config) as store:
        with pytest.raises(MigrationError, match=r"after 2 attempts: .* Apps still use"):
            await begin(0.3)
        assert pauses == 2
        assert any("called off" in text for text in events)
        moving = begin(5.0)  # enough for the second attempt on a busy machine
        await again.wait()
        await store.insert("notes", rows("meanwhile", 3))
        assert store.backend_name == named(config) == "sqlite"
        stuck = False
        await moving
        assert await store.count("notes") == len(wanted["notes"][1]) + 3
        assert store.backend_name == "lancedb"


async def spoil(folder: Path, change: str) -> None:
    """Remove the row r/4 from the target, or undo the app's last change of r/3 there."""
    table = await (await lancedb.connect_async(folder / "notes.lance")).open_table("notes")
    if change == "row":
        await table.delete("id = 'r/4'")
    else:
        await table.update({"name": "before"}, where="id = 'r/3'")


@pytest.mark.parametrize(
    ("lost", "step", "words"),
    [
        ("row", "cut-over:paused", "38 rows in the source and 37 in the target"),
        ("change", "catch-up:applied", "1 rows of table 'notes' differ between the stores: r/3"),
    ],
)
async def test_no_app_is_switched_to_a_target_that_lost_what_came_last(
    tmp_path: Path, lost: str, step: str, words: str
) -> None:
    """During the pause, the run counts the rows, and compares each row that it writes."""
    config = await a_store(tmp_path, "sqlite")
    events: list[str] = []
    paused = False

    async def lose(name: str) -> None:
        nonlocal paused
        if name == "cut-over:ready":
            await app.upsert("notes", [{**rows("r", 4)[3], "name": "last"}])
        paused = paused or name == "cut-over:paused"
        if paused and name == step:
            await spoil(tmp_path, lost)

    async with aiovec.connect(config=config) as app:
        with pytest.raises(MigrationError, match=r"differ between the stores after .*: r/[34];"):
            await switched(
                config, "lancedb", step=lose, listener=lambda event: events.append(event.text)
            )
        assert [text for text in events if words in text]
        assert app.backend_name == named(config) == "sqlite"
        await switched(config, "lancedb")
        [row] = await app.get("notes", ["r/3"])
        assert (row["name"], await app.count("notes")) == ("last", 38)


async def test_a_pause_that_a_writer_ended_is_no_switch(tmp_path: Path) -> None:
    """A writer ends the pause after its time limit, while the migrator is stopped."""
    config = await a_store(tmp_path, "sqlite")

    async def end() -> None:
        place = await asyncio.to_thread(find_place, config=config, backend="sqlite")
        backend = await asyncio.to_thread(place.create)
        await backend.open()
        record = await backend.move_record()
        assert record.mark is not None
        assert record.mark.state == "paused"
        await backend.change_move(partial(MoveRecord.end_pause, pause=record.mark.pause))
        await backend.close()

    events: list[str] = []
    await switched(
        config, "lancedb", step=At("cut-over:checked", end),
        listener=lambda event: events.append(event.text),
    )  # fmt: skip
    assert [text for text in events if "its limit and ended before the switch" in text]
    assert named(config) == "lancedb"


@pytest.mark.parametrize(
    ("way", "done"),
    [
        pytest.param(way, done, marks=() if (way == "there") is done else pytest.mark.slow)
        for way in WAYS
        for done in (True, False)
    ],
)
async def test_switch_that_the_source_does_not_confirm_is_completed_by_the_same_command(
    tmp_path: Path, way: str, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks at the switch, so it is unknown whether it was done. Apps continue."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    place = await asyncio.to_thread(find_place, config=config)
    kind = type(await asyncio.to_thread(place.create))

    async def refuse(*args: object, **options: object) -> None:
        raise AiovecError("the connection was reset")

    async with aiovec.connect(config=config) as app:
        with monkeypatch.context() as patched:

            async def change(*args: Any, change: Any = kind.change_move, **options: Any) -> None:
                if done:
                    await change(*args, **options)
                patched.setattr(kind, "move_record", refuse)
                await refuse()

            async def break_off() -> None:
                patched.setattr(kind, "change_move", change)

            with pytest.raises(MigrationError, match=r"did not confirm .* run the same command"):
                await switched(
                    config, target, step=At("cut-over:checked", break_off),
                    options=Options(switch=True, pause_limit=2.0),
                )  # fmt: skip
        assert named(config) == source
        await app.insert("notes", rows("since", 3))
        assert app.backend_name == (target if done else source)
        await switched(config, target)
        assert (await app.count("notes"), app.backend_name, named(config)) == (41, target, target)


@pytest.mark.slow
async def test_no_store_is_asked_for_sizes_while_writers_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await a_store(tmp_path, "sqlite")
    calls: dict[str, int] = {}
    phase = ""

    def count(kind: type) -> None:
        stats = kind.stats

        async def counted(self: object, table: object) -> object:
            calls[phase] = calls.get(phase, 0) + 1
            return await stats(self, table)

        monkeypatch.setattr(kind, "stats", counted)

    for backend in WAYS["there"]:
        place = await asyncio.to_thread(find_place, config=config, backend=backend)
        count(type(await asyncio.to_thread(place.create)))

    async def step(name: str) -> None:
        nonlocal phase
        if name.startswith("cut-over:"):
            phase = name
        if name == "cut-over:ready":
            await app.upsert("notes", rows("last", 3))

    async with aiovec.connect(config=config) as app:
        await switched(config, "lancedb", step=step)
    assert calls[""]
    assert not calls.keys() & {"cut-over:ready", "cut-over:paused", "cut-over:checked"}


def replacing(old: str, new: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(file.read_text().replace(old, new))


def _no_warning(event: Event) -> None:
    """Fail on a warning: it would mean that a switch that cannot succeed is tried again."""
    assert event.kind != "warning", event


EDITS: dict[str, Callable[[Path], object]] = {
    "another target": replacing("notes.lance", "other.lance"),
    "another backend": replacing('"sqlite"', '"lancedb"'),
    "no TOML": lambda file: file.write_text("[retrieval\n"),
}


async def test_a_table_of_rows_that_meets_the_switch_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store moves between the commit of the table and the commit of its rows."""
    config = await a_store(tmp_path, "sqlite")
    place = await asyncio.to_thread(find_place, config=config)
    kind = type(await asyncio.to_thread(place.create))
    create = kind.create_table

    async def create_and_switch(backend: Backend, name: str, schema: Schema) -> None:
        await create(backend, name, schema)
        await switched(config, "lancedb")

    monkeypatch.setattr(kind, "create_table", create_and_switch)
    async with aiovec.connect(config=config) as store:
        schema = await store.create_table_from("new", [{"id": "a", "embedding": [1.0, 2.0]}])
        assert (store.backend_name, await store.schema("new")) == ("lancedb", schema)
        assert await store.count("new") == 1
        with pytest.raises(TableExistsError):
            await store.create_table_from("new", [{"id": "b", "embedding": [1.0, 2.0]}])


@pytest.mark.slow
async def test_a_toml_edited_during_a_run_misleads_no_app(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    before = await asyncio.to_thread(config.read_text)
    for name, edit in EDITS.items():
        with case(name):
            for step, last in (("ready", "ready"), ("paused", "checked")):
                at = At(f"cut-over:{step}", lambda edit=edit: asyncio.to_thread(edit, config))
                with pytest.raises(AiovecError, match=r"(?s)cannot switch: .*Apps still use"):
                    await switched(config, "lancedb", step=at, listener=_no_warning)
                assert at.met
                assert at.last == f"cut-over:{last}"  # at the first check, no writer waits yet
                await asyncio.to_thread(config.write_text, before)
                status = await aiovec_migrate.status(config=config)
                assert status is not None
                assert status.state == "open"
            async with aiovec.connect(tmp_path / "notes.db") as old:
                await old.upsert("notes", rows("since", 3))
            assert not (tmp_path / "other.lance").exists()
            await asyncio.to_thread(config.write_text, before)
    wanted = await contents_at(config=config)
    # After the mark, the file is not changed, and its apps find no empty store.
    at = At("cut-over:moved", lambda: asyncio.to_thread(EDITS["another target"], config))
    with pytest.raises(MigrationError, match=r"other\.lance.*write that address back"):
        await switched(config, "lancedb", step=at)
    assert named(config) == "sqlite"
    with pytest.raises(StoreMovedError, match=r"notes\.lance"):
        await contents_at(config=config)
    await asyncio.to_thread(config.write_text, before)
    await switched(config, "lancedb")
    assert named(config) == "lancedb"
    assert_same(wanted, await contents_at(config=config))


async def test_a_toml_that_names_the_target_already_is_no_switch(tmp_path: Path) -> None:
    """Someone has edited the file, and the rows are in the other store."""
    config = await a_store(tmp_path, "sqlite")
    await asyncio.to_thread(EDITS["another backend"], config)
    with pytest.raises(MigrationError, match="there is no store; if a switch led"):
        await switched(config, "lancedb")
    assert not (tmp_path / "notes.lance").exists()


@pytest.mark.slow
async def test_a_store_whose_mark_was_forgotten_is_not_switched_to(tmp_path: Path) -> None:
    """The old store became independent while a run was moving the rows back into it."""
    config = await a_store(tmp_path, "sqlite")
    await switched(config, "lancedb")
    forget = At("cut-over:ready", lambda: aiovec_migrate.forget("sqlite", config=config))
    with pytest.raises(MigrationError, match=r"mark of this run in .* was removed"):
        await switched(config, "sqlite", step=forget, listener=_no_warning)
    await aiovec_migrate.abort(config=config)
    async with aiovec.connect(config=config) as app:
        assert app.backend_name == named(config) == "lancedb"
        await app.insert("notes", rows("since", 3))
    config = await a_store(tmp_path / "two", "sqlite")
    forget = At("cut-over:moved", lambda: aiovec_migrate.forget("sqlite", config=config))
    with pytest.raises(MigrationError, match=r"mark of .* does not say that its apps were"):
        await switched(config, "lancedb", step=forget)
    async with aiovec.connect(config=config) as app:
        assert (await app.count("notes"), app.backend_name) == (38, "sqlite")


WAITING = """
import asyncio, sys
import aiovec

async def main(config, module):
    async with aiovec.connect(config=config, read_only=True) as store:
        assert module not in sys.modules
        while module not in sys.modules:
            await store.count("notes")
            await asyncio.sleep(0.05)
        print(store.backend_name, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await store.count("notes")
        print(store.backend_name, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("way", "module"), [("there", "lancedb"), ("back", "aiovec_sqlite.store")])
async def test_an_open_store_imports_the_driver_of_the_target_before_the_switch(
    tmp_path: Path, way: str, module: str
) -> None:
    """Otherwise a call after the switch, even a read, would wait for the import."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    app = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WAITING, str(config), module,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert app.stdin is not None
    assert app.stdout is not None
    said: list[bytes] = []

    async def listen() -> None:
        assert app.stdout is not None
        said.append(await asyncio.wait_for(app.stdout.readline(), 60))

    try:
        imported = At("copy:read", listen)
        await switched(config, target, step=imported)
        assert imported.met
        app.stdin.write(b"go on\n")
        said += (await app.communicate())[0].splitlines(keepends=True)
    finally:
        if app.returncode is None:
            app.kill()
            await app.wait()
    assert said == [f"{source}\n".encode(), f"{target}\n".encode()]
