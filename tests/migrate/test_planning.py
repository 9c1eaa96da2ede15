"""A plan describes both stores, and planning changes nothing."""

from __future__ import annotations

import asyncio
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.harness.cases import case
from tests.harness.values import small_rows

import aiovec
import aiovec_migrate
from aiovec import AiovecError, ConfigError, Field, MigrationError, Schema
from aiovec.backend.place import find_place
from aiovec_migrate import Options

from .support import (
    BACK_FIRST,
    SWITCH,
    WAYS,
    a_store,
    assert_same,
    contents_at,
    place_of,
    write_toml,
)

FIELDS: dict[str, Any] = {"name": str, "year": Field(int, nullable=False)}
NOTES = Schema(4, model="m1", fields=FIELDS)


async def a_store_of(target: str | Path, count: int = 3, **tables: Schema) -> str:
    async with aiovec.connect(target) as store:
        for name, schema in tables.items():
            await store.create_table(name, schema)
            if count:
                await store.insert(name, small_rows(count))
    return str(target)


def look_at(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return the modification time and the contents of everything in a folder.

    The folders in which LanceDB's readers announce themselves are left out.
    """
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        if path.is_file()
        else (0, None)
        for path in sorted(folder.rglob("*"))
        if "readers" not in path.parts
    }


async def problems(*ends: Any, **options: Any) -> str:
    """Return the problems of a plan, with which a run fails too; empty if the run can start."""
    plan = await aiovec_migrate.plan(*ends, **options)
    assert plan.ok == (not plan.problems)
    assert (plan.lines()[-1] == "ready to run") == plan.ok
    if plan.problems:
        with pytest.raises(MigrationError) as caught:
            await aiovec_migrate.run(*ends, **options)
        assert plan.problems[0] in str(caught.value)
    return "; ".join(plan.problems)


@BACK_FIRST
async def test_a_plan_lists_all_tables_and_writes_nothing(tmp_path: Path, way: str) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source, "notes", "others")
    for exists in (False, True):
        if exists:
            await a_store_of(place_of(config, target), 0, stays=NOTES)
        before = await asyncio.to_thread(look_at, tmp_path)
        plan = await aiovec_migrate.plan(None, target, config=config)
        assert await asyncio.to_thread(look_at, tmp_path) == before
        assert plan.ok, plan.problems
        assert (source in plan.source, target in plan.target) == (True, True)
        assert [(table.name, table.rows) for table in plan.tables] == [
            ("notes", 38), ("others", 38),
        ]  # fmt: skip
        assert "table   notes: 38 rows" in "\n".join(plan.lines())
        assert plan.others == (["stays"] if exists else [])
        assert plan.to_dict()["tables"][0]["name"] == "notes"


async def test_a_target_that_a_run_cannot_fill_is_refused_unchanged(tmp_path: Path) -> None:
    source = await a_store_of(tmp_path / "a.db", notes=NOTES)
    cases = [
        (Schema(9, model="m1", fields=FIELDS), 0, "dim is"),
        (Schema(4, model="m2", fields=FIELDS), 0, "model is"),
        (Schema(4, model="m1", metric="l2", fields=FIELDS), 0, "metric is"),
        (NOTES, 2, "already has 2 rows"),
    ]
    for number, (schema, count, expected) in enumerate(cases):
        with case(number):
            target = await a_store_of(tmp_path / f"{number}.db", count, notes=schema)
            before = await contents_at(target)
            assert re.search(f"table 'notes': .*{expected}", await problems(source, target))
            assert await contents_at(target) == before
            assert await aiovec_migrate.status(source, target) is None
    # An empty table is filled, and no other table is copied.
    await a_store_of(source, second=NOTES)
    target = await a_store_of(tmp_path / "empty.db", 0, notes=NOTES)
    await aiovec_migrate.run(source, target, options=Options(tables=("notes",)))
    wanted = await contents_at(source)
    assert await contents_at(target) == {"notes": wanted["notes"]}


async def test_stores_that_cannot_be_ends_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await a_store_of(tmp_path / "a.db", notes=NOTES)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign.db").write_bytes(b"something else" * 100)
    (tmp_path / "empty.db").touch()
    before = await asyncio.to_thread(look_at, tmp_path)
    assert "the same store" in await problems(source, "a.db")
    assert "the same store" in await problems(source, "sqlite:///" + source)
    assert "not a folder" in await problems(source, "foreign.db/below.db")
    if find_spec("lancedb"):
        assert "is a file, but not a store" in await problems(source, "lancedb://foreign.db")
    assert "no table 'gone'" in await problems(source, "b.db", options=Options(tables=("gone",)))
    assert await problems(source, "empty.db") == ""
    for ends, error, words in (
        (("absent.db", "b.db"), ConfigError, "there is no store at"),
        ((source, None), MigrationError, "name the target store"),
        ((source, ":memory:"), MigrationError, "only its own process can read it"),
        ((source, "foreign.db"), AiovecError, r"foreign\.db"),
    ):
        with pytest.raises(error, match=words):
            await aiovec_migrate.plan(*ends)
    assert await asyncio.to_thread(look_at, tmp_path) == before


async def test_a_switch_that_would_mislead_apps_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MigrationError, match="all tables"):
        Options(tables=("notes",), switch=True)
    config = await a_store(tmp_path, "sqlite")
    source, target = tmp_path / "notes.db", place_of(config, "lancedb")
    before = await asyncio.to_thread(look_at, tmp_path)
    assert await problems(None, "lancedb", config=config, options=SWITCH) == ""
    assert await problems("sqlite", target, config=config, options=SWITCH) == ""
    elsewhere = f"lancedb://{tmp_path}/another"
    assert "no backend of" in await problems(None, elsewhere, config=config, options=SWITCH)
    assert await problems(None, elsewhere, config=config) == ""
    monkeypatch.chdir(tmp_path / "..")
    assert "changes a TOML file" in await problems(source, target, options=SWITCH)
    assert await asyncio.to_thread(look_at, tmp_path) == before
    other = await a_store_of(tmp_path / "other.db", notes=NOTES)
    assert "no backend of" in await problems(other, "lancedb", config=config, options=SWITCH)
    await asyncio.to_thread(write_toml, tmp_path, "lancedb")
    assert "not the source" in await problems("sqlite", "lancedb", config=config, options=SWITCH)
    await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    # A variable of this process does not switch apps that start without it.
    variable = "AIOVEC_RETRIEVAL__LANCEDB_URL"
    monkeypatch.setenv(variable, f"{tmp_path}/another.lance")
    problem = await problems(None, "lancedb", config=config, options=SWITCH)
    assert f"{variable} sets the backend 'lancedb' to" in problem
    assert await problems(None, "lancedb", config=config) == ""
    monkeypatch.delenv(variable)
    # The target has a table of another owner.
    await a_store_of(target, others=NOTES)
    assert "others" in await problems(None, "lancedb", config=config, options=SWITCH)
    assert await problems(None, "lancedb", config=config) == ""


@BACK_FIRST
async def test_a_table_may_be_altered_while_a_run_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    place = await asyncio.to_thread(find_place, config=config)
    kind = type(await asyncio.to_thread(place.create))
    stats, names = kind.stats, ["name", "one", "two", "three"]

    async def altering(backend: Any, table: Any) -> Any:
        if len(names) > 1:
            async with aiovec.connect(config=config) as app:
                await app.rename_field("notes", names.pop(0), names[0])
        return await stats(backend, table)

    monkeypatch.setattr(kind, "stats", altering)
    assert (await aiovec_migrate.run(None, target, config=config)).equal
    kept = await contents_at(place_of(config, target))
    assert_same(kept, await contents_at(config=config))
    assert '"three"' in kept["notes"][0]
