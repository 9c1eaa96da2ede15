"""A process that is killed while it writes, compacts and builds indexes loses nothing that it
acknowledged, and leaves a table that opens, with each id once, and no lock."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tests.faults.test_kill import Journal, check_tables, run_and_kill, settle
from tests.sqlite.support import SCHEMAS, State, python, vector

import aiovec
from aiovec import Field, Schema, TableNotFoundError, VectorStore
from aiovec_lancedb.locks.bucket import TERM

from .buckets import s3_server
from .support import opened

TABLES: dict[str, Schema] = {name: SCHEMAS[name] for name in ("plain", "indexed")}


class TidyJournal(Journal):
    """Knows too what the killed process was tidying."""

    def __init__(self) -> None:
        super().__init__()
        self.tidying = "over"

    def said(self, kind: str, what: str) -> None:
        assert kind == "tidy"
        self.tidying = what


async def check_own_tables(place: Path | str, journal: Journal) -> None:
    patience = 30.0 if isinstance(place, Path) else 2 * TERM
    async with opened(place, busy_timeout=patience) as store:
        await check_tables(store, journal)


async def create(place: Path | str) -> None:
    async with opened(place) as store:
        for name, schema in TABLES.items():
            await store.create_table(name, schema)


async def records(place: Path | str, table: str) -> dict[str, aiovec.Record]:
    """Every row, after checks that each way of reading tells the same."""
    # Whoever were kept out by a lock that was left behind would wait for longer. In a bucket it
    # is left behind, until others may take it over.
    patience = 30.0 if isinstance(place, Path) else 2 * TERM
    async with opened(place, busy_timeout=patience) as store:
        assert sorted(await store.tables()) == sorted(TABLES)
        exported = [
            id async for batch in store.export(table) for id in batch.column("id").to_pylist()
        ]
        assert len(exported) == len(set(exported)), "an id stands twice"
        found = {record.id: record for record in await store.get(table, exported)}
        assert sorted(found) == sorted(exported)
        assert await store.count(table) == len(found)
        for record in list(found.values())[:3]:
            for exact in (True, False):
                hits = await store.search(table, record.vector, limit=len(found), exact=exact)
                assert len({hit.id for hit in hits}) == len(hits)
                assert not exact or len(hits) == len(found)
            by_filter = await store.find(table, f"id = '{record.id}'")
            assert [one.id for one in by_filter] == [record.id]
        await _write_on(store, table)
    return found


async def _write_on(store: VectorStore, table: str) -> None:
    row = State(1, 1).row("probe", "probe")
    assert await store.insert(table, [row]) == 1
    hits = await store.search(table, vector("probe", 1), limit=3, where="id = 'probe'")
    assert [hit.id for hit in hits] == ["probe"]
    assert await store.upsert(table, [row]) == 1
    assert await store.delete(table, ["probe"]) == 1


def campaign(place: Path | str, rounds: int, seed: int) -> tuple[int, list[str]]:
    """Rounds on one store, each from what the last one left: the acknowledged calls, and what
    was being tidied at each kill."""
    chance = random.Random(seed)
    target = f"lancedb://{place}" if isinstance(place, Path) else place
    asyncio.run(create(place))
    expected: dict[str, dict[str, State]] = {name: {} for name in TABLES}
    acknowledged = 0
    met = []
    for turn in range(rounds):
        table = list(TABLES)[turn % len(TABLES)]
        journal = TidyJournal()
        run_and_kill(
            target, table, turn, chance,
            writer="tests.lancedb.kill_writer", journal=journal,
        )  # fmt: skip
        acknowledged += len(journal.done)
        met.append(journal.tidying)
        asyncio.run(check_own_tables(place, journal))
        settle(journal, expected[table], asyncio.run(records(place, table)))
    return acknowledged, met


def test_killed_processes(tmp_path: Path) -> None:
    acknowledged, _ = campaign(tmp_path / "store", 3, seed=3)
    assert acknowledged > 2


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_killed_processes_500_rounds(tmp_path: Path, part: int) -> None:
    """50 of them in each part."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # noqa: T201 - to run a failed campaign again
    acknowledged, met = campaign(tmp_path / "store", 50, seed)
    assert acknowledged > 50
    assert met.count("optimize") + met.count("index") > 5, met


@pytest.mark.soak
def test_killed_processes_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        acknowledged, _ = campaign(bucket.new_url(), 13, seed=9)
    assert acknowledged > 12


