"""``optimize`` and calls that drop or make an index meanwhile do not fail because of each other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiovec_lancedb.index import build
from aiovec_lancedb.index.fields import lacking

from .support import SMALL, numbered, opened


@pytest.mark.slow
@pytest.mark.parametrize("turns", [5, pytest.param(50, marks=pytest.mark.soak)])
async def test_optimize_while_an_index_is_dropped(tmp_path: Path, turns: int) -> None:
    """The drop comes at another moment each turn, over 20 ms."""
    async with opened(tmp_path / "store", index_from=10**6) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(2000))
        for turn in range(turns):
            await store.create_index("notes", "ivf_flat")
            (index,) = await store.indexes("notes")

            async def drop(name: str = index.name, turn: int = turn) -> None:
                await asyncio.sleep(0.02 * turn / turns)
                await store.drop_index("notes", name)

            await asyncio.gather(store.optimize("notes"), drop())
            assert await store.indexes("notes") == []


async def test_upkeep_makes_the_index_of_a_field_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for the index and its build, upkeep of another store makes it."""
    async with opened(tmp_path / "store") as store, opened(tmp_path / "store") as other:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(20))

        upkeep: list[asyncio.Task[None]] = []

        async def overtaken(*arguments: Any) -> list[tuple[str, Any]]:
            found = await lacking(*arguments)
            if not upkeep:
                upkeep.append(asyncio.create_task(other.optimize("notes")))
                while await lacking(*arguments):
                    await arguments[1].checkout_latest()
            return found

        monkeypatch.setattr(build, "lacking", overtaken)
        await store.create_field_index("notes", "year", "btree")
        await upkeep[0]
        assert (await store.schema("notes")).fields["year"].index == "btree"
        assert await store.count("notes", "year = 7") == 1
