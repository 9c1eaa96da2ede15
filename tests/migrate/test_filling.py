"""Whom a migration keeps from the store that it fills, and what becomes of what others do there.

Writes of other programs and commands into the target of an open run were lost: to the run's own
rows, to a repair, or to the end of the run.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import nullcontext
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest
from tests.server.process import serving

import aiovec
import aiovec_migrate
from aiovec.backend import Moves
from aiovec.errors import MigrationError, StoreMovedError
from aiovec_migrate import Event, Options

from .support import contents_at, differences, fill, migrated, rolled_back, some_rows, write_toml
from .test_ends import SWITCH, WAYS, a_store, cancelled_twice_at, place_of, stopped_at
from .test_resume import Stop, StoppedError

CLOSED = r"copies the rows of .* into this store, .* nobody else writes here; `aiovec migrate run`"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["table:created", "indexed"])
async def test_an_app_that_is_led_there_by_hand_reads_and_cannot_write(
    tmp_path: Path, way: str, step: str
) -> None:
    """Somebody names the target's backend in the TOML before the run is over."""
    source, target = WAYS[way]
    config, wanted = await stopped_at(tmp_path, way, step)
    lost = some_rows("lost", 1, "notes")
    for _ in ("an app that runs", "one that is started anew"):
        async with aiovec.connect(config=config) as app:
            await asyncio.to_thread(write_toml, tmp_path, target)
            async with asyncio.timeout(60):
                while app.backend_name != target:
                    await app.count("notes")
                    await asyncio.sleep(0.05)
            for write in (app.insert("notes", lost), app.drop_table("notes")):
                with pytest.raises(MigrationError, match=CLOSED):
                    await write
    told = await aiovec_migrate.status(config=config)
    assert told is not None
    assert told.next_command == "run"
    await asyncio.to_thread(write_toml, tmp_path, source)
    await migrated(config=config, options=SWITCH)
    async with aiovec.connect(config=config) as app:
        assert app.backend_name == target
        await app.insert("notes", lost)
        await app.delete("notes", [row["id"] for row in lost])
    assert differences(wanted, await contents_at(config=config)) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["marked", "indexed", "cut-over:ready"])
async def test_an_abort_opens_the_store_again(tmp_path: Path, way: str, step: str) -> None:
    """With the journal and by the marks, of either store."""
    source, target = WAYS[way]
    for ends in ("journal", "source", "target"):
        folder = tmp_path / ends
        await asyncio.to_thread(folder.mkdir)
        config, _ = await stopped_at(folder, way, step)
        if ends != "journal":
            await asyncio.to_thread(shutil.rmtree, folder / ".aiovec")
        named = {"source": source, "target": target}.get(ends)
        await aiovec_migrate.abort(named, config=config)
        for place in (source, target):
            async with aiovec.connect(place_of(config, place)) as store:
                await fill(store, {"others": 2})
        assert await aiovec_migrate.status(config=config) is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["marked", "table:created", "copy:written", "cut-over:paused"])
async def test_a_run_that_was_cancelled_twice_leaves_no_store_closed(
    tmp_path: Path, way: str, step: str
) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    await cancelled_twice_at(
        step, lambda still: migrated(None, target, config=config, options=SWITCH, step=still)
    )
    async with aiovec.connect(place_of(config, target)) as store:
        with pytest.raises(MigrationError, match=CLOSED):
            await fill(store, {"others": 2})
    async with aiovec.connect(config=config) as app:
        await app.insert("notes", some_rows("since", 1, "notes"))
    await aiovec_migrate.abort(config=config)
    async with aiovec.connect(place_of(config, target)) as store:
        assert await store.tables() == []
        await fill(store, {"others": 2})


