"""The folder of an open store is removed, or removed and made anew."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from asyncio import to_thread
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import pytest
from tests.contract.base import case
from tests.contract.tables import CALLS, On
from tests.harness.marks import begin_move
from tests.harness.values import SMALL, small_rows

from aiovec import OutcomeUnknownError, StoreReplacedError

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


async def test_writes_whose_folder_is_put_away_at_their_commit_are_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are they done again in the folder that a restore has put into its place. If the folder
    cannot be looked at, their outcome is unknown."""
    folder, add, stat = tmp_path / "notes", lancedb.AsyncTable.add, os.stat

    def failing(path: Any, **options: Any) -> os.stat_result:
        if path == folder:
            raise OSError(errno.EIO, "input/output error")
        return stat(path, **options)

    async def unreadable(*args: Any) -> None:
        await add(*args)
        monkeypatch.setattr(os, "stat", failing)

    async def restored(*args: Any) -> None:
        await add(*args)
        await to_thread(folder.rename, tmp_path / "away")
        await to_thread(shutil.copytree, tmp_path / "backup", folder)

    async with opened(folder) as store:
        await store.create_table("t", SMALL)
        await to_thread(shutil.copytree, folder, tmp_path / "backup")
        for start, way in ((0, unreadable), (4, restored)):
            monkeypatch.setattr(lancedb.AsyncTable, "add", way)
            inserts = [store.insert("t", [row]) for row in small_rows(4, start=start)]
            outcomes = await asyncio.gather(*inserts, return_exceptions=True)
            monkeypatch.setattr(os, "stat", stat)
            unknown = [one for one in outcomes if isinstance(one, OutcomeUnknownError)]
            if way is restored:
                assert [type(outcome) for outcome in outcomes] == [StoreReplacedError] * 4
            else:  # of one that did not join, nothing was done
                assert unknown
                assert unknown[0].target == str(folder)
                assert "its folder could not be checked" in str(unknown[0])
    async with opened(folder) as other:
        assert await other.count("t") == 0
