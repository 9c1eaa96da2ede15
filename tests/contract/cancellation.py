"""Contract tests for cancelling calls at any moment: a call is done completely or not at all."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.cancel import STOPS, stopped_at
from tests.harness.values import DIM, SMALL, ids_of, small_rows

from aiovec import Field, Schema, VectorStore
from aiovec.errors import UnsupportedError


class CancellationContract(ContractBase):
    """Calls that are cancelled while they wait."""

    @pytest.mark.core
    async def test_a_stopped_write_is_whole_or_nothing(self, store: VectorStore) -> None:
        """This holds for every kind of stop. Afterwards, the caller can reuse its buffer."""
        await store.create_table("notes", SMALL)
        total, count, number = 0, 300, 0
        for name, stop in STOPS.items():
            for at in range(1, 80):
                number += 1
                values = np.full((count, DIM), number, dtype=np.float32)
                ids = [f"{number}-{i}" for i in range(count)]
                rows = {"id": ids, "embedding": values, "year": [number] * count}
                write = store.upsert if number % 2 else store.insert
                with case(f"{name}, await {at}"):
                    far, done = await stopped_at(write("notes", rows), at, stop)
                    values[:] = -1.0
                    matches = await store.find(
                        "notes", f"year = {number}", select=["embedding"], limit=2 * count
                    )
                    assert len(matches) in ({count} if done else {0, count})
                    written = {tuple(row.vector) for row in matches if row.vector is not None}
                    assert written <= {(float(number),) * DIM}
                total += len(matches)
                if not far:
                    break
        assert await store.count("notes") == total

    async def test_cancelled_insert_leaves_others_of_its_group(self, store: VectorStore) -> None:
        """Of calls that wait together, cancelling some does not affect the others."""
        await store.create_table("notes", SMALL)
        for turn in range(6):
            starts = [1_000 * turn + 10 * n for n in range(30)]
            tasks = [
                asyncio.ensure_future(store.insert("notes", small_rows(4, start=start)))
                for start in starts
            ]
            for _ in range(2 * turn):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for n, (start, outcome) in enumerate(zip(starts, outcomes, strict=True)):
                ids = [f"r{start + i:04}" for i in range(4)]
                matches = ids_of(await store.get("notes", ids))
                if outcome == 4:
                    assert matches == ids
                else:
                    assert n % 3 == 0, outcome
                    assert isinstance(outcome, asyncio.CancelledError)
                    assert matches in ([], ids)

    @pytest.mark.arrow
    async def test_a_cancelled_export_frees_its_snapshot(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(400))
        for at in range(1, 20):
            batches = store.export("notes", batch_size=10)
            await stopped_at(anext(batches), at, STOPS["once"])
            await batches.aclose()
        assert await store.delete("notes", where="TRUE") == 400
        await store.optimize("notes")
        await store.drop_table("notes")

    async def test_a_stopped_index_build_hides_no_row(self, store: VectorStore) -> None:
        """A keyword search finds the rows of all its fields, or reports a missing index."""
        self.need(store, "text")
        texts = {"body": Field(str, text=True)}
        count, stop = 4_000, STOPS["once"]
        for at in (1, 2, 3, 5, 8, 12):
            for name in ("title", "new"):
                with case(f"{name}, await {at}"):
                    table = f"{name}{at}"
                    await store.create_table(table, Schema(DIM, fields={**texts, "title": str}))
                    ids = [f"r{n:05}" for n in range(count)]
                    words = {"title": ["wool"] * count} if name == "title" else {}
                    vectors = np.ones((count, DIM), dtype=np.float32)
                    await store.insert(table, {"id": ids, "embedding": vectors, **words})
                    if name == "title":
                        change = store.create_field_index(table, name, "text")
                    else:
                        change = store.add_field(table, name, Field(str, text=True))
                    await stopped_at(change, at, stop)
                    if not getattr((await store.schema(table)).fields.get(name), "text", False):
                        continue  # nothing was done
                    row = {"id": "later", "embedding": [1.0] * DIM, name: "wool"}
                    await store.insert(table, [row])
                    assert await store.search_text(table, "body:wool") == []
                    try:
                        hits = await store.search_text(table, "wool", limit=count + 1, select=[])
                    except UnsupportedError:
                        await store.optimize(table)
                        hits = await store.search_text(table, "wool", limit=count + 1, select=[])
                    assert len(hits) == count * bool(words) + 1
