"""Ids stay unique with indexes on the table too, while these are built and brought up to date.

An index on the id, or an append beside a merge, is where Lance's own check for keys ends.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aiovec
from aiovec import DuplicateIdError, Field, Schema, VectorStore

from . import racing
from .support import ids_in, numbered, rows

INDEXED = Schema(
    4,
    fields={"owner": Field(str, index="bitmap"), "year": Field(int, index="btree"),
            "tags": Field(list[str])},
)  # fmt: skip
PLAIN = Schema(4, fields={"owner": str, "year": int})
EARLIER = 400


def target(path: Path) -> str:
    return f"lancedb://{path / 'store'}"


async def make(path: Path, *, indexed: bool) -> None:
    async with aiovec.connect(target(path)) as store:
        await store.create_table("notes", INDEXED if indexed else PLAIN)
        await store.insert("notes", numbered(EARLIER))
        if indexed:
            await store.create_index("notes", "ivf_flat")
            assert await store.indexes("notes")


async def check(path: Path, added: int) -> None:
    async with aiovec.connect(target(path)) as store:
        ids = await ids_in(store)
        assert len(ids) == len(set(ids)) == EARLIER + added
        await store.optimize("notes")
        assert await ids_in(store) == ids


async def tidy(store: VectorStore, *, indexed: bool) -> None:
    while True:
        await store.optimize("notes")
        if indexed:
            await store.create_index("notes", "ivf_flat")
        await asyncio.sleep(0.05)


async def race(path: Path, rounds: int, *, indexed: bool) -> None:
    """Two stores insert and upsert the same ids, new and earlier ones, while a third tidies."""
    await make(path, indexed=indexed)
    async with (
        aiovec.connect(target(path)) as one,
        aiovec.connect(target(path)) as two,
        aiovec.connect(target(path)) as third,
    ):
        upkeep = asyncio.ensure_future(tidy(third, indexed=indexed))
        for n in range(rounds):
            assert not upkeep.done(), upkeep.exception()
            calls = [store.insert("notes", rows([f"i{n}"])) for store in (one, two)]
            calls += [store.upsert("notes", rows([f"u{n}", f"r{n:05}"])) for store in (one, two)]
            calls += [store.insert("notes", rows([f"i{n}x", f"r{n:05}"])) for store in (one, two)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert sorted(map(repr, outcomes[:2]))[0] == "1", outcomes
            assert sum(isinstance(outcome, DuplicateIdError) for outcome in outcomes[:2]) == 1
            assert outcomes[2:4] == [2, 2]
            # Versions vanish while these list them.
            told = await asyncio.gather(one.stats("notes"), two.versions("notes"))
            assert told[0].rows >= EARLIER
            assert told[1]
            assert all(isinstance(outcome, DuplicateIdError) for outcome in outcomes[4:])
        upkeep.cancel()
        await asyncio.wait({upkeep})
    await check(path, 2 * rounds)


async def test_two_stores_while_a_third_tidies(tmp_path: Path) -> None:
    await race(tmp_path, 6, indexed=True)


@pytest.mark.soak
@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
async def test_two_stores_200_rounds(tmp_path: Path, indexed: bool) -> None:
    await race(tmp_path, 200, indexed=indexed)


def processes(path: Path, rounds: int, *, indexed: bool) -> None:
    asyncio.run(make(path, indexed=indexed))
    won = racing.race(target(path), rounds, {})
    assert sum(won) == rounds
    asyncio.run(check(path, 3 * rounds + 1))


@pytest.mark.slow
def test_two_processes_on_an_indexed_table(tmp_path: Path) -> None:
    processes(tmp_path, 6, indexed=True)


@pytest.mark.soak
@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
def test_two_processes_200_rounds_on_a_folder(tmp_path: Path, indexed: bool) -> None:
    processes(tmp_path, 200, indexed=indexed)
