"""A plan tells of both sides, and looking leaves no trace."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.harness.values import small_rows

import aiovec
import aiovec_migrate
from aiovec import AiovecError, ConfigError, Field, MigrationError, Schema
from aiovec_migrate import Options

from .support import (
    BACK_FIRST,
    SWITCH,
    WAYS,
    a_store,
    contents_at,
    migrated,
    place_of,
    stopped_at,
    switched,
    write_toml,
)

FIELDS: dict[str, Any] = {"name": str, "year": Field(int, nullable=False)}
NOTES = Schema(4, model="m1", fields=FIELDS)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("AIOVEC_")]:
        monkeypatch.delenv(name)


async def a_store_of(target: str | Path, count: int = 3, **tables: Schema) -> str:
    async with aiovec.connect(target) as store:
        for name, schema in tables.items():
            await store.create_table(name, schema)
            if count:
                await store.insert(name, small_rows(count))
    return str(target)


def look_at(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """All that lies below a folder, and what it holds.

    But for the folders in which LanceDB's readers, as every reader, say that they read.
    """
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        if path.is_file()
        else (0, None)
        for path in sorted(folder.rglob("*"))
        if "readers" not in path.parts
    }


async def kinds(*ends: Any, **options: Any) -> list[str]:
    plan = await aiovec_migrate.plan(*ends, **options)
    assert plan.ok == (not plan.problems)
    assert ("nothing stands in the way" in plan.to_text()) == plan.ok
    return [problem.kind for problem in plan.problems]


@BACK_FIRST
async def test_a_plan_tells_all_and_writes_nothing(tmp_path: Path, way: str) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source, "notes", "others")
    for there in (False, True):
        if there:
            await a_store_of(place_of(config, target), 0, stays=NOTES)
        before = await asyncio.to_thread(look_at, tmp_path)
        found = await aiovec_migrate.plan(None, target, config=config)
        assert await asyncio.to_thread(look_at, tmp_path) == before
        assert found.ok, found.to_text()
        assert (found.source.backend, found.target.backend) == (source, target)
        assert [(table.name, table.rows) for table in found.tables] == [
            ("notes", 38), ("others", 38),
        ]  # fmt: skip
        assert found.rows == 76
        text = found.to_text()
        assert "table   notes: 38 rows" in text
        assert "embedding: fixed_size_list<item: float>[4] not null" in text
        assert ("stays" in text) == there
        assert json.loads(found.to_json())["tables"][0]["name"] == "notes"


async def test_what_in_the_target_would_stop_a_run(tmp_path: Path) -> None:
    source = await a_store_of(tmp_path / "a.db", notes=NOTES)
    cases = [
        (Schema(9, model="m1", fields=FIELDS), 0, ["dim"]),
        (Schema(4, model="m2", fields=FIELDS), 0, ["model"]),
        (Schema(4, model="m1", metric="l2", fields=FIELDS), 0, ["schema"]),
        (NOTES, 2, ["rows"]),
        (Schema(4, model=None, fields=FIELDS), 2, ["model", "rows"]),
    ]
    for number, (schema, count, expected) in enumerate(cases):
        target = await a_store_of(tmp_path / f"{number}.db", count, notes=schema)
        before = await contents_at(target)
        assert await kinds(source, target) == expected
        with pytest.raises(MigrationError, match="table 'notes'"):
            await migrated(source, target, journal=tmp_path / "j")
        assert await contents_at(target) == before
    assert await aiovec_migrate.status(journal=tmp_path / "j") is None


async def test_stores_that_cannot_be_ends_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await a_store_of(tmp_path / "a.db", notes=NOTES)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign.db").write_bytes(b"something else" * 100)
    (tmp_path / "empty.db").touch()
    before = await asyncio.to_thread(look_at, tmp_path)
    assert await kinds(source, "a.db") == ["same-place"]
    assert await kinds(source, "sqlite:///" + source) == ["same-place"]
    assert await kinds(source, "foreign.db/below.db") == ["not-writable"]
    assert await kinds(source, "b.db", options=Options(tables=("gone",))) == ["missing-table"]
    assert await kinds(source, "empty.db") == []
    for ends, error, words in (
        (("absent.db", "b.db"), ConfigError, "there is no store at"),
        ((source, None), MigrationError, "name the target store"),
        ((source, ":memory:"), MigrationError, "only its own process can read it"),
        ((source, "foreign.db"), AiovecError, r"foreign\.db"),
    ):
        with pytest.raises(error, match=words):
            await aiovec_migrate.plan(*ends)
    assert await asyncio.to_thread(look_at, tmp_path) == before


async def test_a_source_with_an_open_run_or_one_that_was_left(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    source, third = tmp_path / "notes.db", tmp_path / "third.db"
    await stopped_at("copy:written", lambda at: switched(config, "lancedb", step=at))
    assert await kinds(source, third) == ["run-open"]
    await switched(config, "lancedb")
    found = await aiovec_migrate.plan(source, third)
    assert [problem.kind for problem in found.problems] == ["moved"]
    assert "notes.lance" in found.to_text()


async def test_what_would_stop_a_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = await a_store(tmp_path, "sqlite")
    source, target = tmp_path / "notes.db", place_of(config, "lancedb")
    before = await asyncio.to_thread(look_at, tmp_path)
    assert await kinds(None, "lancedb", config=config, options=SWITCH) == []
    assert await kinds("sqlite", target, config=config, options=SWITCH) == []
    elsewhere = f"lancedb://{tmp_path}/another"
    assert await kinds(None, elsewhere, config=config, options=SWITCH) == ["not-configured"]
    assert await kinds(None, elsewhere, config=config) == []
    monkeypatch.chdir(tmp_path / "..")
    assert await kinds(source, target, options=SWITCH) == ["no-config"]
    assert await asyncio.to_thread(look_at, tmp_path) == before
    config.chmod(0o444)
    assert await kinds(None, "lancedb", config=config, options=SWITCH) == ["toml"]
    config.chmod(0o644)
    other = await a_store_of(tmp_path / "other.db", notes=NOTES)
    assert await kinds(other, "lancedb", config=config, options=SWITCH) == ["not-present"]
    await asyncio.to_thread(write_toml, tmp_path, "lancedb")
    assert "not-present" in await kinds("sqlite", "lancedb", config=config, options=SWITCH)
    await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    # A variable that would hold apps on their backend is told.
    monkeypatch.setenv("AIOVEC_RETRIEVAL__BACKEND", "sqlite")
    plan = await aiovec_migrate.plan(None, "lancedb", config=config, options=SWITCH)
    assert "AIOVEC_RETRIEVAL__BACKEND" in " ".join(plan.notes)
    monkeypatch.delenv("AIOVEC_RETRIEVAL__BACKEND")
    # Nobody's tables come along.
    await a_store_of(target, others=NOTES)
    assert await kinds(None, "lancedb", config=config, options=SWITCH) == ["other-tables"]
    with pytest.raises(MigrationError, match="others"):
        await switched(config, "lancedb")
    assert await kinds(None, "lancedb", config=config) == []
