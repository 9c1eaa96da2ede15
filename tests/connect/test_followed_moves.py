"""Stores that follow a move: the new backend is opened once, and one that fails is closed again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.connect.toy import Toy, ToyPlugin, created, install

import aiovec
from aiovec import StoreMovedError

CONFIG = """
[retrieval]
backend = "left"
left_url = "left://old"
found_url = "{url}"
"""


class Left(Toy):
    """A store that has moved to the one that the TOML file names beside it."""

    config = ""

    async def tables(self) -> list[str]:
        raise StoreMovedError(self.target, "found://new", backend="found", config=self.config)


class Found(Toy):
    async def open(self) -> None:
        await asyncio.sleep(0)  # so that other calls find it half open
        await super().open()

    async def close(self) -> None:
        await super().close()
        if self.target == "toy://broken":
            raise OSError("nor can it be closed")


class LeftPlugin(ToyPlugin):
    name = "left"

    def create(self, address: str, settings: Any) -> Any:
        created.append(Left(address, settings))
        return created[-1]


class FoundPlugin(ToyPlugin):
    name = "found"

    def create(self, address: str, settings: Any) -> Any:
        created.append(Found(address.replace("found", "toy"), settings))
        return created[-1]


async def test_calls_at_once_open_the_new_store_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = {"left": f"{__name__}:LeftPlugin", "found": f"{__name__}:FoundPlugin"}
    install(monkeypatch, tmp_path / "site", **plugins)
    config = tmp_path / "aiovec.toml"
    monkeypatch.setattr(Left, "config", str(config))
    config.write_text(CONFIG.format(url="found://broken"))
    async with aiovec.connect(config=config) as store:
        with pytest.raises(OSError, match="it is broken") as caught:
            await store.tables()
        assert any("nor can it be closed" in note for note in caught.value.__notes__)
        assert store.target == "left://old"
        config.write_text(CONFIG.format(url="found://new"))
        calls = await asyncio.gather(*(store.tables() for _ in range(5)))
        assert calls == [["toy://new"]] * 5
    lives = [(backend.target, backend.done) for backend in created]
    assert lives == [
        (target, ["open", "close"]) for target in ("left://old", "toy://broken", "toy://new")
    ]
