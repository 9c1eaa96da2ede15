"""Which store is in use, what a verification may do to it, and where a switch may lead."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.sqlite.support import State

import aiovec
import aiovec_migrate
from aiovec.errors import ConfigError, InvalidArgumentError, MigrationError, StoreMovedError
from aiovec_migrate import Event, Options
from aiovec_migrate.journal import FILE, default_file

from .support import (
    SCHEMAS,
    Contents,
    contents_at,
    differences,
    fill,
    migrated,
    past_the_mark,
    rolled_back,
    row,
    some_rows,
    write_toml,
)
from .test_resume import Stop, StoppedError

SWITCH = Options(switch=True, batch_size=20)


async def ready(folder: Path) -> Path:
    """A TOML whose SQLite store holds rows."""
    config = await asyncio.to_thread(write_toml, folder, "sqlite")
    async with aiovec.connect(folder / "notes.db") as store:
        await fill(store, {"notes": 60})
    return config


async def switched(folder: Path) -> Path:
    """The same behind a switch, with a row that an app wrote since."""
    config = await ready(folder)
    await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    async with aiovec.connect(config=config) as store:
        await store.upsert("notes", [row("r/1", State(99, 99), "since")])
        await store.delete("notes", ["r/2"])
    return config


async def test_a_repair_never_writes_over_the_store_in_use(tmp_path: Path) -> None:
    """C2: behind a switch the target is what apps write to."""
    config = await switched(tmp_path)
    kept = await contents_at(config=config)
    with pytest.raises(MigrationError, match="is the store in use"):
        await aiovec_migrate.verify(config=config, repair=True)
    assert differences(await contents_at(config=config), kept) == []
    report = await aiovec_migrate.verify(config=config)
    assert not report.equal
    assert "as expected" in report.to_text()
    await aiovec_migrate.finish(config=config)
    with pytest.raises(MigrationError, match="is the store in use"):
        await aiovec_migrate.verify("sqlite", "lancedb", config=config, repair=True)
    assert differences(await contents_at(config=config), kept) == []


async def test_a_repair_before_the_switch_is_what_it_is_for(tmp_path: Path) -> None:
    config = await ready(tmp_path)
    await migrated("sqlite", "lancedb", config=config)
    async with aiovec.connect(f"lancedb://{tmp_path / 'notes.lance'}") as store:
        await store.delete("notes", ["r/1"])
    report = await aiovec_migrate.verify(config=config, repair=True)
    assert report.equal


async def test_a_toml_says_which_store_is_in_use(tmp_path: Path) -> None:
    """C2: without a run too, old rows are not written over those of the TOML's backend."""
    config = await ready(tmp_path)
    other = f"lancedb://{tmp_path / 'notes.lance'}"
    async with aiovec.connect(other) as store:
        await fill(store, {"notes": 5})
    before = await contents_at(config=config)
    with pytest.raises(MigrationError, match="is the store in use"):
        await aiovec_migrate.verify(other, "sqlite", config=config, repair=True)
    assert differences(await contents_at(config=config), before) == []


async def test_what_was_verified_before_a_kill_is_compared_again(tmp_path: Path) -> None:
    """C7: rows of the target that were altered while nobody was at work do not pass as equal."""
    config = await ready(tmp_path)
    with pytest.raises(StoppedError):
        await migrated(
            "sqlite", "lancedb", config=config, options=SWITCH, step=Stop("cut-over:ready")
        )
    async with aiovec.connect(f"lancedb://{tmp_path / 'notes.lance'}") as store:
        await past_the_mark(store)
        await store.update("notes", {"name": "altered"}, ids=["r/3", "r/4"])
    with pytest.raises(MigrationError, match="differ between"):
        await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    report = await aiovec_migrate.verify(config=config, repair=True)
    assert report.equal
    await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "lancedb"
        assert await store.count("notes", "name = 'altered'") == 0


async def test_forgetting_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no store"):
        await aiovec_migrate.forget(tmp_path / "nope.db")
    assert os.listdir(tmp_path) == []


