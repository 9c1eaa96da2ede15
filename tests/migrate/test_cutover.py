"""The switch: who waits, who follows, what is called off, and the way back."""

from __future__ import annotations

import asyncio
import time
from asyncio import to_thread
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import State

import aiovec
import aiovec_migrate
from aiovec.errors import AiovecError, MigrationError, StoreMovedError
from aiovec_migrate import Options, Phase
from aiovec_migrate.host import RealHost

from .support import (
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

CUT_OVER = [
    "phase:cutting-over", "cut-over:ready", "cut-over:paused", "cut-over:checked",
    "cut-over:moved", "cut-over:arrived", "phase:moved", "cut-over:flipped", "phase:done",
]  # fmt: skip
BACK = [
    "phase:rolling-back", "rollback:marked", "verify:compared", "cut-over:ready",
    "cut-over:paused", "cut-over:checked", "cut-over:moved", "cut-over:arrived",
    "cut-over:flipped", "rollback:released", "phase:rolled-back",
]  # fmt: skip
SWITCH = Options(switch=True, batch_size=50, index=False)


async def a_store(folder: Path, backend: str = "sqlite") -> Path:
    config = write_toml(folder, backend)
    async with aiovec.connect(config=config) as store:
        await fill(store, {"notes": 60, "others": 10})
    return config


async def switch(config: Path, target: str = "lancedb", **more: Any) -> aiovec_migrate.Outcome:
    options = more.pop("options", SWITCH)
    return await migrated(None, target, config=config, options=options, **more)


def named(config: Path) -> str:
    [line] = [li for li in config.read_text().splitlines() if li.startswith("backend")]
    return line.split('"')[1]


async def test_a_store_of_the_toml_goes_on_by_itself(tmp_path: Path) -> None:
    config = await a_store(tmp_path)
    async with aiovec.connect(config=config) as store, aiovec.connect(tmp_path / "notes.db") as old:
        outcome = await switch(config)
        assert outcome.state.phase is Phase.DONE
        assert named(config) == "lancedb"
        await store.insert("notes", some_rows("behind", 3, "notes"))
        assert store.backend_name == "lancedb"
        with pytest.raises(StoreMovedError, match=r"notes\.lance"):
            await old.count("notes")
        with pytest.raises(StoreMovedError, match=r"notes\.lance"):
            await old.insert("notes", some_rows("stray", 3, "notes"))
    await aiovec_migrate.finish(config=config)
    assert await aiovec_migrate.status(config=config) is None
    async with aiovec.connect(tmp_path / "notes.db") as old:
        with pytest.raises(StoreMovedError, match=r"notes\.lance"):  # C11
            await old.count("notes")


async def test_what_is_written_up_to_the_pause_arrives(tmp_path: Path) -> None:
    config = await a_store(tmp_path)
    async with aiovec.connect(config=config) as store:
        waiting: list[asyncio.Task[Any]] = []

        async def write(step: str) -> None:
            if step == "cut-over:ready":
                await store.insert("notes", some_rows("last", 5, "notes"))
                await store.delete("notes", ["r/20"])
            if step == "cut-over:paused":
                waiting.append(
                    asyncio.ensure_future(store.insert("notes", [row("waited", State(1, 1), "me")]))
                )
                await asyncio.sleep(0.05)
                assert not waiting[0].done()

        await switch(config, step=write)
        await waiting[0]  # it was led to the target, once
    found = await contents_at(config=config)
    ids = found["notes"][1].keys()
    assert {f"last/{n}" for n in range(5)} | {"waited"} <= ids
    assert "r/20" not in ids


async def test_open_stores_get_the_time_to_load_what_comes(
    tmp_path: Path,
) -> None:
    """A table so small that it is copied at once is not switched at once."""
    config = await a_store(tmp_path)
    at: dict[str, float] = {}

    async def note(step: str) -> None:
        at[step] = time.monotonic()

    await switch(config, step=note, host=RealHost())
    assert at["cut-over:ready"] - at["marked"] >= 2.9
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "lancedb"


async def test_an_overrun_lets_the_writers_go_on_and_is_tried_again(tmp_path: Path) -> None:
    config = await a_store(tmp_path)
    pauses = 0
    paused = asyncio.Event()
    async with aiovec.connect(config=config) as store:

        async def dawdle(step: str) -> None:
            nonlocal pauses
            if step == "cut-over:paused":
                pauses += 1
                paused.set()
                if pauses == 1:
                    await asyncio.sleep(30)

        events: list[str] = []
        moving = asyncio.ensure_future(
            switch(
                config,
                options=Options(switch=True, pause_limit=0.5, attempts=20, index=False),
                step=dawdle,
                listener=lambda event: events.append(event.text),
            )
        )
        await paused.wait()
        await store.insert("notes", some_rows("meanwhile", 5, "notes"))
        assert store.backend_name == "sqlite"
        await moving
    assert pauses >= 2  # on a busy machine the second one may take too long as well
    assert any("called off" in text for text in events)
    found = (await contents_at(config=config))["notes"][1]
    assert {f"meanwhile/{n}" for n in range(5)} <= found.keys()


async def test_it_gives_up_in_words_and_goes_on_later(tmp_path: Path) -> None:
    config = await a_store(tmp_path)

    async def dawdle(step: str) -> None:
        if step == "cut-over:paused":
            await asyncio.sleep(30)

    options = Options(switch=True, pause_limit=0.2, attempts=2, index=False)
    with pytest.raises(MigrationError, match=r"tried 2 times .* no app was switched"):
        await switch(config, options=options, step=dawdle)
    assert named(config) == "sqlite"
    async with aiovec.connect(config=config) as store:
        await store.insert("notes", some_rows("later", 3, "notes"))
    await switch(config)
    assert "later/2" in (await contents_at(config=config))["notes"][1]


@pytest.mark.parametrize(
    ("source", "target", "step"),
    # In the other direction, with the long tests; test_ends.py has these the other way round.
    [
        pytest.param(*way, step, marks=[] if number % 2 == turn else [pytest.mark.soak])
        for number, step in enumerate(CUT_OVER)
        for turn, way in enumerate([("lancedb", "sqlite"), ("sqlite", "lancedb")])
    ],
)
async def test_a_cut_over_that_stopped_is_completed(
    tmp_path: Path, source: str, target: str, step: str
) -> None:
    config = await a_store(tmp_path, source)
    async with aiovec.connect(config=config) as store:
        with pytest.raises(StoppedError):
            await switch(config, target, step=Stop(step))
        # Writers go on at once, wherever the switch stopped.
        async with asyncio.timeout(SWITCH.pause_limit):
            await store.insert("notes", some_rows("between", 4, "notes"))
        await migrated(None, target, config=config, options=SWITCH)
        await store.insert("notes", some_rows("behind", 4, "notes"))
    assert named(config) == target
    found = (await contents_at(config=config))["notes"][1]
    assert {f"{when}/{n}" for when in ("between", "behind") for n in range(4)} <= found.keys()


def replacing(old: str, new: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(file.read_text().replace(old, new))


EDITS: dict[str, Callable[[Path], object]] = {
    "another goal": replacing("notes.lance", "other.lance"),
    "another source": replacing("notes.db", "other.db"),
    "another backend": replacing('"sqlite"', '"lancedb"'),
    "no toml": lambda file: file.write_text("[retrieval\n"),
    "no file": lambda file: file.unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["phase:copying", "cut-over:paused"])
@pytest.mark.parametrize("edit", EDITS)
async def test_a_toml_that_was_edited_meanwhile_leads_nobody_away(
    tmp_path: Path, edit: str, step: str
) -> None:
    config = await a_store(tmp_path)
    before = await to_thread(config.read_text)

    async def stop(name: str) -> None:
        if name == step:
            await to_thread(EDITS[edit], config)

    options = replace(SWITCH, attempts=1)
    with pytest.raises(AiovecError, match=r"(?s)called off.*no app was switched"):
        await switch(config, options=options, step=stop)
    async with aiovec.connect(tmp_path / "notes.db") as old:
        assert await old.insert("notes", some_rows("since", 3, "notes")) == 3
    assert not (tmp_path / "other.lance").exists()
    if edit.startswith("another"):
        assert await to_thread(config.read_text) != before
    await to_thread(config.write_text, before)
    outcome = await switch(config, options=options)
    assert outcome.state.phase is Phase.DONE
    found = await contents_at(config=config)
    assert {f"since/{n}" for n in range(3)} <= found["notes"][1].keys()


async def test_a_toml_that_was_edited_behind_the_mark_is_not_flipped(tmp_path: Path) -> None:
    """Its apps would be led to another store, which they would find empty."""
    config = await a_store(tmp_path)
    before = await to_thread(config.read_text)
    rows = await contents_at(tmp_path / "notes.db")

    async def edit(name: str) -> None:
        if name == "cut-over:moved":
            await to_thread(EDITS["another goal"], config)

    with pytest.raises(MigrationError, match=r"other\.lance.*write that address back"):
        await switch(config, step=edit)
    assert named(config) == "sqlite"
    with pytest.raises(StoreMovedError, match=r"notes\.lance"):
        async with aiovec.connect(config=config) as store:
            await store.count("notes")
    await to_thread(config.write_text, before)
    assert (await switch(config)).state.phase is Phase.DONE
    assert named(config) == "lancedb"
    assert differences(rows, await contents_at(config=config)) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["rollback", "abort", "finish", "run", "verify", "repair"])
async def test_behind_a_switch_a_toml_that_was_edited_is_told(tmp_path: Path, end: str) -> None:
    config = await a_store(tmp_path)
    await switch(config)
    before = await to_thread(config.read_text)
    await to_thread(EDITS["another goal"], config)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "rollback": lambda: aiovec_migrate.rollback(config=config),
        "abort": lambda: aiovec_migrate.abort(config=config),
        "finish": lambda: aiovec_migrate.finish(config=config),
        "run": lambda: aiovec_migrate.run(None, "lancedb", config=config, options=SWITCH),
        "verify": lambda: aiovec_migrate.verify(config=config),
        "repair": lambda: aiovec_migrate.verify(config=config, repair=True),
    }
    with pytest.raises(MigrationError, match=r"other\.lance.*notes\.lance.*write that address"):
        await calls[end]()
    assert not (tmp_path / "other.lance").exists()
    await to_thread(config.write_text, before)
    await aiovec_migrate.rollback(config=config)
    assert named(config) == "sqlite"


