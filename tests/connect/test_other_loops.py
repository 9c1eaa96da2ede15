"""Where no event loop of asyncio runs, opening a store says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import aiovec
from aiovec import AiovecError


def test_opening_under_trio(tmp_path: Path) -> None:
    """B9: trio's own tasks cannot await what asyncio drives."""
    trio = pytest.importorskip("trio")

    async def enter() -> None:
        async with aiovec.connect(tmp_path / "notes.db"):
            pass

    async def wait() -> None:
        await aiovec.connect(tmp_path / "notes.db")

    for call in (enter, wait):
        with pytest.raises(AiovecError, match="asyncio"):
            trio.run(call)
    assert not list(tmp_path.iterdir())


def test_opening_without_any_loop(tmp_path: Path) -> None:
    with pytest.raises(AiovecError, match="asyncio"):
        aiovec.connect(tmp_path / "notes.db").__await__().send(None)