async def test_a_target_with_tables_of_its_own_is_no_place_to_switch_to(tmp_path: Path) -> None:
    config = await ready(tmp_path)
    async with aiovec.connect(f"lancedb://{tmp_path / 'notes.lance'}") as store:
        await fill(store, {"others": 5})
    plan = await aiovec_migrate.plan("sqlite", "lancedb", config=config, options=SWITCH)
    assert [problem.kind for problem in plan.problems] == ["other-tables"]
    with pytest.raises(MigrationError, match="others"):
        await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    assert (await aiovec_migrate.plan("sqlite", "lancedb", config=config)).ok


@pytest.mark.parametrize("obstacle", ["another backend", "tables of its own"])
async def test_a_run_that_goes_on_with_a_switch_is_refused_what_a_new_one_is(
    tmp_path: Path, obstacle: str
) -> None:
    config = await ready(tmp_path)
    step = Stop("copy:journalled")
    with pytest.raises(StoppedError):
        await migrated("sqlite", "lancedb", config=config, step=step)
    other = f"lancedb://{tmp_path / 'notes.lance'}"
    told = "others"
    if obstacle == "another backend":
        await asyncio.to_thread(write_toml, tmp_path, "lancedb")
        told = "names the backend 'lancedb'"
    else:
        async with aiovec.connect(other) as store:
            await past_the_mark(store)
            await fill(store, {"others": 5})
    with pytest.raises(MigrationError, match=f"nothing was switched.*{told}"):
        await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    async with aiovec.connect(tmp_path / "notes.db") as store:
        await store.upsert("notes", [row("r/1", State(99, 99), "since")])
    wanted = await contents_at(tmp_path / "notes.db")
    if obstacle == "another backend":
        await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    else:
        async with aiovec.connect(other) as store:
            await past_the_mark(store)
            await store.drop_table("others")
    await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    assert differences(await contents_at(config=config), wanted) == []


@pytest.mark.slow
@pytest.mark.parametrize("step", ["cut-over:moved", "cut-over:arrived", "phase:moved"])
async def test_a_switch_that_was_decided_is_completed_without_being_asked_for(
    tmp_path: Path, step: str
) -> None:
    config = await ready(tmp_path)
    wanted = await contents_at(config=config)
    with pytest.raises(StoppedError):
        await migrated("sqlite", "lancedb", config=config, options=SWITCH, step=Stop(step))
    for command in (aiovec_migrate.abort, aiovec_migrate.finish, aiovec_migrate.rollback):
        with pytest.raises(MigrationError, match="aiovec migrate run") as refused:
            await command(config=config)
        assert "migrate abort" not in str(refused.value)
    (tmp_path / "elsewhere").mkdir()
    other = await asyncio.to_thread(write_toml, tmp_path / "elsewhere", "sqlite")
    with pytest.raises(MigrationError, match=r"switch of .*aiovec\.toml.*--config"):
        await migrated(
            tmp_path / "notes.db",
            f"lancedb://{tmp_path / 'notes.lance'}",
            config=other,
            journal=tmp_path / ".aiovec" / FILE,
        )
    assert "sqlite" in (await asyncio.to_thread(other.read_text)).splitlines()[2]
    outcome = await migrated("sqlite", "lancedb", config=config)
    assert outcome.state.options.switch
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "lancedb"
    await rolled_back(config=config)
    assert differences(await contents_at(config=config), wanted) == []
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "sqlite"


