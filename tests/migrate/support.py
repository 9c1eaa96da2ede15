"""Shared by the tests of the migration: a TOML that knows both stores, rows, what is in a store,
and a stop at any step of the migrator."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.harness.values import SMALL, python_rows, small_rows

import aiovec
import aiovec_migrate
from aiovec import AiovecError, MigrationError, Schema, VectorStore
from aiovec_migrate import Options, Report

WAYS = {"there": ("sqlite", "lancedb"), "back": ("lancedb", "sqlite")}
"""Both directions in which a TOML can switch."""
THERE_FIRST, BACK_FIRST = (
    pytest.mark.parametrize("way", [first, pytest.param(other, marks=pytest.mark.slow)])
    for first, other in (WAYS, list(WAYS)[::-1])
)
"""Tests of both directions, one of which is enough each day."""
FILES = {"sqlite": "notes.db", "lancedb": "notes.lance"}
"""The names that ``write_toml`` gives each backend's store."""
SWITCH = Options(switch=True)

Contents = dict[str, tuple[str, dict[str, dict[str, Any]]]]
"""Of each table its schema as JSON, and its rows by their ids."""


def write_toml(folder: Path, backend: str, *, lancedb: str = "notes.lance", more: str = "") -> Path:
    """A TOML that knows a SQLite file and a LanceDB folder beside it."""
    config = folder / "aiovec.toml"
    config.write_text(
        "# where the app's vectors are\n"
        "[retrieval]\n"
        f'backend = "{backend}"  # the present one\n'
        'sqlite_path = "notes.db"\n'
        f'lancedb_url = "{lancedb}"\n' + more,
        encoding="utf-8",
    )
    return config


def named(config: Path) -> str:
    """The backend that the TOML names."""
    backend: str = tomllib.loads(config.read_text("utf-8"))["retrieval"]["backend"]
    return backend


def place_of(config: Path, backend: str) -> str:
    """The store of one backend, as one opens it without the TOML."""
    path = str(config.with_name(FILES[backend]))
    return path if backend == "sqlite" else f"lancedb://{path}"


