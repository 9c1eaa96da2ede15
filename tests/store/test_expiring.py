"""Tables whose rows expire: the filters and the deletes that a backend gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.connect import toy
from tests.harness.evaluate import truth
from tests.harness.values import DIM, ids_of
from tests.harness.waiting import until

import aiovec
from aiovec import Field, Schema, VectorStore
from aiovec.backend import And, Compare, Expr, Or
from aiovec.backend.changes import Delete, Insert, RowChange
from aiovec.backend.contract import Find, Found, Query, Read, TableHandle
from aiovec.backend.rows import Batch

SCHEMA = Schema(DIM, metric="l2", fields={"year": int, "until": Field(datetime, expires=True)})


class Rows(toy.Toy):
    """Finds the first rows that a filter selects, and notes the filters."""

    rows: Sequence[tuple[int, datetime | None]] = ()

    def __init__(self, target: str, settings: Any = None) -> None:
        super().__init__(target, settings)
        self.filters: list[Expr | None] = []

    async def open_table(self, name: str) -> TableHandle:
        return TableHandle(name, SCHEMA, 1)

    async def search(
        self, table: TableHandle, queries: Sequence[Query], finish: Callable[[Any], Any]
    ) -> Any:
        (query,) = queries
        self.filters.append(query.where)
        rows = [
            (n, year, until)
            for n, (year, until) in enumerate(self.rows)
            if query.where is None
            or truth(query.where, lambda ref, of={"year": year, "until": until}: of[ref.name])
        ][: query.limit]
        fields = {name: [row[n] for row in rows] for n, name in ((1, "year"), (2, "until"))}
        ids = [f"r{n:02}" for n, _, _ in rows]
        return finish([Found(Batch(ids, fields), [float(n) for n, _, _ in rows])])


class RowsPlugin(toy.ToyPlugin):
    def create(self, address: str, settings: Any) -> Any:
        toy.created.append(Rows(address, settings))
        return toy.created[-1]


def moment_in(where: Expr | None) -> datetime:
    """Return the time of a filter for rows that exist."""
    match where:
        case And(items) | Or(items):
            return next(map(moment_in, items[::-1]))
        case Compare(_, ">=", datetime() as moment):
            return moment
    raise AssertionError(where)


async def test_filters_of_one_minute_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backends keep masks and counts by the filter; who has expired since is dropped behind it."""
    toy.install(monkeypatch, tmp_path, toy=f"{__name__}:RowsPlugin")
    now = datetime.now(UTC)
    gone, since = now - timedelta(days=1), now - timedelta(seconds=2)
    times = [None, *[gone] * 40, now + timedelta(days=1), *[since] * 40, *[None] * 10]
    async with aiovec.connect("toy://") as store:
        (backend,) = toy.created
        assert isinstance(backend, Rows)
        backend.rows = [(n, until) for n, until in enumerate(times)]
        for where, limit, wanted, most in (
            (None, 1, ["r00"], 1),
            (None, 2, ["r00", "r41"], 2),
            (None, 4, ["r00", "r41", "r82", "r83"], 3),
            ("year > 41", 4, ["r82", "r83", "r84", "r85"], 3),
        ):
            backend.filters.clear()
            hits = await store.search("notes", [1.0] * DIM, limit=limit, where=where)
            assert ids_of(hits) == wanted
            assert len(backend.filters) <= most
            for condition in backend.filters[1:2]:
                # The clock's second has ended, so that nobody is seen after its time.
                ends = now.replace(microsecond=0) + timedelta(seconds=1)
                apart = moment_in(condition) - ends.replace(second=0)
                assert apart in (timedelta(0), timedelta(minutes=1))


class Stale(toy.Toy):
    """Has 2,500 expired rows, whose first delete fails and whose second one waits."""

    def __init__(self, target: str, settings: Any = None) -> None:
        super().__init__(target, settings)
        self.expired = [f"r{n:04}" for n in range(2_500)]
        self.deleted: list[int] = []
        self.may_delete = asyncio.Event()

    async def open_table(self, name: str) -> TableHandle:
        return TableHandle(name, SCHEMA, 1)

    async def read(self, table: TableHandle, read: Read[Any]) -> Any:
        assert isinstance(read, Find)
        return read.finish(Batch(self.expired[: read.limit], {}))

    async def write(self, table: TableHandle, change: RowChange) -> int:
        if isinstance(change, Insert):
            return len(change.rows)
        assert isinstance(change, Delete)
        assert change.ids is not None
        ids = change.ids
        self.deleted.append(len(ids))
        if len(self.deleted) == 1:
            raise aiovec.StoreFullError("toy://", "no room")
        await self.may_delete.wait()
        self.expired = [id for id in self.expired if id not in set(ids)]
        return len(ids)


class StalePlugin(toy.ToyPlugin):
    def create(self, address: str, settings: Any) -> Any:
        toy.created.append(Stale(address, settings))
        return toy.created[-1]


async def test_a_sweep_deletes_in_batches_and_no_write_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.install(monkeypatch, tmp_path, toy=f"{__name__}:StalePlugin")
    async with aiovec.connect("toy://") as store:
        (backend,) = toy.created
        assert isinstance(backend, Stale)
        row = {"id": "a", "embedding": [1.0] * DIM}
        # The first sweep fails, so the second write begins another one.
        for deletes in (1, 2, 2):
            assert await store.insert("notes", [row]) == 1
            await until(lambda wanted=deletes: len(backend.deleted) >= wanted)  # type: ignore[misc]
        assert max(backend.deleted) <= 1_000
        backend.may_delete.set()
        await until(lambda: not backend.expired)
        await store.insert("notes", [row])  # within the hour
        await asyncio.sleep(0.01)
    assert sum(backend.deleted) == 2_500 + backend.deleted[0]


class Counted:
    """A row that counts how often it is read."""

    model_fields = ("id", "embedding")
    reads = 0

    def model_dump(self, *, by_alias: bool = True) -> dict[str, Any]:
        self.reads += 1
        return {"id": "a", "embedding": [1.0] * DIM}


async def test_rows_for_a_table_with_expiring_rows_are_checked_once(store: VectorStore) -> None:
    await store.create_table("notes", SCHEMA)
    for added in (1, 0):
        row = Counted()
        assert await store.insert("notes", [row], on_conflict="skip") == added
        assert row.reads == 1
    row = Counted()
    with pytest.raises(aiovec.DuplicateIdError):
        await store.insert("notes", [row])
    assert row.reads == 1
