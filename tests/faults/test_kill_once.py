"""Writes under keys whose process was killed: repeated, each is done, once."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

import aiovec

from .once_writer import SCHEMA, Owned, call, vector_of
from .test_kill import Journal, run_and_kill


class Told(Journal):
    """What the killed process said."""

    def __init__(self) -> None:
        super().__init__()
        self.owned: dict[str, Owned] = {}
        self.last: dict[str, list[Any]] = {}

    def listen(self, stream: Any) -> None:
        for line in stream:
            if not line.endswith("\n"):
                break
            kind, task, key, *rest = json.loads(line)
            if kind == "begin":
                self.last[task] = [key, *rest]
                self.owned[task] = rest[-1]
            else:
                del self.last[task]
                self.done.add(key)
                if len(self.done) > 40:
                    self.heard.set()


async def repeat(store: aiovec.VectorStore, journal: Told, *, exact: bool) -> None:
    """Repeat what was not acknowledged: all at once, and once more."""

    async def again(key: str, method: str, arguments: Any, options: Any, outcome: Any) -> None:
        found = await call(store, key, method, arguments, options)
        counts_what_is_left = method in ("delete", "delete_where") or options.get("on_conflict")
        if exact or not counts_what_is_left:
            assert found == outcome, (key, method, found, outcome)

    for _ in range(2):
        await asyncio.gather(*(again(*facts[:5]) for facts in journal.last.values()))


async def check(store: aiovec.VectorStore, journal: Told) -> None:
    rows = {id: row for owned in journal.owned.values() for id, row in owned["rows"].items()}
    tables = {name: f for owned in journal.owned.values() for name, f in owned["tables"].items()}
    found = {}
    for record in await store.find("notes", limit=len(rows) + 10, include_vector=True):
        assert record.vector is not None
        version = int(record.vector[1])
        assert record.vector.tolist() == vector_of(version)
        found[record.id] = [version, record["n"], record.fields.get("deep", {}).get("x")]
    assert found.keys() == rows.keys()
    assert {id: row for id, row in found.items() if row != rows[id]} == {}
    assert set(await store.tables()) == {"notes", *tables}
    for name, fields in tables.items():
        assert sorted((await store.schema(name)).fields) == sorted(fields)


async def begin(target: str) -> None:
    async with aiovec.connect(target) as store:
        await store.create_table("notes", SCHEMA)


async def end(target: str, journal: Told, *, exact: bool) -> None:
    async with aiovec.connect(target) as store:
        await repeat(store, journal, exact=exact)
        await check(store, journal)


def campaign(path: Path, place: str, rounds: int, seed: int) -> int:
    target = str(path / "a.db") if place == "sqlite" else f"lancedb://{path}/a"
    chance = random.Random(seed)
    asyncio.run(begin(target))
    journal = Told()
    repeated = 0
    for turn in range(rounds):
        journal.heard.clear()
        journal.done.clear()
        journal.last.clear()
        run_and_kill(
            target, "notes", turn, chance, writer="tests.faults.once_writer", journal=journal
        )
        repeated += len(journal.last)
        asyncio.run(end(target, journal, exact=place == "sqlite"))
    return repeated


@pytest.mark.slow
@pytest.mark.parametrize(("place", "rounds"), [("sqlite", 5), ("lancedb", 3)])
def test_killed_writers_with_keys(tmp_path: Path, place: str, rounds: int) -> None:
    assert campaign(tmp_path, place, rounds, 7) > rounds


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("place", ["sqlite", "lancedb"])
def test_killed_writers_with_keys_100_rounds(tmp_path: Path, place: str) -> None:
    campaign(tmp_path, place, 100, random.SystemRandom().randrange(10**6))
