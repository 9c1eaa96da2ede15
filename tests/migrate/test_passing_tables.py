"""Until a store is marked its apps may drop tables, and make them anew, under every look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aiovec
import aiovec_migrate
from aiovec import MigrationError, TableNotFoundError, VectorStore
from aiovec_lancedb.store import LancedbBackend
from aiovec_migrate import Options
from aiovec_sqlite.store import SqliteBackend

from .support import contents_at, differences, migrated, rolled_back, write_toml
from .test_ends import SWITCH, a_store, place_of

PASSING = "passing"
BACKENDS: dict[str, Any] = {"sqlite": SqliteBackend, "lancedb": LancedbBackend}
Meets = Callable[..., Awaitable[None]]


@pytest.fixture
def meets(monkeypatch: pytest.MonkeyPatch) -> Meets:
    """Has a table dropped just behind each call that told of it, as long as a store lets that be.

    With ``returns`` it is there again, with another schema.
    """

    async def then(
        app: VectorStore, backend: str, call: str, returns: bool, *, patience: float = 30.0
    ) -> None:
        told = getattr(BACKENDS[backend], call)
        busy, model = False, 0

        async def dropped(self: Any, *args: Any) -> Any:
            nonlocal busy, model
            result = await told(self, *args)
            if busy or PASSING not in (result if call == "tables" else args):
                return result
            busy = True
            try:
                async with asyncio.timeout(patience):
                    await app.drop_table(PASSING)
                    if returns and model < 3:
                        model += 1
                        await app.create_table(PASSING, aiovec.Schema(2, model=str(model)))
            except (MigrationError, TableNotFoundError, TimeoutError):
                pass
            finally:
                busy = False
            return result

        await app.create_table(PASSING, aiovec.Schema(2))
        monkeypatch.setattr(BACKENDS[backend], call, dropped)

    return then


@pytest.mark.slow
@pytest.mark.parametrize("returns", [False, True], ids=["goes", "returns"])
@pytest.mark.parametrize(
    ("backend", "call"),
    [
        ("sqlite", "open_table"),
        ("lancedb", "tables"),
        pytest.param("sqlite", "tables", marks=pytest.mark.soak),
        pytest.param("lancedb", "open_table", marks=pytest.mark.soak),
    ],
)
async def test_a_run_and_its_way_back(
    tmp_path: Path, meets: Meets, backend: str, call: str, returns: bool
) -> None:
    config = await a_store(tmp_path, backend)
    wanted = await contents_at(config=config)
    other = "lancedb" if backend == "sqlite" else "sqlite"
    async with aiovec.connect(config=config) as app:
        # A pause of the writers waits for these calls.
        await meets(app, backend, call, returns, patience=0.3)
        plan = await aiovec_migrate.plan(None, other, config=config, options=SWITCH)
        assert not plan.problems
        await migrated(None, other, config=config, options=SWITCH)
        if PASSING in await app.tables():
            await app.drop_table(PASSING)
        await meets(app, other, call, returns, patience=0.3)
        await rolled_back(config=config)
        if PASSING in await app.tables():
            await app.drop_table(PASSING)
        assert app.backend_name == backend
    assert differences(wanted, await contents_at(config=config)) == []


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_sync_leaves_out_what_goes(tmp_path: Path, meets: Meets, backend: str) -> None:
    config = await a_store(tmp_path, backend)
    other = place_of(config, "lancedb" if backend == "sqlite" else "sqlite")
    place = place_of(config, backend)
    async with aiovec.connect(place) as app:
        await meets(app, backend, "tables", False)
        found = await aiovec_migrate.sync(place, other)
        assert list(found) == ["notes"]
        with pytest.raises(TableNotFoundError, match="passing"):
            await aiovec_migrate.sync(place, other, tables=(PASSING,))


async def test_a_plan_names_the_wanted_table_that_goes(tmp_path: Path, meets: Meets) -> None:
    config = await a_store(tmp_path, "sqlite")
    async with aiovec.connect(config=config) as app:
        await meets(app, "sqlite", "tables", False)
        plan = await aiovec_migrate.plan(
            None, "lancedb", config=config, options=Options(tables=("notes", PASSING))
        )
    assert [problem.kind for problem in plan.problems] == ["missing-table"]
    assert str(plan.problems[0]).endswith("its tables are: notes")


async def test_a_store_opens_whose_preloaded_table_goes(tmp_path: Path, meets: Meets) -> None:
    more = f"[retrieval.sqlite]\npreload = ['{PASSING}']\n"
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite", more=more)
    async with aiovec.connect(config=config) as app:
        await meets(app, "sqlite", "tables", False)
        async with aiovec.connect(config=config) as store:
            assert await store.tables() == []
