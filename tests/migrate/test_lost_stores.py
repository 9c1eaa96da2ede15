"""If a store is lost, replaced or damaged during a migration, no app uses a wrong store, and a
command repairs the situation."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.harness.values import SMALL

import aiovec
import aiovec_migrate
from aiovec import AiovecError

from .support import (
    FILES,
    WAYS,
    At,
    Contents,
    Scene,
    a_store,
    assert_same,
    contents_at,
    fill,
    place_of,
    rows,
    switched,
)

Harm = Callable[[Scene], Awaitable[object]]


def lost(end: str, count: int | None = None) -> Harm:
    """Return a harm that moves the store of this end away. If ``count`` is a number of rows,
    another store replaces it; below 0, that store has no tables."""

    async def lose(scene: Scene) -> Contents | None:
        backend = getattr(scene, end)
        await scene.lose(backend)
        if count is None:
            return None
        place = place_of(scene.config, backend)
        async with aiovec.connect(place) as store:
            if count >= 0:
                await fill(store, "notes", count=count)
            else:
                assert await store.tables() == []
        return await contents_at(place)

    return lose


async def moved(scene: Scene) -> None:
    """Rename the folder of both stores."""
    scene.folder = await asyncio.to_thread(scene.folder.rename, scene.folder.with_name("two"))
    scene.config = scene.folder / "aiovec.toml"


@dataclass(frozen=True)
class State:
    """The step at which a run stopped, or None for a completed switch; the harm to a store; the
    error of each command that fails; the commands that repair it, the last of which may warn; the
    end whose store has all rows afterwards; and whether apps are switched to it."""

    step: str | None
    harm: Harm
    says: dict[str, str]
    out: str
    holds: str
    warns: str = ""
    leads: bool = True
    follows: bool = False
    """True if an app that was opened before the commands continues after them."""


STRANGE = {
    "open": "is not the one that got its rows", "run": "Put it back", "abort": "too late"
}  # fmt: skip
STATES = {
    "the target is gone": State(
        "cut-over:moved", lost("target"), STRANGE, "find run", "target", follows=True
    ),
    "the target is empty": State(
        "cut-over:moved", lost("target", -1), STRANGE, "find run", "target", follows=True
    ),
    "the target is gone for good": State(
        "cut-over:moved", lost("target"), {"run": "migrate forget"}, "forget", "source"
    ),
    "the target is gone behind the switch": State(
        None, lost("target"), {"run": r"there is no store; .* put the store back .* forget"},
        "forget", "source", 'write backend = "SOURCE" under [retrieval]', leads=False,
    ),
    "the target is another behind the switch": State(
        None, lost("target", 0), {"run": "no switch has led to the store there"},
        "forget", "source", 'write backend = "SOURCE" under [retrieval]', leads=False,
    ),
    "the old store is gone behind the switch": State(
        None, lost("source"), {}, "reverse", "source", follows=True
    ),
    "the source is another midway": State(
        "copy:written", lost("source", 7), {"run": "was replaced or restored"}, "find run", "target"
    ),
    "the target is another midway": State(
        "copy:written", lost("target", 7), {"run": "already has 6 rows"}, "find run", "target"
    ),
    # The copy may be the only one left.
    "the source has an empty table": State(
        "cut-over:ready", lost("source", 0), {"run": r"replaced or restored.* migrate\s+abort"},
        "abort", "target", "are kept", leads=False,
    ),
    "the source has no table": State(
        "cut-over:ready", lost("source", -1),
        {"run": r"tables that the source does not have.*: notes|there is no store"},
        "", "target", leads=False,
    ),
    "both lie elsewhere": State(
        "optimized", moved, {"run": "another migration"}, "abort", "source", "lay elsewhere"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("way", "name"),
    [
        pytest.param(way, name, marks=() if (number + turn) % 2 else pytest.mark.slow)
        for number, name in enumerate(STATES)
        for turn, way in enumerate(WAYS)
    ],
)
async def test_command_leads_out_where_store_was_lost(tmp_path: Path, way: str, name: str) -> None:
    """A command that fails creates and changes nothing."""
    state, scene = STATES[name], Scene(tmp_path / "one", way)
    await scene.begin(state.step)
    other = await state.harm(scene)
    commands: dict[str, Callable[[], Awaitable[object]]] = {
        "open": lambda: contents_at(config=scene.config),
        "find": scene.find_again,
        "run": lambda: switched(scene.config, scene.target),
        "reverse": lambda: switched(scene.config, scene.source),
        "abort": lambda: aiovec_migrate.abort(config=scene.config),
        "forget": lambda: aiovec_migrate.forget(scene.source, config=scene.config),
    }
    places = [scene.folder / FILES[backend] for backend in WAYS[way]]
    before = [place.exists() for place in places]
    app = await aiovec.connect(config=scene.config) if state.follows else None
    for command, words in state.says.items():
        await scene.refused(words, commands[command](), error=AiovecError)
    assert [place.exists() for place in places] == before
    if isinstance(other, dict) and scene.lost and not state.follows:
        assert_same(other, await contents_at(place_of(scene.config, scene.lost)))
    done: object = None
    for command in state.out.split():
        done = await commands[command]()
    if isinstance(done, list):
        assert state.warns.replace("SOURCE", scene.source) in " ".join(done)
        assert bool(done) is bool(state.warns)
    holds = getattr(scene, state.holds)
    if app is not None:
        assert (await app.count("notes"), app.backend_name) == (38, holds)
        await app.close()
    assert_same(scene.wanted, await contents_at(place_of(scene.config, holds)))
    if state.leads:
        await scene.is_whole(holds)
        async with aiovec.connect(config=scene.config) as store:
            await store.create_table("young", SMALL)


@pytest.mark.slow
async def test_a_damaged_source_is_reported_and_the_run_can_be_aborted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "back")
    config = await a_store(tmp_path, "lancedb", "notes", "others")
    data, kept = tmp_path / "notes.lance" / "others.lance" / "data", tmp_path / "kept"
    at = At("created", lambda: asyncio.to_thread(shutil.move, data, kept))
    for step in (at, At("never", at)):
        damaged = switched(config, "sqlite", step=step)
        await scene.refused(r"notes\.lance", damaged, error=AiovecError)
    async with aiovec.connect(config=config) as app:
        await app.insert("notes", rows("since", 1))
    await aiovec_migrate.abort(config=config)
    async with aiovec.connect(config=config) as app:
        await app.create_table("young", aiovec.Schema(2))
    await asyncio.to_thread(shutil.move, kept, data)
    scene.wanted = await contents_at(config=config)
    await switched(config, "sqlite")
    await scene.is_whole("sqlite")