def rows(prefix: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    made = small_rows(count, seed=sum(prefix.encode()), **fields)
    return [{**row, "id": f"{prefix}/{n}"} for n, row in enumerate(made)]


async def fill(store: VectorStore, *tables: str, count: int = 40, schema: Schema = SMALL) -> None:
    """Tables with rows, some of which do not stand where they were inserted."""
    for table in tables:
        await store.create_table(table, schema)
        if count:
            await store.insert(table, rows("r", count))
            await store.delete(table, ["r/0", "r/17"])
            await store.upsert(table, [{**rows("r", 6)[5], "name": "again"}])


async def a_store(folder: Path, backend: str, *tables: str, **options: Any) -> Path:
    """The TOML of a store with rows."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    config = await asyncio.to_thread(write_toml, folder, backend)
    async with aiovec.connect(config=config) as store:
        await fill(store, *(tables or ("notes",)), **options)
    return config


async def switched(config: Path, target: str, **more: Any) -> Report:
    """A run that leads the stores of the TOML to this backend."""
    if (step := more.pop("step", None)) is not None:
        more["_step"] = step
    options = {"config": config, "options": SWITCH, **more}
    return await aiovec_migrate.run(None, target, **options)


# What is in a store


async def contents(store: VectorStore) -> Contents:
    """All that is in a store, vectors bit by bit and payloads as JSON values."""
    result: Contents = {}
    for table in await store.tables():
        schema = await store.schema(table)
        rows: dict[str, dict[str, Any]] = {}
        async for batch in store.export(table):
            for row in await asyncio.to_thread(_comparable, batch, schema.vector):
                assert row["id"] not in rows, f"{row['id']} stands twice in {table}"
                rows[row["id"]] = row
        result[table] = (schema.to_json(), rows)
    return result


def _comparable(batch: pa.RecordBatch, vector: str) -> list[dict[str, Any]]:
    result = python_rows(batch)
    for row, value in zip(result, batch.column(vector), strict=True):
        row[vector] = value.values.to_numpy().tobytes() if value.is_valid else None
        if row.get("payload") is not None:
            row["payload"] = json.dumps(json.loads(row["payload"]), sort_keys=True)
    return result


async def contents_at(target: Path | str | None = None, *, config: Path | None = None) -> Contents:
    async with aiovec.connect(target, config=config) as store:
        return await contents(store)


def assert_same(wanted: Contents, actual: Contents) -> None:
    """Fail with the ids that differ."""
    assert sorted(wanted) == sorted(actual)
    for table in wanted:
        (schema, expected), (other_schema, present) = wanted[table], actual[table]
        assert schema == other_schema
        wrong = [id for id in expected | present if repr(expected.get(id)) != repr(present.get(id))]
        assert not wrong, f"{table}: {[(expected.get(id), present.get(id)) for id in wrong[:3]]}"


class Scene:
    """A store with rows, which a TOML leads to the other backend, in a folder of its own."""

    def __init__(self, folder: Path, way: str = "there") -> None:
        self.folder, self.config = folder, folder / "aiovec.toml"
        self.source, self.target = WAYS[way]
        self.wanted: Contents = {}
        """What the store in use must hold."""
        self.lost = ""
        """The backend whose store was moved away."""

    async def begin(self, step: str | None = None, *tables: str) -> None:
        """Fill the store, and switch; or let the run stop at the step."""
        await a_store(self.folder, self.source, *tables)
        self.wanted = await contents_at(config=self.config)
        if step is None:
            await switched(self.config, self.target)
        else:
            await stopped_at(step, lambda at: switched(self.config, self.target, step=at))

    async def refused(
        self,
        words: str,
        call: Awaitable[object] | None = None,
        *,
        error: type[AiovecError] = MigrationError,
    ) -> None:
        """Check that a call, or the same command again, ends with an error of these words."""
        with pytest.raises(error, match=words):
            await (call or switched(self.config, self.target))

    async def lose(self, backend: str) -> None:
        """Move a store away with all its files."""

        self.lost = backend

        def move() -> None:
            (self.folder / "aside").mkdir()
            for path in self.folder.glob(FILES[backend] + "*"):
                shutil.move(path, self.folder / "aside" / path.name)

        await asyncio.to_thread(move)

    async def find_again(self) -> None:
        """Move it back, over what took its place."""

        def move() -> None:
            for path in self.folder.glob(FILES[self.lost] + "*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in (self.folder / "aside").iterdir():
                shutil.move(path, self.folder / path.name)

        await asyncio.to_thread(move)

    async def is_whole(self, backend: str) -> None:
        """Check that the TOML names the backend, whose store holds all that is wanted."""
        assert named(self.config) == backend
        assert_same(self.wanted, await contents_at(config=self.config))


# A migrator that stops


class StoppedError(Exception):
    """The migrator has stopped here."""


class Stop:
    """An error at a step."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, step: str) -> None:
        if step == self.name:
            raise StoppedError(step)


class At:
    """Does something the first time that a migrator comes to a step."""

    def __init__(self, step: str, work: Callable[[], Awaitable[object]]) -> None:
        self.step = step
        self.work = work
        self.met = False
        self.last = ""

    async def __call__(self, step: str) -> None:
        self.last = step
        if step == self.step and not self.met:
            self.met = True
            await self.work()


Begin = Callable[[Callable[[str], Awaitable[None]]], Coroutine[Any, Any, Any]]


async def stopped_at(step: str, begin: Begin) -> None:
    """Begin what fails at the step."""
    with pytest.raises(StoppedError):
        await begin(Stop(step))


async def cancelled_at(step: str, begin: Begin) -> None:
    """Begin what stands still at the step, and cancel it there, twice."""
    reached = asyncio.Event()

    async def stand_still(name: str) -> None:
        if name == step:
            reached.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(begin(stand_still))
    await reached.wait()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def victim(config: Path, target: str, step: str) -> subprocess.Popen[bytes]:
    """A migrator in a process of its own, which kills itself at the step, as by ``kill -9``."""
    stored = json.dumps([str(config), target, step])
    return subprocess.Popen([sys.executable, "-m", "tests.migrate.victim", stored])
