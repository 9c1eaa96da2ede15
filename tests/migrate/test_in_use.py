"""Neither a run nor a repair overwrites the store in use."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.harness.packages import install

import aiovec
import aiovec_migrate
from aiovec import ConfigError, MigrationError
from aiovec.backend.place import find_place

from .support import a_store, assert_same, contents_at, place_of, rows, switched, write_toml


async def test_the_store_in_use_is_never_written_over(tmp_path: Path) -> None:
    """After a switch, the target is in use, and its newer rows rightly differ. This holds even
    after the old store has become independent."""
    config = await a_store(tmp_path, "sqlite")
    await switched(config, "lancedb")
    async with aiovec.connect(config=config) as store:
        await store.upsert("notes", rows("r", 3, name="since"))
        await store.delete("notes", ["r/7"])
    kept = await contents_at(config=config)
    old, new = place_of(config, "sqlite"), place_of(config, "lancedb")
    report = await aiovec_migrate.verify(config=config)
    assert (report.in_use, report.equal) == (True, False)
    [table] = report.tables
    result = table.difference
    assert (result.missing, result.extra, result.different) == (1, 1, 2)
    with pytest.raises(MigrationError, match="in use"):
        await aiovec_migrate.verify(config=config, repair=True)
    # In the other direction, the copy is outdated, and a run updates it.
    assert not (await aiovec_migrate.verify("lancedb", "sqlite", config=config)).in_use
    await aiovec_migrate.forget(old)
    assert not (await aiovec_migrate.verify(old, new)).in_use
    for ends, more in ((("sqlite", "lancedb"), {"config": config}), ((old, new), {})):
        with pytest.raises(MigrationError, match=r"in use|already has"):
            await aiovec_migrate.run(*ends, **more)
        with pytest.raises(MigrationError, match=r"in use|already has"):
            await aiovec_migrate.verify(*ends, **more, repair=True)
    assert_same(kept, await contents_at(config=config))


async def test_a_switch_to_a_store_without_marks_is_over_when_the_file_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path / "site",
        "plain",
        "[aiovec.backends]\nplain = tests.migrate.plain:PlainPlugin",
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    config = await a_store(tmp_path, "sqlite")
    more = f'plain_path = "{tmp_path / "plain.db"}"\n'
    await asyncio.to_thread(write_toml, tmp_path, "sqlite", more=more)
    await asyncio.to_thread(write_toml, tmp_path, "plain", more=more)
    async with aiovec.connect(config=config):
        with pytest.raises(MigrationError, match="no switch has led to the store there"):
            await switched(config, "plain")
    await asyncio.to_thread(write_toml, tmp_path, "sqlite", more=more)
    assert (await switched(config, "plain")).switched
    for _ in range(2):
        status = await aiovec_migrate.status(config=config)
        assert status is not None
        assert (status.is_open, status.next.split(";")[0]) == (False, f"apps use {status.target}")
        assert (await switched(config, "plain")).switched  # the same command again
    async with aiovec.connect(config=config) as store:
        assert (store.backend_name, await store.count("notes")) == ("plain", 38)


async def test_a_copy_that_is_in_use_by_now_is_not_written_over(tmp_path: Path) -> None:
    """Someone has selected the copy in the TOML file by hand."""
    config = await a_store(tmp_path, "sqlite")
    await aiovec_migrate.run(None, "lancedb", config=config)
    await asyncio.to_thread(write_toml, tmp_path, "lancedb")
    async with aiovec.connect(config=config) as store:
        await store.insert("notes", rows("since", 2))
    with pytest.raises(MigrationError, match="the target is the store in use"):
        await aiovec_migrate.run("sqlite", "lancedb", config=config)
    async with aiovec.connect(config=config) as store:
        assert await store.count("notes") == 40


async def test_no_command_makes_a_store_for_a_name_that_is_wrong(tmp_path: Path) -> None:
    nope, other = tmp_path / "nope.db", tmp_path / "b.db"
    for call in (
        aiovec_migrate.forget(nope),
        aiovec_migrate.verify(nope, other),
        aiovec_migrate.plan(nope, other),
        aiovec_migrate.run(nope, other),
    ):
        with pytest.raises(ConfigError, match="there is no store"):
            await call
    assert not await asyncio.to_thread(os.listdir, tmp_path)


async def test_the_notes_of_a_table_come_along(tmp_path: Path) -> None:
    """A watch continues from its note, so the note must not be outdated."""
    config = await a_store(tmp_path, "sqlite")

    async def noted(change: dict[str, str | None]) -> dict[str, str]:
        place = await asyncio.to_thread(find_place, config=config)
        backend = await asyncio.to_thread(place.create)
        await backend.open()
        try:
            return {**await backend.notes(await backend.open_table("notes"), change)}
        finally:
            await backend.close()

    await noted({"shop.db#goods": "early", "other": "stays"})
    await switched(config, "lancedb")
    assert await noted({}) == {"shop.db#goods": "early", "other": "stays"}
    await noted({"shop.db#goods": "late", "other": None})
    await switched(config, "sqlite")
    assert await noted({}) == {"shop.db#goods": "late"}