CREATOR = """
import asyncio, json, os, sys
import aiovec

def say(*facts):
    os.write(1, json.dumps(facts).encode() + b"\\n")

async def main(target, turn):
    schema = aiovec.Schema(4, fields={"year": int, "lang": aiovec.Field(str, index="bitmap")})
    row = {"id": "a", "embedding": [1, 2, 3, 4]}

    async def work(name):
        n = 0
        while True:
            table = f"t{turn}-{name}-{n}"
            n += 1
            say("create", table)
            await store.create_table(table, schema)
            await store.insert(table, [row])
            say("created", table)
            if n % 3:
                say("drop", table)
                await store.drop_table(table)
                say("dropped", table)

    async with aiovec.connect(target) as store, asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(work(name))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def _killed_creator(target: str, turn: int, chance: random.Random) -> dict[str, str]:
    """What the killed process said last of each table."""
    process = python("-c", CREATOR, target, str(turn), stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines: list[bytes] = []
    try:
        # By what it has come to, and not by time alone: on a busy machine that is little.
        lines += [process.stdout.readline() for _ in range(chance.randint(1, 12))]
        time.sleep(0.05 * chance.random())
        assert process.poll() is None, "the process ended by itself"
    finally:
        process.kill()
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
    return {table: said for said, table in map(json.loads, lines)}


async def _check_tables(path: Path, last: dict[str, str]) -> None:
    schema = Schema(4, fields={"year": int, "lang": Field(str, index="bitmap")})
    async with opened(path, busy_timeout=30.0) as store:
        names = await store.tables()
        for table, said in last.items():
            if said == "created":
                assert await store.count(table) == 1, table
            elif said == "dropped":
                assert table not in names
            elif said == "create" and table in names:
                # Its creation may have been whole, and so may its row.
                assert await store.count(table) in (0, 1)
            elif said == "drop" and table in names:
                assert await store.count(table) == 1
            if table in names:
                await store.drop_table(table)
            with pytest.raises(TableNotFoundError):
                await store.count(table)
            await store.create_table(table, schema)
            assert await store.insert(table, [{"id": "b", "embedding": [1, 2, 3, 4]}]) == 1
            await store.drop_table(table)
        assert await store.tables() == []


def creations(path: Path, rounds: int, seed: int) -> set[str]:
    chance = random.Random(seed)
    met: set[str] = set()
    for turn in range(rounds):
        last = _killed_creator(f"lancedb://{path}", turn, chance)
        met |= set(last.values())
        asyncio.run(_check_tables(path, last))
    return met


def test_killed_creations_and_drops(tmp_path: Path) -> None:
    # Of these rounds two are killed behind ten lines, of which one at least tells "dropped": the
    # three tasks say three lines each before that.
    assert "dropped" in creations(tmp_path / "store", 4, seed=3)


@pytest.mark.soak
def test_many_killed_creations_and_drops(tmp_path: Path) -> None:
    assert creations(tmp_path / "store", 60, seed=2) == {"create", "created", "drop", "dropped"}


DROPPER = """
import asyncio, os, sys
import aiovec

async def main(target):
    async with aiovec.connect(target) as store:
        for table in await store.tables():
            os.write(1, b"drop\\n")
            await store.drop_table(table)

asyncio.run(main(sys.argv[1]))
"""
_DROPPED, _ROWS_OF_IT = 6, 20


async def _make_tables(path: Path) -> None:
    async with opened(path, index="none") as store:
        for n in range(_DROPPED):
            await store.create_table(f"t{n}", Schema(4))
            for row in range(_ROWS_OF_IT):  # of many files
                await store.insert(f"t{n}", [{"id": f"{row}", "embedding": [1, 2, 3, row]}])


async def _check_whole(path: Path) -> int:
    async with opened(path, busy_timeout=30.0) as store:
        names = await store.tables()
        for name in names:
            ids = [id async for batch in store.export(name) for id in batch["id"].to_pylist()]
            assert len(ids) == _ROWS_OF_IT
            assert await store.count(name) == _ROWS_OF_IT
        return len(names)


def killed_drops(folder: Path, rounds: int, seed: int) -> int:
    """Kill a process while it drops a table, and return how often one was left to be dropped."""
    chance = random.Random(seed)
    asyncio.run(_make_tables(folder / "made"))
    left = 0
    for turn in range(rounds):
        place = folder / f"store{turn}"
        shutil.copytree(folder / "made", place)
        process = python("-c", DROPPER, f"lancedb://{place}", stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            for _ in range(chance.randint(1, _DROPPED)):
                assert process.stdout.readline()
            time.sleep(0.02 * chance.random())
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        left += asyncio.run(_check_whole(place))
        assert not list(place.glob(".*.dropped")), "the next one who opens it removes the rest"
        shutil.rmtree(place)
    return left


def test_killed_drops_are_whole_or_not_at_all(tmp_path: Path) -> None:
    """Half of a table was left, which was listed and could not be read."""
    assert killed_drops(tmp_path, 4, seed=1) > 0


@pytest.mark.soak
def test_many_killed_drops(tmp_path: Path) -> None:
    assert killed_drops(tmp_path, 100, seed=int.from_bytes(os.urandom(4))) > 0