@pytest.mark.parametrize("way", WAYS)
async def test_an_app_that_had_the_target_open_all_the_time(tmp_path: Path, way: str) -> None:
    """Idle from before the run until behind the switch; awake in between, it is refused."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    async with (
        aiovec.connect(place_of(config, target)) as idle,
        aiovec.connect(place_of(config, target)) as awake,
    ):
        assert await idle.tables() == await awake.tables() == []
        refused = 0

        async def wakes(step: str) -> None:
            nonlocal refused
            if step in ("marked", "indexed", "cut-over:ready"):
                with pytest.raises(MigrationError, match=CLOSED):
                    await awake.create_table("mine", aiovec.Schema(2))
                refused += 1

        await migrated(None, target, config=config, options=SWITCH, step=wakes)
        assert refused == 3
        for app, name in ((idle, "idle"), (awake, "awake")):
            assert await app.insert("notes", some_rows(name, 1, "notes")) == 1
            await app.create_table(name, aiovec.Schema(2))
    async with aiovec.connect(config=config) as app:
        assert await app.tables() == ["awake", "idle", "notes"]
        assert len(await app.get("notes", ["idle/0", "awake/0"])) == 2


@pytest.mark.parametrize("call", ["sync", "verify"])
@pytest.mark.parametrize("switched", [False, True])
async def test_a_third_store_is_not_written_over_it(
    tmp_path: Path, call: str, switched: bool
) -> None:
    """A backup of the source, say: the run then switched to its old rows and said nothing."""
    config = await a_store(tmp_path, "sqlite")
    backup = tmp_path / "backup.db"
    async with aiovec.connect(config=config) as app:
        await app.backup(backup)
        await app.update("notes", {"name": "newer"}, where="version >= 0")
    wanted = await contents_at(config=config)
    step = Stop("" if switched else "cut-over:ready")
    try:
        await migrated(None, "lancedb", config=config, options=SWITCH, step=step)
    except StoppedError:
        assert not switched
    more = {"repair": True, "journal": tmp_path / "other.db"} if call == "verify" else {}
    target = f"lancedb://{tmp_path / 'notes.lance'}"
    told = "is the store in use" if switched else r"is open on .*notes\.lance"
    for known in (config,) if switched else (config, None):
        with pytest.raises(MigrationError, match=told):
            await getattr(aiovec_migrate, call)(str(backup), target, config=known, **more)
    await migrated(config=config, options=SWITCH)
    assert differences(wanted, await contents_at(config=config)) == []


@pytest.mark.parametrize("way", WAYS)
async def test_an_abort_behind_the_copy_leaves_what_apps_have_written_since(
    tmp_path: Path, way: str
) -> None:
    """Without a switch, the run is over for everybody once its marks are off."""
    _, target = WAYS[way]
    config, _ = await stopped_at(tmp_path, way, "released", Options())
    await asyncio.to_thread(write_toml, tmp_path, target)
    async with aiovec.connect(config=config) as app:
        await app.insert("notes", some_rows("since", 5, "notes"))
    wanted = await contents_at(config=config)
    told: list[Event] = []
    await aiovec_migrate.abort(config=config, listener=told.append)
    assert any("so the tables there are kept" in event.text for event in told)
    assert differences(wanted, await contents_at(config=config)) == []


@pytest.mark.parametrize("step", ["cut-over:ready", "cut-over:moved"])
async def test_an_abort_keeps_what_may_be_the_only_copy(tmp_path: Path, step: str) -> None:
    """The source was lost, and an app that started since has made an empty one in its place."""
    config, _ = await stopped_at(tmp_path, "there", step)
    wanted = await contents_at(place_of(config, "lancedb"))
    for file in await asyncio.to_thread(lambda: list(tmp_path.glob("notes.db*"))):
        await asyncio.to_thread(file.unlink)
    async with aiovec.connect(config=config) as app:
        assert await app.tables() == []
    with pytest.raises(MigrationError, match=r"replaced or restored.* migrate abort"):
        await migrated(config=config, options=SWITCH)
    told: list[Event] = []
    await aiovec_migrate.abort(config=config, listener=told.append)
    assert any("the copies in the target are kept" in event.text for event in told)
    assert differences(wanted, await contents_at(place_of(config, "lancedb"))) == []
    async with aiovec.connect(place_of(config, "lancedb")) as store:
        assert await store.insert("notes", some_rows("since", 1, "notes")) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_an_abort_behind_a_rollback_keeps_a_store_that_was_restored_since(
    tmp_path: Path, way: str
) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    await migrated(None, target, config=config, options=SWITCH)
    backup = tmp_path / "backup"
    async with aiovec.connect(config=config) as app:
        await app.backup(backup)
    await rolled_back(config=config)
    place = place_of(config, target)
    await aiovec.restore(backup, place, overwrite=True)
    async with aiovec.connect(place) as store:
        await store.insert("notes", some_rows("since", 3, "notes"))
    wanted = await contents_at(place)
    told: list[Event] = []
    await aiovec_migrate.abort(config=config, listener=told.append)
    assert any("so the tables there are kept" in event.text for event in told)
    assert differences(wanted, await contents_at(place)) == []


async def test_a_copy_of_a_store_ends_no_run(tmp_path: Path) -> None:
    """It has the store's mark; what it is ended by must not open the target of that run."""
    config, _ = await stopped_at(tmp_path, "there", "indexed")
    await asyncio.to_thread(shutil.copy, tmp_path / "notes.db", tmp_path / "copy.db")
    await aiovec_migrate.abort(tmp_path / "copy.db", journal=tmp_path / "none.db")
    async with aiovec.connect(place_of(config, "lancedb")) as store:
        with pytest.raises(MigrationError, match=CLOSED):
            await store.insert("notes", some_rows("lost", 1, "notes"))
    wanted = await contents_at(config=config)
    await migrated(config=config, options=SWITCH)
    assert differences(wanted, await contents_at(config=config)) == []


