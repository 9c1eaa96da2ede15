"""An open store belongs to the event loop that opened it, and to the place that it found."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import AiovecError, Schema, sync


def test_a_store_belongs_to_the_event_loop_that_opened_it(tmp_path: Path) -> None:
    def elsewhere(call: Coroutine[Any, Any, object]) -> None:
        async def made() -> None:
            with pytest.raises(AiovecError, match="belongs to the event loop that opened it"):
                await call

        asyncio.run(made())

    async def exported() -> None:
        async for _ in store.export("notes"):
            pass

    with asyncio.Runner() as runner:
        store = runner.run(aiovec.connect(tmp_path / "a.db").__aenter__())
        runner.run(store.create_table("notes", Schema(2)))
        for call in (store.count("notes"), store.search("notes", [1, 0]), exported()):
            elsewhere(call)
        elsewhere(store.close())
        assert runner.run(store.count("notes")) == 0
        runner.run(store.close())
    asyncio.run(store.close())  # there is nothing left to close


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_store_is_neither_copied_nor_pickled(copied: Callable[[Any], Any]) -> None:
    async def refused() -> None:
        async with aiovec.connect(":memory:") as store:
            check(store, store.table("notes"))
            assert await store.tables() == []

    def check(*stores: object) -> None:
        for store in stores:
            with pytest.raises(TypeError, match="open a store in each process"):
                copied(store)

    asyncio.run(refused())
    with sync.connect(":memory:") as blocking:
        check(blocking, blocking.table("notes"))
        assert blocking.tables() == []


async def test_a_changed_line_of_the_file_counts_when_a_store_is_opened(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "a.db"\n')
    async with aiovec.connect(config=config) as before:
        await before.create_table("notes", Schema(2))
        config.write_text('[retrieval]\nsqlite_path = "b.db"\n')
        assert await before.tables() == ["notes"]
        async with aiovec.connect(config=config) as after:
            assert await after.tables() == []
            assert Path(after.target).name == "b.db"
