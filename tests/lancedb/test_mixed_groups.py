"""Writes of every kind that arrive together: they share commits, and each call has the result that
it would have had behind the ones before it, alone."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from tests.contract.base import case
from tests.harness import syscalls
from tests.harness.oracle import Oracle
from tests.harness.processes import output_of

import aiovec
from aiovec import DuplicateIdError, Field, InvalidRowError, Schema, VectorStore

from .buckets import s3_server
from .support import opened

SCHEMA = Schema(
    4,
    fields={
        "year": Field(int, index="btree"), "score": float, "name": str, "tags": list[str],
        "on": bool,
    },
    vector_nullable=True,
)  # fmt: skip

Row = dict[str, Any]


def _row(rng: random.Random, id: str) -> Row:
    return {
        "id": id,
        "embedding": rng.choice([None, [float(rng.randrange(9)) for _ in range(4)]]),
        "year": rng.choice([None, rng.randrange(100)]),
        "score": rng.choice([0.5, -0.0, 1e300, None]),
        "name": rng.choice(["a'b", "", "Žluťoučký", None]),
        "tags": rng.choice([[], ["x", "y"], None]),
        "on": rng.choice([True, False, None]),
        "own": rng.choice([1, 2.5, "text", {"deep": [1, None]}, 2**53 + 1, None]),
    }


Call = Callable[[Any], Any]
"""A call of a store, or of the oracle."""


def _call(rng: random.Random, ids: list[str]) -> Call:
    """A call on some rows."""
    chosen = rng.sample(ids, rng.choice([1, 1, 1, 1, 2, 5]))
    rows = [_row(rng, id) for id in chosen]
    match rng.randrange(9):
        case 0:
            return lambda s: s.insert("notes", rows)
        case 1:
            return lambda s: s.insert("notes", rows, on_conflict="skip")
        case 2 | 3:
            return lambda s: s.upsert("notes", rows)
        case 4:
            return lambda s: s.delete("notes", chosen)
        case 5:
            row = _row(rng, "-")
            values = {n: row[n] for n in rng.sample(["year", "score", "name", "tags", "on"], 2)}
        case 6:
            values = {"own": rng.choice([3, "other"]), "year": rng.randrange(100)}
        case 7:  # which only goes where "own" is an object or not there
            values = {"payload.own.deep": 7}
        case _:
            vectors = [[float(rng.randrange(9)) for _ in range(4)] for _ in chosen]
            return lambda s: s.set_vectors("notes", chosen, vectors)
    return lambda s: s.update("notes", values, ids=chosen)


def _compared(id: str, vector: Any, fields: Mapping[str, Any]) -> Row:
    """A row as it is compared: without what is null."""
    row = {**fields, "id": id, "embedding": None if vector is None else list(vector)}
    return {name: value for name, value in row.items() if value is not None}


async def _opened_table(store: VectorStore) -> None:
    """Make the table, and have the store know all that a call would first ask for.

    Else some calls were overtaken by others on their way to the queue.
    """
    await store.create_table("notes", SCHEMA)
    await store.insert("notes", [{"id": "first", "embedding": None, "own": 1}])
    await store.update("notes", {"own": 2}, ids=["first"])
    await store.delete("notes", "first")


async def _outcome(call: Call, of: Any) -> Any:
    try:
        made = call(of)
        return await made if inspect.isawaitable(made) else made
    except (DuplicateIdError, InvalidRowError) as exc:
        return type(exc)


@asynccontextmanager
async def _placed(tmp_path: Path, place: str) -> AsyncIterator[VectorStore]:
    """A store in a folder or a bucket."""
    with s3_server() if place == "bucket" else nullcontext() as bucket:
        target = tmp_path / "s" if bucket is None else bucket.new_url()
        options = {} if bucket is None else {"storage_options": bucket.options}
        async with opened(target, index="none", **options) as store:
            await _opened_table(store)
            yield store


BUCKET = pytest.param("bucket", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("place", "seed"),
    [("folder", 0), pytest.param("folder", 1, marks=pytest.mark.slow),
     pytest.param("bucket", 3, marks=pytest.mark.slow)],
)  # fmt: skip
async def test_each_call_has_the_result_of_its_turn(tmp_path: Path, place: str, seed: int) -> None:
    rng = random.Random(seed)
    oracle = Oracle()
    oracle.create_table("notes", SCHEMA)
    # Of few ids the calls of a group meet one another's rows, of many they seldom do.
    ids = [f"r{n}" for n in range(rng.choice([6, 40, 400]))]
    async with _placed(tmp_path, place) as store:
        for number in range(6):
            calls = [_call(rng, ids) for _ in range(rng.choice([3, 40, 120]))]
            outcomes = await asyncio.gather(*(_outcome(call, store) for call in calls))
            with case(number):
                assert outcomes == [await _outcome(call, oracle) for call in calls]
                expected = [
                    _compared(row.id, row.vector, row.flat())
                    for row in oracle.rows("notes").values()
                ]
                records = await store.find("notes", limit=1000, include_vector=True)
                assert [_compared(row.id, row.vector, row) for row in records] == sorted(
                    expected, key=lambda row: row["id"]
                )


def _in_arrow(row: Row) -> pa.Table:
    layout = SCHEMA.to_arrow()
    names = ["id", "embedding", "year"]
    return pa.Table.from_pylist([row], schema=pa.schema([layout.field(name) for name in names]))


@pytest.mark.parametrize("place", ["folder", BUCKET])
async def test_mixed_calls_share_commits(tmp_path: Path, place: str) -> None:
    async with _placed(tmp_path, place) as store:
        rng = random.Random(0)
        await store.insert("notes", [_row(rng, f"r{n}") for n in range(300)])
        before = len(await store.versions("notes"))
        calls: list[Awaitable[Any]] = []
        for n in range(0, 300, 3):
            row = _row(rng, f"r{n}")
            # As an embedder leaves rows, too.
            calls.append(store.upsert("notes", _in_arrow(row) if n % 2 else [row]))
            calls.append(store.update("notes", {"year": -1}, ids=[f"r{n + 1}"]))
            calls.append(store.delete("notes", f"r{n + 2}"))
        assert await asyncio.gather(*calls) == [1] * 300
        assert await store.count("notes") == 200
        assert await store.count("notes", "year = -1") == 100
        assert len(await store.versions("notes")) - before <= 8


async def test_calls_share_commits_where_rows_expire(tmp_path: Path) -> None:
    schema = Schema(4, fields={"until": Field(datetime, expires=True), "year": int})
    now = datetime.now(UTC)
    times = [now - timedelta(days=1), now + timedelta(days=1), None]
    rows = [{**_year(n, 0), "until": times[n % 3]} for n in range(96)]
    async with opened(tmp_path / "s", index="none") as store:
        await store.create_table("notes", schema)
        await store.insert("notes", rows)
        before = len(await store.versions("notes"))
        ids = [row["id"] for row in rows]
        updates = [store.update("notes", {"year": 1}, ids=[id]) for id in ids]
        assert await asyncio.gather(*updates) == [0, 1, 1] * 32
        deletes = [store.delete("notes", [id]) for id in ids[:48]]
        assert await asyncio.gather(*deletes) == [0, 1, 1] * 16
        assert len(await store.versions("notes")) - before <= 8


def _year(n: int, year: int) -> dict[str, Any]:
    return {"id": f"r{n}", "embedding": [1.0, n, 0.0, 0.0], "year": year}


async def amid_a_failure(store: VectorStore, fail: Callable[[], object]) -> list[str]:
    """Make calls of every kind at once, behind ``fail``; return what came of each."""
    await store.create_table("notes", Schema(4, fields={"year": int}))
    await store.insert("notes", [_year(n, 0) for n in range(24)])
    fail()
    calls: list[Awaitable[Any]] = []
    for n in range(0, 24, 3):
        calls.append(store.upsert("notes", [_year(n, 1), _year(n + 100, 1)]))
        calls.append(store.update("notes", {"year": 2}, ids=[f"r{n + 1}"]))
        calls.append(store.insert("notes", [_year(n + 200, 3)]))
        calls.append(store.delete("notes", [f"r{n + 2}"]))
    return [str(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]


async def years_in(store: VectorStore) -> dict[str, int]:
    return {record.id: record["year"] for record in await store.find("notes", limit=1000)}


def _check_all_done(came: list[str], years: dict[str, int]) -> None:
    assert came == ["2", "1", "1", "1"] * 8
    expected = {}
    for n in range(0, 24, 3):
        expected |= {f"r{n}": 1, f"r{n + 100}": 1, f"r{n + 1}": 2, f"r{n + 200}": 3}
    assert years == expected


# Of the calls, the first write to a file of rows fails.
FAILING = """
import asyncio, errno, json, os, sys
from functools import partial
from pathlib import Path
import aiovec
from tests.harness import syscalls
from tests.harness.oracle import Oracle
from tests.lancedb.test_mixed_groups import amid_a_failure, years_in