async def test_nothing_is_switched_where_others_could_write_meanwhile(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")

    async def opened(step: str) -> None:
        if step == "cut-over:ready":
            async with aiovec.connect(place_of(config, "lancedb")) as store:
                moves = store._follower.engine.backend
                assert isinstance(moves, Moves)
                mark = await moves.move_mark()
                assert mark is not None
                await moves.end_move(mark.run)

    options = Options(switch=True, index=False, attempts=1)
    with pytest.raises(MigrationError, match=r"lancedb.* has no mark of this run any more"):
        await migrated(None, "lancedb", config=config, options=options, step=opened)
    async with aiovec.connect(config=config) as app:
        assert app.backend_name == "sqlite"
        assert await app.insert("notes", some_rows("since", 1, "notes")) == 1


async def test_a_run_that_comes_too_late_leaves_its_target_open(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    late = str(tmp_path / "late.db")

    async def faster(step: str) -> None:
        if step == "planned":
            with pytest.raises(StoppedError):
                await migrated(None, "lancedb", config=config, step=Stop("indexed"))

    with pytest.raises(MigrationError, match="another migration of this store is known"):
        await migrated(None, late, config=config, journal=tmp_path / "late.journal", step=faster)
    async with aiovec.connect(late) as store:
        await fill(store, {"notes": 3})


async def test_a_store_that_got_tables_before_the_run_reached_it_stays_open(
    tmp_path: Path,
) -> None:
    config, _ = await stopped_at(tmp_path, "there", "planned", Options())
    async with aiovec.connect(place_of(config, "lancedb")) as other:
        await fill(other, {"others": 3})
        before = await other.count("others")
        await migrated(None, "lancedb", config=config, step=_Wrote(other))
        assert await other.count("others") == before + 1


class _Wrote:
    def __init__(self, store: aiovec.VectorStore) -> None:
        self._store = store

    async def __call__(self, step: str) -> None:
        if step == "indexed":
            await self._store.insert("others", some_rows("more", 1, "others"))


@pytest.mark.parametrize("harm", ["foreign", "damaged"])
async def test_a_table_that_nobody_can_use_keeps_no_store_from_being_forgotten(
    tmp_path: Path, harm: str
) -> None:
    config = await a_store(tmp_path, "lancedb")
    await migrated(None, "sqlite", config=config, options=SWITCH)
    await aiovec_migrate.finish(config=config)
    folder = tmp_path / "notes.lance"
    if harm == "foreign":
        lance = await lancedb.connect_async(folder)
        await lance.create_table("foreign", pa.table({"x": [1]}))
        lance.close()  # type: ignore[no-untyped-call]
    else:
        for file in await asyncio.to_thread(
            lambda: list((folder / "notes.lance" / "_versions").glob("*.manifest"))
        ):
            await asyncio.to_thread(file.write_bytes, b"x" * 50)
    await aiovec_migrate.forget("lancedb", config=config)
    async with aiovec.connect(place_of(config, "lancedb")) as store:
        await fill(store, {"others": 2})


async def test_a_mark_that_was_set_beside_tables_of_others_is_taken_off(tmp_path: Path) -> None:
    """The run was killed between the mark and its second look."""
    config, _ = await stopped_at(tmp_path, "there", "planned", Options())
    state = await aiovec_migrate.status(config=config)
    assert state is not None
    async with aiovec.connect(place_of(config, "lancedb")) as other:
        await fill(other, {"others": 3})
        before = await other.count("others")
        await marked_as_filled(other, state.run)
        with pytest.raises(MigrationError, match=CLOSED):
            await other.insert("others", some_rows("more", 1, "others"))
        await migrated(None, "lancedb", config=config, step=_Wrote(other))
        assert await other.count("others") == before + 1


async def marked_as_filled(store: aiovec.VectorStore, run: str) -> None:
    backend = store._follower.engine.backend
    assert isinstance(backend, Moves)
    await backend.fill(run, "elsewhere")
    backend.act_for(None)


async def test_the_target_of_a_source_without_a_lock_is_closed_too(tmp_path: Path) -> None:
    """Its rows are compared until nothing differs, and what others had written was deleted."""
    config = await a_store(tmp_path, "sqlite")
    wanted = await contents_at(config=config)
    target = f"lancedb://{tmp_path / 'copy.lance'}"
    journal = tmp_path / "remote.journal"
    refused = 0

    async def writes(step: str) -> None:
        nonlocal refused
        if step == "verify:compared":
            async with aiovec.connect(target) as other:
                with pytest.raises(MigrationError, match=CLOSED):
                    await other.insert("notes", some_rows("other", 2, "notes"))
            refused += 1

    with serving(tmp_path / "notes.db") as server:
        for again in (Stop("indexed"), writes):
            with nullcontext() if again is writes else pytest.raises(StoppedError):
                await migrated(server.url, target, journal=journal, step=again)
        assert refused == 1
        await aiovec_migrate.finish(journal=journal)
    assert differences(wanted, await contents_at(target)) == []
    async with aiovec.connect(target) as other:
        await other.insert("notes", some_rows("other", 2, "notes"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("theirs", ["notes", "others"])
@pytest.mark.parametrize("wrote", ["a new row", "one of the source", ""])
async def test_an_abort_keeps_what_others_wrote_beside_the_run(
    tmp_path: Path, way: str, theirs: str, wrote: str
) -> None:
    """Into a target with tables, also empty ones, which stays open to its users."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    async with aiovec.connect(place_of(config, target)) as other:
        await fill(other, {theirs: 0})
        with pytest.raises(StoppedError):
            await migrated(None, target, config=config, step=Stop("indexed"))
        if wrote == "a new row":
            await other.insert("notes", some_rows("other", 2, "notes"))
        elif wrote:
            async with aiovec.connect(config=config) as app:
                for store, name in ((app, "the app's"), (other, "theirs")):
                    await store.update("notes", {"name": name}, ids=["r/2"])
        copied = await other.count("notes")
        told: list[Event] = []
        await aiovec_migrate.abort(config=config, listener=told.append)
        warned = any("'notes'" in event.text and "is kept" in event.text for event in told)
        assert warned == bool(wrote)
        if wrote:
            assert await other.count("notes") == copied
        else:
            assert await other.tables() == [theirs]
            assert await other.count(theirs) == 0


async def test_a_store_whose_tables_others_use_stays_open_to_them(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    target = place_of(config, "lancedb")
    async with aiovec.connect(target) as other:
        await fill(other, {"others": 5})
        with pytest.raises(StoppedError):
            await migrated(None, target, config=config, step=Stop("indexed"))
        assert await other.delete("others", (await other.find("others"))[0].id) == 1
        assert await other.insert("others", some_rows("more", 2, "others")) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_write_that_slept_through_it_all_is_led_to_the_new_store(
    tmp_path: Path, way: str
) -> None:
    """Switched, finished and forgotten: it was acknowledged in the old LanceDB folder."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    async with aiovec.connect(config=config) as app:
        backend = app._follower.engine.backend
        plain, asleep, awake = backend.upsert, asyncio.Event(), asyncio.Event()

        async def sleeps(*args: object, **kwargs: object) -> object:
            asleep.set()
            await awake.wait()
            return await plain(*args, **kwargs)

        backend.upsert = sleeps  # type: ignore[method-assign, assignment]
        late = some_rows("late", 5, "notes")
        writing = asyncio.ensure_future(app.upsert("notes", late))
        await asleep.wait()
        await migrated(None, target, config=config, options=SWITCH)
        await aiovec_migrate.finish(config=config)
        await aiovec_migrate.forget(source, config=config)
        await asyncio.sleep(1.2)  # so that it looks at the TOML again
        awake.set()
        await writing
    async with aiovec.connect(config=config) as app:
        assert app.backend_name == target
        assert len(await app.get("notes", [row["id"] for row in late])) == 5
    async with aiovec.connect(place_of(config, source)) as old:
        assert await old.get("notes", [row["id"] for row in late]) == []


async def test_the_old_store_alone_is_enough_to_finish_a_rollback_that_was_killed(
    tmp_path: Path,
) -> None:
    """Each store then sent everybody to the other one."""
    config = await a_store(tmp_path, "sqlite")
    wanted = await contents_at(config=config)
    await migrated(None, "lancedb", config=config, options=SWITCH)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("cut-over:moved"))
    await asyncio.to_thread(shutil.rmtree, tmp_path / ".aiovec")
    await aiovec_migrate.finish(place_of(config, "sqlite"), config=config)
    assert differences(wanted, await contents_at(place_of(config, "sqlite"))) == []
    with pytest.raises(StoreMovedError):
        await contents_at(place_of(config, "lancedb"))


@pytest.mark.parametrize("journal", [True, False])
async def test_a_finish_tells_where_the_toml_names_the_old_store(
    tmp_path: Path, journal: bool
) -> None:
    """When that was removed, apps that were started anew began an empty one in its place."""
    config = await a_store(tmp_path, "sqlite")
    if journal:
        await migrated(None, "lancedb", config=config, options=SWITCH)
        await asyncio.to_thread(write_toml, tmp_path, "sqlite")  # by hand
    else:
        with pytest.raises(StoppedError):
            await migrated(
                None, "lancedb", config=config, options=SWITCH, step=Stop("cut-over:moved")
            )
        await asyncio.to_thread(shutil.rmtree, tmp_path / ".aiovec")
    told: list[Event] = []
    await aiovec_migrate.finish(config=config, listener=told.append)
    (warning,) = [event.text for event in told if event.kind == "warning"]
    assert "names the backend 'sqlite', and apps use 'lancedb'" in warning
