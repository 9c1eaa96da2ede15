"""Where a store lies: folders with any name, memory, and what cannot be a place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.contract.base import case
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import ConfigError

from .support import ids_in, listed, opened

SECRET = "hush-hush"


async def test_folders_with_odd_names(tmp_path: Path) -> None:
    for name in ("a b", "ü%20&", "x'y", "50%", ".hidden", "deep/er/still"):
        with case(name):
            target = f"lancedb://{tmp_path / name}"
            async with aiovec.connect(target) as store:
                await store.create_table("notes", SMALL)
                await store.insert("notes", small_rows(3))
                assert store.target == str(tmp_path / name)
            assert "notes.lance" in await listed(tmp_path / name)
            async with aiovec.connect(target) as store:
                assert await store.count("notes") == 3


async def test_a_store_in_memory_is_private_and_leaves_nothing() -> None:
    async with aiovec.connect("memory://") as first, aiovec.connect("memory://") as second:
        await first.create_table("notes", SMALL)
        await first.insert("notes", small_rows(3))
        assert await second.tables() == []
        await second.create_table("notes", SMALL)
        assert await asyncio.gather(first.count("notes"), second.count("notes")) == [3, 0]
        assert first.target == "memory://"
        assert not first.supports("moves")  # no other process could be told
    async with aiovec.connect("memory://") as again:
        assert await again.tables() == []


async def test_impossible_places_are_refused_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LANCEDB_API_KEY", raising=False)
    (tmp_path / "file").write_text("x")
    for place in (f"lancedb://{tmp_path / 'file'}", "s3://", "az://container/path", "db://notes"):
        with case(place), pytest.raises(ConfigError) as caught:
            await aiovec.connect(place)
    assert caught.value.key == "LANCEDB_API_KEY"
    missing = f"lancedb://{tmp_path / 'missing'}"
    with pytest.raises(aiovec.AiovecError, match="missing"):
        await aiovec.connect(missing, read_only=True)
    assert await listed(tmp_path) == ["file"]


async def test_two_names_of_one_folder(tmp_path: Path) -> None:
    """A link and the folder itself are one place, so their writers take turns."""
    (tmp_path / "real").mkdir()
    try:
        (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    async with opened(tmp_path / "real") as first, opened(tmp_path / "link") as second:
        await first.create_table("notes", SMALL)
        calls = [(first if n % 2 else second).upsert("notes", small_rows(3)) for n in range(20)]
        await asyncio.gather(*calls)
        assert await ids_in(first) == [row["id"] for row in small_rows(3)]
