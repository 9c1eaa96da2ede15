"""The folder of an open store is removed, or removed and made anew."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio import to_thread
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.base import case
from tests.contract.tables import CALLS, On
from tests.harness.marks import begin_move
from tests.harness.values import SMALL, small_rows

from aiovec import StoreReplacedError

from .support import backend_on, opened

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files in their place")

MORE: dict[str, On] = {
    "create_table": lambda store, _: store.create_table("u", SMALL),
    "rename_table": lambda store, table: store.rename_table(table, "u"),
    "create_index": lambda store, table: store.create_index(table, "ivf_flat"),
    "revert": lambda store, table: store.revert(table, 1),
    "tables": lambda store, _: store.tables(),
    "ping": lambda store, _: store.ping(),
}


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


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_call_is_refused_and_makes_nothing(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    folder = tmp_path / "notes"
    async with opened(folder) as store, backend_on(folder) as mover:
        await store.create_table("t", SMALL)
        await store.insert("t", small_rows(2))
        assert await store.count("t") == 2
        calls = {**CALLS, **MORE, "begin_move": lambda *_: begin_move(mover, "run")}
        await to_thread(way, folder)
        before = await to_thread(left_in, folder)
        for name, call in calls.items():
            with case(name):
                with pytest.raises(StoreReplacedError) as caught:
                    await asyncio.wait_for(call(store, "t"), 60)
                assert caught.value.target == str(folder)
                assert await to_thread(left_in, folder) == before
    assert await to_thread(left_in, folder) == before
