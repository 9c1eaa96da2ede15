"""A run that stopped anywhere goes on, and one that does not fit is refused with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import State

import aiovec
import aiovec_migrate
from aiovec.errors import AiovecError, MigrationError
from aiovec_migrate import Options, Outcome

from .support import SCHEMAS, contents_at, differences, fill, migrated, row, some_rows

STEPS = [
    "planned", "marked", "table:noted", "table:created", "phase:copying", "copy:read",
    "copy:written", "copy:journalled", "phase:catching-up", "catch-up:deleted",
    "catch-up:journalled", "phase:indexing", "indexed", "phase:verifying", "verify:compared",
    "released", "phase:done",
]  # fmt: skip


class StoppedError(Exception):
    """The migrator has stopped here."""


class Stop:
    def __init__(self, name: str, occurrence: int = 1) -> None:
        self.name = name
        self.left = occurrence

    async def __call__(self, step: str) -> None:
        if step == self.name:
            self.left -= 1
            if not self.left:
                raise StoppedError(step)


async def filled(target: Path) -> None:
    async with aiovec.connect(target) as store:
        await fill(store, {"notes": 120, "others": 20})


def remove(folder: Path, file: str) -> None:
    """The file, and SQLite's own beside it; or the folder."""
    for found in folder.glob(f"{file}*"):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()


def target_in(folder: Path, kind: str) -> str:
    return str(folder / "b.db") if kind == "sqlite" else f"lancedb://{folder / 'b'}"


async def run(folder: Path, target: str, **more: Any) -> Outcome:
    options = more.pop("options", Options(batch_size=20))
    return await migrated(folder / "a.db", target, journal=folder / "j", options=options, **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "kind"),
    # What the migrator itself does is the same for both, so each has half of the steps; LanceDB
    # alone builds an index. The others are long tests.
    [
        pytest.param(
            step,
            kind,
            marks=[] if "index" in step or number % 2 == turn else [pytest.mark.soak],
        )
        for turn, kind in enumerate(["lancedb", "sqlite"])
        for number, step in enumerate(STEPS)
        if kind == "lancedb" or "index" not in step
    ],
)
async def test_it_goes_on_from_every_step(tmp_path: Path, step: str, kind: str) -> None:
    await filled(tmp_path / "a.db")
    target = target_in(tmp_path, kind)

    async def write(prefix: str) -> None:
        async with aiovec.connect(tmp_path / "a.db") as store:
            await store.insert("notes", some_rows(prefix, 5, "notes"))
            await store.upsert("notes", [row("r/20", State(9, 9), prefix)])
            await store.delete("notes", ["r/100", f"{prefix}/1"])
            # One id that was there, and comes again.
            await store.delete("notes", ["r/30"])
            await store.insert("notes", [row("r/30", State(3, 3), prefix)])

    stop = Stop(step)

    async def at(name: str) -> None:
        if name == "copy:written" and stop.left and not written:
            written.append(name)
            await write("during")
        await stop(name)

    written: list[str] = []
    with pytest.raises(StoppedError):
        await run(tmp_path, target, step=at)
    # Behind the release the copy stands as it is.
    if step not in ("released", "phase:done"):
        await write("between")
    await run(tmp_path, target)
    assert differences(await contents_at(tmp_path / "a.db"), await contents_at(target)) == []
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("free", SCHEMAS["others"])


@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
async def test_a_run_that_has_let_go_of_its_source_is_done(tmp_path: Path, kind: str) -> None:
    """LanceDB tells no changes of before a mark: such a run found rows that differed each time."""
    source = target_in(tmp_path, kind)
    target = str(tmp_path / "c.db")
    journal = tmp_path / "j"
    async with aiovec.connect(source) as store:
        await fill(store, {"notes": 30})
        wanted = await contents_at(source)
        with pytest.raises(StoppedError):
            await migrated(source, target, journal=journal, step=Stop("released"))
        await store.insert("notes", some_rows("later", 5, "notes"))
        await store.delete("notes", "r/1")
        outcome = await migrated(source, target, journal=journal)
        assert outcome.state.phase == "done"
        assert differences(wanted, await contents_at(target)) == []
        await store.create_table("free", SCHEMAS["others"])
        await aiovec_migrate.finish(journal=journal)


async def stopped(folder: Path) -> str:
    await filled(folder / "a.db")
    target = target_in(folder, "sqlite")
    with pytest.raises(StoppedError):
        await run(folder, target, step=Stop("copy:journalled"))
    return target


async def test_while_a_run_is_open_schemas_stay(tmp_path: Path) -> None:
    await stopped(tmp_path)
    state = await aiovec_migrate.status(journal=tmp_path / "j")
    assert state is not None
    async with aiovec.connect(tmp_path / "a.db") as store:
        with pytest.raises(MigrationError, match=state.run):
            await store.create_table("more", SCHEMAS["others"])