@pytest.mark.parametrize(("source", "target"), [("sqlite", "lancedb"), ("lancedb", "sqlite")])
async def test_a_store_that_was_left_is_not_backed_up(
    tmp_path: Path, source: str, target: str
) -> None:
    """A backup by path would go on, night by night, with rows that never change again."""
    config = await asyncio.to_thread(write_toml, tmp_path, source)
    places = {"sqlite": str(tmp_path / "notes.db"), "lancedb": f"lancedb://{tmp_path}/notes.lance"}
    async with aiovec.connect(config=config) as store, aiovec.connect(places[source]) as by_path:
        await fill(store, {"notes": 20})
        await by_path.backup(tmp_path / "before")
        await migrated(source, target, config=config, options=SWITCH)
        with pytest.raises(StoreMovedError):
            await by_path.backup(tmp_path / "by path")
        await store.backup(tmp_path / "followed")
    async with aiovec.connect(places[source], read_only=True) as old:
        with pytest.raises(StoreMovedError):
            await old.backup(tmp_path / "read only")
    names = await asyncio.to_thread(os.listdir, tmp_path)
    assert {name for name in names if " " in name} == set()
    assert {"before", "followed"} <= set(names)


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own on Windows")
def test_the_journal_is_that_of_the_real_toml(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    config = write_toml(tmp_path / "real", "sqlite")
    link = tmp_path / "aiovec.toml"
    link.symlink_to(config)
    assert default_file(link) == default_file(config)


async def test_a_read_only_toml_is_not_replaced(tmp_path: Path) -> None:
    config = await ready(tmp_path)
    await asyncio.to_thread(config.chmod, 0o444)
    plan = await aiovec_migrate.plan("sqlite", "lancedb", config=config, options=SWITCH)
    assert [problem.kind for problem in plan.problems] == ["toml"]


async def test_a_sync_never_writes_over_the_store_in_use(tmp_path: Path) -> None:
    """C2: rows that an app wrote to the target since it was named in the TOML are not extra."""
    config = await ready(tmp_path)
    await migrated("sqlite", "lancedb", config=config)
    await asyncio.to_thread(write_toml, tmp_path, "lancedb")
    async with aiovec.connect(config=config) as store:
        await store.insert("notes", [row("since", State(1, 1), "app")])
    kept = await contents_at(config=config)
    with pytest.raises(MigrationError, match=r"is the store in use.*a sync would.*exchange them"):
        await aiovec_migrate.sync("sqlite", "lancedb", config=config)
    assert differences(await contents_at(config=config), kept) == []
    await aiovec_migrate.sync("lancedb", "sqlite", config=config)
    assert differences(await contents_at(tmp_path / "notes.db"), kept) == []


@pytest.mark.parametrize("overwrite", ["sync", "repair"])
async def test_rows_of_the_store_in_use_are_written_over_the_other_as_is_told(
    tmp_path: Path, overwrite: str
) -> None:
    """C2: what the refusal advises is done, word for word."""
    config = await switched(tmp_path)
    kept = await contents_at(config=config)
    old, new = str(tmp_path / "notes.db"), f"lancedb://{tmp_path / 'notes.lance'}"

    async def write(source: str, target: str) -> None:
        if overwrite == "sync":
            await aiovec_migrate.sync(source, target, config=config)
        else:
            await aiovec_migrate.verify(source, target, config=config, repair=True)

    with pytest.raises(MigrationError, match="is the store in use") as refused:
        await write(old, new)
    told = str(refused.value)
    new = new.removeprefix("lancedb://") if f"--from {new}" not in told else new
    assert f"exchange them: --from {new} --to {old}" in told
    # The journal knows the run whose mark the old store has, and a sync asks no journal.
    before = ("aiovec migrate finish", f"aiovec migrate forget {old}")
    assert [step in told for step in before] == [overwrite == "sync"] * 2
    if overwrite == "sync":
        await aiovec_migrate.finish(config=config)
        await aiovec_migrate.forget(old)
    await write(new, old)
    if overwrite == "repair":
        await aiovec_migrate.finish(config=config)
        await aiovec_migrate.forget(old)
    assert differences(await contents_at(old), kept) == []


async def test_the_source_of_an_open_run_is_in_use(tmp_path: Path) -> None:
    """C2: also where no TOML says so."""
    source, target, journal = tmp_path / "a.db", tmp_path / "b.db", tmp_path / "journal.db"
    async with aiovec.connect(source) as store:
        await fill(store, {"notes": 60})
    kept = await contents_at(source)
    with pytest.raises(StoppedError):
        await migrated(source, target, journal=journal, step=Stop("table:created"))
    with pytest.raises(MigrationError, match="is the store in use"):
        await aiovec_migrate.verify(target, source, journal=journal, repair=True)
    assert differences(await contents_at(source), kept) == []


async def test_behind_a_rollback_the_copies_can_be_verified(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    await rolled_back(config=config)
    report = await aiovec_migrate.verify(config=config)
    assert report.equal


async def test_the_way_back_behind_a_finish_is_the_one_that_is_told(tmp_path: Path) -> None:
    """The old store's mark has to go first: until then nobody can drop its tables or sync it."""
    config = await switched(tmp_path)
    await aiovec_migrate.finish(config=config)
    kept = await contents_at(config=config)
    old = str(tmp_path / "notes.db")
    with pytest.raises(MigrationError) as refused:
        await migrated(None, "sqlite", config=config, options=SWITCH)
    told = str(refused.value)
    assert f"aiovec migrate forget {old}; then drop it" in told
    await aiovec_migrate.forget(old)
    async with aiovec.connect(old) as store:
        await store.drop_table("notes")
    await migrated(None, "sqlite", config=config, options=SWITCH)
    assert differences(await contents_at(old), kept) == []


@pytest.mark.parametrize("name", ["pause_limit", "batch_size", "attempts"])
def test_an_option_that_is_no_number_is_named(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        Options(**{name: "x"})  # type: ignore[arg-type]


# Repairs and syncs beside a migration


class At:
    """Does something the first time that a call comes to a step."""

    def __init__(self, step: str, work: Callable[[], Awaitable[object]]) -> None:
        self.step = step
        self.work = work
        self.done = False

    async def __call__(self, step: str) -> None:
        if step == self.step and not self.done:
            self.done = True
            await self.work()


async def app_writes(config: Path) -> None:
    async with aiovec.connect(config=config) as store:
        await store.upsert("notes", [row("r/1", State(99, 99), "app"), row("new", State(1, 1), "")])


async def stopped_before_the_switch(folder: Path) -> Path:
    """A run that has copied all, and a target that has lost rows since and got another one."""
    config = await ready(folder)
    with pytest.raises(StoppedError):
        await migrated(
            "sqlite", "lancedb", config=config, options=SWITCH, step=Stop("cut-over:ready")
        )
    async with aiovec.connect(f"lancedb://{folder / 'notes.lance'}") as store:
        await past_the_mark(store)
        await store.delete("notes", ["r/1", "r/3"])
        await store.insert("notes", [row("extra", State(1, 1), "me")])
    return config


async def test_no_run_goes_on_beside_a_repair(tmp_path: Path) -> None:
    config = await stopped_before_the_switch(tmp_path)

    async def switch() -> None:
        with pytest.raises(MigrationError, match="another migrator is at work"):
            await migrated("sqlite", "lancedb", config=config, options=SWITCH)
        await app_writes(config)

    at = At("overwriting", switch)
    await aiovec_migrate.verify(config=config, repair=True, step=at)
    assert at.done
    wanted = await contents_at(config=config)
    await migrated("sqlite", "lancedb", config=config, options=SWITCH)
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "lancedb"
    assert differences(await contents_at(config=config), wanted) == []


async def test_no_repair_begins_beside_a_run(tmp_path: Path) -> None:
    config = await ready(tmp_path)

    async def repair() -> None:
        with pytest.raises(MigrationError, match="another migrator is at work"):
            await aiovec_migrate.verify(config=config, repair=True)
        assert (await aiovec_migrate.verify(config=config)).equal

    at = At("cut-over:ready", repair)
    await migrated("sqlite", "lancedb", config=config, options=SWITCH, step=at)
    assert at.done


@pytest.mark.slow
@pytest.mark.parametrize("call", ["verify", "sync"])
@pytest.mark.parametrize("switch", [True, False])
async def test_what_overwrites_stops_where_a_migration_of_the_store_begins(
    tmp_path: Path, call: str, switch: bool
) -> None:
    """Also one with another journal, which no lock keeps out."""
    config = await stopped_before_the_switch(tmp_path)
    await aiovec_migrate.abort(config=config, keep_target=True)

    async def migrate() -> None:
        async with aiovec.connect(f"lancedb://{tmp_path / 'notes.lance'}") as store:
            await store.drop_table("notes")
        with suppress(StoppedError):
            await migrated(
                "sqlite",
                "lancedb",
                config=config,
                journal=tmp_path / "other.db",
                options=SWITCH,
                step=Stop("" if switch else "cut-over:ready"),
            )
        await app_writes(config)
        kept.update(await contents_at(config=config))
        copied.update(await contents_at(f"lancedb://{tmp_path / 'notes.lance'}"))

    kept: Contents = {}
    copied: Contents = {}
    # The first time is before anything is compared.
    steps = iter([None, migrate])

    async def step(name: str) -> None:
        if name == "overwriting" and (work := next(steps, None)) is not None:
            await work()

    more = {"repair": True} if call == "verify" else {}
    with pytest.raises(MigrationError, match="is the store in use" if switch else "is open on"):
        await getattr(aiovec_migrate, call)("sqlite", "lancedb", config=config, step=step, **more)
    assert kept
    assert differences(await contents_at(config=config), kept) == []
    there = await contents_at(f"lancedb://{tmp_path / 'notes.lance'}")
    assert differences(there, copied) == []


async def test_neither_begins_where_a_migration_is_open(tmp_path: Path) -> None:
    config = await stopped_before_the_switch(tmp_path)
    journal = tmp_path / "other.db"
    told = rf"is open on .*notes\.db.*migrate abort.*its journal is .*{FILE}"
    with pytest.raises(MigrationError, match=told):
        await aiovec_migrate.sync("sqlite", "lancedb", config=config)
    with pytest.raises(MigrationError, match=told):
        await aiovec_migrate.verify(
            "sqlite", "lancedb", config=config, journal=journal, repair=True
        )
    await aiovec_migrate.verify("sqlite", "lancedb", config=config, repair=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["planned", "table:created", "indexed"])
async def test_a_run_leaves_a_target_alone_that_another_run_has_put_into_use(
    tmp_path: Path, step: str
) -> None:
    """Two apps move to one place; the run that was killed goes on, and is ended, behind the other.

    It wrote its rows over those of the app that had arrived, and its abort dropped their table.
    """
    configs = []
    for name in ("one", "other"):
        folder = tmp_path / name
        await asyncio.to_thread(folder.mkdir)
        configs.append(await asyncio.to_thread(write_toml, folder, "sqlite", lancedb="../l.lance"))
        async with aiovec.connect(config=configs[-1]) as store:
            await store.create_table("notes", SCHEMAS["notes"])
            await store.insert("notes", some_rows(name, 20, "notes"))
    one, other = configs
    options = Options(switch=True, index=False)
    with pytest.raises(StoppedError):
        await migrated(None, "lancedb", config=one, options=options, step=Stop(step))
    if step != "planned":
        with pytest.raises(MigrationError, match="the target carries the mark of another migra"):
            await migrated(None, "lancedb", config=other, options=options)
        # Somebody clears the place.
        await asyncio.to_thread(shutil.rmtree, tmp_path / "l.lance")
    await migrated(None, "lancedb", config=other, options=options)
    async with aiovec.connect(config=other) as store:
        await store.insert("notes", some_rows("since", 5, "notes"))
    rows = await contents_at(config=other)
    with pytest.raises(MigrationError, match=r"has led apps to .*l\.lance.*migrate abort"):
        await aiovec_migrate.run(None, "lancedb", config=one, options=options)
    assert differences(rows, await contents_at(config=other)) == []
    told: list[Event] = []
    await aiovec_migrate.abort(config=one, listener=told.append)
    assert any("so the tables there are kept" in event.text for event in told)
    assert differences(rows, await contents_at(config=other)) == []
    assert len((await contents_at(config=one))["notes"][1]) == 20
