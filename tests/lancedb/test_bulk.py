"""Filling a new table: no id twice within the load, and rows as ``insert`` would store them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aiovec import Schema
from aiovec.backend import BulkLoad, Columns
from aiovec.errors import DuplicateIdError
from aiovec_lancedb import bulk
from aiovec_lancedb.bulk import Hashes, SeenIds
from aiovec_lancedb.settings import LancedbSettings
from aiovec_lancedb.store import LancedbBackend

SCHEMA = Schema(4, fields={"n": int})


def rows(ids: list[str]) -> pa.Table:
    vectors = np.arange(1, 4 * len(ids) + 1, dtype=np.float32)
    return pa.Table.from_pydict(
        {
            "id": ids,
            "n": list(range(len(ids))),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4),
            "payload": pa.array([None] * len(ids), pa.json_(pa.utf8())),
        },
        schema=SCHEMA.to_arrow(),
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LancedbBackend]:
    store = LancedbBackend(str(tmp_path / "store"), LancedbSettings())
    await store.open()
    await store.create_table("t", SCHEMA)
    yield store
    await store.close()


async def test_a_load_adds_what_it_is_given(store: LancedbBackend) -> None:
    table = await store.open_table("t")
    load = store.bulk_load(table)
    assert isinstance(load, BulkLoad)
    await load.add(rows(["a", "b"]))
    await load.add(rows([]))
    await load.add(rows(["c"]))
    found = await store.get(table, ["a", "b", "c"], Columns(("n",)))
    assert dict(zip(found.ids, found.fields["n"], strict=True)) == {"a": 0, "b": 1, "c": 0}
    with pytest.raises(DuplicateIdError):  # it is a table like any other
        await store.insert(table, rows(["a"]))


@pytest.mark.parametrize("again", [["b", "x"], ["x", "a"]])
async def test_an_id_of_an_earlier_batch_is_refused_and_nothing_of_the_batch_kept(
    store: LancedbBackend, again: list[str]
) -> None:
    table = await store.open_table("t")
    load = store.bulk_load(table)
    await load.add(rows(["a", "b"]))
    with pytest.raises(DuplicateIdError) as refused:
        await load.add(rows(again))
    assert set(refused.value.ids) == {"a", "b"} & set(again)
    assert await store.count(table, None) == 2
    await load.add(rows(["x"]))
    assert await store.count(table, None) == 3


async def test_ids_that_the_table_had_before_the_load_are_refused(store: LancedbBackend) -> None:
    table = await store.open_table("t")
    await store.insert(table, rows(["a"]))
    with pytest.raises(DuplicateIdError):
        await store.bulk_load(table).add(rows(["b", "a"]))


async def test_hashes_that_collide_are_only_suspects(
    store: LancedbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "hashes", lambda ids: np.zeros(len(ids), dtype=np.int64))
    table = await store.open_table("t")
    load = store.bulk_load(table)
    await load.add(rows(["a"]))
    await load.add(rows(["b", "c"]))
    with pytest.raises(DuplicateIdError):
        await load.add(rows(["c"]))
    assert await store.count(table, None) == 3


def test_parts_of_seen_ids_of_many_sizes() -> None:
    seen = SeenIds()
    start = 0
    for size in [10] * 20 + [200, 1, 1, 1, 50, 7]:
        seen.add(Hashes.of([str(i) for i in range(start, start + size)]))
        start += size
    asked = [str(start), str(start - 1), "x", "0"]
    assert seen.places(Hashes.of(asked)) == [1, 3]
    assert seen.places(Hashes.of([str(i) for i in range(start)])) == list(range(start))
