"""A million calls against the oracle, and a short form of it for every place."""

from __future__ import annotations

from pathlib import Path

import pytest

import aiovec
from aiovec import VectorStore
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings

from .operations import Course

# Each place with the calls of one part, and how many parts: most of them where a call is cheap.
PLACES = {
    "sqlite-memory": (100_000, 8),
    "sqlite-file": (35_000, 4),
    "lancedb-memory": (10_000, 4),
    "lancedb-folder": (5_000, 4),
}
PARTS = [(place, part) for place, (_, parts) in PLACES.items() for part in range(parts)]


def course(place: str, folder: Path, seed: int) -> Course:
    async def opening() -> VectorStore:
        if place == "lancedb-memory":
            backend = LancedbBackend("memory://", LancedbSettings())
            await backend.open()
            return VectorStore(backend, RetrievalSettings())
        if place == "lancedb-folder":
            return await aiovec.connect(f"lancedb://{folder / 'store'}")
        return await aiovec.connect(":memory:" if place == "sqlite-memory" else folder / "notes.db")

    return Course(opening, seed, reopen=not place.endswith("memory"))


@pytest.mark.parametrize(
    ("place", "operations"),
    [
        ("sqlite-memory", 1000),
        ("sqlite-file", 300),
        ("lancedb-memory", 100),
        ("lancedb-folder", 60),
    ],
)
async def test_operations_against_the_oracle(place: str, operations: int, tmp_path: Path) -> None:
    one = course(place, tmp_path, seed=4)
    await one.run(operations)
    assert one.done == operations
    assert one.refused


def test_they_are_a_million() -> None:
    assert sum(operations * parts for operations, parts in PLACES.values()) == 1_000_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("place", "part"), PARTS)
async def test_a_million_operations(place: str, part: int, tmp_path: Path) -> None:
    operations, _ = PLACES[place]
    one = course(place, tmp_path, seed=1000 + part)
    await one.run(operations)
    assert one.done == operations
    assert one.refused
