"""Shared code of the migration tests: a TOML file with both stores, rows, the contents of a store,
and ways to stop the migrator at any step."""

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
"""The source and the target of a switch in both directions."""
THERE_FIRST, BACK_FIRST = (
    pytest.mark.parametrize("way", [first, pytest.param(other, marks=pytest.mark.slow)])
    for first, other in (WAYS, list(WAYS)[::-1])
)
"""Marks that test both directions; one of them is a slow test."""
FILES = {"sqlite": "notes.db", "lancedb": "notes.lance"}
"""The names that ``write_toml`` gives each backend's store."""
SWITCH = Options(switch=True)

Contents = dict[str, tuple[str, dict[str, dict[str, Any]]]]
"""The schema of each table as JSON, and its rows by id."""


def write_toml(folder: Path, backend: str, *, lancedb: str = "notes.lance", more: str = "") -> Path:
    """Write a TOML file that names a SQLite file and a LanceDB folder next to it."""
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
    """Return the backend that the TOML file selects."""
    backend: str = tomllib.loads(config.read_text("utf-8"))["retrieval"]["backend"]
    return backend


def place_of(config: Path, backend: str) -> str:
    """Return the target of a backend's store, to open it without the TOML file."""
    path = str(config.with_name(FILES[backend]))
    return path if backend == "sqlite" else f"lancedb://{path}"


def rows(prefix: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    made = small_rows(count, seed=sum(prefix.encode()), **fields)
    return [{**row, "id": f"{prefix}/{n}"} for n, row in enumerate(made)]


async def fill(store: VectorStore, *tables: str, count: int = 40, schema: Schema = SMALL) -> None:
    """Create tables with rows, some of which are not where they were inserted."""
    for table in tables:
        await store.create_table(table, schema)
        if count:
            await store.insert(table, rows("r", count))
            await store.delete(table, ["r/0", "r/17"])
            await store.upsert(table, [{**rows("r", 6)[5], "name": "again"}])


async def a_store(folder: Path, backend: str, *tables: str, **options: Any) -> Path:
    """Create a store with rows, and return its TOML file."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    config = await asyncio.to_thread(write_toml, folder, backend)
    async with aiovec.connect(config=config) as store:
        await fill(store, *(tables or ("notes",)), **options)
    return config


async def switched(config: Path, target: str, **more: Any) -> Report:
    """Run a migration that switches the TOML file to this backend; return its report."""
    if (step := more.pop("step", None)) is not None:
        more["_step"] = step
    options = {"config": config, "options": SWITCH, **more}
    return await aiovec_migrate.run(None, target, **options)


# The contents of a store


async def contents(store: VectorStore) -> Contents:
    """Return the contents of a store, with exact vectors, and payloads as JSON values."""
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
    """Check that contents are equal; fail with the rows that differ."""
    assert sorted(wanted) == sorted(actual)
    for table in wanted:
        (schema, expected), (other_schema, present) = wanted[table], actual[table]
        assert schema == other_schema
        wrong = [id for id in expected | present if repr(expected.get(id)) != repr(present.get(id))]
        assert not wrong, f"{table}: {[(expected.get(id), present.get(id)) for id in wrong[:3]]}"


class Scene:
    """A store with rows in its own folder, whose TOML file is switched to the other backend."""

    def __init__(self, folder: Path, way: str = "there") -> None:
        self.folder, self.config = folder, folder / "aiovec.toml"
        self.source, self.target = WAYS[way]
        self.wanted: Contents = {}
        """The expected contents of the store in use."""
        self.lost = ""
        """The backend whose store was moved away."""

    async def begin(self, step: str | None = None, *tables: str) -> None:
        """Fill the store, and switch it, or stop the run at the step."""
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
        """Check that a call, or the same command again, fails with an error that matches."""
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
        """Move the lost store back, replacing files in its place."""

        def move() -> None:
            for path in self.folder.glob(FILES[self.lost] + "*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in (self.folder / "aside").iterdir():
                shutil.move(path, self.folder / path.name)

        await asyncio.to_thread(move)

    async def is_whole(self, backend: str) -> None:
        """Check that the TOML file selects the backend, whose store has the expected contents."""
        assert named(self.config) == backend
        assert_same(self.wanted, await contents_at(config=self.config))


# A migrator that stops


class StoppedError(Exception):
    """The migrator has stopped here."""


class Stop:
    """Raises StoppedError at a step."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, step: str) -> None:
        if step == self.name:
            raise StoppedError(step)


class At:
    """Does some work when a migrator first reaches a step."""

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
    """Begin a migration that fails at the step."""
    with pytest.raises(StoppedError):
        await begin(Stop(step))


async def cancelled_at(step: str, begin: Begin) -> None:
    """Begin a migration that hangs at the step, and cancel it there twice."""
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
    """Start a migrator in another process, which kills itself at the step, as by ``kill -9``."""
    stored = json.dumps([str(config), target, step])
    return subprocess.Popen([sys.executable, "-m", "tests.migrate.victim", stored])