async def test_another_target_is_refused(tmp_path: Path) -> None:
    await stopped(tmp_path)
    with pytest.raises(MigrationError, match=r"target is .*b\.db.* not .*c\.db"):
        await run(tmp_path, str(tmp_path / "c.db"))


async def test_other_tables_are_refused(tmp_path: Path) -> None:
    target = await stopped(tmp_path)
    with pytest.raises(MigrationError, match="of all tables, not of the tables notes"):
        await run(tmp_path, target, options=Options(tables=("notes",)))


async def test_another_journal_cannot_take_a_source_that_is_on_its_way(tmp_path: Path) -> None:
    target = await stopped(tmp_path)
    state = await aiovec_migrate.status(journal=tmp_path / "j")
    assert state is not None
    with pytest.raises(MigrationError, match=state.run):
        await migrated(tmp_path / "a.db", target, journal=tmp_path / "k")


async def test_a_replaced_source_is_refused(tmp_path: Path) -> None:
    target = await stopped(tmp_path)
    remove(tmp_path, "a.db")
    await filled(tmp_path / "a.db")
    with pytest.raises(MigrationError, match="no mark of this run"):
        await run(tmp_path, target)


async def test_a_restored_source_is_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "a.db")
    target = target_in(tmp_path, "sqlite")
    with pytest.raises(StoppedError):
        await run(tmp_path, target, step=Stop("marked"))
    shutil.copy(tmp_path / "a.db", tmp_path / "old.db")
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.insert("notes", some_rows("new", 5, "notes"))
    with pytest.raises(StoppedError):
        await run(tmp_path, target, step=Stop("phase:verifying"))
    remove(tmp_path, "a.db")
    shutil.copy(tmp_path / "old.db", tmp_path / "a.db")
    with pytest.raises(MigrationError, match="older than what was copied"):
        await run(tmp_path, target)


async def test_a_target_that_is_gone_is_refused(tmp_path: Path) -> None:
    target = await stopped(tmp_path)
    remove(tmp_path, "b.db")
    with pytest.raises(MigrationError, match=r"b\.db .*has no mark of this run any more.* abort"):
        await run(tmp_path, target)


async def test_abort_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    target = await stopped(tmp_path)
    before = await contents_at(tmp_path / "a.db")
    await aiovec_migrate.abort(journal=tmp_path / "j")
    assert await aiovec_migrate.status(journal=tmp_path / "j") is None
    assert differences(before, await contents_at(tmp_path / "a.db")) == []
    assert await contents_at(target) == {}
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("more", SCHEMAS["others"])


@pytest.mark.parametrize("step", ["phase:aborting", "abort:released", "abort:dropped"])
async def test_an_abort_that_stopped_is_completed(tmp_path: Path, step: str) -> None:
    target = await stopped(tmp_path)
    with pytest.raises(StoppedError):
        await aiovec_migrate.abort(journal=tmp_path / "j", step=Stop(step))
    with pytest.raises(MigrationError, match="being aborted"):
        await run(tmp_path, target)
    await aiovec_migrate.abort(journal=tmp_path / "j")
    assert await contents_at(target) == {}
    await run(tmp_path, target)


async def test_abort_may_keep_what_was_copied(tmp_path: Path) -> None:
    target = await stopped(tmp_path)
    await aiovec_migrate.abort(journal=tmp_path / "j", keep_target=True)
    assert len((await contents_at(target))["notes"][1]) > 0


async def test_an_open_run_cannot_be_finished(tmp_path: Path) -> None:
    await stopped(tmp_path)
    with pytest.raises(MigrationError, match="not over"):
        await aiovec_migrate.finish(journal=tmp_path / "j")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (aiovec_migrate.abort, "no journal of a migration"),
        (aiovec_migrate.finish, "no journal of a migration"),
        (aiovec_migrate.rollback, "holds no migration"),
    ],
)
async def test_without_a_run_there_is_nothing_to_end(
    tmp_path: Path, call: Callable[..., Awaitable[object]], message: str
) -> None:
    with pytest.raises(AiovecError, match=message):
        await call(journal=tmp_path / "j")


async def test_a_damaged_source_is_told_and_the_run_goes_on_when_it_is_mended(
    tmp_path: Path,
) -> None:
    target = await stopped(tmp_path)
    whole = (tmp_path / "a.db").read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    # All but the first pages, which a store looks at when it is opened.
    cut = len(whole) // 3 // page * page
    (tmp_path / "a.db").write_bytes(whole[:cut] + b"\xa5" * (len(whole) - cut))
    with pytest.raises(AiovecError):
        await run(tmp_path, target)
    remove(tmp_path, "a.db")
    (tmp_path / "a.db").write_bytes(whole)
    await run(tmp_path, target)
    assert differences(await contents_at(tmp_path / "a.db"), await contents_at(target)) == []
