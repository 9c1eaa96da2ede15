"""The folder of an open store is removed, or removed and made anew."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio import to_thread
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import case
from tests.harness.marks import begin_move

import aiovec
from aiovec import Schema, StoreReplacedError, VectorStore

from .support import backend_on

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files in their place")

SCHEMA = Schema(4, fields={"year": int, "title": str})
CALLS: dict[str, Callable[[VectorStore], Awaitable[object]]] = {
    "insert": lambda store: store.insert("t", rows("c")),
    "upsert": lambda store: store.upsert("t", rows("a")),
    "update": lambda store: store.update("t", {"year": 2}, ids="a"),
    "delete": lambda store: store.delete("t", "a"),
    "create_table": lambda store: store.create_table("u", SCHEMA),
    "drop_table": lambda store: store.drop_table("t"),
    "rename_table": lambda store: store.rename_table("t", "u"),
    "add_field": lambda store: store.add_field("t", "more", int),
    "drop_field": lambda store: store.drop_field("t", "year"),
    "rename_field": lambda store: store.rename_field("t", "year", "since"),
    "create_index": lambda store: store.create_index("t", "ivf_flat"),
    "create_field_index": lambda store: store.create_field_index("t", "year", "btree"),
    "optimize": lambda store: store.optimize("t"),
    "revert": lambda store: store.revert("t", 1),
    "get": lambda store: store.get("t", "a"),
    "find": lambda store: store.find("t"),
    "count": lambda store: store.count("t"),
    "search": lambda store: store.search("t", [1, 2, 3, 4]),
    "export": lambda store: exported(store),
    "tables": lambda store: store.tables(),
    "stats": lambda store: store.stats("t"),
    "ping": lambda store: store.ping(),
}


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"id": id, "embedding": [1.0, 2.0, 3.0, 4.0], "year": 1} for id in ids]


async def exported(store: VectorStore) -> list[Any]:
    return [batch async for batch in store.export("t")]


def remove(folder: Path) -> None:
    while folder.exists():  # upkeep may be making a file there
        shutil.rmtree(folder, ignore_errors=True)


def make_anew(folder: Path) -> None:
    """Most file systems give the new folder the inode of the old one."""
    remove(folder)
    folder.mkdir()


WAYS = [remove, make_anew]


def left_in(folder: Path) -> list[str]:
    return sorted(map(str, folder.parent.rglob("*")))


async def filled(folder: Path) -> VectorStore:
    store = await aiovec.connect(f"lancedb://{folder}")
    await store.create_table("t", SCHEMA)
    await store.insert("t", rows("a", "b"))
    assert await store.count("t") == 2
    return store


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_call_is_refused_and_makes_nothing(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    folder = tmp_path / "notes"
    async with await filled(folder) as store, backend_on(folder) as mover:
        calls = {**CALLS, "begin_move": lambda _: begin_move(mover, "run")}
        await to_thread(way, folder)
        before = await to_thread(left_in, folder)
        for name, call in calls.items():
            with case(name):
                with pytest.raises(StoreReplacedError) as caught:
                    await asyncio.wait_for(call(store), 60)
                assert caught.value.target == str(folder)
                assert await to_thread(left_in, folder) == before
    assert await to_thread(left_in, folder) == before
