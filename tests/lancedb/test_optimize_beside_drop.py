"""``optimize`` does not fail because another task drops an index of the table meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .support import SMALL, numbered, opened


@pytest.mark.parametrize("turns", [5, pytest.param(50, marks=pytest.mark.long)])
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
