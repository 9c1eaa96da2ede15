"""``optimize`` does not fail because another task drops an index of the table meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .support import SMALL, numbered, opened


async def test_optimize_while_an_index_is_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path / "store", index_from=10**6) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(2000))
        for turn in range(10):
            await store.create_index("notes", "ivf_flat")
            (index,) = await store.indexes("notes")

            async def drop(name: str = index.name, turn: int = turn) -> None:
                await asyncio.sleep(turn / 400)
                await store.drop_index("notes", name)

            await asyncio.gather(store.optimize("notes"), drop())
            assert await store.indexes("notes") == []
