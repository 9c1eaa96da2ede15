"""A migrator stops at any of its steps, in both directions: no row is lost or doubled, one store is
in use, the same command continues, and one command resolves every state."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest
from tests.harness.cases import case
from tests.lancedb.support import lance_calls

import aiovec
import aiovec_migrate
from aiovec import MigrationError, StoreMovedError

from .support import (
    FILES,
    SWITCH,
    WAYS,
    Scene,
    Stop,
    StoppedError,
    a_store,
    assert_same,
    cancelled_at,
    contents,
    contents_at,
    fill,
    named,
    place_of,
    rows,
    stopped_at,
    switched,
    victim,
)


class Run(Scene):
    """A store to which an app writes after each stop."""

    async def stop(self, step: str, how: str) -> None:
        """Stop a run at the step. Afterwards, an app can write without waiting."""
        stop = stopped_at if how == "error" else cancelled_at
        async with aiovec.connect(config=self.config) as app:
            await stop(step, lambda at: switched(self.config, self.target, step=at))
            await self.write(app)

    async def write(self, app: aiovec.VectorStore) -> None:
        async with asyncio.timeout(120):
            await app.insert("notes", rows("between", 3))
            await app.delete("notes", ["r/1"])
            await app.upsert("notes", rows("r", 3, name="between")[2:])
        self.wanted = await contents(app)

    async def end(self, command: str) -> None:
        """Run the command, or the one that the error names if it is too late to abort."""
        used = self.target
        if command == "abort":
            try:
                await aiovec_migrate.abort(config=self.config)
            except MigrationError:  # the mark is set, and the same command goes on
                pass
            else:
                used = self.source
        async with aiovec.connect(config=self.config) as app:
            if used == self.target:
                await switched(self.config, self.target)
            assert_same(self.wanted, await contents(app))
        await self.check(used)

    async def check(self, used: str) -> None:
        """Check that the store in use has all rows, and that the other one says so."""
        await self.is_whole(used)
        async with aiovec.connect(config=self.config) as app:
            assert app.backend_name == used
            await app.create_table("young", aiovec.Schema(2))
        other = self.target if used == self.source else self.source
        async with aiovec.connect(place_of(self.config, other)) as left:
            if used == self.target:
                with pytest.raises(StoreMovedError, match=FILES[used]):
                    await left.insert("notes", rows("stray", 1))
            else:
                assert await left.tables() == []


_steps: list[str] = []


async def all_steps(folder: Path) -> list[str]:
    """Return all steps of a complete run; they are the same in both directions."""

    async def note(step: str) -> None:
        if step not in _steps:
            _steps.append(step)

    if not _steps:
        await switched(await a_store(folder, "sqlite"), "lancedb", step=note)
        assert len(_steps) > 10
    return _steps


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))]
)
async def test_one_command_leads_out_of_every_state(tmp_path: Path, way: str, turn: int) -> None:
    """Each turn stops runs at an eighth of the steps, by an error or a cancellation."""
    master = tmp_path / "master"
    await a_store(master, WAYS[way][0])
    steps = await all_steps(tmp_path / "steps")
    first = (turn + 4 * list(WAYS).index(way)) % 8
    for number, step in list(enumerate(steps))[first::8]:
        folder = tmp_path / f"{number}"
        await asyncio.to_thread(shutil.copytree, master, folder)
        run = Run(folder, way)
        how = ("error", "cancelled")[number // 8 % 2]
        command = ("run", "abort")[(number // 8 + turn) % 3 % 2]
        with case(f"{way}, {how} at {step}, then {command}"):
            await run.stop(step, how)
            await run.end(command)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "step"),
    [("back", "copy:written"), ("there", "cut-over:paused"), ("back", "cut-over:paused"),
     ("there", "cut-over:moved")],
)  # fmt: skip
async def test_a_killed_migrator_goes_on(tmp_path: Path, way: str, step: str) -> None:
    """It is killed during the copy, during the pause, which the writers end, or after the mark."""
    run = Run(tmp_path, way)
    await a_store(tmp_path, run.source)
    dying = victim(run.config, run.target, step)
    assert await asyncio.to_thread(dying.wait, 240) == -signal.SIGKILL
    async with aiovec.connect(config=run.config) as app:
        await run.write(app)
    await run.end("run")


# What does not fit an open run


async def test_a_run_that_goes_on_adds_what_is_missing(tmp_path: Path) -> None:
    """LanceDB adds rows in a fraction of the time that it needs to merge them."""
    config = await a_store(tmp_path, "sqlite", count=100)
    await stopped_at("copy:written", lambda at: switched(config, "lancedb", step=at))
    async with aiovec.connect(config=config) as app:
        await app.insert("notes", rows("new", 2000))
        await app.upsert("notes", rows("r", 30, name="since")[20:])
        await app.delete("notes", "r/9")
        wanted = await contents(app)
    with lance_calls() as calls:
        await switched(config, "lancedb")
    assert (calls["add"], calls["merge_insert"]) == (1, 1)
    assert_same(wanted, await contents_at(config=config))


async def test_an_open_run_refuses_what_is_another(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    await stopped_at("optimized", lambda at: switched(config, "lancedb", step=at))
    status = await aiovec_migrate.status(config=config)
    assert status is not None
    assert (status.state, status.is_open, status.tables) == ("open", True, {"notes": (38, 38)})
    elsewhere, target = str(tmp_path / "c.db"), place_of(config, "lancedb")
    two = await a_store(tmp_path / "two", "sqlite")
    for call, words in (
        (aiovec_migrate.run("sqlite", elsewhere, config=config), "part of another migration, run "),
        (aiovec_migrate.run("lancedb", "sqlite", config=config), "part of another migration, run "),
        (aiovec_migrate.run("sqlite", target, config=two), "the target is part of another"),
        (aiovec_migrate.forget("sqlite", config=config), "not over"),
    ):
        with pytest.raises(MigrationError, match=words + (status.run if words[-1] == " " else "")):
            await call
    async with aiovec.connect(config=config) as store:
        with pytest.raises(MigrationError, match=status.run):
            await store.create_table("more", aiovec.Schema(2))
    assert not (tmp_path / "c.db").exists()
    await switched(config, "lancedb")
    assert named(config) == "lancedb"
    assert not (await switched(config, "lancedb")).tables  # nothing is left to do
    with pytest.raises(MigrationError, match=r"has moved to .*notes\.lance"):
        await aiovec_migrate.run(place_of(config, "sqlite"), elsewhere)
    with pytest.raises(MigrationError, match="notes"):
        await aiovec_migrate.run("sqlite", target, config=two)


async def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    lock = tmp_path / ".notes.db.migrate.lock"
    lock.symlink_to(tmp_path / "nowhere" / "lock")
    with pytest.raises(MigrationError, match="cannot be locked"):
        await switched(config, "lancedb")


async def test_two_migrators_at_once(tmp_path: Path) -> None:
    """The second one fails and changes nothing."""
    config = await a_store(tmp_path, "sqlite")
    met = []

    async def second(step: str) -> None:
        if step in ("copy:written", "cut-over:ready"):
            with pytest.raises(MigrationError, match="another migrator is at work"):
                await switched(config, "lancedb")
            with pytest.raises(MigrationError, match="another migrator is at work"):
                await aiovec_migrate.abort(config=config)
            met.append(step)

    wanted = await contents_at(config=config)
    await switched(config, "lancedb", step=second)
    assert len(met) == 2
    assert_same(wanted, await contents_at(config=config))
    assert not await asyncio.to_thread(lambda: list(tmp_path.glob(".*lock")))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["target:released", "released"])
async def test_a_copy_that_has_let_go_is_brought_up_to_date(
    tmp_path: Path, way: str, step: str
) -> None:
    """The run makes no switch, and may have been killed between the two stores. It drops a table
    that the app has dropped since, but no table that someone else created in the copy."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source, "notes", "dropped")
    with pytest.raises(StoppedError):
        await aiovec_migrate.run(None, target, config=config, _step=Stop(step))
    async with aiovec.connect(config=config) as store:
        await store.delete("notes", "r/1")
        await aiovec_migrate.run(None, target, config=config)
        assert store.backend_name == source
        await fill(store, "others")
        await store.drop_table("dropped")
    async with aiovec.connect(place_of(config, target)) as copy:
        await copy.create_table("theirs", aiovec.Schema(2))
        with pytest.raises(MigrationError, match=r"does not have, .* the switch: theirs;"):
            await switched(config, target)
        assert await copy.tables() == ["dropped", "notes", "theirs"]
        await copy.drop_table("theirs")
    plan = await aiovec_migrate.plan(None, target, config=config, options=SWITCH)
    assert (plan.ok, plan.others) == (True, ["dropped"])
    assert "no longer has: dropped" in plan.notes[-1]
    await switched(config, target)
    async with aiovec.connect(config=config) as store:
        assert (await store.tables(), await store.count("notes")) == (["notes", "others"], 37)
        assert store.backend_name == target