async def main(target):
    faults = syscalls.Faults(Path(os.environ[syscalls.VARIABLE]))
    fail = partial(faults.arm, syscalls.WRITE, "notes.lance/data", error=errno.ENOSPC)
    async with aiovec.connect(target) as store:
        came = await amid_a_failure(store, fail)
        failed = faults.disarm()
    async with aiovec.connect(target) as other:
        print(json.dumps([failed, came, await years_in(other)]))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
def test_after_a_failed_joined_commit_each_call_is_done_by_itself(tmp_path: Path) -> None:
    environment = syscalls.environment(tmp_path, tmp_path / "control")
    printed = output_of("-c", FAILING, f"lancedb://{tmp_path / 'store'}", env=environment)
    failed, came, years = json.loads(printed)
    assert failed == 1
    _check_all_done(came, years)


async def test_calls_whose_joined_commit_may_have_happened_are_not_done_again(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An insert done again would say that its id exists already."""
    await store.create_table("notes", Schema(4, fields={"year": int}))
    add = lancedb.AsyncTable.add

    async def unanswered(*args: Any) -> None:
        await add(*args)
        raise RuntimeError("lance error: commit result for version 7 is unknown")

    monkeypatch.setattr(lancedb.AsyncTable, "add", unanswered)
    inserts = [store.insert("notes", [_year(n, 0)]) for n in range(8)]
    outcomes = await asyncio.gather(*inserts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [aiovec.OutcomeUnknownError] * 8
    assert await years_in(store) == {f"r{n}": 0 for n in range(8)}
