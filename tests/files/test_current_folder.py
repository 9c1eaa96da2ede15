"""A store stays where it is when the current folder changes or is removed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import aiovec
from aiovec import ConfigError, Schema

ROWS = [{"id": f"{n}", "embedding": [n, 1, 2, 3]} for n in range(10)]


def target(kind: str, name: str) -> str:
    return f"{name}.db" if kind == "sqlite" else f"lancedb://{name}"


@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
async def test_a_relative_store_stays_in_its_folder_when_the_current_one_changes_or_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    async with aiovec.connect(target(kind, "notes")) as store:
        await store.create_table("t", Schema(4))
        os.chdir(other)
        await store.insert("t", ROWS)
        await asyncio.gather(*(store.search("t", [1, 2, 3, 4]) for _ in range(8)))
        await store.create_table("u", Schema(4))
        await store.optimize("t")
        assert sum([len(batch) async for batch in store.export("t")]) == 10
        assert os.listdir(other) == []
        if os.name == "nt":  # Windows cannot remove a folder that is in use
            return
        other.rmdir()
        assert await store.insert("u", ROWS) == 10
        assert len(await store.search("t", [1, 2, 3, 4])) == 10
    async with aiovec.connect(target(kind, str(tmp_path / "notes"))) as store:
        assert await store.count("u") == 10
    with pytest.raises(ConfigError, match=r"current folder, which was removed; use an absolute"):
        await aiovec.connect(target(kind, "notes"))