async def test_the_way_back_keeps_what_was_written_since(tmp_path: Path) -> None:
    config = await a_store(tmp_path)
    async with aiovec.connect(config=config) as store:
        await switch(config)
        await store.insert("notes", some_rows("since", 5, "notes"))
        await store.delete("notes", ["r/20"])
        await store.create_table("young", aiovec.Schema(2))
        state = await rolled_back(config=config)
        assert state.phase is Phase.ROLLED_BACK
        assert named(config) == "sqlite"
        await store.insert("notes", some_rows("behind", 5, "notes"))
    found = await contents_at(tmp_path / "notes.db")
    assert "young" in found
    assert {"since/4", "behind/4"} <= found["notes"][1].keys()
    assert "r/20" not in found["notes"][1]
    await aiovec_migrate.finish(config=config)
    assert await aiovec_migrate.status(config=config) is None


async def test_after_the_way_back_an_abort_removes_the_copies(tmp_path: Path) -> None:
    """So that the next run finds room for its own."""
    config = await a_store(tmp_path)
    await switch(config)
    await rolled_back(config=config)
    before = await contents_at(tmp_path / "notes.db")
    await aiovec_migrate.abort(config=config)
    assert await aiovec_migrate.status(config=config) is None
    assert differences(before, await contents_at(tmp_path / "notes.db")) == []
    await switch(config)
    assert differences(before, await contents_at(config=config)) == []


