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
async def test_a_relative_store_stays_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path)
    async with aiovec.connect(target(kind, "notes")) as store:
        await store.create_table("t", Schema(4))
        os.chdir("else")
        await store.insert("t", ROWS)
        await asyncio.gather(*(store.search("t", [1, 2, 3, 4]) for _ in range(8)))
        await store.create_table("u", Schema(4))
        await store.optimize("t")
        assert sum([len(batch) async for batch in store.export("t")]) == 10
    assert os.listdir(tmp_path / "else") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no folder that is in use")
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
async def test_a_store_survives_the_removal_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path)
    async with aiovec.connect(target(kind, "notes")) as store:
        await store.create_table("t", Schema(4))
        os.chdir("gone")
        (tmp_path / "gone").rmdir()
        assert await store.insert("t", ROWS) == 10
        assert len(await store.search("t", [1, 2, 3, 4])) == 10
    absolute = target(kind, str(tmp_path / "notes"))
    async with aiovec.connect(absolute) as store:
        assert await store.count("t") == 10
    with pytest.raises(ConfigError, match=r"current folder, which was removed; use an absolute"):
        await aiovec.connect(target(kind, "notes"))