@pytest.mark.parametrize("edited", ["the backend", "another file"])
async def test_a_way_back_that_its_toml_refuses_does_not_begin(tmp_path: Path, edited: str) -> None:
    """No table is frozen, and none is copied, for a file that could not be changed in the end."""
    config = await a_store(tmp_path)
    await switch(config)
    other = config
    text = await to_thread(config.read_text)
    if edited == "the backend":
        await to_thread(write_toml, tmp_path, "sqlite")
    else:
        other = tmp_path / "other.toml"
        await to_thread(other.write_text, text)
    with pytest.raises(AiovecError, match=r"names the backend|is of a switch of"):
        await rolled_back(config=other)
    state = await aiovec_migrate.status(config=config)
    assert state is not None
    assert state.phase is Phase.DONE


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [
        # The ordinary run has these in test_ends.py.
        pytest.param(step, marks=pytest.mark.soak)
        if step in ("rollback:marked", "cut-over:moved", "cut-over:flipped", "phase:rolled-back")
        else step
        for step in BACK
    ],
)
async def test_a_way_back_that_stopped_is_completed(tmp_path: Path, step: str) -> None:
    config = await a_store(tmp_path)
    async with aiovec.connect(config=config) as store:
        await switch(config)
        await store.insert("notes", some_rows("since", 5, "notes"))
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop(step))
    await rolled_back(config=config)
    assert named(config) == "sqlite"
    one, other = await contents_at(tmp_path / "notes.db"), await contents_at(config=config)
    assert differences(one, other) == []
    assert "since/4" in one["notes"][1]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["cut-over:moved", "cut-over:flipped"])
async def test_behind_the_switch_it_is_too_late_to_abort(tmp_path: Path, step: str) -> None:
    config = await a_store(tmp_path)
    with pytest.raises(StoppedError):
        await switch(config, step=Stop(step))
    with pytest.raises(MigrationError, match="too late"):
        await aiovec_migrate.abort(config=config)


async def refused(call: Callable[[], Awaitable[object]], match: str) -> None:
    with pytest.raises(AiovecError, match=match):
        await call()


async def test_a_switch_needs_a_toml_that_names_both(tmp_path: Path) -> None:
    config = await a_store(tmp_path)
    elsewhere = f"lancedb://{tmp_path / 'elsewhere'}"
    await refused(lambda: switch(config, elsewhere), r"no backend of .*aiovec\.toml")
    await refused(
        lambda: migrated(tmp_path / "notes.db", elsewhere, journal=tmp_path / "j", options=SWITCH),
        "TOML",
    )
    assert named(config) == "sqlite"


async def test_only_what_has_switched_is_rolled_back(tmp_path: Path) -> None:
    config = await a_store(tmp_path)
    await migrated(None, "lancedb", config=config, options=Options(index=False))
    await refused(lambda: rolled_back(config=config), "has switched")
